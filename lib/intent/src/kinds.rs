//! The one table of intent kinds: which roles take a kind, how its bytes are checked, when putting it into effect takes
//! something away, whether it holds secrets. A kind of the protocol that is missing here does not build; a role's own intents that do not agree with
//! the table fail a test ([`crate::RoleIntent`]).

use crate::message::{self as m, State};
use crate::{Key, Kind, MAX_VALUE_BYTES, Rejection, Role, kind_name, parse};

/// What the table says of a kind, by its message.
pub(crate) trait TakesAway {
    /// See [`Intent::takes_away`].
    fn takes_away(&self) -> bool;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: [$($role:ident),*], $check:path, $takes_away:expr $(, $sealed:ident)?;)*) => {
        /// An intent that passed every check that can be made without knowing the others.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Intent {
            $($(#[$doc])* $kind(m::$kind),)*
        }

        /// The kinds that this build knows, in ascending order of number.
        pub const KNOWN_KINDS: &[Kind] = &[$(Kind::$kind),*];

        /// The kinds whose intents may hold [`m::Sealed`] values, in ascending order of number: what is planned anew when the key of an
        /// audience is renewed.
        pub const SEALED_KINDS: &[Kind] = &[$($({
            let _ = stringify!($sealed);
            Kind::$kind
        },)?)*];

        $(impl TakesAway for m::$kind {
            fn takes_away(&self) -> bool {
                let takes_away: fn(&Self) -> bool = $takes_away;
                takes_away(self)
            }
        })*

        /// The roles whose nodes apply a kind.
        #[must_use]
        pub const fn roles_of(kind: Kind) -> &'static [Role] {
            match kind {
                Kind::Unspecified => &[],
                $(Kind::$kind => &[$(Role::$role),*],)*
            }
        }

        impl Intent {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Decodes and checks one item.
            ///
            /// # Errors
            /// [`Rejection::UnknownKind`] for a kind from a newer controller, else which field is wrong and why.
            pub fn parse(key: &Key, value: &[u8]) -> Result<Self, Rejection> {
                let unknown = || Rejection::UnknownKind(kind_name(key.kind));
                let kind = key.known_kind().ok_or_else(unknown)?;
                if value.len() > MAX_VALUE_BYTES {
                    let problem = format!("{} bytes; at most {MAX_VALUE_BYTES}", value.len());
                    return Err(Rejection::Invalid { field: "value", problem });
                }
                match kind {
                    Kind::Unspecified => Err(unknown()),
                    $(Kind::$kind => $check(&key.name, value).map(Self::$kind),)*
                }
            }

            /// Whether putting this into effect stops serving something, or destroys it: a suspended tenant, a pool without
            /// a node in service, an address set without addresses, a [`Intent::Retire`]. Without a person's cause the brake
            /// counts it like a removal.
            #[must_use]
            pub fn takes_away(&self) -> bool {
                match self { $(Self::$kind(message) => message.takes_away(),)* }
            }
        }
    };
}

kinds! {
    /// Certificate authorities to trust.
    TrustRoots: [Web, Dns, Lb, Gateway], parse::trust_roots, |_| false;
    /// Whether a tenant is served.
    TenantState: [Web, Lb], parse::tenant_state, |tenant| tenant.state() == State::Suspended;
    /// FQDN to site.
    Route: [Lb], parse::route, |_| false;
    /// A shard's nodes.
    ShardPool: [Lb], parse::shard_pool, |pool| !pool.nodes.iter().any(|node| node.in_service);
    /// A version of the audience's key, sealed to one of its subscribers.
    AudienceKey: [Web, Dns, Lb, Gateway], parse::audience_key, |_| false;
    /// A tenant's certificate with its private key.
    Certificate: [Lb], parse::certificate, |_| false, sealed;
    /// What all edges of a cluster do alike.
    EdgeSettings: [Lb], parse::edge_settings, |_| false;
    /// What an edge answers a certificate authority about a host.
    AcmeChallenge: [Lb], parse::acme_challenge, |_| false;
    /// What session tickets are sealed with.
    TicketKeys: [Lb], parse::ticket_keys, |_| false, sealed;
    /// A zone's apex.
    Zone: [Dns], parse::zone, |_| false;
    /// One RRset.
    RrSet: [Dns], parse::rr_set, |_| false;
    /// A cluster's load-balancer addresses.
    AddressSet: [Dns], parse::address_set, |set| set.ipv4.is_empty() && set.ipv6.is_empty();
    /// Added to every zone's serial.
    SerialOffset: [Dns], parse::serial_offset, |_| false;
    /// What holds for all tenants of a brand.
    Brand: [Lb], parse::brand, |_| false;
    /// How many edges there are in service.
    EdgeCount: [Lb], parse::edge_count, |_| false;
    /// A tenant on a node.
    Tenant: [Web], parse::tenant, |tenant| tenant.state() == State::Suspended;
    /// A site on a node.
    Webroot: [Web], parse::webroot, |_| false, sealed;
    /// Data to destroy.
    Retire: [Web], parse::retire, |_| true;
}

/// The kinds of which a client of their subscribers' listeners sees whether they are in effect: what edges and name servers ask themselves for,
/// and what served receipts speak of.
pub const SEEN_KINDS: &[Kind] = &[
    Kind::TenantState,
    Kind::Route,
    Kind::ShardPool,
    Kind::Certificate,
    Kind::AcmeChallenge,
    Kind::Zone,
    Kind::RrSet,
    Kind::AddressSet,
];

/// The kinds that many sites share: a change of one of their items reaches all of them, and goes out in steps.
pub const SHARED_KINDS: &[Kind] =
    &[Kind::ShardPool, Kind::EdgeSettings, Kind::AddressSet, Kind::SerialOffset, Kind::Brand];

/// What a [`Intent::Retire`] destroys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// All data of a tenant.
    Tenant,
    /// The data of one site.
    Webroot,
}

impl Retired {
    /// What `retire` speaks of; `None` for a kind that holds no data, which no checked intent has.
    #[must_use]
    pub const fn of(retire: &m::Retire) -> Option<Self> {
        const TENANT: i32 = Kind::Tenant as i32;
        const WEBROOT: i32 = Kind::Webroot as i32;
        match retire.kind {
            TENANT => Some(Self::Tenant),
            WEBROOT => Some(Self::Webroot),
            _ => None,
        }
    }

    /// The kind of what is destroyed.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Tenant => Kind::Tenant,
            Self::Webroot => Kind::Webroot,
        }
    }
}
