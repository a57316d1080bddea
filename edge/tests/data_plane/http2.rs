//! HTTP/2 requests frame by frame: what reaches a node of them, and what one that is bad does to its neighbours.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::Edge;
use crate::rules::site;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

const GET: Fields<'_> =
    &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/")];

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Status(u16),
    Reset(u32),
}

/// A client that says whatever it is told to.
struct Raw {
    tls: TlsStream<TcpStream>,
    input: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
    answers: BTreeMap<u32, Answer>,
    goaway: Option<u32>,
    closed: bool,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn integer(out: &mut Vec<u8>, prefix: u8, first: u8, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(first | u8::try_from(value).unwrap());
    }
    out.push(first | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// Literals, put into the table if `indexed`.
pub(crate) fn block(fields: Fields<'_>, indexed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(if indexed { 0x40 } else { 0 });
        for text in [name, value] {
            integer(&mut out, 7, 0, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

fn get(stream: u32, fields: Fields<'_>) -> Vec<u8> {
    frame(1, END_HEADERS | END_STREAM, stream, &block(&[GET, fields].concat(), false))
}

impl Raw {
    async fn connect(edge: &Edge) -> Self {
        let mut tls = crate::tls::connect(edge, "a.example", &[b"h2"]).await.unwrap();
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
        tls.write_all(&hello).await.unwrap();
        Self {
            tls,
            input: Vec::new(),
            decoder: loona_hpack::Decoder::new(),
            answers: BTreeMap::new(),
            goaway: None,
            closed: false,
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The edge may have ended the connection before it has everything.
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    /// Reads until `done`, or until nothing comes for a while.
    async fn read(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) && !self.closed {
            let read = tokio::time::timeout(Duration::from_secs(3), self.tls.read_buf(&mut self.input)).await;
            match read {
                Ok(Ok(1..)) => {}
                Ok(_) => self.closed = true,
                Err(_) => return,
            }
            while let Some(head) = self.input.first_chunk::<9>().copied() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.input.len() < 9 + length {
                    break;
                }
                let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
                let whole: Vec<u8> = self.input.drain(..9 + length).collect();
                let payload = &whole[9..];
                let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match head[3] {
                    1 => {
                        let fields = self.decoder.decode(payload).unwrap();
                        let status = std::str::from_utf8(&fields[0].1).unwrap().parse().unwrap();
                        self.answers.insert(stream, Answer::Status(status));
                    }
                    3 => drop(self.answers.entry(stream).or_insert(Answer::Reset(code(0)))),
                    7 => self.goaway = Some(code(4)),
                    _ => {}
                }
            }
        }
    }

    async fn answer(&mut self, stream: u32) -> Option<Answer> {
        self.read(|client| client.answers.contains_key(&stream) || client.goaway.is_some()).await;
        self.answers.get(&stream).cloned()
    }

    /// The status of a stream's answer, or 0 for a reset.
    async fn status(&mut self, stream: u32) -> u16 {
        match self.answer(stream).await {
            Some(Answer::Status(status)) => status,
            Some(Answer::Reset(_)) => 0,
            None => panic!("no answer on {stream}; goaway {:?}", self.goaway),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_stream_leaves_its_neighbours_alone() {
    let (edge, node) = site().await;
    let mut client = Raw::connect(&edge).await;
    let huge = vec![b'v'; 100_000];
    let mut stream = 1;
    let fields: &[Fields<'_>] = &[
        &[(b"X", b"upper")],
        &[(b"caf\xe9", b"x")],
        &[(b"x y", b"z")],
        &[(b"", b"z")],
        &[(b"x", b"a\r\nb: c")],
        &[(b"x", b"\0")],
        &[(b"connection", b"close")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"te", b"gzip")],
        &[(b":path", b"/")],
        &[(b":status", b"200")],
        &[(b":nobody", b"knows")],
    ];
    // More often than a connection could bear if it counted.
    for bad in fields.iter().cycle().take(100) {
        // On both sides of it, and before any of them is answered.
        let all = [get(stream, &[(b"x", b"1")]), get(stream + 2, bad), get(stream + 4, &[(b"x", b"2")])];
        client.send(&all.concat()).await;
        assert_eq!(client.answer(stream + 2).await, Some(Answer::Reset(1)), "{bad:?}");
        assert_eq!((client.status(stream).await, client.status(stream + 4).await), (200, 200), "{bad:?}");
        stream += 6;
    }
    for (bad, code) in [
        ((&b"x"[..], &b"\x1b"[..]), 400),
        ((b"host", b"b.example"), 400),
        ((b"content-length", b"5, 5"), 400),
    ] {
        client.send(&get(stream, &[bad])).await;
        assert_eq!(client.status(stream).await, code, "{bad:?}");
        stream += 2;
    }
    for authority in [&b"a.example evil"[..], b"u@a.example", b"", b"\xff", b"a.example:x"] {
        let fields = [&GET[..2], &[(&b":authority"[..], authority)], &GET[3..]].concat();
        client.send(&frame(1, END_HEADERS | END_STREAM, stream, &block(&fields, false))).await;
        assert_eq!(client.status(stream).await, 400, "{authority:?}");
        stream += 2;
    }
    let many: Vec<_> = std::iter::repeat_n((&b"x"[..], &b"y"[..]), 300).collect();
    client.send(&get(stream, &many)).await;
    assert_eq!(client.status(stream).await, 431);
    stream += 2;
    assert!(!String::from_utf8_lossy(&node.take_bytes()).contains("upper"));
    // Too large in one field, in many, and in what the table holds.
    let mut bomb = block(GET, false);
    bomb.extend(block(&[(b"x", &huge[..4_000])], true));
    bomb.resize(16_000, 0xbe);
    client.send(&frame(1, END_HEADERS | END_STREAM, stream, &bomb)).await;
    assert_eq!(client.status(stream).await, 431);
    stream += 2;
    let large = block(&[GET, &[(b"cookie", &huge)]].concat(), true);
    let mut kind = 1;
    for piece in large.chunks(16_384) {
        let end = if piece.len() < 16_384 { END_HEADERS } else { 0 };
        client.send(&frame(kind, end | if kind == 1 { END_STREAM } else { 0 }, stream, piece)).await;
        kind = 9;
    }
    assert_eq!(client.status(stream).await, 431);
    stream += 2;
    client.send(&get(stream, &[])).await;
    assert_eq!((client.status(stream).await, client.goaway), (200, None));
}
