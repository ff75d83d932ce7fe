//! The checker itself: good histories are accepted, and each of these bad ones by the invariant that it breaks.

use grange_chaos::checker::streams::value;
use grange_chaos::checker::{Evidence, Invariant, check};
use grange_chaos::history::{Cancelling, Event, Fact, Finale, Sight, Wanted};
use grange_chaos::witness::Line;
use grange_protocol::record::State;

const JOB: &str = "j";
const AGENT: &str = "host-0";

/// A whole run, to be spoilt.
#[derive(Clone)]
struct Story {
    events: Vec<Event>,
    lines: Vec<Line>,
    finale: Finale,
    calm: bool,
}

fn event(at_ns: u64, fact: Fact) -> Event {
    Event { at_ns, fact }
}

fn sight(revision: u64, state: State, attempt: u32, moments: &[(State, u32)]) -> Sight {
    Sight {
        revision,
        state,
        attempt,
        claim: if attempt == 0 { 0 } else { 10 },
        agent: if attempt == 0 { String::new() } else { AGENT.to_owned() },
        cancel_requested: false,
        moments: moments.to_vec(),
        failure: None,
        message: String::new(),
        chunks: 0,
        execution: None,
        digest: None,
    }
}

fn running() -> Sight {
    sight(10, State::Running, 1, &[(State::Running, 1)])
}

fn succeeded() -> Sight {
    let ended = sight(12, State::Succeeded, 1, &[(State::Running, 1), (State::Succeeded, 1)]);
    Sight { chunks: 2, execution: Some("e1".to_owned()), digest: Some("d1".to_owned()), ..ended }
}

fn seen(at_ns: u64, sight: Sight) -> Event {
    event(at_ns, Fact::Seen { job: JOB.to_owned(), reader: "observer".to_owned(), sight })
}

fn start(execution: &str, attempt: u32, at_ns: u64) -> Line {
    Line::Start {
        execution: execution.to_owned(),
        job: JOB.to_owned(),
        named: JOB.to_owned(),
        attempt,
        agent: AGENT.to_owned(),
        pid: 7,
        ticks: 7,
        input_sha256: "in".to_owned(),
        secrets: Vec::new(),
        at_ns,
    }
}

fn end(execution: &str, attempt: u32, at_ns: u64) -> Line {
    Line::End {
        execution: execution.to_owned(),
        job: JOB.to_owned(),
        attempt,
        how: "returned".to_owned(),
        chunks: 2,
        digest: "d1".to_owned(),
        at_ns,
    }
}

fn chunks(attempt: u32, indices: &[u64]) -> Vec<(u32, u64, String)> {
    indices.iter().map(|index| (attempt, *index, value(JOB, attempt, *index))).collect()
}

fn followed(chunks: Vec<(u32, u64, String)>) -> Fact {
    Fact::Followed { job: JOB.to_owned(), chunks, state: Some(State::Succeeded), told: 2, error: None }
}

/// A job that was submitted, ran once, gave two chunks and succeeded.
fn good() -> Story {
    let wanted = Wanted { input_sha256: "in".to_owned(), chunks: 2, attempts_max: 3, ..Wanted::default() };
    let mut finale = Finale { settled_ms: Some(500), ..Finale::default() };
    finale.records.insert(JOB.to_owned(), succeeded());
    Story {
        events: vec![
            event(10, Fact::Submitting { job: JOB.to_owned(), wanted }),
            event(20, Fact::Submitted { job: JOB.to_owned() }),
            seen(30, running()),
            seen(100, succeeded()),
            event(110, followed(chunks(1, &[0, 1]))),
            event(120, Fact::Gauge { name: "threads".to_owned(), value: 5, limit: 10 }),
        ],
        lines: vec![start("e1", 1, 40), end("e1", 1, 90)],
        finale,
        calm: true,
    }
}

impl Story {
    fn last(&mut self) -> &mut Sight {
        self.finale.records.get_mut(JOB).expect("it has a record")
    }

    /// The same, after an attempt that was lost.
    fn second_try(mut self) -> Self {
        self.calm = false;
        self.lines = vec![start("e0", 1, 35), start("e1", 2, 60), end("e1", 2, 90)];
        let lost = [(State::Running, 1), (State::Retrying, 1), (State::Running, 2), (State::Succeeded, 2)];
        self.events.retain(|event| !matches!(event.fact, Fact::Followed { .. } | Fact::Seen { .. }));
        self.events.push(event(110, followed(chunks(2, &[0, 1]))));
        *self.last() = Sight { attempt: 2, moments: lost.to_vec(), ..succeeded() };
        self
    }

    #[track_caller]
    fn holds(&self) {
        let verdict = self.judge();
        assert_eq!(verdict.violations(), Vec::<String>::new());
    }

    /// Breaks this invariant, and no other.
    #[track_caller]
    fn breaks(&self, which: Invariant) {
        let verdict = self.judge();
        assert_eq!(verdict.broken(), [which], "{:?}", verdict.violations());
    }

    fn judge(&self) -> grange_chaos::checker::Verdict {
        let Self { events, lines, finale, calm } = self;
        check(&Evidence { events, lines, finale, calm: *calm })
    }
}

/// Spoils the good story.
fn spoilt(spoil: impl FnOnce(&mut Story)) -> Story {
    let mut story = good();
    spoil(&mut story);
    story
}

#[test]
fn good_histories_are_accepted() {
    good().holds();
    good().second_try().holds();
    // The submit was not answered, and nothing came of it.
    let mut unknown = good();
    unknown.events.truncate(1);
    unknown.events.push(event(20, Fact::SubmitUnknown { job: JOB.to_owned(), why: "time".to_owned() }));
    (unknown.lines, unknown.finale.records) = (Vec::new(), std::collections::BTreeMap::new());
    unknown.holds();
    // The broker was told to end it while its first attempt ran, and that attempt began a moment later.
    let mut asked = good();
    asked.events.push(event(35, Fact::Cancelled { job: JOB.to_owned(), how: Cancelling::Requested }));
    asked.events.push(seen(35, Sight { revision: 11, cancel_requested: true, ..running() }));
    asked.holds();
}

#[test]
fn i1_one_end() {
    spoilt(|story| *story = Story { calm: false, ..story.clone() }).holds();
    let lost = spoilt(|story| {
        story.finale.records.clear();
        story.events.truncate(2);
    });
    lost.breaks(Invariant::I1);
    let hangs = spoilt(|story| {
        *story.last() = Sight { revision: 13, ..running() };
        story.events.truncate(3);
    });
    hangs.breaks(Invariant::I1);
    let refused = spoilt(|story| {
        story.events[1].fact = Fact::NotSubmitted { job: JOB.to_owned(), why: "full".to_owned() };
    });
    refused.breaks(Invariant::I1);
    let of_nobody = spoilt(|story| {
        story.finale.records.insert("stranger".to_owned(), sight(50, State::Expired, 0, &[]));
    });
    of_nobody.breaks(Invariant::I1);
}

#[test]
fn i2_one_history() {
    spoilt(|story| {
        let failed = Sight { state: State::Failed, ..succeeded() };
        story.events.push(seen(105, failed));
    })
    .breaks(Invariant::I2);
    spoilt(|story| story.last().revision = 14).breaks(Invariant::I2);
    spoilt(|story| story.events.push(seen(105, Sight { revision: 15, ..succeeded() }))).breaks(Invariant::I2);
    spoilt(|story| {
        let other = Sight { revision: 9, moments: vec![(State::Queued, 0)], ..running() };
        story.events.push(seen(25, other));
    })
    .breaks(Invariant::I2);
}

#[test]
fn i3_true_result() {
    spoilt(|story| story.last().execution = Some("of-nobody".to_owned())).breaks_also_i2(Invariant::I3);
    let zombie = {
        let mut story = good().second_try();
        story.last().execution = Some("e0".to_owned());
        story
    };
    zombie.breaks(Invariant::I3);
    let altered = {
        let mut story = good().second_try();
        story.last().digest = Some("d2".to_owned());
        story
    };
    altered.breaks(Invariant::I3);
    let raised = {
        let mut story = good().second_try();
        if let Some(Line::End { how, .. }) = story.lines.last_mut() {
            *how = "raised".to_owned();
        }
        story
    };
    raised.breaks(Invariant::I3);
}

#[test]
fn i4_as_often_as_allowed() {
    let twice = spoilt(|story| {
        story.calm = false;
        story.lines.insert(0, start("e0", 1, 36));
    });
    twice.breaks(Invariant::I4);
    let often = spoilt(|story| {
        story.calm = false;
        story
            .lines
            .splice(0..0, (2..=4).map(|attempt| start(&format!("x{attempt}"), attempt, u64::from(attempt))));
        for (pid, line) in story.lines.iter_mut().enumerate() {
            if let Line::Start { pid: of, .. } = line {
                *of = u32::try_from(pid).expect("small");
            }
        }
    });
    often.breaks(Invariant::I4);
    let mut needless = good().second_try();
    needless.calm = true;
    needless.breaks(Invariant::I4);
}

#[test]
fn i5_not_after_the_end() {
    let after_end = |story: &mut Story| {
        story.calm = false;
        story.lines.push(start("e2", 2, 130));
    };
    spoilt(after_end).breaks(Invariant::I5);
    let at_once = {
        let mut story = good().second_try();
        story.events.push(event(50, Fact::Cancelled { job: JOB.to_owned(), how: Cancelling::AtOnce }));
        story
    };
    at_once.breaks(Invariant::I5);
    let asked = {
        let mut story = good().second_try();
        story.events.push(event(50, Fact::Cancelled { job: JOB.to_owned(), how: Cancelling::Requested }));
        let asked = Sight { revision: 9, cancel_requested: true, ..running() };
        story.events.push(seen(50, asked));
        story
    };
    asked.breaks(Invariant::I5);
}

#[test]
fn i6_never_two() {
    let taken = {
        let mut story = good().second_try();
        let lock = format!("job-{JOB}");
        story.lines.push(Line::Taken {
            execution: "e1".to_owned(),
            job: JOB.to_owned(),
            attempt: 2,
            lock,
            at_ns: 60,
        });
        story
    };
    taken.breaks(Invariant::I6);
    let side_by_side = {
        let mut story = good().second_try();
        story.lines.push(end("e0", 1, 80));
        story
    };
    side_by_side.breaks(Invariant::I6);
}

#[test]
fn i7_whole_streams() {
    let with = |chunks: Vec<(u32, u64, String)>| spoilt(|story| story.events[4].fact = followed(chunks));
    with(chunks(1, &[0])).breaks(Invariant::I7);
    with(chunks(1, &[0, 0])).breaks(Invariant::I7);
    with(chunks(1, &[1, 0])).breaks(Invariant::I7);
    with(chunks(2, &[0, 1])).breaks(Invariant::I7);
    with([chunks(1, &[0]), vec![(1, 1, "of a zombie".to_owned())]].concat()).breaks(Invariant::I7);
    let failed = Fact::Followed {
        job: JOB.to_owned(),
        chunks: Vec::new(),
        state: None,
        told: 0,
        error: Some("gone".to_owned()),
    };
    spoilt(|story| story.events[4].fact = failed).breaks(Invariant::I7);
}

#[test]
fn i8_within_capacity() {
    spoilt(|story| {
        let lock = "gpu-GPU-0-0".to_owned();
        story.lines.push(Line::Taken {
            execution: "e1".to_owned(),
            job: JOB.to_owned(),
            attempt: 1,
            lock,
            at_ns: 41,
        });
    })
    .breaks(Invariant::I8);
    let crowded = {
        let mut story = good().second_try();
        story.lines.splice(0..0, [start("x", 3, 20)]);
        story
    };
    crowded.breaks(Invariant::I8);
}

#[test]
fn i9_to_i14() {
    spoilt(|story| story.finale.left.push("process 9: sleep".to_owned())).breaks(Invariant::I9);
    spoilt(|story| story.finale.settled_ms = Some(61_000)).breaks(Invariant::I10);
    spoilt(|story| story.finale.settled_ms = None).breaks(Invariant::I10);
    let given = |change: fn(&mut Line)| spoilt(|story| change(&mut story.lines[0]));
    given(|line| {
        if let Line::Start { input_sha256, .. } = line {
            *input_sha256 = "other".to_owned();
        }
    })
    .breaks(Invariant::I11);
    given(|line| {
        if let Line::Start { named, .. } = line {
            *named = "another".to_owned();
        }
    })
    .breaks(Invariant::I11);
    given(|line| {
        if let Line::Start { secrets, .. } = line {
            secrets.push("GRANGE_CHAOS_SECRET".to_owned());
        }
    })
    .breaks(Invariant::I12);
    spoilt(|story| story.finale.secrets.push("agent.log".to_owned())).breaks(Invariant::I12);
    spoilt(|story| story.events.push(event(25, Fact::NotFound { job: JOB.to_owned() })))
        .breaks(Invariant::I13);
    spoilt(|story| {
        story.events[5].fact = Fact::Gauge { name: "threads".to_owned(), value: 11, limit: 10 };
    })
    .breaks(Invariant::I14);
}

impl Story {
    /// A last record that differs from what was seen of it is two histories as well.
    #[track_caller]
    fn breaks_also_i2(&self, which: Invariant) {
        let verdict = self.judge();
        assert_eq!(verdict.broken(), [Invariant::I2, which], "{:?}", verdict.violations());
    }
}
