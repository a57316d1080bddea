//! One process of a node takes the subscription over from another, and gives it back.

use std::time::Duration;

use hosting_intent::{Key, Kind};
use hosting_intent_sync::identity::{Enrolment, Identity, IdentityError, TokenSource};
use hosting_ledger::{Ledger, LedgerError};

use crate::support::{EDGE, Feed, Node};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_lent_is_anothers_alone_and_goes_on_when_it_comes_back() {
    let (feed, dir) = (Feed::start().await, tempfile::tempdir().unwrap());
    feed.registry.add("edge-1", &["lb"]);
    let first = feed.store.route("a.example");
    let identity = feed.enrol("edge-1", dir.path()).await.unwrap();
    let old = Node::start(&identity, EDGE, dir.path());
    feed.applied("edge-1", EDGE, first).await;
    let again = Enrolment { token: TokenSource::None, ..feed.enrolment("edge-1", dir.path()).await };
    let busy = Identity::load_or_enroll(&again).await;
    assert!(matches!(busy, Err(IdentityError::InUse { .. })));

    tokio::time::timeout(LIMIT, old.lending.lend()).await.unwrap().unwrap();
    // It goes on with what it knows, and hears nothing.
    let (second, refused) = (feed.store.route("b.example"), feed.metric("feed_refused_total"));
    let identity = Identity::load_or_enroll(&again).await.unwrap();
    let new = Node::start(&identity, EDGE, dir.path());
    new.until("it is where the other one was, and then further", |status| {
        status.as_ref().is_some_and(|status| {
            status.caught_up && status.durable.as_ref().is_some_and(|at| at.revision >= second)
        })
    })
    .await;
    assert_eq!(new.metric("feed_subscriber_resumes_total{kind=\"Snapshot\"}"), 0, "from the ledger");
    assert_eq!(old.names(), ["a.example".to_owned()].into());
    assert_eq!(feed.fleet.all().len(), 1, "one node, whichever process it is");
    let third = feed.store.commit(EDGE, Vec::new(), vec![Key::new(Kind::Route, "a.example")]);
    new.until("it follows", |status| {
        status.as_ref().is_some_and(|status| status.durable.as_ref().is_some_and(|at| at.revision >= third))
    })
    .await;

    // The other one is still there: nothing comes back before it is gone.
    old.lending.take_back();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(old.names(), ["a.example".to_owned()].into());
    new.stop().await;
    drop(identity);
    let caught_up = |status: &Option<hosting_intent_sync::subscriber::Status>| {
        status.as_ref().is_some_and(|status| {
            status.caught_up && status.durable.as_ref().is_some_and(|at| at.revision >= third)
        })
    };
    old.until("it is back, and its ledger with it", caught_up).await;
    assert_eq!(old.names(), ["b.example".to_owned()].into(), "also what went meanwhile");
    assert_eq!(feed.metric("feed_refused_total"), refused, "nobody was refused");
    let ledger = Ledger::open(dir.path().join("edge-c1.redb"), EDGE);
    assert!(matches!(ledger, Err(LedgerError::Locked { .. })));
    old.stop().await;
}
