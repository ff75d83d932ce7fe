//! Schedules: what is to be submitted later, once or again and again. Subjects, headers, and which job comes of them.
//!
//! Owns the one function that names the job of a firing. Never reads a clock; what a pattern means is in `cron`.
//!
//! ```text
//!   grange.schedule.<owner>.<job>  ─ once ──────────► grange.due.<class>.<priority>.<plugin>.<owner>.<job>
//!   grange.cron.<owner>.<name>     ─ each firing ───► grange.tick.<class>.<priority>.<plugin>.<owner>.<name>
//!                                                       └── an agent carries it into `grange.jobs.…`
//! ```

use crate::name::{JobId, NameError, Owner};
use crate::subject::{JobKey, Lane, SubjectError, parse_ticket};

/// Stream of schedules and of what they fire. Apart from the tickets: the server takes no schedules into a stream that
/// refuses messages when it is full.
pub const SCHEDULES: &str = "GRANGE_SCHEDULES";
/// The consumer of what fired, one for the farm.
pub const DUE_CONSUMER: &str = "due";
/// What the consumer gives out.
pub const DUE_FILTERS: [&str; 2] = ["grange.due.>", "grange.tick.>"];

/// Header of a schedule: when, `@at <RFC 3339>`, `@every 30m`, or six fields of a cron pattern.
pub const WHEN_HEADER: &str = "Nats-Schedule";
/// Header of a schedule: the subject of what it fires.
pub const TARGET_HEADER: &str = "Nats-Schedule-Target";
/// Header of a schedule: the time zone of a cron pattern.
pub const ZONE_HEADER: &str = "Nats-Schedule-Time-Zone";
/// Header of what was fired: the schedule's subject.
pub const FIRED_BY_HEADER: &str = "Nats-Scheduler";
/// Header of a schedule: how long its job may wait for a start once it is due, `30s`.
pub const MAX_WAIT_HEADER: &str = "Grange-Max-Wait";

/// Longest name of a recurring job, bytes: a sequence has to find room behind it.
pub const MAX_CRON_NAME_BYTES: usize = 43;

/// What lies at a subject that something was fired to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Where its job waits.
    pub lane: Lane,
    /// The job.
    pub key: JobKey,
    /// The recurring job that it is of.
    pub cron: Option<JobId>,
    /// The subject of the schedule that may fire it.
    pub schedule: String,
}

/// Where a job lies that is to be submitted later.
pub fn delayed(key: &JobKey) -> String {
    format!("grange.schedule.{}.{}", key.owner, key.job)
}

/// Where its schedule puts it.
pub fn due(lane: &Lane, key: &JobKey) -> String {
    key.ticket(lane).replacen("grange.jobs.", "grange.due.", 1)
}

/// Finds what a job's schedule fired, whichever lane it is for.
pub fn any_due(key: &JobKey) -> String {
    format!("grange.due.*.*.*.{}.{}", key.owner, key.job)
}

/// Where a recurring job lies.
pub fn cron(owner: &Owner, name: &JobId) -> String {
    format!("grange.cron.{owner}.{name}")
}

/// Where each of its firings goes.
pub fn tick(lane: &Lane, owner: &Owner, name: &JobId) -> String {
    let key = JobKey { owner: owner.clone(), job: name.clone() };
    key.ticket(lane).replacen("grange.jobs.", "grange.tick.", 1)
}

/// Key in the lanes' bucket of the last job of a recurring one.
pub fn last_job_key(owner: &Owner, name: &JobId) -> String {
    format!("cron.{owner}.{name}")
}

/// The job of a firing: the sequence of what was fired tells it from every other, and a firing that is met twice is the
/// same job.
pub fn tick_job(name: &JobId, sequence: u64) -> Result<JobId, NameError> {
    JobId::new(format!("{name}-{sequence}"))
}

/// Checks the name of a recurring job.
pub fn check_cron_name(name: &JobId) -> Result<(), NameError> {
    let (text, most) = (name.as_str(), MAX_CRON_NAME_BYTES);
    if text.len() <= most {
        return Ok(());
    }
    let start = text.chars().take(16).collect();
    Err(NameError::TooLong { what: "name", start, bytes: text.len(), most })
}

/// Reads owner and name out of `grange.schedule.…` or `grange.cron.…`.
pub fn parse_schedule(subject: &str) -> Option<JobKey> {
    let rest = subject.strip_prefix("grange.schedule.").or_else(|| subject.strip_prefix("grange.cron."))?;
    let (owner, job) = rest.split_once('.')?;
    Some(JobKey { owner: Owner::new(owner).ok()?, job: JobId::new(job).ok()? })
}

/// Reads what lies at a target, stored at this sequence.
pub fn parse_due(subject: &str, sequence: u64) -> Result<Due, SubjectError> {
    let (rest, recurring) = match (subject.strip_prefix("grange.due."), subject.strip_prefix("grange.tick."))
    {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Err(SubjectError::Shape(subject.to_owned())),
    };
    let (lane, key) = parse_ticket(&format!("grange.jobs.{rest}"))?;
    if !recurring {
        let schedule = delayed(&key);
        return Ok(Due { lane, key, cron: None, schedule });
    }
    let name = |error| SubjectError::Name { subject: subject.to_owned(), error };
    let job = tick_job(&key.job, sequence).map_err(name)?;
    let schedule = cron(&key.owner, &key.job);
    Ok(Due { lane, key: JobKey { owner: key.owner, job }, cron: Some(key.job), schedule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Queue;

    fn lane() -> Lane {
        Queue::parse("g1+v12:high:ocr:alice").unwrap().lane
    }

    fn key(job: &str) -> JobKey {
        JobKey { owner: "alice".parse().unwrap(), job: job.parse().unwrap() }
    }

    #[test]
    fn what_is_due_names_its_job_and_its_schedule() {
        let key = key("j-1");
        let subject = due(&lane(), &key);
        assert_eq!(subject, "grange.due.g1+v12.high.ocr.alice.j-1");
        let read = parse_due(&subject, 7).unwrap();
        assert_eq!((&read.key, &read.lane, read.cron), (&key, &lane(), None));
        assert_eq!((read.schedule, parse_schedule(&delayed(&key))), (delayed(&key), Some(key)));
    }

    #[test]
    fn each_firing_is_a_job_of_its_own() {
        let (owner, name): (Owner, JobId) = ("alice".parse().unwrap(), "nightly".parse().unwrap());
        let subject = tick(&lane(), &owner, &name);
        let read = parse_due(&subject, 41).unwrap();
        assert_eq!((read.key, read.cron), (key("nightly-41"), Some(name.clone())));
        assert_eq!(read.schedule, "grange.cron.alice.nightly");
        let longest = JobId::new("n".repeat(MAX_CRON_NAME_BYTES)).unwrap();
        assert!(check_cron_name(&longest).is_ok() && tick_job(&longest, u64::MAX).is_ok());
        assert!(check_cron_name(&JobId::new("n".repeat(MAX_CRON_NAME_BYTES + 1)).unwrap()).is_err());
    }

    #[test]
    fn what_is_no_target_is_told() {
        assert!(parse_due("grange.jobs.default.normal.ocr.alice.1", 1).is_err());
        assert!(parse_due("grange.due.default.soon.ocr.alice.1", 1).is_err());
        assert_eq!(parse_schedule("grange.schedule.alice"), None);
    }
}
