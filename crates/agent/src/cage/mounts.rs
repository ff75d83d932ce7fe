//! Where the kernel's control groups lie: what `/proc/self/mountinfo` and `/proc/self/cgroup` say.
//!
//! Pure: texts in, folders out.

use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// What of the hierarchy is mounted.
    root: String,
    /// Where.
    point: PathBuf,
    /// `cgroup` or `cgroup2`.
    kind: String,
    /// Controllers, among other options.
    options: Vec<String>,
}

/// The calling process's own groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// In the hierarchy of version 2.
    pub(super) unified: Option<PathBuf>,
    /// In version 1's for memory.
    pub(super) memory: Option<PathBuf>,
    /// In version 1's for the number of processes.
    pub(super) pids: Option<PathBuf>,
}

/// Finds the own groups.
pub(super) fn own(mountinfo: &str, cgroup: &str) -> Own {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(mount).collect();
    let mut own = Own::default();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let has = |name: &str| controllers.split(',').any(|one| one == name);
        if controllers.is_empty() {
            let found = mounts.iter().find(|mount| mount.kind == "cgroup2");
            own.unified = found.map(|mount| folder(mount, path));
        }
        for (name, place) in [("memory", &mut own.memory), ("pids", &mut own.pids)] {
            let found = mounts
                .iter()
                .find(|mount| mount.kind == "cgroup" && mount.options.iter().any(|one| one == name));
            if let Some(mount) = found.filter(|_| has(name)) {
                *place = Some(folder(mount, path));
            }
        }
    }
    own
}

fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1).unwrap_or_default());
    let plain = |text: &str| text.replace("\\040", " ");
    kind.starts_with("cgroup").then(|| Mount {
        root: plain(root),
        point: plain(point).into(),
        kind: kind.to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// A group's folder. One that lies outside of what is mounted is seen through the mount's own top.
fn folder(mount: &Mount, path: &str) -> PathBuf {
    let below = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain { mount.point.join(below) } else { mount.point.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host() {
        let mounts = "30 20 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            31 20 0:26 / /sys/fs/cgroup/pids rw,relatime shared:4 - cgroup cgroup rw,pids\n\
            32 20 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            33 20 0:28 / /tmp rw - tmpfs tmpfs rw";
        let found = own(mounts, "9:name=systemd:/x\n8:pids:/\n4:memory:/a/b\n0::/\n");
        assert_eq!(found.memory, Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(found.pids, Some("/sys/fs/cgroup/pids/".into()));
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified/".into()));
    }

    #[test]
    fn version_2_alone_and_in_a_container() {
        let host = "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let found = own(host, "0::/system.slice/grange.service\n");
        assert_eq!(found.unified, Some("/sys/fs/cgroup/system.slice/grange.service".into()));
        assert_eq!((found.memory, found.pids), (None, None));
        let container = "30 20 0:25 /docker/ab /sys/fs/cgroup rw - cgroup2 cgroup rw";
        let seen = |path: &str| own(container, &format!("0::{path}\n")).unified;
        assert_eq!(seen("/docker/ab/in"), Some("/sys/fs/cgroup/in".into()));
        assert_eq!(seen("/elsewhere"), Some("/sys/fs/cgroup".into()));
        assert_eq!(seen("/docker/ab/../../x"), Some("/sys/fs/cgroup".into()));
        assert_eq!(own("", "0::/\n"), Own::default());
    }
}
