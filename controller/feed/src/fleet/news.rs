//! What changed in the fleet, for those who look at no more than that.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Key};

/// What changed since it was last taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Revisions that somebody applied, by audience: each after the first, up to the second. Ranges of one audience are apart, so that
    /// one subscriber that catches up from far behind does not make of all of them one that holds everything.
    pub applied: BTreeMap<Audience, Vec<(u64, u64)>>,
    /// Items about which a subscriber said something.
    pub items: BTreeSet<(Audience, Key)>,
    /// Who is in service, or who there is; or more changed than is listed.
    pub everything: bool,
}

impl News {
    /// Items that are listed; beyond, everything may have changed.
    const MAX_ITEMS: usize = 10_000;
    /// Ranges of one audience that are kept apart.
    pub(super) const MAX_RANGES: usize = 16;

    /// Adds an item.
    pub fn item(&mut self, audience: &Audience, key: Key) {
        if self.items.len() < Self::MAX_ITEMS {
            self.items.insert((audience.clone(), key));
        } else {
            self.everything = true;
        }
    }

    /// Adds the revisions after `before`, up to `after`.
    pub(super) fn moved(&mut self, audience: &Audience, before: u64, after: u64) {
        if before >= after {
            return;
        }
        let ranges = self.applied.entry(audience.clone()).or_default();
        let (mut from, mut upto) = (before, after);
        ranges.retain(|range| {
            let apart = range.1 < from || upto < range.0;
            if !apart {
                (from, upto) = (from.min(range.0), upto.max(range.1));
            }
            apart
        });
        if ranges.len() >= Self::MAX_RANGES {
            self.everything = true;
        } else {
            ranges.push((from, upto));
        }
    }
}
