//! What is waited for, and what is asked of one resource.

use std::time::Duration;

use clap::Args;

use super::{OneArgs, duration};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl wait fqdn www.example.com --timeout 10m")]
pub(crate) struct WaitForArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// Longest wait, e.g. 90s or 10m
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Until {
    /// Every machine in service has it in effect
    Ready,
    /// Every machine in service answers with it
    Served,
}

impl Until {
    /// As the API spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Served => "served",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl receipt fqdn www.example.com
  hostctl receipt zone-record bakery.test/www/A --json

Exit code 0: every machine in service serves it.")]
pub(crate) struct ReceiptArgs {
    #[command(flatten)]
    pub one: OneArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Return only when the fleet has it; with `served`: when each machine's own listeners answer with it
    #[arg(long, value_name = "UNTIL", num_args = 0..=1, require_equals = true, default_missing_value = "ready")]
    pub wait: Option<Until>,
    /// Longest wait, e.g. 90s or 10m
    #[arg(long, alias = "wait-timeout", default_value = "30s", value_parser = duration, requires = "wait")]
    pub timeout: Duration,
    /// Show what it would do, and do nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// The number that the plan of a large change tells; refused when the change is another one by then
    #[arg(long, value_name = "NUMBER", conflicts_with = "dry_run")]
    pub confirm: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl verify fqdn www.example.com
  hostctl verify zone example.com --json")]
pub(crate) struct VerifyNameArgs {
    #[command(flatten)]
    pub one: OneArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl traffic acme-1001
  hostctl traffic acme-1001 --by day --from 2026-11-01
  hostctl traffic acme-1001 --json")]
pub(crate) struct TrafficArgs {
    /// Customer id, or the tenant's id
    #[arg(value_name = "TENANT")]
    pub tenant: String,
    /// Hours (a month at most), or days of UTC (400 at most)
    #[arg(long, value_name = "STEP", value_parser = ["hour", "day"], default_value = "hour")]
    pub by: String,
    /// From the hour or day of this time on, or of a date (UTC); a day before --until when absent
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// What begins before this time; now when absent
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl usage tenant acme-1001
  hostctl usage brand acme --json")]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    pub one: OneArgs,
}
