//! What can be done about many certificates of public authorities.

use clap::{Args, Subcommand};

/// What can be done about many certificates of public authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum CertificatesCommand {
    /// Say when certificates of an authority would be replaced, and replace them: by others of its own, or of another authority
    #[command(
        after_help = "Without --yes you are asked after the forecast; --dry-run ends there. The exit code is 3 when not all are replaced in time.

Examples:
  hostctl certificates drill letsencrypt --to zerossl --dry-run
  hostctl certificates drill letsencrypt --to zerossl --names 200
  hostctl certificates drill letsencrypt --yes --timeout 86400"
    )]
    Drill(DrillArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Id or name of the authority whose certificates are to be replaced
    #[arg(value_name = "AUTHORITY")]
    pub id: String,
    /// Id or name of the authority that is asked; absent: whoever is next, by priority
    #[arg(long, value_name = "AUTHORITY")]
    pub to: Option<String>,
    /// So many names at most; absent: as many as may be, 100000
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub names: Option<u64>,
    /// Say when it would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Wait for so many seconds; it goes on without you
    #[arg(long, default_value_t = 3_600)]
    pub timeout: u64,
}
