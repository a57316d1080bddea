//! How many resources of a kind count against a tenant, a brand or a subscription, and how many have their place in a shard: kept with each change, so that a limit is checked without
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

#[cfg(test)]
mod tests {
    use hosting_planner::{World, create, delete, drain, update};
    use hosting_resource::Kind;
    use serde_json::{Value, json};

    use crate::sql::QueryBuilder;
    use crate::{Kek, Origin, Store, StoreConfig};

    /// What the migration fills the table with is what is counted.
    const COUNTED: [&str; 2] = [
        include_str!("../../migrations/0015_quota_usage.sql"),
        include_str!("../../migrations/0022_places.sql"),
    ];

    struct Lab {
        store: Store,
        _folder: tempfile::TempDir,
        drawn: u8,
    }

    impl Lab {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
            let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
            Self { store, _folder: folder, drawn: 0 }
        }

        async fn post(&mut self, kind: Kind, parent: Option<&str>, body: Value) -> String {
            let parent = match parent {
                Some(parent) => self.store.read().await.unwrap().resource(parent).await.unwrap(),
                None => None,
            };
            self.drawn += 1;
            let (drawn, mut place) = (self.drawn, 0_u8);
            let mut entropy = |bytes: &mut [u8]| {
                place += 1;
                bytes.fill(drawn);
                if let Some(first) = bytes.first_mut() {
                    *first = place;
                }
            };
            let creation =
                kind.def().create(parent.as_ref(), body.as_object().unwrap(), &mut entropy).unwrap();
            let written = self
                .store
                .write(Origin::default(), move |tx| Box::pin(async move { create(tx, creation).await }))
                .await
                .unwrap();
            written.value.first().unwrap().id.clone()
        }

        async fn put(&self, id: &str, body: Value) {
            let current = self.store.read().await.unwrap().resource(id).await.unwrap().unwrap();
            let change = current.kind.def().update(&current, body.as_object().unwrap()).unwrap();
            let written = self.store.write(Origin::default(), move |tx| {
                Box::pin(async move { update(tx, current, change).await })
            });
            written.await.unwrap();
        }

        async fn delete(&self, kind: Kind, id: &str) {
            let id = id.to_owned();
            let written = self
                .store
                .write(Origin::default(), move |tx| Box::pin(async move { delete(tx, kind, &id).await }));
            written.await.unwrap();
        }

        /// Owners, kinds and counts, as they are kept and as they are counted.
        async fn kept_and_counted(&self) -> [Vec<(String, String, i64)>; 2] {
            let selects = COUNTED.map(|text| {
                let select = text.split_once("(owner, kind, count)\n").unwrap().1;
                select.split_once(';').unwrap().0.to_owned()
            });
            let select = selects.join(" UNION ALL ");
            let mut tx = self.store.read().await.unwrap();
            let mut found = Vec::new();
            for text in ["SELECT owner, kind, count FROM quota_usage WHERE count <> 0", &select] {
                let rows = tx.all(QueryBuilder::new(text).build()).await.unwrap();
                let mut rows: Vec<(String, String, i64)> = rows
                    .iter()
                    .map(|row| (row.try_get(0).unwrap(), row.try_get(1).unwrap(), row.try_get(2).unwrap()))
                    .collect();
                rows.sort();
                found.push(rows);
            }
            found.try_into().unwrap()
        }

        async fn assert_kept(&self, at_least: usize) {
            let [kept, counted] = self.kept_and_counted().await;
            assert!(kept.len() >= at_least, "{kept:?}");
            assert_eq!(kept, counted);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_kept_is_what_would_be_counted() {
        let mut lab = Lab::new().await;
        let region = lab.post(Kind::Region, None, json!({"name": "eu"})).await;
        let cluster = lab.post(Kind::Cluster, Some(&region), json!({"name": "c"})).await;
        let shard = lab.post(Kind::Shard, Some(&cluster), json!({"name": "web-1", "role": "web"})).await;
        lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "192.0.2.1"})).await;
        let brand = json!({
            "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
            "secondary_ns": "ns2.acme.example", "hostmaster_email": "hostmaster@acme.example",
        });
        lab.post(Kind::Brand, None, brand).await;
        let package = lab.post(Kind::Package, Some("acme"), json!({"name": "small"})).await;
        let mut tenants = Vec::new();
        for n in 0..2 {
            let body = json!({
                "brand_id": "acme", "customer_id": format!("c{n}"), "region_id": region, "cluster_id": cluster,
                "shard_id": shard, "subscriptions": [{"id": format!("s{n}"), "name": "default"}],
                "zones": [{"subscription_id": format!("s{n}"), "name": format!("t{n}.example")}],
                "webroots": [{"subscription_id": format!("s{n}"), "runtime": "static", "runtime_version": "1",
                    "fqdns": [{"fqdn": format!("www.t{n}.example")}]}],
            });
            tenants.push(lab.post(Kind::Tenant, None, body).await);
        }
        lab.assert_kept(15).await;
        let zone =
            lab.store.read().await.unwrap().holder(Kind::Zone, "", "t0.example").await.unwrap().unwrap();
        lab.post(Kind::ZoneRecord, Some(&zone.id), json!({"type": "TXT", "name": "@", "content": "x"})).await;
        // From one tenant and subscription to another one.
        lab.put(&zone.id, json!({"tenant_id": tenants[1]})).await;
        lab.put(&tenants[0], json!({"package_id": package})).await;
        lab.assert_kept(16).await;
        lab.delete(Kind::Zone, &zone.id).await;
        lab.delete(Kind::Tenant, &tenants[0]).await;
        lab.store.write(Origin::default(), |tx| Box::pin(async move { drain(tx).await })).await.unwrap();
        lab.assert_kept(5).await;
    }

    #[test]
    fn both_databases_count_alike() {
        let postgres = [
            include_str!("../../migrations/postgres/0015_quota_usage.sql"),
            include_str!("../../migrations/postgres/0022_places.sql"),
        ];
        let counting = |text: &'static str| text.split_once("INSERT INTO").unwrap().1;
        assert_eq!(COUNTED.map(counting), postgres.map(counting));
    }
}
