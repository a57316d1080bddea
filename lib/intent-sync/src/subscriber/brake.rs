//! The brake: how many changes that stop something, and that nobody asked for, may pass in a stretch of time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When removals, suspensions and emptied targets without a person's cause are held: when both limits are exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// Of the items in effect, in percent.
    pub percent: u64,
    /// Number of items.
    pub items: u64,
    /// Over how long they are counted.
    pub window: Duration,
}

impl Default for Brake {
    fn default() -> Self {
        Self { percent: 20, items: 50, window: Duration::from_secs(600) }
    }
}

/// What was tried within the window, whether it passed or not: a runaway that goes on stays held.
#[derive(Debug)]
pub(super) struct Attempts {
    brake: Brake,
    recent: VecDeque<Attempt>,
    tried: u64,
    removed: u64,
}

#[derive(Debug)]
struct Attempt {
    at: Instant,
    tried: u64,
    removed: u64,
}

impl Attempts {
    pub(super) fn new(brake: Brake) -> Self {
        Self { brake, recent: VecDeque::new(), tried: 0, removed: 0 }
    }

    /// Counts `new` attempts; whether they are too many. `effective`: items in effect before them.
    pub(super) fn exceed(&mut self, new: usize, effective: u64, now: Instant) -> bool {
        while let Some(oldest) = self.recent.front()
            && now.saturating_duration_since(oldest.at) > self.brake.window
        {
            self.tried = self.tried.saturating_sub(oldest.tried);
            self.removed = self.removed.saturating_sub(oldest.removed);
            self.recent.pop_front();
        }
        if new == 0 {
            return false;
        }
        let new = new as u64;
        self.tried = self.tried.saturating_add(new);
        // One entry per second at most, so that a long trickle does not grow the list.
        match self.recent.back_mut() {
            Some(last) if now.saturating_duration_since(last.at) < Duration::from_secs(1) => {
                last.tried += new
            }
            _ => self.recent.push_back(Attempt { at: now, tried: new, removed: 0 }),
        }
        // Of the view as it was before the window's own removals.
        let base = effective.saturating_add(self.removed);
        self.tried > self.brake.items
            && self.tried.saturating_mul(100) > base.saturating_mul(self.brake.percent)
    }

    /// `count` of the attempts just counted passed and made the view smaller.
    pub(super) fn removed(&mut self, count: usize) {
        let count = count as u64;
        self.removed = self.removed.saturating_add(count);
        if let Some(last) = self.recent.back_mut() {
            last.removed = last.removed.saturating_add(count);
        }
    }

    /// An operator has seen what was tried: counting starts anew.
    pub(super) fn forgive(&mut self) {
        self.recent.clear();
        self.tried = 0;
        self.removed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_must_be_exceeded() {
        let now = Instant::now();
        let mut small = Attempts::new(Brake::default());
        assert!(!small.exceed(50, 60, now), "50 items are not above 50");
        assert!(small.exceed(1, 10, now));
        let mut large = Attempts::new(Brake::default());
        assert!(!large.exceed(2_000, 10_000, now), "20 % are not above 20 %");
        large.removed(2_000);
        assert!(large.exceed(1, 8_000, now), "the share is of the view as it was");
    }

    #[test]
    fn attempts_age_and_are_forgiven() {
        let start = Instant::now();
        let mut attempts = Attempts::new(Brake::default());
        assert!(!attempts.exceed(50, 60, start));
        attempts.removed(50);
        let later = start + Duration::from_secs(601);
        assert!(!attempts.exceed(1, 10, later));
        assert!(attempts.exceed(60, 60, later));
        assert!(attempts.exceed(1, 60, later), "a runaway that goes on stays held");
        attempts.forgive();
        assert!(!attempts.exceed(1, 60, later));
    }
}
