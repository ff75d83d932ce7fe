//! What an XID error says of its GPU. Pure.
//!
//! The measure is the immediate action in NVIDIA's catalogue (<https://docs.nvidia.com/deploy/xid-errors>): where that is
//! to reset the GPU, to restart its host or to look at its connections, the GPU must not be used until somebody did so.
//! Where it is to restart the application, the application is told by its own error, and the GPU is as good as before.
//! The rest is written down: what it means differs by model, or it only accompanies another XID.

/// What becomes of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It is out of service, for this reason.
    Fault(&'static str),
    /// Nothing: an application did something wrong, or was told.
    Application,
    /// Nothing, but an operator should know.
    Noted,
}

/// Sorts a code.
pub(super) fn class(code: u64) -> Class {
    match code {
        46 => Class::Fault("the GPU stopped processing"),
        48 => Class::Fault("double-bit memory error"),
        54 => Class::Fault("auxiliary power is not connected"),
        62 | 169 => Class::Fault("a micro-controller of the GPU halted"),
        64 => Class::Fault("faulty memory could not be remapped"),
        74 => Class::Fault("NVLink error"),
        79 => Class::Fault("the GPU has fallen off the bus"),
        95 => Class::Fault("uncontained memory error"),
        109 => Class::Fault("context switch timed out"),
        110 => Class::Fault("security fault"),
        119 => Class::Fault("the GPU's system processor does not answer"),
        120 => Class::Fault("error of the GPU's system processor"),
        136 => Class::Fault("link training failed"),
        140 => Class::Fault("memory error that was not recovered"),
        143 => Class::Fault("the GPU was not initialised"),
        151 => Class::Fault("key rotation failed"),
        155 => Class::Fault("NVLink error that software defined"),
        156 => Class::Fault("a part of the GPU was retired; it needs a reset"),
        158 => Class::Fault("fatal time-out of the GPU"),
        167 => Class::Fault("fatal time-out of the PCI bus"),
        171 | 172 => Class::Fault("memory error that cannot be corrected"),
        // Engines that a bad program upsets: graphics, copy, video, JPEG, optical flow; page faults and bad push
        // buffers; 94 is a memory error that only its application saw; 43 and 45 follow another error.
        8
        | 11
        | 13
        | 25
        | 31
        | 32
        | 39..=41
        | 43
        | 45
        | 60
        | 68..=72
        | 75..=77
        | 80
        | 82..=86
        | 88
        | 89
        | 94
        | 96..=105
        | 126..=135
        | 139 => Class::Application,
        _ => Class::Noted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_for_a_reset_is_a_fault_and_what_applications_cause_is_not() {
        for code in [46, 48, 62, 64, 74, 79, 95, 109, 119, 120, 140, 143, 158] {
            assert!(matches!(class(code), Class::Fault(_)), "{code}");
        }
        for code in [13, 31, 43, 45, 68, 94] {
            assert_eq!(class(code), Class::Application, "{code}");
        }
        for code in [0, 63, 92, 142, 144, 154, 999, u64::MAX] {
            assert_eq!(class(code), Class::Noted, "{code}");
        }
    }
}
