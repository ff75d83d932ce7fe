//! Letters: what is kept of a job whose tries are spent.
//!
//! The letter is stored before the record that ends the job. A crash between the two leaves a letter of a job that is
//! tried once more and then buried again under the same message id, or ends otherwise; the other way round it would leave
//! an end without evidence.

use grange_broker_client::connect::Broker;
use grange_broker_client::dead;
use grange_protocol::failure::Failure;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::limit::{MAX_FAILURE_TEXT_BYTES, keep_end};
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use serde_json::{Value, json};

/// The last failure with what it was the end of.
pub fn last_of(mut failure: Failure, cause: RetryCause, tries: u32, record: &Record) -> Failure {
    let s = if tries == 1 { "" } else { "s" };
    let spent = match cause {
        RetryCause::PluginError => format!("{tries} error{s}"),
        RetryCause::WorkerCrashed => {
            format!("{tries} crash{} of its worker", if tries == 1 { "" } else { "es" })
        }
        RetryCause::HostLost | RetryCause::GpuFailed => format!("{tries} lost host{s}"),
        RetryCause::NotStarted => format!("{tries} start{s}"),
    };
    let attempts = record.attempt.as_ref().map_or(0, |attempt| attempt.number);
    let of = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
    let text = format!("{}; given up after {spent} in {of}", failure.message);
    failure.message = keep_end(&text, MAX_FAILURE_TEXT_BYTES);
    failure
}

/// Stores the letter. A broker that does not take it keeps no job from its end.
pub async fn bury(broker: &Broker, key: &JobKey, record: &Record, failure: &Failure) {
    let evidence = evidence(record, failure);
    if let Err(error) = dead::bury_job(broker, failure.kind.as_str(), key, &evidence).await {
        tracing::warn!(job = %key, %error, "evidence not stored");
    }
}

fn evidence(record: &Record, failure: &Failure) -> Value {
    let ends = record.history.iter().filter(|moment| moment.state == State::Retrying);
    let mut attempts: Vec<Value> = ends
        .map(|m| json!({ "attempt": m.attempt, "agent": m.agent, "at_ms": m.at_ms, "failure": m.note }))
        .collect();
    if let Some(attempt) = &record.attempt {
        let said = format!("{}: {}", failure.kind, failure.message);
        attempts.push(json!({ "attempt": attempt.number, "agent": attempt.agent, "failure": said }));
    }
    json!({ "failure": failure, "record": record, "attempts": attempts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::failure::FailureKind;
    use grange_protocol::lifecycle::{Claim, GivenUp, claim, retry};
    use grange_protocol::record::Holder;
    use grange_protocol::subject::Queue;

    #[test]
    fn a_letter_says_how_each_attempt_ended() {
        let lane = Queue::parse("default:high:ocr:alice").unwrap().lane;
        let by = |agent: &str| Claim {
            holder: Holder { agent: agent.parse().unwrap(), incarnation: "i".parse().unwrap() },
            lease_s: 30,
            ahead: false,
            at_ms: 5,
        };
        let first = claim(None, &lane, 1, &by("h1")).unwrap();
        let fence = first.fence(10).unwrap();
        let given_up = GivenUp::at_once(RetryCause::WorkerCrashed);
        let resting = retry(&first, 10, &fence, &given_up, "worker_crashed: signal 11", 7).unwrap();
        let second = claim(Some(&resting), &lane, 1, &by("h2")).unwrap();
        let failure = Failure::new(FailureKind::WorkerCrashed, "signal 11");
        let last = last_of(failure, RetryCause::WorkerCrashed, 2, &second);
        assert_eq!(last.message, "signal 11; given up after 2 crashes of its worker in 2 attempts");
        let said = evidence(&second, &last);
        assert_eq!(said["attempts"][0]["failure"], "worker_crashed: signal 11");
        assert_eq!(said["attempts"][0]["agent"], "h1");
        assert_eq!(
            (&said["attempts"][1]["agent"], &said["attempts"][1]["attempt"]),
            (&json!("h2"), &json!(2))
        );
    }
}
