//! How often a key may ask, and a network try keys.

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_api::{ApiConfig, Rate, RateLimits};
use hosting_scaffold::http::ClientAddress;
use serde_json::json;

use crate::harness::{Answer, TestApi};

async fn limited(limits: RateLimits) -> TestApi {
    TestApi::behaving(ApiConfig { rate_limits: limits, ..ApiConfig::default() }).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_str().unwrap()
}

#[tokio::test]
async fn every_answer_to_a_key_says_how_it_stands() {
    let rate = Rate { per_second: 10, burst: 100 };
    let test =
        limited(RateLimits { reads: rate, writes: Rate { burst: 50, ..rate }, ..RateLimits::default() })
            .await;
    let (_, narrow) = test.key(&["tenants:read"], &["*"]).await;
    let key = Some(narrow.as_str());
    let mut left = 100;
    for (method, path, status) in [
        (Method::GET, "/tenants", 200),
        (Method::HEAD, "/tenants", 200),
        (Method::GET, "/zones", 403),
        (Method::GET, "/tenants/none", 404),
        (Method::GET, "/tenants?limit=x", 400),
        (Method::GET, "/logs", 501),
    ] {
        let answer = test.call(method, path, key, None).await;
        left -= 1;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(header(&answer, "ratelimit-policy"), "\"reads\";q=100;w=10");
        assert_eq!(header(&answer, "ratelimit"), format!("\"reads\";r={left};t=1"), "{path}");
    }
    let write = test.call(Method::POST, "/regions", key, Some(json!({"name": "a"}))).await;
    assert_eq!((write.status, header(&write, "ratelimit")), (403, "\"writes\";r=49;t=1"));
    for key in [None, Some("hst_unknown-key")] {
        let stranger = test.call(Method::GET, "/tenants", key, None).await;
        assert_eq!((stranger.status, stranger.headers.get("ratelimit")), (401, None));
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let writes = Rate { per_second: 1, burst: 3 };
    let test = limited(RateLimits { writes, ..RateLimits::default() }).await;
    let (_, other) = test.key(&["regions:write"], &["*"]).await;
    let regions = async |key: &str, name: &str| {
        test.call(Method::POST, "/regions", Some(key), Some(json!({"name": name}))).await
    };
    // The other key's making was one.
    assert_eq!((regions(&test.admin, "a").await.status, regions(&test.admin, "b").await.status), (201, 201));
    let refused = regions(&test.admin, "c").await;
    assert_eq!((refused.status, header(&refused, "retry-after")), (429, "1"), "{refused:?}");
    assert_eq!(header(&refused, "ratelimit"), "\"writes\";r=0;t=3");
    assert_eq!(refused.body["type"], "/docs#problem-rate-limited");
    assert_eq!(regions(&other, "c").await.status, 201, "another key has a bucket of its own");
    let read = test.get("/audit-logs").await.ok(200);
    let rows = read["items"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["status_code"] != 429), "it was not carried out: {rows:?}");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    assert_eq!(regions(&test.admin, "d").await.status, 201);
}

#[tokio::test]
async fn a_network_that_guesses_is_refused_and_known_keys_are_not() {
    let guesses = Rate { per_second: 1, burst: 5 };
    let test = limited(RateLimits { guesses, ..RateLimits::default() }).await;
    let (_, late) = test.key(&["regions:read"], &["*"]).await;
    let ask = async |key: &str, from: &str| {
        let mut request = Request::builder().uri("/api/v1/regions").header("x-api-key", key);
        request.extensions_mut().unwrap().insert(ClientAddress(from.parse().unwrap()));
        test.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(ask(&test.admin, "192.0.2.1").await.status, 200);
    let mut tried = 0;
    while ask(&format!("hst_guess{tried}"), "192.0.2.1").await.status == 401 {
        tried += 1;
        assert!(tried < 50, "nobody stops it");
    }
    assert!(tried >= 5, "{tried}");
    assert_eq!(ask(&late, "192.0.2.1").await.status, 429, "a guess that is right is not told apart");
    assert_eq!(ask(&test.admin, "192.0.2.1").await.status, 200, "a key that opened before goes on");
    assert_eq!(ask(&late, "192.0.2.2").await.status, 200);
}
