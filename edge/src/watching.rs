//! The requests of one host as they come, for whoever watches: `GET /hosts/NAME/requests` on the admin port.
//!
//! Without a watcher a request looks at one number. With one, it hands its line over and never waits: a watcher that reads too slowly
//! misses lines, and is told how many.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hosting_edge_map::{Host, Routing, parse_host};
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::access_log::Line;

/// Watchers at once.
const MOST: usize = 8;
/// Lines that wait for one of them.
const WAITING: usize = 64;

#[derive(Debug)]
struct Watcher {
    id: u64,
    host: String,
    lines: Sender<Bytes>,
    missed: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Watched {
    count: AtomicUsize,
    watchers: Mutex<Vec<Watcher>>,
    next: AtomicU64,
    /// Nobody watches any more.
    has_ended: AtomicBool,
}

impl Watched {
    fn watchers(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who watches. A clone tells the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<Watched>);

impl Watchers {
    /// Whether anybody watches anything.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Hands a line to those who watch the host that it is for.
    pub(crate) fn tell(&self, authority: &[u8], line: &Line<'_>) {
        let Ok(Host::Name(name)) = parse_host(authority) else { return };
        let mut text = None;
        for watcher in self.0.watchers().iter().filter(|watcher| *watcher.host == *name) {
            if text.is_none() {
                // Strings and numbers have their form in JSON.
                let Ok(mut bytes) = serde_json::to_vec(line) else { return };
                bytes.push(b'\n');
                text = Some(Bytes::from(bytes));
            }
            let Some(text) = &text else { return };
            if watcher.lines.try_send(text.clone()).is_err() {
                watcher.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// All streams end, and none begins: the process takes no more requests, and its end waits for nobody who watches.
    pub(crate) fn end(&self) {
        let mut watchers = self.0.watchers();
        self.0.has_ended.store(true, Ordering::Relaxed);
        watchers.clear();
        self.0.count.store(0, Ordering::Relaxed);
    }

    /// `None`: there are as many as there may be.
    fn watch(&self, host: &str) -> Option<Watching> {
        let mut watchers = self.0.watchers();
        if watchers.len() == MOST || self.0.has_ended.load(Ordering::Relaxed) {
            return None;
        }
        let (lines, receiver) = channel(WAITING);
        let (id, missed) = (self.0.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        watchers.push(Watcher { id, host: host.to_owned(), lines, missed: Arc::clone(&missed) });
        self.0.count.store(watchers.len(), Ordering::Relaxed);
        Some(Watching { watchers: self.clone(), id, lines: receiver, missed })
    }
}

/// A watcher, until this is dropped.
struct Watching {
    watchers: Watchers,
    id: u64,
    lines: Receiver<Bytes>,
    missed: Arc<AtomicU64>,
}

impl Watching {
    /// The next line, or how many were missed before it.
    async fn next(&mut self) -> Option<Bytes> {
        let line = self.lines.recv().await?;
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed == 0 {
            return Some(line);
        }
        Some([format!("{{\"missed\":{missed}}}\n").as_bytes(), &line].concat().into())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watchers = self.watchers.0.watchers();
        watchers.retain(|watcher| watcher.id != self.id);
        self.watchers.0.count.store(watchers.len(), Ordering::Relaxed);
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
    let Some(watching) = watchers.watch(&host) else {
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

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_what_was_missed() {
        let watchers = Watchers::default();
        assert!(!watchers.is_watched());
        let mut watching = watchers.watch("a.example").unwrap();
        assert!(watchers.is_watched());
        for status in 0..100 {
            watchers.tell(b"A.example:80", &Line { status, ..Line::default() });
            watchers.tell(b"b.example", &Line::default());
        }
        let mut lines = Vec::new();
        for _ in 0..WAITING {
            lines.push(String::from_utf8(watching.next().await.unwrap().to_vec()).unwrap());
        }
        assert!(lines[0].starts_with("{\"missed\":36}\n{\"time\""), "{}", lines[0]);
        assert!(lines[1].contains("\"status\":1,") && !lines[1].contains("missed"), "{}", lines[1]);
        watchers.tell(b"a.example", &Line { status: 500, ..Line::default() });
        let next = watching.next().await.unwrap();
        assert!(next.starts_with(b"{\"time\""));
        let others: Vec<_> = (1..MOST).map(|_| watchers.watch("a.example").unwrap()).collect();
        assert!(watchers.watch("a.example").is_none());
        drop((watching, others));
        assert!(!watchers.is_watched());
    }
}
