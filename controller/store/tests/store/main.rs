//! The store on real files.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod audit_heads;
mod commits;
#[path = "../databases/mod.rs"]
mod databases;
mod events;
mod feed;
mod files;
mod groups;
mod harness;
mod history;
mod intents;
mod keys;
mod paging;
mod resources;
mod rollouts;
mod status;
mod traffic;
mod trust;

const BACKEND: databases::Backend = databases::Backend::Sqlite;
