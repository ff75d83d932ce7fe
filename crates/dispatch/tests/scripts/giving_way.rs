//! Idle workers that leave for others.

use super::talk::{Talk, spec};
use grange_dispatch::{DeviceReading, HostReading, Input, PluginSpec};
use grange_protocol::resource::ResourceRequest;

/// Two cores, four plugins that want one each, and a worker of the first two that has nothing to do.
fn two_idle() -> Talk {
    let mut t = Talk::new();
    t.hears(Talk::host(&HostReading { cpus: 2, ..HostReading::default() }));
    for name in ["a", "b", "c", "d"] {
        let request = ResourceRequest { cpus: 1, ..ResourceRequest::default() };
        t.hears(Talk::named_ready(name, PluginSpec { request, ..spec(1, 1) }));
        let said = t.hears(Talk::open(&format!("default/normal/{name}")));
        t.sweep(said);
    }
    t.idle("a", 1);
    t.idle("b", 2);
    t
}

impl Talk {
    /// A plugin gets a worker, which has nothing to do any more.
    fn idle(&mut self, plugin: &str, worker: u64) {
        let (queue, job) = (format!("default/normal/{plugin}"), format!("for-{plugin}"));
        self.hears(Self::bell(&queue, &job));
        let said = self.hears(Self::delivered_from(&queue, &job));
        self.sweep(said);
        self.hears(Self::claimed(&job));
        self.hears(Self::ready(worker));
        let said = self.hears(Self::ended(&job, 100.0));
        self.sweep(said);
        self.hears(Self::settled(&job));
    }
}

#[test]
fn who_leaves_and_who_comes_in_its_stead_count_once() {
    let mut t = two_idle();
    t.says(Talk::bell("default/normal/c", "x"), &["pull default/normal/c 1 wait"]);
    t.says(Talk::bell("default/normal/d", "y"), &["pull default/normal/d 1 wait"]);
    t.says(Talk::delivered_from("default/normal/c", "x"), &["claim x"]);
    t.says(Talk::delivered_from("default/normal/d", "y"), &["claim y"]);
    t.says(Talk::claimed("x"), &["stop w1"]);
    t.says(Talk::claimed("y"), &["stop w2"]);
    let spawned = t.hears(Talk::exited(1));
    assert!(spawned[0].starts_with("spawn w3 of c"), "{spawned:?}");
    let spawned = t.hears(Talk::exited(2));
    assert!(spawned[0].starts_with("spawn w4 of d"), "{spawned:?}");
    t.says(Input::Tick, &[]);
}

#[test]
fn who_is_gone_first_makes_room_for_who_waits_longest() {
    let mut t = two_idle();
    for (name, job) in [("c", "x"), ("d", "y")] {
        let queue = format!("default/normal/{name}");
        t.hears(Talk::bell(&queue, job));
        t.hears(Talk::delivered_from(&queue, job));
    }
    t.says(Talk::claimed("x"), &["stop w1"]);
    t.says(Talk::claimed("y"), &["stop w2"]);
    // It left for `d`, but `c` came first. The other core is on its way.
    t.says(Talk::exited(2), &["spawn w3 of c, 1 cores"]);
    t.says(Talk::exited(1), &["spawn w4 of d, 1 cores"]);
}

/// One GPU, of which this much is used by nobody who lives.
fn gpu_host(leftover_mb: u64, taken_at: u64) -> Input {
    let device = DeviceReading {
        uuid: "gpu0".to_owned(),
        total_mb: 24_000,
        used_mb: leftover_mb,
        leftover_mb,
        attributed: true,
        ..DeviceReading::default()
    };
    Talk::host(&HostReading { cpus: 2, taken_at, devices: vec![device], ..HostReading::default() })
}

#[test]
fn who_waits_for_memory_to_be_back_keeps_the_core_that_it_was_promised() {
    let mut t = Talk::new();
    t.hears(gpu_host(0, 0));
    let on_gpu = ResourceRequest { cpus: 1, gpus: 1, vram_mb: 20_000, ..ResourceRequest::default() };
    let on_core = ResourceRequest { cpus: 1, ..ResourceRequest::default() };
    for (name, request) in [("a", &on_gpu), ("b", &on_core), ("c", &on_gpu), ("d", &on_core)] {
        let spec = PluginSpec { request: request.clone(), ..spec(1, 1) };
        t.hears(Talk::named_ready(name, spec));
        let said = t.hears(Talk::open(&format!("default/normal/{name}")));
        t.sweep(said);
    }
    t.idle("a", 1);
    t.idle("b", 2);
    t.says(Talk::bell("default/normal/c", "x"), &["pull default/normal/c 1 wait"]);
    t.says(Talk::delivered_from("default/normal/c", "x"), &["claim x"]);
    t.says(Talk::claimed("x"), &["stop w1"]);
    t.now += 10;
    t.says(Talk::exited(1), &["look"]);
    t.says(Talk::bell("default/normal/d", "y"), &["pull default/normal/d 1 wait"]);
    t.says(Talk::delivered_from("default/normal/d", "y"), &["claim y"]);
    // A core is free meanwhile; the one that `b` gives back is for `c`.
    t.says(Talk::claimed("y"), &["stop w2", "spawn w4 of d, 1 cores"]);
    t.now += 10;
    t.says(Talk::exited(2), &[]);
    let spawned = t.hears(gpu_host(0, t.now));
    assert!(spawned[0].starts_with("spawn w3 of c"), "{spawned:?}");
}

#[test]
fn who_comes_runs_as_many_as_its_plugin_may_by_then() {
    let mut t = two_idle();
    t.says(Talk::bell("default/normal/c", "x"), &["pull default/normal/c 1 wait"]);
    t.says(Talk::delivered_from("default/normal/c", "x"), &["claim x"]);
    t.says(Talk::claimed("x"), &["stop w1"]);
    let request = ResourceRequest { cpus: 1, ..ResourceRequest::default() };
    t.tell(Talk::named_ready("c", PluginSpec { request, ..spec(2, 1) }));
    t.tell(Talk::exited(1));
    t.says(Talk::ready(3), &["run x on w3"]);
    t.says(Talk::bell("default/normal/c", "y"), &["pull default/normal/c 1 wait"]);
}

#[test]
fn owners_of_one_level_share_what_is_free() {
    let mut t = Talk::new();
    t.tell(Talk::plugin_ready(spec(4, 1)));
    for queue in ["default/normal", "default/normal/ocr/bob"] {
        let said = t.hears(Talk::open(queue));
        t.sweep(said);
    }
    t.says(Input::Reconnected, &["pull default/normal 2"]);
    t.says(Talk::pull_ended("default/normal"), &["pull default/normal/ocr/bob 4"]);
}
