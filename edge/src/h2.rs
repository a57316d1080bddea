//! A client's HTTP/2 streams. Pingora's library keeps the connection; each stream's request is read as an HTTP/1.1 head, so that
//! both versions are held to the same rules.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use hosting_edge_http1::{AnswerHead, Request, RequestHead, push_chunk};
use hosting_edge_http2::{Failure, Front, HEAD, REFUSED, head};
use http::header::{self, HeaderName, HeaderValue};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::v2::server::{self, H2Accept, H2Options, HttpSession, default_h2_options};
use pingora_http::ResponseHeader;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::conn::Conn;
use crate::exchange::{Client, ClientError, Timer};
use crate::live::Held;
use crate::memory::{HTTP2_WINDOW, STREAM, STREAM_PLACE};
use crate::pages::Page;
use crate::phase::{Phase, PhaseWatch};
use crate::proxy::Edge;
use crate::visitor::Visitor;
use crate::windows::{LARGE, SMALL, Windows};

/// What is given to a stream at once.
const SEND: usize = 32 * 1_024;

/// Limits on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct H2Limits {
    pub(crate) streams: u32,
    pub(crate) header_bytes: usize,
    pub(crate) idle: Duration,
}

/// What the request that stands for a client's counts beside its head.
const STAND_IN: usize = 512;

/// Saying why a connection ends may take this long.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(crate) async fn serve(
    edge: &Arc<Edge>,
    mut conn: Conn,
    visitor: Visitor,
    limits: H2Limits,
    windows: &Windows,
    mut phase: PhaseWatch,
) {
    let share = windows.take(LARGE);
    let mut failure = conn.follow(Front::new(limits.header_bytes));
    let options = options(limits, if share.is_some() { LARGE } else { SMALL });
    let Ok(mut connection) = server::handshake(Box::new(conn), Some(options)).await else { return };
    let (digest, visitor) = (Arc::new(Digest::default()), Arc::new(visitor));
    let watch = visitor.watch.clone();
    // What is received and not passed on, which only streams can hold.
    let mut window: Option<Held> = None;
    let (mut places, mut most) = (watch.nothing(), 0);
    // Closed from the beginning, so that a wait ends whenever no stream is left.
    let streams = TaskTracker::new();
    streams.close();
    let mut timer = Timer::new();
    let mut draining = false;
    let failure = loop {
        let event = if !draining && phase.now() != Phase::Serving {
            Event::Leaves
        } else {
            let mut accept = pin!(HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)));
            match (failure.try_recv(), futures::poll!(&mut accept)) {
                (Ok(failure), _) => Event::Failed(failure),
                // What is to be waited for is set up when there is something to wait for: most requests come with others.
                (Err(_), Poll::Ready(accepted)) => Event::Accepted(accepted),
                (Err(_), Poll::Pending) => {
                    let idle = async {
                        streams.wait().await;
                        let deadline = Instant::now() + limits.idle;
                        poll_fn(|cx| timer.poll_until(cx, deadline)).await;
                    };
                    tokio::select! {
                        biased;
                        Ok(failure) = &mut failure => Event::Failed(failure),
                        () = phase.ends(), if !draining => Event::Leaves,
                        () = watch.leaves(), if !draining => Event::Leaves,
                        () = streams.wait(), if window.is_some() => Event::Quiet,
                        accepted = accept => Event::Accepted(accepted),
                        () = idle, if !draining => return,
                    }
                }
            }
        };
        let accepted = match event {
            Event::Failed(failure) => break failure,
            Event::Leaves => {
                connection.graceful_shutdown();
                draining = true;
                continue;
            }
            Event::Quiet => {
                window = None;
                continue;
            }
            Event::Accepted(accepted) => accepted,
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                if window.is_none() {
                    let Some(held) = watch.hold(HTTP2_WINDOW) else { return };
                    window = Some(held);
                }
                if streams.len() >= most {
                    most = streams.len() + 1;
                    if !places.set(most * STREAM_PLACE) {
                        return;
                    }
                }
                // On the heap from the beginning: a task is moved when it is made and when it has ended.
                drop(streams.spawn(Box::pin(answer(Arc::clone(edge), Arc::clone(&visitor), session))));
            }
            Ok(Some(H2Accept::Rejected)) => {}
            Ok(None) | Err(_) => return,
        }
    };
    tracing::debug!(%failure, "an HTTP/2 connection ends");
    connection.abrupt_shutdown(Reason::from(failure as u32));
    // The client may be gone or take nothing: then there is nothing left to say to it.
    let _ = tokio::time::timeout(LAST_WORD, poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// What happens next on a connection.
enum Event<A> {
    /// The client broke a rule that ends it.
    Failed(Failure),
    /// It is to end.
    Leaves,
    /// No stream is left.
    Quiet,
    Accepted(A),
}

fn options(limits: H2Limits, window: u32) -> H2Options {
    let mut h2 = default_h2_options();
    h2.max_concurrent_streams(limits.streams.max(1));
    h2.max_header_list_size(u32::try_from(limits.header_bytes + STAND_IN).unwrap_or(u32::MAX));
    h2.initial_window_size(window);
    h2.initial_connection_window_size(window);
    h2.max_send_buffer_size(2 * SEND);
    h2
}

async fn answer(edge: Arc<Edge>, visitor: Arc<Visitor>, session: HttpSession) {
    let request = request(&session);
    // The fields are there in the library's form, as a head, and once more on their way to the node.
    let base = STREAM + request.as_ref().map_or(0, |request| 3 * request.head().size());
    // A page would wait for the client as its answer does, so there is none: the stream is reset when the session is dropped.
    let Some(held) = visitor.watch.hold(base) else { return };
    let sent = 0;
    let mut client = H2Client { session, writer: None, ended: false, timer: Timer::new(), held, base, sent };
    match request {
        Ok(request) => edge.serve(&mut client, &request, &visitor).await,
        Err(page) => edge.refuse(&mut client, page, &visitor).await,
    }
}

/// The request that the stand-in carries. Whether it is a sound one is the parser's business.
fn request(session: &HttpSession) -> Result<Request, Page> {
    let fields = &session.req_header().headers;
    match fields.get(HEAD) {
        Some(value) => {
            let head = RequestHead::parse(head(value.as_bytes()).into())?;
            Ok(Request::new(head)?)
        }
        None if fields.get(REFUSED).is_some_and(|code| code == "431") => Err(Page::HeaderTooLarge),
        None => Err(Page::BadRequest),
    }
}

struct H2Client {
    session: HttpSession,
    writer: Option<SendStream<Bytes>>,
    ended: bool,
    timer: Timer,
    /// The memory of its request, and of what the library holds for the client.
    held: Held,
    base: usize,
    /// Bytes of the body, up to what the library holds at most.
    sent: usize,
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
        if self.sent < 2 * SEND {
            self.sent = (self.sent + data.len()).min(2 * SEND);
            if !self.held.set(self.base + self.sent) {
                return Poll::Ready(Err(ClientError::Gone));
            }
        }
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
