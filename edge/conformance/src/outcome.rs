//! What came of a row.

use crate::row::{End, Protocol, Row};

/// What a client got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `200`, `1: 200`, `goaway PROTOCOL_ERROR`.
    pub(crate) word: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What was seen of a row, on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The messages that reached the node.
    pub node: Vec<String>,
    pub(crate) answers: Vec<Answer>,
    /// How the client's connection stands.
    pub end: End,
    /// What other clients got that was not theirs.
    pub leaked: Vec<String>,
}

impl Outcome {
    /// What the client got, with the bodies that the row asks for.
    #[must_use]
    pub fn client(&self, row: &Row) -> Vec<String> {
        let with_body = |(index, answer): (usize, &Answer)| {
            let expected = row.client.get(index).or(row.client.last());
            let bare = expected.is_none_or(|expected| expected.trim() == answer.word);
            if bare || answer.body.is_empty() {
                answer.word.clone()
            } else {
                format!("{} {}", answer.word, answer.body)
            }
        };
        self.answers.iter().enumerate().map(with_body).collect()
    }

    /// What the client got in a few words; bodies only where they may be the node's.
    #[must_use]
    pub fn summary(&self, row: &Row) -> Vec<String> {
        let of = |(index, answer): (usize, &Answer)| {
            let status = answer.word.rsplit(' ').next().unwrap_or_default();
            let asked = row.client.get(index).is_some_and(|expected| expected.trim() != answer.word);
            if answer.body.is_empty() || status.starts_with(['4', '5']) || !(asked || row.answer.is_some()) {
                answer.word.clone()
            } else {
                format!("{} {}", answer.word, answer.body)
            }
        };
        self.answers.iter().enumerate().map(of).collect()
    }

    /// What is not as the row has it.
    #[must_use]
    pub fn problems(&self, row: &Row) -> Vec<String> {
        let mut problems = Vec::new();
        // Whether a stream of HTTP/3 ends with its fields is known when its end is there: a body of nothing may be chunks without any.
        let plain = |messages: &[String]| -> Vec<String> {
            let without = |message: &String| message.strip_suffix(" | chunked").unwrap_or(message).to_owned();
            let is_http3 = row.protocol == Protocol::Http3;
            if is_http3 { messages.iter().map(without).collect() } else { messages.to_vec() }
        };
        if !reached(&plain(&row.node), &plain(&self.node)) {
            problems.push(format!("the node may get {:?}, and got {:?}", row.node, self.node));
        }
        let client = self.client(row);
        if client != row.client {
            problems.push(format!("the client must see {:?}, and saw {client:?}", row.client));
        }
        if self.end != row.end {
            problems.push(format!("the connection must be {:?}, and is {:?}", row.end, self.end));
        }
        for wanted in &row.has {
            let fields = self.answers.last().map(|answer| &answer.fields[..]).unwrap_or_default();
            let found = |wanted: &str| {
                fields.iter().any(|(name, value)| match wanted.split_once(": ") {
                    Some((a, b)) => name == a && value == b,
                    None => name == wanted,
                })
            };
            let held = match wanted.strip_prefix('!') {
                Some(unwanted) => !found(unwanted),
                None => found(wanted),
            };
            if !held {
                problems.push(format!("{wanted:?} is not so in {fields:?}"));
            }
        }
        // Without an answer of the row's own, a node says what it was asked: each client hears of its own request.
        if row.answer.is_none() {
            let mut asked = self.node.iter().filter(|message| !message.starts_with('~'));
            for answer in self.answers.iter().filter(|answer| answer.word.ends_with("200")) {
                let own = asked.next().map(|message| message.split(" | ").next().unwrap_or_default());
                let is_head = own.is_some_and(|own| own.starts_with("HEAD "));
                if own != Some(&answer.body) && !(is_head && answer.body.is_empty()) {
                    problems.push(format!("{:?} is the answer to {own:?}", answer.body));
                }
            }
        }
        problems.extend(self.leaked.iter().map(|got| format!("another client got {got}")));
        problems
    }
}

/// Whether what reached a node is what may.
fn reached(may: &[String], got: &[String]) -> bool {
    let mut got = got.iter().peekable();
    for message in may {
        let matches = match message.strip_prefix('~') {
            Some(begun) => match got.peek() {
                Some(next) => next
                    .strip_prefix('~')
                    .is_some_and(|next| begun.starts_with(next) || next.starts_with(begun)),
                None => continue,
            },
            None => got.peek() == Some(&message),
        };
        if !matches {
            return false;
        }
        got.next();
    }
    got.next().is_none()
}
