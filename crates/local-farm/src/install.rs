//! Owns: bringing a pinned package from the Python package index into a folder, with whatever installer the
//! machine has. Never decides which tool is needed, and never changes anything outside the folder it is given.
//!
//! The installers, in the order they are tried: uv; pip; the pip of a new virtual environment; the pip of
//! Debian's `python3-pip-whl`, downloaded with package lists of our own, so that no root is needed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::run_within;

const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const PREPARE_LIMIT: Duration = Duration::from_secs(300);
const PYTHON: &str = "python3";

/// The system's hooks tidy the system's folders, which needs root and is not ours to do.
const APT_WITHOUT_HOOKS: &str =
    "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n";
const APT_CONFIG: &str = "apt.conf";

/// What is wanted, and where.
pub(crate) struct Order<'a> {
    /// The package and the hashes of its wheels, as pip reads them.
    pub(crate) requirements: &'a str,
    /// An empty folder for everything that installing needs; the package comes into its `package` folder.
    pub(crate) staging: &'a Path,
    /// uv, if the machine has it.
    pub(crate) uv: Option<&'a Path>,
}

/// Installs and returns the folder of the package. The error says, installer by installer, why none worked.
pub(crate) fn install(order: &Order<'_>, report: &dyn Fn(&str)) -> Result<PathBuf, Vec<String>> {
    let mut refusals = Vec::new();
    let target = order.staging.join("package");
    let requirements = order.staging.join("requirements.txt");
    if let Err(source) = fs::write(&requirements, order.requirements) {
        return Err(vec![format!("cannot write `{}`: {source}", requirements.display())]);
    }
    let installers: [(&str, Prepare); 4] = [
        ("uv", |order| Ok(order.uv.map(with_uv))),
        ("pip", |_| Ok(Some(with_pip(PYTHON.as_ref(), None)))),
        ("pip of a virtual environment", |order| venv_pip(order.staging).map(Some)),
        ("pip of Debian's python3-pip-whl", |order| debian_pip(order.staging).map(Some)),
    ];
    for (name, prepare) in installers {
        let outcome = match prepare(order) {
            Ok(None) => continue,
            Ok(Some(command)) => install_by(command, &target, &requirements),
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(()) => return Ok(target),
            Err(reason) => {
                report(&format!("{name} could not install it, trying another way"));
                refusals.push(format!("{name}: {reason}"));
            }
        }
    }
    Err(refusals)
}

/// Makes an installer's command, or says why there is none.
type Prepare = fn(&Order<'_>) -> Result<Option<Command>, String>;

fn install_by(mut command: Command, target: &Path, requirements: &Path) -> Result<(), String> {
    if target.exists() {
        fs::remove_dir_all(target).map_err(|source| cannot("empty", target, &source))?;
    }
    command
        .args(["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target"])
        .arg(target)
        .arg("-r")
        .arg(requirements);
    run(&mut command, INSTALL_LIMIT)
}

fn with_uv(uv: &Path) -> Command {
    let mut command = Command::new(uv);
    command.args(["pip", "install", "--link-mode", "copy"]).env("UV_PYTHON_DOWNLOADS", "never");
    command
}

/// pip as a module of `python`, or out of a wheel. A user's `PIP_USER` or `PIP_REQUIRE_VIRTUALENV` would
/// contradict `--target`.
fn with_pip(python: &OsStr, wheel: Option<&Path>) -> Command {
    let mut command = Command::new(python);
    match wheel {
        Some(wheel) => command.arg(wheel.join("pip")),
        None => command.args(["-m", "pip"]),
    };
    command
        .args(["install", "--disable-pip-version-check", "--no-input", "--root-user-action", "ignore"])
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    command
}

fn venv_pip(staging: &Path) -> Result<Command, String> {
    let venv = staging.join("venv");
    run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv), PREPARE_LIMIT)?;
    Ok(with_pip(venv.join("bin").join(PYTHON).as_os_str(), None))
}

fn debian_pip(staging: &Path) -> Result<Command, String> {
    let folder = staging.join("debian");
    for part in ["state/lists/partial", "cache/archives/partial"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).map_err(|source| cannot("make", &part, &source))?;
    }
    let config = folder.join(APT_CONFIG);
    fs::write(&config, APT_WITHOUT_HOOKS).map_err(|source| cannot("write", &config, &source))?;
    run(apt_get(&folder).arg("update"), PREPARE_LIMIT)?;
    run(apt_get(&folder).args(["download", "python3-pip-whl"]), PREPARE_LIMIT)?;
    let package = file_ending(&folder, ".deb")?;
    let unpacked = folder.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked), PREPARE_LIMIT)?;
    let wheels = unpacked.join("usr/share/python-wheels");
    Ok(with_pip(PYTHON.as_ref(), Some(&file_ending(&wheels, ".whl")?)))
}

/// apt-get with lists and a cache of its own: it needs no root and leaves the system's as they are.
fn apt_get(folder: &Path) -> Command {
    let option = |key: &str, part: &str| format!("{key}={}", folder.join(part).display());
    let mut command = Command::new("apt-get");
    command
        .arg("-qq")
        .args(["-c", APT_CONFIG])
        .args(["-o", &option("Dir::State", "state")])
        .args(["-o", "Dir::State::status=/var/lib/dpkg/status"])
        .args(["-o", &option("Dir::Cache", "cache")])
        .args(["-o", "APT::Sandbox::User=root"])
        .current_dir(folder);
    command
}

fn file_ending(folder: &Path, ending: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|source| cannot("list", folder, &source))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with(ending))
        .ok_or_else(|| format!("no file `*{ending}` in `{}`", folder.display()))
}

fn run(command: &mut Command, limit: Duration) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match run_within(command, limit) {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(format!("`{program}` ended with {}: {}", ended.status, ended.output)),
        Err(error) => Err(format!("`{program}` {error}")),
    }
}

fn cannot(verb: &str, path: &Path, source: &io::Error) -> String {
    format!("cannot {verb} `{}`: {source}", path.display())
}
