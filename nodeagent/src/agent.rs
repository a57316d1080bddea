//! The loop: a pass for each new view, by the clock, and when a process came or went.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hosting_agent_engine::{Engine, Phase, Report, Scope};
use hosting_intent::Key;
use hosting_scaffold::telemetry::spans_of;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{host::RealHost, metrics::Metrics, role::RoleInfo, view::View, wants::Wants};

/// Told of reports: keys with their report, or none when there is nothing more to say of them. Must not wait.
pub type ReportSink = Arc<dyn Fn(&View, Vec<(Key, Option<Report>)>) + Send + Sync>;

/// Told whether a part of the node, by its name, can serve; the error is for operators. Must not wait.
pub type ReadySink = Arc<dyn Fn(&'static str, Result<(), String>) + Send + Sync>;

/// Runs passes until it is told to stop.
pub struct Agent {
    /// What it is for.
    pub role: &'static RoleInfo,
    /// With the role's drivers.
    pub engine: Engine,
    /// What it works on.
    pub host: RealHost,
    /// What the controller says.
    pub views: watch::Receiver<Option<Arc<View>>>,
    /// What is wanted by it.
    pub wants: Wants,
    /// Where reports go.
    pub reports: ReportSink,
    /// Where readiness goes.
    pub ready: ReadySink,
    /// What is counted.
    pub metrics: Metrics,
    /// How often everything is looked at.
    pub drift_interval: Duration,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// After a start the first reports are held back this long, so that a restart does not look like an outage: a full report
/// with half of the sites in it would say that the others are gone.
const FIRST_REPORTS: Duration = Duration::from_secs(3);

/// Least time between two passes over everything that processes ask for: one that ends and ends must not keep the node busy.
const EVENT_PAUSE: Duration = Duration::from_millis(200);

impl Agent {
    /// Runs until `stop`, then ends the services in the role's order.
    pub async fn run(mut self, stop: CancellationToken) {
        let began = Instant::now();
        let mut events = self.host.supervisor().events();
        let mut known = *events.borrow();
        let mut scope = Some(Scope::Everything);
        let mut next_drift = Instant::now();
        let mut next_event = Instant::now();
        let mut held = Some(Instant::now() + FIRST_REPORTS);
        let mut traced = 0;
        loop {
            let view = self.views.borrow_and_update().clone();
            let mut retry = None;
            if let (Some(view), Some(this)) = (view, scope.take()) {
                if this == Scope::Everything {
                    next_drift = Instant::now() + self.drift_interval;
                    next_event = Instant::now() + EVENT_PAUSE;
                    known = *events.borrow_and_update();
                }
                tokio::select! {
                    at = self.pass(&view, this, began, &mut held, &mut traced) => retry = at,
                    () = stop.cancelled() => break,
                }
            }
            let retry =
                retry.map_or(next_drift, |at: u64| (began + Duration::from_millis(at)).min(next_drift));
            scope = tokio::select! {
                changed = self.views.changed() => {
                    if changed.is_err() {
                        // The feed ended; what is known stays in effect.
                        stop.cancelled().await;
                        break;
                    }
                    Some(if next_drift <= Instant::now() { Scope::Everything } else { Scope::Changes })
                }
                changed = async {
                    tokio::time::sleep_until(next_event).await;
                    events.changed().await
                } => {
                    if changed.is_err() { break }
                    let now = *events.borrow_and_update();
                    let ended = now.ended != known.ended;
                    known = now;
                    // What ended by itself may be anybody's; work that is done is waited for by a key that is not at rest.
                    Some(if ended { Scope::Everything } else { Scope::Changes })
                }
                () = self.wants.news() => Some(Scope::Changes),
                () = tokio::time::sleep_until(retry) => {
                    Some(if Instant::now() >= next_drift { Scope::Everything } else { Scope::Changes })
                }
                () = stop.cancelled() => break,
            };
        }
        for part in self.role.ready {
            (self.ready)(part.name, Err("draining".to_owned()));
        }
        self.host.supervisor().shut_down(self.role.ends_first).await;
    }

    async fn pass(
        &mut self,
        view: &Arc<View>,
        scope: Scope,
        began: Instant,
        held: &mut Option<Instant>,
        traced: &mut u64,
    ) -> Option<u64> {
        // What came since the last pass takes effect with this one; passes by the clock are of no trace.
        let traces = view.traces.iter().filter(|(batch, _)| *batch > *traced).map(|(_, trace)| &**trace);
        let spans =
            spans_of(traces, || tracing::info_span!("nodeagent.pass", revision = view.revision, ?scope));
        *traced = view.batches;
        let span = spans.first().cloned().unwrap_or_else(Span::none);
        let started = Instant::now();
        let wanted = self.wants.follow(view);
        let buffer: Mutex<BTreeMap<Key, Option<Report>>> = Mutex::default();
        let hold = held.is_some();
        let (reports, shared) = (self.reports.clone(), &buffer);
        let sink = |key: &Key, report: Option<&Report>| {
            if hold {
                shared.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), report.cloned());
            } else {
                tell(&reports, view, vec![(key.clone(), report.cloned())]);
            }
        };
        let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut work = Box::pin(self.engine.pass(&wanted, scope, now, &self.host, &sink).instrument(span));
        let take = || {
            let taken = std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
            taken.into_iter().collect::<Vec<_>>()
        };
        let summary = loop {
            let due = held.unwrap_or_else(|| Instant::now() + FIRST_REPORTS);
            tokio::select! {
                summary = &mut work => break summary,
                () = tokio::time::sleep_until(due), if hold => {
                    tell(&reports, view, take());
                    *held = Some(Instant::now() + Duration::from_millis(100));
                }
            }
        };
        drop((work, spans));
        // An empty one too: the pass is over, and what it worked from is news.
        tell(&reports, view, take());
        *held = None;

        self.metrics.pass(&summary, view.revision, started.elapsed());
        if summary.looked > 0 {
            tracing::debug!(
                revision = view.revision,
                looked = summary.looked,
                ready = summary.ready,
                failed = summary.failed,
                blocked = summary.blocked,
                orphans = summary.orphans,
                took = ?started.elapsed(),
                "pass"
            );
        }
        for part in self.role.ready {
            let state = match self.engine.status(&(part.thing)()) {
                Some((Phase::Ready, _)) => Ok(()),
                Some((_, why)) => Err(why.to_owned()),
                None => Err("not looked at yet".to_owned()),
            };
            (self.ready)(part.name, state);
        }
        summary.retry_at
    }
}

fn tell(reports: &ReportSink, view: &View, changed: Vec<(Key, Option<Report>)>) {
    for (key, report) in &changed {
        match report {
            Some(Report { phase: Phase::Failed, message, revision }) => {
                tracing::warn!(%key, revision, message, "failed");
            }
            Some(Report { phase: Phase::Orphan, message, .. }) => tracing::warn!(%key, message, "orphan"),
            Some(report) => {
                tracing::debug!(%key, phase = ?report.phase, revision = report.revision, "report")
            }
            None => tracing::debug!(%key, "gone"),
        }
    }
    reports(view, changed);
}
