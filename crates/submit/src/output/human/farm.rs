//! What happens to the farm of one, as lines.

use super::agents;
use crate::output::screen::{Look, Style, clean};
use crate::output::words::FarmNews;
use grange_protocol::status::PluginState;

/// A topic, and what there is to say about it.
pub(super) fn lines(news: &FarmNews, look: Look) -> Vec<String> {
    let line = |topic: &str, text: String| vec![format!("{topic:<9}{}", clean(&text))];
    match news {
        FarmNews::Broker { url, version, durability } => vec![
            format!("{:<9}nats-server {version} with JetStream at {url}", "broker"),
            format!("{:<9}{durability}", ""),
        ],
        FarmNews::Objects { url } => line("objects", url.clone()),
        FarmNews::Agent { status, log } => {
            let text = format!("{}: {}; its log: {}", status.agent, agents::capacity(status), log.display());
            line("agent", text)
        }
        FarmNews::Notice { text } => line("", format!("note: {text}")),
        FarmNews::Plugin { name, version, state, reason } => {
            let style = match state {
                PluginState::Ready => Style::Green,
                PluginState::Preparing => Style::Dim,
                PluginState::Failed => Style::Red,
            };
            let why = if reason.is_empty() { String::new() } else { format!(": {}", clean(reason)) };
            let state = look.paint(style, state.as_str());
            vec![format!("{:<9}{name} {} {state}{why}", "plugin", clean(version))]
        }
        FarmNews::Ready { plugins, failed } => {
            let failed = if *failed > 0 { format!(", {failed} of them failed") } else { String::new() };
            let s = if *plugins == 1 { "" } else { "s" };
            line(
                "ready",
                format!(
                    "{plugins} plugin{s}{failed}; `grange submit PLUGIN key=value` runs one, Ctrl-C ends the farm"
                ),
            )
        }
        FarmNews::AgentLost { how } => line("agent", format!("ended by itself ({how}); starting it again")),
        FarmNews::BrokerLost => line("broker", "ended by itself; it was started again".to_owned()),
        FarmNews::Stopping { signal } => line(
            "stopping",
            format!("on {signal}; jobs that run are finished first, another {signal} stops them"),
        ),
        FarmNews::Stopped => line("stopped", "no process of this farm is left".to_owned()),
    }
}
