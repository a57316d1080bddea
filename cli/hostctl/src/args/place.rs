//! Where tenants live, what is emptied, and what would fail without it.

use clap::{Args, Subcommand};

use super::{OneArgs, WaitArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum PlaceCommand {
    /// Empty a node or a shard: it gets no requests once others serve, and takes no more tenants
    Drain(DrainArgs),
    /// Take back that a node or a shard is emptied
    Undrain(UndrainArgs),
    /// Show what would fail without some nodes
    Plan(PlanArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl drain node web-7
  hostctl drain shard web-1
  hostctl drain node web-7 --status        how far it is

Refused where it would take the last one of a shard, of a cluster's edges, of a group of name servers, or the last shard for new
tenants.")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// Even where nothing is left that could take its place
    #[arg(long)]
    pub force: bool,
    /// Only show how far it is
    #[arg(long, conflicts_with = "force")]
    pub status: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl undrain node web-7")]
pub(crate) struct UndrainArgs {
    #[command(flatten)]
    pub one: OneArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl plan --without node-7,edge-2
  hostctl plan --without node-7 --limit 1000 --json")]
pub(crate) struct PlanArgs {
    /// Ids or host names of nodes, with commas between
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    pub without: Vec<String>,
    /// At most so many names
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}
