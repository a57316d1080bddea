//! `hostctl watch`: what becomes of resources, as the API tells it (server-sent events).

use std::time::Duration;

use serde_json::Value;

use crate::api::{Api, ApiError, encode};
use crate::args::WatchArgs;
use crate::format::{self, Format};
use crate::{kinds, output, resources};

/// A stream shows every 15 seconds that it stands.
const SILENCE: Duration = Duration::from_secs(60);
/// Before a connection is made again; each time twice as long, up to `LONGEST`.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Longest event that is read, in bytes.
const MAX_BLOCK: usize = 1 << 20;

/// One block of the stream.
#[derive(Debug, Default, PartialEq)]
struct Block {
    name: String,
    /// Where to go on from; `None`: as before.
    id: Option<String>,
    data: String,
}

impl Block {
    /// Fields of a block (HTML Living Standard §9.2.6); comments say nothing.
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
}

/// Takes whole blocks out of what has arrived.
fn blocks(arrived: &mut Vec<u8>) -> Vec<Block> {
    let mut found = Vec::new();
    while let Some(end) = arrived.windows(2).position(|two| two == b"\n\n") {
        let rest = arrived.split_off(end + 2);
        found.push(Block::parse(&String::from_utf8_lossy(arrived)));
        *arrived = rest;
    }
    found
}

pub(crate) async fn run(api: &Api, args: &WatchArgs, format: Format) -> anyhow::Result<()> {
    let mut filters = Vec::new();
    if let Some(kinds) = &args.kind {
        filters.push(format!("kind={}", encode(&kinds.replace('-', "_"))));
    }
    if let Some(tenant) = &args.tenant {
        filters.push(format!("tenant_id={}", encode(&resources::tenant_id(api, tenant).await?)));
    }
    if let Some(brand) = &args.brand {
        filters.push(format!("brand_id={}", encode(brand)));
    }
    let path = format!("/events?{}", filters.join("&"));
    let mut last = args.since.map(|revision| revision.to_string()).unwrap_or_default();
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut pause = PAUSE;
    let mut was_connected = false;
    while left > 0 {
        match api.events(&path, &last).await {
            Ok(stream) => {
                (pause, was_connected) = (PAUSE, true);
                read(stream, &mut last, &mut left, format).await?;
            }
            // The first time it is wrong usage, or nobody is there; later on the controller starts again.
            Err(error) if !was_connected || !is_passing(&error) => return Err(error.into()),
            Err(_) => pause = (pause * 2).min(LONGEST),
        }
        if left > 0 {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } => true,
        ApiError::Answer { status, .. } => matches!(status, 429 | 502..=504),
        ApiError::Stranger { .. } | ApiError::NoSuch(_) => false,
    }
}

/// Reads a stream to its end, or until enough events were shown. An error: it cannot be gone on with.
async fn read(
    mut stream: reqwest::Response,
    last: &mut String,
    left: &mut u64,
    format: Format,
) -> anyhow::Result<()> {
    let mut arrived = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE, stream.chunk()).await {
        arrived.extend_from_slice(&chunk);
        for block in blocks(&mut arrived) {
            let data: Value = serde_json::from_str(&block.data).unwrap_or_default();
            match block.name.as_str() {
                "" => {}
                "resource" => {
                    show(&data, format);
                    *left = left.saturating_sub(1);
                }
                "end" => anyhow::bail!("the stream ended: {}", output::cell(&data["reason"])),
                name => output::note(format!("{name}: {}", output::cell(&data["reason"]))),
            }
            if let Some(id) = block.id {
                *last = id;
            }
            if *left == 0 {
                return Ok(());
            }
        }
        anyhow::ensure!(arrived.len() <= MAX_BLOCK, "an event is larger than {MAX_BLOCK} bytes");
    }
    Ok(())
}

fn show(event: &Value, format: Format) {
    match format {
        Format::Json => return output::line(event),
        Format::Yaml => return output::text(&format!("---\n{}", format::yaml(event))),
        Format::Name => {
            let kind = output::cell(&event["kind"]).replace('_', "-");
            return output::line(kinds::name(&kind, &output::cell(&event["id"])));
        }
        Format::Table | Format::Wide => {}
    }
    let cells = ["revision", "change", "kind", "id", "status"].map(|field| output::cell(&event[field]));
    let [revision, change, kind, id, status] = cells;
    output::line(format!("{revision:>8}  {change:<8}  {kind:<12}  {id:<38}  {status}"));
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
