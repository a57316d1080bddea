//! The client connections that are open: who they are, what they do, and what they hold.
//!
//! A connection is entered when it is accepted and leaves when its task ends. What happens on it is put down in atomics of its own; the
//! only locks are at its beginning and its end, and nobody's request waits for a look at the list.

mod listing;
mod request;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{AbortHandle, AbortRegistration, Abortable, Aborted};
use futures::task::AtomicWaker;
use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub(crate) use listing::routes;
pub(crate) use request::Present;

use crate::memory::Account;
use request::Slots;

/// Parts of the list, so that threads seldom meet at one.
const SHARDS: usize = 16;
/// Between two looks for connections that can make room.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection that was told to leave has so many microseconds for it.
const FAREWELL: u64 = 2_000_000;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Protocol {
    /// Nothing yet: TLS is being negotiated.
    Handshake,
    Http1,
    Http2,
    Http3,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Handshake, Self::Http1, Self::Http2, Self::Http3];

    const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Http3 => "http3",
        }
    }
}

/// How many connections there are of each kind, and how many requests.
#[derive(Debug, Clone)]
pub(crate) struct LiveMetrics {
    protocols: [Gauge; 4],
    requests: Gauge,
}

impl LiveMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let family: Family<[(&'static str, &'static str); 1], Gauge> = Family::default();
        let of = |protocol: Protocol| family.get_or_create(&[("protocol", protocol.word())]).clone();
        let metrics = Self { protocols: Protocol::ALL.map(of), requests: Gauge::default() };
        registry.register(
            "hosting_edge_open_connections",
            "Client connections now, by what is spoken on them",
            family,
        );
        registry.register(
            "hosting_edge_requests_under_way",
            "Requests of clients that have no whole answer yet",
            metrics.requests.clone(),
        );
        metrics
    }

    fn of(&self, protocol: Protocol) -> &Gauge {
        let [handshake, http1, http2, http3] = &self.protocols;
        match protocol {
            Protocol::Handshake => handshake,
            Protocol::Http1 => http1,
            Protocol::Http2 => http2,
            Protocol::Http3 => http3,
        }
    }
}

/// One open connection.
#[derive(Debug)]
struct Connection {
    list: Arc<List>,
    id: u64,
    client: IpAddr,
    /// Microseconds since the list began.
    since: u64,
    protocol: AtomicU8,
    /// The minor version of TLS 1; 0: none.
    tls: AtomicU8,
    name: OnceLock<Arc<str>>,
    requests: AtomicU64,
    under_way: AtomicU32,
    /// When the last request ended, or the connection began.
    idle_since: AtomicU64,
    slots: Slots,
    /// Bytes that it is counted for.
    held: AtomicUsize,
    /// When it was told to leave; 0: it was not.
    leaving_since: AtomicU64,
    /// Woken when it is told to leave. Its task waits for nothing else here.
    leaves: AtomicWaker,
    cut: AbortHandle,
}

impl Connection {
    fn protocol(&self) -> Protocol {
        let spoken = self.protocol.load(Ordering::Relaxed);
        Protocol::ALL.into_iter().find(|known| *known as u8 == spoken).unwrap_or(Protocol::Handshake)
    }

    fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && self.protocol() != Protocol::Handshake
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.list.account.give_back(bytes);
    }
}

#[derive(Debug)]
struct List {
    /// By number, so the oldest come first.
    shards: [Mutex<BTreeMap<u64, Arc<Connection>>>; SHARDS],
    next: AtomicU64,
    begun: Instant,
    begun_at: Timestamp,
    account: Account,
    metrics: LiveMetrics,
}

impl List {
    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }

    fn shard(&self, id: u64) -> Option<MutexGuard<'_, BTreeMap<u64, Arc<Connection>>>> {
        let index = usize::try_from(id % SHARDS as u64).ok()?;
        self.shards.get(index).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All that are open, piece by piece: nobody who comes or goes waits for long. Ends where `visit` says `false`.
    fn visit(&self, mut visit: impl FnMut(&Arc<Connection>) -> bool) {
        const PIECE: usize = 256;
        for shard in 0..SHARDS as u64 {
            let mut next = 0;
            loop {
                let piece: Vec<Arc<Connection>> = self
                    .shard(shard)
                    .map(|shard| shard.range(next..).take(PIECE).map(|(_, one)| Arc::clone(one)).collect())
                    .unwrap_or_default();
                let Some(last) = piece.last() else { break };
                next = last.id + 1;
                if !piece.iter().all(&mut visit) {
                    break;
                }
            }
        }
    }
}

/// Every open connection.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<List>);

impl Connections {
    pub(crate) fn new(account: Account, metrics: LiveMetrics) -> Self {
        Self(Arc::new(List {
            shards: Default::default(),
            next: AtomicU64::new(0),
            begun: Instant::now(),
            begun_at: Timestamp::now(),
            account,
            metrics,
        }))
    }

    /// A new connection that is counted for `bytes`. `None`: there is no memory for it.
    pub(crate) fn enter(&self, client: IpAddr, bytes: usize) -> Option<Opened> {
        let list = &self.0;
        if !list.account.admit(bytes) {
            return None;
        }
        let now = list.now();
        let id = list.next.fetch_add(1, Ordering::Relaxed);
        let (cut, is_cut) = AbortHandle::new_pair();
        let connection = Arc::new(Connection {
            list: Arc::clone(list),
            id,
            client: client.to_canonical(),
            since: now,
            protocol: AtomicU8::new(Protocol::Handshake as u8),
            tls: AtomicU8::new(0),
            name: OnceLock::new(),
            requests: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            idle_since: AtomicU64::new(now),
            slots: Slots::default(),
            held: AtomicUsize::new(bytes),
            leaving_since: AtomicU64::new(0),
            leaves: AtomicWaker::new(),
            cut,
        });
        list.metrics.of(Protocol::Handshake).inc();
        if let Some(mut shard) = list.shard(id) {
            shard.insert(id, Arc::clone(&connection));
        }
        let watch = Watch(Some(Arc::clone(&connection)));
        Some(Opened { connection, base: Held { watch, bytes }, is_cut: Some(is_cut) })
    }

    /// Makes room whenever somebody finds none: idle connections are closed first, the longest idle before others. When requests find
    /// none either, connections are cut that hold most.
    pub(crate) async fn make_room(&self) {
        loop {
            self.0.account.pressed().await;
            self.relieve();
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn relieve(&self) {
        let account = &self.0.account;
        let is_short = account.take_shortage();
        let mut excess = account.excess();
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        if excess == 0 {
            return;
        }
        self.0.visit(|one| {
            if one.is_idle() {
                idle.push((one.idle_since.load(Ordering::Relaxed), Arc::clone(one)));
            } else {
                busy.push((one.held.load(Ordering::Relaxed), Arc::clone(one)));
            }
            true
        });
        let (metrics, now) = (account.metrics(), self.0.now());
        let cut = |one: &Connection| {
            metrics.cut.inc();
            one.cut.abort();
        };
        idle.sort_unstable_by_key(|(since, _)| *since);
        for (_, one) in idle {
            if excess == 0 {
                return;
            }
            match one.leaving_since.load(Ordering::Relaxed) {
                0 => {
                    one.leaving_since.store(now.max(1), Ordering::Release);
                    metrics.made_room.inc();
                    one.leaves.wake();
                }
                since if is_short || now.saturating_sub(since) > FAREWELL => cut(&one),
                _ => {}
            }
            excess = excess.saturating_sub(one.held.load(Ordering::Relaxed));
        }
        if !is_short {
            return;
        }
        busy.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        for (held, one) in busy {
            if excess == 0 {
                break;
            }
            cut(&one);
            excess = excess.saturating_sub(held);
        }
    }
}

/// A connection's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    connection: Arc<Connection>,
    base: Held,
    /// Until the connection is served.
    is_cut: Option<AbortRegistration>,
}

impl Opened {
    pub(crate) fn watch(&self) -> Watch {
        Watch(Some(Arc::clone(&self.connection)))
    }

    /// What is spoken from here on, over which TLS 1.x (0: none), with a server of which name. The connection itself takes so many bytes
    /// now.
    pub(crate) fn speaks(&mut self, protocol: Protocol, tls: u8, name: Option<&Arc<str>>, bytes: usize) {
        let (one, metrics) = (&self.connection, &self.connection.list.metrics);
        metrics.of(one.protocol()).dec();
        metrics.of(protocol).inc();
        one.protocol.store(protocol as u8, Ordering::Relaxed);
        one.tls.store(tls, Ordering::Relaxed);
        one.idle_since.store(one.list.now(), Ordering::Relaxed);
        if let Some(name) = name {
            // It is negotiated once.
            let _ = one.name.set(Arc::clone(name));
        }
        // Never more than what it was entered with.
        self.base.set(bytes.min(self.base.bytes));
    }

    /// Serves the connection, once, until it has to be cut.
    pub(crate) async fn until_cut(&mut self, serving: impl Future<Output = ()>) -> Result<(), Aborted> {
        match self.is_cut.take() {
            Some(is_cut) => Abortable::new(serving, is_cut).await,
            None => Err(Aborted),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let one = &self.connection;
        one.list.metrics.of(one.protocol()).dec();
        if let Some(mut shard) = one.list.shard(one.id) {
            shard.remove(&one.id);
        }
    }
}

/// By which a connection is known to what happens on it. The default is that of nobody's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Option<Arc<Connection>>);

impl Watch {
    /// Nothing yet, to be [set](Held::set).
    pub(crate) fn nothing(&self) -> Held {
        Held { watch: self.clone(), bytes: 0 }
    }

    /// So many bytes. `None`: there is no memory for them.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Held> {
        let mut held = self.nothing();
        held.set(bytes).then_some(held)
    }

    /// What is spoken on it.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.0.as_ref().map(|one| one.protocol())
    }

    /// A request on it, with the authority that it is for.
    pub(crate) fn begin(&self, authority: &[u8], now: Instant) -> Present {
        Present::new(self, authority, now)
    }

    /// Ends when the connection is to leave as soon as it can without harm.
    pub(crate) async fn leaves(&self) {
        match &self.0 {
            Some(one) => {
                poll_fn(|cx| {
                    one.leaves.register(cx.waker());
                    // The time is set before the waker is woken.
                    if one.leaving_since.load(Ordering::Acquire) == 0 {
                        Poll::Pending
                    } else {
                        Poll::Ready(())
                    }
                })
                .await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Memory that a connection is counted for, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    watch: Watch,
    bytes: usize,
}

impl Held {
    /// It is so many bytes now. `false`: there is no memory for them, and it is counted as before.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        if bytes == self.bytes {
            return true;
        }
        let Some(one) = &self.watch.0 else { return true };
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if !one.list.account.grow(more) {
                return false;
            }
            one.held.fetch_add(more, Ordering::Relaxed);
        } else {
            one.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(one) = self.watch.0.as_ref().filter(|_| self.bytes > 0) {
            one.give_back(self.bytes);
        }
    }
}
