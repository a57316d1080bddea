//! What only the writer's own connection can be made to do: a failing commit, a full disk.

use hosting_intent::{Bytes, Cause, Key, Kind};
use hosting_planner::{ApplyError, Change, Draft, IntentChange};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{Kek, Origin, Store, StoreConfig, StoreError, WriteError, WriteTx};

async fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
    let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
    (folder, store)
}

fn change(name: &str, bytes: usize) -> Change {
    let intent = IntentChange {
        audience: "edge/a".parse().unwrap(),
        key: Key::new(Kind::Route, name),
        owner: "u".into(),
        value: Some(Bytes::from(vec![7; bytes])),
        cause: Cause::Person,
        traceparent: None,
        rollout: 0,
    };
    Change { intents: vec![intent], ..Change::default() }
}

async fn apply(store: &Store, name: &str, bytes: usize) -> Result<u64, WriteError<ApplyError>> {
    let change = change(name, bytes);
    let write = store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
    Ok(write.await?.revision)
}

async fn sql(tx: &mut WriteTx, sql: &'static str) -> Result<(), StoreError> {
    tx.raw().batch(sql).await
}

/// A deferred foreign key is looked at by COMMIT alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_commit_fails_the_whole_group() {
    let (_folder, store) = store().await;
    apply(&store, "before", 1).await.unwrap();
    let doorbell = store.doorbell();
    let (go, wait) = oneshot::channel::<()>();
    let (started, begun) = oneshot::channel::<()>();
    let first = {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .write(Origin::default(), move |tx| {
                    Box::pin(async move {
                        started.send(()).unwrap();
                        tx.apply(change("first", 1)).await?;
                        wait.await.ok();
                        Ok::<_, ApplyError>(())
                    })
                })
                .await
        })
    };
    begun.await.unwrap();
    let spoiler = {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .status_write(|tx| {
                    Box::pin(async move {
                        sql(
                            tx,
                            "CREATE TABLE a (id INTEGER PRIMARY KEY); \
                             CREATE TABLE b (x REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED); \
                             INSERT INTO b VALUES (1)",
                        )
                        .await
                    })
                })
                .await
        })
    };
    while store.stats().queued < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    go.send(()).unwrap();
    let spoiled = spoiler.await.unwrap();
    assert!(matches!(spoiled, Err(StoreError::Sql(_))), "{spoiled:?}");
    let first = first.await.unwrap();
    // The pause before `go` may have closed the first one's group.
    let head = match first {
        Err(WriteError::Store(StoreError::Sql(_))) => 1,
        Ok(committed) => committed.revision,
        other => panic!("{other:?}"),
    };
    assert_eq!(*doorbell.borrow(), head);
    assert_eq!(store.stats().failed_commits, 1);
    assert_eq!(apply(&store, "after", 1).await.unwrap(), head + 1, "the writer goes on");
    assert!(store.read().await.unwrap().digest_is_true(&"edge/a".parse().unwrap()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_survived() {
    let (_folder, store) = store().await;
    apply(&store, "before", 1).await.unwrap();
    // Some room is left: a small group fits.
    store
        .status_write(|tx| {
            Box::pin(async move {
                let pages = tx.number(crate::sql::query("PRAGMA page_count")).await?;
                let limit = format!("PRAGMA max_page_count = {}", pages + 20);
                tx.raw().batch(&limit).await
            })
        })
        .await
        .unwrap();
    let writes = futures::future::join_all((0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { apply(&store, &format!("h{n}"), 30_000).await })
    }))
    .await;
    let mut landed = Vec::new();
    let mut full = 0;
    for write in writes {
        match write.unwrap() {
            Ok(revision) => landed.push(revision),
            Err(WriteError::Store(StoreError::DiskFull)) => full += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(full >= 1, "{full} of 20");
    assert_eq!(landed.len() + full, 20);
    landed.sort_unstable();
    assert_eq!(landed, (2..2 + landed.len() as u64).collect::<Vec<_>>());
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.head(), 1 + landed.len() as u64);
    assert!(tx.digest_is_true(&"edge/a".parse().unwrap()).await.unwrap());
    assert_eq!(tx.audience(&"edge/a".parse().unwrap()).await.unwrap().count, 1 + landed.len() as u64);
    drop(tx);

    store.status_write(|tx| Box::pin(sql(tx, "PRAGMA max_page_count = 1000000"))).await.unwrap();
    apply(&store, "after", 30_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_says_so_when_it_is_probed() {
    let (_folder, store) = store().await;
    store.probe().await.unwrap();
    let head = *store.doorbell().borrow();
    store.status_write(|tx| Box::pin(sql(tx, "PRAGMA query_only = ON"))).await.unwrap();
    store.read().await.unwrap();
    assert!(store.probe().await.is_err());
    // A write that fails may leave its connection in any state: the writer takes a new one, which may write.
    let _ = store.probe().await;
    store.status_write(|tx| Box::pin(sql(tx, "PRAGMA query_only = OFF"))).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(*store.doorbell().borrow(), head, "a probe is no revision");
}

/// One caller's crowd does not keep another's mutation behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_one_caller_is_not_before_others() {
    let (_folder, store) = store().await;
    let by = |name: &str| Origin { actor: Some(name.to_owned()), ..Origin::default() };
    let (go, wait) = oneshot::channel::<()>();
    let (begins, begun) = oneshot::channel::<()>();
    let blocked = {
        let store = store.clone();
        tokio::spawn(async move {
            let write = store.write(Origin::default(), move |_| {
                Box::pin(async move {
                    begins.send(()).ok();
                    wait.await.ok();
                    Ok::<_, ApplyError>(())
                })
            });
            write.await.map(|_| ())
        })
    };
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let run = |name: &'static str, origin: Origin| {
        let (store, order) = (store.clone(), order.clone());
        tokio::spawn(async move {
            let write = store.write(origin, move |_| {
                Box::pin(async move {
                    order.lock().unwrap().push(name);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    Ok::<_, ApplyError>(())
                })
            });
            write.await.map(|_| ())
        })
    };
    begun.await.unwrap();
    let mut tasks: Vec<_> = (0..50).map(|_| run("crowd", by("a"))).collect();
    while store.stats().queued < 50 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    tasks.push(run("late", by("b")));
    while store.stats().queued < 51 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    go.send(()).unwrap();
    tasks.push(blocked);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let place = order.lock().unwrap().iter().position(|name| *name == "late").unwrap();
    assert!(place <= 1, "{place}");
}

/// A failed statement may have ended the transaction: whatever follows it would be committed on its own.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_after_a_failed_statement() {
    let (_folder, store) = store().await;
    let written = store
        .write(Origin::default(), |tx| {
            Box::pin(async move {
                let failed = tx.execute(crate::sql::query("INSERT INTO no_such_table VALUES (1)")).await;
                assert!(failed.is_err());
                assert!(tx.apply(change("late", 1)).await.is_err());
                Ok::<_, ApplyError>(())
            })
        })
        .await;
    assert!(matches!(written, Err(WriteError::Store(StoreError::Sql(_)))), "{written:?}");
    assert_eq!(apply(&store, "next", 1).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_submits_runs_in_that_order() {
    let (_folder, store) = store().await;
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut submitted = Vec::new();
    // More than a lane has places, and others between them.
    let (by, others) = (|name: &str| Origin { actor: Some(name.to_owned()), ..Origin::default() }, 7);
    for n in 0..600_usize {
        let order = std::sync::Arc::clone(&order);
        let mutation = store.submit(by("bulk"), move |_: &mut WriteTx| {
            Box::pin(async move {
                order.lock().unwrap().push(n);
                if n % 10 == 3 { Err(StoreError::Closed) } else { Ok(n) }
            })
        });
        submitted.push(mutation.await.unwrap());
        if n % others == 0 {
            apply(&store, &format!("other{n}"), 1).await.unwrap();
        }
    }
    for (n, submitted) in submitted.into_iter().enumerate() {
        match submitted.answer().await {
            Ok(committed) => assert_eq!(committed.value, n),
            Err(WriteError::Refused(_)) => assert_eq!(n % 10, 3),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(*order.lock().unwrap(), (0..600).collect::<Vec<_>>());
    let withdrawn = {
        let order = std::sync::Arc::clone(&order);
        let (go, wait) = oneshot::channel::<()>();
        let first = store.submit(by("bulk"), move |_: &mut WriteTx| {
            Box::pin(async move {
                wait.await.ok();
                Ok::<_, StoreError>(())
            })
        });
        let first = first.await.unwrap();
        let second = store.submit(by("bulk"), move |_: &mut WriteTx| {
            Box::pin(async move {
                order.lock().unwrap().push(1_000);
                Ok::<_, StoreError>(())
            })
        });
        drop(second.await.unwrap());
        go.send(()).unwrap();
        first.answer().await
    };
    withdrawn.unwrap();
    store.close().await;
    assert_eq!(order.lock().unwrap().last(), Some(&599), "who does not wait withdraws it");
}
