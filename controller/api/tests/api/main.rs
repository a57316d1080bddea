//! The router with a real store and planner, and a fleet that does what each test says.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod authorization;
mod browsers;
mod changes;
mod clients;
mod crud;
mod env_vars;
mod events;
mod exhaustion;
mod harness;
mod history;
mod http;
mod idempotency;
mod jobs;
mod keys;
mod lists;
mod names;
mod operators;
mod patch;
mod plans;
mod problems;
mod protocol;
mod queries;
mod rate_limits;
mod receipts;
mod undo;
