//! A million malformed messages: every reader of what comes from outside answers, and none panics.
//!
//! The corpus is the golden files; each is damaged by a seeded source of chance in ways that programs and networks do
//! damage things: bytes flipped, cut out, doubled, exchanged with those of another message, numbers blown up, braces
//! piled up.

use grange_protocol::class;
use grange_protocol::facts::{Overview, RunningByAgent};
use grange_protocol::frame::FromWorker;
use grange_protocol::manifest::Manifest;
use grange_protocol::name::Class;
use grange_protocol::object::ObjectRef;
use grange_protocol::record::Record;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::status::{AgentStatus, CancelOrder};
use grange_protocol::subject::{Queue, parse_events, parse_state, parse_ticket};
use grange_protocol::ticket::Ticket;

/// Malformed messages, over all threads.
const MESSAGES: u64 = 1_000_000;
const THREADS: u64 = 2;
/// Longest message that damage may make, bytes.
const LONGEST: usize = 8 * 1024;

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// What is put into messages: what numbers, names and nesting are broken with.
const POISON: [&[u8]; 14] = [
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"null",
    b"\"\"",
    b"\xff\xfe",
    b"\\ud800",
    b"{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"$object\":",
    b"../../",
    b".*>",
    b"\0",
    b"\"v\":4294967295,",
];

fn damage(message: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        let to = (at + 1 + chance.below(32)).min(bytes.len());
        match chance.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
            1 => drop(bytes.drain(at.min(to)..to)),
            2 => bytes.truncate(at),
            3 => {
                let part = bytes[at.min(to)..to].to_vec();
                bytes.splice(at..at, part);
            }
            4 => {
                let poison = POISON[chance.below(POISON.len())];
                bytes.splice(at.min(to)..to, poison.iter().copied());
            }
            5 => {
                let from = chance.below(other.len());
                bytes.splice(at.min(to)..to, other[from..].iter().copied().take(64));
            }
            _ => {
                let poison = POISON[7 + chance.below(2)];
                let many = poison.repeat(1 + chance.below(64));
                bytes.splice(at..at, many);
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Reads a message as everything that it could be taken for. Returns how many readers took it.
fn read_as_anything(bytes: &[u8]) -> u64 {
    let mut taken = 0;
    let mut count = |ok: bool| taken += u64::from(ok);
    count(Ticket::read(bytes).is_ok());
    count(Record::read(bytes).is_ok());
    count(Manifest::read(bytes).is_ok());
    count(FromWorker::read(bytes).is_ok());
    count(serde_json::from_slice::<AgentStatus>(bytes).is_ok());
    count(serde_json::from_slice::<ObjectRef>(bytes).is_ok());
    count(serde_json::from_slice::<CancelOrder>(bytes).is_ok());
    count(serde_json::from_slice::<Overview>(bytes).is_ok());
    count(serde_json::from_slice::<RunningByAgent>(bytes).is_ok());
    count(serde_json::from_slice::<ResourceRequest>(bytes).is_ok());
    let text = String::from_utf8_lossy(bytes);
    count(parse_ticket(&text).is_ok());
    count(parse_state(&text).is_some());
    count(parse_events(&text).is_some());
    count(Queue::parse(&text).is_some());
    count(Class::new(&text).is_ok_and(|name| class::read(&name).is_ok()));
    taken
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let files = std::fs::read_dir(folder).expect("the golden files are there");
    let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file.expect("readable").path());
    let mut corpus: Vec<Vec<u8>> = files.map(|file| read(file).expect("readable")).collect();
    let texts = ["grange.jobs.default.high.ocr.alice.0190-ab", "grange.state.alice.j1", "g2+v24+x+zone=lab"];
    corpus.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    corpus.push(b"default:high:ocr:alice".to_vec());
    corpus.sort();
    corpus
}

#[test]
fn a_million_malformed_messages_are_answered() {
    let corpus = corpus();
    let share = |thread: u64| {
        let corpus = &corpus;
        move || {
            let mut chance = Chance(0x6772_616e_6765 + thread);
            let (mut taken, mut refused) = (0, 0);
            for _ in 0..MESSAGES / THREADS {
                let message = &corpus[chance.below(corpus.len())];
                let other = &corpus[chance.below(corpus.len())];
                let took = read_as_anything(&damage(message, other, &mut chance));
                taken += u64::from(took > 0);
                refused += u64::from(took == 0);
            }
            (taken, refused)
        }
    };
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(share(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no reader panics")).collect::<Vec<_>>()
    });
    let (taken, refused) = sums.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert_eq!(taken + refused, MESSAGES);
    // Damage that is too mild or too wild would test nothing.
    assert!(taken > MESSAGES / 100 && refused > MESSAGES / 10, "{taken} taken, {refused} refused");
}
