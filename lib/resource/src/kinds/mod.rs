//! One file per kind. Adding a kind: its file, and one line in [`kinds!`] below.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::definition::Erased;
use crate::{KindDef, KindInfo};

/// Makes the modules, the enum and the table from one list: documentation, `Variant = module`.
macro_rules! kinds {
    ($($(#[$about:meta])* $kind:ident = $module:ident,)*) => {
        $(pub mod $module;)*

        /// A resource kind. Everything that differs between kinds is in its own file below `kinds/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$about])* $kind,)*
        }

        impl Kind {
            /// All kinds, parents before children.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name in stores, audit rows and messages: `zone_record`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($module),)*
                }
            }
        }

        /// In the order of [`Kind::ALL`].
        const TABLE: &[&dyn KindDef] = &[$(&Erased::<$module::$kind>(PhantomData),)*];
    };
}

kinds! {
    /// A hosting company's brand: its tenants share name servers and host names.
    Brand = brand,
    /// A named set of limits of a brand.
    Package = package,
    /// A place with clusters in it.
    Region = region,
    /// Shards and nodes that work together.
    Cluster = cluster,
    /// A load-balancer address of a cluster: the target of automatic A and AAAA records.
    LbAddress = lb_address,
    /// Nodes of one role that hold the same tenants.
    Shard = shard,
    /// A machine.
    Node = node,
    /// A customer's account.
    Tenant = tenant,
    /// A grouping of a tenant's resources for billing.
    Subscription = subscription,
    /// A site.
    Webroot = webroot,
    /// A host name of a tenant, bound to a webroot or not.
    Fqdn = fqdn,
    /// A certificate for a host name, with its private key.
    Certificate = certificate,
    /// A public certificate authority that names get certificates of.
    CertificateAuthority = certificate_authority,
    /// A DNS zone.
    Zone = zone,
    /// A record of a zone.
    ZoneRecord = zone_record,
    /// A receiver outside that is told what becomes of resources.
    Webhook = webhook,
    /// A named set of scopes of API keys.
    Role = role,
    /// A key to the API.
    ApiKey = api_key,
}

impl Kind {
    /// What it means: validation, index rows, rendering.
    #[must_use]
    pub fn def(self) -> &'static dyn KindDef {
        TABLE[self as usize]
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

/// The roles of nodes and shards.
pub const ROLES: &[&str] = hosting_intent::Role::NAMES;

fn role_filter(
    field: &'static str,
    given: &str,
    _: Option<&crate::Resource>,
) -> Result<String, crate::SpecError> {
    crate::check::one_of(field, given, ROLES).map(|()| given.to_owned())
}

fn default_group() -> String {
    hosting_intent::DEFAULT_DNS_GROUP.to_owned()
}

#[cfg(test)]
pub(crate) mod tests;
