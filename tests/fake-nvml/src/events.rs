//! Event sets: XID errors, each delivered once.

use crate::answer::{INVALID, LOST, SUCCESS, UNSUPPORTED, ask, pause, put};
use crate::script::Gpu;
use nvml_wrapper_sys::bindings::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const XID: c_ulonglong = nvmlEventTypeXidCriticalError as c_ulonglong;

#[derive(Default)]
struct Sets {
    newest: usize,
    /// The devices of each set, as handles' numbers.
    open: BTreeMap<usize, BTreeSet<usize>>,
    /// The last XID event of a GPU that was delivered, or was there before anybody asked.
    delivered: HashMap<String, u64>,
}

static SETS: Mutex<Option<Sets>> = Mutex::new(None);

fn with_sets<T>(act: impl FnOnce(&mut Sets) -> T) -> T {
    let mut sets: MutexGuard<'_, Option<Sets>> = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    act(sets.get_or_insert_default())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(to: *mut nvmlEventSet_t) -> nvmlReturn_t {
    let number = with_sets(|sets| {
        sets.newest += 1;
        sets.open.insert(sets.newest, BTreeSet::new());
        sets.newest
    });
    put(to, std::ptr::without_provenance_mut(number)).err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    with_sets(|sets| if sets.open.remove(&set.addr()).is_some() { SUCCESS } else { INVALID })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: nvmlDevice_t,
    to: *mut c_ulonglong,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetSupportedEventTypes", |_, _, _| put(to, XID))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceRegisterEvents", |_, gpu, _| {
        if types & !XID != 0 {
            return Err(UNSUPPORTED);
        }
        let past = gpu.xids.iter().map(|xid| xid.id).max().unwrap_or(0);
        with_sets(|sets| {
            sets.open.get_mut(&set.addr()).ok_or(INVALID)?.insert(device.addr());
            sets.delivered.entry(gpu.uuid.clone()).or_insert(past);
            Ok(())
        })
    })
}

/// The next XID of a GPU that was not delivered, which is delivered by this.
fn next(gpu: &Gpu) -> Option<u64> {
    with_sets(|sets| {
        let last = sets.delivered.entry(gpu.uuid.clone()).or_insert(0);
        let xid = gpu.xids.iter().filter(|xid| xid.id > *last).min_by_key(|xid| xid.id)?;
        *last = xid.id;
        Some(xid.code)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    to: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    let Some(devices) = with_sets(|sets| sets.open.get(&set.addr()).cloned()) else { return INVALID };
    loop {
        let mut is_lost = false;
        for number in &devices {
            let device: nvmlDevice_t = std::ptr::without_provenance_mut(*number);
            let mut found = None;
            let code = ask(device, "nvmlEventSetWait_v2", |_, gpu, _| {
                found = next(gpu);
                Ok(())
            });
            is_lost |= code == LOST;
            if let Some(xid) = found {
                let data = nvmlEventData_t {
                    device,
                    eventType: XID,
                    eventData: xid,
                    gpuInstanceId: u32::MAX,
                    computeInstanceId: u32::MAX,
                };
                return put(to, data).err().unwrap_or(SUCCESS);
            }
        }
        if is_lost {
            return LOST;
        }
        if Instant::now() >= until {
            return nvmlReturn_enum_NVML_ERROR_TIMEOUT;
        }
        pause();
    }
}
