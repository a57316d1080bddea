//! A plain HTTP/1.1 server for a router, bounded against clients that are slow, silent or many.
//!
//! Owns accept, limits and drain; never looks into a request. The admin port and the controller's API are served by it.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::networks::Networks;

/// What the server takes on.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Of these for one network (an IPv4 address, an IPv6 /64); more are closed at once, so that nobody alone can keep the
    /// others out.
    pub per_network: usize,
    /// From the first moment that a request may come to the end of its header: also how long a connection may be idle.
    pub header: Duration,
    /// Largest request header in bytes, at least 8 192.
    pub header_bytes: usize,
    /// How long the peer may leave what it was sent unacknowledged.
    pub unacknowledged: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            per_network: 2_048,
            header: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            unacknowledged: Duration::from_secs(60),
        }
    }
}

/// Serves until `stop`; requests under way are finished then, idle connections closed.
///
/// # Errors
/// None today: a listener that fails for the moment is tried again.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let networks = Arc::new(Networks::default());
    let connections = TaskTracker::new();
    loop {
        // First the right to a connection, then the connection.
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            let (tcp, peer) = listener.accept().await?;
            Ok::<_, io::Error>((permit, tcp, peer))
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((permit, tcp, peer)) => {
                let Some(place) = networks.enter(peer.ip(), limits.per_network) else { continue };
                let serve = connection(tcp, router.clone(), limits.clone(), stop.clone());
                connections.spawn(async move {
                    serve.await;
                    drop((permit, place));
                });
            }
            Err(error) => {
                // No file handles, no memory: it would come back at once, so let others end first.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connection(tcp: TcpStream, router: Router, limits: HttpLimits, stop: CancellationToken) {
    // Both fail only on a connection that is gone.
    let _ = tcp.set_nodelay(true);
    let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(limits.unacknowledged));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes.max(8_192))
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    async fn start(
        limits: HttpLimits,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let router = Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow));
        let server = tokio::spawn(serve(listener, router, limits, stop.clone()));
        (address, stop, server)
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Whether the other side closes, and when.
    async fn closed_after(stream: &mut TcpStream) -> Duration {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        let _ = read.expect("the connection stays open for ever");
        begun.elapsed()
    }

    #[tokio::test]
    async fn silent_slow_and_idle_clients_are_cut() {
        let limits = HttpLimits { header: Duration::from_millis(200), ..HttpLimits::default() };
        let (address, _stop, _server) = start(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut idle, "/").await.starts_with("HTTP/1.1 200"));
        // A request that takes longer than a header may is none of this.
        let mut busy = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut busy, "/slow").await.starts_with("HTTP/1.1 200"));
        for stream in [&mut silent, &mut slow, &mut idle] {
            assert!(closed_after(stream).await < Duration::from_secs(5));
        }
    }

    #[tokio::test]
    async fn one_network_gets_its_share_and_room_is_given_back() {
        let limits = HttpLimits { per_network: 2, ..HttpLimits::default() };
        let (address, _stop, _server) = start(limits).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut stream, "/").await.starts_with("HTTP/1.1 200"));
            held.push(stream);
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(closed_after(&mut third).await < Duration::from_secs(5));
        drop(held);
        let begun = Instant::now();
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A connection that is refused may be reset while it is written to.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let mut buffer = [0; 64];
            if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "its places are never given back");
        }
    }

    #[tokio::test]
    async fn stopping_finishes_what_is_under_way_and_closes_the_idle() {
        let (address, stop, server) = start(HttpLimits::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut idle, "/").await.starts_with("HTTP/1.1 200"));
        let busy = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, "/slow").await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert!(busy.await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(closed_after(&mut idle).await < Duration::from_secs(5));
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
    }
}
