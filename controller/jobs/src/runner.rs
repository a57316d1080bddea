//! The shell around [`crate::machine`]: claims what is due in bounded batches, does steps under a lease, records them.
//!
//! Owns no truth: everything that it knows is in the store, so any number of controllers may run one, and one that crashes or freezes
//! costs a lease and nothing else. It wakes by the [`Bell`] and by polling, which is the guarantee.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hosting_store::{Job, JobState, JobWait, Origin, Store, StoreError, WriteTx};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bell::Bell;
use crate::config::{RunnerConfig, rules};
use crate::kind::AnyKind;
use crate::machine::{self, Move};
use crate::metrics::JobMetrics;
use crate::pace::{self, CLOCK_TOLERANCE};
use crate::recurring::{enqueue_next, lane_of};
use crate::work::{Worker, Working};

/// Jobs that one transaction claims.
const CLAIMED_AT_ONCE: u32 = 16;
/// How often to look for jobs that ended long ago, and for a recurring kind without a job.
const TIDY: Duration = Duration::from_secs(60);
/// Transactions that remove jobs, for each state and each time.
const REMOVALS: u32 = 20;
/// After the store failed.
const STORE_FAILED: Duration = Duration::from_secs(1);

/// The task.
pub struct Runner {
    worker: Arc<Worker>,
    /// Jobs under way, by kind.
    busy: BTreeMap<&'static str, u32>,
    tasks: JoinSet<&'static str>,
    next_tidy: Instant,
}

/// A job that was claimed, and what to do first.
struct Claimed {
    job: Job,
    waits: Vec<JobWait>,
    first: Move,
}

/// What a look at the due index found.
#[derive(Default)]
struct Due {
    /// Kinds with due jobs, and how many of each may be claimed.
    kinds: Vec<(Arc<dyn AnyKind>, u32)>,
    /// When the next look is worth it, in milliseconds since the Unix epoch.
    next: Option<i64>,
}

impl Runner {
    /// A runner of these kinds. Jobs of other kinds, e.g. of a newer build, are left to others.
    #[must_use]
    pub fn new(
        store: Store,
        kinds: Vec<Arc<dyn AnyKind>>,
        bell: Bell,
        config: RunnerConfig,
        metrics: JobMetrics,
    ) -> Self {
        let kinds = kinds.into_iter().map(|kind| (kind.facts().name, kind)).collect();
        let stopping = CancellationToken::new();
        Self {
            worker: Arc::new(Worker { store, kinds, bell, config, metrics, stopping }),
            busy: BTreeMap::new(),
            tasks: JoinSet::new(),
            next_tidy: Instant::now(),
        }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// When the store is closed. Any other failure is logged and tried again.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, Result<(), StoreError>> {
        // Boxed, so that it is compiled with this crate and not again with its caller.
        Box::pin(self.work(stop))
    }

    async fn work(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut bell = self.worker.bell.listen();
        while !stop.is_cancelled() {
            bell.borrow_and_update();
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error @ StoreError::Closed) if !stop.is_cancelled() => return Err(error),
                Err(StoreError::Closed) => break,
                Err(error) => {
                    tracing::error!(%error, "jobs cannot be looked for; trying again");
                    STORE_FAILED
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                // An error cannot be: this runner holds the bell.
                _ = bell.changed() => {}
                Some(ended) = self.tasks.join_next() => self.ended(ended.ok()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.worker.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    fn ended(&mut self, kind: Option<&'static str>) {
        match kind.and_then(|kind| self.busy.get_mut(kind)) {
            Some(busy) => *busy = busy.saturating_sub(1),
            // A task that was lost said nothing: count anew when all have ended.
            None if self.tasks.is_empty() => self.busy.clear(),
            None => {}
        }
    }

    /// Looks once: claims what is due and begins to work on it. How long to sleep.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended.ok());
        }
        if Instant::now() >= self.next_tidy {
            self.next_tidy = Instant::now() + TIDY;
            self.worker.tidy().await?;
        }
        self.worker.rebase().await?;
        let due = self.look().await?;
        if due.kinds.is_empty() {
            let wait = due.next.map_or(i64::MAX, |next| next.saturating_sub(self.worker.store.now()));
            let wait = Duration::from_millis(u64::try_from(wait.max(1)).unwrap_or(u64::MAX));
            return Ok(wait.min(self.worker.config.poll));
        }
        let mut failed = false;
        for (kind, count) in due.kinds {
            let name = kind.facts().name;
            let claimed = match self.worker.claim(&kind, count).await {
                Ok(claimed) => claimed,
                Err(error @ StoreError::Closed) => return Err(error),
                Err(error) => {
                    // A row that cannot be read stops its own kind alone.
                    tracing::error!(%error, kind = name, "jobs cannot be claimed; trying again");
                    failed = true;
                    continue;
                }
            };
            for Claimed { job, waits, first } in claimed {
                *self.busy.entry(name).or_default() += 1;
                let working = Working { kind: Arc::clone(&kind), job, waits };
                let worker = Arc::clone(&self.worker);
                self.tasks.spawn(async move {
                    worker.work(working, first).await;
                    name
                });
            }
        }
        // There may be more than one batch.
        Ok(if failed { STORE_FAILED } else { Duration::from_millis(1) })
    }

    /// Kinds with due jobs for which there is room, by their own bounds and by the runner's.
    async fn look(&self) -> Result<Due, StoreError> {
        let worker = &self.worker;
        let now = worker.store.now();
        let names: Vec<&str> = worker.kinds.keys().copied().collect();
        let mut tx = worker.store.read().await?;
        let mut due = Due::default();
        let mut room = worker.config.at_once.saturating_sub(self.busy.values().sum());
        for (name, at) in tx.next_job_times(&names).await? {
            let Some(kind) = worker.kinds.get(name.as_str()) else { continue };
            let limits = kind.limits();
            let free =
                limits.at_once.max(1).saturating_sub(self.busy.get(name.as_str()).copied().unwrap_or(0));
            if free == 0 || room == 0 {
                // Whoever ends wakes the runner.
                continue;
            }
            let mut begins = at;
            if at <= now {
                begins = pace::next_at(&tx.job_pace(&name).await?, limits.rate, now);
                if begins <= now {
                    let count = free.min(room).min(CLAIMED_AT_ONCE);
                    room -= count;
                    due.kinds.push((Arc::clone(kind), count));
                    continue;
                }
            }
            due.next = Some(due.next.map_or(begins, |next| next.min(begins)));
        }
        Ok(due)
    }
}

impl Worker {
    /// Claims due jobs of a kind, at most `count`.
    async fn claim(&self, kind: &Arc<dyn AnyKind>, count: u32) -> Result<Vec<Claimed>, StoreError> {
        let (owner, lease) = (self.config.owner.clone(), self.lease());
        let (kind, name) = (Arc::clone(kind), kind.facts().name);
        let metrics = self.metrics.clone();
        let claimed = self
            .write(Origin::default(), move |tx| {
                Box::pin(async move {
                    let limits = kind.limits();
                    let now = hosting_planner::Draft::now(tx);
                    let ids = tx.beside().due_jobs(name, now, count).await?;
                    let mut pace = tx.beside().job_pace(name).await?;
                    let wanted = u32::try_from(ids.len()).unwrap_or(count);
                    let granted = pace::take(&mut pace, limits.rate, wanted, now) as usize;
                    if granted == 0 {
                        return Ok((Vec::new(), Vec::new()));
                    }
                    tx.put_job_pace(name, pace).await?;
                    let (mut claimed, mut ended) = (Vec::new(), Vec::new());
                    for mut job in tx.beside().jobs(ids.get(..granted).unwrap_or(&ids)).await? {
                        let held = job.fence;
                        let rules = rules(kind.facts(), limits.backoff, lease, now);
                        let Some(first) = machine::claim(&mut job, &owner, &rules) else { continue };
                        if !tx.save_job(&job, held).await? {
                            continue;
                        }
                        if first == Move::Ended {
                            enqueue_next(tx, kind.as_ref(), &job.id).await?;
                            ended.push(job);
                            continue;
                        }
                        let waits = tx.beside().job_waits(&job.id).await?;
                        claimed.push(Claimed { job, waits, first });
                    }
                    Ok((claimed, ended))
                })
            })
            .await?;
        for job in &claimed.1 {
            metrics.ended(name, job.state);
            self.bell.ring();
        }
        Ok(claimed.0)
    }

    /// Sets the times of jobs anew that a clock ahead of this one has set.
    async fn rebase(&self) -> Result<(), StoreError> {
        let ahead = self.store.now().saturating_add(CLOCK_TOLERANCE);
        if !self.store.read().await?.is_job_set_after(ahead).await? {
            return Ok(());
        }
        let jobs = self
            .write(Origin::default(), |tx| Box::pin(async move { tx.rebase_jobs(CLOCK_TOLERANCE).await }))
            .await?;
        tracing::warn!(jobs, "the clock was put back: the times of jobs follow it");
        Ok(())
    }

    /// Removes what ended long ago, and makes sure that each recurring kind has a job.
    async fn tidy(&self) -> Result<(), StoreError> {
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            let keep = if state == JobState::Done { self.config.keep_done } else { self.config.keep };
            let before = self.store.now().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
            // A job that is waiting must not wait for very many removals.
            for _ in 0..REMOVALS {
                if self.store.remove_ended_jobs(state, before).await? == 0 {
                    break;
                }
            }
        }
        for kind in self.kinds.values() {
            if kind.next_run(self.store.now()).is_none()
                || self.store.read().await?.is_lane_taken(&lane_of(kind.facts().name), "").await?
            {
                continue;
            }
            let kind = Arc::clone(kind);
            self.write(Origin::default(), move |tx| {
                Box::pin(async move { enqueue_next(tx, kind.as_ref(), "").await })
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> i64 {
        i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) async fn write<T, F>(&self, origin: Origin, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    {
        Ok(self.store.write(origin, write).await?.value)
    }
}
