//! What an operator can set: defaults < file < environment (`HOSTING_CONTROLLER_*`) < flags.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hosting_api::{ConfirmRules, Origin, OriginError, Rate, RateLimits};
use hosting_intent::php::{Bounds, REQUEST_SECONDS_MOST};
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::kinds::ownership::OwnershipRules;
pub use hosting_scaffold::config::SettingsError;
use hosting_scaffold::config::{self, ConfigArgs};
use hosting_scaffold::server_tls::ServerTls;
use hosting_scaffold::telemetry::LogFormat;
use hosting_store::{Database, PostgresUrl};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Prefix of the environment variables.
const ENV_PREFIX: &str = "HOSTING_CONTROLLER_";

/// Everything that can be set. Times are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the store lives, and the key that seals its secrets. One process at a time.
    pub data_dir: PathBuf,
    /// File with the connection string of a PostgreSQL database for the store, which several controllers share; only its owner may read
    /// it. Empty: a SQLite file in `data_dir`.
    pub database_file: Option<PathBuf>,
    /// Address of the REST API; `/metrics`, `/healthz` and `/readyz` are there too.
    pub listen: SocketAddr,
    /// Address of the feed.
    pub feed_listen: SocketAddr,
    /// What join tokens name as the feed, `host:port`; empty: `feed_listen`.
    pub advertise: Vec<String>,
    /// File with the key that seals the store's secrets, made at the first start; empty: in `data_dir`.
    pub kek_file: Option<PathBuf>,
    /// Writes an API key with all rights to this file unless it is there, and takes the key that is in it.
    pub bootstrap_key_file: Option<PathBuf>,
    /// Life of the nodes' certificates, 24 to 720.
    pub node_certificate_hours: u64,
    /// A join token is good for this long.
    pub join_token_minutes: u64,
    /// Each audience's log keeps this many revisions; subscribers further behind get a snapshot.
    pub log_revisions: u64,
    /// The newest link of the audit log is signed each so many minutes, 1 to 1440.
    pub audit_head_minutes: u32,
    /// Audit rows are kept this long.
    pub audit_retention_days: u32,
    /// And no more of them than this, in MiB; then the oldest go first.
    pub audit_max_mib: u64,
    /// The history of resources is kept this long: so far back changes are shown and undone.
    pub history_retention_days: u32,
    /// And no more of it than this, in MiB; then the oldest goes first.
    pub history_max_mib: u64,
    /// Jobs that failed or were cancelled are shown so long after they ended, 1 to 365; those that succeeded for a day.
    pub job_retention_days: u32,
    /// Whether `X-Callback-URL` may begin with `http://`.
    pub callback_plain_http: bool,
    /// Networks that callbacks and webhooks may go to although they are not the public Internet, as `10.0.0.0/8` or one address.
    pub callback_networks: Vec<String>,
    /// A callback is given up after so many attempts, 1 to 100; twelve take some two and a half hours.
    pub callback_attempts: u32,
    /// File with certificate authorities (PEM) that callbacks trust beside the system's.
    pub callback_ca_file: Option<PathBuf>,
    /// Resolvers that are asked whether host names and zones are their tenants', as `192.0.2.53` or `[2001:db8::53]:5353`; none: the
    /// system's.
    pub verification_resolvers: Vec<String>,
    /// Networks that such a look may connect to although they are not the public Internet.
    pub verification_networks: Vec<String>,
    /// Connections to the API at once.
    pub api_connections: usize,
    /// Of these from one IPv4 address or IPv6 /64.
    pub api_connections_per_network: usize,
    /// File with the certificate chain (PEM) that the API is served with over TLS; empty: plain HTTP, for loopback or behind a proxy. A
    /// changed file is taken over within seconds.
    pub tls_certificate_file: Option<PathBuf>,
    /// File with its private key (PEM), which not everybody on the machine may read.
    pub tls_key_file: Option<PathBuf>,
    /// Web pages of these origins may use the API from browsers, e.g. `https://panel.example`; empty: none.
    pub api_origins: Vec<String>,
    /// Reads that each API key may ask of this controller in a second, in the long run; 0 for no limit.
    pub api_reads_per_second: u32,
    /// And at once after a rest.
    pub api_reads_burst: u32,
    /// As `api_reads_per_second`, for changes.
    pub api_writes_per_second: u32,
    /// And at once after a rest.
    pub api_writes_burst: u32,
    /// A change is large that reaches more than so many names, tenants behind shared things and destroyed sites: its plan tells the number that
    /// it is confirmed with.
    pub confirm_above: u64,
    /// Whether a large change without its number is refused. Clients that know nothing of it need `false`.
    pub confirm_required: bool,
    /// Networks of TLS proxies in front of the API, as `10.0.0.0/8` or one address. Only they are believed for whom they ask
    /// (`X-Forwarded-For`, `Forwarded`); the share of a network is then counted by requests in work.
    pub trusted_proxies: Vec<String>,
    /// Largest upload that a PHP site may ask for, in bytes.
    pub php_upload_bytes: u64,
    /// Longest request that a PHP site may ask for, 1 to 86400. Edges end a request after their `upstream_timeout_ms`.
    pub php_request_seconds: u32,
    /// Most memory of one PHP request that a site may ask for, in bytes.
    pub php_memory_bytes: u64,
    /// Waiting for requests under way at the end.
    pub drain_timeout_ms: u64,
    /// Log filter, as `tracing` reads it.
    pub log: String,
    /// How logs look.
    pub log_format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        let php = Bounds::default();
        let rates = RateLimits::default();
        let confirm = ConfirmRules::default();
        Self {
            data_dir: PathBuf::from("/var/lib/hosting/controller"),
            database_file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            feed_listen: SocketAddr::from(([127, 0, 0, 1], 8091)),
            advertise: Vec::new(),
            kek_file: None,
            bootstrap_key_file: None,
            node_certificate_hours: 7 * 24,
            join_token_minutes: 15,
            log_revisions: 100_000,
            audit_head_minutes: 10,
            audit_retention_days: 90,
            audit_max_mib: 1024,
            history_retention_days: 90,
            history_max_mib: 4096,
            job_retention_days: 7,
            callback_plain_http: false,
            callback_networks: Vec::new(),
            callback_attempts: 12,
            callback_ca_file: None,
            verification_resolvers: Vec::new(),
            verification_networks: Vec::new(),
            api_connections: 4_096,
            api_connections_per_network: 2_048,
            tls_certificate_file: None,
            tls_key_file: None,
            api_origins: Vec::new(),
            api_reads_per_second: rates.reads.per_second,
            api_reads_burst: rates.reads.burst,
            api_writes_per_second: rates.writes.per_second,
            api_writes_burst: rates.writes.burst,
            confirm_above: confirm.above,
            confirm_required: confirm.required,
            trusted_proxies: Vec::new(),
            php_upload_bytes: php.upload_bytes,
            php_request_seconds: php.request_seconds,
            php_memory_bytes: php.memory_bytes,
            drain_timeout_ms: 10_000,
            log: "info".into(),
            log_format: LogFormat::Auto,
        }
    }
}

impl Settings {
    /// Merges the layers and checks the outcome.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load(args: &Args) -> Result<Self, SettingsError> {
        let settings: Self = config::load(ENV_PREFIX, args.config.config.as_deref(), &args.flags)?;
        let invalid = |setting, problem: &str| Err(SettingsError::invalid(setting, problem));
        if !(24..=720).contains(&settings.node_certificate_hours) {
            return invalid("node_certificate_hours", "must be 24 to 720");
        }
        if !(1..=24 * 60).contains(&settings.join_token_minutes) {
            return invalid("join_token_minutes", "must be 1 to 1440");
        }
        if settings.log_revisions < 1_000 {
            return invalid(
                "log_revisions",
                "must be at least 1000, or every short absence costs a snapshot",
            );
        }
        if settings.api_connections == 0 || settings.api_connections_per_network == 0 {
            return invalid("api_connections, api_connections_per_network", "must be at least 1");
        }
        if settings.api_reads_burst == 0 || settings.api_writes_burst == 0 {
            return invalid("api_reads_burst, api_writes_burst", "must be at least 1");
        }
        if !(1..=1_440).contains(&settings.audit_head_minutes) {
            return invalid("audit_head_minutes", "must be 1 to 1440");
        }
        if settings.audit_retention_days == 0 {
            return invalid("audit_retention_days", "must be at least 1");
        }
        if !(1..=365).contains(&settings.job_retention_days) {
            return invalid("job_retention_days", "must be 1 to 365");
        }
        if !(1..=100).contains(&settings.callback_attempts) {
            return invalid("callback_attempts", "must be 1 to 100");
        }
        if !(16..=1024 * 1024).contains(&settings.audit_max_mib) {
            return invalid("audit_max_mib", "must be 16 to 1048576");
        }
        if settings.history_retention_days == 0 {
            return invalid("history_retention_days", "must be at least 1");
        }
        if !(16..=1024 * 1024).contains(&settings.history_max_mib) {
            return invalid("history_max_mib", "must be 16 to 1048576");
        }
        settings.trusted()?;
        settings.origins()?;
        settings.tls()?;
        settings.ownership()?;
        settings.database()?;
        if !(1..=REQUEST_SECONDS_MOST).contains(&settings.php_request_seconds) {
            return invalid("php_request_seconds", "must be 1 to 86400");
        }
        if settings.php_upload_bytes < 1 << 20 || settings.php_memory_bytes < 1 << 24 {
            return invalid(
                "php_upload_bytes, php_memory_bytes",
                "must be at least 1048576 (1 MiB) and 16777216 (16 MiB)",
            );
        }
        Ok(settings)
    }

    /// The networks of `trusted_proxies`.
    ///
    /// # Errors
    /// A text that is no network, or one that is everybody.
    pub fn trusted(&self) -> Result<Vec<IpNet>, SettingsError> {
        let proxies = networks("trusted_proxies", &self.trusted_proxies)?;
        if proxies.iter().any(|network| network.prefix_len() == 0) {
            let problem = "a network of length 0 is everybody; name your proxies";
            return Err(SettingsError::invalid("trusted_proxies", problem));
        }
        Ok(proxies)
    }

    /// The origins of `api_origins`.
    ///
    /// # Errors
    /// A text that is no origin.
    pub fn origins(&self) -> Result<Vec<Origin>, SettingsError> {
        let origin = |text: &String| {
            text.parse().map_err(|problem: OriginError| {
                SettingsError::invalid("api_origins", format!("{text:?} {problem}"))
            })
        };
        self.api_origins.iter().map(origin).collect()
    }

    /// What the API is served with over TLS, as its files are now; `None` for plain HTTP.
    ///
    /// # Errors
    /// One of the files without the other, or files that give no certificate.
    pub fn tls(&self) -> Result<Option<ServerTls>, SettingsError> {
        match (&self.tls_certificate_file, &self.tls_key_file) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                let loaded = ServerTls::load(certificate, key);
                loaded.map(Some).map_err(|error| {
                    SettingsError::invalid("tls_certificate_file, tls_key_file", error.to_string())
                })
            }
            _ => Err(SettingsError::invalid("tls_certificate_file, tls_key_file", "must be given together")),
        }
    }

    /// Where callbacks and webhooks may go, and how often callbacks are tried.
    ///
    /// # Errors
    /// A text that is no network, or a file that cannot be read.
    pub fn callbacks(&self) -> Result<CallbackRules, SettingsError> {
        let authorities = match &self.callback_ca_file {
            None => None,
            Some(file) => Some(std::fs::read(file).map_err(|error| {
                SettingsError::invalid("callback_ca_file", format!("{}: {error}", file.display()))
            })?),
        };
        Ok(CallbackRules {
            plain_http: self.callback_plain_http,
            networks: networks("callback_networks", &self.callback_networks)?,
            attempts: self.callback_attempts,
            authorities,
            ..CallbackRules::default()
        })
    }

    /// How often an API key may ask.
    #[must_use]
    pub fn rate_limits(&self) -> RateLimits {
        RateLimits {
            reads: Rate { per_second: self.api_reads_per_second, burst: self.api_reads_burst },
            writes: Rate { per_second: self.api_writes_per_second, burst: self.api_writes_burst },
            ..RateLimits::default()
        }
    }

    /// How names are looked at.
    ///
    /// # Errors
    /// A text that is no address or no network.
    pub fn ownership(&self) -> Result<OwnershipRules, SettingsError> {
        let resolver = |text: &String| {
            let parsed = text.parse::<SocketAddr>();
            parsed.or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53))).map_err(
                |_| {
                    let problem = "must be addresses, e.g. [\"192.0.2.53\", \"[2001:db8::53]:5353\"]";
                    SettingsError::invalid("verification_resolvers", problem)
                },
            )
        };
        Ok(OwnershipRules {
            resolvers: self.verification_resolvers.iter().map(resolver).collect::<Result<_, _>>()?,
            networks: networks("verification_networks", &self.verification_networks)?,
            ..OwnershipRules::default()
        })
    }

    /// What sites may have at most.
    #[must_use]
    pub fn php_bounds(&self) -> Bounds {
        Bounds {
            upload_bytes: self.php_upload_bytes,
            request_seconds: self.php_request_seconds,
            memory_bytes: self.php_memory_bytes,
        }
    }

    /// The database.
    ///
    /// # Errors
    /// When the file with its connection string cannot be read, is open to others, or does not name a database.
    pub fn database(&self) -> Result<Database, SettingsError> {
        match &self.database_file {
            None => Ok(Database::Sqlite(self.data_dir.join("store.db"))),
            Some(file) => Self::database_in(file),
        }
    }

    /// The database that a file names.
    ///
    /// # Errors
    /// As for [`Settings::database`].
    pub fn database_in(file: &Path) -> Result<Database, SettingsError> {
        let wrong = |problem: String| SettingsError::invalid("database_file", &problem);
        let mode =
            std::fs::metadata(file).map_err(|error| wrong(format!("{}: {error}", file.display())))?.mode();
        if mode & 0o077 != 0 {
            return Err(wrong(format!("{} is open to others; chmod 600 it", file.display())));
        }
        let text = std::fs::read_to_string(file).map(Zeroizing::new);
        let text = text.map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        let url = text.trim().parse::<PostgresUrl>();
        url.map(Database::Postgres).map_err(|error| wrong(format!("{}: {error}", file.display())))
    }

    /// The key that seals the store's secrets. Back it up apart from the store.
    #[must_use]
    pub fn kek(&self) -> PathBuf {
        self.kek_file.clone().unwrap_or_else(|| self.data_dir.join("kek"))
    }

    /// What `--dump-config` prints: the settings, and as comments the paths that follow from them.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn dump(&self) -> Result<String, anyhow::Error> {
        Ok(format!(
            "{}# store: {}\n# key that seals its secrets: {}\n",
            config::dump(self)?,
            self.database()?,
            self.kek().display()
        ))
    }
}

/// Networks, or single addresses.
fn networks(setting: &'static str, texts: &[String]) -> Result<Vec<IpNet>, SettingsError> {
    let network = |text: &String| {
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        parsed.map(|network| network.trunc()).map_err(|_| {
            let problem = "must be networks or addresses, e.g. [\"10.0.0.0/8\", \"192.0.2.7\"]";
            SettingsError::invalid(setting, problem)
        })
    };
    texts.iter().map(network).collect()
}

/// The controller: takes intent over REST, stores it and streams it to the fleet
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "hosting-controller", version, after_help = EXAMPLES)]
pub struct Args {
    /// Layers below the flags.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Flags.
    #[command(flatten)]
    pub flags: Flags,
    /// Something else than running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the controller's program does beside running.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Copy the store away, put a copy back, or move it to PostgreSQL
    #[command(subcommand)]
    Store(StoreCommand),
}

/// What is done with the store.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum StoreCommand {
    /// Copy the store and its key into a new folder, while the controller runs
    Backup {
        /// The folder, which must not exist
        folder: PathBuf,
        /// Leave the key file out
        #[arg(long)]
        without_key: bool,
    },
    /// Put a backup in place of the store; the controller must be stopped
    Restore {
        /// The folder that `backup` wrote
        folder: PathBuf,
    },
    /// Copy a store in a SQLite file to PostgreSQL; the controller must be stopped
    Migrate {
        /// File with the connection string of a database without a store
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

const EXAMPLES: &str = "Examples:
  First start; the API key with all rights goes to a file that only its owner can read:
    hosting-controller --data-dir /var/lib/hosting/controller --bootstrap-key-file /root/hosting-admin.key
  What is in force, and is it sound:
    hosting-controller --config /etc/hosting/controller.toml --dump-config
    hosting-controller --config /etc/hosting/controller.toml --check-config

Every setting of --dump-config can stand in the file of --config, or in the environment as
HOSTING_CONTROLLER_<SETTING>.";

/// The settings that are worth a flag.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Flags {
    /// Folder for the store and the key that seals its secrets
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// File with the connection string of a PostgreSQL database for the store
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_file: Option<PathBuf>,
    /// Address of the REST API, /metrics, /healthz and /readyz
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Address of the feed
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed_listen: Option<SocketAddr>,
    /// What join tokens name as the feed; repeat it for several
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// File with an API key that has all rights; written unless it is there
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_key_file: Option<PathBuf>,
    /// Log filter, for example `info,hosting_feed=debug`
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How logs look
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn load(arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::load(&Args::parse_from(["hosting-controller"].iter().chain(arguments)))
    }

    #[test]
    fn a_dump_reads_back_and_nonsense_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("controller.toml");
        std::fs::write(&file, "log_revisions = 5000\n").unwrap();
        let settings = load(&["--config", file.to_str().unwrap(), "--listen", "127.0.0.1:1"]).unwrap();
        assert_eq!((settings.log_revisions, settings.listen.port()), (5000, 1));
        assert_eq!(toml::from_str::<Settings>(&settings.dump().unwrap()).unwrap(), settings);

        assert_eq!(settings.php_bounds(), Bounds::default());
        std::fs::write(&file, "php_request_seconds = 0\n").unwrap();
        let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.starts_with("php_request_seconds: "), "{error}");

        std::fs::write(&file, "node_certificate_hours = 1\n").unwrap();
        let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.starts_with("node_certificate_hours: "), "{error}");

        std::fs::write(&file, "trusted_proxies = [\"10.1.2.3/8\", \"2001:db8::7\"]\n").unwrap();
        let settings = load(&["--config", file.to_str().unwrap()]).unwrap();
        let networks: Vec<String> = settings.trusted().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "2001:db8::7/128"]);
        std::fs::write(&file, "callback_networks = [\"10.1.2.3/8\"]\ncallback_plain_http = true\n").unwrap();
        let rules = load(&["--config", file.to_str().unwrap()]).unwrap().callbacks().unwrap();
        assert_eq!((rules.networks[0].to_string().as_str(), rules.plain_http), ("10.0.0.0/8", true));
        for (wrong, setting) in [
            ("callback_networks = [\"crm.example\"]", "callback_networks: "),
            ("callback_ca_file = \"/nowhere/ca.pem\"", "callback_ca_file: /nowhere/ca.pem: "),
        ] {
            std::fs::write(&file, wrong).unwrap();
            let error =
                load(&["--config", file.to_str().unwrap()]).unwrap().callbacks().unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
        for (wrong, setting) in [
            ("callback_attempts = 0", "callback_attempts: "),
            ("job_retention_days = 0", "job_retention_days: "),
        ] {
            std::fs::write(&file, wrong).unwrap();
            let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
        for (wrong, setting) in [
            ("api_origins = [\"https://panel.example/\"]", "api_origins: "),
            ("api_origins = [\"*\"]", "api_origins: "),
            ("tls_key_file = \"/nowhere\"", "tls_certificate_file, tls_key_file: must be given together"),
            (
                "tls_certificate_file = \"/nowhere/a\"\ntls_key_file = \"/nowhere/b\"",
                "tls_certificate_file, tls_key_file: /nowhere/b: ",
            ),
            ("api_reads_burst = 0", "api_reads_burst, api_writes_burst: "),
        ] {
            std::fs::write(&file, wrong).unwrap();
            let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
        for wrong in ["0.0.0.0/0", "proxy.example", "10.0.0.0/33", ""] {
            std::fs::write(&file, format!("trusted_proxies = [\"{wrong}\"]\n")).unwrap();
            let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.starts_with("trusted_proxies: "), "{wrong}: {error}");
        }
    }
}
