//! A server for a router, plain or with TLS, HTTP/1.1 and HTTP/2, bounded against clients that are slow, silent or many.
//!
//! Owns accept, limits and drain; never looks into a request. The admin port and the controller's API are served by it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::client_address::ClientAddress;
use crate::client_address::is_trusted;
use crate::connection::Connection;
pub use crate::connection::HttpLimits;
use crate::networks::Networks;
use crate::server_tls::ServerTls;

/// Serves until `stop`; requests under way are finished then, idle connections closed. With `tls` every connection begins with a handshake.
///
/// # Errors
/// None today: a listener that fails for the moment is tried again.
pub fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    tls: Option<Arc<ServerTls>>,
    stop: CancellationToken,
) -> BoxFuture<'static, io::Result<()>> {
    // Boxed, so that the whole of HTTP is compiled with this crate and not again with its caller.
    Box::pin(serve_until(listener, router, limits, tls, stop))
}

async fn serve_until(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    tls: Option<Arc<ServerTls>>,
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
                let peer = peer.ip().to_canonical();
                let is_shared = is_trusted(&limits.trusted, peer);
                let place = if is_shared { None } else { networks.enter(peer, limits.per_network) };
                if place.is_none() && !is_shared {
                    continue;
                }
                let connection = Connection {
                    peer,
                    is_shared,
                    networks: Arc::clone(&networks),
                    router: router.clone(),
                    limits: limits.clone(),
                    stop: stop.clone(),
                };
                let tls = tls.as_ref().map(|tls| tls.config());
                connections.spawn(async move {
                    connection.serve(tcp, tls).await;
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
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
        let server = tokio::spawn(serve(listener, router, limits, None, stop.clone()));
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
    async fn headers_and_targets_have_a_largest_size() {
        let (address, _stop, _server) = start(HttpLimits::default()).await;
        let status = async |request: String| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The answer may come before all of it is written.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut buffer = [0; 64];
            let length = stream.read(&mut buffer).await.unwrap();
            String::from_utf8_lossy(&buffer[..length]).chars().skip(9).take(3).collect::<String>()
        };
        let many = "a: b\r\n".repeat(500);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await, "431");
        let target = "a".repeat(65_600);
        assert_eq!(status(format!("GET /{target} HTTP/1.1\r\nhost: a\r\n\r\n")).await, "414");
        assert_eq!(status("GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()).await, "200");
    }

    #[tokio::test]
    async fn behind_a_trusted_proxy_each_client_has_its_share() {
        let limits = HttpLimits {
            per_network: 1,
            trusted: vec!["127.0.0.0/8".parse().unwrap()],
            ..HttpLimits::default()
        };
        let (address, _stop, _server) = start(limits).await;
        let ask_for = async |client: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /slow HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {client}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap();
            String::from_utf8_lossy(&buffer[..length]).chars().skip(9).take(3).collect::<String>()
        };
        let (one, again, other) =
            tokio::join!(ask_for("192.0.2.1"), ask_for("192.0.2.1"), ask_for("192.0.2.2"));
        let mut same = [one.as_str(), again.as_str()];
        same.sort_unstable();
        assert_eq!((same, other.as_str()), (["200", "503"], "200"));
        assert_eq!(ask_for("192.0.2.1").await, "200", "its place is given back");
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
    type Requests = http2::SendRequest<String>;

    async fn http2_over(
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> (Requests, tokio::task::JoinHandle<hyper::Result<()>>) {
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        (requests, tokio::spawn(connection))
    }

    async fn status_of(requests: &mut Requests, path: &str, header: (&str, String)) -> u16 {
        let request = hyper::Request::builder().uri(format!("http://a{path}")).header(header.0, header.1);
        let response = requests.send_request(request.body(String::new()).unwrap()).await.unwrap();
        response.status().as_u16()
    }

    #[tokio::test]
    async fn http2_has_the_limits_of_http1() {
        let limits =
            HttpLimits { per_network: 3, header: Duration::from_millis(300), ..HttpLimits::default() };
        let (address, _stop, _server) = start(limits).await;
        let (requests, connection) = http2_over(TcpStream::connect(address).await.unwrap()).await;
        let plain = || ("x", String::new());
        assert_eq!(status_of(&mut requests.clone(), "/", plain()).await, 200);
        let long = ("x", "a".repeat(70_000));
        assert_eq!(status_of(&mut requests.clone(), "/", long).await, 431);
        // Requests at once on one connection take the places of connections.
        let asked = (0..5).map(|_| {
            let mut requests = requests.clone();
            async move { status_of(&mut requests, "/slow", plain()).await }
        });
        let mut codes = futures::future::join_all(asked).await;
        codes.sort_unstable();
        assert_eq!(codes, [200, 200, 200, 503, 503]);
        assert_eq!(status_of(&mut requests.clone(), "/", plain()).await, 200, "places are given back");
        // An idle connection is ended, though the client would keep it.
        tokio::time::timeout(Duration::from_secs(5), connection).await.unwrap().unwrap().unwrap();
        // One that began as HTTP/2 and goes no further too.
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert!(closed_after(&mut silent).await < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn with_tls_both_versions_are_served_and_nothing_in_plain() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        crate::file::write_private(&key, made.signing_key.serialize_pem().as_bytes()).unwrap();
        let tls = Arc::new(ServerTls::load(&certificate, &key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = HttpLimits { header: Duration::from_millis(300), ..HttpLimits::default() };
        let router = Router::new().route("/", get(|| async { "hello" }));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, limits, Some(tls), stop.clone()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let connect = async |protocol: &[u8]| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
        };
        let (mut requests, _connection) = http2_over(connect(b"h2").await).await;
        assert_eq!(status_of(&mut requests, "/", ("x", String::new())).await, 200);
        let mut plain = connect(b"http/1.1").await;
        plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut buffer = [0; 64];
        let length = plain.read(&mut buffer).await.unwrap();
        assert!(buffer[..length].starts_with(b"HTTP/1.1 200"));
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(closed_after(&mut stranger).await < Duration::from_secs(5));
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert!(closed_after(&mut silent).await < Duration::from_secs(5), "a handshake has its time too");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
    }
}
