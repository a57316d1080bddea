//! Stores that move: from SQLite to PostgreSQL, into a file while they are in use, and back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod databases;

use hosting_intent::{Bytes, Cause, Key, Kind};
use hosting_planner::{ApplyError, Change, Draft, IntentChange, World};
use hosting_resource::Resource;
use hosting_store::{AuditEntry, Database, Kek, OpenError, Origin, Store, StoreConfig};

use self::databases::{Backend, Place, Postgres};

async fn open(place: &Place, database: &Database) -> Store {
    let kek = Kek::load_or_create(&place.kek()).unwrap();
    Store::open(&StoreConfig::of(database.clone()), kek).await.unwrap()
}

fn tenant(id: &str) -> Resource {
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

async fn write(store: &Store, n: u64) {
    let intent = IntentChange {
        audience: "edge/a".parse().unwrap(),
        key: Key::new(Kind::Route, format!("{n}.example")),
        owner: format!("unit:{n}"),
        value: Some(Bytes::from(vec![u8::try_from(n % 256).unwrap(); 100])),
        cause: Cause::Person,
        traceparent: None,
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

/// What somebody who looks at a store sees of it.
async fn seen(store: &Store) -> (u64, String, Vec<Resource>, u64, usize, String) {
    let audience = "edge/a".parse().unwrap();
    let mut tx = store.read().await.unwrap();
    assert!(tx.digest_is_true(&audience).await.unwrap());
    let head = tx.audience(&audience).await.unwrap();
    let tenants = tx.list(hosting_resource::Kind::Tenant, "", 1_000).await.unwrap();
    let counter = tx.counter("tenant_uid").await.unwrap();
    let log = tx.log_since(&audience, 0, usize::MAX).await.unwrap();
    (head.head, head.epoch, tenants, counter, log.len(), store.cell().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_postgres_and_back_into_a_file() {
    let postgres = Postgres::start();
    let place = Place::new(Backend::Sqlite);
    let store = open(&place, &place.database).await;
    for n in 1..=100 {
        write(&store, n).await;
    }
    store.seal("ca", b"a private key").await.unwrap();
    let before = seen(&store).await;
    let target = postgres.database();
    // Its controller runs: the copy would miss what it writes.
    let refused = Store::transfer(&place.database, &target, |_, _| {}).await;
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
    store.close().await;

    let mut tables = Vec::new();
    Store::transfer(&place.database, &target, |table, rows| tables.push((table, rows))).await.unwrap();
    assert!(tables.contains(&("resources", 100)) && tables.contains(&("audit", 100)), "{tables:?}");
    let moved = open(&place, &target).await;
    assert_eq!(seen(&moved).await, before);
    assert_eq!(moved.unseal("ca").await.unwrap().unwrap().expose(), b"a private key");
    // It goes on: numbers that the databases give themselves, too.
    write(&moved, 101).await;
    assert_eq!(seen(&moved).await.0, before.0 + 1);

    let again = Store::transfer(&place.database, &target, |_, _| {}).await;
    assert!(matches!(again, Err(OpenError::NotEmpty(_))), "{again:?}");

    let after = seen(&moved).await;
    let copy = place.path().join("backup.db");
    moved.backup_to(&copy).await.unwrap();
    write(&moved, 102).await;
    let back = place.another();
    Store::transfer(&Database::Sqlite(copy), &back, |_, _| {}).await.unwrap();
    assert_eq!(seen(&open(&place, &back).await).await, after);
}
