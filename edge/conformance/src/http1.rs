//! A client of HTTP/1 that says what a row tells it to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::message::{Message, Of};
use crate::node::OTHERS;
use crate::outcome::Answer;
use crate::patience::Patience;
use crate::row::{End, Row};
use crate::text::escape;

/// What a client has of its answers.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    answers: Vec<Answer>,
    /// Whether each request that is not answered yet was a HEAD.
    heads: std::collections::VecDeque<bool>,
    closed: bool,
    cut: bool,
    tunnel: bool,
}

impl Client {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            answers: Vec::new(),
            heads: std::collections::VecDeque::new(),
            closed: false,
            cut: false,
            tunnel: false,
        })
    }

    /// Takes the answers that are whole.
    fn take(&mut self) {
        while !self.input.is_empty() {
            if self.tunnel {
                let body = escape(&std::mem::take(&mut self.input));
                self.answers.push(Answer { word: "tunnel".to_owned(), body, ..Answer::default() });
                return;
            }
            let is_head = self.heads.front().copied().unwrap_or_default();
            let message = Message::read(&self.input, Of::Node(is_head));
            let until_end = message.framing.as_deref() == Some("until the end");
            let is_whole = message.is_whole || (until_end && self.closed && !self.cut);
            let status = message.status();
            if message.head == 0 || !(is_whole || self.closed) {
                return;
            }
            self.cut |= !is_whole;
            self.input.drain(..message.length.min(self.input.len()));
            if status >= 200 {
                self.heads.pop_front();
            }
            self.tunnel = status == 101;
            let mut fields = message.fields;
            fields.extend(message.faults.into_iter().map(|fault| ("fault".to_owned(), fault)));
            let body = escape(&message.body);
            self.answers.push(Answer { word: status.to_string(), fields, body });
            if !is_whole {
                self.input.clear();
            }
        }
    }

    /// Reads until there are `count` answers, the end, or nothing for `patience`.
    async fn read(&mut self, count: usize, patience: Duration) {
        self.take();
        while self.answers.len() < count && !self.closed {
            match timeout(patience, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => self.closed = true,
                Ok(Err(_)) => (self.closed, self.cut) = (true, true),
                Err(_) => return,
            }
            self.take();
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The proxy may have refused before it has everything.
        let _ = self.stream.write_all(bytes).await;
    }
}

/// Which of the requests in the bytes are HEAD, as far as that can be seen.
fn heads(bytes: &[u8]) -> impl Iterator<Item = bool> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let lines: Vec<bool> = text
        .split('\n')
        .filter(|line| line.contains(" HTTP/"))
        .map(|line| line.trim_start_matches('\r').starts_with("HEAD "))
        .collect();
    lines.into_iter()
}

/// Sends what the row says; what the client gets, and how its connection stands.
pub(crate) async fn talk(
    address: SocketAddr,
    row: &Row,
    patience: Patience,
) -> anyhow::Result<(Vec<Answer>, End)> {
    let mut client = Client::connect(address).await?;
    for (index, piece) in row.pieces()?.into_iter().enumerate() {
        if index > 0 {
            client.read(client.answers.len() + 1, patience.answer).await;
        }
        client.heads.extend(heads(&piece));
        client.send(&piece).await;
    }
    client.read(patience.count(row.client.len()), patience.answer).await;
    let count = client.answers.len();
    if client.tunnel {
        return Ok((client.answers, End::Tunnel));
    }
    if row.end == End::Open || patience.looks {
        // What was sent last may have been no whole request: then this one is taken for its rest, and not answered as itself.
        let probe = format!("GET {OTHERS}probe HTTP/1.1\r\nHost: a.example\r\n\r\n");
        client.heads.clear();
        client.send(probe.as_bytes()).await;
        client.read(count + 1, patience.answer).await;
        let own = format!("GET {OTHERS}probe");
        if client.answers.last().is_some_and(|answer| answer.body == own) {
            client.answers.pop();
            return Ok((client.answers, End::Open));
        }
    }
    if !client.closed {
        // More than there should be, or the end.
        client.read(usize::MAX, patience.end).await;
    }
    let end = match (client.cut, client.closed) {
        (true, _) => End::Cut,
        (_, true) => End::Closed,
        _ => End::Silent,
    };
    Ok((client.answers, end))
}

/// The bodies that a client of another host gets for two requests of its own.
pub(crate) async fn visit(
    address: SocketAddr,
    host: &str,
    turn: usize,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut client = Client::connect(address).await?;
    let mut got = Vec::new();
    for part in ["first", "second"] {
        let target = format!("{OTHERS}{turn}/{part}");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        client.read(got.len() + 1, Duration::from_secs(5)).await;
        let answer = client.answers.get(got.len()).cloned().unwrap_or_default();
        let more = if client.input.is_empty() { "" } else { " and more" };
        got.push((format!("200 GET {target}"), format!("{} {}{more}", answer.word, answer.body)));
    }
    Ok(got)
}
