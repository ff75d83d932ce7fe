//! What a look shows of GPUs that are well.

use super::{Host, Worker, device, gpu};
use grange_dispatch::WorkerId;
use grange_fake_nvml::script::{Gpu, Kind, PerProcess, Process};
use std::collections::BTreeMap;

fn process(pid: u32, mb: u64, kind: Kind) -> Process {
    Process { pid, mb, kind }
}

/// Process ids that nobody has.
const NOBODY: u32 = 4_100_000_000;

#[test]
fn a_look_shows_what_nvml_tells() {
    let mut host = Host::with(vec![
        Gpu { utilisation: 250, temperature: 61, compute: (9, 0), reserved_mb: 500, ..gpu("GPU-a", 40_960) },
        Gpu { name: "NVIDIA\u{7} H200".into(), ..gpu("GPU-b", 1_000) },
    ]);
    let look = host.look(&mut host.looker());
    assert_eq!((look.reading.driver.as_str(), look.capacity.driver.as_str()), ("580.82.07", "580.82.07"));
    assert_eq!(
        look.reading.labels,
        BTreeMap::from([("zone".into(), "lab".into()), ("host".into(), "box".into())])
    );
    assert_eq!(look.capacity.labels, BTreeMap::from([("zone".to_owned(), "lab".to_owned())]));
    let (a, b) = (device(&look, "GPU-a"), device(&look, "GPU-b"));
    assert_eq!((a.name.as_str(), a.compute.as_str(), a.total_mb), ("NVIDIA A100", "9.0", 40_960));
    assert_eq!(
        (a.used_mb, a.foreign_mb, a.leftover_mb, a.attributed),
        (500, 0, 500, true),
        "the driver keeps some"
    );
    assert_eq!((b.name.as_str(), b.used_mb, b.fault.as_deref()), ("NVIDIA H200", 0, None));
    let shown = &look.capacity.gpus[0];
    assert_eq!((shown.uuid.as_str(), shown.vram_mb, shown.vram_free_mb), ("GPU-a", 40_960, 40_460));
    assert_eq!((shown.utilisation, shown.temperature_c, shown.mig), (100, 61, false));
    assert!(look.reading.cpus >= 1 && look.reading.ram_mb > 0 && look.reading.ram_other_mb > 0);
    assert_eq!(look.notices, Vec::<String>::new());
}

#[test]
fn what_others_use_counts_live_and_once() {
    let mut host = Host::with(vec![gpu("GPU-a", 10_000)]);
    let mut looker = host.looker();
    let me = std::process::id();
    host.change(|script| {
        script.gpus[0].processes = vec![
            process(NOBODY, 1_000, Kind::Compute),
            process(me, 300, Kind::Both),
            process(1, 20, Kind::Graphics),
            process(NOBODY + 1, 4, Kind::Mps),
        ];
    });
    let look = host.look(&mut looker);
    let seen = device(&look, "GPU-a");
    assert_eq!((seen.used_mb, seen.foreign_mb, seen.leftover_mb), (1_324, 1_324, 0));
    assert_eq!((look.capacity.gpus[0].foreign_mb, look.capacity.gpus[0].vram_free_mb), (1_324, 8_676));
    assert!(look.notices.is_empty(), "a process may have ended meanwhile");
    let look = host.look(&mut looker);
    assert!(look.notices.iter().any(|n| n.contains("per_process")), "but not twice: {:?}", look.notices);
    host.change(|script| script.gpus[0].processes.clear());
    assert_eq!(device(&host.look(&mut looker), "GPU-a").used_mb, 0);
}

#[test]
fn a_workers_processes_are_its_own_until_they_are_gone_and_their_memory_is_left_over_until_it_is_back() {
    let mut host = Host::with(vec![gpu("GPU-a", 10_000), gpu("GPU-b", 10_000)]);
    let mut looker = host.looker();
    let mut worker = Worker::start();
    let workers = [(3, worker.supervisor())];
    host.allocate(worker.process(), "GPU-b", 2_000);
    let look = host.look_at(&mut looker, &workers);
    let b = device(&look, "GPU-b");
    assert_eq!((b.used_mb, b.foreign_mb, b.leftover_mb), (2_000, 0, 0));
    let usage = &look.reading.workers[&WorkerId(3)];
    assert_eq!(usage.vram_mb, BTreeMap::from([("GPU-b".to_owned(), 2_000)]));
    assert!(usage.ram_mb > 0 && usage.ram_mb < 100);
    let others = look.reading.ram_mb - look.capacity.ram_free_mb - usage.ram_mb;
    assert_eq!(look.reading.ram_other_mb, others);
    host.change(|script| script.gpus[1].keeps = true);
    worker.end();
    let look = host.look_at(&mut looker, &workers);
    let b = device(&look, "GPU-b");
    assert_eq!((b.used_mb, b.foreign_mb, b.leftover_mb), (2_000, 0, 2_000), "dead, and not returned");
    assert!(look.reading.workers[&WorkerId(3)].vram_mb.is_empty());
    host.change(|script| script.gpus[1].keeps = false);
    assert_eq!(device(&host.look(&mut looker), "GPU-b").used_mb, 0, "returned");
}

#[test]
fn memory_may_return_some_time_after_its_process() {
    let mut host = Host::with(vec![Gpu { return_ms: 300, ..gpu("GPU-a", 10_000) }]);
    let mut looker = host.looker();
    let mut worker = Worker::start();
    host.allocate(worker.process(), "GPU-a", 700);
    worker.end();
    assert_eq!(device(&host.look(&mut looker), "GPU-a").leftover_mb, 700);
    super::eventually("the memory returns", || {
        (device(&host.look(&mut looker), "GPU-a").used_mb == 0).then_some(())
    });
}

#[test]
fn a_process_that_outlives_its_worker_is_left_over_and_not_foreign() {
    let mut host = Host::with(vec![gpu("GPU-a", 10_000)]);
    let mut looker = host.looker();
    let worker = Worker::start();
    host.allocate(worker.process(), "GPU-a", 700);
    host.look_at(&mut looker, &[(1, worker.supervisor())]);
    let look = host.look_at(&mut looker, &[]);
    let a = device(&look, "GPU-a");
    assert_eq!((a.foreign_mb, a.leftover_mb, look.reading.workers.len()), (0, 700, 0));
}

#[test]
fn without_figures_of_processes_nothing_is_attributed() {
    for (per_process, config) in [
        (PerProcess::Unavailable, ""),
        (PerProcess::Unsupported, ""),
        (PerProcess::Told, "[gpu]\nper_process = false"),
    ] {
        let processes = vec![process(1, 300, Kind::Compute)];
        let mut host = Host::with(vec![Gpu { per_process, processes, ..gpu("GPU-a", 1_000) }]);
        let look = host.look(&mut host.looker_with(config));
        let a = device(&look, "GPU-a");
        assert_eq!(
            (a.used_mb, a.foreign_mb, a.leftover_mb, a.attributed),
            (300, 0, 0, false),
            "{per_process:?}"
        );
    }
}

#[test]
fn a_lie_is_clamped_and_said_once() {
    let lie =
        Gpu { free_mb: Some(99_999), processes: vec![process(1, 300, Kind::Compute)], ..gpu("GPU-a", 1_000) };
    let mut host = Host::with(vec![lie, gpu("GPU-b", 1_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.change(|script| script.gpus[0].free_mb = Some(88_888));
    let look = host.look(&mut looker);
    assert_eq!((device(&look, "GPU-a").used_mb, device(&look, "GPU-a").foreign_mb), (300, 300));
    let said: Vec<_> = look.notices.iter().filter(|notice| notice.contains("`GPU-a`")).collect();
    assert!(said.len() == 1 && said[0].contains("more than all is not believed"), "{:?}", look.notices);
    assert!(!look.notices.iter().any(|notice| notice.contains("GPU-b")));
}

#[test]
fn gpus_without_a_usable_identity_are_left_out_and_said() {
    let mut host =
        Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-a", 2_000), gpu("a,b", 1_000), gpu("", 1_000)]);
    let look = host.look(&mut host.looker());
    assert_eq!(look.reading.devices.iter().map(|d| d.total_mb).collect::<Vec<_>>(), [1_000]);
    assert!(look.notices.iter().any(|notice| notice.contains("two GPUs with the identity `GPU-a`")));
    assert!(look.notices.iter().any(|notice| notice.contains("is no word")), "{:?}", look.notices);
}

#[test]
fn nvlinks_join_gpus_directly_or_by_a_switch() {
    let ends = |links: &[&str]| links.iter().map(|end| (*end).to_owned()).collect::<Vec<_>>();
    let linked = |uuid: &str, links: &[&str]| Gpu { links: ends(links), ..gpu(uuid, 1_000) };
    let (switch, other) = ("00000000:c1:00.0", "00000000:C2:00.0");
    let mut host = Host::with(vec![
        linked("GPU-a", &["GPU-b", "GPU-b"]),
        linked("GPU-b", &["GPU-a"]),
        linked("GPU-c", &[switch, switch]),
        linked("GPU-d", &["00000000:C1:00.0"]),
        linked("GPU-e", &[other]),
        gpu("GPU-f", 1_000),
        linked("GPU-g", &["GPU-b"]),
    ]);
    let look = host.look(&mut host.looker());
    let links: Vec<_> = look.reading.devices.iter().map(|d| d.links.join(" ")).collect();
    assert_eq!(links, ["GPU-b", "GPU-a GPU-g", "GPU-d", "GPU-c", "", "", "GPU-b"]);
    assert_eq!(look.capacity.gpus[0].links, ["GPU-b"]);
}

#[test]
fn slices_take_the_place_of_their_gpu() {
    let slice = |uuid: &str| Gpu { name: "NVIDIA A100 MIG 1g.5gb".into(), ..gpu(uuid, 5_000) };
    let mig =
        Some(vec![slice("MIG-1"), Gpu { processes: vec![process(1, 300, Kind::Compute)], ..slice("MIG-2") }]);
    let mut host =
        Host::with(vec![Gpu { mig, temperature: 55, ..gpu("GPU-a", 40_000) }, gpu("GPU-b", 40_000)]);
    let mut looker = host.looker();
    let look = host.look(&mut looker);
    let uuids: Vec<_> =
        look.capacity.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.mig, gpu.vram_mb)).collect();
    assert_eq!(uuids, [("MIG-1", true, 5_000), ("MIG-2", true, 5_000), ("GPU-b", false, 40_000)]);
    assert_eq!((device(&look, "MIG-1").used_mb, device(&look, "MIG-2").foreign_mb), (0, 300));
    assert_eq!((look.capacity.gpus[0].temperature_c, look.capacity.gpus[0].utilisation), (55, 0));
    let mut worker = Worker::start();
    host.allocate(worker.process(), "MIG-1", 100);
    let look = host.look_at(&mut looker, &[(1, worker.supervisor())]);
    assert_eq!(look.reading.workers[&WorkerId(1)].vram_mb, BTreeMap::from([("MIG-1".to_owned(), 100)]));
    worker.end();
}
