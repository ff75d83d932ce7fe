//! Following a job from before, from the middle and after its end.

use crate::farm::{Farm, LIMIT, new_key, tally};
use crate::submit::echo;
use grange_broker_client::follow::{Follow, Since, Update};
use grange_broker_client::submit::{Submission, submit};
use grange_broker_client::{Error, ErrorKind};
use grange_protocol::lifecycle::{GivenUp, RetryCause, retry};
use grange_protocol::ownership::Stored;
use grange_protocol::subject::JobKey;
use std::time::Duration;
use tokio::time::timeout;

/// What a whole life looked like: chunks as (attempt, index, value), and the rest in words.
#[derive(Debug, Default)]
struct Seen {
    chunks: Vec<(u32, u64, u64)>,
    words: Vec<String>,
}

async fn see(mut follow: Follow) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    while let Some(update) = timeout(LIMIT, follow.next()).await.expect("a follower that hears")? {
        match update {
            Update::State { record, expired_marker, .. } => seen.words.push(match record {
                Some(record) => record.state.to_string(),
                None => format!("marker {expired_marker}"),
            }),
            Update::Attempt { token } => seen.words.push(format!("attempt {}", token.number)),
            Update::Chunk { token, index, value, .. } => {
                seen.chunks.push((token.number, index, value.read().unwrap()));
            }
            Update::Progress { progress, .. } => seen.words.push(format!("progress {}", progress.progress)),
            Update::Log { line, .. } => seen.words.push(format!("log {}", line.line)),
            Update::Dropped { dropped, .. } => seen.words.push(format!("dropped {}", dropped.lines)),
            Update::End(record) => seen.words.push(format!("end {}", record.state)),
            other => panic!("{other:?}"),
        }
    }
    Ok(seen)
}

fn numbers(attempt: u32, range: std::ops::Range<u64>) -> Vec<(u32, u64, u64)> {
    range.map(|n| (attempt, n, n * 10)).collect()
}

#[tokio::test]
async fn live_from_before_the_submit() {
    let farm = Farm::start().await;
    let key = new_key();
    let follow = Follow::before_submit(&farm.broker, &key).await.unwrap();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    farm.chunk(&key, &fence, 0, &[0]).await;
    farm.event(&key, &fence, "progress", r#"{"progress":0.5,"message":"half"}"#.to_owned(), None).await;
    farm.event(&key, &fence, "from-the-future", "?".to_owned(), None).await;
    let lines = "{\"stream\":\"stdout\",\"line\":\"a\"}\n{\"stream\":\"stderr\",\"line\":\"b\"}\n";
    farm.event(&key, &fence, "log", lines.to_owned(), None).await;
    farm.event(&key, &fence, "dropped", r#"{"what":"log","lines":3,"bytes":9}"#.to_owned(), None).await;
    farm.chunk(&key, &fence, 1, &[10, 20]).await;
    farm.succeed(&key, &fence, &tally([0, 10, 20])).await;
    let seen = see(follow).await.unwrap();
    assert_eq!(seen.chunks, numbers(1, 0..3));
    assert_eq!(
        seen.words,
        ["attempt 1", "running", "progress 0.5", "log a", "log b", "dropped 3", "end succeeded"]
    );
}

#[tokio::test]
async fn from_history_across_pages_and_resumed() {
    let farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    let mut middle = 0;
    for n in 0..1_300 {
        let sequence = farm.chunk(&key, &fence, n, &[n * 10]).await;
        middle = if n == 699 { sequence } else { middle };
    }
    farm.succeed(&key, &fence, &tally((0..1_300).map(|n| n * 10))).await;
    let whole = see(Follow::start(&farm.broker, &key, Since::Start).await.unwrap()).await.unwrap();
    assert_eq!(whole.chunks, numbers(1, 0..1_300));
    assert_eq!(whole.words, ["attempt 1", "end succeeded"]);
    let rest = see(Follow::start(&farm.broker, &key, Since::After(middle)).await.unwrap()).await.unwrap();
    assert_eq!(rest.chunks, numbers(1, 700..1_300));
}

#[tokio::test]
async fn joined_in_the_middle_nothing_is_missing_and_nothing_comes_twice() {
    let farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    for n in 0..50 {
        farm.chunk(&key, &fence, n, &[n * 10]).await;
    }
    let follow = Follow::start(&farm.broker, &key, Since::Start).await.unwrap();
    for n in 50..100 {
        farm.chunk(&key, &fence, n, &[n * 10]).await;
    }
    let following = tokio::spawn(see(follow));
    for n in 100..150 {
        farm.chunk(&key, &fence, n, &[n * 10]).await;
    }
    farm.succeed(&key, &fence, &tally((0..150).map(|n| n * 10))).await;
    assert_eq!(following.await.unwrap().unwrap().chunks, numbers(1, 0..150));
}

#[tokio::test]
async fn a_lost_attempt_is_told_apart() {
    let farm = Farm::start().await;
    let key = new_key();
    let live = Follow::before_submit(&farm.broker, &key).await.unwrap();
    let (first, sequence, lost) = farm.claim(&key, "h1").await;
    farm.chunk(&key, &lost, 0, &[0, 10, 20]).await;
    let again = retry(&first, sequence, &lost, &GivenUp::at_once(RetryCause::HostLost), "", 7).unwrap();
    farm.ledger.write(&key, sequence, &again, None).await.unwrap();
    let (_, _, fence) = farm.claim(&key, "h2").await;
    farm.chunk(&key, &fence, 0, &[0]).await;
    farm.chunk(&key, &lost, 3, &[666]).await;
    farm.chunk(&key, &fence, 1, &[10]).await;
    farm.succeed(&key, &fence, &tally([0, 10])).await;
    let expected = [numbers(1, 0..3), numbers(2, 0..2)].concat();
    let later = Follow::start(&farm.broker, &key, Since::Start).await.unwrap();
    assert_eq!(see(live).await.unwrap().chunks, expected);
    let seen = see(later).await.unwrap();
    assert_eq!(seen.chunks, expected);
    assert_eq!(seen.words, ["attempt 1", "attempt 2", "end succeeded"]);
}

#[tokio::test]
async fn wrong_chunks_are_an_error() {
    let farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    farm.chunk(&key, &fence, 0, &[0, 11]).await;
    farm.succeed(&key, &fence, &tally([0, 10])).await;
    let follow = Follow::start(&farm.broker, &key, Since::Start).await.unwrap();
    assert_eq!(see(follow).await.unwrap_err().kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn chunks_that_come_after_the_end_are_waited_for() {
    let farm = Farm::start().await;
    let key = new_key();
    let follow = Follow::before_submit(&farm.broker, &key).await.unwrap();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    farm.succeed(&key, &fence, &tally([0, 10])).await;
    let following = tokio::spawn(see(follow));
    farm.chunk(&key, &fence, 0, &[0]).await;
    farm.chunk(&key, &fence, 1, &[10]).await;
    let seen = following.await.unwrap().unwrap();
    assert_eq!(seen.chunks, numbers(1, 0..2));
    assert_eq!(seen.words.last().unwrap(), "end succeeded");
}

#[tokio::test]
async fn events_that_are_no_longer_kept_are_an_error() {
    let farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    let gone = farm.chunk(&key, &fence, 0, &[0]).await;
    farm.chunk(&key, &fence, 1, &[10]).await;
    farm.succeed(&key, &fence, &tally([0, 10])).await;
    let events = farm.broker.jetstream().get_stream("GRANGE_EVENTS").await.unwrap();
    events.delete_message(gone).await.unwrap();
    let follow = Follow::start(&farm.broker, &key, Since::Start).await.unwrap();
    assert_eq!(see(follow).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_follower_outlives_its_broker() {
    let mut farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    farm.chunk(&key, &fence, 0, &[0]).await;
    let following = tokio::spawn(see(Follow::start(&farm.broker, &key, Since::Start).await.unwrap()));
    let mut reconnects = farm.broker.reconnects();
    farm.server.kill().await.unwrap();
    farm.server.restart().await.unwrap();
    timeout(LIMIT, reconnects.changed()).await.unwrap().unwrap();
    farm.chunk(&key, &fence, 1, &[10]).await;
    farm.succeed(&key, &fence, &tally([0, 10])).await;
    assert_eq!(following.await.unwrap().unwrap().chunks, numbers(1, 0..2));
}

#[tokio::test]
async fn a_waiting_time_that_runs_out_is_the_end() {
    let farm = Farm::start().await;
    let submission =
        Submission { job: Some(new_key().job), max_wait: Some(Duration::from_secs(1)), ..echo() };
    let key = JobKey { owner: submission.owner.clone(), job: submission.job.clone().unwrap() };
    let live = Follow::before_submit(&farm.broker, &key).await.unwrap();
    submit(&farm.broker, &farm.ledger, submission).await.unwrap();
    // Nobody is there who could write it down.
    assert_eq!(see(live).await.unwrap().words, ["queued", "marker true", "end expired"]);
    assert!(matches!(farm.ledger.read(&key).await.unwrap(), Stored::Marker { .. }));
    let later = Follow::start(&farm.broker, &key, Since::Start).await.unwrap();
    assert_eq!(see(later).await.unwrap().words, ["marker true", "end expired"]);
}
