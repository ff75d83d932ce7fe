//! `grange submit`.

mod many;

use crate::admission::{Asked, Guard, ask_farm};
use crate::batch::BatchFlags;
use crate::cli::StateFlag;
use crate::context::{Context, Session};
use crate::ending::ending;
use crate::failure::{Exit, Failure};
use crate::follow::follow;
use crate::interrupt::Interrupts;
use crate::job_flags::JobFlags;
use crate::output::Output;
use crate::output::words::Level;
use crate::resources::Policy;
use crate::sending::send_files;
use crate::when;
use grange_broker_client::ErrorKind;
use grange_broker_client::follow::{Follow, Since};
use grange_broker_client::query::job_status;
use grange_broker_client::schedules::submit_at;
use grange_broker_client::submit::{
    Once, Submission, Submitted, job_id_of_key, new_job_id, submit, submit_once,
};
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::record::Record;
use grange_protocol::subject::JobKey;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest key of a request, bytes.
const LONGEST_KEY_BYTES: usize = 256;
/// The longest wait under `safety`: who waits longer wants `queue` with `--max-wait`.
const LONGEST_SAFETY_MS: u64 = 3_600_000;

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
  grange submit report --at 06:00 --idempotency-key report-2026-12-01 --detach
  grange submit ocr --array 0-999 --arg page={} --detach
  grange submit --batch jobs.jsonl --batch-id tuesday --keep-going
  grange submit train --args-json @settings.json --gpus 2 --vram 40g --on gpu=a100 --priority low --detach")]
pub(crate) struct SubmitFlags {
    /// The plugin to run
    #[arg(required_unless_present = "batch")]
    plugin: Option<PluginName>,
    #[command(flatten)]
    job: JobFlags,
    /// Submit it after so long, e.g. 10m
    #[arg(long, value_name = "TIME", conflicts_with = "at", value_parser = delay)]
    delay: Option<u64>,
    /// Submit it at this time: 2026-12-01T08:00Z, 2026-12-01T08:00 on this machine's clock, or 08:00
    #[arg(long, value_name = "TIME", value_parser = at)]
    at: Option<u64>,
    /// The same key again is the same job, as long as that is known; for who may have to repeat a submit
    #[arg(long, value_name = "KEY", value_parser = key_of_request)]
    idempotency_key: Option<String>,
    /// Only submit, and print the job's id
    #[arg(long, short, conflicts_with_all = ["follow", "out"])]
    detach: bool,
    /// Show chunks, progress and logs up to the end; what is done without --detach
    #[arg(long)]
    follow: bool,
    /// Folder for the files of the result
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Under `safety`: how long a job may wait to be claimed before it is refused, milliseconds [default: 500]
    #[arg(long, value_name = "MS", value_parser = safety_ms)]
    safety_ms: Option<Duration>,
    /// Submit without a look at the farm: even if no agent that is up has the plugin, or could ever run the job
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    many: BatchFlags,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

fn safety_ms(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(ms @ 1..=LONGEST_SAFETY_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{text}` is not a number of milliseconds from 1 to {LONGEST_SAFETY_MS}")),
    }
}

fn delay(text: &str) -> Result<u64, String> {
    when::after(text, &when::now())
}

fn at(text: &str) -> Result<u64, String> {
    when::at(text, &when::now())
}

fn key_of_request(text: &str) -> Result<String, String> {
    match text.len() {
        1..=LONGEST_KEY_BYTES => Ok(text.to_owned()),
        bytes => Err(format!("a key of {bytes} bytes; use 1 to {LONGEST_KEY_BYTES}")),
    }
}

pub(crate) async fn run(
    flags: SubmitFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    if flags.many.is_given() {
        return many::run(&flags, context, output).await;
    }
    let plugin = flags.plugin.as_ref().ok_or_else(|| Failure::usage("no plugin is given"))?;
    let mut arguments = flags.job.arguments()?;
    let policy = flags.job.policy(context)?;
    check_policy(&flags, policy)?;
    let wanted = flags.job.wanted(policy)?;
    if let Some(folder) = &flags.out {
        check_folder(folder)?;
    }
    let session = context.connect().await?;
    if !flags.unchecked {
        let lane = flags.job.lane(plugin, &wanted);
        ask_farm(&session, Asked { lane: &lane, exact: wanted.resources.as_ref() }, policy, output).await?;
    }
    send_files(&mut arguments, context, output).await?;
    let submission = flags.job.submission(plugin, context, wanted, arguments);
    let key = JobKey { owner: submission.owner.clone(), job: flags.job_id(context) };
    let submission = Submission { job: Some(key.job.clone()), ..submission };
    let guard = match policy {
        Policy::Safety => Some(Guard::open(&session, &key, &submission.ticket, flags.safety_ms).await?),
        Policy::Queue | Policy::Permissive => None,
    };
    if flags.detach {
        let submitted = flags.send(&session, submission, &key).await?;
        context.state.remember(&key);
        if let Some(guard) = guard
            && let Some(record) = guard.settle(&submitted).await?
        {
            return Err(refused(&key, &record));
        }
        note_known(&session, &submitted, output).await?;
        output.submitted(&submitted, false)?;
        return Ok(Exit::Ok);
    }
    let mut interrupts = Interrupts::open()?;
    let mut updates = Follow::before_submit(&session.broker, &key).await?;
    let submitted = flags.send(&session, submission, &key).await?;
    context.state.remember(&key);
    if submitted.duplicate {
        // What happened before is told too.
        updates = Follow::start(&session.broker, &key, Since::Start).await?;
        note_known(&session, &submitted, output).await?;
    }
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

impl SubmitFlags {
    fn job_id(&self, context: &Context) -> JobId {
        match &self.idempotency_key {
            Some(key) => job_id_of_key(&context.owner, key),
            None => new_job_id(),
        }
    }

    async fn send(
        &self,
        session: &Session,
        submission: Submission,
        key: &JobKey,
    ) -> Result<Submitted, Failure> {
        let (broker, ledger) = (&session.broker, &session.ledger);
        let once = if self.idempotency_key.is_some() { Once::ThisRequest } else { Once::AnyRequest };
        let sent = match self.delay.or(self.at) {
            Some(at_ms) => submit_at(broker, ledger, submission, once, at_ms).await,
            None if once == Once::ThisRequest => submit_once(broker, ledger, submission).await,
            None => submit(broker, ledger, submission).await,
        };
        sent.map_err(|error| match error.kind() {
            ErrorKind::Timeout => Failure::from(error)
                .hint(format!("the broker may have it all the same: `grange status {}`", key.job)),
            _ => error.into(),
        })
    }
}

/// Says that a submission changed nothing, and where its job is.
async fn note_known(
    session: &Session,
    submitted: &Submitted,
    output: &mut dyn Output,
) -> Result<(), Failure> {
    if submitted.duplicate {
        let view = job_status(&session.broker, &session.ledger, &submitted.key).await?;
        let text = format!("job {} was submitted before; it is {}", submitted.key.job, view.word());
        output.say(Level::Note, &text)?;
    }
    Ok(())
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
        Policy::Safety if flags.delay.or(flags.at).is_some() => Err(Failure::usage(
            "the policy `safety` asks whether a job can start now; one that comes later cannot be asked about",
        )
        .hint("leave out `--policy safety`, or give `--policy queue` over GRANGE_POLICY")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn flags(line: &str) -> SubmitFlags {
        let words = ["grange", "submit"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Command::Submit(flags) => *flags,
            _ => panic!("not a submit"),
        }
    }

    fn built(line: &str) -> Submission {
        let flags = flags(line);
        let folder = tempfile::tempdir().unwrap();
        let global = crate::cli::GlobalFlags { state: Some(folder.path().to_owned()), ..Default::default() };
        let context = Context::resolve(&global, std::collections::BTreeMap::new(), "ann").unwrap();
        let arguments = flags.job.arguments().unwrap();
        let wanted = flags.job.wanted(flags.job.policy(&context).unwrap()).unwrap();
        flags.job.submission(flags.plugin.as_ref().unwrap(), &context, wanted, arguments)
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
        assert!(said("a --delay 1s --at 08:00").contains("cannot be used with"));
        assert!(said("a --at noon").contains("is no time"));
        assert!(said("a --idempotency-key=").contains("use 1 to 256"));
        assert!(said("a --detach --follow").contains("cannot be used with"));
    }
}
