//! Owners, the log, the digest.

use std::collections::BTreeMap;

use hosting_intent::Digest;
use hosting_intent_sync::FeedSource;
use hosting_planner::{ApplyError, Draft, IntentChange, World};
use hosting_store::Origin;
use proptest::prelude::*;

use crate::databases::Backend;
use crate::harness::{Bench, applied, apply, at, intents, route, set, withdraw};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_created_anew_keeps_its_new_owner() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, intents([set("edge/a", "shop", "fqdn:old", b"1")])).await;
    applied(store, intents([set("edge/a", "shop", "fqdn:new", b"2")])).await;
    // The old one's end comes late and must change nothing.
    let late = apply(store, intents([withdraw("edge/a", "shop", "fqdn:old")])).await.unwrap();
    assert_eq!((late.revision, late.audiences), (2, vec![]));
    let mut tx = store.read().await.unwrap();
    let row = tx.intent(&at("edge/a"), &route("shop")).await.unwrap().unwrap();
    assert_eq!((row.owner.as_str(), row.revision, row.value.as_ref()), ("fqdn:new", 2, b"2".as_slice()));
    assert!(tx.owned("fqdn:old").await.unwrap().is_empty());
    assert_eq!(tx.owned("fqdn:new").await.unwrap(), [row]);
    drop(tx);
    applied(store, intents([withdraw("edge/a", "shop", "fqdn:new")])).await;
    let window = store.window(&at("edge/a"), 2, 10).await.unwrap();
    assert_eq!(window.entries[0].removals[0].key, route("shop"));
    assert_eq!((window.head.count, window.head.digest), (0, Digest::EMPTY));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_value_under_another_owner_is_nothing_to_tell() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, intents([set("edge/a", "shop", "fqdn:old", b"1")])).await;
    let taken = apply(store, intents([set("edge/a", "shop", "fqdn:new", b"1")])).await.unwrap();
    assert_eq!((taken.revision, taken.audiences), (2, vec![]));
    let row = store.read().await.unwrap().intent(&at("edge/a"), &route("shop")).await.unwrap().unwrap();
    // Subscribers have it at revision 1, and report about that.
    assert_eq!((row.owner.as_str(), row.revision), ("fqdn:new", 1));
    assert_eq!(store.window(&at("edge/a"), 0, 10).await.unwrap().entries.len(), 1);
    apply(store, intents([withdraw("edge/a", "shop", "fqdn:old")])).await.unwrap();
    assert_eq!(store.audience(&at("edge/a")).await.unwrap().count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_in_one_revision_the_log_holds_the_last() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(
        store,
        intents([
            set("edge/a", "x", "u", b"1"),
            set("edge/a", "x", "u", b"2"),
            set("edge/a", "y", "u", b"1"),
            withdraw("edge/a", "y", "u"),
        ]),
    )
    .await;
    let window = store.window(&at("edge/a"), 0, 10).await.unwrap();
    assert_eq!(window.entries.len(), 1);
    let entry = &window.entries[0];
    assert_eq!((entry.upserts.len(), entry.removals.len()), (1, 1));
    assert_eq!(entry.upserts[0].value.as_ref(), b"2");
    assert_eq!(entry.upserts[0].traceparent, "00-trace");
    assert_eq!(entry.removals[0].key, route("y"));
    assert_eq!((window.head.count, window.head.digest), (1, Digest::of(&entry.upserts)));
}

#[derive(Debug, Clone)]
struct Step {
    audience: u8,
    key: u8,
    owner: u8,
    value: Option<u8>,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = (0..2_u8, 0..6_u8, 0..3_u8, prop::option::of(0..3_u8))
        .prop_map(|(audience, key, owner, value)| Step { audience, key, owner, value });
    prop::collection::vec(prop::collection::vec(step, 1..6), 1..20)
}

type Model = BTreeMap<(hosting_intent::Audience, String), (String, Vec<u8>)>;

fn change(step: &Step) -> IntentChange {
    let (audience, key, owner) =
        (format!("edge/{}", step.audience), format!("h{}", step.key), format!("u{}", step.owner));
    match step.value {
        Some(value) => set(&audience, &key, &owner, &[value]),
        None => withdraw(&audience, &key, &owner),
    }
}

/// Each case makes stores of its own, which takes longer with a server.
const CASES: u32 = match crate::BACKEND {
    Backend::Sqlite => 24,
    Backend::Postgres => 4,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    /// Rows, count and digest follow a reference map, and replaying the log gives the same.
    #[test]
    fn rows_digest_and_log_agree(batches in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let mut model = Model::new();
            for batch in &batches {
                applied(&bench.store, intents(batch.iter().map(change).collect::<Vec<_>>())).await;
                for step in batch.iter().map(change) {
                    let place = (step.audience, step.key.name);
                    match step.value {
                        Some(value) => { model.insert(place, (step.owner, value.to_vec())); }
                        None if model.get(&place).is_some_and(|(owner, _)| *owner == step.owner) => {
                            model.remove(&place);
                        }
                        None => {}
                    }
                }
            }
            for audience in ["edge/0", "edge/1"] {
                let items = bench.store.page(&at(audience), None, 100).await.unwrap();
                let wanted: Vec<_> = model.iter().filter(|((of, _), _)| *of == at(audience)).collect();
                prop_assert_eq!(items.len(), wanted.len());
                for (item, ((_, key), (owner, value))) in items.iter().zip(wanted) {
                    prop_assert_eq!(&item.key.name, key);
                    prop_assert_eq!(item.value.as_ref(), value.as_slice());
                    let row = bench.store.read().await.unwrap().intent(&at(audience), &item.key).await.unwrap().unwrap();
                    prop_assert_eq!(&row.owner, owner);
                }
                let window = bench.store.window(&at(audience), 0, usize::MAX).await.unwrap();
                prop_assert_eq!(window.head.count, items.len() as u64);
                prop_assert_eq!(window.head.digest, Digest::of(&items));
                prop_assert!(bench.store.read().await.unwrap().digest_is_true(&at(audience)).await.unwrap());

                let mut replayed = BTreeMap::new();
                let mut prev = 0;
                for entry in window.entries {
                    prop_assert_eq!(entry.prev, prev);
                    prev = entry.revision;
                    for removal in entry.removals {
                        replayed.remove(&removal.key);
                    }
                    for item in entry.upserts {
                        replayed.insert(item.key.clone(), item);
                    }
                }
                prop_assert_eq!(prev, window.head.revision);
                prop_assert_eq!(replayed.into_values().collect::<Vec<_>>(), items);
            }
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_harmless_and_may_be_a_change_s_own() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let long = "0".repeat(129);
    let hostile = ["00-a\r\nx: y", "00-\u{202e}", "'; DROP TABLE head; --", long.as_str(), "00 a", "\0"];
    for (n, given) in hostile.into_iter().chain(["00-trace", ""]).enumerate() {
        let origin = Origin { traceparent: given.to_owned(), actor: None, ..Origin::default() };
        // One of the mutation, one of its own, one that is hostile itself.
        let change = |name: &str, traceparent: Option<&str>| {
            let set = set("edge/a", &format!("{name}{n}"), "u", b"1");
            intents([IntentChange { traceparent: traceparent.map(str::to_owned), ..set }])
        };
        let (plain, own, bad) = (change("a", None), change("b", Some("00-own")), change("c", Some(given)));
        let seen = store.write(origin, move |tx| {
            Box::pin(async move {
                for change in [plain, own, bad] {
                    tx.apply(change).await?;
                }
                Ok::<_, ApplyError>(tx.traceparent().to_owned())
            })
        });
        let committed = seen.await.unwrap();
        let kept = if given == "00-trace" { given } else { "" };
        assert_eq!(committed.value, kept);
        let window = store.window(&at("edge/a"), committed.revision - 1, 1).await.unwrap();
        let logged: Vec<_> = window.entries[0].upserts.iter().map(|item| item.traceparent.as_str()).collect();
        assert_eq!(logged, [kept, "00-own", kept], "{given:?}");
    }
}
