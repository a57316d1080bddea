//! Whether the credentials of a request are right, without letting strangers spend the edge's time.
//!
//! A check costs tens of milliseconds and of megabytes. What was found right, or wrong, is remembered under a hash with a key of this process,
//! so that a page with a hundred pictures costs one check. Others are done beside the threads of requests, few at once, and for each
//! address and network few in a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hosting_edge_map::{BasicAuth, Credentials, Nanos, Rates};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::metrics::PasswordMetrics;

/// Credentials that are known to be right; of wrong ones a fourth.
const REMEMBERED: usize = 16_384;
/// Requests that may wait for a check; a tenant may have half of these places.
const WAITING: usize = 256;
/// Threads for each one that checks.
const THREADS_PER_CHECK: usize = 4;

type Proof = [u8; 32];

/// What is known of the credentials of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are a user's.
    Right,
    /// They are nobody's.
    Wrong,
    /// The client has guessed too often; it may again after so many seconds.
    TooMany(u32),
    /// Too many wait for a check.
    Busy,
}

/// Checks credentials.
#[derive(Debug)]
pub(crate) struct PasswordChecks {
    /// Of this process: nobody can foresee where something is remembered, or which decoy a name gets.
    key: [u8; 32],
    known: Arc<Known>,
    places: Arc<Semaphore>,
    /// How many wait, by tenant.
    waiting: Mutex<HashMap<Arc<str>, usize>>,
}

/// What was found out.
#[derive(Debug)]
struct Known {
    right: Cache<Proof, ()>,
    wrong: Cache<Proof, ()>,
    metrics: PasswordMetrics,
}

impl Known {
    fn verdict(&self, proof: &Proof) -> Option<Verdict> {
        if self.right.get(proof).is_some() {
            return Some(Verdict::Right);
        }
        self.wrong.get(proof).map(|()| Verdict::Wrong)
    }

    fn learn(&self, proof: Proof, is_right: bool) -> Verdict {
        let (counter, cache, verdict) = if is_right {
            (&self.metrics.right, &self.right, Verdict::Right)
        } else {
            (&self.metrics.wrong, &self.wrong, Verdict::Wrong)
        };
        counter.inc();
        cache.insert(proof, ());
        verdict
    }
}

impl PasswordChecks {
    /// `threads`: for user bytes.
    pub(crate) fn new(threads: usize, metrics: PasswordMetrics) -> Self {
        Self {
            key: rand::random(),
            known: Arc::new(Known {
                right: Cache::new(REMEMBERED),
                wrong: Cache::new(REMEMBERED / 4),
                metrics,
            }),
            places: Arc::new(Semaphore::new(threads.div_ceil(THREADS_PER_CHECK))),
            waiting: Mutex::default(),
        }
    }

    /// Whether a request of `address` for a name of `tenant` shows credentials of a user. `now`: asked once it is its turn.
    pub(crate) async fn check(
        &self,
        auth: &BasicAuth,
        shown: &Credentials,
        tenant: &str,
        address: IpAddr,
        rates: &Rates,
        now: impl Fn() -> Nanos,
    ) -> Verdict {
        let own = auth.hash_of(shown.name());
        let Some(hash) = own.or_else(|| auth.decoy(self.chance(shown.name()))) else {
            return Verdict::Wrong;
        };
        let proof = self.proof(shown, hash, own.is_some());
        if let Some(verdict) = self.known.verdict(&proof) {
            return verdict;
        }
        let Some(_waiting) = Waiting::begin(&self.waiting, tenant) else { return Verdict::Busy };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Verdict::Busy };
        // Another request with the same ones was checked meanwhile.
        if let Some(verdict) = self.known.verdict(&proof) {
            return verdict;
        }
        if let Some(seconds) = rates.take_guess(address, now()) {
            return Verdict::TooMany(seconds);
        }
        let (password, hash, is_user) = (shown.password().to_vec(), hash.to_owned(), own.is_some());
        let known = Arc::clone(&self.known);
        let checking = tokio::task::spawn_blocking(move || {
            let verdict = known.learn(proof, hosting_passwords::verify(&password, &hash) && is_user);
            // Whether or not the client waits for it, the place is taken until those who come next find what was learnt.
            drop(place);
            verdict
        });
        checking.await.unwrap_or(Verdict::Busy)
    }

    /// Which user's hash a name that nobody has is checked against.
    fn chance(&self, name: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        blake3::Hasher::new_keyed(&self.key).update(name).finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Under what a verdict is remembered: another hash, which another password has, is another proof.
    fn proof(&self, shown: &Credentials, hash: &str, is_user: bool) -> Proof {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [&[u8::from(is_user)][..], hash.as_bytes(), shown.name(), shown.password()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// A place among those that wait.
struct Waiting<'a> {
    all: &'a Mutex<HashMap<Arc<str>, usize>>,
    tenant: Arc<str>,
}

impl<'a> Waiting<'a> {
    /// `None`: there is none, or the tenant has its share.
    fn begin(all: &'a Mutex<HashMap<Arc<str>, usize>>, tenant: &str) -> Option<Self> {
        let mut waiting = all.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, total) =
            (waiting.get(tenant).copied().unwrap_or_default(), waiting.values().sum::<usize>());
        if total >= WAITING || own >= WAITING / 2 {
            return None;
        }
        let tenant: Arc<str> = tenant.into();
        waiting.insert(Arc::clone(&tenant), own + 1);
        Some(Self { all, tenant })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_half_of_the_places() {
        let all = Mutex::default();
        let of = |tenant: &'static str, count: usize| -> Vec<_> {
            (0..count).map_while(|_| Waiting::begin(&all, tenant)).collect()
        };
        let first = of("t_a", WAITING);
        assert_eq!(first.len(), WAITING / 2);
        let (second, third) = (of("t_b", 100), of("t_c", WAITING));
        assert_eq!((second.len(), third.len()), (100, WAITING / 2 - 100));
        assert!(Waiting::begin(&all, "t_d").is_none());
        drop(first);
        assert_eq!(of("t_d", 1).len(), 1);
        drop((second, third));
        assert!(all.lock().unwrap().is_empty(), "nothing is kept of whom nobody waits for");
    }
}
