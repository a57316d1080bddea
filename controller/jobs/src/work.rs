//! One job under its lease: effect, record, effect, record, until it ends or rests.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hosting_planner::Draft;
use hosting_scaffold::telemetry::set_remote_parent;
use hosting_store::{Job, JobWait, Origin, Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::bell::Bell;
use crate::config::{RunnerConfig, rules};
use crate::kind::{AnyKind, Asked, Failure};
use crate::machine::{self, Again, Lost, Move, Outcome};
use crate::metrics::JobMetrics;
use crate::pace;
use crate::recurring::enqueue_next;

/// What all tasks of a runner share.
pub(crate) struct Worker {
    pub(crate) store: Store,
    pub(crate) kinds: BTreeMap<&'static str, Arc<dyn AnyKind>>,
    pub(crate) bell: Bell,
    pub(crate) config: RunnerConfig,
    pub(crate) metrics: JobMetrics,
    /// Cancelled when the runner ends: jobs are handed over between two steps.
    pub(crate) stopping: CancellationToken,
}

/// A job that this runner has the lease on.
pub(crate) struct Working {
    pub(crate) kind: Arc<dyn AnyKind>,
    pub(crate) job: Job,
    pub(crate) waits: Vec<JobWait>,
}

/// How the wait for an effect ended.
enum Ended {
    With(Outcome, Option<Duration>),
    /// The lease is over: what became of the effect is for the next runner to find out.
    LeaseLost,
    /// The runner ends and the effect did not come to its end in time.
    Stopped,
}

/// What is written of a move.
enum Note {
    Outcome(Outcome, Option<Duration>),
    Abandon,
}

impl Worker {
    /// Works on a job until it ends, rests, or is another runner's.
    pub(crate) async fn work(&self, mut working: Working, first: Move) {
        let name = working.kind.facts().name;
        let mut next = first;
        self.metrics.began();
        while !matches!(next, Move::Ended | Move::Rest) {
            let span = span_of(&working, next);
            let recorded = async {
                match self.effect(&working, next).await {
                    Ended::With(outcome, cooldown) => {
                        self.log(&working, next, &outcome);
                        self.record(&mut working, next, Note::Outcome(outcome, cooldown)).await
                    }
                    Ended::Stopped => self.record(&mut working, next, Note::Abandon).await,
                    Ended::LeaseLost => Err(Lost),
                }
            };
            match recorded.instrument(span).await {
                Ok(then) => next = then,
                Err(Lost) => {
                    self.metrics.lost(name);
                    tracing::warn!(job = %working.job.id, kind = name, "the lease on a job is lost; another runner goes on with it");
                    break;
                }
            }
        }
        self.metrics.left();
        if next == Move::Ended {
            self.metrics.ended(name, working.job.state);
        }
        self.bell.ring();
    }

    /// Has the effect of a move while the lease is kept.
    async fn effect(&self, working: &Working, next: Move) -> Ended {
        let limit = working.kind.limits().step_time;
        let attempt = async {
            let work = AssertUnwindSafe(attempt(working, next)).catch_unwind();
            match tokio::time::timeout(limit, work).await {
                Ok(Ok(done)) => done,
                Ok(Err(_)) => Err(Failure::unsure("the step panicked; the controller's log says more")),
                Err(_) => Err(Failure::unsure(format!("the step took longer than {} s", limit.as_secs()))),
            }
        };
        let stopped = async {
            self.stopping.cancelled().await;
            tokio::time::sleep(self.config.grace).await;
        };
        tokio::select! {
            done = attempt => match done {
                Ok(outcome) => Ended::With(outcome, None),
                Err(Failure { why, again, cooldown }) => Ended::With(Outcome::Failed(why, again), cooldown),
            },
            () = self.keep_lease(&working.job) => Ended::LeaseLost,
            () = stopped => Ended::Stopped,
        }
    }

    /// Lengthens the lease as time goes by; ends when it is over. By this machine's steady clock the lease is over in time even while
    /// the store does not answer.
    async fn keep_lease(&self, job: &Job) {
        let lease = self.config.lease;
        let mut sure_until = Instant::now() + lease;
        loop {
            tokio::time::sleep(lease / 3).await;
            let asked_at = Instant::now();
            let (id, fence, length) = (job.id.clone(), job.fence, self.lease());
            let renewal = self.write(Origin::default(), move |tx| {
                Box::pin(async move {
                    let until = Draft::now(tx).saturating_add(length);
                    tx.renew_job_lease(&id, fence, until).await
                })
            });
            match tokio::time::timeout_at(sure_until, renewal).await {
                Ok(Ok(true)) => sure_until = asked_at + lease,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, job = %job.id, "the lease on a job could not be lengthened");
                    if Instant::now() >= sure_until {
                        return;
                    }
                }
            }
        }
    }

    /// Writes how a move went. A store that fails is asked again for as long as the lease lasts: the effect has happened.
    async fn record(&self, working: &mut Working, moved: Move, note: Note) -> Result<Move, Lost> {
        let note = Arc::new(note);
        let until = Instant::now() + self.config.lease;
        loop {
            match self.try_record(working, moved, &note).await {
                Ok(Some((job, next))) => {
                    working.job = job;
                    return Ok(next);
                }
                Ok(None) => return Err(Lost),
                Err(error) => {
                    tracing::error!(%error, job = %working.job.id, "a step of a job could not be recorded; trying again");
                    if Instant::now() >= until || matches!(error, StoreError::Closed) {
                        return Err(Lost);
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn try_record(
        &self,
        working: &Working,
        moved: Move,
        note: &Arc<Note>,
    ) -> Result<Option<(Job, Move)>, StoreError> {
        let (id, fence, kind) = (working.job.id.clone(), working.job.fence, Arc::clone(&working.kind));
        let (note, lease, due_at) = (Arc::clone(note), self.lease(), working.job.due_at);
        let stopping = self.stopping.clone();
        let origin = Origin { traceparent: working.job.traceparent.clone(), ..Origin::default() };
        self.write(origin, move |tx| {
            Box::pin(async move {
                let Some(mut job) = tx.beside().job(&id).await? else { return Ok(None) };
                let (facts, limits) = (kind.facts(), kind.limits());
                let now = Draft::now(tx);
                let rules = rules(facts, limits.backoff, lease, now);
                // What it looked at may have changed since.
                let looks_again = job.due_at != due_at;
                let recorded = match &*note {
                    Note::Abandon => machine::abandon(&mut job, fence, &rules),
                    Note::Outcome(outcome, _) => {
                        let outcome = outcome.clone();
                        let outcome =
                            if looks_again { machine::again(&job, outcome, &rules) } else { outcome };
                        machine::record(&mut job, fence, moved, outcome, &rules)
                    }
                };
                let Ok(mut next) = recorded else { return Ok(None) };
                if stopping.is_cancelled()
                    && !matches!(next, Move::Ended | Move::Rest)
                    && let Ok(handed) = machine::hand_over(&mut job, fence, &rules)
                {
                    next = handed;
                }
                if !tx.save_job(&job, fence).await? {
                    return Ok(None);
                }
                if next == Move::Ended {
                    enqueue_next(tx, kind.as_ref(), &job.id).await?;
                }
                if let Note::Outcome(_, Some(cooldown)) = &*note {
                    let mut resting = tx.beside().job_pace(facts.name).await?;
                    pace::rest(&mut resting, *cooldown, now);
                    tx.put_job_pace(facts.name, resting).await?;
                }
                Ok(Some((job, next)))
            })
        })
        .await
    }

    fn log(&self, working: &Working, moved: Move, outcome: &Outcome) {
        let facts = working.kind.facts();
        let step = step_name(working, moved);
        let failed = matches!(outcome, Outcome::Failed(..));
        self.metrics.stepped(facts.name, step, failed);
        if let Outcome::Failed(why, again) = outcome {
            let job = &working.job;
            tracing::warn!(job = %job.id, kind = facts.name, step, attempt = job.attempts, ?again, %why,
                "a step of a job failed");
        }
    }
}

/// One attempt at a move. What an earlier runner may have done is asked for before it is repeated.
async fn attempt(working: &Working, next: Move) -> Result<Outcome, Failure> {
    let Working { kind, job, waits } = working;
    match next {
        Move::Run(place) => kind.step(place, job, waits).await.map(Outcome::from),
        Move::Ask(place) => match kind.ask(place, job, waits).await {
            Ok(Asked::Happened(result)) => Ok(Outcome::Done(result)),
            Ok(Asked::NotHappened) => kind.step(place, job, waits).await.map(Outcome::from),
            // Nothing is known of the attempt before, whatever is known of this one.
            Err(failure) => Err(Failure { again: Again::Unsure, ..failure }),
        },
        Move::Undo(place) => {
            kind.undo(place, job, waits).await.map(|()| Outcome::Done(serde_json::Value::Null))
        }
        Move::Ended | Move::Rest => Err(Failure::finally("there is nothing to do")),
    }
}

fn step_name(working: &Working, moved: Move) -> &'static str {
    match moved {
        Move::Run(place) | Move::Ask(place) | Move::Undo(place) => {
            working.kind.facts().steps.get(place).copied().unwrap_or_default()
        }
        Move::Ended | Move::Rest => "",
    }
}

fn span_of(working: &Working, next: Move) -> tracing::Span {
    let Working { kind, job, .. } = working;
    let undo = matches!(next, Move::Undo(_));
    let step = step_name(working, next);
    let span = tracing::info_span!("job.step", job = %job.id, kind = kind.facts().name, step, undo);
    set_remote_parent(&span, &job.traceparent);
    span
}
