//! The feed's view of the node: every intent in effect.

use std::{collections::VecDeque, sync::Arc};

use hosting_intent::{Key, NodeIntent};
use imbl::OrdMap;

/// An intent in effect.
#[derive(Debug, Clone, PartialEq)]
pub struct InEffect {
    /// The revision at which it last changed.
    pub revision: u64,
    /// It.
    pub intent: Arc<NodeIntent>,
}

/// Intents by key. A clone shares what both have.
pub type Items = OrdMap<Key, InEffect>;

/// Everything in effect, at one position of the feed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Of the position.
    pub epoch: String,
    /// Of the position.
    pub revision: u64,
    /// What is in effect.
    pub items: Items,
    /// Batches that led here, since the start of the process.
    pub batches: u64,
    /// W3C traceparents of the newest changes among them, each with the batch that brought it, oldest first. Several views may
    /// come between two passes.
    pub traces: VecDeque<(u64, Arc<str>)>,
}
