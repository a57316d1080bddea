//! What can be typed.

mod audit;
mod ca;
mod certificates;
mod completion;
mod declare;
mod doctor;
mod format;
mod jobs;
mod kek;
mod logs;
mod machine;
mod node;
mod one;
mod past;
mod place;
mod resources;
mod rollouts;
mod waits;
mod watch;
mod webhooks;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};

pub(crate) use self::audit::{AuditCommand, ExportArgs, VerifyArgs};
pub(crate) use self::ca::CaCommand;
pub(crate) use self::certificates::{CertificatesCommand, DrillArgs};
pub(crate) use self::completion::CompletionArgs;
pub(crate) use self::declare::{ApplyArgs, DeclareCommand, DiffArgs, EditArgs, ExportTreeArgs, FilesArgs};
pub(crate) use self::doctor::DoctorArgs;
pub(crate) use self::jobs::{JobArgs, JobsCommand, ListArgs};
pub(crate) use self::kek::KekCommand;
pub(crate) use self::logs::LogsArgs;
pub(crate) use self::machine::{ControllerPlace, DatabaseKind, StoreCommand, UpArgs};
pub(crate) use self::node::NodeCommand;
pub(crate) use self::one::OneArgs;
pub(crate) use self::past::{HistoryArgs, UndeleteArgs, UndoArgs};
pub(crate) use self::place::{DrainArgs, PlaceCommand, PlanArgs, UndrainArgs};
pub(crate) use self::resources::{
    CreateArgs, DeleteArgs, DescribeArgs, GetArgs, PurgeCacheArgs, RetryArgs, SuspendArgs, TenantArgs,
    UnsuspendArgs, UpdateArgs,
};
pub(crate) use self::rollouts::{RolloutArgs, RolloutsCommand};
pub(crate) use self::waits::{
    ReceiptArgs, TrafficArgs, Until, UsageArgs, VerifyNameArgs, WaitArgs, WaitForArgs,
};
pub(crate) use self::watch::WatchArgs;
pub(crate) use self::webhooks::{WebhookArgs, WebhooksCommand};
use crate::format::Output;

/// Operate the hosting platform
#[derive(Debug, Parser)]
#[command(
    name = "hostctl",
    version,
    after_help = "Examples:
  hostctl up                              start the whole platform on this machine
  hostctl get tenants                     list tenants
  hostctl get fqdns --in acme-1001        list a tenant's host names
  hostctl fleet                           who has applied what, and what is not applied
  hostctl doctor                          what is wrong, and what to do next
  hostctl explain bakery.test             where does this name lead, and what is broken
  hostctl create fqdn --in acme-1001 -s fqdn=www.example.com -s webroot_id=bakery.test --wait
  hostctl apply -f bakery.yaml            make what a file says

Wherever an id is asked for, a name does too: a zone's or host's name, a tenant's customer id (BRAND/CUSTOMER when two
brands have it), the name of a region, cluster or shard, a webroot's host name.

Exit codes: 0 done · 1 failed, or the output could not be written · 2 wrong usage · 3 not ready within the time limit ·
4 not found · 5 not allowed · 6 conflict or rejected · 7 the API cannot be reached · 8 diff found differences · 130 ended by Ctrl-C · 141 the reader
of the output left. With --json an error is a JSON document on standard output too: {\"error\": ..., \"exit_code\": ...}"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    /// Print JSON for machines instead of tables, as -o json does
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// Print results in another form than tables
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_name = "FORMAT", value_parser = Output::format())]
    pub output: Option<Output>,
    #[command(subcommand)]
    pub command: Command,
}

/// The heading of options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// Where data goes unless it is said.
const DEFAULT_DATA: &str = "var";

/// How to reach the API. Without flags: what `hostctl up` wrote to its data folder.
///
/// An empty value counts as none: that is what scripts pass on from a variable that is not set.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// Base URL of the API, e.g. http://127.0.0.1:8090
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HOSTING_API_URL", value_name = "URL")]
    api: Option<String>,
    /// File with the API key
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HOSTING_API_KEY_FILE", value_name = "FILE", value_parser = perhaps_empty())]
    key_file: Option<PathBuf>,
    /// The API key itself. Others on this machine can read it in the list of processes: --key-file is better
    #[arg(long, global = true, value_name = "KEY", hide = true, conflicts_with = "key_file")]
    pub api_key: Option<Secret>,
    /// File with the certificate authorities (PEM) of an API with TLS, beside the system's own
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HOSTING_API_CA_FILE", value_name = "FILE", value_parser = perhaps_empty())]
    ca_file: Option<PathBuf>,
    /// Data folder of `hostctl up`
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "HOSTING_DATA",
        default_value = DEFAULT_DATA,
        value_name = "DIR",
        value_parser = perhaps_empty()
    )]
    data: PathBuf,
}

/// A path, or nothing: clap's own parser refuses an empty variable before it could be told from one that is not set.
fn perhaps_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Connection {
    /// The ids of its arguments, each with its flag.
    pub(crate) const FLAGS: [(&str, &str); 5] = [
        ("api", "--api"),
        ("key_file", "--key-file"),
        ("api_key", "--api-key"),
        ("ca_file", "--ca-file"),
        ("data", "--data"),
    ];

    pub(crate) fn api(&self) -> Option<&str> {
        self.api.as_deref().filter(|url| !url.trim().is_empty())
    }

    pub(crate) fn key_file(&self) -> Option<&Path> {
        self.key_file.as_deref().filter(|file| !file.as_os_str().is_empty())
    }

    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref().filter(|file| !file.as_os_str().is_empty())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        if self.data.as_os_str().is_empty() { Path::new(DEFAULT_DATA) } else { &self.data }
    }
}

/// Whether an error is to be JSON, for a command line that could not be read.
pub(crate) fn asks_for_json(args: &[OsString]) -> bool {
    let words: Vec<&OsString> = args.iter().take_while(|arg| *arg != "--").collect();
    let alone = ["--json", "-ojson", "-o=json", "--output=json"];
    words.iter().any(|word| alone.iter().any(|one| *word == one))
        || words.windows(2).any(
            |two| matches!(two, [flag, json] if (*flag == "-o" || *flag == "--output") && *json == "json"),
        )
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
    #[command(after_help = "Example:
  hostctl status || hostctl up")]
    Status,
    /// Region, cluster, shards and nodes from a file
    #[command(
        subcommand,
        after_help = "Example:
  hostctl cluster apply -f cluster.yaml"
    )]
    Cluster(ClusterCommand),
    /// Bring all of a shard's nodes in line again
    ConvergeShard(ShardArgs),
    /// Create brands, zones, tenants and sites from a file; a second time changes nothing
    Seed(SeedArgs),
    /// List resources of a kind, or show one
    Get(GetArgs),
    /// Show one resource in full, with its conditions
    Describe(DescribeArgs),
    /// Create a resource
    Create(CreateArgs),
    /// Change fields of a resource
    #[command(visible_alias = "set")]
    Update(UpdateArgs),
    /// Delete a resource
    Delete(DeleteArgs),
    /// Bring back what was deleted and is kept, with everything that went with it; shows the plan and asks
    Undelete(UndeleteArgs),
    /// Switch a tenant off: its sites answer with a page that says so
    Suspend(SuspendArgs),
    /// Switch a suspended tenant on again
    Unsuspend(UnsuspendArgs),
    /// Purge what edges cached of a tenant's sites: everything, hosts, pages or tags
    PurgeCache(PurgeCacheArgs),
    /// Try again what failed
    Retry(RetryArgs),
    /// Wait until a resource is in effect, or gone
    Wait(WaitForArgs),
    /// Show whether each machine serves a resource, by what its own listeners answer
    Receipt(ReceiptArgs),
    /// Show what becomes of resources as it happens, until Ctrl-C
    Watch(WatchArgs),
    /// Show the requests of a host name as they happen, of all edges, until Ctrl-C
    Logs(LogsArgs),
    /// Look now whether a host name or zone is shown to be its tenant's; prints what is to be put where
    Verify(VerifyNameArgs),
    /// What a tenant, brand or subscription has, beside what it may have
    Usage(UsageArgs),
    /// What a tenant's sites were asked for: requests, statuses, bytes, by hour or by day
    Traffic(TrafficArgs),
    /// Follow a host name: API, intent, edge, DNS, node, site; names the broken link
    Explain(ExplainArgs),
    /// What was changed, by whom and when: of a host name, or of a resource, also once it is deleted
    History(HistoryArgs),
    /// Take changes back: of a revision, of a key in a span of time, or of a trace; shows the plan and asks
    Undo(UndoArgs),
    #[command(flatten)]
    Declare(DeclareCommand),
    #[command(flatten)]
    Place(PlaceCommand),
    /// Who has applied what: every edge, name server and node, with what it does not apply
    #[command(after_help = "Example:
  hostctl fleet")]
    Fleet,
    /// Look over the whole platform: what is wrong, and the next step
    Doctor(DoctorArgs),
    /// Copy the controller's store away, put a copy back, or move it to PostgreSQL
    #[command(
        subcommand,
        after_help = "Example:
  hostctl store backup /backup/2026-11-28"
    )]
    Store(StoreCommand),
    /// Let a node apply what its brake holds
    Release(ReleaseArgs),
    /// Node life: join tokens, forgetting dead ones
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl node join-token web-1 -o web-1.token
  hostctl node forget web-2"
    )]
    Node(NodeCommand),
    /// The authorities that certify machines: which there are, one after another
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl ca add
  hostctl ca show
  hostctl ca promote 3f2a...
  hostctl ca retire 91bc..."
    )]
    Ca(CaCommand),
    /// The keys that seal the store's secrets: which there are, a new one
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl kek show
  hostctl kek rotate --wait"
    )]
    Kek(KekCommand),
    /// What the platform does in the background: callbacks, retention
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl jobs list --state failed
  hostctl jobs retry job_0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    )]
    Jobs(JobsCommand),
    /// Changes that touch much and go out in steps: how far they came, pause, resume, abort
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl rollouts list
  hostctl rollouts abort 1042"
    )]
    Rollouts(RolloutsCommand),
    /// The audit log: export, and whether anybody tampered with it
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl audit export > audit.jsonl
  hostctl audit verify"
    )]
    Audit(AuditCommand),
    /// Webhooks: what was posted to one, tests, a new secret; made and changed like other kinds
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl create webhook -s name=billing -s brand_id=acme -s url=https://crm.example/hook
  hostctl webhooks deliveries billing"
    )]
    Webhooks(WebhooksCommand),
    /// Certificates of public authorities: the replacement of many at once
    #[command(
        subcommand,
        after_help = "Examples:
  hostctl certificates drill letsencrypt --to zerossl --dry-run
  hostctl certificates drill letsencrypt --to zerossl --names 200"
    )]
    Certificates(CertificatesCommand),
    /// Print a shell completion script
    Completion(CompletionArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl --data /tmp/second down")]
pub(crate) struct DownArgs {
    /// How long to wait before children are killed, e.g. 20s
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub timeout: Duration,
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
#[command(after_help = "Example:
  hostctl converge-shard web-1")]
pub(crate) struct ShardArgs {
    /// Shard: its id or name, CLUSTER/NAME when two clusters have it
    #[arg(value_name = "SHARD")]
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
  hostctl explain bakery.test
  hostctl explain https://www.example.com/ --edge 192.0.2.10:80 --dns 192.0.2.53:53
  hostctl explain bakery.test --at 2026-11-29T10:00:00Z

DNS and the edge are asked even when the API cannot be reached. Exit code 0: every link that could be asked is sound.")]
pub(crate) struct ExplainArgs {
    /// Host name, with or without http(s):// before it
    pub fqdn: String,
    /// As it was right after this revision, or at this time, e.g. 2026-11-29T10:00:00Z; nobody but the API is asked then
    #[arg(long, value_name = "TIME|REVISION", conflicts_with_all = ["edge", "dns"])]
    pub at: Option<String>,
    /// Edge HTTP address to probe [default: the one of `hostctl up`]
    #[arg(long, value_name = "IP:PORT")]
    pub edge: Option<String>,
    /// DNS server to ask [default: the one of `hostctl up`]
    #[arg(long, value_name = "IP:PORT")]
    pub dns: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl release edge-1

A brake holds removals that nobody asked for, once they are many. See what is held with `hostctl fleet` first:
after the release it is gone from that node.")]
pub(crate) struct ReleaseArgs {
    /// Node: its id or host name
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// The longest that can be asked for. Beyond it a clock could overflow.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// `90`, `90s`, `10m`, `1h`; at least a second.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration; write 90s, 10m or 1h"))?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => return Err(format!("{unit:?} is no unit; write 90s, 10m or 1h")),
    };
    let length = Duration::from_secs(count.saturating_mul(unit));
    if length.is_zero() || length > LONGEST {
        return Err(format!("must be from 1s to {}h", LONGEST.as_secs() / 3600));
    }
    Ok(length)
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
    fn every_command_shows_an_example() {
        fn without(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !help.contains("Example") || !help.contains("hostctl") {
                found.push(path.clone());
            }
            command.get_subcommands().for_each(|sub| without(sub, &path, found));
        }
        let mut found = Vec::new();
        without(&Cli::command(), "", &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn an_empty_value_counts_as_none() {
        let cli =
            Cli::try_parse_from(["hostctl", "--api", "", "--key-file", "", "--data", "", "status"]).unwrap();
        let connection = cli.connection;
        assert_eq!((connection.api(), connection.key_file()), (None, None));
        assert_eq!(connection.data_dir(), Path::new("var"));
    }

    #[test]
    fn a_time_limit_without_a_wait_is_refused_and_one_with_it_understood() {
        let wait = |flags: &[&str]| {
            let line = ["hostctl", "delete", "fqdn", "x"].iter().chain(flags).copied();
            Cli::try_parse_from(line).map(|cli| match cli.command {
                Command::Delete(delete) => delete.wait.timeout.as_secs(),
                _ => unreachable!(),
            })
        };
        assert_eq!(wait(&[]).unwrap(), 30);
        assert_eq!(wait(&["--wait"]).unwrap(), 30);
        assert_eq!(wait(&["--wait=served"]).unwrap(), 30);
        assert!(wait(&["--wait=sometime"]).is_err());
        assert_eq!(wait(&["--wait", "--wait-timeout", "60"]).unwrap(), 60);
        assert_eq!(wait(&["--wait", "--timeout", "10m"]).unwrap(), 600);
        assert!(wait(&["--timeout", "10m"]).is_err());
    }

    #[test]
    fn durations() {
        assert!(duration("0").is_err() && duration("99999999999999999999h").is_err());
        assert!(duration("18446744073709551615h").is_err() && duration("-1").is_err());
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("5d").is_err());
        assert!(duration("m").is_err());
    }
}
