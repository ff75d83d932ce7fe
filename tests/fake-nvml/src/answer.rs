//! How every call is answered: hang, fail or tell, as the script says of the device that is asked.

use crate::host::script;
use crate::script::{Gpu, Script};
use nvml_wrapper_sys::bindings::*;
use std::ffi::{c_char, c_uint};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SUCCESS: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
pub(crate) const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
pub(crate) const UNSUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
pub(crate) const LOST: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
pub(crate) const TOO_SMALL: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const NO_DRIVER: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
pub(crate) const NOT_FOUND: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
/// What a hanging call waits before it looks at the script again.
const PAUSE: Duration = Duration::from_millis(5);

/// A device as a handle names it: a number in a pointer's clothes, never followed.
#[derive(Clone, Copy)]
pub(crate) struct Handle {
    pub(crate) gpu: usize,
    pub(crate) slice: Option<usize>,
}

impl Handle {
    pub(crate) fn to_c(self) -> nvmlDevice_t {
        let slice = self.slice.map_or(0, |slice| slice + 1);
        std::ptr::without_provenance_mut((slice << 16) | (self.gpu + 1))
    }

    fn from_c(device: nvmlDevice_t) -> Option<Self> {
        let number = device.addr();
        let gpu = (number & 0xffff).checked_sub(1)?;
        Some(Self { gpu, slice: (number >> 16).checked_sub(1) })
    }

    fn parent(self, script: &Script) -> Option<&Gpu> {
        script.gpus.get(self.gpu)
    }

    fn device(self, script: &Script) -> Option<&Gpu> {
        let parent = self.parent(script)?;
        match self.slice {
            None => Some(parent),
            Some(slice) => parent.mig.as_ref()?.get(slice),
        }
    }
}

/// Waits without the script's lock; the script may have changed afterwards.
pub(crate) fn pause() {
    #[expect(clippy::disallowed_methods, reason = "a hanging call has nothing to wait for but the script")]
    std::thread::sleep(PAUSE);
}

fn names(list: &[String], function: &str) -> bool {
    list.iter().any(|name| name == function || name == "*")
}

/// The script, once this function does not hang.
fn ask_host(function: &str) -> Result<Arc<Script>, nvmlReturn_t> {
    loop {
        let script = script().ok_or(NO_DRIVER)?;
        if !names(&script.hang, function) {
            return Ok(script);
        }
        pause();
    }
}

/// Asks one device: hangs, fails or answers as the script says of it or of the GPU that it is a part of.
pub(crate) fn ask(
    device: nvmlDevice_t,
    function: &str,
    answer: impl FnOnce(&Script, &Gpu, Handle) -> Result<(), nvmlReturn_t>,
) -> nvmlReturn_t {
    let Some(handle) = Handle::from_c(device) else { return INVALID };
    loop {
        let script = match ask_host(function) {
            Ok(script) => script,
            Err(code) => return code,
        };
        let (Some(parent), Some(gpu)) = (handle.parent(&script), handle.device(&script)) else {
            return INVALID;
        };
        if names(&parent.hang, function) || names(&gpu.hang, function) {
            pause();
            continue;
        }
        if parent.lost || gpu.lost {
            return LOST;
        }
        let failure = |gpu: &Gpu| gpu.errors.get(function).or_else(|| gpu.errors.get("*")).copied();
        if let Some(code) = failure(parent).or_else(|| failure(gpu)) {
            return code;
        }
        return answer(&script, gpu, handle).err().unwrap_or(SUCCESS);
    }
}

/// Writes through a pointer that a caller gave.
pub(crate) fn put<T>(to: *mut T, value: T) -> Result<(), nvmlReturn_t> {
    if to.is_null() {
        return Err(INVALID);
    }
    // SAFETY: NVML's contract: a pointer that is not null points to a writable value of its type.
    unsafe { to.write(value) };
    Ok(())
}

pub(crate) fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Result<(), nvmlReturn_t> {
    if to.is_null() {
        return Err(INVALID);
    }
    if text.len() >= length as usize {
        return Err(TOO_SMALL);
    }
    // SAFETY: NVML's contract: `to` has room for `length` bytes, and the text with its end has fewer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

pub(crate) fn on_host(
    function: &str,
    answer: impl FnOnce(&Script) -> Result<(), nvmlReturn_t>,
) -> nvmlReturn_t {
    ask_host(function).and_then(|script| answer(&script)).err().unwrap_or(SUCCESS)
}
