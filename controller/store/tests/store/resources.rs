//! Resources with their names, references, facets and counts.

use hosting_planner::{ApplyError, Change, Draft, Unit, World};
use hosting_resource::{Kind, Resource, Status};
use hosting_store::{MAX_ROWS, WriteError};
use serde_json::json;

use crate::harness::{Bench, applied, apply, put, remove, resource, set, tenant, write};

fn site(id: &str, name: &str) -> Resource {
    resource(Kind::Webroot, id, json!({"name": name}))
}

fn fqdn(id: &str, webroot: &str) -> Resource {
    resource(Kind::Fqdn, id, json!({"webroot_id": webroot}))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_survives() {
    let bench = Bench::new().await;
    applied(&bench.store, put([resource(Kind::Brand, "b", json!({}))])).await;
    let written = Resource {
        parent: Some("b".into()),
        tenant: Some("t_a".into()),
        brand: Some("b".into()),
        label: "ünïcode ' \" \\ %".into(),
        status: Status::AutoDisabled,
        status_message: Some("tried\n3 times".into()),
        shape: 3,
        generation: 9,
        created_revision: 7,
        created_at: -1,
        updated_at: i64::MAX,
        state: json!({"site_ready": true, "withdrawn": {"edge/a": 12}}).as_object().unwrap().clone(),
        ..resource(
            Kind::Tenant,
            "t_a",
            json!({"deep": [1, 2.5, null, {"x": "y"}], "big": 9_007_199_254_740_993_u64}),
        )
    };
    applied(&bench.store, put([written.clone()])).await;
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.resource("t_a").await.unwrap().as_ref(), Some(&written));
    assert_eq!(tx.children(Kind::Tenant, "b", "", 10).await.unwrap(), std::slice::from_ref(&written));
    assert_eq!(tx.children(Kind::Tenant, "b", "t_a", 10).await.unwrap(), []);
    assert_eq!(tx.list(Kind::Tenant, "", 10).await.unwrap(), [written]);
    assert!(tx.resource("t_b").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_name_has_one_holder() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, put([site("web_a", "shop"), site("web_b", "blog")])).await;
    let taken = apply(store, put([site("web_c", "shop")])).await.unwrap_err();
    assert_eq!(taken.to_string(), "webroot name \"shop\" is already taken");
    assert!(matches!(taken, WriteError::Refused(ApplyError::Taken { field: "name", .. })));
    // Both at once, whatever the order.
    applied(store, put([site("web_a", "blog"), site("web_b", "shop")])).await;
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.holder(Kind::Webroot, "", "shop").await.unwrap().unwrap().id, "web_b");
    assert!(tx.holder(Kind::Webroot, "t_a", "shop").await.unwrap().is_none());
    assert!(tx.holder(Kind::Fqdn, "", "shop").await.unwrap().is_none());
    drop(tx);

    // A name is free in the revision that plans its holder's end.
    let mut leaving = site("web_b", "shop");
    leaving.status = Status::Deleting;
    applied(store, put([leaving, site("web_d", "shop")])).await;
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.holder(Kind::Webroot, "", "shop").await.unwrap().unwrap().id, "web_d");
    drop(tx);
    applied(store, remove(&["web_b", "web_none"])).await;
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.holder(Kind::Webroot, "", "shop").await.unwrap().unwrap().id, "web_d");
}

#[tokio::test(flavor = "multi_thread")]
async fn references_hold_what_they_point_to() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let dangling = apply(store, put([fqdn("f_a", "web_a")])).await.unwrap_err();
    assert_eq!(dangling.to_string(), "webroot_id: there is no webroot \"web_a\"");
    // Another kind by that id is no webroot.
    applied(store, put([tenant("t_a")])).await;
    assert!(apply(store, put([fqdn("f_a", "t_a")])).await.is_err());

    applied(store, put([fqdn("f_a", "web_a"), site("web_a", "a"), site("web_b", "b")])).await;
    let used = apply(store, remove(&["web_a"])).await.unwrap_err();
    assert_eq!(used.to_string(), "web_a is still used by fqdn f_a");
    let mut tx = store.read().await.unwrap();
    let ids = |found: Vec<Resource>| found.into_iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(tx.referrers(Kind::Fqdn, "webroot_id", "web_a", "", 9).await.unwrap()), ["f_a"]);
    assert!(tx.referrers(Kind::Fqdn, "other", "web_a", "", 9).await.unwrap().is_empty());
    drop(tx);

    // The reference moves in the revision in which its old end goes.
    applied(store, Change { put: vec![fqdn("f_a", "web_b")], ..remove(&["web_a"]) }).await;
    // Both ends go together.
    applied(store, remove(&["web_b", "f_a"])).await;
    assert!(store.read().await.unwrap().resource("web_b").await.unwrap().is_none());

    // What is on its way out takes no new reference.
    let leaving = Resource { status: Status::Deleting, ..site("web_c", "c") };
    applied(store, put([leaving])).await;
    assert!(apply(store, put([fqdn("f_c", "web_c")])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_outlive_their_children() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let child = |id: &str| Resource { parent: Some("t_a".into()), ..site(id, id) };
    let orphan = apply(store, put([child("web_a")])).await.unwrap_err();
    assert!(orphan.to_string().contains("which does not exist"), "{orphan}");
    applied(store, put([child("web_a"), tenant("t_a")])).await;
    let used = apply(store, remove(&["t_a"])).await.unwrap_err();
    assert_eq!(used.to_string(), "t_a is still used by webroot web_a");
    assert_eq!(store.read().await.unwrap().count_children(Kind::Webroot, "t_a").await.unwrap(), 1);
    applied(store, remove(&["t_a", "web_a"])).await;
    assert!(store.read().await.unwrap().resource("web_a").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_find_and_counts_are_kept() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let customer = |id: &str, customer: &str, brand: Option<&str>, status| Resource {
        brand: brand.map(str::to_owned),
        status,
        ..resource(Kind::Tenant, id, json!({"customer_id": customer}))
    };
    applied(
        store,
        put([
            customer("t_a", "c1", Some("x"), Status::Pending),
            customer("t_b", "c1", Some("x"), Status::Active),
            customer("t_c", "c2", Some("y"), Status::Active),
            customer("t_d", "c2", None, Status::Active),
        ]),
    )
    .await;
    applied(store, put([customer("t_a", "c2", Some("x"), Status::Active)])).await;
    applied(store, put([customer("t_b", "c1", Some("y"), Status::Suspended)])).await;
    applied(store, remove(&["t_d"])).await;
    let mut tx = store.read().await.unwrap();
    let found = tx.with_facet(Kind::Tenant, "customer_id", "c2", "", 10).await.unwrap();
    assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["t_a", "t_c"]);
    let counts = tx.status_counts(Kind::Tenant, None).await.unwrap();
    assert_eq!(counts, [(Status::Active, 2), (Status::Suspended, 1)]);
    let of_y = tx.status_counts(Kind::Tenant, Some(&["y".into()])).await.unwrap();
    assert_eq!(of_y, [(Status::Active, 1), (Status::Suspended, 1)]);
    assert_eq!(tx.status_counts(Kind::Tenant, Some(&[])).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_have_their_place_is_kept() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let shards = ["s1", "s2"].map(|id| resource(Kind::Shard, id, json!({})));
    applied(store, put(shards)).await;
    let on = |id: &str, shard: &str| resource(Kind::Tenant, id, json!({"shard_id": shard}));
    let counts = || async {
        let about = ["s1", "s2"].map(|shard| (shard.to_owned(), Kind::Tenant));
        let counts = store.read().await.unwrap().usage(&about).await.unwrap();
        counts
            .into_iter()
            .zip(about)
            .map(|(count, (shard, _))| format!("{shard} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    applied(store, put([on("t_a", "s1"), on("t_b", "s1"), on("t_c", "s2")])).await;
    assert_eq!(counts().await, "s1 2, s2 1");
    applied(store, put([on("t_a", "s2"), Resource { generation: 2, ..on("t_b", "s1") }])).await;
    assert_eq!(counts().await, "s1 1, s2 2");
    applied(store, put([Resource { status: Status::Deleting, ..on("t_b", "s1") }])).await;
    assert_eq!(counts().await, "s1 0, s2 2");
    // A mutation that fails counts nothing.
    apply(store, put([on("t_d", "s1"), on("t_e", "s3")])).await.unwrap_err();
    applied(store, remove(&["t_b", "t_c"])).await;
    assert_eq!(counts().await, "s1 0, s2 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_a_size() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let many =
        |count: usize| -> Vec<_> { (0..count).map(|n| set("edge/a", &format!("h{n}"), "u", b"v")).collect() };
    let large = apply(store, Change { intents: many(MAX_ROWS + 1), ..Change::default() }).await.unwrap_err();
    assert!(matches!(large, WriteError::Refused(ApplyError::TooLarge(rows)) if rows > MAX_ROWS));
    assert_eq!(applied(store, Change { intents: many(MAX_ROWS), ..Change::default() }).await, 1);
    // Over several calls too.
    let split = write(store, |tx| {
        Box::pin(async move {
            for half in ["x", "y"] {
                let intents = (0..600).map(|n| set("edge/b", &format!("{half}{n}"), "u", b"v")).collect();
                tx.apply(Change { intents, ..Change::default() }).await?;
            }
            Ok(())
        })
    })
    .await;
    assert!(matches!(split, Err(WriteError::Refused(ApplyError::TooLarge(_)))));
    let huge =
        apply(store, Change { intents: vec![set("edge/a", "h", "u", &[0; 300_000])], ..Change::default() });
    assert!(huge.await.unwrap_err().to_string().contains("route/h has 300000 bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replan_queue_keeps_order_and_place() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let units: Vec<_> = ["c", "a", "b"].map(|id| Unit::Of(Kind::Tenant, id.into())).into();
    let queue = |replan: Vec<Unit>, replanned: Vec<Unit>| Change { replan, replanned, ..Change::default() };
    let committed = apply(store, queue(units.clone(), vec![])).await.unwrap();
    assert_eq!(committed.revision, 0, "the queue is no revision");
    apply(store, queue(vec![units[0].clone()], vec![])).await.unwrap();
    assert_eq!(store.read().await.unwrap().queued(2).await.unwrap(), units[..2]);
    // Taken off and put back: behind the others.
    apply(store, queue(vec![units[0].clone()], vec![units[0].clone()])).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.queued(9).await.unwrap(), [units[1].clone(), units[2].clone(), units[0].clone()]);
    assert_eq!(tx.replan_count(10).await.unwrap(), 3);
}
