//! HTTP as RFC 9110 has it: conditional requests, methods, media types, limits, places of what was made.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::harness::{Answer, TestApi};

impl TestApi {
    async fn with_headers(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        request = request.header("x-api-key", &self.admin);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn tag(&self, path: &str) -> String {
        self.get(path).await.headers["etag"].to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_second_of_two_writers_is_told() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/zone-records/{}", ids.record);
    let tag = test.tag(&path).await;
    let put = async |tag: &str, text: &str| {
        let body = json!({"content": text}).to_string();
        test.with_headers(Method::PUT, &path, &[("if-match", tag)], &body).await.status
    };
    assert_eq!(put(&tag, "one").await, 202);
    assert_eq!(put(&tag, "two").await, 412);
    let gone = test.with_headers(Method::DELETE, &path, &[("if-match", &tag)], "").await;
    assert_eq!(gone.status, 412, "{gone:?}");
    let new = test.tag(&path).await;
    assert_eq!(put(&format!("\"999\", {new}"), "three").await, 202);
    assert_eq!(put("*", "four").await, 202);
    assert_eq!(put("W/\"4-x\"", "five").await, 412, "a weak tag matches nothing here");
    let two = [("if-match", "\"999\""), ("if-match", "\"4\"")];
    assert_eq!(test.with_headers(Method::PUT, &path, &two, "{\"ttl\": 120}").await.status, 202);
    assert_eq!(test.get(&path).await.body["content"], "four");
    for (header, value) in [("if-none-match", "*"), ("if-none-match", "\"5\"")] {
        let spared = test.with_headers(Method::PUT, &path, &[(header, value)], "{\"ttl\": 60}").await;
        assert_eq!(spared.status, 412, "{value}: {spared:?}");
    }
    let nothing = test.with_headers(Method::PUT, "/zone-records/none", &[("if-match", "*")], "{}").await;
    assert_eq!(nothing.status, 404);
    // Actions and settings beside the resource are changes too.
    let tenant = format!("/tenants/{}", ids.tenant);
    for path in [format!("{tenant}/suspend"), format!("{tenant}/retry-failed")] {
        let late = test.with_headers(Method::POST, &path, &[("if-match", "\"999\"")], "{}").await;
        assert_eq!(late.status, 412, "{path}: {late:?}");
    }
}

#[tokio::test]
async fn who_has_it_already_is_not_told_again() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let clusters = "/brands/first/clusters".to_owned();
    for path in [format!("/zones/{}", ids.zone), "/brands/first".to_owned(), clusters] {
        let tag = test.tag(&path).await;
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let answer = test.with_headers(Method::GET, &path, &[("if-none-match", &known)], "").await;
            assert_eq!(
                (answer.status, answer.body, answer.headers["etag"].to_str().unwrap()),
                (304, json!(""), tag.as_str())
            );
        }
        let answer = test.with_headers(Method::GET, &path, &[("if-none-match", "\"x\"")], "").await;
        assert_eq!(answer.status, 200);
    }
    // What changes without a change of the spec is told: a status that moved on.
    let path = format!("/tenants/{}", ids.tenant);
    test.fleet.set(|fleet| fleet.away.push("edge-1".into()));
    test.post(&format!("{path}/suspend"), json!({"reason": "x"})).await.ok(202);
    let tag = test.tag(&path).await;
    test.fleet.set(|fleet| fleet.away.clear());
    test.until(&path, |answer| answer.headers["etag"].to_str().unwrap() != tag).await;
    let answer = test.with_headers(Method::GET, &path, &[("if-none-match", &tag)], "").await;
    assert_eq!(answer.status, 200);
    let changed =
        test.with_headers(Method::PUT, &path, &[("if-match", &tag)], "{\"customer_id\": \"y\"}").await;
    assert_eq!(changed.status, 202, "a status alone does not refuse a change: {changed:?}");
}

#[tokio::test]
async fn methods_are_as_they_should_be() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/zones/{}", ids.zone);
    let head = test.call(Method::HEAD, &path, Some(&test.admin), None).await;
    assert_eq!((head.status, head.body), (200, json!("")));
    assert_eq!(head.headers["etag"].to_str().unwrap(), test.tag(&path).await);
    for method in [Method::TRACE, Method::POST] {
        let wrong = test.with_headers(method, &path, &[("x-http-method-override", "DELETE")], "{}").await;
        assert_eq!(wrong.status, 405);
        assert_eq!(wrong.headers["allow"], "DELETE, GET, HEAD, OPTIONS, PATCH, PUT");
    }
    let options = test.call(Method::OPTIONS, &path, None, None).await;
    assert_eq!(
        (options.status, options.headers["allow"].to_str().unwrap()),
        (204, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT")
    );
    let partly = test.call(Method::OPTIONS, &format!("/tenants/{}/logs", ids.tenant), None, None).await;
    assert_eq!(partly.headers["allow"], "DELETE, GET, HEAD, OPTIONS");
    assert_eq!(test.get("/zones/").await.status, 404);
}

#[tokio::test]
async fn what_was_made_has_its_place() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let place =
        |answer: &Answer| answer.headers.get("location").map(|value| value.to_str().unwrap().to_owned());
    let made = test.post("/regions", json!({"name": "south"})).await;
    assert_eq!((made.status, place(&made)), (201, Some(format!("/api/v1/regions/{}", made.id()))));
    let records = format!("/zones/{}/records", ids.zone);
    let made = test.post(&records, json!({"type": "A", "name": "l", "content": "192.0.2.1"})).await;
    let path = format!("/zone-records/{}", made.id());
    assert_eq!((made.status, place(&made)), (202, Some(format!("/api/v1{path}"))));
    let changed = test.put(&path, json!({"ttl": 60})).await;
    assert_eq!((changed.status, place(&changed)), (202, Some(format!("/api/v1{path}"))));
    let off = test.post(&format!("/tenants/{}/suspend", ids.tenant), json!({})).await;
    assert_eq!((off.status, place(&off)), (202, Some(format!("/api/v1/tenants/{}", ids.tenant))));
    let read = test.get(&path).await;
    assert_eq!((read.status, place(&read)), (200, None));
    let deleted = test.delete(&path).await;
    assert_eq!((deleted.status, place(&deleted)), (202, Some(format!("/api/v1{path}"))));
}

#[tokio::test]
async fn bodies_are_json_that_says_one_thing() {
    let test = TestApi::empty().await;
    let post = async |headers: &[(&str, &str)], body: &str| {
        test.with_headers(Method::POST, "/regions", headers, body).await
    };
    let twice = post(&[], r#"{"name": "a", "name": "b"}"#).await;
    assert_eq!(twice.status, 400);
    assert!(twice.error().contains("\"name\" is given twice"), "{}", twice.error());
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"] {
        let refused = post(&[("content-type", kind)], r#"{"name": "a"}"#).await;
        assert_eq!(refused.status, 415, "{kind}");
        assert!(refused.error().contains("Content-Type: application/json"), "{}", refused.error());
    }
    assert_eq!(post(&[("content-encoding", "gzip")], r#"{"name": "a"}"#).await.status, 415);
    assert_eq!(
        post(&[("content-type", "application/json; charset=UTF-8")], r#"{"name": "a"}"#).await.status,
        201
    );
    assert_eq!(post(&[], r#"{"name": "b"}"#).await.status, 201);
    let long = format!("/regions?search={}", "a".repeat(20_000));
    assert_eq!(test.get(&long).await.status, 414);
}

/// Deep, wide and odd JSON is refused, in little time and without a fault of ours.
#[tokio::test]
async fn json_bombs_do_not_go_off() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let wide: String = (0..5_000).map(|n| format!("\"f{n}\":{n},")).collect();
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for body in [
        nested("[", "]", 20_000),
        nested("{\"a\":", "}", 10_000),
        nested("[{\"webroots\":", "}]", 4_000),
        "[".repeat(60_000),
        format!("{{{wide}\"name\":\"x y\"}}"),
        format!("{{\"name\":{}}}", "9".repeat(50_000)),
        format!("{{\"name\":\"{}\"}}", "\\u0000".repeat(9_000)),
        "{\"name\":1e999}".to_owned(),
        "{\"name\":\"\\ud800\"}".to_owned(),
        "\u{feff}{}".to_owned(),
        format!("{{\"config\":{},\"name\":\"x y\"}}", nested("{\"a\":", "}", 100)),
    ] {
        for path in ["/regions", "/tenants", "/brands"] {
            let answer = test.with_headers(Method::POST, path, &[], &body).await;
            assert_eq!(answer.status, 400, "{path}: {}", &body[..body.len().min(60)]);
            assert!(answer.error().len() < 2_000, "{} bytes", answer.error().len());
        }
    }
    assert_eq!(test.get("/regions").await.status, 200);
}

#[tokio::test]
async fn odd_ids_are_nothing() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let long = "a".repeat(1_000);
    let odd = [
        "%00",
        "a%00b",
        "..",
        "%2e%2e%2f",
        "%2F",
        "a%2Fb",
        "%ff",
        "'",
        "%22",
        "%25",
        "*",
        "first%20",
        "FIRST",
        "-",
        "null",
        "0",
        "-1",
        "%F0%9F%92%A9",
        "a%0Ab",
        "{id}",
        ";",
        "first;x=1",
        long.as_str(),
    ];
    for id in odd {
        for path in ["brands", "tenants", "zones", "zone-records", "webroots", "fqdns", "nodes", "api-keys"] {
            let path = format!("/{path}/{id}");
            for method in [Method::GET, Method::PUT, Method::DELETE] {
                let answer = test.call(method.clone(), &path, Some(&test.admin), Some(json!({}))).await;
                assert!(matches!(answer.status, 400 | 404 | 405), "{method} {path}: {answer:?}");
            }
        }
        let made = test.post("/brands", json!({"id": id, "name": id})).await;
        assert_eq!(made.status, 400, "{id}: {made:?}");
    }
    // An id is one thing's, whatever its kind; a subscription's is one thing's in its brand.
    let nodes = format!("/clusters/{}/nodes", test.cluster);
    for id in ["first", "web-1", ids.tenant.as_str(), ids.zone.as_str()] {
        let brand = json!({
            "id": id, "name": format!("again {id}"), "base_hostname": "again.example", "primary_ns": "ns1.again.example",
            "secondary_ns": "ns2.again.example", "hostmaster_email": "h@again.example",
        });
        let node = json!({"id": id, "hostname": "again", "roles": ["web"]});
        for (path, body) in [("/brands", brand), (&nodes, node)] {
            let doubled = test.post(path, body).await;
            assert_eq!(doubled.status, 409, "{path} {id}: {doubled:?}");
        }
    }
    let doubled = json!({"id": ids.subscription, "name": "again"});
    assert_eq!(test.post(&format!("/tenants/{}/subscriptions", ids.tenant), doubled).await.status, 409);
    assert_eq!(test.get("/brands/first").await.status, 200);
    assert_eq!(test.get(&format!("/zones/{}", ids.zone.to_uppercase())).await.status, 404);
}

/// Of eight who ask for one name at once, one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_one_name_one_gets_it() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let tenant = format!("/tenants/{}", ids.tenant);
    let zone = json!({"name": "wanted.example", "tenant_id": ids.tenant, "region_id": test.region, "subscription_id": ids.subscription});
    let records = format!("/zones/{}/records", ids.zone);
    for (path, body, success) in [
        ("/regions".to_owned(), json!({"name": "wanted"}), 201),
        ("/zones".to_owned(), zone, 202),
        (format!("{tenant}/fqdns"), json!({"fqdn": "wanted.first-zone.example"}), 202),
        (format!("{tenant}/subscriptions"), json!({"id": "wanted", "name": "wanted"}), 201),
        (records, json!({"type": "CNAME", "name": "wanted", "content": "a.example"}), 202),
    ] {
        let asked = (0..8).map(|_| test.post(&path, body.clone()));
        let mut codes: Vec<u16> =
            futures::future::join_all(asked).await.iter().map(|answer| answer.status).collect();
        codes.sort_unstable();
        assert_eq!(codes, [vec![success], vec![409; 7]].concat(), "{path}");
    }
    // And one change of a generation is the only one.
    let path = format!("/zone-records/{}", ids.record);
    let tag = test.tag(&path).await;
    let bodies: Vec<String> = (0..8).map(|n| json!({"ttl": 100 + n}).to_string()).collect();
    let headers = [("if-match", tag.as_str())];
    let asked = bodies.iter().map(|body| test.with_headers(Method::PUT, &path, &headers, body));
    let mut codes: Vec<u16> =
        futures::future::join_all(asked).await.iter().map(|answer| answer.status).collect();
    codes.sort_unstable();
    assert_eq!(codes, [vec![202], vec![412; 7]].concat());
}
