//! `grange submit --array` and `--batch`.

use super::SubmitFlags;
use crate::admission::{Asked, ask_farm};
use crate::batch::{Common, Item, Source};
use crate::context::{Context, Session};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::{BatchRow, Level};
use crate::resources::Policy;
use crate::sending::send_files;
use crate::waiting::wait_for_all;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use grange_broker_client::Error;
use grange_broker_client::batches::{self, Batch, MAX_SKIPPED, check_name, digest_after, job_of};
use grange_broker_client::submit::{Submission, Submitted, new_job_id, submit_later};
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::subject::JobKey;
use std::time::{Duration, Instant};

/// Publishes that are out at one time; reading waits for them.
const WINDOW: usize = 512;
/// How often, in jobs, it is written down how far the batch is.
const NOTED_EVERY: u64 = 2_000;
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);

pub(super) async fn run(
    flags: &SubmitFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    check(flags)?;
    let mut arguments = flags.job.arguments()?;
    let policy = flags.job.policy(context)?;
    if policy == Policy::Safety {
        return Err(Failure::usage("the policy `safety` is for one job; give `--policy queue`"));
    }
    let wanted = flags.job.wanted(policy)?;
    let source = flags.many.source()?;
    let batch = flags.many.batch_id.clone().unwrap_or_else(new_job_id);
    check_name(&batch)?;
    let session = context.connect().await?;
    if let (false, Some(plugin)) = (flags.unchecked, &flags.plugin) {
        let lane = flags.job.lane(plugin, &wanted);
        ask_farm(&session, Asked { lane: &lane, exact: wanted.resources.as_ref() }, policy, output).await?;
    }
    send_files(&mut arguments, context, output).await?;
    let kwargs = arguments.kwargs.clone();
    // Each job has its own plugin, or this one.
    let nobody = PluginName::new("unnamed").map_err(|e| Failure::usage(e.to_string()))?;
    let plugin = flags.plugin.as_ref().unwrap_or(&nobody);
    let base = flags.job.submission(plugin, context, wanted, arguments);
    let common = Common { plugin: flags.plugin.clone(), base, kwargs };
    let before = batches::read(&session.broker, &context.owner, &batch).await?;
    let facts = before.clone().unwrap_or_else(|| Batch {
        v: 1,
        first: source.first(),
        next: source.first(),
        ..Batch::default()
    });
    let row = BatchRow { batch: Some(batch.to_string()), jobs: source.jobs(), ..BatchRow::default() };
    let run = Run {
        session: &session,
        context,
        batch: batch.clone(),
        common,
        facts,
        before,
        row,
        keep_going: flags.many.keep_going,
        out: FuturesOrdered::new(),
        told: Instant::now(),
        read: 0,
        digest: String::new(),
    };
    let (facts, row) = run.all(source, output).await.map_err(|failure| {
        let hint = failure.hint.clone().map(|hint| format!("{hint}; ")).unwrap_or_default();
        failure.hint(format!("{hint}the same command with `--batch-id {batch}` goes on from there"))
    })?;
    if flags.detach {
        output.batch_end(&row)?;
        return Ok(Exit::Ok);
    }
    let keys: Result<Vec<_>, _> = facts
        .numbers()
        .map(|number| job_of(&batch, number).map(|job| JobKey { owner: context.owner.clone(), job }))
        .collect();
    let keys = keys.map_err(|e| Failure::usage(e.to_string()))?;
    wait_for_all(&session, &context.owner, &keys, row, None, output).await
}

fn check(flags: &SubmitFlags) -> Result<(), Failure> {
    let alone = [
        (flags.delay.or(flags.at).is_some(), "--delay and --at"),
        (flags.idempotency_key.is_some(), "--idempotency-key"),
        (flags.out.is_some(), "--out"),
        (flags.safety_ms.is_some(), "--safety-ms"),
    ];
    match alone.into_iter().find(|(given, _)| *given) {
        Some((_, flag)) => Err(Failure::usage(format!("{flag} is for one job, not for a batch"))),
        None => Ok(()),
    }
}

type Answer = BoxFuture<'static, Result<Submitted, Error>>;

/// A batch on its way.
struct Run<'a> {
    session: &'a Session,
    context: &'a Context,
    batch: JobId,
    common: Common,
    facts: Batch,
    /// How far it was before, if it goes on.
    before: Option<Batch>,
    row: BatchRow,
    keep_going: bool,
    out: FuturesOrdered<Answer>,
    told: Instant,
    /// The number after the last item that was read.
    read: u64,
    /// Of everything that was read: each item's text after the digest of those before.
    digest: String,
}

impl Run<'_> {
    async fn all(
        mut self,
        mut source: Source,
        output: &mut dyn Output,
    ) -> Result<(Batch, BatchRow), Failure> {
        loop {
            let item = match source.next() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(failure) => return Err(self.stop(failure).await),
            };
            self.read = item.number + 1;
            let digest = digest_after(&self.digest, &item.text);
            if self.is_done(&item, &digest)? {
                self.digest = digest;
                continue;
            }
            match source.job(&item, &self.common) {
                Ok(job) => self.send(&item, job).await?,
                Err(why) => {
                    let why = format!("line {}: {why}", item.number);
                    if !self.keep_going || self.facts.skipped.len() >= MAX_SKIPPED {
                        return Err(self.stop(Failure::usage(why)).await);
                    }
                    output.say(Level::Warning, &why)?;
                    self.facts.skipped.push(item.number);
                    self.row.skipped += 1;
                }
            }
            self.digest = digest;
            self.facts.next = item.number + 1;
            if (self.facts.next - self.facts.first).is_multiple_of(NOTED_EVERY) {
                self.note(false).await?;
            }
            if self.told.elapsed() >= TOLD {
                self.told = Instant::now();
                output.batch(&self.row)?;
            }
        }
        // It was longer when it was begun.
        if self.facts.next > self.facts.first && self.read < self.facts.next {
            return Err(other(&self.batch));
        }
        self.note(true).await?;
        self.row.jobs = Some(self.facts.jobs());
        Ok((self.facts, self.row))
    }

    /// Whether it was submitted before; an error, where that was something else.
    fn is_done(&mut self, item: &Item, digest: &str) -> Result<bool, Failure> {
        let Some(before) = self.before.as_ref().filter(|before| item.number < before.next) else {
            return Ok(false);
        };
        if item.number < before.first || (item.number + 1 == before.next && before.sha256 != digest) {
            return Err(other(&self.batch));
        }
        if before.skipped.binary_search(&item.number).is_ok() {
            self.row.skipped += 1;
        } else {
            self.row.submitted += 1;
        }
        Ok(true)
    }

    async fn send(&mut self, item: &Item, job: Submission) -> Result<(), Failure> {
        while self.out.len() >= WINDOW {
            self.settle_one().await?;
        }
        let id = job_of(&self.batch, item.number).map_err(|e| Failure::usage(e.to_string()))?;
        let submission = Submission { job: Some(id), ..job };
        let sent = submit_later(&self.session.broker, &self.session.ledger, submission).await;
        let (_, accepted) = sent.map_err(|e| Failure::from(e).at_line(item.number))?;
        self.out.push_back(Box::pin(accepted));
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), Failure> {
        if let Some(accepted) = self.out.next().await {
            accepted?;
            self.row.submitted += 1;
        }
        Ok(())
    }

    /// Waits for all that is out, and writes down how far it is.
    async fn note(&mut self, complete: bool) -> Result<(), Failure> {
        while !self.out.is_empty() {
            self.settle_one().await?;
        }
        // Of one that goes on, nothing new is known before it is where it was.
        if self.read < self.facts.next {
            return Ok(());
        }
        self.facts.complete = complete;
        self.facts.sha256.clone_from(&self.digest);
        batches::write(&self.session.broker, &self.context.owner, &self.batch, &self.facts).await?;
        Ok(())
    }

    /// What was accepted before the trouble is written down.
    async fn stop(&mut self, failure: Failure) -> Failure {
        match self.note(false).await {
            Ok(()) => failure,
            Err(other) => other,
        }
    }
}

fn other(batch: &JobId) -> Failure {
    Failure::usage(format!("batch `{batch}` was begun with something else"))
        .hint("give the same file or range, or another `--batch-id`")
}
