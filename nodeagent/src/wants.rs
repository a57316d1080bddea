//! What the node should have, kept in step with the view: a change of the view costs the intents that it touches.

use std::collections::{BTreeMap, BTreeSet};

use hosting_agent_engine::{Desired, Key as Thing};
use hosting_intent::Key;
use imbl::ordmap::DiffItem;

use crate::{
    role::Derivation,
    view::{Items, View},
};

/// Everything wanted, as of the view that was followed last.
pub struct Wants {
    derivation: Box<dyn Derivation>,
    items: Items,
    desired: Desired,
    /// The things of each intent that has any.
    things: BTreeMap<Key, Vec<Thing>>,
    always: Vec<Thing>,
    derived: usize,
}

impl std::fmt::Debug for Wants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wants").field("intents", &self.items.len()).finish_non_exhaustive()
    }
}

impl Wants {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(derivation: Box<dyn Derivation>) -> Self {
        Self {
            derivation,
            items: Items::new(),
            desired: Desired::new(),
            things: BTreeMap::new(),
            always: Vec::new(),
            derived: 0,
        }
    }

    /// What is wanted by `view`, and by the node itself.
    pub fn follow(&mut self, view: &View) -> Desired {
        let earlier = std::mem::replace(&mut self.items, view.items.clone());
        let mut touched = BTreeSet::new();
        for item in earlier.diff(&self.items) {
            let (key, before, after) = match item {
                DiffItem::Add(key, after) => (key, None, Some(after)),
                DiffItem::Update { old: (_, before), new: (key, after) } => (key, Some(before), Some(after)),
                DiffItem::Remove(key, before) => (key, Some(before), None),
            };
            touched.insert(key.clone());
            let intent = |item: Option<&'_ crate::view::InEffect>| item.map(|item| item.intent.clone());
            let (before, after) = (intent(before), intent(after));
            self.derivation.changed(key, before.as_deref(), after.as_deref(), &mut touched);
        }
        self.derived = touched.len();

        // A thing may pass from one intent to another: what is new comes before what is old goes.
        let mut old: BTreeSet<Thing> = std::mem::take(&mut self.always).into_iter().collect();
        old.extend(touched.iter().filter_map(|key| self.things.remove(key)).flatten());
        for key in touched {
            let Some(item) = self.items.get(&key) else { continue };
            let wanted = self.derivation.wants(&self.items, &key, item.revision, &item.intent);
            let things = self.desired.take_over(&wanted);
            for thing in &things {
                old.remove(thing);
            }
            if !things.is_empty() {
                self.things.insert(key, things);
            }
        }
        self.always = self.desired.take_over(&self.derivation.always());
        for thing in &self.always {
            old.remove(thing);
        }
        for thing in &old {
            self.desired.unwant(thing);
        }
        self.desired.clone()
    }

    /// How many intents the last call of [`Wants::follow`] went over.
    #[must_use]
    pub const fn derived(&self) -> usize {
        self.derived
    }

    /// Waits until what the node itself needs has changed.
    pub async fn news(&mut self) {
        self.derivation.news().await;
    }
}
