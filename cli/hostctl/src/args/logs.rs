//! Whose requests are watched.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl logs www.example.com
  hostctl logs www.example.com --count 20 --json
  hostctl logs '*.example.com' -o wide
Shows requests as they end, of all edges of the name's cluster; what was before is in the edges' access logs. With --json every request is a
line. A connection that ends is made again.")]
pub(crate) struct LogsArgs {
    /// The FQDN: its name or its id
    #[arg(value_name = "FQDN")]
    pub name: String,
    /// End after so many requests
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
}
