//! `grange submit`.

use crate::admission::{Asked, Guard, ask_farm};
use crate::arguments::Arguments;
use crate::cli::StateFlag;
use crate::context::{Context, Session};
use crate::ending::ending;
use crate::failure::{Exit, Failure};
use crate::follow::follow;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::resources::{Policy, ResourceFlags, Wanted, priority};
use crate::sending::send_files;
use crate::units::parse_duration;
use grange_broker_client::ErrorKind;
use grange_broker_client::follow::Follow;
use grange_broker_client::submit::{Submission, Submitted, new_job_id, submit};
use grange_protocol::name::PluginName;
use grange_protocol::record::Record;
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::{OnPartition, Priority, TICKET_VERSION, Ticket, TimeLimits};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest wait under `safety`: who waits longer wants `queue` with `--max-wait`.
const LONGEST_SAFETY_MS: u64 = 3_600_000;
/// Shortest wait for a start.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
A value is JSON where it can be (n=3, on=true, list=[1,2], s='\"3\"'), else a text. A file is sent to the object store;
the plugin gets the path of its copy.

Policies: queue, it waits, up to --max-wait; safety, it is refused where no host can start it now, with what it needs
and what there is; permissive, it starts on any host that has the plugin, without a check of resources.

Ctrl-C asks whether to leave the job running or to cancel it; where nobody can be asked, it is left (exit code 130).

Examples:
  grange submit echo text='hello world' repeat=3
  grange submit ocr --file page=letter.png --out results
  grange submit train --args-json @settings.json --gpus 2 --vram 40g --on gpu=a100 --priority low --detach")]
pub(crate) struct SubmitFlags {
    /// The plugin to run
    plugin: PluginName,
    /// Named arguments
    #[arg(value_name = "KEY=VALUE")]
    arguments: Vec<String>,
    /// A file as a named argument
    #[arg(long = "file", value_name = "NAME=PATH")]
    files: Vec<String>,
    /// Arguments as JSON: an object of named ones or an array of positional ones; @FILE reads it from a file
    #[arg(long, value_name = "JSON")]
    args_json: Vec<String>,
    /// How soon: urgent, high, normal or low; or an integer: 10 or more is urgent, 1 to 9 high, 0 normal, below low
    #[arg(long, value_name = "LEVEL", value_parser = priority, default_value = "normal", allow_negative_numbers = true)]
    priority: Priority,
    /// Longest wait for a start, e.g. 30s; then the job expires
    #[arg(long, value_name = "TIME", value_parser = wait)]
    max_wait: Option<Duration>,
    /// Longest run, e.g. 5m; then the job fails
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// When the run's host is cut off for as long as its lease: stop (the default), so that no two run at one time, or
    /// continue, and count if nobody took over meanwhile
    #[arg(long, value_name = "WORD", value_parser = on_partition)]
    on_partition: Option<OnPartition>,
    /// Only submit, and print the job's id
    #[arg(long, short, conflicts_with_all = ["follow", "out"])]
    detach: bool,
    /// Show chunks, progress and logs up to the end; what is done without --detach
    #[arg(long)]
    follow: bool,
    /// Folder for the files of the result
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Ask for chunks; without this and --no-stream the plugin does as it does best
    #[arg(long, overrides_with = "no_stream")]
    stream: bool,
    /// Ask for the result only
    #[arg(long)]
    no_stream: bool,
    /// What is to be done when nobody can start it now [default: GRANGE_POLICY, else queue]
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Under `safety`: how long a job may wait to be claimed before it is refused, milliseconds [default: 500]
    #[arg(long, value_name = "MS", value_parser = safety_ms)]
    safety_ms: Option<Duration>,
    /// Submit without a look at the farm: even if no agent that is up has the plugin, or could ever run the job
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    resources: ResourceFlags,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

fn wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        wait if wait >= SHORTEST_WAIT => Ok(wait),
        _ => Err(format!("`{text}` is too short; the least is 1s")),
    }
}

fn safety_ms(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(ms @ 1..=LONGEST_SAFETY_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{text}` is not a number of milliseconds from 1 to {LONGEST_SAFETY_MS}")),
    }
}

fn on_partition(text: &str) -> Result<OnPartition, String> {
    match text {
        "stop" => Ok(OnPartition::Stop),
        "continue" => Ok(OnPartition::Continue),
        _ => Err(format!("`{text}` is neither `stop` nor `continue`")),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout.is_zero() || timeout.as_secs() >= u64::from(u32::MAX) {
        return Err(format!("`{text}` is no time limit; use 1s or more"));
    }
    Ok(timeout)
}

pub(crate) async fn run(
    flags: SubmitFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let mut arguments = Arguments::read(&flags.arguments, &flags.files, &flags.args_json)?;
    let policy = Policy::resolve(flags.policy, &context.environment)?;
    check_policy(&flags, policy)?;
    let wanted = flags.resources.wanted(policy)?;
    if let Some(folder) = &flags.out {
        check_folder(folder)?;
    }
    let session = context.connect().await?;
    if !flags.unchecked {
        let asked = Asked { lane: &lane(&flags, &wanted), exact: wanted.resources.as_ref() };
        ask_farm(&session, asked, policy, output).await?;
    }
    send_files(&mut arguments, context, output).await?;
    let submission = submission(&flags, context, wanted, arguments);
    let key = JobKey { owner: submission.owner.clone(), job: new_job_id() };
    let submission = Submission { job: Some(key.job.clone()), ..submission };
    let guard = match policy {
        Policy::Safety => Some(Guard::open(&session, &key, &submission.ticket, flags.safety_ms).await?),
        Policy::Queue | Policy::Permissive => None,
    };
    if flags.detach {
        let submitted = send(&session, submission, &key).await?;
        context.state.remember(&key);
        if let Some(guard) = guard
            && let Some(record) = guard.settle(&submitted).await?
        {
            return Err(refused(&key, &record));
        }
        output.submitted(&submitted, false)?;
        return Ok(Exit::Ok);
    }
    let mut interrupts = Interrupts::open()?;
    let updates = Follow::before_submit(&session.broker, &key).await?;
    let submitted = send(&session, submission, &key).await?;
    context.state.remember(&key);
    output.submitted(&submitted, true)?;
    let guarded = settle(guard, &submitted);
    let record = tokio::select! {
        record = follow(&session, &key, updates, &mut interrupts, output) => record?,
        failure = guarded => return Err(failure),
    };
    let exit = Exit::of_state(record.state);
    let ended = ending(context, key, record, flags.out.as_deref(), true).await?;
    output.ended(&ended)?;
    Ok(exit)
}

/// Ends only where the job cannot be refused that should be; else its end, whichever, is heard by who follows it.
async fn settle(guard: Option<Guard>, submitted: &Submitted) -> Failure {
    if let Some(guard) = guard
        && let Err(failure) = guard.settle(submitted).await
    {
        return failure;
    }
    std::future::pending().await
}

fn refused(key: &JobKey, record: &Record) -> Failure {
    let failure = record.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
    let why = failure.map(|failure| format!(": {}", failure.message)).unwrap_or_default();
    Failure::new(Exit::JobRefused, format!("job {} was refused{why}", key.job))
        .hint("`--policy queue` lets a job wait")
}

/// What goes only with `safety`, or never with it.
fn check_policy(flags: &SubmitFlags, policy: Policy) -> Result<(), Failure> {
    match policy {
        Policy::Safety if flags.unchecked => Err(Failure::usage(
            "`--unchecked` submits without the look at the farm that the policy `safety` is about",
        )
        .hint("leave one of them out; `--policy queue` goes before GRANGE_POLICY")),
        Policy::Queue | Policy::Permissive if flags.safety_ms.is_some() => {
            Err(Failure::usage("`--safety-ms` means something only under the policy `safety`")
                .hint("give `--policy safety`, or `--max-wait` for a job that is to wait"))
        }
        Policy::Queue | Policy::Safety | Policy::Permissive => Ok(()),
    }
}

/// Found out now, not after an hour's run.
fn check_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::usage(format!("`--out {}` cannot be made: {e}", folder.display())))
}

fn lane(flags: &SubmitFlags, wanted: &Wanted) -> Lane {
    Lane { priority: flags.priority, plugin: flags.plugin.clone(), class: wanted.class.clone() }
}

fn submission(flags: &SubmitFlags, context: &Context, wanted: Wanted, arguments: Arguments) -> Submission {
    let (args, kwargs) = arguments.into_json();
    let stream = match (flags.stream, flags.no_stream) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    let timeout_s =
        flags.timeout.map(|timeout| u32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    let limits = TimeLimits {
        timeout_s,
        on_partition: flags.on_partition.unwrap_or_default(),
        ..TimeLimits::default()
    };
    Submission {
        owner: context.owner.clone(),
        job: None,
        lane: lane(flags, &wanted),
        ticket: Ticket {
            v: TICKET_VERSION,
            args,
            kwargs,
            stream,
            limits,
            resources: wanted.resources,
            ..Ticket::default()
        },
        max_wait: flags.max_wait,
    }
}

async fn send(session: &Session, submission: Submission, key: &JobKey) -> Result<Submitted, Failure> {
    submit(&session.broker, &session.ledger, submission).await.map_err(|error| match error.kind() {
        ErrorKind::Timeout => Failure::from(error)
            .hint(format!("the broker may have it all the same: `grange status {}`", key.job)),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn flags(line: &str) -> SubmitFlags {
        let words = ["grange", "submit"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Command::Submit(flags) => flags,
            _ => panic!("not a submit"),
        }
    }

    fn built(line: &str) -> Submission {
        let flags = flags(line);
        let folder = tempfile::tempdir().unwrap();
        let global = crate::cli::GlobalFlags { state: Some(folder.path().to_owned()), ..Default::default() };
        let context = Context::resolve(&global, std::collections::BTreeMap::new(), "ann").unwrap();
        let arguments = Arguments::read(&flags.arguments, &flags.files, &flags.args_json).unwrap();
        let policy = Policy::resolve(flags.policy, &context.environment).unwrap();
        let wanted = flags.resources.wanted(policy).unwrap();
        submission(&flags, &context, wanted, arguments)
    }

    #[test]
    fn flags_reach_the_ticket() {
        let job =
            built("ocr n=3 --priority high --timeout 90s --max-wait 1m --policy permissive --no-stream");
        assert_eq!(job.lane.to_string(), "any/high/ocr");
        assert_eq!(job.ticket.kwargs.as_ref().map(|k| k.text()), Some("{\"n\":3}"));
        assert_eq!((job.ticket.stream, job.ticket.limits.timeout_s), (Some(false), Some(90)));
        assert_eq!((job.max_wait, job.owner.as_str()), (Some(Duration::from_secs(60)), "ann"));
        let large = built("ocr --vram 9g --priority -1");
        assert_eq!(large.lane.to_string(), "g1+v12/low/ocr");
        assert_eq!(large.ticket.resources.unwrap().vram_mb, 9216);
        let least = built("echo");
        assert_eq!((least.lane.to_string().as_str(), least.ticket.stream), ("default/normal/echo", None));
    }

    #[test]
    fn bad_flags_are_told() {
        let said = |line: &str| {
            let words = ["grange", "submit"].into_iter().chain(line.split(' '));
            Cli::try_parse_from(words).err().unwrap().to_string()
        };
        assert!(said("a.b").contains("plugin name `a.b` has a `.`"));
        assert!(said("a --priority soon").contains("use urgent, high, normal or low"));
        assert!(said("a --max-wait 10ms").contains("the least is 1s"));
        assert!(said("a --timeout 0").contains("no time limit"));
        assert!(said("a --detach --follow").contains("cannot be used with"));
    }
}
