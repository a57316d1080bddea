//! The keys that seal all others: how they stand, a new one, an end to the former ones.

use axum::http::Method;
use hosting_resource::Tier;
use hosting_store::{Origin, Store};
use serde_json::Value;

use super::{Ask, Order, PLAIN};
use crate::bodies::Keks;
use crate::platform::{KekChange, KekChangeError};
use crate::route::{Op, Route, Shape};
use crate::service::{Reply, to_json};
use crate::{Api, ApiError};

static KEKS: Ask = Ask {
    name: "keks",
    answer: |api, _| Box::pin(async move { Ok(Reply::json(200, to_json(&keks(api.store()).await?)?)) }),
    ..PLAIN
};
static ROTATE: Order =
    Order { name: "rotate-kek", give: |api, _, _: Origin| Box::pin(change(api, KekChange::Rotate)) };
static FORGET: Order =
    Order { name: "forget-keks", give: |api, _, _: Origin| Box::pin(change(api, KekChange::ForgetFormer)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| {
        Route::scoped(method, path, "platform", Tier::Admin, op).gives(200, Shape::Named("Keks"))
    };
    vec![
        route(Method::GET, "/platform/keks", Op::Ask(&KEKS)).says("The key-encryption keys of the store"),
        route(Method::POST, "/platform/keks/rotate", Op::Order(&ROTATE))
            .says("Make a new key-encryption key, and seal everything anew"),
        route(Method::POST, "/platform/keks/forget", Op::Order(&FORGET))
            .says("Drop the former key-encryption keys: backups that they sealed open no more"),
    ]
}

async fn keks(store: &Store) -> Result<Keks, ApiError> {
    let kek = store.kek();
    Ok(Keks {
        current: kek.id().to_owned(),
        former: kek.former_ids().map(str::to_owned).collect(),
        resealed: store.is_resealed().await?,
    })
}

async fn change(api: &Api, change: KekChange) -> Result<Value, ApiError> {
    api.platform().change_keks(change).await.map_err(|error| match error {
        KekChangeError::Conflict(why) => ApiError::conflict(why),
        KekChangeError::Failed(_) => ApiError::internal(&error),
    })?;
    to_json(&keks(api.store()).await?)
}
