//! Subscriptions: resume, snapshot, order, leases, slow readers, reports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_feed::pki::Authorities;
use hosting_feed::registry::Watermark;
use hosting_intent_sync::identity::unix_now;
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{Ack, KeyReport, ReportRequest, ReportedKey, Up, WantSnapshot, up};
use tonic::Code;
use tonic::transport::Channel;

use crate::raw::{Raw, channel};
use crate::support::{EDGE, Feed, Node, Store, audience_of, config, padded_route};

async fn feed() -> Feed {
    let feed = Feed::start().await;
    for n in 1..=4 {
        feed.registry.add(&format!("edge-{n}"), &["lb"]);
    }
    feed.registry.add("web-1", &["web"]);
    feed
}

async fn as_node(feed: &Feed, node: &str) -> Channel {
    let now = unix_now();
    channel(feed.address, &feed.handle.authorities(), Some((node, now - 60, now + 600))).await.unwrap()
}

/// Reads up to and including the end of a snapshot or the first bookmark; answers the revision.
async fn settle(raw: &mut Raw) -> u64 {
    loop {
        match raw.next().await.unwrap().unwrap() {
            Frame::SnapshotEnd(end) => return end.revision,
            Frame::Bookmark(bookmark) => return bookmark.revision,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_audiences() {
    let feed = feed().await;
    let channel = as_node(&feed, "edge-1").await;
    for wrong in ["edge/c2", "node/web-1", "node/edge-1", "dns/default", "", "edge/c1 "] {
        let mut raw = Raw::open(channel.clone(), wrong, None).await.unwrap();
        let status = raw.next().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{wrong:?}");
        assert!(status.message().contains("only to [\"edge/c1\"]"), "{status}");
    }
    assert!(feed.fleet.all().is_empty());
    assert_eq!(feed.metric("feed_refused_total{reason=\"Audience\"}"), 6);
    let status = IntentFeedClient::new(channel).report(ReportRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let web = as_node(&feed, "web-1").await;
    let request =
        ReportRequest { epoch: "epoch-1".into(), revision: 7, full: true, ..ReportRequest::default() };
    IntentFeedClient::new(web).report(request.clone()).await.unwrap();
    assert_eq!(*feed.registry.reports.lock().unwrap(), [("web-1".to_owned(), request)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_comes_first_and_in_time() {
    let mut hasty = config();
    hasty.hello_timeout = Duration::from_millis(200);
    let feed =
        Feed::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), hasty)
            .await;
    feed.registry.add("edge-1", &["lb"]);
    let channel = as_node(&feed, "edge-1").await;
    let subscribe = async |frames: Vec<Up>, open: bool| {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        for frame in frames {
            sender.send(frame).await.unwrap();
        }
        let kept = open.then_some(sender);
        let ups = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answer = IntentFeedClient::new(channel.clone()).subscribe(ups).await;
        let first = match answer {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        drop(kept);
        first
    };
    assert_eq!(subscribe(vec![], true).await.unwrap_err().code(), Code::DeadlineExceeded);
    let want = Up { frame: Some(up::Frame::WantSnapshot(WantSnapshot::default())) };
    assert_eq!(subscribe(vec![want], true).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(subscribe(vec![], false).await.unwrap(), None);
    assert!(feed.fleet.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_and_a_reconnect_resumes_by_delta() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    for n in 0..50 {
        feed.store.route(&format!("h{n}.example"));
    }
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, 50).await;
    assert_eq!(node.names(), feed.store.names(EDGE));
    let removed = feed.store.commit(
        EDGE,
        vec![],
        vec![hosting_intent::Key::new(hosting_intent::Kind::Route, "h3.example")],
    );
    feed.applied("edge-1", EDGE, removed).await;
    assert!(!node.names().contains("h3.example"));
    // A revision of several frames arrives as one.
    let many: Vec<_> = (0..40).map(|n| padded_route(&format!("big{n}.example"), 100_000)).collect();
    let big = feed.store.commit(EDGE, many, vec![]);
    feed.applied("edge-1", EDGE, big).await;
    node.until("durable", |s| {
        s.as_ref().is_some_and(|s| s.durable.as_ref().is_some_and(|d| d.revision == big))
    })
    .await;
    node.stop().await;
    feed.store.route("while-away.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, big + 1).await;
    assert_eq!(node.names(), feed.store.names(EDGE));
    node.until("resumed", |s| {
        s.as_ref().is_some_and(|s| s.counters.resumed == 1 && s.counters.snapshots == 0)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(node.metric("intent_resumes_total{kind=\"Delta\"}"), 1);
    assert_eq!(node.metric("intent_resumes_total{kind=\"Snapshot\"}"), 0);
    assert_eq!(node.metric("intent_position"), big + 1);
    assert_eq!(feed.metric("feed_resumes_total{kind=\"New\"}"), 1);
    assert_eq!(feed.metric("feed_resumes_total{kind=\"Delta\"}"), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_floor_there_is_a_snapshot() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    node.until("durable", |s| s.as_ref().is_some_and(|s| s.durable.is_some())).await;
    node.stop().await;
    let gone = feed.store.commit(
        EDGE,
        vec![padded_route("b.example", 1)],
        vec![hosting_intent::Key::new(hosting_intent::Kind::Route, "a.example")],
    );
    feed.store.compact(EDGE, gone);
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, gone).await;
    assert_eq!(node.names(), BTreeSet::from(["b.example".to_owned()]));
    assert_eq!(feed.metric("feed_resumes_total{kind=\"Snapshot\"}"), 1);
    node.until("by snapshot", |s| {
        s.as_ref().is_some_and(|s| s.counters.snapshots == 1 && s.counters.resumed == 0)
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_takes_over_and_the_view_stays_meanwhile() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    feed.store.route("a.example");
    let mut address = config();
    address.listen = feed.address;
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, 1).await;
    let (store, registry, authorities) = feed.stop().await;
    node.until("the view stays", |s| s.as_ref().is_some_and(|s| !s.caught_up && s.effective == 1)).await;
    let second = Feed::with(Arc::clone(&store), registry, authorities, address).await;
    let revision = store.route("b.example");
    second.applied("edge-1", EDGE, revision).await;
    node.until("by delta", |s| {
        s.as_ref().is_some_and(|s| s.counters.snapshots == 1 && s.counters.resumed == 1)
    })
    .await;
    // Killed without a word, the same.
    let mut address = config();
    address.listen = second.address;
    let (_, registry, authorities) = second.kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let third = Feed::with(Arc::clone(&store), registry, authorities, address).await;
    let revision = store.route("c.example");
    third.applied("edge-1", EDGE, revision).await;
    node.until("by delta", |s| {
        s.as_ref().is_some_and(|s| s.counters.snapshots == 1 && s.counters.resumed == 2)
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_replaces_the_older() {
    let feed = feed().await;
    feed.store.route("a.example");
    let mut old = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    let at = settle(&mut old).await;
    old.ack("epoch-1", at).await;
    feed.applied("edge-1", EDGE, at).await;
    let mut new = Raw::open(as_node(&feed, "edge-1").await, EDGE, Some(("epoch-1", at))).await.unwrap();
    assert_eq!(settle(&mut new).await, at);
    let farewell = loop {
        match old.next().await.unwrap() {
            Some(Frame::GoAway(away)) => break away,
            Some(_) => {}
            None => panic!("ended without a word"),
        }
    };
    assert!(farewell.reason.contains("took over") && farewell.retry_after_ms > 0, "{farewell:?}");
    assert_eq!(old.next().await.unwrap(), None);
    let revision = feed.store.route("b.example");
    new.ack("epoch-1", at).await;
    assert!(matches!(new.next().await.unwrap(), Some(Frame::Delta(delta)) if delta.revision == revision));
    assert_eq!(feed.fleet.subscribers(&audience_of(EDGE)).len(), 1);
    assert!(feed.fleet.is_in_service(&audience_of(EDGE), "edge-1"), "it came back within its lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_subscriber_falls_out_of_service_when_its_lease_ends() {
    let mut short = config();
    (short.heartbeat, short.lease) = (Duration::from_millis(100), Duration::from_millis(500));
    let feed =
        Feed::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), short)
            .await;
    feed.registry.add("edge-1", &["lb"]);
    feed.registry.add("edge-2", &["lb"]);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    let first = feed.enrol("edge-1", &one).await.unwrap();
    let second = feed.enrol("edge-2", &two).await.unwrap();
    let revision = feed.store.route("a.example");
    let (healthy, stalled) = (Node::start(&first, EDGE, &one), Node::start(&second, EDGE, &two));
    feed.applied("edge-1", EDGE, revision).await;
    feed.applied("edge-2", EDGE, revision).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(feed.fleet.in_service(&audience_of(EDGE)).len(), 2, "heartbeats keep it");
    let hold = Arc::clone(&stalled.memory.stall);
    let hold = hold.lock().unwrap();
    let revision = feed.store.route("b.example");
    let began = Instant::now();
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(async {
            feed.applied("edge-1", EDGE, revision).await;
            assert_eq!(feed.fleet.in_service(&audience_of(EDGE)).len(), 2, "within its lease it counts");
            assert_eq!(feed.fleet.lagging(&audience_of(EDGE), "epoch-1", revision), ["edge-2"]);
            let mut changes = feed.fleet.changes();
            while feed.fleet.is_in_service(&audience_of(EDGE), "edge-2") {
                changes.changed().await.unwrap();
            }
        });
    });
    let took = began.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!(feed.fleet.lagging(&audience_of(EDGE), "epoch-1", revision), ["edge-2"]);
    drop(hold);
    feed.applied("edge-2", EDGE, revision).await;
    let mut changes = feed.fleet.changes();
    let back = async {
        while !feed.fleet.is_in_service(&audience_of(EDGE), "edge-2") {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.unwrap();
    healthy.stop().await;
    stalled.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_nobody_back() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    feed.store.route("first.example");
    let mut slow = Raw::open(as_node(&feed, "edge-2").await, EDGE, None).await.unwrap();
    let at = settle(&mut slow).await;
    slow.ack("epoch-1", at).await;
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, at).await;
    // It is alive, and says so; it only does not read.
    let beats = slow.up.clone();
    let beat = tokio::spawn(async move {
        loop {
            let ack = Ack { epoch: "epoch-1".into(), applied: at, durable: at, ..Ack::default() };
            if beats.send(Up { frame: Some(up::Frame::Ack(ack)) }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    // 40 MB that it does not read: more than its window, its ring and its socket hold.
    let mut last = 0;
    for n in 0..400 {
        last = feed.store.commit(EDGE, vec![padded_route(&format!("h{}.example", n % 50), 100_000)], vec![]);
    }
    let began = Instant::now();
    feed.applied("edge-1", EDGE, last).await;
    println!("400 revisions of 100 kB beside a reader that does not read: {:?}", began.elapsed());
    assert_eq!(feed.fleet.lagging(&audience_of(EDGE), "epoch-1", last), ["edge-2"]);
    beat.abort();
    // When it reads again it gets everything, in order, from wherever it is.
    let mut position = at;
    while position < last {
        match slow.next().await.unwrap().unwrap() {
            Frame::Delta(delta) => {
                assert_eq!(delta.prev, position);
                position = delta.revision;
            }
            Frame::Bookmark(bookmark) => assert_eq!(bookmark.revision, position),
            other => panic!("{other:?}"),
        }
        slow.ack("epoch-1", position).await;
    }
    feed.applied("edge-2", EDGE, last).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_beyond_the_limit_come_later() {
    let mut narrow = config();
    narrow.max_snapshots = 1;
    let feed =
        Feed::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), narrow)
            .await;
    for n in 0..400 {
        feed.store.commit(EDGE, vec![padded_route(&format!("h{n}.example"), 100_000)], vec![]);
    }
    feed.registry.add("edge-1", &["lb"]);
    feed.registry.add("edge-2", &["lb"]);
    // It begins a snapshot of 40 MB and does not read it.
    let mut hog = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    while !matches!(hog.next().await.unwrap().unwrap(), Frame::SnapshotBegin(_)) {}
    let mut other = Raw::open(as_node(&feed, "edge-2").await, EDGE, None).await.unwrap();
    let away = loop {
        if let Frame::GoAway(away) = other.next().await.unwrap().unwrap() {
            break away;
        }
    };
    assert!((1_000..=4_000).contains(&away.retry_after_ms), "{away:?}");
    // Following the log needs no snapshot, and is let in.
    let mut third = Raw::open(as_node(&feed, "edge-2").await, EDGE, Some(("epoch-1", 400))).await.unwrap();
    assert_eq!(settle(&mut third).await, 400);
    assert_eq!(settle(&mut hog).await, 400);
    let dir = tempfile::tempdir().unwrap();
    let identity = feed.enrol("edge-2", dir.path()).await.unwrap();
    let node = Node::start(&identity, EDGE, dir.path());
    node.until("all of it", |s| s.as_ref().is_some_and(|s| s.effective == 400)).await;
    assert_eq!(node.names().len(), 400);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_fleet_costs_the_store_nothing() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    let revision = feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, revision).await;
    node.until("caught up", |s| s.as_ref().is_some_and(|s| s.caught_up)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (reads, marks) = (feed.store.windows(), feed.registry.marks.lock().unwrap().len());
    let beats = node.status.borrow().as_ref().unwrap().counters.bookmarks;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(feed.store.windows(), reads);
    assert_eq!(feed.registry.marks.lock().unwrap().len(), marks, "heartbeats write no rows");
    assert!(node.status.borrow().as_ref().unwrap().counters.bookmarks >= beats + 5);
    let saved = feed.registry.marks.lock().unwrap().last().cloned();
    assert!(matches!(saved, Some(Watermark { applied: 1, durable: 1, .. })), "{saved:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_costs_time_and_nothing_else() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    feed.store.route("a.example");
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, 1).await;
    feed.store.fail(true);
    feed.store.route("b.example");
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(node.names().len(), 1);
    feed.store.fail(false);
    let revision = feed.store.route("c.example");
    feed.applied("edge-1", EDGE, revision).await;
    assert_eq!(node.names().len(), 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_brake_holds_is_released_by_an_order() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    for n in 0..200 {
        feed.store.route(&format!("h{n}.example"));
    }
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, 200).await;
    node.until("durable", |s| s.as_ref().is_some_and(|s| s.durable.is_some())).await;
    node.stop().await;
    // Gone without a word: a sweep takes 150 of them away.
    let gone =
        (0..150).map(|n| hosting_intent::Key::new(hosting_intent::Kind::Route, format!("h{n}.example")));
    let revision = feed.store.commit(EDGE, vec![], gone.collect());
    feed.store.compact(EDGE, revision);
    let node = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, revision).await;
    node.until("held", |s| s.as_ref().is_some_and(|s| s.held == 150)).await;
    assert_eq!(node.names().len(), 200);
    assert_eq!(feed.fleet.subscribers(&audience_of(EDGE))[0].exceptions.len(), 150);
    assert!(feed.fleet.release(&audience_of(EDGE), "edge-1", "operator"));
    node.until("released", |s| s.as_ref().is_some_and(|s| s.held == 0)).await;
    assert_eq!(node.names().len(), 50);
    let cleared = async {
        while !feed.fleet.subscribers(&audience_of(EDGE))[0].exceptions.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), cleared).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_and_a_silent_one_are_sent_away() {
    let mut short = config();
    (short.heartbeat, short.lease) = (Duration::from_millis(50), Duration::from_millis(200));
    let feed =
        Feed::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), short)
            .await;
    feed.registry.add("edge-1", &["lb"]);
    feed.store.route("a.example");
    let farewell = async |raw: &mut Raw| loop {
        match raw.next().await {
            Ok(Some(Frame::GoAway(away))) => return away.reason,
            Ok(Some(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    let mut liar = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    settle(&mut liar).await;
    liar.ack("epoch-1", 99).await;
    let reason = farewell(&mut liar).await;
    assert!(reason.contains("cannot be"), "{reason}");
    let mut silent = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    let reason = farewell(&mut silent).await;
    assert!(reason.contains("two leases"), "{reason}");
    assert!(!feed.fleet.is_in_service(&audience_of(EDGE), "edge-1"));
    assert_eq!(feed.metric("feed_sessions"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_certificate() {
    let feed = feed().await;
    let now = unix_now();
    let short =
        channel(feed.address, &feed.handle.authorities(), Some(("edge-1", now - 60, now + 1))).await.unwrap();
    let mut raw = Raw::open(short, EDGE, None).await.unwrap();
    let reason = loop {
        match raw.next().await.unwrap().unwrap() {
            Frame::GoAway(away) => break away.reason,
            _ => raw.ack("", 0).await,
        }
    };
    assert!(reason.contains("renew it"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_levels_and_begin_with_everything() {
    let (feed, dir) = (feed().await, tempfile::tempdir().unwrap());
    let identity = feed.enrol("web-1", dir.path()).await.unwrap();
    let node = Node::start(&identity, "node/web-1", dir.path());
    let seen = |key: &str, phase: i32| KeyReport {
        kind: 21,
        key: key.into(),
        phase,
        revision: 1,
        message: String::new(),
    };
    let reports = async |count: usize| {
        let wait = async {
            loop {
                let all = feed.registry.reports.lock().unwrap().clone();
                if all.len() >= count {
                    return all.into_iter().map(|(_, report)| report).collect::<Vec<_>>();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap()
    };
    node.reporter.report("epoch-1", 1, [seen("web_a", 1), seen("web_b", 1)], []).unwrap();
    let all = reports(1).await;
    assert!(all[0].full && all[0].reports.len() == 2);
    node.reporter.report("epoch-1", 2, [seen("web_a", 2), seen("web_b", 1)], []).unwrap();
    let all = reports(2).await;
    assert!(!all[1].full);
    assert_eq!(all[1].reports, [seen("web_a", 2)]);
    node.reporter.report("epoch-1", 3, [], [(21, "web_b".into())]).unwrap();
    let all = reports(3).await;
    assert!(!all[2].full && all[2].reports.is_empty());
    assert_eq!(all[2].gone, [ReportedKey { kind: 21, key: "web_b".into() }]);
    // A controller that has forgotten the node asks for everything.
    feed.registry.reports.lock().unwrap().clear();
    node.reporter.report("epoch-1", 4, [seen("web_c", 1)], []).unwrap();
    let all = reports(2).await;
    assert!(!all[0].full && all[1].full);
    assert_eq!((all[0].reports.len(), all[1].reports.len()), (1, 2));
    node.reporter.report("epoch-1", 5, [], [(21, "web_c".into())]).unwrap();
    assert!(!reports(3).await[2].full);
    // Another controller may know nothing.
    let mut address = config();
    address.listen = feed.address;
    let (store, registry, authorities) = feed.stop().await;
    registry.reports.lock().unwrap().clear();
    let feed = Feed::with(store, registry, authorities, address).await;
    let wait = async {
        while feed.registry.reports.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    let first = feed.registry.reports.lock().unwrap()[0].1.clone();
    assert!(first.full);
    assert_eq!(first.reports, [seen("web_a", 2)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_at_once_when_the_registry_takes_its_audience_away() {
    let feed = feed().await;
    let mut raw = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    settle(&mut raw).await;
    let mut other = Raw::open(as_node(&feed, "edge-2").await, EDGE, None).await.unwrap();
    settle(&mut other).await;
    feed.registry.add("edge-1", &["database"]);
    feed.fleet.retain(|audience, node| *audience != audience_of(EDGE) || node != "edge-1");
    let away = async {
        loop {
            if let Frame::GoAway(away) = raw.next().await.unwrap().expect("no word") {
                return away;
            }
        }
    };
    let away = tokio::time::timeout(Duration::from_secs(1), away).await.expect("the session goes on");
    assert!(away.reason.contains("registry") && away.retry_after_ms > 0, "{away:?}");
    assert_eq!(feed.fleet.subscribers(&audience_of(EDGE)).len(), 1, "the others stay");
    let mut again = Raw::open(as_node(&feed, "edge-1").await, EDGE, None).await.unwrap();
    assert_eq!(again.next().await.unwrap_err().code(), Code::PermissionDenied);
}
