//! The whole platform, with its production binaries and real daemons, through `hostctl up`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what failed by panicking")]

mod acme;
mod alone;
mod api_tools;
mod cache;
mod callbacks;
mod certificates;
mod changes;
mod chaos;
mod compat;
mod controllers;
mod declare;
mod failures;
mod first_light;
mod guides;
mod harness;
mod hostile;
mod https_records;
mod logs;
mod operator;
mod policies;
mod rollouts;
mod tls;
mod traces;
mod traffic;
