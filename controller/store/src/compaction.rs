//! The end of the log: what every subscriber is past, or can get by snapshot, is deleted.

use hosting_intent::Audience;

use crate::error::to_bound;
use crate::sql;
use crate::{Store, StoreError, WriteTx};

/// Log rows deleted in one go: mutations wait that long.
const CHUNK: i64 = 1_000;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// The audience's floor now: cursors below it need a snapshot.
    pub floor: u64,
    /// Log rows deleted.
    pub rows: u64,
}

impl Store {
    /// Keeps the newest `keep` revisions of an audience's log and deletes the rest, in chunks between other writes.
    ///
    /// The floor rises first, so a crash in between leaves rows that nobody reads and the next compaction deletes.
    ///
    /// # Errors
    /// When the store fails; what was deleted before stays deleted.
    pub async fn compact(&self, audience: &Audience, keep: u64) -> Result<Compacted, StoreError> {
        let name = audience.clone();
        let floor =
            self.status_write(move |tx| Box::pin(async move { raise_floor(tx, &name, keep).await })).await?;
        let mut compacted = Compacted { floor, rows: 0 };
        loop {
            let name = audience.clone();
            let rows = self
                .status_write(move |tx| Box::pin(async move { delete_chunk(tx, &name, floor).await }))
                .await?;
            compacted.rows += rows;
            if rows == 0 {
                return Ok(compacted);
            }
        }
    }
}

async fn raise_floor(tx: &mut WriteTx, audience: &Audience, keep: u64) -> Result<u64, StoreError> {
    let query = sql::query(
        "SELECT DISTINCT revision FROM intent_log WHERE audience = ? ORDER BY revision DESC LIMIT 1 OFFSET ?",
    )
    .bind(audience.to_string())
    .bind(to_bound(keep));
    let floor: i64 = tx.optional(query).await?.map_or(Ok(0), |row| row.try_get(0))?;
    let query = sql::query("UPDATE audiences SET floor = ?2 WHERE audience = ?1 AND floor < ?2")
        .bind(audience.to_string())
        .bind(floor);
    tx.execute(query).await?;
    let query = sql::query("SELECT floor FROM audiences WHERE audience = ?").bind(audience.to_string());
    tx.number(query).await
}

/// Oldest first, whole revisions.
async fn delete_chunk(tx: &mut WriteTx, audience: &Audience, floor: u64) -> Result<u64, StoreError> {
    let query = sql::query(
        "DELETE FROM intent_log WHERE audience = ?1 AND revision <= (SELECT max(revision) FROM (SELECT revision \
         FROM intent_log WHERE audience = ?1 AND revision <= ?2 ORDER BY revision LIMIT ?3) AS oldest)",
    )
    .bind(audience.to_string())
    .bind(to_bound(floor))
    .bind(CHUNK);
    tx.execute(query).await
}
