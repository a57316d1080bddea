//! Callbacks to real receivers on this machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hosting_jobs::kinds;
use hosting_jobs::kinds::callback::{self, CallbackParams, CallbackRules, NewCallback};
use hosting_store::{Job, JobState, JobWait};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Bench, Running, config, deps, pass, run, write};

const ENDED: &[JobState] = &[JobState::Done, JobState::Failed];

/// A request as the receiver got it.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Answers = Arc<dyn Fn(usize) -> Response + Send + Sync>;

#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<Got>>>,
    answers: Answers,
    address: SocketAddr,
}

impl Receiver {
    /// `answers` gives the answer to the request of each number, from 0.
    async fn new(answers: impl Fn(usize) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Self { got: Arc::default(), answers: Arc::new(answers), address };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert_eq!(method, Method::POST);
    let number = {
        let mut got = receiver.got.lock().unwrap();
        got.push(Got { path: uri.to_string(), headers, body });
        got.len() - 1
    };
    (receiver.answers)(number)
}

fn here() -> CallbackRules {
    CallbackRules {
        plain_http: true,
        networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        attempts: 3,
        ..CallbackRules::default()
    }
}

fn runner(bench: &Bench, rules: CallbackRules) -> Running {
    run(&bench.store, &bench.bell, kinds::all(&deps(&bench.store, rules, 90)), config())
}

/// A callback about tenant t_1, which waits for `waits`.
async fn enqueue(bench: &Bench, url: &str, waits: &[&str]) -> String {
    enqueue_about(bench, "t_1", url, waits).await
}

async fn enqueue_about(bench: &Bench, about: &str, url: &str, waits: &[&str]) -> String {
    let params = CallbackParams {
        url: url.into(),
        key: "key_1".into(),
        resource_type: "tenant".into(),
        resource_id: about.into(),
        stored_id: about.into(),
    };
    let waits = waits.iter().map(|id| (*id).to_owned()).collect();
    let new = NewCallback { params, brand: Some("acme".into()), waits };
    write(&bench.store, move |tx| Box::pin(async move { callback::enqueue(tx, new, &here()).await }))
        .await
        .unwrap()
}

async fn settle(bench: &Bench, resource: &str, status: &str, message: Option<&str>) -> u64 {
    let settled = JobWait {
        resource: resource.into(),
        status: Some(status.into()),
        message: message.map(str::to_owned),
    };
    let due = write(&bench.store, |tx| Box::pin(async move { tx.settle_job_waits(&[settled]).await }))
        .await
        .unwrap();
    bench.bell.ring();
    due
}

/// Waits for the end of a job; the clock passes over the delays between attempts.
async fn ended(bench: &Bench, id: &str) -> Job {
    for _ in 0..200 {
        let job = bench.job(id).await;
        if ENDED.contains(&job.state) {
            return job;
        }
        if job.state == JobState::Retrying {
            pass(3_600_000);
            bench.bell.ring();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not end: {:?}", bench.job(id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_what_became_of_the_change_and_can_verify_it() {
    let bench = Bench::new().await;
    let secret = callback::rotate(&bench.store, "key_1").await.unwrap();
    assert!(secret.starts_with("whsec_"));
    let receiver = Receiver::new(|_| StatusCode::NO_CONTENT.into_response()).await;
    let runner = runner(&bench, here());
    let id = enqueue(&bench, &receiver.url("/done?token=x"), &["t_1", "w_1"]).await;
    bench.bell.ring();
    assert_eq!(settle(&bench, "w_1", "active", None).await, 0, "the tenant has not settled");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(receiver.got().len(), 0);
    assert_eq!(settle(&bench, "t_1", "active", None).await, 1);
    let job = bench.until(&id, ENDED).await;
    assert_eq!(
        (job.state, &job.steps[0].result),
        (JobState::Done, &json!({"status": "active", "answer": 204}))
    );

    let got = receiver.got();
    assert_eq!(got.len(), 1);
    let Got { path, headers, body } = &got[0];
    assert_eq!(path, "/done?token=x");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["webhook-id"], id);
    assert_eq!(
        serde_json::from_slice::<Value>(body).unwrap(),
        json!({"resource_type": "tenant", "resource_id": "t_1", "status": "active"})
    );
    let webhook = Webhook::new(&secret).unwrap();
    webhook.verify(body, headers).unwrap();
    // Another body, another time, another secret: each is found out.
    assert!(webhook.verify(b"{}", headers).is_err());
    let mut later = headers.clone();
    let moved = headers["webhook-timestamp"].to_str().unwrap().parse::<i64>().unwrap() + 1;
    later.insert("webhook-timestamp", moved.into());
    assert!(webhook.verify(body, &later).is_err());
    let other = callback::rotate(&bench.store, "key_2").await.unwrap();
    assert!(Webhook::new(&other).unwrap().verify(body, headers).is_err());
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_secret_signs_along_for_a_day() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|_| StatusCode::OK.into_response()).await;
    let runner = runner(&bench, here());
    let deliver = async || {
        let before = receiver.got().len();
        let id = enqueue(&bench, &receiver.url("/"), &["t_1"]).await;
        settle(&bench, "t_1", "active", None).await;
        bench.until(&id, &[JobState::Done]).await;
        receiver.got().remove(before)
    };
    let verifies =
        |secret: &str, got: &Got| Webhook::new(secret).unwrap().verify(&got.body, &got.headers).is_ok();
    // A key without a secret signs with one that nobody has seen yet.
    let unseen = deliver().await;
    assert!(unseen.headers.contains_key("webhook-signature"));
    let first = callback::rotate(&bench.store, "key_1").await.unwrap();
    let second = callback::rotate(&bench.store, "key_1").await.unwrap();
    let got = deliver().await;
    assert!(verifies(&first, &got) && verifies(&second, &got));
    // A day later the old one is worth nothing. Verification looks at the clock, so only the number of signatures is counted.
    pass(callback::OVERLAP);
    let got = deliver().await;
    assert_eq!(got.headers["webhook-signature"].to_str().unwrap().split(' ').count(), 1);
    // Neither secret is in the files in clear.
    let bytes = ["store.db", "store.db-wal"]
        .map(|name| std::fs::read(bench.place.path().join(name)).unwrap())
        .concat();
    for secret in [&first, &second] {
        let needle = secret.strip_prefix("whsec_").unwrap().as_bytes();
        assert!(!bytes.windows(needle.len()).any(|window| window == needle));
    }
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_500_is_tried_again_under_the_same_id() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|number| {
        [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::TOO_MANY_REQUESTS, StatusCode::OK][number]
            .into_response()
    })
    .await;
    let runner = runner(&bench, here());
    let id = enqueue(&bench, &receiver.url("/"), &["t_1"]).await;
    settle(&bench, "t_1", "failed", Some("no room")).await;
    let first = bench.until(&id, &[JobState::Retrying]).await;
    assert_eq!(first.error.as_deref(), Some("the receiver answered 500 Internal Server Error"));
    let delay = first.next_at.unwrap() - first.set_at;
    assert!((2_500..=5_000).contains(&delay), "{delay}");
    let job = ended(&bench, &id).await;
    assert_eq!((job.state, job.steps[0].attempts, job.error), (JobState::Done, 3, None));
    let got = receiver.got();
    assert!(got.iter().all(|one| one.headers["webhook-id"] == id && one.body == got[0].body));
    assert_eq!(
        serde_json::from_slice::<Value>(&got[0].body).unwrap(),
        json!({"resource_type": "tenant", "resource_id": "t_1", "status": "failed", "status_message": "no room"})
    );
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_is_given_up_after_the_limit_with_a_readable_error() {
    let bench = Bench::new().await;
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let runner = runner(&bench, here());
    let id = enqueue(&bench, &format!("http://127.0.0.1:{port}/hook/secret?token=secret"), &["t_1"]).await;
    settle(&bench, "t_1", "deleted", None).await;
    let job = ended(&bench, &id).await;
    assert_eq!((job.state, job.steps[0].attempts), (JobState::Failed, 3));
    let error = job.error.unwrap();
    assert!(error.starts_with("127.0.0.1: ") && error.contains("Connection refused"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final_and_redirects_are_not_followed() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|number| match number {
        0 => StatusCode::GONE.into_response(),
        _ => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
    })
    .await;
    let runner = runner(&bench, here());
    for (n, why) in [
        (1, "the receiver answered 410 Gone"),
        (2, "the receiver answered 302 Found; redirects are not followed"),
    ] {
        let id = enqueue(&bench, &receiver.url("/"), &["t_1"]).await;
        settle(&bench, "t_1", "active", None).await;
        let job = ended(&bench, &id).await;
        assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some(why)));
        assert_eq!((job.steps[0].attempts, receiver.got().len()), (1, n));
    }
    runner.end().await;
}

/// Nothing reaches a private address unless the operator allows it, however the URL spells it.
#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_when_the_connection_is_made() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|_| StatusCode::OK.into_response()).await;
    let runner = runner(&bench, CallbackRules { networks: Vec::new(), ..here() });
    let port = receiver.address.port();
    for (url, why) in [
        (
            format!("http://localhost:{port}/"),
            "localhost: its name leads to addresses that callbacks may not go to",
        ),
        (format!("http://127.0.0.1:{port}/"), "the URL goes to an address that callbacks may not go to"),
        (
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            "the URL goes to an address that callbacks may not go to",
        ),
        (format!("http://2130706433:{port}/"), "the URL goes to an address that callbacks may not go to"),
    ] {
        let id = enqueue(&bench, &url, &["t_1"]).await;
        settle(&bench, "t_1", "active", None).await;
        let job = ended(&bench, &id).await;
        assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some(why)), "{url}");
        assert_eq!(job.steps[0].attempts, 1);
    }
    assert_eq!(receiver.got().len(), 0);
    runner.end().await;
}

/// The answer's body is ignored: one without an end holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_holds_nothing_up() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|_| {
        let chunks =
            futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096])));
        Response::new(Body::from_stream(chunks))
    })
    .await;
    let runner = runner(&bench, here());
    let id = enqueue(&bench, &receiver.url("/"), &["t_1"]).await;
    settle(&bench, "t_1", "active", None).await;
    assert_eq!(bench.until(&id, ENDED).await.state, JobState::Done);
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_come_to_its_end_is_told_to_nobody() {
    let bench = Bench::new().await;
    let receiver = Receiver::new(|_| StatusCode::OK.into_response()).await;
    let runner = runner(&bench, here());
    let id = enqueue(&bench, &receiver.url("/"), &["t_1"]).await;
    pass(7 * 24 * 3_600_000);
    bench.bell.ring();
    let job = ended(&bench, &id).await;
    assert_eq!(job.error.as_deref(), Some("the change was not complete within 7 days; nothing was sent"));
    assert_eq!((job.state, receiver.got().len()), (JobState::Failed, 0));
    runner.end().await;
}

/// A receiver with a certificate of the operator's own authority.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_operators_is_trusted_and_others_are_not() {
    let bench = Bench::new().await;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let _ = provider.install_default();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    let url = format!("https://localhost:{port}/");
    let stranger = runner(&bench, here());
    let id = enqueue(&bench, &url, &["t_1"]).await;
    settle(&bench, "t_1", "active", None).await;
    let job = bench.until(&id, &[JobState::Retrying]).await;
    assert!(job.error.as_deref().unwrap().contains("certificate"), "{job:?}");
    stranger.end().await;
    let authorities = Some(made.cert.pem().into_bytes());
    let trusting = runner(&bench, CallbackRules { authorities, ..here() });
    assert_eq!(ended(&bench, &id).await.state, JobState::Done);
    trusting.end().await;
}

/// A slow receiver takes its share of the places, and no more: the others get theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_does_not_hold_up_others() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    // Connections are taken by the kernel, and nobody answers.
    let fast = Receiver::new(|_| StatusCode::OK.into_response()).await;
    let fast_url = format!("http://localhost:{}/", fast.address.port());
    let mut slow_ones = Vec::new();
    for n in 0..12 {
        slow_ones.push(enqueue_about(&bench, &format!("t_{n}"), &slow, &["t_1"]).await);
    }
    let quick = enqueue(&bench, &fast_url, &["t_1"]).await;
    let runner = runner(&bench, here());
    settle(&bench, "t_1", "active", None).await;
    bench.until(&quick, &[JobState::Done]).await;
    let mut states = Vec::new();
    for _ in 0..500 {
        states.clear();
        for id in &slow_ones {
            let job = bench.job(id).await;
            assert_eq!(job.error, None, "a place that is not free is no failure");
            states.push(job.state);
        }
        if states.iter().filter(|state| **state == JobState::Retrying).count() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let running = states.iter().filter(|state| **state == JobState::Running).count();
    assert_eq!(running, 8, "{states:?}");
    runner.end().await;
    drop(listener);
}
