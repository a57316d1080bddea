//! What is measured: the edge, and its peers with the same map and the same work on the fields.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hosting_intent::message::{
    Access, CachePolicy, Hsts, HttpPolicy, Maintenance, PathRedirect, PoolNode, RateLimit, RatePer, Route,
    ShardPool,
};
use hosting_intent::{Audience, Bytes, Cause, Digest, Key, Kind};
use hosting_ledger::{Journal, Ledger, LedgerBatch, Meta, Record, Stored};
use hosting_scaffold::file::write_private;
use prost::Message;

use super::client::certificate;
use super::feed::{CLUSTER, Feed};
use super::own;

/// The core of the server that is measured; everything else runs on the other one.
const SERVER_CORE: &str = "0";
pub(super) const OTHER_CORE: &str = "1";

/// How long a server may take until it serves a million names, each with a certificate of its own.
const START_LIMIT: Duration = Duration::from_secs(600);

/// A process that ends with what it is part of.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; the folder goes in any case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program to be measured, and where it listens.
#[derive(Debug, Clone)]
pub(super) enum Program {
    /// A build of the edge.
    Edge(PathBuf),
    /// HAProxy, with its log on.
    Haproxy,
    /// nginx, with its log on.
    Nginx,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) program: Program,
    port: u16,
}

impl Entry {
    pub(super) fn new(name: &'static str, program: Program, port: u16) -> Self {
        Self { name, program, port }
    }

    pub(super) fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(super) fn https(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port + 1))
    }
}

/// A process that is measured, with the node behind it if that is a process too.
pub(super) struct Server {
    pub(super) entry: Entry,
    process: Process,
    _node: Option<Process>,
    /// From the start of the process until it answered for a host name.
    pub(super) ready: Duration,
}

/// Resident memory of a process in KiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) now: u64,
    pub(super) peak: u64,
}

impl Server {
    /// CPU time of all its threads.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.0.id()))? {
            // A thread may end between the two reads.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanos))
    }

    pub(super) fn memory(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).with_context(|| format!("no {field} in its status"))
        };
        Ok(Memory { now: of("VmRSS:")?, peak: of("VmHWM:")? })
    }

    /// Waits until the server has nothing of its own to do.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..240 {
            let before = self.cpu()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.cpu()?.saturating_sub(before) < Duration::from_millis(5) {
                return Ok(());
            }
        }
        bail!("{} is never idle", self.entry.name)
    }
}

pub(super) fn fqdn(index: usize) -> String {
    format!("www.site-{index}.example.net")
}

/// A name whose pages are stored.
pub(super) fn cached(index: usize) -> String {
    format!("www.stored-{index}.example.net")
}

fn webroot(index: usize) -> String {
    format!("web_{index:010}")
}

/// A tenant has fifty names.
fn tenant(index: usize) -> String {
    format!("t_{}", index / 50)
}

/// The host names of a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) count: usize,
    /// Names beside these whose pages are stored: by the name's policy, and in peers by its form.
    pub(super) cached: usize,
    /// Each has a certificate of its own, at edges.
    pub(super) own_certificates: bool,
    /// Each has a policy, at edges.
    pub(super) policies: bool,
    /// Names beside these, each with its tenant and its webroot.
    pub(super) others: &'static [[&'static str; 3]],
}

impl Names {
    /// Names without anything of their own.
    pub(super) const fn plain(count: usize) -> Self {
        Self { count, cached: 0, own_certificates: false, policies: false, others: &[] }
    }
}

/// What servers are started with: a folder of files that are made once.
pub(super) struct Workshop {
    folder: PathBuf,
    names: Names,
    connections: usize,
    /// Edges join and follow a feed, and HAProxy's map can be changed.
    changes: bool,
    /// HAProxy's log goes here, and is read so that it never waits.
    _log: tokio::task::JoinHandle<()>,
}

impl Workshop {
    /// `connections`: how many clients one server must be able to hold.
    pub(super) fn new(folder: &Path, names: Names, connections: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let lines = |separator: &str, end: &str| -> String {
            let counted = (0..names.count).map(|index| (fqdn(index), webroot(index)));
            let others =
                names.others.iter().map(|[name, _, webroot]| ((*name).to_owned(), (*webroot).to_owned()));
            let cached = (0..names.cached).map(|index| (cached(index), webroot(index)));
            counted
                .chain(cached)
                .chain(others)
                .map(|(name, webroot)| format!("{name}{separator}{webroot}{end}\n"))
                .collect()
        };
        fs::write(folder.join("haproxy.map"), lines(" ", ""))?;
        fs::write(folder.join("nginx.map"), lines(" ", ";"))?;
        fs::write(folder.join("peer.pem"), certificate()?)?;
        let log = UnixDatagram::bind(folder.join("log"))?;
        log.set_nonblocking(true)?;
        let log = tokio::net::UnixDatagram::from_std(log)?;
        let reader = tokio::spawn(async move {
            let mut line = vec![0; 8_192];
            while log.recv(&mut line).await.is_ok() {}
        });
        Ok(Self { folder: folder.to_owned(), names, connections, changes: false, _log: reader })
    }

    /// For servers whose map changes while they are measured.
    pub(super) fn changing(folder: &Path, names: usize) -> anyhow::Result<Self> {
        Ok(Self { changes: true, ..Self::new(folder, Names::plain(names), 1_000)? })
    }

    /// Where HAProxy takes commands.
    pub(super) fn haproxy_socket(&self) -> PathBuf {
        self.folder.join("haproxy.sock")
    }

    /// Starts a server whose map can change: an edge joins the feed.
    pub(super) async fn start_joined(
        &self,
        entry: &Entry,
        node: SocketAddr,
        feed: &Feed,
    ) -> anyhow::Result<Server> {
        let data = self.data(entry);
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        fs::create_dir_all(&data)?;
        let name = entry.name.to_lowercase().replace(' ', "-");
        write_private(&data.join("token"), feed.token(&name).await?.as_bytes())?;
        write_private(&data.join("feed"), feed.address.to_string().as_bytes())?;
        self.start_before(entry, node)
    }

    fn data(&self, entry: &Entry) -> PathBuf {
        self.folder.join(entry.name.replace(' ', "-"))
    }

    pub(super) fn start(&self, entry: &Entry) -> anyhow::Result<Server> {
        let (node, address) = start_node()?;
        Ok(Server { _node: Some(node), ..self.start_before(entry, address)? })
    }

    /// Starts a server before a node that is there already.
    pub(super) fn start_before(&self, entry: &Entry, address: SocketAddr) -> anyhow::Result<Server> {
        let mut command = ["taskset", "-c", SERVER_CORE].map(str::to_owned).to_vec();
        command.extend(match &entry.program {
            Program::Edge(binary) => self.edge(binary, entry, address)?,
            Program::Haproxy => self.haproxy(entry, address)?,
            Program::Nginx => self.nginx(entry, address)?,
        });
        let log = fs::File::create(self.folder.join(format!("{}.log", entry.name)))?;
        let begun = Instant::now();
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .env("HOSTING_EDGE_MAX_CONNECTIONS", self.connections.to_string())
            .env("HOSTING_EDGE_MAX_CONNECTIONS_PER_NETWORK", self.connections.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command.join(" ")))?;
        while !answers(entry.http()) {
            let ended = child.try_wait()?.is_some();
            if ended || begun.elapsed() > START_LIMIT {
                let said = fs::read_to_string(self.folder.join(format!("{}.log", entry.name)));
                bail!("{} does not listen: {}\n{}", entry.name, command.join(" "), said.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let ready = begun.elapsed();
        Ok(Server { entry: entry.clone(), process: Process(child), _node: None, ready })
    }

    fn edge(&self, binary: &Path, entry: &Entry, node: SocketAddr) -> anyhow::Result<Vec<String>> {
        let data = self.data(entry);
        let controller = if self.changes {
            let token = data.join("token");
            let feed = fs::read_to_string(data.join("feed"))?;
            vec![format!("--controller={feed}"), format!("--join-token-file={}", token.display())]
        } else {
            ledger(&data, self.names, node)?;
            vec!["--controller=127.0.0.1:1".to_owned()]
        };
        let mut command = vec![
            binary.display().to_string(),
            format!("--data-dir={}", data.display()),
            format!("--http-listen={}", entry.http()),
            format!("--https-listen={}", entry.https()),
            format!("--admin-listen=127.0.0.1:{}", entry.port + 2),
            "--threads=1".to_owned(),
        ];
        command.extend(controller);
        Ok(command)
    }

    fn haproxy(&self, entry: &Entry, node: SocketAddr) -> anyhow::Result<Vec<String>> {
        let (folder, connections) = (self.folder.display(), self.connections);
        let (http, https) = (entry.http(), entry.https());
        let socket = if self.changes {
            format!("stats socket {} mode 600 level admin", self.haproxy_socket().display())
        } else {
            String::new()
        };
        let text = format!(
            "global
  {socket}
  nbthread 1
  maxconn {connections}
  log {folder}/log local0
  ssl-default-bind-options ssl-min-ver TLSv1.2
cache stored
  total-max-size 64
  max-object-size 1048576
  max-age 86400
defaults
  mode http
  log global
  option httplog
  timeout connect 1s
  timeout client 60s
  timeout server 300s
  timeout http-request 10s
  timeout http-keep-alive 60s
  http-reuse always
frontend fe
  bind {http}
  bind {https} ssl crt {folder}/peer.pem alpn h2,http/1.1
  bind quic4@{https} ssl crt {folder}/peer.pem alpn h3
  http-request set-var(txn.h) req.hdr(host),host_only,lower
  http-request set-var(txn.w) var(txn.h),map_str({folder}/haproxy.map)
  http-request deny deny_status 404 unless {{ var(txn.w) -m found }}
  http-request del-header x-hosting- -m beg
  http-request del-header x-forwarded- -m beg
  http-request del-header forwarded
  http-request del-header x-real-ip
  http-request del-header proxy
  http-request set-header X-Hosting-Host %[var(txn.h)]
  http-request set-header X-Forwarded-Host %[var(txn.h)]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Real-IP %[src]
  http-request set-header Host %[var(txn.w)]
  http-response set-header X-Shard shard-1
  use_backend stored if {{ var(txn.h) -m beg www.stored- }}
  default_backend be
backend stored
  http-request cache-use stored
  http-response set-header Cache-Control max-age=86400
  http-response cache-store stored
  http-response set-header X-Shard shard-1
  server n1 {node}
backend be
  balance hash var(txn.h)
  hash-type consistent
  server n1 {node}
"
        );
        let configuration = self.folder.join(format!("haproxy-{}.cfg", entry.port));
        fs::write(&configuration, text)?;
        let mut command = peer("haproxy")?;
        command.extend(["-db".to_owned(), "-f".to_owned(), configuration.display().to_string()]);
        Ok(command)
    }

    fn nginx(&self, entry: &Entry, node: SocketAddr) -> anyhow::Result<Vec<String>> {
        let (folder, connections) = (self.folder.display(), 2 * self.connections);
        let (http, https) = (entry.http(), entry.https());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("  {what}_temp_path {folder}/nginx-temp;\n"))
            .concat();
        let text = format!(
            "daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections {connections}; }}
http {{
{temporary}  access_log {folder}/nginx-access.log combined;
  proxy_cache_path {folder}/nginx-cache keys_zone=stored:10m max_size=64m;
  map_hash_max_size 4194304;
  map_hash_bucket_size 128;
  map $host $unstored {{ default 1; ~^www\\.stored- 0; }}
  map $host $site {{
    default \"\";
    include {folder}/nginx.map;
  }}
  upstream be {{
    server {node};
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  keepalive_requests 1000000000;
  keepalive_timeout 60s;
  server {{
    listen {http};
    listen {https} ssl;
    listen {https} quic;
    http2 on;
    ssl_certificate {folder}/peer.pem;
    ssl_certificate_key {folder}/peer.pem;
    location / {{
      if ($site = \"\") {{ return 404; }}
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Forwarded \"\";
      proxy_set_header Proxy \"\";
      proxy_set_header Host $site;
      proxy_set_header X-Hosting-Host $host;
      proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Real-IP $remote_addr;
      add_header X-Shard shard-1;
      proxy_cache stored;
      proxy_cache_key $host$request_uri;
      proxy_cache_valid 200 1d;
      proxy_no_cache $unstored;
      proxy_cache_bypass $unstored;
      proxy_pass http://be;
    }}
  }}
}}
"
        );
        let configuration = self.folder.join(format!("nginx-{}.conf", entry.port));
        fs::write(&configuration, text)?;
        let mut command = peer("nginx")?;
        let folder = self.folder.display().to_string();
        command.extend(["-p".to_owned(), folder, "-e".to_owned(), "stderr".to_owned()]);
        command.extend(["-c".to_owned(), configuration.display().to_string()]);
        Ok(command)
    }
}

/// Whether a host name is served.
fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let mut tcp = std::net::TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
        tcp.write_all(
            format!("GET /1 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", fqdn(0)).as_bytes(),
        )?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    // It does not listen yet, or has nothing to serve yet.
    ask().unwrap_or_default()
}

fn peer(program: &str) -> anyhow::Result<Vec<String>> {
    let found = Command::new("infra/peer.sh")
        .arg(program)
        .output()
        .context("cannot run infra/peer.sh: start from the project's root")?;
    ensure!(found.status.success(), "no {program}: {}", String::from_utf8_lossy(&found.stderr));
    Ok(String::from_utf8(found.stdout)?.split_whitespace().map(str::to_owned).collect())
}

/// A node in a process of its own for each server: from one address there are 28 000 connections to a port, and handles are
/// counted for each process.
pub(super) fn start_node() -> anyhow::Result<(Process, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("node")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().context("the node has no output")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    Ok((process, line.trim().parse().context("the node did not start")?))
}

/// Leads names to webroots by commands that HAProxy takes while it runs.
pub(super) fn haproxy_commands(
    socket: &Path,
    changes: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<()> {
    let map = socket.with_file_name("haproxy.map");
    let lines: Vec<String> =
        changes.map(|(name, webroot)| format!("set map {} {name} {webroot}", map.display())).collect();
    // A command line has room for 16 KiB.
    for lines in lines.chunks(50) {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(format!("{}\n", lines.join(";")).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.trim().is_empty(), "HAProxy says {answer}");
    }
    Ok(())
}

/// The intent of a name's route.
pub(super) fn route(name: String, webroot_id: String, index: usize) -> (Key, Bytes) {
    let route =
        Route { tenant_id: tenant(index), webroot_id, shard_id: "s1".into(), may_upgrade: true, http: None };
    (Key::new(Kind::Route, name), route.encode_to_vec().into())
}

fn shard_pool(node: SocketAddr) -> (Key, Vec<u8>) {
    let pool = ShardPool {
        name: "shard-1".into(),
        nodes: vec![PoolNode { node_id: "n1".into(), addresses: vec![node.to_string()], in_service: true }],
    };
    (Key::new(Kind::ShardPool, "s1"), pool.encode_to_vec())
}

/// The intents of a map of names without anything of their own, all at one node.
pub(super) fn records(names: usize, node: SocketAddr) -> Vec<(Key, Bytes)> {
    let (key, pool) = shard_pool(node);
    std::iter::once((key, pool.into()))
        .chain((0..names).map(|index| route(fqdn(index), webroot(index), index)))
        .collect()
}

/// A policy with something of everything that lets a request pass: twenty redirects, twenty networks, a limit that nobody reaches, sizes.
fn policy() -> HttpPolicy {
    let redirect =
        |n: usize| PathRedirect { from: format!("/old-{n}/*"), to: "/new/*".to_owned(), code: 301 };
    HttpPolicy {
        https_redirect: Some(false),
        hsts: Some(Hsts { max_age_seconds: 31_536_000, include_subdomains: true, preload: false }),
        redirects: (0..20).map(redirect).collect(),
        access: Some(Access {
            deny: (0..20).map(|n| format!("192.0.{n}.0/24")).collect(),
            ..Access::default()
        }),
        rate_limits: vec![RateLimit { requests: 1_000_000, seconds: 1, per: RatePer::Address as i32 }],
        max_body_bytes: Some(1_000_000),
        max_header_bytes: Some(16_000),
        maintenance: Some(Maintenance { enabled: false, retry_after_seconds: 600, allow: Vec::new() }),
        ..HttpPolicy::default()
    }
}

/// The last good state of an edge that has `names` host names, all at one node.
fn ledger(data: &Path, names: Names, node: SocketAddr) -> anyhow::Result<()> {
    let Names { count, cached: stored, own_certificates, policies, others } = names;
    let http = policies.then(policy);
    let cache = HttpPolicy {
        cache: Some(CachePolicy {
            enabled: true,
            default_ttl_seconds: 86_400,
            max_ttl_seconds: 86_400,
            max_object_bytes: 1_048_576,
            ..CachePolicy::default()
        }),
        ..HttpPolicy::default()
    };
    fs::create_dir_all(data)?;
    let mut records = vec![shard_pool(node)];
    let counted = (0..count).map(|index| (fqdn(index), tenant(index), webroot(index)));
    let others = others.iter().map(|words| words.map(str::to_owned).into());
    records.extend(counted.chain(others).map(|(fqdn, tenant_id, webroot_id): (String, String, String)| {
        let route = Route {
            tenant_id,
            webroot_id,
            shard_id: "s1".into(),
            may_upgrade: true,
            http: http.clone().map(Box::new),
        };
        (Key::new(Kind::Route, fqdn), route.encode_to_vec())
    }));
    records.extend((0..stored).map(|index| {
        let (tenant_id, webroot_id) = (tenant(index), webroot(index));
        let http = Some(cache.clone());
        let route = Route {
            tenant_id,
            webroot_id,
            shard_id: "s1".into(),
            may_upgrade: false,
            http: http.map(Box::new),
        };
        (Key::new(Kind::Route, cached(index)), route.encode_to_vec())
    }));
    let audience = Audience::edge(CLUSTER)?;
    if own_certificates {
        let names = (0..count).map(|index| (fqdn(index), tenant(index)));
        records.extend(own::certificates(data, &audience, names)?);
    }
    records.sort_by(|a, b| a.0.cmp(&b.0));
    let mut digest = Digest::EMPTY;
    let records: Vec<(Key, Record)> = records
        .into_iter()
        .map(|(key, value)| {
            digest.add(&key, &value);
            (key, Record::Accepted(Stored { revision: 1, value: value.into(), cause: Cause::Person }))
        })
        .collect();
    let count = u64::try_from(records.len())?;
    let meta = Meta { epoch: "loadtest".into(), revision: 1, count, digest };
    let mut ledger = Ledger::open(data.join("ledger.redb"), &audience.to_string())?;
    let entries = records.into_iter().map(|(key, record)| (key, Some(record)));
    ledger.write(LedgerBatch { meta: &meta, replace_all: true, records: Box::new(entries) })?;
    Ok(())
}
