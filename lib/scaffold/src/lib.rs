//! What every process has: configuration, telemetry, tasks and drain, the admin port, HTTP servers, private files.
//!
//! Owns how a process starts and ends, never what it does. Called by the binaries and their wiring, and by
//! `hosting-intent-sync` for what it keeps on disk.

pub mod admin;
pub mod client_address;
pub mod config;
mod connection;
mod exposition;
pub mod file;
pub mod http;
pub mod networks;
pub mod notify;
pub mod request_spans;
pub mod role;
pub mod server_tls;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod trace_context;

pub use prometheus_client;

use std::io::Write;
use std::process::ExitCode;

/// What `--version` prints and the feed's Hello carries.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// How `main` ends: an error goes to stderr with its causes, after the program's name.
#[must_use]
pub fn exit(program: &str, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
