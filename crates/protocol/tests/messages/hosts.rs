//! Heartbeats, control, and what the farm knows of itself.

use super::{Message, Unknown, key, plain, request};
use grange_protocol::capacity::{Capacity, Gpu};
use grange_protocol::facts::{Housekeeper, Learned, Overview, QueueFact, Reservation, RunningByAgent};
use grange_protocol::name::{AgentName, Incarnation, Owner, PluginName};
use grange_protocol::status::{
    AgentState, AgentStatus, CancelOrder, ControlAnswer, DrainOrder, DrainStatus, HeldAttempt, PluginState,
    PluginStatus, SavingStatus, UnquarantineOrder, WorkerState, WorkerStatus,
};
use std::collections::BTreeMap;

pub(super) fn messages() -> Vec<Message> {
    let (ok, message) = (true, "the run is asked to stop".to_owned());
    let running = RunningByAgent(BTreeMap::from([(agent("gpu-1"), 3), (agent("gpu-2"), 1)]));
    vec![
        plain("control-cancel", &CancelOrder { owner: key().owner, job: key().job }),
        plain(
            "control-drain",
            &DrainOrder {
                deadline_s: Some(600),
                reason: Some("a new driver is installed".to_owned()),
                exit: false,
            },
        ),
        plain("control-unquarantine", &UnquarantineOrder { gpu: Some(FIRST.to_owned()) }),
        plain("control-unquarantine-all", &UnquarantineOrder::default()),
        plain("control-answer", &ControlAnswer { ok, message }),
        plain("heartbeat-least", &AgentStatus::silent(agent("gpu-1"))),
        plain("heartbeat-full", &status()),
        plain("overview", &overview()),
        plain("housekeeper", &Housekeeper { agent: agent("gpu-1"), incarnation: life() }),
        plain("reservation", &reservation()),
        Message { unknown: Unknown::Data, ..plain("running", &running) },
        plain("learned", &Learned { peak_vram_mb: 6_321, start_ms: 8_450, at_ms: 1_790_000_000_000 }),
    ]
}

const FIRST: &str = "GPU-5f1c0a52-8c61-4d0a-9b7e-2f3d4c5b6a79";
const SECOND: &str = "GPU-0c9d8e7f-1a2b-4c3d-8e4f-5a6b7c8d9e0f";

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("a name")
}

fn life() -> Incarnation {
    Incarnation::new("0199a3b2c1d47e5f8a9b0c1d2e3f4a5b").expect("a name")
}

fn plugin(name: &str) -> PluginName {
    PluginName::new(name).expect("a name")
}

fn gpus() -> Vec<Gpu> {
    let shared = Gpu {
        uuid: FIRST.to_owned(),
        name: "NVIDIA H200".to_owned(),
        vram_mb: 143_771,
        vram_free_mb: 120_000,
        utilisation: 37,
        temperature_c: 61,
        compute: "9.0".to_owned(),
        mig: false,
        links: vec![SECOND.to_owned()],
        foreign_mb: 3_000,
        granted_mb: 20_480,
        grantable_mb: 118_243,
        usable_mb: 142_723,
        shares: 2,
        exclusive: false,
        quarantine: None,
    };
    let ill = Gpu {
        uuid: SECOND.to_owned(),
        vram_free_mb: 143_771,
        utilisation: 0,
        links: vec![FIRST.to_owned()],
        foreign_mb: 0,
        granted_mb: 0,
        grantable_mb: 142_723,
        shares: 0,
        quarantine: Some("XID 79: the GPU has fallen off the bus".to_owned()),
        ..shared.clone()
    };
    vec![shared, ill]
}

fn workers() -> Vec<WorkerStatus> {
    let busy = WorkerStatus {
        plugin: plugin("ocr"),
        state: WorkerState::Busy,
        gpus: vec![FIRST.to_owned()],
        vram_mb: 12_288,
        exclusive: false,
        ram_mb: 4_096,
        cpus: 2,
        vram_used_mb: 11_003,
        running: 1,
        slots: 2,
        idle_ms: 0,
    };
    let idle = WorkerStatus {
        plugin: plugin("layout"),
        state: WorkerState::Idle,
        vram_mb: 8_192,
        running: 0,
        slots: 1,
        idle_ms: 42_000,
        ..busy.clone()
    };
    vec![busy, idle]
}

fn status() -> AgentStatus {
    let capacity = Capacity {
        cpus: 16,
        cpus_grantable: 11,
        cpus_usable: 15,
        ram_mb: 131_072,
        ram_free_mb: 100_000,
        ram_grantable_mb: 96_000,
        ram_usable_mb: 129_024,
        gpus: gpus(),
        driver: "550.54.15".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "lab".to_owned())]),
    };
    let status = |name: &str, state, reason: &str| PluginStatus {
        name: plugin(name),
        version: "1.2.0".to_owned(),
        description: "Reads pages".to_owned(),
        category: "ocr".to_owned(),
        state,
        reason: reason.to_owned(),
        workers: 1,
        running: 1,
        slots: 4,
        resources: request(r#"{"gpus":1,"vram_mb":12288,"ram_mb":4096,"cpus":2,"on":{"compute":"8.0"}}"#),
        peak_vram_mb: Some(11_873),
        start_ms: Some(8_450),
    };
    let bare = |name: &str, state, reason: &str| PluginStatus {
        resources: request("{}"),
        peak_vram_mb: None,
        start_ms: None,
        ..status(name, state, reason)
    };
    AgentStatus {
        incarnation: life(),
        version: "0.1.0".to_owned(),
        host: "gpu-1.lab".to_owned(),
        state: AgentState::Draining,
        isolation: "process".to_owned(),
        started_ms: 1_790_000_000_000,
        capacity,
        attempts: vec![HeldAttempt {
            owner: key().owner,
            job: key().job,
            number: 1,
            claim: 4711,
            plugin: Some(plugin("ocr")),
        }],
        covers: 4711,
        plugins: vec![
            status("ocr", PluginState::Ready, ""),
            bare("whisper", PluginState::Preparing, "its environment is being built"),
            bare("broken", PluginState::Failed, "`uv` is not on this host"),
        ],
        workers: workers(),
        saving: Some(SavingStatus {
            queue: "g2+v80/normal/train/bob".to_owned(),
            gpus: vec![FIRST.to_owned(), SECOND.to_owned()],
            left_ms: 21_500,
        }),
        drain: Some(DrainStatus {
            reason: "a new driver is installed".to_owned(),
            automatic: false,
            done: false,
            left_ms: Some(540_000),
        }),
        owner_running_max: Some(50),
        notices: vec!["manifest `/etc/grange/plugins/x.json` was skipped: not valid".to_owned()],
        ..AgentStatus::silent(agent("gpu-1"))
    }
}

fn overview() -> Overview {
    let fact = |queue: &str, waiting, oldest_ms| QueueFact { queue: queue.to_owned(), waiting, oldest_ms };
    Overview {
        v: 1,
        at_ms: 1_790_000_000_000,
        queues: vec![
            fact("default:normal:ocr:alice", 9_998, 61_250),
            fact("g2+v80+x:high:train:bob", 1, 400),
        ],
        warm: BTreeMap::from([(plugin("ocr"), 2)]),
        running: BTreeMap::from([(Owner::new("alice").expect("a name"), 12)]),
        agents: vec![agent("gpu-1"), agent("gpu-2")],
    }
}

fn reservation() -> Reservation {
    Reservation { agent: agent("gpu-1"), incarnation: life(), queue: "g2+v80:normal:train:bob".to_owned() }
}
