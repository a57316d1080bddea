//! What every kind of resource can be asked for: shown, made, changed, deleted.

use std::path::PathBuf;

use clap::Args;
use hosting_resource::KindInfo;

use super::{OneArgs, WaitArgs};
use crate::kinds::{KindParser, Named, NamedParser};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl get tenants --status failed
  hostctl get tenants --filter customer_id=acme-1001
  hostctl get fqdns --in acme-1001
  hostctl get zone bakery.test
  hostctl get zone-records --in bakery.test --json
  hostctl get zones --filter brand_id=acme --search shop
  hostctl get webroots --in acme-1001 --status failed -o name | xargs -n1 hostctl retry")]
pub(crate) struct GetArgs {
    /// Kind; singular works too, and KIND/ID as -o name prints it
    #[arg(value_parser = NamedParser)]
    pub kind: Named,
    /// Ids or names; without any: the whole list
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// The parent: region (of clusters), cluster (lb-addresses, shards, nodes), tenant (subscriptions, webroots, fqdns) or zone
    /// (zone-records); may be left out for the first two
    #[arg(long = "in", value_name = "PARENT")]
    pub parent: Option<String>,
    /// Only with this status, e.g. failed
    #[arg(long, conflicts_with = "ids")]
    pub status: Option<String>,
    /// Only what contains this text
    #[arg(long, value_name = "TEXT", conflicts_with = "ids")]
    pub search: Option<String>,
    /// Only where this field has this value; the kind says which fields can be asked for
    #[arg(long, value_name = "FIELD=VALUE", conflicts_with = "ids")]
    pub filter: Vec<String>,
    /// At most so many
    #[arg(long, conflicts_with = "ids")]
    pub limit: Option<usize>,
    /// Whole values however narrow the terminal is, as -o wide has them
    #[arg(long)]
    pub wide: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl describe tenant acme-1001
  hostctl describe zone-record bakery.test/www/A
  hostctl describe node web-1")]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub one: OneArgs,
}

/// The fields of a body: from a file, one by one, or both.
#[derive(Debug, Args)]
pub(crate) struct BodyArgs {
    /// YAML or JSON file with the fields; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A field: NAME=VALUE; VALUE is text for a field that takes text, else JSON if it reads as JSON. Where a field takes an id, a
    /// name does too
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl create fqdn --in acme-1001 -s fqdn=www.example.com -s webroot_id=bakery.test --wait
  hostctl create zone-record --in bakery.test -s type=A -s name=@ -s content=192.0.2.1 -s ttl=300
  hostctl create tenant -s brand_id=acme -s customer_id=1001 -s region_id=eu -s cluster_id=eu-1 -s shard_id=web-1
  hostctl create brand -f brand.yaml")]
pub(crate) struct CreateArgs {
    /// Kind, e.g. fqdn
    #[arg(value_parser = KindParser, hide_possible_values = true)]
    pub kind: &'static KindInfo,
    /// The parent, for kinds that are created below one
    #[arg(long = "in", value_name = "PARENT")]
    pub parent: Option<String>,
    #[command(flatten)]
    pub body: BodyArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl update zone-record bakery.test/www/A -s content=192.0.2.7 -s ttl=60 --wait
  hostctl update fqdn www.example.com -s webroot_id=null
  hostctl update webroot bakery.test -s public_folder=public --wait --timeout 2m")]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub one: OneArgs,
    #[command(flatten)]
    pub body: BodyArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl delete fqdn www.example.com --wait
  hostctl delete tenant acme-1001 --dry-run
  hostctl delete zone bakery.test --ignore-not-found

On a terminal it shows what else would go, and asks. In a script it does not ask.")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// What is not there is as good as deleted
    #[arg(long)]
    pub ignore_not_found: bool,
    /// For good: not kept for as long as the brand keeps what is deleted; what is kept already goes with its data
    #[arg(long)]
    pub now: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl suspend tenant acme-1001 --reason 'invoice 4711 is overdue' --wait")]
pub(crate) struct SuspendArgs {
    #[command(flatten)]
    pub tenant: TenantArgs,
    /// Why, for operators; visitors never see it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl unsuspend tenant acme-1001 --wait")]
pub(crate) struct UnsuspendArgs {
    #[command(flatten)]
    pub tenant: TenantArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl purge-cache acme-1001 --tag post-17 --tag front-page --wait=served
  hostctl purge-cache acme-1001 --url 'https://www.example.com/blog/*'
  hostctl purge-cache acme-1001 --everything")]
pub(crate) struct PurgeCacheArgs {
    #[command(flatten)]
    pub tenant: TenantArgs,
    /// All that is stored of the tenant's sites
    #[arg(long, required_unless_present_any = ["host", "url", "tag"], conflicts_with_all = ["host", "url", "tag"])]
    pub everything: bool,
    /// All pages of a host name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// A page with its query; with `*` at the end all that begin like it; may be given several times
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
    /// All pages that the site gave this tag, in Cache-Tag or Surrogate-Key; may be given several times
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// A tenant, with its kind before it or not.
#[derive(Debug, Args)]
pub(crate) struct TenantArgs {
    /// The tenant: its id or customer id; the word `tenant` may stand before it
    #[arg(value_name = "TENANT", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl retry webroot web_ab12cd34ef --wait
  hostctl retry tenant acme-1001 --all")]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub one: OneArgs,
    /// For a tenant: also everything in it that failed
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}
