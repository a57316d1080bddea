//! A client of HTTP/2 that says, frame by frame, what a row tells it to.
//!
//! A row's lines, each a frame or more:
//! - `get 1`, `get 1 | x: y`: HEADERS of a GET with more fields, which ends the stream; `post 1` does not end it.
//! - `fields FLAGS 1 | :method: GET | …`: HEADERS with these fields alone, as literals, with flags such as `end,headers`.
//! - `data FLAGS 1 text`: DATA.
//! - `frame TYPE FLAGS STREAM payload`: any frame; the type is a name or a number.
//! - `raw bytes`: bytes as they are. `wait`: the client waits for the next thing that comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::node::OTHERS;
use crate::outcome::Answer;
use crate::patience::Patience;
use crate::row::{End, Row};
use crate::text::{escape, unescape};

const TYPES: &[&str] = &[
    "data",
    "headers",
    "priority",
    "rst_stream",
    "settings",
    "push_promise",
    "ping",
    "goaway",
    "window_update",
    "continuation",
];
const CODES: &[&str] = &[
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
];
const FLAGS: &[(&str, u8)] =
    &[("end", 0x1), ("ack", 0x1), ("headers", 0x4), ("padded", 0x8), ("priority", 0x20), ("-", 0)];
/// The stream on which the client asks whether the connection goes on.
const PROBE: u32 = 1_001;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let [_, length @ ..] = u32::try_from(payload.len())?.to_be_bytes();
    Ok([&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat())
}

/// Appends an integer behind the bits of `first` (RFC 7541 §5.1).
pub(crate) fn integer(out: &mut Vec<u8>, prefix: u8, first: u8, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(first | value as u8);
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// The fields of a line, behind its first ` | `, as `(name, value)`.
pub(crate) fn fields(parts: &[&str]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    parts
        .iter()
        .map(|part| {
            // A pseudo-header field's name begins with a colon; a name may be empty, and so may a value.
            let from = usize::from(part.starts_with(':') && !part.starts_with(": "));
            let rest = part.get(from..).unwrap_or_default();
            let colon = rest.find(": ").or(rest.ends_with(':').then(|| rest.len() - 1));
            let (name, value) = part.split_at(from + colon.context("a field without a colon")?);
            Ok((
                unescape(name)?,
                unescape(value.get(1..).unwrap_or_default().strip_prefix(' ').unwrap_or_default())?,
            ))
        })
        .collect()
}

pub(crate) fn request(method: &str, more: &[&str]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let method = format!(":method: {method}");
    let begin = [&*method, ":scheme: https", ":authority: a.example", ":path: /"];
    fields(&[&begin[..], more].concat())
}

fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, 7, 0, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

fn flags(text: &str) -> anyhow::Result<u8> {
    let of = |word: &str| {
        let known = FLAGS.iter().find(|(name, _)| *name == word).map(|(_, flag)| *flag);
        known.or_else(|| word.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok()))
    };
    text.split(',').try_fold(0, |all, word| Ok(all | of(word).with_context(|| format!("no flag {word:?}"))?))
}

/// The bytes of a line.
fn line(text: &str) -> anyhow::Result<Vec<u8>> {
    let parts: Vec<&str> = text.split(" | ").collect();
    let (first, more) = parts.split_first().context("an empty line")?;
    let words: Vec<&str> = first.splitn(2, ' ').collect();
    let rest = words.get(1).copied().unwrap_or_default();
    match words.first().copied().unwrap_or_default() {
        "get" => frame(1, 0x5, rest.parse()?, &block(&request("GET", more)?)),
        "post" => frame(1, 0x4, rest.parse()?, &block(&request("POST", more)?)),
        "fields" => {
            let (set, stream) = rest.split_once(' ').context("no stream")?;
            frame(1, flags(set)?, stream.parse()?, &block(&fields(more)?))
        }
        "data" => {
            let mut words = text.splitn(4, ' ').skip(1);
            let mut word = || words.next().unwrap_or_default();
            let (set, stream) = (flags(word())?, word().parse()?);
            frame(0, set, stream, &unescape(word())?)
        }
        "frame" => {
            let mut words = text.splitn(5, ' ').skip(1);
            let mut word = || words.next().unwrap_or_default();
            let kind = word();
            let kind = match TYPES.iter().position(|name| *name == kind) {
                Some(index) => u8::try_from(index)?,
                None => kind.parse()?,
            };
            let (set, stream) = (flags(word())?, word().parse()?);
            frame(kind, set, stream, &unescape(word())?)
        }
        "raw" => unescape(text.split_once(' ').map_or("", |(_, bytes)| bytes)),
        word => bail!("there is no line {word:?}"),
    }
}

struct Client {
    tls: TlsStream<TcpStream>,
    input: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
    /// Answers whose stream goes on.
    under_way: BTreeMap<u32, Answer>,
    answers: BTreeMap<u32, Answer>,
    last_word: Option<String>,
    acknowledged: Vec<Answer>,
    closed: bool,
    /// How many things came.
    came: usize,
}

impl Client {
    async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let mut tls =
            TlsConnector::from(tls).connect(ServerName::try_from("a.example".to_owned())?, tcp).await?;
        tls.flush().await?;
        Ok(Self {
            tls,
            input: Vec::new(),
            decoder: loona_hpack::Decoder::new(),
            under_way: BTreeMap::new(),
            answers: BTreeMap::new(),
            last_word: None,
            acknowledged: Vec::new(),
            closed: false,
            came: 0,
        })
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The proxy may have ended the connection before it has everything.
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    /// Everything that the client was told, streams first.
    fn all(&self) -> Vec<Answer> {
        let broken = self
            .under_way
            .values()
            .filter(|_| self.closed)
            .cloned()
            .map(|answer| Answer { word: format!("{} broken off", answer.word), ..answer });
        let mut all: Vec<Answer> = self.answers.values().cloned().chain(broken).collect();
        all.extend(self.acknowledged.iter().cloned());
        all.extend(self.last_word.iter().map(|word| Answer { word: word.clone(), ..Answer::default() }));
        all
    }

    /// Reads until `done`, the end, or nothing for `patience`.
    async fn read(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        while !done(self) && !self.closed {
            match timeout(patience, self.tls.read_buf(&mut self.input)).await {
                Ok(Ok(1..)) => self.take()?,
                Ok(_) => self.closed = true,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<()> {
        while let Some([a, b, c, kind, flags, s @ ..]) = self.input.first_chunk::<9>().copied() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.input.len() < 9 + length {
                break;
            }
            let stream = u32::from_be_bytes(s) & 0x7fff_ffff;
            let whole: Vec<u8> = self.input.drain(..9 + length).collect();
            let payload = whole.get(9..).unwrap_or_default();
            let code = |at: usize| {
                let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
                let code = u32::from_be_bytes(bytes.copied().unwrap_or_default());
                CODES.get(code as usize).map_or_else(|| code.to_string(), |name| (*name).to_owned())
            };
            match kind {
                0 => {
                    if let Some(answer) = self.under_way.get_mut(&stream) {
                        answer.body.push_str(&escape(payload));
                    }
                    self.end(stream, flags);
                }
                1 => {
                    let list = self.decoder.decode(payload).map_err(|error| anyhow::anyhow!("{error:?}"))?;
                    let text = |bytes: &[u8]| escape(bytes);
                    let mut fields: Vec<(String, String)> =
                        list.iter().map(|(name, value)| (text(name), text(value))).collect();
                    let status = fields.first().map(|(_, status)| status.clone()).unwrap_or_default();
                    fields.drain(..1.min(fields.len()));
                    let answer = Answer { word: format!("{stream}: {status}"), fields, body: String::new() };
                    self.under_way.insert(stream, answer);
                    self.end(stream, flags);
                }
                3 => {
                    // An answer that is whole stays one (RFC 9113 §8.1: NO_ERROR says that the rest of the request is not wanted).
                    let word = format!("{stream}: reset {}", code(0));
                    self.under_way.remove(&stream);
                    self.answers.entry(stream).or_insert(Answer { word, ..Answer::default() });
                    self.came += 1;
                }
                6 if flags & 1 != 0 => {
                    self.acknowledged.push(Answer {
                        word: "ping".to_owned(),
                        body: escape(payload),
                        ..Answer::default()
                    });
                    self.came += 1;
                }
                7 => {
                    self.last_word = Some(format!("goaway {}", code(4)));
                    self.came += 1;
                }
                4 | 8 => self.came += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, stream: u32, flags: u8) {
        self.came += 1;
        if flags & 1 != 0
            && let Some(answer) = self.under_way.remove(&stream)
        {
            self.answers.insert(stream, answer);
        }
    }
}

/// Sends what the row says; what the client gets, and how its connection stands.
pub(crate) async fn talk(
    address: SocketAddr,
    mut tls: ClientConfig,
    row: &Row,
    patience: Patience,
) -> anyhow::Result<(Vec<Answer>, End)> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = Client::connect(address, Arc::new(tls)).await?;
    let lines = row.send.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut bytes = Vec::new();
    for (index, text) in lines.enumerate() {
        if index == 0 && !text.starts_with("raw PRI") {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            // A row that begins with settings begins the connection itself.
            if !text.starts_with("frame settings") && !text.starts_with("first ") {
                bytes.extend(frame(4, 0, 0, &[])?);
            }
        }
        if let Some(expected) = text.strip_prefix("wait") {
            client.send(&std::mem::take(&mut bytes)).await;
            // For so many answers, or for anything.
            match expected.trim().parse::<usize>() {
                Ok(count) => client.read(patience.answer, |client| client.all().len() >= count).await?,
                Err(_) => {
                    let came = client.came;
                    client.read(patience.answer, |client| client.came > came).await?;
                }
            }
            continue;
        }
        let text = text.strip_prefix("first ").unwrap_or(text);
        bytes.extend(line(text).with_context(|| format!("{row}: {text:?}"))?);
    }
    client.send(&bytes).await;
    let count = patience.count(row.client.len());
    client.read(patience.answer, |client| client.all().len() >= count || client.last_word.is_some()).await?;
    let answers = client.all();
    if client.last_word.is_none() && (row.end == End::Open || patience.looks) {
        let path = format!(":path: {OTHERS}probe");
        let parts = [":method: GET", ":scheme: https", ":authority: a.example", &*path];
        client.send(&frame(1, 0x5, PROBE, &block(&fields(&parts)?))?).await;
        client.read(patience.answer, |client| client.answers.contains_key(&PROBE) || client.closed).await?;
        let own = client.answers.remove(&PROBE).map(|answer| answer.body);
        if own == Some(format!("GET {OTHERS}probe")) && client.last_word.is_none() {
            return Ok((client.all(), End::Open));
        }
    }
    client.read(patience.end, |_| false).await?;
    let answers = if patience.looks || client.all().len() != answers.len() { client.all() } else { answers };
    Ok((answers, if client.closed { End::Closed } else { End::Silent }))
}
