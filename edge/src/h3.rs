//! A client's HTTP/3 connection: the streams that carry requests, those that do not, and its end. QUIC is quinn's.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use hosting_edge_http3::{Code, Failure, Kind, SingleStream, goaway, settings};
use quinn::{Connection, ReadError, RecvStream, SendStream};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::exchange::Timer;
use crate::h3_stream::{self, H3Limits};
use crate::live::Held;
use crate::memory::{HTTP3_WINDOW, STREAM};
use crate::phase::{Phase, PhaseWatch};
use crate::proxy::Edge;
use crate::quic::{SHARE, code, enlarge};
use crate::visitor::Visitor;
use crate::windows::Windows;

/// What is read at once of a stream that carries no request.
const READ_SINGLE: usize = 4 * 1_024;
/// Requests of a connection that may be given up, or be none, beside as many that are answered: a stream that is reset makes room for
/// the next one before a node knows.
const MOST_WASTED: u32 = 1_024;
/// Saying that a connection ends may take this long.
const LAST_WORD: Duration = Duration::from_secs(1);
/// From then on it stays for requests that are on their way, so that their clients learn that nobody looked at them.
const PARTING: Duration = Duration::from_millis(250);
/// Requests that a client sent before it heard that the connection ends arrive within this time, or three round trips.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// The last stream that a client could open: that the connection ends, but not yet at which request.
const NO_LIMIT: u64 = (1 << 62) - 4;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    edge: &Arc<Edge>,
    conn: Connection,
    visitor: Visitor,
    limits: H3Limits,
    windows: &Windows,
    mut phase: PhaseWatch,
) {
    let _share = windows.take(SHARE).inspect(|_| enlarge(&conn));
    let visitor = Arc::new(visitor);
    let watch = visitor.watch.clone();
    // What was sent and is not acknowledged, which only streams can hold.
    let mut window: Option<Held> = None;
    let client = conn.remote_address().ip();
    let Some(mut control) = open_control(&conn, limits).await else {
        return conn.close(code(Code::ClosedCriticalStream), b"");
    };
    // Closed from the beginning, so that a wait ends whenever no stream is left.
    let streams = TaskTracker::new();
    streams.close();
    let (singles, wasted) = (Arc::new(Singles::default()), Arc::new(AtomicU32::new(0)));
    let mut timer = Timer::new();
    // The first stream that was not accepted; from there on none is, once the client was told so.
    let (mut next, mut leaving) = (0, false);
    // From then on none is, where the client was told that this is near.
    let mut warned: Option<Instant> = None;
    loop {
        let drain = async {
            match warned {
                None => phase.ends().await,
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = phase.stops() => {}
                },
            }
        };
        let idle = async {
            streams.wait().await;
            let deadline = Instant::now() + if leaving { PARTING } else { limits.idle };
            poll_fn(|cx| timer.poll_until(cx, deadline)).await;
        };
        let (send, recv) = tokio::select! {
            biased;
            () = drain, if !leaving => {
                if warned.is_none() && phase.now() == Phase::HandedOver {
                    // Requests that are on their way are served, so that no client has to ask again (RFC 9114 §5.2).
                    warned = Some(Instant::now() + IN_FLIGHT.max(3 * conn.rtt()));
                    say_goaway(&mut control, NO_LIMIT).await;
                } else {
                    leaving = true;
                    say_goaway(&mut control, next).await;
                }
                continue;
            }
            () = watch.leaves(), if !leaving => {
                leaving = true;
                say_goaway(&mut control, next).await;
                continue;
            }
            () = streams.wait(), if window.is_some() => {
                window = None;
                continue;
            }
            stream = conn.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "an HTTP/3 connection ends");
                    return;
                }
            },
            Ok(stream) = conn.accept_uni() => {
                drop(tokio::spawn(single(conn.clone(), stream, Arc::clone(&singles))));
                continue;
            }
            () = idle => {
                if std::mem::replace(&mut leaving, true) {
                    break;
                }
                say_goaway(&mut control, next).await;
                continue;
            }
        };
        // What sites, limits and the log know of a client is its address, and that was shown in the handshake.
        if !leaving && conn.remote_address().ip() != client {
            leaving = true;
            say_goaway(&mut control, next).await;
        }
        if leaving {
            reject(send, recv);
            continue;
        }
        if window.is_none() {
            window = watch.hold(HTTP3_WINDOW);
        }
        let held = watch.hold(STREAM).filter(|_| window.is_some());
        let Some(held) = held else {
            reject(send, recv);
            continue;
        };
        next = u64::from(send.id()) + 4;
        let (conn, wasted) = (conn.clone(), Arc::clone(&wasted));
        let stream = (conn.clone(), send, recv);
        // On the heap from the beginning: a task is moved when it is made and when it has ended.
        let answer =
            Box::pin(h3_stream::answer(Arc::clone(edge), Arc::clone(&visitor), stream, limits, held));
        drop(streams.spawn(async move {
            if !count_wasted(&wasted, answer.await) {
                tracing::debug!("an HTTP/3 connection ends: its requests are given up");
                conn.close(code(Code::ExcessiveLoad), b"");
            }
        }));
    }
    conn.close(code(Code::NoError), b"");
}

/// The server's control stream, which begins with its settings.
async fn open_control(conn: &Connection, limits: H3Limits) -> Option<SendStream> {
    let open = async {
        let mut control = conn.open_uni().await.ok()?;
        control.write_all(&settings(limits.header_bytes)).await.ok()?;
        Some(control)
    };
    // A client that allows no such stream speaks no HTTP/3.
    timeout(limits.header, open).await.ok()?
}

async fn say_goaway(control: &mut SendStream, next: u64) {
    // The client may be gone or take nothing: then there is nothing left to say to it.
    let _ = timeout(LAST_WORD, control.write_all(&goaway(next))).await;
}

/// Counts a request by whether it was answered. `false`: too many were not.
fn count_wasted(wasted: &AtomicU32, answered: bool) -> bool {
    if answered {
        // Fails when nothing is wasted.
        let _ = wasted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wasted| wasted.checked_sub(1));
        return true;
    }
    wasted.fetch_add(1, Ordering::Relaxed) < MOST_WASTED
}

/// The request was not looked at, so it may be sent again elsewhere.
fn reject(mut send: SendStream, mut recv: RecvStream) {
    // Both fail only on a stream that the client gave up.
    let _ = send.reset(code(Code::RequestRejected));
    let _ = recv.stop(code(Code::RequestRejected));
}

/// Which streams that a client has one of are there.
#[derive(Debug, Default)]
struct Singles(AtomicU8);

impl Singles {
    /// Whether it is the first of its kind.
    fn enter(&self, kind: Kind) -> bool {
        let bit = match kind {
            Kind::Control => 1,
            Kind::Encoder => 2,
            Kind::Decoder => 4,
            Kind::Unknown => return true,
        };
        self.0.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// Follows a stream that carries no request, for as long as it is of use.
async fn single(conn: Connection, mut stream: RecvStream, singles: Arc<Singles>) {
    let Err(failure) = follow(&mut stream, &singles).await else { return };
    tracing::debug!(%failure, "an HTTP/3 connection ends");
    let (Failure::Connection(why) | Failure::Stream(why)) = failure;
    conn.close(code(why), b"");
}

async fn follow(stream: &mut RecvStream, singles: &Singles) -> Result<(), Failure> {
    let mut reader = SingleStream::default();
    let mut entered = false;
    loop {
        match stream.read_chunk(READ_SINGLE, true).await {
            Ok(Some(chunk)) => reader.feed(&chunk.bytes)?,
            Ok(None) | Err(ReadError::Reset(_)) => return reader.end(),
            // The connection is gone.
            Err(_) => return Ok(()),
        }
        let Some(kind) = reader.kind().filter(|_| !entered) else { continue };
        entered = true;
        if kind == Kind::Unknown {
            // Fails only on a stream that ended.
            let _ = stream.stop(code(Code::StreamCreation));
            return Ok(());
        }
        if !singles.enter(kind) {
            return Err(Failure::Connection(Code::StreamCreation));
        }
    }
}
