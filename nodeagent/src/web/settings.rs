//! What an operator of a web node can set.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hosting_agent_engine::Secret;
use serde::{Deserialize, Serialize};

use super::{
    layout::{Layout, WebLimits},
    render::nginx::network,
};
use crate::{
    role::Node,
    settings::{self, SettingsError, absolute, invalid},
};

/// Settings of the role. Times are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Where nginx listens for the edges.
    pub listen: Vec<SocketAddr>,
    /// Addresses or networks of the edges: only they are believed when they name the visitor's host and address. Empty: who
    /// shows the key that the controller gave to edges is one, wherever it is; as long as there is no key, nobody is.
    pub edge: Vec<String>,
    /// The nginx program. Default: the one in the usual places.
    pub nginx: Option<PathBuf>,
    /// nginx worker processes.
    pub workers: u32,
    /// Header fields of a request with its first line, and of an answer, in bytes; the edges' `max_header_bytes`.
    pub max_header_bytes: usize,
    /// Requests with a body larger than 64 KiB that one site may receive at the same time: each lies on disk.
    pub uploads_per_site: u32,
    /// The same for one visitor (an IPv4 address or an IPv6 /64), all sites together.
    pub uploads_per_visitor: u32,
    /// Answers under way go on for this long after nginx took in a change.
    pub shutdown_timeout_ms: u64,
    /// nginx workers of earlier configurations, with answers under way, at the same time. Changes are taken in the less
    /// often the more there are, and wait when this many are left.
    pub old_workers: usize,
    /// php-fpm programs by version. Empty: those in the usual places.
    pub php: BTreeMap<String, PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let web = WebLimits::default();
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 80)), SocketAddr::from(([0u16; 8], 80))],
            edge: Vec::new(),
            nginx: None,
            workers: 2,
            max_header_bytes: web.header_bytes,
            uploads_per_site: web.uploads_per_site,
            uploads_per_visitor: web.uploads_per_visitor,
            shutdown_timeout_ms: u64::try_from(web.shutdown_timeout.as_millis()).unwrap_or(u64::MAX),
            old_workers: web.old_workers,
            php: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.listen.is_empty() {
            return Err(invalid("listen", "there is no address to serve on; give --listen IP:PORT"));
        }
        for (at, address) in self.listen.iter().enumerate() {
            if address.port() == 0 {
                return Err(invalid(
                    "listen",
                    format!("{address}: edges must know the port; it cannot be 0"),
                ));
            }
            if self.listen.iter().take(at).any(|earlier| earlier == address) {
                return Err(invalid("listen", format!("{address} stands there twice")));
            }
        }
        for edge in &self.edge {
            network(edge).map_err(|bad| invalid("edge", bad.problem))?;
        }
        if !(1..=64).contains(&self.workers) {
            return Err(invalid("workers", "must be 1 to 64"));
        }
        if !(1024..=256 * 1024).contains(&self.max_header_bytes) {
            return Err(invalid("max_header_bytes", "must be 1024 to 262144"));
        }
        for (setting, value, most) in [
            ("uploads_per_site", u64::from(self.uploads_per_site), 10_000),
            ("uploads_per_visitor", u64::from(self.uploads_per_visitor), 10_000),
            ("old_workers", self.old_workers as u64, 1024),
        ] {
            if !(1..=most).contains(&value) {
                return Err(invalid(setting, format!("must be 1 to {most}")));
            }
        }
        if self.shutdown_timeout_ms < 1_000 {
            return Err(invalid("shutdown_timeout_ms", "must be at least 1000"));
        }
        Ok(())
    }

    fn nginx_program(&self) -> Result<PathBuf, SettingsError> {
        if let Some(given) = &self.nginx {
            return if given.is_file() {
                Ok(absolute(given))
            } else {
                Err(invalid("nginx", format!("{}: no such file", given.display())))
            };
        }
        FOLDERS.iter().map(|folder| Path::new(folder).join("nginx")).find(|path| path.is_file()).ok_or_else(
            || invalid("nginx", "is not installed; install it (apt-get install nginx) or give --nginx PATH"),
        )
    }

    fn php_programs(&self) -> Result<BTreeMap<String, PathBuf>, SettingsError> {
        if !self.php.is_empty() {
            return match self.php.iter().find(|(_, path)| !path.is_file()) {
                Some((version, path)) => {
                    Err(invalid("php", format!("{version}: {}: no such file", path.display())))
                }
                None => {
                    Ok(self.php.iter().map(|(version, path)| (version.clone(), absolute(path))).collect())
                }
            };
        }
        let mut found = BTreeMap::new();
        for folder in FOLDERS {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(version) = name.to_str().and_then(|name| name.strip_prefix("php-fpm")) else {
                    continue;
                };
                let is_version = version.split_once('.').is_some_and(|(major, minor)| {
                    [major, minor]
                        .iter()
                        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
                });
                if is_version {
                    found.entry(version.to_owned()).or_insert_with(|| entry.path());
                }
            }
        }
        Ok(found)
    }
}

/// The node's set-up, as far as this machine allows it.
pub(super) fn layout(
    settings: &settings::Settings,
    node: &Node,
    probe_token: Secret,
) -> Result<Layout, SettingsError> {
    let web = &settings.roles.web;
    Ok(Layout {
        node_id: node.id.clone(),
        sites_are_root: node.site_user.as_ref().is_some_and(|user| user.uid == 0),
        site_user: node.site_user.clone(),
        roots: node.roots.clone(),
        listen: web.listen.clone(),
        edges: web.edge.clone(),
        nginx: web.nginx_program()?,
        workers: web.workers,
        web: WebLimits {
            header_bytes: web.max_header_bytes,
            uploads_per_site: web.uploads_per_site,
            uploads_per_visitor: web.uploads_per_visitor,
            shutdown_timeout: Duration::from_millis(web.shutdown_timeout_ms),
            old_workers: web.old_workers,
            ..WebLimits::default()
        },
        php: web.php_programs()?,
        probe_token,
    })
}

/// Whether the machine has what the settings name.
pub(super) fn check(settings: &settings::Settings) -> Result<(), SettingsError> {
    let web = &settings.roles.web;
    web.nginx_program()?;
    web.php_programs()?;
    settings.site_user().map(drop)
}

pub(super) fn remarks(settings: &settings::Settings) -> Vec<String> {
    let programs = settings.roles.web.php_programs().unwrap_or_default();
    programs.iter().map(|(version, path)| format!("php-fpm {version}: {}", path.display())).collect()
}

const FOLDERS: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// The settings that are worth a flag.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[group(id = "web")]
pub struct Flags {
    /// Address where nginx listens for the edges; repeat it for several
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
    /// Address or network of edges, whose word on the visitor is believed; repeat it for several
    #[arg(long, value_name = "IP[/BITS]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edge: Vec<String>,
    /// The nginx program
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nginx: Option<PathBuf>,
    /// A php-fpm program with its version; repeat it for several
    #[arg(long, value_name = "VERSION=FILE", value_parser = php_program)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub php: Vec<(String, PathBuf)>,
}

fn php_program(text: &str) -> Result<(String, PathBuf), String> {
    let (version, path) =
        text.split_once('=').ok_or("write it as VERSION=FILE, for example 8.2=/usr/sbin/php-fpm8.2")?;
    Ok((version.to_owned(), PathBuf::from(path)))
}

fn as_map<S: serde::Serializer>(pairs: &[(String, PathBuf)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(version, path)| (version, path)))
}
