//! What `grange` keeps on this machine: where the farm of one is, and which job was submitted last.
//!
//! Owns the layout of the state folder. Never keeps a secret.

use crate::failure::Failure;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::subject::JobKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FARM_FILE: &str = "farm.json";
const LAST_JOB_FILE: &str = "last-job.json";

/// `farm.json`: how to reach the farm that `grange up` runs; there while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FarmFile {
    /// The broker's URL.
    pub(crate) broker: String,
    /// The object store's URL.
    pub(crate) objects: String,
    /// Who submits, where nothing else says it.
    pub(crate) owner: Owner,
    /// The broker's monitoring pages, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) monitor: Option<String>,
    /// The process of `grange up`.
    #[serde(default)]
    pub(crate) pid: u32,
}

#[derive(Serialize, Deserialize)]
struct LastJob {
    owner: Owner,
    job: JobId,
}

/// The folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// `--state`, else `GRANGE_STATE`, else `$XDG_STATE_HOME/grange`, else `~/.local/state/grange`.
    pub(crate) fn find(flag: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let set = |key: &str| env.get(key).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = flag
            .map(Path::to_owned)
            .or_else(|| set("GRANGE_STATE"))
            .or_else(|| {
                set("XDG_STATE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("grange"))
            })
            .or_else(|| set("HOME").map(|home| home.join(".local/state/grange")))
            .ok_or_else(|| Failure::usage("there is no HOME to keep the state in; give `--state DIR`"))?;
        let path = std::path::absolute(&path)
            .map_err(|e| Failure::system(format!("state folder `{}`", path.display()), &e))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folder; nobody else may look into it.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|e| {
            Failure::system(format!("state folder `{}` cannot be made", self.path.display()), &e)
        })
    }

    /// The farm of one that runs here, if one does.
    pub(crate) fn farm(&self) -> Result<Option<FarmFile>, Failure> {
        let path = self.join(FARM_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
                Failure::system(format!("`{}` cannot be read", path.display()), &e)
                    .hint("remove it, or start `grange up` again")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::system(format!("`{}` cannot be read", path.display()), &error)),
        }
    }

    pub(crate) fn write_farm(&self, farm: &FarmFile) -> Result<(), Failure> {
        self.write(FARM_FILE, &serde_json::to_vec_pretty(farm).expect("a farm file is always JSON")).map_err(
            |e| Failure::system(format!("`{}` cannot be written", self.join(FARM_FILE).display()), &e),
        )
    }

    pub(crate) fn remove_farm(&self) -> Result<(), Failure> {
        match fs::remove_file(self.join(FARM_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::system(
                format!("`{}` cannot be removed", self.join(FARM_FILE).display()),
                &error,
            )),
            _ => Ok(()),
        }
    }

    /// Remembers a job as `@last`. Only a convenience: a folder that cannot be written to is no error.
    pub(crate) fn remember(&self, key: &JobKey) {
        let last = LastJob { owner: key.owner.clone(), job: key.job.clone() };
        let text = serde_json::to_vec(&last).expect("a job's name is always JSON");
        if let Err(failure) = self.make() {
            tracing::debug!(failure.text, "the last job is not remembered");
        } else if let Err(error) = self.write(LAST_JOB_FILE, &text) {
            tracing::debug!(%error, "the last job is not remembered");
        }
    }

    pub(crate) fn last_job(&self) -> Result<JobKey, Failure> {
        let last: Option<LastJob> =
            fs::read(self.join(LAST_JOB_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let last = last.ok_or_else(|| {
            Failure::new(
                crate::failure::Exit::NotFound,
                "no job was submitted from here yet, so there is no `@last`",
            )
            .hint("`grange jobs` lists the jobs of the farm")
        })?;
        Ok(JobKey { owner: last.owner, job: last.job })
    }

    /// Whole or not at all.
    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let aside = self.join(&format!(".{name}.{}", std::process::id()));
        fs::write(&aside, text)?;
        fs::rename(aside, self.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_folder_is_found() {
        let find = |pairs: &[(&str, &str)]| StateFolder::find(None, &env(pairs)).unwrap().path;
        assert_eq!(find(&[("HOME", "/h")]), Path::new("/h/.local/state/grange"));
        assert_eq!(find(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]), Path::new("/x/grange"));
        assert_eq!(find(&[("GRANGE_STATE", "/s"), ("XDG_STATE_HOME", "/x")]), Path::new("/s"));
        assert!(StateFolder::find(None, &env(&[])).is_err());
    }

    #[test]
    fn farm_and_last_job_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::find(Some(&folder.path().join("a/b")), &env(&[])).unwrap();
        assert_eq!(state.farm(), Ok(None));
        assert!(state.last_job().unwrap_err().text.contains("@last"));
        let key = JobKey { owner: Owner::new("ann").unwrap(), job: JobId::new("j-1").unwrap() };
        state.remember(&key);
        assert_eq!(state.last_job(), Ok(key));
        let farm = FarmFile {
            broker: "nats://h:1".into(),
            objects: "file:///o".into(),
            owner: Owner::new("ann").unwrap(),
            monitor: None,
            pid: 1,
        };
        state.write_farm(&farm).unwrap();
        assert_eq!(state.farm(), Ok(Some(farm)));
        state.remove_farm().unwrap();
        state.remove_farm().unwrap();
        assert_eq!(state.farm(), Ok(None));
    }
}
