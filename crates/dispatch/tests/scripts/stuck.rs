//! Workers that were killed and do not go: their processes hang in the kernel, most often with their GPU.

use super::talk::{Talk, spec};
use grange_dispatch::{DeviceReading, HostReading, Input, PluginSpec};
use grange_protocol::resource::ResourceRequest;

const WARNS: &str =
    "warn w1: a worker of `ocr` was killed and does not end; what it holds stays taken until it does";

fn reading(at: u64, fault: Option<&str>) -> HostReading {
    let device = DeviceReading {
        uuid: "gpu0".to_owned(),
        total_mb: 16_000,
        attributed: true,
        fault: fault.map(str::to_owned),
        ..DeviceReading::default()
    };
    HostReading { taken_at: at, cpus: 8, ram_mb: 32_000, devices: vec![device], ..HostReading::default() }
}

fn gpu_spec(concurrency: u32) -> PluginSpec {
    let request = ResourceRequest { gpus: 1, vram_mb: 8_000, ..ResourceRequest::default() };
    PluginSpec { request, ..spec(concurrency, 1) }
}

/// On a host with one GPU, whose runs have jobs `a` and so on.
fn on_gpu(spec: PluginSpec, jobs: &[&str]) -> Talk {
    let mut t = Talk::new();
    t.tell(Talk::host(&reading(0, None)));
    t.tell(Talk::plugin_ready(spec));
    let said = t.hears(Talk::open("default/normal"));
    t.sweep(said);
    for job in jobs {
        t.running(job);
    }
    t
}

#[test]
fn runs_on_a_gpu_that_hangs_are_tried_elsewhere_and_its_grant_stays_out() {
    let mut t = on_gpu(gpu_spec(2), &["a", "b"]);
    t.now = 100;
    t.says(Talk::host(&reading(100, Some("XID 79"))), &["kill w1"]);
    t.now = 10_099;
    t.says(Input::Tick, &[]);
    t.now = 10_100;
    t.says(Input::Tick, &[WARNS, "conclude a: retry, GpuFailed", "conclude b: retry, GpuFailed"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::settled("b"), &[]);
    assert_eq!(t.dispatcher.host().devices[0].granted_mb, 8_000);
    assert_eq!(t.dispatcher.workers()[0].running, 0);
    t.now = 10_200;
    t.says(Input::Tick, &[]);
    // Late words do nothing twice.
    t.says(Talk::ended("a", 50.0), &[]);
    t.says(Talk::exited(1), &["look"]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::ended("b", 50.0), &[]);
    t.now = 10_300;
    t.tell(Talk::host(&reading(10_300, Some("XID 79"))));
    assert_eq!(t.dispatcher.host().devices[0].granted_mb, 0);
}

#[test]
fn a_cancelled_run_whose_worker_does_not_go_is_cancelled_and_its_neighbour_handed_back() {
    let mut t = Talk::swept(spec(2, 1));
    t.running("a");
    t.running("b");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.now = 1_000;
    t.says(Input::Tick, &["kill w1"]);
    t.now = 10_999;
    t.says(Input::Tick, &[]);
    t.now = 11_000;
    t.says(Input::Tick, &[WARNS, "conclude a: cancelled", "conclude b: retry, NotStarted"]);
    t.says(Talk::cancel("a"), &[]);
    t.says(Talk::obeyed("a"), &[]);
    t.says(Talk::settled("a"), &[]);
    // It keeps its place: no other worker is started in it.
    t.says(Talk::bell("normal", "c"), &[]);
    t.says(Talk::exited(1), &["pull any/urgent 2"]);
}

#[test]
fn a_run_over_its_time_whose_worker_does_not_go_is_timed_out() {
    let mut t = Talk::swept(PluginSpec { timeout_ms: Some(1_500), ..spec(1, 1) });
    t.running("a");
    t.now = 1_500;
    t.says(Input::Tick, &["cancel a on w1"]);
    t.now = 2_500;
    t.says(Input::Tick, &["kill w1"]);
    t.now = 12_500;
    let over = "conclude a: failed, the run took longer than its limit of 1.5 s";
    t.says(Input::Tick, &[WARNS, over]);
}

#[test]
fn a_lost_run_whose_worker_does_not_go_is_forgotten() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::lost("a"), &["cancel a on w1"]);
    t.now = 1_000;
    t.says(Input::Tick, &["kill w1"]);
    t.now = 11_000;
    t.says(Input::Tick, &[WARNS, "forget a"]);
}

#[test]
fn a_drain_does_not_wait_for_ever_for_a_worker_that_does_not_go() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Input::DrainRequested { exit: true }, &["stop w1"]);
    t.now = 19_999;
    t.says(Input::Tick, &[]);
    t.now = 20_000;
    t.says(Input::Tick, &[WARNS, "exit"]);
    t.says(Talk::exited(1), &[]);
}

#[test]
fn nobody_waits_for_the_room_of_a_worker_that_does_not_go() {
    let mut t = on_gpu(gpu_spec(1), &["a"]);
    let request = ResourceRequest { gpus: 1, vram_mb: 12_000, ..ResourceRequest::default() };
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.says(Talk::settled("a"), &[]);
    t.tell(Talk::named_ready("big", PluginSpec { request, ..spec(1, 1) }));
    t.tell(Talk::open("default/normal/big"));
    t.says(Talk::delivered_from("default/normal/big", "b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["stop w1"]);
    t.now = 19_900;
    t.says(Input::Tick, &[]);
    t.now = 20_000;
    t.says(Input::Tick, &[WARNS, "conclude b: retry, NotStarted"]);
}

#[test]
fn whoever_waits_behind_a_run_on_a_gpu_that_fails_never_started() {
    let mut t = on_gpu(gpu_spec(1), &["first"]);
    let said = t.hears(Talk::ended("first", 1.0));
    t.sweep(said);
    t.tell(Talk::settled("first"));
    t.running("a");
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    let said = t.hears(Talk::delivered("b"));
    assert_eq!(said[0], "claim b ahead");
    t.sweep(said);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.now = 100;
    t.says(Talk::host(&reading(100, Some("XID 79"))), &["kill w1"]);
    let said = t.hears(Talk::exited(1));
    assert_eq!(said[..2], ["conclude a: retry, GpuFailed", "conclude b: retry, NotStarted"]);
}

#[test]
fn a_little_memory_that_stays_is_no_reason_to_keep_a_grant() {
    let mut t = on_gpu(gpu_spec(1), &["a"]);
    t.now = 100;
    t.tell(Talk::exited(1));
    let left = |at: u64, mb: u64| {
        let mut look = reading(at, None);
        (look.devices[0].used_mb, look.devices[0].leftover_mb) = (mb, mb);
        Talk::host(&look)
    };
    t.now = 200;
    t.tell(left(200, 65));
    assert_eq!(t.dispatcher.host().devices[0].granted_mb, 8_000);
    t.now = 300;
    t.tell(left(300, 64));
    assert_eq!(t.dispatcher.host().devices[0].granted_mb, 0);
}
