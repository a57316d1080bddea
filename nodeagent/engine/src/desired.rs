//! What the node should have.

use std::{collections::BTreeMap, sync::Arc};

use crate::driver::{AnySpec, Driver, Key};

/// One key's spec and the intent it comes from.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(crate) spec: AnySpec,
    pub(crate) origin: Option<(hosting_intent::Key, u64)>,
    /// Intents that are not settled before this is, however it ends.
    pub(crate) also: Vec<hosting_intent::Key>,
}

/// Everything wanted, at one revision of the feed.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub(crate) wants: BTreeMap<Key, Wanted>,
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
        name: impl Into<String>,
        spec: D::Spec,
        origin: Option<(hosting_intent::Key, u64)>,
    ) {
        self.wants.insert(Key::new(D::KIND, name), Wanted { spec: Arc::new(spec), origin, also: Vec::new() });
    }

    /// Lets another intent that shapes a wanted thing wait for it: each revision of the intent is reported as converging
    /// until the work on the thing has ended, well or not.
    pub fn settles<D: Driver>(&mut self, name: &str, intent: hosting_intent::Key) {
        if let Some(wanted) = self.wants.get_mut(&Key::new(D::KIND, name)) {
            wanted.also.push(intent);
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
}
