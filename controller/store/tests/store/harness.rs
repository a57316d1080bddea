//! A store in a temporary folder, and short words for what the tests write.

use std::path::Path;

use futures::future::BoxFuture;
use hosting_intent::{Audience, Bytes, Cause, Key, Kind as IntentKind};
use hosting_planner::{ApplyError, Change, Draft, IntentChange};
use hosting_resource::{Facet, Index, Kind, Ref, Resource, Status, Unique, search};
use hosting_store::{Committed, Database, Kek, Origin, Store, StoreConfig, WriteError, WriteTx};
use serde_json::{Map, Value, json};

use crate::BACKEND;
use crate::databases::Place;

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) place: Place,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let place = Place::new(BACKEND);
        let store = open(&place).await;
        Self { store, place }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.place.path()
    }
}

pub(crate) fn config(database: &Database) -> StoreConfig {
    let mut config = StoreConfig::of(database.clone());
    config.index = index;
    config
}

pub(crate) fn kek(place: &Place) -> Kek {
    Kek::load_or_create(&place.kek()).unwrap()
}

pub(crate) async fn open(place: &Place) -> Store {
    Store::open(&config(&place.database), kek(place)).await.unwrap()
}

/// `spec.name` is unique within the parent, `spec.webroot_id` and `spec.shard_id` refer, `spec.customer_id` is a facet; `search` finds as it does.
pub(crate) fn index(resource: &Resource) -> Index {
    let mut index = Index::default();
    let text = |field: &str| resource.spec.get(field).and_then(Value::as_str).map(str::to_owned);
    index.facets.extend(text("customer_id").map(|value| Facet { field: "customer_id", value }));
    index.facets.extend(search::facets(resource.kind.info(), &resource.id, &resource.label));
    if resource.status != Status::Deleting {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.extend(text("name").map(|key| Unique { scope, key, field: "name" }));
        let to = text("webroot_id");
        index.refs.extend(to.map(|to| Ref { relation: "webroot_id", kind: Kind::Webroot, to }));
        let to = text("shard_id");
        index.refs.extend(to.map(|to| Ref { relation: "shard_id", kind: Kind::Shard, to }));
    }
    index
}

pub(crate) fn resource(kind: Kind, id: &str, spec: Value) -> Resource {
    let Value::Object(spec) = spec else { panic!("a spec is an object") };
    Resource {
        id: id.to_owned(),
        kind,
        parent: None,
        tenant: None,
        brand: None,
        label: id.to_owned(),
        status: Status::Active,
        status_message: None,
        shape: 1,
        generation: 1,
        created_revision: 1,
        created_at: 1_000,
        updated_at: 1_000,
        spec,
        state: Map::new(),
    }
}

pub(crate) fn tenant(id: &str) -> Resource {
    resource(Kind::Tenant, id, json!({}))
}

pub(crate) fn route(name: &str) -> Key {
    Key::new(IntentKind::Route, name)
}

pub(crate) fn at(audience: &str) -> Audience {
    audience.parse().unwrap()
}

pub(crate) fn set(audience: &str, key: &str, owner: &str, value: &[u8]) -> IntentChange {
    IntentChange {
        audience: at(audience),
        key: route(key),
        owner: owner.to_owned(),
        value: Some(Bytes::copy_from_slice(value)),
        cause: Cause::Person,
        traceparent: None,
        rollout: 0,
    }
}

pub(crate) fn withdraw(audience: &str, key: &str, owner: &str) -> IntentChange {
    IntentChange { value: None, ..set(audience, key, owner, b"") }
}

pub(crate) fn put(resources: impl Into<Vec<Resource>>) -> Change {
    Change { put: resources.into(), ..Change::default() }
}

pub(crate) fn remove(ids: &[&str]) -> Change {
    Change { remove: ids.iter().map(|id| (*id).to_owned()).collect(), ..Change::default() }
}

pub(crate) fn intents(intents: impl Into<Vec<IntentChange>>) -> Change {
    Change { intents: intents.into(), ..Change::default() }
}

pub(crate) async fn apply(store: &Store, change: Change) -> Result<Committed<()>, WriteError<ApplyError>> {
    let origin = Origin { traceparent: "00-trace".into(), actor: Some("key_1".into()), ..Origin::default() };
    store.write(origin, move |tx| Box::pin(async move { tx.apply(change).await })).await
}

/// Applies what must be accepted; its revision.
pub(crate) async fn applied(store: &Store, change: Change) -> u64 {
    apply(store, change).await.unwrap().revision
}

pub(crate) async fn write<T, F>(store: &Store, mutation: F) -> Result<Committed<T>, WriteError<ApplyError>>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, ApplyError>> + Send + 'static,
{
    store.write(Origin::default(), mutation).await
}
