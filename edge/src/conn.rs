//! A client connection as Pingora's HTTP code sees it: TCP or TLS over it, with one write buffer on top.
//!
//! Why not Pingora's own stream: outside of its listeners that one has no write buffer, and under TLS its buffer lies below the
//! records. Here header and body leave as one record and one system call.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use hosting_edge_http2::{Failure, Front};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use crate::live::{Held, Watch};
use crate::memory::{FREE, UNREAD};

/// What is gathered before it is written. A TLS record holds 16 KiB.
const WRITE_BUFFER: usize = 16 * 1024;

/// HTTP/2's preface and the header of the first frame (RFC 9113 §3.4).
const H2_OPENING: usize = 24 + 9;

/// Waiting for a client that takes no more, at the end of a connection.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client connection.
pub(crate) struct Conn {
    io: Io,
    /// Written by the application, not yet by us. Without allocation while nothing waits.
    pending: Vec<u8>,
    fd: UniqueIDType,
    socket: Arc<SocketDigest>,
    tls: Option<Arc<SslDigest>>,
    h2: bool,
    opening: Option<Opening>,
    front: Option<Box<Followed>>,
    /// The memory of what waits in it, of both ways.
    held: Held,
    /// The client does not read, so that TLS holds what it was sent.
    is_unread: bool,
}

/// What an HTTP/2 client sends is followed, and its requests are written anew.
struct Followed {
    front: Front,
    /// Written anew, not yet read.
    ready: Vec<u8>,
    taken: usize,
    failed: Option<oneshot::Sender<Failure>>,
}

impl Followed {
    /// Gives what is ready. `None`: nothing is, read on.
    fn poll_ready(&mut self, buf: &mut ReadBuf<'_>) -> Option<Poll<()>> {
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            let failure = self.front.failure()?;
            if let Some(failed) = self.failed.take() {
                // Nobody listens on a connection that ends anyway.
                let _ = failed.send(failure);
            }
            return Some(Poll::Pending);
        }
        let (now, later) = rest.split_at_checked(buf.remaining()).unwrap_or((rest, &[]));
        buf.put_slice(now);
        if later.is_empty() {
            // Given back, as the write buffer is.
            (self.ready, self.taken) = (Vec::new(), 0);
        } else {
            self.taken += now.len();
        }
        Some(Poll::Ready(()))
    }

    /// How many of the bytes that came pass as they are; what stands for the rest is ready then.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let passed = self.front.pass(bytes);
        self.front.feed(bytes.get(passed..).unwrap_or_default(), &mut self.ready);
        passed
    }
}

/// A client that negotiated HTTP/2 must begin to speak it.
struct Opening {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Conn {
    pub(crate) fn tcp(stream: TcpStream, peer: SocketAddr) -> Self {
        let socket = digest(&stream, peer);
        Self {
            fd: stream.as_raw_fd(),
            io: Io::Tcp(stream),
            pending: Vec::new(),
            socket,
            tls: None,
            h2: false,
            opening: None,
            front: None,
            held: Held::default(),
            is_unread: false,
        }
    }

    /// `limit`: how long an HTTP/2 client may take for its first frame.
    pub(crate) fn tls(stream: TlsStream<TcpStream>, peer: SocketAddr, limit: Duration) -> Self {
        let (tcp, session) = stream.get_ref();
        let socket = digest(tcp, peer);
        let h2 = session.alpn_protocol() == Some(b"h2");
        let cipher =
            session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let tls = Some(Arc::new(SslDigest::new(cipher, version, None, None, Vec::new())));
        let opening =
            h2.then(|| Opening { missing: H2_OPENING, deadline: Box::pin(tokio::time::sleep(limit)) });
        Self {
            fd: tcp.as_raw_fd(),
            io: Io::Tls(Box::new(stream)),
            pending: Vec::new(),
            socket,
            tls,
            h2,
            opening,
            front: None,
            held: Held::default(),
            is_unread: false,
        }
    }

    /// From here on what it holds is counted for that connection.
    pub(crate) fn watch(&mut self, watch: &Watch) {
        self.held = watch.nothing();
    }

    /// The minor version of its TLS 1; 0: it has none.
    pub(crate) fn tls_minor(&self) -> u8 {
        let Io::Tls(tls) = &self.io else { return 0 };
        match tls.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => 2,
            _ => 3,
        }
    }

    /// Counts what is held. An error: there is no memory for it.
    fn hold(&mut self) -> io::Result<()> {
        let of_front = self.front.as_ref().map_or(0, |front| front.front.held() + front.ready.capacity());
        let unread = if self.is_unread { UNREAD } else { 0 };
        let bytes = of_front.saturating_sub(FREE) + unread;
        if self.held.set(bytes) { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    /// Whether the client takes what is written, as the last attempt has shown.
    fn reads<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let is_unread = written.is_pending();
        if self.is_unread != is_unread && matches!(self.io, Io::Tls(_)) {
            self.is_unread = is_unread;
            self.hold()?;
        }
        written
    }

    /// From here on requests are written anew. The receiver learns why the connection has to end; nothing is read after that.
    pub(crate) fn follow(&mut self, front: Front) -> oneshot::Receiver<Failure> {
        let (failed, failure) = oneshot::channel();
        self.front = Some(Box::new(Followed { front, ready: Vec::new(), taken: 0, failed: Some(failed) }));
        failure
    }

    /// Ready when there may be something to read. A TLS session may hold it already, so it is always worth a try.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Tcp(tcp) => tcp.poll_read_ready(cx),
            Io::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Writes past the write buffer, which only Pingora's side uses.
    pub(crate) fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.io.write(cx, data) {
            Poll::Pending => self.reads(Poll::Pending),
            written => written,
        }
    }

    /// Writes out what a TLS session holds.
    pub(crate) fn poll_flush_through(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.io {
            Io::Tcp(_) => Poll::Ready(Ok(())),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        };
        self.reads(flushed)
    }

    /// Has the connection end in a reset, so that the client cannot take what it has for the whole.
    pub(crate) fn reset_on_close(&self) {
        let tcp = match &self.io {
            Io::Tcp(tcp) => tcp,
            Io::Tls(tls) => tls.get_ref().0,
        };
        // Fails only on a connection that is gone.
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }

    /// Whether TLS negotiated HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        self.h2
    }

    fn poll_read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        if let Some(opening) = &mut self.opening {
            opening.missing = opening.missing.saturating_sub(buf.filled().len() - before);
            if opening.missing == 0 {
                self.opening = None;
            } else if outcome.is_pending() && opening.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        outcome
    }

    /// Gathers small pieces, and writes when they are no longer small.
    fn poll_gather(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.pending.len() + data.len() <= WRITE_BUFFER {
                self.pending.extend_from_slice(data);
                return Poll::Ready(Ok(data.len()));
            }
            if self.pending.is_empty() {
                return self.io.write(cx, data);
            }
            // What waits and what comes, in one call.
            let written =
                ready!(self.io.write_vectored(cx, &[IoSlice::new(&self.pending), IoSlice::new(data)]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            match written.checked_sub(self.pending.len()) {
                Some(of_data) => {
                    self.pending = Vec::new();
                    if of_data > 0 {
                        return Poll::Ready(Ok(of_data));
                    }
                }
                None => drop(self.pending.drain(..written)),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut written = 0;
        let outcome = loop {
            let rest = self.pending.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match self.io.write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => written += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written >= self.pending.len() {
            // Given back, so that a hundred thousand idle connections hold no buffers.
            self.pending = Vec::new();
        } else if written > 0 {
            self.pending.drain(..written);
        }
        outcome
    }
}

fn digest(stream: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Known from accept, so that nobody asks the kernel again; the cell is new, so it is empty.
    let _ = digest.peer_addr.set(Some(peer.into()));
    Arc::new(digest)
}

impl Io {
    fn write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    fn write_vectored(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, data),
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("fd", &self.fd)
            .field("tls", &self.tls.is_some())
            .field("h2", &self.h2)
            .finish()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let conn = &mut *self;
        loop {
            if let Some(ready) = conn.front.as_mut().and_then(|front| front.poll_ready(buf)) {
                conn.hold()?;
                return ready.map(Ok);
            }
            let before = buf.filled().len();
            ready!(conn.poll_read_through(cx, buf))?;
            let came = buf.filled().get(before..).unwrap_or_default();
            let Some(front) = conn.front.as_mut().filter(|_| !came.is_empty()) else {
                return Poll::Ready(Ok(()));
            };
            let passed = front.follow(came);
            buf.set_filled(before + passed);
            conn.hold()?;
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_gather(cx, data) {
            Poll::Pending => self.reads(Poll::Pending),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let conn = &mut *self;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if conn.pending.len() + total > WRITE_BUFFER {
            ready!(conn.poll_drain(cx))?;
        }
        if total > WRITE_BUFFER {
            return conn.io.write_vectored(cx, slices);
        }
        for slice in slices {
            conn.pending.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match (self.poll_drain(cx), &mut self.io) {
            (Poll::Ready(Ok(())), Io::Tcp(tcp)) => Pin::new(tcp).poll_flush(cx),
            (Poll::Ready(Ok(())), Io::Tls(tls)) => Pin::new(tls).poll_flush(cx),
            (drained, _) => drained,
        };
        self.reads(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // The client may be gone or take nothing: then there is nothing left to say to it.
        let _ = tokio::time::timeout(SHUTDOWN_LIMIT, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.fd
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.tls.as_ref().map(|_| if self.h2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl Peek for Conn {}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        (Conn::tcp(server, peer), client)
    }

    #[tokio::test]
    async fn what_is_written_in_pieces_of_every_size_arrives_whole_and_in_order() {
        let (mut conn, mut client) = pair().await;
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut sent = Vec::new();
        let mut next = 0u8;
        for size in [1, 100, 16_000, 500, 17_000, 1, 200_000, 3, 16_384, 16_385, 2_000_000, 10] {
            let piece: Vec<u8> = (0..size)
                .map(|_| {
                    next = next.wrapping_add(7);
                    next
                })
                .collect();
            if size % 2 == 0 {
                conn.write_all(&piece).await.unwrap();
            } else {
                let (a, b) = piece.split_at(size / 2);
                let mut slices: &mut [IoSlice<'_>] = &mut [IoSlice::new(a), IoSlice::new(b)];
                while !slices.is_empty() {
                    let n = conn.write_vectored(slices).await.unwrap();
                    IoSlice::advance_slices(&mut slices, n);
                }
            }
            sent.extend(piece);
        }
        Shutdown::shutdown(&mut conn).await;
        assert!(reader.await.unwrap() == sent);
        assert_eq!(conn.pending.capacity(), 0);
    }

    #[tokio::test]
    async fn nothing_leaves_before_the_flush() {
        let (mut conn, mut client) = pair().await;
        conn.write_all(b"head").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.read_u8()).await;
        assert!(early.is_err());
        conn.write_all(b"body").await.unwrap();
        conn.flush().await.unwrap();
        let mut all = [0; 8];
        client.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"headbody");
    }
}
