//! Networks in which hosts can be cut off: namespaces of the kernel, joined by a switch.
//!
//! Owns: the network of one test, its hosts and their links. Never touches the machine's own network: the whole test runs
//! in a namespace of its own, nothing in it has a name outside, and the kernel takes it away with its last process.

use crate::farm::death_shim;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Set where a test runs in a network of its own.
const INSIDE: &str = "GRANGE_TEST_OWN_NETWORK";
const SWITCH: &str = "switch";
const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The last number of the first host's address.
const FIRST_HOST: u8 = 11;
/// What one has to say to get a network of one's own: as root, and as anybody where that is allowed.
const WAYS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];

/// Runs the test `name` of this program, which is the caller, again in a network of its own. True: this is that run, go on
/// with the test. False: it has passed, or cannot be done here, which stderr is told. When it fails, so does the caller.
#[must_use]
pub fn own_network(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let way = match way_in() {
        Ok(way) => way,
        Err(why) => {
            // Not the macro: what that writes is kept back when a test passes.
            let _ = writeln!(std::io::stderr(), "test {name} is skipped: {why}");
            return false;
        }
    };
    let ended = Command::new("unshare")
        .args(way)
        .arg("--")
        .args(death_shim())
        .arg(env::current_exe().expect("a test has an executable"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("`unshare` is there");
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(ended.status.success(), "in its own network the test failed");
    assert!(said.contains("1 passed"), "no test of this program is called `{name}`");
    false
}

/// How to get a network of one's own here.
fn way_in() -> Result<&'static [&'static str], String> {
    let mut last = String::new();
    for way in WAYS {
        // Everything that the test will do once.
        let trial =
            format!("ip link add name {SWITCH} type bridge && ip link add name one type veth peer name two");
        let tried = Command::new("unshare").args(way).args(["--", "sh", "-c", &trial]).output();
        match tried {
            Ok(ended) if ended.status.success() => return Ok(way),
            Ok(ended) => String::from_utf8_lossy(&ended.stderr).trim().clone_into(&mut last),
            Err(error) => last = format!("`unshare` cannot be started: {error}"),
        }
    }
    Err(format!("it needs network namespaces (CAP_NET_ADMIN) and `ip` (package iproute2): {last}"))
}

/// A switch, with an address of this test's process on it.
pub struct Network {
    hosts: u8,
}

impl Network {
    /// Makes it. Only where [`own_network`] said so.
    pub fn new() -> Self {
        assert!(env::var_os(INSIDE).is_some(), "a test asks for `own_network` first");
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "name", SWITCH, "type", "bridge"]);
        ip(&["address", "add", &format!("{SWITCH_ADDRESS}/24"), "dev", SWITCH]);
        ip(&["link", "set", SWITCH, "up"]);
        Self { hosts: 0 }
    }

    /// Where the test's own process listens, for all hosts.
    pub fn address(&self) -> Ipv4Addr {
        SWITCH_ADDRESS
    }

    /// One more host, linked to the switch.
    pub fn host(&mut self) -> HostNetwork {
        let (port, [a, b, c, _]) = (format!("port{}", self.hosts), SWITCH_ADDRESS.octets());
        let address = Ipv4Addr::new(a, b, c, FIRST_HOST + self.hosts);
        self.hosts += 1;
        // It lives until its standard input ends, so at the latest when this process does.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo there && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` is there");
        let said = BufReader::new(holder.stdout.take().expect("it is a pipe"));
        let host = HostNetwork { holder, port, address };
        host.link(said);
        host
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// The network of one host. Dropping it takes it away, once no process is in it any more.
pub struct HostNetwork {
    holder: Child,
    port: String,
    address: Ipv4Addr,
}

impl HostNetwork {
    fn link(&self, mut said: BufReader<ChildStdout>) {
        let mut line = String::new();
        said.read_line(&mut line).expect("it can be read");
        assert_eq!(line.trim(), "there", "a network namespace is made");
        let pid = self.holder.id().to_string();
        ip(&["link", "add", "name", &self.port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        ip(&["link", "set", &self.port, "master", SWITCH]);
        self.mend();
        let address = format!("{}/24", self.address);
        for words in [["address", "add", &address, "dev", "eth0"], ["link", "set", "dev", "eth0", "up"]] {
            let mut all = self.command();
            all.push("ip".into());
            all.extend(words.map(Into::into));
            done(&all);
        }
    }

    /// What is put before a command that is to be run in it; that command keeps the process number.
    pub fn command(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.holder.id()).into(), "--".into()]
    }

    /// Takes the cable out of the switch: nothing goes through, and nobody is told.
    pub fn cut(&self) {
        ip(&["link", "set", &self.port, "down"]);
    }

    /// Puts it back.
    pub fn mend(&self) {
        ip(&["link", "set", &self.port, "up"]);
    }

    /// Whether a process is in this network.
    pub fn has(&self, pid: u32) -> bool {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        of(pid).is_some() && of(pid) == of(self.holder.id())
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn ip(words: &[&str]) {
    let all: Vec<&OsStr> = [OsStr::new("ip")].into_iter().chain(words.iter().map(OsStr::new)).collect();
    done(&all);
}

fn done(words: &[impl AsRef<OsStr>]) {
    let all: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
    let ended = Command::new(all[0]).args(&all[1..]).output().expect("the command is there");
    assert!(ended.status.success(), "{all:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
