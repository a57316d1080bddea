//! What the edges passed on for a tenant, by hour or by day (ADR 43).

use axum::http::Method;
use hosting_resource::{Kind, Tier, timestamp};
use hosting_store::{TRAFFIC_HOUR, Traffic};

use super::{Ask, PLAIN};
use crate::bodies::records::{TrafficRow, TrafficView};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::{Api, ApiError};

const DAY: i64 = 24 * TRAFFIC_HOUR;
/// Longest span of one answer, in days.
const MOST_DAYS: i64 = 400;
/// The same by the hour.
const MOST_DAYS_BY_HOUR: i64 = 31;

static TRAFFIC: Ask = Ask {
    name: "tenant traffic",
    params: query::of_traffic,
    answer: |api, call| Box::pin(traffic(api, call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::scoped(Method::GET, "/tenants/{id}/traffic", "tenants", Tier::Brand, Op::Ask(&TRAFFIC))
            .gives(200, Shape::Named("Traffic"))
            .of(Some(Kind::Tenant))
            .says("What its sites were asked for, hour by hour or day by day, the oldest first"),
    ]
}

async fn traffic(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let by_day = call.query.text("by") == Some("day");
    let step = if by_day { DAY } else { TRAFFIC_HOUR };
    let most = if by_day { MOST_DAYS } else { MOST_DAYS_BY_HOUR };
    let until = call.query.time("until").unwrap_or_else(|| api.store().now());
    let from = call.query.time("from").unwrap_or_else(|| until.saturating_sub(DAY));
    if until < from || until.saturating_sub(from) > most * DAY {
        let problem = format!(
            "must be at most {most} days before until{}",
            if by_day { "" } else { "; ask by=day for more" }
        );
        return Err(ApiError::invalid("from", problem));
    }
    // Whole steps: what is asked for from within one has all of it.
    let from = from.div_euclid(step).saturating_mul(step);
    let mut tx = api.store().read().await?;
    let tenant = call.subject(&mut tx, Kind::Tenant).await?;
    let mut total = Traffic::default();
    let mut steps: Vec<(i64, Traffic)> = Vec::new();
    for (hour, traffic) in tx.traffic(&tenant.id, from, until).await? {
        total += traffic;
        let begin = hour.div_euclid(step).saturating_mul(step);
        match steps.last_mut() {
            Some((last, sum)) if *last == begin => *sum += traffic,
            Some(_) | None => steps.push((begin, traffic)),
        }
    }
    let items =
        steps.into_iter().map(|(begin, traffic)| TrafficRow::of(Some(timestamp(begin)), traffic)).collect();
    let view = TrafficView { items, total: TrafficRow::of(None, total), has_more: false };
    Ok(Reply::json(200, to_json(&view)?))
}
