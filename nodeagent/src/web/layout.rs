//! Where things lie on a web node and how it is set up: what every driver knows and nothing changes while the agent runs.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use hosting_agent_engine::{Place, Root, Secret};
use hosting_intent::limits;

use crate::roots::{Roots, SiteUser};

/// The node's set-up.
#[derive(Debug, Clone)]
pub struct Layout {
    /// This node's id, for `X-Served-By`.
    pub node_id: String,
    /// Absolute paths of the roots.
    pub roots: Roots,
    /// Where nginx listens for sites; at least one.
    pub listen: Vec<SocketAddr>,
    /// Networks (`address/bits`) of the edges, whose `X-Hosting-Host` and `X-Forwarded-*` headers are believed. None: who
    /// shows the edge key is an edge wherever it is, and without a key nobody is.
    pub edges: Vec<String>,
    /// nginx.
    pub nginx: PathBuf,
    /// nginx worker processes.
    pub workers: u32,
    /// What nginx allows.
    pub web: WebLimits,
    /// php-fpm by version (`8.2`).
    pub php: BTreeMap<String, PathBuf>,
    /// The user that sites run as; `None`: the agent's own.
    pub site_user: Option<SiteUser>,
    /// Whether sites run as root, which php-fpm must be told.
    pub sites_are_root: bool,
    /// What our own probes show to nginx.
    pub probe_token: Secret,
}

/// What nginx allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebLimits {
    /// Connections of each worker: of edges, idle ones among them, and those to sites' code. When few are left, nginx closes idle
    /// ones.
    pub connections: u32,
    /// Header fields of a request with its first line, and of an answer, in bytes.
    pub header_bytes: usize,
    /// A request's body, in bytes.
    pub body_bytes: u64,
    /// Bodies on disk at the same time for one site.
    pub uploads_per_site: u32,
    /// Bodies on disk at the same time for one visitor (an IPv4 address or an IPv6 /64), all sites together.
    pub uploads_per_visitor: u32,
    /// After a reload, requests under way go on for this long.
    pub shutdown_timeout: Duration,
    /// Workers of earlier configurations at the same time.
    pub old_workers: usize,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            header_bytes: limits::HEADER_BYTES,
            body_bytes: limits::BODY_BYTES,
            uploads_per_site: 64,
            uploads_per_visitor: 16,
            shutdown_timeout: Duration::from_secs(4 * 3600),
            old_workers: 64,
        }
    }
}

impl WebLimits {
    /// The same with no more connections than so many file handles of a worker are enough for, when some are left for files.
    #[must_use]
    pub fn within(self, handles: u64) -> Self {
        let most = u32::try_from(handles / 4 * 3).unwrap_or(u32::MAX);
        Self { connections: self.connections.min(most).max(512), ..self }
    }
}

/// The service name of nginx.
pub const NGINX: &str = "nginx";

/// Header that only our own probes know the value of.
pub const PROBE_HEADER: &str = "X-Hosting-Probe";

/// Path that answers a probe with the fingerprint of the configuration in force.
pub const PROBE_PATH: &str = "/.hosting/ready";

/// Script name that a pool answers a probe under.
pub const PING_PATH: &str = "/.hosting/ping";

/// What the names of a site's PHP-FPM masters begin with. Ids hold no dot, so no other site's do.
#[must_use]
pub fn php_services(webroot: &str) -> String {
    format!("{PHP_SERVICES}{webroot}.")
}

/// What the names of all PHP-FPM masters begin with.
pub const PHP_SERVICES: &str = "php-fpm.";

/// A site's server block.
#[must_use]
pub fn site_file(webroot: &str) -> Place {
    Place::new(Root::Config, ["nginx", "sites"]).child(format!("{webroot}.conf"))
}

/// Configuration of a site's PHP-FPM masters, one file each.
#[must_use]
pub fn php_folder(webroot: &str) -> Place {
    Place::new(Root::Config, ["php", webroot])
}

/// Where the sockets of PHP-FPM masters lie.
#[must_use]
pub fn php_sockets() -> Place {
    Place::new(Root::Run, ["php"])
}

/// The socket that nginx asks for a site: a link to that of the master in force.
#[must_use]
pub fn php_socket(webroot: &str) -> Place {
    php_sockets().child(format!("{webroot}.sock"))
}

/// Pages of our own.
#[must_use]
pub fn pages() -> Place {
    Place::new(Root::Run, ["nginx", "pages"])
}

/// A tenant's folder of logs.
#[must_use]
pub fn tenant_logs(tenant: &str) -> Place {
    Place::new(Root::Logs, [tenant])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_no_more_connections_than_they_have_handles_for() {
        let connections = |handles| WebLimits::default().within(handles).connections;
        assert_eq!((connections(u64::MAX), connections(20_000), connections(4_096)), (16_384, 15_000, 3_072));
        assert_eq!(connections(64), 512);
    }
}
