//! What planning reads and what it answers.

use async_trait::async_trait;
use hosting_intent::{Bytes, Cause, Key};
use hosting_resource::{Kind, Resource};

/// A read failed. The planner only passes it on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorldError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// One row of the current intents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentRow {
    /// Who applies it: `edge/<cluster id>`, `dns/<group>`, `node/<node id>`.
    pub audience: String,
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
    async fn intent(&mut self, audience: &str, key: &Key) -> Result<Option<IntentRow>, WorldError>;

    /// A counter of the cell (`tenant_uid`, `dns_serial_offset`, ...), 0 when never set.
    async fn counter(&mut self, name: &str) -> Result<u64, WorldError>;
}

/// Why a change cannot be written. The caller rolls the savepoint back: nothing is half applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else holds a unique name.
    #[error("{kind} {field} {key:?} is already taken")]
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

    /// Writes a part of the change. May be called several times; all of it carries one revision.
    async fn apply(&mut self, change: Change) -> Result<(), ApplyError>;
}

/// What is planned on its own: its desired intents are compared with the rows it owns, whatever else changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Trust roots and the like, for one audience.
    Audience(String),
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
    /// Data to destroy: `node/<id>` rows that outlive their resource.
    Retire(String),
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
        }
    }

    /// The inverse of [`Unit::owner`], for units that wait in the replan queue.
    #[must_use]
    pub fn from_owner(owner: &str) -> Option<Self> {
        let (kind, id) = owner.split_once(':')?;
        let id = id.to_owned();
        Some(match kind {
            "audience" => Self::Audience(id),
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
            _ => return None,
        })
    }
}

/// One change of the current intents and, by that, one row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentChange {
    /// Whose.
    pub audience: String,
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
    /// Units to plan later, because they are too many for one transaction.
    pub replan: Vec<Unit>,
}
