//! What a pull brings: a ticket, or something that pretends to be one.

use async_nats::Message;
use grange_protocol::json::Json;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::subject::{JobKey, Lane, STATE_HEADER, parse_ticket};
use grange_protocol::ticket::{Priority, Ticket};

/// A ticket that was delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The lane it lay in.
    pub lane: Lane,
    /// The job.
    pub key: JobKey,
    /// What it says.
    pub ticket: Ticket,
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
    /// The lane it lay in.
    pub lane: Lane,
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

/// The lane that a consumer's name stands for.
fn lane_of(consumer: &str) -> Option<Lane> {
    let mut parts = consumer.strip_prefix("lane_")?.splitn(3, '_');
    let class = Class::new(parts.next()?).ok()?;
    let priority: Priority = parts.next()?.parse().ok()?;
    Some(Lane { priority, plugin: PluginName::new(parts.next()?).ok()?, class })
}

/// Reads a delivered message. None: it is not a delivery at all.
pub fn read(message: &Message) -> Option<Arrival> {
    let ack = message.reply.as_ref()?.to_string();
    let facts = AckFacts::read(&ack)?;
    let lane = lane_of(facts.consumer)?;
    let submitted_ms = facts.stored_ms;
    let subject = message.subject.to_string();
    let header = message.headers.as_ref().and_then(|headers| headers.get(STATE_HEADER));
    let base = header.map_or(Ok(0), |base| base.as_str().parse::<u64>());
    let bad = |key: Option<JobKey>, reason, why: String| {
        let start = &message.payload[..message.payload.len().min(EXCERPT_BYTES)];
        let excerpt = String::from_utf8_lossy(start).into_owned();
        let base = base.clone().unwrap_or(0);
        let (lane, subject, ack) = (lane.clone(), subject.clone(), ack.clone());
        Some(Arrival::Unusable(Box::new(Unusable { lane, key, subject, ack, base, reason, why, excerpt })))
    };
    let key = match parse_ticket(&subject) {
        Ok((_, key)) => key,
        Err(error) => return bad(None, "malformed", error.to_string()),
    };
    let Ok(base) = base.clone() else {
        return bad(Some(key), "malformed", format!("header `{STATE_HEADER}` is not a number"));
    };
    match Ticket::read(&message.payload) {
        Ok(ticket) if nesting(&ticket) > MAX_NESTING => {
            let why =
                format!("the arguments are nested {} deep; the limit is {MAX_NESTING}", nesting(&ticket));
            bad(Some(key), "malformed", why)
        }
        Ok(ticket) => {
            Some(Arrival::Ticket(Box::new(Delivery { lane, key, ticket, base, ack, subject, submitted_ms })))
        }
        Err(error) => bad(Some(key), "malformed", error.to_string()),
    }
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
        let v1 = "$JS.ACK.GRANGE_JOBS.lane_default_high_my_ocr.1.22.33.1690000000123456789.0";
        let v2 = "$JS.ACK._.AHASH.GRANGE_JOBS.lane_default_high_my_ocr.1.22.33.1690000000123456789.0.tok";
        for ack in [v1, v2] {
            let facts = AckFacts::read(ack).unwrap();
            assert_eq!(facts.stored_ms, 1_690_000_000_123);
            let lane = lane_of(facts.consumer).unwrap();
            assert_eq!((lane.plugin.as_str(), lane.priority), ("my_ocr", Priority::High));
        }
        assert!(AckFacts::read("a.b").is_none());
    }
}
