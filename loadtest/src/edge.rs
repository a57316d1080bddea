//! `loadtest edge`: what the edge costs beside HAProxy and nginx, which do the same work and write their logs.
//!
//! The edge serves from a ledger, without a controller. Servers have one thread on one core, clients and nodes the other. Every
//! round measures each server once, in an order that turns round; ratios are taken within a round, and their median counts. The
//! edge stands in the table twice: what its two rows differ by is noise.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tabled::{builder::Builder, settings::Style};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use crate::figures::print;
use client::{Tally, Tls};
use server::{Entry, Names, OTHER_CORE, Program, Server, Workshop, fqdn};

mod client;
mod conformance;
mod feed;
mod latency;
mod memory;
mod own;
mod server;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Cell {
    /// HTTP/1.1, 1 KiB, 20 000 hosts by chance.
    Http1,
    /// HTTP/1.1, 1 KiB, 100 hosts.
    Http1Few,
    /// HTTP/1.1, 64 KiB, 100 hosts.
    Http1Large,
    /// HTTP/1.1 over TLS 1.3, 1 KiB, 100 hosts.
    Https1,
    /// HTTP/2 over TLS 1.3, 1 KiB, a host and 32 streams on each of 16 connections.
    Http2,
    /// HTTP/2 over TLS 1.3, 1 KiB, a host and one stream at once on each of 64 connections.
    Http2Single,
    /// HTTP/3, 1 KiB, a host and 32 streams on each of 16 connections.
    Http3,
    /// HTTP/3, 1 KiB, a host and one stream at once on each of 64 connections.
    Http3Single,
    /// HTTP/1.1, 1 KiB out of the cache, 100 hosts.
    Cached,
    /// Connection, full handshake with X25519, one request of 1 KiB, end.
    Full,
    /// The same with X25519MLKEM768.
    FullHybrid,
    /// The same with a resumed session, X25519.
    Resumed,
    /// From the start of the process to the first answer, and its memory.
    Start,
    /// Memory of a connection on which nothing happens.
    Idle,
    /// Answers' times at 70 % of the load, while the map stands still and while a thousand of its names change in a second.
    Latency,
    /// CPU for a change of the map, and the memory that `--changes` of them leave behind; takes minutes, and is only measured when it is asked for.
    Changes,
    /// What the edge, HAProxy and nginx make of each row of the table of conformance; only when it is asked for.
    Conformance,
}

impl Cell {
    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// It is no measurement of CPU for each request.
    fn is_apart(self) -> bool {
        matches!(self, Self::Start | Self::Idle | Self::Latency | Self::Changes | Self::Conformance)
    }

    fn size(self) -> usize {
        if self == Self::Http1Large { 64 * 1_024 } else { 1_024 }
    }

    fn hosts(self) -> usize {
        if self == Self::Http1 { 20_000 } else { 100 }
    }

    /// The host that is asked for.
    fn host(self, index: usize, names: usize) -> String {
        let index = index % self.hosts();
        if self == Self::Cached { server::cached(index % CACHED) } else { fqdn(index * 4 % names) }
    }

    fn tls(self) -> Option<Tls> {
        let tls = Tls::default();
        match self {
            Self::Https1 | Self::Full => Some(tls),
            Self::Http2 | Self::Http2Single => Some(Tls { http2: true, ..tls }),
            Self::Http3 | Self::Http3Single => Some(Tls { http3: true, ..tls }),
            Self::FullHybrid => Some(Tls { hybrid: true, ..tls }),
            Self::Resumed => Some(Tls { resumes: true, ..tls }),
            Self::Http1
            | Self::Http1Few
            | Self::Http1Large
            | Self::Cached
            | Self::Start
            | Self::Latency
            | Self::Changes
            | Self::Idle
            | Self::Conformance => None,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The edge's binary, built with `cargo build --profile dist -p hosting-edge`
    #[arg(long, default_value = "target/dist/hosting-edge")]
    edge: PathBuf,
    /// Another build of the edge to compare with
    #[arg(long)]
    before: Option<PathBuf>,
    /// What to measure; all of it without this
    #[arg(long, value_enum, value_delimiter = ',')]
    cells: Vec<Cell>,
    /// Rounds; each measures every server once
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a server is measured for in each round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Host names in the map
    #[arg(long, default_value_t = 1_000_000)]
    names: usize,
    /// A tenant's certificate for each name, where the development authority would sign otherwise; without HAProxy and nginx
    #[arg(long)]
    own_certificates: bool,
    /// A policy for each name, with something of everything that lets a request pass; without HAProxy and nginx
    #[arg(long)]
    policies: bool,
    /// Connections of clients
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Connections on which nothing happens, for `idle`
    #[arg(long, default_value_t = 8_000)]
    idle: usize,
    /// Changes of the map, for `changes`
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// The page whose table `conformance` writes, behind its last heading
    #[arg(long, default_value = "docs/conformance.md")]
    page: PathBuf,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    pin()?;
    let folder = std::env::temp_dir().join(format!("hosting-loadtest-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    measure(args, &folder)
        .await
        .with_context(|| format!("the servers' logs are left in {}", folder.display()))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn pin() -> anyhow::Result<()> {
    let done = Command::new("taskset")
        .args(["-acp", OTHER_CORE, &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()
        .context("cannot run taskset (package util-linux)")?;
    ensure!(done.success(), "taskset failed: the machine needs two cores");
    Ok(())
}

/// Figures of one cell: for each server its figure in each round.
struct Row {
    cell: String,
    unit: &'static str,
    /// In the order of the servers.
    figures: Vec<Vec<f64>>,
}

async fn measure(args: &Args, folder: &std::path::Path) -> anyhow::Result<()> {
    if args.cells.contains(&Cell::Conformance) {
        ensure!(args.cells.len() == 1, "conformance measures nothing: ask for it alone");
        return conformance::compare(&args.edge, &args.page, folder).await;
    }
    let all: Vec<Cell> = <Cell as clap::ValueEnum>::value_variants()
        .iter()
        .copied()
        .filter(|cell| !matches!(cell, Cell::Changes | Cell::Conformance))
        .collect();
    let cells = if args.cells.is_empty() { &all[..] } else { &args.cells[..] };
    let mut entries = vec![
        Entry::new("edge", Program::Edge(args.edge.clone()), 18_480),
        Entry::new("edge again", Program::Edge(args.edge.clone()), 18_490),
    ];
    if !args.own_certificates && !args.policies {
        entries.push(Entry::new("HAProxy", Program::Haproxy, 18_500));
        entries.push(Entry::new("nginx", Program::Nginx, 18_510));
    }
    if let Some(before) = &args.before {
        entries.push(Entry::new("edge before", Program::Edge(before.clone()), 18_520));
    }
    let mut rows = Vec::new();
    let rates: Vec<Cell> = cells.iter().copied().filter(|cell| !cell.is_apart()).collect();
    let (own_certificates, policies) = (args.own_certificates, args.policies);
    let names = Names { count: args.names, cached: CACHED, own_certificates, policies, others: &[] };
    if cells.contains(&Cell::Start) {
        let workshop = Workshop::new(&folder.join("start"), names, 4_000)?;
        rows.extend(memory::start(&workshop, &entries, args.rounds.min(3)).await?);
    }
    if cells.contains(&Cell::Idle) {
        let workshop = Workshop::new(&folder.join("idle"), Names::plain(1_000), args.idle + 1_000)?;
        rows.extend(memory::idle(&workshop, &entries, args.idle).await?);
    }
    if cells.contains(&Cell::Latency) {
        let folder = folder.join("latency");
        rows.extend(latency::latency(&folder, &entries, args.rounds, args.seconds).await?);
    }
    if cells.contains(&Cell::Changes) {
        rows.extend(latency::changes(&folder.join("changes"), &entries, args.changes).await?);
    }
    if !rates.is_empty() {
        let workshop = Workshop::new(&folder.join("rates"), names, 1_000)?;
        let servers =
            entries.iter().map(|entry| workshop.start(entry)).collect::<anyhow::Result<Vec<_>>>()?;
        for server in &servers {
            server.settle().await?;
        }
        for cell in rates {
            rows.push(rate(args, cell, &servers).await?);
        }
    }
    report(args, &entries, &rows);
    Ok(())
}

/// CPU for each request.
async fn rate(args: &Args, cell: Cell, servers: &[Server]) -> anyhow::Result<Row> {
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(
        (0..cell.hosts().min(args.names))
            .map(|index| client::http1_request(&cell.host(index, args.names), cell.size()))
            .collect(),
    );
    let mut figures = vec![Vec::new(); servers.len()];
    for round in 0..=args.rounds {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let server = &servers[index];
            let begun = server.cpu()?;
            let load = load(server, cell, &requests, args, (round * args.connections) as u64);
            let done = load.await.with_context(|| format!("{}, {}", server.entry.name, cell.name()))?;
            let cpu = server.cpu()?.saturating_sub(begun).as_secs_f64() * 1e6 / done as f64;
            // The first round fills caches and pools.
            if round > 0 {
                figures[index].push(cpu);
            }
        }
    }
    Ok(Row { cell: cell.name(), unit: "µs CPU", figures })
}

/// Asks for the time of a measurement and returns how many answers came. Any answer but the right one ends it.
async fn load(
    server: &Server,
    cell: Cell,
    requests: &Arc<Vec<Vec<u8>>>,
    args: &Args,
    seed: u64,
) -> anyhow::Result<u64> {
    let tally = Arc::new(Tally::default());
    let (http, https, size) = (server.entry.http(), server.entry.https(), cell.size());
    let connector: Option<TlsConnector> = cell.tls().map(Tls::connector).transpose()?;
    let connections = match cell {
        Cell::Http2 | Cell::Http3 | Cell::Full | Cell::FullHybrid | Cell::Resumed => args.connections / 4,
        _ => args.connections,
    };
    let mut clients = tokio::task::JoinSet::new();
    let quic = cell.tls().filter(|tls| tls.http3).map(client::quic).transpose()?;
    for index in 0..connections.max(1) {
        let (tally, requests, connector) = (Arc::clone(&tally), Arc::clone(requests), connector.clone());
        // Each connection of TLS has a host of its own.
        let host = cell.host(index, args.names);
        // No two connections ask for the same hosts in the same order.
        let seed = seed + index as u64 + 1;
        let quic = quic.clone();
        clients.spawn(async move {
            let over_tls = async |connector: Option<TlsConnector>| {
                let name = rustls::pki_types::ServerName::try_from(host.clone())?;
                let connector = connector.context("not over TLS")?;
                anyhow::Ok(connector.connect(name, client::connect(https).await?).await?)
            };
            match cell {
                Cell::Https1 => {
                    let own = Arc::new(vec![client::http1_request(&host, size)]);
                    client::http1(over_tls(connector).await?, own, tally, seed).await
                }
                Cell::Http2 => client::http2(over_tls(connector).await?, host, size, 32, tally).await,
                Cell::Http2Single => client::http2(over_tls(connector).await?, host, size, 1, tally).await,
                Cell::Http3 | Cell::Http3Single => {
                    let streams = if cell == Cell::Http3 { 32 } else { 1 };
                    let quic = quic.context("not over QUIC")?;
                    client::http3(quic, https, host, size, streams, tally).await
                }
                Cell::Full | Cell::FullHybrid | Cell::Resumed => {
                    let tls = cell.tls().context("not over TLS")?;
                    client::handshakes(https, tls, host, size, tally).await
                }
                _ => client::http1(client::connect(http).await?, requests, tally, seed).await,
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(tally.done.load(Ordering::Relaxed).max(1))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn report(args: &Args, entries: &[Entry], rows: &[Row]) {
    let mut table = Builder::default();
    table.push_record(["cell", "server", "median", "lowest", "highest", "unit", "of HAProxy", "of nginx"]);
    let mut lines = Vec::new();
    for row in rows {
        let ratio = |index: usize, peer: &str| {
            let peer = entries.iter().position(|entry| entry.name == peer)?;
            let pairs = row.figures[index].iter().zip(&row.figures[peer]);
            let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
            (!ratios.is_empty()).then(|| median(ratios))
        };
        for (index, entry) in entries.iter().enumerate() {
            let figures = &row.figures[index];
            if figures.is_empty() {
                continue;
            }
            let (low, high) =
                figures.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| (low.min(*one), high.max(*one)));
            let (haproxy, nginx) = (ratio(index, "HAProxy"), ratio(index, "nginx"));
            let cell = |value: f64| format!("{value:.2}");
            let maybe = |value: Option<f64>| value.map(cell).unwrap_or_default();
            table.push_record([
                row.cell.clone(),
                entry.name.to_owned(),
                cell(median(figures.clone())),
                cell(low),
                cell(high),
                row.unit.to_owned(),
                maybe(haproxy),
                maybe(nginx),
            ]);
            lines.push(json!({
                "cell": row.cell, "server": entry.name, "unit": row.unit, "median": median(figures.clone()),
                "low": low, "high": high, "of_haproxy": haproxy, "of_nginx": nginx,
            }));
        }
    }
    print(&table.build().with(Style::blank()).to_string());
    let by_cell: BTreeMap<&str, Value> =
        rows.iter().map(|row| (row.cell.as_str(), json!(row.figures.first().map_or(0, Vec::len)))).collect();
    let object = json!({
        "benchmark": "edge", "connections": args.connections, "seconds": args.seconds, "names": args.names,
        "rounds": by_cell, "figures": lines,
    });
    print(&object.to_string());
}

/// Names whose pages are stored.
const CACHED: usize = 100;

/// The field by which an edge sees that an answer is that of its request.
const ECHO: &[u8] = b"\r\nx-hosting-request: ";

/// Says its address, and answers `GET /N` with N bytes over connections that it keeps.
pub(crate) async fn node() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A client that went away asks no more.
            let _ = answer(stream).await;
        });
    }
    Ok(())
}

async fn answer(mut stream: tokio::net::TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut filled, mut out) = ([0; 4_096], 0, Vec::new());
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "ended");
        filled += read;
        let request = &buffer[..filled];
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let size =
            request.iter().skip_while(|byte| **byte != b'/').skip(1).take_while(|byte| byte.is_ascii_digit());
        let size = size.fold(0, |size, digit| size * 10 + usize::from(digit - b'0'));
        out.clear();
        write!(out, "HTTP/1.1 200 OK\r\nServer: node\r\nContent-Type: text/html\r\nContent-Length: {size}")?;
        if let Some(at) = request.windows(ECHO.len()).position(|window| window.eq_ignore_ascii_case(ECHO)) {
            let line = &request[at..];
            let end = line[2..].iter().position(|byte| *byte == b'\r').map_or(line.len(), |end| end + 2);
            out.extend_from_slice(&line[..end]);
        }
        out.extend_from_slice(b"\r\n\r\n");
        out.resize(out.len() + size, b'x');
        filled = 0;
        stream.write_all(&out).await?;
    }
}
