//! Rollouts in the store: begun with a change, found again, replaced by later ones, and what subscribers get of them.

use std::collections::BTreeSet;

use hosting_intent_sync::FeedSource;
use hosting_planner::{BeginRollout, Change, IntentChange, Unit};
use hosting_resource::Kind;
use hosting_store::{Rollout, RolloutState, Store};
use serde_json::json;

use crate::harness::{Bench, applied, at, intents, resource, set, withdraw};

fn part_of(rollout: u64, change: IntentChange) -> IntentChange {
    IntentChange { rollout, ..change }
}

/// A change that begins a rollout at the store's next revision.
fn begins(store_head: u64, replaces: &[u64], name: &str, changes: Vec<IntentChange>) -> Change {
    let changes: Vec<IntentChange> = changes.into_iter().map(|one| part_of(store_head + 1, one)).collect();
    Change {
        put: vec![resource(Kind::Cluster, name, json!({"name": name}))],
        rollout: Some(BeginRollout { replaces: replaces.iter().copied().collect() }),
        ..intents(changes)
    }
}

async fn open(store: &Store) -> Vec<Rollout> {
    store.read().await.unwrap().open_rollouts().await.unwrap().rollouts
}

async fn changed(store: &Store, rollout: Rollout) {
    let written = store.write(hosting_store::Origin::default(), move |tx| {
        Box::pin(async move { tx.put_rollout(&rollout).await })
    });
    written.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_begun_with_its_change_and_its_items_say_so() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let head = applied(store, intents([set("edge/a", "x", "o", b"1"), set("edge/b", "y", "o", b"1")])).await;
    let mut commits = store.commits();
    let change = begins(head, &[], "c1", vec![set("edge/a", "x", "o", b"2"), withdraw("edge/b", "y", "o")]);
    let id = applied(store, change).await;
    assert_eq!(id, head + 1);
    assert!(commits.recv().await.unwrap().rollouts, "sessions hear of it");
    let under_way = open(store).await;
    let [rollout] = under_way.as_slice() else { panic!("{under_way:?}") };
    assert_eq!((rollout.id, rollout.state, rollout.step), (id, RolloutState::Waiting, 0));
    assert_eq!((rollout.revisions.as_slice(), rollout.of[0].name.as_str()), (&[id][..], "c1"));
    assert_eq!(rollout.by.as_deref(), Some("key_1"));

    // By the log, by the snapshot, and by audience.
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.rollout_audiences(id).await.unwrap(), [at("edge/a"), at("edge/b")]);
    assert_eq!(tx.rollout_items(id).await.unwrap(), 1);
    drop(tx);
    let window = store.window(&at("edge/a"), head, 10).await.unwrap();
    assert_eq!(window.entries[0].upserts[0].rollout, id);
    let window = store.window(&at("edge/b"), head, 10).await.unwrap();
    assert_eq!(window.entries[0].removals[0].rollout, id);
    let page = store.page(&at("edge/a"), None, 10).await.unwrap();
    assert_eq!(page[0].rollout, id);
    // A later change of one tenant takes the item out of it.
    applied(store, intents([set("edge/a", "x", "o", b"3")])).await;
    assert_eq!(store.page(&at("edge/a"), None, 10).await.unwrap()[0].rollout, 0);
    assert_eq!(store.read().await.unwrap().rollout_items(id).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_a_rollout_takes_its_place_and_is_taken_back_with_it() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let first = applied(store, begins(0, &[], "c1", vec![set("edge/a", "x", "o", b"1")])).await;
    let other = applied(store, begins(first, &[], "c2", vec![set("edge/b", "x", "o", b"1")])).await;
    let running = open(store).await.remove(0);
    let opened = vec![(at("edge/a"), "lb-1".to_owned())];
    let audiences = [at("edge/a")].into();
    changed(
        store,
        Rollout { state: RolloutState::Running, step: 1, opened: opened.clone(), audiences, ..running },
    )
    .await;
    let second = applied(store, begins(other, &[first], "c1", vec![set("edge/a", "x", "o", b"2")])).await;
    let under_way = open(store).await;
    assert_eq!(under_way.iter().map(|one| one.id).collect::<Vec<_>>(), [other, second]);
    let second = under_way.into_iter().nth(1).unwrap();
    assert_eq!(second.revisions, [first, second.id]);
    assert_eq!(second.ids().collect::<Vec<_>>(), [first, second.id]);
    assert_eq!((&second.first, second.opened.len()), (&opened, 0));
    assert_eq!(second.audiences, BTreeSet::from([at("edge/a")]));
    let ended = store.read().await.unwrap().rollout(first).await.unwrap().unwrap();
    assert_eq!(ended.state, RolloutState::Replaced);
    // One that has ended, or is being taken back, is no more replaced.
    changed(store, Rollout { state: RolloutState::Reverting, ..second.clone() }).await;
    let third =
        applied(store, begins(second.id, &[second.id], "c1", vec![set("edge/a", "x", "o", b"3")])).await;
    let third = store.read().await.unwrap().rollout(third).await.unwrap().unwrap();
    assert_eq!((third.revisions, third.replaces), (vec![third.id], BTreeSet::new()));
    let list = store.read().await.unwrap().rollouts(u64::MAX, 2).await.unwrap();
    assert_eq!(list.iter().map(|one| one.id).collect::<Vec<_>>(), [third.id, second.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_whether_more_of_a_rollout_is_to_be_planned() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let walk = |owner: &str| Unit::from_owner(owner).unwrap();
    let queued =
        [walk("walk:person@7/shard_tenants/s/"), walk("walk:person@70/shard_tenants/s/"), walk("retire:x")];
    applied(store, Change { replan: queued.to_vec(), ..Change::default() }).await;
    let planned = async |id| store.read().await.unwrap().rollout_is_planned(id).await.unwrap();
    assert_eq!((planned(7).await, planned(70).await, planned(8).await), (false, false, true));
    let (newest, oldest) = store.read().await.unwrap().replan_ends().await.unwrap();
    assert_eq!(newest - oldest, 2);
    applied(store, Change { replanned: queued[..1].to_vec(), ..Change::default() }).await;
    assert_eq!((planned(7).await, planned(70).await), (true, false));
    applied(store, Change { replanned: queued[1..].to_vec(), ..Change::default() }).await;
    assert_eq!(store.read().await.unwrap().replan_ends().await.unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_refused_begins_none() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let mut change = begins(0, &[], "c1", vec![set("edge/a", "x", "o", b"1")]);
    change.remove = vec!["c1".to_owned()];
    change.intents.push(set("edge/a", &"x".repeat(5_000), "o", b"1"));
    assert!(crate::harness::apply(store, change).await.is_err());
    assert_eq!(open(store).await, []);
}
