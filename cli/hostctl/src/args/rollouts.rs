//! What can be asked about changes that go out in steps.

use clap::{Args, Subcommand};

/// What can be asked about changes that go out in steps.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutsCommand {
    /// List them, the newest first
    #[command(after_help = "Examples:
  hostctl rollouts list
  hostctl rollouts list --limit 5 --json")]
    List {
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show one: what was changed, to whom it has come, and why it was stopped
    #[command(after_help = "Example:
  hostctl rollouts show 1042")]
    Show(RolloutArgs),
    /// Leave one where it is; it stays watched
    #[command(after_help = "Example:
  hostctl rollouts pause 1042")]
    Pause(RolloutArgs),
    /// Let a paused one go on
    #[command(after_help = "Example:
  hostctl rollouts resume 1042")]
    Resume(RolloutArgs),
    /// Take its change back, for everybody at once
    #[command(after_help = "Example:
  hostctl rollouts abort 1042")]
    Abort(RolloutArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RolloutArgs {
    /// The rollout's id: the revision at which it began
    #[arg(value_name = "ROLLOUT")]
    pub id: String,
}
