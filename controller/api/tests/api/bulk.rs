//! `POST /bulk`: many changes in one call.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::{Answer, Ids, TestApi};

async fn bulk(test: &TestApi, key: &str, query: &str, items: &Value) -> Answer {
    test.call(Method::POST, &format!("/bulk{query}"), Some(key), Some(json!({"items": items}))).await
}

async fn bulk_once(test: &TestApi, key: &str, query: &str, once: &str, items: &Value) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/api/v1/bulk{query}"))
        .header("x-api-key", key)
        .header("idempotency-key", once)
        .body(Body::from(json!({"items": items}).to_string()));
    test.send(request.unwrap()).await
}

/// Ends what goes on by itself; the head that stands then.
async fn quiet(test: &TestApi) -> u64 {
    test.gatekeeper.0.abort();
    // What was under way in the writer is done when this is.
    bulk(test, &test.admin, "", &json!([])).await.ok(200);
    test.store.read().await.unwrap().head()
}

fn statuses(body: &Value) -> Vec<u64> {
    let results = body["results"].as_array().unwrap_or_else(|| panic!("no results in {body}"));
    results.iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

fn new_record(ids: &Ids, n: usize) -> Value {
    json!({
        "op": "create", "kind": "zone_record", "parent": ids.zone,
        "body": {"type": "TXT", "name": format!("r{n}"), "content": "of a bulk"},
    })
}

/// A customer with everything, in one call.
fn a_customer(test: &TestApi) -> Value {
    json!([
        {"name": "t", "op": "create", "kind": "tenant", "body": test.tenant_body("acme")},
        {"name": "s", "op": "create", "kind": "subscription", "parent": {"$id": "t"}, "body": {"id": "sub-of-bulk", "name": "s"}},
        {"name": "w", "op": "create", "kind": "webroot", "parent": {"$id": "t"},
         "body": {"subscription_id": "sub-of-bulk", "runtime": "static", "runtime_version": "1"}},
        {"name": "z", "op": "create", "kind": "zone", "body": {
            "name": "bulk.example", "subscription_id": "sub-of-bulk", "region_id": test.region, "tenant_id": {"$id": "t"}}},
        {"name": "r", "op": "create", "kind": "zone_record", "parent": {"$id": "z"}, "body": {"type": "TXT", "name": "@", "content": "one"}},
        {"name": "f", "op": "create", "kind": "fqdn", "parent": {"$id": "t"}, "body": {"fqdn": "www.bulk.example", "webroot_id": {"$id": "w"}}},
        {"op": "patch", "kind": "zone_record", "id": {"$id": "r"}, "if_match": "1", "body": {"content": "two"}},
        {"op": "replace", "kind": "zone_record", "id": {"$id": "r"}, "body": {"ttl": 120}},
    ])
}

#[tokio::test]
async fn later_items_build_on_earlier_ones() {
    let (test, _place) = crate::platform().await;
    test.brand("acme").await;
    for query in ["", "?atomic=true"] {
        let answer = bulk(&test, &test.admin, query, &a_customer(&test)).await;
        let trace = answer.headers["traceparent"].to_str().unwrap().to_owned();
        let last = answer.headers["x-revision"].clone();
        let body = answer.ok(200);
        assert_eq!(statuses(&body), [202, 201, 202, 202, 202, 202, 202, 202], "{query}: {body:#}");
        assert_eq!((&body["done"], &body["refused"]), (&json!(8), &json!(0)));
        assert_eq!(last.to_str().unwrap(), body["revision"].to_string());
        let result = |n: usize| &body["results"][n];
        let revisions: std::collections::BTreeSet<_> =
            (0..8).map(|n| result(n)["revision"].as_u64().unwrap()).collect();
        assert_eq!(revisions.len(), if query.is_empty() { 8 } else { 1 }, "{query}");
        let record = test.get(&format!("/zone-records/{}", result(4)["id"].as_str().unwrap())).await.ok(200);
        assert_eq!((&record["content"], &record["ttl"]), (&json!("two"), &json!(120)));
        assert_eq!((&result(6)["id"], &result(7)["generation"]), (&record["id"], &json!(3)));
        let fqdn = format!("/fqdns/{}", result(5)["id"].as_str().unwrap());
        assert_eq!(test.get(&fqdn).await.body["webroot_id"], result(2)["id"]);
        // Each item has the row that it would have alone, and the call has one.
        let rows = test.get("/audit-logs?limit=200").await.ok(200);
        let of = |method: &str, path: String, status: u16| {
            let rows = rows["items"].as_array().unwrap().iter();
            let is_it =
                |row: &&Value| row["method"] == method && row["path"] == path && row["status_code"] == status;
            rows.filter(is_it).count()
        };
        assert_eq!(
            of("POST", format!("/api/v1/tenants/{}/fqdns", result(0)["id"].as_str().unwrap()), 202),
            1
        );
        assert_eq!(of("PATCH", format!("/api/v1/zone-records/{}", record["id"].as_str().unwrap()), 202), 1);
        assert!(of("POST", "/api/v1/bulk".to_owned(), 200) >= 1);
        // One trace names all of it.
        let undone = test.post("/undo?wait=ready", json!({"trace": trace})).await.ok(200);
        assert_eq!(undone["conflicts_total"], 0, "{undone:#}");
        test.until(&fqdn, |answer| answer.status == 404).await;
        let tenant = format!("/tenants/{}", result(0)["id"].as_str().unwrap());
        test.until(&tenant, |answer| answer.status == 404).await;
        test.until("/subscriptions/acme~sub-of-bulk", |answer| answer.status == 404).await;
    }
}

#[tokio::test]
async fn one_bad_item_in_the_middle_is_its_own_and_its_dependents_fault() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let bad = json!([
        new_record(&ids, 1),
        {"name": "bad", "op": "create", "kind": "zone_record", "parent": ids.zone, "body": {"type": "A", "name": "b", "content": "no address"}},
        {"name": "after", "op": "patch", "kind": "zone_record", "id": {"$id": "bad"}, "body": {"ttl": 60}},
        {"op": "delete", "kind": "zone_record", "id": {"$id": "after"}},
        {"op": "delete", "kind": "zone_record", "id": {"$id": "later"}},
        {"name": "later", "op": "patch", "kind": "zone_record", "id": ids.record, "body": {"ttl": {"$id": "later"}}},
        {"name": "later", "op": "patch", "kind": "zone_record", "id": ids.record, "body": {"ttl": 61}},
        {"op": "frob", "kind": "zone_record"},
        {"op": "create", "kind": "frob", "body": {}},
        {"op": "create", "kind": "zone_record", "body": {}},
        {"op": "delete", "kind": "zone_record", "id": "no-such-record"},
        {"op": "patch", "kind": "api_key", "id": "no-such-key", "body": {}},
        {"op": "patch", "kind": "zone_record", "id": ids.record, "if_match": "77", "body": {"ttl": 62}},
        7,
        new_record(&ids, 2),
    ]);
    let body = bulk(&test, &test.admin, "", &bad).await.ok(200);
    let wanted = [202, 400, 424, 424, 400, 400, 400, 400, 400, 400, 404, 404, 412, 400, 202];
    assert_eq!(statuses(&body), wanted, "{body:#}");
    assert_eq!((&body["done"], &body["refused"]), (&json!(2), &json!(13)));
    let problem = |n: usize| &body["results"][n]["problem"];
    assert_eq!(problem(1)["type"], "/docs#problem-validation");
    assert_eq!(problem(1)["errors"][0]["field"], "content");
    assert_eq!((&problem(2)["field"], &body["results"][2]["name"]), (&json!("id"), &json!("after")));
    assert_eq!((&problem(4)["field"], &problem(6)["field"]), (&json!("id"), &json!("name")), "{body:#}");
    assert_eq!(problem(9)["field"], "parent");
    assert_eq!(test.get(&format!("/zone-records/{}", ids.record)).await.body["ttl"], 3600);
    // All or none: nothing is made, and the one that was wrong is named, first of all one that is wrong for itself.
    let head = quiet(&test).await;
    for (place, items) in [
        (6, bad),
        (1, json!([new_record(&ids, 3), {"op": "delete", "kind": "zone_record", "id": "no-such"}])),
    ] {
        for query in ["?atomic=true", "?dry_run=true"] {
            let refused = bulk(&test, &test.admin, query, &items).await;
            assert!(matches!(refused.status, 400 | 404), "{refused:?}");
            assert_eq!(refused.body["item"], place, "{query}: {refused:?}");
        }
    }
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
}

/// What an item would have been answered alone, it is answered in a bulk: for each kind, each operation, and callers that may not.
#[tokio::test]
async fn an_item_is_refused_as_it_would_be_alone() {
    let (test, _place) = crate::platform().await;
    let ours = test.brand("ours").await;
    test.brand("theirs").await;
    let (_, foreign) = test.key(&["*:*"], &["theirs"]).await;
    let (_, narrow) = test.key(&["bulk:write", "zones:read"], &["*"]).await;
    let head = quiet(&test).await;
    let mut tried = 0;
    for kind in hosting_resource::Kind::ALL.iter().copied() {
        let info = kind.info();
        let name = kind.name();
        let id = crate::harness::id_of(&test, &ours, kind);
        let parent = info.parent.map(|parent| crate::harness::id_of(&test, &ours, parent.kind));
        let mut body = crate::harness::example(&test, &ours, kind);
        if kind == hosting_resource::Kind::Brand {
            body["id"] = json!("a-new-brand");
        }
        let of = |path: &str, id: &str| {
            let (begin, rest) = path.split_once('{').unwrap_or((path, ""));
            rest.split_once('}').map_or_else(|| path.to_owned(), |(_, rest)| format!("{begin}{id}{rest}"))
        };
        let collection = of(info.collection, parent.as_deref().unwrap_or_default());
        let item = of(info.item, &id);
        let mut create = json!({"op": "create", "kind": name, "body": body});
        if let Some(parent) = &parent {
            create["parent"] = json!(parent);
        }
        let ways = [
            (Method::POST, collection, Some(body.clone()), create),
            (
                Method::PUT,
                item.clone(),
                Some(json!({})),
                json!({"op": "replace", "kind": name, "id": id, "body": {}}),
            ),
            (
                Method::PATCH,
                item.clone(),
                Some(json!({})),
                json!({"op": "patch", "kind": name, "id": id, "body": {}}),
            ),
            (Method::DELETE, item, None, json!({"op": "delete", "kind": name, "id": id})),
        ];
        for (method, path, body, item) in ways {
            for key in [&foreign, &narrow] {
                let alone = test.call(method.clone(), &path, Some(key), body.clone()).await;
                let together = bulk(&test, key, "", &json!([item])).await.ok(200);
                let result = &together["results"][0];
                // What a path says of the things of others, an item does not: there is no such thing.
                if alone.error() == "no access to this brand" && result["status"] == 404 {
                    assert!(
                        result["problem"]["error"].as_str().unwrap().ends_with(" not found"),
                        "{together}"
                    );
                    tried += 1;
                    continue;
                }
                assert_eq!(result["status"], alone.status, "{method} {path}: {alone:?} {together}");
                if alone.status != 405 {
                    assert!(matches!(alone.status, 400 | 403 | 404), "{method} {path}: {alone:?}");
                    assert_eq!(result["problem"]["error"], alone.error(), "{method} {path}");
                    let all = bulk(&test, key, "?atomic=true", &json!([item])).await;
                    assert_eq!((all.status, all.error()), (alone.status, alone.error()), "{method} {path}");
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
    // What a body refers to is looked at too.
    let theirs = json!([{"op": "create", "kind": "tenant", "body": test.tenant_body("ours")}]);
    let refused = bulk(&test, &foreign, "", &theirs).await.ok(200);
    assert_eq!(refused["results"][0]["status"], 403, "{refused}");
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
}

#[tokio::test]
async fn a_call_that_was_cut_off_goes_on_where_it_was() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let key = json!({"name": "k", "scopes": ["tenants:read"], "brands": ["acme"]});
    let mut items = json!([
        {"name": "k", "op": "create", "kind": "api_key", "body": key},
        new_record(&ids, 1),
        {"op": "delete", "kind": "zone_record", "id": "not-there-yet"},
    ]);
    let first = bulk_once(&test, &test.admin, "", "once", &items).await.ok(200);
    assert_eq!(statuses(&first), [201, 202, 404], "{first:#}");
    assert!(first["results"][0]["once"]["key"].as_str().unwrap().starts_with("hst_"), "{first}");
    // The answer got lost: what was done is told again, what was refused is tried again, what follows is done.
    items.as_array_mut().unwrap().push(new_record(&ids, 2));
    let again = bulk_once(&test, &test.admin, "", "once", &items).await.ok(200);
    assert_eq!(statuses(&again), [201, 202, 404, 202], "{again:#}");
    for n in [0, 1] {
        let (before, now) = (&first["results"][n], &again["results"][n]);
        assert_eq!(
            (&now["id"], &now["once"], &now["revision"]),
            (&before["id"], &before["once"], &before["revision"])
        );
        assert_eq!(now["replayed"], true);
    }
    assert_eq!(again["results"][3]["replayed"], Value::Null);
    // Another item under the same key is refused.
    items[1] = new_record(&ids, 7);
    let other = bulk_once(&test, &test.admin, "", "once", &items).await.ok(200);
    assert_eq!(statuses(&other), [201, 422, 404, 202], "{other:#}");

    // All or none is one change: it was made once.
    let items = json!([new_record(&ids, 11), new_record(&ids, 12)]);
    let first = bulk_once(&test, &test.admin, "?atomic=true", "all", &items).await;
    let again = bulk_once(&test, &test.admin, "?atomic=true", "all", &items).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(first.headers["x-revision"], again.headers["x-revision"]);
    assert_eq!(first.ok(200)["results"][1]["id"], again.ok(200)["results"][1]["id"]);
    let other = bulk_once(&test, &test.admin, "?atomic=true", "all", &json!([new_record(&ids, 13)])).await;
    assert_eq!(other.status, 422, "{other:?}");
    let planned = bulk_once(&test, &test.admin, "?dry_run=true", "plan", &items).await;
    assert_eq!((planned.status, &planned.body["field"]), (400, &json!("Idempotency-Key")));
    // Who may no longer see what was made does not see it by its answer.
    let (id, narrow) = test.key(&["*:*"], &["acme"]).await;
    let items = |n: usize| json!([new_record(&ids, n)]);
    for (query, n) in [("", 21), ("?atomic=true", 22)] {
        let made = bulk_once(&test, &narrow, query, &format!("n{query}"), &items(n)).await.ok(200);
        assert_eq!(statuses(&made), [202], "{made}");
    }
    test.brand("other").await;
    let moved = json!({"name": "k", "scopes": ["*:*"], "brands": ["other"]});
    test.put(&format!("/api-keys/{id}"), moved).await.ok(200);
    assert_eq!(bulk_once(&test, &narrow, "?atomic=true", "n?atomic=true", &items(22)).await.status, 403);
    let each = bulk_once(&test, &narrow, "", "n", &items(21)).await.ok(200);
    assert_eq!(statuses(&each), [403], "{each}");
}

#[tokio::test]
async fn the_plan_of_all_is_what_all_do() {
    let (test, _place) = crate::platform().await;
    test.brand("acme").await;
    let head = quiet(&test).await;
    let plan = bulk(&test, &test.admin, "?dry_run=true", &a_customer(&test)).await.ok(200);
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
    let made: Vec<&str> = plan["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["change"] == "created")
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    for kind in ["tenant", "subscription", "webroot", "zone", "zone_record", "fqdn"] {
        assert!(made.contains(&kind), "{kind}: {plan:#}");
    }
    assert_eq!(statuses(&plan["answer"]).len(), 8);
    assert!(plan["names"].as_array().unwrap().contains(&json!("bulk.example")), "{plan:#}");
}

#[tokio::test]
async fn all_items_are_waited_for() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    for query in ["?wait=ready", "?wait=ready&atomic=true"] {
        let items: Vec<Value> = (0..70).map(|n| new_record(&ids, n)).collect();
        let answer = bulk(&test, &test.admin, query, &json!(items)).await.ok(200);
        assert_eq!(answer["lagging"], json!([]), "{answer}");
        for result in answer["results"].as_array().unwrap() {
            let record = test.get(&format!("/zone-records/{}", result["id"].as_str().unwrap())).await;
            assert_eq!(record.body["status"], "active", "{record:?}");
        }
        let gone: Vec<Value> = answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| json!({"op": "delete", "kind": "zone_record", "id": result["id"]}))
            .collect();
        bulk(&test, &test.admin, query, &json!(gone)).await.ok(200);
        let left = test.get(&format!("/zones/{}/records?search=r&limit=200", ids.zone)).await.ok(200);
        assert!(left["items"].as_array().unwrap().iter().all(|one| one["content"] != "of a bulk"), "{left}");
    }
    test.fleet.set(|state| {
        state.stuck.insert("dns-1".to_owned(), 0);
    });
    let late = bulk(&test, &test.admin, "?wait=ready&wait_timeout=1", &json!([new_record(&ids, 1)])).await;
    assert_eq!((late.status, &late.body["lagging"]), (202, &json!(["dns-1"])), "{late:?}");
    assert_eq!(late.headers["retry-after"], "5");
}

#[tokio::test]
async fn a_call_is_bounded() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let item = new_record(&ids, 1).to_string();
    let many =
        format!("{{\"items\":[{}{item}]}}", format!("{{{}}},", &item[1..item.len() - 1]).repeat(20_000));
    for (body, status, part) in [
        (format!("{{\"items\":[{}1]}}", "1,".repeat(100_000)), 400, "more than 10000 items"),
        (many, 400, "more than 10000 items"),
        (format!("{{\"items\":[\"{}\"]}}", "x".repeat(9 << 20)), 413, "larger than 8388608 bytes"),
        ("{\"items\":[1]".to_owned(), 400, "EOF"),
        ("[]".to_owned(), 400, "an object with items"),
    ] {
        let request =
            Request::builder().method(Method::POST).uri("/api/v1/bulk").header("x-api-key", &test.admin);
        let refused = test.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.error().contains(part), "{refused:?}");
    }
    let thousands: Vec<Value> = (0..1_001).map(|n| new_record(&ids, n)).collect();
    for query in ["?atomic=true", "?dry_run=true", "?wait=ready"] {
        let refused = bulk(&test, &test.admin, query, &json!(thousands)).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.error().contains("1000 items at most"), "{refused:?}");
    }
    let request =
        Request::builder().method(Method::POST).uri("/api/v1/bulk").header("x-api-key", &test.admin);
    let request = request.header("if-match", "*").body(Body::from("{\"items\": []}")).unwrap();
    assert_eq!(test.send(request).await.body["field"], "If-Match", "each item has its own");
    // What does not fit into a transaction says so.
    let much: Vec<Value> = (0..600).map(|n| new_record(&ids, n)).collect();
    let refused = bulk(&test, &test.admin, "?atomic=true", &json!(much)).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert_eq!(bulk(&test, &test.admin, "", &json!([])).await.ok(200)["results"], json!([]));
    let large = json!([{"op": "create", "kind": "region", "body": {"name": "x".repeat(70_000)}}]);
    assert_eq!(statuses(&bulk(&test, &test.admin, "", &large).await.ok(200)), [413]);
}

/// Others' changes come between the items, and the key's own next one does not stand behind thousands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_change_is_not_behind_a_bulk_of_thousands() {
    let (test, _place) = crate::platform().await;
    let greedy_ids = test.brand("greedy").await;
    test.brand("modest").await;
    let (_, greedy) = test.key(&["*:*"], &["greedy"]).await;
    let (_, modest) = test.key(&["*:*"], &["modest"]).await;
    // So that revisions are made by those who ask alone.
    test.gatekeeper.0.abort();
    let items: Vec<Value> = (0..1_500).map(|n| new_record(&greedy_ids, n)).collect();
    let is_over = AtomicBool::new(false);
    let crowd = async {
        let done = bulk(&test, &greedy, "", &json!(items)).await.ok(200);
        is_over.store(true, Ordering::SeqCst);
        done
    };
    let small = async {
        let mut between = Vec::new();
        while !is_over.load(Ordering::SeqCst) && between.len() < 40 {
            for (key, brand) in [(&modest, "modest"), (&greedy, "greedy")] {
                let before = test.store.read().await.unwrap().head();
                let change = json!({"name": format!("name {}", between.len())});
                let answer =
                    test.call(Method::PUT, &format!("/brands/{brand}"), Some(key), Some(change)).await;
                between.push((brand, answer.ok(200)["revision"].as_u64().unwrap() - before));
            }
        }
        between
    };
    let (done, between) = tokio::join!(crowd, small);
    assert_eq!((&done["done"], &done["refused"]), (&json!(1_500), &json!(0)));
    assert!(between.len() >= 6, "the bulk was over before anything could come between: {between:?}");
    // Each revision between is an item. The key's own changes stand behind what is in line, another key's behind what is under way; a
    // single one may have come to the line late.
    for (brand, most) in [("modest", 32), ("greedy", 64)] {
        let mut behind: Vec<u64> =
            between.iter().filter(|(of, _)| *of == brand).map(|(_, revisions)| *revisions).collect();
        behind.sort_unstable();
        assert!(behind[behind.len() / 2] <= most, "{brand}: {behind:?}");
    }
}

/// What an item costs the writer: not more than alone, and less where items share a commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_costs_no_more_statements_than_alone() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    test.gatekeeper.0.abort();
    let statements = || test.store.stats().statements;
    let path = format!("/zones/{}/records", ids.zone);
    let body = |n: usize| new_record(&ids, n)["body"].clone();
    let before = statements();
    for n in 0..20 {
        test.post(&path, body(n)).await.ok(202);
    }
    let alone = (statements() - before) / 20;
    for (query, from, count) in [("", 1_000, 400), ("?atomic=true", 2_000, 200)] {
        let items: Vec<Value> = (from..from + count).map(|n| new_record(&ids, n)).collect();
        let before = statements();
        let done = bulk(&test, &test.admin, query, &json!(items)).await.ok(200);
        assert_eq!(done["refused"], 0, "{done}");
        let each = (statements() - before) as f64 / count as f64;
        println!("{query:?}: {each:.1} statements an item, {alone} alone");
        // How many share a commit hangs on the time that they take; in one transaction they share all that can be shared.
        let most = if query.is_empty() { alone as f64 } else { alone as f64 / 2.0 };
        assert!(each <= most, "{query}: {each} an item, {alone} alone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_revoked_does_nothing_more() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    test.gatekeeper.0.abort();
    let (id, key) = test.key(&["*:*"], &["acme"]).await;
    let items: Vec<Value> = (0..3_000).map(|n| new_record(&ids, n)).collect();
    let begun = test.store.read().await.unwrap().head();
    let revoke = async {
        while test.store.read().await.unwrap().head() < begun + 20 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        test.delete(&format!("/api-keys/{id}")).await.ok(204);
    };
    let items = json!(items);
    let (done, ()) = tokio::join!(bulk(&test, &key, "", &items), revoke);
    let statuses = statuses(&done.ok(200));
    let made = statuses.iter().filter(|status| **status == 202).count();
    assert!((20..3_000).contains(&made), "{made}");
    assert!(statuses[made..].iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(made % 256, 0, "it was looked at after 256 items");
}

/// Of a key's large calls one is read at a time: those in line hold no bodies.
#[tokio::test]
async fn a_call_in_line_is_not_read_before_its_turn() {
    use std::sync::Arc;

    use axum::body::Bytes;
    use futures::StreamExt;

    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let send = async |body: Body| {
        let request =
            Request::builder().method(Method::POST).uri("/api/v1/bulk").header("x-api-key", &test.admin);
        test.send(request.body(body).unwrap()).await
    };
    let was_asked = Arc::new(AtomicBool::new(false));
    let is_read = Arc::new(tokio::sync::Notify::new());
    let reading = Arc::clone(&is_read);
    let silent = futures::stream::once(async move {
        reading.notify_one();
        futures::future::pending::<Result<Bytes, std::io::Error>>().await
    });
    let text = json!({"items": [new_record(&ids, 1)]}).to_string();
    let asked = Arc::clone(&was_asked);
    let second = futures::stream::once(async move {
        asked.store(true, Ordering::SeqCst);
        Ok::<_, std::io::Error>(Bytes::from(text))
    });
    let first = send(Body::from_stream(silent));
    let begun = tokio::sync::Notify::new();
    let second = async {
        is_read.notified().await;
        begun.notify_one();
        send(Body::from_stream(second.boxed())).await
    };
    let look = async {
        begun.notified().await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        was_asked.load(Ordering::SeqCst)
    };
    let (first, second, early) = tokio::join!(first, second, look);
    assert_eq!((first.status, second.status, early), (408, 200, false), "{second:?}");
}

#[tokio::test]
async fn what_is_not_attempted_says_so() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let head = quiet(&test).await;
    test.stop.cancel();
    let items: Vec<Value> = (0..40).map(|n| new_record(&ids, n)).collect();
    let stopped = bulk(&test, &test.admin, "", &json!(items)).await.ok(200);
    assert_eq!((statuses(&stopped), &stopped["done"]), (vec![503; 40], &json!(0)));
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
    let row = test.get("/audit-logs?limit=1").await.body["items"][0].clone();
    assert_eq!(row["request_body"], json!({"items": 40, "refused": 40}), "one row says it of all: {row}");
}
