//! What goes first, and what the dispatcher has to know of the whole configuration: `[scheduling]`.

use super::{Config, ConfigError, Overrun};
use grange_dispatch::Reserve;
use serde::Deserialize;

/// What goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulingConfig {
    /// Tickets rise by one priority each time that the oldest of their queue has waited so long, seconds.
    pub age_after_s: u64,
    /// A job that needs more room than is ever free at once has room saved up for it once it has waited so long, seconds.
    pub save_after_s: u64,
}

impl Default for SchedulingConfig {
    fn default() -> Self {
        Self { age_after_s: 60, save_after_s: 10 }
    }
}

impl SchedulingConfig {
    pub(super) fn check(
        &self,
        range: &impl Fn(&'static str, u64, u64, u64) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        range("scheduling.age_after_s", self.age_after_s, 1, 86_400)?;
        range("scheduling.save_after_s", self.save_after_s, 1, 86_400)
    }
}

impl Config {
    /// What the dispatcher has to know of it.
    pub fn dispatch(&self) -> grange_dispatch::Config {
        grange_dispatch::Config {
            age_after_ms: self.scheduling.age_after_s * 1000,
            save_after_ms: self.scheduling.save_after_s * 1000,
            vram_return_ms: self.gpu.vram_return_s * 1000,
            overrun_slack_mb: self.gpu.overrun_slack_mb,
            overrun_kills: self.gpu.overrun == Overrun::Kill,
            reserve: Reserve {
                vram_mb: self.reserve.vram_mb,
                ram_mb: self.reserve.ram_mb,
                cpus: self.reserve.cpus,
            },
            owner_running_max: self.limits.owner_running_max,
            ..grange_dispatch::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::*;
    use std::collections::BTreeMap;

    fn read(text: &str) -> Result<Config, String> {
        Config::resolve(text, &BTreeMap::new(), &Flags::default(), "host").map_err(|e| e.to_string())
    }

    #[test]
    fn the_dispatcher_gets_what_the_file_says() {
        let text = "[reserve]\nvram_mb = 512\n[gpu]\noverrun = \"kill\"\nvram_return_s = 3\n\
                    [limits]\nowner_running_max = 4\n[scheduling]\nage_after_s = 5\nsave_after_s = 2\n";
        let config = read(text).unwrap().dispatch();
        assert_eq!((config.age_after_ms, config.save_after_ms, config.vram_return_ms), (5_000, 2_000, 3_000));
        assert_eq!(
            (config.reserve.vram_mb, config.overrun_kills, config.owner_running_max),
            (512, true, Some(4))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (text, key) in [
            ("[scheduling]\nage_after_s = 0", "`scheduling.age_after_s` is 0; it must be 1 to 86400"),
            ("[scheduling]\nsave_after_s = 100000", "scheduling.save_after_s"),
            ("[limits]\nowner_running_max = 0", "`limits.owner_running_max` is 0"),
            ("[limits]\nkeep_warm_s = 9000000", "limits.keep_warm_s"),
            ("[scheduling]\nage = 1", "age"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
