//! What is kept of a key.

use hosting_intent::{Bytes, Cause, Digest, Item, Key};

/// Where a view stands and what it must add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Of the position.
    pub epoch: String,
    /// The audience's revision that the view has.
    pub revision: u64,
    /// Items that the feed wants ([`Record::wanted`]).
    pub count: u64,
    /// Over the same items.
    pub digest: Digest,
}

/// An item without its key and trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// At which it last changed.
    pub revision: u64,
    /// The encoded intent.
    pub value: Bytes,
    /// Why it changed last.
    pub cause: Cause,
}

impl Stored {
    /// The item it stands for. Its trace is over.
    #[must_use]
    pub fn into_item(self, key: Key) -> Item {
        let Self { revision, value, cause } = self;
        Item { key, revision, value, cause, traceparent: String::new(), rollout: 0 }
    }
}

/// What keeps the newest word on a key from taking effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Not valid.
    Rejected,
    /// The brake waits for an operator.
    Held,
    /// Of a kind that this build does not apply.
    Unsupported,
    /// It is part of the rollout that began at this revision, which has not come here.
    Waiting(u64),
}

/// A key whose newest word is not in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// What keeps it from taking effect.
    pub why: Why,
    /// The same for an operator.
    pub reason: String,
    /// The revision of the newest word.
    pub revision: u64,
    /// The newest word; `None`: the key was withdrawn, and that is held.
    pub wanted: Option<Stored>,
    /// What is in effect instead: the last good item, if there ever was one.
    pub good: Option<Stored>,
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// In effect.
    Accepted(Stored),
    /// Not in effect.
    Quarantined(Box<Quarantined>),
}

impl Record {
    /// What the feed said last; this is what the digest is over.
    #[must_use]
    pub fn wanted(&self) -> Option<&Stored> {
        match self {
            Self::Accepted(stored) => Some(stored),
            Self::Quarantined(quarantined) => quarantined.wanted.as_ref(),
        }
    }

    /// What is in effect.
    #[must_use]
    pub fn effective(&self) -> Option<&Stored> {
        match self {
            Self::Accepted(stored) => Some(stored),
            Self::Quarantined(quarantined) => quarantined.good.as_ref(),
        }
    }

    /// The quarantine, if it is in it.
    #[must_use]
    pub fn quarantined(&self) -> Option<&Quarantined> {
        match self {
            Self::Accepted(_) => None,
            Self::Quarantined(quarantined) => Some(quarantined),
        }
    }
}
