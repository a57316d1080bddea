//! How long answers take at a rate that leaves room, while the map stands still and while it changes.
//!
//! Requests are due at even distances, whatever became of those before, and are timed from when they were due. Each connection is a thread that
//! sleeps until its next request: the clock of an async runtime ticks once a millisecond.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hosting_intent::{Bytes, Key};

use super::Row;
use super::client;
use super::feed::Feed;
use super::server::{Entry, Program, Workshop, fqdn, haproxy_commands, records, route, start_node};

/// Connections, each of them a thread.
const CONNECTIONS: usize = 32;
/// Changes of the map in a second, and of how many names.
const CHANGES: u64 = 1_000;
/// The part of what the edge does at most.
const LOAD: f64 = 0.7;
/// Names in the map.
const NAMES: usize = 20_000;

/// What a server's answers took.
struct Took(Vec<Duration>);

impl Took {
    /// In microseconds.
    fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default().as_secs_f64() * 1e6
    }
}

/// Asks `rate` times a second; 0: as often as there are answers.
fn ask(address: SocketAddr, rate: f64, time: Duration) -> anyhow::Result<Took> {
    let begun = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            std::thread::spawn(move || {
                // A sleep ends when it is due, not within 50 µs of it.
                let _ = nix::sys::prctl::set_timerslack(1);
                ask_on(address, index, rate, begun, time)
            })
        })
        .collect();
    let mut took = Vec::new();
    for thread in threads {
        took.extend(thread.join().map_err(|_| anyhow::anyhow!("a client died"))??);
    }
    took.sort();
    Ok(Took(took))
}

fn ask_on(
    address: SocketAddr,
    index: usize,
    rate: f64,
    begun: Instant,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut took, mut buffer) = (Vec::new(), vec![0; 16 * 1_024]);
    for turn in 0_usize.. {
        let due = if rate > 0.0 {
            begun + Duration::from_secs_f64((turn * CONNECTIONS + index) as f64 / rate)
        } else {
            Instant::now()
        };
        if due.saturating_duration_since(begun) > time {
            break;
        }
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        let host = fqdn((turn * CONNECTIONS + index) * 7 % NAMES);
        tcp.write_all(&client::http1_request(&host, 1_024))?;
        let (mut filled, mut head) = (0, None);
        while head.is_none_or(|end: usize| filled < end + 1_024) {
            let read = tcp.read(&mut buffer[filled..])?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            head = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        }
        ensure!(buffer.starts_with(b"HTTP/1.1 200"), "the answer is no 200");
        took.push(due.elapsed());
    }
    Ok(took)
}

/// The `turn`th change of a map: a name, and the webroot to which it leads from then on. Each name gets another one each time.
fn changed(turn: u64) -> (String, String) {
    let name = turn * 7_919 % NAMES as u64;
    (fqdn(usize::try_from(name).unwrap_or_default()), format!("web_{}_{name}", turn / NAMES as u64 % 2))
}

fn change(turn: u64) -> (Key, Bytes) {
    let (name, webroot) = changed(turn);
    route(name, webroot, 0)
}

/// Changes the map of a server until it is told to stop.
fn keep_changing(
    entry: &Entry,
    workshop: &Workshop,
    feed: &Arc<Feed>,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<anyhow::Result<()>> {
    let (is_edge, feed) = (matches!(entry.program, Program::Edge(_)), Arc::clone(feed));
    let socket = workshop.haproxy_socket();
    std::thread::spawn(move || {
        let (begun, mut turn) = (Instant::now(), 0_u64);
        while !stop.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * CHANGES as f64) as u64;
            if is_edge {
                (turn..due).for_each(|turn| feed.change(vec![change(turn)]));
            } else {
                haproxy_commands(&socket, (turn..due).map(changed))?;
            }
            turn = due;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}

/// `latency`: half, 99 and 99.9 percent of the answers, at 70 % of what the edge does at most.
pub(super) async fn latency(
    folder: &std::path::Path,
    entries: &[Entry],
    rounds: usize,
    seconds: u64,
) -> anyhow::Result<Vec<Row>> {
    let (node, address) = start_node()?;
    let workshop = Workshop::changing(folder, NAMES)?;
    // Each edge has a feed of its own: those that are not measured have nothing to apply.
    let mut servers = Vec::new();
    for entry in entries {
        let feed = Arc::new(Feed::start(records(NAMES, address)).await?);
        let server = workshop.start_joined(entry, address, &feed).await?;
        if matches!(entry.program, Program::Edge(_)) {
            feed.applied().await?;
        }
        servers.push((server, feed));
    }
    let time = Duration::from_secs(seconds);
    let blocking = async |address, rate, time| {
        tokio::task::spawn_blocking(move || ask(address, rate, time)).await.context("a client died")?
    };
    let (first, _) = servers.first().context("no server")?;
    blocking(first.entry.http(), 0.0, Duration::from_secs(1)).await?;
    let parts = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
    let mut rows: Vec<Row> = ["", "-changes"]
        .iter()
        .flat_map(|suffix| parts.map(|(part, _)| format!("latency-{part}{suffix}")))
        .map(|cell| Row { cell, unit: "µs", figures: vec![Vec::new(); servers.len()] })
        .collect();
    for _ in 0..rounds {
        // What the edge does at most, with these clients on the other core, and whatever else the machine does at the moment.
        let most = blocking(first.entry.http(), 0.0, time).await?.0.len() as f64 / time.as_secs_f64();
        for (index, (server, feed)) in servers.iter().enumerate() {
            for changes in [false, true] {
                let can_change = !matches!(server.entry.program, Program::Nginx);
                if changes && !can_change {
                    continue;
                }
                let stop = Arc::new(AtomicBool::new(false));
                let changing =
                    changes.then(|| keep_changing(&server.entry, &workshop, feed, Arc::clone(&stop)));
                let took = blocking(server.entry.http(), most * LOAD, time).await?;
                stop.store(true, Ordering::Relaxed);
                if let Some(changing) = changing {
                    changing.join().map_err(|_| anyhow::anyhow!("the changes died"))??;
                }
                for (row, (_, part)) in rows[usize::from(changes) * parts.len()..].iter_mut().zip(parts) {
                    row.figures[index].push(took.quantile(part));
                }
            }
        }
    }
    drop((servers, node));
    Ok(rows)
}

/// `changes`: what a change costs, and how much memory a million of them leave behind.
pub(super) async fn changes(
    folder: &std::path::Path,
    entries: &[Entry],
    count: u64,
) -> anyhow::Result<Vec<Row>> {
    let (node, address) = start_node()?;
    let row =
        |cell: &str, unit| Row { cell: cell.to_owned(), unit, figures: vec![Vec::new(); entries.len()] };
    let mut rows = vec![row("change", "µs CPU"), row("changes-growth", "% RSS")];
    for (index, entry) in entries.iter().enumerate() {
        if matches!(entry.program, Program::Nginx) {
            continue;
        }
        let feed = Arc::new(Feed::start(records(NAMES, address)).await?);
        let workshop = Workshop::changing(&folder.join(entry.name.replace(' ', "-")), NAMES)?;
        let server = workshop.start_joined(entry, address, &feed).await?;
        let is_edge = matches!(entry.program, Program::Edge(_));
        let apply = async |from: u64, to: u64| {
            for begin in (from..to).step_by(1_000) {
                let turns = begin..(begin + 1_000).min(to);
                if is_edge {
                    turns.for_each(|turn| feed.change(vec![change(turn)]));
                    feed.applied().await?;
                } else {
                    haproxy_commands(&workshop.haproxy_socket(), turns.map(changed))?;
                }
            }
            anyhow::Ok(())
        };
        // What the first changes use up is there from then on.
        apply(0, count / 10).await?;
        server.settle().await?;
        let (memory, cpu) = (server.memory()?.now, server.cpu()?);
        apply(count / 10, count + count / 10).await?;
        server.settle().await?;
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / count.max(1) as f64;
        let now = server.memory()?.now;
        rows[0].figures[index].push(cpu);
        rows[1].figures[index].push((now as f64 / memory as f64 - 1.0) * 100.0);
    }
    drop(node);
    Ok(rows)
}
