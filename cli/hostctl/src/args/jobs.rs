//! What can be asked about jobs.

use clap::{Args, Subcommand};

/// What can be asked about jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, the newest first
    List(ListArgs),
    /// Show one with its steps, attempts and errors
    #[command(after_help = "Example:
  hostctl jobs get job_0a1b2c3d4e5f60718293a4b5c6d7e8f9")]
    Get(JobArgs),
    /// Cancel one; what it did is undone, if its kind can
    #[command(after_help = "Example:
  hostctl jobs cancel job_0a1b2c3d4e5f60718293a4b5c6d7e8f9")]
    Cancel(JobArgs),
    /// Try one again that failed, or that waits for its next attempt
    #[command(after_help = "Example:
  hostctl jobs retry job_0a1b2c3d4e5f60718293a4b5c6d7e8f9")]
    Retry(JobArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl jobs list --state failed
  hostctl jobs list --kind callback --subject t_ab12cd34ef
  hostctl jobs list --limit 20 --json")]
pub(crate) struct ListArgs {
    /// Only of this kind, e.g. callback
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only in this state: waiting, running, retrying, undoing, done, failed, cancelled or undone
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only about this, e.g. the id of a resource
    #[arg(long, value_name = "ID")]
    pub subject: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job's id
    #[arg(value_name = "JOB")]
    pub id: String,
}
