//! What goes before what in one pass, and who has the claims that two keys want.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    desired::Desired,
    driver::{Claim, Erased, Key},
    keys::Keys,
};

/// Which wanted keys want a claim.
#[derive(Debug, Default)]
pub(crate) struct Claimants(BTreeMap<Claim, BTreeSet<Key>>);

impl Claimants {
    pub(crate) fn insert(&mut self, claim: Claim, key: &Key) {
        self.0.entry(claim).or_default().insert(key.clone());
    }

    pub(crate) fn remove(&mut self, claim: &Claim, key: &Key) {
        if let Some(keys) = self.0.get_mut(claim) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(claim);
            }
        }
    }

    fn get(&self, claim: &Claim) -> Option<&BTreeSet<Key>> {
        self.0.get(claim)
    }
}

/// What goes before what in one pass.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) needs: BTreeMap<Key, Vec<Key>>,
    pub(crate) before: BTreeMap<Key, BTreeSet<Key>>,
    pub(crate) releases: BTreeSet<Key>,
    pub(crate) refused: BTreeMap<Key, String>,
    /// Needs and claims that were gone over.
    pub(crate) visited: usize,
}

impl Order {
    /// The order among `candidates`. `driver` finds the driver of a kind, `keys` who has a claim, `claimants` who wants it.
    pub(crate) fn new<'d>(
        driver: impl Fn(&str) -> Option<&'d dyn Erased>,
        keys: &Keys,
        claimants: &Claimants,
        desired: &Desired,
        candidates: &BTreeSet<Key>,
    ) -> Self {
        let mut order = Self::default();
        for key in candidates {
            let Some((wanted, driver)) = desired.wants.get(key).zip(driver(key.kind)) else {
                continue;
            };
            let needs = driver.needs(&key.name, wanted.spec.as_ref());
            let mut before: BTreeSet<Key> = needs.iter().cloned().collect();
            let mut first = |order: &mut Self, other: &Key| {
                if desired.wants.contains_key(other) {
                    before.insert(other.clone());
                } else {
                    order.releases.insert(other.clone());
                }
            };
            order.visited += 1 + needs.len();
            for other in driver.after(&key.name, wanted.spec.as_ref()) {
                order.visited += 1;
                first(&mut order, &other);
            }
            for claim in driver.holds(&key.name, wanted.spec.as_ref()) {
                order.visited += 1;
                let holder = keys.holder(&claim);
                let winner = claimants.get(&claim).and_then(|rivals| {
                    holder.filter(|holder| rivals.contains(*holder)).or_else(|| rivals.first())
                });
                if let Some(winner) = winner.filter(|winner| *winner != key) {
                    order.refused.insert(key.clone(), format!("{claim} belongs to {winner}"));
                } else if let Some(holder) = holder.filter(|holder| *holder != key) {
                    first(&mut order, holder);
                }
            }
            order.needs.insert(key.clone(), needs);
            order.before.insert(key.clone(), before);
        }
        order
    }
}
