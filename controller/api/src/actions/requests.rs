//! `GET /fqdns/{id}/requests`: what visitors ask a name for, as it happens (server-sent events, ADR 47).

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{Extensions, Method};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hosting_intent::Audience;
use hosting_planner::World as _;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Doc, Kind, Resource, Tier};
use hosting_store::ReadTx;
use serde_json::{Value, json};
use tokio::time::Interval;

use super::{Ask, PLAIN};
use crate::auth::Principal;
use crate::bodies::requests::RequestRow;
use crate::platform::RequestNews;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Caller, Reply};
use crate::wait::WaitingPlace;
use crate::{Api, ApiError};

const SCOPE: &str = "fqdns";
const GONE: &str = "the name is not there any more";

static REQUESTS: Ask = Ask {
    name: "requests",
    media: "text/event-stream",
    answer: |api, call| Box::pin(watch(api, call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::scoped(Method::GET, "/fqdns/{fqdnID}/requests", SCOPE, Tier::Brand, Op::Ask(&REQUESTS))
            .gives(200, Shape::Named("Request"))
            .of(Some(Kind::Fqdn))
            .says("Requests of the name as they end, from all edges: server-sent events"),
    ]
}

/// What is watched, and for whom.
struct Watch {
    api: Api,
    caller: Caller,
    fqdn: String,
    place: Place,
    news: BoxStream<'static, RequestNews>,
    beat: Interval,
    _seat: WaitingPlace,
}

/// Where a name's requests are told of.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    cluster: Audience,
    host: String,
    tenant: String,
}

impl Place {
    async fn of(tx: &mut ReadTx, fqdn: &Resource) -> Result<Self, ApiError> {
        let id = fqdn.tenant.clone().unwrap_or_default();
        let tenant = tx.resource(&id).await?.ok_or_else(|| ApiError::not_found(GONE))?;
        let tenant = Doc::<Tenant>::read(tenant).map_err(|error| ApiError::internal(&error))?;
        let cluster = Audience::edge(&tenant.spec.cluster_id).map_err(|_| {
            ApiError::conflict("the tenant is on no cluster yet, so no edge serves the name; place it first")
        })?;
        Ok(Self { cluster, host: fqdn.label.clone(), tenant: id })
    }
}

async fn watch(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let fqdn = call.subject(&mut tx, Kind::Fqdn).await?;
    let place = Place::of(&mut tx, &fqdn).await?;
    drop(tx);
    let seat = api.watching_place(&call.principal)?;
    let news =
        api.platform().watch_requests(&place.cluster, &place.host, &place.tenant).ok_or_else(|| {
            ApiError::unavailable(
                "as many names of the cluster are watched as may be; end a stream or come back",
            )
        })?;
    let every = api.heartbeat();
    let watch = Watch {
        beat: tokio::time::interval_at(tokio::time::Instant::now() + every, every),
        api: api.clone(),
        caller: call.caller.clone(),
        fqdn: fqdn.id,
        place,
        news,
        _seat: seat,
    };
    let frames = futures::stream::unfold(Some(Box::new(watch)), |watch| async move {
        let mut watch = watch?;
        let (frame, is_last) = watch.next().await?;
        Some((Ok::<_, Infallible>(frame), (!is_last).then_some(watch)))
    });
    Ok(Reply::stream(REQUESTS.media, Body::from_stream(frames), Extensions::new()))
}

impl Watch {
    /// What is told next, and whether nothing follows. `None`: the stream just ends.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        let stop = self.api.stopping();
        tokio::select! {
            news = self.news.next() => Some((told(news?), false)),
            _ = self.beat.tick() => Some(self.look().await),
            // The client comes back, to another controller or to this one after its restart.
            () = stop.cancelled() => None,
        }
    }

    /// The heartbeat, or the end when the key does not open the name any more, or the name has another place.
    async fn look(&mut self) -> (Bytes, bool) {
        match still_opens(&self.api, &self.caller, &self.fqdn, &self.place).await {
            Ok(()) => (Bytes::from_static(b": alive\n\n"), false),
            // A store that cannot be read takes no rights away.
            Err(error) if error.status.is_server_error() => (Bytes::from_static(b": alive\n\n"), false),
            Err(error) => (frame("end", &json!({"reason": error.message})), true),
        }
    }
}

async fn still_opens(api: &Api, caller: &Caller, fqdn: &str, place: &Place) -> Result<(), ApiError> {
    let principal: Principal = api.still(caller).await?;
    principal.require_read(SCOPE)?;
    let mut tx = api.store().read().await?;
    let fqdn = tx.resource(fqdn).await?.ok_or_else(|| ApiError::not_found(GONE))?;
    principal.may_touch(&fqdn)?;
    if Place::of(&mut tx, &fqdn).await? == *place {
        return Ok(());
    }
    Err(ApiError::conflict("the name is served elsewhere now; watch it anew"))
}

/// What one who watches is told.
fn told(news: RequestNews) -> Bytes {
    match news {
        RequestNews::Edges(edges) => frame("edges", &json!({"edges": edges})),
        RequestNews::Requests { lines, missed } => {
            let mut frames = Vec::new();
            if missed > 0 {
                frames.extend_from_slice(&frame("missed", &json!({"requests": missed})));
            }
            for line in lines {
                match RequestRow::of(&line).and_then(serde_json::to_value) {
                    Ok(row) => frames.extend_from_slice(&frame("request", &row)),
                    Err(error) => {
                        tracing::warn!(%error, "an edge told of a request in a form that is unknown here")
                    }
                }
            }
            frames.into()
        }
    }
}

fn frame(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
