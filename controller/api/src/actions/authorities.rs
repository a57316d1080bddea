//! The certificate authorities of the cell: how they stand, and their exchange, a step at a time.

use axum::http::Method;
use hosting_resource::{Tier, timestamp};
use serde_json::Value;

use super::{Ask, Order, PLAIN};
use crate::bodies::{Authorities, Authority, AuthorityRef, RetireAuthority};
use crate::platform::{AuthorityChange, AuthorityError};
use crate::route::{Op, Route, Shape};
use crate::service::{Reply, to_json};
use crate::{Api, ApiError};

static AUTHORITIES: Ask = Ask {
    name: "authorities",
    answer: |api, _| Box::pin(async move { Ok(Reply::json(200, authorities(api).await?)) }),
    ..PLAIN
};
static ADD: Order =
    Order { name: "add-authority", give: |api, _, _| Box::pin(change(api, AuthorityChange::Add)) };
static PROMOTE: Order = Order {
    name: "promote-authority",
    give: |api, call, _| {
        Box::pin(async move {
            let AuthorityRef { fingerprint } = call.typed()?;
            change(api, AuthorityChange::Promote { fingerprint }).await
        })
    },
};
static RETIRE: Order = Order {
    name: "retire-authority",
    give: |api, call, _| {
        Box::pin(async move {
            let RetireAuthority { fingerprint, force } = call.typed()?;
            change(api, AuthorityChange::Retire { fingerprint, force }).await
        })
    },
};

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| {
        Route::scoped(method, path, "platform", Tier::Admin, op).gives(200, Shape::Named("Authorities"))
    };
    vec![
        route(Method::GET, "/platform/authorities", Op::Ask(&AUTHORITIES))
            .says("The certificate authorities that machines trust"),
        route(Method::POST, "/platform/authorities/add", Op::Order(&ADD))
            .says("Make a new authority: machines are told to trust it, and it does not issue yet"),
        route(Method::POST, "/platform/authorities/promote", Op::Order(&PROMOTE))
            .takes(Shape::Named("AuthorityRef"))
            .says("Let an authority issue from now on"),
        route(Method::POST, "/platform/authorities/retire", Op::Order(&RETIRE))
            .takes(Shape::Named("RetireAuthority"))
            .says("Trust an authority no longer"),
    ]
}

async fn authorities(api: &Api) -> Result<Value, ApiError> {
    let view = api.platform().authorities().await.map_err(refused)?;
    let items = view.items.into_iter();
    to_json(&Authorities {
        items: items.map(|one| Authority { fingerprint: one.fingerprint, issues: one.issues }).collect(),
        untold: view.untold,
        retirable_at: timestamp(view.retirable_at),
    })
}

async fn change(api: &Api, change: AuthorityChange) -> Result<Value, ApiError> {
    api.platform().change_authorities(change).await.map_err(refused)?;
    authorities(api).await
}

fn refused(error: AuthorityError) -> ApiError {
    match error {
        AuthorityError::Conflict(why) => ApiError::conflict(why),
        AuthorityError::Unknown(why) => ApiError::not_found(why),
        AuthorityError::Failed(_) => ApiError::internal(&error),
    }
}
