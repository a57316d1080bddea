//! The model test: a publisher and its subscribers against a plain map, under everything that can go wrong.
//!
//! [`run`] drives any [`ModelStore`] through random steps from a seed: commits, moves, names created anew, compaction, an older
//! copy of the store put back, connections cut at any byte, crashes before and after the disk has it, full disks, poisoned
//! items, revisions lost or doubled on the way, a change of controller, rollouts that come and are taken back. After every step what each subscriber has in effect must
//! be what the reference had at the subscriber's position, except for what it says it holds back. At the end everything must
//! settle. The store's own test runs it over SQL; it is only built for tests (feature `model`).

mod driver;
mod parts;
mod store;

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Cause, Key};

pub use driver::{Failure, Summary, run};
pub use store::{Flaws, MemoryStore};

use crate::{FeedSource, SourceError};

/// One change of one audience's intents.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose.
    pub audience: Audience,
    /// What.
    pub key: Key,
    /// The encoded intent, sound or not; `None` withdraws it.
    pub value: Option<Bytes>,
    /// Why.
    pub cause: Cause,
    /// The rollout that it is part of; 0: none.
    pub rollout: u64,
}

/// A store that the model can drive.
#[async_trait]
pub trait ModelStore: FeedSource {
    /// A copy of everything.
    type Backup: Send + Sync;

    /// Writes `changes`, at most one per audience and key, as one revision.
    async fn commit(&self, changes: &[Change]) -> Result<(), SourceError>;

    /// Forgets the log of `audience` up to and including `revision`, which is at most its newest.
    async fn compact(&self, audience: &Audience, revision: u64) -> Result<(), SourceError>;

    /// Copies everything, the epoch included.
    async fn backup(&self) -> Result<Self::Backup, SourceError>;

    /// Puts a copy back as it was, as one does by copying files: the store does not know that it happened.
    async fn restore(&self, backup: &Self::Backup) -> Result<(), SourceError>;
}

#[cfg(test)]
mod tests;
