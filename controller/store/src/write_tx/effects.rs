//! What a mutation changes, told before it is kept or taken back.

use hosting_intent::{Audience, Key};
use hosting_planner::{IntentRow, Unit};
use hosting_resource::Resource;

use super::WriteTx;

/// A resource before and after a mutation; `None` for what is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceEffect {
    /// As it was.
    pub before: Option<Resource>,
    /// As it is now.
    pub after: Option<Resource>,
}

/// What subscribers of an audience are told about a key.
#[derive(Debug, Clone, PartialEq)]
pub struct IntentEffect {
    /// Whom.
    pub audience: Audience,
    /// About what.
    pub key: Key,
    /// The row as it was; `None` when there was none.
    pub before: Option<IntentRow>,
    /// The row as it is now; `None` when it is withdrawn.
    pub after: Option<IntentRow>,
}

/// Everything that a mutation changed so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// Resources.
    pub resources: Vec<ResourceEffect>,
    /// Intents. A row that only got another owner is none: nobody is told of it.
    pub intents: Vec<IntentEffect>,
    /// Units that are planned in mutations of their own afterwards; each may change as much again.
    pub queued: Vec<Unit>,
}

impl WriteTx {
    /// What the mutation changed so far: of resources and intents the difference to what stood before it, not each step.
    #[must_use]
    pub fn effects(&self) -> Effects {
        let layer = &self.pending.layer;
        let resources = layer
            .changed_resources()
            .filter(|(before, after)| before != after)
            .map(|(before, after)| ResourceEffect { before: before.cloned(), after: after.cloned() })
            .collect();
        let intents = layer
            .newly_changed_rows()
            .filter(|(_, _, before, after)| before.map(|row| &row.value) != after.map(|row| &row.value))
            .map(|(audience, key, before, after)| IntentEffect {
                audience: audience.clone(),
                key: key.clone(),
                before: before.cloned(),
                after: after.cloned(),
            })
            .collect();
        Effects { resources, intents, queued: self.mutation.replan.added().to_vec() }
    }
}
