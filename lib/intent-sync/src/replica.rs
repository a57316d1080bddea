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
    /// More of the ledger's view follows: what this batch lacks is not gone. Only at a start, and only to a replica that takes
    /// [`Replica::PIECES`].
    pub more: bool,
}

/// A role's own state, fed by a subscriber. Called from one thread at a time, never from a request's.
pub trait Replica: Send + 'static {
    /// What the role applies.
    type Intent: RoleIntent;

    /// In pieces of how many items the ledger's view may come at a start, so that a large one is never in memory twice; `None`: as a whole.
    /// A role that takes pieces says that it knows its view when the last one came, not before.
    const PIECES: Option<usize> = None;

    /// Checks what [`RoleIntent::parse`] cannot know (e.g. record data). Must have no effect.
    ///
    /// # Errors
    /// Why the item cannot be applied; the last good one stays in effect, its neighbours go on.
    fn check(&self, key: &Key, intent: &Self::Intent) -> Result<(), Rejection>;

    /// Puts a batch into effect before it returns; every item passed [`Replica::check`]. It must not fail.
    ///
    /// The first batch after a start is the ledger's whole view, or with [`Replica::PIECES`] the first batches up to one without
    /// [`Batch::more`].
    fn publish(&mut self, batch: Batch<Self::Intent>);
}
