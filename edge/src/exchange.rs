//! One request to a node and its response back, both at once.
//!
//! Nothing else in the edge writes to a node. Both versions of HTTP come here as the same [`Request`]; what differs between
//! them is behind [`Client`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hosting_edge_http1::{
    AnswerHead, Decoded, Decoder, Framing, HeadEnd, LAST_CHUNK, Request, ResponseHead, head_end,
};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use crate::compress::Encoder;
use crate::filling::Filling;
use crate::live::{Held, Present};
use crate::memory::{EXCHANGE, TUNNEL};

/// What is read from a node at once, to begin with.
const FIRST_READ: usize = 4 * 1_024;
/// What is read from a node at once when it has a lot to say.
const READ: usize = 32 * 1_024;
/// What is compressed at once of what is stored.
const PIECE: usize = 32 * 1_024;
/// Largest head of a node's response in bytes.
const MAX_ANSWER_HEAD: usize = 128 * 1_024;
/// Slowest upload in bytes a second, averaged over all of it but for the first `body` timeout.
const MIN_UPLOAD_RATE: u64 = 128;

/// The client's side of an exchange.
pub(crate) trait Client: Send {
    /// Appends the next piece of the request's body to `out`, as chunks if `chunked`. `false`: the body has ended.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        chunked: bool,
    ) -> Poll<Result<Option<usize>, ClientError>>;

    /// Whether a request whose body's length is not known has none, once that is known. Nothing of a body is taken.
    fn poll_bodyless(&mut self, _cx: &mut Context<'_>) -> Poll<bool> {
        Poll::Ready(false)
    }

    /// Begins the answer.
    fn start(&mut self, head: &AnswerHead<'_>) -> Result<(), ClientError>;

    /// Takes some of the answer's body.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>>;

    /// Writes what was taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>>;

    /// Ends the answer. Not `complete`: so that the client cannot take what it has for the whole.
    fn end(&mut self, complete: bool) -> Result<(), ClientError>;

    /// Ready when the client has no use for the answer any more.
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The connection's, or stream's, one timer.
    fn timer(&mut self) -> &mut Timer;

    /// Whether the connection can change its protocol.
    fn can_upgrade(&self) -> bool;

    /// Passes bytes both ways until one side closes or nothing moves for `idle`.
    fn tunnel(&mut self, node: TcpStream, first: BytesMut, idle: Duration)
    -> impl Future<Output = ()> + Send;
}

/// The client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientError {
    /// It closed, or takes nothing any more.
    Gone,
    /// Its body does not come.
    Slow,
    /// Its body is not framed as its head says.
    Malformed,
    /// Its body is larger than its host takes.
    TooLarge,
}

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client's fault.
    #[error("client: {0:?}")]
    Client(ClientError),
    /// The node closed before it had said a byte.
    #[error("the node closed the connection without an answer")]
    Closed,
    /// No node has a place for it.
    #[error("no node has a place for the request")]
    Busy,
    /// The node did not answer in time.
    #[error("the node did not answer in time")]
    Timeout,
    /// The node's answer is none.
    #[error("{0}")]
    Answer(String),
    /// The node's answer broke off after its head was passed on.
    #[error("the response breaks off")]
    Truncated,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// A timer that is set for every wait and seldom touched: a deadline later than what it is set for costs nothing.
#[derive(Debug)]
pub(crate) struct Timer(Pin<Box<Sleep>>);

impl Timer {
    pub(crate) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(Duration::from_secs(3_600))))
    }

    /// Ready when `deadline` has passed.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.0.deadline() > deadline {
            self.0.as_mut().reset(deadline);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(deadline);
        }
    }
}

/// How long each kind of wait may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Between two pieces of a request's body.
    pub(crate) body: Duration,
    /// A node that takes or says nothing.
    pub(crate) node: Duration,
    /// A client that takes nothing.
    pub(crate) client: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Body,
    Node,
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    Sending,
    Done,
    /// The node takes no more; its answer may be there all the same.
    Broken,
}

/// Bytes of bodies that were passed on.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// The request, as the list of connections shows it.
    pub(crate) present: Present,
}

impl Moved {
    /// So many more bytes of the answer are the client's.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.present.sent(self.sent);
    }
}

/// A request under way to one node.
pub(crate) struct Exchange<'a, C> {
    client: &'a mut C,
    request: &'a Request,
    passed: &'a mut Moved,
    /// The most bytes that the request's body may have.
    most: u64,
    tcp: TcpStream,
    /// For the node.
    out: BytesMut,
    /// From the node.
    input: BytesMut,
    seen: usize,
    upload: Upload,
    uploaded: u64,
    /// Compresses the answer's body.
    encoder: Option<Encoder>,
    /// Stores the answer's body.
    filling: Option<Filling>,
    begun: Instant,
    /// The last time that anything moved.
    moved: Instant,
    times: Times,
    /// The memory of its buffers.
    held: Held,
}

impl<'a, C: Client> Exchange<'a, C> {
    /// `head`: what the node gets first. `most`: the most bytes that the request's body may have.
    pub(crate) fn new(
        client: &'a mut C,
        request: &'a Request,
        passed: &'a mut Moved,
        tcp: TcpStream,
        head: BytesMut,
        times: Times,
        most: Option<u64>,
    ) -> Self {
        let now = Instant::now();
        let held = passed.present.nothing();
        let upload = if request.is_bodyless() { Upload::Done } else { Upload::Sending };
        Self {
            client,
            request,
            passed,
            most: most.unwrap_or(u64::MAX),
            tcp,
            out: head,
            input: BytesMut::with_capacity(FIRST_READ),
            seen: 0,
            upload,
            uploaded: 0,
            encoder: None,
            filling: None,
            begun: now,
            moved: now,
            times,
            held,
        }
    }

    /// Counts its buffers as they are now.
    fn hold(&mut self) -> Result<(), Failure> {
        let bytes = EXCHANGE + self.out.capacity() + self.input.capacity();
        if self.held.set(bytes) { Ok(()) } else { Err(Failure::Busy) }
    }

    /// Sends the request and waits for the head of the response, which is taken out of the input.
    pub(crate) async fn ask(&mut self) -> Result<ResponseHead, Failure> {
        self.hold()?;
        let end = poll_fn(|cx| self.poll_head(cx)).await?;
        ResponseHead::parse(self.input.split_to(end).freeze())
            .map_err(|error| Failure::Answer(error.to_string()))
    }

    /// The answer's body goes through this.
    pub(crate) fn compress(&mut self, encoder: Encoder) {
        self.encoder = Some(encoder);
    }

    /// The answer's body is stored on its way.
    pub(crate) fn keep(&mut self, filling: Filling) {
        self.filling = Some(filling);
    }

    /// Ends it without an answer to the client. Returns the connection if it is proven clean, which only one without a body is.
    pub(crate) fn clean(self, body: Framing, keeps_connection: bool) -> Option<TcpStream> {
        let is_clean = keeps_connection
            && body == Framing::None
            && self.upload == Upload::Done
            && self.out.is_empty()
            && self.input.is_empty();
        is_clean.then_some(self.tcp)
    }

    /// Passes the body on. Returns the connection if it is proven clean.
    pub(crate) async fn answer(
        mut self,
        body: Framing,
        keeps_connection: bool,
    ) -> Result<Option<TcpStream>, Failure> {
        let mut decoder = Decoder::new(body);
        let passed = poll_fn(|cx| self.poll_answer(cx, &mut decoder)).await;
        self.client.end(passed.is_ok())?;
        if !matches!(passed, Err(Failure::Client(_))) {
            self.flush().await?;
        }
        passed?;
        let clean = keeps_connection
            && self.upload == Upload::Done
            && self.out.is_empty()
            && self.input.is_empty()
            && decoder.is_done();
        Ok(clean.then_some(self.tcp))
    }

    /// The connection becomes a tunnel.
    pub(crate) async fn tunnel(mut self, idle: Duration) -> Result<(), Failure> {
        if !self.held.set(TUNNEL + self.input.capacity()) {
            return Err(Failure::Busy);
        }
        self.flush().await?;
        self.passed.present.upgraded();
        self.client.tunnel(self.tcp, self.input, idle).await;
        Ok(())
    }

    pub(crate) fn client(&mut self) -> &mut C {
        self.client
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        flush(self.client, self.times.client).await.map_err(Failure::Client)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        let waiting = self.poll_upload(cx)?;
        loop {
            match head_end(&self.input, self.seen) {
                HeadEnd::At(end) => return Poll::Ready(Ok(end)),
                HeadEnd::Not(seen) => self.seen = seen,
            }
            if self.input.len() > MAX_ANSWER_HEAD {
                return Poll::Ready(Err(Failure::Answer("the response's head is too large".into())));
            }
            self.make_room()?;
            match poll_read_buf(Pin::new(&mut self.tcp), cx, &mut self.input) {
                Poll::Ready(Ok(1..)) => self.moved = Instant::now(),
                Poll::Ready(Ok(0) | Err(_)) if self.input.is_empty() => {
                    return Poll::Ready(Err(Failure::Closed));
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    return Poll::Ready(Err(Failure::Answer("the response breaks off in its head".into())));
                }
                Poll::Pending => break,
            }
        }
        if self.client.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Err(Failure::Client(ClientError::Gone)));
        }
        self.poll_deadline(cx, waiting.unwrap_or(Waiting::Node))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, decoder: &mut Decoder) -> Poll<Result<(), Failure>> {
        let mut waiting = self.poll_upload(cx)?;
        loop {
            let is_taken = self.poll_given(cx)?.is_ready();
            if !is_taken && !self.is_filling() {
                waiting = Some(Waiting::Client);
                break;
            }
            match decoder.decode(&self.input).map_err(|_| Failure::Truncated)? {
                Decoded::End if self.is_filling() => {
                    self.filling.iter_mut().for_each(Filling::finish);
                }
                Decoded::End => match self.encoder.take() {
                    None => return Poll::Ready(Ok(())),
                    Some(mut encoder) => {
                        let is_whole = encoder.finish();
                        let is_sent = encoder.ready().is_empty();
                        self.encoder = (!is_sent).then_some(encoder);
                        if !is_whole {
                            return Poll::Ready(Err(Failure::Truncated));
                        }
                    }
                },
                Decoded::Framing(n) => self.input.advance(n),
                Decoded::Data(n) => {
                    let data = self.input.get(..n).unwrap_or_default();
                    if let Some(filling) = self.filling.as_mut().filter(|filling| filling.is_open()) {
                        if filling.push(data) {
                            decoder.consumed(n);
                            self.input.advance(n);
                            self.moved = Instant::now();
                        }
                        continue;
                    }
                    if let Some(encoder) = &mut self.encoder {
                        encoder.write(data);
                        decoder.consumed(n);
                        self.input.advance(n);
                        self.moved = Instant::now();
                        continue;
                    }
                    match self.client.poll_send(cx, data)? {
                        Poll::Ready(taken) => {
                            decoder.consumed(taken);
                            self.input.advance(taken);
                            self.passed.sends(taken);
                            self.moved = Instant::now();
                        }
                        Poll::Pending => {
                            waiting = Some(Waiting::Client);
                            break;
                        }
                    }
                }
                Decoded::More => {
                    self.make_room()?;
                    match poll_read_buf(Pin::new(&mut self.tcp), cx, &mut self.input) {
                        Poll::Ready(Ok(1..)) => self.moved = Instant::now(),
                        Poll::Ready(Ok(0)) => decoder.closed().map_err(|_| Failure::Truncated)?,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Truncated)),
                        Poll::Pending => {
                            // What came so far goes out before the wait.
                            if is_taken && self.encoder.as_mut().is_some_and(Encoder::flush) {
                                continue;
                            }
                            if self.client.poll_flush(cx)?.is_pending() {
                                waiting = Some(Waiting::Client);
                            }
                            break;
                        }
                    }
                }
            }
        }
        if self.client.poll_cancelled(cx).is_ready() {
            return Poll::Ready(Err(Failure::Client(ClientError::Gone)));
        }
        self.poll_deadline(cx, waiting.unwrap_or(Waiting::Node))
    }

    /// Whether the answer is read as fast as it comes.
    fn is_filling(&self) -> bool {
        self.filling.as_ref().is_some_and(Filling::is_open)
    }

    /// Gives the client what is ready for it, of what is compressed and of what is stored.
    fn poll_given(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            if let Some(encoder) = &mut self.encoder {
                while !encoder.ready().is_empty() {
                    let taken = ready!(self.client.poll_send(cx, encoder.ready()))?;
                    encoder.took(taken);
                    self.passed.sends(taken);
                    self.moved = Instant::now();
                }
            }
            let Some(filling) = &mut self.filling else { return Poll::Ready(Ok(())) };
            let unsent = filling.unsent();
            let piece = unsent.get(..PIECE).unwrap_or(unsent);
            if piece.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = match &mut self.encoder {
                Some(encoder) => {
                    encoder.write(piece);
                    piece.len()
                }
                None => {
                    let taken = ready!(self.client.poll_send(cx, piece))?;
                    self.passed.sends(taken);
                    self.moved = Instant::now();
                    taken
                }
            };
            filling.took(taken);
        }
    }

    /// Room for a read that is as large as the last ones were.
    fn make_room(&mut self) -> Result<(), Failure> {
        if self.input.capacity() - self.input.len() < FIRST_READ / 4 {
            self.input.reserve(READ);
            self.hold()?;
        }
        Ok(())
    }

    /// Sends what there is to send. Returns what the upload waits for.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Option<Waiting>, Failure> {
        loop {
            while !self.out.is_empty() && self.upload != Upload::Broken {
                match Pin::new(&mut self.tcp).poll_write(cx, &self.out) {
                    Poll::Ready(Ok(written @ 1..)) => {
                        self.out.advance(written);
                        self.moved = Instant::now();
                    }
                    Poll::Ready(Ok(0) | Err(_)) => self.upload = Upload::Broken,
                    Poll::Pending => return Ok(Some(Waiting::Node)),
                }
            }
            if self.upload != Upload::Sending {
                return Ok(None);
            }
            let chunked = self.request.body() == Framing::Chunked;
            match self.client.poll_body(cx, &mut self.out, chunked)? {
                Poll::Ready(Some(more)) => {
                    self.uploaded = self.uploaded.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
                    self.passed.received = self.uploaded;
                    self.passed.present.received(self.uploaded);
                    self.hold()?;
                    if self.uploaded > self.most {
                        return Err(Failure::Client(ClientError::TooLarge));
                    }
                    self.moved = Instant::now();
                }
                Poll::Ready(None) => {
                    if chunked {
                        self.out.extend_from_slice(LAST_CHUNK);
                    }
                    self.upload = Upload::Done;
                }
                Poll::Pending => return Ok(Some(Waiting::Body)),
            }
        }
    }

    fn poll_deadline<T>(&mut self, cx: &mut Context<'_>, waiting: Waiting) -> Poll<Result<T, Failure>> {
        let deadline = match waiting {
            Waiting::Body => {
                // A byte now and then is not enough: the average counts too.
                let rate = Duration::from_secs(self.uploaded / MIN_UPLOAD_RATE);
                (self.moved + self.times.body).min(self.begun + self.times.body + rate)
            }
            Waiting::Node => self.moved + self.times.node,
            Waiting::Client => self.moved + self.times.client,
        };
        ready!(self.client.timer().poll_until(cx, deadline));
        Poll::Ready(Err(match waiting {
            Waiting::Body => Failure::Client(ClientError::Slow),
            Waiting::Node => Failure::Timeout,
            Waiting::Client => Failure::Client(ClientError::Gone),
        }))
    }
}

/// Writes out what the client was given, within `limit` from one piece to the next.
pub(crate) async fn flush<C: Client>(client: &mut C, limit: Duration) -> Result<(), ClientError> {
    let deadline = Instant::now() + limit;
    poll_fn(|cx| match client.poll_flush(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => client.timer().poll_until(cx, deadline).map(|()| Err(ClientError::Gone)),
    })
    .await
}

/// As [`flush`], of the last that the client is given: it may be gone, and then nobody waits for it.
pub(crate) async fn finish<C: Client>(client: &mut C, limit: Duration) {
    let _ = flush(client, limit).await;
}

/// Writes a short body whole.
pub(crate) async fn send_all<C: Client>(
    client: &mut C,
    mut data: &[u8],
    limit: Duration,
) -> Result<(), ClientError> {
    let deadline = Instant::now() + limit;
    while !data.is_empty() {
        let taken = poll_fn(|cx| match client.poll_send(cx, data) {
            Poll::Ready(taken) => Poll::Ready(taken),
            Poll::Pending => client.timer().poll_until(cx, deadline).map(|()| Err(ClientError::Gone)),
        })
        .await?;
        data = data.get(taken..).unwrap_or_default();
    }
    Ok(())
}

/// Copies both ways between two connections until one closes for good or nothing moves for `idle`. `first`: bytes that were
/// read from `a` and `b` before.
pub(crate) async fn copy_both<A, B>(a: &mut A, b: &mut B, first: (BytesMut, BytesMut), idle: Duration)
where
    A: tokio::io::AsyncRead + AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_b, mut to_a) = (Way::new(first.0), Way::new(first.1));
    let mut timer = Timer::new();
    let mut moved = Instant::now();
    poll_fn(|cx| {
        let mut any = false;
        let forth = to_b.poll(cx, a, b, &mut any);
        let back = to_a.poll(cx, b, a, &mut any);
        if any {
            moved = Instant::now();
        }
        match (forth, back) {
            (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_)))
            | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => timer.poll_until(cx, moved + idle),
        }
    })
    .await;
}

/// One way of a tunnel.
struct Way {
    buffer: BytesMut,
    ended: bool,
    closed: bool,
}

impl Way {
    fn new(buffer: BytesMut) -> Self {
        Self { buffer, ended: false, closed: false }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        any: &mut bool,
    ) -> Poll<io::Result<()>>
    where
        R: tokio::io::AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(written);
                *any = true;
            }
            if self.ended {
                if !self.closed {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            self.buffer.reserve(FIRST_READ);
            match poll_read_buf(Pin::new(&mut *from), cx, &mut self.buffer) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => *any = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // What was written may wait in a TLS session.
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }
}
