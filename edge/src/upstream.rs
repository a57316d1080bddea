//! Connections to nodes: made, kept for the next request of the same site, thrown away.
//!
//! A connection is kept for the webroot that it served and is given to no other: what one tenant's code may have left behind
//! in it can reach that tenant's own visitors only.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::RandomState;
use tokio::net::TcpStream;

/// Locks that the threads share. A power of two.
const SHARDS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    webroot: Arc<str>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Idle {
    tcp: TcpStream,
    until: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    idle: HashMap<Key, Vec<Idle>, RandomState>,
    count: usize,
}

/// Idle connections to nodes.
#[derive(Debug)]
pub(crate) struct IdleConnections {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    capacity: usize,
    keep: Duration,
}

impl IdleConnections {
    /// Keeps at most `capacity` connections, each for `keep`.
    pub(crate) fn new(capacity: usize, keep: Duration) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            capacity: capacity.div_ceil(SHARDS),
            keep,
        }
    }

    fn shard(&self, key: &Key) -> Option<MutexGuard<'_, Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(&key.webroot) % SHARDS as u64).unwrap_or_default();
        Some(self.shards.get(hash)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A connection to `address` that served this webroot before and is quiet since.
    pub(crate) fn take(&self, webroot: &Arc<str>, address: SocketAddr) -> Option<TcpStream> {
        let key = Key { webroot: Arc::clone(webroot), address };
        let mut shard = self.shard(&key)?;
        let shard = &mut *shard;
        let connections = shard.idle.get_mut(&key)?;
        let mut found = None;
        while let Some(idle) = connections.pop() {
            shard.count -= 1;
            if idle.until > Instant::now() && is_quiet(&idle.tcp) {
                found = Some(idle.tcp);
                break;
            }
        }
        if connections.is_empty() {
            shard.idle.remove(&key);
        }
        found
    }

    /// Keeps a connection. Only for one that is proven clean: the request was written whole before the response ended, and the
    /// response was read to its end with nothing behind it.
    pub(crate) fn put(&self, webroot: &Arc<str>, address: SocketAddr, tcp: TcpStream) {
        let key = Key { webroot: Arc::clone(webroot), address };
        let Some(mut shard) = self.shard(&key) else { return };
        let shard = &mut *shard;
        if shard.count >= self.capacity {
            // Any other makes room: which one does not matter, because all are as good as a new one.
            let Some(victim) = shard.idle.keys().next().cloned() else { return };
            if let Some(connections) = shard.idle.get_mut(&victim) {
                shard.count -= usize::from(connections.pop().is_some());
                if connections.is_empty() {
                    shard.idle.remove(&victim);
                }
            }
        }
        shard.idle.entry(key).or_default().push(Idle { tcp, until: Instant::now() + self.keep });
        shard.count += 1;
    }

    /// Closes what was kept long enough, or was closed by its node. Looks at every idle connection, so it is called once a second.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.idle.retain(|_, connections| {
                connections.retain(|idle| idle.until > now && is_quiet(&idle.tcp));
                !connections.is_empty()
            });
            shard.count = shard.idle.values().map(Vec::len).sum();
        }
    }
}

/// Whether the node neither closed the connection nor said anything. Costs no system call unless something came.
fn is_quiet(tcp: &TcpStream) -> bool {
    matches!(tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Connects within `limit`.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
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
            pool.put(&a, address, tcp);
        }
        assert!(pool.take(&b, address).is_none());
        // The last one in is the first one out; it said something that nobody asked for.
        nodes[1].write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(pool.take(&a, address).is_some());
        assert!(pool.take(&a, address).is_none());

        let tcp = connect(address, Duration::from_secs(1)).await.unwrap();
        pool.put(&a, address, tcp);
        drop(listener.accept().await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        pool.sweep();
        assert!(pool.shards.iter().all(|shard| shard.lock().unwrap().idle.is_empty()));
    }

    #[tokio::test]
    async fn the_pool_holds_no_more_than_it_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = IdleConnections::new(SHARDS, Duration::from_secs(60));
        for n in 0..300 {
            let tcp = connect(address, Duration::from_secs(1)).await.unwrap();
            drop(listener.accept().await.unwrap());
            pool.put(&Arc::from(format!("web_{n}")), address, tcp);
        }
        let held: usize = pool.shards.iter().map(|shard| shard.lock().unwrap().count).sum();
        assert!(held <= SHARDS, "{held}");
    }
}
