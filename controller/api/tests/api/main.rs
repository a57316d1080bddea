//! The router with a real store and planner, and a fleet that does what each test says.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod authorization;
mod changes;
mod clients;
mod crud;
mod env_vars;
mod exhaustion;
mod harness;
mod http;
mod idempotency;
mod incidents;
mod jobs;
mod keys;
#[path = "../../../jobs/tests/loopback_dns/mod.rs"]
mod loopback_dns;
mod names;
mod operators;
mod ownership;
mod patch;
mod plans;
mod protocol;
mod queries;
mod quotas;
mod records;

/// A platform with a fleet; the other binaries have it on PostgreSQL.
async fn platform() -> (harness::TestApi, ()) {
    (harness::TestApi::with_fleet().await, ())
}
