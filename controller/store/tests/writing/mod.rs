//! A store that is opened, and what is written to it.

#![allow(clippy::unwrap_used, reason = "helpers are not recognised as tests")]

use hosting_intent::{Bytes, Cause, Key, Kind};
use hosting_planner::{ApplyError, Change, Draft, IntentChange};
use hosting_resource::Resource;
use hosting_store::{AuditEntry, Database, Kek, Origin, Store, StoreConfig};

use crate::databases::Place;

pub(crate) async fn open(place: &Place, database: &Database) -> Store {
    let kek = Kek::load_or_create(&place.kek()).unwrap();
    Store::open(&StoreConfig::of(database.clone()), kek).await.unwrap()
}

pub(crate) fn tenant(id: &str) -> Resource {
    Resource {
        id: id.to_owned(),
        kind: hosting_resource::Kind::Tenant,
        parent: None,
        tenant: None,
        brand: None,
        label: format!("label \u{e4} of {id}"),
        status: hosting_resource::Status::Active,
        status_message: None,
        shape: 1,
        generation: 1,
        created_revision: 1,
        created_at: 1,
        updated_at: 1,
        spec: serde_json::Map::new(),
        state: serde_json::Map::new(),
    }
}

pub(crate) async fn write(store: &Store, n: u64) {
    let intent = IntentChange {
        audience: "edge/a".parse().unwrap(),
        key: Key::new(Kind::Route, format!("{n}.example")),
        owner: format!("unit:{n}"),
        value: Some(Bytes::from(vec![u8::try_from(n % 256).unwrap(); 100])),
        cause: Cause::Person,
        traceparent: None,
        rollout: 0,
    };
    let change = Change {
        put: vec![tenant(&format!("t_{n}"))],
        intents: vec![intent],
        counters: vec![("tenant_uid".to_owned(), n)],
        ..Change::default()
    };
    let entry = AuditEntry {
        method: "POST".into(),
        path: format!("/{n}"),
        resource_type: "tenant".into(),
        ..AuditEntry::default()
    };
    store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                tx.audit(entry);
                tx.apply(change).await?;
                Ok::<_, ApplyError>(())
            })
        })
        .await
        .unwrap();
}
