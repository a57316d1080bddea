//! What the node should have.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};

use crate::driver::{AnySpec, Driver, Key};

/// One key's spec and the intent it comes from.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(crate) spec: AnySpec,
    pub(crate) origin: Option<(hosting_intent::Key, u64)>,
    /// Intents that are not settled before this is, however it ends.
    pub(crate) also: Vec<hosting_intent::Key>,
}

impl Wanted {
    pub(crate) fn same_spec(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spec, &other.spec) || self.spec.same(other.spec.as_ref())
    }
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.also == other.also && self.same_spec(other)
    }
}

/// Everything wanted, at one revision of the feed. A clone shares what both have: what differs between two of them is found
/// without going over the rest.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub(crate) wants: OrdMap<Key, Arc<Wanted>>,
}

impl Desired {
    /// Nothing wanted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants one thing. `origin` is the intent that asks for it with its revision; `None` for what the node itself needs.
    /// A second call for the same name replaces the first.
    pub fn want<D: Driver>(
        &mut self,
        name: impl Into<Arc<str>>,
        spec: D::Spec,
        origin: Option<(hosting_intent::Key, u64)>,
    ) {
        let wanted = Wanted { spec: Arc::new(spec), origin, also: Vec::new() };
        self.put(Key::new(D::KIND, name), Arc::new(wanted));
    }

    /// Lets another intent that shapes a wanted thing wait for it: each revision of the intent is reported as converging
    /// until the work on the thing has ended, well or not.
    pub fn settles<D: Driver>(&mut self, name: &str, intent: hosting_intent::Key) {
        if let Some(wanted) = self.wants.get_mut(&Key::new(D::KIND, name)) {
            Arc::make_mut(wanted).also.push(intent);
        }
    }

    /// Takes over what another one wants: its keys replace those of the same name. Gives back which keys it was.
    pub fn take_over(&mut self, other: &Self) -> Vec<Key> {
        for (key, wanted) in &other.wants {
            self.put(key.clone(), wanted.clone());
        }
        other.wants.keys().cloned().collect()
    }

    /// Wants a thing no more.
    pub fn unwant(&mut self, key: &Key) {
        self.wants.remove(key);
    }

    /// What stays as it was keeps its place in memory, so that it is not found to differ.
    fn put(&mut self, key: Key, wanted: Arc<Wanted>) {
        if self.wants.get(&key).is_none_or(|known| **known != *wanted) {
            self.wants.insert(key, wanted);
        }
    }

    /// Number of things wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// The keys, in ascending order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.wants.keys()
    }

    /// The keys whose spec, origin or place in another intent differs, each with how it was here and how it is in `later`.
    /// Costs what differs, as long as one was made of the other.
    pub(crate) fn differences<'a>(
        &'a self,
        later: &'a Self,
    ) -> impl Iterator<Item = (&'a Key, Option<&'a Arc<Wanted>>, Option<&'a Arc<Wanted>>)> {
        self.wants.diff(&later.wants).map(|item| match item {
            DiffItem::Add(key, new) => (key, None, Some(new)),
            DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
            DiffItem::Remove(key, old) => (key, Some(old), None),
        })
    }
}

impl PartialEq for Desired {
    fn eq(&self, other: &Self) -> bool {
        self.wants == other.wants
    }
}
