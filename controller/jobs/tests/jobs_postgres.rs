//! The same as `jobs`, over a real PostgreSQL server, where another runner is another controller's. What does not depend on the
//! database is left out.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests; some are for the rest of them"
)]

#[path = "jobs/crashes.rs"]
mod crashes;
#[path = "../../store/tests/databases/mod.rs"]
mod databases;
#[path = "jobs/harness.rs"]
mod harness;
#[path = "jobs/kept.rs"]
mod kept;
#[path = "jobs/limits.rs"]
mod limits;
#[path = "jobs/running.rs"]
mod running;
#[path = "jobs/timers.rs"]
mod timers;
#[path = "jobs/webhooks.rs"]
mod webhooks;

const BACKEND: databases::Backend = databases::Backend::Postgres;
