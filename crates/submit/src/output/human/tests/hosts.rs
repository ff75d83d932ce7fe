//! What people see of agents and plugins.

use super::human;
use crate::output::Output;
use crate::output::words::{Agents, PluginEntry, Rows, Showing};
use grange_protocol::status::{AgentStatus, PluginStatus};
use serde_json::{Value, from_value, json};
use std::time::Duration;

/// A host with three GPUs of two models, one of them ill, and three workers.
fn gpu1() -> AgentStatus {
    let gpu = |uuid: &str, name: &str, vram: u64, grantable: u64| {
        json!({
            "uuid": uuid, "name": name, "vram_mb": vram, "grantable_mb": grantable, "utilisation": 7,
            "usable_mb": vram, "temperature_c": 41,
        })
    };
    let mut gpus = [
        gpu("GPU-a", "NVIDIA A100", 81_920, 70_656),
        gpu("GPU-b", "NVIDIA A100", 81_920, 0),
        gpu("GPU-c", "NVIDIA L4", 24_576, 24_576),
    ];
    (gpus[0]["granted_mb"], gpus[0]["foreign_mb"]) = (8192.into(), 3072.into());
    gpus[1]["quarantine"] = "XID 79".into();
    let worker = |plugin: &str, state: &str, gpus: Value, idle_ms: u64| {
        json!({
            "plugin": plugin, "state": state, "gpus": gpus, "vram_mb": 4096, "vram_used_mb": 3000, "cpus": 2,
            "running": u32::from(state == "busy"), "idle_ms": idle_ms,
        })
    };
    let status = json!({
        "v": 1, "agent": "gpu1", "incarnation": "life", "version": "0.1.0", "started_ms": 0, "state": "draining",
        "capacity": {
            "cpus": 64, "cpus_grantable": 60, "ram_mb": 262_144, "ram_grantable_mb": 196_608, "driver": "550.54",
            "labels": {"zone": "lab"}, "gpus": gpus,
        },
        "workers": [
            worker("ocr", "idle", json!(["GPU-a"]), 12_000),
            worker("ocr", "busy", json!(["GPU-a"]), 0),
            worker("echo", "starting", json!([]), 0),
        ],
        "attempts": [{"owner": "ann", "job": "j-1", "number": 2, "claim": 7, "plugin": "ocr"}],
        "saving": {"queue": "g2+v80/normal/train/bob", "gpus": ["GPU-a", "GPU-c"], "left_ms": 12_000},
        "notices": ["manifest `x` was skipped"],
    });
    from_value(status).unwrap()
}

fn shown(lines: &str) -> Vec<String> {
    lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn agents_are_a_table_with_what_calls_for_attention_below() {
    let (mut human, out, _) = human();
    let idle = AgentStatus::silent("cpu1".parse().unwrap());
    let all = [(gpu1(), Duration::from_secs(1)), (idle, Duration::from_millis(1900))];
    human.agents(&Agents::All(&all), Showing::Once).unwrap();
    assert_eq!(
        shown(&out.take()),
        [
            "AGENT STATE GPUS VRAM FREE GRANTED RUNNING CORES FREE MEMORY FREE HEARD WARM",
            "gpu1 draining 2 × NVIDIA A100 69.0/160.0 GiB 8.0 GiB 1 60/64 192.0/256.0 GiB 1 s ago ocr 1 busy 1 idle",
            "1 × NVIDIA L4 24.0/24.0 GiB -",
            "cpu1 ready - - - 0 0/0 0.0/0.0 GiB 1 s ago -",
            "gpu1: GPU GPU-b is quarantined: XID 79",
            "gpu1: manifest `x` was skipped",
        ]
    );
}

#[test]
fn agents_that_are_watched_are_shown_again_under_the_time() {
    let (mut human, out, err) = human();
    for _ in 0..2 {
        human.agents(&Agents::All(&[]), Showing::Again).unwrap();
    }
    let shown = out.take();
    let times = shown.lines().filter(|line| line.ends_with("Ctrl-C ends")).count();
    assert_eq!(
        (times, shown.matches("no agent is up\n").count(), err.take().as_str()),
        (2, 2, ""),
        "{shown}"
    );
}

#[test]
fn one_agent_is_shown_with_gpus_workers_and_jobs() {
    let (mut human, out, _) = human();
    human.agents(&Agents::One(&gpu1(), Duration::from_secs(1)), Showing::Once).unwrap();
    assert_eq!(
        shown(&out.take()),
        [
            "agent gpu1",
            "state draining",
            "build 0.1.0, heard 1 s ago",
            "cores 60 of 64 can be given",
            "memory 192.0 GiB of 256.0 GiB can be given",
            "driver 550.54",
            "labels zone=lab",
            "saves up for `g2+v80/normal/train/bob` on GPU 0, 2, 12.0 s left",
            "",
            "# GPU MODEL TOTAL GRANTABLE GRANTED FOREIGN BUSY TEMP NOTE",
            "0 GPU-a NVIDIA A100 80.0 GiB 69.0 GiB 8.0 GiB 3.0 GiB 7 % 41 °C",
            "1 GPU-b NVIDIA A100 80.0 GiB 0 B - - 7 % 41 °C quarantined: XID 79",
            "2 GPU-c NVIDIA L4 24.0 GiB 24.0 GiB - - 7 % 41 °C",
            "",
            "WORKER STATE GPUS GRANT VRAM USED RUNNING IDLE",
            "ocr idle 0 4.0 GiB of VRAM, 2 cores 2.9 GiB 0 12.0 s",
            "ocr busy 0 4.0 GiB of VRAM, 2 cores 2.9 GiB 1 -",
            "echo starting - 2 cores 2.9 GiB 0 -",
            "",
            "RUNNING JOB PLUGIN OWNER ATTEMPT",
            "j-1 ocr ann 2",
            "",
            "manifest `x` was skipped",
        ]
    );
}

#[test]
fn plugins_are_told_over_all_hosts_or_host_by_host() {
    let (mut human, out, _) = human();
    let status = |state: &str, reason: &str, vram: u64, peak: u64| -> PluginStatus {
        from_value(json!({
            "name": "ocr", "version": "1.2", "description": "reads", "state": state, "reason": reason,
            "workers": 1, "running": 1, "slots": 2, "resources": {"gpus": 1, "vram_mb": vram},
            "peak_vram_mb": peak, "start_ms": 3_200,
        }))
        .unwrap()
    };
    let hosts = vec![
        ("gpu1".to_owned(), status("ready", "", 4096, 3000)),
        ("gpu2".to_owned(), status("failed", "no uv", 8192, 6000)),
    ];
    let plugins = [PluginEntry { name: "ocr".parse().unwrap(), hosts }];
    human.plugins(&plugins, Rows::Overall).unwrap();
    let overall = shown(&out.take());
    assert_eq!(overall[0], "PLUGIN VERSION HOSTS NEEDS PEAK VRAM START WORKERS RUNNING NOTE");
    assert_eq!(overall[1], "ocr 1.2 1 of 2 ready 1 GPU with 8.0 GiB 5.9 GiB 3.2 s 2 2/4 no uv");
    human.plugins(&plugins, Rows::ByHost).unwrap();
    let by_host = shown(&out.take());
    assert_eq!(by_host[1], "ocr 1.2 gpu1 ready 1 GPU with 4.0 GiB 2.9 GiB 3.2 s 1 1/2 reads");
    assert_eq!(by_host[2], "ocr 1.2 gpu2 failed 1 GPU with 8.0 GiB 5.9 GiB 3.2 s 1 1/2 no uv");
}
