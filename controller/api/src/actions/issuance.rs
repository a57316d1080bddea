//! Certificates of public authorities: an attempt now, and when many would be done.

use axum::http::Method;
use hosting_jobs::kinds::certificate::hurry;
use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::{Doc, Id, Kind, Tier, timestamp};
use hosting_store::WriteTx;

use super::{Act, Ask, PLAIN};
use crate::bodies::issuance::ForecastView;
use crate::query::{Takes, param};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

static ISSUE: Act =
    Act { name: "issue certificate", repeats: None, carry_out: |call, tx| Box::pin(issue(call, tx)) };
static FORECAST: Ask = Ask {
    name: "certificate forecast",
    params: || {
        let brand = param(
            "brand_id",
            Takes::Text,
            "The brand whose names they are, where each has an account of its own.",
        );
        vec![param("names", Takes::Whole, "How many names are to get a certificate; absent: one."), brand]
    },
    answer: |api, call| Box::pin(forecast(api, call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    let (fqdn, authority) = (Kind::Fqdn.info(), Kind::CertificateAuthority.info());
    vec![
        Route::scoped(
            Method::POST,
            &format!("{}/issue", fqdn.item),
            fqdn.scope,
            Tier::Brand,
            Op::Act(&ISSUE),
        )
        .gives(202, Shape::View(Kind::Fqdn))
        .of(Some(Kind::Fqdn))
        .says("Try now to get a certificate for the host name, however long the last attempt made it wait"),
        Route::scoped(
            Method::GET,
            &format!("{}/forecast", authority.item),
            authority.scope,
            Tier::Admin,
            Op::Ask(&FORECAST),
        )
        .gives(200, Shape::Named("CertificateForecast"))
        .of(Some(Kind::CertificateAuthority))
        .says("When the last of so many new names could be ordered for, by what the authority allows"),
    ]
}

/// One attempt; nothing where no certificate is wanted.
async fn issue(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Fqdn).await?;
    let is_wanted = hosting_planner::attempt_now(tx, &Id::from(current.id.as_str())).await?;
    if is_wanted {
        hurry(tx, &current).await?;
    }
    let done = Done::of(call.current(tx, Kind::Fqdn).await?);
    Ok(if is_wanted { done.ringing() } else { done })
}

async fn forecast(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let names = call.query.number("names").unwrap_or(1);
    let mut tx = api.store().read().await?;
    let authority = call.subject(&mut tx, Kind::CertificateAuthority).await?;
    let authority = Doc::<CertificateAuthority>::read(authority).map_err(hosting_planner::PlanError::from)?;
    let account = authority.spec.account_of(call.query.text("brand_id"));
    let spent = authority.state.orders.get(&account).copied().unwrap_or_default();
    let now = api.store().now();
    let last = |orders: u64| timestamp(spent.last_of(orders, authority.spec.orders, now));
    let least = names.div_ceil(u64::from(authority.spec.names_per_order));
    let view = ForecastView {
        names,
        account,
        orders_at_least: least,
        orders_at_most: names,
        done_at_best: last(least),
        done_at_worst: last(names),
    };
    Ok(Reply::json(200, to_json(&view)?))
}
