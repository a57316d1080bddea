//! `hostctl`, the operators' command.
//!
//! Owns what a person types and reads; everything it knows it asks the API for. It never reads the store.

mod address;
mod api;
mod args;
mod audit;
mod ca;
mod certificates;
mod cluster;
mod complete;
mod declare;
mod doctor;
mod environment;
mod explain;
mod failure;
mod fleet;
mod folder;
mod format;
mod jobs;
mod kek;
mod kinds;
mod logs;
mod output;
mod past;
mod place;
mod probe;
mod progress;
mod resources;
mod rollouts;
mod run;
mod seed;
mod store;
mod stream;
mod summary;
mod up;
mod watch;
mod webhooks;
mod yaml;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    let typed: Vec<OsString> = args::with_two_dashes(std::env::args_os()).collect();
    if typed.get(1).is_some_and(|word| word == complete::WORD) {
        return complete::answer();
    }
    output::finish(match Cli::try_parse_from(&typed) {
        Ok(cli) => start(cli),
        Err(error) => failure::not_understood(args::asks_for_json(&typed), &error),
    })
}

fn start(cli: Cli) -> ExitCode {
    let json = cli.has_json_errors();
    // One provider for every TLS connection; a second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::fail(json, &anyhow::anyhow!("cannot start: {error}")),
    };
    match runtime.block_on(run::run(cli)) {
        Ok(code) => code,
        Err(error) => failure::fail(json, &error),
    }
}
