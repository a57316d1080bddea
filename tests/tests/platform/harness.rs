//! Starts a whole platform through `hostctl up` in a folder of its own and talks to it as its users do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Ends with its platform; what it wrote is printed when the test fails.
pub(crate) struct Platform {
    folder: PathBuf,
    up: Option<Child>,
    pub(crate) options: Vec<String>,
    pub summary: Value,
    /// Children that the test started again by itself.
    own: BTreeMap<String, Child>,
    /// The environment of `up`, and of what the test starts again.
    env: Vec<(String, String)>,
    http: reqwest::Client,
}

/// Where the built binaries are.
pub(crate) fn binaries() -> PathBuf {
    // target/debug/deps/platform-… → target/debug
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    assert!(folder.join("hostctl").is_file(), "build the binaries first: cargo build --workspace --bins");
    folder
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Tests that need daemons say so loudly where those are missing.
pub(crate) fn machine_lacks_daemons(test: &str) -> bool {
    let there = |name: &str| Path::new("/usr/sbin").join(name).is_file();
    let php = fs::read_dir("/usr/sbin")
        .is_ok_and(|all| all.flatten().any(|one| one.file_name().to_string_lossy().starts_with("php-fpm8.")));
    if there("nginx") && php {
        return false;
    }
    skipped(test, "nginx and php-fpm");
    true
}

/// Says that a test was not run, and what it needs.
pub(crate) fn skipped(test: &str, needs: &str) {
    let line = format!("platform::{test}: needs {needs}\n");
    eprint!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("HOSTING_SKIPPED") {
        use std::io::Write;
        File::options().append(true).create(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// A port below those that the system gives to connections, which may take it while its owner starts again.
pub(crate) fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| rand::random_range(15_000..32_768));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Platform {
    /// A fresh platform. `options` go to `hostctl up`.
    pub(crate) async fn start(options: &[&str]) -> Self {
        Self::start_with(options, &[]).await
    }

    pub(crate) async fn start_with(options: &[&str], env: &[(&str, String)]) -> Self {
        let folder = tempfile::Builder::new().prefix("hosting-").tempdir_in("/tmp").unwrap().keep();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut platform = Self {
            folder,
            up: None,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            summary: Value::Null,
            own: BTreeMap::new(),
            env: Vec::new(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        platform.up(env).await;
        platform
    }

    /// Runs `hostctl up` until it has written its summary.
    pub(crate) async fn up(&mut self, env: &[(&str, String)]) {
        assert!(self.up.is_none());
        let log = File::options().create(true).append(true).open(self.folder.join("up.log")).unwrap();
        let mut command = self.hostctl();
        command.args(["up", "--auto-ports", "--ipv6=false"]).args(&self.options);
        if !self.options.iter().any(|option| option.contains("seed")) {
            command.arg("--seed").arg(root().join("infra/demo.yaml"));
        }
        self.env = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let child = command
            .envs(self.env.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.up = Some(child.unwrap());
        let file = self.data().join("up.json");
        let summary = eventually("the platform is up", Duration::from_secs(90), async || {
            if let Some(status) = self.up.as_mut().unwrap().try_wait().unwrap() {
                panic!("`up` ended ({status}):\n{}", self.log("../up"));
            }
            // One that an earlier `up` left when it was killed says nothing.
            let summary = serde_json::from_slice::<Value>(&fs::read(&file).ok()?).ok()?;
            (summary["pids"]["up"] == self.up.as_ref().unwrap().id()).then_some(summary)
        });
        self.summary = summary.await;
    }

    pub(crate) fn hostctl(&self) -> Command {
        let mut command = Command::new(binaries().join("hostctl"));
        command.arg("--data").arg(self.data()).env_remove("HOSTING_API_KEY").env_remove("HOSTING_API_URL");
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("var")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn log(&self, role: &str) -> String {
        fs::read_to_string(self.data().join("log").join(format!("{role}.log")))
            .or_else(|_| fs::read_to_string(self.data().join(format!("{role}.log"))))
            .unwrap_or_default()
    }

    /// SIGINT, as Ctrl-C does; waits for the end.
    pub(crate) fn interrupt(&mut self) {
        let mut up = self.up.take().unwrap();
        kill(Pid::from_raw(up.id() as i32), Signal::SIGINT).unwrap();
        up.wait().unwrap();
    }

    /// `kill -9` of `up` itself: its children stay behind.
    pub(crate) fn kill_up(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
    }

    /// The present pid, also after `up` started the child again.
    pub(crate) fn pid(&self, role: &str) -> i32 {
        if let Some(child) = self.own.get(role) {
            return child.id() as i32;
        }
        let summary: Value = serde_json::from_slice(&fs::read(self.data().join("up.json")).unwrap()).unwrap();
        summary["pids"][role].as_i64().unwrap_or_else(|| panic!("no pid of {role} in {summary}")) as i32
    }

    pub(crate) fn signal(&self, role: &str, signal: Signal) {
        kill(Pid::from_raw(self.pid(role)), signal).unwrap();
    }

    /// `kill -9`; waits until it is gone. Needs `--no-restart`.
    pub(crate) async fn kill(&mut self, role: &str) {
        self.end_by(role, Signal::SIGKILL).await;
    }

    /// Tells it to end; waits until it is gone. Needs `--no-restart`.
    pub(crate) async fn end(&mut self, role: &str) {
        self.end_by(role, Signal::SIGTERM).await;
    }

    async fn end_by(&mut self, role: &str, signal: Signal) {
        let pid = self.pid(role);
        kill(Pid::from_raw(pid), signal).unwrap();
        if let Some(mut child) = self.own.remove(role) {
            child.wait().unwrap();
        }
        // Gone, not a zombie: its last thread may hold locks.
        let process = PathBuf::from(format!("/proc/{pid}"));
        let gone = async || (!process.exists()).then_some(());
        eventually(&format!("{role} is gone"), Duration::from_secs(10), gone).await;
    }

    /// Starts a killed child again with the command line that `up` used, and waits until it is ready.
    pub(crate) async fn restart(&mut self, role: &str) {
        let command: Vec<String> = serde_json::from_value(self.summary["commands"][role].clone()).unwrap();
        let log = self.data().join("log").join(format!("{role}.log"));
        let log = File::options().append(true).open(log).unwrap();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .envs(self.env.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.own.insert(role.to_owned(), child);
        eventually(&format!("{role} is ready"), Duration::from_secs(30), async || {
            if let Some(status) = self.own.get_mut(role).unwrap().try_wait().unwrap() {
                panic!("{role} ended ({status}):\n{}", tail(&self.log(role)));
            }
            let ready = self.admin(role, "/readyz").await.ok()?;
            (ready.0 == 200).then_some(())
        })
        .await;
    }

    pub(crate) async fn admin(&self, role: &str, path: &str) -> Result<(u16, String), reqwest::Error> {
        let address = self.summary["admin"][role].as_str().unwrap();
        let answer =
            self.http.get(format!("http://{address}{path}")).timeout(Duration::from_secs(5)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The sum of a counter's samples whose labels contain all of `labels`.
    pub(crate) async fn metric(&self, role: &str, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.admin(role, "/metrics").await.unwrap();
        text.lines()
            .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn admin_key(&self) -> String {
        fs::read_to_string(self.summary["admin_key_file"].as_str().unwrap()).unwrap().trim().to_owned()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call_with(method, path, body, &[]).await
    }

    /// As [`Platform::call`], with headers.
    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let url = format!("{}/api/v1{path}", self.summary["api"].as_str().unwrap());
        let mut request = self
            .http
            .request(method.parse().unwrap(), url)
            .bearer_auth(self.admin_key())
            .timeout(Duration::from_secs(120));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (code, body) = self.call("GET", path, None).await;
        assert_eq!(code, 200, "GET {path}: {body}");
        body
    }

    /// Any success.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.call("POST", path, Some(body)).await;
        assert!((200..300).contains(&code), "POST {path}: {code} {answer}");
        answer
    }

    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        self.get(&format!("{path}{join}limit=200")).await["items"].as_array().unwrap().clone()
    }

    /// Every subscriber: that list has no pages.
    pub(crate) async fn subscribers(&self) -> Vec<Value> {
        self.get("/subscribers").await["items"].as_array().unwrap().clone()
    }

    /// The seeded tenant of a customer, and its first webroot: (tenant id, webroot id).
    pub(crate) async fn site(&self, customer: &str) -> (String, String) {
        let tenants = self.items(&format!("/tenants?customer_id={customer}")).await;
        let tenant = tenants[0]["id"].as_str().unwrap().to_owned();
        let webroots = self.items(&format!("/tenants/{tenant}/webroots")).await;
        (tenant, webroots[0]["id"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn add_fqdn(&self, customer: &str, fqdn: &str, query: &str) -> (u16, Value) {
        let (tenant, webroot) = self.site(customer).await;
        let body = json!({"fqdn": fqdn, "webroot_id": webroot});
        self.call("POST", &format!("/tenants/{tenant}/fqdns{query}"), Some(body)).await
    }

    pub(crate) fn address(&self, what: &str) -> SocketAddr {
        self.summary[what].as_str().unwrap().parse().unwrap()
    }

    /// Status and body of GET / over HTTP on a fresh connection; `None` when nobody answers.
    pub(crate) async fn web(&self, fqdn: &str) -> Option<(u16, String)> {
        let url = format!("http://{fqdn}:{}/", self.address("edge_http").port());
        self.fetch(&url, fqdn, "edge_http", &self.edge_ca()).await
    }

    /// Status and body of one page of a site, over HTTP.
    pub(crate) async fn page(&self, fqdn: &str, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{fqdn}:{}/{path}", self.address("edge_http").port());
        self.fetch(&url, fqdn, "edge_http", &self.edge_ca()).await
    }

    /// As [`Platform::web`], over HTTPS with the development CA as the only trusted root.
    pub(crate) async fn secure_web(&self, fqdn: &str) -> Option<(u16, String)> {
        self.web_trusting(fqdn, &self.edge_ca()).await
    }

    /// As [`Platform::secure_web`], with other certificates (PEM) as the only trusted roots.
    pub(crate) async fn web_trusting(&self, fqdn: &str, roots: &[u8]) -> Option<(u16, String)> {
        let url = format!("https://{fqdn}:{}/", self.address("edge_https").port());
        self.fetch(&url, fqdn, "edge_https", roots).await
    }

    fn edge_ca(&self) -> Vec<u8> {
        fs::read(self.summary["edge_ca_file"].as_str().unwrap()).unwrap()
    }

    async fn fetch(&self, url: &str, fqdn: &str, listener: &str, roots: &[u8]) -> Option<(u16, String)> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .resolve(fqdn, self.address(listener))
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(roots).unwrap())
            .build()
            .unwrap();
        let answer = client.get(url).timeout(Duration::from_secs(5)).send().await.ok()?;
        let code = answer.status().as_u16();
        Some((code, answer.text().await.ok()?))
    }

    /// Code and records of a question; `None` when nobody answers.
    pub(crate) async fn records(&self, fqdn: &str, of: RecordType) -> Option<(ResponseCode, Vec<Record>)> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(format!("{fqdn}.")).unwrap(), of));
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address("dns")).await.ok()?;
        socket.send(&question.to_vec().unwrap()).await.ok()?;
        let mut buffer = [0; 4096];
        let length =
            tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await.ok()?.ok()?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        Some((answer.metadata.response_code, answer.answers))
    }

    /// Code and addresses of an A question; `None` when nobody answers.
    pub(crate) async fn dig(&self, fqdn: &str) -> Option<(ResponseCode, Vec<Ipv4Addr>)> {
        let (code, records) = self.records(fqdn, RecordType::A).await?;
        let address = |record: &Record| if let RData::A(at) = &record.data { Some(at.0) } else { None };
        Some((code, records.iter().filter_map(address).collect()))
    }

    /// The name leads to its site, everywhere.
    pub(crate) async fn is_live(&self, fqdn: &str) -> bool {
        let web = self.web(fqdn).await.is_some_and(|(code, _)| code == 200);
        web && self.dig(fqdn).await.is_some_and(|(_, addresses)| addresses == [Ipv4Addr::LOCALHOST])
    }

    /// The name is unknown, everywhere.
    pub(crate) async fn is_gone(&self, fqdn: &str) -> bool {
        let web = self.web(fqdn).await.is_some_and(|(code, _)| code == 404);
        web && self
            .dig(fqdn)
            .await
            .is_some_and(|(code, all)| code == ResponseCode::NXDomain && all.is_empty())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        for child in self.own.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(mut up) = self.up.take() {
            // Stopped children would outlast their SIGTERM.
            if let Some(pids) = self.summary["pids"].as_object() {
                for pid in pids.values().filter_map(Value::as_i64) {
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
                }
            }
            let _ = kill(Pid::from_raw(up.id() as i32), Signal::SIGTERM);
            let _ = up.wait();
        }
        if std::thread::panicking() {
            for role in ["../up", "controller", "edge", "dns", "nodeagent"] {
                eprintln!("--- {role}\n{}", tail(&self.log(role)));
            }
            eprintln!("kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap_or(0)..].starts_with(") Z"))
}

/// Asks again and again until there is something; panics at the limit.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
