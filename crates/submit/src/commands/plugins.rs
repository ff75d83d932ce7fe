//! `grange plugins`, and what the other commands ask about plugins.

use crate::cli::StateFlag;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::nearest::nearest;
use crate::output::Output;
use crate::output::words::{PluginEntry, Rows};
use grange_broker_client::query;
use grange_protocol::name::PluginName;
use grange_protocol::status::{AgentStatus, PluginState, PluginStatus};
use std::collections::BTreeMap;

/// Most plugins that an error lists.
const LISTED: usize = 12;

#[derive(clap::Args)]
#[command(after_help = "\
NEEDS is what one worker takes from its host: what the manifest asks for, or what was seen, where it does not say how
much memory of a GPU. PEAK VRAM is the most that a worker was seen to use on one GPU, START how long a worker takes until
it is ready. RUNNING counts runs, and how many fit at one time.")]
pub(crate) struct PluginsFlags {
    /// Only this plugin, on each host that has it
    plugin: Option<PluginName>,
    /// One line for each host that has it
    #[arg(long)]
    hosts: bool,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &PluginsFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let agents = query::agents(&session.broker).await?;
    let statuses: Vec<AgentStatus> = agents.into_iter().map(|(status, _)| status).collect();
    let mut plugins = merge(&statuses);
    if let Some(wanted) = &flags.plugin {
        known(wanted, &statuses)?;
        plugins.retain(|plugin| plugin.name == *wanted);
    }
    let by_host = flags.hosts || flags.plugin.is_some();
    output.plugins(&plugins, if by_host { Rows::ByHost } else { Rows::Overall })?;
    Ok(Exit::Ok)
}

/// By plugin, what every agent says of it.
fn merge(agents: &[AgentStatus]) -> Vec<PluginEntry> {
    let mut merged: BTreeMap<PluginName, Vec<(String, PluginStatus)>> = BTreeMap::new();
    for agent in agents {
        for plugin in &agent.plugins {
            merged.entry(plugin.name.clone()).or_default().push((agent.agent.to_string(), plugin.clone()));
        }
    }
    merged.into_iter().map(|(name, hosts)| PluginEntry { name, hosts }).collect()
}

/// What a job of this plugin would wait for. Refuses a plugin that no agent knows.
pub(crate) fn judge(wanted: &PluginName, agents: &[AgentStatus]) -> Result<Option<String>, Failure> {
    if agents.is_empty() {
        return Ok(Some("no agent is up; the job waits for one that has the plugin".to_owned()));
    }
    let plugins = merge(agents);
    let Some(plugin) = plugins.iter().find(|plugin| plugin.name == *wanted) else {
        return Err(unknown(wanted, &plugins, "--unchecked submits it all the same"));
    };
    let states = |state| plugin.hosts.iter().find(move |(_, status)| status.state == state);
    if states(PluginState::Ready).is_some() {
        return Ok(None);
    }
    if let Some((agent, status)) = states(PluginState::Preparing) {
        let why = if status.reason.is_empty() { String::new() } else { format!(" ({})", status.reason) };
        return Ok(Some(format!("`{wanted}` is still being prepared on {agent}{why}; the job waits")));
    }
    let why = plugin.hosts.first().map_or("", |(_, status)| status.reason.as_str());
    Ok(Some(format!("`{wanted}` has failed on every host that has it, so the job waits: {why}")))
}

/// Refuses a plugin that no agent knows.
pub(crate) fn known(wanted: &PluginName, agents: &[AgentStatus]) -> Result<(), Failure> {
    let plugins = merge(agents);
    let is_known = plugins.iter().any(|plugin| plugin.name == *wanted);
    if is_known { Ok(()) } else { Err(unknown(wanted, &plugins, "")) }
}

/// `anyway`: what can be done all the same.
fn unknown(wanted: &PluginName, plugins: &[PluginEntry], anyway: &str) -> Failure {
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let near = nearest(wanted.as_str(), names.iter().copied());
    let ticks =
        |names: &[&str], and: &str| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(and);
    let known = match (near.is_empty(), names.len()) {
        (false, _) => format!("is it {}?", ticks(&near, " or ")),
        (true, 0) => "the agents have no plugin at all".to_owned(),
        (true, 1..=LISTED) => format!("there are {}", ticks(&names, ", ")),
        (true, _) => "`grange plugins` lists those there are".to_owned(),
    };
    let between = match (anyway.is_empty(), known.ends_with('?')) {
        (true, _) => "",
        (false, true) => " ",
        (false, false) => "; ",
    };
    let failure = Failure::new(Exit::NotFound, format!("no agent that is up has a plugin `{wanted}`"));
    failure.hint(format!("{known}{between}{anyway}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::name::AgentName;

    fn agent(name: &str, plugins: &[(&str, PluginState)]) -> AgentStatus {
        let mut status = AgentStatus::silent(AgentName::new(name).unwrap());
        status.plugins = plugins
            .iter()
            .map(|(name, state)| PluginStatus {
                name: PluginName::new(name).unwrap(),
                version: "1".into(),
                description: String::new(),
                category: String::new(),
                state: *state,
                reason: "no uv".into(),
                workers: 0,
                running: 0,
                slots: 0,
                resources: Default::default(),
                peak_vram_mb: None,
                start_ms: None,
            })
            .collect();
        status
    }

    fn judged(wanted: &str, agents: &[AgentStatus]) -> Result<Option<String>, Failure> {
        judge(&PluginName::new(wanted).unwrap(), agents)
    }

    #[test]
    fn a_plugin_that_is_ready_anywhere_will_do() {
        let farm = [agent("a", &[("ocr", PluginState::Failed)]), agent("b", &[("ocr", PluginState::Ready)])];
        assert_eq!(judged("ocr", &farm), Ok(None));
        assert!(judged("ocr", &farm[..1]).unwrap().unwrap().contains("failed on every host"));
        assert!(judged("ocr", &[]).unwrap().unwrap().contains("no agent is up"));
        let preparing = agent("a", &[("ocr", PluginState::Preparing)]);
        assert!(judged("ocr", &[preparing]).unwrap().unwrap().contains("prepared on a (no uv)"));
    }

    #[test]
    fn an_unknown_plugin_is_refused_with_what_may_be_meant() {
        let farm = [agent("a", &[("ocr", PluginState::Ready), ("echo", PluginState::Ready)])];
        let near = judged("orc", &farm).unwrap_err();
        assert_eq!(
            (near.exit, near.hint.unwrap().as_str()),
            (Exit::NotFound, "is it `ocr`? --unchecked submits it all the same")
        );
        let far = judged("transcribe", &farm).unwrap_err();
        assert!(far.hint.unwrap().starts_with("there are `echo`, `ocr`;"));
    }
}
