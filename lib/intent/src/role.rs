//! What a node can be. Owns the one table that says what follows from a role: what its nodes subscribe to, by what they show
//! that an intent is in effect, whose lease puts them in service, which edge key they get.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Audience, AudienceError};

/// The group of brands and name servers that name none.
pub const DEFAULT_DNS_GROUP: &str = "default";

/// What the registry knows of a node and audiences follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts<'a> {
    /// Its id.
    pub id: &'a str,
    /// The cluster that it belongs to; empty: none.
    pub cluster_id: &'a str,
    /// Which brands' zones it serves; empty: [`DEFAULT_DNS_GROUP`].
    pub dns_group: &'a str,
}

/// By what a subscriber shows that an intent is in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// By the revision that it acknowledges: an applied intent is in effect.
    Acks,
    /// By a report for each key: what is applied still has to be made true on the machine.
    Reports,
}

/// Which edge key a subscriber gets with Welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeKeyGrant {
    /// None.
    Nothing,
    /// That of its cluster, from which it derives every node's.
    Cluster,
    /// Its own.
    Node,
}

/// What follows from a role that applies intents.
#[derive(Debug, Clone, Copy)]
pub struct RoleRules {
    audience: fn(&NodeFacts<'_>) -> Result<Audience, AudienceError>,
    /// Whether acknowledgements count or reports.
    pub progress: Progress,
    /// A node of several roles is in service while its subscription of the lowest rank has a lease.
    service_rank: u8,
    /// Its edge key.
    pub edge_key: EdgeKeyGrant,
}

macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident = $name:literal => $rules:expr;)*) => {
        /// What a node does, as the registry names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Role {
            $($(#[$doc])* $role,)*
        }

        impl Role {
            /// Every role, in the order in which operators are shown them.
            pub const ALL: &'static [Self] = &[$(Self::$role),*];
            /// The names of [`Role::ALL`].
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name in the registry, in join tokens and in certificates.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$role => $name,)* }
            }

            /// What its nodes subscribe with; `None`: they apply no intents.
            #[must_use]
            pub const fn rules(self) -> Option<RoleRules> {
                match self { $(Self::$role => $rules,)* }
            }
        }
    };
}

roles! {
    /// Serves sites.
    Web = "web" => Some(RoleRules {
        audience: |node| Audience::node(node.id),
        progress: Progress::Reports,
        service_rank: 0,
        edge_key: EdgeKeyGrant::Node,
    });
    /// Serves databases.
    Database = "database" => None;
    /// Answers DNS queries.
    Dns = "dns" => Some(RoleRules {
        audience: |node| Audience::dns(group_or_default(node.dns_group)),
        progress: Progress::Acks,
        service_rank: 2,
        edge_key: EdgeKeyGrant::Nothing,
    });
    /// Serves Valkey.
    Valkey = "valkey" => None;
    /// Serves mail.
    Email = "email" => None;
    /// Keeps files.
    Storage = "storage" => None;
    /// Serves database administration.
    DbAdmin = "dbadmin" => None;
    /// Takes visitors' requests to sites.
    Lb = "lb" => Some(RoleRules {
        audience: |node| Audience::edge(node.cluster_id),
        progress: Progress::Acks,
        service_rank: 1,
        edge_key: EdgeKeyGrant::Cluster,
    });
    /// Joins private networks.
    Gateway = "gateway" => Some(RoleRules {
        audience: |node| Audience::gateway(node.id),
        progress: Progress::Acks,
        service_rank: 3,
        edge_key: EdgeKeyGrant::Nothing,
    });
}

/// The group that a brand or name server means that names `group`.
#[must_use]
pub const fn group_or_default(group: &str) -> &str {
    if group.is_empty() { DEFAULT_DNS_GROUP } else { group }
}

impl Role {
    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.name() == name)
    }

    /// What a node of the role subscribes to; `None`: the role applies no intents, or the node has no id that an audience
    /// can hold (an edge of no cluster).
    #[must_use]
    pub fn audience(self, node: &NodeFacts<'_>) -> Option<Audience> {
        (self.rules()?.audience)(node).ok()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All that a node of `roles` subscribes to.
#[must_use]
pub fn audiences(roles: impl IntoIterator<Item = Role>, node: &NodeFacts<'_>) -> BTreeSet<Audience> {
    roles.into_iter().filter_map(|role| role.audience(node)).collect()
}

/// The audience whose lease decides whether a node of `roles` is in service; `None`: it applies no intents, so nothing can
/// tell.
#[must_use]
pub fn service_audience(roles: impl IntoIterator<Item = Role>, node: &NodeFacts<'_>) -> Option<Audience> {
    let ranked = |role: Role| Some((role.rules()?.service_rank, role.audience(node)?));
    roles.into_iter().filter_map(ranked).min().map(|(_, audience)| audience)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeFacts<'_> = NodeFacts { id: "n1", cluster_id: "c1", dns_group: "" };

    fn spelt(audiences: &BTreeSet<Audience>) -> Vec<String> {
        audiences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn roles_give_audiences_and_audiences_name_their_role() {
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()), Some(*role));
            assert_eq!(role.audience(&NODE).is_some(), role.rules().is_some());
            assert!(role.audience(&NODE).is_none_or(|audience| audience.role() == *role));
        }
        assert_eq!(Role::ALL.iter().map(|role| role.name()).collect::<Vec<_>>(), Role::NAMES);
        let all = audiences(Role::ALL.iter().copied(), &NODE);
        assert_eq!(spelt(&all), ["dns/default", "edge/c1", "gateway/n1", "node/n1"]);
        assert_eq!(spelt(&audiences([Role::Dns], &NodeFacts { dns_group: "eu", ..NODE })), ["dns/eu"]);
        assert!(audiences([Role::Lb], &NodeFacts { cluster_id: "", ..NODE }).is_empty());
        assert!(audiences([Role::Database, Role::Storage], &NODE).is_empty());
    }

    #[test]
    fn one_subscription_decides_whether_a_node_is_in_service() {
        let decides = |roles: &[Role]| service_audience(roles.iter().copied(), &NODE).map(|one| one.role());
        assert_eq!(decides(&[Role::Gateway, Role::Dns, Role::Lb, Role::Web]), Some(Role::Web));
        assert_eq!(decides(&[Role::Dns, Role::Lb]), Some(Role::Lb));
        assert_eq!(decides(&[Role::Gateway, Role::Dns]), Some(Role::Dns));
        assert_eq!(decides(&[Role::Database, Role::Gateway]), Some(Role::Gateway));
        assert_eq!(decides(&[Role::Database]), None);
        let no_cluster = NodeFacts { cluster_id: "", ..NODE };
        assert_eq!(service_audience([Role::Lb], &no_cluster), None);
    }
}
