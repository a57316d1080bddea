//! When the next certificate is to be had: what the authority suggests (ARI, RFC 9773), or what follows from the lifetime. Pure.

/// A certificate that lives shorter than this, in milliseconds, is renewed at half of its life: two thirds leave too few tries.
const SHORT: i64 = 10 * 86_400_000;

/// The lifetime of a certificate, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From then on it is good.
    pub begins: i64,
    /// Until then.
    pub ends: i64,
}

/// When an authority suggests to renew: at any time within it, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub start: i64,
    /// The last one. One that is past: at once.
    pub end: i64,
}

impl Lifetime {
    /// When to renew without a word of the authority. Whatever the lifetime, and never a fixed number of days before its end: after two
    /// thirds, or half of a short one; up to a tenth of what is left later, by `share` of 0 to 1, so that what was issued together is not
    /// renewed together.
    #[must_use]
    pub fn renew_at(self, share: f64) -> i64 {
        let life = self.ends.saturating_sub(self.begins).max(0);
        let used = if life < SHORT { life / 2 } else { life / 3 * 2 };
        let begins = self.begins.saturating_add(used);
        begins.saturating_add(part((life - used) / 10, share))
    }

    /// When to renew by an authority's suggestion: a point within it, and never after the certificate's end.
    #[must_use]
    pub fn renew_within(self, window: Window, share: f64) -> i64 {
        let span = window.end.saturating_sub(window.start).max(0);
        window.start.saturating_add(part(span, share)).min(self.ends)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a share of a span in milliseconds, which a float holds well enough"
)]
fn part(span: i64, share: f64) -> i64 {
    (span as f64 * share.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn six_days_forty_five_and_ninety_are_renewed_by_their_own_life() {
        for (days, earliest, latest) in
            [(6, 3.0, 3.3), (45, 30.0, 31.5), (90, 60.0, 63.0), (398, 265.0, 280.0)]
        {
            let life = Lifetime { begins: 1_000, ends: 1_000 + days * DAY };
            for share in [0.0, 0.5, 1.0] {
                let at = (life.renew_at(share) - 1_000) as f64 / DAY as f64;
                assert!((earliest - 0.4..=latest + 0.01).contains(&at), "{days} days, {share}: {at}");
            }
        }
        // Clocks and authorities that make no sense.
        assert_eq!(Lifetime { begins: 5, ends: 3 }.renew_at(0.5), 5);
    }

    #[test]
    fn a_suggestion_goes_before_the_rule_and_never_beyond_the_end() {
        let life = Lifetime { begins: 0, ends: 90 * DAY };
        let window = Window { start: 10 * DAY, end: 12 * DAY };
        assert_eq!(life.renew_within(window, 0.5), 11 * DAY);
        assert_eq!(life.renew_within(Window { start: 0, end: 1 }, 0.5), 0, "revoked: at once");
        assert_eq!(life.renew_within(Window { start: 95 * DAY, end: 99 * DAY }, 1.0), 90 * DAY);
        assert_eq!(life.renew_within(Window { start: 12 * DAY, end: 10 * DAY }, 1.0), 12 * DAY);
    }
}
