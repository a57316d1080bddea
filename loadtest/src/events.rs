//! `loadtest events`: what it costs the controller to tell many watchers of each change, and how soon the last of them knows.
//!
//! Regions are made without watchers and with them; the difference in the controller's CPU is what telling costs. Run it on a data folder that
//! can be thrown away: the regions stay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tabled::{builder::Builder, settings::Style};

use crate::figures::{Figures, print};
use crate::platform::Platform;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of a running `hostctl up`
    #[arg(long, default_value = "var")]
    data: PathBuf,
    /// Streams of events at once; a key may have 2 048
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Changes that all of them are told of
    #[arg(long, default_value_t = 300)]
    events: usize,
    /// Between two changes
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
}

/// When each event arrived at one watcher, by the resource's id.
type Arrivals = Vec<(String, Instant)>;

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let platform = Platform::open(&args.data).await?;
    // The first stream makes the key known; many that come with an unknown one at once would be taken for guesses.
    drop(platform.api.stream("/events").await?);
    let alone = change(&platform, args, "alone").await?;
    let memory = platform.memory("controller")?;
    let opened = Instant::now();
    let mut streams = Vec::new();
    for _ in 0..args.watchers {
        let mut stream = platform.api.stream("/events?kind=region").await?;
        // Its place: from here on it is told of everything.
        stream.chunk().await?.context("a stream ended")?;
        streams.push(stream);
    }
    let opening = opened.elapsed();
    let each_holds = platform.memory("controller")?.saturating_sub(memory) / args.watchers.max(1) as u64;
    let listening = streams.into_iter().map(|stream| tokio::spawn(listen(stream, args.events)));
    let listening: Vec<_> = listening.collect();
    let told = change(&platform, args, "told").await?;
    let arrivals = try_join_all(listening).await?.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let cpu = platform.cpu("controller")?.saturating_sub(told.cpu_before);

    let (mut each, mut last) = (Figures::default(), BTreeMap::new());
    for (id, at) in arrivals.into_iter().flatten() {
        let Some(asked) = told.asked.get(&id) else { continue };
        let took = at.saturating_duration_since(*asked);
        each.add(took);
        let latest: &mut Duration = last.entry(id).or_default();
        *latest = (*latest).max(took);
    }
    let mut all = Figures::default();
    last.into_values().for_each(|time| all.add(time));
    let more = cpu.saturating_sub(alone.cpu);
    let per_event_per_watcher = more.as_secs_f64() * 1e6 / (args.events.max(1) * args.watchers.max(1)) as f64;
    let mut table = Builder::default();
    table.push_record(["from the request to", "count", "p50 ms", "p99 ms", "max ms"]);
    table.push_record(each.row("a watcher"));
    table.push_record(all.row("the last watcher"));
    print(&table.build().with(Style::blank()).to_string());
    print(&format!(
        "{} watchers (opened in {:.1} s, {each_holds} bytes of the controller each): {per_event_per_watcher:.2} µs of the controller's CPU \
         per event per watcher; a change costs {:.2} ms without watchers and {:.2} ms with them",
        args.watchers,
        opening.as_secs_f64(),
        alone.cpu.as_secs_f64() * 1e3 / args.events.max(1) as f64,
        cpu.as_secs_f64() * 1e3 / args.events.max(1) as f64,
    ));
    let object = json!({
        "benchmark": "events",
        "watchers": args.watchers,
        "events": args.events,
        "cpu_us_per_event_per_watcher": per_event_per_watcher,
        "bytes_per_watcher": each_holds,
        "watcher": each.json(),
        "last_watcher": all.json(),
    });
    print(&object.to_string());
    Ok(())
}

/// What making the changes took.
struct Made {
    /// When each was asked for, by the id of what it made.
    asked: BTreeMap<String, Instant>,
    cpu_before: Duration,
    cpu: Duration,
}

async fn change(platform: &Platform, args: &Args, name: &str) -> anyhow::Result<Made> {
    let (mut asked, run) = (BTreeMap::new(), std::process::id());
    let cpu_before = platform.cpu("controller")?;
    for n in 0..args.events {
        let begun = Instant::now();
        let id = platform.api.create("/regions", json!({"name": format!("{name}-{run}-{n}")})).await?;
        asked.insert(id, begun);
        tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
    }
    let cpu = platform.cpu("controller")?.saturating_sub(cpu_before);
    Ok(Made { asked, cpu_before, cpu })
}

/// Reads a stream until it told of so many changes.
async fn listen(mut stream: reqwest::Response, events: usize) -> anyhow::Result<Arrivals> {
    let (mut arrivals, mut rest) = (Arrivals::new(), String::new());
    while arrivals.len() < events {
        let chunk = stream.chunk().await?.context("a stream ended")?;
        let now = Instant::now();
        rest.push_str(std::str::from_utf8(&chunk)?);
        while let Some((block, behind)) = rest.split_once("\n\n") {
            let data = block.lines().find_map(|line| line.strip_prefix("data: "));
            let data: Value = data.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            anyhow::ensure!(!block.contains("event: cut"), "a watcher was too slow: {data}");
            if let Some(id) = data["id"].as_str().filter(|_| data["change"] == "created") {
                arrivals.push((id.to_owned(), now));
            }
            rest = behind.to_owned();
        }
    }
    Ok(arrivals)
}
