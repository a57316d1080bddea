//! Jobs through the API: callbacks that changes ask for, lists, cancelling, trying again, waiting.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::post;
use hosting_jobs::kinds::certificate::SharedFleet;
use hosting_jobs::kinds::ownership::OwnershipRules;
use hosting_jobs::kinds::{self, JobDeps};
use hosting_jobs::{JobMetrics, Runner, RunnerConfig};
use hosting_planner::gates::{Exception, ExceptionKind};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Answer, TestApi, callback_rules};

/// What a receiver got.
type Got = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A receiver on this machine that answers with `code`; its URL and what it got.
async fn receiver(code: StatusCode) -> (String, Got) {
    let got: Got = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook/secret?token=secret", listener.local_addr().unwrap());
    let keeps = got.clone();
    let handler = move |headers: HeaderMap, axum::Json(body): axum::Json<Value>| async move {
        keeps.lock().unwrap().push((headers, body));
        code
    };
    tokio::spawn(
        async move { axum::serve(listener, Router::new().route("/hook/secret", post(handler))).await },
    );
    (url, got)
}

/// The runner of jobs.
pub(crate) struct Running(CancellationToken, JoinHandle<Result<(), hosting_store::StoreError>>);

impl Running {
    pub(crate) fn start(test: &TestApi) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let deps = JobDeps {
            audit_head_minutes: 10,
            store: test.store.clone(),
            callbacks: callback_rules(),
            audit_days: 90,
            history_days: 90,
            history_bytes: 1 << 30,
            fleet: SharedFleet(test.fleet.clone()),
            ownership: OwnershipRules::default(),
        };
        let config = RunnerConfig { poll: Duration::from_millis(100), ..RunnerConfig::new() };
        let metrics = JobMetrics::default();
        let runner = Runner::new(test.store.clone(), kinds::all(&deps), test.bell.clone(), config, metrics);
        let stop = CancellationToken::new();
        Self(stop.clone(), tokio::spawn(runner.run(stop)))
    }

    pub(crate) async fn end(self) {
        self.0.cancel();
        self.1.await.unwrap().unwrap();
    }
}

async fn with_callback(test: &TestApi, method: Method, path: &str, body: Value, url: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header("x-api-key", &test.admin)
        .header("x-callback-url", url)
        .body(Body::from(body.to_string()))
        .unwrap();
    test.send(request).await
}

/// The callback jobs about a resource, the newest first.
async fn jobs_about(test: &TestApi, subject: &str) -> Vec<Value> {
    let page = test.get(&format!("/jobs?kind=callback&subject={subject}")).await.ok(200);
    page["items"].as_array().unwrap().clone()
}

/// Defect 2 of the reference: callbacks were taken and never sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_when_its_change_is_complete_and_when_it_is_gone() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let runner = Running::start(&test);
    let (url, got) = receiver(StatusCode::OK).await;
    // The edge takes nothing for now: nobody is told anything.
    let head = test.store.read().await.unwrap().head();
    test.fleet.set(|fleet| {
        fleet.stuck.insert("edge-1".into(), head);
    });
    let body = json!({"fqdn": "shop.first-zone.example", "webroot_id": ids.webroot});
    let made =
        with_callback(&test, Method::POST, &format!("/tenants/{}/fqdns", ids.tenant), body, &url).await;
    let id = made.id();
    assert!(made.body.get("warnings").is_none(), "{made:?}");
    let waiting = jobs_about(&test, &id).await.remove(0);
    let job = waiting["id"].as_str().unwrap().to_owned();
    assert_eq!((waiting["state"].as_str(), waiting["brand_id"].as_str()), (Some("waiting"), Some("first")));
    let shown = test.get(&format!("/jobs/{job}")).await.ok(200);
    assert_eq!(shown["waits_for"], json!([{"resource_id": id}]));
    assert!(shown["params"]["to"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    assert!(!shown.to_string().contains("secret"), "of the URL only its origin is shown: {shown}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(got.lock().unwrap().len(), 0);

    test.fleet.set(|fleet| fleet.stuck.clear());
    assert_eq!(test.get(&format!("/workflows/{job}/await")).await.ok(200), json!({"status": "completed"}));
    let (headers, told) = got.lock().unwrap().remove(0);
    assert_eq!(told, json!({"resource_type": "fqdn", "resource_id": id, "status": "active"}));
    assert_eq!(headers["webhook-id"], job.as_str());
    assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    let done = test.get(&format!("/jobs/{job}")).await.ok(200);
    assert_eq!((&done["state"], &done["steps"][0]["state"]), (&json!("done"), &json!("done")));
    assert_eq!(done["waits_for"], json!([{"resource_id": id, "status": "active"}]));

    with_callback(&test, Method::DELETE, &format!("/fqdns/{id}"), json!({}), &url).await.ok(202);
    let job = jobs_about(&test, &id).await[0]["id"].as_str().unwrap().to_owned();
    test.get(&format!("/workflows/{job}/await")).await.ok(200);
    let (_, told) = got.lock().unwrap().remove(0);
    assert_eq!(told, json!({"resource_type": "fqdn", "resource_id": id, "status": "deleted"}));
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_why_its_change_failed() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let runner = Running::start(&test);
    let (url, got) = receiver(StatusCode::OK).await;
    let name = "bad.first-zone.example";
    let key = hosting_intent::Key::new(hosting_intent::Kind::Route, name);
    let exception =
        Exception { kind: ExceptionKind::Rejected, revision: u64::MAX, reason: "no room".to_owned() };
    test.fleet.set(|fleet| drop(fleet.exceptions.insert(("edge-1".into(), key), exception)));
    let body = json!({"fqdn": name, "webroot_id": ids.webroot});
    let made =
        with_callback(&test, Method::POST, &format!("/tenants/{}/fqdns", ids.tenant), body, &url).await;
    let job = jobs_about(&test, &made.id()).await[0]["id"].as_str().unwrap().to_owned();
    test.get(&format!("/workflows/{job}/await")).await.ok(200);
    let (_, told) = got.lock().unwrap().remove(0);
    assert_eq!(told["status"], "failed");
    assert!(told["status_message"].as_str().unwrap().contains("no room"), "{told}");
    runner.end().await;
}

/// Kinds that no machine applies are complete at once; what goes with its request is gone; an order is complete with its answer.
#[tokio::test(flavor = "multi_thread")]
async fn every_changing_request_may_ask_for_a_callback() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let runner = Running::start(&test);
    let (url, got) = receiver(StatusCode::OK).await;
    let region = with_callback(&test, Method::POST, "/regions", json!({"name": "b"}), &url).await.id();
    with_callback(&test, Method::PUT, &format!("/regions/{region}"), json!({"name": "c"}), &url)
        .await
        .ok(200);
    with_callback(&test, Method::DELETE, &format!("/regions/{region}"), json!({}), &url).await;
    let (key, _) = test.key(&["tenants:read"], &["first"]).await;
    with_callback(&test, Method::DELETE, &format!("/api-keys/{key}"), json!({}), &url).await.ok(204);
    with_callback(&test, Method::POST, "/nodes/web-1/join-tokens", json!({}), &url).await.ok(201);
    let tenant = format!("/tenants/{}", ids.tenant);
    with_callback(&test, Method::POST, &format!("{tenant}/suspend"), json!({}), &url).await.ok(202);
    for subject in [&region, &key, "web-1", &ids.tenant] {
        for job in jobs_about(&test, subject).await {
            test.get(&format!("/workflows/{}/await", job["id"].as_str().unwrap())).await.ok(200);
        }
    }
    let told: Vec<_> = got
        .lock()
        .unwrap()
        .iter()
        .map(|(_, told)| {
            format!("{} {}", told["resource_type"].as_str().unwrap(), told["status"].as_str().unwrap())
        })
        .collect();
    for (what, count) in [
        ("region active", 2),
        ("region deleted", 1),
        ("api_key deleted", 1),
        ("node active", 1),
        ("tenant suspended", 1),
    ] {
        // What was made and deleted at once may be told as deleted each time.
        let found = told.iter().filter(|one| *one == what).count();
        assert!(found == count || what.starts_with("region"), "{what}: {told:?}");
    }
    assert_eq!(told.len(), 6, "{told:?}");
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_callbacks_may_not_go_to_refuse_the_change() {
    let test = TestApi::empty().await;
    let head = test.store.read().await.unwrap().head();
    for (url, why) in [
        ("ftp://crm.example/", "validation error: X-Callback-URL: must begin with https://"),
        (
            "https://u:p@crm.example/",
            "validation error: X-Callback-URL: must have no user name and no password",
        ),
        (
            "https://10.0.0.1/",
            "validation error: X-Callback-URL: goes to an address that callbacks may not go to",
        ),
        (
            "https://[fd00::1]/",
            "validation error: X-Callback-URL: goes to an address that callbacks may not go to",
        ),
        ("nonsense", "validation error: X-Callback-URL: is no URL: relative URL without a base"),
    ] {
        let answer = with_callback(&test, Method::POST, "/regions", json!({"name": "a"}), url).await;
        assert_eq!((answer.status, answer.error()), (400, why), "{url}");
    }
    let own = with_callback(&test, Method::POST, "/callback-secret", json!({}), "https://crm.example/").await;
    assert_eq!(own.status, 400, "{own:?}");
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
    // A read ignores it.
    assert_eq!(with_callback(&test, Method::GET, "/regions", json!({}), "nonsense").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_its_own_secret_anew_and_sees_it_once() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let (_, key) = test.key(&["callbacks:write"], &["first"]).await;
    let made = test.call(Method::POST, "/callback-secret", Some(&key), None).await.ok(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 6 + 44, "{secret}");
    let again = test.call(Method::POST, "/callback-secret", Some(&key), None).await.ok(201);
    assert_ne!(again["secret"], made["secret"]);
    let rows = test.get("/audit-logs").await;
    assert!(!rows.body.to_string().contains(secret));
    assert_eq!(rows.body["items"][0]["path"], "/api/v1/callback-secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_by_page_filtered_cancelled_and_tried_again() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let refused = receiver(StatusCode::GONE).await;
    let runner = Running::start(&test);
    let region = with_callback(&test, Method::POST, "/regions", json!({"name": "b"}), &refused.0).await.id();
    let job = jobs_about(&test, &region).await[0]["id"].as_str().unwrap().to_owned();
    let failed = test.get(&format!("/workflows/{job}/await")).await;
    assert_eq!((failed.status, failed.error()), (500, "failed: the receiver answered 410 Gone"));
    let shown = test.get(&format!("/jobs/{job}")).await.ok(200);
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["steps"][0]["error"], "the receiver answered 410 Gone");
    assert_eq!(shown["api_key_id"], test.get("/audit-logs").await.body["items"][0]["api_key_id"]);

    // Tried again: delivered anew, and refused anew.
    test.post(&format!("/jobs/{job}/retry"), json!({})).await.ok(202);
    test.get(&format!("/workflows/{job}/await")).await;
    assert_eq!(refused.1.lock().unwrap().len(), 2);
    let cancelled = test.post(&format!("/jobs/{job}/cancel"), json!({})).await;
    assert_eq!(
        (cancelled.status, cancelled.error()),
        (409, &*format!("job {job} is failed and cannot be cancelled"))
    );
    runner.end().await;

    // Waiting: cancelled at once, and not a second time.
    for name in ["c", "d", "e"] {
        with_callback(&test, Method::POST, "/regions", json!({"name": name}), &refused.0).await.ok(201);
    }
    let page = test.get("/jobs?kind=callback&state=waiting&limit=2").await.ok(200);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["has_more"]), (2, &json!(true)));
    let next = page["next_cursor"].as_str().unwrap();
    let rest = test.get(&format!("/jobs?kind=callback&state=waiting&cursor={next}")).await.ok(200);
    let all: Vec<&Value> = [&page, &rest]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|job| &job["id"])
        .collect();
    assert_eq!(all.len(), 3, "those that no runner has seen");
    assert_eq!(rest["has_more"], false);
    let waiting = all[0].as_str().unwrap();
    let cancelled = test.post(&format!("/jobs/{waiting}/cancel"), json!({})).await.ok(202);
    assert_eq!(cancelled["state"], "cancelled");
    assert!(cancelled["cancelled_by"].as_str().unwrap().starts_with("api key "));
    assert_eq!(test.post(&format!("/jobs/{waiting}/cancel"), json!({})).await.status, 409);
    let awaited = test.get(&format!("/workflows/{waiting}/await")).await;
    assert_eq!((awaited.status, awaited.error()), (500, "failed: cancelled"));
    let late = test.get(&format!("/workflows/{}/await?wait_timeout=1", all[1].as_str().unwrap())).await;
    assert_eq!((late.status, &late.body["job"]["state"]), (504, &json!("waiting")));

    for (path, status) in [
        ("/jobs/job_none", 404),
        ("/workflows/job_none/await", 404),
        ("/jobs?cursor=x", 400),
        ("/jobs?state=lost", 400),
        ("/jobs?kind=none", 400),
    ] {
        assert_eq!(test.get(path).await.status, status, "{path}");
    }
}
