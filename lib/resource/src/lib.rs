//! What users write: the resource kinds, their specs, defaults, validation and rendering.
//!
//! Owns the meaning of every document in the store. It never sees an intent (`hosting-intent`) and does no I/O; the clock
//! and randomness are arguments. Called by the planner, the store (for index rows) and the API (for schemas).
#![warn(clippy::wildcard_enum_match_arm)]

mod envelope;
mod kind;

pub use envelope::{Facet, Index, Ref, Resource, Status, Unique};
pub use kind::Kind;
