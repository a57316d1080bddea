//! What can be asked of the audit log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What can be asked of the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Write all rows as JSON lines, the oldest first
    #[command(after_help = "Examples:
  hostctl audit export > audit.jsonl
  hostctl audit export --from 2026-11-01 >> audit.jsonl")]
    Export(ExportArgs),
    /// Follow the chain over the rows and its signed heads: exit code 1 when a row was changed, taken out or put in between
    #[command(after_help = "Examples:
  hostctl audit verify
  hostctl audit verify --file audit.jsonl
  hostctl audit verify --contains 3f1c...   # the link that was noted at an earlier look
  hostctl audit verify --key 91bc... --heads controller.log   # the public key, and heads that were noted outside

Keep an export, the controller's log or a link outside of this platform: who can write to its database can make a whole new chain, but
not one that fits a head or contains a link that was noted before.")]
    Verify(VerifyArgs),
    /// Put a new key in the place of the one that signs heads; the former one signs that
    #[command(after_help = "Example:
  hostctl audit replace-key")]
    ReplaceKey,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Not before, a date or a time as in RFC 3339
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Before, a date or a time as in RFC 3339
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An export, in place of what the API shows
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A link of 64 digits that must be among them
    #[arg(long, value_name = "LINK")]
    pub contains: Option<String>,
    /// A public key of 64 digits that heads must be signed by, or by one that it gave way to
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Heads that were noted outside: an export, or the controller's log
    #[arg(long, value_name = "FILE")]
    pub heads: Option<PathBuf>,
}
