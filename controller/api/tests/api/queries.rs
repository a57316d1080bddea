//! Queries: every route refuses what it does not take, and filters mean what their fields mean.

use axum::http::{Method, Request};
use hosting_api::{Op, Takes, table};
use hosting_resource::Kind;
use serde_json::{Value, json};

use crate::authorization::{body_of, path_of};
use crate::harness::{Answer, TestApi};

fn is_refused(answer: &Answer, parameter: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    let start = format!("validation error: {parameter}: ");
    assert!(answer.error().starts_with(&start), "{what}: {}", answer.error());
}

/// From the table: what no route declares, what is empty, what is given twice, what is no value of its type.
#[tokio::test]
async fn every_route_refuses_what_it_does_not_take() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let head = test.store.read().await.unwrap().head();
    for route in table() {
        let ask = async |query: &str| {
            let path = format!("{}?{query}", path_of(&test, &ids, &route));
            test.call(route.method.clone(), &path, Some(&test.admin), body_of(&test, &ids, &route)).await
        };
        let what = format!("{} {}", route.method, route.path);
        let unknown = ask("frob=1").await;
        is_refused(&unknown, "frob", &what);
        let known = route.params.iter().all(|param| unknown.error().contains(param.name));
        assert!(known, "{what} does not say what it takes: {}", unknown.error());
        for param in &route.params {
            let (name, what) = (param.name, format!("{what} {}", param.name));
            let sound = match &param.takes {
                Takes::Text | Takes::AnyText => "a",
                Takes::Word(words) => words[0],
                Takes::Names(names) => names[0].as_str(),
                Takes::Caseless(words) => words[0],
                Takes::Count { .. } | Takes::Seconds | Takes::Revision | Takes::Whole => "1",
                Takes::Time => "1970-01-01",
            };
            is_refused(&ask(&format!("{name}={sound}&{name}={sound}")).await, name, &what);
            if param.takes != Takes::AnyText {
                is_refused(&ask(&format!("{name}=")).await, name, &what);
            }
            let wrong: &[&str] = match &param.takes {
                Takes::Text | Takes::AnyText => &["%ff", "%00", "%4"],
                Takes::Word(_) | Takes::Caseless(_) => &["frob"],
                Takes::Names(_) => &["frob", "*", "id,,id", "id,"],
                Takes::Count { .. } | Takes::Seconds => &["0", "-5", "x", "1.5", "+1"],
                Takes::Revision | Takes::Whole => &["-5", "x", "1.5", "+1"],
                Takes::Time => &["yesterday", "-5"],
            };
            for value in wrong {
                is_refused(&ask(&format!("{name}={value}")).await, name, &format!("{what}={value}"));
            }
            if let Takes::Word(words) = &param.takes {
                let refused = ask(&format!("{name}=frob")).await;
                assert!(words.iter().all(|word| refused.error().contains(word)), "{}", refused.error());
            }
        }
    }
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
}

/// A filter that does not apply is refused, or finds only what was asked for.
#[tokio::test]
async fn nobody_gets_more_than_was_asked_for() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.brand("second").await;
    let records = format!("/zones/{}/records", ids.zone);
    let fqdns = format!("/tenants/{}/fqdns", ids.tenant);
    for (path, query, most) in [
        ("/zones", "name=first-zone.example", 1),
        ("/zones", "page=2", 0),
        ("/zones", "offset=1000", 0),
        ("/zones", "limit=-5", 0),
        ("/zones", "tenant=nobody", 0),
        ("/zones", "tenant_id=nobody", 0),
        ("/zones", "name=FIRST", 0),
        (&records, "content=192.0.2.1", 0),
        (&records, "name=nothing", 0),
        (&fqdns, "search=zzz", 0),
        (&fqdns, "webroot_id=web_nothing", 0),
        ("/tenants", "brand_id=second&customer_id=customer-of-first", 0),
        ("/brands", "name=second", 1),
        ("/regions", "name=south", 0),
    ] {
        let answer = test.get(&format!("{path}?{query}")).await;
        let items = answer.body["items"].as_array().map_or(0, Vec::len);
        assert!(answer.status == 400 || items <= most, "{path}?{query}: {answer:?}");
    }
}

#[tokio::test]
async fn filters_are_read_like_their_fields() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.brand("second").await;
    let www = json!({"type": "A", "name": "www2", "content": "192.0.2.1"});
    test.post(&format!("/zones/{}/records", ids.zone), www).await.ok(202);
    let bucher = json!({"fqdn": "bücher.example", "webroot_id": ids.webroot});
    test.post(&format!("/tenants/{}/fqdns", ids.tenant), bucher).await.ok(202);
    let records = format!("/zones/{}/records", ids.zone);
    let fqdns = format!("/tenants/{}/fqdns", ids.tenant);
    let nodes = format!("/clusters/{}/nodes", test.cluster);
    let addresses = format!("/clusters/{}/lb-addresses", test.cluster);
    for (path, query, count) in [
        ("/zones", "name=FIRST-Zone.example.".to_owned(), 1),
        ("/zones", format!("tenant_id={}&region_id={}", ids.tenant, test.region), 1),
        ("/zones", "search=first-zone.example.".to_owned(), 1),
        ("/tenants", format!("shard_id={}", test.shard), 2),
        ("/zones", format!("subscription_id={}", ids.subscription), 1),
        ("/zones", "subscription_id=none".to_owned(), 0),
        (&fqdns, "fqdn=WWW.first-zone.example.".to_owned(), 1),
        (&fqdns, "fqdn=b%C3%BCcher.example".to_owned(), 1),
        (&fqdns, "search=b%C3%BCcher".to_owned(), 1),
        (&fqdns, format!("webroot_id={}", ids.webroot), 2),
        (&records, "type=txt&name=%40".to_owned(), 1),
        (&records, "name=WWW2".to_owned(), 1),
        (&records, "name=www2.first-zone.example.".to_owned(), 1),
        (&records, "name=www2&type=TXT".to_owned(), 0),
        (&records, "managed_by=custom".to_owned(), 2),
        (&nodes, "role=web".to_owned(), 1),
        (&nodes, "hostname=DNS-1.".to_owned(), 1),
        (&addresses, "address=192.0.2.1".to_owned(), 1),
        ("/search", "q=FIRST-zone.example.".to_owned(), 0),
    ] {
        let answer = test.get(&format!("{path}?{query}")).await.ok(200);
        if let Some(items) = answer["items"].as_array() {
            assert_eq!(items.len(), count, "{path}?{query}: {answer}");
        } else {
            assert!(answer["results"].to_string().contains(&ids.zone), "{answer}");
        }
    }
    for (path, query, parameter) in [
        ("/zones", "name=no%20name", "name"),
        ("/zones", "tenant_id=a%2Fb", "tenant_id"),
        (&fqdns, "fqdn=localhost", "fqdn"),
        (&records, "type=FROB", "type"),
        (&records, "managed_by=me", "managed_by"),
        (&records, "name=x.other.", "name"),
        (&nodes, "role=king", "role"),
        (&addresses, "address=300.1.1.1", "address"),
        ("/regions", "status=active", "status"),
        ("/regions", "name=No%20Slug", "name"),
    ] {
        is_refused(&test.get(&format!("{path}?{query}")).await, parameter, &format!("{path}?{query}"));
    }
    let words = test.get(&format!("{nodes}?role=king")).await;
    assert!(words.error().contains("web, database, dns"), "{}", words.error());
}

#[tokio::test]
async fn the_document_shows_what_is_taken() {
    let test = TestApi::empty().await;
    let request = Request::builder().uri("/docs/openapi.json");
    let document = test.send(request.body(axum::body::Body::empty()).unwrap()).await.ok(200);
    for route in table() {
        let operation = &document["paths"][route.full_path()][route.method.as_str().to_ascii_lowercase()];
        let shown: Vec<&Value> =
            operation["parameters"].as_array().unwrap().iter().filter(|one| one["in"] == "query").collect();
        let names: Vec<&str> = shown.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, route.params.iter().map(|param| param.name).collect::<Vec<_>>(), "{}", route.path);
        for filter in match route.op {
            Op::List(kind) => kind.info().filters,
            _ => &[],
        } {
            assert!(names.contains(&filter.name), "{} {}", route.path, filter.name);
        }
    }
    let status = |kind: Kind| {
        let list = &document["paths"][format!("/api/v1{}", kind.info().collection)]["get"]["parameters"];
        list.as_array().unwrap().iter().find(|one| one["name"] == "status").cloned()
    };
    assert!(status(Kind::Zone).unwrap()["schema"]["enum"].to_string().contains("suspended"));
    assert_eq!(status(Kind::Region), None);
    assert_eq!(test.call(Method::GET, "/regions?search=", Some(&test.admin), None).await.status, 400);
}
