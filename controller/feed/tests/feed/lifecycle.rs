//! Which enrolment a credential goes back to, and when it is no longer good.

use std::path::Path;
use std::time::Duration;

use hosting_intent_sync::identity::{Enrolment, Identity, unix_now};
use hosting_proto::feed::RenewRequest;
use hosting_proto::feed::ReportRequest;
use hosting_proto::feed::down::Frame;
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use rcgen::KeyPair;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::raw::{Raw, channel, channel_as, csr};
use crate::support::{EDGE, Feed};

async fn join(feed: &Feed, node: &str, role: &str, dir: &Path) -> Identity {
    let enrolment = Enrolment { role: role.to_owned(), ..feed.enrolment(node, dir).await };
    Identity::load_or_enroll(&enrolment).await.unwrap()
}

async fn welcome(channel: Channel, audience: &str) -> Result<Raw, Status> {
    let mut raw = Raw::open(channel, audience, None).await?;
    match raw.next().await? {
        Some(Frame::Welcome(_)) => Ok(raw),
        other => panic!("{other:?}"),
    }
}

async fn renewed(channel: Channel) -> Result<(), Status> {
    let request = RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()).into() };
    EnrollmentClient::new(channel).renew(request).await.map(drop)
}

fn is_replaced<T>(outcome: Result<T, Status>) -> bool {
    outcome.err().is_some_and(|status| {
        status.code() == Code::FailedPrecondition && status.message().contains("new token")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_replaced_gets_nothing_and_renews_nothing() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("web-1", &["web"]);
    let old = join(&feed, "web-1", "web", &dir.path().join("old")).await;
    let old = channel_as(feed.address, &old).await;
    let mut session = welcome(old.clone(), "node/web-1").await.unwrap();
    renewed(old.clone()).await.unwrap();

    let new = join(&feed, "web-1", "web", &dir.path().join("new")).await;
    let new = channel_as(feed.address, &new).await;
    // Its session ends without anybody else having connected.
    let ended = async {
        loop {
            match session.next().await.unwrap() {
                Some(Frame::GoAway(away)) => return away.reason,
                Some(_) => {}
                None => panic!("no word"),
            }
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(1), ended).await.expect("the session goes on");
    assert!(reason.contains("joined anew"), "{reason}");
    assert!(is_replaced(welcome(old.clone(), "node/web-1").await));
    assert!(is_replaced(renewed(old.clone()).await));
    assert!(is_replaced(IntentFeedClient::new(old).report(ReportRequest::default()).await));
    assert_eq!(feed.metric("feed_refused_total{reason=\"Replaced\"}"), 3);
    assert!(welcome(new.clone(), "node/web-1").await.is_ok());
    renewed(new).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_keep_the_enrolment_that_they_go_back_to() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("web-1", &["web"]);
    let old = join(&feed, "web-1", "web", &dir.path().join("old")).await;
    // Made later than the enrolment of the machine that takes its place, and of no use all the same.
    let channel = channel_as(feed.address, &old).await;
    let new = join(&feed, "web-1", "web", &dir.path().join("new")).await;
    assert!(old.renew(channel).await.is_err());
    let first = channel_as(feed.address, &new).await;
    new.renew(first).await.unwrap();
    new.renew(channel_as(feed.address, &new).await).await.unwrap();
    assert!(welcome(channel_as(feed.address, &new).await, "node/web-1").await.is_ok());
    join(&feed, "web-1", "web", &dir.path().join("newer")).await;
    assert!(is_replaced(welcome(channel_as(feed.address, &new).await, "node/web-1").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_made_anew_under_the_same_id_knows_none_of_its_former_certificates() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("web-1", &["web"]);
    let former = join(&feed, "web-1", "web", dir.path()).await;
    let former = channel_as(feed.address, &former).await;
    // One of an older build, that says nothing of its enrolment.
    let now = unix_now();
    let silent = Some(("web-1", now - 3_600, now + 600));
    let silent = channel(feed.address, &feed.handle.authorities(), silent).await.unwrap();
    assert!(is_replaced(welcome(silent.clone(), "node/web-1").await), "the node has enrolled since");

    feed.registry.remove("web-1");
    assert_eq!(welcome(former.clone(), "node/web-1").await.err().unwrap().code(), Code::PermissionDenied);
    feed.registry.add_at("web-1", &["web"], (now + 1) * 1000);
    for channel in [former, silent] {
        assert!(is_replaced(welcome(channel.clone(), "node/web-1").await));
        assert!(is_replaced(renewed(channel).await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_node_have_an_enrolment_each() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("both", &["lb", "dns"]);
    let edge = join(&feed, "both", "lb", &dir.path().join("edge")).await;
    let dns = join(&feed, "both", "dns", &dir.path().join("dns")).await;
    let (edge, dns) = (channel_as(feed.address, &edge).await, channel_as(feed.address, &dns).await);
    let at_edge = welcome(edge.clone(), EDGE).await.unwrap();
    assert!(welcome(dns.clone(), "dns/default").await.is_ok());
    // The one's certificate does not speak for the other.
    let status = welcome(dns.clone(), EDGE).await.err().unwrap();
    assert!(status.message().contains("\"dns\""), "{status}");
    // Another name server takes the place of this one; the edge goes on.
    let other = join(&feed, "both", "dns", &dir.path().join("other")).await;
    assert!(is_replaced(welcome(dns, "dns/default").await));
    assert!(welcome(channel_as(feed.address, &other).await, "dns/default").await.is_ok());
    at_edge.ack("epoch-1", 0).await;
    assert!(welcome(edge.clone(), EDGE).await.is_ok());
    renewed(edge.clone()).await.unwrap();
    // One that enrols for the whole node takes every place.
    let whole = join(&feed, "both", "", &dir.path().join("whole")).await;
    let whole = channel_as(feed.address, &whole).await;
    assert!(is_replaced(welcome(edge, EDGE).await));
    assert!(welcome(whole.clone(), EDGE).await.is_ok());
    assert!(welcome(whole, "dns/default").await.is_ok());
}

/// The registry is older than the certificate: it was put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_put_back_learns_the_newest_enrolment_again() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("web-1", &["web"]);
    let old = join(&feed, "web-1", "web", &dir.path().join("old")).await;
    let copy = feed.registry.nodes.lock().unwrap().clone();
    let new = join(&feed, "web-1", "web", &dir.path().join("new")).await;
    *feed.registry.nodes.lock().unwrap() = copy;
    assert!(welcome(channel_as(feed.address, &new).await, "node/web-1").await.is_ok());
    assert!(is_replaced(welcome(channel_as(feed.address, &old).await, "node/web-1").await));
}
