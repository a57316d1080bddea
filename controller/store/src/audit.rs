//! Who did what: one row for each changing request, kept with its change or, when it failed, on its own.
//!
//! The caller redacts the body; the store keeps it as given.

use std::collections::BTreeMap;

use hosting_resource::audit_chain::{self, ChainedRow};
use hosting_resource::timestamp;
use serde_json::Value;

use crate::error::{from_sql, to_bound};
use crate::page::push_contains;
use crate::sql::{self, Query, QueryBuilder, Row};
use crate::{Order, Origin, ReadTx, Store, StoreError, batch};

/// Longest path that is kept, in bytes.
const MAX_PATH: usize = 2_048;
/// Longest method, type or id that is kept, in bytes.
const MAX_INDEXED: usize = 512;
/// A longer body is replaced by its length, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Rows that a page looks at, when conditions that no index has together say which of them it shows.
const LOOKED_AT: usize = 2_000;
/// What a row takes beside its texts, with its places in the indexes, in bytes.
const ROW_BYTES: i64 = 400;
/// Deletes rows up to one; answers what [`delete`] has to know.
const DELETE_UPTO: &str =
    "DELETE FROM audit WHERE seq <= ? RETURNING octet_length(path), octet_length(body), seq, link";

/// What was asked and answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditEntry {
    /// HTTP method, or the name of an action of the controller itself.
    pub method: String,
    /// Request path.
    pub path: String,
    /// Kind of the resource, as the API spells it.
    pub resource_type: String,
    /// Its id, if there is one.
    pub resource_id: Option<String>,
    /// HTTP status of the answer.
    pub status_code: u16,
    /// Request body without secrets.
    pub body: Option<Value>,
}

/// A stored audit entry.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Place in the log; grows.
    pub seq: u64,
    /// UUID.
    pub id: String,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Who; `None` for the controller itself.
    pub actor: Option<String>,
    /// The revision it made; `None` when it changed nothing.
    pub revision: Option<u64>,
    /// W3C traceparent; empty when there was none.
    pub traceparent: String,
    /// What.
    pub entry: AuditEntry,
    /// Its link in the chain over the log ([`hosting_resource::audit_chain`]); empty for rows of builds before there was one.
    pub link: Vec<u8>,
}

/// What the audit log is sorted by. The sequence breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditSort {
    /// The order in which it was written.
    #[default]
    Written,
    /// HTTP method.
    Method,
    /// Kind of resource.
    ResourceType,
}

/// What to list of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditQuery {
    /// Resource type or method contains this text.
    pub search: Option<String>,
    /// Exactly this resource type.
    pub resource_type: Option<String>,
    /// Exactly this resource.
    pub resource_id: Option<String>,
    /// Exactly this method.
    pub method: Option<String>,
    /// Not before, milliseconds since the Unix epoch.
    pub from: Option<i64>,
    /// Before, milliseconds since the Unix epoch.
    pub until: Option<i64>,
    /// Sorted by.
    pub sort: AuditSort,
    /// Which way.
    pub order: Order,
    /// Behind the row with this id.
    pub after: Option<String>,
    /// At most this many, 1–1000; 0 for 50.
    pub limit: u32,
}

/// One page of the audit log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditPage {
    /// In the order asked for.
    pub rows: Vec<AuditRow>,
    /// The [`AuditQuery::after`] of the next page; `None` on the last one. It may be that of a row that is not shown.
    pub next: Option<String>,
}

impl Store {
    /// Writes an audit row of a request that changed nothing.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn audit(&self, origin: Origin, entry: AuditEntry) -> Result<(), StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                tx.audit_of(entry, origin);
                Ok(())
            })
        })
        .await
    }

    /// Deletes audit rows from before `before` (milliseconds since the Unix epoch), at most 1000; how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune_audit(&self, before: i64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                // The oldest rows alone, so that the chain has no gap: one whose time is later, because a clock was put back since, keeps
                // those behind it until its own time has come.
                let oldest = sql::query("SELECT seq, at FROM audit ORDER BY seq LIMIT 1000");
                let mut last = None;
                for row in tx.beside().all(oldest).await? {
                    if row.try_get::<i64>(1)? >= before {
                        break;
                    }
                    last = Some(row.try_get::<i64>(0)?);
                }
                let Some(last) = last else { return Ok(0) };
                delete(tx.beside(), sql::query(DELETE_UPTO).bind(last)).await
            })
        })
        .await
    }
}

/// A text that both databases take and have room for in an index: what somebody asked for may be anything, and must not fail a group.
fn harmless(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_INDEXED)).unwrap_or_default().replace('\0', "\u{fffd}")
}

/// A row that is to be written.
#[derive(Debug)]
pub(crate) struct NewAudit {
    pub(crate) entry: AuditEntry,
    pub(crate) origin: Origin,
    pub(crate) at: i64,
    pub(crate) revision: Option<u64>,
}

/// Writes rows, each with its link behind the last one, and makes room for them: the log has at most `most` bytes.
pub(crate) async fn insert(tx: &mut ReadTx, new: &[NewAudit], most: u64) -> Result<(), StoreError> {
    let mut rows = Vec::new();
    let mut added = 0;
    for row in new {
        let NewAudit { entry, origin, at, revision } = row;
        let path = entry.path.get(..entry.path.floor_char_boundary(MAX_PATH)).unwrap_or_default();
        let body = entry.body.as_ref().map(Value::to_string).map(|body| {
            let bytes = body.len();
            if bytes > MAX_BODY { Value::from(format!("{bytes} bytes, not kept")).to_string() } else { body }
        });
        added += ROW_BYTES + bytes_of(path.len(), body.as_ref().map_or(0, String::len));
        rows.push(Written {
            id: uuid::Uuid::new_v4().to_string(),
            at: *at,
            actor: origin.actor.clone(),
            method: harmless(&entry.method),
            path: path.replace('\0', "\u{fffd}"),
            resource_type: harmless(&entry.resource_type),
            resource_id: entry.resource_id.as_deref().map(harmless),
            status_code: entry.status_code,
            body,
            revision: *revision,
            traceparent: origin.traceparent.clone(),
            link: Vec::new(),
        });
    }
    if rows.is_empty() {
        return Ok(());
    }
    // Under the head lock nobody else adds rows meanwhile, whichever controller.
    let query = sql::query(
        "UPDATE audit_size SET bytes = bytes + ? WHERE id = 1 \
         RETURNING bytes, coalesce((SELECT link FROM audit ORDER BY seq DESC LIMIT 1), last_link)",
    );
    let sums = tx.all(query.bind(added)).await?;
    let sums =
        sums.first().ok_or_else(|| StoreError::Row("the size of the audit log is not known".into()))?;
    let (bytes, mut link): (i64, Vec<u8>) = (sums.try_get(0)?, sums.try_get(1)?);
    for row in &mut rows {
        link = row.link_behind(&link);
        row.link.clone_from(&link);
    }
    batch::insert(
        tx,
        "INSERT INTO audit (id, at, actor, method, path, resource_type, resource_id, status_code, body, revision, \
         traceparent, link)",
        "",
        &rows,
        |values, row| {
            values.push_bind(&row.id).push_bind(row.at).push_bind(row.actor.clone());
            values.push_bind(&row.method).push_bind(&row.path).push_bind(&row.resource_type);
            values.push_bind(row.resource_id.clone()).push_bind(row.status_code).push_bind(row.body.clone());
            values.push_bind(row.revision.map(to_bound)).push_bind(&row.traceparent);
            values.push_bind(row.link.as_slice());
        },
    )
    .await?;
    make_room(tx, u64::try_from(bytes).unwrap_or_default(), most).await
}

/// A row as it is written.
struct Written {
    id: String,
    at: i64,
    actor: Option<String>,
    method: String,
    path: String,
    resource_type: String,
    resource_id: Option<String>,
    status_code: u16,
    body: Option<String>,
    revision: Option<u64>,
    traceparent: String,
    link: Vec<u8>,
}

impl Written {
    fn link_behind(&self, before: &[u8]) -> Vec<u8> {
        let row = ChainedRow {
            id: &self.id,
            created_at: &timestamp(self.at),
            api_key_id: self.actor.as_deref(),
            method: &self.method,
            path: &self.path,
            resource_type: &self.resource_type,
            resource_id: self.resource_id.as_deref(),
            status_code: self.status_code,
            request_body: self.body.as_deref(),
            revision: self.revision,
        };
        audit_chain::link(before, &row).to_vec()
    }
}

/// Deletes the oldest rows while the log has more than `most` bytes, some at once.
async fn make_room(tx: &mut ReadTx, mut bytes: u64, most: u64) -> Result<(), StoreError> {
    while bytes > most {
        let oldest = sql::query("SELECT max(seq) FROM (SELECT seq FROM audit ORDER BY seq LIMIT 256) oldest");
        let row = tx.optional(oldest).await?;
        let Some(last) = row.map(|row| row.try_get::<Option<i64>>(0)).transpose()?.flatten() else { break };
        let rows = delete(tx, sql::query(DELETE_UPTO).bind(last)).await?;
        tracing::warn!(rows, most, "the audit log has its largest size: its oldest rows are dropped");
        bytes = tx.number(sql::query("SELECT bytes FROM audit_size WHERE id = 1")).await?;
    }
    Ok(())
}

/// Runs [`DELETE_UPTO`]: counts the rows' bytes out, and keeps the link of the last one, which the first of those that stay is behind.
async fn delete(tx: &mut ReadTx, deletion: Query) -> Result<u64, StoreError> {
    let rows = tx.all(deletion).await?;
    let mut bytes = 0;
    let mut last: Option<(i64, Vec<u8>)> = None;
    for row in &rows {
        bytes += ROW_BYTES + row.try_get::<i64>(0)? + row.try_get::<Option<i64>>(1)?.unwrap_or_default();
        let seq = row.try_get(2)?;
        if last.as_ref().is_none_or(|(newest, _)| *newest < seq) {
            last = Some((seq, row.try_get(3)?));
        }
    }
    if let Some((_, link)) = last {
        let query = sql::query("UPDATE audit_size SET bytes = bytes - ?, last_link = ? WHERE id = 1");
        tx.execute(query.bind(bytes).bind(link)).await?;
    }
    Ok(rows.len() as u64)
}

fn bytes_of(path: usize, body: usize) -> i64 {
    i64::try_from(path + body).unwrap_or(i64::MAX / 2)
}

/// Where a page goes along, and in which order.
struct Way<'l> {
    /// An equality whose rows an index gives in that order.
    equality: Option<(&'static str, &'l str)>,
    /// The page's order, as columns.
    key: &'static str,
    /// Whether the times are a range of that order.
    is_by_time: bool,
}

impl AuditQuery {
    fn way(&self) -> Way<'_> {
        let equal = |column: &'static str, value: &'_ Option<String>| value.is_some().then_some(column);
        let (found, key) = match self.sort {
            AuditSort::Written => {
                let found = equal("a.resource_id", &self.resource_id)
                    .or_else(|| equal("a.resource_type", &self.resource_type))
                    .or_else(|| equal("a.method", &self.method));
                (found, "a.seq")
            }
            AuditSort::Method => (equal("a.method", &self.method), "a.method, a.seq"),
            AuditSort::ResourceType => {
                (equal("a.resource_type", &self.resource_type), "a.resource_type, a.seq")
            }
        };
        let mut equalities = self.equalities();
        let equality = equalities.find(|(column, _)| Some(*column) == found);
        let is_by_time = self.sort == AuditSort::Written
            && equality.is_none()
            && (self.from.is_some() || self.until.is_some());
        // Rows are written in the order of their times, but for a clock that was put back.
        Way { equality, key: if is_by_time { "a.at, a.seq" } else { key }, is_by_time }
    }

    fn equalities(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("a.resource_id", &self.resource_id),
            ("a.resource_type", &self.resource_type),
            ("a.method", &self.method),
        ];
        all.into_iter().filter_map(|(column, value)| Some((column, value.as_deref()?)))
    }

    fn times(&self) -> impl Iterator<Item = (&'static str, i64)> {
        [("a.at >= ", self.from), ("a.at < ", self.until)]
            .into_iter()
            .filter_map(|(condition, time)| Some((condition, time?)))
    }

    fn search(&self) -> Option<&str> {
        self.search.as_deref().filter(|search| !search.is_empty())
    }
}

impl ReadTx {
    /// One page of the audit log. It looks at a bounded number of rows: it may have fewer than its limit, even none, while there are more. A
    /// cursor whose row is gone answers an empty page.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit_page(&mut self, list: &AuditQuery) -> Result<AuditPage, StoreError> {
        let limit = if list.limit == 0 { 50 } else { list.limit.min(1_000) } as usize;
        let way = list.way();
        let others = list.equalities().filter(|one| Some(one.0) != way.equality.map(|way| way.0));
        let others: Vec<_> = others.collect();
        let is_one_range =
            others.is_empty() && list.search().is_none() && (way.is_by_time || list.times().next().is_none());
        let looked_at = if is_one_range { limit } else { LOOKED_AT.max(limit) };

        let mut sql = QueryBuilder::new("SELECT a.seq, a.id, CAST(CASE WHEN 1 = 1");
        if let Some(search) = list.search() {
            push_contains(&mut sql, &["a.resource_type", "a.method"], search);
        }
        for (column, value) in others {
            sql.push(" AND ").push(column).push(" = ").push_bind(value);
        }
        for (condition, time) in list.times().filter(|_| !way.is_by_time) {
            sql.push(" AND ").push(condition).push_bind(time);
        }
        sql.push(" THEN 1 ELSE 0 END AS BIGINT) FROM audit a WHERE 1 = 1");
        if let Some((column, value)) = way.equality {
            sql.push(" AND ").push(column).push(" = ").push_bind(value);
        }
        for (condition, time) in list.times().filter(|_| way.is_by_time) {
            sql.push(" AND ").push(condition).push_bind(time);
        }
        let key = way.key;
        let (direction, beyond) = match list.order {
            Order::Asc => ("ASC", ">"),
            Order::Desc => ("DESC", "<"),
        };
        if let Some(after) = &list.after {
            sql.push(" AND (").push(key).push(") ").push(beyond);
            sql.push(" (SELECT ").push(key.replace("a.", "c."));
            sql.push(" FROM audit c WHERE c.id = ").push_bind(after).push(")");
        }
        sql.push(" ORDER BY ").push(key.replace(',', &format!(" {direction},"))).push(" ").push(direction);
        sql.push(" LIMIT ").push_bind(to_bound(looked_at as u64 + 1));

        let looked = self.all(sql.build()).await?;
        let mut seqs: Vec<i64> = Vec::new();
        let mut last = None;
        let mut has_more = looked.len() > looked_at;
        for (place, row) in looked.iter().take(looked_at).enumerate() {
            if row.try_get::<i64>(2)? == 1 {
                seqs.push(row.try_get(0)?);
            }
            last = Some(row);
            if seqs.len() == limit {
                has_more = place + 1 < looked.len();
                break;
            }
        }
        let next = last.filter(|_| has_more).map(|row| row.try_get(1)).transpose()?;
        Ok(AuditPage { rows: self.audit_rows(&seqs).await?, next })
    }

    /// Rows in the order of `seqs`.
    async fn audit_rows(&mut self, seqs: &[i64]) -> Result<Vec<AuditRow>, StoreError> {
        let mut rows = BTreeMap::new();
        for some in batch::chunks(seqs) {
            let mut sql = QueryBuilder::new(
                "SELECT a.seq, a.id, a.at, a.actor, a.revision, a.traceparent, a.method, a.path, a.resource_type, \
                 a.resource_id, a.status_code, a.body, a.link FROM audit a WHERE a.seq IN ",
            );
            batch::list(&mut sql, some);
            for row in self.all(sql.build()).await? {
                rows.insert(row.try_get::<i64>(0)?, audit_row(&row)?);
            }
        }
        Ok(seqs.iter().filter_map(|seq| rows.remove(seq)).collect())
    }
}

fn audit_row(row: &Row) -> Result<AuditRow, StoreError> {
    let revision: Option<i64> = row.try_get(4)?;
    let body: Option<&str> = row.try_get(11)?;
    Ok(AuditRow {
        seq: from_sql("seq", row.try_get(0)?)?,
        id: row.try_get(1)?,
        at: row.try_get(2)?,
        actor: row.try_get(3)?,
        revision: revision.map(|revision| from_sql("revision", revision)).transpose()?,
        traceparent: row.try_get(5)?,
        link: row.try_get(12)?,
        entry: AuditEntry {
            method: row.try_get(6)?,
            path: row.try_get(7)?,
            resource_type: row.try_get(8)?,
            resource_id: row.try_get(9)?,
            status_code: row.try_get(10)?,
            body: body
                .map(|body| {
                    serde_json::from_str(body)
                        .map_err(|error| StoreError::row(format!("audit body: {error}")))
                })
                .transpose()?,
        },
    })
}
