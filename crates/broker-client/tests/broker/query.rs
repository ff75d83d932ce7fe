//! Looking at jobs and agents.

use crate::farm::{Farm, lane, owner, tally};
use crate::submit::echo;
use grange_broker_client::ErrorKind;
use grange_broker_client::query::{JobFilter, agents, find_job, job_status, list_jobs};
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::name::{AgentName, JobId, Owner};
use grange_protocol::record::State;
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::JobKey;
use std::time::Duration;

#[tokio::test]
async fn a_waiting_job_has_a_place() {
    let farm = Farm::start().await;
    let mut keys = Vec::new();
    for plugin in ["echo", "echo", "other", "echo"] {
        let one = Submission { lane: lane(plugin), ..echo() };
        keys.push(submit(&farm.broker, &farm.ledger, one).await.unwrap().key);
    }
    let view = job_status(&farm.broker, &farm.ledger, &keys[3]).await.unwrap();
    assert_eq!(view.state(), State::Queued);
    let waiting = view.waiting.unwrap();
    assert_eq!((waiting.ahead, waiting.lane), (Some(2), lane("echo")));
    let (_, _, fence) = farm.claim(&keys[0], "h1").await;
    farm.succeed(&keys[0], &fence, &tally([])).await;
    let view = job_status(&farm.broker, &farm.ledger, &keys[0]).await.unwrap();
    assert_eq!((view.state(), view.waiting), (State::Succeeded, None));
    let nobody = JobKey { owner: owner(), job: JobId::new("nothing").unwrap() };
    let error = job_status(&farm.broker, &farm.ledger, &nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_and_filtered() {
    let farm = Farm::start().await;
    let mut keys = Vec::new();
    for count in 0..300 {
        let plugin = if count % 3 == 0 { "other" } else { "echo" };
        let max_wait = (count % 2 == 0).then_some(Duration::from_secs(600));
        let one = Submission { lane: lane(plugin), max_wait, ..echo() };
        keys.push(submit(&farm.broker, &farm.ledger, one).await.unwrap().key);
    }
    let (_, _, fence) = farm.claim(&keys[4], "h1").await;
    farm.succeed(&keys[4], &fence, &tally([])).await;
    let all = list_jobs(&farm.broker, &JobFilter { limit: 1000, ..JobFilter::default() }).await.unwrap();
    assert_eq!(all.len(), 300);
    assert!(all.iter().map(|v| &v.key).eq(keys.iter().rev()));
    assert!(all[0].waiting.is_some() && all[299].waiting.is_some());
    let newest = list_jobs(&farm.broker, &JobFilter { limit: 3, ..JobFilter::default() }).await.unwrap();
    assert_eq!(newest.len(), 3);
    let ended = JobFilter { state: Some(State::Succeeded.as_str()), ..JobFilter::default() };
    let ended = list_jobs(&farm.broker, &ended).await.unwrap();
    assert_eq!(ended.iter().map(|v| &v.key).collect::<Vec<_>>(), [&keys[4]]);
    let other = JobFilter { plugin: Some(lane("other").plugin), limit: 1000, ..JobFilter::default() };
    assert_eq!(list_jobs(&farm.broker, &other).await.unwrap().len(), 100);
    let bob = JobFilter { owner: Some(Owner::new("bob").unwrap()), ..JobFilter::default() };
    assert!(list_jobs(&farm.broker, &bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_short_id_finds_its_job() {
    let farm = Farm::start().await;
    for (job, max_wait) in
        [("aa-1", None), ("aa-2", Some(Duration::from_secs(60))), ("b", None), ("bc", None)]
    {
        let one = Submission { job: Some(JobId::new(job).unwrap()), max_wait, ..echo() };
        submit(&farm.broker, &farm.ledger, one).await.unwrap();
    }
    let find = async |text: &str| find_job(&farm.broker, &JobId::new(text).unwrap(), Some(&owner())).await;
    assert_eq!(find("aa-2").await.unwrap().job.as_str(), "aa-2");
    assert_eq!(find("bc").await.unwrap().job.as_str(), "bc");
    assert_eq!(find("b").await.unwrap().job.as_str(), "b", "an exact id wins");
    let error = find("aa").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`alice/aa-1`"), "{error}");
    assert_eq!(find("zz").await.unwrap_err().kind(), ErrorKind::NotFound);
    let bob = Owner::new("bob").unwrap();
    let error = find_job(&farm.broker, &JobId::new("b").unwrap(), Some(&bob)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let anybody = find_job(&farm.broker, &JobId::new("bc").unwrap(), None).await.unwrap();
    assert_eq!(anybody.owner, owner());
}

#[tokio::test]
async fn agents_that_beat_are_there() {
    let farm = Farm::start().await;
    let bucket = farm.broker.jetstream().get_key_value("grange_agents").await.unwrap();
    for name in ["h2", "h1", "gone"] {
        let status = AgentStatus::silent(AgentName::new(name).unwrap());
        bucket.put(name, serde_json::to_vec(&status).unwrap().into()).await.unwrap();
    }
    bucket.delete("gone").await.unwrap();
    bucket.put("broken", "{".into()).await.unwrap();
    let found = agents(&farm.broker).await.unwrap();
    let names: Vec<_> = found.iter().map(|(status, _)| status.agent.as_str()).collect();
    assert_eq!(names, ["h1", "h2"]);
    assert!(found[0].1 < Duration::from_secs(30));
}
