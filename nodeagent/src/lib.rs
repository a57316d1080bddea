//! The node agent: drivers and host seams.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

pub mod agent;
pub mod drivers;
pub mod host;
pub mod layout;
pub mod metrics;
pub mod render;
pub mod view;
