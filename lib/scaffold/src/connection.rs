//! One connection: TLS if the server has it, HTTP/1.1 or HTTP/2 as the peer begins, and its limits.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::client_address::{ClientAddress, client_of_headers};
use crate::networks::{NetworkPlace, Networks};

/// How long a peer may take to end a connection that it was asked to end.
const FAREWELL: Duration = Duration::from_secs(2);

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
    /// HTTP/2 requests in work on one connection. Each but the first takes a place of its network, as a connection does.
    pub streams: u32,
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
            streams: 256,
            unacknowledged: Duration::from_secs(60),
        }
    }
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

/// One connection of `peer`.
pub(crate) struct Connection {
    pub(crate) peer: IpAddr,
    /// It is a trusted proxy's: each request in it takes a place of its client's network.
    pub(crate) is_shared: bool,
    pub(crate) networks: Arc<Networks>,
    pub(crate) router: Router,
    pub(crate) limits: HttpLimits,
    pub(crate) stop: CancellationToken,
}

impl Connection {
    /// Serves it to its end.
    pub(crate) async fn serve(self, tcp: TcpStream, tls: Option<Arc<ServerConfig>>) {
        // Both fail only on a connection that is gone.
        let _ = tcp.set_nodelay(true);
        let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(self.limits.unacknowledged));
        let Some(tls) = tls else { return self.serve_http(tcp).await };
        let handshake = TlsAcceptor::from(tls).accept(tcp);
        let within = tokio::time::timeout(self.limits.header, handshake);
        let accepted = tokio::select! {
            accepted = within => accepted,
            () = self.stop.cancelled() => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.serve_http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve_http(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { peer, is_shared, networks, router, limits, stop } = self;
        let in_work = watch::Sender::new(0_usize);
        let mut standing = in_work.subscribe();
        let inner = TowerToHyperService::new(router);
        let (trusted, per_network, header) = (limits.trusted, limits.per_network, limits.header);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let client = if is_shared { client_of_headers(request.headers(), peer, &trusted) } else { peer };
            // The connection's own place is that of its first request.
            let has_place = !is_shared && *in_work.borrow() == 0;
            let place = if has_place { Some(None) } else { networks.enter(client, per_network).map(Some) };
            let inner = inner.clone();
            let work = InWork::new(in_work.clone());
            request.extensions_mut().insert(ClientAddress(client));
            async move {
                let Some(place) = place else { return Ok(crowded()) };
                let response = hyper::service::Service::call(&inner, request).await;
                response.map(|response| response.map(|body| Body::new(Held { body, _held: (place, work) })))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let header_bytes = limits.header_bytes.max(8_192);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header)
            // With room for a target that is longer than any may be, so that it is told from too many fields (414, not 431).
            .max_buf_size(header_bytes + 8_192);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            // A peer that is gone without a word is noticed though nothing is sent to it.
            .keep_alive_interval(limits.unacknowledged / 2)
            .keep_alive_timeout(limits.unacknowledged / 2);
        let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut is_ending = false;
        loop {
            let patience = if is_ending { FAREWELL } else { header };
            tokio::select! {
                ended = served.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection");
                    }
                    return;
                }
                () = stop.cancelled(), if !is_ending => {}
                () = quiet(&mut standing, patience) => {
                    if is_ending {
                        return;
                    }
                }
            }
            is_ending = true;
            served.as_mut().graceful_shutdown();
        }
    }
}

/// Returns when no request was in work for so long.
async fn quiet(in_work: &mut watch::Receiver<usize>, patience: Duration) {
    loop {
        // Fails when the connection is gone, which nobody waits for any more.
        let _ = in_work.wait_for(|count| *count == 0).await;
        if tokio::time::timeout(patience, in_work.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
}

/// A request in work, until its answer is handed over or it is given up.
struct InWork(watch::Sender<usize>);

impl InWork {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A body that holds its request's places until it is sent.
struct Held {
    body: Body,
    _held: (Option<NetworkPlace>, InWork),
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
