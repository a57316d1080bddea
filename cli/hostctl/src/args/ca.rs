//! What can be asked about the certificate authorities of the cell.

use clap::{Args, Subcommand};

/// The steps by which one authority follows another.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show the authorities that machines trust, which one issues, and who has not heard of them yet
    #[command(after_help = "Example:
  hostctl ca show")]
    Show,
    /// First step: make a new authority. Every machine is told to trust it; it does not issue yet
    #[command(after_help = "Example:
  hostctl ca add")]
    Add,
    /// Second step: let it issue. Machines get certificates of it as they renew theirs
    Promote(AuthorityArgs),
    /// Last step: trust an authority no longer
    Retire(RetireArgs),
}

/// An authority.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl ca promote 3f2a...

Refused while a machine in service has not been told of it.")]
pub(crate) struct AuthorityArgs {
    /// Its SHA-256 in hex, or the beginning of it
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprint: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl ca retire 91bc...
  hostctl ca retire 91bc... --force         its key may have been seen

Refused until every certificate of it has ended; with --force, machines that have one have to join again.")]
pub(crate) struct RetireArgs {
    /// Its SHA-256 in hex, or the beginning of it
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprint: String,
    /// At once, though machines may have certificates of it
    #[arg(long)]
    pub force: bool,
}
