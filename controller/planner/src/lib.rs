//! Pure planning: what a request, an opened gate or a changed fleet means for resources and intents.
//!
//! The only crate that knows resources and intents both. No SQL, no sockets, no clock: it reads through [`World`], and
//! time, ids and the revision are arguments. The API calls it inside the store's write transaction.
#![warn(clippy::wildcard_enum_match_arm)]

mod world;

pub use world::{ApplyError, Change, Draft, IntentChange, IntentRow, Unit, Walk, World, WorldError};
