//! Tells a clock that was set from time that passed: what is dropped for its age must be old.

use std::time::Instant;

/// In milliseconds.
pub(crate) const DAY: i64 = 24 * HOUR;
/// In milliseconds.
pub(crate) const HOUR: i64 = 3_600_000;

/// The wall clock and the monotonic one at the same moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: i64,
    steady: Instant,
}

impl Clock {
    /// `wall`: now, in milliseconds since the Unix epoch.
    pub(crate) fn at(wall: i64) -> Self {
        Self { wall, steady: Instant::now() }
    }

    /// Before when things go that are kept for so many milliseconds; `None` while the clock is more than a day ahead of the time that has
    /// passed since the start: what it calls old may be of today.
    pub(crate) fn keeps_from(&self, kept: i64, wall: i64) -> Option<i64> {
        self.keeps_from_at(kept, wall, Instant::now())
    }

    fn keeps_from_at(&self, kept: i64, wall: i64, steady: Instant) -> Option<i64> {
        let passed =
            i64::try_from(steady.saturating_duration_since(self.steady).as_millis()).unwrap_or(i64::MAX);
        let jumped = wall.saturating_sub(self.wall).saturating_sub(passed);
        (jumped <= DAY).then(|| wall.saturating_sub(kept))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_was_set_forward_makes_nothing_old() {
        let start = Instant::now();
        let clock = Clock { wall: 1_000 * DAY, steady: start };
        let (day, kept) = (Duration::from_secs(24 * 3600), 90 * DAY);
        assert_eq!(clock.keeps_from_at(kept, 1_010 * DAY, start + day * 10), Some(920 * DAY));
        assert_eq!(clock.keeps_from_at(kept, 1_100 * DAY, start + day), None);
        assert_eq!(clock.keeps_from_at(kept, 0, start + day), Some(-90 * DAY), "put back: nothing is old");
    }
}
