//! How a worker's process tree ended, and what that says of a worker that never was ready.

use crate::cage::Bounds;
use crate::supervise::{Excess, Report};
use grange_protocol::failure::{Failure, FailureKind};

/// A worker's process tree is gone.
#[derive(Debug)]
pub struct Gone {
    /// What the supervisor said last.
    pub report: Option<Report>,
    /// The end of its standard error.
    pub stderr: String,
    /// What it was allowed to use.
    pub bounds: Bounds,
}

impl Gone {
    /// Exit status and signal.
    pub fn status(&self) -> (Option<i32>, Option<i32>) {
        match &self.report {
            Some(Report::Ended { code, signal, .. }) => (*code, *signal),
            Some(Report::Started(_) | Report::NotStarted(_)) | None => (None, None),
        }
    }

    /// Whether its supervisor ended it: told to, or because the deadline passed.
    pub fn was_killed(&self) -> bool {
        matches!(self.report, Some(Report::Ended { killed: true, .. }))
    }

    /// Of what it used more than it may, told as a failure.
    pub fn excess_failure(&self, plugin: &str) -> Option<Failure> {
        let Some(Report::Ended { excess: Some(excess), peak_ram_mb, .. }) = &self.report else { return None };
        let amount = |most: Option<u64>| most.map_or_else(|| "its share".to_owned(), |most| most.to_string());
        let (kind, text) = match excess {
            Excess::Memory => {
                let most = amount(self.bounds.memory_mb);
                let text = format!(
                    "the worker of `{plugin}` used more than {most} MiB of host memory; ask for more `ram_mb`, or raise \
                     `limits.memory_mb` of its manifest"
                );
                (FailureKind::OutOfMemory, text)
            }
            Excess::Scratch => {
                let most = amount(self.bounds.scratch_mb);
                let text = format!(
                    "the worker of `{plugin}` put more than {most} MiB into its scratch folder; write less, or raise \
                     `isolation.scratch_max_mb` of this host"
                );
                (FailureKind::OutOfDisk, text)
            }
            Excess::Processes => {
                let most = amount(self.bounds.processes);
                let text = format!(
                    "the worker of `{plugin}` had more than {most} processes; start fewer, or raise \
                     `isolation.processes_max` of this host"
                );
                (FailureKind::OverLimit, text)
            }
        };
        let mut failure = Failure::new(kind, text);
        (failure.exit_code, failure.signal) = self.status();
        failure.peak_ram_mb = *peak_ram_mb;
        failure.stderr = (!self.stderr.is_empty()).then(|| self.stderr.clone());
        Some(failure)
    }

    /// The most host memory that was seen in use, MiB.
    pub fn peak_ram_mb(&self) -> Option<u64> {
        match &self.report {
            Some(Report::Ended { peak_ram_mb, .. }) => *peak_ram_mb,
            Some(Report::Started(_) | Report::NotStarted(_)) | None => None,
        }
    }

    /// Why a worker that never was ready did not come up.
    pub fn start_failure(&self, plugin: &str) -> Failure {
        if let Some(failure) = self.excess_failure(plugin) {
            return failure;
        }
        let how = match &self.report {
            Some(Report::NotStarted(why)) => why.clone(),
            Some(report) => format!("its process {}", crate::journal::describe(report)),
            None => "its supervisor ended without a word".to_owned(),
        };
        let mut failure = Failure::new(
            FailureKind::StartFailed,
            format!("the worker of `{plugin}` did not come up: {how}"),
        );
        (failure.exit_code, failure.signal) = self.status();
        failure.stderr = (!self.stderr.is_empty()).then(|| self.stderr.clone());
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(excess: Option<Excess>) -> Gone {
        let report =
            Report::Ended { code: None, signal: Some(9), killed: true, excess, peak_ram_mb: Some(65) };
        let bounds = Bounds { memory_mb: Some(64), ..Bounds::default() };
        Gone { report: Some(report), stderr: String::new(), bounds }
    }

    #[test]
    fn too_much_memory_is_told_with_its_figures() {
        let failure = gone(Some(Excess::Memory)).excess_failure("p").unwrap();
        assert_eq!((failure.kind, failure.peak_ram_mb), (FailureKind::OutOfMemory, Some(65)));
        assert!(failure.message.contains("64 MiB") && failure.message.contains("`p`"), "{failure}");
        assert_eq!(gone(Some(Excess::Scratch)).excess_failure("p").unwrap().kind, FailureKind::OutOfDisk);
        assert!(gone(None).excess_failure("p").is_none());
    }
}
