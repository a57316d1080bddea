//! What is carried out, each in a mutation of its own and in the trace of the user's change that it comes from.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_planner::gates::{Gate, Verdict};
use hosting_planner::{PlanError, World};
use hosting_proto::feed::key_report::Phase;
use hosting_scaffold::telemetry::{current_traceparent, set_remote_parent};
use hosting_store::{Origin, StoreError, WriteError};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::{Gatekeeper, TOGETHER, world_failed};

/// A refused mutation is tried again after this long.
pub(super) const REFUSED: Duration = Duration::from_secs(10);
/// Mutations under way at once: they share commits.
const AT_ONCE: usize = 64;

/// What a look at a resource asks for.
#[derive(Debug)]
pub(super) enum Action {
    Continue(String),
    Remove { id: String, retired: Vec<String> },
    Open { id: String, gates: Vec<Gate> },
    Record { id: String, generation: u64, verdict: Box<Verdict> },
}

impl Action {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Continue(id)
            | Self::Remove { id, .. }
            | Self::Open { id, .. }
            | Self::Record { id, .. } => id,
        }
    }
}

/// What is to be done, in the trace of the user's change that it comes from; empty when that is not known.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) action: Action,
    pub(super) trace: String,
}

impl Due {
    pub(super) fn span(&self) -> Span {
        let id = self.action.id();
        let span = match &self.action {
            Action::Continue(_) => tracing::info_span!("deletion.continue", id),
            Action::Remove { .. } => tracing::info_span!("deletion.finish", id),
            Action::Open { gates, .. } => tracing::info_span!("gates.open", id, ?gates),
            // Of no interest by itself.
            Action::Record { .. } if self.trace.is_empty() => Span::none(),
            Action::Record { verdict, .. } => {
                tracing::info_span!("status.write", id, status = verdict.status.as_str())
            }
        };
        set_remote_parent(&span, &self.trace);
        span
    }
}

/// What goes into one mutation.
#[derive(Debug)]
pub(super) struct Job {
    dues: Vec<Due>,
    /// One for each trace, all of the same length.
    spans: Vec<Span>,
    gates: u64,
    statuses: u64,
}

impl Job {
    pub(super) fn new(dues: Vec<Due>) -> Self {
        let count = |of: fn(&Action) -> usize| {
            u64::try_from(dues.iter().map(|due| of(&due.action)).sum::<usize>()).unwrap_or(u64::MAX)
        };
        Self {
            gates: count(|action| if let Action::Open { gates, .. } = action { gates.len() } else { 0 }),
            statuses: count(|action| usize::from(matches!(action, Action::Record { .. }))),
            spans: dues.iter().map(Due::span).collect(),
            dues,
        }
    }
}

impl Gatekeeper {
    /// Mutations of their own, so that one that is refused leaves the others alone; statuses go together.
    pub(super) async fn act(&mut self, dues: Vec<Due>) -> Result<(), StoreError> {
        let (statuses, others): (Vec<_>, Vec<_>) =
            dues.into_iter().partition(|due| matches!(due.action, Action::Record { .. }));
        let mut jobs: Vec<Vec<Due>> = others.into_iter().map(|due| vec![due]).collect();
        let mut statuses = statuses.into_iter().peekable();
        while statuses.peek().is_some() {
            jobs.push(statuses.by_ref().take(TOGETHER).collect());
        }
        let this = &*self;
        let done: Vec<_> = stream::iter(jobs)
            .map(|dues| async move {
                let ids: Vec<String> = dues.iter().map(|due| due.action.id().to_owned()).collect();
                let what = ids.first().map(String::as_str).unwrap_or_default();
                let Job { dues, spans, gates, statuses } = Job::new(dues);
                let span = spans.first().cloned().unwrap_or_else(Span::none);
                let trace = dues.first().map(|due| due.trace.clone()).unwrap_or_default();
                let done = this
                    .mutate(what, span, &trace, move |tx| {
                        Box::pin(async move {
                            for due in dues {
                                carry_out(tx, due.action).await?;
                            }
                            Ok(())
                        })
                    })
                    .await;
                drop(spans);
                if matches!(done, Ok(true)) {
                    this.metrics.opened(gates);
                    this.metrics.wrote(statuses);
                }
                (ids, done)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let until = Instant::now() + REFUSED;
        for (ids, done) in done {
            if !done? {
                self.refused.extend(ids.into_iter().map(|id| (id, until)));
            }
        }
        Ok(())
    }

    /// Nodes that were away when a row went, and have destroyed its data now.
    pub(super) async fn close_late_retirements(&mut self) -> Result<(), StoreError> {
        const REPORTS: u32 = 1_000;
        let mut late = Vec::new();
        let mut tx = self.store.read().await?;
        for report in tx.reports_in(Phase::Retired, REPORTS).await? {
            let Some(id) = retired_id(&report.key) else { continue };
            if tx.resource(&id).await.map_err(world_failed)?.is_some() {
                continue;
            }
            let Ok(audience) = Audience::node(&report.node) else { continue };
            let row = tx.intent(&audience, &report.key).await.map_err(world_failed)?;
            if row.is_some_and(|row| report.revision >= row.revision) {
                late.push((report.node, id));
            }
        }
        drop(tx);
        for some in late.chunks(TOGETHER) {
            let some = some.to_vec();
            let span = tracing::info_span!("retirements.close", nodes = some.len());
            self.mutate("late retirements", span, "", move |tx| {
                Box::pin(async move {
                    for (node, id) in &some {
                        hosting_planner::retired(tx, node, id).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Runs a mutation in `span`, which continues `trace`. False when it was refused, which is logged. Only the store's own
    /// failures are errors.
    pub(super) async fn mutate<F>(
        &self,
        what: &str,
        span: Span,
        trace: &str,
        mutation: F,
    ) -> Result<bool, StoreError>
    where
        F: for<'t> FnOnce(
                &'t mut hosting_store::WriteTx,
            ) -> futures::future::BoxFuture<'t, Result<(), PlanError>>
            + Send
            + 'static,
    {
        let origin = self.origin(&span, trace);
        async {
            match self.store.write(origin, mutation).await {
                Ok(_) => Ok(true),
                Err(WriteError::Store(error)) => Err(error),
                Err(error) => {
                    self.metrics.refused();
                    tracing::error!(%error, what, "cannot be brought forward; trying again later");
                    Ok(false)
                }
            }
        }
        .instrument(span)
        .await
    }

    /// A log filter may leave the span out: then what comes of the change is in the trace all the same.
    pub(super) fn origin(&self, span: &Span, trace: &str) -> Origin {
        let own = span.in_scope(current_traceparent);
        Origin {
            traceparent: if own.is_empty() { trace.to_owned() } else { own },
            lease: self.lease.clone(),
            ..Origin::default()
        }
    }
}

async fn carry_out(tx: &mut hosting_store::WriteTx, action: Action) -> Result<(), PlanError> {
    match action {
        Action::Continue(id) => hosting_planner::continue_delete(tx, &id).await.map(|_| ()),
        Action::Remove { id, retired } => hosting_planner::finish_delete(tx, &id, &retired).await.map(|_| ()),
        Action::Open { id, gates } => hosting_planner::open_gates(tx, &id, &gates).await,
        Action::Record { id, generation, verdict } => {
            hosting_planner::record_status(tx, &id, generation, &verdict).await
        }
    }
}

/// The resource that a Retire speaks of.
fn retired_id(key: &Key) -> Option<String> {
    (key.known_kind() == Some(IntentKind::Retire)).then(|| key.name.split_once('/'))??.1.to_owned().into()
}
