//! What planning reads and what it answers.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, AudienceError, Bytes, Cause, Key, message as m};
use hosting_resource::{Kind, PlainText, Resource, SealedText, SecretPlace};

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
    /// The rollout that its last change was part of, see [`IntentChange::rollout`].
    pub rollout: u64,
}

/// Reads of one consistent state: the write transaction under the head lock, or a read snapshot.
///
/// Lists come in ascending id order, at most `limit` rows with an id above `after`.
#[async_trait]
pub trait World: Send {
    /// A resource by id, of whatever kind; `None` when there is none.
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError>;

    /// Resources by id, those that are not there left out, in no order.
    async fn resources(&mut self, ids: &[String]) -> Result<Vec<Resource>, WorldError> {
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.resource(id).await?);
        }
        Ok(found)
    }

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

    /// The holders of some unique names of one kind and scope, each with its name, in no order.
    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<(String, Resource)>, WorldError> {
        let mut holders = Vec::new();
        for key in keys {
            holders.extend(self.holder(kind, scope, key).await?.map(|holder| (key.clone(), holder)));
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

    /// How many resources of a kind count against a tenant, a brand or a subscription ([`Resource::charged`]), for each of some, in
    /// their order. Nothing is counted for it.
    async fn usage(&mut self, of: &[(String, Kind)]) -> Result<Vec<u64>, WorldError>;

    /// All resources of `kind`, whatever their parent. For the few kinds that a cell has few of, and for repair.
    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError>;

    /// The oldest units of the replan queue ([`Change::replan`]), in the order they were queued.
    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError>;

    /// Certificate authorities (DER) that every audience is told to trust. Empty: somebody else writes those rows, and
    /// planning leaves them as they are.
    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        Ok(Vec::new())
    }

    /// Seals a stored secret for the subscribers of one audience. As long as the secret and the audience's key stay the same, so do
    /// the bytes. `None`: the secret does not open, so nobody can have it.
    async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, WorldError> {
        let problem = format!("{} cannot be sealed here: this only reads", wanted.key);
        Err(WorldError(problem.into()))
    }

    /// How many items an audience has, as it was before the mutation.
    async fn audience_count(&mut self, audience: &Audience) -> Result<u64, WorldError>;

    /// The versions of an audience's key, sealed to each of its subscribers, in an order that stays the same.
    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError>;
}

/// A stored secret, and where the intent holds it.
#[derive(Debug, Clone, Copy)]
pub struct SealFor<'a> {
    /// Who is to open it.
    pub audience: &'a Audience,
    /// The intent.
    pub key: &'a Key,
    /// The intent's field; within a map the entry's name follows, e.g. `env/NAME`.
    pub field: &'a str,
    /// Where it is stored.
    pub place: &'a SecretPlace,
    /// As it is stored there.
    pub secret: &'a SealedText,
}

/// What [`World::seal_for`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedFor {
    /// For the intent.
    pub sealed: m::Sealed,
    /// The audience had no key before, and its subscribers are to be given it.
    pub is_first: bool,
}

/// A version of an audience's key, sealed to one subscriber.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyShare {
    /// From 1.
    pub version: u32,
    /// The subscriber's public sealing key (X25519).
    pub reader: [u8; 32],
    /// For the intent.
    pub share: m::AudienceKey,
}

/// What it meant that a subscriber said which key is to be sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It said so before.
    Known,
    /// Nothing is sealed for the audience yet.
    NothingSealed,
    /// It can open what the others can.
    Added,
    /// It had another key before: whoever holds that one opens nothing that is sealed from now on.
    Replaced,
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

    /// Whether what touches much goes out in steps. False where nobody takes the steps.
    fn rolls_out(&self) -> bool {
        false
    }

    /// Seals a secret for the place where it is stored. Writes the tenant's data key when that is the first.
    async fn seal(&mut self, place: &SecretPlace, text: &PlainText) -> Result<SealedText, WorldError>;

    /// Notes a subscriber's public sealing key (X25519) and gives it the audience's key. Written at once.
    async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, WorldError>;

    /// Forgets a subscriber, and makes a version of the audience's key that it does not have. False when it had none. Written at once.
    async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, WorldError>;

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
    /// The revision at which the rollout began that it is part of; 0: it is for everybody at once.
    pub rollout: u64,
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
    /// Work outside the store: a job for each, unless its lane has one.
    pub errands: Vec<Errand>,
    /// A rollout that begins with this change; it is known by the change's revision.
    pub rollout: Option<BeginRollout>,
}

/// A change that touches much: its subscribers get it in steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BeginRollout {
    /// Earlier rollouts whose items it replaces: those that are under way end, and are taken back with this one if that is.
    pub replaces: BTreeSet<u64>,
}

/// Work outside the store that a change asks for. The store writes a job of it in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// The kind of job. Its parameters are the subject alone.
    pub kind: &'static str,
    /// Id of the resource that it is about.
    pub subject: String,
    /// Brand whose keys may see the job.
    pub brand: Option<String>,
    /// The job is given up after so many failed attempts of a step.
    pub attempts: u32,
    /// A job that is there already looks now, however long it meant to rest; one that is at work looks again.
    pub wakes: bool,
}

impl Errand {
    /// The lane of its job: one for each kind and subject.
    #[must_use]
    pub fn lane(&self) -> String {
        format!("{}/{}", self.kind, self.subject)
    }

    /// The parameters of its job.
    #[must_use]
    pub fn params(&self) -> serde_json::Value {
        serde_json::json!({ "id": self.subject })
    }
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
