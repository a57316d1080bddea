//! Enrolments that failed, by address: whoever guesses is slowed down.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::seats::network;

/// Failed enrolments that one address may have at once; one is forgotten every [`FORGIVE`].
const FAILURES: u32 = 10;
const FORGIVE: Duration = Duration::from_secs(6);
/// Addresses remembered; the longest quiet one makes room.
const ADDRESSES: usize = 4_096;

/// Counts failures per address (an IPv6 /64 is one).
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    failures: BTreeMap<IpAddr, (u32, Instant)>,
}

impl Throttle {
    /// Failures that still count.
    fn count(&self, address: IpAddr, now: Instant) -> u32 {
        self.failures.get(&network(address)).map_or(0, |(count, since)| {
            let forgiven = now.saturating_duration_since(*since).as_secs() / FORGIVE.as_secs();
            count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
        })
    }

    pub(crate) fn allows(&self, address: IpAddr, now: Instant) -> bool {
        self.count(address, now) < FAILURES
    }

    pub(crate) fn failed(&mut self, address: IpAddr, now: Instant) {
        let count = self.count(address, now) + 1;
        let net = network(address);
        if !self.failures.contains_key(&net) && self.failures.len() >= ADDRESSES {
            let oldest =
                self.failures.iter().min_by_key(|(_, (_, since))| *since).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                self.failures.remove(&oldest);
            }
        }
        self.failures.insert(net, (count, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_per_address_and_forgiven_with_time() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let here: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..FAILURES {
            assert!(throttle.allows(here, now));
            throttle.failed(here, now);
        }
        assert!(!throttle.allows(here, now));
        assert!(!throttle.allows("2001:db8::ffff".parse().unwrap(), now), "the same network");
        assert!(throttle.allows("2001:db8:0:1::1".parse().unwrap(), now));
        assert!(throttle.allows(here, now + FORGIVE));
        for n in 0..u32::try_from(ADDRESSES).unwrap() * 2 {
            throttle.failed(std::net::Ipv4Addr::from(n).into(), now + FORGIVE);
        }
        assert_eq!(throttle.failures.len(), ADDRESSES);
    }
}
