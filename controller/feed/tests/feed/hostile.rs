//! Nodes of the registry that lie, flood, or hold on: what one of them can cost the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_feed::FeedConfig;
use hosting_feed::pki::Authorities;
use hosting_intent::Bytes;
use hosting_intent_sync::identity::unix_now;
use hosting_intent_sync::{subscriber, tls};
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{Ack, Exception, KeyReport, RenewRequest, ReportRequest, Up, up};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::raw::{Raw, channel, channel_of, csr};
use crate::support::{EDGE, Feed, Node, Store, audience_of, config, route};

pub(crate) async fn as_node(feed: &Feed, node: &str) -> Channel {
    let now = unix_now();
    channel(feed.address, &feed.handle.authorities(), Some((node, now - 60, now + 600))).await.unwrap()
}

/// The epoch of the welcome, or why there was none.
async fn greeting(feed: &Feed, node: &str, cursor: Option<(&str, u64)>) -> Result<String, Status> {
    welcome(feed, node, cursor, Bytes::new()).await.map(|(epoch, _)| epoch)
}

async fn welcome(
    feed: &Feed,
    node: &str,
    cursor: Option<(&str, u64)>,
    witness: Bytes,
) -> Result<(String, Raw), Status> {
    let mut raw = Raw::open_with(as_node(feed, node).await, EDGE, cursor, witness).await?;
    match raw.next().await?.unwrap() {
        Frame::Welcome(welcome) => Ok((welcome.epoch, raw)),
        other => panic!("{other:?}"),
    }
}

/// Reads up to the next word of the store.
async fn word(raw: &mut Raw) -> Bytes {
    loop {
        match raw.next().await.unwrap().unwrap() {
            Frame::SnapshotEnd(end) => return end.witness,
            Frame::Delta(delta) => return delta.witness,
            Frame::Bookmark(bookmark) => return bookmark.witness,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_it_is_ahead_and_proves_nothing_is_served_apart() {
    let feed = Feed::start().await;
    for node in ["edge-1", "edge-2"] {
        feed.registry.add(node, &["lb"]);
    }
    let revision = feed.store.route("a.example");
    let (epoch, mut raw) = welcome(&feed, "edge-2", None, Bytes::new()).await.unwrap();
    assert_eq!(epoch, "epoch-1");
    let mut honest = word(&mut raw).await.to_vec();
    // A word that speaks of a later head, and everything else that is no word of ours.
    honest[39] ^= 0x40;
    for witness in [Bytes::new(), Bytes::from(honest), Bytes::from_static(&[7; 47]), vec![7; 100_000].into()]
    {
        let (epoch, mut raw) = welcome(&feed, "edge-1", Some(("epoch-1", u64::MAX)), witness).await.unwrap();
        assert!(epoch != "epoch-1" && !epoch.is_empty(), "{epoch:?}");
        // It still says where it believes to be, which counts for nothing.
        raw.ack("epoch-1", u64::MAX).await;
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        while ended.len() < 2 {
            match raw.next().await.unwrap().unwrap() {
                Frame::SnapshotBegin(begin) => begun.push(begin.epoch),
                Frame::SnapshotEnd(end) => ended.push(end.revision),
                Frame::SnapshotItems(items) => assert_eq!(items.items.len(), 1),
                Frame::Rollouts(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((begun, ended), (vec![epoch, "epoch-1".to_owned()], vec![revision; 2]));
        raw.ack("epoch-1", revision).await;
        feed.applied("edge-1", EDGE, revision).await;
        assert!(feed.fleet.is_in_service(&audience_of(EDGE), "edge-1"));
    }
    assert_eq!(greeting(&feed, "edge-2", Some(("epoch-1", revision))).await.unwrap(), "epoch-1");
    assert_eq!(feed.metric("feed_resumes_total{kind=\"Apart\"}"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_own_word_proves_that_the_store_went_back() {
    let feed = Feed::start().await;
    for node in ["edge-1", "edge-2"] {
        feed.registry.add(node, &["lb"]);
    }
    feed.store.route("a.example");
    let copy = feed.store.copy();
    let (_, mut raw) = welcome(&feed, "edge-1", None, Bytes::new()).await.unwrap();
    let older = word(&mut raw).await;
    let after = feed.store.route("b.example");
    // With the change itself, not some time later.
    let proof = loop {
        match raw.next().await.unwrap().unwrap() {
            Frame::Delta(delta) if delta.revision == after => break delta.witness,
            _ => {}
        }
    };
    // While the store is where it was, or further, it proves nothing.
    feed.store.commit("node/web-9", vec![route("c.example")], vec![]);
    let same = welcome(&feed, "edge-1", Some(("epoch-1", after)), proof.clone()).await.unwrap();
    assert_eq!(same.0, "epoch-1");

    let (store, registry, authorities) = feed.kill();
    store.put_back(&copy);
    let feed = Feed::with(store, registry, authorities, config()).await;
    feed.store.fail_epochs(true);
    let failed = welcome(&feed, "edge-1", Some(("epoch-1", after)), proof.clone()).await;
    assert_eq!(failed.err().unwrap().code(), Code::Unavailable);
    feed.store.fail_epochs(false);
    // What the store still knows is no proof.
    assert_eq!(welcome(&feed, "edge-2", None, older).await.unwrap().0, "epoch-1");
    let (second, _) = welcome(&feed, "edge-1", Some(("epoch-1", after)), proof.clone()).await.unwrap();
    assert_eq!(second, "epoch-1+");
    // It proves it once: of the new epoch it says nothing.
    assert_eq!(welcome(&feed, "edge-1", Some((&second, 1)), proof).await.unwrap().0, second);
    assert_eq!(greeting(&feed, "edge-2", Some(("epoch-1", 900))).await.unwrap(), second);
}

/// A subscriber applies a change that the store then forgets; answers the epoch in which it ends up where the store is. A
/// process that lives on has the controller's word of the change, one that is started anew kept none.
async fn after_a_store_went_back(lives_on: bool) -> String {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("edge-1", &["lb"]);
    feed.store.route("a.example");
    let copy = feed.store.copy();
    let after = feed.store.route("b.example");
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    let node = Node::start(&identity, EDGE, dir.path());
    let is_settled = |status: &Option<subscriber::Status>| {
        let durable = status.as_ref().and_then(|status| status.durable.as_ref());
        status.as_ref().is_some_and(|status| status.caught_up)
            && durable.is_some_and(|at| at.revision == after)
    };
    node.until("has the change on disk, and the word of it", is_settled).await;
    let address = feed.address;
    let node = if lives_on {
        Some(node)
    } else {
        node.stop().await;
        None
    };
    let (store, registry, authorities) = feed.stop().await;
    store.put_back(&copy);
    let feed = Feed::with(store, registry, authorities, FeedConfig { listen: address, ..config() }).await;
    let node = node.unwrap_or_else(|| Node::start(&identity, EDGE, dir.path()));
    let is_back = |status: &Option<subscriber::Status>| {
        let position = status.as_ref().and_then(|status| status.position.as_ref());
        status.as_ref().is_some_and(|status| status.caught_up)
            && position.is_some_and(|at| at.revision < after)
    };
    node.until("is where the store is", is_back).await;
    assert_eq!(node.names(), feed.store.names(EDGE));
    let epoch = node.status.borrow().as_ref().unwrap().position.as_ref().unwrap().epoch.clone();
    // What the subscriber knows of itself, its acknowledgement tells the controller a moment later.
    let counts = async {
        while !feed.fleet.lagging(&audience_of(EDGE), &epoch, after - 1).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(10);
    assert!(tokio::time::timeout(limit, counts).await.is_ok(), "it counts again");
    node.stop().await;
    epoch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_with_the_controllers_word_begins_an_epoch_and_one_without_starts_over_alone() {
    assert_eq!(after_a_store_went_back(true).await, "epoch-1+");
    assert_eq!(after_a_store_went_back(false).await, "epoch-1");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_is_fit_for_logs_terminals_and_memory() {
    let feed = Feed::start().await;
    feed.registry.add("web-1", &["web"]);
    feed.registry.add("web-2", &["web"]);
    let node = as_node(&feed, "web-1").await;
    let mut client = IntentFeedClient::new(node.clone());
    let said =
        |key: &str, message: String| KeyReport { kind: 21, key: key.into(), message, ..KeyReport::default() };
    let forged = "evil\n{\"level\":\"ERROR\"}\u{1b}[31m\u{202e}".to_owned();
    let reports = vec![
        said("web_1", forged.clone()),
        said("web_2", "m".repeat(1_000_000)),
        said("web\r\n3", String::new()),
        said(&"k".repeat(100_000), String::new()),
    ];
    client.report(ReportRequest { full: true, reports, ..ReportRequest::default() }).await.unwrap();
    let (_, heard) = feed.registry.reports.lock().unwrap().pop().unwrap();
    let heard: Vec<_> = heard.reports.iter().map(|one| (one.key.as_str(), one.message.as_str())).collect();
    let cleaned = "evil\u{fffd}{\"level\":\"ERROR\"}\u{fffd}[31m\u{fffd}";
    assert_eq!(heard, [("web_1", cleaned), ("web_2", "m".repeat(1_024).as_str())]);
    // More than a report can be is not even read, and the others go on.
    let large = (0..20).map(|n| said(&n.to_string(), "m".repeat(1_000_000))).collect();
    let large = ReportRequest { reports: large, ..ReportRequest::default() };
    assert_eq!(client.report(large).await.unwrap_err().code(), Code::OutOfRange);
    IntentFeedClient::new(as_node(&feed, "web-2").await).report(ReportRequest::default()).await.unwrap();

    let mut raw = Raw::open(node, "node/web-1", None).await.unwrap();
    let Some(Frame::Welcome(welcome)) = raw.next().await.unwrap() else { panic!("no Welcome") };
    let exception = |key: &str| Exception { key: key.into(), reason: forged.clone(), ..Exception::default() };
    let ack = Ack {
        epoch: welcome.epoch,
        exceptions: vec![exception("web_1"), exception("web\n2")],
        has_exceptions: true,
        ..Ack::default()
    };
    raw.up.send(Up { frame: Some(up::Frame::Ack(ack)) }).await.unwrap();
    let kept = async {
        loop {
            let kept = feed.fleet.subscribers(&audience_of("node/web-1")).remove(0).exceptions;
            if !kept.is_empty() {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let kept = tokio::time::timeout(Duration::from_secs(5), kept).await.unwrap();
    assert_eq!(kept.iter().map(|one| (&*one.key, &*one.reason)).collect::<Vec<_>>(), [("web_1", cleaned)]);
}

/// Everything that is no valid certificate of a node of this cell, with names that would be right.
#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_this_cells_nodes_are_let_in() {
    let feed = Feed::start().await;
    feed.registry.add("edge-1", &["lb"]);
    let (authorities, now) = (feed.handle.authorities(), unix_now());
    let node = Some(("edge-1", now - 60, now + 600));
    let elsewhere = String::from_utf8(authorities.to_secret().unwrap().to_vec()).unwrap();
    // The same key under another cell's name, and another key under the same name.
    let elsewhere = Authorities::from_secret(elsewhere.replace("cell-1", "cell-2").as_bytes()).unwrap();
    let forged = Authorities::create("cell-1", now).unwrap();
    for issuer in [&elsewhere, &forged] {
        let refused = match channel_of(feed.address, &authorities, issuer, node).await {
            Ok(channel) => Raw::open(channel, EDGE, None).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{issuer:?}");
    }
    // The server may notice a moment after the client.
    let until = Instant::now() + Duration::from_secs(5);
    while feed.metric("feed_refused_total{reason=\"Handshake\"}") < 2 {
        assert!(Instant::now() < until, "refused handshakes are not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let good = channel_of(feed.address, &authorities, &authorities, node).await.unwrap();
    assert!(Raw::open(good, EDGE, None).await.unwrap().next().await.is_ok());
}
