//! What the look over the platform takes.

use std::time::Duration;

use clap::Args;

use super::duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl doctor
  hostctl doctor --json | jq '.checks[] | select(.state != \"ok\")'
  hostctl doctor --timeout 20s               where the API is slow

It asks the API alone and changes nothing. Each check reads a bounded part of lists, which is named beside it; `+` says that there is more.
What the key may not see is skipped, and said so.

Exit code 0: nothing is worse than a warning. 1: a check failed. 5: the key does not open. 7: the API cannot be reached.")]
pub(crate) struct DoctorArgs {
    /// Longest that each check may take, e.g. 5s
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}
