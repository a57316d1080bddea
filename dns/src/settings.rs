//! What an operator can set: defaults < file < environment (`HOSTING_DNS_*`) < flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hosting_intent_sync::client::{identity_dir, ledger_file};
pub use hosting_scaffold::config::SettingsError;
use hosting_scaffold::config::{self, ConfigArgs, Layers};
pub(crate) use hosting_scaffold::role::ms;
pub use hosting_scaffold::role::{RoleFlags, RoleSettings};
use serde::{Deserialize, Serialize};

/// Prefix of the environment variables.
pub const ENV_PREFIX: &str = "HOSTING_DNS_";

/// Most bytes of an answer over UDP that can be set; what a buffer holds.
pub const MAX_UDP_PAYLOAD: u16 = 4096;

/// Everything that can be set. Times are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Those of every role. In files and in the environment they stand beside the others.
    #[serde(skip)]
    pub shared: RoleSettings,
    /// Addresses for UDP and TCP. An IPv6 one takes IPv6 only. Answers leave from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// UDP threads per address; 0: one per core.
    pub threads: usize,
    /// Largest answer over UDP in bytes, 512 to 4096. 1232 passes every path unfragmented (RFC 9715).
    pub udp_payload: u16,
    /// Receive buffer of each UDP socket in bytes; the kernel cuts it to `net.core.rmem_max`.
    pub udp_receive_buffer: usize,
    /// Connections over TCP at once.
    pub tcp_max_connections: usize,
    /// Connections over TCP at once from one IPv4 address or one IPv6 /64. Loopback is exempt.
    pub tcp_max_per_client: usize,
    /// A connection that sends no whole query, or takes no answer, for this long is closed. At three quarters of
    /// `tcp_max_connections` it is a tenth of this.
    pub tcp_idle_timeout_ms: u64,
    /// Equal answers a second to one IPv4 /24 or IPv6 /56 over UDP; 0: without limit. Loopback is exempt.
    pub rate_limit: u32,
    /// Of the answers beyond the limit every how manyth goes out empty with the TC bit, so that a real client comes back over
    /// TCP; 0: none.
    pub rate_limit_slip: u32,
    /// The TCP port at which new addresses of a cluster are asked whether an edge is there, before more name servers give them out; 0: they
    /// are not asked.
    pub edge_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shared: RoleSettings::new("/var/lib/hosting/dns", 9102, 5_000, "info"),
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 53)), SocketAddr::from(([0u16; 8], 53))],
            threads: 0,
            udp_payload: 1232,
            udp_receive_buffer: 4 << 20,
            tcp_max_connections: 4096,
            tcp_max_per_client: 64,
            tcp_idle_timeout_ms: 10_000,
            rate_limit: 100,
            rate_limit_slip: 2,
            edge_port: 80,
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
        if self.listen.is_empty() {
            return invalid("listen", "there is no address to serve on; give --listen IP:PORT");
        }
        for (at, address) in self.listen.iter().enumerate() {
            if address.port() != 0 && self.listen.iter().take(at).any(|earlier| earlier == address) {
                return invalid("listen", &format!("{address} stands there twice"));
            }
        }
        if !(512..=MAX_UDP_PAYLOAD).contains(&self.udp_payload) {
            return invalid("udp_payload", "must be 512 to 4096 bytes");
        }
        if self.threads > 1024 {
            return invalid("threads", "must be at most 1024");
        }
        if self.tcp_max_connections == 0 || self.tcp_max_per_client == 0 {
            return invalid(
                "tcp_max_connections, tcp_max_per_client",
                "must be at least 1: DNS needs TCP (RFC 7766)",
            );
        }
        if self.tcp_idle_timeout_ms < 100 {
            return invalid("tcp_idle_timeout_ms", "must be at least 100");
        }
        if self.rate_limit > 1_000_000 {
            return invalid("rate_limit", "must be at most 1000000; 0 switches it off");
        }
        Ok(())
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

    /// UDP threads for each address.
    #[must_use]
    pub fn udp_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }

    /// What `--dump-config` prints: the settings, and as comments the paths that follow from them.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn dump(&self) -> Result<String, anyhow::Error> {
        let say = |what: &str, path: &Path| format!("# {what}: {}\n", path.display());
        Ok(config::dump_parts(&self.shared, self)?
            + &say("ledger", &self.ledger())
            + &say("identity", &self.identity()))
    }
}

/// The authoritative DNS server: answers for every zone of the platform
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "hosting-dns", version, after_help = EXAMPLES)]
pub struct Args {
    /// Layers below the flags.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Flags.
    #[command(flatten)]
    pub flags: Flags,
}

const EXAMPLES: &str = "Examples:
  First start of a new server, with the token that `hostctl node join-token dns-1` printed into a file:
    hosting-dns --controller controller.internal:7443 --join-token-file /etc/hosting/join-token
  On loopback, for trying it out:
    hosting-dns --data-dir var/dns --controller 127.0.0.1:7443 --listen 127.0.0.1:5353 --listen '[::1]:5353' \\
      --admin-listen 127.0.0.1:9102
    dig @127.0.0.1 -p 5353 www.example.com
  What is in force, and is it sound:
    hosting-dns --config /etc/hosting/dns.toml --dump-config
    hosting-dns --config /etc/hosting/dns.toml --check-config

Every setting of --dump-config can stand in the file of --config, or in the environment as HOSTING_DNS_<SETTING>.";

/// The settings that are worth a flag.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Flags {
    /// Those of every role.
    #[command(flatten)]
    #[serde(flatten)]
    pub shared: RoleFlags,
    /// Address for UDP and TCP; repeat it for several
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
    /// UDP threads per address (0: one per core)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Equal answers a second to one network over UDP (0: without limit)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// TCP port at which new addresses of a cluster are asked whether an edge is there (0: they are not)
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge_port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn load(arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::load(&Args::parse_from(["hosting-dns"].iter().chain(arguments)))
    }

    #[test]
    fn flags_stand_above_the_file_and_a_dump_reads_back() {
        Args::command().debug_assert();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dns.toml");
        std::fs::write(&file, "rate_limit = 7\nthreads = 3\n").unwrap();
        let file = file.to_str().unwrap();
        let settings =
            load(&["--config", file, "--threads", "2", "--listen", "127.0.0.1:1", "--listen", "[::1]:1"])
                .unwrap();
        assert_eq!((settings.rate_limit, settings.threads, settings.listen.len()), (7, 2, 2));
        std::fs::write(file, settings.dump().unwrap()).unwrap();
        assert_eq!(load(&["--config", file]).unwrap(), settings);
        assert_eq!(load(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn what_cannot_work_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dns.toml");
        for (text, setting) in [
            ("listen = []", "listen"),
            ("listen = [\"127.0.0.1:53\", \"127.0.0.1:53\"]", "listen"),
            ("udp_payload = 100", "udp_payload"),
            ("udp_payload = 9000", "udp_payload"),
            ("tcp_max_connections = 0", "tcp_max"),
            ("tcp_idle_timeout_ms = 1", "tcp_idle_timeout_ms"),
            ("rate_limit = 2000000", "rate_limit"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{text}: {error}");
        }
    }
}
