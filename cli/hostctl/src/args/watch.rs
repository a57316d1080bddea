//! What can be watched.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl watch
  hostctl watch --kind fqdn,certificate --tenant acme-1001
  hostctl watch --since 4711 --json
With --json every event is a line. A connection that ends is made again, and goes on behind the last event.")]
pub(crate) struct WatchArgs {
    /// Only these kinds, with commas between, e.g. zone,zone_record
    #[arg(long, value_name = "KINDS")]
    pub kind: Option<String>,
    /// Only what belongs to this tenant: its id or customer id
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Only what belongs to this brand
    #[arg(long, value_name = "BRAND")]
    pub brand: Option<String>,
    /// Go on behind this revision instead of now
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
}
