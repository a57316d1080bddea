//! `loadtest edge`: CPU of the edge for each plain request beside HAProxy, which does the same work.
//!
//! The edge serves from a ledger, without a controller. Servers have one thread on one core, clients and the node the other. Every
//! round measures each server once, in an order that turns round; ratios are taken within a round, and their median counts. The
//! edge stands in the table twice: what its two rows differ by is noise.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hosting_intent::message::{PoolNode, Route, ShardPool};
use hosting_intent::{Audience, Cause, Digest, Key, Kind};
use hosting_ledger::{Journal, Ledger, LedgerBatch, Meta, Record, Stored};
use prost::Message;
use serde_json::json;
use tabled::{builder::Builder, settings::Style};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::figures::print;

mod http2;

/// The core of the server that is measured, and that of everything else.
const SERVER_CORE: &str = "0";
const OTHER_CORE: &str = "1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The edge's binary, built with `cargo build --profile dist -p hosting-edge`
    #[arg(long, default_value = "target/dist/hosting-edge")]
    edge: PathBuf,
    /// Another build of the edge to compare with
    #[arg(long)]
    before: Option<PathBuf>,
    /// Rounds; each measures every server once
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a server is measured for in each round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Host names in the map
    #[arg(long, default_value_t = 100_000)]
    names: usize,
    /// Host names that are asked for, one after the other by chance
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 20_000])]
    hosts: Vec<usize>,
    /// Connections of clients
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes of a response
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// HTTP/2 over TLS, with the fields of a browser; each connection asks for one host
    #[arg(long)]
    http2: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    size: usize,
}

/// A process that ends with what it is part of.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; the folder goes in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Server {
    name: &'static str,
    address: SocketAddr,
    /// The same over TLS.
    https: SocketAddr,
    process: Process,
    _node: Process,
}

impl Server {
    fn start(
        name: &'static str,
        port: u16,
        mut command: Vec<String>,
        log: &Path,
        node: Process,
    ) -> anyhow::Result<Self> {
        command.splice(0..0, ["taskset".to_owned(), "-c".to_owned(), SERVER_CORE.to_owned()]);
        let log = fs::File::create(log.join(format!("{name}.log")))?;
        let child = Command::new(&command[0])
            .args(&command[1..])
            // So that file handles are left for idle connections to the node.
            .env("HOSTING_EDGE_MAX_CONNECTIONS", "1000")
            .env("HOSTING_EDGE_MAX_CONNECTIONS_PER_NETWORK", "1000")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command.join(" ")))?;
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let server =
            Self { name, address: at(port), https: at(port + 1), process: Process(child), _node: node };
        let until = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(server.address).is_err() {
            ensure!(Instant::now() < until, "{name} does not listen; its command: {}", command.join(" "));
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// CPU time of all its threads.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.0.id()))? {
            // A thread may end between the two reads.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Waits until the server has nothing of its own to do.
    fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..240 {
            let before = self.cpu()?;
            std::thread::sleep(Duration::from_millis(500));
            if self.cpu()?.saturating_sub(before) < Duration::from_millis(5) {
                return Ok(());
            }
        }
        bail!("{} is never idle", self.name)
    }
}

fn fqdn(index: usize) -> String {
    format!("www.site-{index}.example.net")
}

fn webroot(index: usize) -> String {
    format!("web_{index:010}")
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    pin()?;
    let folder = std::env::temp_dir().join(format!("hosting-loadtest-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = measure(args, &folder).await;
    fs::remove_dir_all(&folder)?;
    outcome
}

fn pin() -> anyhow::Result<()> {
    let done = Command::new("taskset")
        .args(["-cp", OTHER_CORE, &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()
        .context("cannot run taskset (package util-linux)")?;
    ensure!(done.success(), "taskset failed: the machine needs two cores");
    Ok(())
}

async fn measure(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let mut servers = Vec::new();
    let builds =
        [("edge", Some(&args.edge)), ("edge again", Some(&args.edge)), ("edge before", args.before.as_ref())];
    for (port, (name, binary)) in (18_480..).step_by(10).zip(builds) {
        let Some(binary) = binary else { continue };
        let data = folder.join(name.replace(' ', "-"));
        let (process, node) = start_node(args.size)?;
        ledger(&data, args.names, node)?;
        let listen = |flag: &str, port: u16| format!("--{flag}=127.0.0.1:{port}");
        let command = vec![
            binary.display().to_string(),
            format!("--data-dir={}", data.display()),
            listen("http-listen", port),
            listen("https-listen", port + 1),
            listen("admin-listen", port + 2),
            "--controller=127.0.0.1:1".to_owned(),
            "--threads=1".to_owned(),
        ];
        servers.push(Server::start(name, port, command, folder, process)?);
    }
    servers.push(haproxy(args, folder)?);
    for server in &servers {
        server.settle()?;
    }
    let mut rows: BTreeMap<usize, Vec<Vec<f64>>> = BTreeMap::new();
    for hosts in &args.hosts {
        let requests: Arc<Vec<Vec<u8>>> = Arc::new(
            (0..(*hosts).min(args.names))
                .map(|index| {
                    format!(
                        "GET /x HTTP/1.1\r\nHost: {}\r\nUser-Agent: loadtest\r\nAccept: */*\r\n\r\n",
                        fqdn(index * 4 % args.names)
                    )
                    .into_bytes()
                })
                .collect(),
        );
        let rounds = rows.entry(*hosts).or_default();
        for round in 0..=args.rounds {
            let mut figures = vec![0.0; servers.len()];
            let mut order: Vec<usize> = (0..servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let server = &servers[index];
                let begun = server.cpu()?;
                let done = load(server, *hosts, &requests, args).await?;
                figures[index] = server.cpu()?.saturating_sub(begun).as_secs_f64() * 1e6 / done as f64;
            }
            // The first round fills caches and pools.
            if round > 0 {
                rounds.push(figures);
            }
        }
    }
    report(args, &servers, &rows);
    Ok(())
}

fn report(args: &Args, servers: &[Server], rows: &BTreeMap<usize, Vec<Vec<f64>>>) {
    let mut table = Builder::default();
    table.push_record(["hosts", "server", "CPU µs a request", "lowest", "highest", "of HAProxy"]);
    let mut lines = Vec::new();
    for (hosts, rounds) in rows {
        for (index, server) in servers.iter().enumerate() {
            let mut cpu: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
            let mut ratios: Vec<f64> =
                rounds.iter().map(|round| round[index] / round[servers.len() - 1]).collect();
            cpu.sort_by(f64::total_cmp);
            ratios.sort_by(f64::total_cmp);
            let (median, ratio) = (cpu[cpu.len() / 2], ratios[ratios.len() / 2]);
            let cell = |value: f64| format!("{value:.2}");
            table.push_record([
                hosts.to_string(),
                server.name.to_owned(),
                cell(median),
                cell(cpu[0]),
                cell(cpu[cpu.len() - 1]),
                cell(ratio),
            ]);
            lines.push(json!({"hosts": hosts, "server": server.name, "cpu_us": median, "low": cpu[0], "high": cpu[cpu.len() - 1], "ratio": ratio}));
        }
    }
    // A closed pipe is the reader's choice.
    print(&table.build().with(Style::blank()).to_string());
    let object = json!({"benchmark": "edge", "http2": args.http2, "size": args.size, "connections": args.connections, "rounds": args.rounds, "seconds": args.seconds, "names": args.names, "figures": lines});
    print(&object.to_string());
}

/// A node in a process of its own for each server: from one address there are 28 000 connections to a port, and handles are
/// counted for each process.
fn start_node(size: usize) -> anyhow::Result<(Process, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["node".to_owned(), format!("--size={size}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().context("the node has no output")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    Ok((process, line.trim().parse().context("the node did not start")?))
}

/// Says its address, and answers every request with the same body, over connections that it keeps.
pub(crate) async fn node(args: &NodeArgs) -> anyhow::Result<()> {
    let size = args.size;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: node\r\nContent-Type: text/html\r\nContent-Length: {size}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + size, b'x');
    let answer = Arc::new(answer);
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut buffer = [0; 4_096];
            let mut filled = 0;
            while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
                filled += read;
                if buffer[..filled].ends_with(b"\r\n\r\n") {
                    filled = 0;
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    Ok(())
}

/// The last good state of an edge that has `names` host names, all at one node.
fn ledger(data: &Path, names: usize, node: SocketAddr) -> anyhow::Result<()> {
    fs::create_dir_all(data)?;
    let pool = ShardPool {
        name: "shard-1".into(),
        nodes: vec![PoolNode { node_id: "n1".into(), addresses: vec![node.to_string()], in_service: true }],
    };
    let mut records = vec![(Key::new(Kind::ShardPool, "s1"), pool.encode_to_vec())];
    records.extend((0..names).map(|index| {
        let route = Route {
            tenant_id: format!("t_{index}"),
            webroot_id: webroot(index),
            shard_id: "s1".into(),
            may_upgrade: false,
        };
        (Key::new(Kind::Route, fqdn(index)), route.encode_to_vec())
    }));
    records.sort_by(|a, b| a.0.cmp(&b.0));
    let mut digest = Digest::EMPTY;
    let records: Vec<(Key, Record)> = records
        .into_iter()
        .map(|(key, value)| {
            digest.add(&key, &value);
            (key, Record::Accepted(Stored { revision: 1, value: value.into(), cause: Cause::Person }))
        })
        .collect();
    let meta = Meta { epoch: "loadtest".into(), revision: 1, count: u64::try_from(records.len())?, digest };
    let mut ledger = Ledger::open(data.join("ledger.redb"), &Audience::edge("loadtest")?.to_string())?;
    let entries = records.iter().map(|(key, record)| (key, Some(record)));
    ledger.write(LedgerBatch { meta: &meta, replace_all: true, records: Box::new(entries) })?;
    Ok(())
}

/// HAProxy with the same map and the same work on the fields.
fn haproxy(args: &Args, folder: &Path) -> anyhow::Result<Server> {
    let (process, node) = start_node(args.size)?;
    let map = folder.join("hosts.map");
    let lines: Vec<String> =
        (0..args.names).map(|index| format!("{} {}\n", fqdn(index), webroot(index))).collect();
    fs::write(&map, lines.concat())?;
    let configuration = folder.join("haproxy.cfg");
    let certificate = folder.join("haproxy.pem");
    fs::write(&certificate, http2::certificate()?)?;
    let (map, certificate) = (map.display(), certificate.display());
    fs::write(
        &configuration,
        format!(
            "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 300s\n  \
             timeout http-request 10s\n  timeout http-keep-alive 60s\n  http-reuse always\nfrontend fe\n  bind 127.0.0.1:18600\n  \
             bind 127.0.0.1:18601 ssl crt {certificate} alpn h2\n  \
             http-request set-var(txn.h) req.hdr(host),host_only,lower\n  http-request set-var(txn.w) var(txn.h),map_str({map})\n  \
             http-request deny deny_status 404 unless {{ var(txn.w) -m found }}\n  http-request del-header x-hosting- -m beg\n  \
             http-request del-header x-forwarded- -m beg\n  http-request del-header forwarded\n  http-request del-header x-real-ip\n  \
             http-request del-header proxy\n  http-request set-header X-Hosting-Host %[var(txn.h)]\n  \
             http-request set-header X-Forwarded-Host %[var(txn.h)]\n  http-request set-header X-Forwarded-Proto http\n  \
             http-request set-header X-Forwarded-For %[src]\n  http-request set-header X-Real-IP %[src]\n  \
             http-request set-header Host %[var(txn.w)]\n  http-response set-header X-Shard shard-1\n  default_backend be\nbackend be\n  \
             balance hash var(txn.h)\n  hash-type consistent\n  server n1 {node}\n"
        ),
    )?;
    let found = Command::new("infra/peer.sh")
        .arg("haproxy")
        .output()
        .context("cannot run infra/peer.sh: start from the project's root")?;
    ensure!(found.status.success(), "no haproxy: {}", String::from_utf8_lossy(&found.stderr));
    let mut command: Vec<String> =
        String::from_utf8(found.stdout)?.split_whitespace().map(str::to_owned).collect();
    command.extend(["-db".to_owned(), "-f".to_owned(), configuration.display().to_string()]);
    Server::start("HAProxy", 18_600, command, folder, process)
}

/// Asks for the time of a measurement and returns how many answers came. Any answer but 200 ends it.
async fn load(
    server: &Server,
    hosts: usize,
    requests: &Arc<Vec<Vec<u8>>>,
    args: &Args,
) -> anyhow::Result<u64> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // No two measurements ask for the same hosts in the same order.
    static CLIENTS: AtomicUsize = AtomicUsize::new(1);
    let connector = args.http2.then(http2::connector).transpose()?;
    let clients: Vec<_> = (0..args.connections)
        .map(|seed| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            match &connector {
                Some(connector) => {
                    let name = fqdn(seed % hosts * 4 % args.names);
                    tokio::spawn(http2::client(server.https, connector.clone(), name, stop, done))
                }
                None => {
                    let seed = CLIENTS.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(client(server.address, Arc::clone(requests), stop, done, seed))
                }
            }
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    Ok(done.load(Ordering::Relaxed).max(1))
}

async fn client(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    seed: usize,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 128 * 1_024];
    let mut random = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let request = &requests[usize::try_from(random % requests.len() as u64)?];
        stream.write_all(request).await?;
        let (mut filled, mut wanted) = (0, usize::MAX);
        while filled < wanted {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "{address} closed the connection");
            filled += read;
            if wanted == usize::MAX
                && let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
                ensure!(head.starts_with("http/1.1 200"), "{address} answered {head}");
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                wanted = end + 4 + length.context("no length")?.trim().parse::<usize>()?;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
