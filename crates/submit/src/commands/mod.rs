//! One file per command: its flags, and what it does.

pub(crate) mod agents;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod cron;
pub(crate) mod doctor;
pub(crate) mod exec_child;
pub(crate) mod init;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod plugins;
pub(crate) mod priority;
pub(crate) mod result;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod up;
pub(crate) mod usage;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod why;
