//! What a pull brings: a ticket, or something that pretends to be one.

use async_nats::Message;
use bytes::Bytes;
use grange_protocol::class::{Meaning, class_of, read as read_class};
use grange_protocol::json::Json;
use grange_protocol::name::Class;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue, STATE_HEADER, parse_ticket};
use grange_protocol::ticket::Ticket;

/// A ticket that was delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The queue it lay in.
    pub queue: Queue,
    /// The job.
    pub key: JobKey,
    /// What it says.
    pub ticket: Ticket,
    /// Its body as it came: what is published again should it get lost.
    pub body: Bytes,
    /// The state revision that it builds on.
    pub base: u64,
    /// Where it is settled.
    pub ack: String,
    /// Its own subject.
    pub subject: String,
    /// When the broker took it, Unix milliseconds.
    pub submitted_ms: u64,
}

/// Something that cannot be run.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// The queue it lay in.
    pub queue: Queue,
    /// The job, if its subject names one.
    pub key: Option<JobKey>,
    /// Its own subject.
    pub subject: String,
    /// Where it is settled.
    pub ack: String,
    /// The state revision that it builds on.
    pub base: u64,
    /// One word for `grange.dead.<reason>`.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub why: String,
    /// How its body begins.
    pub excerpt: String,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// A ticket.
    Ticket(Box<Delivery>),
    /// No ticket.
    Unusable(Box<Unusable>),
}

impl Arrival {
    /// The queue it lay in.
    pub fn queue(&self) -> &Queue {
        match self {
            Self::Ticket(delivery) => &delivery.queue,
            Self::Unusable(unusable) => &unusable.queue,
        }
    }
}

/// Deepest nesting of arguments. An interpreter's JSON reader gives up somewhere above, and takes every run of its worker
/// with it.
const MAX_NESTING: usize = 256;
/// Bytes of a bad body that are kept as evidence.
const EXCERPT_BYTES: usize = 512;

/// Facts in an ack subject.
struct AckFacts<'a> {
    consumer: &'a str,
    stored_ms: u64,
}

impl<'a> AckFacts<'a> {
    /// Reads both shapes: 9 tokens, or 11 and more with domain and account in front.
    fn read(ack: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = ack.split('.').collect();
        let shift = match tokens.len() {
            9 => 0,
            n if n >= 11 => 2,
            _ => return None,
        };
        let stored_ns: u64 = tokens.get(7 + shift)?.parse().ok()?;
        Some(Self { consumer: tokens.get(3 + shift)?, stored_ms: stored_ns / 1_000_000 })
    }
}

/// Reads a delivered message. None: it is not a delivery at all.
pub fn read(message: &Message) -> Option<Arrival> {
    let ack = message.reply.as_ref()?.to_string();
    let facts = AckFacts::read(&ack)?;
    let queue = Queue::parse(facts.consumer)?;
    let submitted_ms = facts.stored_ms;
    let subject = message.subject.to_string();
    let header = message.headers.as_ref().and_then(|headers| headers.get(STATE_HEADER));
    let base = header.map_or(Ok(0), |base| base.as_str().parse::<u64>());
    let bad = |key: Option<JobKey>, reason, why: String| {
        let start = &message.payload[..message.payload.len().min(EXCERPT_BYTES)];
        let excerpt = String::from_utf8_lossy(start).into_owned();
        let base = base.clone().unwrap_or(0);
        let (queue, subject, ack) = (queue.clone(), subject.clone(), ack.clone());
        Some(Arrival::Unusable(Box::new(Unusable { queue, key, subject, ack, base, reason, why, excerpt })))
    };
    let key = match parse_ticket(&subject) {
        Ok((_, key)) => key,
        Err(error) => return bad(None, "malformed", error.to_string()),
    };
    let Ok(base) = base.clone() else {
        return bad(Some(key), "malformed", format!("header `{STATE_HEADER}` is not a number"));
    };
    let ticket = match Ticket::read(&message.payload) {
        Ok(ticket) => ticket,
        Err(error) => return bad(Some(key), "malformed", error.to_string()),
    };
    if nesting(&ticket) > MAX_NESTING {
        let why = format!("the arguments are nested {} deep; the limit is {MAX_NESTING}", nesting(&ticket));
        return bad(Some(key), "malformed", why);
    }
    if let Err(why) = check_class(&queue.lane.class, ticket.resources.as_ref()) {
        return bad(Some(key), "malformed", why);
    }
    let body = message.payload.clone();
    Some(Arrival::Ticket(Box::new(Delivery { queue, key, ticket, body, base, ack, subject, submitted_ms })))
}

/// A class that says something else than the ticket would let agents take what they cannot start, or leave what they can.
fn check_class(class: &Class, resources: Option<&ResourceRequest>) -> Result<(), String> {
    let meaning = read_class(class).map_err(|error| error.to_string())?;
    let (Some(resources), Meaning::Default | Meaning::Asks(_)) = (resources, meaning) else { return Ok(()) };
    let right = class_of(resources).map_err(|error| format!("`resources`: {error}"))?;
    if right == *class {
        return Ok(());
    }
    Err(format!(
        "its class is `{class}`, but what its `resources` ask for is class `{right}`; publish it there"
    ))
}

/// How deep a ticket's arguments are nested.
fn nesting(ticket: &Ticket) -> usize {
    let depth = |json: &Option<Json>| json.as_ref().map_or(0, |json| depth_of(json.text().as_bytes()));
    depth(&ticket.args).max(depth(&ticket.kwargs))
}

/// How deep a JSON text is nested; at most its brackets where those are few.
fn depth_of(text: &[u8]) -> usize {
    let brackets = text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if brackets <= MAX_NESTING {
        return brackets;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        let many = |text: &str| text.repeat(MAX_NESTING + 1);
        assert_eq!(depth_of(format!("[{}[]]", many("[],")).as_bytes()), 2);
        assert_eq!(depth_of(format!(r#"["\"{}"]"#, many("[")).as_bytes()), 1);
        assert_eq!(depth_of(format!("{}{}", many("["), many("]")).as_bytes()), MAX_NESTING + 1);
        assert_eq!(depth_of(format!(r#"{}["\\", {}]"#, many("[]"), many("[")).as_bytes()), MAX_NESTING + 2);
    }

    #[test]
    fn both_shapes_of_ack_subjects_are_read() {
        let v1 = "$JS.ACK.GRANGE_JOBS.default:high:my_ocr:alice.1.22.33.1690000000123456789.0";
        let v2 = "$JS.ACK._.AHASH.GRANGE_JOBS.default:high:my_ocr:alice.1.22.33.1690000000123456789.0.tok";
        for ack in [v1, v2] {
            let facts = AckFacts::read(ack).unwrap();
            assert_eq!(facts.stored_ms, 1_690_000_000_123);
            assert_eq!(Queue::parse(facts.consumer).unwrap().to_string(), "default/high/my_ocr/alice");
        }
        assert!(AckFacts::read("a.b").is_none());
    }

    #[test]
    fn class_and_resources_say_the_same() {
        let said = |class: &str, resources: &str| {
            let resources: ResourceRequest = serde_json::from_str(resources).unwrap();
            check_class(&Class::new(class).unwrap(), Some(&resources))
        };
        assert_eq!(said("g1+v12", r#"{"vram_mb":9000}"#), Ok(()));
        assert_eq!(said("default", "{}"), Ok(()));
        assert_eq!(said("any", r#"{"vram_mb":9000}"#), Ok(()));
        for class in ["default", "g1+v8", "g1+v16", "g2+v12"] {
            let why = said(class, r#"{"vram_mb":9000}"#).unwrap_err();
            assert!(why.contains(&format!("`{class}`")) && why.contains("class `g1+v12`"), "{why}");
        }
        assert!(said("g1", r#"{"vram_mb":400000}"#).unwrap_err().contains("exceeds the largest class"));
        assert!(check_class(&Class::new("fast").unwrap(), None).unwrap_err().contains("cannot be read"));
        assert_eq!(check_class(&Class::new("g1+v12").unwrap(), None), Ok(()));
    }
}
