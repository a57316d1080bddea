//! `hostctl up`: the whole platform on one machine, with the production binaries as children.
//!
//! Isolation: none. Children and sites run as the user that started `up`; for development and first looks.

mod child;
mod needs;
pub(crate) mod probe;
mod summary;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{IsTerminal, Read, Seek, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use fs4::{FileExt, TryLockError};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::child::Child;
pub(crate) use self::probe::Site;
pub(crate) use self::summary::Summary;
use crate::{
    api::Api,
    args::{DownArgs, SeedArgs, UpArgs},
    cluster::{Applied, Cluster, LbAddress, Manifest, Node, Region, Runtime, Shard, Spec},
    output, seed,
};

/// How long a process may take until it is ready, and a child until it has drained.
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(15);

/// Every port that is listened on; kept in the data folder so that a second start finds the same addresses.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Ports {
    api: u16,
    feed: u16,
    http: u16,
    https: u16,
    dns: u16,
    /// One for each web node.
    sites: Vec<u16>,
    /// Controller's is the API's own; edge, dns, then one for each web node.
    admin: Vec<u16>,
}

/// The data folder, locked: two `up` on one folder would fight for its stores.
struct DataFolder {
    path: PathBuf,
    lock: File,
}

impl DataFolder {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot use the data folder {}; choose another with --data", path.display());
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).with_context(cannot)?;
        let path = path.canonicalize().with_context(cannot)?;
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("lock"))
            .with_context(cannot)?;
        match FileExt::try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                bail!(
                    "the data folder {} is in use by another `up` (pid {}): end it with `hostctl down`, or choose \
                     another folder with --data",
                    path.display(),
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        lock.set_len(0).with_context(cannot)?;
        lock.rewind().with_context(cannot)?;
        writeln!(lock, "{}", std::process::id()).with_context(|| {
            format!(
                "cannot write to {}: is the disk full? free some, or choose another with --data",
                path.display()
            )
        })?;
        for folder in ["run", "log"] {
            fs::create_dir_all(path.join(folder)).with_context(cannot)?;
        }
        for folder in ["controller", "edge", "dns"] {
            private_folder(&path.join(folder)).with_context(cannot)?;
        }
        Ok(Self { path, lock })
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Prints what happens: a spinner for people, a line a step for logs.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    text: String,
}

impl Progress {
    fn new() -> Self {
        Self { bar: None, begun: Instant::now(), text: String::new() }
    }

    fn step(&mut self, text: impl Into<String>) {
        self.done();
        self.text = text.into();
        self.begun = Instant::now();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(self.text.clone());
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some(bar);
        }
    }

    fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.text.is_empty() {
            output::note(format!("  ok {} ({:.1} s)", self.text, self.begun.elapsed().as_secs_f64()));
            self.text.clear();
        }
    }

    fn failed(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.text.is_empty() {
            output::note(format!("  failed: {}", self.text));
            self.text.clear();
        }
    }
}

/// The platform's processes.
struct Platform {
    data: DataFolder,
    args: UpArgs,
    ports: Ports,
    children: Vec<Child>,
    programs: PathBuf,
    php: String,
}

pub(crate) async fn run(args: UpArgs, data: &Path) -> anyhow::Result<ExitCode> {
    let data = DataFolder::open(data)?;
    Summary::remove(&data.path)?;
    output::note(format!("Starting the platform in {}", data.path.display()));
    output::note("  isolation: none (every site runs as this user; do not host strangers with `up`)");

    let mut progress = Progress::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut platform = tokio::select! {
        platform = Platform::prepare(data, args, &mut progress) => platform?,
        _ = int.recv() => bail!("interrupted"),
        _ = term.recv() => bail!("ended by SIGTERM"),
    };
    let outcome = tokio::select! {
        outcome = platform.start_and_watch(&mut progress) => outcome,
        _ = int.recv() => { output::note("\nCtrl-C: ending everything"); Ok(()) }
        _ = term.recv() => { output::note("SIGTERM: ending everything"); Ok(()) }
    };
    if outcome.is_err() {
        progress.failed();
    }
    platform.end().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Platform {
    async fn prepare(data: DataFolder, args: UpArgs, progress: &mut Progress) -> anyhow::Result<Self> {
        progress.step("looking at the machine");
        needs::disk(&data.path)?;
        needs::nginx()?;
        let (_, php) = needs::php_fpm()?;
        let programs = match &args.bin_dir {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()?.parent().context("no folder")?.to_owned(),
        };
        for name in ["hosting-controller", "hosting-edge", "hosting-dns", "hosting-nodeagent"] {
            if !programs.join(name).is_file() {
                bail!("{} is missing in {}: run `cargo build --release`", name, programs.display());
            }
        }
        let leftovers = child::end_leftovers(&data.path, END_LIMIT).await?;
        if !leftovers.is_empty() {
            output::note(format!("  ended what an earlier `up` left behind: {}", leftovers.join(", ")));
        }
        let ports = choose_ports(&data, &args)?;
        check_ports(&args, &ports)?;
        Ok(Self { data, args, ports, children: Vec::new(), programs, php })
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.args.address, port)
    }

    /// The IPv6 loopback beside an IPv4 loopback, where there is one.
    fn public(&self, port: u16) -> Vec<String> {
        let mut addresses = vec![self.at(port).to_string()];
        if self.has_ipv6() {
            addresses.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port).to_string());
        }
        addresses
    }

    fn has_ipv6(&self) -> bool {
        self.args.ipv6
            && self.args.address.is_ipv4()
            && self.args.address.is_loopback()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
    }

    async fn start_and_watch(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let api = self.start_controller(progress).await?;
        progress.step("region, cluster, shards and nodes");
        let applied = crate::cluster::apply(&api, &self.manifest()).await?;
        self.start_roles(&api, progress).await?;

        let mut sites = Vec::new();
        if !self.args.no_seed {
            progress.step(format!("seeding {}", self.args.seed.display()));
            let seeded = self.seed(&api, &applied).await?;
            sites = seeded;
            progress.step("waiting for every site to answer");
            probe::until_all_answer(&sites, &self.targets(), START_LIMIT).await?;
        }
        progress.done();
        self.summary(&sites).write(&self.data.path).context("cannot write up.json")?;
        self.print(&sites);
        self.watch().await
    }

    async fn start_controller(&mut self, progress: &mut Progress) -> anyhow::Result<Api> {
        progress.step("controller");
        let folder = self.data.join("controller");
        let key_file = self.admin_key_file();
        let arguments = vec![
            flag("--data-dir", folder.display()),
            flag("--listen", self.at(self.ports.api)),
            flag("--feed-listen", self.at(self.ports.feed)),
            flag("--bootstrap-key-file", key_file.display()),
        ];
        self.start("controller", "hosting-controller", arguments, self.at(self.ports.api)).await?;
        let key = fs::read_to_string(&key_file)
            .with_context(|| format!("the controller wrote no admin key to {}", key_file.display()))?;
        Api::new(&format!("http://{}", self.at(self.ports.api)), &key)
    }

    async fn start_roles(&mut self, api: &Api, progress: &mut Progress) -> anyhow::Result<()> {
        let feed = self.at(self.ports.feed);
        progress.step("edge");
        let mut arguments = self.role_arguments(api, "edge", "edge-1", feed, self.ports.admin[0]).await?;
        arguments.extend(self.public(self.ports.http).iter().map(|a| flag("--http-listen", a)));
        arguments.extend(self.public(self.ports.https).iter().map(|a| flag("--https-listen", a)));
        self.start("edge", "hosting-edge", arguments, self.at(self.ports.admin[0])).await?;

        progress.step("dns");
        let mut arguments = self.role_arguments(api, "dns", "dns-1", feed, self.ports.admin[1]).await?;
        arguments.extend(self.public(self.ports.dns).iter().map(|a| flag("--listen", a)));
        self.start("dns", "hosting-dns", arguments, self.at(self.ports.admin[1])).await?;

        for index in 0..self.ports.sites.len() {
            let role = node_role(index);
            progress.step(role.clone());
            let admin = self.ports.admin[2 + index];
            let mut arguments =
                self.role_arguments(api, &role, &format!("web-{}", index + 1), feed, admin).await?;
            arguments.push(flag("--storage-dir", self.storage().display()));
            arguments.push(flag("--listen", self.at(self.ports.sites[index])));
            // A clone below /root is nothing that www-data may enter, and `up` promises no isolation.
            arguments.push("--allow-root-sites".to_owned());
            self.start(&role, "hosting-nodeagent", arguments, self.at(admin)).await?;
        }
        Ok(())
    }

    /// What every subscriber is started with; makes a join token if the role has no identity yet.
    async fn role_arguments(
        &self,
        api: &Api,
        role: &str,
        node: &str,
        feed: SocketAddr,
        admin: u16,
    ) -> anyhow::Result<Vec<String>> {
        let folder = self.data.join(role);
        private_folder(&folder)?;
        let token_file = folder.join("join-token");
        if !folder.join("identity").exists() {
            let answer = api.post(&format!("/nodes/{node}/join-tokens"), &json!({})).await?;
            let token = answer["token"].as_str().context("no join token in the API's answer")?;
            write_private(&token_file, token)?;
        }
        Ok(vec![
            flag("--data-dir", folder.display()),
            flag("--controller", feed),
            flag("--join-token-file", token_file.display()),
            flag("--admin-listen", self.at(admin)),
        ])
    }

    /// Starts a child and waits until it says that it is ready.
    async fn start(
        &mut self,
        role: &str,
        program: &str,
        arguments: Vec<String>,
        admin: SocketAddr,
    ) -> anyhow::Result<()> {
        let mut child = Child::new(&self.data.path, role, &self.programs.join(program), arguments);
        child.start()?;
        self.children.push(child);
        let Some(child) = self.children.last_mut() else { return Ok(()) };
        let until = Instant::now() + START_LIMIT;
        loop {
            if let Some(how) = child.ended() {
                bail!(
                    "{role} ended ({how}); its last words in {}:\n{}",
                    child.log().display(),
                    child.last_lines(8)
                );
            }
            let state = probe::readiness(admin).await;
            match state {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > until => {
                    bail!(
                        "{role} is not ready after {} s: {why}; its last words in {}:\n{}",
                        START_LIMIT.as_secs(),
                        child.log().display(),
                        child.last_lines(8)
                    )
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn seed(&self, api: &Api, applied: &Applied) -> anyhow::Result<Vec<Site>> {
        let args = SeedArgs {
            file: self.args.seed.clone(),
            storage: Some(self.storage()),
            timeout: Duration::from_secs(60),
        };
        let vars = BTreeMap::from([("PHP_VERSION".to_owned(), self.php.clone())]);
        let seeded = seed::apply(api, &args, &vars, Some(&applied.cluster_id)).await?;
        Ok(seeded.sites)
    }

    async fn watch(&mut self) -> anyhow::Result<()> {
        let mut pauses: BTreeMap<String, Duration> = BTreeMap::new();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut changed = false;
            for child in &mut self.children {
                let Some(how) = child.ended() else { continue };
                if self.args.no_restart {
                    output::note(format!("{} ended ({how})", child.role));
                    changed = true;
                    continue;
                }
                let pause = pauses.entry(child.role.clone()).or_insert(Duration::from_millis(500));
                output::note(format!(
                    "{} ended ({how}); starting it again in {:.1} s, log {}",
                    child.role,
                    pause.as_secs_f64(),
                    child.log().display()
                ));
                tokio::time::sleep(*pause).await;
                *pause = (*pause * 2).min(Duration::from_secs(30));
                child.start()?;
                changed = true;
            }
            if changed && let Some(mut summary) = Summary::read(&self.data.path) {
                summary.pids = self.pids();
                summary.write(&self.data.path)?;
            }
        }
    }

    /// Ends children in the reverse order of their start.
    async fn end(mut self) {
        let _ = Summary::remove(&self.data.path);
        for child in self.children.iter_mut().rev() {
            child.end(END_LIMIT).await;
        }
        let _ = self.data.lock.set_len(0);
        output::note("Ended. Everything stored is kept; `up` goes on from it.");
    }

    fn admin_key_file(&self) -> PathBuf {
        self.data.join("controller").join("admin.key")
    }

    fn storage(&self) -> PathBuf {
        self.data.join("storage")
    }

    fn targets(&self) -> probe::Targets {
        probe::Targets {
            http: self.at(self.ports.http),
            https: self.at(self.ports.https),
            dns: self.at(self.ports.dns),
            ca_file: self.edge_ca_file(),
            addresses: self.lb_addresses(),
        }
    }

    fn edge_ca_file(&self) -> PathBuf {
        self.data.join("edge").join("dev-ca.pem")
    }

    fn lb_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = vec![self.args.address];
        if self.has_ipv6() {
            addresses.push(Ipv6Addr::LOCALHOST.into());
        }
        addresses
    }

    fn pids(&self) -> BTreeMap<String, u32> {
        let mut pids: BTreeMap<String, u32> =
            self.children.iter().filter_map(|child| Some((child.role.clone(), child.pid()?))).collect();
        pids.insert("up".to_owned(), std::process::id());
        pids
    }

    fn manifest(&self) -> Manifest {
        let address = self.args.address.to_string();
        let node = |id: &str, shard: &str, web_port: Option<u16>| Node {
            id: id.to_owned(),
            hostname: format!("{id}.localdomain"),
            shard_name: Some(shard.to_owned()),
            ip_address: Some(address.clone()),
            web_port,
            ..Node::default()
        };
        let mut nodes = vec![node("edge-1", "lb-1", None), node("dns-1", "dns-1", None)];
        for (index, port) in self.ports.sites.iter().enumerate() {
            nodes.push(node(&format!("web-{}", index + 1), "web-1", Some(*port)));
        }
        let shards = [("web-1", "web"), ("lb-1", "lb"), ("dns-1", "dns")].map(|(name, role)| Shard {
            name: name.to_owned(),
            role: role.to_owned(),
            ..Shard::default()
        });
        Manifest {
            region: Some(Region { name: "default".to_owned() }),
            cluster: Some(Cluster {
                name: "cluster-1".to_owned(),
                lb_addresses: self
                    .lb_addresses()
                    .into_iter()
                    .map(|address| LbAddress { address: address.to_string(), label: "loopback".to_owned() })
                    .collect(),
                spec: Spec { shards: shards.into(), ..Spec::default() },
                nodes,
                ..Cluster::default()
            }),
            cluster_runtimes: vec![Runtime { runtime: "php".to_owned(), version: self.php.clone() }],
            ..Manifest::default()
        }
    }

    fn summary(&self, sites: &[Site]) -> Summary {
        let admin = |port: u16| self.at(port).to_string();
        let mut admins = BTreeMap::from([
            ("controller".to_owned(), admin(self.ports.api)),
            ("edge".to_owned(), admin(self.ports.admin[0])),
            ("dns".to_owned(), admin(self.ports.admin[1])),
        ]);
        for index in 0..self.ports.sites.len() {
            admins.insert(node_role(index), admin(self.ports.admin[2 + index]));
        }
        Summary {
            api: format!("http://{}", self.at(self.ports.api)),
            edge_http: self.at(self.ports.http).to_string(),
            edge_https: self.at(self.ports.https).to_string(),
            dns: self.at(self.ports.dns).to_string(),
            admin_key_file: self.admin_key_file(),
            edge_ca_file: self.edge_ca_file(),
            storage: self.storage(),
            demo_fqdns: sites.iter().map(|site| site.fqdn.clone()).collect(),
            pids: self.pids(),
            admin: admins,
            commands: self.children.iter().map(|child| (child.role.clone(), child.command.clone())).collect(),
        }
    }

    fn print(&self, sites: &[Site]) {
        let (http, https, dns) = (self.ports.http, self.ports.https, self.at(self.ports.dns));
        output::line("");
        output::table(
            &["site", "brand", "runtime", "http", "https"],
            sites.iter().map(|site| {
                vec![
                    site.fqdn.clone(),
                    site.brand.clone(),
                    site.runtime.clone(),
                    format!("http://{}:{http}/", site.fqdn),
                    format!("https://{}:{https}/", site.fqdn),
                ]
            }),
        );
        output::line("");
        if let Some(site) = sites.first() {
            let (name, ip) = (&site.fqdn, self.args.address);
            output::line("Try:");
            output::line(format!("  curl --noproxy '*' --resolve {name}:{http}:{ip} http://{name}:{http}/"));
            output::line(format!(
                "  curl --noproxy '*' --cacert {} --resolve {name}:{https}:{ip} https://{name}:{https}/",
                self.edge_ca_file().display()
            ));
            output::line(format!("  dig @{} -p {} {name} A +short", dns.ip(), dns.port()));
            output::line(format!(
                "  {} --data {} explain {name}",
                self.programs.join("hostctl").display(),
                self.data.path.display()
            ));
            output::line("");
        }
        output::line(format!("API        http://{}  (reference: /docs)", self.at(self.ports.api)));
        output::line(format!("Admin key  {}", self.admin_key_file().display()));
        output::line(format!("Summary    {}", self.data.join("up.json").display()));
        output::line(format!("Logs       {}", self.data.join("log").display()));
        output::line("Isolation  none");
        output::line("Ctrl-C ends everything; what is stored is kept.");
    }
}

fn node_role(index: usize) -> String {
    if index == 0 { "nodeagent".to_owned() } else { format!("nodeagent-{}", index + 1) }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}

pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(cannot)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).with_context(cannot)?;
    writeln!(file, "{text}").with_context(cannot)
}

fn choose_ports(data: &DataFolder, args: &UpArgs) -> anyhow::Result<Ports> {
    let nodes = args.web_nodes;
    if !args.auto_ports {
        return Ok(Ports {
            api: args.api_port,
            feed: args.feed_port,
            http: args.http_port,
            https: args.https_port,
            dns: args.dns_port,
            sites: (0..nodes).map(|index| args.sites_port + index).collect(),
            admin: (0..nodes + 2).map(|index| args.admin_port + index).collect(),
        });
    }
    let file = data.join("ports.json");
    let stored = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
    if let Some(ports) = stored
        && ports.sites.len() == usize::from(nodes)
    {
        return Ok(ports);
    }
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut next = || -> anyhow::Result<u16> {
        loop {
            let listener = TcpListener::bind((args.address, 0)).context("no free port")?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            if std::net::UdpSocket::bind((args.address, port)).is_ok() {
                return Ok(port);
            }
        }
    };
    let ports = Ports {
        api: next()?,
        feed: next()?,
        http: next()?,
        https: next()?,
        dns: next()?,
        sites: (0..nodes).map(|_| next()).collect::<Result<_, _>>()?,
        admin: (0..nodes + 2).map(|_| next()).collect::<Result<_, _>>()?,
    };
    fs::write(&file, serde_json::to_vec(&ports)?).context("cannot write ports.json")?;
    Ok(ports)
}

fn check_ports(args: &UpArgs, ports: &Ports) -> anyhow::Result<()> {
    let at = |port: u16| SocketAddr::new(args.address, port);
    needs::port(at(ports.api), false, "API", "--api-port")?;
    needs::port(at(ports.feed), false, "feed", "--feed-port")?;
    needs::port(at(ports.http), false, "edge HTTP", "--http-port")?;
    needs::port(at(ports.https), false, "edge HTTPS", "--https-port")?;
    needs::port(at(ports.dns), true, "DNS", "--dns-port")?;
    for port in &ports.sites {
        needs::port(at(*port), false, "sites", "--sites-port")?;
    }
    for port in &ports.admin {
        needs::port(at(*port), false, "admin", "--admin-port")?;
    }
    Ok(())
}

/// `hostctl down`.
pub(crate) async fn down(args: &DownArgs, data: &Path) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let holder = fs::read_to_string(data.join("lock")).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let in_use = File::options()
        .write(true)
        .open(data.join("lock"))
        .is_ok_and(|lock| matches!(FileExt::try_lock(&lock), Err(TryLockError::WouldBlock)));
    if let (true, Some(pid)) = (in_use, holder) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .with_context(|| format!("cannot end `up` (pid {pid})"))?;
        let until = Instant::now() + patience + END_LIMIT * 4;
        while Path::new(&format!("/proc/{pid}/stat")).exists() && Instant::now() < until {
            if File::options()
                .write(true)
                .open(data.join("lock"))
                .is_ok_and(|lock| FileExt::try_lock(&lock).is_ok())
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        output::line("ended");
        return Ok(());
    }
    let ended = child::end_leftovers(data, patience).await?;
    Summary::remove(data)?;
    if ended.is_empty() {
        output::line("nothing is running");
    } else {
        output::line(format!("ended {}", ended.join(", ")));
    }
    Ok(())
}

/// `hostctl status`.
pub(crate) async fn status(data: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let summary = Summary::read(data)
        .with_context(|| format!("nothing is up in {}; start it with `hostctl up`", data.display()))?;
    if as_json {
        output::json(&serde_json::to_value(&summary)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows = summary.pids.iter().map(|(role, pid)| {
        let runs = Path::new(&format!("/proc/{pid}")).exists();
        let admin = summary.admin.get(role).cloned().unwrap_or_else(|| "-".to_owned());
        vec![role.clone(), pid.to_string(), if runs { "yes" } else { "no" }.to_owned(), admin]
    });
    output::table(&["process", "pid", "runs", "admin"], rows);
    Ok(ExitCode::SUCCESS)
}
