//! The universal worker's source, carried in the agent's own binary and laid out on disk once per version.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

macro_rules! source {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../worker/grange_worker/", $name)))),*]
    };
}

/// Every file of the package.
const FILES: [(&str, &str); 17] = source![
    "__init__.py",
    "__main__.py",
    "failures.py",
    "host.py",
    "introspect.py",
    "link.py",
    "load.py",
    "output.py",
    "plugin.py",
    "progress.py",
    "reading.py",
    "runs.py",
    "schedule.py",
    "scope.py",
    "stats.py",
    "streaming.py",
    "values.py",
];

/// Lays the package out under `state` and says where: the folder to run with an interpreter.
pub fn lay_out(state: &Path) -> std::io::Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, text) in FILES {
        hash.update(name.as_bytes());
        hash.update(text.as_bytes());
    }
    let version = &hex::encode(hash.finalize())[..16];
    let folder = state.join("worker").join(version);
    let package = folder.join("grange_worker");
    if package.join(".ready").exists() {
        return Ok(package);
    }
    std::fs::create_dir_all(&package)?;
    for (name, text) in FILES {
        std::fs::write(package.join(name), text)?;
    }
    std::fs::write(package.join(".ready"), "")?;
    Ok(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_package_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../worker/grange_worker");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().into_string().ok())
            .filter(|name| name.ends_with(".py"))
            .collect();
        there.sort();
        assert_eq!(there, FILES.map(|(name, _)| name.to_owned()).to_vec());
    }
}
