//! What one mutation may do: [`WriteTx`] is the planner's `Draft`, and the only way to change resources and intents.
//!
//! A group's changes of resources, intents, counters and the replan queue are kept in memory ([`Pending`]) and written together before the
//! commit, a few statements of many rows. What a mutation writes to other tables it writes at once, under a savepoint that the first
//! such statement sets.

mod effects;
mod intents;
mod replan;
mod resources;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Key};
use hosting_planner::gates::{Evidence, Reports};
use hosting_planner::{
    Admitted, ApplyError, Change, Draft, IntentRow, KeyShare, Layer, List, SealFor, SealedFor, Unit, World,
    WorldError,
};
use hosting_resource::{Index, Kind, PlainText, Resource, SealedText, SecretPlace};

pub use self::effects::{Effects, IntentEffect, ResourceEffect};
use self::intents::{AudienceSums, LogRow, MutationLog, PendingHead};
use self::replan::Steps;
use self::resources::Counts;
use self::usage::Usage;
use crate::audit::NewAudit;
use crate::data_keys::OpenedKeys;
use crate::error::to_sql;
use crate::history::{self, HistoryRow};
use crate::keyring::SharedKek;
use crate::origin::Origin;
use crate::sql::{Connection, Query, Row};
use crate::{AuditEntry, FleetChange, Kek, MAX_ROWS, ReadTx, ResourceEvent, StoreError, batch};

/// Units that one mutation may put on the replan queue; a walk needs one.
const MAX_REPLAN: usize = 10_000;
/// Bytes of documents, about, that stay in memory from one group to the next.
const KNOWN_RESOURCES: usize = 32 << 20;

/// The transaction of one mutation, under the head lock. It reads what it wrote.
///
/// A refused change leaves the mutation half applied, so after one the mutation can only fail.
pub struct WriteTx {
    read: ReadTx,
    fixed: Fixed,
    /// The group has changed the head row.
    head_moved: bool,
    pending: Pending,
    mutation: Mutation,
    /// The bytes of the history so far, while nobody else writes it.
    history_bytes: Option<u64>,
}

/// What the group's mutations changed and the database does not have yet, those of the one that is under way included.
#[derive(Default)]
struct Pending {
    layer: Layer,
    // What follows is of mutations that are kept.
    counts: Counts,
    usage: Usage,
    log: BTreeMap<(Audience, u64, Key), LogRow>,
    /// The newest log row of each key.
    logged: BTreeMap<(Audience, Key), LogRow>,
    heads: BTreeMap<Audience, PendingHead>,
    replan: Steps,
    audit: Vec<NewAudit>,
    history: Vec<HistoryRow>,
}

/// What a kind says is indexed of one resource.
pub type IndexFn = fn(&Resource) -> Index;

/// The name of a new epoch. Carries the cell's id, so that positions of two cells are never compared.
pub(crate) fn new_epoch(cell: &str) -> String {
    format!("{cell}-{}", uuid::Uuid::new_v4().simple())
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
    /// Answers that are kept of one API key.
    pub(crate) replies_per_key: u64,
    /// Seals and opens the keys that the store holds.
    pub(crate) keys: SharedKek,
    /// Whether what touches much goes out in steps.
    pub(crate) rolls_out: Arc<AtomicBool>,
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
    log: MutationLog,
    kinds: BTreeSet<Kind>,
    concerns: BTreeSet<String>,
    counts: Counts,
    usage: Usage,
    replan: Steps,
    audit: Vec<(AuditEntry, Origin)>,
    fleet: FleetChange,
    rollouts: bool,
    /// Keys that it opened.
    opened: OpenedKeys,
}

/// What a mutation brought, once it is on disk.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) revision: u64,
    pub(crate) new_epoch: bool,
    pub(crate) audiences: Vec<Audience>,
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) concerns: BTreeSet<String>,
    pub(crate) events: Vec<ResourceEvent>,
    pub(crate) fleet: FleetChange,
    pub(crate) rollouts: bool,
}

impl std::fmt::Debug for WriteTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTx").field("read", &self.read).finish_non_exhaustive()
    }
}

// What the writer calls, around the mutation.
impl WriteTx {
    pub(crate) fn new(connection: Connection, fixed: Fixed) -> Self {
        Self {
            read: ReadTx::of_writer(connection),
            fixed,
            head_moved: false,
            pending: Pending::default(),
            mutation: Mutation::default(),
            history_bytes: None,
        }
    }

    pub(crate) fn replace_connection(&mut self, connection: Connection) {
        self.read.replace_connection(connection);
    }

    pub(crate) fn into_reader(self) -> ReadTx {
        self.read
    }

    /// Past all checks: for the writer's own statements.
    pub(crate) fn raw(&mut self) -> &mut Connection {
        self.read.raw()
    }

    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.read.failure()
    }

    pub(crate) fn statements(&self) -> u64 {
        self.read.statements()
    }

    pub(crate) fn start_group(&mut self, epoch: String, head: u64) {
        self.read.set_head(epoch, head);
        self.read.clear_failure();
        self.head_moved = false;
    }

    pub(crate) fn start_mutation(&mut self, origin: Origin) {
        self.read.clear_failure();
        self.read.want_savepoint();
        self.mutation = Mutation { origin, now: (self.fixed.clock)(), ..Mutation::default() };
    }

    /// Forgets what is known of the database: somebody else has written to it, or a group failed.
    pub(crate) fn forget(&mut self) {
        self.pending = Pending::default();
        self.history_bytes = None;
    }

    /// How much the group has changed so far, in rows.
    pub(crate) fn pending_rows(&self) -> usize {
        self.pending.layer.len()
    }

    /// Writes what the group changed.
    pub(crate) async fn write_group(&mut self) -> Result<(), StoreError> {
        self.read.clear_failure();
        let Self { read, pending, fixed, history_bytes, .. } = self;
        pending.write_resources(read).await?;
        pending.write_intents(read).await?;
        pending.write_counters(read).await?;
        pending.replan.write(read).await?;
        crate::audit::insert(read, &pending.audit, fixed.audit_bytes).await?;
        *history_bytes = history::insert(read, &pending.history, *history_bytes).await?;
        let layer = std::mem::take(&mut self.pending).layer;
        self.pending.layer = layer;
        self.pending.layer.rebase(KNOWN_RESOURCES);
        Ok(())
    }

    /// Writes what became of resources, for those who follow it.
    pub(crate) async fn write_events(&mut self, events: &[ResourceEvent]) -> Result<(), StoreError> {
        crate::event_log::insert(&mut self.read, events, (self.fixed.clock)()).await
    }

    /// A change was refused: what it wrote before must go.
    pub(crate) fn must_roll_back(&self) -> bool {
        self.mutation.refused
    }

    /// Ends a mutation that is kept: the next one stands on it.
    pub(crate) async fn keep_mutation(&mut self) -> Result<Written, StoreError> {
        self.read.release_savepoint().await?;
        let mutation = std::mem::take(&mut self.mutation);
        let pending = &mut self.pending;
        let revision = self.read.head() + 1;
        let place = (revision, mutation.now);
        let (mut events, mut rows): (Vec<ResourceEvent>, Vec<HistoryRow>) = (Vec::new(), Vec::new());
        for (before, after) in pending.layer.changed_resources() {
            events.extend(ResourceEvent::of(revision, before, after));
            rows.extend(history::row_of(before, after, &mutation.origin, place));
        }
        rows.sort_by(|one, other| one.resource.cmp(&other.resource));
        pending.history.extend(rows);
        pending.layer.keep();
        let audiences = pending.keep_intents(revision, mutation.log, mutation.audiences);
        for (of, by) in mutation.counts {
            *pending.counts.entry(of).or_default() += by;
        }
        for (of, by) in mutation.usage {
            *pending.usage.entry(of).or_default() += by;
        }
        pending.replan.extend(mutation.replan);
        let written = mutation.wrote.then_some(revision);
        let audit = mutation.audit.into_iter();
        pending.audit.extend(audit.map(|(entry, origin)| NewAudit {
            entry,
            origin,
            at: mutation.now,
            revision: written,
        }));
        let new_epoch = mutation.next_epoch.is_some();
        self.head_moved |= mutation.wrote || new_epoch;
        let epoch = mutation.next_epoch.unwrap_or_else(|| self.read.epoch().to_owned());
        let head = self.read.head() + u64::from(mutation.wrote);
        self.read.set_head(epoch, head);
        Ok(Written {
            revision: head,
            new_epoch,
            audiences,
            kinds: mutation.kinds,
            concerns: mutation.concerns,
            events,
            fleet: mutation.fleet,
            rollouts: mutation.rollouts,
        })
    }

    /// Takes back what a mutation did. Fails when the database has rolled back the whole transaction by itself.
    pub(crate) async fn undo_mutation(&mut self) -> Result<(), StoreError> {
        self.pending.layer.undo();
        self.mutation = Mutation::default();
        self.read.roll_back_savepoint().await
    }

    /// Revision, epoch, and whether the group changed either.
    pub(crate) fn group_head(&self) -> (u64, &str, bool) {
        (self.read.head(), self.read.epoch(), self.head_moved)
    }

    /// What the group's mutations changed that are kept.
    pub(crate) fn kept_history(&self) -> &[HistoryRow] {
        &self.pending.history
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

    pub(crate) const fn replies_per_key(&self) -> u64 {
        self.fixed.replies_per_key
    }

    pub(crate) fn controller(&self) -> &str {
        &self.fixed.controller
    }

    /// What the mutation changes of the fleet.
    pub(crate) fn fleet(&mut self) -> &mut FleetChange {
        &mut self.mutation.fleet
    }

    /// The mutation changes a rollout.
    pub(crate) fn rollouts_changed(&mut self) {
        self.mutation.rollouts = true;
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
        let origin = self.mutation.origin.clone();
        self.audit_of(entry, origin);
    }

    /// [`WriteTx::audit`] of what somebody else asked for.
    pub(crate) fn audit_of(&mut self, entry: AuditEntry, origin: Origin) {
        self.mutation.audit.push((entry, origin));
    }

    /// The transaction for what no [`Change`] writes: jobs, status, audit, keys. Resources, intents, counters and the replan queue are
    /// read from the `WriteTx` itself: what the group changed of them is not in the database yet.
    pub fn beside(&mut self) -> &mut ReadTx {
        &mut self.read
    }

    pub(crate) async fn all(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        self.read.all(query).await
    }

    pub(crate) async fn optional(&mut self, query: Query) -> Result<Option<Row>, StoreError> {
        self.read.optional(query).await
    }

    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        self.read.execute(query).await
    }

    pub(crate) async fn number(&mut self, query: Query) -> Result<u64, StoreError> {
        self.read.number(query).await
    }

    /// The head's revision once the mutation is kept, as far as it has gone.
    pub(crate) fn landing_revision(&self) -> u64 {
        self.read.head() + u64::from(self.mutation.wrote)
    }

    pub(crate) fn epoch(&self) -> &str {
        self.read.epoch()
    }

    /// Resources to look at once the mutation is on disk, if it takes a revision.
    pub(crate) fn concerns(&mut self, ids: &[String]) {
        self.mutation.concerns.extend(ids.iter().cloned());
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

    async fn take_counters(&mut self, counters: Vec<(String, u64)>) -> Result<(), ApplyError> {
        for (name, value) in counters {
            if self.pending.layer.counter(&mut self.read, &name).await? != value {
                to_sql("counter", value)?;
                self.pending.layer.set_counter(&name, value);
                self.rows(1)?;
            }
        }
        Ok(())
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
        let changed = change.rollout.as_ref().map(|_| change.put.clone()).unwrap_or_default();
        self.take_resources(change.put, change.remove).await?;
        self.take_intents(change.intents).await?;
        self.take_counters(change.counters).await?;
        self.mutation.replan.remove(&change.replanned);
        self.mutation.replan.add(&change.replan);
        for errand in change.errands {
            self.run_errand(errand).await?;
        }
        if let Some(begin) = change.rollout {
            self.begin_rollout(begin, &changed).await?;
        }
        Ok(())
    }
}

impl Pending {
    async fn write_counters(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for (name, value) in self.layer.counters() {
            rows.push((name, to_sql("counter", value)?));
        }
        batch::insert(
            tx,
            "INSERT INTO counters (name, value)",
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            &rows,
            |row, (name, value)| {
                row.push_bind((*name).to_owned()).push_bind(*value);
            },
        )
        .await?;
        Ok(())
    }
}

/// Each read sees what the group has changed so far.
#[async_trait]
impl World for WriteTx {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        self.pending.layer.resource(&mut self.read, id).await
    }

    async fn resources(&mut self, ids: &[String]) -> Result<Vec<Resource>, WorldError> {
        self.pending.layer.resources(&mut self.read, ids).await
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.pending.layer.list(&mut self.read, List::Children { kind, parent }, after, limit).await
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        Ok(self.holders(kind, scope, &[key.to_owned()]).await?.pop().map(|(_, holder)| holder))
    }

    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<(String, Resource)>, WorldError> {
        self.pending.layer.holders(&mut self.read, kind, scope, keys).await
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        let list = List::Referrers { kind, relation, to };
        self.pending.layer.list(&mut self.read, list, after, limit).await
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.pending.layer.list(&mut self.read, List::Facet { kind, field, value }, after, limit).await
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        self.pending.layer.owned(&mut self.read, owner).await
    }

    async fn owned_by(&mut self, owners: &[String]) -> Result<Vec<IntentRow>, WorldError> {
        self.pending.layer.owned_by(&mut self.read, owners).await
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        self.pending.layer.intent(&mut self.read, audience, key).await
    }

    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.pending.layer.audience_rows(&mut self.read, audience, after, limit).await
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        self.pending.layer.counter(&mut self.read, name).await
    }

    async fn usage(&mut self, of: &[(String, Kind)]) -> Result<Vec<u64>, WorldError> {
        Ok(self.usage_now(of).await?)
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        self.pending.layer.list(&mut self.read, List::All { kind }, after, limit).await
    }

    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        let mut steps = self.pending.replan.clone();
        steps.extend(self.mutation.replan.clone());
        let more = u32::try_from(steps.removed()).unwrap_or(u32::MAX);
        let stored = self.read.replan_batch(limit.saturating_add(more)).await?;
        Ok(steps.over(stored, limit as usize))
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

    async fn audience_count(&mut self, audience: &Audience) -> Result<u64, WorldError> {
        self.read.audience_count(audience).await
    }
}

/// What nodes said is no part of a mutation.
#[async_trait]
impl Evidence for WriteTx {
    async fn reports(&mut self, about: &[(String, Key)]) -> Result<Reports, WorldError> {
        self.read.reports(about).await
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

    fn rolls_out(&self) -> bool {
        self.fixed.rolls_out.load(Ordering::Relaxed)
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
