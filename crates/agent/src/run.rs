//! One life of an agent: come up, work until told to leave, leave.

use crate::bells::Bells;
use crate::cache::Cache;
use crate::cage::Isolation;
use crate::claims::Claims;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::environment::{Environments, find_uv};
use crate::farm::FarmRooms;
use crate::heartbeat::farewell;
use crate::house::{House, Rooms};
use crate::journal::{Entry, Journal};
use crate::learned::Table;
use crate::lease::Lease;
use crate::news::{HouseEvent, NEWS_CAPACITY};
use crate::permits::Permits;
use crate::plugins::{Workshop, discover};
use crate::pulls::Pulls;
use crate::{control, inventory, recovery, scratch, universal};
use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::objects::Objects;
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_dispatch::Input;
use grange_protocol::name::Incarnation;
use grange_protocol::record::Holder;
use grange_protocol::status::HEARTBEAT_MS;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

/// How often time passes for the dispatcher.
const TICK: Duration = Duration::from_millis(100);
/// How often the broker is told that work goes on.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Attempts held for so long are compared with their records at every such word: a cancel whose word was lost, or a
/// holder that took over, is found then at the latest.
const LONG_HELD_MS: u64 = 5_000;

/// Why an agent's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Everything was finished or handed back.
    Drained,
    /// A third signal: at once.
    AtOnce,
}

/// Lives one life.
pub async fn run(config: Config, environment: BTreeMap<String, String>, host: String) -> Result<Leave> {
    tracing::info!(?config, "configuration");
    let _lock = lock_state(&config)?;
    let mut signals = Signals::open()?;
    let (mut house, mut news, leftovers) = tokio::select! {
        up = come_up(config, environment, host) => up?,
        () = signals.next() => return Ok(Leave::Drained),
    };
    let _service = control::open(house.claims.clone(), house.news.clone())
        .await
        .map_err(|e| anyhow::anyhow!("control subjects: {e}"))?;
    recover(&mut house, &leftovers).await?;
    house.join_farm();
    house.looked().await;
    house.resume_drain().await;
    house.prepare_plugins();
    house.heartbeat();
    tracing::info!(agent = %house.claims.me.agent, "agent is up");
    let leave = work(&mut house, &mut news, &mut signals).await?;
    house.end_tasks().await;
    house.isolation.close();
    farewell(&house.claims.broker, &house.status()).await;
    Ok(leave)
}

/// One agent per state folder.
fn lock_state(config: &Config) -> Result<File> {
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("state folder `{}` cannot be made", config.state_dir.display()))?;
    let path = config.state_dir.join("agent.lock");
    let file = File::create(&path).with_context(|| format!("`{}` cannot be made", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another agent uses the state folder `{}`; give each its own", config.state_dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("`{}` cannot be locked", path.display()))
        }
    }
}

fn options(config: &Config) -> Options {
    let broker = &config.broker;
    Options {
        url: broker.url.clone(),
        user: broker.user.clone(),
        password: broker.password.as_ref().map(|s| s.0.clone()),
        token: broker.token.as_ref().map(|s| s.0.clone()),
        creds_file: broker.creds_file.clone(),
        name: format!("grange-agent {}", config.name),
        wait_for_broker: true,
        ..Options::default()
    }
}

async fn connect(config: &Config) -> Result<Broker> {
    let broker = Broker::connect(&options(config)).await?;
    if config.init_broker {
        ensure(&broker, &TopologyOptions::default()).await.context("streams and buckets cannot be made")?;
    }
    Ok(broker)
}

/// Ends what dead lives left behind, then finds out how workers can be kept apart.
async fn isolate(config: &Config) -> Result<Isolation> {
    let (state, level) = (config.state_dir.clone(), config.isolation.level);
    let opened = tokio::task::spawn_blocking(move || {
        let isolation = Isolation::open(&state, level);
        scratch::sweep(&state.join("scratch"));
        isolation
    });
    let isolation = opened.await.context("nobody can say how workers are kept apart")??;
    tracing::info!(level = isolation.level(), notices = ?isolation.notices, "isolation");
    Ok(isolation)
}

type Up = (House, mpsc::Receiver<HouseEvent>, Vec<Entry>);

async fn come_up(config: Config, environment: BTreeMap<String, String>, host: String) -> Result<Up> {
    // First what can be said without a broker: a reserve that this host does not have would be said too late.
    let rooms = Rooms::new(&config);
    // The `host` that jobs ask for is the agent's name: that is what people see.
    let inventory = inventory::start(&config, config.agent().as_str(), rooms.began()).await?;
    let isolation = isolate(&config).await?;
    let broker = connect(&config).await?;
    let incarnation = Incarnation::new(uuid::Uuid::now_v7().simple().to_string())?;
    let me = Holder { agent: config.agent(), incarnation };
    let objects = Objects::open(&config.objects_url(), &environment).await?;
    let cache = Cache::open(objects.clone(), config.state_dir.join("cache"), config.objects.cache_max_bytes)
        .context("the cache folder cannot be made")?;
    let (journal, leftovers) = Journal::open(&config.state_dir.join("journal"))?;
    let (news, heard) = mpsc::channel(NEWS_CAPACITY);
    let farm = FarmRooms::new(&broker, options(&config), config.limits.keep_records(), news.clone());
    let lease_s = config.limits.lease_s;
    let permits = config
        .limits
        .owner_running_max
        .map(|most| Permits::new(&broker, me.agent.clone(), most, lease_s, farm.latest.clone()));
    let claims = Claims { ledger: Ledger::new(&broker), broker: broker.clone(), me, lease_s, permits };
    let pulls = Pulls::open(broker.client().clone(), news.clone()).await?;
    let bells = Bells::new(broker.client().clone(), news.clone());
    tokio::spawn(watch_reconnects(broker, news.clone()));
    let found = discover(&config.plugin_folders);
    let path = environment.get("PATH").map(String::as_str);
    let workshop = Workshop {
        environments: Environments {
            folder: config.state_dir.join("environments"),
            uv: find_uv(config.uv.as_deref(), &config.state_dir, path),
            limit: Duration::from_secs(config.limits.environment_build_s),
            environment: environment.clone(),
        },
        python: config.python.clone(),
        universal: universal::lay_out(&config.state_dir)
            .context("the universal worker cannot be laid out")?,
    };
    let house = House {
        inventory,
        learned: Table::default(),
        farm,
        lease: Arc::new(Lease::begin()),
        plugins: found.plugins,
        notices: found.notices,
        started_ms: unix_ms(),
        rooms,
        config,
        claims,
        pulls,
        bells,
        objects,
        cache,
        isolation,
        journal,
        workshop,
        environment,
        host,
        news,
    };
    Ok((house, heard, leftovers))
}

async fn watch_reconnects(broker: Broker, news: mpsc::Sender<HouseEvent>) {
    let mut reconnects = broker.reconnects();
    while reconnects.changed().await.is_ok() {
        if news.send(HouseEvent::Reconnected).await.is_err() {
            return;
        }
    }
}

/// Ends what the last life left behind, then hands its jobs back.
async fn recover(house: &mut House, leftovers: &[Entry]) -> Result<()> {
    // All at once: one that takes long keeps no other job waiting.
    join_all(leftovers.iter().map(recovery::end_leftover)).await;
    for entry in leftovers {
        recovery::give_up(&house.claims, entry)
            .await
            .with_context(|| format!("job `{}` of the last life cannot be handed back", entry.key()))?;
        house.journal.end(entry.claim)?;
    }
    Ok(())
}

async fn work(
    house: &mut House,
    news: &mut mpsc::Receiver<HouseEvent>,
    signals: &mut Signals,
) -> Result<Leave> {
    let mut ticks = interval(TICK);
    let mut beats = interval(Duration::from_millis(HEARTBEAT_MS));
    let mut words = interval(KEEP_ALIVE);
    let mut looks = house.inventory.looks.clone();
    let mut told = 0;
    let mut stop_at: Option<Instant> = None;
    while !house.is_leaving() {
        // What is wanted later than the next tick is asked again then.
        let wanted = house.wanted_in_ms().map(Duration::from_millis).filter(|pause| *pause < TICK);
        let patience = stop_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            Some(event) = news.recv() => house.hear(event).await,
            _ = ticks.tick() => house.tick().await,
            () = tokio::time::sleep(wanted.unwrap_or(TICK)), if wanted.is_some() => house.wake().await,
            Ok(()) = looks.changed() => house.looked().await,
            _ = beats.tick() => house.heartbeat(),
            _ = words.tick() => {
                house.keep_alive().await;
                house.check_ownership(LONG_HELD_MS);
            }
            () = signals.next() => {
                told += 1;
                match told {
                    1 => {
                        tracing::info!("draining: what runs is finished; another signal stops it");
                        stop_at = Some(Instant::now() + Duration::from_secs(house.config.limits.drain_grace_s));
                        house.hear(HouseEvent::Leave).await;
                    }
                    2 => house.decide(Input::StopRequested).await,
                    _ => return Ok(Leave::AtOnce),
                }
            }
            () = tokio::time::sleep_until(patience), if stop_at.is_some() => {
                tracing::warn!("the drain took too long: what runs is stopped and handed back");
                stop_at = None;
                house.decide(Input::StopRequested).await;
            }
            panic = house.next_panic() => bail!("a task of the agent panicked: {panic}"),
        }
    }
    Ok(Leave::Drained)
}

/// SIGINT and SIGTERM alike.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn open() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
