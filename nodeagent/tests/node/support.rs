//! A node in a temporary folder, fed with intents as the feed would.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hosting_agent_engine::{Phase, Report, Secret};
use hosting_intent::{Audience, Bytes, Item, Key, Kind, NodeIntent, Removal, RoleIntent, message as m};
use hosting_intent_sync::{
    Batch, Replica,
    client::{AudienceKeys, KeysWatch},
    sealing::SealingKey,
};
use hosting_nodeagent::{
    agent::Agent,
    host::{
        RealHost,
        files::Files,
        logs::{LogLimits, Rotation},
        supervisor::{AtDeath, Supervisor},
    },
    metrics::Metrics,
    replica::NodeReplica,
    role::Role as _,
    roots::{Roots, SiteUser},
    wants::Wants,
    web::{
        LOGS as OWN_LOGS, ROLE, WebNode,
        layout::{Layout, WebLimits},
    },
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// What a test needs that the machine may lack.
pub(crate) fn missing(test: &str) -> bool {
    let lacks =
        ["/usr/sbin/nginx", "/usr/sbin/php-fpm8.2"].into_iter().filter(|path| !Path::new(path).is_file());
    let lacks: Vec<&str> = lacks.collect();
    if lacks.is_empty() {
        return false;
    }
    skipped(test, &lacks.join(" and "));
    true
}

/// Says loudly that a test did not run.
pub(crate) fn skipped(test: &str, needs: &str) {
    let line = format!("nodeagent::{test}: needs {needs}\n");
    eprint!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("HOSTING_SKIPPED") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(crate) fn folder() -> tempfile::TempDir {
    // In memory where that can be: a disk's file system is slow at thousands of small files. Paths of sockets have to be short.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { Path::new("/tmp") };
    let folder = tempfile::Builder::new().prefix("node-").tempdir_in(place).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn site_user() -> Option<SiteUser> {
    if !is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("www-data").unwrap().unwrap();
    Some(SiteUser {
        name: user.name,
        group: "www-data".into(),
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What every node here subscribes to.
pub(crate) fn audience() -> Audience {
    "node/web-1".parse().unwrap()
}

pub(crate) fn layout(folder: &Path, name: &str) -> Layout {
    Layout {
        node_id: name.to_owned(),
        roots: Roots {
            storage: folder.join("storage"),
            logs: folder.join(name).join("logs"),
            config: folder.join(name).join("config"),
            run: folder.join(name).join("run"),
            temp: folder.join(name).join("temp"),
        },
        listen: vec![SocketAddr::from(([127, 0, 0, 1], free_port()))],
        edges: vec!["127.0.0.0/8".into()],
        nginx: "/usr/sbin/nginx".into(),
        workers: 1,
        web: WebLimits::default(),
        php: BTreeMap::from([("8.2".to_owned(), PathBuf::from("/usr/sbin/php-fpm8.2"))]),
        site_user: site_user(),
        sites_are_root: false,
        probe_token: Secret("a-secret-token".into()),
    }
}

/// Small, so that a test fills a log.
pub(crate) const LOGS: LogLimits =
    LogLimits { bytes: 20_000, tenant_bytes: 10_000, age: Duration::from_secs(3600), keep: 2 };

type History = Arc<Mutex<Vec<(String, Phase)>>>;
type Reports = Arc<Mutex<BTreeMap<String, Report>>>;

/// One running agent.
pub(crate) struct Node {
    pub(crate) layout: Arc<Layout>,
    pub(crate) host: RealHost,
    /// What edges show.
    pub(crate) key: watch::Sender<Option<Secret>>,
    pub(crate) rotation: tokio::sync::Mutex<Rotation>,
    replica: Mutex<(KeysWatch<NodeReplica>, u64)>,
    /// The key pair that its audience's keys are sealed to.
    pub(crate) pair: SealingKey,
    reports: Reports,
    /// Every report ever made: key and phase.
    pub(crate) history: History,
    ready: Arc<Mutex<Result<(), String>>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start(layout: Layout, folder: &Path) -> Self {
        Self::start_with(layout, folder, AtDeath::End)
    }

    pub(crate) fn start_with(layout: Layout, folder: &Path, at_death: AtDeath) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info,hosting=debug").try_init();
        let layout = Arc::new(layout);
        let files = Arc::new(Files::open(&layout.roots, layout.site_user.as_ref()).unwrap());
        let services = folder.join(&layout.node_id).join("services");
        let supervisor = Supervisor::open(files.clone(), layout.roots.clone(), services, at_death).unwrap();
        let (key, edge_key) = watch::channel(None);
        let own = folder.join(&layout.node_id);
        std::fs::create_dir_all(&own).unwrap();
        let keys = AudienceKeys::load(&own).unwrap();
        let pair = SealingKey::load_or_create(&own.join("sealing.key")).unwrap();
        let role = Arc::new(WebNode::new(layout.clone(), edge_key, keys.clone()));
        role.bound(&supervisor);
        let host = RealHost::new(files.clone(), supervisor, layout.roots.clone());
        let replica = NodeReplica::new(role.clone());
        let (reports, history) = (Reports::default(), History::default());
        let ready = Arc::new(Mutex::new(Err("not started".to_owned())));
        let (sink, told, readiness) = (reports.clone(), history.clone(), ready.clone());
        let agent = Agent {
            role: &ROLE,
            engine: ROLE.engine(role.as_ref(), 256),
            host: host.clone(),
            views: replica.views(),
            wants: Wants::new(role.derivation()),
            reports: Arc::new(move |_, changed| {
                let mut reports = sink.lock().unwrap();
                for (key, report) in changed {
                    match report {
                        Some(report) => {
                            told.lock().unwrap().push((key.to_string(), report.phase));
                            reports.insert(key.to_string(), report);
                        }
                        None => {
                            reports.remove(&key.to_string());
                        }
                    }
                }
            }),
            ready: Arc::new(move |_, state| *readiness.lock().unwrap() = state),
            metrics: Metrics::new(&hosting_scaffold::admin::Metrics::new()),
            drift_interval: Duration::from_secs(2),
        };
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(agent.run(stop.clone())));
        let rotation = Rotation::new(files, host.supervisor().clone(), LOGS, OWN_LOGS);
        let rotation = tokio::sync::Mutex::new(rotation);
        Self {
            layout,
            host,
            key,
            rotation,
            replica: Mutex::new((KeysWatch::new(replica, Some(keys), &audience()), 0)),
            pair,
            reports,
            history,
            ready,
            stop,
            task,
        }
    }

    /// Puts a change into effect as the feed would; what the agent would reject is an error of the test.
    pub(crate) fn apply(&self, upserts: Vec<(Key, Vec<u8>)>, removals: Vec<Key>) -> u64 {
        let mut guard = self.replica.lock().unwrap();
        let (replica, revision) = &mut *guard;
        *revision += 1;
        let upserts = upserts
            .into_iter()
            .map(|(key, value)| {
                let intent = NodeIntent::parse(&key, &value).unwrap();
                replica.check(&key, &intent).unwrap();
                let item = Item {
                    key,
                    revision: *revision,
                    value: Bytes::from(value),
                    cause: hosting_intent::Cause::Person,
                    traceparent: String::new(),
                    rollout: 0,
                };
                (item, intent)
            })
            .collect();
        let removals = removals
            .into_iter()
            .map(|key| Removal {
                key,
                cause: hosting_intent::Cause::Person,
                traceparent: String::new(),
                rollout: 0,
            })
            .collect();
        replica.publish(Batch { epoch: "e".into(), revision: *revision, upserts, removals, more: false });
        *revision
    }

    /// Why it would not apply an intent.
    pub(crate) fn refusal(&self, (key, value): &(Key, Vec<u8>)) -> Option<String> {
        let intent = NodeIntent::parse(key, value).unwrap();
        self.replica.lock().unwrap().0.check(key, &intent).err().map(|rejection| rejection.to_string())
    }

    pub(crate) fn report(&self, key: &Key) -> Option<Report> {
        self.reports.lock().unwrap().get(&key.to_string()).cloned()
    }

    pub(crate) fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }

    /// Waits until the node says that it serves, which comes after its reports.
    pub(crate) async fn until_ready(&self) {
        let began = Instant::now();
        while let Err(why) = self.ready() {
            assert!(began.elapsed() < Duration::from_secs(30), "never ready: {why}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a key is reported so, for at least `revision`.
    pub(crate) async fn until(&self, key: &Key, phase: Phase, revision: u64) -> Report {
        let began = Instant::now();
        loop {
            let report = self.report(key);
            if let Some(report) = &report
                && report.phase == phase
                && report.revision >= revision
            {
                return report.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{key} is not {phase:?}: {report:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing is reported of a key.
    pub(crate) async fn until_gone(&self, key: &Key) {
        let began = Instant::now();
        while let Some(report) = self.report(key) {
            assert!(began.elapsed() < Duration::from_secs(30), "{key} is still there: {report:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.ask(host, path, "").await
    }

    pub(crate) async fn ask(&self, host: &str, path: &str, headers: &str) -> Answer {
        ask(self.layout.listen[0], host, path, headers).await
    }

    /// The services that run a site's PHP.
    pub(crate) fn php(&self, webroot: &str) -> Vec<String> {
        let prefix = hosting_nodeagent::web::layout::php_services(webroot);
        self.host.supervisor().pids().into_keys().filter(|name| name.starts_with(&prefix)).collect()
    }

    /// A request with another method, and a body if it is not empty.
    pub(crate) async fn method(&self, method: &str, host: &str, path: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n{length}\r\n{body}");
        send(self.layout.listen[0], request.as_bytes()).await.unwrap()
    }

    /// A node with these sites of the tenant `t_a`, ready.
    pub(crate) async fn with_sites(layout: Layout, folder: &Path, sites: &[(&str, m::Webroot)]) -> Self {
        let node = Self::start(layout, folder);
        let mut wanted = vec![tenant("t_a", false)];
        wanted.extend(sites.iter().map(|(id, site)| webroot(id, site)));
        let revision = node.apply(wanted, vec![]);
        for (id, _) in sites {
            node.until(&key(Kind::Webroot, id), Phase::Ready, revision).await;
        }
        node
    }

    pub(crate) fn document_root(&self, tenant: &str, webroot: &str) -> PathBuf {
        self.layout.roots.storage.join(tenant).join("webroots").join(webroot)
    }

    /// Ends as on SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
    }

    /// Ends as on kill -9, as far as the agent itself goes: nothing is stopped.
    pub(crate) async fn abandon(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) async fn ask(address: SocketAddr, host: &str, path: &str, headers: &str) -> Answer {
    try_ask(address, host, path, headers).await.unwrap()
}

pub(crate) async fn try_ask(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &str,
) -> std::io::Result<Answer> {
    send(address, format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n").as_bytes()).await
}

/// Sends a request as it is and reads until the connection ends.
pub(crate) async fn send(address: SocketAddr, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    // A request that is refused early is not read to its end.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    if answer.is_empty() {
        ended?;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let bad = || std::io::Error::other(format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

pub(crate) fn tenant(id: &str, suspended: bool) -> (Key, Vec<u8>) {
    let state = if suspended { m::State::Suspended } else { m::State::Active };
    let tenant = m::Tenant { uid: 5000, state: state as i32, incarnation: 11 };
    (Key::new(Kind::Tenant, id), tenant.encode_to_vec())
}

pub(crate) fn static_webroot(tenant: &str) -> m::Webroot {
    m::Webroot {
        tenant_id: tenant.into(),
        runtime: "static".into(),
        shard_name: "shard-1".into(),
        incarnation: 12,
        tenant_uid: 5000,
        ..m::Webroot::default()
    }
}

pub(crate) fn php_webroot(tenant: &str) -> m::Webroot {
    m::Webroot {
        runtime: "php".into(),
        runtime_version: "8.2".into(),
        php: Some(m::PhpPool {
            max_children: 3,
            start_servers: 1,
            min_spare_servers: 1,
            max_spare_servers: 2,
            max_requests: 500,
            ..m::PhpPool::default()
        }),
        ..static_webroot(tenant)
    }
}

pub(crate) fn webroot(id: &str, webroot: &m::Webroot) -> (Key, Vec<u8>) {
    (Key::new(Kind::Webroot, id), webroot.encode_to_vec())
}

pub(crate) fn retire(kind: Kind, id: &str, tenant: &str, incarnation: u64) -> (Key, Vec<u8>) {
    let tenant_id = if kind == Kind::Webroot { tenant.to_owned() } else { String::new() };
    let retire = m::Retire { kind: kind as i32, key: id.into(), incarnation, tenant_id };
    (Key::new(Kind::Retire, Key::new(kind, id).to_string()), retire.encode_to_vec())
}

pub(crate) fn key(kind: Kind, id: &str) -> Key {
    Key::new(kind, id)
}

/// A file of the tenant's, as it would upload it.
pub(crate) fn upload(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
    if is_root() {
        let user = site_user().unwrap();
        nix::unistd::chown(path, Some(user.uid.into()), Some(user.gid.into())).unwrap();
    }
}
