//! Idle workers that leave for others.

use super::talk::{Talk, spec};
use grange_dispatch::{HostReading, Input, PluginSpec};
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
    for (name, worker) in [("a", 1), ("b", 2)] {
        let (queue, job) = (format!("default/normal/{name}"), format!("for-{name}"));
        t.hears(Talk::bell(&queue, &job));
        let said = t.hears(Talk::delivered_from(&queue, &job));
        t.sweep(said);
        t.hears(Talk::claimed(&job));
        t.hears(Talk::ready(worker));
        let said = t.hears(Talk::ended(&job, 100.0));
        t.sweep(said);
        t.hears(Talk::settled(&job));
    }
    t
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
