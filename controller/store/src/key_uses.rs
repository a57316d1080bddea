//! When API keys were used last: noted in memory by each controller, written now and then.

use std::collections::BTreeMap;

use crate::sql::QueryBuilder;
use crate::{ReadTx, Store, StoreError, batch};

impl Store {
    /// Writes when keys were used, by their ids, in milliseconds since the Unix epoch. An earlier time than is written changes nothing:
    /// another controller was asked later.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn save_key_uses(&self, uses: Vec<(String, i64)>) -> Result<(), StoreError> {
        self.status_write(move |tx| {
            Box::pin(async move {
                let tail = " ON CONFLICT (api_key) DO UPDATE SET used_at = excluded.used_at \
                            WHERE excluded.used_at > key_uses.used_at";
                batch::insert(
                    tx.beside(),
                    "INSERT INTO key_uses (api_key, used_at)",
                    tail,
                    &uses,
                    |values, (key, at)| {
                        values.push_bind(key.clone()).push_bind(*at);
                    },
                )
                .await?;
                Ok(())
            })
        })
        .await
    }
}

impl ReadTx {
    /// When these keys were used last; those that never were are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn key_uses(&mut self, ids: &[String]) -> Result<BTreeMap<String, i64>, StoreError> {
        let mut uses = BTreeMap::new();
        for ids in batch::chunks(ids) {
            let mut sql = QueryBuilder::new("SELECT api_key, used_at FROM key_uses WHERE api_key IN ");
            batch::list(&mut sql, ids);
            for row in self.all(sql.build()).await? {
                uses.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        Ok(uses)
    }
}
