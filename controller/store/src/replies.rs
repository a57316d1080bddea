//! What was answered to changes that came with an idempotency key: written with the change, so that whoever did not hear of it and asks
//! again gets the answer and not another change, whichever controller it asks.

use crate::error::{from_sql, to_sql};
use crate::{Secret, Store, StoreError, UnsealError, WriteTx, sql};

/// Rows that [`Store::prune_replies`] deletes at once.
const CHUNK: u64 = 1_000;

/// An answer that was kept.
#[derive(Debug)]
pub struct KeptReply {
    /// The revision that the change made; the head when it made none.
    pub revision: u64,
    /// The answer, as it was given to [`WriteTx::keep_reply`]; an error when the key that sealed it is gone.
    pub reply: Result<Secret, UnsealError>,
}

/// The name that an answer is sealed under.
fn name(api_key: &str, key: &str) -> String {
    format!("reply/{api_key}/{key}")
}

impl WriteTx {
    /// The answer that is kept for an API key's idempotency key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn kept_reply(&mut self, api_key: &str, key: &str) -> Result<Option<KeptReply>, StoreError> {
        let query = sql::query("SELECT revision, kek_id, sealed FROM replies WHERE api_key = ? AND key = ?");
        let Some(row) = self.optional(query.bind(api_key).bind(key)).await? else { return Ok(None) };
        let (kek_id, sealed): (String, Vec<u8>) = (row.try_get(1)?, row.try_get(2)?);
        Ok(Some(KeptReply {
            revision: from_sql("revision", row.try_get(0)?)?,
            reply: self.kek().unseal(&kek_id, &name(api_key, key), &sealed),
        }))
    }

    /// Keeps an answer with the mutation, sealed: nothing of it is to be read from the database. The API key's oldest answer goes when it has
    /// as many as the store keeps of one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep_reply(&mut self, api_key: &str, key: &str, reply: &[u8]) -> Result<(), StoreError> {
        let kek = self.kek();
        let sealed =
            kek.seal(&name(api_key, key), reply).map_err(|error| StoreError::Io(error.to_string().into()))?;
        let revision = to_sql("revision", self.landing_revision())?;
        let now = hosting_planner::Draft::now(self);
        let last = sql::query("SELECT coalesce(max(number), 0) FROM replies WHERE api_key = ?").bind(api_key);
        let number = self.number(last).await? + 1;
        let query = sql::query(
            "INSERT INTO replies (api_key, key, number, revision, kek_id, sealed, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        );
        let query = query.bind(api_key).bind(key).bind(to_sql("number", number)?).bind(revision);
        self.execute(query.bind(kek.id()).bind(sealed).bind(now)).await?;
        if let Some(oldest) = number.checked_sub(self.replies_per_key()).filter(|oldest| *oldest > 0) {
            let query = sql::query("DELETE FROM replies WHERE api_key = ? AND number <= ?");
            self.execute(query.bind(api_key).bind(to_sql("number", oldest)?)).await?;
        }
        Ok(())
    }
}

impl Store {
    /// Deletes answers from before `before` (milliseconds since the Unix epoch), at most 1000; how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune_replies(&self, before: i64) -> Result<u64, StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let oldest = sql::query("SELECT api_key, key FROM replies WHERE at < ? ORDER BY at LIMIT ?");
                let rows = tx.all(oldest.bind(before).bind(to_sql("limit", CHUNK)?)).await?;
                for row in &rows {
                    let (api_key, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                    let delete = sql::query("DELETE FROM replies WHERE api_key = ? AND key = ?");
                    tx.execute(delete.bind(api_key).bind(key)).await?;
                }
                Ok(rows.len() as u64)
            })
        })
        .await
    }
}
