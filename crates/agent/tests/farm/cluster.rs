//! Keeping house on a cluster of three servers, one of which goes.

use crate::eventually;
use grange_agent::housekeeper::Duty;
use grange_broker_client::bucket::Bucket;
use grange_broker_client::topology::{TopologyOptions, ensure, ensure_queue};
use grange_broker_client::upkeep::queue_states;
use grange_broker_client::{Broker, Options};
use grange_local_farm::cluster::{ClusterOptions, MEMBERS, NatsCluster};
use grange_local_farm::tools;
use grange_protocol::facts::{OVERVIEW_KEY, Overview};
use grange_protocol::record::Holder;
use grange_protocol::subject::{JobKey, LANES_BUCKET, Queue};
use std::path::Path;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// More than one page of consumers.
const QUEUES: usize = 260;

fn queue(n: usize) -> Queue {
    Queue::parse(&format!("default:normal:p{n}:alice")).unwrap()
}

#[tokio::test]
async fn the_overview_goes_on_without_one_of_three_servers() {
    let folder = tempfile::tempdir().unwrap();
    let find = || tools::nats_server(Path::new(env!("CARGO_TARGET_TMPDIR")), &|_| ());
    let binary = tokio::task::spawn_blocking(find).await.unwrap().unwrap();
    let mut cluster =
        NatsCluster::start(&ClusterOptions::new(binary, folder.path().join("nats"))).await.unwrap();
    let options = Options { url: cluster.urls().join(","), ..Options::default() };
    let broker = Broker::connect(&options).await.unwrap();
    ensure(&broker, &TopologyOptions { replicas: MEMBERS, ..TopologyOptions::default() }).await.unwrap();
    let mut making = JoinSet::new();
    for n in 0..QUEUES {
        let broker = broker.clone();
        making.spawn(async move { ensure_queue(&broker, &queue(n)).await.unwrap() });
        if making.len() >= 8 {
            making.join_next().await.unwrap().unwrap();
        }
    }
    making.join_all().await;
    for n in [0, QUEUES - 1] {
        let key = JobKey { owner: queue(n).owner, job: "1".parse().unwrap() };
        let sent = broker.jetstream().publish(key.ticket(&queue(n).lane), "".into()).await.unwrap();
        sent.await.unwrap();
    }
    let begun = Instant::now();
    let states = queue_states(&broker).await.unwrap();
    println!("{} queues were listed in {:?}", states.len(), begun.elapsed());
    assert_eq!(states.len(), QUEUES);

    let me = Holder { agent: "h1".parse().unwrap(), incarnation: "i1".parse().unwrap() };
    let (_latest, latest) = watch::channel(None);
    let leave = CancellationToken::new();
    let _end = leave.clone().drop_guard();
    let keep_records = std::time::Duration::from_secs(60);
    let duty = Duty { broker: broker.clone(), options, me, latest, keep_records, leave };
    let _keeping = JoinSet::from_iter([duty.run()]);
    let lanes = Bucket::new(&broker, LANES_BUCKET);
    let told = async || lanes.get::<Overview>(OVERVIEW_KEY).await.ok().flatten().map(|entry| entry.value);
    let all = [queue(0).consumer(), queue(QUEUES - 1).consumer()];
    let is_whole = |overview: &Overview| {
        all.iter().all(|name| overview.queues.iter().any(|fact| fact.queue == *name && fact.waiting == 1))
    };
    eventually("both tickets are told of", async || told().await.is_some_and(|o| is_whole(&o))).await;
    let before = told().await.unwrap().at_ms;
    cluster.kill(0).await.unwrap();
    let mut looked = 0;
    let mut last = before;
    eventually("and again, three times, with one server gone", async || {
        if let Some(overview) = told().await
            && overview.at_ms > last.max(before + 4_000)
            && is_whole(&overview)
        {
            println!("an overview {} ms after the last", overview.at_ms - last);
            (last, looked) = (overview.at_ms, looked + 1);
        }
        looked >= 3
    })
    .await;
}
