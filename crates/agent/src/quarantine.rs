//! GPUs out of service, on disk: an agent that starts again does not trust what its last life gave up. A host that starts
//! again does: the file says of which boot it is.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names this boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Reasons by GPU.
pub type Reasons = BTreeMap<String, String>;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    boot: String,
    gpus: Reasons,
}

/// The file. One that cannot be written costs only the memory of the next life.
#[derive(Debug)]
pub struct QuarantineFile {
    path: PathBuf,
    written: Written,
    /// What the last life left, and the dispatcher was not told yet: its GPU was not seen since.
    pub left: Reasons,
}

impl QuarantineFile {
    /// Reads what the last life left in this state folder.
    pub fn open(state_dir: &Path) -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self::of_boot(state_dir, boot)
    }

    fn of_boot(state_dir: &Path, boot: String) -> Self {
        let path = state_dir.join("quarantine.json");
        let found = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Written>(&text).ok());
        let left = found.filter(|found| found.boot == boot).unwrap_or_default().gpus;
        Self { path, written: Written { boot, gpus: left.clone() }, left }
    }

    /// Writes down what is out of service now, if that changed.
    pub fn keep(&mut self, mut now: Reasons) {
        now.extend(self.left.clone());
        if now == self.written.gpus {
            return;
        }
        self.written.gpus = now;
        let text = serde_json::to_vec_pretty(&self.written).expect("reasons are always JSON");
        let aside = self.path.with_extension("new");
        let done = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &self.path));
        if let Err(error) = done {
            tracing::warn!(path = %self.path.display(), %error, "quarantine not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(gpus: &[&str]) -> Reasons {
        gpus.iter().map(|gpu| ((*gpu).to_owned(), "XID 79".to_owned())).collect()
    }

    #[test]
    fn the_next_life_knows_and_the_next_boot_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = |boot: &str| QuarantineFile::of_boot(folder.path(), boot.to_owned());
        let mut file = open("one");
        assert_eq!(file.left, reasons(&[]));
        file.keep(reasons(&["a", "b"]));
        let mut next = open("one");
        assert_eq!(next.left, reasons(&["a", "b"]));
        next.left.remove("b");
        next.keep(reasons(&[]));
        assert_eq!(open("one").left, reasons(&["a"]), "`a` was not seen yet, and stays");
        assert_eq!(open("two").left, reasons(&[]));
    }

    #[test]
    fn a_file_that_is_none_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("quarantine.json"), "{").unwrap();
        assert!(QuarantineFile::of_boot(folder.path(), String::new()).left.is_empty());
    }
}
