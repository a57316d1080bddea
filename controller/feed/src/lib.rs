//! Serves the IntentFeed: sessions, identity, enrolment.
//!
//! The controller's end of `proto/feed.proto`. It owns the cell's certificate authorities, the listener, every session and
//! the fleet's leases. It never plans, never writes an intent and knows no SQL: it reads through
//! [`hosting_intent_sync::FeedSource`] and asks the rest through the traits in [`registry`], which the controller's binary
//! joins to the store. Gates and the API read the [`fleet::Fleet`].
#![warn(clippy::wildcard_enum_match_arm)]

mod accept;
mod enrol;
pub mod fleet;
pub mod metrics;
pub mod pki;
pub mod registry;
mod requests;
mod ring;
mod seats;
mod server;
mod service;
mod session;
mod shared;
mod throttle;
mod traffic;
mod trust;
mod watches;
mod witness;
mod words;

pub use ring::RingLimits;
pub use server::{FeedConfig, FeedDeps, FeedError, FeedHandle, FeedServer, MintError};
pub use trust::TrustError;
pub use watches::{MOST_REQUEST_WATCHES, RequestNews, WatchedRequests};
