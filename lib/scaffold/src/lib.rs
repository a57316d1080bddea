//! What every process has: configuration, telemetry, tasks and drain, the admin port, HTTP servers.
//!
//! Owns how a process starts and ends, never what it does. Called by the binaries and their wiring only.

pub mod admin;
pub mod config;
pub mod http;
pub mod tasks;
pub mod telemetry;

pub use prometheus_client;

/// What `--version` prints and the feed's Hello carries.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
