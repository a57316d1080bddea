//! The authoritative DNS server: sockets, limits, counters and the wiring around [`hosting_dns_zone`].
//!
//! Owns how queries come in and answers go out, and what a start and an end look like: ledger → publish → serve →
//! connect. It never answers before it knows anything: until the first view, from disk or from the controller, no socket is
//! bound and `/readyz` says 503. Called by `main.rs` only.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

pub mod limit;
pub mod metrics;
pub mod replica;
pub mod run;
pub mod self_check;
pub mod server;
pub mod settings;
pub mod tcp;
pub mod udp;
