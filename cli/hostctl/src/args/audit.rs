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
    /// Follow the chain over the rows: exit code 1 when a row was changed, taken out or put in between
    #[command(after_help = "Examples:
  hostctl audit verify
  hostctl audit verify --file audit.jsonl
  hostctl audit verify --contains 3f1c...   # the link that was noted at an earlier look

Note the last link outside of this platform now and then: who can write to its database can make a whole new chain, but not one that
contains that link.")]
    Verify(VerifyArgs),
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
}
