//! What planning reads and what it answers.

use async_trait::async_trait;
use hosting_intent::{Audience, AudienceError, Bytes, Cause, Key};
use hosting_resource::{Kind, Resource};

/// A read failed. The planner only passes it on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorldError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A stored id that no audience can hold.
impl From<AudienceError> for WorldError {
    fn from(error: AudienceError) -> Self {
        Self(Box::new(error))
    }
}

/// One row of the current intents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentRow {
    /// Who applies it.
    pub audience: Audience,
    /// What it speaks of.
    pub key: Key,
    /// The revision at which it last changed.
    pub revision: u64,
    /// The planning unit that wants it ([`Unit::owner`]).
    pub owner: String,
    /// The encoded message.
    pub value: Bytes,
}

/// Reads of one consistent state: the write transaction under the head lock, or a read snapshot.
///
/// Lists come in ascending id order, at most `limit` rows with an id above `after`.
#[async_trait]
pub trait World: Send {
    /// A resource by id, of whatever kind; `None` when there is none.
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError>;

    /// Resources of `kind` whose parent is `parent`.
    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError>;

    /// The holder of a unique name.
    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError>;

    /// Resources of `kind` that refer to `to` by `relation`.
    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError>;

    /// Resources of `kind` with a facet value.
    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError>;

    /// Current intents that a planning unit owns, by audience and key.
    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError>;

    /// One current intent.
    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError>;

    /// Current intents of an audience in key order (kind, name), after `after`.
    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError>;

    /// A counter of the cell (`tenant_uid`, `dns_serial_offset`, ...), 0 when never set.
    async fn counter(&mut self, name: &str) -> Result<u64, WorldError>;

    /// All resources of `kind`, whatever their parent. For the few kinds that a cell has few of, and for repair.
    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError>;

    /// The oldest units of the replan queue ([`Change::replan`]), in the order they were queued.
    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError>;

    /// Certificate authorities (DER) that every audience is told to trust. Empty: somebody else writes those rows, and
    /// planning leaves them as they are.
    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        Ok(Vec::new())
    }
}

/// Why a change cannot be written. The caller rolls the savepoint back: nothing is half applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else holds a unique name.
    #[error("{kind} {}{key:?} is already taken", if kind.name() == *field { String::new() } else { format!("{field} ") })]
    Taken {
        /// The kind that was to be written.
        kind: Kind,
        /// The field that holds the name.
        field: &'static str,
        /// The name.
        key: String,
    },
    /// A resource that is to go is still referred to, or has children.
    #[error("{id} is still used by {kind} {by}")]
    InUse {
        /// What was to be removed.
        id: String,
        /// What uses it.
        kind: Kind,
        /// Which one.
        by: String,
    },
    /// A reference to nothing.
    #[error("{field}: there is no {kind} {id:?}")]
    NoSuch {
        /// The field that holds the reference.
        field: &'static str,
        /// The kind referred to.
        kind: Kind,
        /// The id that does not exist.
        id: String,
    },
    /// More rows than one transaction may write (1 000).
    #[error("the change writes {0} rows; at most 1000 fit in one transaction")]
    TooLarge(usize),
    /// The store failed.
    #[error(transparent)]
    World(#[from] WorldError),
}

/// The write transaction, under the head lock. What [`Draft::apply`] wrote, later reads of the same draft see.
#[async_trait]
pub trait Draft: World {
    /// The revision that this draft commits at.
    fn revision(&self) -> u64;

    /// Milliseconds since the Unix epoch, the same for the whole draft.
    fn now(&self) -> i64;

    /// W3C traceparent of the request behind the draft; empty when there is none.
    fn traceparent(&self) -> &str {
        ""
    }

    /// Whether a platform admin's key asked for it, and may have what other keys may not.
    fn by_admin(&self) -> bool {
        false
    }

    /// Writes a part of the change. May be called several times; all of it carries one revision.
    async fn apply(&mut self, change: Change) -> Result<(), ApplyError>;
}

/// What is planned on its own: its desired intents are compared with the rows it owns, whatever else changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Trust roots and the like, for one audience.
    Audience(Audience),
    /// A cluster's address set and serial offset.
    Cluster(String),
    /// A shard's pool on the edges.
    Shard(String),
    /// A tenant's state on edges and nodes, and its directories.
    Tenant(String),
    /// A site on its nodes.
    Webroot(String),
    /// A host name's route.
    Fqdn(String),
    /// A zone's apex.
    Zone(String),
    /// The records of one name and type.
    RrSet {
        /// Zone id (not name: a new zone of the same name is another owner).
        zone: String,
        /// Absolute owner name, lower case, no trailing dot.
        name: String,
        /// Type mnemonic.
        record_type: String,
    },
    /// Data to destroy: rows of a node that outlive their resource.
    Retire(String),
    /// No unit of its own: a place in a walk over many, for the replan queue only. Each step plans a bounded number of
    /// units and queues the place where the next step goes on, so that a walk over a million outlives any crash.
    Walk {
        /// What is walked over.
        over: Walk,
        /// Where it starts: an id, or a zone name for [`Walk::NamesUnder`].
        of: String,
        /// The last id that is done; empty at the start.
        after: String,
        /// Why; handed on to the intents that the walk changes.
        cause: Cause,
    },
}

/// The walks that one changed resource can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Walk {
    /// The apexes of a brand's zones.
    BrandZones,
    /// The RRsets of a zone.
    ZoneRecords,
    /// The tenants of a shard, and from each its sites.
    ShardTenants,
    /// The sites of a tenant.
    TenantSites,
    /// The tenants of a cluster, and from each its names.
    ClusterTenants,
    /// The tenants of a brand, and from each its names.
    BrandTenants,
    /// The host names of a tenant, for their automatic records.
    TenantNames,
    /// The service host names of a tenant's sites.
    TenantServices,
    /// The host names at or below a zone name, whoever has them, for their automatic records.
    NamesUnder,
    /// Whatever owns a row of a node. The place is the row's key.
    NodeRows,
    /// The host names bound to a site.
    WebrootFqdns,
    /// All clusters' address sets.
    Clusters,
    /// All groups of name servers.
    DnsGroups,
    /// No walk: one unit that waits with its cause. The place is its owner ([`Unit::owner`]).
    Unit,
}

impl Walk {
    const ALL: &'static [Self] = &[
        Self::BrandZones,
        Self::ZoneRecords,
        Self::ShardTenants,
        Self::TenantSites,
        Self::ClusterTenants,
        Self::BrandTenants,
        Self::TenantNames,
        Self::TenantServices,
        Self::NamesUnder,
        Self::NodeRows,
        Self::WebrootFqdns,
        Self::Clusters,
        Self::DnsGroups,
        Self::Unit,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::BrandZones => "brand_zones",
            Self::ZoneRecords => "zone_records",
            Self::ShardTenants => "shard_tenants",
            Self::TenantSites => "tenant_sites",
            Self::ClusterTenants => "cluster_tenants",
            Self::BrandTenants => "brand_tenants",
            Self::TenantNames => "tenant_names",
            Self::TenantServices => "tenant_services",
            Self::NamesUnder => "names_under",
            Self::NodeRows => "node_rows",
            Self::WebrootFqdns => "webroot_fqdns",
            Self::Clusters => "clusters",
            Self::DnsGroups => "dns_groups",
            Self::Unit => "unit",
        }
    }
}

const fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Planner => "planner",
        Cause::Person => "person",
        Cause::Restore => "restore",
    }
}

impl Unit {
    /// The owner column of the unit's intent rows.
    #[must_use]
    pub fn owner(&self) -> String {
        match self {
            Self::Audience(id) => format!("audience:{id}"),
            Self::Cluster(id) => format!("cluster:{id}"),
            Self::Shard(id) => format!("shard:{id}"),
            Self::Tenant(id) => format!("tenant:{id}"),
            Self::Webroot(id) => format!("webroot:{id}"),
            Self::Fqdn(id) => format!("fqdn:{id}"),
            Self::Zone(id) => format!("zone:{id}"),
            Self::RrSet { zone, name, record_type } => format!("rr_set:{zone}/{name}/{record_type}"),
            Self::Retire(id) => format!("retire:{id}"),
            Self::Walk { over, of, after, cause } => {
                format!("walk:{}/{}/{of}/{after}", cause_name(*cause), over.as_str())
            }
        }
    }

    /// The inverse of [`Unit::owner`], for units that wait in the replan queue.
    #[must_use]
    pub fn from_owner(owner: &str) -> Option<Self> {
        let (kind, id) = owner.split_once(':')?;
        let id = id.to_owned();
        Some(match kind {
            "audience" => Self::Audience(id.parse().ok()?),
            "cluster" => Self::Cluster(id),
            "shard" => Self::Shard(id),
            "tenant" => Self::Tenant(id),
            "webroot" => Self::Webroot(id),
            "fqdn" => Self::Fqdn(id),
            "zone" => Self::Zone(id),
            "retire" => Self::Retire(id),
            "rr_set" => {
                let mut parts = id.splitn(3, '/');
                Self::RrSet {
                    zone: parts.next()?.to_owned(),
                    name: parts.next()?.to_owned(),
                    record_type: parts.next()?.to_owned(),
                }
            }
            "walk" => {
                let mut parts = id.splitn(4, '/');
                let cause = parts.next()?;
                let over = parts.next()?;
                Self::Walk {
                    cause: [Cause::Planner, Cause::Person, Cause::Restore]
                        .into_iter()
                        .find(|known| cause_name(*known) == cause)?,
                    over: Walk::ALL.iter().copied().find(|known| known.as_str() == over)?,
                    of: parts.next()?.to_owned(),
                    after: parts.next()?.to_owned(),
                }
            }
            _ => return None,
        })
    }
}

/// One change of the current intents and, by that, one row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentChange {
    /// Whose.
    pub audience: Audience,
    /// What.
    pub key: Key,
    /// The planning unit that wants, or wanted, it.
    pub owner: String,
    /// The new value; `None` withdraws. A withdrawal is written only while `owner` still owns the row.
    pub value: Option<Bytes>,
    /// Why.
    pub cause: Cause,
}

/// The answer of planning: everything that one revision writes.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Resources to insert or replace, with the index rows their kinds give.
    pub put: Vec<Resource>,
    /// Resources whose rows go. Their children must be gone before.
    pub remove: Vec<String>,
    /// Intents to set or withdraw.
    pub intents: Vec<IntentChange>,
    /// Counters to set.
    pub counters: Vec<(String, u64)>,
    /// Units to plan later, because they are too many for one transaction. Queued behind what is in the queue; a unit that
    /// is in it already keeps its place.
    pub replan: Vec<Unit>,
    /// Units to take off the replan queue, before `replan` is put on it.
    pub replanned: Vec<Unit>,
    /// W3C traceparent that `intents` carry instead of the mutation's own.
    pub traceparent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_told_without_a_word_said_twice() {
        let taken = |kind, field| ApplyError::Taken { kind, field, key: "a.example".to_owned() }.to_string();
        assert_eq!(taken(Kind::Fqdn, "fqdn"), "fqdn \"a.example\" is already taken");
        assert_eq!(taken(Kind::Zone, "name"), "zone name \"a.example\" is already taken");
    }
}
