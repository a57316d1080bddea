//! What tenants, brands and subscriptions have, beside what they may have.

use axum::http::Method;
use hosting_planner::LimitFrom;
use hosting_resource::{Kind, Tier};

use super::{Ask, PLAIN};
use crate::bodies::records::{Usage, UsageRow};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::{Api, ApiError};

static TENANT: Ask =
    Ask { name: "tenant usage", answer: |api, call| Box::pin(usage(api, call, Kind::Tenant)), ..PLAIN };
static BRAND: Ask =
    Ask { name: "brand usage", answer: |api, call| Box::pin(usage(api, call, Kind::Brand)), ..PLAIN };
static SUBSCRIPTION: Ask = Ask {
    name: "subscription usage",
    answer: |api, call| Box::pin(usage(api, call, Kind::Subscription)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    let route = |kind: Kind, ask| {
        let info = kind.info();
        Route::scoped(Method::GET, &format!("{}/usage", info.item), info.scope, Tier::Brand, Op::Ask(ask))
            .gives(200, Shape::Named("Usage"))
            .of(Some(kind))
            .says(format!("What it has, beside what it may have: {}", info.title))
    };
    vec![route(Kind::Tenant, &TENANT), route(Kind::Brand, &BRAND), route(Kind::Subscription, &SUBSCRIPTION)]
}

async fn usage(api: &Api, call: &Call, kind: Kind) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let owner = call.subject(&mut tx, kind).await?;
    let rows = hosting_planner::usage(&mut tx, &owner).await?;
    let items = rows.into_iter().map(|row| UsageRow {
        kind: row.kind.info().scope,
        used: row.used,
        limit: row.limit.map(|(limit, _)| limit),
        from: row.limit.map(|(_, from)| match from {
            LimitFrom::Own => "own",
            LimitFrom::Package => "package",
        }),
    });
    Ok(Reply::json(200, to_json(&Usage { items: items.collect(), has_more: false })?))
}
