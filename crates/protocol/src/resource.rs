//! What a run needs of a host. Amounts are integers; what a host has is in `capacity`, whether both fit in `fit`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most GPUs that one worker may ask for.
pub const MAX_GPUS: u32 = 64;
/// Most memory that may be asked for, MiB: 16 TiB.
pub const MAX_MB: u64 = 1 << 24;
/// Most cores that may be asked for.
pub const MAX_CPUS: u32 = 4096;
/// Most constraints.
pub const MAX_CONSTRAINTS: usize = 16;
/// Longest key or value of a constraint, bytes.
pub const MAX_CONSTRAINT_BYTES: usize = 48;

/// Constraint: the GPU's model has this in its name.
pub const ON_GPU: &str = "gpu";
/// Constraint: the GPU's compute capability is this or higher.
pub const ON_COMPUTE: &str = "compute";
/// Constraint: the driver's version is this or higher.
pub const ON_DRIVER: &str = "driver";
/// Constraint: the agent's name. Every other key is a label that an operator gave the host.
pub const ON_HOST: &str = "host";

/// What one worker of a plugin takes from a host; or what a job asks for beyond that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, try_from = "Written")]
pub struct ResourceRequest {
    /// Number of GPUs.
    pub gpus: u32,
    /// Memory on each of those GPUs, MiB. 0 with GPUs: as much as was seen before, and where nothing was seen yet, all.
    pub vram_mb: u64,
    /// Nobody else on those GPUs.
    pub exclusive: bool,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
    /// What the host or its GPUs must be: `gpu`, `compute`, `driver`, `host`, or a label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub on: BTreeMap<String, String>,
}

/// Why a request cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// More than anything has.
    #[error("`{field}` is {given}; at most {most} can be asked for")]
    Absurd {
        /// Which amount.
        field: &'static str,
        /// What was given.
        given: u64,
        /// The limit.
        most: u64,
    },
    /// Two amounts exclude each other.
    #[error("`{field}` is asked for together with `gpus` 0; ask for a GPU, or leave it out")]
    NoGpu {
        /// What needs a GPU.
        field: &'static str,
    },
    /// Not a constraint.
    #[error("constraint `{key}={value}`: {why}")]
    Constraint {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Too many.
    #[error("{0} constraints; at most {MAX_CONSTRAINTS} can be given")]
    TooManyConstraints(usize),
}

/// The fields as people write them: Grange's own, and the three of cjm-plugin-system. Its two recommendations are read
/// and left alone, as it does itself. Any other key is refused.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    gpus: Option<u32>,
    vram_mb: u64,
    exclusive: bool,
    ram_mb: u64,
    cpus: u32,
    on: BTreeMap<String, String>,
    requires_gpu: bool,
    min_gpu_vram_mb: u64,
    min_system_ram_mb: u64,
    #[serde(rename = "recommended_gpu_vram_mb")]
    _recommended_vram: serde::de::IgnoredAny,
    #[serde(rename = "recommended_system_ram_mb")]
    _recommended_ram: serde::de::IgnoredAny,
}

impl TryFrom<Written> for ResourceRequest {
    type Error = ResourceError;

    fn try_from(written: Written) -> Result<Self, ResourceError> {
        // There, GPU memory counts only for a plugin that says it requires a GPU.
        let theirs = if written.requires_gpu { written.min_gpu_vram_mb } else { 0 };
        let vram_mb = written.vram_mb.max(theirs);
        let of_a_gpu = asks_of_a_gpu(&written.on);
        let needs_one = vram_mb > 0 || written.exclusive || written.requires_gpu || of_a_gpu.is_some();
        if written.gpus == Some(0) && needs_one {
            let other = if written.requires_gpu { "requires_gpu" } else { of_a_gpu.unwrap_or("exclusive") };
            let field = if vram_mb > 0 { "vram_mb" } else { other };
            return Err(ResourceError::NoGpu { field });
        }
        let request = Self {
            gpus: written.gpus.unwrap_or(0).max(u32::from(needs_one)),
            vram_mb,
            exclusive: written.exclusive,
            ram_mb: written.ram_mb.max(written.min_system_ram_mb),
            cpus: written.cpus,
            on: written.on,
        };
        request.check()?;
        Ok(request)
    }
}

impl ResourceRequest {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses amounts and constraints that cannot be meant.
    pub fn check(&self) -> Result<(), ResourceError> {
        let amounts = [
            ("gpus", self.gpus.into(), MAX_GPUS.into()),
            ("vram_mb", self.vram_mb, MAX_MB),
            ("ram_mb", self.ram_mb, MAX_MB),
            ("cpus", self.cpus.into(), MAX_CPUS.into()),
        ];
        if let Some((field, given, most)) = amounts.into_iter().find(|(_, given, most)| given > most) {
            return Err(ResourceError::Absurd { field, given, most });
        }
        if self.on.len() > MAX_CONSTRAINTS {
            return Err(ResourceError::TooManyConstraints(self.on.len()));
        }
        self.on.iter().try_for_each(|(key, value)| check_constraint(key, value))
    }

    /// What a job needs: the plugin's request, raised to what the job asks for. Where both constrain one thing, the job's
    /// word holds.
    #[must_use]
    pub fn raised(&self, job: &Self) -> Self {
        let vram_mb = self.vram_mb.max(job.vram_mb);
        let exclusive = self.exclusive || job.exclusive;
        let mut on = self.on.clone();
        on.extend(job.on.clone());
        Self {
            gpus: self
                .gpus
                .max(job.gpus)
                .max(u32::from(vram_mb > 0 || exclusive || asks_of_a_gpu(&on).is_some())),
            vram_mb,
            exclusive,
            ram_mb: self.ram_mb.max(job.ram_mb),
            cpus: self.cpus.max(job.cpus),
            on,
        }
    }

    /// Whether nothing of this exceeds `other`; constraints must be the same.
    pub fn is_within(&self, other: &Self) -> bool {
        self.gpus <= other.gpus
            && self.vram_mb <= other.vram_mb
            && self.exclusive <= other.exclusive
            && self.ram_mb <= other.ram_mb
            && self.cpus <= other.cpus
            && self.on == other.on
    }
}

/// A constraint that only a GPU can meet.
fn asks_of_a_gpu(on: &BTreeMap<String, String>) -> Option<&'static str> {
    [ON_GPU, ON_COMPUTE].into_iter().find(|key| on.contains_key(*key))
}

/// Reads a request that another program tells of, not asks for: what a newer one added is left out.
pub fn lenient<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ResourceRequest, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Told {
        gpus: u32,
        vram_mb: u64,
        exclusive: bool,
        ram_mb: u64,
        cpus: u32,
        on: BTreeMap<String, String>,
    }
    let Told { gpus, vram_mb, exclusive, ram_mb, cpus, on } = Told::deserialize(from)?;
    let told = ResourceRequest { gpus, vram_mb, exclusive, ram_mb, cpus, on };
    Ok(ResourceRequest::default().raised(&told))
}

/// Keys and values stand in a subject's token as well, so they are short and plain.
pub fn check_constraint(key: &str, value: &str) -> Result<(), ResourceError> {
    let wrong = |why| {
        let (key, value) = (key.to_owned(), value.to_owned());
        Err(ResourceError::Constraint { key, value, why })
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    if key.is_empty() || value.is_empty() {
        return wrong("write it as `key=value`, e.g. `gpu=a100` or `zone=lab`");
    }
    if key.len() > MAX_CONSTRAINT_BYTES || value.len() > MAX_CONSTRAINT_BYTES {
        return wrong("key and value have at most 48 bytes each");
    }
    if !key.chars().chain(value.chars()).all(plain) {
        return wrong("letters, digits, `-`, `_` and `.` are allowed");
    }
    match key {
        ON_COMPUTE | ON_DRIVER if numbers(value).is_none() => wrong("write a version, e.g. `8.0`"),
        _ => Ok(()),
    }
}

/// The numbers of a version such as `535.104.05`; None: it is not one.
pub fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ResourceRequest, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn amounts_are_read() {
        let request =
            read(r#"{"gpus":2,"vram_mb":8192,"ram_mb":1024,"cpus":4,"on":{"zone":"lab"}}"#).unwrap();
        assert_eq!((request.gpus, request.vram_mb, request.cpus), (2, 8192, 4));
        assert_eq!(read(r#"{"vram_mb":8192}"#).unwrap().gpus, 1, "memory needs a GPU");
        assert_eq!(read(r#"{"exclusive":true}"#).unwrap().gpus, 1);
        assert_eq!(read(r#"{"on":{"gpu":"a100"}}"#).unwrap().gpus, 1, "a model is a GPU's");
        assert!(read("{}").unwrap().is_empty());
    }

    #[test]
    fn the_seeds_keys_are_read_as_they_are() {
        let cjm = r#"{"requires_gpu":true,"min_gpu_vram_mb":4096,"min_system_ram_mb":8192,
            "recommended_gpu_vram_mb":9999}"#;
        let request = read(cjm).unwrap();
        assert_eq!((request.gpus, request.vram_mb, request.ram_mb), (1, 4096, 8192));
        let without = read(r#"{"requires_gpu":false,"min_gpu_vram_mb":4096}"#).unwrap();
        assert_eq!((without.gpus, without.vram_mb), (0, 0));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (text, said) in [
            (r#"{"vramm_mb":1}"#, "vramm_mb"),
            (r#"{"gpus":0,"vram_mb":1}"#, "`vram_mb` is asked for together with `gpus` 0"),
            (r#"{"gpus":0,"requires_gpu":true}"#, "`gpus` 0"),
            (r#"{"gpus":0,"on":{"gpu":"a100"}}"#, "`gpu` is asked for together with `gpus` 0"),
            (r#"{"gpus":65}"#, "`gpus` is 65; at most 64"),
            (r#"{"vram_mb":99999999999}"#, "`vram_mb` is 99999999999"),
            (r#"{"ram_mb":-1}"#, "-1"),
            (r#"{"cpus":5000}"#, "at most 4096"),
            (r#"{"on":{"zone":"a b"}}"#, "constraint `zone=a b`"),
            (r#"{"on":{"zone":""}}"#, "key=value"),
            (r#"{"on":{"driver":"new"}}"#, "write a version"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_job_raises_its_plugins_request_and_never_lowers_it() {
        let plugin = read(r#"{"gpus":1,"vram_mb":8192,"on":{"gpu":"a100","zone":"lab"}}"#).unwrap();
        let job = read(r#"{"vram_mb":4096,"ram_mb":100,"on":{"gpu":"h100"}}"#).unwrap();
        let raised = plugin.raised(&job);
        assert_eq!((raised.gpus, raised.vram_mb, raised.ram_mb), (1, 8192, 100));
        assert_eq!((raised.on["gpu"].as_str(), raised.on["zone"].as_str()), ("h100", "lab"));
        assert_eq!(ResourceRequest::default().raised(&job).gpus, 1);
    }
}
