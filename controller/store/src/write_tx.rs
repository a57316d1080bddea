//! What one mutation may do: [`WriteTx`] is the planner's `Draft`, and the only way to change resources and intents.

mod intents;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Digest, Key};
use hosting_planner::{
    Admitted, ApplyError, Change, Draft, IntentRow, KeyShare, SealFor, SealedFor, Unit, World, WorldError,
};
use hosting_resource::{Kind, PlainText, Resource, SealedText, SecretPlace, Status};

use crate::data_keys::OpenedKeys;
use crate::error::to_sql;
use crate::keyring::SharedKek;
use crate::open::IndexFn;
use crate::sql::Connection;
use crate::writer::Origin;
use crate::{AuditEntry, FleetChange, Kek, MAX_ROWS, ReadTx, StoreError, batch};

/// Units that one mutation may put on the replan queue; a walk needs one.
const MAX_REPLAN: usize = 10_000;

/// The transaction of one mutation, under the head lock. It reads what it wrote.
///
/// A refused change leaves the mutation half applied, so after one the mutation can only fail.
pub struct WriteTx {
    read: ReadTx,
    fixed: Fixed,
    /// The group has changed the head row.
    head_moved: bool,
    mutation: Mutation,
}

/// What stays the same for the store's life.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) index: IndexFn,
    pub(crate) clock: fn() -> i64,
    pub(crate) cell: String,
    /// This controller's name.
    pub(crate) controller: String,
    /// The audit log's largest size.
    pub(crate) audit_bytes: u64,
    /// Seals and opens the keys that the store holds.
    pub(crate) keys: SharedKek,
}

/// What is thrown away with the savepoint.
#[derive(Default)]
struct Mutation {
    origin: Origin,
    now: i64,
    refused: bool,
    wrote: bool,
    rows: usize,
    replanned: usize,
    next_epoch: Option<String>,
    audiences: BTreeMap<Audience, AudienceSums>,
    kinds: BTreeSet<Kind>,
    concerns: BTreeSet<String>,
    /// By how much the numbers of resources change, by kind, brand (empty for none) and status.
    counts: BTreeMap<(Kind, String, Status), i64>,
    audit: Vec<AuditEntry>,
    fleet: FleetChange,
    /// Keys that it opened.
    opened: OpenedKeys,
}

/// An audience's head while a mutation changes it.
#[derive(Debug)]
struct AudienceSums {
    floor: u64,
    count: u64,
    digest: Digest,
    changed: bool,
}

/// What a mutation brought, once it is on disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) revision: u64,
    pub(crate) new_epoch: bool,
    pub(crate) audiences: Vec<Audience>,
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) concerns: BTreeSet<String>,
    pub(crate) fleet: FleetChange,
}

impl std::fmt::Debug for WriteTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTx").field("read", &self.read).finish_non_exhaustive()
    }
}

impl Deref for WriteTx {
    type Target = ReadTx;

    fn deref(&self) -> &ReadTx {
        &self.read
    }
}

impl DerefMut for WriteTx {
    fn deref_mut(&mut self) -> &mut ReadTx {
        &mut self.read
    }
}

// What the writer calls, around the mutation.
impl WriteTx {
    pub(crate) fn new(connection: Connection, fixed: Fixed) -> Self {
        Self { read: ReadTx::of_writer(connection), fixed, head_moved: false, mutation: Mutation::default() }
    }

    pub(crate) fn replace_connection(&mut self, connection: Connection) {
        self.read = ReadTx::of_writer(connection);
    }

    pub(crate) fn into_reader(self) -> ReadTx {
        self.read
    }

    pub(crate) fn start_group(&mut self, epoch: String, head: u64) {
        self.read.set_head(epoch, head);
        self.read.clear_failure();
        self.head_moved = false;
    }

    pub(crate) fn start_mutation(&mut self, origin: Origin) {
        self.read.clear_failure();
        self.mutation = Mutation { origin, now: (self.fixed.clock)(), ..Mutation::default() };
    }

    /// A change was refused: what it wrote before must go.
    pub(crate) fn must_roll_back(&self) -> bool {
        self.mutation.refused
    }

    /// Writes what waits for the end of the mutation.
    pub(crate) async fn finish_mutation(&mut self) -> Result<Written, StoreError> {
        let revision = self.revision();
        self.write_counts().await?;
        let audiences = self.write_audiences().await?;
        let written = self.mutation.wrote.then_some(revision);
        for entry in std::mem::take(&mut self.mutation.audit) {
            let Mutation { origin, now, .. } = &self.mutation;
            crate::audit::insert(&mut self.read, &entry, origin, *now, written, self.fixed.audit_bytes)
                .await?;
        }
        Ok(Written {
            revision: written.unwrap_or_else(|| self.read.head()),
            new_epoch: self.mutation.next_epoch.is_some(),
            audiences,
            kinds: std::mem::take(&mut self.mutation.kinds),
            concerns: std::mem::take(&mut self.mutation.concerns),
            fleet: std::mem::take(&mut self.mutation.fleet),
        })
    }

    /// The savepoint is released: the next mutation stands on it.
    pub(crate) fn keep_mutation(&mut self) {
        let wrote = self.mutation.wrote;
        let next_epoch = self.mutation.next_epoch.take();
        self.head_moved |= wrote || next_epoch.is_some();
        let epoch = next_epoch.unwrap_or_else(|| self.read.epoch().to_owned());
        let head = self.read.head() + u64::from(wrote);
        self.read.set_head(epoch, head);
    }

    /// Revision, epoch, and whether the group changed either.
    pub(crate) fn group_head(&self) -> (u64, &str, bool) {
        (self.read.head(), self.read.epoch(), self.head_moved)
    }

    pub(crate) fn audit_bytes(&self) -> u64 {
        self.fixed.audit_bytes
    }

    /// The key-encryption key as it is now.
    pub(crate) fn kek(&self) -> Kek {
        self.fixed.keys.get()
    }

    /// Keys that this mutation opened or made.
    pub(crate) fn opened(&mut self) -> &mut OpenedKeys {
        &mut self.mutation.opened
    }

    pub(crate) fn cell(&self) -> &str {
        &self.fixed.cell
    }

    pub(crate) fn controller(&self) -> &str {
        &self.fixed.controller
    }

    /// What the mutation changes of the fleet.
    pub(crate) fn fleet(&mut self) -> &mut FleetChange {
        &mut self.mutation.fleet
    }

    pub(crate) fn begin_epoch(&mut self, epoch: String) {
        self.mutation.next_epoch = Some(epoch);
    }
}

impl WriteTx {
    /// Where the mutation comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.mutation.origin
    }

    /// Writes an audit row with the mutation: both are kept or neither.
    pub fn audit(&mut self, entry: AuditEntry) {
        self.mutation.audit.push(entry);
    }

    /// Resources to look at once the mutation is on disk, if it takes a revision.
    pub(crate) fn concerns(&mut self, ids: &[String]) {
        self.mutation.concerns.extend(ids.iter().cloned());
    }

    /// Takes units off the replan queue. Part of no revision.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replan_done(&mut self, units: &[Unit]) -> Result<(), StoreError> {
        batch::delete(&mut self.read, "DELETE FROM replan", &["owner"], units, |unit, _| unit.owner())
            .await?;
        Ok(())
    }

    async fn replan(&mut self, units: &[Unit]) -> Result<(), StoreError> {
        let (head, tail) = ("INSERT INTO replan (owner)", "ON CONFLICT (owner) DO NOTHING");
        batch::insert(&mut self.read, head, tail, units, |row, unit| {
            row.push_bind(unit.owner());
        })
        .await?;
        Ok(())
    }

    /// Counts rows that this mutation writes.
    pub(crate) fn rows(&mut self, rows: usize) -> Result<(), ApplyError> {
        self.mutation.wrote |= rows > 0;
        self.mutation.rows += rows;
        if self.mutation.rows > MAX_ROWS {
            return Err(ApplyError::TooLarge(self.mutation.rows));
        }
        Ok(())
    }

    async fn write_counters(&mut self, counters: &[(String, u64)]) -> Result<(), ApplyError> {
        let mut rows = Vec::new();
        for (name, value) in counters {
            rows.push((name.clone(), to_sql("counter", *value)?));
        }
        let changed = batch::insert(
            &mut self.read,
            "INSERT INTO counters (name, value)",
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE counters.value <> excluded.value",
            &rows,
            |row, (name, value)| {
                row.push_bind(name.clone()).push_bind(*value);
            },
        )
        .await?;
        self.rows(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    async fn apply_change(&mut self, change: Change) -> Result<(), ApplyError> {
        // Both bound the time under the lock before it is spent.
        if change.put.len() + change.remove.len() > MAX_ROWS {
            return Err(ApplyError::TooLarge(change.put.len() + change.remove.len()));
        }
        self.mutation.replanned += change.replan.len();
        if self.mutation.replanned > MAX_REPLAN {
            return Err(ApplyError::TooLarge(self.mutation.replanned));
        }
        self.write_resources(change.put, change.remove).await?;
        self.write_intents(change.intents).await?;
        self.write_counters(&change.counters).await?;
        self.replan_done(&change.replanned).await?;
        self.replan(&change.replan).await?;
        Ok(())
    }
}

#[async_trait]
impl World for WriteTx {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        self.read.resource(id).await
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.read.children(kind, parent, after, limit).await
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        self.read.holder(kind, scope, key).await
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.read.referrers(kind, relation, to, after, limit).await
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.read.with_facet(kind, field, value, after, limit).await
    }

    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<Resource>, WorldError> {
        self.read.holders(kind, scope, keys).await
    }

    async fn owned_by(&mut self, owners: &[String]) -> Result<Vec<IntentRow>, WorldError> {
        self.read.owned_by(owners).await
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        self.read.owned(owner).await
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        self.read.intent(audience, key).await
    }

    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.read.audience_rows(audience, after, limit).await
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        self.read.counter(name).await
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        self.read.list(kind, after, limit).await
    }

    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        self.read.queued(limit).await
    }

    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        self.read.trust_roots().await
    }

    async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, WorldError> {
        Ok(WriteTx::seal_for(self, wanted).await?)
    }

    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError> {
        self.read.key_shares(audience).await
    }
}

#[async_trait]
impl Draft for WriteTx {
    fn revision(&self) -> u64 {
        self.read.head() + 1
    }

    fn now(&self) -> i64 {
        self.mutation.now
    }

    fn traceparent(&self) -> &str {
        &self.mutation.origin.traceparent
    }

    fn by_admin(&self) -> bool {
        self.mutation.origin.admin
    }

    async fn seal(&mut self, place: &SecretPlace, text: &PlainText) -> Result<SealedText, WorldError> {
        Ok(WriteTx::seal_secret(self, place, text).await?)
    }

    async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, WorldError> {
        Ok(WriteTx::admit_reader(self, audience, node, sealing_key).await?)
    }

    async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, WorldError> {
        Ok(WriteTx::expel_reader(self, audience, node).await?)
    }

    async fn apply(&mut self, change: Change) -> Result<(), ApplyError> {
        let applied = self.apply_change(change).await;
        self.mutation.refused |= applied.is_err();
        applied
    }
}
