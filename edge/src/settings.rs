//! What an operator can set: defaults < file < environment (`HOSTING_EDGE_*`) < flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hosting_edge_map::Balance;
use hosting_intent::limits;
use hosting_intent_sync::client::{identity_dir, ledger_file};
pub use hosting_scaffold::config::SettingsError;
use hosting_scaffold::config::{self, ConfigArgs, Layers};
pub(crate) use hosting_scaffold::role::ms;
pub use hosting_scaffold::role::{RoleFlags, RoleSettings};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::access_log::{Addresses, LogSettings};

/// Prefix of the environment variables.
const ENV_PREFIX: &str = "HOSTING_EDGE_";

/// Everything that can be set. Times are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Those of every role. In files and in the environment they stand beside the others.
    #[serde(skip)]
    pub shared: RoleSettings,
    /// Addresses for HTTP. An IPv6 one takes IPv6 only.
    pub http_listen: Vec<SocketAddr>,
    /// Addresses for HTTPS.
    pub https_listen: Vec<SocketAddr>,
    /// The port at which clients reach HTTPS, for redirects; 0: that of the first address in `https_listen`.
    pub https_port: u16,
    /// Serve HTTP/3, and tell clients of HTTPS so.
    pub http3: bool,
    /// UDP addresses for HTTP/3. Empty: those of HTTPS.
    pub http3_listen: Vec<SocketAddr>,
    /// The UDP port that clients are told, where it is not the one that is listened on. 0: the first listener's.
    pub http3_port: u16,
    /// Threads for user bytes; 0: one per core.
    pub threads: usize,
    /// Buckets of the FQDN map, rounded up to a power of two.
    pub map_buckets: usize,
    /// Networks of balancers in front: their connections must begin with a PROXY protocol header (version 1 or 2), and it says whose they
    /// are. From anywhere else such a header is no HTTP.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Networks of proxies in front whose `X-Forwarded-For`, `Forwarded` and `X-Forwarded-Proto` are believed.
    pub forwarded_from: Vec<IpNet>,
    /// Networks of clients that learn where a request went, and why, when they send `X-Edge-Map` with it.
    pub map_shown_to: Vec<IpNet>,
    /// Networks of clients whose `traceparent` is believed: they say which trace their requests belong to, and whether it is recorded. Those
    /// of others are replaced, once there is tracing at all.
    pub trace_context_from: Vec<IpNet>,
    /// Of the requests of all others, how many are recorded: from 0 (none) to 1 (all). Traces go to `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub trace_ratio: f64,
    /// Client connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Of these for one network (an IPv4 address, an IPv6 /64; four times as many for the /24 or /48 around it): more are
    /// closed at once. 0: a sixteenth of `max_connections`.
    pub max_connections_per_network: usize,
    /// TLS handshakes under way for one network, counted as connections are. 0: a quarter of what it may have of those.
    pub max_handshakes_per_network: usize,
    /// Bytes that the process may take, without the names and certificates that it knows: above it connections that are idle are closed,
    /// new ones refused, and those cut that hold most. Must be enough for what the other settings allow.
    pub memory_bytes: usize,
    /// Client connections that the kernel queues.
    pub backlog: i32,
    /// From the connection to the end of the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// From the first byte of a request to the end of its header.
    pub header_timeout_ms: u64,
    /// Largest request header in bytes.
    pub max_header_bytes: usize,
    /// A connection without a request.
    pub idle_timeout_ms: u64,
    /// Between two pieces of a request's body.
    pub body_timeout_ms: u64,
    /// A client that takes nothing of the response.
    pub write_timeout_ms: u64,
    /// An upgraded connection (WebSocket) on which nothing moves.
    pub upgrade_idle_timeout_ms: u64,
    /// HTTP/2 streams at once on a connection, and HTTP/3's requests.
    pub h2_max_streams: u32,
    /// Bytes that the large windows of all HTTP/2 and HTTP/3 connections may promise together; a connection that finds none left gets the
    /// protocol's default of 64 KiB, with which uploads over long ways are slow. One of HTTP/3 has them both ways, and takes two.
    pub h2_window_memory: usize,
    /// Serve a certificate to clients that send no name, or one in no route, in the TLS handshake; their Host field decides then.
    /// Off: they get an alert.
    pub default_certificate: bool,
    /// Connecting to a node.
    pub connect_timeout_ms: u64,
    /// A node that sends nothing.
    pub upstream_timeout_ms: u64,
    /// Idle connections to nodes are kept this long; less than the nodes' own limit.
    pub upstream_idle_timeout_ms: u64,
    /// Idle connections to nodes; those used last are kept. One to a node that shows which request it answers may serve every webroot,
    /// any other belongs to one webroot. From one address there are 28 000 connections to a node's port, and the kernel finds ports
    /// slowly when more than half of them are taken: raise this only with the number of nodes.
    pub upstream_pool: usize,
    /// The access log, a line of JSON for each request; relative: below the data folder. Empty: none.
    pub access_log: PathBuf,
    /// Bytes after which the access log's file becomes `FILE.1`, in place of the one before.
    pub access_log_bytes: u64,
    /// Of this many requests that went well (2xx to 4xx) one is written; all others are.
    pub access_log_every: u32,
    /// Whether the access log has addresses of clients in `full`, or only their `network` (IPv4 /24, IPv6 /48).
    pub access_log_addresses: Addresses,
    /// A node that refused a connection, or left requests of three tenants in a row unanswered, gets no requests for this long.
    pub eject_ms: u64,
    /// Between two questions to a node whether it is there: three without an answer take it out of rotation, two answers bring it back. 0: nobody
    /// is asked.
    pub node_check_interval_ms: u64,
    /// A node that does not answer such a question.
    pub node_check_timeout_ms: u64,
    /// Requests, and upgraded connections, under way at one node. A tenant may have half of what the nodes of its shard take.
    pub node_max_requests: usize,
    /// What a node may have of the average over its shard, in percent, before further requests for its hosts go to the next node.
    /// It has 64 requests under way before anybody counts.
    pub node_share_percent: usize,
    /// A node that came back gets its hosts one after another over this time.
    pub slow_start_ms: u64,
    /// Answers that may be compressed at once (about 1 MiB each); others are sent as they are.
    pub max_compressions: usize,
    /// Bytes that the cache holds, for names whose policy has one. 0: there is no cache.
    pub cache_bytes: usize,
    /// The most of these that one tenant has, in percent.
    pub cache_tenant_percent: usize,
    /// The crawlers that policies speak of: a file of JSON, read again when it changes; relative: below the data folder. Empty: those that the build
    /// knows by name.
    pub crawlers_file: PathBuf,
    /// In which country addresses are, for policies that ask: a file in MaxMind's format (.mmdb) with countries or cities; relative: below the
    /// data folder. It is read anew when it is replaced. Empty: none.
    pub countries_file: PathBuf,
    /// Requests of one shard that may wait for a place at a node when all are full; others get 503.
    pub max_waiting: usize,
    /// A request that waits for a place.
    pub wait_timeout_ms: u64,
    /// After another process took the sockets over: how long connections that are still here may go on, WebSockets above all. `SIGTERM`
    /// ends them sooner.
    pub take_over_drain_ms: u64,
    /// Before this process takes sockets over: how long it waits for the controller to say that its view is the newest. Then it goes
    /// on with what the ledger says, as any start without a controller does.
    pub take_over_wait_ms: u64,
    /// Certificates kept in the form that handshakes use (about 5 KiB each): of those that tenants brought so many, and so many that
    /// the development authority signed. Others are opened, or signed, by the handshake that asks for them, which takes it 30
    /// to 50 µs more, with an RSA key 300.
    pub certificate_cache: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let balance = Balance::default();
        Self {
            shared: RoleSettings::new("/var/lib/hosting/edge", 9101, 30_000, "info,pingora_core=error"),
            http_listen: vec![SocketAddr::from(([0, 0, 0, 0], 80)), SocketAddr::from(([0u16; 8], 80))],
            https_listen: vec![SocketAddr::from(([0, 0, 0, 0], 443)), SocketAddr::from(([0u16; 8], 443))],
            https_port: 0,
            http3: true,
            http3_listen: Vec::new(),
            http3_port: 0,
            threads: 0,
            map_buckets: 131_072,
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            map_shown_to: Vec::new(),
            trace_context_from: Vec::new(),
            trace_ratio: 0.0,
            max_connections: 50_000,
            max_connections_per_network: 0,
            max_handshakes_per_network: 0,
            memory_bytes: 6 * 1024 * 1024 * 1024,
            backlog: 4_096,
            handshake_timeout_ms: 10_000,
            header_timeout_ms: 10_000,
            max_header_bytes: limits::HEADER_BYTES,
            idle_timeout_ms: 60_000,
            body_timeout_ms: 60_000,
            write_timeout_ms: 60_000,
            upgrade_idle_timeout_ms: 3_600_000,
            h2_max_streams: 100,
            h2_window_memory: 256 * 1024 * 1024,
            default_certificate: true,
            connect_timeout_ms: 1_000,
            upstream_timeout_ms: 300_000,
            upstream_idle_timeout_ms: 45_000,
            upstream_pool: 12_288,
            access_log: PathBuf::from("access.log"),
            access_log_bytes: 256 * 1024 * 1024,
            access_log_every: 1,
            access_log_addresses: Addresses::Full,
            eject_ms: 3_000,
            node_check_interval_ms: 2_000,
            node_check_timeout_ms: 1_000,
            node_max_requests: balance.node_requests,
            node_share_percent: balance.share_percent,
            slow_start_ms: balance.slow_start,
            max_compressions: 256,
            cache_bytes: 64 * 1024 * 1024,
            cache_tenant_percent: 25,
            crawlers_file: PathBuf::new(),
            countries_file: PathBuf::new(),
            max_waiting: 1_024,
            wait_timeout_ms: 3_000,
            take_over_drain_ms: 600_000,
            take_over_wait_ms: 10_000,
            certificate_cache: 10_000,
        }
    }
}

impl Settings {
    /// Merges the layers and checks the outcome.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load(args: &Args) -> Result<Self, SettingsError> {
        let mut layers = Layers::new(ENV_PREFIX, args.config.config.as_deref(), &args.flags)?;
        let settings: Self = layers.part()?;
        let shared = layers.part_above(settings.shared.clone())?;
        layers.finish()?;
        let settings = Self { shared, ..settings };
        settings.check()?;
        Ok(settings)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn check(&self) -> Result<(), SettingsError> {
        let invalid = |setting, problem: &str| Err(SettingsError::invalid(setting, problem));
        if self.http_listen.is_empty() && self.https_listen.is_empty() {
            return invalid(
                "http_listen",
                "there is no address to serve on; give --http-listen or --https-listen",
            );
        }
        if self.max_connections == 0 {
            return invalid("max_connections", "must be at least 1");
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return invalid("trace_ratio", "must be from 0 to 1");
        }
        if self.node_max_requests == 0 {
            return invalid("node_max_requests", "must be at least 1");
        }
        if self.node_share_percent <= 100 {
            return invalid(
                "node_share_percent",
                "must be above 100: with the average alone no host could stay where it is",
            );
        }
        if self.node_check_interval_ms > 0 && self.node_check_timeout_ms == 0 {
            return invalid(
                "node_check_timeout_ms",
                "must not be 0; a node_check_interval_ms of 0 asks nobody",
            );
        }
        if self.cache_bytes > 0 && self.cache_bytes < 1024 * 1024 {
            return invalid("cache_bytes", "must be at least 1048576, or 0 for no cache");
        }
        if !(1..=100).contains(&self.cache_tenant_percent) {
            return invalid("cache_tenant_percent", "must be from 1 to 100; a cache_bytes of 0 is no cache");
        }
        if self.access_log_every == 0 {
            return invalid("access_log_every", "must be at least 1; an empty access_log writes none");
        }
        if self.max_header_bytes < 1024 {
            return invalid("max_header_bytes", "must be at least 1024: browsers send more than that");
        }
        if self.upstream_idle_timeout_ms == 0 || self.connect_timeout_ms == 0 || self.header_timeout_ms == 0 {
            return invalid(
                "connect_timeout_ms, header_timeout_ms, upstream_idle_timeout_ms",
                "must not be 0",
            );
        }
        Ok(())
    }

    /// How requests spread over nodes.
    #[must_use]
    pub fn balance(&self) -> Balance {
        Balance {
            node_requests: self.node_max_requests,
            share_percent: self.node_share_percent,
            slow_start: self.slow_start_ms,
            ..Balance::default()
        }
    }

    /// The UDP addresses for HTTP/3.
    #[must_use]
    pub fn http3_addresses(&self) -> &[SocketAddr] {
        match (self.http3, self.http3_listen.is_empty()) {
            (false, _) => &[],
            (true, true) => &self.https_listen,
            (true, false) => &self.http3_listen,
        }
    }

    /// How the access log is kept; `None`: not at all.
    #[must_use]
    pub fn access_log(&self) -> Option<LogSettings> {
        (!self.access_log.as_os_str().is_empty()).then(|| LogSettings {
            file: self.shared.data_dir.join(&self.access_log),
            bytes: self.access_log_bytes,
            every: self.access_log_every,
        })
    }

    /// Threads for user bytes.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }

    /// Where crawlers are listed; `None`: those of the build are known.
    #[must_use]
    pub fn crawlers_file(&self) -> Option<PathBuf> {
        (!self.crawlers_file.as_os_str().is_empty()).then(|| self.shared.data_dir.join(&self.crawlers_file))
    }

    /// Where countries of addresses are read; `None`: nowhere.
    #[must_use]
    pub fn countries_file(&self) -> Option<PathBuf> {
        let is_given = !self.countries_file.as_os_str().is_empty();
        is_given.then(|| self.shared.data_dir.join(&self.countries_file))
    }

    /// Connections that one network may have.
    #[must_use]
    pub fn per_network(&self) -> usize {
        match self.max_connections_per_network {
            0 => self.max_connections.div_ceil(16),
            given => given,
        }
    }

    /// TLS handshakes that one network may have under way.
    #[must_use]
    pub fn handshakes_per_network(&self) -> usize {
        match self.max_handshakes_per_network {
            0 => self.per_network().div_ceil(4),
            given => given,
        }
    }

    /// The port at which clients reach HTTPS; `None`: 443, which nobody has to write.
    pub(crate) fn public_https_port(&self) -> Option<u16> {
        let listened = || self.https_listen.first().map(SocketAddr::port);
        let port = if self.https_port == 0 { listened() } else { Some(self.https_port) };
        port.filter(|port| !matches!(port, 0 | 443))
    }

    /// The development authority's certificate, which clients may be told to trust.
    #[must_use]
    pub fn dev_ca(&self) -> PathBuf {
        self.shared.data_dir.join("dev-ca.pem")
    }

    /// Its key, readable by this process only.
    #[must_use]
    pub fn dev_ca_key(&self) -> PathBuf {
        self.shared.data_dir.join("dev-ca.key")
    }

    /// Last good state.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        ledger_file(&self.shared.data_dir)
    }

    /// The node's certificate and key for the feed.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        identity_dir(&self.shared.data_dir)
    }

    /// What `--dump-config` prints: the settings, and as comments the paths that follow from them.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn dump(&self) -> Result<String, anyhow::Error> {
        let say = |what: &str, path: &Path| format!("# {what}: {}\n", path.display());
        Ok(config::dump_parts(&self.shared, self)?
            + &say("development authority, to be trusted by test clients", &self.dev_ca())
            + &say("ledger", &self.ledger())
            + &say("identity", &self.identity()))
    }
}

/// The edge: takes requests for every site and passes them to the nodes that serve it
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "hosting-edge", version, after_help = EXAMPLES)]
pub struct Args {
    /// Layers below the flags.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How to start.
    #[command(flatten)]
    pub start: StartArgs,
    /// Flags.
    #[command(flatten)]
    pub flags: Flags,
}

/// How a process starts. No settings: they are said once, not kept.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct StartArgs {
    /// Replace the edge that runs with this data folder: take its sockets over when ready, so that no request fails
    #[arg(long)]
    pub take_over: bool,
    /// With --take-over: exit when the new process serves, and leave it running; fail if it does not come to that
    #[arg(long, requires = "take_over")]
    pub detach: bool,
}

const EXAMPLES: &str = "Examples:
  First start of a new edge, with the token that `hostctl node join-token edge-1` printed into a file:
    hosting-edge --controller controller.internal:7443 --join-token-file /etc/hosting/join-token
  On loopback, for trying it out:
    hosting-edge --data-dir var/edge --controller 127.0.0.1:7443 --http-listen 127.0.0.1:8080 --http-listen '[::1]:8080' \\
      --https-listen 127.0.0.1:8443 --admin-listen 127.0.0.1:9101
  Replace a running edge by this program, without losing a request:
    hosting-edge --config /etc/hosting/edge.toml --take-over --detach
  What is in force, and is it sound:
    hosting-edge --config /etc/hosting/edge.toml --dump-config
    hosting-edge --config /etc/hosting/edge.toml --check-config

Every setting of --dump-config can stand in the file of --config, or in the environment as HOSTING_EDGE_<SETTING>.";

/// The settings that are worth a flag.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Flags {
    /// Those of every role.
    #[command(flatten)]
    #[serde(flatten)]
    pub shared: RoleFlags,
    /// Address for HTTP; repeat it for several
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http_listen: Vec<SocketAddr>,
    /// Address for HTTPS; repeat it for several
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub https_listen: Vec<SocketAddr>,
    /// UDP address for HTTP/3, in place of those of HTTPS; repeat it for several
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http3_listen: Vec<SocketAddr>,
    /// Threads for user bytes (0: one per core)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn load(arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::load(&Args::parse_from(["hosting-edge"].iter().chain(arguments)))
    }

    #[test]
    fn flags_stand_above_the_file_and_a_dump_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.toml");
        std::fs::write(&file, "controller = [\"10.0.0.1:7443\"]\neject_ms = 7\nthreads = 3\n").unwrap();
        let file = file.to_str().unwrap();
        let settings = load(&[
            "--config",
            file,
            "--threads",
            "2",
            "--http-listen",
            "127.0.0.1:1",
            "--http-listen",
            "[::1]:1",
        ])
        .unwrap();
        assert_eq!((settings.eject_ms, settings.threads, settings.http_listen.len()), (7, 2, 2));
        let dump = settings.dump().unwrap();
        assert!(dump.contains("dev-ca.pem"), "{dump}");
        std::fs::write(file, dump).unwrap();
        assert_eq!(load(&["--config", file]).unwrap(), settings);
    }

    #[test]
    fn http3_is_served_where_https_is_unless_it_is_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.toml");
        let load = |text: &str, flags: &[&str]| {
            std::fs::write(&file, format!("controller = [\"c:1\"]\nhttps_listen = [\"[::1]:443\"]\n{text}"))
                .unwrap();
            let settings = load(&[&["--config", file.to_str().unwrap()], flags].concat()).unwrap();
            settings.http3_addresses().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(load("", &[]), ["[::1]:443"]);
        assert_eq!(load("http3_listen = [\"127.0.0.1:4\"]", &[]), ["127.0.0.1:4"]);
        assert_eq!(load("", &["--http3-listen", "127.0.0.1:5"]), ["127.0.0.1:5"]);
        assert!(load("http3 = false\nhttp3_listen = [\"127.0.0.1:4\"]", &[]).is_empty());
    }

    #[test]
    fn what_cannot_work_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.toml");
        std::fs::write(&file, "controller = [\"c:1\"]\nhttp_listen = []\nhttps_listen = []\n").unwrap();
        assert!(
            load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string().starts_with("http_listen: ")
        );
    }
}
