//! A request of an HTTP/3 client: reads it as an HTTP/1.1 head and a body, and writes its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hosting_edge_http1::{AnswerHead, Framing, Request, RequestHead, push_chunk};
use hosting_edge_http2::Fault;
use hosting_edge_http3::{Code, Failure, Next, RequestReader, push_answer, push_data};
use quinn::{Connection, RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::exchange::{Client, ClientError, Timer};
use crate::live::Held;
use crate::memory::STREAM;
use crate::pages::Page;
use crate::proxy::Edge;
use crate::quic::code;
use crate::visitor::Visitor;

/// What is read of a client at once.
const READ: usize = 4 * 1_024;
/// What is read of a body at once.
const READ_BODY: usize = 32 * 1_024;
/// What is gathered for a client before it is written.
const WRITE: usize = 32 * 1_024;

/// Limits on what a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct H3Limits {
    /// From the beginning of a stream to the end of its request's fields.
    pub(crate) header: Duration,
    /// Largest list of fields in bytes.
    pub(crate) header_bytes: usize,
    /// A connection without a request.
    pub(crate) idle: Duration,
    /// A client that takes nothing.
    pub(crate) client: Duration,
}

/// Answers the request of a stream. Whether the client has the answer.
pub(crate) async fn answer(
    edge: Arc<Edge>,
    visitor: Arc<Visitor>,
    (conn, send, recv): (Connection, SendStream, RecvStream),
    limits: H3Limits,
    held: Held,
) -> bool {
    let mut client = H3Client::new(conn, send, recv, limits.header_bytes, held);
    match client.read_head(limits.header).await {
        Ok(request) => {
            client.begin(&request);
            edge.serve(&mut client, &request, &visitor).await;
        }
        Err(Refusal::Page(page)) => edge.refuse(&mut client, page, &visitor).await,
        Err(Refusal::Reset) => return false,
    }
    client.close(limits.client).await
}

/// Why there is no request.
enum Refusal {
    /// It gets an answer all the same.
    Page(Page),
    /// Its stream is, or will be, reset.
    Reset,
}

type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

struct H3Client {
    conn: Connection,
    send: SendStream,
    recv: RecvStream,
    reader: RequestReader,
    input: BytesMut,
    /// Nothing follows the input.
    ended: bool,
    /// Bytes of the request's body that are missing, if its length is known.
    missing: Option<u64>,
    /// The client waits for `100 Continue`.
    continue_due: bool,
    out: BytesMut,
    begun: bool,
    /// The answer is whole, once `out` is written.
    complete: bool,
    finished: bool,
    /// What is said when the stream is reset.
    reason: Code,
    /// Ready when the client wants no more, or has all. `None` after that.
    stopped: Option<Stopped>,
    timer: Timer,
    /// The memory of its buffers and its request.
    held: Held,
    /// Bytes of the request's fields, in their forms.
    fields: usize,
}

impl H3Client {
    fn new(conn: Connection, send: SendStream, recv: RecvStream, header_bytes: usize, held: Held) -> Self {
        let stopped = send.stopped();
        Self {
            conn,
            stopped: Some(Box::pin(async move { drop(stopped.await) })),
            send,
            recv,
            reader: RequestReader::new(header_bytes),
            input: BytesMut::new(),
            ended: false,
            missing: None,
            continue_due: false,
            out: BytesMut::new(),
            begun: false,
            complete: false,
            finished: false,
            reason: Code::Internal,
            timer: Timer::new(),
            held,
            fields: 0,
        }
    }

    /// Counts its buffers as they are now.
    fn hold(&mut self) -> Result<(), ClientError> {
        let bytes = STREAM + self.fields + self.input.capacity() + self.out.capacity();
        if self.held.set(bytes) { Ok(()) } else { Err(ClientError::Gone) }
    }

    /// Reads up to the end of the request's fields.
    async fn read_head(&mut self, limit: Duration) -> Result<Request, Refusal> {
        let deadline = Instant::now() + limit;
        let fields = loop {
            match self.reader.next(&self.input).map_err(|failure| self.fail(failure))? {
                Next::Skip(count) => self.input.advance(count),
                Next::TooLarge => return Err(Refusal::Page(Page::HeaderTooLarge)),
                Next::Fields(count) => {
                    let list = self.input.split_to(count);
                    break self.reader.fields(&list).map_err(|failure| self.fail(failure))?;
                }
                Next::More if self.ended => {
                    let end = self.reader.end(&self.input);
                    return Err(end.map_or_else(|failure| self.fail(failure), |()| Refusal::Reset));
                }
                Next::More => match self.read_once(deadline).await {
                    Came::Bytes => {}
                    Came::Nothing => return Err(Refusal::Reset),
                    Came::Late => return Err(Refusal::Page(Page::RequestTimeout)),
                },
                // A body has its fields before it.
                Next::Data(_) => return Err(Refusal::Reset),
            }
        };
        // Trailers have their fields before them too.
        let fields = fields.ok_or(Refusal::Reset)?;
        // What came with the fields is there already: that nothing follows is known of most requests by now.
        if self.input.is_empty() && !self.ended {
            let _ = futures::poll!(self.read_once(deadline));
        }
        let head = fields.into_head(self.ended && self.input.is_empty()).map_err(|fault| match fault {
            Fault::Malformed => self.fail(Failure::Stream(Code::Message)),
            Fault::TooLarge => Refusal::Page(Page::HeaderTooLarge),
            Fault::Bad => Refusal::Page(Page::BadRequest),
        })?;
        let request = RequestHead::parse(head.into()).and_then(Request::new);
        request.map_err(|error| Refusal::Page(error.into()))
    }

    fn begin(&mut self, request: &Request) {
        self.fields = 3 * request.head().size();
        if let Framing::Length(length) = request.body() {
            self.missing = Some(length);
        }
        self.continue_due = request.expects_continue() && self.input.is_empty();
    }

    /// A failure of the connection ends it, one of the stream resets it.
    fn fail(&mut self, failure: Failure) -> Refusal {
        tracing::debug!(%failure, "an HTTP/3 request is refused");
        match failure {
            Failure::Connection(why) => self.conn.close(code(why), b""),
            Failure::Stream(why) => self.reason = why,
        }
        Refusal::Reset
    }

    fn read_once(&mut self, deadline: Instant) -> impl Future<Output = Came> + Unpin {
        poll_fn(move |cx| match self.poll_input(cx, READ) {
            Poll::Ready(Ok(())) => Poll::Ready(Came::Bytes),
            Poll::Ready(Err(_)) => Poll::Ready(Came::Nothing),
            Poll::Pending => self.timer.poll_until(cx, deadline).map(|()| Came::Late),
        })
    }

    /// Reads what there is, or that nothing follows.
    fn poll_input(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<Result<(), ClientError>> {
        self.input.reserve(size);
        self.hold()?;
        match ready!(poll_read_buf(Pin::new(&mut self.recv), cx, &mut self.input)) {
            Ok(read) => {
                self.ended = read == 0;
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(ClientError::Gone)),
        }
    }

    /// The failure of a body.
    fn body_failed(&mut self, failure: Failure) -> ClientError {
        self.fail(failure);
        match failure {
            Failure::Connection(_) => ClientError::Gone,
            Failure::Stream(_) => ClientError::Malformed,
        }
    }

    /// The body is at its end: whether it may be.
    fn end_body(&mut self) -> Result<(), ClientError> {
        self.reader.end(&self.input).map_err(|failure| self.body_failed(failure))?;
        match self.missing {
            Some(1..) => Err(self.body_failed(Failure::Stream(Code::Message))),
            _ => Ok(()),
        }
    }

    /// Waits until the client has all of the answer: what is not acknowledged goes with the connection. Whether it has.
    async fn close(mut self, limit: Duration) -> bool {
        if !self.finished {
            return false;
        }
        if !self.ended {
            // Nobody wants the rest of the request (RFC 9114 §4.1). Fails only on a stream that ended.
            let _ = self.recv.stop(code(Code::NoError));
            self.ended = true;
        }
        let deadline = Instant::now() + limit;
        let taken = poll_fn(|cx| match self.poll_cancelled(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => self.timer.poll_until(cx, deadline).map(|()| false),
        });
        let taken = taken.await;
        if !taken {
            // Fails only on a stream that the client gave up.
            let _ = self.send.reset(code(Code::RequestCancelled));
        }
        taken
    }
}

enum Came {
    Bytes,
    Nothing,
    Late,
}

impl Drop for H3Client {
    fn drop(&mut self) {
        // Left alone, the library would end the stream as if its answer were whole. Both fail only on a stream that is at its end.
        if !self.finished {
            let _ = self.send.reset(code(self.reason));
        }
        if !self.ended {
            let _ = self.recv.stop(code(self.reason));
        }
    }
}

impl Client for H3Client {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        chunked: bool,
    ) -> Poll<Result<Option<usize>, ClientError>> {
        if std::mem::take(&mut self.continue_due) {
            push_answer(&mut self.out, 100, std::iter::empty(), None);
        }
        if !self.out.is_empty() && !self.begun {
            ready!(self.poll_flush(cx))?;
        }
        loop {
            match self.reader.next(&self.input).map_err(|failure| self.body_failed(failure))? {
                Next::Skip(count) => self.input.advance(count),
                Next::Data(count) => {
                    if let Some(missing) = &mut self.missing {
                        match missing.checked_sub(count as u64) {
                            Some(rest) => *missing = rest,
                            // More than was said (RFC 9114 §4.1.2).
                            None => {
                                return Poll::Ready(Err(self.body_failed(Failure::Stream(Code::Message))));
                            }
                        }
                    }
                    let data = self.input.get(..count).unwrap_or_default();
                    if chunked {
                        push_chunk(out, data);
                    } else {
                        out.extend_from_slice(data);
                    }
                    self.reader.took(count);
                    self.input.advance(count);
                    return Poll::Ready(Ok(Some(count)));
                }
                Next::Fields(count) => {
                    let list = self.input.split_to(count);
                    self.reader.fields(&list).map_err(|failure| self.body_failed(failure))?;
                }
                Next::More if self.ended => return Poll::Ready(self.end_body().map(|()| None)),
                Next::More => ready!(self.poll_input(cx, READ_BODY))?,
                // Only the first fields can be.
                Next::TooLarge => return Poll::Ready(Err(ClientError::Malformed)),
            }
        }
    }

    /// The end of a stream often comes in a packet of its own, behind frames that mean nothing.
    fn poll_bodyless(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            match self.reader.next(&self.input) {
                Ok(Next::Skip(count)) => self.input.advance(count),
                Ok(Next::More) if self.ended => return Poll::Ready(self.input.is_empty()),
                Ok(Next::More) => {
                    if ready!(self.poll_input(cx, READ)).is_err() {
                        return Poll::Ready(false);
                    }
                }
                Ok(Next::Data(_) | Next::Fields(_) | Next::TooLarge) | Err(_) => return Poll::Ready(false),
            }
        }
    }

    fn start(&mut self, head: &AnswerHead<'_>) -> Result<(), ClientError> {
        self.begun = true;
        push_answer(&mut self.out, head.status, head.fields.iter().copied(), head.length);
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>> {
        if self.out.len() >= WRITE / 2 {
            ready!(self.poll_flush(cx))?;
        }
        self.hold()?;
        let data = data.get(..WRITE).unwrap_or(data);
        push_data(&mut self.out, data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.send).poll_write(cx, &self.out)) {
                Ok(written @ 1..) => self.out.advance(written),
                Ok(0) | Err(_) => return Poll::Ready(Err(ClientError::Gone)),
            }
        }
        if self.complete && !self.finished {
            self.send.finish().map_err(|_| ClientError::Gone)?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }

    /// What is not complete is reset when the client is dropped.
    fn end(&mut self, complete: bool) -> Result<(), ClientError> {
        self.complete = complete;
        if !complete {
            self.out.clear();
        }
        Ok(())
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(stopped) = &mut self.stopped {
            ready!(stopped.as_mut().poll(cx));
            self.stopped = None;
        }
        Poll::Ready(())
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn can_upgrade(&self) -> bool {
        false
    }

    async fn tunnel(&mut self, _node: TcpStream, _first: BytesMut, _idle: Duration) {}
}
