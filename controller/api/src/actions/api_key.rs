//! A new key in the place of one, which opens for a while still.

use axum::http::Method;
use hosting_planner::Draft;
use hosting_resource::kinds::api_key::rotate;
use hosting_resource::{Kind, Tier};
use hosting_store::WriteTx;

use super::Act;
use crate::ApiError;
use crate::prepare::entropy;
use crate::route::{Op, Route, Shape};
use crate::service::Call;
use crate::write::Done;

static ROTATE: Act =
    Act { name: "rotate API key", repeats: None, carry_out: |call, tx| Box::pin(replace(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    let path = "/api-keys/{id}/rotate";
    let route = Route::scoped(Method::POST, path, "api_keys", Tier::Admin, Op::Act(&ROTATE));
    vec![
        route
            .may_take(Shape::Named("RotateKey"))
            .gives(200, Shape::View(Kind::ApiKey))
            .of(Some(Kind::ApiKey))
            .says("Put a new key in the place of this one; both open for a while"),
    ]
}

async fn replace(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::ApiKey).await?;
    // Whoever gets the new key can do what it can.
    if let Some(grants) = Kind::ApiKey.def().grants(&current.spec) {
        call.principal.may_grant(&grants)?;
    }
    let (update, key) = rotate(&current, &call.body, tx.now(), &mut entropy)?;
    let warnings = update.warnings.clone();
    let updated = hosting_planner::update(tx, current, update).await?;
    Ok(Done::of(updated).also("key", key.into()).warning(&warnings))
}
