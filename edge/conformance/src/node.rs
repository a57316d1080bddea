//! The node that records what reaches it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::message::{Message, Of};
use crate::row::Row;
use crate::text::escape;

/// By which a request shows a node how it wants to be answered (ADR 34).
const MARK: &str = "x-hosting-request";
/// Targets of requests that are no row's: those of other clients, and an edge's own question whether the node is there.
pub(crate) const OTHERS: &str = "/other-client/";
const ALIVE: &str = "/.well-known/hosting-alive ";
/// Fields that a proxy sets itself, but for `host`.
const SET_BY_PROXIES: &[&str] = &[
    MARK,
    "x-hosting-host",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-for",
    "x-real-ip",
    "forwarded",
];

/// A row as the node sees it.
#[derive(Debug, Clone, Default)]
struct Script {
    answer: Option<Vec<u8>>,
    early: bool,
    closes: bool,
    /// What the proxy must say of the request; nothing is looked at without it.
    expected: Option<Expected>,
}

/// What an edge says of a request to its node.
#[derive(Debug, Clone)]
struct Expected {
    authority: String,
    scheme: &'static str,
}

#[derive(Debug, Default)]
struct State {
    /// Which row is played.
    turn: u64,
    script: Script,
    /// The rows' messages that were whole.
    rows: Vec<String>,
    /// Bytes of messages that are not whole, one for each connection.
    begun: BTreeMap<usize, Vec<u8>>,
}

/// Keeps what it gets, and answers each request with its method and target, or as a row has it.
#[derive(Debug)]
pub struct Node {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node on a port of its own.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let node = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = Arc::clone(&node.state);
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                tokio::spawn(serve(stream, connection, Arc::clone(&state)));
            }
        });
        Ok(node)
    }

    /// From here on it does what the row says. `strict`: it looks at the fields that the edge sets.
    pub(crate) fn play(&self, row: &Row, scheme: &'static str, strict: bool) -> anyhow::Result<()> {
        let authority = row.authority.clone().unwrap_or_else(|| "a.example".to_owned());
        let script = Script {
            answer: row.answer()?,
            early: row.early,
            closes: row.closes,
            expected: strict.then_some(Expected { authority, scheme }),
        };
        let mut state = lock(&self.state);
        *state = State { script, turn: state.turn + 1, ..State::default() };
        Ok(())
    }

    /// The row's messages, those that did not end behind a `~`.
    pub(crate) fn seen(&self) -> Vec<String> {
        let state = lock(&self.state);
        let begun = state.begun.values().filter_map(|bytes| {
            let text = render(&Message::read(bytes, Of::Client), None);
            (!text.contains(OTHERS)).then(|| format!("~{text}"))
        });
        state.rows.iter().cloned().chain(begun).collect()
    }
}

/// A message as the table has it.
fn render(message: &Message, expected: Option<&Expected>) -> String {
    let mut parts = Vec::new();
    match message.first_line.strip_suffix(" HTTP/1.1") {
        Some(line) => parts.push(escape(&line.chars().map(|c| c as u8).collect::<Vec<u8>>())),
        None => parts.push(message.first_line.clone()),
    }
    for (name, value) in &message.fields {
        let is_framing = matches!(&**name, "content-length" | "transfer-encoding");
        if !is_framing && name != "host" && !SET_BY_PROXIES.contains(&&**name) {
            parts.push(format!("{name}: {value}"));
        }
    }
    if let Some(expected) = expected {
        parts.extend(wrong(message, expected));
    }
    parts.extend(message.framing.clone());
    if !message.body.is_empty() {
        parts.push(escape(&message.body));
    }
    parts.extend(message.faults.iter().map(|fault| format!("! {fault}")));
    parts.join(" | ")
}

/// What an edge says of a request and should not, and the other way round.
fn wrong(message: &Message, expected: &Expected) -> Vec<String> {
    let Expected { authority, scheme } = expected;
    let name = authority.split(':').next().unwrap_or_default();
    let webroot = if name == "a.example" { "web_a" } else { "web_b" };
    let forwarded = format!("for=127.0.0.1;host=\"{authority}\";proto={scheme}");
    let wanted = [
        ("host", webroot),
        ("x-hosting-host", authority),
        ("x-forwarded-host", authority),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", &forwarded),
    ];
    let mut problems = Vec::new();
    for (name, value) in wanted {
        let said: Vec<&str> =
            message.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value).collect();
        if said != [value] {
            problems.push(format!("! {name} is {said:?} and not {value:?}"));
        }
    }
    let marks = message.fields.iter().filter(|(name, _)| name == MARK).count();
    if marks != 1 {
        problems.push(format!("! {marks} marks"));
    }
    problems
}

/// Answers each whole request; what is behind a request is the next one, as a real server takes it.
async fn serve(mut stream: TcpStream, connection: usize, state: Arc<Mutex<State>>) {
    // As much as a head has, so that most are there at once.
    let mut pending = Vec::with_capacity(16_384);
    let mut answered_early = false;
    // The row in whose time the message that is under way began: what is left of it afterwards is no other row's.
    let mut turn = 0;
    loop {
        let is_new = pending.is_empty();
        let read = stream.read_buf(&mut pending).await;
        if is_new {
            turn = lock(&state).turn;
        }
        let has_ended = !matches!(read, Ok(1..));
        loop {
            let message = Message::read(&pending, Of::Client);
            let is_other = message.first_line.contains(OTHERS) || message.first_line.contains(ALIVE);
            let script = lock(&state).script.clone();
            if message.head > 0 && script.early && !is_other && !answered_early {
                answered_early = true;
                if say(&mut stream, &script, &message).await.is_err() {
                    return;
                }
            }
            if !message.is_whole || message.head == 0 {
                break;
            }
            pending.drain(..message.length);
            let text = render(&message, script.expected.as_ref().filter(|_| !is_other));
            {
                let mut state = lock(&state);
                state.begun.remove(&connection);
                if !is_other && state.turn == turn {
                    state.rows.push(text);
                }
                turn = state.turn;
            }
            let early = std::mem::take(&mut answered_early);
            let own = Script::default();
            let script = if is_other { &own } else { &script };
            if !early && say(&mut stream, script, &message).await.is_err() {
                return;
            }
            if script.closes {
                // What the proxy still sends is not to be answered with a reset.
                let _ = stream.shutdown().await;
                let mut rest = Vec::new();
                let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut rest)).await;
                return;
            }
            if script.answer.as_ref().is_some_and(|answer| answer.starts_with(b"HTTP/1.1 101")) {
                return tunnel(stream, state, pending).await;
            }
        }
        // What a connection holds of a message that is not whole.
        {
            let mut state = lock(&state);
            if pending.is_empty() {
                state.begun.remove(&connection);
            } else if state.turn == turn {
                state.begun.insert(connection, pending.clone());
            }
        }
        if has_ended {
            return;
        }
    }
}

async fn say(stream: &mut TcpStream, script: &Script, message: &Message) -> std::io::Result<()> {
    let mark = message.field(MARK).map(|mark| format!("{MARK}: {mark}\r\n")).unwrap_or_default();
    let answer = match &script.answer {
        Some(answer) => replace(answer, b"{mark}", mark.as_bytes()),
        None => {
            let line = message.first_line.strip_suffix(" HTTP/1.1").unwrap_or(&message.first_line);
            let body = if line.starts_with("HEAD ") { "" } else { line };
            let body: Vec<u8> = body.chars().map(|c| c as u8).collect();
            let head = format!("HTTP/1.1 200 OK\r\n{mark}content-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        }
    };
    stream.write_all(&answer).await
}

fn replace(text: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(with);
        rest = rest.get(at + what.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// Says back what comes, and keeps it.
async fn tunnel(mut stream: TcpStream, state: Arc<Mutex<State>>, mut bytes: Vec<u8>) {
    loop {
        if !bytes.is_empty() {
            lock(&state).rows.push(format!("tunnel | {}", escape(&bytes)));
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
