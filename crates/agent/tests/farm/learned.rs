//! What agents tell each other of plugins.

use crate::{Farm, eventually};
use grange_agent::learned::{Table, exchange};
use grange_broker_client::bucket::Bucket;
use grange_protocol::facts::Learned;
use grange_protocol::name::PluginName;
use grange_protocol::subject::PLUGINS_BUCKET;
use tokio::task::JoinSet;

fn ocr() -> PluginName {
    PluginName::new("ocr").unwrap()
}

#[tokio::test]
async fn what_one_agent_saw_the_others_know_and_the_highest_peak_stays() {
    let farm = Farm::start().await;
    let (first, second, mut tasks) = (Table::default(), Table::default(), JoinSet::new());
    first.saw_peak(&ocr(), "c", "NVIDIA L4", 5_000);
    first.saw_start(&ocr(), "c", "NVIDIA L4", 2_000);
    second.saw_peak(&ocr(), "c", "NVIDIA L4", 7_000);
    tasks.spawn(exchange(farm.broker().await, first.clone()));
    tasks.spawn(exchange(farm.broker().await, second.clone()));
    eventually("both know the higher peak and the start", async || {
        [&first, &second].into_iter().all(|table| {
            table.peak_mb(&ocr(), "c", ["NVIDIA L4"]) == Some(7_000)
                && table.start_ms(&ocr(), "c", ["NVIDIA L4"]) == Some(2_000)
        })
    })
    .await;
    let bucket = Bucket::new(&farm.broker().await, PLUGINS_BUCKET);
    let key = Learned::key(&ocr(), "c", "NVIDIA L4");
    eventually("both are written down", async || {
        let stored = bucket.get::<Learned>(&key).await.unwrap().unwrap().value;
        (stored.peak_vram_mb, stored.start_ms) == (7_000, 2_000) && stored.at_ms > 0
    })
    .await;
    let late = Table::default();
    tasks.spawn(exchange(farm.broker().await, late.clone()));
    eventually("one that comes later knows too", async || {
        late.peak_mb(&ocr(), "c", ["NVIDIA L4"]) == Some(7_000)
    })
    .await;
    assert!(late.version() > 0);
}
