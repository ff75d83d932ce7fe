//! Classes: what a job needs of a host beyond its plugin's request, as one token of its lane. Agents read from it what
//! they must have before they ask for a job; the exact request stays in the ticket.
//!
//! ```text
//!   default            the plugin's own request
//!   any                no resource check
//!   g2+v24+x+m32+c8+gpu=a100+zone=lab
//!   │  │   │ │   │  └ constraints, a `.` written as `~`
//!   │  │   │ │   └ cores         amounts are rounded up to steps, so that there are few lanes
//!   │  │   │ └ host memory, GiB
//!   │  │   └ GPUs of its own
//!   │  └ memory on each GPU, GiB
//!   └ GPUs
//! ```

use crate::name::{Class, NameError};
use crate::resource::{ResourceError, ResourceRequest, check_constraint};

/// Steps of GPU memory, GiB: what cards are sold with.
pub const VRAM_STEPS_GIB: [u64; 16] = [1, 2, 4, 6, 8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192, 288];
/// Steps of host memory, GiB.
pub const RAM_STEPS_GIB: [u64; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
/// Steps of cores.
pub const CPU_STEPS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const GIB_MB: u64 = 1024;

/// What a class says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The plugin's own request.
    Default,
    /// No resource check.
    Any,
    /// This, beyond the plugin's request.
    Asks(Asks),
}

/// A rounded request: what the job asks for lies above `over` and at `upto` or below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The most that it may ask for.
    pub upto: ResourceRequest,
    /// It asks for more than these amounts.
    pub over: ResourceRequest,
}

/// Why there is no class for a request, or a class cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// Above the last step.
    #[error("`{field}` of {given} exceeds the largest class ({largest})")]
    TooMuch {
        /// Which amount.
        field: &'static str,
        /// What was asked for.
        given: u64,
        /// The last step.
        largest: u64,
    },
    /// The constraints are too long together.
    #[error("the constraints are too long together: {0}")]
    TooLong(NameError),
    /// The request cannot be meant.
    #[error(transparent)]
    Request(#[from] ResourceError),
    /// Not one of ours.
    #[error("class `{class}` cannot be read at `{part}`; see `docs/wire.md`, or use `default`")]
    Unreadable {
        /// The class.
        class: String,
        /// Where.
        part: String,
    },
}

/// The class of a job that asks for this beyond its plugin's request.
pub fn class_of(job: &ResourceRequest) -> Result<Class, ClassError> {
    if job.is_empty() {
        return Ok(Class::plugin_default());
    }
    job.check()?;
    let job = &ResourceRequest::default().raised(job);
    let mut parts = Vec::new();
    if job.gpus > 0 {
        parts.push(format!("g{}", job.gpus));
    }
    if job.vram_mb > 0 {
        parts.push(format!("v{}", step("vram_mb", job.vram_mb, &VRAM_STEPS_GIB, GIB_MB)?));
    }
    if job.exclusive {
        parts.push("x".to_owned());
    }
    if job.ram_mb > 0 {
        parts.push(format!("m{}", step("ram_mb", job.ram_mb, &RAM_STEPS_GIB, GIB_MB)?));
    }
    if job.cpus > 0 {
        parts.push(format!("c{}", step("cpus", job.cpus.into(), &CPU_STEPS, 1)?));
    }
    parts.extend(job.on.iter().map(|(key, value)| format!("{key}={value}").replace('.', "~")));
    Class::new(parts.join("+")).map_err(ClassError::TooLong)
}

fn step(field: &'static str, given: u64, steps: &[u64], unit: u64) -> Result<u64, ClassError> {
    let fits = steps.iter().find(|step| given <= **step * unit);
    let largest = steps.last().map_or(0, |last| last * unit);
    fits.copied().ok_or(ClassError::TooMuch { field, given, largest })
}

/// What a class says. Only names that `class_of` makes can be read, so that one need has one lane.
pub fn read(class: &Class) -> Result<Meaning, ClassError> {
    match class.as_str() {
        Class::DEFAULT => return Ok(Meaning::Default),
        Class::ANY => return Ok(Meaning::Any),
        _ => {}
    }
    let mut asks = Asks::default();
    for part in class.as_str().split('+') {
        asks.take(part)
            .ok_or_else(|| ClassError::Unreadable { class: class.to_string(), part: part.to_owned() })?;
    }
    if class_of(&asks.upto)? != *class {
        let part = "the order or the steps of its parts".to_owned();
        return Err(ClassError::Unreadable { class: class.to_string(), part });
    }
    Ok(Meaning::Asks(asks))
}

impl Asks {
    fn take(&mut self, part: &str) -> Option<()> {
        if let Some((key, value)) = part.split_once('=') {
            let (key, value) = (key.replace('~', "."), value.replace('~', "."));
            check_constraint(&key, &value).ok()?;
            self.over.on.insert(key.clone(), value.clone());
            return self.upto.on.insert(key, value).is_none().then_some(());
        }
        if part == "x" {
            (self.upto.exclusive, self.over.exclusive) = (true, true);
            return Some(());
        }
        let amount: u64 = part.get(1..)?.parse().ok()?;
        match part.as_bytes().first()? {
            b'g' => {
                let gpus = u32::try_from(amount).ok()?;
                (self.upto.gpus, self.over.gpus) = (gpus, gpus);
            }
            b'v' => (self.over.vram_mb, self.upto.vram_mb) = range(amount, &VRAM_STEPS_GIB, GIB_MB)?,
            b'm' => (self.over.ram_mb, self.upto.ram_mb) = range(amount, &RAM_STEPS_GIB, GIB_MB)?,
            b'c' => {
                let (over, upto) = range(amount, &CPU_STEPS, 1)?;
                (self.over.cpus, self.upto.cpus) = (u32::try_from(over).ok()?, u32::try_from(upto).ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The step before, and this one.
fn range(amount: u64, steps: &[u64], unit: u64) -> Option<(u64, u64)> {
    let place = steps.iter().position(|step| *step == amount)?;
    let before = place.checked_sub(1).map_or(0, |place| steps[place]);
    Some((before * unit, amount * unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &str) -> ResourceRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn requests_are_rounded_up() {
        let said = |text: &str| class_of(&request(text)).unwrap().to_string();
        assert_eq!(said("{}"), "default");
        assert_eq!(said(r#"{"vram_mb":9000}"#), "g1+v12");
        assert_eq!(
            said(
                r#"{"gpus":2,"vram_mb":24576,"exclusive":true,"ram_mb":20000,"cpus":6,
                    "on":{"zone":"lab","compute":"8.0"}}"#
            ),
            "g2+v24+x+m32+c8+compute=8~0+zone=lab"
        );
        let error = class_of(&request(r#"{"vram_mb":400000}"#)).unwrap_err().to_string();
        assert_eq!(error, "`vram_mb` of 400000 exceeds the largest class (294912)");
    }

    #[test]
    fn only_canonical_names_are_read() {
        let bad = |text: &str| read(&Class::new(text).unwrap()).unwrap_err().to_string();
        for text in ["v24+g1", "g1+v23", "fast", "g1+g2", "g99", "g1+x+x", "zone=lab+zone=lab", "v24"] {
            assert!(bad(text).contains(text) || bad(text).contains("at most"), "{text}: {}", bad(text));
        }
        assert_eq!(read(&Class::any()).unwrap(), Meaning::Any);
    }

    proptest! {
        #[test]
        fn a_class_covers_every_request_that_it_is_made_for(
            gpus in 0u32..9, vram in 0u64..200_000, exclusive: bool, ram in 0u64..1_000_000, cpus in 0u32..300,
        ) {
            let asked = ResourceRequest { gpus, vram_mb: vram, exclusive, ram_mb: ram, cpus, on: Default::default() };
            let asked = ResourceRequest::default().raised(&asked);
            match read(&class_of(&asked).unwrap()).unwrap() {
                Meaning::Default => prop_assert!(asked.is_empty()),
                Meaning::Any => prop_assert!(false),
                Meaning::Asks(asks) => {
                    prop_assert!(asked.is_within(&asks.upto), "{asked:?} {asks:?}");
                    prop_assert!(asks.over.vram_mb < asked.vram_mb || asked.vram_mb == 0);
                    prop_assert_eq!(class_of(&asks.upto).unwrap(), class_of(&asked).unwrap());
                }
            }
        }
    }
}
