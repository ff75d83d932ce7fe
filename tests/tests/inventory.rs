//! What a running agent shows of its host, through NVML's real code path and a library that says what a script says.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_protocol::capacity::Gpu as Shown;
use grange_protocol::status::AgentStatus;
use grange_tests::gpus::{Gpu, Process};
use grange_tests::{Agent, Client, FakeGpus, Farm, Returned as _, eventually};
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const A: &str = "GPU-aaaaaaaa-0000";
const B: &str = "GPU-bbbbbbbb-0000";

/// Two GPUs with 24 and 80 GiB.
fn two(farm: &Farm) -> FakeGpus {
    let gpus = vec![Gpu::new(A, "NVIDIA L4", 24_576), Gpu::new(B, "NVIDIA H100", 81_920)];
    FakeGpus::with(&farm.path("gpus"), gpus)
}

fn start(farm: &Farm, gpus: &FakeGpus, more: &str) -> Agent {
    let mut plan = farm.plan("h1", &[farm.path("plugins")]);
    plan.config = format!("{more}\n{}", gpus.config());
    plan.environment.push(gpus.environment());
    plan.start()
}

async fn until<T>(client: &Client, what: &str, found: impl Fn(&AgentStatus) -> Option<T>) -> T {
    eventually(what, SOON, async || {
        let status = client.agent("h1").await.ok_or_else(|| "no heartbeat".to_owned())?;
        found(&status).ok_or_else(|| format!("{:?} {:?}", status.capacity, status.notices))
    })
    .await
}

fn shown<'s>(status: &'s AgentStatus, uuid: &str) -> Option<&'s Shown> {
    status.capacity.gpus.iter().find(|gpu| gpu.uuid == uuid)
}

/// A plugin folder has to be there.
fn no_plugins(farm: &Farm) {
    std::fs::create_dir_all(farm.path("plugins")).unwrap();
}

#[tokio::test]
async fn a_heartbeat_shows_the_gpus_and_what_others_use_of_them() {
    let farm = Farm::start().await;
    let gpus = two(&farm);
    no_plugins(&farm);
    gpus.change_gpu(A, |gpu| gpu.links = vec![B.to_owned()]);
    let _agent = start(&farm, &gpus, "[reserve]\nvram_mb = 576");
    let client = farm.client("alice").await;
    let first = until(&client, "the GPUs are there", |status| shown(status, A).cloned()).await;
    assert_eq!((first.name.as_str(), first.compute.as_str(), first.temperature_c), ("NVIDIA L4", "8.0", 40));
    assert_eq!((first.vram_mb, first.usable_mb, first.grantable_mb), (24_576, 24_000, 24_000));
    assert_eq!(first.links, [B]);
    gpus.change_gpu(A, |gpu| gpu.processes = vec![Process { pid: 1, mb: 4_000, ..Process::default() }]);
    until(&client, "foreign use counts", |status| {
        let gpu = shown(status, A)?;
        (gpu.foreign_mb == 4_000 && gpu.grantable_mb == 20_000 && gpu.vram_free_mb == 20_576).then_some(())
    })
    .await;
    gpus.change_gpu(A, |gpu| gpu.processes.clear());
    until(&client, "and no longer", |status| (shown(status, A)?.grantable_mb == 24_000).then_some(())).await;
}

#[tokio::test]
async fn a_run_sees_the_gpus_it_was_given_and_its_use_is_its_workers() {
    let farm = Farm::start().await;
    let gpus = two(&farm);
    let resources = json!({"resources": {"gpus": 1, "vram_mb": 30_000}});
    gpus.plugin(&farm.path("plugins"), "vram", &resources);
    let agent = start(&farm, &gpus, "");
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let gate = farm.path("gate");
    let job = client.submit("vram", &json!({"mb": 20_000, "child_mb": 5_000, "until": gate})).await;
    until(&client, "the use of the run and its child is its worker's", |status| {
        let (gpu, worker) = (shown(status, B)?, status.workers.first()?);
        let used = (worker.vram_used_mb, gpu.vram_free_mb, gpu.foreign_mb, worker.gpus.clone());
        (used == (25_000, 56_920, 0, vec![B.to_owned()])).then_some(())
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let record = client.end(&job).await;
    assert_eq!(record.value()["gpus"], json!(B), "{}", agent.log());
    assert_eq!(shown(&client.agent("h1").await.unwrap(), A).unwrap().granted_mb, 0);
}

#[tokio::test]
async fn ill_gpus_are_shown_and_the_agent_goes_on() {
    let farm = Farm::start().await;
    let gpus = two(&farm);
    no_plugins(&farm);
    let _agent = start(&farm, &gpus, "[gpu]\nnvml_timeout_ms = 1000");
    let client = farm.client("alice").await;
    until(&client, "the GPUs are there", |status| shown(status, B).cloned()).await;
    gpus.xid(A, 79);
    let why = until(&client, "an XID", |status| shown(status, A)?.quarantine.clone()).await;
    assert_eq!(why, "XID 79: the GPU has fallen off the bus");
    gpus.change_gpu(B, |gpu| gpu.hang = vec!["*".to_owned()]);
    let begun = Instant::now();
    let why = until(&client, "a hang", |status| shown(status, B)?.quarantine.clone()).await;
    assert!(why.contains("does not answer within 1000 ms"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reserve_larger_than_the_host_ends_the_agent_with_both_amounts() {
    let farm = Farm::start().await;
    no_plugins(&farm);
    let mut agent = start(&farm, &two(&farm), "[reserve]\nram_mb = 99999999");
    assert!(!agent.wait(SOON).await.success());
    let log = agent.log();
    assert!(log.contains("`reserve.ram_mb` is 99999999, but this host has "), "{log}");
}

#[tokio::test]
async fn notices_of_the_host_stand_in_the_heartbeat() {
    let farm = Farm::start().await;
    let gpus = two(&farm);
    no_plugins(&farm);
    gpus.change_gpu(B, |gpu| gpu.free_mb = Some(999_999));
    let _agent = start(&farm, &gpus, "[reserve]\nvram_mb = 30000");
    let client = farm.client("alice").await;
    until(&client, "two notices", |status| {
        let says = |text: &str| status.notices.iter().any(|notice| notice.contains(text));
        (says("more than all is not believed") && says("`reserve.vram_mb` is 30000 and it has 24576 MiB"))
            .then_some(())
    })
    .await;
    let status = client.agent("h1").await.unwrap();
    assert_eq!(
        (shown(&status, A).unwrap().grantable_mb, shown(&status, B).unwrap().grantable_mb),
        (0, 51_920)
    );
}

#[tokio::test]
async fn a_fixed_inventory_needs_no_nvml() {
    let farm = Farm::start().await;
    no_plugins(&farm);
    let mut plan = farm.plan("h1", &[farm.path("plugins")]);
    plan.config =
        format!("[inventory]\ncpus = 3\nram_mb = 5000\n[[inventory.gpu]]\nuuid = {A:?}\nvram_mb = 8000");
    let _agent = plan.start();
    let client = farm.client("alice").await;
    let capacity = until(&client, "it is up", |status| Some(status.capacity.clone())).await;
    assert_eq!(
        (capacity.cpus_grantable, capacity.ram_grantable_mb, capacity.gpus[0].grantable_mb),
        (3, 5_000, 8_000)
    );
}
