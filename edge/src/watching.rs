//! Requests as they end, for whoever watches: `GET /hosts/NAME/requests` on the admin port, and a name at the API by way of its controller.
//!
//! Without a watcher a request looks at one number. With one, it hands its line over and never waits: a watcher that reads too slowly
//! misses lines, and is told how many.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use hosting_edge_map::{Host, Routing, parse_host};
use hosting_intent_sync::client::{RequestTeller, Telling};
use hosting_proto::feed::{EndedRequests, RequestWatch};
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::access_log::Line;

/// Watchers of the admin port at once.
const MOST: usize = 8;
/// Watchers of all controllers at once.
const MOST_OF_CONTROLLERS: usize = 32;
/// Lines that wait for one of them, and their bytes: most are half a KiB, none is above 10 KiB.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 128 * 1_024;
/// Between two frames to a controller about one watch: nobody reads more than some hundred lines a second.
const FRAME: Duration = Duration::from_millis(250);

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// A host, whatever serves it.
    Host(String),
    /// What a route of a tenant serves: those hosts below a wildcard that have no route of their own.
    Route { name: String, tenant: String },
}

impl Watched {
    fn is_of_controllers(&self) -> bool {
        matches!(self, Self::Route { .. })
    }

    fn is(&self, host: &str, route: Option<&str>, line: &Line<'_>) -> bool {
        match self {
            Self::Host(wanted) => wanted == host,
            Self::Route { name, tenant } => route == Some(name) && line.tenant == Some(tenant),
        }
    }
}

/// How it stands between requests and one who watches.
#[derive(Debug, Default)]
struct Backlog {
    /// Bytes of the lines that wait.
    bytes: AtomicUsize,
    /// Lines that there was no room for since this was last told.
    missed: AtomicU64,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    watched: Watched,
    lines: Sender<Bytes>,
    backlog: Arc<Backlog>,
}

impl Watcher {
    fn hand(&self, line: &Bytes) {
        let Backlog { bytes, missed } = &*self.backlog;
        let fits = bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len() <= WAITING_BYTES;
        if !fits || self.lines.try_send(line.clone()).is_err() {
            bytes.fetch_sub(line.len(), Ordering::Relaxed);
            missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    count: AtomicUsize,
    watchers: RwLock<Vec<Watcher>>,
    next: AtomicU64,
    /// Nobody watches any more.
    has_ended: AtomicBool,
}

impl Book {
    fn change(&self) -> RwLockWriteGuard<'_, Vec<Watcher>> {
        self.watchers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who watches. A clone tells the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<Book>);

impl Watchers {
    /// Whether anybody watches anything.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Hands a line to those who watch the host that it is for, or what serves it.
    pub(crate) fn tell(&self, routing: &Routing, authority: &[u8], line: &Line<'_>) {
        let Ok(Host::Name(host)) = parse_host(authority) else { return };
        let route = routing.route_of(&host);
        let mut text = None;
        let watchers = self.0.watchers.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter().filter(|watcher| watcher.watched.is(&host, route.as_deref(), line)) {
            if text.is_none() {
                // Strings and numbers have their form in JSON.
                let Ok(mut bytes) = serde_json::to_vec(line) else { return };
                bytes.push(b'\n');
                text = Some(Bytes::from(bytes));
            }
            let Some(text) = &text else { return };
            watcher.hand(text);
        }
    }

    /// All streams end, and none begins: the process takes no more requests, and its end waits for nobody who watches.
    pub(crate) fn end(&self) {
        let mut watchers = self.0.change();
        self.0.has_ended.store(true, Ordering::Relaxed);
        watchers.clear();
        self.0.count.store(0, Ordering::Relaxed);
    }

    /// `None`: there are as many as there may be.
    fn watch(&self, watched: Watched) -> Option<Watching> {
        let mut watchers = self.0.change();
        let of_controllers = watched.is_of_controllers();
        let most = if of_controllers { MOST_OF_CONTROLLERS } else { MOST };
        let like = watchers.iter().filter(|other| other.watched.is_of_controllers() == of_controllers);
        if like.count() == most || self.0.has_ended.load(Ordering::Relaxed) {
            return None;
        }
        let (lines, receiver) = channel(WAITING);
        let (id, backlog) = (self.0.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        watchers.push(Watcher { id, watched, lines, backlog: Arc::clone(&backlog) });
        self.0.count.store(watchers.len(), Ordering::Relaxed);
        Some(Watching { watchers: self.clone(), id, lines: receiver, backlog })
    }
}

/// A watcher, until this is dropped.
struct Watching {
    watchers: Watchers,
    id: u64,
    lines: Receiver<Bytes>,
    backlog: Arc<Backlog>,
}

impl Watching {
    /// Says that so many bytes of lines wait no longer; how many lines were missed.
    fn took(&self, bytes: usize) -> u64 {
        self.backlog.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.backlog.missed.swap(0, Ordering::Relaxed)
    }

    /// The next line, or how many were missed before it.
    async fn next(&mut self) -> Option<Bytes> {
        let line = self.lines.recv().await?;
        let missed = self.took(line.len());
        if missed == 0 {
            return Some(line);
        }
        Some([format!("{{\"missed\":{missed}}}\n").as_bytes(), &line].concat().into())
    }

    /// The lines that wait, once there is one, and how many were missed before them.
    async fn next_frame(&mut self) -> Option<EndedRequests> {
        let mut lines = Vec::new();
        if self.lines.recv_many(&mut lines, WAITING).await == 0 {
            return None;
        }
        let missed = self.took(lines.iter().map(Bytes::len).sum());
        let text = |line: Bytes| String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        Some(EndedRequests {
            missed,
            lines: lines.into_iter().map(text).collect(),
            ..EndedRequests::default()
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watchers = self.watchers.0.change();
        watchers.retain(|watcher| watcher.id != self.id);
        self.watchers.0.count.store(watchers.len(), Ordering::Relaxed);
    }
}

impl RequestTeller for Watchers {
    fn tell_of(&self, watch: RequestWatch, telling: Telling) -> BoxFuture<'static, ()> {
        let watched = Watched::Route { name: watch.host, tenant: watch.tenant_id };
        let watching = self.watch(watched);
        Box::pin(async move {
            let Some(mut watching) = watching else {
                let why = format!("{MOST_OF_CONTROLLERS} names are watched here already, or the edge stops");
                return telling.refuse(why).await;
            };
            while let Some(frame) = watching.next_frame().await {
                if !telling.say(frame).await {
                    return;
                }
                tokio::time::sleep(FRAME).await;
            }
            telling.refuse("the edge stops".to_owned()).await;
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    /// The stream ends after so many lines.
    limit: Option<u64>,
}

/// Serves the stream.
pub(crate) fn routes(watchers: Watchers, routing: Arc<Routing>) -> Router {
    Router::new().route("/hosts/{name}/requests", get(requests)).with_state((watchers, routing))
}

async fn requests(
    State((watchers, routing)): State<(Watchers, Arc<Routing>)>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let host = match parse_host(name.as_bytes()) {
        Ok(Host::Name(name)) if routing.knows(&name) => name,
        _ => return (StatusCode::NOT_FOUND, "there is no route for this host\n").into_response(),
    };
    let Some(watching) = watchers.watch(Watched::Host(host.into_owned())) else {
        let full = format!("{MOST} streams are open already; end one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, full).into_response();
    };
    let left = asked.limit.unwrap_or(u64::MAX);
    let lines = futures::stream::unfold((watching, left), |(mut watching, left)| async move {
        let left = left.checked_sub(1)?;
        let line = watching.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), (watching, left)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(watchers: &Watchers, host: &str) -> Option<Watching> {
        watchers.watch(Watched::Host(host.to_owned()))
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_what_was_missed() {
        let (routing, _writer) = Routing::new(16);
        let watchers = Watchers::default();
        assert!(!watchers.is_watched());
        let mut watching = watch(&watchers, "a.example").unwrap();
        assert!(watchers.is_watched());
        for status in 0..100 {
            watchers.tell(&routing, b"A.example:80", &Line { status, ..Line::default() });
            watchers.tell(&routing, b"b.example", &Line::default());
        }
        let mut lines = Vec::new();
        for _ in 0..WAITING {
            lines.push(String::from_utf8(watching.next().await.unwrap().to_vec()).unwrap());
        }
        assert!(lines[0].starts_with("{\"missed\":36}\n{\"time\""), "{}", lines[0]);
        assert!(lines[1].contains("\"status\":1,") && !lines[1].contains("missed"), "{}", lines[1]);
        watchers.tell(&routing, b"a.example", &Line { status: 500, ..Line::default() });
        let next = watching.next().await.unwrap();
        assert!(next.starts_with(b"{\"time\""));
        // Large ones wait in smaller numbers.
        let target = "x".repeat(WAITING_BYTES / 8);
        for _ in 0..WAITING {
            watchers.tell(&routing, b"a.example", &Line { target: &target, ..Line::default() });
        }
        let large = watching.next_frame().await.unwrap();
        assert_eq!((large.lines.len(), large.missed), (7, WAITING as u64 - 7));
        watchers.tell(&routing, b"a.example", &Line { target: &target, ..Line::default() });
        assert_eq!(watching.next_frame().await.unwrap().lines.len(), 1, "there is room again");
        let others: Vec<_> = (1..MOST).map(|_| watch(&watchers, "a.example").unwrap()).collect();
        assert!(watch(&watchers, "a.example").is_none());
        // Those of controllers have a number of their own.
        let route = Watched::Route { name: "a.example".to_owned(), tenant: "t_a".to_owned() };
        assert!(watchers.watch(route).is_some());
        drop((watching, others));
        assert!(!watchers.is_watched());
    }

    #[tokio::test]
    async fn at_the_end_streams_end_and_none_begins() {
        let (routing, _writer) = Routing::new(16);
        let watchers = Watchers::default();
        let mut watching = watch(&watchers, "a.example").unwrap();
        watchers.tell(&routing, b"a.example", &Line::default());
        watchers.end();
        assert!(!watchers.is_watched() && watch(&watchers, "a.example").is_none());
        assert!(watching.next().await.is_some(), "what came before is read");
        assert!(watching.next().await.is_none());
        drop(watching);
        assert!(watch(&watchers, "a.example").is_none());
    }
}
