//! What an authority allows, how much of that is used, and what else is kept of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::timestamp;

/// So many of something within so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Allowance {
    /// How many. From 1.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: u32,
    /// Within so many seconds. From 1 second to 30 days.
    #[schemars(range(min = 1, max = 2_592_000))]
    pub seconds: u32,
}

impl Allowance {
    /// Milliseconds of each.
    #[must_use]
    pub fn each(self) -> i64 {
        (i64::from(self.seconds) * 1_000 / i64::from(self.count.max(1))).max(1)
    }

    const fn window(self) -> i64 {
        self.seconds as i64 * 1_000
    }
}

/// What the controller keeps about an authority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateAuthorityState {
    /// It is asked for nothing before, in milliseconds since the Unix epoch: it is down, or asked for less.
    #[serde(skip_serializing_if = "is_now")]
    pub paused_until: i64,
    /// Times in a row that it could not be asked.
    #[serde(skip_serializing_if = "is_none_failed")]
    pub failures: u32,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// By account, when the orders that were made are paid for ([`Spent`]).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub orders: BTreeMap<String, Spent>,
    /// How long an order takes from its making to its certificate, in milliseconds: of the last ones, the newest counting most. 0: not known.
    #[serde(skip_serializing_if = "is_now")]
    pub order_takes: i64,
    /// How fast names get its certificates when many wait for one.
    #[serde(skip_serializing_if = "Pace::is_unknown")]
    pub pace: Pace,
    /// The last time that many of its certificates were to be replaced at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reissue: Option<MassReissue>,
}

/// Many certificates of an authority that are replaced at once. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MassReissue {
    /// The id of the authority to ask; `None`: whoever is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Names whose certificate is to be replaced, as far as they have been told so.
    pub names: u64,
    /// Those that have another one.
    pub done: u64,
    /// When it began.
    pub since: i64,
    /// When it was thought to be done, before anybody was told; 0: not yet.
    pub forecast: i64,
    /// When it was done; 0: it is not.
    pub ended: i64,
}

impl CertificateAuthorityState {
    /// Notes that an order of so many names, which was made at `since`, has its certificate `now`, both in milliseconds since the Unix epoch.
    /// `allowance`: the orders that may be made.
    pub fn took(&mut self, names: u64, since: i64, now: i64, allowance: Allowance) {
        let took = now.saturating_sub(since).max(1);
        self.order_takes = if self.order_takes == 0 { took } else { (3 * self.order_takes + took) / 4 };
        // While orders wait for their places, their ends say what is allowed, not what is possible.
        let waits = self.orders.values().any(|spent| spent.last_of(1, allowance, now) > now);
        self.pace.ended(names, since, now, waits);
    }
}

/// How fast names get certificates: the time between the ends of orders that were under way together, which is what the controller and the
/// authority need when nothing else holds them back. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// Names of such orders.
    names: u64,
    /// What they took of the time.
    took: i64,
    /// When the last order of all ended, since the Unix epoch.
    ended: i64,
}

impl Pace {
    /// Names from which on it is known.
    const KNOWN: u64 = 500;
    /// Names after which the older ones count half.
    const MOST: u64 = 20_000;
    /// Milliseconds between two ends from which on the authority stood still, or the clock was set.
    const LONGEST: i64 = 10 * 60 * 1_000;

    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    fn ended(&mut self, names: u64, since: i64, now: i64, waits: bool) {
        let took = now.saturating_sub(self.ended);
        if since < self.ended && (0..Self::LONGEST).contains(&took) && !waits {
            self.names += names;
            self.took += took;
        }
        if self.names > Self::MOST {
            self.names /= 2;
            self.took /= 2;
        }
        self.ended = self.ended.max(now);
    }

    /// What so many names take; `None`: not known.
    #[must_use]
    pub fn of(self, names: u64) -> Option<i64> {
        let total = i128::from(self.took) * i128::from(names) / i128::from(self.names.max(1));
        (self.names >= Self::KNOWN).then(|| i64::try_from(total).unwrap_or(i64::MAX))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_now(at: &i64) -> bool {
    *at == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_none_failed(failures: &u32) -> bool {
    *failures == 0
}

/// How much of an [`Allowance`] is used: the time, in milliseconds since the Unix epoch, at which what was booked is paid for when each
/// costs its share of the window. What was saved up within a window may be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spent(i64);

impl Spent {
    /// Takes the next one; when it may be used, `now` or later. What is not used is lost.
    pub fn book(&mut self, allowance: Allowance, now: i64) -> i64 {
        let paid = self.0.max(now) + allowance.each();
        self.0 = paid;
        (paid - allowance.window()).max(now)
    }

    /// When the last of so many may be used that are booked from now on.
    #[must_use]
    pub fn last_of(self, many: u64, allowance: Allowance, now: i64) -> i64 {
        let span = i64::try_from(many).unwrap_or(i64::MAX).saturating_mul(allowance.each());
        self.0.max(now).saturating_add(span).saturating_sub(allowance.window()).max(now)
    }

}

/// Many certificates of an authority that are replaced at once.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MassReissueView {
    /// The authority that is asked. Absent: whoever is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_authority_id: Option<String>,
    /// Names whose certificate is to be replaced, as far as they have been told so.
    names: u64,
    /// Those that have another one.
    done: u64,
    /// RFC 3339. When it began.
    since: String,
    /// RFC 3339. When it was thought to be done, before anybody was told. Absent: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast_done_at: Option<String>,
    /// RFC 3339. When it was done. Absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_at: Option<String>,
}

impl MassReissueView {
    pub(super) fn of(reissue: &MassReissue) -> Self {
        Self {
            to_authority_id: reissue.to.clone(),
            names: reissue.names,
            done: reissue.done,
            since: timestamp(reissue.since),
            forecast_done_at: (reissue.forecast != 0).then(|| timestamp(reissue.forecast)),
            done_at: (reissue.ended != 0).then(|| timestamp(reissue.ended)),
        }
    }
}
