//! The router with a real store and planner, and a fleet that does what each test says.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod authorities;
mod authorization;
mod browsers;
mod bulk;
mod changes;
mod clients;
mod crud;
mod defects;
mod desired_state;
mod env_vars;
mod events;
mod exhaustion;
mod foreign;
mod grpc;
mod grpc_bounds;
mod grpc_guide;
mod harness;
mod history;
mod http;
mod idempotency;
mod incidents;
mod jobs;
mod keys;
mod lists;
#[path = "../../../jobs/tests/loopback_dns/mod.rs"]
mod loopback_dns;
mod names;
mod operators;
mod ownership;
mod passwords;
mod patch;
mod placement;
mod plans;
mod problems;
mod protocol;
mod queries;
mod quotas;
mod rate_limits;
mod receipts;
mod records;
mod requests;
mod roles;
mod streams;
mod undelete;
mod undo;
mod webhooks;

/// A platform with a fleet; the other binaries have it on PostgreSQL.
async fn platform() -> (harness::TestApi, ()) {
    (harness::TestApi::with_fleet().await, ())
}
