//! A private Garage: the S3 server that `deploy/docker-compose.yml` has too. Its crate is built once into `.tools`.

use grange_tests::{eventually, repository};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const VERSION: &str = "2.5.0";
/// Who may use the bucket.
pub(crate) const KEY: &str = "GK0123456789abcdef01234567";
pub(crate) const SECRET: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2";
pub(crate) const BUCKET: &str = "grange";

/// `$GRANGE_TEST_GARAGE`, else the one in `.tools`, which is built where it is missing.
fn binary() -> PathBuf {
    if let Some(given) = std::env::var_os("GRANGE_TEST_GARAGE").filter(|given| !given.is_empty()) {
        return given.into();
    }
    let tools = repository().join(".tools");
    let home = tools.join(format!("garage-{VERSION}"));
    let program = home.join("bin").join("garage");
    std::fs::create_dir_all(&tools).expect("a folder for tools");
    let turn = File::create(tools.join("garage.lock")).expect("a lock file");
    turn.lock().expect("one build at a time");
    if !program.is_file() {
        build(&home);
    }
    program
}

/// Some minutes, once. Cargo says on the standard error what it does.
fn build(home: &Path) {
    let aside = repository().join("target").join("garage-build");
    let built = Command::new("cargo")
        .args(["install", "--locked", "--debug", "--no-default-features"])
        .args(["--features", "bundled-libs,lmdb", "--version", VERSION, "garage"])
        .arg("--root")
        .arg(home)
        .arg("--target-dir")
        .arg(&aside)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_INCREMENTAL", "false")
        .current_dir(repository())
        .status();
    assert!(built.is_ok_and(|status| status.success()), "`cargo install garage` failed");
    std::fs::remove_dir_all(aside).expect("what was built on the way can be removed");
}

/// A server with one bucket. Dropping it ends it.
pub(crate) struct Garage {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Garage {
    /// Starts one in `folder`, on free ports.
    pub(crate) async fn start(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder");
        let (port, rpc) = (free_port(), free_port());
        let (meta, data) = (folder.join("meta"), folder.join("data"));
        let config = format!(
            "metadata_dir = {meta:?}\ndata_dir = {data:?}\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{SECRET}\"\nlmdb_map_size = \"1G\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\n"
        );
        std::fs::write(folder.join("garage.toml"), config).expect("a configuration");
        let child = spawn(&folder);
        let mut garage = Self { folder, port, child };
        garage.comes_up().await;
        garage
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be reaped");
    }

    /// Starts it again, with what it had.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.folder);
        self.comes_up().await;
    }

    /// The port opens when key and bucket are made.
    async fn comes_up(&mut self) {
        let log = self.folder.join("garage.log");
        eventually("garage answers", Duration::from_secs(30), async || {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(self.child.try_wait().is_ok_and(|ended| ended.is_none()), "garage ended:\n{}", log());
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.map(drop).map_err(|_| log())
        })
        .await;
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("garage.log")).expect("a log");
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(binary())
        .arg("-c")
        .arg(folder.join("garage.toml"))
        .args(["server", "--single-node", "--default-bucket"])
        .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
        .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
        .env("GARAGE_DEFAULT_BUCKET", BUCKET)
        .env("RUST_LOG", "garage=warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("garage starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
