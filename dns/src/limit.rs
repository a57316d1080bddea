//! Response rate limiting over UDP, so that a flood of queries with a forged source does not become a flood of answers.
//!
//! Equal answers (same name or same absent zone, same outcome) to one network are limited; different ones are not, so that
//! a busy resolver never notices. Shared by all threads, without a lock: a fixed table of atomics that cannot grow, and that
//! lets answers pass when it cannot tell.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;
use hosting_dns_zone::{Answered, Outcome};

/// Slots of the table, 8 bytes each. A slot is taken for as long as its flow is within a second of its limit.
const SLOTS: usize = 1 << 17;
/// Slots that a flow may take.
const WAYS: usize = 4;
/// Bits of a slot that hold a time in microseconds (eight years); the others tell flows apart.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// How far ahead of its rate a flow may be, in microseconds.
const BURST: u64 = 1_000_000;

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send an empty one with the TC bit.
    Slip,
    /// Send nothing.
    Drop,
}

/// The limiter.
#[derive(Debug)]
pub struct Limiter {
    slots: Box<[AtomicU64]>,
    seeds: RandomState,
    /// Microseconds that one answer costs.
    cost: u64,
    slip: u32,
    start: Instant,
}

impl Limiter {
    /// Allows `per_second` equal answers a second to one network; every `slip`th beyond is [`Verdict::Slip`] (0: none).
    /// `None` when `per_second` is 0: no limit.
    #[must_use]
    pub fn new(per_second: u32, slip: u32, now: Instant) -> Option<Self> {
        let cost = 1_000_000u64.checked_div(u64::from(per_second))?.max(1);
        Some(Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            seeds: RandomState::new(),
            cost,
            slip,
            start: now,
        })
    }

    /// Judges one answer. `slipped` is the calling thread's own count of answers beyond the limit.
    pub fn judge(&self, client: IpAddr, answered: &Answered, now: Instant, slipped: &mut u32) -> Verdict {
        if client.is_loopback() {
            return Verdict::Send;
        }
        let outcome: u8 = match answered.outcome {
            Outcome::Dropped => return Verdict::Drop,
            Outcome::Answer => 0,
            Outcome::NoData => 1,
            Outcome::NxDomain => 2,
            Outcome::Referral => 3,
            Outcome::Error => 4,
        };
        let hash = self.seeds.hash_one((network(client), outcome, answered.subject));
        // The clock starts a burst late, so that a slot of 0 is long past.
        let now = elapsed(now.saturating_duration_since(self.start)) + BURST + 1;
        if self.take(hash, now) {
            return Verdict::Send;
        }
        *slipped = slipped.wrapping_add(1);
        match slipped.checked_rem(self.slip) {
            Some(0) => Verdict::Slip,
            Some(_) | None => Verdict::Drop,
        }
    }

    /// Takes one answer's worth from the flow `hash` at `now`; false when it has none left.
    fn take(&self, hash: u64, now: u64) -> bool {
        let tag = hash & !TIME;
        let first = hash as usize & (SLOTS - WAYS);
        let Some(ways) = self.slots.get(first..first + WAYS) else { return true };
        // Its own slot, else one whose flow is idle. A flow that two threads put into two slots at once has twice its
        // limit until one slot falls idle.
        let own = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) & !TIME == tag;
        let idle = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) & TIME <= now;
        let Some(slot) = ways.iter().find(own).or_else(|| ways.iter().find(idle)) else { return true };
        // The time at which the flow will have paid for what it had (the generic cell rate algorithm).
        let mut taken = false;
        let _ = slot.try_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
            let paid = if value & !TIME == tag { (value & TIME).max(now) } else { now };
            taken = paid + self.cost <= now + BURST;
            taken.then_some(tag | (paid + self.cost) & TIME)
        });
        taken
    }
}

fn elapsed(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(TIME) & TIME
}

/// What counts as one client: forged sources come from anywhere, their victim is a network.
fn network(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
        IpAddr::V6(address) => (address.to_bits() >> 72) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(outcome: Outcome, subject: u64) -> Answered {
        Answered { len: 100, rcode: 0, record_type: 1, outcome, truncated: false, subject }
    }

    #[test]
    fn equal_answers_to_one_network_are_limited() {
        let start = Instant::now();
        let limiter = Limiter::new(10, 2, start).unwrap();
        let mut slipped = 0;
        let client = |n: u8| IpAddr::from([192, 0, 2, n]);
        let answer = answered(Outcome::Answer, 7);
        let mut verdicts = [0; 3];
        for n in 0..110 {
            verdicts[limiter.judge(client(n), &answer, start, &mut slipped) as usize] += 1;
        }
        assert_eq!(verdicts, [10, 50, 50], "a second's worth, then every other one slips");
        for other in [
            (IpAddr::from([192, 0, 3, 1]), answer),
            (client(1), answered(Outcome::Answer, 8)),
            (client(1), answered(Outcome::NoData, 7)),
        ] {
            assert_eq!(limiter.judge(other.0, &other.1, start, &mut slipped), Verdict::Send);
        }
        let later = start + Duration::from_millis(250);
        let passed = (0..20)
            .filter(|n| limiter.judge(client(*n), &answer, later, &mut slipped) == Verdict::Send)
            .count();
        assert_eq!(passed, 2, "a quarter of a second pays for two and a half");
        let much_later = start + Duration::from_secs(9);
        let passed = (0..20)
            .filter(|n| limiter.judge(client(*n), &answer, much_later, &mut slipped) == Verdict::Send)
            .count();
        assert_eq!(passed, 10, "what is saved up is bounded");
    }

    #[test]
    fn loopback_and_no_limit_pass() {
        let start = Instant::now();
        assert!(Limiter::new(0, 2, start).is_none());
        let limiter = Limiter::new(1, 0, start).unwrap();
        let answer = answered(Outcome::Error, 5);
        let mut slipped = 0;
        for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
            for _ in 0..5 {
                assert_eq!(
                    limiter.judge(loopback.parse().unwrap(), &answer, start, &mut slipped),
                    Verdict::Send
                );
            }
        }
        let far: IpAddr = "2001:db8::1".parse().unwrap();
        let near: IpAddr = "2001:db8:0:ff::2".parse().unwrap();
        assert_eq!(limiter.judge(far, &answer, start, &mut slipped), Verdict::Send);
        assert_eq!(
            limiter.judge(near, &answer, start, &mut slipped),
            Verdict::Drop,
            "the same /56; slip is off"
        );
        let other: IpAddr = "2001:db8:0:100::2".parse().unwrap();
        assert_eq!(limiter.judge(other, &answer, start, &mut slipped), Verdict::Send);
    }

    #[test]
    fn many_flows_do_not_disturb_each_other() {
        let start = Instant::now();
        let limiter = Limiter::new(100, 2, start).unwrap();
        let mut slipped = 0;
        for subject in 0..10_000 {
            let verdict = limiter.judge(
                IpAddr::from([192, 0, 2, 1]),
                &answered(Outcome::Answer, subject),
                start,
                &mut slipped,
            );
            assert_eq!(verdict, Verdict::Send);
        }
    }
}
