//! Serves the IntentFeed: sessions, identity, enrolment.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod fleet;
pub mod pki;
pub mod registry;
