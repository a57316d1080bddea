//! Server-sent events (HTML Living Standard §9.2.6), block by block; a stream that ends is opened again.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use crate::api::Api;

/// A stream shows every 15 seconds that it stands.
const SILENCE: Duration = Duration::from_secs(60);
/// Before a stream is opened again; each time twice as long, up to `LONGEST`.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Longest event that is read, in bytes.
const MAX_BLOCK: usize = 1 << 20;

/// One block of a stream.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Block {
    /// Empty: it is a sign of life.
    pub(crate) name: String,
    /// Where to go on from; `None`: as before.
    id: Option<String>,
    data: String,
}

impl Block {
    /// What its lines say; comments say nothing.
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut block.name),
                "id" => block.id = Some(value.to_owned()),
                "data" => {
                    if !block.data.is_empty() {
                        block.data.push('\n');
                    }
                    block.data.push_str(value);
                }
                _ => {}
            }
        }
        block
    }

    /// Its data as JSON; null if it is something else.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

/// Takes whole blocks out of what has arrived.
fn blocks(arrived: &mut Vec<u8>) -> VecDeque<Block> {
    let mut found = VecDeque::new();
    while let Some(end) = arrived.windows(2).position(|two| two == b"\n\n") {
        let rest = arrived.split_off(end + 2);
        found.push_back(Block::parse(&String::from_utf8_lossy(arrived)));
        *arrived = rest;
    }
    found
}

/// A stream, which goes on behind its last event when a connection ends.
pub(crate) struct EventStream<'a> {
    api: &'a Api,
    path: String,
    /// Id of the last event; empty: from now on.
    last: String,
    answer: Option<reqwest::Response>,
    was_connected: bool,
    arrived: Vec<u8>,
    found: VecDeque<Block>,
}

impl<'a> EventStream<'a> {
    /// Nothing is connected yet.
    pub(crate) const fn new(api: &'a Api, path: String, last: String) -> Self {
        Self {
            api,
            path,
            last,
            answer: None,
            was_connected: false,
            arrived: Vec::new(),
            found: VecDeque::new(),
        }
    }

    /// The next block.
    ///
    /// # Errors
    /// It cannot be opened the first time, later on will not be, or a block is too large.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Block> {
        let block = loop {
            if let Some(block) = self.found.pop_front() {
                break block;
            }
            let Some(answer) = &mut self.answer else {
                self.open().await?;
                continue;
            };
            match tokio::time::timeout(SILENCE, answer.chunk()).await {
                Ok(Ok(Some(chunk))) => self.take(&chunk)?,
                _ => {
                    (self.answer, self.arrived) = (None, Vec::new());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        if let Some(id) = &block.id {
            self.last.clone_from(id);
        }
        Ok(block)
    }

    fn take(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        self.arrived.extend_from_slice(chunk);
        self.found = blocks(&mut self.arrived);
        anyhow::ensure!(self.arrived.len() <= MAX_BLOCK, "an event is larger than {MAX_BLOCK} bytes");
        Ok(())
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        let mut pause = PAUSE;
        loop {
            match self.api.events(&self.path, &self.last).await {
                Ok(answer) => {
                    (self.answer, self.was_connected) = (Some(answer), true);
                    return Ok(());
                }
                // The first time it is wrong usage, or nobody is there; later on the controller starts again.
                Err(error) if !self.was_connected || !error.is_passing() => return Err(error.into()),
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_whole() {
        let mut arrived = b": alive\nid: 7\n\nid: 8\nevent: resource\ndata: {\"a\":1}\n\nevent: res".to_vec();
        let found = blocks(&mut arrived);
        assert_eq!(found[0], Block { id: Some("7".into()), ..Block::default() });
        let event = Block { name: "resource".into(), id: Some("8".into()), data: "{\"a\":1}".into() };
        assert_eq!((found.len(), &found[1]), (2, &event));
        arrived.extend_from_slice(b"ource\ndata: 1\ndata:2\n\n");
        assert_eq!(blocks(&mut arrived)[0], Block { name: "resource".into(), id: None, data: "1\n2".into() });
        assert!(arrived.is_empty());
    }
}
