//! Cases that lives with other seeds found.

use super::talk::{Talk, spec};
use super::words;
use grange_dispatch::{Config, DeviceReading, Facts, HostReading, Input, PluginSpec};
use grange_protocol::resource::ResourceRequest;

/// A host with one GPU of 16,000 MiB.
fn one_gpu() -> Input {
    let gpu = DeviceReading { uuid: "gpu0".to_owned(), total_mb: 16_000, ..DeviceReading::default() };
    Talk::host(&HostReading { devices: vec![gpu], ..HostReading::default() })
}

fn on_gpus(gpus: u32, vram_mb: u64, spec: PluginSpec) -> PluginSpec {
    PluginSpec { request: ResourceRequest { gpus, vram_mb, ..ResourceRequest::default() }, ..spec }
}

#[test]
fn a_cold_agent_leaves_a_freed_slot_to_warm_ones_also_in_its_first_half_second() {
    let mut t = Talk::swept(PluginSpec { start_ms: Some(1_000), ..spec(1, 1) });
    let warm_elsewhere = [words::plugin("ocr")].into();
    t.hears(Input::Facts(Box::new(Facts { warm_elsewhere, ..Facts::default() })));
    t.now = 300;
    t.says(Talk::bell("normal", "a"), &[]);
    t.now = 310;
    t.says(Input::Tick, &["pull default/normal 1"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::not_claimed("a"), &[]); // the other queues were found empty 310 ms ago
}

#[test]
fn a_word_about_an_unknown_plugin_is_no_reason_to_look_at_the_queues() {
    let mut t = Talk::with(Config { owner_running_max: Some(3), ..Config::default() });
    t.tell(Talk::plugin_ready(spec(1, 1)));
    let said = t.hears(Talk::open("default/normal"));
    t.sweep(said);
    t.now = 2_500;
    t.says(Input::QueueClosed { queue: words::queue("default/normal/nobody") }, &[]);
    t.says(Input::Tick, &["pull default/normal 1"]);
}

#[test]
fn nothing_more_is_asked_for_a_gpu_that_somebody_unchecked_stands_on() {
    let mut t = Talk::new();
    t.tell(one_gpu());
    t.tell(Talk::named_ready("whole", on_gpus(1, 0, spec(2, 1))));
    t.tell(Talk::named_ready("pair", on_gpus(2, 4_000, spec(1, 2))));
    t.says(Talk::open("default/urgent/whole"), &["pull default/urgent/whole 2"]);
    t.says(Talk::delivered_from("default/urgent/whole", "a"), &["claim a"]);
    t.says(Talk::open("any/urgent/pair"), &["pull any/urgent/pair 2"]);
    t.says(Talk::delivered_from("any/urgent/pair", "b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["spawn w1 of pair on gpu0 with 0 MiB"]);
    t.says(Talk::not_claimed("a"), &[]);
    t.says(Talk::bell("default/urgent/whole", "c"), &[]);
    t.says(Talk::delivered_from("default/urgent/whole", "d"), &["claim d"]); // was asked for before
    t.says(Talk::claimed("d"), &["conclude d: retry, NotStarted"]);
}

#[test]
fn room_is_not_kept_for_what_a_plugin_asked_for_before() {
    let mut t = Talk::new();
    t.tell(one_gpu());
    t.tell(Talk::plugin_ready(on_gpus(1, 6_000, spec(1, 1))));
    t.tell(Talk::open("default/normal"));
    t.tell(Talk::delivered("a"));
    t.tell(Talk::claimed("a"));
    t.tell(Talk::ready(1));
    let big = |vram_mb| Talk::named_ready("big", on_gpus(1, vram_mb, spec(1, 1)));
    t.tell(big(11_000));
    t.tell(Talk::open("default/normal/big"));
    let waiting = [(words::queue("default/normal/big"), 20_000)].into();
    let facts = Facts { waiting, ..Facts::default() };
    t.says(Input::Facts(Box::new(facts)), &["save default/normal/big"]);
    t.says(Input::SaveGranted { queue: words::queue("default/normal/big") }, &[]);
    t.says(big(12_000), &["end saving default/normal/big"]);
}
