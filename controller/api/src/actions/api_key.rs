//! A new key in the place of one, which opens for a while still; when a key was used last.

use axum::http::Method;
use hosting_planner::Draft;
use hosting_resource::kinds::api_key::rotate;
use hosting_resource::{Kind, Tier, timestamp};
use hosting_store::{ReadTx, WriteTx};
use serde_json::{Map, Value};

use super::{Act, Observed};
use crate::ApiError;
use crate::prepare::entropy;
use crate::route::{Op, Route, Shape};
use crate::service::Call;
use crate::write::Done;

static ROTATE: Act =
    Act { name: "rotate API key", repeats: None, carry_out: |call, tx| Box::pin(replace(call, tx)) };

pub(super) static OBSERVED: Observed =
    Observed { kind: Kind::ApiKey, add: |_, tx, _, views| Box::pin(add_last_use(tx, views)) };

pub(super) fn routes() -> Vec<Route> {
    let path = "/api-keys/{id}/rotate";
    let route = Route::scoped(Method::POST, path, "api_keys", Tier::Admin, Op::Act(&ROTATE));
    vec![
        route
            .may_take(Shape::Named("Rotate"))
            .gives(200, Shape::View(Kind::ApiKey))
            .of(Some(Kind::ApiKey))
            .says("Put a new key in the place of this one; both open for a while"),
    ]
}

async fn replace(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::ApiKey).await?;
    // Whoever gets the new key can do what it can.
    call.may_grant(tx, Kind::ApiKey, &current.spec).await?;
    let (update, key) = rotate(&current, &call.body, tx.now(), &mut entropy)?;
    let warnings = update.warnings.clone();
    let updated = hosting_planner::update(tx, current, update).await?;
    Ok(Done::of(updated).also("key", key.into()).warning(&warnings))
}

/// When API keys were used last.
async fn add_last_use(tx: &mut ReadTx, views: &mut [Map<String, Value>]) -> Result<(), ApiError> {
    let id = |view: &Map<String, Value>| view.get("id").and_then(Value::as_str).map(str::to_owned);
    let ids: Vec<String> = views.iter().filter_map(id).collect();
    let uses = tx.key_uses(&ids).await?;
    for view in views {
        if let Some(at) = id(view).and_then(|id| uses.get(&id).copied()) {
            view.insert("last_used_at".to_owned(), timestamp(at).into());
        }
    }
    Ok(())
}
