//! Mutations that wait for the writer, and what callers hold of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify as Bell, OwnedSemaphorePermit, oneshot};

use super::{Counts, Job, Stats};
use crate::StoreError;
use crate::lanes::{Caller, Lanes, Next};

/// What waits, shared by callers and the writer.
pub(super) struct Waiting {
    pub(super) state: std::sync::Mutex<State>,
    pub(super) bell: Bell,
    pub(super) began: Instant,
    /// Other controllers may have committed.
    pub(super) heard: Bell,
}

pub(super) struct State {
    pub(super) lanes: Lanes<(Job, OwnedSemaphorePermit)>,
    pub(super) closed: bool,
}

impl Waiting {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) async fn push(&self, job: Job) -> Result<(), StoreError> {
        let caller = job.origin.actor.clone();
        let places = self.state().lanes.places(&caller, self.now());
        let place = places.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.lanes.push(&caller, (job, place), self.now());
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// The next one; `None` once it is closed and empty.
    pub(super) async fn next(&self) -> Option<(Caller, Job)> {
        loop {
            let (next, closed) = {
                let mut state = self.state();
                let closed = state.closed;
                // What is left at the end does not rest.
                let now = if closed { u64::MAX } else { self.now() };
                (state.lanes.next(now), closed)
            };
            match next {
                Next::Now(caller, (job, _place)) => return Some((caller, job)),
                Next::Nothing if closed => return None,
                Next::Nothing => self.bell.notified().await,
                Next::At(at) => {
                    let rest = Duration::from_micros(at.saturating_sub(self.now()));
                    // Somebody else may come before.
                    let _ = tokio::time::timeout(rest, self.bell.notified()).await;
                }
            }
        }
    }

    /// The next one, if it is there now and will likely fit into the time that is left.
    pub(super) fn another(&self, left: Duration) -> Option<(Caller, Job)> {
        let now = self.now();
        let mut state = self.state();
        if u128::from(state.lanes.outlook(now)?) > left.as_micros() {
            return None;
        }
        match state.lanes.next(now) {
            Next::Now(caller, (job, _place)) => Some((caller, job)),
            Next::At(_) | Next::Nothing => None,
        }
    }

    pub(super) fn charge(&self, caller: &Caller, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.state().lanes.charge(caller, took, self.now());
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.bell.notify_one();
    }
}

/// However the writer ends, nobody waits for it then.
pub(super) struct Ending(pub(super) Arc<Waiting>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.lanes.end();
    }
}

pub(crate) struct Queue {
    pub(super) waiting: Arc<Waiting>,
    pub(super) ended: Mutex<Option<oneshot::Receiver<()>>>,
    pub(super) counts: Arc<Counts>,
    pub(super) mutation_timeout: Duration,
}

impl Queue {
    pub(crate) fn stats(&self) -> Stats {
        let queued = self.waiting.state().lanes.len();
        Stats {
            commits: self.counts.commits.load(Ordering::Relaxed),
            mutations: self.counts.mutations.load(Ordering::Relaxed),
            refused: self.counts.refused.load(Ordering::Relaxed),
            failed_commits: self.counts.failed_commits.load(Ordering::Relaxed),
            queued: u64::try_from(queued).unwrap_or(u64::MAX),
            statements: self.counts.statements.load(Ordering::Relaxed),
        }
    }

    pub(crate) async fn close(&self) {
        self.waiting.close();
        if let Some(ended) = self.ended.lock().await.take()
            && ended.await.is_err()
        {
            tracing::error!("the store's writer ended badly");
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.waiting.close();
    }
}
