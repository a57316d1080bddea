//! The events of the whole platform, kept once for all who watch: a ring in memory that follows the store's commits.
//!
//! Each event is encoded once. A watcher has no queue: it is a cursor that goes along the ring, so what it costs is bounded however slow
//! it is, and one that is slower than the ring is long is told so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::body::Bytes;
use hosting_resource::{EventView, Kind};
use hosting_store::{Commit, ResourceEvent, Store};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ApiError;

/// Events that are kept: a watcher that was away comes back without loss within so many.
const KEPT: usize = 16_384;
/// Events that a watcher takes at once.
const AT_ONCE: usize = 256;

/// An event as all watchers get it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) kind: Kind,
    pub(crate) view: EventView,
    /// No other event of its revision follows.
    pub(crate) is_last: bool,
    /// Server-sent event (HTML Living Standard §9.2).
    frame: Bytes,
}

impl Told {
    /// `is_last` of its revision: only then is the revision the place where a watcher goes on, as it has all of it.
    fn of(event: ResourceEvent, is_last: bool) -> Self {
        let view = event.view();
        // Texts and numbers: this cannot fail.
        let data = serde_json::to_string(&view).unwrap_or_default();
        let id = if is_last { format!("id: {}\n", event.revision) } else { String::new() };
        let frame = Bytes::from(format!("{id}event: resource\ndata: {data}\n\n"));
        Self { kind: event.kind, view, is_last, frame }
    }
}

/// Where a watcher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the next event.
    next: u64,
    /// How often the ring began anew before.
    beginnings: u64,
}

/// What a watcher finds behind its place.
#[derive(Debug)]
pub(crate) enum Found {
    /// The next events, and the place behind them. None: there are no others yet; all up to a revision were seen.
    Events(Vec<Arc<Told>>, Place, u64),
    /// Events were missed that nobody has: everything may have changed. Goes on at the place, as of a revision.
    Reset(Place, u64),
    /// The watcher is slower than events come: those behind its place are gone.
    TooSlow(u64),
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<(u64, Arc<Told>)>,
    /// The number of the first event.
    first: u64,
    /// The revision up to which events may be missing.
    floor: u64,
    /// The newest revision.
    head: u64,
    beginnings: u64,
}

impl Ring {
    fn end(&self) -> Place {
        Place { next: self.first + self.events.len() as u64, beginnings: self.beginnings }
    }

    fn take(&mut self, commit: &Commit) {
        if commit.new_epoch || commit.lost || commit.events_left_out {
            return self.begin_anew(commit.revision);
        }
        let new = commit.events.iter().filter(|event| event.revision > self.head);
        let mut new = new.cloned().peekable();
        while let Some(event) = new.next() {
            let revision = event.revision;
            let is_last = new.peek().is_none_or(|next| next.revision != revision);
            self.events.push_back((revision, Arc::new(Told::of(event, is_last))));
        }
        while self.events.len() > KEPT {
            if let Some((revision, _)) = self.events.pop_front() {
                self.first += 1;
                self.floor = revision;
            }
        }
        self.head = self.head.max(commit.revision);
    }

    fn begin_anew(&mut self, revision: u64) {
        self.first += self.events.len() as u64;
        self.events.clear();
        (self.floor, self.head) = (revision, revision);
        self.beginnings += 1;
    }
}

/// The ring, and who tells it.
#[derive(Debug)]
pub(crate) struct Events {
    ring: RwLock<Ring>,
    moved: watch::Sender<u64>,
    /// Taken by the task that follows.
    commits: Mutex<Option<broadcast::Receiver<Arc<Commit>>>>,
}

impl Events {
    /// Begins with what is committed from now on.
    pub(crate) fn new(store: &Store) -> Self {
        let commits = store.commits();
        let head = *store.doorbell().borrow();
        Self {
            ring: RwLock::new(Ring { floor: head, head, ..Ring::default() }),
            moved: watch::Sender::new(0),
            commits: Mutex::new(Some(commits)),
        }
    }

    /// Follows the store's commits until `stop`.
    pub(crate) async fn follow(&self, store: &Store, stop: CancellationToken) {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut commits) = commits else { return };
        while let Some(received) = stop.run_until_cancelled(commits.recv()).await {
            match received {
                Ok(commit) => self.change(|ring| ring.take(&commit)),
                Err(RecvError::Lagged(_)) => {
                    let head = *store.doorbell().borrow();
                    self.change(|ring| ring.begin_anew(head));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Ring)) {
        let (before, after) = {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            let before = ring.end();
            change(&mut ring);
            (before, ring.end())
        };
        // Most commits are of nothing that is shown: nobody wakes for those.
        if before != after {
            self.moved.send_modify(|count| *count += 1);
        }
    }

    /// Tells when there is more to find.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Where a watcher begins: behind a revision, or with what is next. And the revision that it is as of.
    ///
    /// # Errors
    /// The revision, if what came after it is not here any more, or it is none of this store yet.
    pub(crate) fn begin(&self, since: Option<u64>) -> Result<(Place, u64), (Place, u64)> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        match since {
            None => Ok((ring.end(), ring.head)),
            Some(since) if since >= ring.floor && since <= ring.head => {
                let seen = ring.events.partition_point(|(revision, _)| *revision <= since);
                Ok((Place { next: ring.first + seen as u64, beginnings: ring.beginnings }, since))
            }
            Some(_) => Err((ring.end(), ring.head)),
        }
    }

    /// What is behind a watcher's place.
    pub(crate) fn after(&self, place: Place) -> Found {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if place.beginnings != ring.beginnings {
            return Found::Reset(ring.end(), ring.head);
        }
        let Some(skip) = place.next.checked_sub(ring.first) else { return Found::TooSlow(ring.head) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let events: Vec<_> =
            ring.events.iter().skip(skip).take(AT_ONCE).map(|(_, told)| Arc::clone(told)).collect();
        let next = place.next + events.len() as u64;
        Found::Events(events, Place { next, ..place }, ring.head)
    }
}

/// Why a watcher is told of a reset: the store was put back, or its place is too old.
pub(crate) const MISSED: &str = "events after the revision that you have are not kept any more; read what you need anew, and go on from here";
/// Why a watcher is cut.
pub(crate) const TOO_SLOW: &str =
    "events come faster than they are read here; connect again, and expect a reset";

/// What a watcher is told. Numbers are revisions that it goes on from.
#[derive(Debug)]
pub(crate) enum Said {
    /// These, of which there are some.
    Events(Vec<Arc<Told>>),
    /// Nothing happened that concerns it.
    Alive(u64),
    /// See [`MISSED`].
    Missed(u64),
    /// See [`TOO_SLOW`].
    TooSlow(u64),
    /// The key does not open any more.
    Closed(Box<ApiError>, u64),
    /// The controller stops.
    Stopping,
}

impl Said {
    /// Nothing follows.
    pub(crate) const fn is_last(&self) -> bool {
        matches!(self, Self::TooSlow(_) | Self::Closed(..) | Self::Stopping)
    }

    /// As server-sent events; `None`: the stream just ends.
    pub(crate) fn frame(&self) -> Option<Bytes> {
        Some(match self {
            Self::Events(told) => match told.as_slice() {
                [one] => one.frame.clone(),
                several => {
                    let several: Vec<&[u8]> = several.iter().map(|told| told.frame.as_ref()).collect();
                    several.concat().into()
                }
            },
            // A block without data sets the id and tells nothing: it moves the place of a watcher that hears of nothing.
            Self::Alive(head) => Bytes::from(format!(": alive\nid: {head}\n\n")),
            Self::Missed(head) => frame("reset", *head, MISSED),
            Self::TooSlow(head) => frame("cut", *head, TOO_SLOW),
            Self::Closed(error, head) => frame("end", *head, &error.message),
            Self::Stopping => return None,
        })
    }
}

/// An event that is about the stream itself. One that ends it has no id: a watcher goes on from what it had.
fn frame(name: &str, head: u64, reason: &str) -> Bytes {
    let id = if name == "reset" { format!("id: {head}\n") } else { String::new() };
    let data = json!({"revision": head, "reason": reason});
    Bytes::from(format!("{id}event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use hosting_resource::Status;
    use hosting_store::ResourceChange;

    use super::*;

    fn event(revision: u64, id: &str) -> ResourceEvent {
        ResourceEvent {
            revision,
            kind: Kind::Zone,
            id: id.to_owned(),
            tenant: None,
            brand: Some("acme".into()),
            change: ResourceChange::Created,
            status: Status::Pending,
            generation: 1,
        }
    }

    fn commit(events: Vec<ResourceEvent>) -> Commit {
        let revision = events.last().map_or(0, |event| event.revision);
        Commit { revision, events, ..Commit::default() }
    }

    fn events() -> Events {
        let ring = Ring { floor: 10, head: 10, ..Ring::default() };
        Events { ring: RwLock::new(ring), moved: watch::Sender::new(0), commits: Mutex::new(None) }
    }

    fn frames(found: &Found) -> Vec<String> {
        let Found::Events(told, ..) = found else { panic!("{found:?}") };
        told.iter().map(|told| String::from_utf8(told.frame.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_place_is_the_end_of_a_revision() {
        let all = events();
        let (start, _) = all.begin(None).unwrap();
        all.change(|ring| ring.take(&commit(vec![event(11, "a"), event(12, "b"), event(12, "c")])));
        let found = frames(&all.after(start));
        assert_eq!(found.len(), 3);
        assert!(found[0].starts_with("id: 11\nevent: resource\ndata: {") && found[0].ends_with("}\n\n"));
        assert!(found[1].starts_with("event: resource\n"), "more of the same revision follows");
        assert!(found[2].starts_with("id: 12\n"));
        for (since, count) in [(10, 3), (11, 2), (12, 0)] {
            let (place, _) = all.begin(Some(since)).unwrap();
            assert_eq!(frames(&all.after(place)).len(), count, "{since}");
        }
        assert!(all.begin(Some(9)).is_err() && all.begin(Some(13)).is_err());
        // What was known before it began is not told again.
        all.change(|ring| ring.take(&commit(vec![event(12, "d")])));
        assert_eq!(frames(&all.after(start)).len(), 3);
    }

    #[test]
    fn who_is_too_slow_is_told_and_so_is_everybody_when_events_are_lost() {
        let all = events();
        let mut moves = all.moves();
        let (start, _) = all.begin(None).unwrap();
        for n in 0..=KEPT as u64 {
            all.change(|ring| ring.take(&commit(vec![event(11 + n, "a")])));
        }
        assert!(matches!(all.after(start), Found::TooSlow(_)));
        assert!(all.begin(Some(10)).is_err() && all.begin(Some(11)).is_ok());
        let (place, head) = all.begin(None).unwrap();
        moves.borrow_and_update();
        all.change(|ring| ring.take(&Commit { revision: head + 1, ..Commit::default() }));
        assert!(!moves.has_changed().unwrap(), "nobody wakes for nothing");
        for lost in [
            Commit { events_left_out: true, ..Commit::default() },
            Commit { lost: true, ..Commit::default() },
            Commit { new_epoch: true, ..Commit::default() },
        ] {
            let place = all.begin(None).map_or(place, |(place, _)| place);
            all.change(|ring| ring.take(&Commit { revision: head + 5, ..lost }));
            assert!(matches!(all.after(place), Found::Reset(_, at) if at == head + 5));
            assert!(moves.has_changed().unwrap());
        }
    }
}
