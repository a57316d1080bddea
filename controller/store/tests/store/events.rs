//! The log of events for those who must miss nothing, and how far webhooks are in it.

use hosting_planner::{ApplyError, Draft};
use hosting_resource::Kind;
use hosting_store::{
    EventPlace, LoggedEvent, ResourceChange, Store, StoreError, WebhookDelivery, WebhookPosition,
};
use serde_json::json;

use crate::harness::{Bench, applied, open, put, remove, resource, tenant, write};

async fn logged(store: &Store) -> Vec<LoggedEvent> {
    store.read().await.unwrap().events_after(EventPlace { revision: 0, place: 0 }, 1_000).await.unwrap()
}

fn follower(id: &str) -> hosting_resource::Resource {
    resource(Kind::Webhook, id, json!({}))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_while_somebody_follows_and_cost_nothing_before() {
    let bench = Bench::new().await;
    applied(&bench.store, put([tenant("t_0")])).await;
    let before = bench.store.stats().statements;
    applied(&bench.store, put([tenant("t_1"), tenant("t_1b")])).await;
    let unfollowed = bench.store.stats().statements - before;
    assert_eq!(logged(&bench.store).await, []);

    let begun = applied(&bench.store, put([follower("h_1")])).await;
    applied(&bench.store, put([tenant("t_warm")])).await;
    let before = bench.store.stats().statements;
    let several = applied(&bench.store, put([tenant("t_2"), tenant("t_3")])).await;
    assert_eq!(bench.store.stats().statements - before, unfollowed + 1, "one statement for a group");
    let refused = write::<(), _>(&bench.store, |tx| {
        Box::pin(async move {
            tx.apply(put([tenant("t_ghost")])).await?;
            Err(ApplyError::TooLarge(7))
        })
    });
    refused.await.unwrap_err();
    let gone = applied(&bench.store, remove(&["t_2"])).await;
    let events = logged(&bench.store).await;
    let told: Vec<_> =
        events.iter().map(|one| (one.at.revision, one.at.place, one.event.id.as_str())).collect();
    assert_eq!(
        told,
        [
            (begun, 0, "h_1"),
            (begun + 1, 0, "t_warm"),
            (several, 0, "t_2"),
            (several, 1, "t_3"),
            (gone, 0, "t_2")
        ]
    );
    assert_eq!(events[4].event.change, ResourceChange::Deleted);
    let behind = async |at| bench.store.read().await.unwrap().events_after(at, 10).await.unwrap().len();
    assert_eq!(behind(EventPlace { revision: several, place: 0 }).await, 2);
    assert_eq!(behind(EventPlace::end_of(gone)).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_after_a_restart_and_ends_with_the_last_follower() {
    let bench = Bench::new().await;
    applied(&bench.store, put([follower("h_1")])).await;
    bench.store.close().await;
    let store = open(&bench.place).await;
    applied(&store, put([tenant("t_1")])).await;
    assert_eq!(logged(&store).await.len(), 2);
    applied(&store, remove(&["h_1"])).await;
    applied(&store, put([tenant("t_2")])).await;
    assert_eq!(logged(&store).await.len(), 3, "its own end is the last that is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_says_up_to_where() {
    let bench = Bench::new().await;
    let first = applied(&bench.store, put([follower("h_1")])).await;
    for n in 0..5 {
        applied(&bench.store, put([tenant(&format!("t_{n}"))])).await;
    }
    let read = || async { bench.store.read().await.unwrap() };
    assert_eq!(read().await.event_floor().await.unwrap(), 0);
    assert_eq!(read().await.event_before(2).await.unwrap(), Some(first + 3));
    assert_eq!(read().await.event_before(6).await.unwrap(), None);
    assert_eq!(read().await.event_older_than(i64::MAX).await.unwrap(), Some(first + 5));
    assert_eq!(read().await.event_older_than(0).await.unwrap(), None);
    assert!(!bench.store.trim_events(first + 2).await.unwrap(), "there are not more");
    assert_eq!(read().await.event_floor().await.unwrap(), first + 2);
    assert_eq!(logged(&bench.store).await.len(), 3);
    assert!(!bench.store.trim_events(first).await.unwrap());
    assert_eq!(read().await.event_floor().await.unwrap(), first + 2, "it never goes back");
}

fn delivery(webhook: &str, n: i64) -> WebhookDelivery {
    WebhookDelivery {
        webhook: webhook.into(),
        id: format!("evt_{n}"),
        event_type: "resource.updated".into(),
        body: "{}".into(),
        status: "delivered",
        attempts: 1,
        created_at: n / 2,
        attempted_at: Some(n),
        duration_ms: Some(5),
        response_status: Some(204),
        answer: Some("thanks".into()),
        error: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_and_deliveries_are_kept_under_the_lease() {
    let bench = Bench::new().await;
    let lease = bench.store.hold("webhooks", std::time::Duration::from_secs(10)).await.unwrap().unwrap();
    let position = WebhookPosition {
        webhook: "h_1".into(),
        epoch: "e".into(),
        at: EventPlace { revision: 7, place: 2 },
        attempts: 3,
        next_at: 5,
        failing_since: Some(4),
        delivered: 2,
        dropped: 1,
        delivered_at: Some(3),
        error: Some("no".into()),
    };
    let deliveries: Vec<_> = (0..7).map(|n| delivery("h_1", n)).collect();
    bench.store.record_webhooks(&lease, vec![position.clone()], deliveries.clone()).await.unwrap();
    let again = WebhookDelivery { status: "dropped", attempts: 9, ..delivery("h_1", 3) };
    let moved = WebhookPosition { at: EventPlace { revision: 8, place: 0 }, failing_since: None, ..position };
    bench.store.record_webhooks(&lease, vec![moved.clone()], vec![again.clone()]).await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.webhook_positions(&["h_0".into(), "h_1".into()]).await.unwrap(), [moved]);
    assert_eq!(tx.webhook_delivery("h_1", "evt_3").await.unwrap(), Some(again));
    assert_eq!(tx.webhook_delivery("h_2", "evt_3").await.unwrap(), None, "another webhook's");
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (page, more) = tx.webhook_deliveries("h_1", after.as_deref(), 2).await.unwrap();
        seen.extend(page.iter().map(|one| one.id.clone()));
        after = seen.last().cloned();
        if !more {
            break;
        }
    }
    let newest_first: Vec<String> = (0..7).rev().map(|n| format!("evt_{n}")).collect();
    assert_eq!(seen, newest_first);
    drop(tx);

    assert_eq!(bench.store.trim_deliveries("h_1", 4, 0).await.unwrap(), 3);
    assert_eq!(bench.store.trim_deliveries("h_1", 4, 3).await.unwrap(), 3, "older than is kept");
    assert_eq!(bench.store.trim_deliveries("h_1", 4, 3).await.unwrap(), 0);
    let asked = WebhookDelivery { status: "pending", ..delivery("h_1", 20) };
    bench.store.record_webhooks(&lease, Vec::new(), vec![asked.clone()]).await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.pending_deliveries(10).await.unwrap(), [asked]);
    assert_eq!(tx.positioned_webhooks("", 10).await.unwrap(), ["h_1"]);
    drop(tx);
    bench.store.forget_webhooks(vec!["h_1".into()]).await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.positioned_webhooks("", 10).await.unwrap(), Vec::<String>::new());
    assert_eq!(tx.pending_deliveries(10).await.unwrap(), []);
    drop(tx);

    // On a store that several controllers share, one that was replaced writes nothing more.
    if bench.store.is_shared() {
        let other = open(&bench.place).await;
        bench.store.let_go(lease.clone()).await.unwrap();
        other.hold("webhooks", std::time::Duration::from_secs(10)).await.unwrap().unwrap();
        let late = bench.store.record_webhooks(&lease, Vec::new(), vec![delivery("h_1", 1)]).await;
        assert!(matches!(late, Err(StoreError::LostLease)), "{late:?}");
    }
}
