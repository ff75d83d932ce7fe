//! What the farm says to a job before it is submitted: whether its plugin is there, and whether any host could run it.
//!
//! Owns what is said and what is refused under each policy. What a host says is `grange_protocol::admission`'s.

use crate::commands::plugins;
use crate::context::Session;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::Level;
use crate::resources::Policy;
use grange_broker_client::query;
use grange_broker_client::safety::{self, Settled};
use grange_broker_client::submit::Submitted;
use grange_protocol::admission::{Answer, Refusal, explain, look};
use grange_protocol::record::Record;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::status::{AgentStatus, PluginState};
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Ticket;
use std::time::Duration;

/// Most hosts that say the same, and most kinds of hosts, that a warning names.
const NAMED: usize = 8;

/// A job that is about to be submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) lane: &'a Lane,
    /// What it asks for beyond its plugin's request; the lane says it in steps only.
    pub(crate) exact: Option<&'a ResourceRequest>,
}

/// Looks at the heartbeats: warns of what a job would wait for, and refuses what the policy does not let wait.
pub(crate) async fn ask_farm(
    session: &Session,
    job: Asked<'_>,
    policy: Policy,
    output: &mut dyn Output,
) -> Result<(), Failure> {
    let agents = query::agents(&session.broker).await?;
    let hosts: Vec<AgentStatus> = agents.into_iter().map(|(status, _)| status).collect();
    for warning in judge(job, policy, &hosts)? {
        output.say(Level::Warning, &warning)?;
    }
    Ok(())
}

/// Sees to it that a job which nobody claims soon is refused. Opened before the job is submitted.
pub(crate) struct Guard {
    watch: safety::Watch,
    ticket: Ticket,
    within: Duration,
}

impl Guard {
    pub(crate) async fn open(
        session: &Session,
        key: &JobKey,
        ticket: &Ticket,
        within: Option<Duration>,
    ) -> Result<Self, Failure> {
        let watch = safety::Watch::open(&session.broker, &session.ledger, key).await?;
        Ok(Self { watch, ticket: ticket.clone(), within: within.unwrap_or(safety::CLAIMED_WITHIN) })
    }

    /// The record of the job if it was refused; None: an agent has it, or it has ended.
    pub(crate) async fn settle(self, submitted: &Submitted) -> Result<Option<Box<Record>>, Failure> {
        match self.watch.settle(submitted, &self.ticket, self.within).await {
            Ok(Settled::Refused(record)) => Ok(Some(record)),
            Ok(Settled::Taken) => Ok(None),
            Err(error) => {
                let id = &submitted.key.job;
                Err(Failure::from(error)
                    .hint(format!("the job may wait all the same: `grange why {id}`, `grange cancel {id}`")))
            }
        }
    }
}

fn judge(job: Asked<'_>, policy: Policy, hosts: &[AgentStatus]) -> Result<Vec<String>, Failure> {
    match policy {
        Policy::Safety => {
            if !hosts.is_empty() {
                plugins::known(&job.lane.plugin, hosts)?;
            }
            look(job.lane, job.exact, hosts).map_err(|refusal| refused(&refusal))
        }
        Policy::Queue | Policy::Permissive => {
            let warning = plugins::judge(&job.lane.plugin, hosts)?;
            Ok(warning.or_else(|| nobody_ever(job, hosts)).into_iter().collect())
        }
    }
}

/// One line for each host.
fn refused(refusal: &Refusal) -> Failure {
    let Refusal { plugin, needed, hosts } = refusal;
    let needs = if needed.is_empty() { String::new() } else { format!("; it needs {needed}") };
    let nobody = if hosts.is_empty() { "; no agent is up" } else { "" };
    let width = hosts.iter().map(|(agent, _)| agent.as_str().len()).max().unwrap_or(0);
    let lines = hosts.iter().map(|(agent, answer)| format!("{:<width$}  {answer}", agent.as_str()));
    Failure::new(Exit::JobRefused, format!("no host can start `{plugin}` now{needs}{nobody}"))
        .details(lines.collect())
        .hint("nothing was submitted; `--policy queue` lets the job wait")
}

/// What to say of a job that no host could run even if it had nothing else to do.
fn nobody_ever(job: Asked<'_>, hosts: &[AgentStatus]) -> Option<String> {
    let answers: Vec<(&AgentStatus, Answer)> =
        hosts.iter().map(|host| (host, explain(job.lane, job.exact, host))).collect();
    let might = |answer: &Answer| match answer {
        Answer::Now(_) | Answer::Perhaps { .. } | Answer::Busy(_) => true,
        // What it is nobody knows before its plugin is there.
        Answer::NotReady { state, .. } => *state != PluginState::Failed,
        Answer::Never(_) | Answer::NotInstalled | Answer::Draining { .. } => false,
    };
    if answers.iter().any(|(_, answer)| might(answer)) {
        return None;
    }
    let never = answers.into_iter().filter(|(_, answer)| matches!(answer, Answer::Never(_)));
    let said = in_groups(never.map(|(host, answer)| (host.agent.as_str(), answer.to_string())).collect());
    (!said.is_empty()).then(|| format!("no host of this farm could run it: {said}; it waits"))
}

/// Hosts that say the same stand together: `` `h1`, `h2`: needs 2 GPU(s), has none ``.
fn in_groups(said: Vec<(&str, String)>) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (host, text) in said {
        match groups.iter_mut().find(|(other, _)| *other == text) {
            Some((_, hosts)) => hosts.push(host),
            None => groups.push((text, vec![host])),
        }
    }
    let group = |(text, hosts): &(String, Vec<&str>)| {
        let named: Vec<String> = hosts.iter().take(NAMED).map(|host| format!("`{host}`")).collect();
        let more = match hosts.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}: {text}", named.join(", "))
    };
    let more = match groups.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; {more} more kinds of hosts"),
    };
    format!("{}{more}", groups.iter().take(NAMED).map(group).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::class::class_of;
    use grange_protocol::name::{Class, PluginName};
    use grange_protocol::ticket::Priority;
    use serde_json::{from_value, json};

    /// A host with one GPU of so much memory, and the plugin `ocr`.
    fn host(name: &str, usable_mb: u64, grantable_mb: u64) -> AgentStatus {
        let gpu = json!({
            "uuid": "GPU-a", "name": "NVIDIA L4", "vram_mb": usable_mb, "usable_mb": usable_mb,
            "grantable_mb": grantable_mb,
        });
        let plugin = json!({
            "name": "ocr", "version": "1", "state": "ready", "workers": 0, "running": 0, "slots": 1,
            "resources": {"gpus": 1, "vram_mb": 4096},
        });
        from_value(json!({
            "v": 1, "agent": name, "incarnation": "life", "version": "0", "plugins": [plugin],
            "capacity": {"gpus": [gpu], "cpus": 8, "cpus_grantable": 8, "cpus_usable": 8, "ram_mb": 1},
        }))
        .unwrap()
    }

    fn lane(vram_mb: u64) -> Lane {
        let class = match vram_mb {
            0 => Class::plugin_default(),
            vram_mb => class_of(&ResourceRequest { vram_mb, gpus: 1, ..ResourceRequest::default() }).unwrap(),
        };
        Lane { priority: Priority::Normal, plugin: PluginName::new("ocr").unwrap(), class }
    }

    fn judged(vram_mb: u64, policy: Policy, hosts: &[AgentStatus]) -> Result<Vec<String>, Failure> {
        judge(Asked { lane: &lane(vram_mb), exact: None }, policy, hosts)
    }

    #[test]
    fn who_waits_for_what_nobody_has_is_told_so() {
        let farm = [host("h1", 8192, 8192), host("h2", 16_384, 0)];
        assert_eq!(judged(0, Policy::Queue, &farm), Ok(vec![]));
        assert_eq!(judged(16_384, Policy::Queue, &farm), Ok(vec![]), "it is only taken");
        let said = judged(24_576, Policy::Queue, &farm).unwrap().remove(0);
        assert!(
            said.starts_with(
                "no host of this farm could run it: `h1`: needs 24576 MiB of VRAM, has 8192 MiB"
            ),
            "{said}"
        );
        assert!(said.contains("; `h2`: needs 24576 MiB") && said.ends_with("; it waits"), "{said}");
        let many: Vec<AgentStatus> = (0..10).map(|n| host(&format!("h{n}"), 8192, 8192)).collect();
        assert!(
            judged(24_576, Policy::Queue, &many).unwrap()[0].contains("`h7` and 2 more: needs 24576 MiB")
        );
    }

    #[test]
    fn what_is_asked_for_counts_and_not_its_step() {
        let asked = ResourceRequest { gpus: 1, vram_mb: 9_000, ..ResourceRequest::default() };
        let lane = Lane { class: class_of(&asked).unwrap(), ..lane(0) };
        let said =
            judge(Asked { lane: &lane, exact: Some(&asked) }, Policy::Queue, &[host("h1", 8192, 8192)]);
        assert!(said.as_ref().unwrap()[0].contains("needs 9000 MiB"), "{said:?}");
    }

    #[test]
    fn safety_refuses_what_cannot_start_now() {
        let farm = [host("h1", 8192, 8192), host("h2", 16_384, 0)];
        assert_eq!(judged(0, Policy::Safety, &farm), Ok(vec![]));
        let refused = judged(16_384, Policy::Safety, &farm).unwrap_err();
        assert_eq!(refused.exit, Exit::JobRefused);
        assert_eq!(refused.text, "no host can start `ocr` now; it needs 1 GPU with 16384 MiB of VRAM");
        assert_eq!(
            refused.details,
            ["h1  needs 16384 MiB of VRAM, has 8192 MiB at most", "h2  needs 16384 MiB of VRAM, 0 MiB free",]
        );
        assert_eq!(judged(0, Policy::Safety, &[]).unwrap_err().exit, Exit::JobRefused);
        let other = Lane { plugin: PluginName::new("orc").unwrap(), ..lane(0) };
        let unknown = judge(Asked { lane: &other, exact: None }, Policy::Safety, &farm).unwrap_err();
        assert_eq!((unknown.exit, unknown.hint.as_deref()), (Exit::NotFound, Some("is it `ocr`?")));
    }
}
