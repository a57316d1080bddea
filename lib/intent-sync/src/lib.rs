//! The feed protocol, both ends: pure cores ([`publisher`], [`subscriber`]) that the model test drives, and the
//! subscriber's shell ([`client`], [`identity`]); how secrets get from the one to the other ([`sealing`]); and whether what was applied is
//! served ([`self_check`]).
//!
//! The controller's shell is in `controller/feed`. Nothing here knows what an intent means beyond
//! [`hosting_intent::Intent::parse`].

pub mod client;
mod convert;
mod dial;
pub mod identity;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod publisher;
mod replica;
pub mod sealing;
pub mod self_check;
mod source;
pub mod subscriber;
pub mod tls;

pub use convert::{
    go_away, item_from_wire, item_to_wire, release, removal_from_wire, removal_to_wire, rollouts,
};
pub use replica::{Batch, Replica};
pub use source::{AudienceHead, FeedSource, LogEntry, SourceError, Window};
