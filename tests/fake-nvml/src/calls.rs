//! The library itself, and one device: who it is, how much it has, who uses it.

use crate::answer::{Handle, INVALID, SUCCESS, TOO_SMALL, UNSUPPORTED, ask, on_host, put, put_text};
use crate::host::in_use;
use crate::script::{Kind, PerProcess};
use nvml_wrapper_sys::bindings::*;
use std::ffi::{c_char, c_int, c_uint};

const MIB: u64 = 1 << 20;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    on_host("nvmlInit_v2", |script| if script.init == SUCCESS { Ok(()) } else { Err(script.init) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    on_host("nvmlInit_v2", |script| if script.init == SUCCESS { Ok(()) } else { Err(script.init) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    on_host("nvmlShutdown", |_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlErrorString(_code: nvmlReturn_t) -> *const c_char {
    c"a scripted answer".as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> nvmlReturn_t {
    on_host("nvmlSystemGetDriverVersion", |script| put_text(to, length, &script.driver))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    on_host("nvmlDeviceGetCount_v2", |script| put(count, c_uint::try_from(script.gpus.len()).unwrap_or(0)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let handle = Handle { gpu: index as usize, slice: None }.to_c();
    ask(handle, "nvmlDeviceGetHandleByIndex_v2", |_, _, _| put(device, handle))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    to: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetUUID", |_, gpu, _| put_text(to, length, &gpu.uuid))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    to: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetName", |_, gpu, _| put_text(to, length, &gpu.name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    to: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetMemoryInfo_v2", |_, gpu, _| {
        let held = in_use(gpu);
        let used = gpu.processes.iter().map(|process| process.mb).chain(held.living.into_values());
        let used = used.sum::<u64>() + held.ended_mb + gpu.unowned_mb;
        let free = gpu.free_mb.unwrap_or(gpu.memory_mb.saturating_sub(gpu.reserved_mb + used));
        let version = c_uint::try_from(size_of::<nvmlMemory_v2_t>() | (2 << 24)).unwrap_or(0);
        put(
            to,
            nvmlMemory_v2_t {
                version,
                total: gpu.memory_mb * MIB,
                reserved: gpu.reserved_mb * MIB,
                free: free * MIB,
                used: used * MIB,
            },
        )
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    to: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetUtilizationRates", |_, gpu, handle| match handle.slice {
        None => put(to, nvmlUtilization_t { gpu: gpu.utilisation, memory: 0 }),
        Some(_) => Err(UNSUPPORTED),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    to: *mut c_uint,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetTemperature", |_, gpu, handle| match handle.slice {
        None => put(to, gpu.temperature),
        Some(_) => Err(UNSUPPORTED),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetCudaComputeCapability", |_, gpu, _| {
        put(major, gpu.compute.0)?;
        put(minor, gpu.compute.1)
    })
}

fn list(
    device: nvmlDevice_t,
    function: &str,
    kinds: [Kind; 2],
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    ask(device, function, |_, gpu, _| {
        if gpu.per_process == PerProcess::Unsupported {
            return Err(UNSUPPORTED);
        }
        let scripted = gpu.processes.iter().filter(|process| kinds.contains(&process.kind));
        let scripted = scripted.map(|process| (process.pid, process.mb));
        let written = if kinds.contains(&Kind::Compute) { in_use(gpu).living } else { Default::default() };
        let found: Vec<nvmlProcessInfo_t> = scripted
            .chain(written)
            .map(|(pid, mb)| nvmlProcessInfo_t {
                pid,
                usedGpuMemory: if gpu.per_process == PerProcess::Told { mb * MIB } else { u64::MAX },
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            })
            .collect();
        if count.is_null() {
            return Err(INVALID);
        }
        // SAFETY: NVML's contract: the count is not null, which was checked, and readable.
        let room = unsafe { count.read() } as usize;
        put(count, c_uint::try_from(found.len()).unwrap_or(0))?;
        if found.len() > room {
            return Err(TOO_SMALL);
        }
        for (at, info) in found.into_iter().enumerate() {
            // SAFETY: NVML's contract: `infos` has room for as many entries as the count said.
            put(unsafe { infos.add(at) }, info)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let kinds = [Kind::Compute, Kind::Both];
    list(device, "nvmlDeviceGetComputeRunningProcesses_v3", kinds, count, infos)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let kinds = [Kind::Graphics, Kind::Both];
    list(device, "nvmlDeviceGetGraphicsRunningProcesses_v3", kinds, count, infos)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    list(device, "nvmlDeviceGetMPSComputeRunningProcesses_v3", [Kind::Mps, Kind::Mps], count, infos)
}
