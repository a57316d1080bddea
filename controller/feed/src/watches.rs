//! Requests as they end at edges, for those who watch a name here (ADR 47).
//!
//! An edge keeps a call open to each controller, on which it is told what to tell of. A watch lives in memory, as long as whoever
//! watches holds it: nothing is stored, and other controllers do not know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hosting_intent::Audience;
use hosting_proto::feed::requests_down::Frame;
use hosting_proto::feed::{EndedRequests, RequestWatch, RequestsDown};
use tokio::sync::mpsc;
use tonic::Status;

/// Watches of one cluster at once. An edge bears twice as many, of all controllers.
pub const MOST_REQUEST_WATCHES: usize = 16;
/// Orders to an edge that are on their way: each watch begins and ends many times before an edge is that slow.
const ORDERS: usize = 256;
/// News that wait for one who watches.
const NEWS: usize = 16;
/// Lines of one frame, and bytes of a line.
const LINES: usize = 64;
const LINE_BYTES: usize = 32 << 10;

/// What one who watches hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestNews {
    /// So many edges tell of requests now.
    Edges(usize),
    /// Requests that ended.
    Requests {
        /// Lines of an edge's access log (JSON), as the edge wrote them.
        lines: Vec<String>,
        /// How many ended before them and are not told of.
        missed: u64,
    },
}

#[derive(Debug)]
struct Watch {
    audience: Audience,
    order: RequestWatch,
    news: mpsc::Sender<RequestNews>,
    /// Requests that there was no room for.
    missed: u64,
    /// The calls of edges that tell of it.
    edges: BTreeSet<u64>,
}

impl Watch {
    fn tell_edges(&self) {
        // Without room the number comes with the next change: it is for people.
        let _ = self.news.try_send(RequestNews::Edges(self.edges.len()));
    }
}

#[derive(Debug)]
struct EdgeCall {
    audience: Audience,
    node_id: String,
    source: Vec<u8>,
    orders: mpsc::Sender<Result<RequestsDown, Status>>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    watches: BTreeMap<u64, Watch>,
    calls: BTreeMap<u64, EdgeCall>,
    /// The controller stops.
    has_ended: bool,
}

impl Book {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Gives orders to an edge. One that does not take them loses its call, and comes back.
    fn order(&mut self, call: u64, frame: Frame) -> bool {
        let sent = self
            .calls
            .get(&call)
            .is_some_and(|edge| edge.orders.try_send(Ok(RequestsDown { frame: Some(frame) })).is_ok());
        if !sent {
            self.leave(call);
        }
        sent
    }

    fn leave(&mut self, call: u64) {
        self.calls.remove(&call);
        for watch in self.watches.values_mut() {
            if watch.edges.remove(&call) {
                watch.tell_edges();
            }
        }
    }
}

/// Who watches what, and which edges can tell. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestWatches(Arc<Mutex<Book>>);

impl RequestWatches {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a watch of a host for a tenant; `None`: there are as many of the cluster as there may be.
    pub(crate) fn begin(&self, audience: &Audience, host: &str, tenant: &str) -> Option<WatchedRequests> {
        let mut book = self.book();
        let of_cluster = book.watches.values().filter(|watch| watch.audience == *audience);
        if book.has_ended || of_cluster.count() >= MOST_REQUEST_WATCHES {
            return None;
        }
        let (news, receiver) = mpsc::channel(NEWS);
        let number = book.number();
        let order = RequestWatch { watch: number, host: host.to_owned(), tenant_id: tenant.to_owned() };
        let audience = audience.clone();
        let edges: Vec<u64> =
            book.calls.iter().filter(|(_, call)| call.audience == audience).map(|(call, _)| *call).collect();
        let watch =
            Watch { audience, order: order.clone(), news, missed: 0, edges: edges.iter().copied().collect() };
        book.watches.insert(number, watch);
        for call in edges {
            book.order(call, Frame::Begin(order.clone()));
        }
        if let Some(watch) = book.watches.get(&number) {
            watch.tell_edges();
        }
        drop(book);
        Some(WatchedRequests { watches: self.clone(), number, news: receiver })
    }

    fn end(&self, number: u64) {
        let mut book = self.book();
        let Some(watch) = book.watches.remove(&number) else { return };
        for call in watch.edges {
            book.order(call, Frame::End(number));
        }
    }

    /// Takes in an edge's call, and orders what is watched; `None`: the process has one.
    pub(crate) fn join(&self, audience: Audience, node_id: &str, source: &[u8]) -> Option<Joined> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let mut book = self.book();
        if book.has_ended || book.calls.values().any(|call| call.node_id == node_id && call.source == source)
        {
            return None;
        }
        let call = book.number();
        let watched: Vec<RequestWatch> = book
            .watches
            .values_mut()
            .filter(|watch| watch.audience == audience)
            .map(|watch| {
                watch.edges.insert(call);
                watch.tell_edges();
                watch.order.clone()
            })
            .collect();
        let node_id = node_id.to_owned();
        book.calls.insert(call, EdgeCall { audience, node_id, source: source.to_vec(), orders });
        for order in watched {
            book.order(call, Frame::Begin(order));
        }
        drop(book);
        Some(Joined { watches: self.clone(), call, orders: Some(receiver) })
    }

    /// Hands on what an edge told of. An edge may tell of what it was asked for, and of nothing else.
    pub(crate) fn told(&self, call: u64, ended: EndedRequests) {
        let mut book = self.book();
        let watch = book.watches.get_mut(&ended.watch).filter(|watch| watch.edges.contains(&call));
        let Some(watch) = watch else { return };
        let EndedRequests { missed, mut lines, .. } = ended;
        lines.truncate(LINES);
        lines.retain(|line| line.len() <= LINE_BYTES);
        let (missed, count) = (missed.saturating_add(watch.missed), lines.len() as u64);
        watch.missed = match watch.news.try_send(RequestNews::Requests { lines, missed }) {
            Ok(()) => 0,
            Err(_) => missed.saturating_add(count),
        };
    }

    /// An edge does not tell of a watch, or no more.
    pub(crate) fn refused(&self, call: u64, number: u64) {
        if let Some(watch) = self.book().watches.get_mut(&number)
            && watch.edges.remove(&call)
        {
            watch.tell_edges();
        }
    }

    /// All calls and watches end, and none begins.
    pub(crate) fn close(&self) {
        let mut book = self.book();
        book.has_ended = true;
        book.calls.clear();
        book.watches.clear();
    }
}

/// A watch, until this is dropped.
#[derive(Debug)]
pub struct WatchedRequests {
    watches: RequestWatches,
    number: u64,
    news: mpsc::Receiver<RequestNews>,
}

impl WatchedRequests {
    /// What is told next; `None`: the controller stops.
    pub async fn next(&mut self) -> Option<RequestNews> {
        self.news.recv().await
    }
}

impl Drop for WatchedRequests {
    fn drop(&mut self) {
        self.watches.end(self.number);
    }
}

/// An edge's call, until this is dropped.
pub(crate) struct Joined {
    watches: RequestWatches,
    pub(crate) call: u64,
    /// Taken by the answer's stream.
    pub(crate) orders: Option<mpsc::Receiver<Result<RequestsDown, Status>>>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.watches.book().leave(self.call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(cluster: &str) -> Audience {
        Audience::edge(cluster).unwrap()
    }

    fn ordered(joined: &mut Joined) -> Vec<Frame> {
        let orders = joined.orders.as_mut().unwrap();
        std::iter::from_fn(|| orders.try_recv().ok()?.ok()?.frame).collect()
    }

    fn news(watch: &mut WatchedRequests) -> Vec<RequestNews> {
        std::iter::from_fn(|| watch.news.try_recv().ok()).collect()
    }

    fn ended(watch: u64, lines: &[&str]) -> EndedRequests {
        EndedRequests { watch, missed: 0, lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    fn requests(lines: &[&str], missed: u64) -> RequestNews {
        RequestNews::Requests { lines: lines.iter().map(|line| (*line).to_owned()).collect(), missed }
    }

    #[test]
    fn edges_of_the_cluster_are_asked_whenever_they_come_and_told_when_it_ends() {
        let watches = RequestWatches::default();
        let mut first = watches.join(edge("c1"), "edge-1", b"p1").unwrap();
        let mut elsewhere = watches.join(edge("c2"), "edge-9", b"p1").unwrap();
        let mut watch = watches.begin(&edge("c1"), "a.example", "t_a").unwrap();
        let order =
            RequestWatch { watch: watch.number, host: "a.example".to_owned(), tenant_id: "t_a".to_owned() };
        assert_eq!(ordered(&mut first), [Frame::Begin(order.clone())]);
        assert!(watches.join(edge("c1"), "edge-1", b"p1").is_none(), "it would tell of everything twice");
        let mut second = watches.join(edge("c1"), "edge-1", b"p2").unwrap();
        assert_eq!(ordered(&mut second), [Frame::Begin(order)]);
        assert_eq!(news(&mut watch), [RequestNews::Edges(1), RequestNews::Edges(2)]);
        watches.refused(first.call, watch.number);
        drop(second);
        assert_eq!(news(&mut watch), [RequestNews::Edges(1), RequestNews::Edges(0)]);
        let mut third = watches.join(edge("c1"), "edge-2", b"p1").unwrap();
        drop(watch);
        assert!(matches!(ordered(&mut third)[..], [Frame::Begin(_), Frame::End(_)]));
        assert_eq!((ordered(&mut first), ordered(&mut elsewhere)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn an_edge_tells_of_what_it_was_asked_for_and_who_reads_slowly_misses_some() {
        let watches = RequestWatches::default();
        let own = watches.join(edge("c1"), "edge-1", b"p1").unwrap();
        let stranger = watches.join(edge("c2"), "edge-9", b"p1").unwrap();
        let mut watch = watches.begin(&edge("c1"), "a.example", "t_a").unwrap();
        assert_eq!(news(&mut watch), [RequestNews::Edges(1)]);
        watches.told(stranger.call, ended(watch.number, &["forged"]));
        watches.told(own.call, ended(watch.number + 1, &["of nobody"]));
        watches.told(own.call, ended(watch.number, &["one", &"x".repeat(LINE_BYTES + 1), "two"]));
        assert_eq!(news(&mut watch), [requests(&["one", "two"], 0)]);
        for _ in 0..NEWS + 3 {
            watches.told(own.call, ended(watch.number, &["a", "b"]));
        }
        assert_eq!(news(&mut watch).len(), NEWS);
        watches.told(own.call, ended(watch.number, &["c"]));
        assert_eq!(news(&mut watch), [requests(&["c"], 6)]);
    }

    #[test]
    fn watches_of_a_cluster_have_a_bound_and_all_end_with_the_controller() {
        let watches = RequestWatches::default();
        let mut joined = watches.join(edge("c1"), "edge-1", b"p1").unwrap();
        let begin = |cluster: &str| watches.begin(&edge(cluster), "a.example", "t_a");
        let all: Vec<_> = (0..MOST_REQUEST_WATCHES).map(|_| begin("c1").unwrap()).collect();
        assert!(begin("c1").is_none() && begin("c2").is_some());
        drop(all);
        let mut last = begin("c1").unwrap();
        watches.close();
        assert!(begin("c1").is_none() && watches.join(edge("c1"), "edge-2", b"p1").is_none());
        assert_eq!(news(&mut last), [RequestNews::Edges(1)]);
        assert!(last.news.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Disconnected));
        while joined.orders.as_mut().unwrap().try_recv().is_ok() {}
        assert!(joined.orders.as_mut().unwrap().is_closed());
    }

    #[test]
    fn an_edge_that_takes_no_orders_loses_its_call() {
        let watches = RequestWatches::default();
        let _joined = watches.join(edge("c1"), "edge-1", b"p1").unwrap();
        for _ in 0..=ORDERS / 2 {
            drop(watches.begin(&edge("c1"), "a.example", "t_a").unwrap());
        }
        assert!(watches.book().calls.is_empty());
    }
}
