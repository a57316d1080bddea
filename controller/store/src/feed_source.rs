//! The log and the current rows as publishers read them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Digest, Item, Key, Removal};
use hosting_intent_sync::{AudienceHead, FeedSource, LogEntry, SourceError, Window};

use crate::error::{from_sql, to_bound};
use crate::read_tx::{audience, cause};
use crate::sql::{self, QueryBuilder, Row};
use crate::{ReadTx, Store, StoreError, batch};

/// A window ends at the next revision once its values have this many bytes, whatever its limit.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Rows of the log that are read at once: at most so many values of the largest size are in memory.
const LOG_PAGE: u32 = 128;

impl ReadTx {
    /// The newest revision of each audience that ever had an intent.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revisions(
        &mut self,
        audiences: impl Iterator<Item = &Audience>,
    ) -> Result<BTreeMap<Audience, u64>, StoreError> {
        let names: Vec<String> = audiences.map(ToString::to_string).collect();
        let mut revisions = BTreeMap::new();
        for names in batch::chunks(&names) {
            let mut sql = QueryBuilder::new("SELECT audience, revision FROM audiences WHERE audience IN ");
            batch::list(&mut sql, names);
            for row in self.all(sql.build()).await? {
                revisions.insert(audience(row.try_get(0)?)?, from_sql("revision", row.try_get(1)?)?);
            }
        }
        Ok(revisions)
    }
}

pub(crate) async fn audience_head(tx: &mut ReadTx, audience: &Audience) -> Result<AudienceHead, StoreError> {
    let query = sql::query("SELECT revision, floor, count, digest FROM audiences WHERE audience = ?")
        .bind(audience.to_string());
    let row = tx.optional(query).await?;
    let mut head = AudienceHead {
        epoch: tx.epoch().to_owned(),
        head: tx.head(),
        revision: 0,
        floor: 0,
        count: 0,
        digest: Digest::EMPTY,
    };
    if let Some(row) = row {
        head.revision = from_sql("revision", row.try_get(0)?)?;
        head.floor = from_sql("floor", row.try_get(1)?)?;
        head.count = from_sql("count", row.try_get(2)?)?;
        head.digest = Digest::from_bytes(row.try_get(3)?)
            .ok_or_else(|| StoreError::row(format!("digest of audience {audience}")))?;
    }
    Ok(head)
}

/// Owners of the rows of an audience that changed after one revision, up to another; `None` when that is not known any more, or
/// there are more than `most`.
pub(crate) async fn owners_between(
    tx: &mut ReadTx,
    audience: &Audience,
    after: u64,
    upto: u64,
    most: u32,
) -> Result<Option<Vec<String>>, StoreError> {
    if audience_head(tx, audience).await?.floor > after {
        return Ok(None);
    }
    let query = sql::query(
        "SELECT DISTINCT owner FROM intent_log WHERE audience = ? AND revision > ? AND revision <= ? LIMIT ?",
    )
    .bind(audience.to_string())
    .bind(to_bound(after))
    .bind(to_bound(upto))
    .bind(i64::from(most) + 1);
    let owners =
        tx.all(query).await?.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, StoreError>>()?;
    Ok((owners.len() <= most as usize).then_some(owners))
}

pub(crate) async fn log_since(
    tx: &mut ReadTx,
    audience: &Audience,
    after: u64,
    limit: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    // What came before `after` may be compacted; the highest of that is the floor.
    let query = sql::query(
        "SELECT coalesce((SELECT max(revision) FROM intent_log WHERE audience = ?1 AND revision <= ?2), \
         (SELECT floor FROM audiences WHERE audience = ?1), 0)",
    )
    .bind(audience.to_string())
    .bind(to_bound(after));
    let mut prev = tx.number(query).await?;

    let mut entries: Vec<LogEntry> = Vec::new();
    let (mut changes, mut bytes) = (0, 0);
    let mut last = (to_bound(after), i64::from(u32::MAX) + 1, String::new());
    loop {
        let query = sql::query(
            "SELECT revision, kind, key, value, cause, traceparent, rollout FROM intent_log WHERE audience = ? \
             AND (revision, kind, key) > (?, ?, ?) ORDER BY revision, kind, key LIMIT ?",
        )
        .bind(audience.to_string())
        .bind(last.0)
        .bind(last.1)
        .bind(&last.2)
        .bind(LOG_PAGE);
        let rows = tx.all(query).await?;
        let whole = rows.len() < LOG_PAGE as usize;
        for row in &rows {
            let change = Change::try_from(row)?;
            let full = changes >= limit || bytes >= WINDOW_BYTES;
            if entries.last().is_none_or(|entry| entry.revision != change.revision) {
                if full && !entries.is_empty() {
                    return Ok(entries);
                }
                prev = entries.last().map_or(prev, |entry| entry.revision);
                entries.push(LogEntry {
                    prev,
                    revision: change.revision,
                    upserts: Vec::new(),
                    removals: Vec::new(),
                });
            }
            changes += 1;
            bytes += change.value.as_ref().map_or(0, Bytes::len);
            last = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if let Some(entry) = entries.last_mut() {
                change.push_to(entry);
            }
        }
        if whole {
            return Ok(entries);
        }
    }
}

/// A row of the log.
struct Change {
    revision: u64,
    key: Key,
    value: Option<Bytes>,
    cause: hosting_intent::Cause,
    traceparent: String,
    rollout: u64,
}

impl TryFrom<&Row> for Change {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            revision: from_sql("revision", row.try_get(0)?)?,
            key: Key { kind: row.try_get(1)?, name: row.try_get(2)? },
            value: row.try_get::<Option<Vec<u8>>>(3)?.map(Bytes::from),
            cause: cause(row.try_get(4)?)?,
            traceparent: row.try_get(5)?,
            rollout: from_sql("rollout", row.try_get(6)?)?,
        })
    }
}

impl Change {
    fn push_to(self, entry: &mut LogEntry) {
        let Self { revision, key, value, cause, traceparent, rollout } = self;
        match value {
            Some(value) => entry.upserts.push(Item { key, revision, value, cause, traceparent, rollout }),
            None => entry.removals.push(Removal { key, cause, traceparent, rollout }),
        }
    }
}

#[async_trait]
impl FeedSource for Store {
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        Ok(self.read().await?.audience(audience).await?)
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let mut tx = self.read().await?;
        let head = tx.audience(audience).await?;
        // Most reads are of a subscriber that has everything.
        let entries =
            if after >= head.revision { Vec::new() } else { tx.log_since(audience, after, limit).await? };
        Ok(Window { head, entries })
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        Ok(self.read().await?.items(audience, after, limit).await?)
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        Ok(self.new_epoch(seen).await?)
    }
}
