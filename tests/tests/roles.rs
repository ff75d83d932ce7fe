//! The roles of `deploy/nats/roles.conf` are enough for the real programs, and not more.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

#[path = "roles/site.rs"]
mod site;

use futures_util::StreamExt;
use grange_broker_client::ErrorKind;
use grange_broker_client::follow::{Follow, Since};
use grange_broker_client::query;
use grange_protocol::lifecycle::queue;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_tests::{Agent, Client, began, plugin, repository};
use serde_json::json;
use site::{Site, Use, permissions};

/// What nobody did in this test, and why it is given all the same.
const KEPT: [(&str, &str, &str); 8] = [
    ("agent", "$JS.API.DIRECT.GET.GRANGE_EVENTS.grange.events.>", "an event whose acknowledgement was lost"),
    ("agent", "$JS.ACK.*.*.GRANGE_JOBS.>", "the form of an acknowledgement in servers to come"),
    ("agent", "$JS.ACK.*.*.GRANGE_SCHEDULES.>", "the form of an acknowledgement in servers to come"),
    ("agent", "grange.bell.>", "a ticket that goes back unclaimed"),
    ("agent", "grange.call.>", "a bell that was heard in turn by an agent without room"),
    ("agent", "$JS.API.STREAM.MSG.GET.KV_grange_plugins", "two agents that learn of a plugin at once"),
    ("agent", "$JS.API.CONSUMER.DELETE.GRANGE_JOBS.*", "a queue that was empty for an hour"),
    ("agent", "$JS.API.CONSUMER.INFO.GRANGE_JOBS.*", "the same, and a cluster that is slow to list all"),
];

fn key(owner: &str, job: &str) -> JobKey {
    JobKey { owner: Owner::new(owner).unwrap(), job: JobId::new(job).unwrap() }
}

/// An agent with all that the test runs, prepared.
async fn agent(site: &Site, admin: &Client, name: &str) -> Agent {
    let echo = repository().join("examples/plugins/echo");
    let agent = site.agent(name, &[echo, plugin("gate"), plugin("talker"), plugin("crash")]);
    admin.wait_for_plugins(name).await;
    agent
}

/// Everything that a submitter does from the command line.
async fn a_submitter_works(site: &Site, admin: &Client) {
    let does = async |words: &str| site.does("submit", words).await;
    assert_eq!(does("submit echo text=hello").await, "\"hello\"");
    does("submit echo repeat=3 --stream").await;
    assert_eq!(does("result @last").await, "\"hello\"");
    assert_eq!(does("watch @last").await, "\"hello\"");
    assert_eq!(does("status @last").await, "succeeded");
    assert_eq!(does("submit crash how=exit times=1").await, "2");
    does("logs @last").await;
    let detached = does("submit echo text=later delay_s=0.3 --max-wait 20s --detach").await;
    assert_eq!(does(&format!("result {} --wait", &detached[..20])).await, "\"later\"");
    assert!(does("jobs").await.contains(&detached));
    assert_eq!(does("agents").await, "h1");
    assert!(does("plugins").await.contains("echo"));
    assert!(!does("doctor").await.contains("fail"));

    let delayed = does("submit echo --delay 1h --detach").await;
    assert_eq!(does(&format!("status {delayed}")).await, "delayed");
    assert!(does("jobs --state delayed").await.contains(&delayed));
    assert_eq!(does(&format!("cancel {delayed}")).await, "cancelled");
    does("cron add often @hourly echo").await;
    let ticked = does("cron run often").await;
    does(&format!("result {ticked} --wait")).await;
    assert_eq!(does("cron list").await, "often");
    does("cron remove often").await;
    let batch = does("submit echo --array 1-3 --arg text=n{} --detach").await;
    does(&format!("wait --batch {batch}")).await;

    let gate = format!("submit gate until={} --detach", site.path("never").display());
    let running = key("submit", &does(&gate).await);
    admin.reaches(&running, State::Running).await;
    a_submitter_asks_and_moves(site, &running.job).await;
    assert_eq!(site.grange("submit", &format!("watch {}", running.job)).await.code, Some(4));

    let waiting = does("submit nobody --unchecked --detach").await;
    assert_eq!(does(&format!("status {waiting}")).await, "queued");
    assert_eq!(does(&format!("cancel {waiting}")).await, "cancelled");
}

/// A job behind one that does not end is asked for, and moved; then that one is ended.
async fn a_submitter_asks_and_moves(site: &Site, running: &JobId) {
    let does = async |words: &str| site.does("submit", words).await;
    let behind = does("submit gate --detach").await;
    assert!(!does(&format!("why {behind}")).await.is_empty());
    does(&format!("priority {behind} low")).await;
    assert_eq!(does(&format!("cancel {running} --reason enough")).await, "requested");
    does(&format!("result {behind} --wait")).await;
    // Its first ticket lay where it no longer waited; an agent passed it on.
    let moved = format!("grange.jobs.default.low.gate.submit.{behind}");
    site.sees(&Use::new("agent", "publish", &moved)).await;
    assert_eq!(does("submit echo text=now --policy safety").await, "\"now\"");
    assert!(!does("usage").await.is_empty());
}

/// The rarer things that an agent does: something that is no ticket, and a job that another agent has.
async fn an_agent_copes(site: &Site, admin: &Client, mut first: Agent) {
    // The ticket of the job that was cancelled while it waited: the housekeeper removes it.
    site.sees(&Use::new("agent", "publish", "$JS.API.STREAM.MSG.DELETE.GRANGE_JOBS")).await;
    site.sees(&Use::new("agent", "publish", "$KV.grange_plugins.learned.>")).await;
    let submitter = site.stranger("submit").await;
    let put = async |subject: &str, body: &'static str| {
        let answer = submitter.nats.request(subject.to_owned(), body.into()).await.unwrap();
        assert!(answer.payload.starts_with(b"{\"stream\""), "{answer:?}");
    };
    put("grange.jobs.default.normal.echo.submit.no-ticket", "{").await;
    admin.reaches(&key("submit", "no-ticket"), State::Failed).await;
    site.sees(&Use::new("agent", "publish", "grange.dead.malformed.no-ticket")).await;

    let (log, never) = (site.path("log"), site.path("never"));
    let held = admin.submit("gate", &json!({"log": log, "label": "held", "until": never})).await;
    began(&log, "held").await;
    first.kill();
    let _second = agent(site, admin, "h2").await;
    put(&format!("grange.jobs.default.urgent.gate.submit.{}", held.job), "").await;
    site.sees(&Use::new("agent", "publish", "$JS.API.STREAM.INFO.KV_grange_agents")).await;
}

/// Everything that somebody who looks on does.
async fn an_observer_looks(site: &Site) {
    let does = async |words: &str| site.does("observe", words).await;
    let delayed = site.does("submit", "submit echo --delay 1h --detach").await;
    assert_eq!(does(&format!("status submit/{delayed}")).await, "delayed");
    let waiting = site.does("submit", "submit nobody --unchecked --detach").await;
    assert_eq!(does(&format!("status submit/{waiting}")).await, "queued");
    assert!(does("jobs").await.contains(&waiting));
    assert_eq!(does("agents").await, "h1");
    assert!(does("plugins").await.contains("gate") && !does("doctor").await.contains("fail"));
    assert!(!does(&format!("why submit/{waiting}")).await.is_empty() && !does("usage").await.is_empty());
    let ended = site.does("submit", "submit echo repeat=2 --stream --detach").await;
    assert_eq!(does(&format!("watch {ended}")).await, "\"hello\"");
    assert_eq!(does(&format!("result {ended} --wait")).await, "\"hello\"");
    does(&format!("logs {ended}")).await;
    let nats = site.stranger("observe").await.nats;
    let mut all = nats.subscribe("grange.on.>").await.unwrap();
    nats.flush().await.unwrap();
    site.does("submit", "submit echo").await;
    assert!(all.next().await.unwrap().subject.starts_with("grange.on.state.submit."));
}

/// What `docs/wire.md` offers to programs of others, beside what ours use too.
async fn a_foreign_client_looks(site: &Site, user: &str) {
    let nats = site.stranger(user).await.nats;
    let _ears = nats.subscribe("grange.on.*.submit.>").await.unwrap();
    for question in ["$SRV.PING", "$SRV.PING.grange-agent", "$SRV.INFO", "$SRV.INFO.grange-agent"] {
        nats.request(question, "".into()).await.unwrap();
    }
    nats.request("$JS.API.DIRECT.GET.KV_grange_agents.$KV.grange_agents.h1", "".into()).await.unwrap();
    nats.request("$JS.API.DIRECT.GET.KV_grange_lanes.$KV.grange_lanes.overview", "".into()).await.unwrap();
    let learned = r#"{"multi_last":["$KV.grange_plugins.learned.>"]}"#;
    nats.request("$JS.API.DIRECT.GET.KV_grange_plugins", learned.into()).await.unwrap();
}

#[tokio::test]
async fn every_program_may_do_what_it_needs_and_no_more() {
    let site = Site::with_streams().await;
    let admin = site.client("admin").await;
    let first = agent(&site, &admin, "h1").await;
    a_submitter_works(&site, &admin).await;
    // Tidying up is nothing that a submitter needs: the ticket goes when an agent meets it.
    let tidying = ("submit".to_owned(), "$JS.API.STREAM.MSG.DELETE.GRANGE_JOBS".to_owned());
    assert_eq!(site.refused().into_iter().collect::<Vec<_>>(), std::slice::from_ref(&tidying));
    an_observer_looks(&site).await;
    a_foreign_client_looks(&site, "submit").await;
    a_foreign_client_looks(&site, "observe").await;
    an_agent_copes(&site, &admin, first).await;
    assert_eq!(site.refused().into_iter().collect::<Vec<_>>(), [tidying], "nothing else was refused");

    let used = site.used();
    let is_used = |given: &Use| used.iter().any(|u| given.covers(u));
    let unused: Vec<Use> = permissions().into_iter().filter(|given| !is_used(given)).collect();
    let kept = |given: &Use| {
        KEPT.iter().any(|(user, subject, _)| (*user, *subject) == (&given.user, &given.subject))
    };
    let too_much: Vec<&Use> = unused.iter().filter(|given| !kept(given)).collect();
    assert!(too_much.is_empty(), "no program uses {too_much:#?}");
}

#[tokio::test]
async fn the_command_line_says_what_a_user_may_not_do() {
    let site = Site::start().await;
    for user in ["submit", "agent", "observe"] {
        site.may_not(user, "init").await;
    }
    site.does("admin", "init").await;
    let foreign = site.does("admin", "submit nobody --unchecked --detach --owner bob").await;
    site.may_not("submit", "submit nobody --unchecked --owner bob").await;
    site.may_not("submit", "submit nobody --unchecked --detach --owner bob").await;
    site.may_not("submit", "submit nobody --unchecked --detach --owner bob --max-wait 9s").await;
    site.may_not("submit", &format!("watch bob/{foreign}")).await;
    site.may_not("submit", &format!("cancel bob/{foreign}")).await;
    site.may_not("observe", "submit nobody --unchecked --detach").await;
    site.may_not("observe", &format!("cancel bob/{foreign}")).await;
    site.may_not("agent", "jobs").await;
    site.may_not("agent", &format!("status bob/{foreign}")).await;
    assert_eq!(
        site.does("admin", &format!("status bob/{foreign}")).await,
        "queued",
        "all that left it alone"
    );
}

#[tokio::test]
async fn a_library_call_that_is_refused_is_no_time_out() {
    let site = Site::with_streams().await;
    let (submitter, agent) = (site.client("submit").await, site.client("agent").await);
    let foreign = key("bob", "1");
    let record = queue(&Client::lane("echo"), 0);
    let refused = [
        submitter.ledger.write(&foreign, 0, &record, None).await.map(drop).unwrap_err(),
        agent.ledger.read_copy(&foreign).await.map(drop).unwrap_err(),
        query::list_jobs(&agent.broker, &query::JobFilter::default()).await.map(drop).unwrap_err(),
        Follow::start(&submitter.broker, &foreign, Since::Start)
            .await
            .unwrap()
            .next()
            .await
            .map(drop)
            .unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    }
    // The connection goes on, and the same words are right where they are allowed.
    submitter.ledger.write(&key("submit", "1"), 0, &record, None).await.unwrap();
}

#[tokio::test]
async fn a_submitter_is_kept_to_its_own() {
    let site = Site::with_streams().await;
    let mut submitter = site.stranger("submit").await;
    for subject in [
        "grange.jobs.default.normal.echo.bob.1",
        "grange.state.bob.1",
        "grange.events.submit.1.1-1",
        "grange.dead.malformed.1",
        "grange.bell.default.normal.echo.submit.1",
        "grange.call.default.normal.echo.submit.1",
        "grange.on.state.submit.1",
        "grange.ctl.h1.drain",
        "grange.ctl.h1.unquarantine",
        "$KV.grange_agents.h1",
        "$KV.grange_lanes.overview",
        "$KV.grange_plugins.learned.echo.0.none",
        "$JS.ACK.GRANGE_JOBS.default:normal:echo:submit.1.1.1.1.0",
        "$JS.API.CONSUMER.MSG.NEXT.GRANGE_JOBS.default:normal:echo:submit",
        "$JS.API.CONSUMER.CREATE.GRANGE_JOBS.default:normal:echo:submit.grange.jobs.default.normal.echo.submit.*",
        "$JS.API.CONSUMER.CREATE.GRANGE_STATE",
        "$JS.API.CONSUMER.DELETE.GRANGE_JOBS.default:normal:echo:submit",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.GRANGE_JOBS",
        "$JS.API.STREAM.DELETE.GRANGE_JOBS",
        "$JS.API.STREAM.PURGE.GRANGE_STATE",
        "$JS.API.STREAM.MSG.DELETE.GRANGE_JOBS",
        "$JS.API.STREAM.MSG.GET.KV_grange_agents",
        "$JS.API.STREAM.MSG.GET.KV_grange_lanes",
        "$JS.API.DIRECT.GET.GRANGE_DEAD",
        "_INBOX_agent.x",
    ] {
        submitter.may_not_publish(subject).await;
    }
    for subject in [
        "_INBOX_agent.>",
        "_INBOX_admin.x",
        "_INBOX.>",
        ">",
        "grange.on.state.bob.>",
        "grange.on.events.bob.1.*",
        "grange.on.>",
        "grange.bell.>",
        "grange.call.>",
        "grange.ctl.h1.cancel",
        "grange.jobs.>",
        "$KV.grange_agents.>",
        "$SRV.PING",
    ] {
        submitter.may_not_hear(subject).await;
    }
}

#[tokio::test]
async fn an_agent_touches_no_stream_and_no_other_agent() {
    let site = Site::with_streams().await;
    let mut agent = site.stranger("agent").await;
    for subject in [
        "grange.on.state.submit.1",
        "grange.ctl.h2.drain",
        "grange.ctl.h2.unquarantine",
        "$KV.grange_plugins.echo",
        "$KV.grange_sessions.1",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.GRANGE_JOBS",
        "$JS.API.STREAM.DELETE.GRANGE_JOBS",
        "$JS.API.STREAM.PURGE.GRANGE_STATE",
        "$JS.API.STREAM.MSG.DELETE.GRANGE_STATE",
        "$JS.API.STREAM.SNAPSHOT.GRANGE_STATE",
        "$JS.API.STREAM.INFO.GRANGE_STATE",
        "$JS.API.CONSUMER.CREATE.GRANGE_STATE.all.grange.state.>",
    ] {
        agent.may_not_publish(subject).await;
    }
    for subject in ["_INBOX_submit.>", "_INBOX.>", "grange.on.>", "grange.jobs.>", "grange.state.>", ">"] {
        agent.may_not_hear(subject).await;
    }
}

#[tokio::test]
async fn an_observer_changes_nothing() {
    let site = Site::with_streams().await;
    let mut observer = site.stranger("observe").await;
    for subject in [
        "grange.jobs.default.normal.echo.observe.1",
        "grange.state.observe.1",
        "grange.ctl.h1.cancel",
        "grange.ctl.h1.drain",
        "$JS.API.CONSUMER.CREATE.KV_grange_agents",
        "$JS.API.CONSUMER.DELETE.GRANGE_JOBS.default:normal:echo:submit",
        "$JS.API.CONSUMER.MSG.NEXT.GRANGE_JOBS.default:normal:echo:submit",
        "$JS.API.STREAM.DELETE.GRANGE_JOBS",
        "$JS.API.STREAM.MSG.DELETE.GRANGE_JOBS",
    ] {
        observer.may_not_publish(subject).await;
    }
    for subject in ["_INBOX_submit.>", "grange.bell.>", ">"] {
        observer.may_not_hear(subject).await;
    }
}
