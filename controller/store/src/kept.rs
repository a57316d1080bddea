//! What is deleted and kept, in the order in which its time is over.

use hosting_resource::{Kind, RESTORABLE_UNTIL, in_order};

use crate::error::to_bound;
use crate::{ReadTx, StoreError, sql};

impl ReadTx {
    /// Ids of at most `limit` resources of a kind that are deleted and could be brought back until `upto` at the latest, in milliseconds
    /// since the Unix epoch; those first whose time was over first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn kept_until(&mut self, kind: Kind, upto: i64, limit: u32) -> Result<Vec<String>, StoreError> {
        let query = sql::query(
            "SELECT id FROM facets WHERE kind = ? AND field = ? AND value <= ? ORDER BY value, id LIMIT ?",
        );
        let query = query.bind(kind.name()).bind(RESTORABLE_UNTIL).bind(in_order(upto));
        let rows = self.all(query.bind(to_bound(limit.into()))).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}
