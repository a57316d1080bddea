//! Reconcile engine, driver trait and its laws.
//!
//! Owns what a pass does and in which order, how failures wait, and what is reported of each intent. It has no sockets, no
//! clock and no randomness: the machine is behind [`Host`], time is an argument. It must never decide to destroy data:
//! absence detaches, only a driver whose spec says so (a retire) destroys. Called by the node agent's loop.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod desired;
mod driver;
mod engine;
pub mod fake;
mod host;
mod keys;
pub mod laws;
mod order;
mod report;
mod schedule;

pub use desired::{Desired, Wanted};
pub use driver::{Claim, Driver, Key, Plan, Rest};
pub use engine::{Engine, PassSummary, Scope};
pub use host::{
    Access, Answer, ConfigLayout, DataId, DataKind, Entry, EntryKind, Host, HostError, Owner, Place, Probe,
    Root, Secret, ServiceSpec, ServiceState,
};
pub use report::{Phase, Report};

#[doc(hidden)]
pub use futures::executor::block_on;
