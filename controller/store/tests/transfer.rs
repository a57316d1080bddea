//! Stores that move: from SQLite to PostgreSQL, into a file while they are in use, and back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod databases;
mod writing;

use hosting_planner::World;
use hosting_resource::Resource;
use hosting_store::{Database, OpenError, Store};

use self::databases::{Backend, Place, Postgres};
use self::writing::{open, write};

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
