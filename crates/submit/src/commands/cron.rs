//! `grange cron`: jobs that are submitted again and again.

use crate::admission::{Asked, ask_farm};
use crate::cli::StateFlag;
use crate::context::{Context, Session};
use crate::failure::{Exit, Failure};
use crate::job_flags::JobFlags;
use crate::output::Output;
use crate::output::words::{CronRow, Level};
use crate::resources::Policy;
use crate::sending::send_files;
use crate::{units, when};
use grange_broker_client::schedules::{Cron, CronView, add_cron, list_crons, remove_cron, run_cron};
use grange_broker_client::submit::{Submitted, new_job_id};
use grange_broker_client::{Error, ErrorKind};
use grange_protocol::cron::Pattern;
use grange_protocol::name::{JobId, PluginName};

#[derive(clap::Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct CronFlags {
    #[command(subcommand)]
    order: Order,
}

#[derive(clap::Subcommand)]
enum Order {
    /// Submit a job again and again
    Add(Box<AddFlags>),
    /// List recurring jobs, with their next time and their last job
    List(ListFlags),
    /// Show one
    Show(NameFlags),
    /// Submit no more of its jobs; those that it submitted go on
    Remove(NameFlags),
    /// Submit a job of it now, beside its times
    Run(NameFlags),
}

#[derive(clap::Args)]
#[command(after_help = "\
WHEN is five fields, minute hour day month weekday, as everywhere: \"0 6 * * mon-fri\", \"*/15 * * * *\"; six, with the
second first; @hourly, @daily, @weekly, @monthly, @yearly; or \"@every 30m\". Where day and weekday are given, either
will do. Its jobs are named NAME-<number>. A time that is missed while the broker is down is made up for once.

Examples:
  grange cron add nightly \"0 6 * * *\" --tz Europe/Berlin train --args-json @settings.json
  grange cron add poll \"@every 30m\" fetch url=https://example.org --max-wait 10m")]
struct AddFlags {
    /// What its jobs are named after
    name: JobId,
    /// When, quoted for the shell
    #[arg(value_name = "WHEN", value_parser = Pattern::read)]
    when: Pattern,
    /// The plugin to run
    plugin: PluginName,
    /// The time zone of the fields [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    #[command(flatten)]
    job: JobFlags,
    /// Without a look at the farm: even if no agent that is up has the plugin, or could ever run the job
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    state: StateFlag,
}

#[derive(clap::Args)]
struct ListFlags {
    #[command(flatten)]
    state: StateFlag,
}

#[derive(clap::Args)]
struct NameFlags {
    /// Its name
    name: JobId,
    #[command(flatten)]
    state: StateFlag,
}

impl CronFlags {
    pub(crate) fn state(&self) -> &StateFlag {
        match &self.order {
            Order::Add(flags) => &flags.state,
            Order::List(flags) => &flags.state,
            Order::Show(flags) | Order::Remove(flags) | Order::Run(flags) => &flags.state,
        }
    }
}

pub(crate) async fn run(
    flags: &CronFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    match &flags.order {
        Order::Add(flags) => add(flags, context, output).await?,
        Order::List(_) => {
            let session = context.connect().await?;
            let views = list_crons(&session.broker, context.only_owner.as_ref(), None).await?;
            output.crons(&views.into_iter().map(row).collect::<Vec<_>>())?;
        }
        Order::Show(flags) => {
            let session = context.connect().await?;
            output.cron(&find(&session, context, &flags.name).await?)?;
        }
        Order::Remove(flags) => {
            let session = context.connect().await?;
            remove_cron(&session.broker, &context.owner, &flags.name).await?;
            output.say(Level::Note, &format!("`{}` submits no more jobs", flags.name))?;
        }
        Order::Run(flags) => {
            let session = context.connect().await?;
            let found = find(&session, context, &flags.name).await?;
            let key = run_cron(&session.broker, &context.owner, &flags.name).await?;
            context.state.remember(&key);
            let lane = found.view.lane;
            output.submitted(&Submitted { key, lane, sequence: 0, duplicate: false, due_ms: None }, false)?;
        }
    }
    Ok(Exit::Ok)
}

async fn add(flags: &AddFlags, context: &Context, output: &mut dyn Output) -> Result<(), Failure> {
    let mut arguments = flags.job.arguments()?;
    let policy = flags.job.policy(context)?;
    if policy == Policy::Safety {
        return Err(Failure::usage(
            "the policy `safety` asks whether a job can start now; a recurring one cannot be asked about",
        )
        .hint("give `--policy queue`, and `--max-wait` for jobs that are not to wait long"));
    }
    let wanted = flags.job.wanted(policy)?;
    if flags.tz.is_some() && matches!(flags.when, Pattern::Every { .. }) {
        return Err(Failure::usage("`@every` counts time; it has no time zone").hint("leave out `--tz`"));
    }
    let zone = when::zone(flags.tz.as_deref()).map_err(Failure::usage)?;
    let now_ms = units::now_ms();
    let next = when::next(&flags.when, &zone, now_ms, now_ms);
    let next = next.ok_or_else(|| Failure::usage(format!("`{}` never comes", flags.when)))?;
    let session = context.connect().await?;
    if !flags.unchecked {
        let lane = flags.job.lane(&flags.plugin, &wanted);
        ask_farm(&session, Asked { lane: &lane, exact: wanted.resources.as_ref() }, policy, output).await?;
    }
    send_files(&mut arguments, context, output).await?;
    let mut submission = flags.job.submission(&flags.plugin, context, wanted, arguments);
    submission.job = Some(new_job_id());
    let cron = Cron {
        name: flags.name.clone(),
        pattern: flags.when.to_string(),
        zone: flags.tz.clone(),
        submission,
    };
    add_cron(&session.broker, &cron).await?;
    output
        .say(Level::Note, &format!("`{}` submits its first job at {}", flags.name, units::date_time(next)))?;
    Ok(())
}

async fn find(session: &Session, context: &Context, name: &JobId) -> Result<CronRow, Failure> {
    let mut views = list_crons(&session.broker, Some(&context.owner), Some(name)).await?;
    let view = views.pop().ok_or_else(|| {
        let text = format!("`{}` has no recurring job `{name}`; see `grange cron list`", context.owner);
        Error::new(ErrorKind::NotFound, text)
    })?;
    Ok(row(view))
}

/// With its next time, as far as this machine can tell: the server decides.
fn row(view: CronView) -> CronRow {
    let pattern = Pattern::read(&view.pattern).ok();
    let zone = when::zone(view.zone.as_deref()).ok();
    let now_ms = units::now_ms();
    let since_ms = view.last.as_ref().map_or(view.created_ms, |(_, at_ms)| *at_ms);
    let next_ms = pattern.zip(zone).and_then(|(pattern, zone)| when::next(&pattern, &zone, now_ms, since_ms));
    CronRow { view, next_ms }
}
