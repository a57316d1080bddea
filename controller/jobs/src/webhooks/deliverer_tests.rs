//! What a round sees of webhooks and of the log, with changes put between its reads.

use hosting_resource::Kind;
use hosting_store::{Database, Kek, StoreConfig};
use serde_json::{Value, json};

use super::*;
use crate::outgoing::CallbackRules;

async fn create(store: &Store, kind: Kind, body: Value) -> String {
    let creation =
        kind.def().create(None, body.as_object().unwrap(), &mut |bytes| rand::fill(bytes)).unwrap();
    let made = store
        .write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::create(tx, creation).await })
        })
        .await
        .unwrap();
    made.value.into_iter().next().unwrap().id
}

/// A rotated secret signs all that happens after its rotation, and a changed URL gets it, also when word of the change has not come yet.
#[tokio::test]
async fn an_event_is_posted_as_its_webhook_was_changed_before_it() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
    let config = StoreConfig::of(Database::Sqlite(folder.path().join("store.db")));
    let store = Store::open(&config, kek).await.unwrap();
    let body = json!({"name": "before", "url": "https://a.example", "kinds": ["region"]});
    let id = create(&store, Kind::Webhook, body).await;
    let config = WebhookConfig::new(CallbackRules::default());
    let mut deliverer = Deliverer::new(store.clone(), config, WebhookMetrics::default());
    deliverer.round().await.unwrap();
    assert_eq!(deliverer.receivers[&id].spec.name, "before");

    let current = store.read().await.unwrap().resource(&id).await.unwrap().unwrap();
    let changed = json!({"name": "after"});
    let update = Kind::Webhook.def().update(&current, changed.as_object().unwrap()).unwrap();
    let written = store.write(Origin::default(), move |tx| {
        Box::pin(async move { hosting_planner::update(tx, current, update).await })
    });
    written.await.unwrap();
    create(&store, Kind::Region, json!({"name": "r"})).await;
    // Nothing is heard of the change: the round finds it in the log.
    deliverer.round().await.unwrap();
    let receiver = &deliverer.receivers[&id];
    assert!(receiver.is_busy && receiver.next.is_some());
    assert_eq!(receiver.spec.name, "after");
}
