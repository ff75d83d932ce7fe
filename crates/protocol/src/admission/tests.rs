use super::*;
use crate::capacity::{Capacity, Gpu};
use crate::class::class_of;
use crate::fit::place;
use crate::name::Class;
use crate::status::{DrainStatus, SavingStatus, WorkerState, WorkerStatus};
use crate::ticket::Priority;
use proptest::prelude::*;

fn request(text: &str) -> ResourceRequest {
    serde_json::from_str(text).unwrap()
}

fn lane(job: &str) -> Lane {
    let class = class_of(&request(job)).unwrap();
    Lane { priority: Priority::Normal, plugin: PluginName::new("ocr").unwrap(), class }
}

fn plugin(name: &str, resources: &str, slots: u32) -> PluginStatus {
    let text = format!(
        r#"{{"name":"{name}","version":"1","state":"ready","workers":0,"running":0,"slots":{slots},"resources":{resources}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn gpu(uuid: &str, usable_mb: u64, grantable_mb: u64) -> Gpu {
    let name = "NVIDIA A100".to_owned();
    Gpu { uuid: uuid.into(), name, vram_mb: usable_mb, usable_mb, grantable_mb, ..Gpu::default() }
}

fn host(name: &str, gpus: Vec<Gpu>, plugins: Vec<PluginStatus>) -> AgentStatus {
    let capacity = Capacity {
        cpus: 16,
        cpus_grantable: 16,
        cpus_usable: 16,
        ram_mb: 65_536,
        ram_free_mb: 60_000,
        ram_grantable_mb: 60_000,
        ram_usable_mb: 60_000,
        gpus,
        ..Capacity::default()
    };
    AgentStatus { capacity, plugins, ..AgentStatus::silent(AgentName::new(name).unwrap()) }
}

fn worker(plugin: &str, state: WorkerState, gpus: &[&str], vram_mb: u64) -> WorkerStatus {
    WorkerStatus {
        plugin: PluginName::new(plugin).unwrap(),
        state,
        gpus: gpus.iter().map(|uuid| (*uuid).to_owned()).collect(),
        vram_mb,
        exclusive: false,
        ram_mb: 0,
        cpus: 0,
        vram_used_mb: 0,
        running: u32::from(state == WorkerState::Busy),
        slots: 1,
        idle_ms: u64::from(state == WorkerState::Idle) * 1000,
    }
}

const EIGHT: &str = r#"{"vram_mb":8192}"#;

#[test]
fn a_plugin_without_resources_starts_wherever_it_is() {
    let mut there = host("h1", vec![], vec![plugin("ocr", "{}", 2)]);
    assert_eq!(explain(&lane("{}"), None, &there), Answer::Now(Start::Cold));
    there.capacity = Capacity::default();
    assert_eq!(
        explain(&lane("{}"), None, &there),
        Answer::Now(Start::Cold),
        "nothing need be known of the host"
    );
}

#[test]
fn a_host_that_cannot_take_it_says_why() {
    let mut h = host("h1", vec![gpu("G1", 40_000, 6_100)], vec![plugin("ocr", EIGHT, 4)]);
    let said = |h: &AgentStatus| explain(&lane("{}"), None, h).to_string();
    assert_eq!(said(&h), "needs 8192 MiB of VRAM, 6100 MiB free");
    h.workers = vec![worker("layout", WorkerState::Idle, &["G1"], 2_000)];
    h.capacity.gpus[0].shares = 2;
    assert_eq!(explain(&lane("{}"), None, &h).as_str(), "busy");
    assert_eq!(said(&h), "needs 8192 MiB of VRAM, 6100 MiB free, 2000 MiB held by idle `layout`");
    h.capacity.gpus[0].quarantine = Some("XID 79".into());
    assert_eq!(said(&h), "GPU `G1` is quarantined: XID 79");
    h.capacity.gpus[0].quarantine = None;
    h.plugins[0].state = PluginState::Failed;
    h.plugins[0].reason = "no uv".into();
    assert_eq!(said(&h), "the plugin cannot be prepared: no uv");
    h.state = AgentState::Draining;
    assert_eq!(said(&h), "is draining");
    h.drain = Some(DrainStatus { reason: "new driver".into(), ..DrainStatus::default() });
    assert_eq!(said(&h), "is drained: new driver");
    h.plugins.clear();
    assert_eq!(said(&h), "does not have the plugin");
    let whole = host("h1", vec![gpu("G1", 11_000, 11_000)], vec![plugin("ocr", EIGHT, 4)]);
    let (nine, twelve) = (request(r#"{"vram_mb":9000}"#), request(r#"{"vram_mb":12000}"#));
    assert_eq!(explain(&lane(r#"{"vram_mb":9000}"#), Some(&nine), &whole).as_str(), "now");
    assert_eq!(
        explain(&lane(r#"{"vram_mb":12000}"#), None, &whole).as_str(),
        "now",
        "the class says no more"
    );
    assert_eq!(explain(&lane(r#"{"vram_mb":12000}"#), Some(&twelve), &whole).as_str(), "never");
    let never = host("h1", vec![gpu("G1", 8_000, 8_000)], vec![plugin("ocr", EIGHT, 4)]);
    assert_eq!(explain(&lane("{}"), None, &never).as_str(), "never");
    assert_eq!(said(&never), "needs 8192 MiB of VRAM, has 8000 MiB at most");
    let none = host("h1", vec![], vec![plugin("ocr", EIGHT, 4)]);
    assert_eq!(said(&none), "needs 1 GPU(s), has none");
}

#[test]
fn idle_workers_make_room_and_busy_ones_do_not() {
    let mut h = host("h1", vec![gpu("G1", 10_000, 2_000)], vec![plugin("ocr", EIGHT, 4)]);
    h.capacity.gpus[0].shares = 1;
    h.workers = vec![worker("layout", WorkerState::Idle, &["G1"], 8_000)];
    let names = vec![PluginName::new("layout").unwrap()];
    assert_eq!(explain(&lane("{}"), None, &h), Answer::Now(Start::Evicting(names)));
    h.workers[0].state = WorkerState::Busy;
    assert_eq!(explain(&lane("{}"), None, &h).as_str(), "busy");
    // One that had the GPU for itself: all that others do not use is free when it has left.
    h.workers[0] = WorkerStatus { exclusive: true, ..worker("layout", WorkerState::Idle, &["G1"], 10_000) };
    (h.capacity.gpus[0].exclusive, h.capacity.gpus[0].grantable_mb) = (true, 0);
    assert_eq!(explain(&lane("{}"), None, &h).as_str(), "now");
    h.capacity.gpus[0].foreign_mb = 2_000;
    assert_eq!(
        explain(&lane("{}"), None, &h).to_string(),
        "needs 8192 MiB of VRAM, 0 MiB free, 10000 MiB held by idle `layout`"
    );
}

#[test]
fn a_loaded_worker_takes_it_if_it_has_a_place_and_was_given_enough() {
    let mut h = host("h1", vec![gpu("G1", 10_000, 0)], vec![plugin("ocr", EIGHT, 2)]);
    h.workers = vec![WorkerStatus { slots: 2, ..worker("ocr", WorkerState::Busy, &["G1"], 8_192) }];
    (h.capacity.gpus[0].shares, h.plugins[0].running) = (1, 1);
    assert_eq!(explain(&lane("{}"), None, &h), Answer::Now(Start::Warm));
    assert_eq!(explain(&lane(r#"{"vram_mb":9000}"#), None, &h).as_str(), "busy", "its class is 12 GiB");
    (h.workers[0].running, h.plugins[0].running) = (2, 2);
    assert_eq!(explain(&lane("{}"), None, &h).to_string(), "all its 2 places are taken");
    (h.workers[0].running, h.plugins[0].running) = (0, 0);
    h.workers[0].state = WorkerState::Starting;
    assert_eq!(explain(&lane("{}"), None, &h), Answer::Busy(Wait::Starting));
    h.workers[0].state = WorkerState::Idle;
    h.workers[0].vram_mb = 4_096;
    h.capacity.gpus[0].grantable_mb = 5_904;
    let names = vec![PluginName::new("ocr").unwrap()];
    assert_eq!(
        explain(&lane("{}"), None, &h),
        Answer::Now(Start::Evicting(names)),
        "a smaller one makes way"
    );
    h.workers[0].state = WorkerState::Ending;
    assert_eq!(
        explain(&lane("{}"), None, &h),
        Answer::Busy(Wait::Full { slots: 2 }),
        "there may be one worker"
    );
}

#[test]
fn permissive_jobs_ask_for_a_place_alone() {
    let any = Lane { class: Class::any(), ..lane("{}") };
    let mut h = host("h1", vec![gpu("G1", 10_000, 0)], vec![plugin("ocr", EIGHT, 1)]);
    assert_eq!(explain(&any, None, &h).as_str(), "now");
    h.plugins[0].running = 1;
    assert_eq!(explain(&any, None, &h), Answer::Busy(Wait::Full { slots: 1 }));
}

#[test]
fn room_that_is_kept_for_another_is_not_offered() {
    let gpus = vec![gpu("G1", 10_000, 10_000), gpu("G2", 10_000, 1_000)];
    let mut h = host("h1", gpus, vec![plugin("ocr", EIGHT, 4)]);
    let queue = "g2+v8/normal/train/bob".to_owned();
    h.saving = Some(SavingStatus { queue, gpus: vec!["G1".into(), "G2".into()], left_ms: 12_300 });
    assert_eq!(
        explain(&lane("{}"), None, &h).to_string(),
        "keeps room for `g2+v8/normal/train/bob` for 13 s"
    );
    let urgent = Lane { priority: Priority::Urgent, ..lane("{}") };
    assert_eq!(explain(&urgent, None, &h).as_str(), "now", "what is more urgent does not wait for it");
    h.saving.as_mut().unwrap().queue = "default/normal/ocr/bob".into();
    assert_eq!(explain(&lane("{}"), None, &h).as_str(), "now", "it is kept for these");
}

#[test]
fn what_is_not_known_counts_for_the_host_and_is_said() {
    let mut h = host("h1", vec![], vec![plugin("ocr", r#"{"ram_mb":8192}"#, 4)]);
    (h.capacity.ram_mb, h.capacity.ram_usable_mb, h.capacity.ram_grantable_mb) = (0, 0, 0);
    assert_eq!(explain(&lane("{}"), None, &h), Answer::Perhaps { unknown: "memory" });
    let warnings = look(&lane("{}"), None, &[h.clone()]).unwrap();
    assert_eq!(warnings, ["`h1` may be able to start it; does not say what memory it has"]);
    let blank = host("h2", vec![gpu("G1", 0, 0)], vec![plugin("ocr", EIGHT, 4)]);
    assert_eq!(explain(&lane("{}"), None, &blank), Answer::Perhaps { unknown: "GPU memory" });
    let good = host("h3", vec![gpu("G1", 9_000, 9_000)], vec![plugin("ocr", EIGHT, 4)]);
    assert!(look(&lane("{}"), None, &[blank, good]).unwrap().is_empty(), "somebody surely can");
}

#[test]
fn a_refusal_says_what_is_needed_and_what_is_there() {
    let full = host("h1", vec![gpu("G1", 40_000, 100)], vec![plugin("ocr", EIGHT, 4)]);
    let other = host("h2", vec![], vec![]);
    let error = look(&lane(r#"{"ram_mb":4000}"#), None, &[full, other]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no host can start `ocr` now; it needs 1 GPU with 8192 MiB of VRAM, 4096 MiB of memory; `h1`: needs 8192 MiB of \
         VRAM, 100 MiB free; `h2`: does not have the plugin"
    );
    let exact = request(r#"{"ram_mb":4000}"#);
    let error = look(&lane(r#"{"ram_mb":4000}"#), Some(&exact), &[]).unwrap_err();
    assert!(error.to_string().contains("needs 4000 MiB of memory"), "{error}");
    let error = look(&lane("{}"), None, &[]).unwrap_err();
    assert_eq!(error.to_string(), "no host can start `ocr` now; no agent is there");
    let many: Vec<AgentStatus> = (0..40).map(|n| host(&format!("h{n}"), vec![], vec![])).collect();
    assert!(look(&lane("{}"), None, &many).unwrap_err().to_string().ends_with("; 24 more hosts"));
}

fn any_state() -> impl Strategy<Value = WorkerState> {
    prop_oneof![
        Just(WorkerState::Waiting),
        Just(WorkerState::Starting),
        Just(WorkerState::Idle),
        Just(WorkerState::Busy),
        Just(WorkerState::Ending),
        Just(WorkerState::Returning),
    ]
}

prop_compose! {
    /// A host whose figures are those of its workers.
    fn any_host()(
        sizes in proptest::collection::vec((1_000u64..50_000, 0u64..20_000), 0..4),
        wanted in (0u32..3, 0u64..20_000, any::<bool>(), 0u64..30_000, 0u32..10),
        slots in 0u32..5,
        picks in proptest::collection::vec(
            (any::<bool>(), any_state(), 0usize..4, 0u64..12_000, 0u64..20_000, 0u32..6), 0..5),
    ) -> AgentStatus {
        let (gpus, vram_mb, exclusive, ram_mb, cpus) = wanted;
        let own = ResourceRequest { gpus, vram_mb, exclusive, ram_mb, cpus, on: Default::default() };
        let own = ResourceRequest::default().raised(&own);
        let mut status = plugin("ocr", &serde_json::to_string(&own).unwrap(), slots);
        let gpus: Vec<Gpu> = sizes.iter().enumerate().map(|(n, (usable_mb, foreign_mb))| Gpu {
            foreign_mb: *foreign_mb,
            ..gpu(&format!("G{n}"), *usable_mb, 0)
        }).collect();
        let mut h = host("h", gpus, vec![]);
        for (own, state, on, vram_mb, ram_mb, cpus) in picks {
            let name = if own { "ocr" } else { "layout" };
            let gpus = h.capacity.gpus.get(on).map(|gpu| gpu.uuid.clone());
            let uuids: Vec<&str> = gpus.iter().map(String::as_str).collect();
            h.workers.push(WorkerStatus { ram_mb, cpus, ..worker(name, state, &uuids, vram_mb) });
        }
        status.running = h.workers.iter().filter(|w| w.plugin == status.name).map(|w| w.running).sum();
        h.plugins.push(status);
        settle(&mut h);
        h
    }
}

/// Makes the host's figures those of its workers.
fn settle(h: &mut AgentStatus) {
    let (mut ram, mut cpus) = (0, 0);
    for gpu in &mut h.capacity.gpus {
        let on_it = h.workers.iter().filter(|w| w.gpus.contains(&gpu.uuid));
        gpu.shares = u32::try_from(on_it.clone().count()).unwrap();
        gpu.granted_mb = on_it.map(|w| w.vram_mb).sum();
        gpu.grantable_mb = gpu.usable_mb.saturating_sub(gpu.foreign_mb + gpu.granted_mb);
    }
    for worker in &h.workers {
        (ram, cpus) = (ram + worker.ram_mb, cpus + worker.cpus);
    }
    h.capacity.ram_grantable_mb = h.capacity.ram_usable_mb.saturating_sub(ram);
    h.capacity.cpus_grantable = h.capacity.cpus_usable.saturating_sub(cpus);
}

fn any_lane() -> impl Strategy<Value = Lane> {
    let classes = ["{}", EIGHT, r#"{"gpus":2}"#, r#"{"ram_mb":20000}"#, r#"{"exclusive":true}"#];
    (0..=classes.len()).prop_map(move |n| match classes.get(n) {
        Some(job) => lane(job),
        None => Lane { class: Class::any(), ..lane("{}") },
    })
}

fn rank(answer: &Answer) -> u32 {
    match answer {
        Answer::Now(_) => 0,
        Answer::Perhaps { .. } => 1,
        Answer::Busy(_) => 2,
        Answer::Never(_) | Answer::NotInstalled | Answer::NotReady { .. } | Answer::Draining { .. } => 3,
    }
}

proptest! {
    /// A cold start is offered exactly where the placement that agents use finds room.
    #[test]
    fn a_new_worker_is_offered_where_it_fits(h in any_host(), lane in any_lane()) {
        let need = need(&lane, &h.plugins[0].resources);
        let fits = need.as_ref().is_none_or(|need| place(need, &h.room()).is_ok());
        match explain(&lane, None, &h) {
            Answer::Now(Start::Cold) => prop_assert!(fits),
            Answer::Now(Start::Evicting(_)) | Answer::Busy(Wait::Lack { .. }) => prop_assert!(!fits),
            Answer::Never(lack) => {
                prop_assert!(lack.is_lasting(), "{lack:?}");
                prop_assert!(!fits);
            }
            Answer::Now(Start::Warm) | Answer::Perhaps { .. } | Answer::Busy(_) => {}
            other @ (Answer::NotInstalled | Answer::NotReady { .. } | Answer::Draining { .. }) => {
                prop_assert!(false, "{other}");
            }
        }
    }

    /// What a host will never be does not hang on what it does.
    #[test]
    fn never_is_for_ever(h in any_host(), lane in any_lane()) {
        let mut empty = h.clone();
        empty.workers.clear();
        empty.plugins[0].running = 0;
        settle(&mut empty);
        let never = |h: &AgentStatus| matches!(explain(&lane, None, h), Answer::Never(_));
        prop_assert_eq!(never(&h), never(&empty));
    }

    /// A job never does worse when an idle worker of another plugin has left, nor better than when all have.
    #[test]
    fn an_idle_worker_is_in_nobodys_way(h in any_host(), lane in any_lane()) {
        let before = explain(&lane, None, &h);
        let mut after = h.clone();
        after.workers.retain(|w| w.state != WorkerState::Idle || w.plugin.as_str() == "ocr");
        settle(&mut after);
        let after = explain(&lane, None, &after);
        prop_assert_eq!(rank(&before), rank(&after), "{} / {}", before, after);
    }

    /// A host that takes nothing is never offered, and every answer can be said.
    #[test]
    fn a_draining_host_is_never_offered(h in any_host(), lane in any_lane()) {
        let draining = AgentStatus { state: AgentState::Draining, ..h.clone() };
        prop_assert_eq!(explain(&lane, None, &draining), Answer::Draining { reason: String::new() });
        prop_assert!(look(&lane, None, std::slice::from_ref(&draining)).is_err());
        prop_assert!(!explain(&lane, None, &h).to_string().is_empty());
        let one = std::slice::from_ref(&h);
        prop_assert_eq!(look(&lane, None, one).is_ok(), rank(&explain(&lane, None, &h)) < 2);
    }
}
