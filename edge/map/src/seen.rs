//! What a table has of a host, line by line: what an edge tells itself when it checks that what it applied is what it serves.
//!
//! The table writes what it has, the check writes what an intent wants; both by these functions alone.

use std::net::SocketAddr;

use hosting_intent::EdgeIntent;
use hosting_intent::message::{CachePurges, HttpPolicy, PoolNode, State};

use crate::policy::digest;

/// The host's own route, or the wildcard's that it falls under.
#[must_use]
pub fn route(name: &str) -> String {
    format!("route {name}")
}

pub(crate) fn tenant(id: &str) -> String {
    format!("tenant {id}")
}

pub(crate) fn suspended(suspended: bool) -> String {
    format!("suspended {suspended}")
}

/// The digest of the route's own policy.
pub(crate) fn policy(digest: Option<&str>) -> String {
    format!("policy {}", digest.unwrap_or("none"))
}

/// The digest of the tenant's policy.
pub(crate) fn tenant_policy(digest: Option<&str>) -> String {
    format!("tenant policy {}", digest.unwrap_or("none"))
}

/// The tenant's brand; nothing for a tenant of none.
pub(crate) fn brand(id: Option<&str>) -> String {
    format!("brand {}", id.filter(|id| !id.is_empty()).unwrap_or("none"))
}

/// The generation of the tenant's last purge.
pub(crate) fn purged(purges: Option<&CachePurges>) -> String {
    format!("purged {}", purges.map_or(0, |purges| purges.generation))
}

/// Webroot, shard, and whether the site may change the protocol of a connection.
pub(crate) fn site(site: Option<(&str, &str, bool)>) -> String {
    match site {
        Some((webroot, shard, may_upgrade)) => format!("site {webroot} in {shard} may_upgrade {may_upgrade}"),
        None => "site none".to_owned(),
    }
}

/// The pool of the host's shard with the number of its nodes, so that one too many shows.
pub(crate) fn pool(name: &str, nodes: usize) -> String {
    format!("pool {name} of {nodes}")
}

pub(crate) fn node(id: &str, addresses: &[String], in_service: bool) -> String {
    format!("node {id} at {} in_service {in_service}", addresses.join(","))
}

fn of(policy: Option<&HttpPolicy>) -> Option<String> {
    policy.map(digest)
}

/// The lines that a host shows when the intent is in effect for it; none for what no host shows.
#[must_use]
pub fn wanted(intent: &EdgeIntent) -> Vec<String> {
    match intent {
        EdgeIntent::Route(route) => {
            let bound = (!route.webroot_id.is_empty()).then_some((
                route.webroot_id.as_str(),
                route.shard_id.as_str(),
                route.may_upgrade,
            ));
            vec![tenant(&route.tenant_id), site(bound), policy(of(route.http.as_deref()).as_deref())]
        }
        EdgeIntent::TenantState(state) => {
            let digest = of(state.http.as_deref());
            vec![
                suspended(state.state() == State::Suspended),
                tenant_policy(digest.as_deref()),
                purged(state.purges.as_ref()),
                brand(Some(&state.brand_id)),
            ]
        }
        EdgeIntent::ShardPool(shard) => {
            let line = |one: &PoolNode| {
                let addresses = one.addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok());
                let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
                node(&one.node_id, &addresses, one.in_service && !addresses.is_empty())
            };
            std::iter::once(pool(&shard.name, shard.nodes.len()))
                .chain(shard.nodes.iter().map(line))
                .collect()
        }
        EdgeIntent::TrustRoots(_)
        | EdgeIntent::Brand(_)
        | EdgeIntent::EdgeCount(_)
        | EdgeIntent::AudienceKey(_)
        | EdgeIntent::Certificate(_)
        | EdgeIntent::AcmeChallenge(_)
        | EdgeIntent::TicketKeys(_)
        | EdgeIntent::EdgeSettings(_) => Vec::new(),
    }
}
