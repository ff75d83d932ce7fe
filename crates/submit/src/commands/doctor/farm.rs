//! Do the agents and the object store answer?

use super::{fail, ok, warn};
use crate::context::{Context, Session};
use crate::failure::Failure;
use crate::output::words::Check;
use grange_broker_client::query;
use grange_protocol::status::{AgentState, AgentStatus, PluginState};
use std::time::Duration;

/// Always the same, so that the store keeps one such object however often it is asked.
const PROBE: &[u8] = b"written by `grange doctor` to see that the object store answers\n";
/// A heartbeat older than this is late.
const LATE: Duration = Duration::from_secs(5);

pub(super) async fn store(context: &Context) -> Check {
    let Some(url) = context.objects_url.clone() else {
        return warn(
            "objects",
            "no object store is given, so files can be neither sent nor fetched from here",
            "give --objects or GRANGE_OBJECTS, the same as the agents have",
        );
    };
    match roundtrip(context).await {
        Ok(()) => ok("objects", format!("{url} takes and gives back an object")),
        Err(failure) => fail("objects", failure.text, "check --objects; for s3:// also the `AWS_*` settings"),
    }
}

async fn roundtrip(context: &Context) -> Result<(), Failure> {
    let objects = context.objects().await?;
    let object =
        objects.put_bytes(PROBE.into(), "grange-doctor.txt").await.map_err(|e| Failure::of_store(&e))?;
    let path = std::env::temp_dir().join(format!("grange-doctor-{}.txt", std::process::id()));
    let got = objects.get_to_file(&object, &path).await;
    // Left behind it is only rubbish in the system's folder for that.
    let _ = std::fs::remove_file(&path);
    got.map_err(|e| Failure::of_store(&e))
}

pub(super) async fn agents(session: &Session) -> (Vec<Check>, Vec<AgentStatus>) {
    let agents = match query::agents(&session.broker).await {
        Ok(agents) => agents,
        Err(error) => {
            let check = fail("agents", Failure::from(error).text, "`grange init` makes their bucket");
            return (vec![check], Vec::new());
        }
    };
    if agents.is_empty() {
        let advice = "start `grange-agent` on a host, or a farm of one with `grange up`";
        return (vec![warn("agents", "no agent is up, so jobs wait", advice)], Vec::new());
    }
    let checks = agents.iter().flat_map(|(status, age)| agent(status, *age)).collect();
    (checks, agents.into_iter().map(|(status, _)| status).collect())
}

fn agent(status: &AgentStatus, age: Duration) -> Vec<Check> {
    let name = &status.agent;
    let own = env!("CARGO_PKG_VERSION");
    let mut checks = vec![if age > LATE {
        let text = format!("{name} was last heard {} s ago", age.as_secs());
        warn("agents", text, "is the host alive, and its clock right?")
    } else if let Some(drain) = &status.drain {
        let text = format!("{name} is {}: {}", status.state_word(), drain.reason);
        warn("agents", text, "it takes no jobs until `grange agents undrain`")
    } else if status.state == AgentState::Draining {
        warn("agents", format!("{name} is draining and takes no jobs"), "wait for it to end")
    } else if status.version != own {
        let text = format!("{name} is version {}, this is {own}", status.version);
        warn("agents", text, "upgrade the older one")
    } else {
        ok("agents", format!("{name} is ready with {} plugins", status.plugins.len()))
    }];
    for plugin in status.plugins.iter().filter(|plugin| plugin.state == PluginState::Failed) {
        let text = format!("`{}` has failed on {name}: {}", plugin.name, plugin.reason);
        checks.push(warn("plugins", text, "its jobs wait until a host can run it"));
    }
    for notice in &status.notices {
        checks.push(warn("agents", format!("{name}: {notice}"), "see the agent's log"));
    }
    checks
}
