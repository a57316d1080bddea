//! The shell: asks, a few at once and no more often than is good for those who serve.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hosting_intent::{Key, Rejection, SEEN_KINDS};
use hosting_proto::feed as wire;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::checks::{Ask, Checks, Noted};
use crate::{Batch, Replica};

/// Asked for at once.
const AT_ONCE: usize = 8;
/// Asked for in a second, over a while. Each takes a connection to every listener, a handshake where there is TLS.
const PER_SECOND: f64 = 10.0;
/// Asked for in a row after a pause.
const BURST: f64 = 100.0;
/// Between two words on what was found while there is more to ask for: what is said of a single change is its end.
const SAY_EVERY: Duration = Duration::from_millis(50);
/// One that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a role's own listeners, as a client would.
#[async_trait]
pub trait SelfCheck<I>: Send + Sync + 'static {
    /// Asks every listener for what is served under `key`. `wanted`: the item as applied; `None`: it was withdrawn. The item may be
    /// replaced while this runs; what is answered then is not looked at.
    ///
    /// # Errors
    /// Which listener answers what, and what was expected: for operators.
    async fn check(&self, key: &Key, wanted: Option<&I>) -> Result<(), String>;
}

/// The runtime's clock, so that tests can turn it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug)]
struct Shared<I> {
    checks: Mutex<Checks<I>>,
    news: Notify,
}

impl<I> Shared<I> {
    fn checks(&self) -> MutexGuard<'_, Checks<I>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica whose items are asked for once they are in effect.
#[derive(Debug)]
pub struct Checked<R: Replica> {
    inner: R,
    shared: Arc<Shared<R::Intent>>,
}

impl<R> Replica for Checked<R>
where
    R: Replica,
    R::Intent: Clone,
{
    type Intent = R::Intent;
    const PIECES: Option<usize> = R::PIECES;

    fn check(&self, key: &Key, intent: &R::Intent) -> Result<(), Rejection> {
        self.inner.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<R::Intent>) {
        let floor = self.shared.checks().floor();
        let covers = |key: &Key| key.known_kind().is_some_and(|kind| SEEN_KINDS.contains(&kind));
        let noted = Noted::of(&batch, floor, covers);
        self.inner.publish(batch);
        self.shared.checks().note(noted);
        self.shared.news.notify_one();
    }
}

/// What a process counts of its checks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CheckMetrics {
    asked: Counter,
    failures: Counter,
    failing: Gauge,
}

impl CheckMetrics {
    /// Registers everything under `intent_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let intent = registry.sub_registry_with_prefix("intent");
        intent.register("self_checks", "Items asked of the process's own listeners", metrics.asked.clone());
        intent.register(
            "self_check_failures",
            "Answers of the process's own listeners that were not what was applied",
            metrics.failures.clone(),
        );
        intent.register(
            "self_check_failing",
            "Applied items that the process's own listeners do not answer with",
            metrics.failing.clone(),
        );
        metrics
    }
}

/// How a process tells what its clients met: its counters as they are now. The start is not its to say.
pub type HealthSource = Arc<dyn Fn() -> wire::Health + Send + Sync>;

/// Between two words on how clients fare, while the controller watches.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// What was found, for the connection to the controller.
#[derive(Clone)]
pub struct ServedWatch {
    found: watch::Receiver<Option<wire::Served>>,
    health: Option<HealthSource>,
    /// Tells this process from the one before it.
    start: u64,
    /// When to say the next word on clients; `None`: nobody watches.
    health_at: Option<tokio::time::Instant>,
}

impl std::fmt::Debug for ServedWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedWatch").field("found", &self.found).finish_non_exhaustive()
    }
}

impl ServedWatch {
    /// Says how clients fare, too, while the controller watches.
    #[must_use]
    pub fn with_health(self, health: HealthSource) -> Self {
        Self { health: Some(health), start: rand::random(), ..self }
    }

    /// With all to be said again: the controller may know nothing of it.
    pub(crate) fn anew(mut self) -> Self {
        self.found.mark_changed();
        self.health_at = None;
        self
    }

    /// The controller watches from now on, or does not.
    pub(crate) fn watch(&mut self, watched: bool) {
        let now = tokio::time::Instant::now();
        self.health_at = watched.then(|| self.health_at.unwrap_or(now));
    }

    /// What was found since it was last said, and how clients fare; `None` without anybody who looks. Dropping the future loses nothing.
    pub(crate) async fn next(this: Option<&mut Self>) -> Option<wire::Served> {
        let Self { found, health, start, health_at } = this?;
        let health = health.as_ref().filter(|_| health_at.is_some());
        let due = (*health_at).unwrap_or_else(tokio::time::Instant::now);
        tokio::select! {
            changed = found.changed() => changed.ok()?,
            () = tokio::time::sleep_until(due), if health.is_some() => {
                *health_at = Some(tokio::time::Instant::now() + HEALTH_EVERY);
            }
        }
        let found = found.borrow_and_update().clone()?;
        let health = health.map(|health| wire::Health { start: *start, ..health() });
        Some(wire::Served { health, ..found })
    }
}

/// The checks of one subscription.
#[derive(Debug)]
pub struct SelfChecks<I> {
    shared: Arc<Shared<I>>,
    served: watch::Sender<Option<wire::Served>>,
    metrics: CheckMetrics,
}

impl<I: Clone + Send + Sync + 'static> SelfChecks<I> {
    /// Puts a replica under checks: items of [`SEEN_KINDS`] are asked for.
    #[must_use]
    pub fn of<R>(replica: R, metrics: CheckMetrics) -> (Checked<R>, Self)
    where
        R: Replica<Intent = I>,
    {
        let shared = Arc::new(Shared { checks: Mutex::default(), news: Notify::new() });
        let checked = Checked { inner: replica, shared: Arc::clone(&shared) };
        (checked, Self { shared, served: watch::Sender::new(None), metrics })
    }

    /// Follows what is found.
    #[must_use]
    pub fn served(&self) -> ServedWatch {
        ServedWatch { found: self.served.subscribe(), health: None, start: 0, health_at: None }
    }

    /// Asks until `stop`. Begin when the listeners are open.
    pub async fn run(self, check: Arc<dyn SelfCheck<I>>, stop: CancellationToken) {
        let mut asked = FuturesUnordered::new();
        let mut budget = Budget { left: BURST, at: now() };
        // When something was said last, and whether there is news since.
        let (mut said, mut has_news) = (now(), false);
        loop {
            while asked.len() < AT_ONCE && budget.is_there(now()) {
                let Some(ask) = self.shared.checks().next(now()) else { break };
                budget.left -= 1.0;
                let check = Arc::clone(&check);
                asked.push(async move {
                    let Ask { key, revision, wanted } = ask;
                    let outcome = tokio::time::timeout(TIMEOUT, check.check(&key, wanted.as_ref())).await;
                    let late = |_| Err(format!("no answer within {} s", TIMEOUT.as_secs()));
                    (key, revision, outcome.unwrap_or_else(late))
                });
            }
            let (due, has_fresh, has_work) = {
                let checks = self.shared.checks();
                (checks.due(), checks.has_fresh(), checks.has_work())
            };
            let is_settled = asked.is_empty() && !has_fresh;
            if has_news && (is_settled || said + SAY_EVERY <= now()) {
                self.say();
                (said, has_news) = (now(), false);
            }
            let soon = now() + budget.pause();
            let wake = due.map_or(soon, |due| due.max(soon));
            let waits = asked.len() < AT_ONCE && has_work;
            tokio::select! {
                Some((key, revision, outcome)) = asked.next(), if !asked.is_empty() => {
                    if let Err(reason) = &outcome {
                        tracing::warn!(%key, revision, reason, "what was applied is not what is served; asking again");
                        self.metrics.failures.inc();
                    }
                    self.metrics.asked.inc();
                    self.shared.checks().done(&key, revision, outcome, now());
                    has_news = true;
                }
                () = self.shared.news.notified() => has_news = true,
                () = tokio::time::sleep_until((said + SAY_EVERY).into()), if has_news => {}
                () = tokio::time::sleep_until(wake.into()), if waits => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn say(&self) {
        let (report, failing) = {
            let checks = self.shared.checks();
            (checks.report(), checks.failing())
        };
        self.metrics.failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        self.served.send_if_modified(|said| {
            let changed = said.as_ref() != Some(&report);
            *said = Some(report);
            changed
        });
    }
}

/// A token bucket.
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn is_there(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.left, self.at) = ((self.left + earned).min(BURST), now);
        self.left >= 1.0
    }

    /// Until there is one.
    fn pause(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.left) / PER_SECOND).max(0.0))
    }
}
