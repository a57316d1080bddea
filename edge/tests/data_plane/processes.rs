//! Edges that are processes of their own: they serve what a ledger says, and take over from one another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hosting_edge::Settings;
use hosting_intent::message::{PoolNode, Route, ShardPool, State, TenantState};
use hosting_intent::{Bytes, Cause, Digest, Key, Kind};
use hosting_ledger::{Journal, Ledger, LedgerBatch, Meta, Record, Stored};
use prost::Message;
use tempfile::TempDir;

use crate::harness::Node;

pub(crate) const HOST: &str = "www.example.com";
const LIMIT: Duration = Duration::from_secs(15);

/// Where edges of one data folder serve.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    _node: Node,
}

/// A port that is free for TCP and for UDP, most likely.
fn free_port() -> SocketAddr {
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Site {
    /// A ledger that knows one site at one node.
    pub(crate) async fn new() -> Self {
        let node = Node::start("node-1").await;
        let dir = tempfile::tempdir().unwrap();
        let route = Route {
            tenant_id: "t_a".into(),
            webroot_id: "web_ab12cd34ef".into(),
            shard_id: "s1".into(),
            may_upgrade: true,
            http: None,
        };
        let nodes = vec![PoolNode {
            node_id: "n1".into(),
            addresses: vec![node.address.to_string()],
            in_service: true,
        }];
        let tenant = TenantState { state: State::Active as i32, ..TenantState::default() };
        let items = [
            (Key::new(Kind::Route, HOST), route.encode_to_vec()),
            (Key::new(Kind::ShardPool, "s1"), ShardPool { name: "shard-1".into(), nodes }.encode_to_vec()),
            (Key::new(Kind::TenantState, "t_a"), tenant.encode_to_vec()),
        ];
        let mut digest = Digest::EMPTY;
        for (key, value) in &items {
            digest.add(key, value);
        }
        let meta = Meta { epoch: "e1".into(), revision: 7, count: items.len() as u64, digest };
        let records = Box::new(items.into_iter().map(|(key, value)| {
            let stored = Stored { revision: 7, value: Bytes::from(value), cause: Cause::Person };
            (key, Some(Record::Accepted(stored)))
        }));
        let mut ledger = Ledger::open(dir.path().join("ledger.redb"), "edge/c1").unwrap();
        ledger.write(LedgerBatch { meta: &meta, replace_all: true, records }).unwrap();
        Self { dir, http: free_port(), https: free_port(), admin: free_port(), _node: node }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The certificate of the authority that clients trust.
    pub(crate) fn ca(&self) -> String {
        let mut settings = Settings::default();
        settings.shared.data_dir = self.data_dir().to_owned();
        std::fs::read_to_string(settings.dev_ca()).unwrap()
    }

    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hosting-edge"));
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--http-listen", &self.http.to_string(), "--https-listen", &self.https.to_string()])
            .args(["--admin-listen", &self.admin.to_string(), "--controller", "127.0.0.1:1"])
            .args(flags)
            .env("HOSTING_EDGE_LOG_FORMAT", "text")
            .env("NO_COLOR", "1")
            .env("HOSTING_EDGE_TAKE_OVER_WAIT_MS", "200")
            .env("HOSTING_EDGE_MAX_CONNECTIONS_PER_NETWORK", "20000");
        command
    }

    /// The first one; serves when this returns.
    pub(crate) async fn start(&self, with: &[(&str, &str)]) -> Running {
        let mut command = self.command(&[]);
        let running = Running::start(command.envs(with.iter().copied()));
        self.serves().await;
        running
    }

    pub(crate) async fn serves(&self) {
        let until = Instant::now() + LIMIT;
        while !self.admin("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < until, "it is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes over from the one that runs; serves when this returns.
    pub(crate) async fn take_over(&self, with: &[(&str, &str)]) -> Running {
        let running = Running::start(self.command(&["--take-over"]).envs(with.iter().copied()));
        running.says("\nserving\n").await;
        running
    }

    /// What the admin port answers.
    pub(crate) fn admin(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The JSON that the admin port answers.
    pub(crate) fn admin_json(&self, path: &str) -> serde_json::Value {
        let answer = self.admin(path).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.admin("/metrics").unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    /// Whether some process has the ledger and the identity.
    pub(crate) fn ledger_is_held(&self) -> bool {
        let lock = std::fs::File::open(self.data_dir().join("ledger.redb.lock")).unwrap();
        matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock))
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone when the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let said = Arc::new(Mutex::new("\n".to_owned()));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for output in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.push_str(&line);
                    said.push('\n');
                }
            });
        }
        Self { child, said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The nice value of each thread, by its name.
    pub(crate) fn nice(&self) -> Vec<(String, i32)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        // A thread may end meanwhile.
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        let of = |stat: String| {
            let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(") ").unwrap();
            // The 19th field, of which the first two are gone (proc_pid_stat(5)).
            (name.to_owned(), rest.split(' ').nth(16).unwrap().parse().unwrap())
        };
        stats.map(of).collect()
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it says something.
    pub(crate) async fn says(&self, what: &str) {
        let until = Instant::now() + LIMIT;
        while !self.said().contains(what) {
            assert!(Instant::now() < until, "{what:?} is not in\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}
