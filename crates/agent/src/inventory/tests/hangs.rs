//! NVML that does not return.

use super::{Host, Look, Looker, device, eventually, faults, gpu};
use grange_fake_nvml::script::{Gpu, Script};
use std::time::{Duration, Instant};

fn hang(gpu: usize, function: &str) -> impl FnOnce(&mut Script) {
    move |script| script.gpus[gpu].hang = vec![function.to_owned()]
}

/// A call that hangs is noticed after this, and four times this when it is the first.
const PATIENCE: Duration = Duration::from_millis(400);
const IMPATIENT: &str = "[gpu]\nnvml_timeout_ms = 400";
const FAULT: Option<&str> = Some("NVML does not answer within 400 ms when it is asked about it");

#[test]
fn a_gpu_that_hangs_is_a_fault_and_the_others_are_read_in_the_same_look() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 1_000), gpu("GPU-c", 1_000)]);
    let mut looker = host.looker_with(IMPATIENT);
    host.look(&mut looker);
    host.change(hang(1, "nvmlDeviceGetMemoryInfo_v2"));
    host.xid(0, 79);
    host.change(|script| script.gpus[2].unowned_mb = 300);
    let look = host.look(&mut looker);
    assert_eq!(faults(&look)[1..], [FAULT, None]);
    assert!(
        faults(&look)[0].is_some_and(|fault| fault.starts_with("XID 79")),
        "what was heard before is kept"
    );
    assert_eq!((device(&look, "GPU-c").used_mb, look.notices.len()), (300, 0), "and nothing is heard twice");
    host.change(|script| script.gpus[2].unowned_mb = 400);
    let begun = Instant::now();
    let look = host.look(&mut looker);
    assert_eq!((faults(&look)[1], device(&look, "GPU-c").used_mb), (FAULT, 400));
    assert!(begun.elapsed() < PATIENCE, "it is not asked again: {:?}", begun.elapsed());
}

#[test]
fn a_gpu_that_hung_gets_another_try_when_it_is_wanted() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 1_000)]);
    let mut looker = host.looker_with(IMPATIENT);
    host.look(&mut looker);
    host.change(hang(0, "*"));
    host.look(&mut looker);
    host.look(&mut looker);
    looker.retry(Some("GPU-a"));
    looker.reopen();
    assert_eq!(faults(&host.look(&mut looker)), [FAULT, None], "it hangs still");
    host.change(|script| script.gpus[0].hang.clear());
    assert_eq!(faults(&host.look(&mut looker)), [FAULT, None], "nobody wants it tried");
    looker.retry(Some("GPU-a"));
    looker.reopen();
    assert_eq!(faults(&host.look(&mut looker)), [None, None]);
}

/// Looks while another thread ends all hangs after twice the patience.
fn look_at_slow(host: &mut Host, looker: &mut Looker) -> Look {
    let script = host.script();
    std::thread::scope(|scope| {
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let slow = script.clone();
        let path = host.path().to_owned();
        scope.spawn(move || {
            let _ = ended.recv_timeout(PATIENCE * 2);
            let mut well = slow;
            well.gpus.iter_mut().for_each(|gpu| gpu.hang.clear());
            super::replace(&path, "script.json", &serde_json::to_vec(&well).unwrap());
        });
        let look = host.look(looker);
        drop(done);
        look
    })
}

#[test]
fn what_is_asked_for_the_first_time_may_take_longer() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let mut looker = host.looker_with(IMPATIENT);
    host.change(hang(0, "*"));
    assert_eq!(faults(&look_at_slow(&mut host, &mut looker)), [None], "it wakes up");
    host.change(hang(0, "*"));
    assert_eq!(faults(&look_at_slow(&mut host, &mut looker)), [FAULT], "it was awake");
    looker.retry(None);
    looker.reopen();
    host.change(hang(0, "*"));
    assert_eq!(faults(&look_at_slow(&mut host, &mut looker)), [None], "it wakes up again");
}

#[test]
fn a_library_that_hangs_as_a_whole_is_asked_no_more() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 1_000)]);
    let mut looker = host.looker_with(IMPATIENT);
    host.look(&mut looker);
    host.change(|script| script.hang = vec!["nvmlDeviceGetCount_v2".into()]);
    let all = [Some("NVML does not answer"); 2];
    assert_eq!(faults(&host.look(&mut looker)), all);
    let begun = Instant::now();
    let look = host.look(&mut looker);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(
        (faults(&look), look.notices.as_slice()),
        (all.to_vec(), &["NVML does not answer".to_owned()][..])
    );
    assert!(look.reading.ram_mb > 0, "the rest of the host is still looked at");
    host.change(|script| script.hang.clear());
    looker.retry(None);
    looker.reopen();
    let look = host.look(&mut looker);
    assert_eq!((faults(&look), look.notices.len()), (vec![None, None], 0));
}

#[test]
fn a_library_that_hangs_while_it_is_opened_leaves_a_host_without_gpus() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000)]);
    host.change(|script| script.hang = vec!["nvmlInit_v2".into()]);
    let mut looker = host.looker_with(IMPATIENT);
    let look = host.look(&mut looker);
    assert_eq!(
        (look.reading.devices.len(), look.notices.as_slice()),
        (0, &["NVML does not answer".to_owned()][..])
    );
    host.change(|script| script.hang.clear());
    looker.retry(None);
    looker.reopen();
    assert_eq!(faults(&host.look(&mut looker)), [None]);
}

#[test]
fn only_so_many_threads_may_hang() {
    let mut host = Host::with((0..12).map(|number| gpu(&format!("GPU-{number}"), 1_000)).collect());
    let mut looker = host.looker_with(IMPATIENT);
    host.look(&mut looker);
    host.change(|script| script.gpus[..10].iter_mut().for_each(|gpu: &mut Gpu| gpu.hang = vec!["*".into()]));
    let look = host.look(&mut looker);
    assert!(
        faults(&look).iter().all(Option::is_some),
        "NVML is off, for the well ones too: {:?}",
        faults(&look)
    );
    assert!(faults(&look)[11].is_some_and(|fault| fault.contains("8 threads hang")), "{:?}", faults(&look));
    let begun = Instant::now();
    looker.retry(None);
    looker.reopen();
    assert!(faults(&host.look(&mut looker)).iter().all(Option::is_some), "they hang still");
    assert!(begun.elapsed() < PATIENCE, "no other thread is risked: {:?}", begun.elapsed());
    host.change(|script| script.gpus.iter_mut().for_each(|gpu| gpu.hang.clear()));
    eventually("the threads that return make room", || {
        looker.retry(None);
        looker.reopen();
        faults(&host.look(&mut looker)).iter().all(Option::is_none).then_some(())
    });
}
