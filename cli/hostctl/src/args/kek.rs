//! What can be asked about the keys that seal everything else.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

/// What is to become of the key-encryption keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KekCommand {
    /// Show which key seals, which former ones are kept, and whether anything still needs these
    #[command(after_help = "Example:
  hostctl kek show")]
    Show,
    /// Make a new key; everything is sealed anew in the background, and nothing stops meanwhile
    Rotate(KekRotateArgs),
    /// Drop the former keys: backups that they sealed open no more
    #[command(after_help = "Example:
  hostctl kek forget

Refused while something is still sealed by a former key.")]
    Forget,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl kek rotate --wait
  hostctl kek rotate --wait --timeout 2h --json

Save the key file again afterwards: it holds the new key and the former ones.")]
pub(crate) struct KekRotateArgs {
    /// Return only when everything is sealed by the new key
    #[arg(long)]
    pub wait: bool,
    /// Longest wait, e.g. 10m or 2h
    #[arg(long, default_value = "10m", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
}
