//! The feed protocol, both ends: pure cores ([`publisher`], [`subscriber`]) that the model test drives, and the
//! subscriber's shell ([`client`], [`identity`]).
//!
//! The controller's shell is in `controller/feed`. Nothing here knows what an intent means beyond
//! [`hosting_intent::Intent::parse`].

pub mod client;
pub mod identity;
mod replica;
mod source;
pub mod tls;

pub use replica::{Batch, Replica};
pub use source::{AudienceHead, FeedSource, LogEntry, SourceError, Window};
