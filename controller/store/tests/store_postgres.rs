//! The same battery as `store`, over a real PostgreSQL server. What is about files of SQLite is left out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

#[path = "store/audit_heads.rs"]
mod audit_heads;
#[path = "store/commits.rs"]
mod commits;
mod databases;
#[path = "store/events.rs"]
mod events;
#[path = "store/feed.rs"]
mod feed;
#[path = "store/groups.rs"]
mod groups;
#[path = "store/harness.rs"]
mod harness;
#[path = "store/history.rs"]
mod history;
#[path = "store/intents.rs"]
mod intents;
#[path = "store/keys.rs"]
mod keys;
#[path = "store/paging.rs"]
mod paging;
#[path = "store/resources.rs"]
mod resources;
#[path = "store/rollouts.rs"]
mod rollouts;
#[path = "store/status.rs"]
mod status;
#[path = "store/traffic.rs"]
mod traffic;
#[path = "store/trust.rs"]
mod trust;

const BACKEND: databases::Backend = databases::Backend::Postgres;
