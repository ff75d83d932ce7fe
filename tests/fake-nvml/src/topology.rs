//! How devices hang together: the PCI bus, NVLinks, MIG slices.

use crate::answer::{Handle, INVALID, NOT_FOUND, UNSUPPORTED, ask, put};
use crate::script::Script;
use nvml_wrapper_sys::bindings::*;
use std::ffi::c_uint;

fn pci(bus_id: &str) -> nvmlPciInfo_t {
    let mut text = [0; 32];
    for (to, from) in text.iter_mut().zip(bus_id.bytes().take(31)) {
        *to = from.cast_signed();
    }
    let part =
        |at: usize| bus_id.split([':', '.']).nth(at).and_then(|part| c_uint::from_str_radix(part, 16).ok());
    nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: part(0).unwrap_or(0),
        bus: part(1).unwrap_or(0),
        device: part(2).unwrap_or(0),
        pciDeviceId: 0,
        pciSubSystemId: 0,
        busId: text,
    }
}

fn bus_id(script: &Script, index: usize) -> String {
    let given = script.gpus.get(index).map(|gpu| gpu.bus_id.clone()).unwrap_or_default();
    if given.is_empty() { format!("00000000:{:02X}:00.0", 0x10 + index) } else { given }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetPciInfo_v3", |script, _, handle| put(to, pci(&bus_id(script, handle.gpu))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    to: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetNvLinkState", |_, gpu, _| match link {
        NVML_NVLINK_MAX_LINKS.. => Err(INVALID),
        _ if gpu.links.is_empty() => Err(UNSUPPORTED),
        _ => put(to, nvmlEnableState_t::from((link as usize) < gpu.links.len())),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    link: c_uint,
    to: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetNvLinkRemotePciInfo_v2", |script, gpu, _| {
        let far = gpu.links.get(link as usize).ok_or(INVALID)?;
        let peer = script.gpus.iter().position(|other| other.uuid == *far);
        put(to, pci(&peer.map_or_else(|| far.clone(), |peer| bus_id(script, peer))))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetMigMode", |_, gpu, handle| {
        if gpu.compute.0 < 8 || handle.slice.is_some() {
            return Err(UNSUPPORTED);
        }
        let mode = c_uint::from(gpu.mig.is_some());
        put(current, mode)?;
        put(pending, mode)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, to: *mut c_uint) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetMaxMigDeviceCount", |_, gpu, _| put(to, if gpu.mig.is_some() { 7 } else { 0 }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    to: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    ask(device, "nvmlDeviceGetMigDeviceHandleByIndex", |_, gpu, handle| {
        let slice = index as usize;
        gpu.mig.as_ref().and_then(|slices| slices.get(slice)).ok_or(NOT_FOUND)?;
        put(to, Handle { gpu: handle.gpu, slice: Some(slice) }.to_c())
    })
}
