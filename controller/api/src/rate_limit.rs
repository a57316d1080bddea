//! How often a key may ask, and how often a network may try keys that are not known to open: token buckets in this controller's memory.
//!
//! Buckets of several controllers know nothing of one another: a key may ask each of them as often as the limit says.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use hosting_scaffold::networks::narrow_network;
use sha2::{Digest, Sha256};

use crate::ApiError;

/// Buckets that are kept. With more, those that are full again are forgotten, and while that does not help all share one.
const MAX_BUCKETS: usize = 65_536;
/// Keys that are remembered to have opened, twice as many at most.
const MAX_OPENED: usize = 8_192;

/// A token bucket's size: `burst` requests at once, and `per_second` more each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second in the long run; 0 for no limit.
    pub per_second: u32,
    /// Requests at once after a rest, at least 1.
    pub burst: u32,
}

impl Rate {
    /// Seconds in which an empty bucket is full again.
    fn window(self) -> u32 {
        self.burst.div_ceil(self.per_second.max(1)).max(1)
    }
}

/// How often may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// GET and HEAD with one key.
    pub reads: Rate,
    /// Everything else with one key.
    pub writes: Rate,
    /// Keys that are not known to open, from one network (an IPv4 address, an IPv6 /64).
    pub guesses: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            reads: Rate { per_second: 2_000, burst: 10_000 },
            writes: Rate { per_second: 2_000, burst: 10_000 },
            guesses: Rate { per_second: 10, burst: 1_000 },
        }
    }
}

/// How a key stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    name: &'static str,
    rate: Rate,
    /// Requests that are left at once.
    remaining: u32,
}

/// Where the standing of a request's key is put for its answer, which is made elsewhere. In the extensions of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct StandingCell(Arc<OnceLock<Standing>>);

impl StandingCell {
    fn put(&self, standing: Standing) {
        // A request has one key.
        let _ = self.0.set(standing);
    }

    /// Writes `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) into an answer: `q` requests in `w` seconds;
    /// `r` are left, and in `t` seconds all of them are there again.
    pub(crate) fn show(&self, headers: &mut HeaderMap) {
        let Some(Standing { name, rate, remaining }) = self.0.get() else { return };
        let full_in = rate.burst.saturating_sub(*remaining).div_ceil(rate.per_second.max(1));
        for (header, value) in [
            ("ratelimit-policy", format!("\"{name}\";q={};w={}", rate.burst, rate.window())),
            ("ratelimit", format!("\"{name}\";r={remaining};t={full_in}")),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(header), value);
            }
        }
    }
}

type Limiter<K, C> = RateLimiter<K, DefaultKeyedStateStore<K>, C, StateInformationMiddleware>;

/// A bucket for each key.
struct Buckets<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    /// The key `None` stands for all when there is no room. No limiter: there is no limit.
    limiter: Option<Limiter<Option<K>, C>>,
    rate: Rate,
    clock: C,
    began: C::Instant,
    /// When those that are full were forgotten last, in seconds since `began`.
    swept: AtomicU64,
    most: usize,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Buckets<K, C> {
    fn new(rate: Rate, most: usize, clock: &C) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let quota = NonZeroU32::new(rate.per_second).map(|each| Quota::per_second(each).allow_burst(burst));
        let limiter =
            quota.map(|quota| RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone()));
        let began = clock.now();
        Self {
            limiter,
            rate: Rate { burst: burst.get(), ..rate },
            clock: clock.clone(),
            began,
            swept: AtomicU64::new(0),
            most,
        }
    }

    /// Takes a request out of a key's bucket. How many are left; else after how long there is one again.
    fn take(&self, key: K) -> Result<u32, Duration> {
        let Some(limiter) = &self.limiter else { return Ok(self.rate.burst) };
        let key = Some(key).filter(|_| self.has_room(limiter));
        match limiter.check_key(&key) {
            Ok(left) => Ok(left.remaining_burst_capacity()),
            Err(until) => Err(until.wait_time_from(self.clock.now())),
        }
    }

    /// Whether there is room for another key. Makes room once a second at most: that goes over all buckets.
    fn has_room(&self, limiter: &Limiter<Option<K>, C>) -> bool {
        if limiter.len() < self.most {
            return true;
        }
        let second = Duration::from(self.clock.now().duration_since(self.began)).as_secs();
        if self.swept.fetch_max(second, Ordering::Relaxed) < second {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        limiter.len() < self.most
    }
}

/// Digests of keys that opened lately: two generations, of which the older one goes when the newer one is full.
#[derive(Default)]
struct Opened {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
}

/// The buckets of all keys and networks.
pub(crate) struct RateLimiters {
    reads: Buckets<String>,
    writes: Buckets<String>,
    guesses: Buckets<IpAddr>,
    opened: Mutex<Opened>,
}

impl RateLimiters {
    pub(crate) fn new(limits: RateLimits) -> Self {
        let clock = DefaultClock::default();
        Self {
            reads: Buckets::new(limits.reads, MAX_BUCKETS, &clock),
            writes: Buckets::new(limits.writes, MAX_BUCKETS, &clock),
            guesses: Buckets::new(limits.guesses, MAX_BUCKETS, &clock),
            opened: Mutex::default(),
        }
    }

    /// A request with a key that is known to open. Its standing goes into `cell`, whether it is let through or not.
    pub(crate) fn take(
        &self,
        key_id: &str,
        is_read: bool,
        cell: Option<&StandingCell>,
    ) -> Result<(), ApiError> {
        let (name, buckets) = if is_read { ("reads", &self.reads) } else { ("writes", &self.writes) };
        let taken = buckets.take(key_id.to_owned());
        if let Some(cell) = cell.filter(|_| buckets.limiter.is_some()) {
            cell.put(Standing { name, rate: buckets.rate, remaining: taken.unwrap_or_default() });
        }
        taken.map(drop).map_err(|wait| {
            let Rate { per_second, burst } = buckets.rate;
            too_many(
                wait,
                format!("too many {name} with this key: {burst} at once and {per_second} more each second are served"),
            )
        })
    }

    /// A key that is presented from `address`: one that is not known to open takes a request out of its network's bucket.
    pub(crate) fn present(&self, key: &str, address: IpAddr) -> Result<(), ApiError> {
        if self.has_opened(&digest(key)) {
            return Ok(());
        }
        self.guesses.take(narrow_network(address)).map(drop).map_err(|wait| {
            too_many(
                wait,
                "too many API keys that do not open came from this network; look at the key that is sent",
            )
        })
    }

    fn has_opened(&self, digest: &[u8; 32]) -> bool {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.newer.contains(digest) || opened.older.contains(digest)
    }

    /// The key opened.
    pub(crate) fn remember(&self, key: &str) {
        let digest = digest(key);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.newer.len() >= MAX_OPENED && !opened.newer.contains(&digest) {
            opened.older = std::mem::take(&mut opened.newer);
        }
        opened.newer.insert(digest);
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn too_many(wait: Duration, message: impl Into<String>) -> ApiError {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let retry_after = u32::try_from(seconds).unwrap_or(u32::MAX).max(1);
    ApiError { retry_after: Some(retry_after), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let clock = FakeRelativeClock::default();
        let buckets = Buckets::new(Rate { per_second: 2, burst: 3 }, 10, &clock);
        let lefts: Vec<_> = (0..3).map(|_| buckets.take("a").unwrap()).collect();
        assert_eq!(lefts, [2, 1, 0]);
        assert_eq!(buckets.take("a"), Err(Duration::from_millis(500)));
        assert_eq!(buckets.take("b"), Ok(2), "another key has its own");
        clock.advance(Duration::from_millis(500));
        assert_eq!(buckets.take("a"), Ok(0));
        assert!(buckets.take("a").is_err());
        clock.advance(Duration::from_secs(60));
        assert_eq!(buckets.take("a"), Ok(2), "no more than the burst is saved up");
    }

    #[test]
    fn many_keys_take_bounded_memory_and_newcomers_share() {
        let clock = FakeRelativeClock::default();
        let buckets = Buckets::new(Rate { per_second: 1, burst: 5 }, 100, &clock);
        for n in 0..100 {
            assert_eq!(buckets.take(n), Ok(4));
        }
        // Full: the next five hundred have one bucket together.
        let through = (100..600).filter(|n| buckets.take(*n).is_ok()).count();
        assert_eq!(through, 5);
        assert!(buckets.limiter.as_ref().unwrap().len() <= 101);
        // A second later all hundred are as good as new.
        clock.advance(Duration::from_secs(2));
        assert_eq!(buckets.take(1_000), Ok(4));
        assert!(buckets.limiter.as_ref().unwrap().len() < 10);
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let buckets = Buckets::new(Rate { per_second: 0, burst: 1 }, 1, &DefaultClock::default());
        assert!((0..1_000).all(|n| buckets.take(n).is_ok()));
    }

    #[test]
    fn guesses_of_a_network_end_and_keys_that_open_go_on() {
        let limits = RateLimits { guesses: Rate { per_second: 1, burst: 3 }, ..RateLimits::default() };
        let limiters = RateLimiters::new(limits);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        limiters.remember("hst_good");
        for n in 0..3 {
            assert!(limiters.present(&format!("hst_{n}"), at(&format!("2001:db8::{n}"))).is_ok());
        }
        let refused = limiters.present("hst_4", at("2001:db8::ffff")).unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (StatusCode::TOO_MANY_REQUESTS, Some(1)));
        assert!(limiters.present("hst_good", at("2001:db8::1")).is_ok(), "neighbours go on");
        assert!(limiters.present("hst_4", at("2001:db8:0:1::1")).is_ok(), "another network");
        for n in 0..4 * MAX_OPENED {
            limiters.remember(&format!("hst_good{n}"));
        }
        assert!(!limiters.has_opened(&digest("hst_good")));
        let opened = limiters.opened.lock().unwrap();
        assert!(opened.newer.len() + opened.older.len() <= 2 * MAX_OPENED);
    }
}
