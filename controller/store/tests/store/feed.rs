//! The store as a publisher reads it.

use std::collections::BTreeMap;

use hosting_intent::{Cause, Digest};
use hosting_intent_sync::FeedSource;
use hosting_store::Compacted;

use crate::harness::{Bench, applied, at, intents, open, set, withdraw};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_audience_is_empty() {
    let bench = Bench::new().await;
    applied(&bench.store, intents([set("edge/a", "h", "u", b"v")])).await;
    let head = bench.store.audience(&at("edge/none")).await.unwrap();
    assert_eq!((head.head, head.revision, head.floor, head.count, head.digest), (1, 0, 0, 0, Digest::EMPTY));
    assert!(head.epoch.starts_with(bench.store.cell()));
    assert!(bench.store.window(&at("edge/none"), 0, 10).await.unwrap().entries.is_empty());
    assert!(bench.store.page(&at("edge/none"), None, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_stay_contiguous_while_others_commit() {
    let bench = Bench::new().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    let key = format!("h{}", (writer + n) % 10);
                    let audience = if n % 5 == 0 { "edge/b" } else { "edge/a" };
                    let mut changes = vec![set(audience, &key, "u", format!("{writer}/{n}").as_bytes())];
                    if n % 7 == 0 {
                        changes.push(withdraw(audience, &format!("h{}", n % 10), "u"));
                    }
                    applied(&store, intents(changes)).await;
                }
            })
        })
        .collect();
    // A subscriber that follows from the start with small windows.
    let mut view = BTreeMap::new();
    let mut position = 0;
    let mut waited = 0;
    loop {
        let done = writers.iter().all(tokio::task::JoinHandle::is_finished);
        let window = bench.store.window(&at("edge/a"), position, 3).await.unwrap();
        assert!(window.head.revision <= window.head.head);
        if window.entries.is_empty() {
            assert_eq!(window.head.revision, position, "there is more, and the window is empty");
            if done {
                assert_eq!(window.head.count, view.len() as u64);
                assert_eq!(window.head.digest, Digest::of(view.values()));
                break;
            }
            waited += 1;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        for entry in window.entries {
            assert_eq!(entry.prev, position);
            assert!(entry.revision > position);
            assert!(entry.upserts.len() + entry.removals.len() <= 2);
            position = entry.revision;
            for removal in entry.removals {
                view.remove(&removal.key);
            }
            for item in entry.upserts {
                assert_eq!((item.revision, item.cause), (entry.revision, Cause::Person));
                view.insert(item.key.clone(), item);
            }
        }
    }
    println!("caught up {waited} times");
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_whole_revisions() {
    let bench = Bench::new().await;
    for revision in 1..=4_u8 {
        let changes: Vec<_> = (0..10).map(|n| set("edge/a", &format!("h{n}"), "u", &[revision, n])).collect();
        applied(&bench.store, intents(changes)).await;
    }
    let sizes = async |after, limit| -> Vec<(u64, usize)> {
        let window = bench.store.window(&at("edge/a"), after, limit).await.unwrap();
        window.entries.iter().map(|entry| (entry.revision, entry.upserts.len())).collect()
    };
    assert_eq!(sizes(0, 1).await, [(1, 10)], "at least one");
    assert_eq!(sizes(0, 0).await, [(1, 10)]);
    assert_eq!(sizes(0, 10).await, [(1, 10)]);
    assert_eq!(sizes(1, 11).await, [(2, 10), (3, 10)]);
    assert_eq!(sizes(3, 100).await, [(4, 10)]);
    assert_eq!(sizes(4, 100).await, []);
    assert_eq!(sizes(u64::MAX, 100).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_large_values_is_cut_by_bytes() {
    let bench = Bench::new().await;
    let value = vec![7; 250_000];
    for n in 0..40 {
        applied(&bench.store, intents([set("edge/a", &format!("h{n}"), "u", &value)])).await;
    }
    let window = bench.store.window(&at("edge/a"), 0, 1_000).await.unwrap();
    let bytes: usize =
        window.entries.iter().flat_map(|entry| &entry.upserts).map(|item| item.value.len()).sum();
    assert!((4_000_000..9_000_000).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_come_in_key_order() {
    let bench = Bench::new().await;
    let keys = ["b", "a", "é", "a-", "a.", "Z", "aa", "~"];
    let mut changes: Vec<_> = keys.iter().map(|key| set("edge/a", key, "u", b"v")).collect();
    let mut other = set("edge/a", "0", "u", b"v");
    other.key.kind = u32::MAX;
    changes.push(other);
    applied(&bench.store, intents(changes)).await;
    let mut paged = Vec::new();
    loop {
        let page = bench.store.page(&at("edge/a"), paged.last(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|item| item.key));
    }
    assert_eq!(paged.len(), 9);
    assert!(paged.is_sorted());
    assert_eq!(paged[8].kind, u32::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_raises_the_floor_and_keeps_the_chain() {
    let bench = Bench::new().await;
    let store = &bench.store;
    for n in 1..=10_u8 {
        applied(store, intents([set("edge/a", "h", "u", &[n]), set("edge/a", &format!("h{n}"), "u", &[n])]))
            .await;
        // Revisions of others in between.
        applied(store, intents([set("edge/b", "h", "u", &[n])])).await;
    }
    let before = store.audience(&at("edge/a")).await.unwrap();
    assert_eq!(store.compact(&at("edge/none"), 5).await.unwrap(), Compacted::default());
    assert_eq!(store.compact(&at("edge/a"), 10).await.unwrap(), Compacted { floor: 0, rows: 0 });
    // Ten revisions 1, 3, ... 19; the newest four stay.
    assert_eq!(store.compact(&at("edge/a"), 4).await.unwrap(), Compacted { floor: 11, rows: 12 });
    assert_eq!(
        store.compact(&at("edge/a"), 8).await.unwrap(),
        Compacted { floor: 11, rows: 0 },
        "never falls"
    );
    let head = store.audience(&at("edge/a")).await.unwrap();
    assert_eq!((head.floor, head.digest, head.count), (11, before.digest, before.count));
    for (after, prev, first) in [(11, 11, 13), (13, 13, 15), (12, 11, 13)] {
        let window = store.window(&at("edge/a"), after, 1).await.unwrap();
        assert_eq!((window.entries[0].prev, window.entries[0].revision), (prev, first));
    }
    assert_eq!(store.window(&at("edge/b"), 0, 100).await.unwrap().entries.len(), 10);
    assert_eq!(store.compact(&at("edge/a"), 0).await.unwrap().floor, 19);
    applied(store, intents([set("edge/a", "h", "u", b"new")])).await;
    let window = store.window(&at("edge/a"), 19, 10).await.unwrap();
    assert_eq!((window.entries[0].prev, window.entries[0].revision), (19, 21));
    assert_eq!(window.head.floor, 19, "a write keeps the floor");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_begins_once_for_many_who_ask() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, intents([set("edge/a", "h", "u", b"v")])).await;
    let old = store.audience(&at("edge/a")).await.unwrap();
    let mut commits = store.commits();
    let mut doorbell = store.doorbell();
    doorbell.mark_unchanged();
    futures::future::try_join_all((0..20).map(|_| store.begin_epoch(&old.epoch))).await.unwrap();
    let new = store.audience(&at("edge/a")).await.unwrap();
    assert_ne!(new.epoch, old.epoch);
    assert!(new.epoch.starts_with(store.cell()));
    assert_eq!((new.head, new.revision, new.digest), (old.head, old.revision, old.digest));
    assert!(doorbell.has_changed().unwrap());
    assert!(commits.recv().await.unwrap().new_epoch);
    assert!(commits.try_recv().is_err());
    store.begin_epoch(&old.epoch).await.unwrap();
    assert_eq!(store.audience(&at("edge/a")).await.unwrap().epoch, new.epoch);
    store.close().await;
    assert_eq!(open(&bench.place).await.audience(&at("edge/a")).await.unwrap().epoch, new.epoch);
}
