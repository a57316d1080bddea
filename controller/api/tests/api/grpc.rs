//! The intent API over gRPC: the same answers as over REST, by a client that is generated from the published package.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request as HttpRequest, Response as HttpResponse};
use futures::StreamExt;
use hosting_proto::intent_api::intents_client::IntentsClient;
use hosting_proto::intent_api::{
    ApplyMode, ApplyRequest, BulkItem, BulkOperation, BulkRequest, Change, DeleteRequest, GetRequest,
    IdOrItem, ListRequest, Order, Outcome, PlanRequest, Resource, ResourceEvent, Wait, WaitFor, WatchRequest,
    WatchResponse, id_or_item, plan_request, watch_response::Happened,
};
use hosting_resource::Kind;
use serde_json::{Value, json};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use crate::harness::{Answer, TestApi, example, id_of};

pub(crate) type Wire = BoxCloneService<HttpRequest<tonic::body::Body>, HttpResponse<Body>, Infallible>;

/// The router as a client's channel, without a socket.
fn wire(router: &Router) -> Wire {
    let router = router.clone();
    let call = move |request: HttpRequest<tonic::body::Body>| router.clone().oneshot(request.map(Body::new));
    BoxCloneService::new(tower::service_fn(call))
}

pub(crate) fn client(test: &TestApi) -> IntentsClient<Wire> {
    IntentsClient::new(wire(&test.router))
}

pub(crate) fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

pub(crate) fn by<T>(key: &str, message: T) -> Request<T> {
    with(message, &[("x-api-key", key)])
}

pub(crate) fn create(kind: &str, parent: &str, body: &Value) -> ApplyRequest {
    ApplyRequest {
        mode: ApplyMode::Create.into(),
        kind: kind.into(),
        parent_id: parent.into(),
        body_json: body.to_string(),
        ..ApplyRequest::default()
    }
}

fn change(mode: ApplyMode, kind: &str, id: &str, body: &Value) -> ApplyRequest {
    ApplyRequest {
        mode: mode.into(),
        kind: kind.into(),
        id: id.into(),
        body_json: body.to_string(),
        ..ApplyRequest::default()
    }
}

pub(crate) fn ready() -> Option<Wait> {
    Some(Wait { until: WaitFor::Ready.into(), timeout_seconds: 20 })
}

pub(crate) fn txt(name: &str) -> Value {
    json!({"type": "TXT", "name": name, "content": "over gRPC"})
}

fn body_of(resource: &Resource) -> Value {
    serde_json::from_str(&resource.body_json).unwrap()
}

/// A status says what the REST API's answer says.
fn assert_same(status: &Status, alone: &Answer, what: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{what}: {status:?}"));
    assert_eq!(info.metadata["http_status"], alone.status.to_string(), "{what}: {status:?} {alone:?}");
    assert_eq!(status.message(), alone.error(), "{what}");
    assert_eq!(info.metadata["type"], alone.body["type"], "{what}");
    let fields = |list: &Value| list.as_array().map_or(0, Vec::len);
    let violations = details.bad_request().map_or(0, |bad| bad.field_violations.len());
    assert_eq!(violations, fields(&alone.body["errors"]), "{what}: {status:?}");
    assert!(!details.request_info().unwrap().request_id.is_empty());
}

pub(crate) async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
    next.unwrap().map(|message| message.unwrap())
}

/// The next event, past what shows that the stream stands.
pub(crate) async fn next_event(stream: &mut Streaming<WatchResponse>) -> (u64, ResourceEvent) {
    loop {
        let message = next(stream).await.unwrap();
        if let Some(Happened::Event(event)) = message.happened {
            return (message.resume_from, event);
        }
    }
}

/// Over a socket, with everything that a program of an operator's does.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_makes_a_site_and_watches_it_become_active() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = hosting_scaffold::http::HttpLimits::default();
    tokio::spawn(hosting_scaffold::http::serve(
        listener,
        test.router.clone(),
        limits,
        None,
        test.stop.clone(),
    ));
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut intents = IntentsClient::new(channel.clone());
    let key = test.admin.as_str();

    let mut apply = async |request: ApplyRequest| intents.apply(by(key, request)).await.unwrap().into_inner();
    let tenant = apply(create("tenant", "", &test.tenant_body("acme"))).await.resource.unwrap();
    assert_eq!((tenant.kind.as_str(), tenant.generation), ("tenant", 1));
    let mut intents = IntentsClient::new(channel.clone());
    let watch = WatchRequest { tenant_id: tenant.id.clone(), ..WatchRequest::default() };
    let mut events = intents.watch(by(key, watch)).await.unwrap().into_inner();
    assert!(matches!(next(&mut events).await.unwrap().happened, Some(Happened::Alive(_))));
    let mut apply = async |request: ApplyRequest| intents.apply(by(key, request)).await.unwrap().into_inner();
    let subscription = json!({"id": "sub-grpc", "name": "s"});
    apply(create("subscription", &tenant.id, &subscription)).await;
    let site = json!({"subscription_id": "sub-grpc", "runtime": "static", "runtime_version": "1"});
    let webroot = apply(create("webroot", &tenant.id, &site)).await.resource.unwrap();
    let name = json!({"fqdn": "www.grpc.example", "webroot_id": webroot.id});
    let fqdn = apply(create("fqdn", &tenant.id, &name)).await.resource.unwrap();
    assert_eq!(
        (fqdn.status.as_str(), body_of(&fqdn)["fqdn"].as_str()),
        ("pending", Some("www.grpc.example"))
    );
    let mut seen = BTreeMap::new();
    let is_active =
        |seen: &BTreeMap<String, String>, kind: &str| seen.get(kind).is_some_and(|is| is == "active");
    while !is_active(&seen, "fqdn") || !is_active(&seen, "webroot") {
        let (_, event) = next_event(&mut events).await;
        assert_eq!((event.tenant_id.as_str(), event.brand_id.as_str()), (tenant.id.as_str(), "acme"));
        seen.insert(event.kind, event.status);
    }

    let mut intents = IntentsClient::new(channel.clone());
    let get = GetRequest { kind: "fqdn".into(), id: fqdn.id.clone(), fields: Vec::new() };
    let shown = intents.get(by(key, get.clone())).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(shown.status, "active");
    assert!(!shown.etag.is_empty() && body_of(&shown)["conditions"].is_array());
    let plan = PlanRequest {
        change: Some(plan_request::Change::Delete(DeleteRequest {
            kind: "tenant".into(),
            id: tenant.id.clone(),
            ..DeleteRequest::default()
        })),
    };
    let plan = intents.plan(by(key, plan)).await.unwrap().into_inner();
    assert!(plan.destroyed_total >= 2 && plan.names_total >= 1, "{plan:?}");
    assert_eq!(serde_json::from_str::<Value>(&plan.plan_json).unwrap()["dry_run"], true);
    let delete = DeleteRequest {
        kind: "tenant".into(),
        id: tenant.id.clone(),
        wait: ready(),
        ..DeleteRequest::default()
    };
    let deleted = intents.delete(by(key, delete)).await.unwrap().into_inner();
    assert_eq!(deleted.settlement.unwrap().outcome(), Outcome::Ready);
    while !matches!(next_event(&mut events).await.1, event if event.kind == "tenant" && event.change() == Change::Deleted)
    {
    }
    let gone = intents.get(by(key, get)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    // What is served here is told by reflection and by the health service.
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let ask = |message_request| tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let asked = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("hosting.intent_api.v1.Intents.Apply".into())),
    ];
    let answers = reflection.server_reflection_info(by(key, tokio_stream(asked))).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
    let [MessageResponse::ListServicesResponse(list), MessageResponse::FileDescriptorResponse(file)] =
        answers.as_slice()
    else {
        panic!("{answers:?}")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["hosting.intent_api.v1.Intents", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(file.file_descriptor_proto.len(), 1);
    let nobody =
        reflection.server_reflection_info(tokio_stream([ask(MessageRequest::ListServices(String::new()))]));
    assert_eq!(nobody.await.unwrap_err().code(), Code::Unauthenticated);
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let check = |service: &str| tonic_health::pb::HealthCheckRequest { service: service.into() };
    for service in ["", "hosting.intent_api.v1.Intents"] {
        let state = health.check(check(service)).await.unwrap().into_inner().status();
        assert_eq!(state, tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    assert_eq!(health.check(check("frob")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(health.watch(check("")).await.unwrap_err().code(), Code::Unauthenticated);
    let mut states = health.watch(by(key, check(""))).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().status, 1);
    test.stop.cancel();
    assert_eq!(states.message().await.unwrap().unwrap().status, 2, "it says that it stops");
    let stopped = loop {
        match next(&mut events).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(stopped.code(), Code::Unavailable, "{stopped:?}");
}

fn tokio_stream<T: Send + 'static, const N: usize>(
    items: [T; N],
) -> futures::stream::Iter<std::array::IntoIter<T, N>> {
    futures::stream::iter(items)
}

/// The matrix of callers: for each kind and call, whoever may not is refused as over REST, and so are items of a bulk and plans.
#[tokio::test]
async fn callers_are_refused_as_over_rest() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    test.brand("theirs").await;
    let (_, foreign) = test.key(&["*:*"], &["theirs"]).await;
    let (_, narrow) = test.key(&["bulk:write", "audit_logs:read"], &["*"]).await;
    test.gatekeeper.0.abort();
    // What was under way in the writer is done when this is.
    test.put("/brands/theirs", json!({"name": "theirs"})).await.ok(200);
    let head = test.store.read().await.unwrap().head();
    let mut intents = client(&test);
    let mut tried = 0;
    for kind in Kind::ALL.iter().copied() {
        let info = kind.info();
        let name = kind.name();
        let id = id_of(&test, &ours, kind);
        let parent = info.parent.map(|parent| id_of(&test, &ours, parent.kind)).unwrap_or_default();
        let mut body = example(&test, &ours, kind);
        if kind == Kind::Brand {
            body["id"] = json!("a-new-brand");
        }
        let of = |path: &str, id: &str| {
            let (begin, rest) = path.split_once('{').unwrap_or((path, ""));
            rest.split_once('}').map_or_else(|| path.to_owned(), |(_, rest)| format!("{begin}{id}{rest}"))
        };
        let (collection, item) = (of(info.collection, &parent), of(info.item, &id));
        for key in [None, Some("hst_unknown"), Some(foreign.as_str()), Some(narrow.as_str())] {
            let metadata: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
            let empty = json!({});
            let applied = [
                (Method::POST, &collection, create(name, &parent, &body), Some(&body)),
                (Method::PUT, &item, change(ApplyMode::Replace, name, &id, &empty), Some(&empty)),
                (Method::PATCH, &item, change(ApplyMode::Patch, name, &id, &empty), Some(&empty)),
            ];
            for (method, path, request, body) in applied {
                let what = format!("{method} {path} {key:?}");
                let alone = test.call(method, path, key, body.cloned()).await;
                let status = intents.apply(with(request.clone(), &metadata)).await.unwrap_err();
                if alone.status == 405 {
                    let is_stranger = key.is_none_or(|key| key == "hst_unknown");
                    let wanted = if is_stranger { Code::Unauthenticated } else { Code::Unimplemented };
                    assert_eq!(status.code(), wanted, "{what}: {status:?}");
                    continue;
                }
                assert_same(&status, &alone, &what);
                let change = Some(plan_request::Change::Apply(request));
                let planned = intents.plan(with(PlanRequest { change }, &metadata)).await.unwrap_err();
                assert_same(&planned, &alone, &what);
                tried += 1;
            }
            let delete = DeleteRequest { kind: name.into(), id: id.clone(), ..DeleteRequest::default() };
            let alone = test.call(Method::DELETE, &item, key, None).await;
            assert_same(&intents.delete(with(delete, &metadata)).await.unwrap_err(), &alone, &item);
            let get = GetRequest { kind: name.into(), id: id.clone(), fields: Vec::new() };
            let alone = test.call(Method::GET, &item, key, None).await;
            assert_same(&intents.get(with(get, &metadata)).await.unwrap_err(), &alone, &item);
            let list = ListRequest { kind: name.into(), parent_id: parent.clone(), ..ListRequest::default() };
            let alone = test.call(Method::GET, &collection, key, None).await;
            match intents.list(with(list, &metadata)).await {
                Ok(page) => {
                    let page = page.into_inner();
                    let ids: Vec<&str> = page.resources.iter().map(|one| one.id.as_str()).collect();
                    assert!(
                        alone.status == 200 && !ids.contains(&id.as_str()),
                        "{collection} {key:?}: {ids:?}"
                    );
                }
                Err(status) => assert_same(&status, &alone, &collection),
            }
            let item = BulkItem {
                operation: BulkOperation::Delete.into(),
                kind: name.into(),
                id: Some(IdOrItem { of: Some(id_or_item::Of::Id(id.clone())) }),
                ..BulkItem::default()
            };
            let many = BulkRequest { items: vec![item.clone()], ..BulkRequest::default() };
            match intents.bulk(with(many, &metadata)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let problem = answer.results[0].problem.as_ref().unwrap();
                    let wanted = if kind == Kind::ApiKey && key == Some(foreign.as_str()) {
                        Code::PermissionDenied
                    } else {
                        Code::from(problem.code)
                    };
                    assert!(matches!(wanted, Code::PermissionDenied | Code::NotFound), "{problem:?}");
                    assert_eq!((answer.done, answer.refused), (0, 1));
                }
                Err(status) => assert_eq!(status.code(), Code::Unauthenticated),
            }
            if key == Some(foreign.as_str()) {
                let all = BulkRequest { items: vec![item], atomic: true, ..BulkRequest::default() };
                let status = intents.bulk(with(all, &metadata)).await.unwrap_err();
                let is_admins = info.tier == hosting_resource::Tier::Admin;
                let wanted = if is_admins { Code::PermissionDenied } else { Code::NotFound };
                assert_eq!(status.code(), wanted, "{name}: {status:?}");
            }
        }
    }
    assert!(tried > 120, "{tried}");
    for (key, code) in [("hst_unknown", Code::Unauthenticated), (narrow.as_str(), Code::PermissionDenied)] {
        let status = intents.watch(by(key, WatchRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    }
    // What a filter or a body refers to is looked at as well.
    let list =
        ListRequest { kind: "webroot".into(), parent_id: ours.tenant.clone(), ..ListRequest::default() };
    assert_eq!(intents.list(by(&foreign, list)).await.unwrap_err().code(), Code::PermissionDenied);
    let moved = create("tenant", "", &test.tenant_body("ours"));
    assert_eq!(intents.apply(by(&foreign, moved)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
    // Who is known and refused has a row, as over REST.
    let (id, known) = test.key(&["*:*"], &["theirs"]).await;
    let request = change(ApplyMode::Patch, "zone", &ours.zone, &json!({}));
    intents.apply(by(&known, request)).await.unwrap_err();
    let row = test.get("/audit-logs?limit=1").await.body["items"][0].clone();
    assert_eq!((&row["api_key_id"], &row["status_code"]), (&json!(id), &json!(403)), "{row}");
    assert_eq!(
        (&row["method"], &row["path"]),
        (&json!("PATCH"), &json!(format!("/api/v1/zones/{}", ours.zone)))
    );
}

#[tokio::test]
async fn pages_follow_each_other_and_filters_are_those_of_the_kind() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let mut intents = client(&test);
    for n in 0..7 {
        intents
            .apply(by(&test.admin, create("zone_record", &ids.zone, &txt(&format!("r{n}")))))
            .await
            .unwrap();
    }
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = ListRequest {
            kind: "zone_record".into(),
            parent_id: ids.zone.clone(),
            page_size: 3,
            page_token: token,
            search: "r".into(),
            filters: BTreeMap::from([("type".to_owned(), "TXT".to_owned())]),
            order: Order::Ascending.into(),
            fields: vec!["name".into(), "content".into()],
            count: true,
            ..ListRequest::default()
        };
        let page = match intents.list(by(&test.admin, list)).await {
            Ok(page) => page.into_inner(),
            Err(status) => panic!("{status:?}"),
        };
        assert!(page.total.is_some() && page.resources.len() <= 3, "{page:?}");
        seen.extend(
            page.resources.iter().map(|one| body_of(one)["name"].as_str().unwrap_or_default().to_owned()),
        );
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let wanted: Vec<String> = (0..7).map(|n| format!("r{n}")).collect();
    assert!(wanted.iter().all(|name| seen.iter().filter(|one| *one == name).count() == 1), "{seen:?}");
    assert!(pages >= 3);
    // The host names of a webroot lie in its tenant, and refer to it.
    let of = |parent_kind: &str, parent_id: &str| ListRequest {
        kind: "fqdn".into(),
        parent_kind: parent_kind.into(),
        parent_id: parent_id.into(),
        ..ListRequest::default()
    };
    for (kind, id) in [("webroot", &ids.webroot), ("tenant", &ids.tenant), ("", &ids.tenant)] {
        let page = intents.list(by(&test.admin, of(kind, id))).await.unwrap().into_inner();
        assert_eq!(page.resources[0].id, ids.fqdn);
    }
    for (request, field) in [
        (of("zone", &ids.zone), "parent_kind"),
        (of("webroot", ""), "parent_id"),
        (ListRequest { order: 77, ..of("", &ids.tenant) }, "order"),
        (ListRequest { page_token: "x".into(), ..of("", &ids.tenant) }, "cursor"),
        (
            ListRequest {
                filters: BTreeMap::from([("frob".to_owned(), "x".to_owned())]),
                ..of("", &ids.tenant)
            },
            "frob",
        ),
        (ListRequest { kind: "frob".into(), ..ListRequest::default() }, "kind"),
    ] {
        let status = intents.list(by(&test.admin, request)).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    }
}

#[tokio::test]
async fn two_who_change_the_same_and_one_who_asks_twice() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let mut intents = client(&test);
    let key = test.admin.clone();
    // A change that is meant for another generation is not made.
    let patch = |if_match: &str, ttl: u32| ApplyRequest {
        if_match: if_match.into(),
        ..change(ApplyMode::Patch, "zone_record", &ids.record, &json!({"ttl": ttl}))
    };
    let get = GetRequest { kind: "zone_record".into(), id: ids.record.clone(), fields: vec!["ttl".into()] };
    let shown = intents.get(by(&key, get.clone())).await.unwrap().into_inner().resource.unwrap();
    let changed = intents.apply(by(&key, patch(&shown.etag, 60))).await.unwrap().into_inner();
    assert_eq!(changed.resource.unwrap().generation, shown.generation + 1);
    assert!(changed.revision > 0 && changed.settlement.is_none() && !changed.replayed);
    let late = intents.apply(by(&key, patch(&shown.etag, 61))).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late:?}");
    assert_eq!(late.get_error_details().error_info().unwrap().reason, "PRECONDITION_FAILED");
    let shown = intents.get(by(&key, get)).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(
        body_of(&shown),
        json!({"id": ids.record, "generation": 2, "status": body_of(&shown)["status"], "ttl": 60})
    );

    // The same key is the same change, over whichever protocol it is asked again.
    let once = |body: &Value| {
        with(
            create("zone_record", &ids.zone, body),
            &[("authorization", &format!("Bearer {key}")), ("idempotency-key", "once")],
        )
    };
    let first = intents.apply(once(&txt("once"))).await.unwrap().into_inner();
    let again = intents.apply(once(&txt("once"))).await.unwrap().into_inner();
    assert!(again.replayed && !first.replayed);
    assert_eq!(
        (again.revision, again.resource.unwrap().id),
        (first.revision, first.resource.clone().unwrap().id)
    );
    let rest = HttpRequest::builder()
        .method(Method::POST)
        .uri(format!("/api/v1/zones/{}/records", ids.zone))
        .header("x-api-key", &key)
        .header("idempotency-key", "once")
        .body(Body::from(txt("once").to_string()));
    let rest = test.send(rest.unwrap()).await;
    assert_eq!(
        (rest.headers["idempotency-replayed"].to_str().unwrap(), rest.id()),
        ("true", first.resource.unwrap().id)
    );
    let other = intents.apply(once(&txt("other"))).await.unwrap_err();
    assert_eq!(other.get_error_details().error_info().unwrap().reason, "IDEMPOTENCY_KEY_REUSED");
    // A name that is taken, a limit that is reached, a kind that is never changed.
    let taken = create("fqdn", &ids.tenant, &json!({"fqdn": ids.fqdn_name}));
    assert_eq!(intents.apply(by(&key, taken)).await.unwrap_err().code(), Code::AlreadyExists);
    test.put(&format!("/tenants/{}", ids.tenant), json!({"limits": {"fqdns": 1}})).await.ok(202);
    let over = create("fqdn", &ids.tenant, &json!({"fqdn": "more.acme-zone.example"}));
    let over = intents.apply(by(&key, over)).await.unwrap_err();
    assert_eq!(over.code(), Code::ResourceExhausted, "{over:?}");
    assert!(over.get_error_details().quota_failure().is_some());
    let wrong = create("zone_record", &ids.zone, &json!({"type": "A", "name": "x", "content": "no address"}));
    let wrong = intents.apply(by(&key, wrong)).await.unwrap_err();
    assert_eq!(wrong.get_error_details().bad_request().unwrap().field_violations[0].field, "content");
    for (body, part) in
        [("{", "invalid JSON"), ("[]", "must be an object"), ("{\"ttl\": 1, \"ttl\": 2}", "given twice")]
    {
        let request = ApplyRequest { body_json: body.into(), ..patch("", 1) };
        let status = intents.apply(by(&key, request)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(part), "{status:?}");
    }
    for (request, field) in [
        (ApplyRequest { mode: 0, ..patch("", 1) }, "mode"),
        (ApplyRequest { id: String::new(), ..patch("", 1) }, "id"),
        (ApplyRequest { parent_id: "x".into(), ..patch("", 1) }, "parent_id"),
        (create("zone_record", "", &txt("x")), "parent_id"),
        (create("tenant", "x", &json!({})), "parent_id"),
        (ApplyRequest { id: "x".into(), ..create("tenant", "", &json!({})) }, "id"),
        (ApplyRequest { wait: Some(Wait { until: 7, timeout_seconds: 0 }), ..patch("", 1) }, "wait.until"),
        (ApplyRequest { if_match: "\u{7f}".into(), ..patch("", 1) }, "if_match"),
    ] {
        let status = intents.apply(by(&key, request)).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    }
}

#[tokio::test]
async fn many_changes_and_their_plan() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("acme").await;
    let mut intents = client(&test);
    let key = test.admin.clone();
    let id = |id: &str| Some(IdOrItem { of: Some(id_or_item::Of::Id(id.into())) });
    let item = |name: &str| Some(IdOrItem { of: Some(id_or_item::Of::Item(name.into())) });
    let made = |name: &str, body: &Value| BulkItem {
        name: name.into(),
        operation: BulkOperation::Create.into(),
        kind: "zone_record".into(),
        parent: id(&ids.zone),
        body_json: body.to_string(),
        ..BulkItem::default()
    };
    let items = vec![
        made("one", &txt("one")),
        made("bad", &json!({"type": "A", "name": "x", "content": "no address"})),
        BulkItem {
            operation: BulkOperation::Patch.into(),
            kind: "zone_record".into(),
            id: item("one"),
            body_json: "{\"ttl\": 60}".into(),
            ..BulkItem::default()
        },
        BulkItem {
            operation: BulkOperation::Delete.into(),
            kind: "zone_record".into(),
            id: item("bad"),
            ..BulkItem::default()
        },
        BulkItem {
            operation: BulkOperation::Create.into(),
            kind: "api_key".into(),
            body_json: json!({"name": "k", "scopes": ["tenants:read"], "brands": ["acme"]}).to_string(),
            ..BulkItem::default()
        },
    ];
    let many = BulkRequest { items: items.clone(), wait: ready(), ..BulkRequest::default() };
    let answer = intents.bulk(by(&key, many)).await.unwrap().into_inner();
    assert_eq!((answer.done, answer.refused), (3, 2), "{answer:?}");
    assert_eq!(answer.settlement.unwrap().outcome(), Outcome::Ready);
    let problems: Vec<Option<&str>> = answer
        .results
        .iter()
        .map(|result| result.problem.as_ref().map(|problem| problem.reason.as_str()))
        .collect();
    assert_eq!(problems, [None, Some("VALIDATION"), None, Some("BAD_REQUEST"), None]);
    let problem = answer.results[1].problem.as_ref().unwrap();
    assert_eq!((problem.code, problem.fields[0].field.as_str()), (Code::InvalidArgument as i32, "content"));
    assert_eq!((&answer.results[2].id, answer.results[2].generation), (&answer.results[0].id, 2));
    assert!(answer.results[4].once["key"].starts_with("hst_"));
    assert_eq!(answer.revision, answer.results[4].revision);
    // All or none.
    let all =
        BulkRequest { items: vec![made("three", &txt("three")), items[1].clone()], atomic: true, wait: None };
    let refused = intents.bulk(by(&key, all.clone())).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().metadata["item"], "1", "{refused:?}");
    let plan = |many: BulkRequest| PlanRequest { change: Some(plan_request::Change::Bulk(many)) };
    let refused = intents.plan(by(&key, plan(all))).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().metadata["item"], "1", "{refused:?}");
    let sound = BulkRequest { items: vec![made("two", &txt("two"))], atomic: true, wait: None };
    let planned = intents.plan(by(&key, plan(sound.clone()))).await.unwrap().into_inner();
    assert!(
        planned.resources_total == 2 && planned.plan_json.contains("two.acme-zone.example"),
        "{planned:?}"
    );
    let once = |many: BulkRequest| with(many, &[("x-api-key", key.as_str()), ("idempotency-key", "all")]);
    let first = intents.bulk(once(sound.clone())).await.unwrap().into_inner();
    let again = intents.bulk(once(sound)).await.unwrap().into_inner();
    assert!(again.replayed && again.results[0].replayed && again.results[0].id == first.results[0].id);
    for (broken, field) in [
        (BulkItem { operation: 0, ..made("x", &txt("x")) }, "items[0].operation"),
        (
            BulkItem { body_json: "{}, {\"op\": \"delete\"}".into(), ..made("x", &txt("x")) },
            "items[0].body_json",
        ),
    ] {
        let many = BulkRequest { items: vec![broken], ..BulkRequest::default() };
        let status = intents.bulk(by(&key, many)).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    }
    let none = intents.plan(by(&key, PlanRequest { change: None })).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
}
