//! What is typed about this machine: `up`, and the controller's store.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// A database that the store can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DatabaseKind {
    /// A file, for one controller
    Sqlite,
    /// A server, for several controllers
    Postgres,
}

/// What is done with a store, on the machine that its controller runs on.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy the store and its key into a new folder, while the controller runs
    #[command(after_help = "Examples:
  hostctl store backup /backup/2026-11-28
  hostctl store backup /backup/2026-11-28 --config /etc/hosting/controller.toml --without-key

Whoever has the folder can open every secret in it. With --without-key nobody can, without the key file: keep that apart.")]
    Backup {
        /// The folder, which must not exist
        folder: PathBuf,
        /// Leave the key file out
        #[arg(long)]
        without_key: bool,
        #[command(flatten)]
        controller: ControllerPlace,
    },
    /// Put a backup in place of the store; its controller must be stopped
    #[command(after_help = "Example:
  hostctl store restore /backup/2026-11-28

Nodes keep what they serve: what was made after the backup stays on their disks, and `hostctl fleet` shows it.")]
    Restore {
        /// The folder that `backup` wrote
        folder: PathBuf,
        #[command(flatten)]
        controller: ControllerPlace,
    },
    /// Copy a store in a SQLite file to PostgreSQL; its controller must be stopped
    #[command(after_help = "Example:
  hostctl store migrate --to /etc/hosting/database

The file has one line, e.g. postgres://hosting@db.example/hosting?sslmode=verify-full, and only its owner may read it.
Afterwards name it in the controller's settings: database_file.")]
    Migrate {
        /// File with the connection string of a database without a store
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        controller: ControllerPlace,
    },
}

/// Which controller's store. Without either: that of `hostctl up`.
#[derive(Debug, Args)]
pub(crate) struct ControllerPlace {
    /// The controller's settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The controller's data folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The controller's program [default: the one beside hostctl]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl up
  hostctl up --auto-ports                     when the usual ports are taken
  hostctl up --database postgres              the controller on a PostgreSQL server of its own
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
    /// Where the controller's store is: a SQLite file, or a PostgreSQL server that `up` starts [default: what the data folder has, else
    /// sqlite]
    #[arg(long, value_enum, value_name = "DATABASE")]
    pub database: Option<DatabaseKind>,
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
