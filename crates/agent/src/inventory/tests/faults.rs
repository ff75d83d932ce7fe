//! GPUs that fail, and what another try does.

use super::{Host, device, faults, gpu};
use grange_fake_nvml::script::Gpu;

#[test]
fn a_critical_xid_is_a_fault_of_its_gpu_until_another_try() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 1_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.xid(1, 79);
    let fault = Some("XID 79: the GPU has fallen off the bus");
    assert_eq!(faults(&host.look(&mut looker)), [None, fault]);
    assert_eq!(faults(&host.look(&mut looker)), [None, fault], "it stands");
    looker.retry(Some("GPU-a"));
    assert_eq!(faults(&host.look(&mut looker)), [None, fault], "another GPU's try");
    looker.retry(Some("GPU-b"));
    looker.reopen();
    assert_eq!(faults(&host.look(&mut looker)), [None, None], "delivered once");
    host.xid(1, 48);
    assert!(faults(&host.look(&mut looker))[1].is_some_and(|fault| fault.starts_with("XID 48")));
}

#[test]
fn xids_from_before_the_agent_are_past() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000)]);
    host.xid(0, 79);
    let mut looker = host.looker();
    host.look(&mut looker);
    assert_eq!(faults(&host.look(&mut looker)), [None]);
}

#[test]
fn an_applications_xid_changes_nothing_and_an_unclear_one_is_said() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    for code in [13, 31, 43, 45, 94] {
        host.xid(0, code);
    }
    let look = host.look(&mut looker);
    assert_eq!((faults(&look), look.notices.len()), (vec![None], 0));
    for code in [63, 999, 63] {
        host.xid(0, code);
    }
    let look = host.look(&mut looker);
    assert_eq!(faults(&look), [None]);
    assert_eq!(
        look.notices,
        [
            "GPU `GPU-a` reported XID 63; it stays in service",
            "GPU `GPU-a` reported XID unknown; it stays in service"
        ],
        "each once"
    );
}

#[test]
fn a_lost_gpu_is_a_fault_with_the_reason_that_its_xid_gives() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 2_000), gpu("GPU-c", 3_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.change(|script| script.gpus[0].lost = true);
    let look = host.look(&mut looker);
    assert!(faults(&look)[0].is_some_and(|fault| fault.starts_with("lost: ")));
    assert_eq!(look.capacity.gpus[0].quarantine.as_deref(), faults(&look)[0]);
    assert_eq!((look.reading.devices[0].total_mb, &faults(&look)[1..]), (1_000, &[None, None][..]));
    host.change(|script| script.gpus[0].lost = false);
    assert!(faults(&host.look(&mut looker))[0].is_some(), "it came back by itself: nobody has looked at it");
    looker.retry(None);
    looker.reopen();
    assert_eq!(faults(&host.look(&mut looker)), [None, None, None]);
}

#[test]
fn a_gpu_that_still_fails_after_another_try_is_a_fault_again() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.change(|script| script.gpus[0].lost = true);
    host.look(&mut looker);
    looker.retry(Some("GPU-a"));
    looker.reopen();
    assert!(faults(&host.look(&mut looker))[0].is_some());
}

#[test]
fn a_gpu_that_was_never_seen_well_is_said() {
    let mut host = Host::with(vec![Gpu { lost: true, ..gpu("GPU-a", 1_000) }, gpu("GPU-b", 1_000)]);
    let mut looker = host.looker();
    let look = host.look(&mut looker);
    assert_eq!((look.reading.devices.len(), look.notices.len()), (1, 1));
    assert!(look.notices[0].contains("GPU number 0"), "{:?}", look.notices);
    host.change(|script| script.gpus[0].lost = false);
    let look = host.look(&mut looker);
    assert_eq!((look.reading.devices.len(), look.notices.len()), (2, 0), "it is welcome when it works");
}

#[test]
fn a_gpu_that_vanished_is_a_fault_and_another_try_forgets_it() {
    let mut host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 1_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.change(|script| drop(script.gpus.remove(0)));
    let look = host.look(&mut looker);
    assert_eq!(faults(&look), [Some("it is no longer there"), None], "GPU-b has another number now");
    assert_eq!(device(&look, "GPU-a").total_mb, 1_000);
    looker.retry(Some("GPU-a"));
    let look = host.look(&mut looker);
    assert_eq!((faults(&look), look.reading.devices[0].uuid.as_str()), (vec![None], "GPU-b"));
    host.change(|script| script.gpus.push(gpu("GPU-a", 1_000)));
    assert_eq!(faults(&host.look(&mut looker)), [None, None]);
}

#[test]
fn an_error_may_pass_but_not_three_in_a_row() {
    let mut host = Host::with(vec![Gpu { unowned_mb: 100, ..gpu("GPU-a", 1_000) }]);
    let mut looker = host.looker();
    host.look(&mut looker);
    let fail = |script: &mut grange_fake_nvml::script::Script| {
        script.gpus[0].errors.insert("nvmlDeviceGetMemoryInfo_v2".into(), 999);
    };
    host.change(fail);
    for _ in 0..2 {
        let look = host.look(&mut looker);
        assert_eq!((faults(&look), device(&look, "GPU-a").used_mb), (vec![None], 100), "as it was last");
    }
    host.change(|script| script.gpus[0].errors.clear());
    host.look(&mut looker);
    host.change(fail);
    host.look(&mut looker);
    assert_eq!(faults(&host.look(&mut looker)), [None], "counted anew");
    let look = host.look(&mut looker);
    assert!(
        faults(&look)[0].is_some_and(|fault| fault.starts_with("NVML failed 3 times")),
        "{:?}",
        faults(&look)
    );
    looker.retry(Some("GPU-a"));
    assert_eq!(faults(&host.look(&mut looker)), [None], "another try begins from nothing");
}

#[test]
fn slices_share_the_faults_of_their_gpu_and_one_that_is_taken_away_is_a_fault() {
    let mig = Some(vec![gpu("MIG-1", 5_000), gpu("MIG-2", 5_000)]);
    let mut host = Host::with(vec![Gpu { mig, ..gpu("GPU-a", 40_000) }, gpu("GPU-b", 40_000)]);
    let mut looker = host.looker();
    host.look(&mut looker);
    host.change(|script| drop(script.gpus[0].mig.as_mut().unwrap().remove(0)));
    assert_eq!(faults(&host.look(&mut looker)), [Some("it is no longer there"), None, None]);
    looker.retry(Some("MIG-1"));
    assert_eq!(faults(&host.look(&mut looker)), [None, None], "MIG-2 and GPU-b are left");
    host.change(|script| script.gpus[0].mig.as_mut().unwrap().push(gpu("MIG-3", 5_000)));
    host.look(&mut looker);
    host.xid(0, 95);
    let look = host.look(&mut looker);
    let of: Vec<_> = look.reading.devices.iter().map(|d| (d.uuid.as_str(), d.fault.is_some())).collect();
    assert_eq!(of, [("MIG-2", true), ("GPU-b", false), ("MIG-3", true)]);
}
