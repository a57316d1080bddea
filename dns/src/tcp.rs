//! DNS over TCP (RFC 7766): length-framed, pipelined, with limits on everything that a client can take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use hosting_dns_zone::{Transport, Zones};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{Counters, Metrics, Via};

/// Longest query in bytes: padded ones (RFC 8467) have a few hundred.
const MAX_QUERY: usize = 4096;
/// Answers are collected up to this many bytes before they are written.
const FLUSH: usize = 16 * 1024;
/// After an error of accept, which is most often a lack of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

thread_local! {
    /// Where an answer is made before it is known how long it is. No await while it is borrowed.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; usize::from(u16::MAX)]);
}

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one IPv4 address or IPv6 /64, loopback excepted.
    pub per_client: usize,
    /// For a whole query to arrive, and for answers to be taken.
    pub idle: Duration,
}

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    zones: Zones,
    limits: Limits,
    metrics: Metrics,
    counters: Arc<Counters>,
    stop: CancellationToken,
    open: Mutex<Open>,
    connections: TaskTracker,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    clients: HashMap<u64, usize, RandomState>,
}

impl Server {
    /// A server that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(zones: Zones, limits: Limits, metrics: Metrics, stop: CancellationToken) -> Arc<Self> {
        let counters = metrics.counters();
        Arc::new(Self {
            zones,
            limits,
            metrics,
            counters,
            stop,
            open: Mutex::default(),
            connections: TaskTracker::new(),
        })
    }

    /// Accepts connections until it should stop; connections go on until they are done or [`Server::drain`] gives up.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => match self.admit(client) {
                    Some(place) => {
                        let server = Arc::clone(&self);
                        self.connections.spawn(async move {
                            // A client's fault or a lost connection: nothing to do about it here.
                            if let Err(error) = server.serve(stream).await {
                                tracing::debug!(%client, %error, "TCP connection ended");
                            }
                            drop(place);
                        });
                    }
                    None => drop(self.metrics.tcp_refused.inc()),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept over TCP");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until every connection is done, at most `deadline`. Call after `stop`.
    pub async fn drain(&self, deadline: Duration) {
        self.connections.close();
        if timeout(deadline, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "TCP connections did not end in time");
        }
    }

    fn admit(self: &Arc<Self>, client: SocketAddr) -> Option<Place> {
        let client = client_of(client.ip());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.limits.connections {
            return None;
        }
        if let Some(client) = client {
            let held = open.clients.entry(client).or_default();
            if *held >= self.limits.per_client {
                return None;
            }
            *held += 1;
        }
        open.all += 1;
        self.metrics.tcp_connections.inc();
        Some(Place { server: Arc::clone(self), client })
    }

    /// How long to wait for a client: less when there are many, so that idle ones cannot keep others out.
    fn patience(&self) -> Duration {
        let all = self.open.lock().unwrap_or_else(PoisonError::into_inner).all;
        if all > self.limits.connections / 4 * 3 { self.limits.idle / 10 } else { self.limits.idle }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut queries: Vec<u8> = Vec::with_capacity(512);
        let mut answers: Vec<u8> = Vec::new();
        loop {
            let patience = self.patience();
            // From here to a whole query, however many pieces it comes in.
            let whole = timeout(patience, async {
                while first_query(&queries)?.is_none() {
                    if stream.read_buf(&mut queries).await? == 0 {
                        return Ok(false);
                    }
                }
                Ok::<_, io::Error>(true)
            });
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                more = whole => match more {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) | Err(_) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                }
            }
            let mut used = 0;
            while let Some(query) = first_query(queries.get(used..).unwrap_or_default())? {
                used += 2 + query.len();
                self.answer(query, &mut answers);
                if answers.len() >= FLUSH {
                    write(&mut stream, &mut answers, patience).await?;
                }
            }
            queries.drain(..used);
            write(&mut stream, &mut answers, patience).await?;
        }
    }

    /// Appends the framed answer to `query`, if there is one.
    fn answer(&self, query: &[u8], answers: &mut Vec<u8>) {
        SCRATCH.with_borrow_mut(|scratch| {
            let answered = self.zones.answer(query, Transport::Tcp, scratch);
            self.counters.answered(Via::Tcp, &answered);
            if let (Some(answer), Ok(length)) = (scratch.get(..answered.len), u16::try_from(answered.len))
                && length > 0
            {
                answers.extend(length.to_be_bytes());
                answers.extend_from_slice(answer);
            }
        });
    }
}

async fn write(stream: &mut TcpStream, answers: &mut Vec<u8>, patience: Duration) -> io::Result<()> {
    if !answers.is_empty() {
        timeout(patience, stream.write_all(answers)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        answers.clear();
        // One large answer should not be paid for until the connection ends.
        answers.shrink_to(FLUSH);
    }
    Ok(())
}

/// The first whole message of `bytes`, without its length.
fn first_query(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_QUERY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a query of {length} bytes")));
    }
    Ok(rest.get(..length))
}

/// What counts as one client; `None` for loopback.
fn client_of(ip: IpAddr) -> Option<u64> {
    match ip {
        _ if ip.is_loopback() => None,
        IpAddr::V4(address) => Some(u64::from(address.to_bits())),
        IpAddr::V6(address) => Some((address.to_bits() >> 64) as u64),
    }
}

/// A connection's place among the limits.
#[derive(Debug)]
struct Place {
    server: Arc<Server>,
    client: Option<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.server.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(client) = self.client
            && let Some(held) = open.clients.get_mut(&client)
        {
            *held = held.saturating_sub(1);
            if *held == 0 {
                open.clients.remove(&client);
            }
        }
        self.server.metrics.tcp_connections.dec();
    }
}
