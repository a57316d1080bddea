//! The runner over real stores: crashes, second runners, lanes, timers, limits.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod callbacks;
mod crashes;
#[path = "../../../store/tests/databases/mod.rs"]
mod databases;
mod harness;
mod kept;
mod limits;
mod looks;
#[path = "../loopback_dns/mod.rs"]
mod loopback_dns;
mod notices;
mod retention;
mod running;
mod ticket_keys;
mod timers;
mod webhooks;

const BACKEND: databases::Backend = databases::Backend::Sqlite;
