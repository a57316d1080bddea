//! What can be typed.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Operate the hosting platform
#[derive(Debug, Parser)]
#[command(
    name = "hostctl",
    version,
    after_help = "Examples:
  hostctl up                              start the whole platform on this machine
  hostctl get tenants                     list tenants
  hostctl get fqdns --in t_ab12cd34ef     list a tenant's host names
  hostctl fleet                           who has applied what, and what is not applied
  hostctl explain bakery.test             where does this name lead, and what is broken
  hostctl create fqdn --in t_ab12cd34ef -s fqdn=www.example.com -s webroot_id=web_ab12cd34ef --wait

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not ready within the time limit · 4 not found ·
5 not allowed · 6 conflict or rejected · 7 the API cannot be reached"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    /// Print JSON for machines instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the API. Without flags: what `hostctl up` wrote to its data folder.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// Base URL of the API, e.g. http://127.0.0.1:8090
    #[arg(long, global = true, env = "HOSTING_API_URL", value_name = "URL")]
    pub api: Option<String>,
    /// File with the API key
    #[arg(long, global = true, env = "HOSTING_API_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The API key itself. Others on this machine can read it in the list of processes: --key-file is better
    #[arg(long, global = true, value_name = "KEY", hide = true, conflicts_with = "key_file")]
    pub api_key: Option<Secret>,
    /// Data folder of `hostctl up`
    #[arg(long, global = true, env = "HOSTING_DATA", default_value = "var", value_name = "DIR")]
    pub data: PathBuf,
}

impl WaitArgs {
    /// How long the answer may take: the wait itself, and what the API needs besides.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(30 + if self.wait { u64::from(self.wait_timeout) } else { 0 })
    }
}

impl Connection {
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.data
    }
}

/// A text that is never printed.
#[derive(Clone)]
pub(crate) struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The command line with `-timeout`, `-api` and `-api-key` as they are spelt here: scripts write long flags with one dash.
pub(crate) fn with_two_dashes(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    const ONE_DASH: &[&str] = &["timeout", "api", "api-key"];
    args.map(|arg| match arg.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(flag) if ONE_DASH.contains(&flag.split('=').next().unwrap_or_default()) => {
            OsString::from(format!("--{flag}"))
        }
        Some(_) | None => arg,
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the whole platform on this machine, seed it and keep it running
    Up(UpArgs),
    /// End what `up` started
    Down(DownArgs),
    /// Show what `up` has running
    Status,
    /// Region, cluster, shards and nodes from a file
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Bring all of a shard's nodes in line again
    ConvergeShard(ShardArgs),
    /// Create brands, zones, tenants and sites from a file; a second time changes nothing
    Seed(SeedArgs),
    /// List resources of a kind, or show one
    Get(GetArgs),
    /// Show one resource in full, with its conditions
    Describe(OneArgs),
    /// Create a resource
    Create(CreateArgs),
    /// Delete a resource
    Delete(DeleteArgs),
    /// Follow a host name: API, intent, edge, DNS, node, site; names the broken link
    Explain(ExplainArgs),
    /// Who has applied what: every edge, name server and node, with what it does not apply
    Fleet,
    /// Let a node apply what its brake holds
    Release(ReleaseArgs),
    /// Node life: join tokens, forgetting dead ones
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print a shell completion script
    Completion(CompletionArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl up
  hostctl up --auto-ports                     when the usual ports are taken
  hostctl --data /tmp/second up --auto-ports  a second platform beside the first

Ctrl-C ends everything; what is stored is kept, and the next `up` goes on from it.
Isolation: none. Every site runs as one user: for development and first looks.")]
pub(crate) struct UpArgs {
    /// What to seed once everything runs
    #[arg(long, value_name = "FILE", default_value = "infra/demo.yaml")]
    pub seed: PathBuf,
    /// Seed nothing
    #[arg(long, conflicts_with = "seed")]
    pub no_seed: bool,
    /// Address of all listeners
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// Also listen on ::1 at the edge and for DNS where the machine has IPv6
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub ipv6: bool,
    /// API port
    #[arg(long, default_value_t = 8090)]
    pub api_port: u16,
    /// Feed port
    #[arg(long, default_value_t = 8091)]
    pub feed_port: u16,
    /// HTTP port of the edge
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    /// HTTPS port of the edge
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,
    /// DNS port
    #[arg(long, default_value_t = 5300)]
    pub dns_port: u16,
    /// Port of the sites' web server behind the edge
    #[arg(long, default_value_t = 8180)]
    pub sites_port: u16,
    /// First of four ports for /metrics, /healthz and /readyz
    #[arg(long, default_value_t = 9300)]
    pub admin_port: u16,
    /// Choose free ports once and remember them in the data folder
    #[arg(long)]
    pub auto_ports: bool,
    /// Number of web nodes in the shard
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub web_nodes: u16,
    /// Folder of the platform's binaries [default: the one hostctl is in]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Do not start a child again when it ends
    #[arg(long)]
    pub no_restart: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Seconds to wait before children are killed
    #[arg(long, default_value_t = 20)]
    pub timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Find or create region, cluster, load-balancer addresses, shards and nodes
    Apply(ClusterApplyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl cluster apply -f cluster.yaml

  # cluster.yaml
  region: {name: eu}
  cluster:
    name: eu-1
    lb_addresses: [{address: 192.0.2.10, label: public}]
    spec:
      shards: [{name: lb-1, role: lb}, {name: dns-1, role: dns}, {name: web-1, role: web}]
    nodes:
      - {id: edge-1, hostname: edge-1.example.net, shard_name: lb-1, ip_address: 192.0.2.10}
      - {id: dns-1, hostname: dns-1.example.net, shard_name: dns-1, ip_address: 192.0.2.53}
      - {id: web-1, hostname: web-1.example.net, shard_name: web-1, ip_address: 10.0.0.11}")]
pub(crate) struct ClusterApplyArgs {
    /// YAML file; several are merged, the later wins
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How long to wait for the API and the shards, e.g. 10m
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ShardArgs {
    /// Shard id
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  PHP_VERSION=8.2 hostctl seed -f infra/demo.yaml")]
pub(crate) struct SeedArgs {
    /// YAML file
    #[arg(short, long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Put fixtures into the sites below this storage folder [default: the one of `hostctl up`]
    #[arg(long, value_name = "DIR")]
    pub storage: Option<PathBuf>,
    /// How long to wait for each new site, e.g. 60s
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl get tenants --status failed
  hostctl get fqdns --in t_ab12cd34ef
  hostctl get tenant t_ab12cd34ef
  hostctl get nodes
  hostctl get zone-records --in 4ac6050a-722b-433b-863a-289e5b40cfc1 --json")]
pub(crate) struct GetArgs {
    /// Kind: brands, regions, clusters, lb-addresses, shards, nodes, tenants, subscriptions, webroots, fqdns, zones,
    /// zone-records, api-keys (singular works too)
    pub kind: String,
    /// Ids; without any: the whole list
    pub ids: Vec<String>,
    /// Id of the parent: region (clusters), cluster (lb-addresses, shards, nodes), tenant (subscriptions, webroots, fqdns) or
    /// zone (zone-records); may be left out for the first two
    #[arg(long = "in", value_name = "ID")]
    pub parent: Option<String>,
    /// Only with this status
    #[arg(long)]
    pub status: Option<String>,
    /// Only what contains this text
    #[arg(long)]
    pub search: Option<String>,
    /// At most so many
    #[arg(long)]
    pub limit: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl describe tenant t_ab12cd34ef
  hostctl describe node web-1")]
pub(crate) struct OneArgs {
    /// Kind, e.g. fqdn
    pub kind: String,
    /// Id
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl create fqdn --in t_ab12cd34ef -s fqdn=www.example.com -s webroot_id=web_ab12cd34ef --wait
  hostctl create zone-record --in 4ac6050a-722b-433b-863a-289e5b40cfc1 -s type=A -s name=@ -s content=192.0.2.1 -s ttl=300
  hostctl create brand -f brand.yaml")]
pub(crate) struct CreateArgs {
    /// Kind, e.g. fqdn
    pub kind: String,
    /// Id of the parent, for kinds that are created below one
    #[arg(long = "in", value_name = "ID")]
    pub parent: Option<String>,
    /// YAML or JSON file with the body; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A field: NAME=VALUE; VALUE is text for a field that takes text, else JSON if it reads as JSON
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl delete fqdn 6de461bb-fa24-44f6-bb59-630119d098f7 --wait")]
pub(crate) struct DeleteArgs {
    /// Kind, e.g. fqdn
    pub kind: String,
    /// Id
    pub id: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Return only when the fleet has it
    #[arg(long)]
    pub wait: bool,
    /// Longest wait in seconds, 1 to 300
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub wait_timeout: u16,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl explain bakery.test
  hostctl explain https://www.example.com/ --edge 192.0.2.10:80 --dns 192.0.2.53:53

DNS and the edge are asked even when the API cannot be reached. Exit code 0: every link that could be asked is sound.")]
pub(crate) struct ExplainArgs {
    /// Host name, with or without http(s):// before it
    pub fqdn: String,
    /// Edge HTTP address to probe [default: the one of `hostctl up`]
    #[arg(long, value_name = "IP:PORT")]
    pub edge: Option<String>,
    /// DNS server to ask [default: the one of `hostctl up`]
    #[arg(long, value_name = "IP:PORT")]
    pub dns: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a join token for a node, valid once and for a short time
    #[command(name = "join-token", visible_alias = "token")]
    Token(NodeTokenArgs),
    /// Close what a dead node left open; says what data stayed on it
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl node join-token web-1 -o web-1.token")]
pub(crate) struct NodeTokenArgs {
    /// Node id
    pub id: String,
    /// Write the token to this file, readable by its owner only, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl node forget web-2

The node stays registered: delete it with `hostctl delete node web-2` if it will not come back.")]
pub(crate) struct ForgetArgs {
    /// Node id
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl release edge-1

A brake holds removals that nobody asked for, once they are many. See what is held with `hostctl fleet` first:
after the release it is gone from that node.")]
pub(crate) struct ReleaseArgs {
    /// Node id
    #[arg(value_name = "NODE")]
    pub node: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl completion bash > /etc/bash_completion.d/hostctl")]
pub(crate) struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}

/// `90`, `90s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration; write 90s, 10m or 1h"))?;
    match &text[digits.len()..] {
        "" | "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(count * 60)),
        "h" => Ok(Duration::from_secs(count * 3600)),
        unit => Err(format!("{unit:?} is no unit; write 90s, 10m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn long_flags_with_one_dash() {
        let given =
            ["hostctl", "cluster", "apply", "-f", "a.yaml", "-timeout", "10m", "-api=http://x", "-tim"];
        let read: Vec<OsString> = with_two_dashes(given.into_iter().map(OsString::from)).collect();
        let wanted =
            ["hostctl", "cluster", "apply", "-f", "a.yaml", "--timeout", "10m", "--api=http://x", "-tim"];
        assert_eq!(read, wanted);
        let key = Cli::try_parse_from(["hostctl", "--api-key", "hst_canary", "status"]).unwrap();
        assert!(!format!("{key:?}").contains("hst_canary"));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("5d").is_err());
        assert!(duration("m").is_err());
    }
}
