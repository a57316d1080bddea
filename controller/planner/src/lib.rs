//! Pure planning: what a request, an opened gate or a changed fleet means for resources and intents.
//!
//! The only crate that knows resources and intents both. No SQL, no sockets, no clock: it reads through [`World`], and
//! time, ids and the revision are arguments. The API and the gatekeeper call it inside the store's write transaction.
//!
//! | room | what is in it |
//! |---|---|
//! | `world` | what planning reads and answers: [`World`], [`Draft`], [`Unit`], [`Change`] |
//! | `derive/` | what each unit wants, one file per unit |
//! | `plan`, `walk` | the diff with what is there, serials, walks over many units |
//! | `node` | a node's roles, and what it subscribes to by them |
//! | `touched` | which units a changed resource touches |
//! | `auto_records` | the automatic records of host names and sites |
//! | `mutate/` | create, update, delete, suspend, retry; gates opened, nodes in and out, the replan queue |
//! | `gates` | where a resource stands |
//! | `lint/` | what is wrong with a zone as a whole |
//! | `trace` | the request that a waiting resource is on its way from |
#![warn(clippy::wildcard_enum_match_arm)]

mod auto_records;
mod derive;
mod desired;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod fields;
pub mod gates;
pub mod lint;
mod mutate;
mod node;
mod plan;
mod read;
#[cfg(test)]
mod tests;
mod touched;
mod trace;
mod walk;
mod world;

pub use derive::derive;
pub use desired::DesiredIntent;
pub use error::PlanError;
pub use fields::{Place, places};
pub use mutate::{
    Deleted, Drained, Forgotten, continue_delete, converge_shard, create, delete, drain, finish_delete,
    forget_node, has_children, open_gates, record_status, replan, retired, retry, retry_failed,
    set_in_service, suspend, unsuspend, update, wants_continuing,
};
pub use node::{node_audiences, node_facts, node_service_audience, roles};
pub use read::subscription;
pub use touched::touched;
pub use trace::trace_of;
pub use world::{ApplyError, Change, Draft, IntentChange, IntentRow, Unit, Walk, World, WorldError};
