//! Hosts with unlike fake GPUs that each have a network of their own, so that one can be cut off from all others.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_protocol::class::class_of;
use grange_protocol::record::{Record, State};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Ticket;
use grange_tests::gpus::Gpu;
use grange_tests::network::{HostNetwork, Network, own_network};
use grange_tests::processes::is_alive;
use grange_tests::{Agent, Client, Farm, GpuHost, Returned, eventually, lines};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// The shortest lease that there is.
const LEASE_S: u64 = 10;
const LEASE_NS: u64 = LEASE_S * 1_000_000_000;
/// Heartbeats come every 2 s, so the last one may be so much older than the cut.
const RENEWED_EVERY_NS: u64 = 3_000_000_000;
/// A holder has to be silent for a lease, and its ticket comes again 30 s after the last word of it.
const TAKEN_OVER: Duration = Duration::from_secs(90);
/// From the end of its lease until a worker's last sign of life, on a busy machine.
const KILLED_WITHIN_NS: u64 = 3_000_000_000;

/// Every plugin, the memory that it needs, and the hosts that have so much.
const NEEDS: [(&str, u64, &[&str]); 4] = [
    ("small", 2_000, &["h1", "h2", "h3"]),
    ("medium", 14_000, &["h1", "h2", "h3"]),
    ("large", 20_000, &["h2", "h3"]),
    ("huge", 30_000, &["h2"]),
];

struct Site {
    network: HostNetwork,
    agent: Agent,
}

async fn site(farm: &Farm, network: HostNetwork, name: &str, model: &str, mb: u64) -> Site {
    let card = Gpu { return_ms: 50, ..Gpu::new(&format!("{name}-gpu"), model, mb) };
    let mut gpus = GpuHost::new(farm, name, vec![card])
        .configured(&format!("[limits]\nlease_s = {LEASE_S}\n"))
        .within(network.command());
    for (plugin, mb, _) in NEEDS {
        gpus = gpus.with(plugin, &json!({"resources": {"vram_mb": mb}, "config": {"mb": mb}}));
    }
    let agent = gpus.start(farm).await;
    assert!(network.has(agent.pid()), "{name} is in its own network");
    Site { network, agent }
}

fn host_of(record: &Record) -> &str {
    record.attempt.as_ref().map_or("", |attempt| attempt.agent.as_str())
}

/// A line that a running job wrote itself.
#[derive(Debug)]
struct Pulse {
    attempt: u64,
    pid: u32,
    at_ns: u64,
    ended: bool,
}

fn pulses(path: &Path) -> Vec<Pulse> {
    let read = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        Pulse {
            attempt: number(0),
            pid: number(1).try_into().unwrap(),
            at_ns: number(2),
            ended: words[3] == "ends",
        }
    };
    lines(path).iter().map(read).collect()
}

/// The clock that the pulses are read from.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Sends what has to run on this host and nowhere else.
async fn run_on(client: &Client, host: &str, plugin: &str) -> Box<Record> {
    let mut submission = client.submission(plugin, &json!({}));
    let resources = serde_json::from_value(json!({"on": {"host": host}})).unwrap();
    submission.lane.class = class_of(&resources).unwrap();
    submission.ticket = Ticket { resources: Some(resources), ..submission.ticket };
    let key = client.send(submission).await;
    client.end(&key).await
}

async fn jobs_of_all_sizes_run_where_they_fit(client: &Client) {
    let mut keys = Vec::new();
    for _ in 0..4 {
        for (plugin, _, fitting) in NEEDS {
            keys.push((plugin, fitting, client.submit(plugin, &json!({})).await));
        }
    }
    for (plugin, fitting, key) in &keys {
        let record = client.end(key).await;
        record.value();
        assert!(fitting.contains(&host_of(&record)), "`{plugin}` ran on {}", host_of(&record));
    }
}

/// Waits until another attempt than the first runs, and gives the host that has it.
async fn taken_over(client: &Client, key: &JobKey) -> String {
    eventually("another host takes the job", TAKEN_OVER, async || match client.record(key).await {
        Some(record) => match &record.attempt {
            Some(attempt) if record.state == State::Running && attempt.number == 2 => {
                Ok(attempt.agent.to_string())
            }
            _ => Err(format!("it is {}: {:?}", record.state, record.attempt)),
        },
        None => Err("it has no record".to_owned()),
    })
    .await
}

async fn is_back(client: &Client, name: &str) -> AgentStatus {
    eventually(&format!("{name} is heard of again"), SOON, async || {
        client.agent(name).await.ok_or("no heartbeat")
    })
    .await
}

/// What the job's own processes wrote down: the first was dead before the second began, and one came to its end.
fn the_attempts_did_not_meet(pulse: &Path, cut_ns: u64) {
    let all = pulses(pulse);
    let of = |attempt: u64| all.iter().filter(move |pulse| pulse.attempt == attempt);
    let last = of(1).map(|pulse| pulse.at_ns).max().unwrap();
    let first = of(2).map(|pulse| pulse.at_ns).min().unwrap();
    assert!(last < first, "attempt 1 lived {} ns after attempt 2 began", last - first);
    assert!(last < cut_ns + LEASE_NS + KILLED_WITHIN_NS, "it lived {} ns after the cut", last - cut_ns);
    assert!(last > cut_ns, "it was not killed by the cut itself, but by the end of its lease");
    assert!(
        first + RENEWED_EVERY_NS > cut_ns + LEASE_NS,
        "nobody takes what is only cut off for less than a lease"
    );
    let ends: Vec<&Pulse> = all.iter().filter(|pulse| pulse.ended).collect();
    assert_eq!((ends.len(), ends[0].attempt), (1, 2), "{ends:?}");
    assert_eq!(all.iter().map(|pulse| pulse.attempt).max(), Some(2));
}

async fn the_story(sites: &BTreeMap<&str, Site>, farm: &Farm, client: &Client) {
    let (pulse, gate) = (farm.path("pulse"), farm.path("gate"));
    let key = client.submit("large", &json!({"pulse": pulse, "until": gate})).await;
    let running = client.reaches(&key, State::Running).await;
    let cut = &sites[host_of(&running)];
    let name = host_of(&running);
    let before = client.agent(name).await.unwrap();
    let pid = eventually("the job writes", SOON, async || {
        pulses(&pulse).first().map(|first| first.pid).ok_or("it did not yet")
    })
    .await;
    assert!(cut.agent.descendants().contains(&pid) && cut.network.has(pid), "{pid} is no worker of {name}");

    let cut_ns = now_ns();
    cut.network.cut();
    let other = taken_over(client, &key).await;
    assert!(other != name && ["h2", "h3"].contains(&other.as_str()), "from {name} to {other}");
    assert!(!is_alive(pid), "the first worker lives");
    assert!(client.agent(name).await.is_none(), "{name} is still heard of");
    assert!(is_alive(cut.agent.pid()), "the agent that is cut off goes on");
    jobs_elsewhere_go_on(client, name).await;

    std::fs::write(&gate, "").unwrap();
    let ended = client.end(&key).await;
    assert_eq!(ended.value()["attempt"], 2);
    assert_eq!(
        (host_of(&ended), ended.tries.host_losses, ended.tries.worker_crashes),
        (other.as_str(), 1, 0)
    );

    cut.network.mend();
    let after = is_back(client, name).await;
    assert_eq!(after.incarnation, before.incarnation, "it is the same life");
    let again = run_on(client, name, "large").await;
    assert_eq!((host_of(&again), &again.value()["attempt"]), (name, &Value::from(1)));
    client.no_tickets().await;
    // What it was told when it came back changed nothing.
    assert_eq!(client.record(&key).await.unwrap(), ended);
    the_attempts_did_not_meet(&pulse, cut_ns);
}

/// The other hosts do not mind: what fits there runs.
async fn jobs_elsewhere_go_on(client: &Client, cut: &str) {
    let record = client.run("small", &json!({})).await;
    record.value();
    assert_ne!(host_of(&record), cut);
}

#[test]
fn a_host_that_is_cut_off_loses_its_job_to_another_and_works_again_when_it_is_back() {
    if !own_network("a_host_that_is_cut_off_loses_its_job_to_another_and_works_again_when_it_is_back") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut network = Network::new();
        let farm = Farm::at(network.address()).await;
        let mut sites = BTreeMap::new();
        for (name, model, mb) in [
            ("h1", "NVIDIA T4", 15_360),
            ("h2", "NVIDIA A100-SXM4-40GB", 40_960),
            ("h3", "NVIDIA L4", 23_034),
        ] {
            sites.insert(name, site(&farm, network.host(), name, model, mb).await);
        }
        let client = farm.client("alice").await;
        jobs_of_all_sizes_run_where_they_fit(&client).await;
        the_story(&sites, &farm, &client).await;
    });
}
