//! Durable jobs and timers: what is to be done outside the store, in small steps with their undoing.
//!
//! A job is a row, enqueued in the transaction of the change that asks for it. Owns what happens to a job; the store keeps the rows. It
//! never decides what a change means, and does nothing that a row does not ask for. Called by the API (enqueueing, cancelling, views) and
//! by the controller's wiring, which runs a [`Runner`]; several controllers may run one each on one store.
//!
//! | room | what is in it |
//! |---|---|
//! | `machine` | what happens to a job, pure: claims, records, retries, undoing, fences |
//! | `pace` | how fast jobs of a kind may begin |
//! | `kind`, `kinds/` | what a kind says of itself; one file for each, and the table of them |
//! | `runner`, `work` | what is due; one job under its lease |
//! | `settle` | resources that jobs wait for |
//! | `orders` | cancelling and trying again, for the API |
//! | `bell`, `metrics` | waking; counting |
//! | `outgoing` | posting to receivers outside: where to, signed how |
//! | `webhooks/` | events to webhooks, in order, from a place that is stored |
#![warn(clippy::wildcard_enum_match_arm)]

mod bell;
mod clock;
mod config;
mod kind;
pub mod kinds;
pub mod machine;
mod metrics;
mod orders;
mod outgoing;
pub mod pace;
mod recurring;
mod retention;
mod runner;
mod settle;
pub mod webhooks;
mod work;

pub use bell::Bell;
pub use config::RunnerConfig;
pub use kind::{AnyKind, Asked, At, Failure, JobKind, KindFacts, Limits, Went};
pub use metrics::JobMetrics;
pub use orders::{OrderError, cancel, retry};
pub use runner::Runner;
pub use settle::settle;
