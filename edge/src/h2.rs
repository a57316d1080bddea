//! A client's HTTP/2 streams. Pingora keeps the connection; each stream's request is read as an HTTP/1.1 head, so that both
//! versions are held to the same rules.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use hosting_edge_http1::{AnswerHead, Request, RequestHead, push_chunk};
use http::header::{self, HeaderName, HeaderValue};
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, HttpSession, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::net::TcpStream;

use crate::exchange::{Client, ClientError, Timer};
use crate::pages::Page;
use crate::proxy::{Edge, Visitor};

/// What HTTP/2 lets a sender have under way when nothing else is agreed (RFC 9113 §6.9.2).
const SMALL_WINDOW: u32 = 65_535;
/// What a stream may have under way: 1 MiB every 100 ms is 80 Mbit/s.
const LARGE_WINDOW: u32 = 1_024 * 1_024;
/// What is given to a stream at once.
const SEND: usize = 32 * 1_024;

/// Memory that the windows of all connections may promise, in bytes.
#[derive(Debug)]
pub(crate) struct Windows(AtomicUsize);

/// A connection's share of it.
#[derive(Debug)]
struct Share<'a>(&'a Windows);

impl Windows {
    pub(crate) fn new(budget: usize) -> Self {
        Self(AtomicUsize::new(budget))
    }

    /// A large window for a connection, while there is room for another.
    fn take(&self) -> Option<Share<'_>> {
        let large = LARGE_WINDOW as usize;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(large))
            .ok()
            .map(|_| Share(self))
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(LARGE_WINDOW as usize, Ordering::Relaxed);
    }
}

/// Limits on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct H2Limits {
    pub(crate) streams: u32,
    pub(crate) header_bytes: usize,
    pub(crate) idle: Duration,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    edge: &Arc<Edge>,
    conn: crate::conn::Conn,
    visitor: Visitor,
    limits: H2Limits,
    windows: &Windows,
    shutdown: &ShutdownWatch,
) {
    let share = windows.take();
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(limits.idle);
    let window = if share.is_some() { LARGE_WINDOW } else { SMALL_WINDOW };
    let streams = Arc::new(Streams { edge: Arc::clone(edge), visitor, limits, window, options });
    pingora_core::apps::ServerApp::process_new(&streams, Box::new(conn), shutdown).await;
}

/// The application in Pingora's sense: one for each connection.
struct Streams {
    edge: Arc<Edge>,
    visitor: Visitor,
    limits: H2Limits,
    window: u32,
    options: HttpServerOptions,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let ServerSession::H2(session) = session else { return None };
        let head = head_of(&session);
        let mut client = H2Client { session, writer: None, ended: false, timer: Timer::new() };
        match RequestHead::parse(head).and_then(Request::new) {
            Ok(request) => self.edge.serve(&mut client, &request, &self.visitor).await,
            Err(error) => self.edge.refuse(&mut client, Page::from(error)).await,
        }
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut h2 = default_h2_options();
        h2.max_concurrent_streams(self.limits.streams.max(1));
        h2.max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX));
        h2.initial_window_size(self.window);
        h2.initial_connection_window_size(self.window);
        h2.max_send_buffer_size(2 * SEND);
        Some(h2)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// A stream's request as an HTTP/1.1 head. Whether it is a sound one is the parser's business.
fn head_of(session: &HttpSession) -> Bytes {
    let request: &RequestHeader = session.req_header();
    let mut out = BytesMut::with_capacity(512);
    let mut field = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    let path = request.raw_path();
    let method = request.method.as_str();
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = authority.or_else(|| request.headers.get(header::HOST).map(HeaderValue::as_bytes));
    field(b"host", host.unwrap_or_default());
    for (name, value) in &request.headers {
        if *name != header::HOST && *name != header::TRANSFER_ENCODING && *name != header::CONNECTION {
            field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if !request.headers.contains_key(header::CONTENT_LENGTH) {
        if !session.is_body_done() {
            field(b"transfer-encoding", b"chunked");
        } else if matches!(method, "POST" | "PUT" | "PATCH") {
            field(b"content-length", b"0");
        }
    }
    out.extend_from_slice(b"\r\n");
    let mut head = BytesMut::with_capacity(method.len() + path.len() + 16 + out.len());
    for part in [method.as_bytes(), b" ", if path.is_empty() { b"/" } else { path }, b" HTTP/1.1\r\n", &out] {
        head.extend_from_slice(part);
    }
    head.freeze()
}

struct H2Client {
    session: HttpSession,
    writer: Option<SendStream<Bytes>>,
    ended: bool,
    timer: Timer,
}

impl Client for H2Client {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        chunked: bool,
    ) -> Poll<Result<Option<usize>, ClientError>> {
        Poll::Ready(match ready!(self.session.poll_read_body_bytes(cx)) {
            Some(Ok(data)) => {
                if chunked {
                    push_chunk(out, &data);
                } else {
                    out.extend_from_slice(&data);
                }
                Ok(Some(data.len()))
            }
            Some(Err(_)) => Err(ClientError::Gone),
            None => Ok(None),
        })
    }

    fn start(&mut self, head: &AnswerHead<'_>) -> Result<(), ClientError> {
        let mut response =
            ResponseHeader::build(head.status, Some(head.fields.len() + 2)).map_err(|_| ClientError::Gone)?;
        for (name, value) in &head.fields {
            // HTTP/1 allows bytes in names that HTTP/2 has no way to say; such a field is left out.
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
                continue;
            };
            response.append_header(name, value).map_err(|_| ClientError::Gone)?;
        }
        if let Some(length) = head.length {
            response.insert_header(header::CONTENT_LENGTH, length).map_err(|_| ClientError::Gone)?;
        }
        self.ended = !head.has_body;
        self.session.write_response_header(Box::new(response), self.ended).map_err(|_| ClientError::Gone)?;
        self.writer = self.session.take_response_body_writer();
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Err(ClientError::Gone)) };
        let wanted = data.len().min(SEND);
        writer.reserve_capacity(wanted);
        while writer.capacity() == 0 {
            if !matches!(ready!(writer.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(Err(ClientError::Gone));
            }
        }
        let data = data.get(..wanted.min(writer.capacity())).unwrap_or_default();
        let sent = writer.send_data(Bytes::copy_from_slice(data), false);
        Poll::Ready(sent.map(|()| data.len()).map_err(|_| ClientError::Gone))
    }

    /// The connection's task writes.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, complete: bool) -> Result<(), ClientError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if !complete {
            writer.send_reset(Reason::INTERNAL_ERROR);
        } else if !std::mem::replace(&mut self.ended, true) {
            writer.send_data(Bytes::new(), true).map_err(|_| ClientError::Gone)?;
        }
        Ok(())
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx).map(drop),
            None => Pin::new(&mut self.session.idle()).poll(cx).map(drop),
        }
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn can_upgrade(&self) -> bool {
        false
    }

    async fn tunnel(&mut self, _node: TcpStream, _first: BytesMut, _idle: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_windows_are_given_while_there_is_memory_for_them() {
        let windows = Windows::new(2 * LARGE_WINDOW as usize + 1);
        let (first, second) = (windows.take(), windows.take());
        assert!(first.is_some() && second.is_some() && windows.take().is_none());
        drop(first);
        assert!(windows.take().is_some());
    }
}
