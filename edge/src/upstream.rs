//! Connections to nodes: made, kept for the next request of the same site, thrown away.
//!
//! What one tenant's code may have left behind in a connection must reach nobody else's visitors. So a connection is kept for the
//! webroot that it served, unless its node has shown the [`Mark`] of the request: then it may serve all webroots, because an answer
//! without the mark of the request that it is taken for is recognized.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::RandomState;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::errno::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Locks that the threads share. A power of two.
const SHARDS: usize = 64;

/// When an attempt to connect is followed by the next one.
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);
/// Attempts to connect after the first one.
const MORE_ATTEMPTS: u32 = 2;

/// What one request is known by between the edge and a node: 16 hexadecimal digits that nobody can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark([u8; 16]);

impl Mark {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Makes marks.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// The standard library's, which is SipHash under a key of its own: no row of marks tells the next one.
    hasher: std::hash::RandomState,
    next: AtomicU64,
}

impl Marks {
    pub(crate) fn next(&self) -> Mark {
        let mark = self.hasher.hash_one(self.next.fetch_add(1, Ordering::Relaxed));
        Mark(std::array::from_fn(|index| match (mark >> (4 * index)) as u8 % 16 {
            digit @ 0..10 => b'0' + digit,
            digit => b'a' - 10 + digit,
        }))
    }
}

/// Whom a connection may serve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Serves {
    /// The node shows marks.
    All,
    Webroot(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    serves: Serves,
    address: SocketAddr,
}

#[derive(Debug)]
struct Idle {
    id: u64,
    tcp: TcpStream,
    until: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    /// Connections that serve the same, the last one used at the end, which is the order of their ids. There may be thousands.
    idle: HashMap<Key, VecDeque<Idle>, RandomState>,
    count: usize,
    /// In the order of their last use, with some that are not idle any more.
    order: VecDeque<(u64, Key)>,
    next: u64,
}

impl Shard {
    fn put(&mut self, key: Key, tcp: TcpStream, until: Instant) {
        if self.order.len() > 2 * self.count + SHARDS {
            let idle = &self.idle;
            self.order.retain(|(id, key)| {
                idle.get(key).is_some_and(|kept| kept.binary_search_by_key(id, |idle| idle.id).is_ok())
            });
        }
        let id = self.next;
        self.next += 1;
        self.order.push_back((id, key.clone()));
        self.idle.entry(key).or_default().push_back(Idle { id, tcp, until });
        self.count += 1;
    }

    /// Closes the connection whose last use is longest ago.
    fn evict(&mut self) -> bool {
        while let Some((id, key)) = self.order.pop_front() {
            let Some(connections) = self.idle.get_mut(&key) else { continue };
            let Some(oldest) = connections.pop_front_if(|oldest| oldest.id == id) else { continue };
            close(&oldest.tcp);
            self.count -= 1;
            if connections.is_empty() {
                self.idle.remove(&key);
            }
            return true;
        }
        false
    }
}

/// Has a connection on which nothing is under way end in a reset. Closed in the usual way it would occupy its port for a minute
/// more, and there are 28 000 towards a node.
fn close(tcp: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Idle connections to nodes.
#[derive(Debug)]
pub(crate) struct IdleConnections {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    count: AtomicUsize,
    /// Where the next connection to give up is looked for first, so that no shard's connections are always those.
    victim: AtomicUsize,
    capacity: usize,
    keep: Duration,
}

impl IdleConnections {
    /// Keeps at most `capacity` connections, each for `keep`.
    pub(crate) fn new(capacity: usize, keep: Duration) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            victim: AtomicUsize::new(0),
            capacity,
            keep,
        }
    }

    fn shard(&self, key: &Key) -> Option<MutexGuard<'_, Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        Some(lock(self.shards.get(hash)?))
    }

    /// A quiet connection to `address` that may serve this webroot, and whether the answer over it must show its mark.
    pub(crate) fn take(
        &self,
        webroot: &Arc<str>,
        address: SocketAddr,
        now: Instant,
    ) -> Option<(TcpStream, bool)> {
        let of = |serves, marked| self.take_of(&Key { serves, address }, now).map(|tcp| (tcp, marked));
        of(Serves::All, true).or_else(|| of(Serves::Webroot(Arc::clone(webroot)), false))
    }

    fn take_of(&self, key: &Key, now: Instant) -> Option<TcpStream> {
        loop {
            let idle = {
                let mut shard = self.shard(key)?;
                let connections = shard.idle.get_mut(key)?;
                let idle = connections.pop_back()?;
                if connections.is_empty() {
                    shard.idle.remove(key);
                }
                shard.count -= 1;
                self.count.fetch_sub(1, Ordering::Relaxed);
                idle
            };
            if idle.until > now && is_quiet(&idle.tcp) {
                return Some(idle.tcp);
            }
        }
    }

    /// Keeps a connection; one whose last use is long ago makes room. Only for one that is proven clean: the request was written
    /// whole before the response ended, and the response was read to its end with nothing behind it.
    pub(crate) fn put(&self, serves: Serves, address: SocketAddr, tcp: TcpStream) {
        let key = Key { serves, address };
        if self.count.load(Ordering::Relaxed) >= self.capacity {
            let made_room = self.shard(&key).is_some_and(|mut shard| self.evict(&mut shard));
            if !made_room && !self.give_up_one() {
                return;
            }
        }
        let Some(mut shard) = self.shard(&key) else { return };
        shard.put(key, tcp, Instant::now() + self.keep);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn evict(&self, shard: &mut Shard) -> bool {
        let evicted = shard.evict();
        if evicted {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        evicted
    }

    /// Closes one connection, for the handle and the port that it takes.
    pub(crate) fn give_up_one(&self) -> bool {
        let (before, from) = self.shards.split_at(self.victim.fetch_add(1, Ordering::Relaxed) % SHARDS);
        from.iter().chain(before).any(|shard| self.evict(&mut lock(shard)))
    }

    /// Closes what was kept long enough, or was closed by its node. Looks at every idle connection, so it is called once a second.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.idle.retain(|_, connections| {
                connections.retain(|idle| {
                    let kept = idle.until > now && is_quiet(&idle.tcp);
                    if !kept {
                        close(&idle.tcp);
                    }
                    kept
                });
                !connections.is_empty()
            });
            let left = shard.idle.values().map(VecDeque::len).sum();
            self.count.fetch_sub(shard.count.saturating_sub(left), Ordering::Relaxed);
            shard.count = left;
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the node neither closed the connection nor said anything. Costs no system call unless something came.
fn is_quiet(tcp: &TcpStream) -> bool {
    matches!(tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether a connection failed for want of something of ours: handles, ports, memory.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL)
    )
}

/// Connects within `limit`. A node that has too much to do for a moment, or a network, loses a first packet now and then, and the
/// system sends it again after a second only (RFC 6298 §2). So an attempt that is not answered at once gets others beside it.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let mut first = pin!(TcpStream::connect(address));
    let connected = match tokio::time::timeout(limit.min(NEXT_ATTEMPT), first.as_mut()).await {
        Ok(connected) => connected,
        Err(_) => Box::pin(connect_again(first, address, limit.saturating_sub(NEXT_ATTEMPT))).await,
    };
    let tcp = connected?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Goes on with the first attempt, makes the others, and returns what comes of the one that is answered first.
async fn connect_again(
    first: Pin<&mut impl Future<Output = io::Result<TcpStream>>>,
    address: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let others = (0..MORE_ATTEMPTS).map(async |number| {
        tokio::time::sleep(NEXT_ATTEMPT * number).await;
        TcpStream::connect(address).await
    });
    let mut others: FuturesUnordered<_> = others.collect();
    tokio::select! {
        connected = first => connected,
        Some(connected) = others.next() => connected,
        () = tokio::time::sleep(limit) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_stays_with_its_webroot_and_only_while_it_is_quiet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = IdleConnections::new(SHARDS * 2, Duration::from_secs(60));
        let (a, b): (Arc<str>, Arc<str>) = ("web_a".into(), "web_b".into());
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let tcp = connect(address, Duration::from_secs(1)).await.unwrap();
            nodes.push(listener.accept().await.unwrap().0);
            pool.put(Serves::Webroot(Arc::clone(&a)), address, tcp);
        }
        assert!(pool.take(&b, address, Instant::now()).is_none());
        // The last one in is the first one out; it said something that nobody asked for.
        nodes[1].write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(pool.take(&a, address, Instant::now()).is_some());
        assert!(pool.take(&a, address, Instant::now()).is_none());

        let tcp = connect(address, Duration::from_secs(1)).await.unwrap();
        pool.put(Serves::Webroot(Arc::clone(&a)), address, tcp);
        drop(listener.accept().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        pool.sweep();
        assert!(pool.shards.iter().all(|shard| shard.lock().unwrap().idle.is_empty()));
    }

    #[tokio::test]
    async fn a_node_is_not_blamed_for_what_is_missing_here() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL] {
            assert!(is_ours(&errno.into()), "{errno}");
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(!is_ours(&connect(nobody, Duration::from_secs(1)).await.unwrap_err()));
        assert!(!is_ours(&io::ErrorKind::TimedOut.into()));
    }

    #[tokio::test]
    async fn a_first_packet_that_is_lost_costs_no_second() {
        use socket2::{Domain, Socket, Type};
        let node = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        node.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        node.listen(0).unwrap();
        let address = node.local_addr().unwrap().as_socket().unwrap();
        // Its queue is full with one connection; what comes then is dropped.
        let _queued = TcpStream::connect(address).await.unwrap();
        let (none, late) = tokio::join!(connect(address, Duration::from_millis(400)), async {
            tokio::time::sleep(Duration::from_millis(450)).await;
            node.accept().unwrap();
            connect(address, Duration::from_secs(5)).await
        });
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(late.is_ok());

        let begun = Instant::now();
        let connecting = tokio::spawn(connect(address, Duration::from_secs(5)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.accept().unwrap();
        connecting.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    }

    async fn put(pool: &IdleConnections, webroot: &Arc<str>, address: SocketAddr) {
        let tcp = connect(address, Duration::from_secs(1)).await.unwrap();
        pool.put(Serves::Webroot(Arc::clone(webroot)), address, tcp);
    }

    /// Puts connections for these webroots, in this order.
    async fn fill(pool: &IdleConnections, webroots: impl IntoIterator<Item = Arc<str>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut nodes = Vec::new();
            while let Ok((node, _)) = listener.accept().await {
                nodes.push(node);
            }
        });
        for webroot in webroots {
            put(pool, &webroot, address).await;
        }
        address
    }

    fn count(pool: &IdleConnections) -> usize {
        pool.shards.iter().map(|shard| shard.lock().unwrap().count).sum()
    }

    #[tokio::test]
    async fn the_pool_holds_no_more_than_it_may() {
        let pool = IdleConnections::new(SHARDS, Duration::from_secs(60));
        fill(&pool, (0..300).map(|n| format!("web_{n}").into())).await;
        assert!(count(&pool) <= SHARDS, "{}", count(&pool));
    }

    #[tokio::test]
    async fn the_busiest_keep_their_connections() {
        let pool = IdleConnections::new(3, Duration::from_secs(60));
        let address = fill(&pool, []).await;
        // Those of one shard make room for each other.
        let shard = |name: &Arc<str>| {
            pool.hasher.hash_one(Key { serves: Serves::Webroot(Arc::clone(name)), address }) % SHARDS as u64
        };
        let mut names = (0..).map(|n| Arc::<str>::from(format!("web_{n}")));
        let busy = names.next().unwrap();
        let others: Vec<_> = names.filter(|name| shard(name) == shard(&busy)).take(20).collect();
        put(&pool, &busy, address).await;
        for other in &others {
            let (tcp, _) = pool.take(&busy, address, Instant::now()).expect("used between all the others");
            pool.put(Serves::Webroot(Arc::clone(&busy)), address, tcp);
            put(&pool, other, address).await;
        }
        assert_eq!(count(&pool), 3);
        // Used a hundred times, it leaves no hundred traces.
        for _ in 0..1_000 {
            let (tcp, _) = pool.take(&busy, address, Instant::now()).unwrap();
            pool.put(Serves::Webroot(Arc::clone(&busy)), address, tcp);
        }
        assert!(pool.shards.iter().all(|shard| shard.lock().unwrap().order.len() <= 2 * 3 + SHARDS + 1));
        let mut given_up = 0;
        while pool.give_up_one() {
            given_up += 1;
        }
        assert_eq!((given_up, count(&pool)), (3, 0));
        assert!(pool.take(&busy, address, Instant::now()).is_none());
    }
}
