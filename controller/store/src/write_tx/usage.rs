//! How many resources of a kind count against a tenant, a brand or a subscription: kept with each change, so that a limit is checked without
//! counting.

use std::collections::BTreeMap;

use hosting_resource::{Index, Kind, Resource};

use super::{Pending, WriteTx};
use crate::{ReadTx, StoreError, batch};

/// By how much what counts against an owner grows or shrinks, by owner and kind.
pub(super) type Usage = BTreeMap<(String, Kind), i64>;

impl WriteTx {
    /// Notes that a resource comes (1) or goes (-1).
    pub(super) fn charge(&mut self, resource: &Resource, index: &Index, by: i64) {
        for owner in resource.charged(index) {
            *self.mutation.usage.entry((owner, resource.kind)).or_default() += by;
        }
    }

    /// What is stored, with what the group has changed.
    pub(super) async fn usage_now(&mut self, about: &[(String, Kind)]) -> Result<Vec<u64>, StoreError> {
        let mut used = self.read.usage_of(about).await?;
        for (used, of) in used.iter_mut().zip(about) {
            for changed in [&self.pending.usage, &self.mutation.usage] {
                *used = used.saturating_add_signed(changed.get(of).copied().unwrap_or_default());
            }
        }
        Ok(used)
    }
}

impl Pending {
    /// Rows of whoever is gone go too.
    pub(super) async fn write_usage(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let changed: Vec<_> = self.usage.iter().filter(|(_, by)| **by != 0).collect();
        batch::insert(
            tx,
            "INSERT INTO quota_usage (owner, kind, count)",
            "ON CONFLICT (owner, kind) DO UPDATE SET count = quota_usage.count + excluded.count",
            &changed,
            |row, ((owner, kind), by)| {
                row.push_bind(owner.clone()).push_bind(kind.name()).push_bind(**by);
            },
        )
        .await?;
        let owners = self.layer.removed().filter(|(_, kind)| kind.def().has_limits()).map(|(id, _)| id);
        let owners: Vec<String> = owners.map(ToOwned::to_owned).collect();
        batch::delete(tx, "DELETE FROM quota_usage", &["owner"], &owners, |owner, _| owner.clone()).await?;
        Ok(())
    }
}
