//! Prints where the tools of a farm are, one `name=path` a line, and installs those that are missing.
//!
//! For the project's own build (`make`); a user never needs it. `grange-tools --state FOLDER [TOOL...]` with the
//! tools `nats-server` and `uv`, both when none is named.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use grange_local_farm::tools::{nats_server, uv};

const USAGE: &str = "usage: grange-tools --state FOLDER [nats-server] [uv]";

fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), String> {
    let [flag, state, names @ ..] = arguments.as_slice() else { return Err(USAGE.to_owned()) };
    if flag != "--state" {
        return Err(USAGE.to_owned());
    }
    let both = [OsString::from("nats-server"), OsString::from("uv")];
    for name in if names.is_empty() { &both } else { names } {
        let path = tool(name.to_str(), Path::new(state))?;
        writeln!(io::stdout(), "{}={}", name.display(), path.display()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn tool(name: Option<&str>, state: &Path) -> Result<PathBuf, String> {
    match name {
        Some("nats-server") => nats_server(state, &say),
        Some("uv") => uv(state, &say),
        _ => return Err(USAGE.to_owned()),
    }
    .map_err(|error| error.to_string())
}

/// Nothing can be done when stderr is closed.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "grange-tools: {line}");
}
