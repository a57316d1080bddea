//! How many requests there were of late, in memory of a fixed size.
//!
//! Each limit and whom it counts together is one time: the one at which its requests so far would have come at exactly the rate (the theoretical
//! arrival time of GCRA, ITU-T I.371). A time that has passed says nothing, so its place is free; when a set is full, whoever is the
//! nearest to that makes room. So a flood from many addresses costs no memory, and gives nobody room who has used up his own.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

use ahash::RandomState;
use hosting_intent::message as m;

/// Nanoseconds since a moment that is the same for all calls.
pub type Nanos = u64;

/// Sets of places.
const SETS: usize = 1 << 16;
/// Places of a set.
const WAYS: usize = 4;

const SECOND: Nanos = 1_000_000_000;

/// A limit.
#[derive(Debug)]
pub(super) struct Limit {
    /// Between two requests that come at exactly the rate.
    interval: Nanos,
    /// How far requests may be ahead of that.
    room: Nanos,
    per: m::RatePer,
}

impl Limit {
    pub(super) fn new(limit: &m::RateLimit) -> Self {
        let room = Nanos::from(limit.seconds.max(1)) * SECOND;
        let interval = (room / Nanos::from(limit.requests.max(1))).max(1);
        Self { interval, room, per: limit.per() }
    }
}

/// Whose requests a limit counts.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) enum Scope<'a> {
    /// Those for a host name.
    Name(&'a str),
    /// Those for all names that a wildcard stands for.
    Below(&'a str),
    /// Those for all names of a tenant.
    Tenant(&'a str),
    /// The same, as the tenant's brand counts them.
    OfBrand(&'a str),
    /// Of another scope, those of clients that showed that they are browsers.
    Shown(&'a Scope<'a>),
    /// Those that cost the check of a password.
    Guesses,
}

/// A budget of a minute that all edges of a cluster have together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) per_minute: u32,
    /// The edges that share it.
    pub(super) edges: u32,
}

impl Budget {
    /// What this edge has of it. A share of less than one request a minute is one in so many minutes.
    fn share(self) -> Limit {
        let minute = 60 * SECOND;
        let interval = (minute * Nanos::from(self.edges.max(1)) / Nanos::from(self.per_minute.max(1))).max(1);
        Limit { interval, room: interval.max(minute), per: m::RatePer::Unspecified }
    }
}

/// How many passwords are checked for an address, and for a network: twenty and a hundred at once, and in each minute after that. One that
/// was found right is not checked again, so this is what guesses cost at most.
const GUESSES: [m::RateLimit; 2] = [
    m::RateLimit { requests: 20, seconds: 60, per: m::RatePer::Address as i32 },
    m::RateLimit { requests: 100, seconds: 60, per: m::RatePer::Network as i32 },
];

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// 0: free.
    key: u64,
    arrival: Nanos,
}

/// Requests so far.
#[derive(Debug, Default)]
pub struct Rates {
    /// Made when the first limit is asked.
    sets: OnceLock<Box<[Mutex<[Place; WAYS]>]>>,
    /// With seeds of its own in each process, so that nobody can aim at the place of another.
    hasher: RandomState,
}

impl Rates {
    /// Counts a request; if it is one too many, the seconds after which there is room for one.
    pub(super) fn take(&self, scope: Scope<'_>, limit: &Limit, address: IpAddr, now: Nanos) -> Option<u32> {
        self.take_at(self.key(scope, limit, address), limit, now)
    }

    /// Counts a request of whoever has this budget for the names of `scope`; if it is one too many, the seconds after which there is room for
    /// one. What was counted stays when the number of edges changes.
    pub(super) fn spend(&self, scope: Scope<'_>, who: impl Hash, budget: Budget, now: Nanos) -> Option<u32> {
        let key = self.hasher.hash_one((scope, who)).max(1);
        self.take_at(key, &budget.share(), now)
    }

    fn take_at(&self, key: u64, limit: &Limit, now: Nanos) -> Option<u32> {
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        let set = sets.get(usize::try_from(key % SETS as u64).unwrap_or_default())?;
        let mut places = set.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match places.iter().position(|place| place.key == key) {
            Some(known) => places.get_mut(known)?,
            None => {
                let place = places.iter_mut().min_by_key(|place| place.arrival)?;
                *place = Place { key, arrival: 0 };
                place
            }
        };
        let arrival = place.arrival.max(now) + limit.interval;
        if arrival <= now + limit.room {
            place.arrival = arrival;
            return None;
        }
        let wait = arrival - now - limit.room;
        Some(u32::try_from(wait.div_ceil(SECOND)).unwrap_or(u32::MAX))
    }

    /// Counts the check of a password; if it is one too many, the seconds after which there is room for one.
    #[must_use]
    pub fn take_guess(&self, address: IpAddr, now: Nanos) -> Option<u32> {
        GUESSES.iter().find_map(|limit| self.take(Scope::Guesses, &Limit::new(limit), address, now))
    }

    fn key(&self, scope: Scope<'_>, limit: &Limit, address: IpAddr) -> u64 {
        let network = match (limit.per, address.to_canonical()) {
            (m::RatePer::Unspecified, _) => 0,
            (m::RatePer::Address, IpAddr::V4(address)) => u128::from(address.to_bits()),
            (m::RatePer::Address, IpAddr::V6(address)) => address.to_bits() >> 64,
            (m::RatePer::Network, IpAddr::V4(address)) => u128::from(address.to_bits() >> 8),
            (m::RatePer::Network, IpAddr::V6(address)) => address.to_bits() >> 80,
        };
        let is_v4 = address.to_canonical().is_ipv4();
        let Limit { interval, room, per } = limit;
        self.hasher.hash_one((scope, interval, room, *per as i32, is_v4, network)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, seconds: u32, per: m::RatePer) -> Limit {
        Limit::new(&m::RateLimit { requests, seconds, per: per as i32 })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_at_once_then_at_the_rate() {
        let rates = Rates::default();
        let limit = limit(10, 5, m::RatePer::Address);
        let take = |now| rates.take(Scope::Name("a.example"), &limit, address("192.0.2.1"), now);
        let begin = 7 * SECOND;
        for n in 0..10 {
            assert_eq!(take(begin), None, "{n}");
        }
        assert_eq!(take(begin), Some(1), "the eleventh comes half a second early");
        assert_eq!(take(begin + SECOND / 2 - 1), Some(1));
        assert_eq!(take(begin + SECOND / 2), None);
        assert_eq!(take(begin + SECOND / 2), Some(1));
        let later = begin + 100 * SECOND;
        assert!(
            (0..10).all(|_| take(later).is_none()) && take(later).is_some(),
            "what is not used does not add up"
        );
    }

    #[test]
    fn who_waits_longer_is_told_so() {
        let rates = Rates::default();
        let limit = limit(1, 3_600, m::RatePer::Unspecified);
        let take = |host, from, now| rates.take(Scope::Name(host), &limit, address(from), now);
        assert_eq!(take("a.example", "192.0.2.1", SECOND), None);
        assert_eq!(take("a.example", "198.51.100.1", 11 * SECOND), Some(3_590), "all clients together");
        assert_eq!(take("b.example", "192.0.2.1", 11 * SECOND), None, "another name");
        assert_eq!(
            rates.take(Scope::Tenant("a.example"), &limit, address("::1"), SECOND),
            None,
            "another scope"
        );
    }

    #[test]
    fn neighbours_are_counted_together_as_far_as_the_limit_says() {
        let blocked = |per, first, second| {
            let rates = Rates::default();
            let limit = limit(1, 60, per);
            assert_eq!(rates.take(Scope::Name("a"), &limit, address(first), SECOND), None);
            rates.take(Scope::Name("a"), &limit, address(second), SECOND).is_some()
        };
        use m::RatePer::{Address, Network};
        assert!(!blocked(Address, "192.0.2.1", "192.0.2.2"));
        assert!(blocked(Address, "192.0.2.1", "::ffff:192.0.2.1"));
        assert!(blocked(Address, "2001:db8::1", "2001:db8::ffff:1"));
        assert!(!blocked(Address, "2001:db8::1", "2001:db8:0:1::1"));
        assert!(blocked(Network, "192.0.2.1", "192.0.2.200"));
        assert!(!blocked(Network, "192.0.2.1", "192.0.3.1"));
        assert!(blocked(Network, "2001:db8::1", "2001:db8:0:1::1"));
        assert!(!blocked(Network, "2001:db8::1", "2001:db8:1::1"));
    }

    #[test]
    fn a_flood_of_addresses_frees_nobody_who_is_at_his_limit() {
        let rates = Rates::default();
        let limit = limit(5, 3_600, m::RatePer::Address);
        let take = |from, now| rates.take(Scope::Name("a"), &limit, from, now);
        let greedy = address("192.0.2.1");
        for _ in 0..5 {
            assert_eq!(take(greedy, SECOND), None);
        }
        for n in 0..(SETS * WAYS * 2) as u128 {
            // One request each, from as many networks.
            let from = IpAddr::V6((0x2001_0db8_u128 << 96 | n << 64).into());
            assert_eq!(take(from, SECOND), None);
        }
        assert!(take(greedy, SECOND).is_some());
    }

    #[test]
    fn edges_that_share_a_budget_have_no_more_than_it_together() {
        // Requests that pass in ten minutes at so many edges, each of which is asked four times a second.
        let passed = |per_minute, edges| {
            let each: Vec<Rates> = (0..edges).map(|_| Rates::default()).collect();
            let asked = (0..2_400).flat_map(|quarter| each.iter().map(move |rates| (quarter, rates)));
            let budget = Budget { per_minute, edges };
            let spends = |(quarter, rates): (u64, &Rates)| {
                rates.spend(Scope::Name("a"), "bot", budget, (4_000 + quarter) * SECOND / 4)
            };
            asked.filter(|asked| spends(*asked).is_none()).count()
        };
        // A minute's worth at once, and ten minutes' after that; of a share below one a minute, one each at once.
        assert_eq!((passed(60, 1), passed(60, 3)), (659, 657));
        assert_eq!((passed(1, 1), passed(1, 5)), (10, 10));
        assert_eq!(passed(1, 20), 20);
    }

    #[test]
    fn what_was_spent_stays_spent_when_edges_come_and_go() {
        let rates = Rates::default();
        let spend = |edges, second| {
            rates.spend(Scope::Name("a"), 1, Budget { per_minute: 2, edges }, second * SECOND)
        };
        assert_eq!((spend(1, 100), spend(1, 100)), (None, None));
        assert_eq!(spend(2, 100), Some(60), "another edge came");
        assert_eq!(spend(1, 100), Some(30), "and went");
        assert_eq!(spend(1, 130), None);
        assert_eq!(rates.spend(Scope::Name("a"), 2, Budget { per_minute: 2, edges: 1 }, 130 * SECOND), None);
        assert_eq!(rates.spend(Scope::Name("b"), 1, Budget { per_minute: 2, edges: 1 }, 130 * SECOND), None);
    }

    #[test]
    fn guesses_are_few_for_an_address_and_for_a_network() {
        let rates = Rates::default();
        let guess = |from: &str| rates.take_guess(address(from), SECOND);
        assert!((0..20).all(|_| guess("192.0.2.1").is_none()));
        assert_eq!(guess("192.0.2.1"), Some(3));
        assert_eq!(guess("198.51.100.1"), None, "another network");
        for n in 2..6 {
            assert!((0..20).all(|_| guess(&format!("192.0.2.{n}")).is_none()), "{n}");
        }
        assert!(guess("192.0.2.7").is_some(), "the network's hundred and first");
    }

    #[test]
    fn nothing_is_held_before_there_is_a_limit() {
        assert!(Rates::default().sets.get().is_none());
    }
}
