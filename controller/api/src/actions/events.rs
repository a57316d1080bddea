//! `GET /events`: what becomes of resources, as it happens (server-sent events). A key hears of what it may read, and nothing else.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Extensions, Method};
use hosting_resource::Tier;

use super::{Ask, PLAIN};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply};
use crate::watcher::{Handover, Watcher};
use crate::{Api, ApiError};

static EVENTS: Ask = Ask {
    name: "events",
    params: query::of_events,
    media: "text/event-stream",
    answer: |api, call| Box::pin(async move { watch(api, call) }),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::scoped(Method::GET, "/events", "events", Tier::Brand, Op::Ask(&EVENTS))
            .gives(200, Shape::Named("ResourceEvent"))
            .says("What becomes of resources, as it happens: server-sent events, resumable by revision"),
    ]
}

/// A watcher as server-sent events.
enum Telling {
    /// Nothing was told yet.
    Before(Handover),
    Going(Box<Watcher>),
    Over,
}

fn watch(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let handover = Handover::new(Watcher::of(api, call)?);
    let frames = futures::stream::unfold(Telling::Before(handover.clone()), |telling| async move {
        let mut watcher = match telling {
            Telling::Before(handover) => Box::new(handover.take()?),
            Telling::Going(watcher) => watcher,
            Telling::Over => return None,
        };
        let said = watcher.next().await;
        let next = if said.is_last() { Telling::Over } else { Telling::Going(watcher) };
        Some((Ok::<_, Infallible>(said.frame()?), next))
    });
    let mut beside = Extensions::new();
    beside.insert(handover);
    Ok(Reply::stream(EVENTS.media, Body::from_stream(frames), beside))
}
