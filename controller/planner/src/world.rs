//! What planning reads and what it answers.

use async_trait::async_trait;
use hosting_intent::{Audience, AudienceError, Bytes, Cause, Key};
use hosting_resource::{Kind, Resource};

use crate::Unit;

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

    /// The holders of some unique names of one kind and scope, in no order.
    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<Resource>, WorldError> {
        let mut holders = Vec::new();
        for key in keys {
            holders.extend(self.holder(kind, scope, key).await?);
        }
        Ok(holders)
    }

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

    /// Current intents that some planning units own, by audience and key.
    async fn owned_by(&mut self, owners: &[String]) -> Result<Vec<IntentRow>, WorldError> {
        let mut rows = Vec::new();
        for owner in owners {
            rows.extend(self.owned(owner).await?);
        }
        Ok(rows)
    }

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

/// The write transaction, under the head lock. Planning reads it, thinks in memory, and writes one [`Change`].
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

    /// Writes a change. What it wrote, later reads of the same draft see; a second one carries the same revision.
    async fn apply(&mut self, change: Change) -> Result<(), ApplyError>;
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
    /// W3C traceparent that it carries instead of the mutation's own.
    pub traceparent: Option<String>,
}

/// The answer of planning: everything that one revision writes.
#[derive(Debug, Clone, Default, PartialEq)]
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
