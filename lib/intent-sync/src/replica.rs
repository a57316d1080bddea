//! What a role makes of its audience.

use hosting_intent::{Item, Key, Rejection, Removal, RoleIntent};

/// Changes to put into effect together. Whole revisions only.
#[derive(Debug, Clone)]
pub struct Batch<I> {
    /// The position after this batch.
    pub epoch: String,
    /// The position after this batch.
    pub revision: u64,
    /// Accepted items, parsed, with the item they came from (its revision, cause and traceparent).
    pub upserts: Vec<(Item, I)>,
    /// Items that are gone. Absence never destroys data: only [`hosting_intent::Intent::Retire`] does.
    pub removals: Vec<Removal>,
}

/// A role's own state, fed by a subscriber. Called from one thread at a time, never from a request's.
pub trait Replica: Send + 'static {
    /// What the role applies.
    type Intent: RoleIntent;

    /// Checks what [`RoleIntent::parse`] cannot know (e.g. record data). Must have no effect.
    ///
    /// # Errors
    /// Why the item cannot be applied; the last good one stays in effect, its neighbours go on.
    fn check(&self, key: &Key, intent: &Self::Intent) -> Result<(), Rejection>;

    /// Puts a batch into effect before it returns; every item passed [`Replica::check`]. It must not fail.
    ///
    /// The first batch after a start is the ledger's whole view.
    fn publish(&mut self, batch: Batch<Self::Intent>);
}
