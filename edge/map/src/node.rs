//! A node of a pool as this edge knows it: whether it answers, how much it has to do, and how long it has been back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Milliseconds on a monotonic clock whose start is the caller's choice. 0 is before everything.
pub type Millis = u64;

/// How long the one request that probes an ejected node keeps the others away from it.
const PROBE_MS: Millis = 2_000;

/// Tenants whose requests must have failed in a row, with no request answered between, before the node is to blame: one tenant's
/// application that falls over says nothing about the node.
const TENANTS_IN_A_ROW: usize = 3;

/// Since when a node is back when nobody has looked at the clock yet.
const JUST_NOW: Millis = Millis::MAX;

/// How requests spread over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Most requests under way at one node.
    pub node_requests: usize,
    /// What a node may have of the average over its pool, in percent, before its hosts go to the next one on the ring.
    pub share_percent: usize,
    /// With fewer requests than these under way a node keeps all its hosts, whatever the others have.
    pub share_floor: usize,
    /// A node that came back gets its hosts one after another over this time.
    pub slow_start: Millis,
}

impl Default for Balance {
    fn default() -> Self {
        Self { node_requests: 8_192, share_percent: 125, share_floor: 64, slow_start: 10_000 }
    }
}

/// A node of a pool.
#[derive(Debug)]
pub struct Node {
    /// The node's id.
    pub id: Arc<str>,
    /// Where it takes requests, preferred first.
    pub addresses: Box<[SocketAddr]>,
    /// Whether the controller wants it to get requests.
    pub in_service: bool,
    /// Survives a change of the pool, so that a dead node is not found out again at each.
    health: Arc<Health>,
}

#[derive(Debug)]
struct Health {
    /// 0: healthy.
    ejected_until: AtomicU64,
    /// It does not answer the edge's own questions.
    is_down: AtomicBool,
    /// Since when it is back; 0: it was always there.
    back_since: AtomicU64,
    /// The places that are left of `most`.
    places: Arc<Semaphore>,
    most: usize,
    /// Whether there are `failures`, so that nobody asks for them without need.
    has_failures: AtomicBool,
    /// Tenants whose requests failed since the last one that was answered.
    failures: Mutex<Vec<u64>>,
}

/// A request under way at a node.
#[derive(Debug)]
pub struct UnderWay(#[allow(dead_code, reason = "held until the request ends")] OwnedSemaphorePermit);

impl Node {
    /// `before` is the same node in the pool that this one's replaces; `is_new`: there is such a pool, without it.
    pub(crate) fn new(
        id: &str,
        addresses: Box<[SocketAddr]>,
        in_service: bool,
        before: Option<&Self>,
        is_new: bool,
        balance: &Balance,
    ) -> Self {
        let most = balance.node_requests.clamp(1, Semaphore::MAX_PERMITS);
        let (id, health) = match before {
            Some(before) => {
                if in_service && !before.in_service {
                    before.health.back_since.store(JUST_NOW, Ordering::Relaxed);
                }
                (Arc::clone(&before.id), Arc::clone(&before.health))
            }
            None => (
                Arc::from(id),
                Arc::new(Health {
                    ejected_until: AtomicU64::new(0),
                    is_down: AtomicBool::new(false),
                    back_since: AtomicU64::new(if is_new { JUST_NOW } else { 0 }),
                    places: Arc::new(Semaphore::new(most)),
                    most,
                    has_failures: AtomicBool::new(false),
                    failures: Mutex::default(),
                }),
            ),
        };
        Self { id, addresses, in_service, health }
    }

    /// A connection failed: no requests until `now + away`, but for one probe at a time after that.
    pub fn failed(&self, now: Millis, away: Millis) {
        self.health.ejected_until.store(now.saturating_add(away).max(1), Ordering::Relaxed);
    }

    /// A tenant's request was taken and not answered. Whether the node is out of rotation now because requests of several tenants
    /// in a row were not.
    pub fn left_unanswered(&self, tenant: u64, now: Millis, away: Millis) -> bool {
        let mut failures = self.health.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.contains(&tenant) {
            failures.push(tenant);
        }
        self.health.has_failures.store(true, Ordering::Relaxed);
        let is_out = failures.len() >= TENANTS_IN_A_ROW;
        if is_out {
            failures.clear();
            self.failed(now, away);
        }
        is_out
    }

    /// The node answered a request.
    pub fn answered(&self, now: Millis) {
        // Read first: a store at each request would have all cores fight for the line.
        if self.health.ejected_until.load(Ordering::Relaxed) != 0 {
            self.health.back_since.store(now, Ordering::Relaxed);
            self.health.ejected_until.store(0, Ordering::Relaxed);
        }
        if self.health.has_failures.load(Ordering::Relaxed) {
            self.health.has_failures.store(false, Ordering::Relaxed);
            self.health.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Whether the node answers the edge's own questions, from `now` on. Whether that is another word than before.
    pub fn checked(&self, is_down: bool, now: Millis) -> bool {
        let was_down = self.health.is_down.swap(is_down, Ordering::Relaxed);
        if was_down && !is_down {
            self.health.back_since.store(now, Ordering::Relaxed);
            self.health.ejected_until.store(0, Ordering::Relaxed);
        }
        was_down != is_down
    }

    /// Whether the node does not answer the edge's own questions.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.health.is_down.load(Ordering::Relaxed)
    }

    /// Whether the node is kept out of rotation at `now`.
    #[must_use]
    pub fn is_ejected(&self, now: Millis) -> bool {
        self.health.is_down.load(Ordering::Relaxed) || self.health.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Whether a request may go there: healthy, or its time is over and this request is the first to notice.
    pub(crate) fn admit(&self, now: Millis) -> bool {
        if self.is_down() {
            return false;
        }
        let until = self.health.ejected_until.load(Ordering::Relaxed);
        until == 0
            || (until <= now
                && self
                    .health
                    .ejected_until
                    .compare_exchange(
                        until,
                        now.saturating_add(PROBE_MS),
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok())
    }

    /// Whether a host, whose place among all is `place` of 1024, is among those that a node which came back gets already.
    pub(crate) fn has_warmed_up_for(&self, place: u64, now: Millis, slow_start: Millis) -> bool {
        let since = match self.health.back_since.load(Ordering::Relaxed) {
            0 => return true,
            JUST_NOW => {
                self.health.back_since.store(now, Ordering::Relaxed);
                now
            }
            since => since,
        };
        let back_for = now.saturating_sub(since);
        if back_for >= slow_start {
            self.health.back_since.store(0, Ordering::Relaxed);
            return true;
        }
        place < 1_024 * back_for / slow_start.max(1)
    }

    /// Requests under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.health.most.saturating_sub(self.health.places.available_permits())
    }

    /// Whether it takes no more requests for now.
    pub(crate) fn is_full(&self) -> bool {
        self.health.places.available_permits() == 0
    }

    /// A place for a request, unless the node is full.
    #[must_use]
    pub fn begin(&self) -> Option<UnderWay> {
        Arc::clone(&self.health.places).try_acquire_owned().ok().map(UnderWay)
    }

    /// A place for a request, in the order of those who wait.
    pub async fn wait(&self) -> Option<UnderWay> {
        // Never closed.
        Arc::clone(&self.health.places).acquire_owned().await.ok().map(UnderWay)
    }
}
