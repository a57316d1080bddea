//! `GET /events`: what becomes of resources, as it happens (server-sent events). A key hears of what it may read, and nothing else.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Method;
use hosting_resource::{Kind, Tier};
use tokio::sync::watch;
use tokio::time::Interval;

use super::{Ask, PLAIN};
use crate::auth::Principal;
use crate::events::{Events, Found, Place, Told, closed, heartbeat, missed, too_slow};
use crate::query::{self, Query};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Caller, Reply};
use crate::wait::WaitingPlace;
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

/// What a watcher hears of.
struct Filter {
    kinds: BTreeSet<Kind>,
    /// Brands that the key sees; `None`: all, and what has no brand.
    brands: Option<Vec<String>>,
    tenant: Option<String>,
    brand: Option<String>,
}

impl Filter {
    fn of(principal: &Principal, query: &Query) -> Result<Self, ApiError> {
        let asked = query.names("kind");
        let may_read = |kind: Kind| {
            principal.require_read(kind.info().scope)?;
            if kind.info().tier == Tier::Admin { principal.require_admin() } else { Ok(()) }
        };
        let mut kinds = BTreeSet::new();
        for kind in Kind::ALL.iter().copied() {
            match &asked {
                Some(asked) if !asked.contains(&kind.name()) => {}
                Some(_) => {
                    may_read(kind)?;
                    kinds.insert(kind);
                }
                None if may_read(kind).is_ok() => {
                    kinds.insert(kind);
                }
                None => {}
            }
        }
        let text = |name: &str| query.text(name).map(str::to_owned);
        Ok(Self { kinds, brands: principal.visible(), tenant: text("tenant_id"), brand: text("brand_id") })
    }

    fn lets(&self, told: &Told) -> bool {
        let is_own = |brands: &Vec<String>| told.brand.as_ref().is_some_and(|brand| brands.contains(brand));
        self.kinds.contains(&told.kind)
            && self.brands.as_ref().is_none_or(is_own)
            && (self.tenant.is_none() || self.tenant == told.tenant)
            && (self.brand.is_none() || self.brand == told.brand)
    }
}

fn watch(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let filter = Filter::of(&call.principal, &call.query)?;
    let seat = api.watching_place(&call.principal)?;
    let events = Arc::clone(api.events());
    let (place, first) = match events.begin(call.query.seconds(query::SINCE)) {
        Ok((place, revision)) => (place, heartbeat(revision)),
        Err((place, head)) => (place, missed(head)),
    };
    let every = api.heartbeat();
    let watcher = Watcher {
        moves: events.moves(),
        beat: tokio::time::interval_at(tokio::time::Instant::now() + every, every),
        api: api.clone(),
        caller: call.caller.clone(),
        query: call.query.clone(),
        events,
        filter,
        place,
        first: Some(first),
        ended: false,
        _seat: seat,
    };
    let frames = futures::stream::unfold(watcher, |mut watcher| async move {
        let frame = watcher.next().await?;
        Some((Ok::<_, Infallible>(frame), watcher))
    });
    Ok(Reply::stream(EVENTS.media, Body::from_stream(frames)))
}

struct Watcher {
    api: Api,
    caller: Caller,
    query: Query,
    events: Arc<Events>,
    filter: Filter,
    place: Place,
    moves: watch::Receiver<u64>,
    beat: Interval,
    first: Option<Bytes>,
    ended: bool,
    _seat: WaitingPlace,
}

impl Watcher {
    /// What is sent next; `None` at the end. It is asked for when the one before is on its way.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let stop = self.api.stopping();
        while !self.ended {
            // Marked as seen before looking.
            self.moves.borrow_and_update();
            match self.events.after(self.place) {
                Found::Events(told, place, head) => {
                    let is_more = place != self.place;
                    self.place = place;
                    let wanted: Vec<&Bytes> =
                        told.iter().filter(|told| self.filter.lets(told)).map(|told| &told.frame).collect();
                    match wanted.as_slice() {
                        [] if is_more => continue,
                        [] => {}
                        [one] => return Some((*one).clone()),
                        several => {
                            let several: Vec<&[u8]> = several.iter().map(|frame| frame.as_ref()).collect();
                            return Some(several.concat().into());
                        }
                    }
                    tokio::select! {
                        Ok(()) = self.moves.changed() => {}
                        _ = self.beat.tick() => return Some(self.look_at_key(head).await),
                        // The client comes back, to another controller or to this one after its restart.
                        () = stop.cancelled() => self.ended = true,
                    }
                }
                Found::Reset(place, head) => {
                    self.place = place;
                    return Some(missed(head));
                }
                Found::TooSlow(head) => {
                    self.ended = true;
                    return Some(too_slow(head));
                }
            }
        }
        None
    }

    /// The heartbeat, or the end when the key does not open any more. What it may read is as it is now.
    async fn look_at_key(&mut self, head: u64) -> Bytes {
        let filter = match self.api.still(&self.caller).await {
            Ok(principal) => Filter::of(&principal, &self.query),
            // A store that cannot be read takes no rights away.
            Err(error) if error.status.is_server_error() => return heartbeat(head),
            Err(error) => Err(error),
        };
        match filter {
            Ok(filter) => {
                self.filter = filter;
                heartbeat(head)
            }
            Err(error) => {
                self.ended = true;
                closed(&error, head)
            }
        }
    }
}
