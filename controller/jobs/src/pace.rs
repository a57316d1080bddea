//! How fast jobs of a kind may begin: the generic cell rate algorithm (ITU-T I.371), one number for each kind, over all controllers.

use std::time::Duration;

use hosting_store::Pace;

/// Clocks of controllers may differ by so much, in milliseconds, before one counts as put back.
pub(crate) const CLOCK_TOLERANCE: i64 = 60_000;

/// At most `burst` jobs at once, and one more each `each`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// One job for each such time, in the long run.
    pub each: Duration,
    /// So many at once after a quiet time; at least one.
    pub burst: u32,
}

/// How many of `wanted` jobs may begin at `now` (milliseconds since the Unix epoch); the pace moves by as many. A pace that was set by a
/// clock far ahead of this one counts for nothing.
pub fn take(pace: &mut Pace, rate: Rate, wanted: u32, now: i64) -> u32 {
    if is_of_the_future(pace, now) {
        *pace = Pace { set_at: now, ..Pace::default() };
    }
    if pace.rest_until > now {
        return 0;
    }
    let each = i64::try_from(rate.each.as_millis()).unwrap_or(i64::MAX).max(1);
    let ahead = each.saturating_mul(i64::from(rate.burst.max(1)));
    let arrival = pace.arrival.max(now);
    let room = now.saturating_add(ahead).saturating_sub(arrival) / each;
    let granted = u32::try_from(room.max(0)).unwrap_or(u32::MAX).min(wanted);
    if granted > 0 {
        pace.arrival = arrival.saturating_add(each.saturating_mul(i64::from(granted)));
        pace.set_at = now;
    }
    granted
}

/// Whether the clock was put back since the pace was set.
fn is_of_the_future(pace: &Pace, now: i64) -> bool {
    pace.set_at > now.saturating_add(CLOCK_TOLERANCE)
}

/// No job of the kind begins for so long.
pub fn rest(pace: &mut Pace, cooldown: Duration, now: i64) {
    let until = now.saturating_add(i64::try_from(cooldown.as_millis()).unwrap_or(i64::MAX));
    if is_of_the_future(pace, now) {
        *pace = Pace::default();
    }
    *pace = Pace { rest_until: pace.rest_until.max(until), set_at: now, ..*pace };
}

/// When the next job may begin, in milliseconds since the Unix epoch; `now` or before when one may now.
#[must_use]
pub fn next_at(pace: &Pace, rate: Rate, now: i64) -> i64 {
    if is_of_the_future(pace, now) {
        return now;
    }
    let each = i64::try_from(rate.each.as_millis()).unwrap_or(i64::MAX).max(1);
    let ahead = each.saturating_mul(i64::from(rate.burst.max(1)) - 1);
    pace.rest_until.max(pace.arrival.saturating_sub(ahead))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { each: Duration::from_millis(100), burst: 3 };

    #[test]
    fn a_burst_and_then_one_for_each_time() {
        let mut pace = Pace::default();
        assert_eq!(take(&mut pace, RATE, 10, 1_000), 3);
        assert_eq!((take(&mut pace, RATE, 10, 1_050), next_at(&pace, RATE, 1_050)), (0, 1_100));
        assert_eq!(take(&mut pace, RATE, 10, 1_100), 1);
        assert_eq!(take(&mut pace, RATE, 1, 1_350), 1);
        assert_eq!(take(&mut pace, RATE, 10, 1_350), 1);
        assert_eq!(take(&mut pace, RATE, 10, 100_000), 3, "a quiet time gives no more than a burst");
    }

    #[test]
    fn a_kind_that_rests_begins_nothing() {
        let mut pace = Pace::default();
        rest(&mut pace, Duration::from_secs(5), 1_000);
        assert_eq!((take(&mut pace, RATE, 1, 5_999), next_at(&pace, RATE, 5_999)), (0, 6_000));
        rest(&mut pace, Duration::from_secs(1), 1_100);
        assert_eq!(pace.rest_until, 6_000, "the longer rest counts");
        assert_eq!(take(&mut pace, RATE, 1, 6_000), 1);
    }

    #[test]
    fn a_clock_that_was_put_back_stops_nothing() {
        let mut pace = Pace::default();
        take(&mut pace, RATE, 3, 1_000_000);
        rest(&mut pace, Duration::from_secs(50), 1_000_000);
        assert_eq!((next_at(&pace, RATE, 10), take(&mut pace, RATE, 9, 10)), (10, 3));
        // Another controller's clock is a little behind: the rest goes on.
        rest(&mut pace, Duration::from_secs(50), 1_000_000);
        assert_eq!(take(&mut pace, RATE, 9, 990_000), 0);
    }
}
