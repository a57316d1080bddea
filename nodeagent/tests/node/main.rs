//! The agent's loop over real nginx and php-fpm on loopback ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod config;
mod data;
mod edges;
mod environment;
mod logs;
mod php;
mod processes;
mod reloads;
mod roles;
mod rules;
mod serving;
mod support;
mod uploads;
