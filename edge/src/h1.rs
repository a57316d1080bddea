//! A client's HTTP/1 connection: reads requests, writes answers, decides whether the connection goes on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hosting_edge_http1::{
    AnswerHead, Decoded, Decoder, Framing, HeadEnd, LAST_CHUNK, Request, RequestHead, Version, head_end,
    push_chunk,
};
use pingora_core::protocols::Shutdown;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::conn::Conn;
use crate::exchange::{Client, ClientError, Timer, copy_both};
use crate::live::{Held, Watch};
use crate::memory::FREE;
use crate::pages::Page;
use crate::phase::{Phase, PhaseWatch};
use crate::proxy::Edge;
use crate::visitor::Visitor;

/// What is read of a client at once.
const READ: usize = 4 * 1_024;
/// What is read of a body at once.
const READ_BODY: usize = 32 * 1_024;
/// What is gathered for a client before it is written.
const WRITE: usize = 32 * 1_024;
/// Most bytes of a body that nobody wants which are read, so that the connection can go on.
const DRAIN: u64 = 64 * 1_024;
/// Most bytes that are read from a client which is told that its connection ends, and for how long: closed with unread bytes, a
/// connection is reset, and the client may lose the answer.
const LINGER_BYTES: usize = 1_024 * 1_024;
const LINGER: Duration = Duration::from_secs(2);

/// Limits on what a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct H1Limits {
    /// From the first byte of a request to the end of its head.
    pub(crate) header: Duration,
    /// Largest head in bytes.
    pub(crate) header_bytes: usize,
    /// A connection without a request.
    pub(crate) idle: Duration,
    /// Between two pieces of a body.
    pub(crate) body: Duration,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    edge: &Arc<Edge>,
    conn: Conn,
    visitor: &Visitor,
    limits: H1Limits,
    mut phase: PhaseWatch,
) {
    let mut client = H1Client::new(conn, visitor.watch.clone());
    let mut first_wait = limits.header;
    loop {
        let request = match client.read_head(first_wait, &limits, &mut phase).await {
            Read::Head(bytes) => RequestHead::parse(bytes).and_then(Request::new).map_err(Page::from),
            Read::Refused(page) => Err(page),
            Read::Gone => return,
        };
        match request {
            Ok(request) => {
                client.begin(&request, phase.now() != Phase::Serving);
                // On the heap, so that an idle connection has no room for a request in its task.
                Box::pin(edge.serve(&mut client, &request, visitor)).await;
            }
            Err(page) => {
                client.refuse();
                Box::pin(edge.refuse(&mut client, page, visitor)).await;
            }
        }
        if !client.goes_on(&limits).await {
            return;
        }
        first_wait = limits.idle;
    }
}

enum Read {
    Head(Bytes),
    Refused(Page),
    /// The client is gone, said nothing in time, or the edge is draining.
    Gone,
}

/// The connection and where it stands in its present request.
struct H1Client {
    conn: Conn,
    input: BytesMut,
    out: BytesMut,
    timer: Timer,
    version: Version,
    /// Of the request's body.
    decoder: Decoder,
    /// The client waits for `100 Continue`.
    continue_due: bool,
    /// How the answer's body is framed.
    answer: Framing,
    /// Bytes of the answer's body that are missing, if its length is known.
    missing: u64,
    /// Another request may follow.
    keep: bool,
    /// The answer broke off.
    broken: bool,
    watch: Watch,
    /// The memory of its buffers.
    held: Held,
}

impl H1Client {
    fn new(conn: Conn, watch: Watch) -> Self {
        Self {
            held: watch.nothing(),
            watch,
            conn,
            input: BytesMut::new(),
            out: BytesMut::new(),
            timer: Timer::new(),
            version: Version::Http11,
            decoder: Decoder::new(Framing::None),
            continue_due: false,
            answer: Framing::None,
            missing: 0,
            keep: true,
            broken: false,
        }
    }

    /// Reads up to the end of a request's head. `wait` is the time for its first byte, `limits.header` that from there on: a
    /// client that sends a byte a minute does not hold its connection for ever, whatever the byte is.
    async fn read_head(&mut self, wait: Duration, limits: &H1Limits, phase: &mut PhaseWatch) -> Read {
        let mut deadline = Instant::now() + wait;
        let watch = self.watch.clone();
        let (mut seen, mut begun) = (0, false);
        loop {
            // Empty lines before a request are allowed (RFC 9112 §2.2); they do not begin one.
            while matches!(self.input.first(), Some(b'\r' | b'\n')) {
                self.input.advance(1);
                seen = 0;
            }
            if let Some(first) = self.input.first() {
                if !first.is_ascii_graphic() {
                    return Read::Refused(Page::BadRequest);
                }
                if !std::mem::replace(&mut begun, true) {
                    deadline = Instant::now() + limits.header;
                }
            }
            match head_end(&self.input, seen) {
                HeadEnd::At(end) if end > limits.header_bytes => return Read::Refused(Page::HeaderTooLarge),
                HeadEnd::At(end) => return Read::Head(self.input.split_to(end).freeze()),
                HeadEnd::Not(next) => seen = next,
            }
            if self.input.len() > limits.header_bytes {
                return Read::Refused(Page::HeaderTooLarge);
            }
            let mut read = self.read_once(deadline, READ);
            let came = match futures::poll!(&mut read) {
                Poll::Ready(came) => came,
                // Only an idle connection looks at the end of the process: a request that began is served. One that outlives
                // the sockets may still bring a request, whose answer says that it is the last.
                Poll::Pending if !begun => {
                    tokio::select! {
                        biased;
                        came = read => came,
                        () = phase.stops() => return Read::Gone,
                        () = watch.leaves() => return Read::Gone,
                    }
                }
                Poll::Pending => read.await,
            };
            match came {
                Came::Bytes => {}
                Came::Nothing => return Read::Gone,
                Came::Late if begun => return Read::Refused(Page::RequestTimeout),
                Came::Late => return Read::Gone,
            }
        }
    }

    fn read_once(&mut self, deadline: Instant, size: usize) -> impl Future<Output = Came> + Unpin {
        poll_fn(move |cx| match self.poll_input(cx, size) {
            Poll::Ready(Ok(1..)) => Poll::Ready(Came::Bytes),
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Came::Nothing),
            Poll::Pending => self.timer.poll_until(cx, deadline).map(|()| Came::Late),
        })
    }

    /// An idle connection holds no buffer: room is made when there is something to read.
    fn poll_input(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<std::io::Result<usize>> {
        ready!(self.conn.poll_readable(cx))?;
        self.input.reserve(size);
        self.hold().map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let read = poll_read_buf(Pin::new(&mut self.conn), cx, &mut self.input);
        if read.is_pending() && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        read
    }

    /// Counts the buffers as they are now.
    fn hold(&mut self) -> Result<(), ClientError> {
        let bytes = self.input.capacity() + self.out.capacity();
        if self.held.set(bytes.saturating_sub(FREE)) { Ok(()) } else { Err(ClientError::Gone) }
    }

    fn begin(&mut self, request: &Request, draining: bool) {
        self.version = request.head().version();
        self.decoder = Decoder::new(request.body());
        self.continue_due = request.expects_continue() && self.input.is_empty();
        self.keep = request.keeps_connection() && !draining;
    }

    /// What follows a head that cannot be read cannot be read either.
    fn refuse(&mut self) {
        self.version = Version::Http11;
        self.keep = false;
    }

    /// After an answer: whether another request may follow. Otherwise the connection is closed, gently unless the answer broke off.
    async fn goes_on(&mut self, limits: &H1Limits) -> bool {
        if self.keep && !self.broken && self.drain(limits).await {
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            self.out = BytesMut::new();
            // What is less is always counted.
            let _ = self.hold();
            return true;
        }
        if self.broken {
            // Without a length or chunks only a reset tells the client that something is missing.
            self.conn.reset_on_close();
            return false;
        }
        Shutdown::shutdown(&mut self.conn).await;
        if !self.decoder.is_done() || !self.input.is_empty() {
            let deadline = Instant::now() + LINGER;
            let mut read = 0;
            while read < LINGER_BYTES && matches!(self.read_once(deadline, READ).await, Came::Bytes) {
                read += self.input.len();
                self.input.clear();
            }
        }
        false
    }

    /// Reads the rest of a body that nobody took, which the start of the answer found to be short. Whether its end was reached.
    async fn drain(&mut self, limits: &H1Limits) -> bool {
        let deadline = Instant::now() + limits.body.min(Duration::from_secs(5));
        loop {
            match self.decoder.decode(&self.input) {
                Ok(Decoded::End) => return true,
                Ok(Decoded::Framing(n)) => self.input.advance(n),
                Ok(Decoded::Data(n)) => {
                    self.decoder.consumed(n);
                    self.input.advance(n);
                }
                Ok(Decoded::More) => {
                    if !matches!(self.read_once(deadline, READ_BODY).await, Came::Bytes) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }
}

enum Came {
    Bytes,
    Nothing,
    Late,
}

impl Drop for H1Client {
    fn drop(&mut self) {
        // Cut amid an answer: its client must not take what it has for the whole.
        if self.answer != Framing::None {
            self.conn.reset_on_close();
        }
    }
}

impl Client for H1Client {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        chunked: bool,
    ) -> Poll<Result<Option<usize>, ClientError>> {
        if std::mem::take(&mut self.continue_due) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !self.out.is_empty() && self.answer == Framing::None {
            ready!(self.poll_flush(cx))?;
        }
        loop {
            match self.decoder.decode(&self.input).map_err(|_| ClientError::Malformed)? {
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::Framing(n) => self.input.advance(n),
                Decoded::Data(n) => {
                    let data = self.input.get(..n).unwrap_or_default();
                    if chunked {
                        push_chunk(out, data);
                    } else {
                        out.extend_from_slice(data);
                    }
                    self.decoder.consumed(n);
                    self.input.advance(n);
                    return Poll::Ready(Ok(Some(n)));
                }
                Decoded::More => match ready!(self.poll_input(cx, READ_BODY)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(Err(ClientError::Gone)),
                },
            }
        }
    }

    fn start(&mut self, head: &AnswerHead<'_>) -> Result<(), ClientError> {
        self.answer = head.framing(self.version);
        self.keep &= self.answer != Framing::UntilClose && head.status != 101;
        // An answer that comes before the whole request was read says that the connection ends with it, unless what is missing is
        // known to be short: a client that was not told sends its next request into a connection that closes. One that waits for
        // `100 Continue` may or may not send its body now.
        self.keep &=
            self.decoder.is_done() || !self.continue_due && self.decoder.ends_within(DRAIN, &self.input);
        self.missing = if let Framing::Length(length) = self.answer { length } else { 0 };
        head.push(&mut self.out, self.version, self.keep);
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>> {
        if self.out.len() >= WRITE {
            ready!(self.poll_flush(cx))?;
        }
        self.hold()?;
        let room = (WRITE - self.out.len()).clamp(1, data.len().max(1));
        let data = data.get(..room).unwrap_or(data);
        match self.answer {
            Framing::Chunked => push_chunk(&mut self.out, data),
            Framing::Length(_) => {
                self.missing = self.missing.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
                self.out.extend_from_slice(data);
            }
            Framing::UntilClose => self.out.extend_from_slice(data),
            Framing::None => {}
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.out.is_empty() {
            match ready!(self.conn.poll_write_through(cx, &self.out)) {
                Ok(written @ 1..) => self.out.advance(written),
                Ok(0) | Err(_) => {
                    self.broken = true;
                    return Poll::Ready(Err(ClientError::Gone));
                }
            }
        }
        self.conn.poll_flush_through(cx).map_err(|_| ClientError::Gone)
    }

    fn end(&mut self, complete: bool) -> Result<(), ClientError> {
        if !complete || self.missing > 0 {
            self.broken = true;
        } else if self.answer == Framing::Chunked {
            self.out.extend_from_slice(LAST_CHUNK);
        }
        self.answer = Framing::None;
        Ok(())
    }

    /// A client that closed its side after the request still wants its answer (RFC 9112 §9.6), and one that sends its next request
    /// early is not read before its turn.
    fn poll_cancelled(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn can_upgrade(&self) -> bool {
        true
    }

    async fn tunnel(&mut self, mut node: TcpStream, first: BytesMut, idle: Duration) {
        self.keep = false;
        let from_client = std::mem::take(&mut self.input);
        copy_both(&mut self.conn, &mut node, (from_client, first), idle).await;
    }
}
