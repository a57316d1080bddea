//! Which key is free to be worked on: each as soon as those before it have ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::Key;

/// Keys that wait for others. Making it, and working through it, costs the keys and the dependencies among them, once each.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// For how many others each key waits.
    waiting: BTreeMap<Key, usize>,
    /// Which keys wait for one.
    dependents: BTreeMap<Key, Vec<Key>>,
    free: BTreeSet<Key>,
    visited: usize,
}

impl Schedule {
    /// Keys, each with those that go before it; of those only the ones that are keys here themselves count.
    pub(crate) fn new<'a>(keys: impl Iterator<Item = (&'a Key, Option<&'a BTreeSet<Key>>)>) -> Self {
        let all: BTreeMap<&Key, Option<&BTreeSet<Key>>> = keys.collect();
        let mut schedule = Self::default();
        for (key, before) in &all {
            let mut count = 0;
            for first in before.iter().flat_map(|before| before.iter()) {
                schedule.visited += 1;
                if all.contains_key(first) {
                    schedule.dependents.entry(first.clone()).or_default().push((*key).clone());
                    count += 1;
                }
            }
            if count == 0 {
                schedule.free.insert((*key).clone());
            } else {
                schedule.waiting.insert((*key).clone(), count);
            }
        }
        schedule
    }

    /// The first of the free keys; it is the caller's from now on.
    pub(crate) fn next(&mut self) -> Option<Key> {
        let key = self.free.pop_first();
        self.visited += usize::from(key.is_some());
        key
    }

    /// The work on a key ended: those that waited for it last become free.
    pub(crate) fn ended(&mut self, key: &Key) {
        for dependent in self.dependents.remove(key).unwrap_or_default() {
            self.visited += 1;
            if let Some(count) = self.waiting.get_mut(&dependent) {
                *count -= 1;
                if *count == 0 {
                    self.waiting.remove(&dependent);
                    self.free.insert(dependent);
                }
            }
        }
    }

    /// Keys and dependencies that were gone over up to now.
    pub(crate) const fn visited(&self) -> usize {
        self.visited
    }

    /// Keys that never became free: they wait in a circle, or for one.
    pub(crate) fn stuck(self) -> Vec<Key> {
        self.waiting.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("thing", name)
    }

    fn schedule(graph: &BTreeMap<Key, BTreeSet<Key>>) -> Schedule {
        Schedule::new(graph.iter().map(|(key, before)| (key, Some(before))))
    }

    #[test]
    fn a_key_is_free_when_all_before_it_have_ended() {
        let graph = BTreeMap::from([
            (key("a"), BTreeSet::from([key("b"), key("c"), key("elsewhere")])),
            (key("b"), BTreeSet::from([key("c")])),
            (key("c"), BTreeSet::new()),
        ]);
        let mut schedule = schedule(&graph);
        assert_eq!(schedule.next(), Some(key("c")));
        assert_eq!(schedule.next(), None);
        schedule.ended(&key("c"));
        assert_eq!(schedule.next(), Some(key("b")));
        assert_eq!(schedule.next(), None);
        schedule.ended(&key("b"));
        assert_eq!(schedule.next(), Some(key("a")));
        assert!(schedule.stuck().is_empty());
    }

    #[test]
    fn what_waits_in_a_circle_is_left() {
        let graph = BTreeMap::from([
            (key("a"), BTreeSet::from([key("b")])),
            (key("b"), BTreeSet::from([key("a")])),
            (key("c"), BTreeSet::new()),
        ]);
        let mut schedule = schedule(&graph);
        assert_eq!(schedule.next(), Some(key("c")));
        schedule.ended(&key("c"));
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.stuck(), [key("a"), key("b")]);
    }
}
