//! The runner over real stores: crashes, second runners, lanes, timers, limits.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod callbacks;
mod crashes;
mod harness;
mod limits;
mod retention;
mod running;
mod timers;
