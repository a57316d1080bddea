//! Whose turn it is to be looked at: of each tenant one resource after the other, so that a tenant with ten thousand on their way does
//! not keep another's one waiting behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Resources that wait for a look, by tenant; those without a tenant are one of them.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeMap<String, BTreeSet<String>>,
    /// The tenant that had its turn last.
    last: String,
}

impl Turns {
    pub(super) fn add(&mut self, tenant: String, id: String) {
        self.waiting.entry(tenant).or_default().insert(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The next ones, at most so many.
    pub(super) fn take(&mut self, count: usize) -> BTreeSet<String> {
        let mut taken = BTreeSet::new();
        while taken.len() < count {
            let behind = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
            let next = self.waiting.range::<str, _>(behind).next().or_else(|| self.waiting.iter().next());
            let Some(tenant) = next.map(|(tenant, _)| tenant.clone()) else { break };
            if let Some(ids) = self.waiting.get_mut(&tenant) {
                taken.extend(ids.pop_first());
                if ids.is_empty() {
                    self.waiting.remove(&tenant);
                }
            }
            self.last = tenant;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_one_tenant_is_not_before_another() {
        let mut turns = Turns::default();
        for n in 0..1_000 {
            turns.add("t_crowd".to_owned(), format!("c{n:04}"));
        }
        assert_eq!(turns.take(3).len(), 3);
        turns.add("t_late".to_owned(), "late".to_owned());
        turns.add(String::new(), "nobody's".to_owned());
        turns.add("t_late".to_owned(), "late".to_owned());
        let next = turns.take(4);
        assert!(next.contains("late") && next.contains("nobody's"), "{next:?}");
        assert_eq!(turns.take(10_000).len(), 1_000 - 3 - 2);
        assert!(turns.is_empty());
        assert_eq!(turns.take(5), BTreeSet::new());
    }
}
