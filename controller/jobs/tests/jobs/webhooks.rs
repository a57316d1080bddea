//! Events to webhooks: real receivers on this machine, real stores, controllers that end and others that take over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::machine::Backoff;
use hosting_jobs::webhooks::{Deliverer, Patience, WebhookConfig, WebhookMetrics};
use hosting_planner::World;
use hosting_resource::kinds::webhook::{self, Webhook};
use hosting_resource::{Doc, Kind, Resource};
use hosting_store::{Origin, Store, WebhookDelivery, WebhookPosition};
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Bench, pass};

#[derive(Debug, Clone)]
struct Got {
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn id(&self) -> String {
        self.headers["webhook-id"].to_str().unwrap().to_owned()
    }

    fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The name of the region that an event is about.
    fn about(&self) -> String {
        self.value()["data"]["id"].as_str().unwrap_or_default().to_owned()
    }
}

/// Gives the answer to the request of each number, from 0.
type Answers = Arc<dyn Fn(usize) -> BoxFuture<'static, Response> + Send + Sync>;

#[derive(Clone)]
struct Sink {
    got: Arc<Mutex<Vec<Got>>>,
    answers: Answers,
    address: SocketAddr,
}

impl Sink {
    async fn new(answers: impl Fn(usize) -> BoxFuture<'static, Response> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sink = Self { got: Arc::default(), answers: Arc::new(answers), address };
        let router = Router::new().fallback(receive).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        sink
    }

    async fn good() -> Self {
        Self::answering(|_| StatusCode::NO_CONTENT.into_response()).await
    }

    async fn answering(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> Self {
        Self::new(move |number| {
            let answer = answer(number);
            Box::pin(async { answer })
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    async fn until(&self, count: usize) -> Vec<Got> {
        for _ in 0..1_000 {
            if self.got().len() >= count {
                return self.got();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {count} came", self.got().len());
    }
}

async fn receive(State(sink): State<Sink>, headers: HeaderMap, body: Bytes) -> Response {
    let number = {
        let mut got = sink.got.lock().unwrap();
        got.push(Got { headers, body });
        got.len() - 1
    };
    (sink.answers)(number).await
}

fn config() -> WebhookConfig {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rules = CallbackRules {
        plain_http: true,
        networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..CallbackRules::default()
    };
    WebhookConfig {
        patience: Patience {
            backoff: Backoff { first: 20, most: 100 },
            give_up: 72 * 3_600_000,
            attempts: 3,
        },
        poll: Duration::from_millis(50),
        exchange: Duration::from_millis(1_000),
        ..WebhookConfig::new(rules)
    }
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), hosting_store::StoreError>>,
}

impl Running {
    fn of(store: &Store, config: WebhookConfig) -> Self {
        let stop = CancellationToken::new();
        let deliverer = Deliverer::new(store.clone(), config, WebhookMetrics::default());
        Self { task: tokio::spawn(deliverer.run(stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As `kill -9` ends it: nothing it held is given back.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn entropy(bytes: &mut [u8]) {
    rand::fill(bytes);
}

async fn create(store: &Store, kind: Kind, body: Value) -> (Resource, Option<String>) {
    let creation = kind.def().create(None, body.as_object().unwrap(), &mut entropy).unwrap();
    let secret = creation.secrets.get("secret").and_then(Value::as_str).map(str::to_owned);
    let made = store
        .write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::create(tx, creation).await })
        })
        .await
        .unwrap();
    (made.value.into_iter().next().unwrap(), secret)
}

/// A platform's webhook that hears of regions; its id and secret.
async fn hook(store: &Store, url: &str) -> (String, String) {
    let body = json!({"name": "test", "url": url, "kinds": ["region"]});
    let (made, secret) = create(store, Kind::Webhook, body).await;
    (made.id, secret.unwrap())
}

/// Something that happens; its id.
async fn happen(store: &Store, name: &str) -> String {
    create(store, Kind::Region, json!({"name": name})).await.0.id
}

async fn update(store: &Store, id: &str, body: Value) {
    let current = find(store, id).await;
    let update = current.kind.def().update(&current, body.as_object().unwrap()).unwrap();
    store
        .write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::update(tx, current, update).await })
        })
        .await
        .unwrap();
}

async fn find(store: &Store, id: &str) -> Resource {
    store.read().await.unwrap().resource(id).await.unwrap().unwrap()
}

async fn spec(store: &Store, id: &str) -> webhook::WebhookSpec {
    Doc::<Webhook>::read(find(store, id).await).unwrap().spec
}

async fn deliveries(store: &Store, id: &str) -> Vec<WebhookDelivery> {
    store.read().await.unwrap().webhook_deliveries(id, None, 200).await.unwrap().0
}

async fn position(store: &Store, id: &str) -> Option<WebhookPosition> {
    store.read().await.unwrap().webhook_positions(&[id.to_owned()]).await.unwrap().pop()
}

/// Waits until what is stored of a webhook is as said; the clock passes over the delays between attempts.
async fn until(store: &Store, id: &str, done: impl Fn(&WebhookPosition) -> bool) -> WebhookPosition {
    for _ in 0..1_000 {
        if let Some(position) = position(store, id).await
            && done(&position)
        {
            return position;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", position(store, id).await);
}

fn ids(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::id).collect()
}

fn about(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_signed_and_no_others() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let (id, secret) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let mut expected = Vec::new();
    for n in 0..20 {
        expected.push(happen(&bench.store, &format!("r{n}")).await);
        // Of another kind.
        let body = json!({"name": format!("k{n}"), "scopes": ["tenants:read"], "brands": ["*"]});
        create(&bench.store, Kind::ApiKey, body).await;
    }
    let got = sink.until(20).await;
    assert_eq!(about(&got), expected);
    let verifier = Verifier::new(&secret).unwrap();
    let mut revisions = Vec::new();
    for one in &got {
        verifier.verify(&one.body, &one.headers).unwrap();
        assert!(verifier.verify(b"{}", &one.headers).is_err());
        let value = one.value();
        assert_eq!((&value["type"], &value["data"]["kind"]), (&json!("resource.created"), &json!("region")));
        assert!(value["timestamp"].is_string(), "{value}");
        revisions.push(value["data"]["revision"].as_u64().unwrap());
    }
    assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
    let kept = until(&bench.store, &id, |position| position.delivered == 20).await;
    assert_eq!((kept.dropped, kept.failing_since), (0, None));
    let log = deliveries(&bench.store, &id).await;
    assert_eq!(log.len(), 20);
    assert!(log.iter().all(|one| one.status == "delivered" && one.response_status == Some(204)));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_nobody_delivers_comes_later() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    hook(&bench.store, &sink.url()).await;
    let mut expected = vec![happen(&bench.store, "one").await, happen(&bench.store, "two").await];
    let running = Running::of(&bench.store, config());
    sink.until(2).await;
    running.end().await;
    for n in 0..600 {
        expected.push(happen(&bench.store, &format!("later-{n}")).await);
    }
    let running = Running::of(&bench.store, config());
    assert_eq!(about(&sink.until(602).await), expected, "each once, none lost");
    running.end().await;
}

/// The receiver has it, and the controller is killed before it stored so: it comes again, under the same id.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_in_between_loses_nothing() {
    let bench = Bench::new().await;
    let sink = Sink::new(|number| {
        Box::pin(async move {
            if number == 1 {
                tokio::time::sleep(Duration::from_secs(3_600)).await;
            }
            StatusCode::OK.into_response()
        })
    })
    .await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let expected = [happen(&bench.store, "a").await, happen(&bench.store, "b").await];
    sink.until(2).await;
    running.kill().await;
    assert_eq!(position(&bench.store, &id).await.unwrap().delivered, 1);
    let (other, _) = bench.another_controller().await;
    // The lease of a controller that was killed ends by itself.
    let running = Running::of(&other, WebhookConfig { lease: Duration::from_secs(1), ..config() });
    let mut got = Vec::new();
    for _ in 0..1_500 {
        got = sink.got();
        if got.len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(about(&got), [expected[0].as_str(), &expected[1], &expected[1]]);
    assert_eq!(got[1].id(), got[2].id(), "the receiver knows it");
    assert_eq!(got[1].body, got[2].body);
    until(&other, &id, |position| position.delivered == 2).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_deliver_each_event_once() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let (other, _) = bench.another_controller().await;
    let one = Running::of(&bench.store, config());
    // A file of SQLite is one controller's.
    let two = bench.store.is_shared().then(|| Running::of(&other, config()));
    let mut expected = Vec::new();
    for n in 0..30 {
        let by = if n % 2 == 0 { &bench.store } else { &other };
        expected.push(happen(by, &format!("r{n}")).await);
    }
    sink.until(30).await;
    until(&bench.store, &id, |position| position.delivered == 30).await;
    one.end().await;
    if let Some(two) = two {
        // The one that delivered ended in order: the other one goes on.
        expected.push(happen(&bench.store, "after").await);
        sink.until(31).await;
        two.end().await;
    }
    assert_eq!(about(&sink.got()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_the_same_event_until_it_takes_it() {
    let bench = Bench::new().await;
    let sink = Sink::answering(|number| match number {
        0 => (StatusCode::INTERNAL_SERVER_ERROR, "out of order\u{0}").into_response(),
        1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let expected = [happen(&bench.store, "a").await, happen(&bench.store, "b").await];
    let got = sink.until(4).await;
    assert_eq!(about(&got), [expected[0].as_str(), &expected[0], &expected[0], &expected[1]]);
    assert_eq!(got[0].id(), got[2].id());
    until(&bench.store, &id, |position| position.delivered == 2 && position.failing_since.is_none()).await;
    let log = deliveries(&bench.store, &id).await;
    let first = log.iter().find(|one| one.id == got[0].id()).unwrap();
    assert_eq!((first.status, first.attempts, first.response_status), ("delivered", 3, Some(200)));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_refuses_is_dropped_with_a_count_and_the_answer_is_kept() {
    let bench = Bench::new().await;
    let sink = Sink::answering(|number| match number {
        0..3 => (StatusCode::BAD_REQUEST, "I do not know\u{0} regions").into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let expected = [happen(&bench.store, "a").await, happen(&bench.store, "b").await];
    let got = sink.until(4).await;
    assert_eq!(about(&got), [expected[0].as_str(), &expected[0], &expected[0], &expected[1]]);
    let kept = until(&bench.store, &id, |position| position.delivered == 1).await;
    assert_eq!(kept.dropped, 1);
    let log = deliveries(&bench.store, &id).await;
    let dropped = log.iter().find(|one| one.status == "dropped").unwrap();
    assert_eq!(dropped.answer.as_deref(), Some("I do not know  regions"));
    assert_eq!((dropped.attempts, dropped.response_status), (3, Some(400)));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_a_giant_answer_not_read() {
    let bench = Bench::new().await;
    let trap = Sink::good().await;
    let to = trap.url();
    let sink = Sink::answering(move |number| match number {
        0..3 => (StatusCode::TEMPORARY_REDIRECT, [("location", to.clone())]).into_response(),
        // It never ends, and comes as fast as it is read.
        _ => {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Response::new(Body::from_stream(endless))
        }
    })
    .await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    happen(&bench.store, "a").await;
    happen(&bench.store, "b").await;
    let kept = until(&bench.store, &id, |position| position.delivered == 1).await;
    assert_eq!((kept.dropped, trap.got().len()), (1, 0));
    let log = deliveries(&bench.store, &id).await;
    assert!(
        log.iter().any(|one| one.error.as_deref().is_some_and(|why| why.contains("redirects"))),
        "{log:?}"
    );
    let giant = log.iter().find(|one| one.status == "delivered").unwrap();
    assert_eq!(giant.answer.as_ref().unwrap().len(), 512);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_wants_nothing_any_more_or_takes_nothing_for_days_is_disabled() {
    let bench = Bench::new().await;
    let gone = Sink::answering(|_| StatusCode::GONE.into_response()).await;
    let (gone_id, _) = hook(&bench.store, &gone.url()).await;
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (dead_id, _) = hook(&bench.store, &format!("http://{closed}/")).await;
    let running = Running::of(&bench.store, config());
    happen(&bench.store, "a").await;
    until(&bench.store, &dead_id, |position| position.attempts >= 4).await;
    let live = spec(&bench.store, &dead_id).await;
    assert!(live.enabled && live.disabled_reason.is_none());
    pass(73 * 3_600_000);
    for (id, why) in [(&gone_id, "410"), (&dead_id, "took nothing since")] {
        for round in 0.. {
            let spec = spec(&bench.store, id).await;
            if !spec.enabled {
                assert!(spec.disabled_reason.as_deref().unwrap().contains(why), "{spec:?}");
                break;
            }
            assert!(round < 500, "{spec:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // It is mended and enabled: what it did not take comes first.
    let sink = Sink::good().await;
    let late = happen(&bench.store, "b").await;
    update(&bench.store, &dead_id, json!({"url": sink.url(), "enabled": true})).await;
    assert!(spec(&bench.store, &dead_id).await.disabled_reason.is_none());
    let got = sink.until(2).await;
    assert_eq!(got[1].about(), late);
    assert_eq!(gone.got().len(), 1, "one that is disabled gets nothing");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_holds_nobody_else_up() {
    let bench = Bench::new().await;
    let slow = Sink::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            StatusCode::OK.into_response()
        })
    })
    .await;
    let good = Sink::good().await;
    let mut slow_ids = Vec::new();
    for _ in 0..20 {
        slow_ids.push(hook(&bench.store, &slow.url()).await.0);
    }
    hook(&bench.store, &good.url().replace("127.0.0.1", "localhost")).await;
    // Few places, and more webhooks that hold theirs.
    let running = Running::of(&bench.store, WebhookConfig { at_once: 12, ..config() });
    let mut expected = Vec::new();
    for n in 0..10 {
        expected.push(happen(&bench.store, &format!("r{n}")).await);
    }
    assert_eq!(about(&good.until(10).await), expected);
    until(&bench.store, &slow_ids[0], |position| position.error.is_some()).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_posted_to_places_that_the_rules_do_not_allow() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let named = sink.url().replace("127.0.0.1", "localhost");
    let (literal, _) = hook(&bench.store, &sink.url()).await;
    let (by_name, _) = hook(&bench.store, &named).await;
    let mut closed = config();
    closed.rules.networks = Vec::new();
    let running = Running::of(&bench.store, closed);
    happen(&bench.store, "a").await;
    for id in [&literal, &by_name] {
        let kept = until(&bench.store, id, |position| position.dropped == 1).await;
        assert!(kept.error.as_deref().unwrap().contains("may not go to"), "{kept:?}");
    }
    assert_eq!(sink.got().len(), 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_beside_the_former_one_for_its_overlap() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let (id, first) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let rotate = async |overlap: u32| {
        let current = find(&bench.store, &id).await;
        let body = json!({"overlap_seconds": overlap});
        let now = bench.store.now();
        let (update, secret) =
            webhook::rotate(&current, body.as_object().unwrap(), now, &mut entropy).unwrap();
        bench
            .store
            .write(Origin::default(), move |tx| {
                Box::pin(async move { hosting_planner::update(tx, current, update).await })
            })
            .await
            .unwrap();
        secret
    };
    let verifies =
        |secret: &str, got: &Got| Verifier::new(secret).unwrap().verify(&got.body, &got.headers).is_ok();
    let second = rotate(3_600).await;
    happen(&bench.store, "a").await;
    let got = sink.until(1).await;
    assert!(verifies(&first, &got[0]) && verifies(&second, &got[0]));
    let third = rotate(0).await;
    happen(&bench.store, "b").await;
    let got = sink.until(2).await;
    assert!(!verifies(&first, &got[1]) && !verifies(&second, &got[1]) && verifies(&third, &got[1]));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_away_for_too_long_is_told_to_read_anew() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    let first = happen(&bench.store, "a").await;
    sink.until(1).await;
    until(&bench.store, &id, |position| position.delivered == 1).await;
    running.end().await;
    happen(&bench.store, "b").await;
    happen(&bench.store, "c").await;
    let head = bench.store.read().await.unwrap().head();
    assert!(!bench.store.trim_events(head).await.unwrap());
    let running = Running::of(&bench.store, config());
    let got = sink.until(2).await;
    assert_eq!(got[1].value()["type"], "reset");
    assert_eq!(got[1].value()["data"]["revision"], head);
    let last = happen(&bench.store, "d").await;
    assert_eq!(about(&sink.until(3).await), [first, String::new(), last]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_ask_for_is_posted_once_more_under_its_id() {
    let bench = Bench::new().await;
    let sink = Sink::answering(|number| match number {
        1 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let running = Running::of(&bench.store, config());
    happen(&bench.store, "a").await;
    sink.until(1).await;
    until(&bench.store, &id, |position| position.delivered == 1).await;
    let ask = async || {
        let asked = WebhookDelivery { status: "pending", ..deliveries(&bench.store, &id).await.remove(0) };
        bench
            .store
            .write(Origin::default(), move |tx| Box::pin(async move { tx.put_deliveries(&[asked]).await }))
            .await
            .unwrap();
    };
    for (count, status, attempts) in [(2, "failed", 2), (3, "delivered", 3)] {
        ask().await;
        sink.until(count).await;
        for round in 0.. {
            let log = deliveries(&bench.store, &id).await;
            if log[0].status == status {
                assert_eq!((log.len(), log[0].attempts), (1, attempts));
                break;
            }
            assert!(round < 500, "{log:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let got = sink.got();
    assert!(ids(&got).iter().all(|one| *one == got[0].id()), "{got:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_so_does_all_of_a_webhook_that_is_gone() {
    let bench = Bench::new().await;
    let sink = Sink::good().await;
    let (id, _) = hook(&bench.store, &sink.url()).await;
    let tidy = WebhookConfig { tidy: Duration::from_millis(50), kept_deliveries: 3, ..config() };
    let running = Running::of(&bench.store, tidy);
    for n in 0..10 {
        happen(&bench.store, &format!("r{n}")).await;
    }
    sink.until(10).await;
    let start = hosting_store::EventPlace { revision: 0, place: 0 };
    let logged = async || bench.store.read().await.unwrap().events_after(start, 100).await.unwrap().len();
    let waits = async |what: &str, is_so: &dyn Fn(usize, usize) -> bool| {
        for round in 0.. {
            let (kept, events) = (deliveries(&bench.store, &id).await.len(), logged().await);
            if is_so(kept, events) {
                return;
            }
            assert!(round < 500, "{what}: {kept} deliveries, {events} events");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    waits("trimmed", &|kept, events| kept == 3 && events <= 2).await;
    let gone = id.clone();
    bench
        .store
        .write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::delete(tx, Kind::Webhook, &gone).await })
        })
        .await
        .unwrap();
    waits("gone", &|kept, events| kept == 0 && events == 0).await;
    happen(&bench.store, "unheard").await;
    assert_eq!(logged().await, 0, "nobody follows any more");
    running.end().await;
}
