//! What one mutation may do: [`WriteTx`] is the planner's `Draft`, and the only way to change resources and intents.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Digest, Key, MAX_VALUE_BYTES};
use hosting_planner::{ApplyError, Change, Draft, IntentChange, IntentRow, Unit, World, WorldError};
use hosting_resource::{Index, Kind, Resource, Status};
use sqlx::{Row, SqliteConnection};

use crate::error::to_sql;
use crate::open::IndexFn;
use crate::read_tx::cause_number;
use crate::writer::{Origin, harmless_traceparent};
use crate::{AuditEntry, MAX_ROWS, ReadTx, StoreError};

/// Units that one mutation may put on the replan queue; a walk needs one.
const MAX_REPLAN: usize = 10_000;
/// Longest owner or intent key in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The transaction of one mutation, under the head lock. It reads what it wrote.
///
/// A refused change leaves the mutation half applied, so after one the mutation can only fail.
pub struct WriteTx {
    read: ReadTx,
    index: IndexFn,
    clock: fn() -> i64,
    cell: String,
    /// The audit log's largest size.
    audit_bytes: u64,
    /// The group has changed the head row.
    head_moved: bool,
    mutation: Mutation,
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
    audit: Vec<AuditEntry>,
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
    pub(crate) moved_head: bool,
    pub(crate) new_epoch: bool,
    pub(crate) audiences: Vec<Audience>,
    pub(crate) kinds: BTreeSet<Kind>,
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
    pub(crate) fn new(
        connection: SqliteConnection,
        index: IndexFn,
        clock: fn() -> i64,
        cell: String,
        audit_bytes: u64,
    ) -> Self {
        Self {
            read: ReadTx::of_writer(connection),
            index,
            clock,
            cell,
            audit_bytes,
            head_moved: false,
            mutation: Mutation::default(),
        }
    }

    pub(crate) fn replace_connection(&mut self, connection: SqliteConnection) {
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
        self.mutation = Mutation { origin, now: (self.clock)(), ..Mutation::default() };
    }

    /// A change was refused: what it wrote before must go.
    pub(crate) fn must_roll_back(&self) -> bool {
        self.mutation.refused
    }

    /// Writes what waits for the end of the mutation.
    pub(crate) async fn finish_mutation(&mut self) -> Result<Written, StoreError> {
        let revision = self.revision();
        let mut audiences = Vec::new();
        for (name, audience) in std::mem::take(&mut self.mutation.audiences) {
            if !audience.changed {
                continue;
            }
            let query = sqlx::query(
                "INSERT INTO audiences (audience, revision, floor, count, digest) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (audience) DO UPDATE SET revision = excluded.revision, count = excluded.count, \
                 digest = excluded.digest",
            )
            .bind(name.to_string())
            .bind(to_sql("revision", revision)?)
            .bind(to_sql("floor", audience.floor)?)
            .bind(to_sql("count", audience.count)?)
            .bind(audience.digest.to_bytes().to_vec());
            self.read.execute(query).await?;
            audiences.push(name);
        }
        let written = self.mutation.wrote.then_some(revision);
        for entry in std::mem::take(&mut self.mutation.audit) {
            let Mutation { origin, now, .. } = &self.mutation;
            crate::audit::insert(&mut self.read, &entry, origin, *now, written, self.audit_bytes).await?;
        }
        Ok(Written {
            revision: written.unwrap_or_else(|| self.read.head()),
            moved_head: self.mutation.wrote,
            new_epoch: self.mutation.next_epoch.is_some(),
            audiences,
            kinds: std::mem::take(&mut self.mutation.kinds),
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
        self.audit_bytes
    }

    pub(crate) fn cell(&self) -> &str {
        &self.cell
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

    /// Takes units off the replan queue. Part of no revision.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replan_done(&mut self, units: &[Unit]) -> Result<(), StoreError> {
        for unit in units {
            self.read.execute(sqlx::query("DELETE FROM replan WHERE owner = ?").bind(unit.owner())).await?;
        }
        Ok(())
    }

    async fn replan(&mut self, units: &[Unit]) -> Result<(), StoreError> {
        for unit in units {
            let query = sqlx::query("INSERT OR IGNORE INTO replan (owner) VALUES (?)").bind(unit.owner());
            self.read.execute(query).await?;
        }
        Ok(())
    }

    /// Counts a row that this mutation writes.
    fn row(&mut self) -> Result<(), ApplyError> {
        self.mutation.wrote = true;
        self.mutation.rows += 1;
        if self.mutation.rows > MAX_ROWS {
            return Err(ApplyError::TooLarge(self.mutation.rows));
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
        self.write_resources(change.put, change.remove).await?;
        for intent in change.intents {
            self.write_intent(intent).await?;
        }
        for (name, value) in change.counters {
            let query = sqlx::query(
                "INSERT INTO counters (name, value) VALUES (?, ?) \
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
            )
            .bind(name)
            .bind(to_sql("counter", value)?);
            if self.read.execute(query).await? > 0 {
                self.row()?;
            }
        }
        self.replan_done(&change.replanned).await?;
        self.replan(&change.replan).await?;
        Ok(())
    }

    /// All index rows that fall away go first and all that are new come last, so that two resources of one change may
    /// swap a name, and both ends of a reference may go together.
    async fn write_resources(&mut self, put: Vec<Resource>, remove: Vec<String>) -> Result<(), ApplyError> {
        let mut last = BTreeMap::new();
        for resource in put {
            last.insert(resource.id.clone(), resource);
        }
        if let Some(both) = remove.iter().find(|id| last.contains_key(*id)) {
            return Err(
                StoreError::value("remove", format!("{both} is to be written and removed at once")).into()
            );
        }
        let mut rows = Vec::new();
        for resource in last.into_values() {
            let old = self.read.get(&resource.id).await?;
            if old.as_ref() == Some(&resource) {
                continue;
            }
            if let Some(old) = old.as_ref().filter(|old| old.kind != resource.kind) {
                let problem = format!("{} is a {}, not a {}", resource.id, old.kind, resource.kind);
                return Err(StoreError::value("kind", problem).into());
            }
            let stored = match old {
                Some(_) => self.stored_index(&resource.id).await?,
                None => StoredIndex::default(),
            };
            let index = (self.index)(&resource);
            let new = StoredIndex::from(&index);
            self.drop_index(&resource.id, resource.kind, &stored, &new).await?;
            rows.push((resource, old, index, stored));
        }
        let mut removed = Vec::new();
        for id in remove {
            let Some(old) = self.read.get(&id).await? else { continue };
            let stored = self.stored_index(&id).await?;
            self.drop_index(&id, old.kind, &stored, &StoredIndex::default()).await?;
            removed.push(old);
        }
        self.mutation.kinds.extend(removed.iter().map(|old| old.kind));
        self.mutation.kinds.extend(rows.iter().map(|(resource, ..)| resource.kind));
        for old in &removed {
            self.row()?;
            self.read.execute(sqlx::query("DELETE FROM resources WHERE id = ?").bind(&old.id)).await?;
            self.count(old, -1).await?;
        }
        for (resource, old, ..) in &rows {
            self.row()?;
            self.write_row(resource).await?;
            let moved =
                old.as_ref().is_none_or(|old| old.status != resource.status || old.brand != resource.brand);
            if moved {
                if let Some(old) = old {
                    self.count(old, -1).await?;
                }
                self.count(resource, 1).await?;
            }
        }
        for (resource, old, index, stored) in &rows {
            self.add_index(resource, index, stored).await?;
            if old.is_none() {
                self.check_parent(resource).await?;
            }
        }
        for old in &removed {
            self.check_unused(&old.id).await?;
        }
        Ok(())
    }

    async fn write_row(&mut self, resource: &Resource) -> Result<(), StoreError> {
        let json = |field: &'static str, value: &serde_json::Map<String, serde_json::Value>| {
            serde_json::to_string(value).map_err(|error| StoreError::value(field, error.to_string()))
        };
        let query = sqlx::query(
            "INSERT INTO resources (id, kind, parent, tenant, brand, label, status, status_message, shape, generation, \
             created_revision, created_at, updated_at, spec, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
             ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, tenant = excluded.tenant, brand = excluded.brand, \
             label = excluded.label, status = excluded.status, status_message = excluded.status_message, \
             shape = excluded.shape, generation = excluded.generation, created_revision = excluded.created_revision, \
             created_at = excluded.created_at, updated_at = excluded.updated_at, spec = excluded.spec, \
             state = excluded.state",
        )
        .bind(&resource.id)
        .bind(resource.kind.name())
        .bind(&resource.parent)
        .bind(&resource.tenant)
        .bind(&resource.brand)
        .bind(&resource.label)
        .bind(resource.status.as_str())
        .bind(&resource.status_message)
        .bind(resource.shape)
        .bind(to_sql("generation", resource.generation)?)
        .bind(to_sql("created_revision", resource.created_revision)?)
        .bind(resource.created_at)
        .bind(resource.updated_at)
        .bind(json("spec", &resource.spec)?)
        .bind(json("state", &resource.state)?);
        self.read.execute(query).await?;
        Ok(())
    }

    async fn count(&mut self, resource: &Resource, by: i64) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO resource_counts (kind, brand, status, count) VALUES (?, ?, ?, ?) \
             ON CONFLICT (kind, brand, status) DO UPDATE SET count = count + excluded.count",
        )
        .bind(resource.kind.name())
        .bind(resource.brand.as_deref().unwrap_or_default())
        .bind(resource.status.as_str())
        .bind(by);
        self.read.execute(query).await?;
        Ok(())
    }

    /// Read from the rows rather than from the old document: an older build may have indexed it otherwise.
    async fn stored_index(&mut self, id: &str) -> Result<StoredIndex, StoreError> {
        let query = sqlx::query(
            "SELECT 'u', scope, key FROM uniques WHERE id = ?1 \
             UNION ALL SELECT 'r', relation, target FROM refs WHERE source = ?1 \
             UNION ALL SELECT 'f', field, value FROM facets WHERE id = ?1",
        )
        .bind(id);
        let mut stored = StoredIndex::default();
        for row in self.read.all(query).await? {
            let pair = (row.try_get(1)?, row.try_get(2)?);
            match row.try_get::<&str, _>(0)? {
                "u" => stored.uniques.insert(pair),
                "r" => stored.refs.insert(pair),
                _ => stored.facets.insert(pair),
            };
        }
        Ok(stored)
    }

    async fn drop_index(
        &mut self,
        id: &str,
        kind: Kind,
        stored: &StoredIndex,
        wanted: &StoredIndex,
    ) -> Result<(), StoreError> {
        for (scope, key) in stored.uniques.difference(&wanted.uniques) {
            let query =
                sqlx::query("DELETE FROM uniques WHERE kind = ? AND scope = ? AND key = ? AND id = ?");
            self.read.execute(query.bind(kind.name()).bind(scope).bind(key).bind(id)).await?;
        }
        for (relation, target) in stored.refs.difference(&wanted.refs) {
            let query = sqlx::query("DELETE FROM refs WHERE source = ? AND relation = ? AND target = ?");
            self.read.execute(query.bind(id).bind(relation).bind(target)).await?;
        }
        for (field, value) in stored.facets.difference(&wanted.facets) {
            let query =
                sqlx::query("DELETE FROM facets WHERE kind = ? AND field = ? AND value = ? AND id = ?");
            self.read.execute(query.bind(kind.name()).bind(field).bind(value).bind(id)).await?;
        }
        Ok(())
    }

    async fn add_index(
        &mut self,
        resource: &Resource,
        index: &Index,
        stored: &StoredIndex,
    ) -> Result<(), ApplyError> {
        let kind = resource.kind.name();
        for unique in &index.uniques {
            if stored.uniques.contains(&(unique.scope.clone(), unique.key.clone())) {
                continue;
            }
            let query = sqlx::query(
                "INSERT INTO uniques (kind, scope, key, id) VALUES (?, ?, ?, ?) ON CONFLICT (kind, scope, key) DO NOTHING",
            );
            let query = query.bind(kind).bind(&unique.scope).bind(&unique.key).bind(&resource.id);
            if self.read.execute(query).await? == 0 {
                return Err(ApplyError::Taken {
                    kind: resource.kind,
                    field: unique.field,
                    key: unique.key.clone(),
                });
            }
        }
        for reference in &index.refs {
            if stored.refs.contains(&(reference.relation.to_owned(), reference.to.clone())) {
                continue;
            }
            // What is on its way out takes no new references, or it could never go.
            let query = sqlx::query("SELECT 1 FROM resources WHERE id = ? AND kind = ? AND status <> ?")
                .bind(&reference.to)
                .bind(reference.kind.name())
                .bind(Status::Deleting.as_str());
            if self.read.optional(query).await?.is_none() {
                return Err(ApplyError::NoSuch {
                    field: reference.relation,
                    kind: reference.kind,
                    id: reference.to.clone(),
                });
            }
            let query = sqlx::query(
                "INSERT OR IGNORE INTO refs (source, kind, relation, target) VALUES (?, ?, ?, ?)",
            );
            let query = query.bind(&resource.id).bind(kind).bind(reference.relation).bind(&reference.to);
            self.read.execute(query).await?;
        }
        for facet in &index.facets {
            if stored.facets.contains(&(facet.field.to_owned(), facet.value.clone())) {
                continue;
            }
            let query =
                sqlx::query("INSERT OR IGNORE INTO facets (kind, field, value, id) VALUES (?, ?, ?, ?)");
            self.read
                .execute(query.bind(kind).bind(facet.field).bind(&facet.value).bind(&resource.id))
                .await?;
        }
        Ok(())
    }

    /// A parent's kind is not ours to know, so a missing one is no `NoSuch`: whoever creates has read it under this lock.
    async fn check_parent(&mut self, resource: &Resource) -> Result<(), StoreError> {
        let Some(parent) = &resource.parent else { return Ok(()) };
        let query = sqlx::query("SELECT 1 FROM resources WHERE id = ?").bind(parent);
        if self.read.optional(query).await?.is_none() {
            let problem =
                format!("{} {} lies in {parent:?}, which does not exist", resource.kind, resource.id);
            return Err(StoreError::value("parent", problem));
        }
        Ok(())
    }

    async fn check_unused(&mut self, id: &str) -> Result<(), ApplyError> {
        let query = sqlx::query(
            "SELECT kind, source FROM refs WHERE target = ?1 \
             UNION ALL SELECT kind, id FROM resources WHERE parent = ?1 LIMIT 1",
        )
        .bind(id);
        let Some(row) = self.read.optional(query).await? else { return Ok(()) };
        let name: &str = row.try_get(0).map_err(StoreError::from)?;
        let by = row.try_get(1).map_err(StoreError::from)?;
        let kind = Kind::from_name(name).ok_or_else(|| StoreError::row(format!("kind {name:?}")))?;
        Err(ApplyError::InUse { id: id.to_owned(), kind, by })
    }

    async fn write_intent(&mut self, change: IntentChange) -> Result<(), ApplyError> {
        check_intent(&change)?;
        let IntentChange { audience, key, owner, value, cause, traceparent } = change;
        let traceparent =
            traceparent.map_or_else(|| self.mutation.origin.traceparent.clone(), harmless_traceparent);
        let column = audience.to_string();
        let current = self.read.get_intent(&audience, &key).await?;
        match (&current, &value) {
            (None, None) => return Ok(()),
            // Somebody else wants it now.
            (Some(current), None) if current.owner != owner => return Ok(()),
            (Some(current), Some(value)) if current.value == value => {
                if current.owner != owner {
                    // Subscribers have this very item: only who wants it changes, so its revision stays.
                    self.row()?;
                    let query = sqlx::query(
                        "UPDATE intent_current SET owner = ? WHERE audience = ? AND kind = ? AND key = ?",
                    );
                    let query = query.bind(&owner).bind(&column).bind(key.kind).bind(&key.name);
                    self.read.execute(query).await?;
                }
                return Ok(());
            }
            (None | Some(_), Some(_)) | (Some(_), None) => {}
        }
        self.row()?;
        self.note_in_audience(&audience, &key, current.as_ref().map(|row| &row.value), value.as_ref())
            .await?;

        let revision = to_sql("revision", self.revision())?;
        let cause = cause_number(cause);
        let current = match &value {
            Some(value) => sqlx::query(
                "INSERT INTO intent_current (audience, kind, key, revision, owner, value, cause, traceparent) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (audience, kind, key) DO UPDATE SET \
                 revision = excluded.revision, owner = excluded.owner, value = excluded.value, cause = excluded.cause, \
                 traceparent = excluded.traceparent",
            )
            .bind(&column)
            .bind(key.kind)
            .bind(&key.name)
            .bind(revision)
            .bind(&owner)
            .bind(value.as_ref())
            .bind(cause)
            .bind(&traceparent),
            None => sqlx::query("DELETE FROM intent_current WHERE audience = ? AND kind = ? AND key = ?")
                .bind(&column)
                .bind(key.kind)
                .bind(&key.name),
        };
        self.read.execute(current).await?;
        let log = sqlx::query(
            "INSERT INTO intent_log (audience, revision, kind, key, op, value, cause, owner, traceparent) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (audience, revision, kind, key) DO UPDATE SET \
             op = excluded.op, value = excluded.value, cause = excluded.cause, owner = excluded.owner, \
             traceparent = excluded.traceparent",
        )
        .bind(&column)
        .bind(revision)
        .bind(key.kind)
        .bind(&key.name)
        .bind(if value.is_some() { "set" } else { "withdraw" })
        .bind(value.as_deref())
        .bind(cause)
        .bind(&owner)
        .bind(&traceparent);
        self.read.execute(log).await?;
        Ok(())
    }

    /// Moves count and digest; the row itself is written at the end of the mutation.
    async fn note_in_audience(
        &mut self,
        name: &Audience,
        key: &Key,
        old: Option<&Bytes>,
        new: Option<&Bytes>,
    ) -> Result<(), StoreError> {
        if !self.mutation.audiences.contains_key(name) {
            let head = self.read.audience(name).await?;
            let audience =
                AudienceSums { floor: head.floor, count: head.count, digest: head.digest, changed: false };
            self.mutation.audiences.insert(name.clone(), audience);
        }
        let Some(audience) = self.mutation.audiences.get_mut(name) else { return Ok(()) };
        audience.changed = true;
        if let Some(old) = old {
            audience.digest.remove(key, old);
            audience.count = audience
                .count
                .checked_sub(1)
                .ok_or_else(|| StoreError::row(format!("audience {name} counts fewer items than it has")))?;
        }
        if let Some(new) = new {
            audience.digest.add(key, new);
            audience.count += 1;
        }
        Ok(())
    }
}

fn check_intent(change: &IntentChange) -> Result<(), StoreError> {
    for (field, text) in [("key", &change.key.name), ("owner", &change.owner)] {
        if text.len() > MAX_NAME_BYTES {
            let problem = format!("{} bytes; at most {MAX_NAME_BYTES}", text.len());
            return Err(StoreError::value(field, problem));
        }
    }
    // A frame of the feed must hold it, whatever it says.
    let bytes = change.value.as_ref().map_or(0, Bytes::len);
    if bytes > MAX_VALUE_BYTES {
        let problem = format!("{} has {bytes} bytes; at most {MAX_VALUE_BYTES}", change.key);
        return Err(StoreError::value("value", problem));
    }
    Ok(())
}

/// Index rows without their kind and id: (scope, key), (relation, target), (field, value).
#[derive(Debug, Default)]
struct StoredIndex {
    uniques: BTreeSet<(String, String)>,
    refs: BTreeSet<(String, String)>,
    facets: BTreeSet<(String, String)>,
}

impl From<&Index> for StoredIndex {
    fn from(index: &Index) -> Self {
        Self {
            uniques: index.uniques.iter().map(|unique| (unique.scope.clone(), unique.key.clone())).collect(),
            refs: index.refs.iter().map(|to| (to.relation.to_owned(), to.to.clone())).collect(),
            facets: index.facets.iter().map(|facet| (facet.field.to_owned(), facet.value.clone())).collect(),
        }
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

    async fn apply(&mut self, change: Change) -> Result<(), ApplyError> {
        let applied = self.apply_change(change).await;
        self.mutation.refused |= applied.is_err();
        applied
    }
}
