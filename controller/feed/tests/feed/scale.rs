//! Many sessions at once, with figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_feed::pki::Authorities;
use hosting_intent_sync::identity::unix_now;
use hosting_proto::feed::down::Frame;

use crate::raw::{Raw, channel};
use crate::support::{EDGE, Feed, Store, audience_of, config};

const SESSIONS: usize = 100;
const REVISIONS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_get_a_thousand_revisions_each_in_order() {
    let mut roomy = config();
    (roomy.heartbeat, roomy.lease) = (Duration::from_secs(5), Duration::from_secs(15));
    let feed =
        Feed::with(Store::new(), Arc::default(), Authorities::create("cell-1", unix_now()).unwrap(), roomy)
            .await;
    feed.store.route("start.example");
    let authorities = feed.handle.authorities();
    let now = unix_now();
    let began = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..SESSIONS {
        let name = format!("edge-{n:03}");
        feed.registry.add(&name, &["lb"]);
        let channel = channel(feed.address, &authorities, Some((&name, now - 60, now + 600))).await.unwrap();
        let mut raw = Raw::open(channel, EDGE, Some(("epoch-1", 1))).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut position = 1;
            while position < 1 + REVISIONS {
                match raw.next().await.unwrap().unwrap() {
                    Frame::Delta(delta) => {
                        assert_eq!(delta.prev, position);
                        position = delta.revision;
                        raw.ack("epoch-1", position).await;
                    }
                    Frame::Bookmark(bookmark) => assert_eq!(bookmark.revision, position),
                    Frame::Welcome(_) | Frame::Rollouts(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            // Stays to be counted.
            raw
        }));
    }
    let connected = began.elapsed();
    let (began, reads) = (Instant::now(), feed.store.windows());
    for n in 0..REVISIONS {
        feed.store.route(&format!("h{n}.example"));
        if n % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut open = Vec::new();
    for task in tasks {
        open.push(task.await.unwrap());
    }
    let took = began.elapsed();
    for n in 0..SESSIONS {
        feed.applied(&format!("edge-{n:03}"), EDGE, 1 + REVISIONS).await;
    }
    assert_eq!(feed.fleet.lagging(&audience_of(EDGE), "epoch-1", 1 + REVISIONS), [""; 0]);
    assert_eq!(feed.fleet.in_service(&audience_of(EDGE)).len(), SESSIONS);
    let (hits, misses) = (feed.metric("feed_ring_hits_total"), feed.metric("feed_ring_misses_total"));
    let reads = feed.store.windows() - reads;
    println!(
        "{SESSIONS} sessions connected in {connected:?}; {REVISIONS} revisions to each in {took:?} \
         ({:.0} deliveries/s); {reads} reads of the log, ring {hits} hits, {misses} misses, {} bytes",
        (SESSIONS as f64 * REVISIONS as f64) / took.as_secs_f64(),
        feed.metric("feed_sent_bytes_total"),
    );
    assert!(hits >= SESSIONS as u64 * REVISIONS * 9 / 10, "{hits} of {}", SESSIONS as u64 * REVISIONS);
    assert!(took < Duration::from_secs(60), "{took:?}");
}
