//! A plain HTTP/1.1 server for a router, bounded against clients that are slow, silent or many.
//!
//! Owns accept, limits and drain; never looks into a request. The admin port and the controller's API are served by it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
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
    /// Networks of proxies in front: their connections are nobody's share, the requests in them are. From them alone it is believed
    /// for whom they ask.
    pub trusted: Vec<IpNet>,
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
            trusted: Vec::new(),
            header: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            unacknowledged: Duration::from_secs(60),
        }
    }
}

/// Whose request it is: the peer, or for whom a trusted proxy asks. In the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// For whom a trusted proxy asks: of the addresses that the proxies noted, the last one that is none of theirs. What they did not
/// write themselves stands further to the front. Two headers that disagree are nobody's word: one of them is the client's own.
fn client_of(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let last = |mut chain: Vec<Option<IpAddr>>| {
        let mut client = peer;
        while let Some(noted) = chain.pop() {
            let Some(address) = noted else { break };
            client = address;
            if !is_trusted(trusted, address) {
                break;
            }
        }
        client
    };
    let values = |name: HeaderName| -> Vec<String> {
        let texts = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
        texts.flat_map(|text| text.split(',')).map(|part| part.trim().to_owned()).collect()
    };
    let plain: Vec<_> =
        values(HeaderName::from_static("x-forwarded-for")).iter().map(|part| noted_address(part)).collect();
    let standard: Vec<_> = values(header::FORWARDED).iter().map(|part| forwarded_for(part)).collect();
    match (plain.is_empty(), standard.is_empty()) {
        (true, true) => peer,
        (false, true) => last(plain),
        (true, false) => last(standard),
        (false, false) => {
            let (one, other) = (last(plain), last(standard));
            if one == other { one } else { peer }
        }
    }
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    noted_address(node.trim().trim_matches('"'))
}

/// An address, with or without a port.
fn noted_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))
        .map(|ip| ip.to_canonical())
}

fn crowded() -> Response {
    let error = "too many requests of this network at once; send fewer at a time";
    let body = serde_json::json!({
        "error": error, "type": "/docs#problem-unavailable", "title": "Not now", "status": 503, "detail": error,
    });
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Serves until `stop`; requests under way are finished then, idle connections closed.
///
/// # Errors
/// None today: a listener that fails for the moment is tried again.
pub fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
) -> BoxFuture<'static, io::Result<()>> {
    // Boxed, so that the whole of HTTP is compiled with this crate and not again with its caller.
    Box::pin(serve_until(listener, router, limits, stop))
}

async fn serve_until(
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
                let peer = peer.ip().to_canonical();
                let (place, shared) = if is_trusted(&limits.trusted, peer) {
                    (None, Some(Arc::clone(&networks)))
                } else {
                    match networks.enter(peer, limits.per_network) {
                        Some(place) => (Some(place), None),
                        None => continue,
                    }
                };
                let serve = connection(tcp, peer, shared, router.clone(), limits.clone(), stop.clone());
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

/// `shared`: the connection is a trusted proxy's, and each request in it takes a place of its client's network.
async fn connection(
    tcp: TcpStream,
    peer: IpAddr,
    shared: Option<Arc<Networks>>,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
) {
    // Both fail only on a connection that is gone.
    let _ = tcp.set_nodelay(true);
    let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(limits.unacknowledged));
    let inner = TowerToHyperService::new(router);
    let (trusted, per_network) = (limits.trusted, limits.per_network);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        let inner = inner.clone();
        let (client, place) = match &shared {
            None => (peer, Some(None)),
            Some(networks) => {
                let client = client_of(request.headers(), peer, &trusted);
                (client, networks.enter(client, per_network).map(Some))
            }
        };
        request.extensions_mut().insert(ClientAddress(client));
        async move {
            match place {
                None => Ok(crowded()),
                Some(place) => {
                    let response = hyper::service::Service::call(&inner, request).await;
                    drop(place);
                    response
                }
            }
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes.max(8_192))
        .serve_connection(TokioIo::new(tcp), service);
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

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).into();
        let of = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            client_of(&map, "10.0.0.1".parse().unwrap(), &trusted).to_string()
        };
        let plain = "x-forwarded-for";
        assert_eq!(of(&[]), "10.0.0.1");
        assert_eq!(of(&[(plain, "192.0.2.1")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "203.0.113.9, 192.0.2.1")]), "192.0.2.1", "the client made up the first one");
        assert_eq!(of(&[(plain, "203.0.113.9"), (plain, "192.0.2.1, 10.0.0.7")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "192.0.2.1:4711, 10.9.9.9")]), "192.0.2.1");
        assert_eq!(of(&[(plain, "[2001:db8::5]:80, 2001:db8:1::2")]), "2001:db8::5");
        assert_eq!(of(&[(plain, "10.2.2.2")]), "10.2.2.2", "a proxy that asks for itself");
        assert_eq!(of(&[(plain, "192.0.2.1, unknown")]), "10.0.0.1");
        assert_eq!(
            of(&[("forwarded", "for=192.0.2.1;proto=https, For=\"[2001:db8::5]:99\"")]),
            "2001:db8::5"
        );
        assert_eq!(of(&[("forwarded", "for=192.0.2.1"), (plain, "192.0.2.1")]), "192.0.2.1");
        assert_eq!(of(&[("forwarded", "for=203.0.113.9"), (plain, "192.0.2.1")]), "10.0.0.1");
        assert_eq!(of(&[(plain, "::ffff:192.0.2.1")]), "192.0.2.1");
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
}
