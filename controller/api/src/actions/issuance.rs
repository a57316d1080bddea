//! Certificates of public authorities: an attempt now, when many would be done, and the replacement of many.

use axum::http::Method;
use hosting_jobs::kinds::reissue::{self as job, ReissueParams};
use hosting_planner::{MOST_REISSUED, PlanError, ReissueOf, asked, begin_reissue, survey};
use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::{Doc, Id, Kind, Tier, timestamp};
use hosting_store::WriteTx;

use super::{Act, Ask, PLAIN};
use crate::bodies::issuance::{ForecastView, ReissueBody};
use crate::query::{Takes, param};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

static ISSUE: Act =
    Act { name: "issue certificate", repeats: None, carry_out: |call, tx| Box::pin(issue(call, tx)) };
static REISSUE: Act =
    Act { name: "reissue certificates", repeats: None, carry_out: |call, tx| Box::pin(reissue(call, tx)) };
static FORECAST: Ask = Ask {
    name: "certificate forecast",
    params: || {
        let brand = param(
            "brand_id",
            Takes::Text,
            "The brand whose names they are, where each has an account of its own.",
        );
        let from = param(
            "from_authority_id",
            Takes::Text,
            "The names are those whose certificates of this authority would be replaced: so many at most, absent: 100000. Each is looked at.",
        );
        vec![
            param("names", Takes::Whole, "How many names are to get a certificate; absent: one."),
            brand,
            from,
        ]
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
        .says("When the last of so many names could be ordered for, by what the authority allows"),
        Route::scoped(
            Method::POST,
            &format!("{}/reissue", authority.item),
            authority.scope,
            Tier::Admin,
            Op::Act(&REISSUE),
        )
        .takes(Shape::Named("Reissue"))
        .gives(202, Shape::View(Kind::CertificateAuthority))
        .of(Some(Kind::CertificateAuthority))
        .says("Replace certificates of the authority now, by others of its own or of another authority"),
    ]
}

/// One attempt; nothing where no certificate is wanted.
async fn issue(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Fqdn).await?;
    let is_wanted = hosting_planner::attempt_now(tx, &Id::from(current.id.as_str())).await?;
    let done = Done::of(call.current(tx, Kind::Fqdn).await?);
    Ok(if is_wanted { done.ringing() } else { done })
}

async fn forecast(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let authority = call.subject(&mut tx, Kind::CertificateAuthority).await?;
    let authority = Doc::<CertificateAuthority>::read(authority).map_err(PlanError::from)?;
    let account = authority.spec.account_of(call.query.text("brand_id"));
    let now = api.store().now();
    if let Some(from) = call.query.text("from_authority_id") {
        let from = call.named(&mut tx, Kind::CertificateAuthority, from).await?;
        let names = call.query.number("names").unwrap_or(MOST_REISSUED).min(MOST_REISSUED);
        let from = Doc::<CertificateAuthority>::read(from).map_err(PlanError::from)?;
        let of = ReissueOf { from: from.typed_id(), to: Some(authority.typed_id()), names };
        let surveyed = survey(&mut tx, &of).await?;
        let orders = surveyed.orders(authority.spec.names_per_order);
        let done = timestamp(surveyed.done_at(&from, &authority, &account, now));
        let view = ForecastView {
            names: surveyed.names,
            account,
            orders_at_least: orders,
            orders_at_most: orders,
            done_at_best: done.clone(),
            done_at_worst: done,
        };
        return Ok(Reply::json(200, to_json(&view)?));
    }
    let names = call.query.number("names").unwrap_or(1);
    let spent = authority.state.orders.get(&account).copied().unwrap_or_default();
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

/// Tells the names of an authority's certificates that they get others.
async fn reissue(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let from = call.current(tx, Kind::CertificateAuthority).await?;
    let body = call.typed::<ReissueBody>()?;
    let names = body.names.unwrap_or(MOST_REISSUED);
    if !(1..=MOST_REISSUED).contains(&names) {
        return Err(ApiError::invalid("names", format!("must be from 1 to {MOST_REISSUED}")));
    }
    let to = match &body.to_authority_id {
        None => None,
        Some(to) => {
            let to = call.named(tx, Kind::CertificateAuthority, to).await;
            Some(to.map_err(|_| {
                ApiError::invalid("to_authority_id", "there is no such certificate authority")
            })?)
        }
    };
    let of = ReissueOf {
        from: Id::from(from.id.as_str()),
        to: to.as_ref().map(|to| Id::from(to.id.as_str())),
        names,
    };
    if asked(tx, &of).await?.is_none() {
        let problem = "may not be asked: it is not enabled, or its terms are not agreed to";
        return Err(ApiError::invalid("to_authority_id", problem));
    }
    let params = ReissueParams { from: from.id.clone(), to: to.map(|to| to.id), names };
    if job::enqueue(tx, params).await?.is_none() {
        return Err(ApiError::conflict(format!(
            "certificates of {} are being replaced already; GET /certificate-authorities/{} says how far that is",
            from.label, from.id
        )));
    }
    begin_reissue(tx, &of).await?;
    Ok(Done::of(call.current(tx, Kind::CertificateAuthority).await?).ringing())
}
