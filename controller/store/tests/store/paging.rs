//! Lists.

use std::collections::BTreeSet;

use hosting_resource::{Kind, Resource, Status};
use hosting_store::{Cursor, ListQuery, Order, PageError, Sort, Store};
use serde_json::json;

use crate::harness::{Bench, applied, put, remove, resource, tenant};

async fn ids(store: &Store, query: &ListQuery) -> Vec<String> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = store.read().await.unwrap().page(&query).await.unwrap();
        assert!(page.items.len() <= query.limit as usize);
        ids.extend(page.items.into_iter().map(|item| item.id));
        // Through the text that a client holds.
        match page.next {
            Some(next) => query.after = Some(Cursor::decode(&next.encode()).unwrap()),
            None => return ids,
        }
    }
}

fn query(sort: Sort, order: Order) -> ListQuery {
    ListQuery { sort, order, limit: 2, ..ListQuery::new(Kind::Tenant) }
}

async fn some_tenants(store: &Store) {
    let one = |id: &str, label: &str, brand: Option<&str>, status, revision| Resource {
        label: label.into(),
        brand: brand.map(str::to_owned),
        tenant: Some(id.into()),
        status,
        created_revision: revision,
        updated_at: 100 - i64::try_from(revision).unwrap(),
        ..resource(Kind::Tenant, id, json!({"customer_id": format!("c{}", revision % 2)}))
    };
    applied(
        store,
        put([
            one("t_a", "same", Some("x"), Status::Active, 5),
            one("t_b", "same", Some("y"), Status::Pending, 3),
            one("t_c", "50%_off", Some("x"), Status::Active, 3),
            one("t_d", "Zebra", None, Status::Active, 1),
            one("t_e", "same", Some("z"), Status::Deleting, 9),
            // Deleted and kept: there for whoever asks for it.
            one("t_g", "same", Some("x"), Status::Deleted, 4),
            one("t_h", "same", Some("x"), Status::Deleted, 8),
        ]),
    )
    .await;
    applied(store, put([resource(Kind::Zone, "zone_a", json!({}))])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sorted_and_filtered() {
    let bench = Bench::new().await;
    let store = &bench.store;
    some_tenants(store).await;
    assert_eq!(ids(store, &query(Sort::Created, Order::Asc)).await, ["t_d", "t_b", "t_c", "t_a", "t_e"]);
    assert_eq!(ids(store, &query(Sort::Created, Order::Desc)).await, ["t_e", "t_a", "t_c", "t_b", "t_d"]);
    assert_eq!(ids(store, &query(Sort::Updated, Order::Asc)).await, ["t_e", "t_a", "t_b", "t_c", "t_d"]);
    assert_eq!(ids(store, &query(Sort::Label, Order::Asc)).await, ["t_c", "t_d", "t_a", "t_b", "t_e"]);
    assert_eq!(ids(store, &query(Sort::Status, Order::Desc)).await, ["t_b", "t_e", "t_d", "t_c", "t_a"]);
    assert_eq!(ids(store, &query(Sort::Id, Order::Desc)).await, ["t_e", "t_d", "t_c", "t_b", "t_a"]);

    let base = query(Sort::Id, Order::Asc);
    let brands = |brands: &[&str]| ListQuery {
        brands: Some(brands.iter().map(|brand| (*brand).to_owned()).collect()),
        ..base.clone()
    };
    assert_eq!(ids(store, &brands(&["x", "z"])).await, ["t_a", "t_c", "t_e"]);
    assert!(ids(store, &brands(&[])).await.is_empty(), "no brand sees nothing, what has none included");
    assert!(ids(store, &brands(&["x') OR 1=1 --"])).await.is_empty());
    let deleted = ListQuery { status: Some(Status::Deleted), ..base.clone() };
    assert_eq!(ids(store, &deleted).await, ["t_g", "t_h"]);
    let mut tx = store.read().await.unwrap();
    let totals = (tx.total(&base).await.unwrap().count, tx.total(&deleted).await.unwrap().count);
    assert_eq!(totals, (5, 2));
    let mut list = ListQuery { limit: 1, ..base.clone() };
    let mut seen = Vec::new();
    loop {
        let page = tx.page(&list).await.unwrap();
        assert!(page.items.len() <= 1);
        seen.extend(page.items.into_iter().map(|item| item.id));
        list.after = page.next;
        if list.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["t_a", "t_b", "t_c", "t_d", "t_e"]);
    drop(tx);
    let status = ListQuery { status: Some(Status::Active), ..base.clone() };
    assert_eq!(ids(store, &status).await, ["t_a", "t_c", "t_d"]);
    let facet = ListQuery { facets: vec![("customer_id".into(), "c1".into())], ..base.clone() };
    assert_eq!(ids(store, &facet).await, ["t_a", "t_b", "t_c", "t_d", "t_e"]);
    let facet = ListQuery { facets: vec![("customer_id".into(), "c0".into())], ..base.clone() };
    assert!(ids(store, &facet).await.is_empty());
    let of_tenant = ListQuery { tenant: Some("t_c".into()), ..base.clone() };
    assert_eq!(ids(store, &of_tenant).await, ["t_c"]);
    let search = |text: &str| ListQuery { search: Some(text.into()), ..base.clone() };
    assert_eq!(ids(store, &search("zebr")).await, ["t_d"]);
    assert_eq!(ids(store, &search("50%_")).await, ["t_c"]);
    assert_eq!(ids(store, &search("%")).await, ["t_c"], "taken literally");
    assert_eq!(ids(store, &search("T_E")).await, ["t_e"]);
    assert_eq!(ids(store, &search("")).await.len(), 5);
    let parent = ListQuery { parent: Some("t_a".into()), ..base.clone() };
    assert!(ids(store, &parent).await.is_empty());
}

fn fqdn(n: usize, label: &str) -> Resource {
    Resource {
        label: label.into(),
        created_revision: n as u64 % 7,
        ..resource(Kind::Fqdn, &format!("{n:08x}-3f39-4c36-b0a4-7d0c3c7f2a11"), json!({}))
    }
}

/// What the index tells, with what is then looked at, is what a look at everything tells.
#[tokio::test(flavor = "multi_thread")]
async fn search_finds_what_contains_the_text_in_the_order_of_the_list() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let words = ["guestbook", "shop", "a1", "xn--bcher-kva", "acme-hosting", "q"];
    let all: Vec<Resource> =
        (0..48).map(|n| fqdn(n, &format!("{}{}.{}.test", words[n % 6], n % 5, words[(n / 6) % 6]))).collect();
    applied(store, put(all.clone())).await;
    let mut texts: BTreeSet<String> =
        ["", "zzz", "00000007", "7d0c3c7f", "0000000-", "-3f39", "%", "_"].map(str::to_owned).into();
    for label in ["guestbook0.shop.test", "xn--bcher-kva3.acme-hosting.test", "a12.a1.test"] {
        for length in [1, 2, 3, 4, 5, 6, 7, 9, 12] {
            texts.extend(
                (0..label.len() - length.min(label.len()))
                    .step_by(3)
                    .map(|at| label[at..at + length.min(label.len() - at)].to_ascii_uppercase()),
            );
        }
    }
    for text in texts {
        for (sort, order) in
            [(Sort::Created, Order::Desc), (Sort::Label, Order::Asc), (Sort::Id, Order::Desc)]
        {
            let list = ListQuery { sort, order, limit: 5, ..ListQuery::new(Kind::Fqdn) };
            let lower = text.to_ascii_lowercase();
            let finds = |id: &str| {
                let one = all.iter().find(|one| one.id == id).unwrap();
                one.label.contains(&lower) || one.id.starts_with(&lower)
            };
            let wanted: Vec<String> = ids(store, &list).await.into_iter().filter(|id| finds(id)).collect();
            let found = ids(store, &ListQuery { search: Some(text.clone()), ..list }).await;
            assert_eq!(found, wanted, "{text:?} {sort:?}");
        }
    }
    // A name that changes is found by the new one.
    applied(store, put([fqdn(3, "renamed-thing.test")])).await;
    let named = |text: &str| ListQuery { search: Some(text.into()), ..ListQuery::new(Kind::Fqdn) };
    assert_eq!(ids(store, &named("named-thing")).await, [all[3].id.clone()]);
    assert_eq!(ids(store, &named("her-kva3.guestbook")).await, Vec::<String>::new());
    applied(store, remove(&[&all[3].id])).await;
    assert_eq!(ids(store, &named("named-thing")).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_search_looks_at_a_bounded_number_of_rows() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let named =
        |n: u64, label: String| Resource { created_revision: n, label, ..tenant(&format!("t_{n:05}")) };
    applied(store, put([named(0, "zq".into()), named(1, "needle-in-it".into())])).await;
    for some in (2..10_500).collect::<Vec<u64>>().chunks(500) {
        applied(store, put(some.iter().map(|n| named(*n, format!("hay-{n}"))).collect::<Vec<_>>())).await;
    }
    let list = |text: &str| ListQuery { search: Some(text.into()), ..ListQuery::new(Kind::Tenant) };
    let page = |list: ListQuery| async move { store.read().await.unwrap().page(&list).await.unwrap() };
    let long = page(list("needle-in")).await;
    assert_eq!((long.items.len(), long.next), (1, None), "it is looked up");
    let short = page(list("zq")).await;
    assert_eq!(short.items.len(), 0, "it is the last one, behind more than a page looks at");
    let rest = page(ListQuery { after: short.next.clone(), ..list("zq") }).await;
    assert_eq!((rest.items.len(), rest.next), (1, None));
    let found = store.read().await.unwrap().find(&list("zq")).await.unwrap();
    assert_eq!(found.len(), 1, "a word begins with it");
    let many = page(ListQuery { limit: 3, ..list("hay-") }).await;
    assert_eq!(
        many.items.iter().map(|item| &*item.id).collect::<Vec<_>>(),
        ["t_10499", "t_10498", "t_10497"]
    );
    assert!(many.next.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_list_is_refused() {
    let bench = Bench::new().await;
    some_tenants(&bench.store).await;
    let mut tx = bench.store.read().await.unwrap();
    let next = tx.page(&query(Sort::Label, Order::Asc)).await.unwrap().next;
    assert!(next.is_some());
    for (sort, order) in [(Sort::Label, Order::Desc), (Sort::Id, Order::Asc)] {
        let other = ListQuery { after: next.clone(), ..query(sort, order) };
        assert!(matches!(tx.page(&other).await, Err(PageError::Cursor)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_skip_nor_repeat_while_rows_come_and_go() {
    for order in [Order::Asc, Order::Desc] {
        let bench = Bench::new().await;
        let store = &bench.store;
        let made = |n: u64| Resource { created_revision: n, ..tenant(&format!("t_{:03}", (n * 37) % 500)) };
        let stable: BTreeSet<_> = (0..60).map(|n| made(n * 2).id).collect();
        applied(store, put((0..60).map(|n| made(n * 2)).collect::<Vec<_>>())).await;
        let mut list = ListQuery { order, limit: 7, ..ListQuery::new(Kind::Tenant) };
        let mut seen = Vec::new();
        let mut fresh = 1;
        loop {
            let page = store.read().await.unwrap().page(&list).await.unwrap();
            seen.extend(page.items.into_iter().map(|item| item.id));
            let Some(next) = page.next else { break };
            list.after = Some(next);
            // In front of the cursor and behind it, made and gone, and changed where it stands.
            applied(store, put([made(fresh), made(500 + fresh), Resource { generation: 2, ..made(118) }]))
                .await;
            if fresh > 3 {
                applied(store, remove(&[&made(fresh - 2).id])).await;
            }
            fresh += 2;
        }
        let unique: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(unique.len(), seen.len(), "repeated");
        assert!(stable.is_subset(&unique), "skipped {:?}", stable.difference(&unique).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_resources_are_found_without_looking_at_the_rest() {
    let bench = Bench::new().await;
    let store = &bench.store;
    some_tenants(store).await;
    let mut tx = store.read().await.unwrap();
    let open = tx.open_resources("", 10).await.unwrap();
    assert_eq!(open.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["t_b", "t_e"]);
    assert!(open.iter().all(|one| one.status.is_open()));
    assert_eq!(tx.open_resources("t_b", 10).await.unwrap().len(), 1);
    assert_eq!(tx.open_resources("", 1).await.unwrap()[0].id, "t_b");
}
