//! Where everything listens.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{args::UpArgs, folder::DataFolder, output};

/// Where free ports are looked for: below those that Linux gives to connections (`ip_local_port_range`), of which one could be in
/// the way when a child starts again.
const FREE: Range<u16> = 15_000..32_768;
/// Ports that are tried for each.
const TRIES: u32 = 1_000;

/// Every port that is listened on.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(super) struct Ports {
    pub api: u16,
    pub feed: u16,
    pub http: u16,
    pub https: u16,
    pub dns: u16,
    /// One for each web node.
    pub sites: Vec<u16>,
    /// Controller's is the API's own; edge, dns, then one for each web node.
    pub admin: Vec<u16>,
}

impl Ports {
    /// The ports that are asked for; with `--auto-ports` those of the last time, or free ones. All can be used now.
    ///
    /// Those of the last time are kept in the data folder, so that a second start finds the same addresses.
    pub(super) fn choose(data: &DataFolder, args: &UpArgs) -> anyhow::Result<Self> {
        if !args.auto_ports {
            let ports = Self::asked(args)?;
            let taken = ports.taken(args.address);
            if taken.is_empty() {
                return Ok(ports);
            }
            bail!(
                "{}; end what listens there, choose another port with the flag named, or let free ones be chosen with \
                 --auto-ports",
                taken.join("; ")
            );
        }
        let file = data.join("ports.json");
        let stored = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let nodes = usize::from(args.web_nodes);
        if let Some(ports) =
            stored.filter(|ports| ports.sites.len() == nodes && ports.admin.len() == nodes + 2)
        {
            let taken = ports.taken(args.address);
            if taken.is_empty() {
                return Ok(ports);
            }
            output::note(format!("  choosing ports anew: {}", taken.join("; ")));
        }
        let ports = Self::free(args)?;
        fs::write(&file, serde_json::to_vec(&ports)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(ports)
    }

    fn asked(args: &UpArgs) -> anyhow::Result<Self> {
        let some = |first: u16, count: u16, flag: &str| -> anyhow::Result<Vec<u16>> {
            let last = first
                .checked_add(count - 1)
                .with_context(|| format!("{flag} {first}: {count} ports are needed from there on"))?;
            Ok((first..=last).collect())
        };
        Ok(Self {
            api: args.api_port,
            feed: args.feed_port,
            http: args.http_port,
            https: args.https_port,
            dns: args.dns_port,
            sites: some(args.sites_port, args.web_nodes, "--sites-port")?,
            admin: some(args.admin_port, args.web_nodes + 2, "--admin-port")?,
        })
    }

    fn free(args: &UpArgs) -> anyhow::Result<Self> {
        // Held until all are chosen, so that no port is chosen twice.
        let mut held = Vec::new();
        let mut next = || -> anyhow::Result<u16> {
            for _ in 0..TRIES {
                let port = rand::random_range(FREE);
                if let Ok(listener) = TcpListener::bind((args.address, port))
                    && UdpSocket::bind((args.address, port)).is_ok()
                {
                    held.push(listener);
                    return Ok(port);
                }
            }
            bail!("{} has no free port from {} to {}", args.address, FREE.start, FREE.end - 1)
        };
        Ok(Self {
            api: next()?,
            feed: next()?,
            http: next()?,
            https: next()?,
            dns: next()?,
            sites: (0..args.web_nodes).map(|_| next()).collect::<Result<_, _>>()?,
            admin: (0..args.web_nodes + 2).map(|_| next()).collect::<Result<_, _>>()?,
        })
    }

    /// What cannot be listened on, each with its use, its flag and the reason.
    fn taken(&self, address: IpAddr) -> Vec<String> {
        let tcp = |port: u16| TcpListener::bind((address, port)).map(drop);
        let udp = |port: u16| UdpSocket::bind((address, port)).map(drop);
        let mut taken = Vec::new();
        let mut check = |what: &str, flag: &str, port: u16, outcome: io::Result<()>| {
            if let Err(error) = outcome {
                taken.push(format!("{what} ({flag}): {}: {error}", SocketAddr::new(address, port)));
            }
        };
        for (what, flag, port) in [
            ("API", "--api-port", self.api),
            ("feed", "--feed-port", self.feed),
            ("edge HTTP", "--http-port", self.http),
            ("edge HTTPS", "--https-port", self.https),
        ] {
            check(what, flag, port, tcp(port));
        }
        check("DNS", "--dns-port", self.dns, tcp(self.dns).and_then(|()| udp(self.dns)));
        for port in &self.sites {
            check("sites", "--sites-port", *port, tcp(*port));
        }
        for port in &self.admin {
            check("admin", "--admin-port", *port, tcp(*port));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(flags: &[&str]) -> UpArgs {
        let Command::Up(args) = Cli::parse_from(["hostctl", "up"].iter().chain(flags)).command else {
            panic!("no up")
        };
        args
    }

    #[test]
    fn everything_that_is_taken_is_named_with_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataFolder::open(dir.path()).unwrap();
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
        let ports = Ports::free(&args(&[])).unwrap();
        let flags = [
            format!("--api-port={}", api.local_addr().unwrap().port()),
            format!("--dns-port={}", dns.local_addr().unwrap().port()),
            format!("--feed-port={}", ports.feed),
            format!("--http-port={}", ports.http),
            format!("--https-port={}", ports.https),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let error = Ports::choose(&data, &args(&flags)).unwrap_err().to_string();
        for part in ["API (--api-port)", "DNS (--dns-port)", "--auto-ports"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("HTTPS"), "{error}");
    }

    #[test]
    fn chosen_ports_stay_unless_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataFolder::open(dir.path()).unwrap();
        let args = args(&["--auto-ports"]);
        let first = Ports::choose(&data, &args).unwrap();
        assert_eq!(Ports::choose(&data, &args).unwrap(), first);
        let held = TcpListener::bind(("127.0.0.1", first.https)).unwrap();
        let second = Ports::choose(&data, &args).unwrap();
        assert_ne!(second.https, first.https);
        drop(held);
        assert_eq!(Ports::choose(&data, &args).unwrap(), second);
    }

    #[test]
    fn ports_end_at_65535() {
        let error = Ports::asked(&args(&["--web-nodes=3", "--sites-port=65534"])).unwrap_err().to_string();
        assert!(error.contains("--sites-port"), "{error}");
        assert_eq!(Ports::asked(&args(&["--web-nodes=2", "--sites-port=65534"])).unwrap().sites.len(), 2);
    }
}
