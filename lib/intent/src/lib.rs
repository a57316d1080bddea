//! What machines apply: typed intents, their keys and causes, the digest over them, and whose they are: audiences and roles.
//!
//! Owns the one place where an encoded intent is checked ([`Intent::parse`]): the planner calls it before it stores, every
//! subscriber calls it before it applies, so that nothing unsound gets past either. It never sees a resource
//! (`hosting-resource`) and does no I/O.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod audience;
pub mod basic_auth;
pub mod cache;
pub mod challenge;
pub mod countries;
pub mod crawlers;
mod digest;
pub mod edge_key;
pub mod env;
pub mod folder;
pub mod http_policy;
mod kinds;
pub mod limits;
pub mod name;
pub mod pages;
mod parse;
pub mod php;
mod role;
mod role_intent;

use std::fmt;

pub use audience::{Audience, AudienceError, AudienceId};
pub use bytes::Bytes;
pub use digest::{Digest, item_digest};
pub use hosting_proto::intent as message;
pub use hosting_proto::intent::Kind;
pub use kinds::{Intent, KNOWN_KINDS, Retired, SEALED_KINDS, SEEN_KINDS, SHARED_KINDS, roles_of};
pub use parse::{MAX_VALUE_BYTES, Rejection, audience_key_name, audience_key_of, rr_set_key};
pub use role::{
    DEFAULT_DNS_GROUP, EdgeKeyGrant, NodeFacts, Progress, Role, RoleRules, audiences, group_or_default,
    service_audience,
};
pub use role_intent::{DnsIntent, DnsKind, EdgeIntent, EdgeKind, NodeIntent, NodeKind, RoleIntent};

/// The path that every node answers, whatever the host, and keeps out of its logs: edges ask for it to see that the node is there.
pub const ALIVE_PATH: &str = "/.well-known/hosting-alive";

/// A kind's name as operators see it: `route`, `rr_set`; `kind 4711` for one that this build does not know.
#[must_use]
pub fn kind_name(kind: u32) -> String {
    i32::try_from(kind).ok().and_then(|number| Kind::try_from(number).ok()).map_or_else(
        || format!("kind {kind}"),
        |known| known.as_str_name().trim_start_matches("KIND_").to_ascii_lowercase(),
    )
}

/// Names one item of an audience. The kind is a bare number so that kinds from a newer controller can be kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// A [`Kind`] number, or one that this build does not know.
    pub kind: u32,
    /// What the kind is keyed by; see `proto/intent.proto`.
    pub name: String,
}

impl Key {
    /// The key of a kind that this build knows.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind: kind as i32 as u32, name: name.into() }
    }

    /// The kind, if this build knows it.
    #[must_use]
    pub fn known_kind(&self) -> Option<Kind> {
        i32::try_from(self.kind)
            .ok()
            .and_then(|number| Kind::try_from(number).ok())
            .filter(|kind| *kind != Kind::Unspecified)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", kind_name(self.kind), self.name)
    }
}

/// Why something changed. The brake lets removals with a person behind them pass and counts the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Cause {
    /// The platform's own planning.
    #[default]
    Planner,
    /// Somebody asked for exactly this.
    Person,
    /// A store was put back.
    Restore,
}

impl From<Cause> for hosting_proto::feed::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Planner => Self::Planner,
            Cause::Person => Self::Person,
            Cause::Restore => Self::Restore,
        }
    }
}

impl From<hosting_proto::feed::Cause> for Cause {
    fn from(cause: hosting_proto::feed::Cause) -> Self {
        match cause {
            hosting_proto::feed::Cause::Planner => Self::Planner,
            hosting_proto::feed::Cause::Person => Self::Person,
            hosting_proto::feed::Cause::Restore => Self::Restore,
        }
    }
}

/// One intent as it is stored, sent and kept: bytes that only [`Intent::parse`] gives a meaning to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it speaks of.
    pub key: Key,
    /// The revision at which it last changed.
    pub revision: u64,
    /// The encoded message, exactly as stored: the digest is over these bytes.
    pub value: Bytes,
    /// Why it changed last.
    pub cause: Cause,
    /// W3C traceparent of the request behind it; empty when there was none.
    pub traceparent: String,
    /// The revision at which the rollout began that the change is part of; 0: none.
    pub rollout: u64,
}

/// An item that is no longer wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// What is gone.
    pub key: Key,
    /// Why.
    pub cause: Cause,
    /// W3C traceparent of the request behind it; empty when there was none.
    pub traceparent: String,
    /// The revision at which the rollout began that the change is part of; 0: none.
    pub rollout: u64,
}
