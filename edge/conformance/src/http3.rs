//! A client of HTTP/3 that says, stream by stream, what a row tells it to.
//!
//! A row's lines:
//! - `get | x: y`: a stream with the HEADERS of a GET, and its end; `post | …`: the same, which goes on. `fields | :method: GET | …`: these
//!   fields alone, on a stream of their own, which goes on.
//! - `data text`, `trailers | x: y`, `frame TYPE payload`, `raw bytes`, `fin`, `reset CODE`: what follows on that stream.
//! - `stream`: a stream without anything. `uni bytes`: a stream of one direction. `control bytes`: more on the control stream, which is
//!   opened with empty settings unless the row begins with `control`. `wait`: the client waits for the answer of the stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use crate::http2::{fields, integer, request};
use crate::node::OTHERS;
use crate::outcome::Answer;
use crate::patience::Patience;
use crate::row::{End, Row};
use crate::text::{escape, unescape};

const CODES: &[(u64, &str)] = &[
    (0x100, "NO_ERROR"),
    (0x101, "GENERAL_PROTOCOL_ERROR"),
    (0x102, "INTERNAL_ERROR"),
    (0x103, "STREAM_CREATION_ERROR"),
    (0x104, "CLOSED_CRITICAL_STREAM"),
    (0x105, "FRAME_UNEXPECTED"),
    (0x106, "FRAME_ERROR"),
    (0x107, "EXCESSIVE_LOAD"),
    (0x108, "ID_ERROR"),
    (0x109, "SETTINGS_ERROR"),
    (0x10a, "MISSING_SETTINGS"),
    (0x10b, "REQUEST_REJECTED"),
    (0x10c, "REQUEST_CANCELLED"),
    (0x10d, "REQUEST_INCOMPLETE"),
    (0x10e, "MESSAGE_ERROR"),
    (0x200, "QPACK_DECOMPRESSION_FAILED"),
    (0x201, "QPACK_ENCODER_STREAM_ERROR"),
    (0x202, "QPACK_DECODER_STREAM_ERROR"),
];

fn code(code: u64) -> String {
    CODES
        .iter()
        .find(|(known, _)| *known == code)
        .map_or_else(|| code.to_string(), |(_, name)| (*name).to_owned())
}

fn number(out: &mut Vec<u8>, value: usize) -> anyhow::Result<()> {
    match value {
        0..64 => out.push(u8::try_from(value)?),
        64..16_384 => out.extend_from_slice(&(u16::try_from(value)? | 0x4000).to_be_bytes()),
        _ => out.extend_from_slice(&(u32::try_from(value)? | 0x8000_0000).to_be_bytes()),
    }
    Ok(())
}

fn frame(kind: usize, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    number(&mut out, kind)?;
    number(&mut out, payload.len())?;
    out.extend_from_slice(payload);
    Ok(out)
}

/// A HEADERS frame with literals.
fn headers(fields: &[(Vec<u8>, Vec<u8>)]) -> anyhow::Result<Vec<u8>> {
    let mut list = vec![0, 0];
    for (name, value) in fields {
        integer(&mut list, 3, 0b0010_0000, name.len());
        list.extend_from_slice(name);
        integer(&mut list, 7, 0, value.len());
        list.extend_from_slice(value);
    }
    frame(1, &list)
}

struct Stream {
    send: SendStream,
    recv: Option<RecvStream>,
    answer: Option<Answer>,
}

struct Client {
    conn: Connection,
    control: SendStream,
    streams: Vec<Stream>,
    /// Streams of one direction stay open.
    others: Vec<SendStream>,
}

impl Client {
    async fn open(&mut self) -> anyhow::Result<()> {
        let (send, recv) = self.conn.open_bi().await?;
        self.streams.push(Stream { send, recv: Some(recv), answer: None });
        Ok(())
    }

    /// Bytes on the last stream.
    async fn send(&mut self, bytes: &[u8]) {
        if let Some(stream) = self.streams.last_mut() {
            // The proxy may have refused before it has everything.
            let _ = stream.send.write_all(bytes).await;
        }
    }

    fn fin(&mut self) {
        if let Some(stream) = self.streams.last_mut() {
            let _ = stream.send.finish();
        }
    }

    async fn line(&mut self, text: &str) -> anyhow::Result<()> {
        let parts: Vec<&str> = text.split(" | ").collect();
        let (first, more) = parts.split_first().context("an empty line")?;
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match *first {
            "get" | "post" | "fields" => {
                self.open().await?;
                let list = match *first {
                    "get" => request("GET", more)?,
                    "post" => request("POST", more)?,
                    _ => fields(more)?,
                };
                self.send(&headers(&list)?).await;
                if *first == "get" {
                    self.fin();
                }
            }
            "trailers" => self.send(&headers(&fields(more)?)?).await,
            "stream" => self.open().await?,
            "fin" => self.fin(),
            _ => match word {
                "data" => self.send(&frame(0, &unescape(rest)?)?).await,
                "raw" => self.send(&unescape(rest)?).await,
                "frame" => {
                    let (kind, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                    self.send(&frame(kind.parse()?, &unescape(payload)?)?).await;
                }
                "reset" => {
                    if let Some(stream) = self.streams.last_mut() {
                        let _ = stream.send.reset(VarInt::from_u32(rest.parse()?));
                    }
                }
                "uni" => {
                    let mut stream = self.conn.open_uni().await?;
                    let _ = stream.write_all(&unescape(rest)?).await;
                    self.others.push(stream);
                }
                "control" => {
                    let _ = self.control.write_all(&unescape(rest)?).await;
                }
                "endcontrol" => {
                    let _ = self.control.finish();
                }
                _ => bail!("there is no line {text:?}"),
            },
        }
        Ok(())
    }

    /// What came of the stream with this index, unless nothing comes for `patience`.
    async fn read(&mut self, index: usize, patience: Duration) -> anyhow::Result<()> {
        if let Some(stream) = self.streams.get_mut(index)
            && let Some(recv) = &mut stream.recv
            && let Ok(answer) = timeout(patience, read(recv, index)).await
        {
            stream.answer = answer?;
            stream.recv = None;
        }
        Ok(())
    }
}

/// Reads an answer; none when the connection ended before it.
async fn read(recv: &mut RecvStream, index: usize) -> anyhow::Result<Option<Answer>> {
    let mut all = Vec::new();
    loop {
        match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => all.extend_from_slice(&chunk.bytes),
            Ok(None) => break,
            Err(ReadError::Reset(reset)) => {
                let word = format!("{index}: reset {}", code(reset.into_inner()));
                return Ok(Some(Answer { word, ..Answer::default() }));
            }
            Err(_) => return Ok(None),
        }
    }
    let (mut answer, mut rest) = (Answer::default(), &all[..]);
    let mut statuses = Vec::new();
    while !rest.is_empty() {
        let (kind, length) = (take_number(&mut rest)?, take_number(&mut rest)?);
        let (payload, behind) = rest.split_at_checked(length).context("a frame breaks off")?;
        rest = behind;
        match kind {
            0 => answer.body.push_str(&escape(payload)),
            1 => statuses.push(status(payload)?),
            _ => {}
        }
    }
    answer.word = format!("{index}: {}", statuses.join(" "));
    Ok(Some(answer))
}

fn take_number(bytes: &mut &[u8]) -> anyhow::Result<usize> {
    let first = *bytes.first().context("a number is missing")?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6)).context("a number breaks off")?;
    *bytes = rest;
    Ok(number.iter().skip(1).fold(usize::from(first & 0x3f), |value, byte| value << 8 | usize::from(*byte)))
}

/// Of a list that begins with it: by RFC 9204 Appendix A, or as it is.
fn status(list: &[u8]) -> anyhow::Result<String> {
    const SHORT: &[u16] = &[103, 200, 304, 404, 503];
    const LONG: &[u16] = &[100, 204, 206, 302, 400, 403, 421, 425, 500];
    let known = |table: &[u16], index: u8| table.get(usize::from(index)).map(u16::to_string);
    match list.get(2..).unwrap_or_default() {
        [byte @ 0xd8..=0xdc, ..] => known(SHORT, byte - 0xd8),
        [0xff, index, ..] => known(LONG, *index),
        [0x5f, 9, 3, a, b, c, ..] => Some([a, b, c].iter().map(|byte| char::from(**byte)).collect()),
        _ => None,
    }
    .with_context(|| format!("an answer without a status: {}", escape(list)))
}

/// Sends what the row says; what the client gets, and how its connection stands.
pub(crate) async fn talk(
    address: SocketAddr,
    mut tls: rustls::ClientConfig,
    row: &Row,
    patience: Patience,
) -> anyhow::Result<(Vec<Answer>, End)> {
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let conn = endpoint.connect_with(config, address, "a.example")?.await?;
    let mut control = conn.open_uni().await?;
    let lines: Vec<&str> = row.send.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if !lines.first().is_some_and(|line| line.starts_with("control")) {
        control.write_all(b"\0\x04\0").await?;
    }
    let mut client = Client { conn, control, streams: Vec::new(), others: Vec::new() };
    for text in lines {
        if text == "wait" {
            client.read(client.streams.len().saturating_sub(1), patience.answer).await?;
        } else if let Err(error) = client.line(text).await {
            // The proxy may have ended the connection before everything was said.
            if client.conn.close_reason().is_none() {
                return Err(error.context(format!("{row}: {text:?}")));
            }
            break;
        }
    }
    for index in 0..client.streams.len() {
        client.read(index, patience.answer).await?;
    }
    let mut answers: Vec<Answer> = client.streams.iter().filter_map(|stream| stream.answer.clone()).collect();
    let ended = |error: ConnectionError| match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("closed {}", code(close.error_code.into_inner()))
        }
        error => format!("closed: {error}"),
    };
    if row.end == End::Open {
        let probe = client.streams.len();
        let asked = async {
            client.line("stream").await?;
            let path = format!(":path: {OTHERS}probe");
            let list = fields(&[":method: GET", ":scheme: https", ":authority: a.example", &path])?;
            client.send(&headers(&list)?).await;
            client.fin();
            client.read(probe, patience.answer).await
        };
        let own = format!("GET {OTHERS}probe");
        let answered = asked.await.is_ok();
        let answer = client.streams.get(probe).and_then(|stream| stream.answer.as_ref());
        if answered && answer.is_some_and(|answer| answer.body == own) {
            return Ok((answers, End::Open));
        }
    }
    let end = match timeout(patience.end, client.conn.closed()).await {
        Ok(error) => {
            answers.push(Answer { word: ended(error), ..Answer::default() });
            End::Closed
        }
        Err(_) => End::Silent,
    };
    Ok((answers, end))
}
