//! Clients of HTTP/3: one that is somebody else's, and one that says whatever it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use http::{Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadError, SendStream, WriteError};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::harness::Edge;
use crate::http2;

pub(crate) type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

pub(crate) const GET: Fields<'_> =
    &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/")];
pub(crate) const POST: Fields<'_> =
    &[(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/echo")];

pub(crate) fn config(tls: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Shakes hands from an address of its own.
pub(crate) async fn connect_from(
    edge: &Edge,
    from: &str,
    name: &str,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let config = config(crate::tls::config(edge, &[b"h3"]));
    let endpoint = Endpoint::client(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let connecting = endpoint.connect_with(config, edge.http3.unwrap(), name).unwrap();
    let conn = connecting.await?;
    Ok((endpoint, conn))
}

pub(crate) async fn connect(edge: &Edge, name: &str) -> Result<(Endpoint, Connection), ConnectionError> {
    connect_from(edge, "127.0.0.1", name).await
}

/// Where an edge is reached over a long way: what it says takes so long.
pub(crate) async fn far_away(edge: &Edge, delay: Duration) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    back.connect(edge.http3.unwrap()).await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    let _ = back.send(&there[..length]).await;
                }
                Ok(length) = back.recv(&mut here) => {
                    let (front, packet, client) = (Arc::clone(&front), here[..length].to_vec(), client.unwrap());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        let _ = front.send_to(&packet, client).await;
                    });
                }
            }
        }
    });
    address
}

/// A client of the library `h3`.
pub(crate) struct Browser {
    pub(crate) endpoint: Endpoint,
    pub(crate) conn: Connection,
    pub(crate) requests: SendRequest<OpenStreams, Bytes>,
    /// Ends with the connection; why.
    pub(crate) driver: JoinHandle<h3::error::ConnectionError>,
}

pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
}

impl Browser {
    pub(crate) async fn connect(edge: &Edge, name: &str) -> Self {
        let (endpoint, conn) = connect(edge, name).await.unwrap();
        Self::over(endpoint, conn).await
    }

    pub(crate) async fn over(endpoint: Endpoint, conn: Connection) -> Self {
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(conn.clone())).await.unwrap();
        let driver = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Self { endpoint, conn, requests, driver }
    }

    pub(crate) async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        let stream = self.requests.send_request(request).await.unwrap();
        let (mut send, mut recv) = stream.split();
        let body = body.to_vec();
        let sending = tokio::spawn(async move {
            for piece in body.chunks(50_000) {
                send.send_data(Bytes::copy_from_slice(piece)).await?;
            }
            send.finish().await
        });
        let head = recv.recv_response().await.unwrap();
        let mut all = Vec::new();
        while let Some(mut data) = recv.recv_data().await.unwrap() {
            all.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        // Once the answer is whole, the edge may not want the end of the request any more (RFC 9114 §4.1).
        let _ = sending.await.unwrap();
        Answer { head, body: all }
    }

    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        self.ask(Request::get(url).body(()).unwrap(), b"").await
    }
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Statuses of its interim answers and its answer, and the body.
    Answer(Vec<u16>, Vec<u8>),
    Reset(u64),
    /// With the connection.
    Closed(u64),
}

impl End {
    /// The status of an answer; 0: there was none.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Answer(statuses, _) => statuses.last().copied().unwrap_or_default(),
            Self::Reset(_) | Self::Closed(_) => 0,
        }
    }
}

pub(crate) fn integer(out: &mut Vec<u8>, value: usize) {
    match value {
        0..64 => out.push(u8::try_from(value).unwrap()),
        64..16_384 => out.extend_from_slice(&(u16::try_from(value).unwrap() | 0x4000).to_be_bytes()),
        _ => out.extend_from_slice(&(u32::try_from(value).unwrap() | 0x8000_0000).to_be_bytes()),
    }
}

pub(crate) fn frame(kind: usize, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    integer(&mut out, kind);
    integer(&mut out, payload.len());
    out.extend_from_slice(payload);
    out
}

/// A frame of fields, as literals.
pub(crate) fn fields(fields: Fields<'_>) -> Vec<u8> {
    let mut list = vec![0, 0];
    for (name, value) in fields {
        http2::integer(&mut list, 3, 0b0010_0000, name.len());
        list.extend_from_slice(name);
        http2::integer(&mut list, 7, 0, value.len());
        list.extend_from_slice(value);
    }
    frame(1, &list)
}

/// A client without a library for HTTP/3.
pub(crate) struct Raw {
    pub(crate) endpoint: Endpoint,
    pub(crate) conn: Connection,
    _control: SendStream,
}

impl Raw {
    pub(crate) async fn connect(edge: &Edge) -> Self {
        let (endpoint, conn) = connect(edge, "a.example").await.unwrap();
        Self::over(endpoint, conn).await
    }

    pub(crate) async fn over(endpoint: Endpoint, conn: Connection) -> Self {
        let mut control = conn.open_uni().await.unwrap();
        control.write_all(b"\0\x04\0").await.unwrap();
        Self { endpoint, conn, _control: control }
    }

    /// Sends a stream's bytes, and that they are all; how it ends.
    pub(crate) async fn ask(&self, bytes: &[u8]) -> End {
        let (mut send, recv) = self.conn.open_bi().await.unwrap();
        match send.write_all(bytes).await {
            // The edge may refuse before it has taken everything.
            Ok(()) | Err(WriteError::Stopped(_)) => drop(send.finish()),
            Err(error) => panic!("{error}"),
        }
        read(recv).await
    }
}

/// Reads an answer.
pub(crate) async fn read(mut recv: quinn::RecvStream) -> End {
    let mut all = Vec::new();
    loop {
        match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => all.extend_from_slice(&chunk.bytes),
            Ok(None) => break,
            Err(ReadError::Reset(code)) => return End::Reset(code.into_inner()),
            Err(ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close))) => {
                return End::Closed(close.error_code.into_inner());
            }
            Err(error) => panic!("{error}"),
        }
    }
    let (mut statuses, mut body) = (Vec::new(), Vec::new());
    let mut rest = &all[..];
    while !rest.is_empty() {
        let (kind, length) = (take_integer(&mut rest), take_integer(&mut rest));
        let (payload, behind) = rest.split_at(length);
        rest = behind;
        match kind {
            0 => body.extend_from_slice(payload),
            1 => statuses.push(status(payload)),
            _ => {}
        }
    }
    End::Answer(statuses, body)
}

fn take_integer(bytes: &mut &[u8]) -> usize {
    let length = 1usize << (bytes[0] >> 6);
    let (integer, rest) = bytes.split_at(length);
    *bytes = rest;
    integer.iter().skip(1).fold(usize::from(integer[0] & 0x3f), |value, byte| value << 8 | usize::from(*byte))
}

/// Of a list that begins with it: by RFC 9204 Appendix A, or as it is.
fn status(list: &[u8]) -> u16 {
    match list[2..] {
        [0xd9, ..] => 200,
        [0xda, ..] => 304,
        [0xdb, ..] => 404,
        [0xdc, ..] => 503,
        [0xff, index, ..] => [100, 204, 206, 302, 400, 403, 421, 425, 500][usize::from(index)],
        [0x5f, 9, 3, a, b, c, ..] => std::str::from_utf8(&[a, b, c]).unwrap().parse().unwrap(),
        _ => panic!("{list:?}"),
    }
}
