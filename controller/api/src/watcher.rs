//! One who watches what becomes of resources: a cursor with a filter, asked for what is next when the one before is on its way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use hosting_resource::{Kind, Tier};
use tokio::sync::watch;
use tokio::time::Interval;

use crate::auth::Principal;
use crate::events::{Events, Found, Place, Said, Told};
use crate::query::{self, Query};
use crate::service::{Call, Caller};
use crate::wait::WaitingPlace;
use crate::{Api, ApiError};

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
        let view = &told.view;
        let is_own =
            |brands: &Vec<String>| view.brand_id.as_ref().is_some_and(|brand| brands.contains(brand));
        self.kinds.contains(&told.kind)
            && self.brands.as_ref().is_none_or(is_own)
            && (self.tenant.is_none() || self.tenant == view.tenant_id)
            && (self.brand.is_none() || self.brand == view.brand_id)
    }
}

/// See the module.
pub(crate) struct Watcher {
    api: Api,
    caller: Caller,
    query: Query,
    events: Arc<Events>,
    filter: Filter,
    place: Place,
    moves: watch::Receiver<u64>,
    beat: Interval,
    first: Option<Said>,
    _seat: WaitingPlace,
}

impl Watcher {
    /// Begins where the call says.
    pub(crate) fn of(api: &Api, call: &Call) -> Result<Self, ApiError> {
        let filter = Filter::of(&call.principal, &call.query)?;
        let seat = api.watching_place(&call.principal)?;
        let events = Arc::clone(api.events());
        let (place, first) = match events.begin(call.query.seconds(query::SINCE)) {
            Ok((place, revision)) => (place, Said::Alive(revision)),
            Err((place, head)) => (place, Said::Missed(head)),
        };
        let every = api.heartbeat();
        Ok(Self {
            moves: events.moves(),
            beat: tokio::time::interval_at(tokio::time::Instant::now() + every, every),
            api: api.clone(),
            caller: call.caller.clone(),
            query: call.query.clone(),
            events,
            filter,
            place,
            first: Some(first),
            _seat: seat,
        })
    }

    /// What is told next. After [`Said::is_last`] nothing is.
    pub(crate) async fn next(&mut self) -> Said {
        if let Some(first) = self.first.take() {
            return first;
        }
        let stop = self.api.stopping();
        loop {
            // Marked as seen before looking.
            self.moves.borrow_and_update();
            match self.events.after(self.place) {
                Found::Events(mut told, place, head) => {
                    let is_more = place != self.place;
                    self.place = place;
                    told.retain(|told| self.filter.lets(told));
                    if !told.is_empty() {
                        return Said::Events(told);
                    }
                    if is_more {
                        continue;
                    }
                    tokio::select! {
                        Ok(()) = self.moves.changed() => {}
                        _ = self.beat.tick() => return self.look_at_key(head).await,
                        // The client comes back, to another controller or to this one after its restart.
                        () = stop.cancelled() => return Said::Stopping,
                    }
                }
                Found::Reset(place, head) => {
                    self.place = place;
                    return Said::Missed(head);
                }
                Found::TooSlow(head) => return Said::TooSlow(head),
            }
        }
    }

    /// The heartbeat, or the end when the key does not open any more. What it may read is as it is now.
    async fn look_at_key(&mut self, head: u64) -> Said {
        let filter = match self.api.still(&self.caller).await {
            Ok(principal) => Filter::of(&principal, &self.query),
            // A store that cannot be read takes no rights away.
            Err(error) if error.status.is_server_error() => return Said::Alive(head),
            Err(error) => Err(error),
        };
        match filter {
            Ok(filter) => {
                self.filter = filter;
                Said::Alive(head)
            }
            Err(error) => Said::Closed(Box::new(error), head),
        }
    }
}

/// A watcher on its way to whoever tells it: as server-sent events, unless it is taken out of the answer's extensions before.
#[derive(Clone)]
pub(crate) struct Handover(Arc<Mutex<Option<Watcher>>>);

impl Handover {
    pub(crate) fn new(watcher: Watcher) -> Self {
        Self(Arc::new(Mutex::new(Some(watcher))))
    }

    /// The watcher, for the first who asks.
    pub(crate) fn take(&self) -> Option<Watcher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
