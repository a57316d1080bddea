//! Reads of one consistent state: [`ReadTx`] on a snapshot, and the same calls inside a [`crate::WriteTx`].

mod savepoint;

use async_trait::async_trait;
use hosting_intent::{Audience, AudienceError, Bytes, Cause, Item, Key};
use hosting_intent_sync::{AudienceHead, LogEntry};
use hosting_planner::{IntentRow, KeyShare, Unit, World, WorldError};
use hosting_resource::{Kind, Resource, Status};
use serde_json::{Map, Value};

use self::savepoint::Savepoint;
use crate::batch;
use crate::error::{from_sql, to_bound};
use crate::meter::Metered;
use crate::sql::{self, Connection, Dialect, Query, QueryBuilder, Readers, Row};
use crate::{ReadMeter, StoreError};

/// Most rows that one list answers, whatever was asked for.
const LIST_MAX: u32 = 10_000;

/// The columns of [`resource`], in its order.
pub(crate) const RESOURCE: &str = "r.id, r.kind, r.parent, r.tenant, r.brand, r.label, r.status, r.status_message, \
     r.shape, r.generation, r.created_revision, r.created_at, r.updated_at, r.spec, r.state";

/// How many those are.
const RESOURCE_COLUMNS: usize = 15;

/// `SELECT` of [`RESOURCE`] with a static rest, so that statements stay literals and are prepared once.
macro_rules! select_resource {
    ($rest:literal) => {
        concat!(
            "SELECT r.id, r.kind, r.parent, r.tenant, r.brand, r.label, r.status, r.status_message, r.shape, ",
            "r.generation, r.created_revision, r.created_at, r.updated_at, r.spec, r.state FROM resources r ",
            $rest
        )
    };
}

/// Reads of one consistent state.
///
/// After a failed read every later call answers the same error: the database may have ended the transaction, and a read
/// outside it would see another state.
pub struct ReadTx {
    connection: Connection,
    failed: Option<StoreError>,
    epoch: String,
    head: u64,
    statements: u64,
    savepoint: Savepoint,
    metered: Option<Metered>,
}

impl std::fmt::Debug for ReadTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTx").field("epoch", &self.epoch).field("head", &self.head).finish_non_exhaustive()
    }
}

impl ReadTx {
    pub(crate) async fn snapshot(readers: &Readers, meter: Option<&ReadMeter>) -> Result<Self, StoreError> {
        let mut connection = readers.snapshot().await?;
        let metered = match meter {
            Some(meter) => Some(Metered::begin(meter, &mut connection).await?),
            None => None,
        };
        // The first read is what fixes the snapshot.
        let rows = connection.rows(sql::query("SELECT epoch, revision FROM head WHERE id = 1")).await?;
        let row = rows.first().ok_or_else(|| StoreError::row("there is no head row"))?;
        let (epoch, head) = (row.try_get(0)?, from_sql("head.revision", row.try_get(1)?)?);
        Ok(Self { connection, failed: None, epoch, head, statements: 1, savepoint: Savepoint::None, metered })
    }

    pub(crate) fn of_writer(connection: Connection) -> Self {
        Self {
            connection,
            failed: None,
            epoch: String::new(),
            head: 0,
            statements: 0,
            savepoint: Savepoint::None,
            metered: None,
        }
    }

    /// The count of statements goes on.
    pub(crate) fn replace_connection(&mut self, connection: Connection) {
        let statements = self.statements;
        *self = Self { statements, ..Self::of_writer(connection) };
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        self.connection.dialect()
    }

    /// The store's epoch.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The newest revision that these reads see.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Statements that were sent to the database so far; for a writer, over all mutations.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.statements
    }

    pub(crate) fn set_head(&mut self, epoch: String, head: u64) {
        self.epoch = epoch;
        self.head = head;
    }

    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failed.clone()
    }

    pub(crate) fn clear_failure(&mut self) {
        self.failed = None;
    }

    /// Past the check for an earlier failure: for the writer's own statements.
    pub(crate) fn raw(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.map_err(|error| self.failed.get_or_insert(error).clone())
    }

    pub(crate) async fn all(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        self.admit(&query).await?;
        let mut rows = self.connection.rows(query).await;
        if let Some(metered) = &mut self.metered
            && rows.is_ok()
            && let Err(error) = metered.note(&mut self.connection).await
        {
            rows = Err(error);
        }
        self.note(rows)
    }

    pub(crate) async fn optional(&mut self, query: Query) -> Result<Option<Row>, StoreError> {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// Rows affected.
    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        self.admit(&query).await?;
        let done = self.connection.execute(query).await;
        self.note(done)
    }

    async fn resources_of(&mut self, query: Query) -> Result<Vec<Resource>, StoreError> {
        self.all(query).await?.iter().map(resource).collect()
    }

    pub(crate) async fn number(&mut self, query: Query) -> Result<u64, StoreError> {
        let number = match self.optional(query).await? {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        from_sql("number", number)
    }

    // The bodies of `World`, with the store's own error.

    pub(crate) async fn get(&mut self, id: &str) -> Result<Option<Resource>, StoreError> {
        let query = sql::query(select_resource!("WHERE r.id = ?")).bind(id);
        self.optional(query).await?.as_ref().map(resource).transpose()
    }

    pub(crate) async fn get_intent(
        &mut self,
        audience: &Audience,
        key: &Key,
    ) -> Result<Option<IntentRow>, StoreError> {
        let query = sql::query(
            "SELECT audience, kind, key, revision, owner, value, rollout FROM intent_current \
             WHERE audience = ? AND kind = ? AND key = ?",
        )
        .bind(audience.to_string())
        .bind(key.kind)
        .bind(&key.name);
        self.optional(query).await?.as_ref().map(intent_row).transpose()
    }

    /// Resources by id, those that are not there left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resources(&mut self, ids: &[String]) -> Result<Vec<Resource>, StoreError> {
        let mut found = Vec::new();
        for ids in batch::chunks(ids) {
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(RESOURCE).push(" FROM resources r WHERE r.id IN ");
            batch::list(&mut sql, ids);
            found.extend(self.resources_of(sql.build()).await?);
        }
        Ok(found)
    }

    /// Resources that a gate still holds back (pending, provisioning, converging, deleting), by id above `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_resources(&mut self, after: &str, limit: u32) -> Result<Vec<Resource>, StoreError> {
        let query = sql::query(select_resource!(
            "WHERE r.status IN ('pending', 'provisioning', 'converging', 'deleting') AND r.id > ? ORDER BY r.id LIMIT ?"
        ))
        .bind(after)
        .bind(limit.min(LIST_MAX));
        self.resources_of(query).await
    }

    /// The oldest units of the replan queue.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn replan_batch(&mut self, limit: u32) -> Result<Vec<Unit>, StoreError> {
        let mut units = Vec::new();
        let mut after = 0_i64;
        // A unit of a newer build is passed over: it must not stop those behind it.
        loop {
            let wanted = (limit as usize).saturating_sub(units.len());
            if wanted == 0 {
                return Ok(units);
            }
            let query = sql::query("SELECT seq, owner FROM replan WHERE seq > ? ORDER BY seq LIMIT ?")
                .bind(after)
                .bind(to_bound(wanted as u64));
            let rows = self.all(query).await?;
            for row in &rows {
                after = row.try_get(0)?;
                let owner: &str = row.try_get(1)?;
                match Unit::from_owner(owner) {
                    Some(unit) => units.push(unit),
                    None => tracing::warn!(
                        owner,
                        "a queued unit that this build does not know is left in the queue"
                    ),
                }
            }
            if rows.len() < wanted {
                return Ok(units);
            }
        }
    }

    /// Current intents of an audience in key order after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn intents(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, StoreError> {
        let query = sql::query(
            "SELECT audience, kind, key, revision, owner, value, rollout FROM intent_current \
             WHERE audience = ? AND (kind, key) > (?, ?) ORDER BY kind, key LIMIT ?",
        )
        .bind(audience.to_string())
        .bind(after.map_or(-1, |key| i64::from(key.kind)))
        .bind(after.map_or("", |key| key.name.as_str()))
        .bind(limit.min(LIST_MAX));
        self.all(query).await?.iter().map(intent_row).collect()
    }

    /// The same as a subscriber gets them.
    pub(crate) async fn items(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError> {
        let query = sql::query(
            "SELECT kind, key, revision, value, cause, traceparent, rollout FROM intent_current \
             WHERE audience = ? AND (kind, key) > (?, ?) ORDER BY kind, key LIMIT ?",
        )
        .bind(audience.to_string())
        .bind(after.map_or(-1, |key| i64::from(key.kind)))
        .bind(after.map_or("", |key| key.name.as_str()))
        .bind(to_bound(limit as u64));
        let mut items = Vec::new();
        for row in self.all(query).await? {
            items.push(Item {
                key: Key { kind: row.try_get(0)?, name: row.try_get(1)? },
                revision: from_sql("revision", row.try_get(2)?)?,
                value: Bytes::from(row.try_get::<Vec<u8>>(3)?),
                cause: cause(row.try_get(4)?)?,
                traceparent: row.try_get(5)?,
                rollout: from_sql("rollout", row.try_get(6)?)?,
            });
        }
        Ok(items)
    }

    /// Where an audience stands; all zero for one that never had an intent.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audience(&mut self, audience: &Audience) -> Result<AudienceHead, StoreError> {
        crate::feed_source::audience_head(self, audience).await
    }

    /// The log of an audience after a revision: whole revisions, about `limit` changes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn log_since(
        &mut self,
        audience: &Audience,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        crate::feed_source::log_since(self, audience, after, limit).await
    }

    /// Owners of the rows of an audience that changed after one revision, up to another; `None` when that is not known any more,
    /// or there are more than `most`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn owners_between(
        &mut self,
        audience: &Audience,
        after: u64,
        upto: u64,
        most: u32,
    ) -> Result<Option<Vec<String>>, StoreError> {
        crate::feed_source::owners_between(self, audience, after, upto, most).await
    }

    /// Audiences that ever had an intent, above `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audiences(
        &mut self,
        after: Option<&Audience>,
        limit: u32,
    ) -> Result<Vec<Audience>, StoreError> {
        let query = sql::query("SELECT audience FROM audiences WHERE audience > ? ORDER BY audience LIMIT ?")
            .bind(after.map(ToString::to_string).unwrap_or_default())
            .bind(limit.min(LIST_MAX));
        self.all(query).await?.iter().map(|row| audience(row.try_get(0)?)).collect()
    }

    /// Audiences above `after` whose log has more than `keep` revisions.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn long_logs(
        &mut self,
        keep: u64,
        after: Option<&Audience>,
        limit: u32,
    ) -> Result<Vec<Audience>, StoreError> {
        let query = sql::query(
            "SELECT audience FROM audiences WHERE logged > ? AND audience > ? ORDER BY audience LIMIT ?",
        )
        .bind(to_bound(keep))
        .bind(after.map(ToString::to_string).unwrap_or_default())
        .bind(limit.min(LIST_MAX));
        self.all(query).await?.iter().map(|row| audience(row.try_get(0)?)).collect()
    }

    /// Recomputes an audience's digest and count from its rows and compares. For tests and repair: it reads all of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn digest_is_true(&mut self, audience: &Audience) -> Result<bool, StoreError> {
        let head = self.audience(audience).await?;
        let mut digest = hosting_intent::Digest::EMPTY;
        let mut count = 0;
        let mut after: Option<Key> = None;
        loop {
            let rows = self.intents(audience, after.as_ref(), 1_000).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.key.clone());
            for row in &rows {
                digest.add(&row.key, &row.value);
                count += 1;
            }
        }
        Ok(digest == head.digest && count == head.count)
    }
}

#[async_trait]
impl World for ReadTx {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        Ok(self.get(id).await?)
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        let query = sql::query(select_resource!(
            "WHERE r.parent = ? AND r.kind = ? AND r.id > ? ORDER BY r.id LIMIT ?"
        ))
        .bind(parent)
        .bind(kind.name())
        .bind(after)
        .bind(limit.min(LIST_MAX));
        Ok(self.resources_of(query).await?)
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        let query = sql::query(select_resource!(
            "JOIN uniques u ON u.id = r.id WHERE u.kind = ? AND u.scope = ? AND u.key = ?"
        ))
        .bind(kind.name())
        .bind(scope)
        .bind(key);
        Ok(self.optional(query).await?.as_ref().map(resource).transpose()?)
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        let query = sql::query(select_resource!(
            "JOIN refs f ON f.source = r.id \
             WHERE f.target = ? AND f.kind = ? AND f.relation = ? AND f.source > ? ORDER BY f.source LIMIT ?"
        ))
        .bind(to)
        .bind(kind.name())
        .bind(relation)
        .bind(after)
        .bind(limit.min(LIST_MAX));
        Ok(self.resources_of(query).await?)
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        let query = sql::query(select_resource!(
            "JOIN facets f ON f.id = r.id \
             WHERE f.kind = ? AND f.field = ? AND f.value = ? AND f.id > ? ORDER BY f.id LIMIT ?"
        ))
        .bind(kind.name())
        .bind(field)
        .bind(value)
        .bind(after)
        .bind(limit.min(LIST_MAX));
        Ok(self.resources_of(query).await?)
    }

    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<(String, Resource)>, WorldError> {
        let mut holders = Vec::new();
        for keys in batch::chunks(keys) {
            let mut sql = QueryBuilder::new("SELECT ");
            sql.push(RESOURCE).push(", u.key FROM resources r JOIN uniques u ON u.id = r.id WHERE u.kind = ");
            sql.push_bind(kind.name()).push(" AND u.scope = ").push_bind(scope.to_owned());
            sql.push(" AND u.key IN ");
            batch::list(&mut sql, keys);
            for row in self.all(sql.build()).await? {
                holders.push((row.try_get(RESOURCE_COLUMNS)?, resource(&row)?));
            }
        }
        Ok(holders)
    }

    async fn owned_by(&mut self, owners: &[String]) -> Result<Vec<IntentRow>, WorldError> {
        let mut rows = Vec::new();
        for owners in batch::chunks(owners) {
            let mut sql = QueryBuilder::new(
                "SELECT audience, kind, key, revision, owner, value, rollout FROM intent_current WHERE owner IN ",
            );
            batch::list(&mut sql, owners);
            for row in self.all(sql.build()).await? {
                rows.push(intent_row(&row)?);
            }
        }
        rows.sort_by(|a, b| (&a.audience, &a.key).cmp(&(&b.audience, &b.key)));
        Ok(rows)
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        let query = sql::query(
            "SELECT audience, kind, key, revision, owner, value, rollout FROM intent_current \
             WHERE owner = ? ORDER BY audience, kind, key",
        )
        .bind(owner);
        let rows = self.all(query).await?;
        Ok(rows.iter().map(intent_row).collect::<Result<_, _>>()?)
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        Ok(self.get_intent(audience, key).await?)
    }

    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        Ok(self.intents(audience, after, limit).await?)
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        Ok(self.number(sql::query("SELECT value FROM counters WHERE name = ?").bind(name)).await?)
    }

    async fn usage(&mut self, of: &[(String, Kind)]) -> Result<Vec<u64>, WorldError> {
        Ok(self.usage_of(of).await?)
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        let query = sql::query(select_resource!("WHERE r.kind = ? AND r.id > ? ORDER BY r.id LIMIT ?"))
            .bind(kind.name())
            .bind(after)
            .bind(limit.min(LIST_MAX));
        Ok(self.resources_of(query).await?)
    }

    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        Ok(self.replan_batch(limit).await?)
    }

    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        Ok(self.read_trust_roots().await?)
    }

    async fn audience_count(&mut self, audience: &Audience) -> Result<u64, WorldError> {
        Ok(self.audience(audience).await?.count)
    }

    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError> {
        Ok(self.read_key_shares(audience).await?)
    }
}

/// From [`RESOURCE`].
pub(crate) fn resource(row: &Row) -> Result<Resource, StoreError> {
    let kind: &str = row.try_get(1)?;
    let id: String = row.try_get(0)?;
    Ok(Resource {
        kind: Kind::from_name(kind)
            .ok_or_else(|| StoreError::row(format!("resource {id} is of kind {kind:?}")))?,
        parent: row.try_get(2)?,
        tenant: row.try_get(3)?,
        brand: row.try_get(4)?,
        label: row.try_get(5)?,
        status: status(row.try_get(6)?)?,
        status_message: row.try_get(7)?,
        shape: row.try_get(8)?,
        generation: from_sql("generation", row.try_get(9)?)?,
        created_revision: from_sql("created_revision", row.try_get(10)?)?,
        created_at: row.try_get(11)?,
        updated_at: row.try_get(12)?,
        spec: document(&id, "spec", row.try_get(13)?)?,
        state: document(&id, "state", row.try_get(14)?)?,
        id,
    })
}

fn document(id: &str, field: &str, text: &str) -> Result<Map<String, Value>, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::row(format!("{field} of {id}: {error}")))
}

pub(crate) fn status(name: &str) -> Result<Status, StoreError> {
    Status::from_name(name).ok_or_else(|| StoreError::row(format!("status {name:?}")))
}

/// What the column says.
pub(crate) fn audience(text: &str) -> Result<Audience, StoreError> {
    text.parse().map_err(|error: AudienceError| StoreError::row(error.to_string()))
}

pub(crate) fn intent_row(row: &Row) -> Result<IntentRow, StoreError> {
    Ok(IntentRow {
        audience: audience(row.try_get(0)?)?,
        key: Key { kind: row.try_get(1)?, name: row.try_get(2)? },
        revision: from_sql("revision", row.try_get(3)?)?,
        owner: row.try_get(4)?,
        value: Bytes::from(row.try_get::<Vec<u8>>(5)?),
        rollout: from_sql("rollout", row.try_get(6)?)?,
    })
}

pub(crate) const fn cause_number(cause: Cause) -> i64 {
    match cause {
        Cause::Planner => 0,
        Cause::Person => 1,
        Cause::Restore => 2,
    }
}

pub(crate) fn cause(number: i64) -> Result<Cause, StoreError> {
    [Cause::Planner, Cause::Person, Cause::Restore]
        .into_iter()
        .find(|cause| cause_number(*cause) == number)
        .ok_or_else(|| StoreError::row(format!("cause {number}")))
}
