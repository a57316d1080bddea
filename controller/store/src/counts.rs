//! Counts: kept where they are of many, counted in an index where they are of few.

use std::collections::BTreeMap;

use hosting_resource::{Kind, Status};

use crate::error::from_sql;
use crate::read_tx::status;
use crate::sql::{self, QueryBuilder};
use crate::{ReadTx, StoreError, batch};

impl ReadTx {
    /// How long the replan queue is, as far as `most`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn replan_count(&mut self, most: u32) -> Result<u64, StoreError> {
        let query = sql::query("SELECT count(*) FROM (SELECT 1 FROM replan LIMIT ?) AS queued");
        self.number(query.bind(most)).await
    }

    /// How many resources of `kind` stand where, in the order of [`Status::ALL`], zeroes left out. `brands` limits it to
    /// those of some brands.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status_counts(
        &mut self,
        kind: Kind,
        brands: Option<&[String]>,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        let mut sql =
            QueryBuilder::new("SELECT status, CAST(sum(count) AS BIGINT) FROM resource_counts WHERE kind = ");
        sql.push_bind(kind.name()).push(" AND count > 0");
        if let Some(brands) = brands {
            sql.push(" AND brand IN ");
            batch::list(&mut sql, brands);
        }
        sql.push(" GROUP BY status");
        let mut counts = Vec::new();
        for row in self.all(sql.build()).await? {
            counts.push((status(row.try_get(0)?)?, from_sql("count", row.try_get(1)?)?));
        }
        counts.sort_unstable_by_key(|(status, _)| *status);
        Ok(counts)
    }

    /// How many resources of each kind and status belong to a tenant, itself too. Counted: a tenant's resources are few.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tenant_counts(&mut self, tenant: &str) -> Result<Vec<(Kind, Status, u64)>, StoreError> {
        let query =
            sql::query("SELECT kind, status, count(*) FROM resources WHERE tenant = ? GROUP BY kind, status");
        let mut counts = Vec::new();
        for row in self.all(query.bind(tenant)).await? {
            let name: &str = row.try_get(0)?;
            let kind = Kind::from_name(name).ok_or_else(|| StoreError::row(format!("kind {name:?}")))?;
            counts.push((kind, status(row.try_get(1)?)?, from_sql("count", row.try_get(2)?)?));
        }
        Ok(counts)
    }

    /// How many resources of a kind count against an owner, for each of some, in their order. Kept with each change.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn usage_of(&mut self, about: &[(String, Kind)]) -> Result<Vec<u64>, StoreError> {
        let mut known: BTreeMap<(String, String), u64> = BTreeMap::new();
        for about in batch::chunks(about) {
            let mut sql = QueryBuilder::new("SELECT owner, kind, count FROM quota_usage");
            batch::any_of(&mut sql, &["owner", "kind"], about, |sql, (owner, kind), column| {
                sql.push_bind(if column == 0 { owner.clone() } else { kind.name().to_owned() });
            });
            for row in self.all(sql.build()).await? {
                let count: i64 = row.try_get(2)?;
                known.insert((row.try_get(0)?, row.try_get(1)?), count.max(0).unsigned_abs());
            }
        }
        let used = |(owner, kind): &(String, Kind)| {
            known.get(&(owner.clone(), kind.name().to_owned())).copied().unwrap_or_default()
        };
        Ok(about.iter().map(used).collect())
    }

    /// How many resources of `kind` lie in `parent`. Counted in an index, so for what is few: nodes of a cluster.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count_children(&mut self, kind: Kind, parent: &str) -> Result<u64, StoreError> {
        let query = sql::query("SELECT count(*) FROM resources WHERE parent = ? AND kind = ?")
            .bind(parent)
            .bind(kind.name());
        self.number(query).await
    }
}
