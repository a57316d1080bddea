//! What can be said of a wanted state: files that are applied, compared, written and edited.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hosting_resource::KindInfo;

use crate::kinds::KindParser;

use super::{OneArgs, WaitArgs};

/// Commands over files that say what there is to be.
#[derive(Debug, Subcommand)]
pub(crate) enum DeclareCommand {
    /// Make what files say: creates what is missing, changes what differs; shows the plan and asks
    Apply(ApplyArgs),
    /// Show what `apply` would create, change and delete; exit code 8 when there is something
    Diff(DiffArgs),
    /// Write what there is as a file that `apply` takes
    Export(ExportTreeArgs),
    /// Change a resource in your editor
    Edit(EditArgs),
}

/// The files of a wanted state.
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// YAML or JSON file, or a folder with such files; `-` for standard input; several belong together
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Delete what the files do not name, of the kinds and in the places that they name
    #[arg(long)]
    pub prune: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl apply -f bakery.yaml
  hostctl apply -f brand/ -f records.yaml --prune
  hostctl export --tenant acme-1001 | hostctl apply -f - --dry-run

  # bakery.yaml
  items:
    - {kind: webroot, in: acme-1001, name: shop, spec: {runtime: static}}
    - {kind: fqdn, in: acme-1001, spec: {fqdn: shop.bakery.test, webroot_id: shop}}
    - {kind: zone-record, in: bakery.test, spec: {type: TXT, name: '@', content: hello, ttl: 300}}

On a terminal it asks. In a script it does not ask, but --prune then needs --yes. Up to 1000 changes that fit into one transaction are
made all or none. Only the fields that a file says are changed.")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl diff -f bakery.yaml
  hostctl diff -f brand/ --prune --json

Exit code 0: there are no differences; 8: there are some.")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub files: FilesArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl export --brand acme > acme.yaml
  hostctl export --tenant acme-1001
  hostctl export zone-records --in bakery.test > records.yaml

Names stand in the place of ids where they name one thing alone. What the platform made by itself is left out, and so are secrets.")]
pub(crate) struct ExportTreeArgs {
    /// Only these kinds; singular works too [default: all]
    #[arg(value_parser = KindParser, value_name = "KIND")]
    pub kinds: Vec<&'static KindInfo>,
    /// Only what lies in this: the parent of the kinds that are named
    #[arg(long = "in", value_name = "PARENT", requires = "kinds", conflicts_with_all = ["tenant", "brand"])]
    pub parent: Option<String>,
    /// Only this tenant and what is its own
    #[arg(long, value_name = "TENANT", conflicts_with = "brand")]
    pub tenant: Option<String>,
    /// Only this brand and what is its own
    #[arg(long, value_name = "BRAND")]
    pub brand: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl edit zone-record bakery.test/www/A
  EDITOR='code --wait' hostctl edit tenant acme-1001
  EDITOR=\"sed -i 's/ttl: .*/ttl: 60/'\" hostctl edit zone-record bakery.test/www/A

It opens $VISUAL, else $EDITOR, else vi. A line that you take out takes its value away. What is refused can be mended; saving it as it
was refused gives up.")]
pub(crate) struct EditArgs {
    #[command(flatten)]
    pub one: OneArgs,
}
