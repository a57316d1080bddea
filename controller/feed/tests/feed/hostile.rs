//! Nodes of the registry that lie, flood, or hold on: what one of them can cost the others.

use std::sync::Arc;
use std::time::Duration;

use hosting_feed::FeedConfig;
use hosting_feed::pki::Authorities;
use hosting_intent_sync::identity::unix_now;
use hosting_intent_sync::tls;
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{RenewRequest, ReportRequest};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::raw::{Raw, channel, csr};
use crate::support::{EDGE, Feed, Store, config};

async fn as_node(feed: &Feed, node: &str) -> Channel {
    let now = unix_now();
    channel(feed.address, &feed.handle.authorities(), Some((node, now - 60, now + 600))).await.unwrap()
}

/// The epoch of the welcome, or why there was none.
async fn greeting(feed: &Feed, node: &str, cursor: Option<(&str, u64)>) -> Result<String, (String, u32)> {
    let mut raw = Raw::open(as_node(feed, node).await, EDGE, cursor).await.unwrap();
    match raw.next().await.unwrap().unwrap() {
        Frame::Welcome(welcome) => Ok(welcome.epoch),
        Frame::GoAway(away) => Err((away.reason, away.retry_after_ms)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_cannot_begin_epoch_after_epoch() {
    let feed = Feed::start().await;
    for node in ["edge-1", "edge-2", "edge-3"] {
        feed.registry.add(node, &["lb"]);
    }
    feed.store.route("a.example");
    // Once it is believed: the store may have been put back.
    let second = greeting(&feed, "edge-1", Some(("epoch-1", u64::MAX))).await.unwrap();
    assert_eq!(second, "epoch-1+");
    // The others, who are behind in the same old epoch, are none of this.
    assert_eq!(greeting(&feed, "edge-2", Some(("epoch-1", 900))).await.unwrap(), second);
    // It goes on with it.
    for _ in 0..3 {
        let (reason, retry_after) = greeting(&feed, "edge-1", Some((&second, u64::MAX))).await.unwrap_err();
        assert!(reason.contains("edge-1") && reason.contains("epoch"), "{reason}");
        assert!(retry_after >= 30_000, "{retry_after}");
    }
    // Another one so soon after is told to look again shortly.
    let (_, retry_after) = greeting(&feed, "edge-3", Some((&second, 900))).await.unwrap_err();
    assert!((1..=5_000).contains(&retry_after), "{retry_after}");
    assert_eq!(greeting(&feed, "edge-3", None).await.unwrap(), second);
    assert_eq!(feed.metric("feed_refused_total{reason=\"Ahead\"}"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_could_not_begin_does_not_count() {
    let feed = Feed::start().await;
    feed.registry.add("edge-1", &["lb"]);
    feed.store.route("a.example");
    feed.store.fail_epochs(true);
    let mut raw = Raw::open(as_node(&feed, "edge-1").await, EDGE, Some(("epoch-1", 900))).await.unwrap();
    assert_eq!(raw.next().await.unwrap_err().code(), Code::Unavailable);
    feed.store.fail_epochs(false);
    assert_eq!(greeting(&feed, "edge-1", Some(("epoch-1", 900))).await.unwrap(), "epoch-1+");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_cannot_hold_every_connection() {
    let mut limited = config();
    (limited.max_connections, limited.max_node_connections) = (100, 3);
    let authorities = Authorities::create("cell-1", unix_now()).unwrap();
    let feed = Feed::with(Store::new(), Arc::default(), authorities, limited).await;
    feed.registry.add("edge-1", &["lb"]);
    feed.registry.add("edge-2", &["lb"]);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let now = unix_now();
        let node = Some(("edge-1", now - 60, now + 600));
        match channel(feed.address, &feed.handle.authorities(), node).await {
            Ok(channel) => match Raw::open(channel, EDGE, None).await {
                Ok(raw) => held.push(raw),
                Err(_) => refused += 1,
            },
            Err(_) => refused += 1,
        }
    }
    assert_eq!((held.len(), refused), (3, 5));
    assert!(greeting(&feed, "edge-2", None).await.is_ok());
    drop(held);
    let again = async {
        loop {
            let now = unix_now();
            let node = Some(("edge-1", now - 60, now + 600));
            if let Ok(channel) = channel(feed.address, &feed.handle.authorities(), node).await
                && Raw::open(channel, EDGE, None).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("its places are never given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reports_one_call_at_a_time() {
    let feed = Feed::start().await;
    feed.registry.add("web-1", &["web"]);
    feed.registry.add("web-2", &["web"]);
    let (one, two) = (as_node(&feed, "web-1").await, as_node(&feed, "web-2").await);
    let held = feed.registry.hold_reports.lock().await;
    let report = |channel: &Channel| {
        let mut client = IntentFeedClient::new(channel.clone());
        async move { client.report(ReportRequest::default()).await.map(|_| ()).map_err(|status| status.code()) }
    };
    let (mut first, mut second) = (tokio::spawn(report(&one)), tokio::spawn(report(&one)));
    // One of them is taken in, the other refused at once.
    let refused = async {
        tokio::select! {
            refused = &mut first => (refused.unwrap(), second),
            refused = &mut second => (refused.unwrap(), first),
        }
    };
    let (refused, taken) =
        tokio::time::timeout(Duration::from_secs(5), refused).await.expect("both are taken in");
    assert_eq!(refused, Err(Code::ResourceExhausted));
    let other = tokio::spawn(report(&two));
    drop(held);
    assert_eq!((taken.await.unwrap(), other.await.unwrap()), (Ok(()), Ok(())));
    let free = async {
        while report(&one).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free).await.expect("its turn is never given back");
}

/// A TLS connection without a certificate that never says a word.
async fn silent(feed: &Feed) -> TlsStream<TcpStream> {
    let roots = feed.handle.authorities().roots_der();
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(tls::root_store(roots.iter().map(Vec::as_slice)).unwrap())
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    let name = ServerName::try_from(tls::controller_name("cell-1")).unwrap();
    let tcp = TcpStream::connect(feed.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// Whether the other end closed it.
async fn is_cut(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return true,
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_only_hold_on_keep_nobody_out() {
    let mut limited = config();
    (limited.max_anonymous, limited.anonymous_silence) = (8, Duration::from_secs(3_600));
    let authorities = Authorities::create("cell-1", unix_now()).unwrap();
    let feed = Feed::with(Store::new(), Arc::default(), authorities, limited).await;
    for node in ["edge-1", "edge-2"] {
        feed.registry.add(node, &["lb"]);
    }
    let now = unix_now();
    let expired = Some(("edge-2", now - 9 * 86_400, now - 2 * 86_400));
    let expired = channel(feed.address, &feed.handle.authorities(), expired).await.unwrap();
    let mut held = Vec::new();
    let full = async {
        // From the address that the nodes come from as well: the worst case.
        while held.len() < 32 {
            held.push(silent(&feed).await);
        }
        loop {
            let mut cut = 0;
            for stream in &mut held {
                cut += usize::from(is_cut(stream).await);
            }
            if cut >= 30 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), full).await.expect("they keep more than their share");
    let dir = tempfile::tempdir().unwrap();
    feed.enrol("edge-1", dir.path()).await.unwrap();
    // One whose certificate has ended was not displaced by them.
    let request = RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()).into() };
    EnrollmentClient::new(expired).renew(request).await.unwrap();
    assert!(greeting(&feed, "edge-1", None).await.is_ok(), "nodes have room of their own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_says_nothing_is_cut_soon() {
    let limited = FeedConfig { anonymous_silence: Duration::from_millis(200), ..config() };
    let authorities = Authorities::create("cell-1", unix_now()).unwrap();
    let feed = Feed::with(Store::new(), Arc::default(), authorities, limited).await;
    let mut stranger = silent(&feed).await;
    let cut = async {
        while !is_cut(&mut stranger).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), cut).await.expect("it is held for ever");
}
