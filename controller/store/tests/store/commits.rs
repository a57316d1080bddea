//! Group commit, savepoints, revisions.

use std::time::{Duration, Instant};

use hosting_planner::{ApplyError, Draft, World, WorldError};
use hosting_store::{Store, WriteError};
use tokio::sync::oneshot;

use crate::harness::{Bench, applied, apply, at, intents, put, set, tenant, write};

async fn queued(store: &Store, count: u64) {
    while store.stats().queued < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commit_holds_several_mutations_and_a_refused_one_leaves_no_trace() {
    let bench = Bench::new().await;
    applied(&bench.store, put([tenant("t_0")])).await;
    let before = bench.store.stats();
    let mut commits = bench.store.commits();

    // The first one keeps the group open until the others are in the queue, in this order.
    let (go, wait) = oneshot::channel::<()>();
    let (started, begun) = oneshot::channel::<()>();
    let store = bench.store.clone();
    let first = tokio::spawn(async move {
        write(&store, move |tx| {
            Box::pin(async move {
                started.send(()).unwrap();
                tx.apply(intents([set("edge/a", "one", "u", b"1")])).await?;
                wait.await.unwrap();
                Ok(tx.revision())
            })
        })
        .await
    });
    begun.await.unwrap();
    let store = bench.store.clone();
    let refused = tokio::spawn(async move {
        write::<(), _>(&store, |tx| {
            Box::pin(async move {
                tx.apply(put([tenant("t_ghost")])).await?;
                tx.apply(intents([set("edge/ghost", "ghost", "u", b"g")])).await?;
                Err(ApplyError::TooLarge(7))
            })
        })
        .await
    });
    queued(&bench.store, 1).await;
    let store = bench.store.clone();
    let panicked = tokio::spawn(async move {
        write::<(), _>(&store, |tx| {
            Box::pin(async move {
                tx.apply(put([tenant("t_ghost")])).await?;
                panic!("on purpose")
            })
        })
        .await
    });
    queued(&bench.store, 2).await;
    let store = bench.store.clone();
    let last = tokio::spawn(async move {
        write(&store, |tx| {
            Box::pin(async move {
                // It sees what the group did before it, not what was refused.
                assert!(tx.resource("t_ghost").await?.is_none());
                assert!(tx.intent(&at("edge/a"), &crate::harness::route("one")).await?.is_some());
                tx.apply(intents([set("edge/b", "two", "u", b"2")])).await?;
                Ok(tx.revision())
            })
        })
        .await
    });
    queued(&bench.store, 3).await;
    let released = Instant::now();
    go.send(()).unwrap();

    let first = first.await.unwrap().unwrap();
    assert!(matches!(refused.await.unwrap(), Err(WriteError::Refused(ApplyError::TooLarge(7)))));
    assert!(matches!(panicked.await.unwrap(), Err(WriteError::Panicked(message)) if message == "on purpose"));
    let last = last.await.unwrap().unwrap();
    let after = bench.store.stats();
    assert!(released.elapsed() < Duration::from_secs(5));
    // The time the first one waited may have closed the group behind it.
    assert!(after.commits - before.commits <= 2, "{before:?} {after:?}");
    assert_eq!((after.mutations - before.mutations, after.refused - before.refused), (2, 2));
    let mut revisions = [(first.revision, first.value), (last.revision, last.value)];
    revisions.sort_unstable();
    assert_eq!(revisions, [(2, 2), (3, 3)]);
    assert_eq!(*bench.store.doorbell().borrow(), 3);

    let mut touched = Vec::new();
    while let Ok(commit) = commits.try_recv() {
        touched.extend(commit.audiences.clone());
    }
    touched.sort();
    assert_eq!(touched, ["edge/a", "edge/b"].map(at));
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.head(), 3);
    assert!(tx.resource("t_ghost").await.unwrap().is_none());
    assert_eq!(tx.audience(&at("edge/ghost")).await.unwrap().revision, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_have_no_gap_and_are_seen_in_commit_order() {
    let bench = Bench::new().await;
    let watcher = {
        let store = bench.store.clone();
        tokio::spawn(async move {
            let (mut doorbell, mut seen) = (store.doorbell(), 0);
            while seen < 150 {
                doorbell.changed().await.unwrap();
                let rung = *doorbell.borrow_and_update();
                assert!(rung > seen, "{rung} after {seen}");
                // What the doorbell says is there to be read.
                assert!(store.read().await.unwrap().head() >= rung);
                seen = rung;
            }
        })
    };
    let writers: Vec<_> = (0..200)
        .map(|n| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                write(&store, move |tx| {
                    Box::pin(async move {
                        tx.apply(intents([set("edge/a", &format!("h{n}"), "u", b"v")])).await?;
                        if n % 4 == 0 { Err(ApplyError::TooLarge(n)) } else { Ok(tx.revision()) }
                    })
                })
                .await
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        if let Ok(committed) = writer.await.unwrap() {
            assert_eq!(committed.revision, committed.value);
            revisions.push(committed.revision);
        }
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=150).collect::<Vec<_>>());
    tokio::time::timeout(Duration::from_secs(10), watcher).await.unwrap().unwrap();
    assert!(bench.store.read().await.unwrap().digest_is_true(&at("edge/a")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_takes_no_revision() {
    let bench = Bench::new().await;
    let change = || {
        let mut change = put([tenant("t_a")]);
        change.intents.push(set("edge/a", "h", "u", b"v"));
        change.counters.push(("tenant_uid".into(), 7));
        change
    };
    assert_eq!(applied(&bench.store, change()).await, 1);
    let again = apply(&bench.store, change()).await.unwrap();
    assert_eq!((again.revision, again.audiences), (1, vec![]));
    let read = write(&bench.store, |tx| Box::pin(async move { Ok(tx.counter("tenant_uid").await?) })).await;
    assert_eq!(read.unwrap().value, 7);
    assert_eq!(bench.store.read().await.unwrap().head(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_cannot_go_on_after_a_refusal_or_for_ever() {
    let place = crate::databases::Place::new(crate::BACKEND);
    let mut config = crate::harness::config(&place.database);
    config.mutation_timeout = Duration::from_millis(100);
    let store = Store::open(&config, crate::harness::kek(&place)).await.unwrap();
    let went_on = write(&store, |tx| {
        Box::pin(async move {
            let orphan = hosting_resource::Resource { parent: Some("t_none".into()), ..tenant("t_a") };
            assert!(tx.apply(put([orphan])).await.is_err());
            Ok(())
        })
    })
    .await;
    assert!(matches!(went_on, Err(WriteError::WentOn)));
    let slow = write(&store, |tx| {
        Box::pin(async move {
            tx.apply(put([tenant("t_a")])).await?;
            std::future::pending::<()>().await;
            Ok(())
        })
    })
    .await;
    assert!(matches!(slow, Err(WriteError::TooSlow(_))));
    assert_eq!(applied(&store, put([tenant("t_b")])).await, 1);
    assert!(store.read().await.unwrap().resource("t_a").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_nobody_waits_for_is_not_started() {
    let bench = Bench::new().await;
    let (go, wait) = oneshot::channel::<()>();
    let (started, begun) = oneshot::channel::<()>();
    let store = bench.store.clone();
    let first = tokio::spawn(async move {
        write(&store, move |_| {
            Box::pin(async move {
                started.send(()).unwrap();
                wait.await.unwrap();
                Ok(())
            })
        })
        .await
    });
    begun.await.unwrap();
    let store = bench.store.clone();
    let second = tokio::spawn(async move { apply(&store, put([tenant("t_a")])).await });
    queued(&bench.store, 1).await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(applied(&bench.store, put([tenant("t_b")])).await, 1);
    assert!(bench.store.read().await.unwrap().resource("t_a").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_says_so() {
    let bench = Bench::new().await;
    applied(&bench.store, put([tenant("t_a")])).await;
    let ended = tokio::spawn({
        let store = bench.store.clone();
        async move { store.ended().await }
    });
    bench.store.close().await;
    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    assert!(matches!(
        apply(&bench.store, put([tenant("t_b")])).await,
        Err(WriteError::Store(hosting_store::StoreError::Closed))
    ));
    assert!(matches!(bench.store.read().await, Err(hosting_store::StoreError::Closed)));
    // Folded into the file, and free for the next one while the handle still exists.
    assert!(!bench.folder().join("store.db-wal").exists());
    let again = crate::harness::open(&bench.place).await;
    assert!(again.read().await.unwrap().resource("t_a").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_of_concurrent_writers() {
    let bench = Bench::new().await;
    let started = Instant::now();
    let writers: Vec<_> = (0..200)
        .map(|n| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                let mut change = put([tenant(&format!("t_{n}"))]);
                change.intents.push(set("edge/a", &format!("h{n}"), "u", b"value"));
                applied(&store, change).await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let took = started.elapsed();
    let stats = bench.store.stats();
    println!("200 concurrent mutations in {took:?}, {} commits", stats.commits);
    assert_eq!(stats.mutations, 200);
    assert!(stats.commits < 200, "nothing was grouped");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_caller_the_newest_answers_are_kept() {
    let place = crate::databases::Place::new(crate::BACKEND);
    let config = hosting_store::StoreConfig { replies_per_key: 3, ..crate::harness::config(&place.database) };
    let store = Store::open(&config, crate::harness::kek(&place)).await.unwrap();
    for n in 0..10 {
        for caller in ["one", "other"].into_iter().take(if n < 2 { 2 } else { 1 }) {
            let kept = write(&store, move |tx| {
                Box::pin(async move {
                    tx.keep_reply(caller, &format!("k{n}"), b"answer").await.map_err(WorldError::from)?;
                    Ok(())
                })
            });
            kept.await.unwrap();
        }
    }
    let found = write(&store, |tx| {
        Box::pin(async move {
            let mut found = Vec::new();
            for (caller, n) in (0..10).map(|n| ("one", n)).chain((0..10).map(|n| ("other", n))) {
                let kept = tx.kept_reply(caller, &format!("k{n}")).await.map_err(WorldError::from)?;
                found.extend(kept.map(|_| (caller, n)));
            }
            Ok(found)
        })
    });
    let wanted = [("one", 7), ("one", 8), ("one", 9), ("other", 0), ("other", 1)];
    assert_eq!(found.await.unwrap().value, wanted);
}
