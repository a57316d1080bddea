//! The closed list of kinds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{KindDef, KindInfo};

/// A resource kind. Everything that differs between kinds is in its own file below `kinds/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A hosting company's brand: its tenants share name servers and host names.
    Brand,
    /// A place with clusters in it.
    Region,
    /// Shards and nodes that work together.
    Cluster,
    /// A load-balancer address of a cluster: the target of automatic A and AAAA records.
    LbAddress,
    /// Nodes of one role that hold the same tenants.
    Shard,
    /// A machine.
    Node,
    /// A customer's account.
    Tenant,
    /// A grouping of a tenant's resources for billing.
    Subscription,
    /// A site.
    Webroot,
    /// A host name of a tenant, bound to a webroot or not.
    Fqdn,
    /// A DNS zone.
    Zone,
    /// A record of a zone.
    ZoneRecord,
    /// A key to the API.
    ApiKey,
}

impl Kind {
    /// All kinds, parents before children.
    pub const ALL: &'static [Self] = &[
        Self::Brand,
        Self::Region,
        Self::Cluster,
        Self::LbAddress,
        Self::Shard,
        Self::Node,
        Self::Tenant,
        Self::Subscription,
        Self::Webroot,
        Self::Fqdn,
        Self::Zone,
        Self::ZoneRecord,
        Self::ApiKey,
    ];

    /// The name in stores, audit rows and messages: `zone_record`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brand => "brand",
            Self::Region => "region",
            Self::Cluster => "cluster",
            Self::LbAddress => "lb_address",
            Self::Shard => "shard",
            Self::Node => "node",
            Self::Tenant => "tenant",
            Self::Subscription => "subscription",
            Self::Webroot => "webroot",
            Self::Fqdn => "fqdn",
            Self::Zone => "zone",
            Self::ZoneRecord => "zone_record",
            Self::ApiKey => "api_key",
        }
    }

    /// What it means: validation, index rows, rendering.
    #[must_use]
    pub fn def(self) -> &'static dyn KindDef {
        crate::kinds::def(self)
    }

    /// Its routes, codes and lists.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        self.def().info()
    }

    /// The inverse of [`Kind::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
