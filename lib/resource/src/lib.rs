//! What users write: the resource kinds, their specs, defaults, validation and rendering.
//!
//! Owns the meaning of every document in the store. It never sees an intent (`hosting-intent`) and does no I/O; the clock
//! and randomness are arguments. Called by the planner, the store (for index rows) and the API (for schemas).
//!
//! # What the controller keeps in `Resource::state`
//! The kind's [`Document::State`], and beside it [`Progress`], which all kinds share.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod audit_chain;
pub mod audit_head;
pub mod basic_auth;
pub mod brand_pages;
pub mod challenge;
mod check;
mod countries;
pub mod crawlers;
mod definition;
pub mod difference;
pub mod document;
mod envelope;
mod error;
mod event;
mod faults;
mod filter;
pub mod http_policy;
mod ids;
mod info;
mod input;
pub mod issuance;
mod kept;
pub mod kinds;
pub mod limits;
pub mod ownership;
mod pem_text;
mod placement;
pub mod purge;
mod record_data;
pub mod roles;
mod rotation;
pub mod search;
mod secret;
mod spec_map;
mod time;
mod upcast;
mod warning;

pub use definition::{Creation, Grants, KindDef, NewResource, Update};
pub use document::{Cascade, Doc, Document, Id, NoState, Progress, Standing};
pub use envelope::{Facet, Index, Ref, Resource, Status, Unique};
pub use error::{ShapeError, SpecError};
pub use event::EventView;
pub use filter::{Filter, FilterBy};
pub use ids::{Entropy, IdPolicy, in_brand, prefixed, public_id, uuid};
pub use info::{Codes, Column, KindInfo, ListBy, OwnerRef, Owns, Parent, Tier};
pub use kept::{DELETED_WITH, Kept, RESTORABLE_UNTIL, in_order};
pub use kinds::Kind;
pub use kinds::api_key::{key_from, scope_holds};
pub use placement::{Candidate, Draining, DrainingView, Placement};
pub use record_data::RecordData;
pub use rotation::Rotate;
pub use secret::{PlainSecrets, PlainText, SealedText, Secret, SecretPlace, pointer};
pub use time::timestamp;
pub use warning::Warning;
