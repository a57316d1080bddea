//! What can be asked about the past, and taken back.

use clap::Args;
use hosting_resource::KindInfo;

use crate::kinds::KindParser;

use super::WaitArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl history bakery.test              all that was about the name
  hostctl history web_ab12cd34ef           a site or tenant by its id, also one that is deleted
  hostctl history --kind zone 6f1d9a52-7d0c-4b5e-9a3f-0d6f5a1c2b3d --limit 5")]
pub(crate) struct HistoryArgs {
    /// Host name, or the id of a resource
    #[arg(value_name = "NAME|ID")]
    pub name: String,
    /// Kind of the resource, where the id does not say it
    #[arg(long, value_name = "KIND", value_parser = KindParser)]
    pub kind: Option<&'static KindInfo>,
    /// At most so many changes, the newest first
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl undelete t_ab12cd34ef
  hostctl undelete bakery.test --wait
  hostctl undelete --kind subscription sub-1001 --dry-run
  hostctl get zones --status deleted       what can be brought back

A brand keeps what is deleted for its undelete_days. What was deleted for itself before stays deleted.")]
pub(crate) struct UndeleteArgs {
    /// Id of what was deleted; of a tenant or zone also its name
    #[arg(value_name = "NAME|ID")]
    pub name: String,
    /// Kind of it, where neither id nor name say it
    #[arg(long, value_name = "KIND", value_parser = KindParser)]
    pub kind: Option<&'static KindInfo>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl undo --revision 4711
  hostctl undo --key 5b1c... --from 2026-11-29T10:00:00Z --to 2026-11-29T11:00:00Z
  hostctl undo --trace 4bf92f3577b34da6a3ce929d0e0e4736 --dry-run

`hostctl history` shows revision, key and trace of each change. What others changed since stays, and is listed; what nodes
destroyed does not come back.")]
pub(crate) struct UndoArgs {
    /// All that this revision changed
    #[arg(long, value_name = "REVISION", group = "what", required_unless_present_any = ["key", "trace"])]
    pub revision: Option<u64>,
    /// All that the API key with this id changed in a span of time
    #[arg(long, value_name = "KEY-ID", group = "what", requires = "from")]
    pub key: Option<String>,
    /// With --key: from this time on, or from the first moment of a date (UTC)
    #[arg(long, value_name = "TIME", requires = "key")]
    pub from: Option<String>,
    /// With --key: before this time [default: until now]
    #[arg(long, value_name = "TIME", requires = "key")]
    pub to: Option<String>,
    /// All that was changed in this trace: a traceparent, or its trace id
    #[arg(long, value_name = "TRACE", group = "what")]
    pub trace: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}
