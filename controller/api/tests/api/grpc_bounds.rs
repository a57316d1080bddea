//! The intent API over gRPC: streams, deadlines, bounds and what calls cost.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request as HttpRequest, Response as HttpResponse};
use futures::StreamExt;
use hosting_api::{ApiConfig, Rate, RateLimits};
use hosting_proto::intent_api::watch_response::Happened;
use hosting_proto::intent_api::{ApplyRequest, Change, GetRequest, Outcome, Wait, WaitFor, WatchRequest};
use hosting_store::{ReadMeter, StoreConfig};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;
use tower::ServiceExt;

use crate::grpc::{by, client, create, next, next_event, ready, txt, with};
use crate::harness::{Ids, TestApi};

/// A watcher hears of what is its own, goes on where it was, and is told when that is not possible.
#[tokio::test]
async fn events_are_told_to_those_whose_they_are() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    test.gatekeeper.0.abort();
    let (_, foreign) = test.key(&["*:*"], &["theirs"]).await;
    let mut intents = client(&test);
    let only = |kinds: &[&str], since: Option<u64>| WatchRequest {
        since_revision: since,
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..WatchRequest::default()
    };
    let mut all = intents.watch(by(&test.admin, only(&["zone_record"], None))).await.unwrap().into_inner();
    let mut own = intents.watch(by(&foreign, only(&[], None))).await.unwrap().into_inner();
    let begun = next(&mut all).await.unwrap().resume_from;
    assert!(begun > 0 && matches!(next(&mut own).await.unwrap().happened, Some(Happened::Alive(_))));
    let mut made = Vec::new();
    for ids in [&ours, &theirs] {
        let record = create("zone_record", &ids.zone, &txt("watched"));
        made.push(intents.apply(by(&test.admin, record)).await.unwrap().into_inner());
    }
    let (from, first) = next_event(&mut all).await;
    assert_eq!(
        (first.id.as_str(), first.change()),
        (made[0].resource.as_ref().unwrap().id.as_str(), Change::Created)
    );
    assert_eq!((first.brand_id.as_str(), first.revision), ("ours", made[0].revision));
    // Another brand's are not heard.
    loop {
        let (_, event) = next_event(&mut own).await;
        assert_eq!(event.brand_id, "theirs", "{event:?}");
        if event.id == made[1].resource.as_ref().unwrap().id {
            break;
        }
    }
    // It goes on behind what it had.
    assert_eq!(from, made[0].revision);
    let mut on =
        intents.watch(by(&test.admin, only(&["zone_record"], Some(from)))).await.unwrap().into_inner();
    let (_, second) = next_event(&mut on).await;
    assert_eq!(second.id, made[1].resource.as_ref().unwrap().id);
    let mut new = intents.watch(by(&test.admin, only(&[], Some(u64::MAX >> 8)))).await.unwrap().into_inner();
    let reset = next(&mut new).await.unwrap();
    assert!(matches!(reset.happened, Some(Happened::Reset(_))) && reset.resume_from > 0, "{reset:?}");
    // The deadline of the call is its end.
    let mut brief = by(&test.admin, only(&["brand"], None));
    brief.set_timeout(Duration::from_millis(300));
    let mut brief = intents.watch(brief).await.unwrap().into_inner();
    next(&mut brief).await.unwrap();
    assert_eq!(next(&mut brief).await.unwrap_err().code(), Code::DeadlineExceeded);
    for (request, code) in
        [(only(&["frob"], None), Code::InvalidArgument), (only(&["region"], None), Code::PermissionDenied)]
    {
        assert_eq!(intents.watch(by(&foreign, request)).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_key_that_was_revoked_hears_nothing_more() {
    let behaviour = ApiConfig { heartbeat: Duration::from_millis(50), ..ApiConfig::default() };
    let test = TestApi::behaving(behaviour).await;
    let (id, key) = test.key(&["*:*"], &["*"]).await;
    let mut stream = client(&test).watch(by(&key, WatchRequest::default())).await.unwrap().into_inner();
    next(&mut stream).await.unwrap();
    test.delete(&format!("/api-keys/{id}")).await.ok(204);
    let ended = loop {
        match next(&mut stream).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
}

#[tokio::test]
async fn what_comes_in_is_bounded_and_strangers_are_not_listened_to() {
    let limits = RateLimits { reads: Rate { per_second: 1, burst: 3 }, ..RateLimits::default() };
    let test = TestApi::behaving(ApiConfig { rate_limits: limits, ..ApiConfig::default() }).await;
    let mut intents = client(&test);
    // More than the REST API takes, and more than the gate reads.
    for bytes in [70_000, 400_000] {
        let large = create("region", "", &json!({"name": "x".repeat(bytes)}));
        let status = intents.apply(by(&test.admin, large)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bytes}: {status:?}");
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "TOO_LARGE", "{bytes}");
    }
    let send = async |key: Option<&str>, kind: &str, body: Body| {
        let mut request = HttpRequest::builder()
            .method(Method::POST)
            .uri("/hosting.intent_api.v1.Intents/Apply")
            .header("content-type", kind);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let sent = test.router.clone().oneshot(request.body(body).unwrap());
        tokio::time::timeout(Duration::from_secs(10), sent).await.expect("it waits for ever").unwrap()
    };
    let silent = || {
        let begun =
            futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(&[0, 0, 0, 0, 9])) });
        Body::from_stream(begun.chain(futures::stream::pending()))
    };
    let code = |response: &HttpResponse<Body>| response.headers()["grpc-status"].to_str().unwrap().to_owned();
    let stranger = send(None, "application/grpc", silent()).await;
    assert_eq!(
        code(&stranger),
        (Code::Unauthenticated as i32).to_string(),
        "before anything of the message came"
    );
    let slow = send(Some(&test.admin), "application/grpc+proto", silent()).await;
    assert_eq!(code(&slow), (Code::DeadlineExceeded as i32).to_string());
    let broken =
        send(Some(&test.admin), "application/grpc", Body::from(vec![0, 0, 0, 0, 3, 255, 255, 255])).await;
    assert_ne!(code(&broken), "0");
    let plain = send(Some(&test.admin), "application/json", Body::from("{}")).await;
    assert_eq!(plain.status(), 415);
    // Each caller has its rate, and is told how it stands.
    let get = GetRequest { kind: "brand".into(), id: "none".into(), fields: Vec::new() };
    let mut codes = Vec::new();
    for _ in 0..5 {
        let status = intents.get(by(&test.admin, get.clone())).await.unwrap_err();
        assert!(
            status
                .metadata()
                .get("ratelimit")
                .is_some_and(|value| value.to_str().unwrap().starts_with("\"reads\"")),
            "{status:?}"
        );
        codes.push(status.code());
    }
    assert!(codes.contains(&Code::NotFound) && codes.contains(&Code::ResourceExhausted), "{codes:?}");
    let status = intents.get(by(&test.admin, get)).await.unwrap_err();
    assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_not_the_change() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    test.fleet.set(|state| {
        state.stuck.insert("dns-1".to_owned(), 0);
    });
    let mut intents = client(&test);
    let ask = |wait: Option<Wait>| {
        let record = ApplyRequest { wait, ..create("zone_record", &ids.zone, &txt("late")) };
        with(
            record,
            &[
                ("x-api-key", test.admin.as_str()),
                ("idempotency-key", "late"),
                ("x-request-id", "my-request"),
            ],
        )
    };
    let mut brief = ask(ready());
    brief.set_timeout(Duration::from_millis(700));
    let status = intents.apply(brief).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let again =
        intents.apply(ask(Some(Wait { until: WaitFor::Ready.into(), timeout_seconds: 1 }))).await.unwrap();
    assert_eq!(again.metadata().get("x-request-id").unwrap(), "my-request");
    assert!(again.metadata().get("traceparent").is_some());
    let again = again.into_inner();
    assert!(again.replayed, "the change was made by the call that ended");
    let settlement = again.settlement.unwrap();
    assert_eq!((settlement.outcome(), settlement.lagging), (Outcome::Late, vec!["dns-1".to_owned()]));
}

/// A call costs the statements of the request that says the same, and no more.
#[tokio::test]
async fn a_call_costs_no_more_statements_than_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let meter = ReadMeter::default();
    let config =
        StoreConfig { meter: Some(meter.clone()), ..StoreConfig::new(folder.path().join("store.db")) };
    let test = TestApi::on(config, folder).await.equipped().await;
    let ids: Ids = test.brand("acme").await;
    test.until(&format!("/webroots/{}", ids.webroot), |answer| answer.body["status"] == "active").await;
    test.gatekeeper.0.abort();
    test.get(&format!("/zones/{}/records", ids.zone)).await.ok(200);
    let mut intents = client(&test);
    let cost = |before: u64| (test.store.stats().statements - before, meter.take().statements);
    let begin = || {
        let _ = meter.take();
        test.store.stats().statements
    };
    // The first one of each may find less in memory.
    for round in 0..2 {
        let before = begin();
        test.post(&format!("/zones/{}/records", ids.zone), txt(&format!("rest{round}"))).await.ok(202);
        let rest = cost(before);
        let before = begin();
        intents
            .apply(by(&test.admin, create("zone_record", &ids.zone, &txt(&format!("grpc{round}")))))
            .await
            .unwrap();
        let grpc = cost(before);
        let before = begin();
        test.get(&format!("/zone-records/{}", ids.record)).await.ok(200);
        let read = cost(before);
        let before = begin();
        let get = GetRequest { kind: "zone_record".into(), id: ids.record.clone(), fields: Vec::new() };
        intents.get(by(&test.admin, get)).await.unwrap();
        let read_over_grpc = cost(before);
        println!("create: {rest:?} over REST, {grpc:?} over gRPC; get: {read:?}, {read_over_grpc:?}");
        if round == 1 {
            assert!(grpc.0 <= rest.0 && grpc.1 <= rest.1, "{rest:?} {grpc:?}");
            assert!(read_over_grpc <= read, "{read:?} {read_over_grpc:?}");
        }
    }
}

/// Of a key's large messages one is read at a time, and small ones do not wait for them.
#[tokio::test]
async fn a_large_message_is_read_in_its_turn() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let send = async |rpc: &str, body: Body| {
        let request = HttpRequest::builder()
            .method(Method::POST)
            .uri(format!("/hosting.intent_api.v1.Intents/{rpc}"))
            .header("content-type", "application/grpc")
            .header("x-api-key", &test.admin);
        let response = test.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
    };
    let message = |request: &hosting_proto::intent_api::BulkRequest| {
        let bytes = prost::Message::encode_to_vec(request);
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        ([&[0], length.as_slice()].concat(), bytes)
    };
    let many = |count: usize, from: usize| hosting_proto::intent_api::BulkRequest {
        items: (from..from + count)
            .map(|n| hosting_proto::intent_api::BulkItem {
                operation: 1,
                kind: "zone_record".into(),
                parent: Some(hosting_proto::intent_api::IdOrItem {
                    of: Some(hosting_proto::intent_api::id_or_item::Of::Id(ids.zone.clone())),
                }),
                body_json: txt(&format!("m{n}")).to_string(),
                ..hosting_proto::intent_api::BulkItem::default()
            })
            .collect(),
        ..hosting_proto::intent_api::BulkRequest::default()
    };
    let (prefix, bytes) = message(&many(900, 0));
    assert!(bytes.len() > 64 * 1024);
    let was_asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = std::sync::Arc::clone(&was_asked);
    let begin =
        |prefix: Vec<u8>| futures::stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(prefix)) });
    let is_read = std::sync::Arc::new(tokio::sync::Notify::new());
    let reading = std::sync::Arc::clone(&is_read);
    let silent = begin(prefix.clone()).chain(futures::stream::once(async move {
        reading.notify_one();
        futures::future::pending().await
    }));
    let whole = begin(prefix).chain(futures::stream::once(async move {
        asked.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(Bytes::from(bytes))
    }));
    let first = send("Bulk", Body::from_stream(silent));
    let begun = tokio::sync::Notify::new();
    let second = async {
        is_read.notified().await;
        begun.notify_one();
        send("Bulk", Body::from_stream(whole)).await
    };
    let look = async {
        begun.notified().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (prefix, bytes) = message(&many(1, 1_000));
        let small = send("Bulk", Body::from([prefix, bytes].concat())).await;
        (small.0, was_asked.load(std::sync::atomic::Ordering::SeqCst))
    };
    let ((first, _), (second, answer), (small, early)) = tokio::join!(first, second, look);
    assert_eq!(first.as_deref(), Some("4"), "it did not arrive in time");
    assert_eq!((small, early), (None, false), "a small one goes on, and a large one is not read");
    assert_eq!(second, None);
    let answer = <hosting_proto::intent_api::BulkResponse as prost::Message>::decode(&answer[5..]).unwrap();
    assert_eq!((answer.done, answer.refused), (900, 0));
}
