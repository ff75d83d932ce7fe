//! Which farm, which store, whose jobs: resolved once from flags, environment and `farm.json`.
//!
//! Resolution is a function of its arguments: tests never touch the process's environment.

use crate::cli::GlobalFlags;
use crate::failure::{Exit, Failure};
use crate::state_folder::{FarmFile, StateFolder};
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::objects::Objects;
use grange_broker_client::query;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::subject::JobKey;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The word for the job that was submitted last.
const LAST: &str = "@last";

/// Where the broker's address came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Given,
    FarmFile,
    Default,
}

/// Everything that a command needs to know before it connects.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) state: StateFolder,
    pub(crate) broker: Options,
    pub(crate) source: Source,
    pub(crate) objects_url: Option<String>,
    /// `--objects`, where it was given.
    pub(crate) objects_flag: Option<String>,
    /// Who submits.
    pub(crate) owner: Owner,
    /// `--owner`, where it was given: then only this owner's jobs are looked at.
    pub(crate) only_owner: Option<Owner>,
    /// The farm of one that runs on this machine, if it is the one in use.
    pub(crate) farm: Option<FarmFile>,
}

/// A connection with what commands do over it.
pub(crate) struct Session {
    pub(crate) broker: Broker,
    pub(crate) ledger: Ledger,
}

/// A job as people name it: an id, its beginning, `owner/id`, or `@last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobArgument {
    Last,
    Id { owner: Option<Owner>, id: JobId },
}

impl FromStr for JobArgument {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == LAST {
            return Ok(Self::Last);
        }
        let (owner, id) = match text.split_once('/') {
            Some((owner, id)) => (Some(Owner::new(owner).map_err(|e| e.to_string())?), id),
            None => (None, text),
        };
        Ok(Self::Id { owner, id: JobId::new(id).map_err(|e| e.to_string())? })
    }
}

impl Context {
    /// Resolves flags over environment over `farm.json`. `login` is the name of this process's user.
    pub(crate) fn resolve(
        flags: &GlobalFlags,
        environment: BTreeMap<String, String>,
        login: &str,
    ) -> Result<Self, Failure> {
        let get = |key: &str| environment.get(key).filter(|value| !value.is_empty()).cloned();
        let state = StateFolder::find(flags.state.as_deref(), &environment)?;
        let given = flags.broker.clone().or_else(|| get("GRANGE_BROKER"));
        let farm = if given.is_none() { state.farm()? } else { None };
        let (url, source) = match (given, &farm) {
            (Some(url), _) => (url, Source::Given),
            (None, Some(farm)) => (farm.broker.clone(), Source::FarmFile),
            (None, None) => (Options::default().url, Source::Default),
        };
        // Credentials are for the broker that was given; the farm of one asks for none.
        let secret = |key: &str| if source == Source::FarmFile { None } else { get(key) };
        let broker = Options {
            url,
            user: secret("GRANGE_BROKER_USER"),
            password: secret("GRANGE_BROKER_PASSWORD"),
            token: secret("GRANGE_BROKER_TOKEN"),
            creds_file: secret("GRANGE_BROKER_CREDS").map(Into::into),
            name: "grange".to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            ..Options::default()
        };
        let owner_from_environment = match get("GRANGE_OWNER") {
            Some(name) => Some(Owner::new(&name).map_err(|e| Failure::usage(format!("GRANGE_OWNER: {e}")))?),
            None => None,
        };
        let owner = flags
            .owner
            .clone()
            .or(owner_from_environment)
            .or_else(|| farm.as_ref().map(|farm| farm.owner.clone()))
            .unwrap_or_else(|| tidy_owner(login));
        let objects_url = flags
            .objects
            .clone()
            .or_else(|| get("GRANGE_OBJECTS"))
            .or_else(|| farm.as_ref().map(|farm| farm.objects.clone()));
        Ok(Self {
            environment,
            state,
            broker,
            source,
            objects_url,
            objects_flag: flags.objects.clone(),
            owner,
            only_owner: flags.owner.clone(),
            farm,
        })
    }

    pub(crate) async fn connect(&self) -> Result<Session, Failure> {
        let broker = Broker::connect(&self.broker).await.map_err(|error| self.explain(error.into()))?;
        let ledger = Ledger::new(&broker);
        Ok(Session { broker, ledger })
    }

    /// Says where the address came from, when nobody gave it.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match self.source {
            _ if failure.exit != Exit::Broker => failure,
            Source::Given => failure,
            Source::FarmFile => {
                let file = self.state.join("farm.json");
                failure.hint(format!(
                    "the address is of `{}`: start that farm again with `grange up`",
                    file.display()
                ))
            }
            Source::Default => failure.hint(format!(
                "no farm runs with the state folder `{}`, and no broker was given with --broker or GRANGE_BROKER",
                self.state.path().display()
            )),
        }
    }

    /// Opens the object store.
    pub(crate) async fn objects(&self) -> Result<Objects, Failure> {
        let url = self.objects_url.as_deref().ok_or_else(|| {
            Failure::new(Exit::Store, "no object store is given")
                .hint("give --objects or GRANGE_OBJECTS: the same file:///folder or s3://bucket/prefix as the agents")
        })?;
        Objects::open(url, &self.environment).await.map_err(|error| Failure::of_store(&error))
    }

    /// Finds the job that was meant.
    pub(crate) async fn find(&self, session: &Session, job: &JobArgument) -> Result<JobKey, Failure> {
        match job {
            JobArgument::Last => self.state.last_job(),
            JobArgument::Id { owner, id } => {
                let owner = owner.as_ref().or(self.only_owner.as_ref());
                Ok(query::find_job(&session.broker, id, owner).await?)
            }
        }
    }
}

/// A login name as an owner: what cannot stand in a subject becomes `_`.
pub(crate) fn tidy_owner(login: &str) -> Owner {
    let tidy: String = login
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
        .take(64)
        .collect();
    Owner::new(if tidy.is_empty() { "someone" } else { &tidy }).expect("a tidied name is a name")
}

/// The name of this process's user: by `USER` or `LOGNAME`, else by the list of users.
pub(crate) fn login_name(environment: &BTreeMap<String, String>, uid: u32) -> String {
    let set = |key: &str| environment.get(key).filter(|value| !value.is_empty()).cloned();
    let listed = || {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let uid = uid.to_string();
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        })
    };
    set("USER").or_else(|| set("LOGNAME")).or_else(listed).unwrap_or_else(|| format!("uid-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &GlobalFlags, env: &[(&str, &str)]) -> Context {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Context::resolve(flags, env, "ann b.").unwrap()
    }

    fn flags(state: &std::path::Path) -> GlobalFlags {
        GlobalFlags { state: Some(state.to_owned()), ..GlobalFlags::default() }
    }

    #[test]
    fn flags_win_over_environment_over_the_farm_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = flags(folder.path());
        let context = resolve(&flags, &[]);
        assert_eq!((context.source, context.owner.as_str()), (Source::Default, "ann_b_"));
        assert_eq!(context.objects_url, None);
        let farm = FarmFile {
            broker: "nats://farm:1".into(),
            objects: "file:///farm".into(),
            owner: Owner::new("up").unwrap(),
            monitor: None,
            pid: 1,
        };
        context.state.write_farm(&farm).unwrap();
        let context = resolve(&flags, &[("GRANGE_BROKER_TOKEN", "t")]);
        assert_eq!((context.broker.url.as_str(), context.broker.token), ("nats://farm:1", None));
        assert_eq!((context.objects_url.as_deref(), context.owner.as_str()), (Some("file:///farm"), "up"));
        let env = [("GRANGE_BROKER", "nats://env:1"), ("GRANGE_BROKER_TOKEN", "t"), ("GRANGE_OWNER", "eve")];
        let context = resolve(&flags, &env);
        assert_eq!((context.broker.url.as_str(), context.objects_url.as_deref()), ("nats://env:1", None));
        assert_eq!((context.broker.token.as_deref(), context.owner.as_str()), (Some("t"), "eve"));
        assert_eq!(context.only_owner, None);
        flags.broker = Some("nats://flag:1".into());
        flags.owner = Some(Owner::new("zoe").unwrap());
        let context = resolve(&flags, &env);
        assert_eq!((context.broker.url.as_str(), context.owner.as_str()), ("nats://flag:1", "zoe"));
        assert_eq!(context.only_owner, flags.owner);
    }

    #[test]
    fn jobs_are_named_in_four_ways() {
        let id = |text: &str| JobId::new(text).unwrap();
        assert_eq!("@last".parse(), Ok(JobArgument::Last));
        assert_eq!("019a".parse(), Ok(JobArgument::Id { owner: None, id: id("019a") }));
        let owned = JobArgument::Id { owner: Some(Owner::new("ann").unwrap()), id: id("019a") };
        assert_eq!("ann/019a".parse(), Ok(owned));
        assert!("a.b".parse::<JobArgument>().unwrap_err().contains("job id `a.b`"));
    }

    #[test]
    fn an_owner_always_fits_into_a_subject() {
        assert_eq!(tidy_owner("ann.müller@lab").as_str(), "ann_m_ller_lab");
        assert_eq!(tidy_owner("").as_str(), "someone");
        let env = BTreeMap::from([("USER".to_owned(), "ann".to_owned())]);
        assert_eq!(login_name(&env, 0), "ann");
        assert_eq!(login_name(&BTreeMap::new(), 0), "root");
        assert_eq!(login_name(&BTreeMap::new(), 4_000_000_000), "uid-4000000000");
    }
}
