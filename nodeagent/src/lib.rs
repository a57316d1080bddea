//! The node agent: brings a node to what the controller wants of it.
//!
//! Owns the roles with their drivers, the host seam with its process supervisor, and the wiring from feed to pass to report. It must never
//! destroy customers' data that a retire of the matching incarnation does not name, and never signal a process that is not
//! its own. `main.rs` calls [`run::run`].
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

pub mod agent;
pub mod drivers;
pub mod host;
pub mod metrics;
pub mod replica;
pub mod role;
pub mod roots;
pub mod run;
pub mod settings;
pub mod text;
pub mod view;
pub mod wants;
pub mod web;
