//! A farm whose server has the roles of `deploy/nats/roles.conf` and writes down what each user does.

use async_nats::{Client as Nats, ConnectOptions, Event};
use grange_broker_client::connect::{Broker, Options};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::NatsOptions;
use grange_local_farm::tools;
use grange_tests::{Agent, AgentPlan, Client, binary, eventually, repository};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(30);
const PASSWORD: &str = "secret";

/// The roles as they are deployed.
pub(crate) fn roles() -> String {
    std::fs::read_to_string(repository().join("deploy/nats/roles.conf")).unwrap()
}

/// A subject that a user used, or may use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) user: String,
    /// `publish` or `subscribe`.
    pub(crate) verb: &'static str,
    pub(crate) subject: String,
}

impl Use {
    pub(crate) fn new(user: &str, verb: &'static str, subject: &str) -> Self {
        Self { user: user.to_owned(), verb, subject: subject.to_owned() }
    }

    /// Whether another use lies within this one, whose subject may be a pattern.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        (&self.user, self.verb) == (&other.user, other.verb) && fits(&self.subject, &other.subject)
    }
}

/// Whether a subject, maybe with wildcards of its own, lies within a pattern.
fn fits(pattern: &str, subject: &str) -> bool {
    let (mut given, mut asked) = (pattern.split('.'), subject.split('.'));
    loop {
        match (given.next(), asked.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(given), Some(asked)) if given == asked => {}
            _ => return false,
        }
    }
}

/// Every permission that the roles give, in the words of the file.
pub(crate) fn permissions() -> Vec<Use> {
    let (mut user, mut verb, mut given) = (String::new(), "publish", Vec::new());
    for line in roles().lines().filter(|line| !line.trim_start().starts_with('#')) {
        if let Some((_, name)) = line.split_once("user: ") {
            name.split([',', ' ']).next().unwrap().clone_into(&mut user);
        }
        for word in ["publish", "subscribe"] {
            if line.contains(&format!("{word}: {{")) {
                verb = word;
            }
        }
        given.extend(line.split('"').skip(1).step_by(2).map(|subject| Use::new(&user, verb, subject)));
    }
    given
}

/// How a command of the CLI ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) struct Site {
    nats: NatsServer,
    folder: TempDir,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("grange-roles-").tempdir().unwrap();
        let server = tools::nats_server(&repository().join(".tools"), &|_| {}).unwrap();
        let mut options = NatsOptions::new(server, folder.path().join("nats"));
        let mut roles = roles();
        for role in ["NATS_SYSTEM", "GRANGE_ADMIN", "GRANGE_AGENT", "GRANGE_SUBMIT", "GRANGE_OBSERVE"] {
            roles = roles.replace(&format!("${role}_PASSWORD"), PASSWORD);
        }
        options.extra_config = format!("trace: true\n{roles}");
        options.death_shim = Some(["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec());
        let nats = NatsServer::start(&options).await.unwrap();
        Self { nats, folder }
    }

    /// The same with the streams, made by `grange init` as `admin`.
    pub(crate) async fn with_streams() -> Self {
        let site = Self::start().await;
        let made = site.grange("admin", "init --replicas 1").await;
        assert_eq!(made.code, Some(0), "{made:?}");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `grange` with these words as a user of the broker; the owner is `submit` unless they say otherwise.
    pub(crate) async fn grange(&self, user: &str, words: &str) -> Ended {
        let mut command = Command::new(binary("grange"));
        command.args(words.split(' ')).args(["--output", "quiet"]).kill_on_drop(true);
        command.env("GRANGE_BROKER", self.nats.url()).env("GRANGE_OWNER", "submit");
        command.env("GRANGE_BROKER_USER", user).env("GRANGE_BROKER_PASSWORD", PASSWORD);
        command.env("GRANGE_OBJECTS", format!("file://{}", self.path("objects").display()));
        command.env("GRANGE_STATE", self.path(user)).stdin(Stdio::null());
        let ended = tokio::time::timeout(SOON, command.output()).await;
        let output = ended.unwrap_or_else(|_| panic!("`grange {words}` as {user} did not end")).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The same, which must end with 0; gives what it wrote.
    pub(crate) async fn does(&self, user: &str, words: &str) -> String {
        let ended = self.grange(user, words).await;
        assert_eq!(ended.code, Some(0), "`grange {words}` as {user}: {ended:?}");
        ended.out
    }

    /// The same, which must be refused by the broker, and say so.
    pub(crate) async fn may_not(&self, user: &str, words: &str) {
        let Ended { code, out, err } = self.grange(user, words).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "`grange {words}` as {user}: {err}");
        assert!(err.contains("no permission for `"), "`grange {words}` as {user}: {err}");
    }

    pub(crate) fn agent(&self, name: &str, plugins: &[PathBuf]) -> Agent {
        let login = [("GRANGE_BROKER_USER", "agent"), ("GRANGE_BROKER_PASSWORD", PASSWORD)];
        AgentPlan {
            name: name.to_owned(),
            broker: self.nats.url(),
            objects: format!("file://{}", self.path("objects").display()),
            state: self.path(&format!("agent-{name}")),
            plugins: plugins.to_vec(),
            config: "[limits]\nowner_running_max = 50\n".to_owned(),
            environment: login.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        }
        .start()
    }

    /// Our own client as a user of the broker, for the jobs of the owner `submit`.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let options = Options {
            url: self.nats.url(),
            user: Some(user.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ..Options::default()
        };
        Client::new(Broker::connect(&options).await.unwrap(), "submit")
    }

    /// A foreign client as a user of the broker.
    pub(crate) async fn stranger(&self, user: &str) -> Stranger {
        let (told, errors) = mpsc::channel(64);
        let options = ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned());
        let options = options.custom_inbox_prefix(format!("_INBOX_{user}")).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                // Who does not listen any more does not want to know.
                let _ = told.try_send(error.to_string());
            }
            std::future::ready(())
        });
        Stranger { nats: options.connect(self.nats.url()).await.unwrap(), errors }
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read(self.nats.folder().join("nats-server.log")).unwrap();
        String::from_utf8_lossy(&log).lines().map(str::to_owned).collect()
    }

    /// What the users did, each thing once.
    pub(crate) fn used(&self) -> BTreeSet<Use> {
        self.log().iter().filter_map(|line| used(line)).collect()
    }

    /// Waits until a user did this; the subject may be a pattern.
    pub(crate) async fn sees(&self, what: &Use) {
        eventually(&format!("{what:?}"), SOON, async || {
            if self.used().iter().any(|used| what.covers(used)) { Ok(()) } else { Err("it was not seen") }
        })
        .await;
    }

    /// What the server refused: user, subject.
    pub(crate) fn refused(&self) -> BTreeSet<(String, String)> {
        let refused = |line: &String| {
            let (_, subject) = line.split_once(" Violation - ")?;
            Some((user(line)?.to_owned(), subject.split('"').nth(1)?.to_owned()))
        };
        self.log().iter().filter_map(refused).collect()
    }
}

/// The user whom a line of the server's log is about.
fn user(line: &str) -> Option<&str> {
    line.split_once("\"FARM/user:")?.1.split('"').next()
}

/// Reads `… - "FARM/user:submit" - <<- [PUB subject …]`.
fn used(line: &str) -> Option<Use> {
    let (_, operation) = line.split_once(" - <<- [")?;
    let mut words = operation.trim_end_matches(']').split(' ');
    let verb = match words.next()? {
        "PUB" | "HPUB" => "publish",
        "SUB" => "subscribe",
        _ => return None,
    };
    Some(Use::new(user(line)?, verb, words.next()?))
}

/// A client that is not ours, and what the server told it of its permissions.
pub(crate) struct Stranger {
    pub(crate) nats: Nats,
    errors: mpsc::Receiver<String>,
}

impl Stranger {
    /// Publishing there must be refused.
    pub(crate) async fn may_not_publish(&mut self, subject: &str) {
        self.nats.publish(subject.to_owned(), "{}".into()).await.unwrap();
        self.hears("Publish", subject).await;
    }

    /// Subscribing to it must be refused.
    pub(crate) async fn may_not_hear(&mut self, subject: &str) {
        let _ears = self.nats.subscribe(subject.to_owned()).await.unwrap();
        self.hears("Subscription", subject).await;
    }

    async fn hears(&mut self, what: &str, subject: &str) {
        let said = tokio::time::timeout(SOON, self.errors.recv()).await;
        let said = said.unwrap_or_else(|_| panic!("{what} to `{subject}` was let through")).unwrap();
        let wanted = format!("Permissions Violation for {what} to \"{subject}\"");
        assert!(said.contains(&wanted), "{said}, not {wanted}");
    }
}
