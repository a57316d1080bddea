//! What resources were: rows that are written with each change, and what is read from them.

use hosting_planner::{ApplyError, Change, Draft, Event, Part};
use hosting_resource::{Kind, Resource, Status};
use hosting_store::{HistoryOf, HistoryRow, Origin, Store, StoreError, ToUndo, UndoOf};
use serde_json::json;

use crate::harness::{Bench, applied, apply, put, remove, resource, tenant};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn origin(actor: &str) -> Origin {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    Origin { traceparent, actor: Some(actor.into()), ..Origin::default() }
}

async fn by(store: &Store, actor: &str, change: Change) -> u64 {
    let written = store.write(origin(actor), move |tx| Box::pin(async move { tx.apply(change).await }));
    written.await.unwrap().revision
}

async fn all(store: &Store, of: HistoryOf) -> Vec<HistoryRow> {
    store.read().await.unwrap().history(&of, None, 100).await.unwrap()
}

async fn of(store: &Store, id: &str) -> Vec<HistoryRow> {
    all(store, HistoryOf::Resource(id.into())).await
}

fn fqdn(id: &str, name: &str, note: &str) -> Resource {
    Resource {
        label: name.into(),
        brand: Some("acme".into()),
        ..resource(Kind::Fqdn, id, json!({"name": name, "note": note}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_keeps_what_was_before_it() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let one = fqdn("f", "www.example", "1");
    let made = by(store, "key_a", put([one.clone()])).await;
    let other = fqdn("f", "www.example", "2");
    let changed = by(store, "key_b", put([other.clone()])).await;
    let suspended = Resource { status: Status::Suspended, ..other.clone() };
    by(store, "key_b", put([suspended.clone()])).await;
    by(store, "key_b", put([other.clone()])).await;
    let deleting = Resource { status: Status::Deleting, ..other.clone() };
    by(store, "key_b", put([deleting.clone()])).await;
    by(store, "key_b", put([other.clone()])).await;
    by(store, "key_b", put([deleting.clone()])).await;
    let gone = applied(store, remove(&["f"])).await;
    let rows = of(store, "f").await;
    let events: Vec<(Event, Option<&Resource>)> =
        rows.iter().rev().map(|row| (row.event, row.before.as_ref())).collect();
    assert_eq!(
        events,
        [
            (Event::Created, None),
            (Event::Changed, Some(&one)),
            (Event::Suspended, Some(&other)),
            (Event::Resumed, Some(&suspended)),
            (Event::Deleting, Some(&other)),
            (Event::Restored, Some(&deleting)),
            (Event::Deleting, Some(&other)),
            (Event::Deleted, Some(&deleting)),
        ]
    );
    let first = rows.last().unwrap();
    assert_eq!((first.revision, first.actor.as_deref(), first.trace.as_str()), (made, Some("key_a"), TRACE));
    assert_eq!((first.name.as_str(), first.brand.as_deref()), ("www.example", Some("acme")));
    assert!(first.at > 1_700_000_000_000);
    assert_eq!(rows[0].revision, gone);
    let mut tx = store.read().await.unwrap();
    for (revision, wanted) in [
        (made - 1, None),
        (made, Some(&one)),
        (changed, Some(&other)),
        (gone - 1, Some(&deleting)),
        (gone, None),
    ] {
        assert_eq!(tx.resource_at("f", revision).await.unwrap().as_ref(), wanted, "{revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_other_things_is_no_history() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let one = fqdn("f", "www.example", "1");
    applied(store, put([one.clone()])).await;
    // Status, message, state and times are written by the controller.
    let mut moved = Resource { status: Status::Failed, status_message: Some("why".into()), ..one.clone() };
    moved.state.insert("routed".into(), true.into());
    moved.updated_at += 1;
    applied(store, put([moved.clone()])).await;
    applied(store, put([Resource { status: Status::Active, ..moved }])).await;
    let auto =
        |content: &str| resource(Kind::ZoneRecord, "auto", json!({"managed_by": "auto", "content": content}));
    applied(store, put([auto("1")])).await;
    applied(store, put([auto("2")])).await;
    applied(store, remove(&["auto"])).await;
    assert_eq!(of(store, "f").await.len(), 1);
    assert!(of(store, "auto").await.is_empty());
    // A status that no fleet decides is a person's.
    let region = resource(Kind::Region, "r", json!({}));
    applied(store, put([region.clone()])).await;
    applied(store, put([Resource { status: Status::Suspended, ..region }])).await;
    assert_eq!(of(store, "r").await[0].event, Event::Suspended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_is_taken_back_leaves_none_and_its_neighbours_have_theirs() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, put([tenant("t_a")])).await;
    let write = |n: u64, fails: bool| async move {
        let note = resource(Kind::Tenant, "t_a", json!({"note": n}));
        store
            .write(origin("key"), move |tx| {
                Box::pin(async move {
                    tx.apply(put([note, tenant(&format!("t_{n}"))])).await?;
                    // What the group changed is read by its next members, but none reads its own.
                    let rows = tx.history(&HistoryOf::Resource("t_a".into()), 100).await.unwrap();
                    let since = tx.history_since(&["t_a".into()], 0, 100).await.unwrap();
                    assert_eq!(rows.len(), since.len());
                    assert!(rows.windows(2).all(|two| two[0].revision > two[1].revision));
                    assert!(rows.iter().all(|row| row.revision < Draft::revision(tx)));
                    let refused = ApplyError::TooLarge(0);
                    if fails { Err(refused) } else { Ok(rows.len()) }
                })
            })
            .await
    };
    let all = futures::future::join_all((0..40).map(|n| write(n, n % 3 == 0))).await;
    let mut kept: Vec<(u64, usize)> =
        all.into_iter().filter_map(|one| one.ok().map(|one| (one.revision, one.value))).collect();
    kept.sort_unstable();
    let rows = of(store, "t_a").await;
    let revisions: Vec<u64> = rows.iter().rev().skip(1).map(|row| row.revision).collect();
    assert_eq!(revisions, kept.iter().map(|(revision, _)| *revision).collect::<Vec<_>>());
    for (n, (_, seen)) in kept.iter().enumerate() {
        assert_eq!(*seen, n + 1, "each sees all before it");
    }
    assert!(of(store, "t_0").await.is_empty());
    assert_eq!(of(store, "t_1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_found_by_name_revision_key_and_trace_page_by_page() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let mut revisions = Vec::new();
    for n in 0..5 {
        let change = put([fqdn("f", "www.example", &n.to_string()), fqdn(&format!("g{n}"), "b.example", "")]);
        revisions.push(by(store, if n % 2 == 0 { "even" } else { "odd" }, change).await);
        applied(store, remove(&[&format!("g{n}")])).await;
    }
    assert_eq!(all(store, HistoryOf::Name("www.example".into())).await.len(), 5);
    assert_eq!(all(store, HistoryOf::Name("b.example".into())).await.len(), 10);
    assert!(all(store, HistoryOf::Name(String::new())).await.is_empty());
    let revision = all(store, HistoryOf::Revision(revisions[1])).await;
    assert_eq!(revision.iter().map(|row| row.resource.as_str()).collect::<Vec<_>>(), ["g1", "f"]);
    let key = |from, until| HistoryOf::Key { key: "even".into(), from, until };
    assert_eq!(all(store, key(0, i64::MAX)).await.len(), 6);
    let first = all(store, key(0, i64::MAX)).await.pop().unwrap();
    assert!(all(store, key(0, first.at)).await.is_empty());
    assert_eq!(all(store, key(first.at, i64::MAX)).await.len(), 6);
    assert_eq!(all(store, HistoryOf::Trace(TRACE.into())).await.len(), 10);
    assert!(all(store, HistoryOf::Trace(String::new())).await.is_empty(), "what has no trace is no trace's");

    let mut tx = store.read().await.unwrap();
    let of = HistoryOf::Name("b.example".into());
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = tx.history(&of, after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.revision, last.resource.clone()));
        paged.extend(page);
    }
    assert_eq!(paged, tx.history(&of, None, 100).await.unwrap());
    let at = paged[4].at;
    let found = tx.revision_at(at).await.unwrap().unwrap();
    assert!(found >= paged[4].revision, "{found}");
    assert_eq!(tx.revision_at(0).await.unwrap(), Some(0), "there was nothing");
    drop(tx);
    store.prune_history(at + 1, u64::MAX).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.revision_at(0).await.unwrap(), None, "it is not known any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_go_by_age_or_size_and_the_rest_stays_whole() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let text = "x".repeat(1_000);
    let note = |n: u64| resource(Kind::Tenant, "t", json!({"note": n, "text": text}));
    let mut revisions = Vec::new();
    for n in 0..20 {
        revisions.push(by(store, "key", put([note(n)])).await);
    }
    assert_eq!(store.prune_history(0, u64::MAX).await.unwrap(), 0);
    // Ten rows of about 1 800 bytes.
    let dropped = store.prune_history(0, 18_000).await.unwrap();
    assert!((5..15).contains(&dropped), "{dropped}");
    let mut tx = store.read().await.unwrap();
    let floor = tx.history_floor().await.unwrap();
    assert_eq!(floor, revisions[usize::try_from(dropped).unwrap() - 1]);
    for (n, revision) in revisions.iter().enumerate().filter(|(_, revision)| **revision >= floor) {
        let then = tx.resource_at("t", *revision).await.unwrap().unwrap();
        assert_eq!(then.spec["note"], n);
    }
    drop(tx);
    assert_eq!(store.prune_history(0, 18_000).await.unwrap(), 0);
    // The sum goes on where it was, whoever writes.
    let Bench { store: first, place } = bench;
    first.close().await;
    drop(first);
    let store = &crate::harness::open(&place).await;
    by(store, "key", put([note(99)])).await;
    assert_eq!(store.prune_history(0, 18_000).await.unwrap(), 1);
    let left = of(store, "t").await.len() as u64;
    assert_eq!(store.prune_history(i64::MAX, u64::MAX).await.unwrap(), left);
    assert!(of(store, "t").await.is_empty());
    by(store, "key", put([note(100)])).await;
    assert_eq!(of(store, "t").await.len(), 1);
    assert_eq!(store.prune_history(0, 18_000).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_resources_of_one_mutation_are_few_statements() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let tenants = |note: u64| -> Vec<Resource> {
        (0..256).map(|n| resource(Kind::Tenant, &format!("t_{n:03}"), json!({"note": note}))).collect()
    };
    applied(store, put(tenants(0))).await;
    let before = store.stats().statements;
    applied(store, put(tenants(1))).await;
    let with = store.stats().statements - before;
    let before = store.stats().statements;
    // The same, of which nobody asks.
    let silent: Vec<Resource> = tenants(1).into_iter().map(|one| Resource { updated_at: 7, ..one }).collect();
    applied(store, put(silent)).await;
    let without = store.stats().statements - before;
    assert_eq!(with - without, 2, "128 rows a statement");
    let refused: Result<_, hosting_store::WriteError<ApplyError>> = apply(store, remove(&["t_999"])).await;
    assert!(refused.is_ok());
    let rows: Result<Vec<HistoryRow>, StoreError> =
        store.read().await.unwrap().history_since(&["t_000".into()], 0, 1).await;
    assert_eq!(rows.unwrap().len(), 1);
}

async fn to_undo(store: &Store, undo: UndoOf, most: u32) -> ToUndo {
    let found =
        store.write(Origin::default(), move |tx| Box::pin(async move { tx.to_undo(&undo, most).await }));
    found.await.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_has_its_changes_and_all_later_ones_and_none_that_is_foreign() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let of_brand = |id: &str, brand: &str, note: &str| Resource {
        brand: Some(brand.into()),
        ..resource(Kind::Tenant, id, json!({"note": note}))
    };
    applied(store, put([of_brand("a", "acme", "0"), of_brand("b", "acme", "0"), of_brand("c", "bolt", "0")]))
        .await;
    let mine = by(
        store,
        "me",
        put([of_brand("a", "acme", "1"), of_brand("b", "acme", "1"), of_brand("c", "bolt", "1")]),
    )
    .await;
    // The controller goes on with it, in its trace; somebody else changes it in another one.
    let trace = |digit: char| format!("00-{}-00f067aa0ba902b7-01", digit.to_string().repeat(32));
    let in_trace = async |traceparent: String, actor: Option<&str>, change: Change| {
        let origin = Origin { traceparent, actor: actor.map(Into::into), ..Origin::default() };
        store.write(origin, move |tx| Box::pin(async move { tx.apply(change).await })).await.unwrap().revision
    };
    let own_trace = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let gone_on = in_trace(own_trace, None, put([of_brand("d", "acme", "1")])).await;
    let theirs = in_trace(trace('b'), Some("you"), put([of_brand("a", "acme", "2")])).await;
    let undo = |brands: Option<&[&str]>, upto: u64| UndoOf {
        of: HistoryOf::Revision(mine),
        upto,
        brands: brands.map(|brands| brands.iter().map(|brand| (*brand).to_owned()).collect()),
        trace: "c".repeat(32),
    };
    let parts = |found: &ToUndo| -> Vec<(String, u64, Part)> {
        found.changes.iter().map(|one| (one.resource.clone(), one.revision, one.part)).collect()
    };
    let all = to_undo(store, undo(None, theirs), 100).await;
    let wanted = [
        ("a", mine, Part::Chosen),
        ("b", mine, Part::Chosen),
        ("c", mine, Part::Chosen),
        ("d", gone_on, Part::Chosen),
        ("a", theirs, Part::Other),
    ];
    assert_eq!(parts(&all), wanted.map(|(id, revision, part)| (id.to_owned(), revision, part)));
    assert_eq!((all.chosen.len(), all.is_too_much), (4, false));
    assert!(to_undo(store, undo(None, theirs), 2).await.is_too_much);
    let own = to_undo(store, undo(Some(&["acme"]), theirs), 100).await;
    assert!(own.changes.iter().all(|change| change.resource != "c") && own.chosen.len() == 3);
    assert_eq!(to_undo(store, undo(Some(&["none"]), theirs), 100).await, ToUndo::default());
    // What went to another brand since is not there for the former one.
    in_trace(trace('d'), Some("you"), put([of_brand("b", "bolt", "1")])).await;
    let own = to_undo(store, undo(Some(&["acme"]), theirs), 100).await;
    assert_eq!(own.chosen.iter().map(|row| row.resource.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    // What the undo did itself is known by its trace, when it is asked again.
    let undone = in_trace(trace('c'), Some("me"), put([of_brand("a", "acme", "0")])).await;
    let again = to_undo(store, undo(Some(&["acme"]), theirs), 100).await;
    assert_eq!(parts(&again).last(), Some(&("a".to_owned(), undone, Part::Own)));
}
