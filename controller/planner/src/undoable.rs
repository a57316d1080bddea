//! A map whose changes can be taken back.

use std::collections::{BTreeMap, BTreeSet};

/// A map whose changes can be taken back.
#[derive(Debug, Clone)]
pub(crate) struct Undoable<K, V> {
    pub(crate) map: BTreeMap<K, V>,
    /// What stood there before each change, oldest first.
    pub(crate) before: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Undoable<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), before: Vec::new() }
    }
}

impl<K: Ord + Clone, V> Undoable<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let before = self.map.insert(key.clone(), value);
        self.before.push((key, before));
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((key, before)) = self.map.remove_entry(key) {
            self.before.push((key, Some(before)));
        }
    }

    /// Adds what the base has, which stays so when changes are taken back.
    pub(crate) fn learn(&mut self, key: K, value: V) {
        self.map.entry(key).or_insert(value);
    }

    /// What was changed since changes were last kept: the key, what stood there then, and what stands there now.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&K, Option<&V>, Option<&V>)> {
        let mut seen = BTreeSet::new();
        self.before
            .iter()
            .filter(move |(key, _)| seen.insert(key))
            .map(|(key, before)| (key, before.as_ref(), self.map.get(key)))
    }

    pub(crate) fn undo(&mut self) {
        while let Some((key, before)) = self.before.pop() {
            match before {
                Some(value) => self.map.insert(key, value),
                None => self.map.remove(&key),
            };
        }
    }
}
