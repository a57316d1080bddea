//! The table.

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::text::unescape;

/// By which version of HTTP a row's client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1, without TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/3.
    Http3,
}

/// How a client's connection stands after its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Another request is answered on it.
    Open,
    /// It is closed.
    Closed,
    /// It is closed so that the client sees that its answer is not whole.
    Cut,
    /// It is open, and nothing is answered on it any more.
    Silent,
    /// It carries another protocol.
    Tunnel,
}

/// One row of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What asks for it, such as `RFC 9112 §3.2`.
    pub section: String,
    /// What it is about.
    pub title: String,
    /// The client's version of HTTP.
    #[serde(skip, default = "http1")]
    pub protocol: Protocol,
    /// What the client sends: bytes of HTTP/1 (`{host}` is a `Host` field, at `{wait}` the client waits for an answer), or lines that
    /// each are a frame.
    pub send: String,
    /// What may reach the node, message by message: `METHOD target | field: value | framing | body`. A message behind `~` may begin,
    /// and must not end.
    #[serde(default)]
    pub node: Vec<String>,
    /// What the node answers, in place of the request's method and target. `{mark}` is the field that shows which request it answers.
    pub answer: Option<String>,
    /// The node answers as soon as the head is there.
    #[serde(default)]
    pub early: bool,
    /// The node closes after its answer.
    #[serde(default)]
    pub closes: bool,
    /// What the client must see, answer by answer: a status, with the body behind it where it is the node's.
    pub client: Vec<String>,
    /// Fields that the last answer has: `name: value`, `name`; with `!` before it, those that it has not.
    #[serde(default)]
    pub has: Vec<String>,
    /// How the connection stands afterwards.
    pub end: End,
    /// The host and port that the node is told of, where these are not `a.example`.
    pub authority: Option<String>,
    /// Why others do otherwise.
    pub why: Option<String>,
}

const fn http1() -> Protocol {
    Protocol::Http1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    protocol: Protocol,
    row: Vec<Row>,
}

const TABLES: &[(&str, &str)] = &[
    ("http1-heads", include_str!("../table/http1-heads.toml")),
    ("http1-bodies", include_str!("../table/http1-bodies.toml")),
    ("http1-answers", include_str!("../table/http1-answers.toml")),
    ("http2-fields", include_str!("../table/http2-fields.toml")),
    ("http2-frames", include_str!("../table/http2-frames.toml")),
    ("http3", include_str!("../table/http3.toml")),
];

/// All rows.
///
/// # Errors
/// The table does not say what it should.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for (name, text) in TABLES {
        let table: Table = toml::from_str(text).with_context(|| format!("in the table {name}"))?;
        for row in table.row {
            let row = Row { protocol: table.protocol, ..row };
            ensure!(
                !all.iter().any(|other: &Row| (&other.protocol, &other.send, &other.answer)
                    == (&row.protocol, &row.send, &row.answer)),
                "{row} says what another row says"
            );
            all.push(row);
        }
    }
    Ok(all)
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { section, title, protocol, .. } = self;
        write!(f, "{section}, {title} ({protocol:?})")
    }
}

impl Row {
    /// The bytes of the pieces that are sent one after the other, each when something came for the one before.
    pub(crate) fn pieces(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let text = self.send.replace("{host}", "Host: a.example\\r\\n");
        text.split("{wait}").map(unescape).collect()
    }

    /// What the node answers to a request that showed `mark`.
    pub(crate) fn answer(&self) -> anyhow::Result<Option<Vec<u8>>> {
        self.answer.as_deref().map(unescape).transpose()
    }
}
