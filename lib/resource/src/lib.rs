//! What users write: the resource kinds, their specs, defaults, validation and rendering.
//!
//! Owns the meaning of every document in the store. It never sees an intent (`hosting-intent`) and does no I/O; the clock
//! and randomness are arguments. Called by the planner, the store (for index rows) and the API (for schemas).
//!
//! # What the planner keeps in `Resource::state`
//! | kind | field | value |
//! |---|---|---|
//! | tenant | `uid` | number, from 5000, never reused |
//! | tenant, webroot, zone | `suspend_reason` | text |
//! | node | `shards` | `[{"shard_id", "shard_role", "shard_index"}]`, index from 1 within the shard |
//! | node | `last_health_at` | milliseconds since the Unix epoch |
//! | api_key | `revoked_at` | milliseconds since the Unix epoch; such a key opens nothing |
//!
//! Gates (`site_ready`, `routed`, `withdrawn`, `serial`, ...) are the planner's own and not rendered.
#![warn(clippy::wildcard_enum_match_arm)]

mod check;
mod definition;
mod envelope;
mod error;
mod filter;
mod ids;
mod info;
mod input;
mod kind;
pub mod kinds;
mod record_data;

pub use definition::{Creation, KindDef, NewResource, Update, Warning, timestamp};
pub use envelope::{Facet, Index, Ref, Resource, Status, Unique};
pub use error::{ShapeError, SpecError};
pub use filter::{Filter, FilterBy};
pub use ids::{Entropy, IdPolicy, in_brand, prefixed, public_id, uuid};
pub use info::{Codes, Column, KindInfo, ListBy, OwnerRef, Parent, Tier};
pub use kind::Kind;
pub use record_data::RecordData;
