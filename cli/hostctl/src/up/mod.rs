//! `hostctl up`: the whole platform on one machine, with the production binaries as children.
//!
//! Isolation: none. Children and sites run as the user that started `up`; for development and first looks.

mod child;
mod folder;
mod needs;
mod ports;
pub(crate) mod probe;
mod progress;
mod status;
mod summary;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::folder::write_private;
pub(crate) use self::probe::Site;
pub(crate) use self::status::{down, status};
pub(crate) use self::summary::Summary;
use self::{
    child::Child,
    folder::{DataFolder, private_folder},
    ports::Ports,
    probe::Silent,
    progress::Progress,
};
use crate::{
    api::Api,
    args::{SeedArgs, UpArgs},
    cluster::{Applied, Cluster, LbAddress, Manifest, Node, Region, Runtime, Shard, Spec},
    output, seed,
};

/// How long a process may take until it is ready, and a child until it has drained.
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(15);
/// Pauses before a child is started again: the first, and the longest after repeated ends.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that ran this long was sound: its next pause is the first again.
const SOUND_AFTER: Duration = Duration::from_secs(60);
/// Lines of its log that are shown of a child that ended.
const LAST_WORDS: usize = 8;
/// Where data goes unless it is said.
const DEFAULT_DATA: &str = "var";

/// What asks `up` to end.
struct Ends {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            // The terminal is gone: without this, children would outlive it.
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "Ctrl-C",
            _ = self.term.recv() => "SIGTERM",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}

/// `hostctl up`.
pub(crate) async fn run(args: UpArgs, data: &Path) -> anyhow::Result<ExitCode> {
    let mut ends = Ends::new()?;
    let mut progress = Progress::new();
    let data = DataFolder::open(data)?;
    Summary::remove(data.path())?;
    output::note(format!("Starting the platform in {}", data.path().display()));
    output::note("  isolation: none (every site runs as this user; do not host strangers with `up`)");

    let plan = tokio::select! {
        plan = Plan::prepare(data, args, &mut progress) => plan.inspect_err(|_| progress.failed())?,
        why = ends.next() => {
            progress.clear();
            output::note(format!("{why}: nothing was started"));
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
    };
    let mut platform = Platform { plan, children: Vec::new(), is_up: false };
    let outcome = tokio::select! {
        outcome = platform.start_and_watch(&mut progress) => outcome,
        why = ends.next() => {
            progress.clear();
            output::note(format!("\n{why}: ending everything (once more: at once)"));
            Ok(())
        }
    };
    if outcome.is_err() {
        progress.failed();
    }
    let is_up = platform.is_up;
    platform.end(&mut ends).await;
    outcome?;
    Ok(if is_up { ExitCode::SUCCESS } else { ExitCode::from(output::INTERRUPTED) })
}

/// The pid of an `up` that holds the folder, for those who found no summary there.
pub(crate) fn starting(data: &Path) -> Option<i32> {
    DataFolder::holder(data)
}

/// The platform's processes.
struct Platform {
    plan: Plan,
    children: Vec<Child>,
    /// Everything was started and seeded.
    is_up: bool,
}

impl Platform {
    /// Returns only when something went wrong.
    async fn start_and_watch(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let Self { plan, children, is_up } = self;
        let api = plan.start_controller(children, progress).await?;
        progress.step("region, cluster, shards and nodes");
        let manifest = plan.manifest();
        let applied = while_all_live(children, async {
            let applied = crate::cluster::apply(&api, &manifest).await?;
            plan.align_nodes(&api, &manifest).await?;
            Ok(applied)
        })
        .await?;
        plan.start_roles(&api, children, progress).await?;

        let (mut sites, mut silent) = (Vec::new(), Vec::new());
        if !plan.args.no_seed {
            progress.step(format!("seeding {}", plan.args.seed.display()));
            sites = while_all_live(children, plan.seed(&api, &applied)).await?;
            progress.step("waiting for every site to answer");
            let targets = plan.targets();
            let waiting = |what: &str| progress.waits_for(what);
            silent = while_all_live(children, async {
                Ok(probe::until_all_answer(&sites, &targets, START_LIMIT, waiting).await)
            })
            .await?;
        }
        if silent.is_empty() {
            progress.done();
        } else {
            progress.failed();
        }
        let summary = plan.summary(&sites, children);
        summary.write(plan.data.path()).context("cannot write up.json")?;
        plan.print(&sites, &silent);
        *is_up = true;
        plan.watch(children).await
    }

    /// Ends children in the reverse order of their start; at once when asked again.
    async fn end(mut self, ends: &mut Ends) {
        let _ = Summary::remove(self.plan.data.path());
        let children = &mut self.children;
        tokio::select! {
            () = async { for child in children.iter_mut().rev() { child.end(END_LIMIT).await; } } => {}
            why = ends.next() => {
                output::note(format!("{why} again: killing what has not ended"));
                for child in self.children.iter_mut().rev() {
                    child.end(Duration::ZERO).await;
                }
            }
        }
        self.plan.data.leave();
        output::note("Ended. Everything stored is kept; `up` goes on from it.");
    }
}

/// Does `work` unless a child ends: then that is the error, with the child's last words.
async fn while_all_live<T>(
    children: &mut [Child],
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let death = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(error) = dead(children) {
                return error;
            }
        }
    };
    let error = tokio::select! {
        done = work => match done {
            Ok(done) => return Ok(done),
            Err(error) => error,
        },
        error = death => return Err(error),
    };
    // What failed may have failed because of a child that is just ending.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Err(dead(children).unwrap_or(error))
}

/// The first child that has ended, as an error.
fn dead(children: &mut [Child]) -> Option<anyhow::Error> {
    children.iter_mut().find_map(|child| {
        let how = child.ended()?;
        Some(anyhow::anyhow!("{} ended ({how}). {}", child.role, last_words(child)))
    })
}

fn last_words(child: &Child) -> String {
    let lines = child.last_lines(LAST_WORDS);
    let log = child.log().display();
    if lines.is_empty() {
        return format!("It wrote nothing to {log}");
    }
    let lines = lines.replace('\n', "\n    ");
    format!(
        "Its last words, in {log}:\n    {lines}\nMend what they name, then start again: everything stored is kept"
    )
}

/// Starts a child and waits until it says that it is ready.
async fn start(
    children: &mut Vec<Child>,
    mut child: Child,
    admin: SocketAddr,
    progress: &Progress,
) -> anyhow::Result<()> {
    child.start()?;
    children.push(child);
    let until = Instant::now() + START_LIMIT;
    loop {
        if let Some(error) = dead(children) {
            return Err(error);
        }
        match (probe::readiness(admin).await, children.last()) {
            (Err(why), Some(child)) if Instant::now() > until => bail!(
                "{} is not ready after {} s: {}. {}",
                child.role,
                START_LIMIT.as_secs(),
                why.trim(),
                last_words(child)
            ),
            (Err(why), Some(_)) => {
                progress.waits_for(why.trim());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (Ok(()), _) | (Err(_), None) => return Ok(()),
        }
    }
}

/// What runs, where and how.
struct Plan {
    data: DataFolder,
    args: UpArgs,
    ports: Ports,
    programs: PathBuf,
    php: String,
}

impl Plan {
    /// Looks for everything that could be in the way, before anything is started.
    async fn prepare(data: DataFolder, args: UpArgs, progress: &mut Progress) -> anyhow::Result<Self> {
        progress.step("looking at the machine");
        if args.address.is_unspecified() {
            bail!("--address {}: name an address that visitors can reach, not all of them", args.address);
        }
        needs::disk(data.path())?;
        needs::nginx()?;
        let (_, php) = needs::php_fpm()?;
        let programs = match &args.bin_dir {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()?.parent().context("no folder")?.to_owned(),
        };
        for name in ["hosting-controller", "hosting-edge", "hosting-dns", "hosting-nodeagent"] {
            if !programs.join(name).is_file() {
                bail!(
                    "{name} is missing in {}: build it with `cargo build --release --workspace --bins` and run \
                     `target/release/hostctl up`, or name another folder with --bin-dir",
                    programs.display()
                );
            }
        }
        if !args.no_seed {
            seed::check(&args.seed, &seed_vars(&php))
                .context("nothing to seed; give another file with --seed FILE, or --no-seed")?;
        }
        let leftovers = child::end_leftovers(data.path(), END_LIMIT).await?;
        if !leftovers.is_empty() {
            progress.clear();
            output::note(format!("  ended what an earlier `up` left behind: {}", leftovers.join(", ")));
        }
        let ports = Ports::choose(&data, &args)?;
        Ok(Self { data, args, ports, programs, php })
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

    fn child(&self, role: &str, program: &str, arguments: Vec<String>) -> Child {
        Child::new(self.data.path(), role, &self.programs.join(program), arguments)
    }

    async fn start_controller(
        &self,
        children: &mut Vec<Child>,
        progress: &mut Progress,
    ) -> anyhow::Result<Api> {
        progress.step("controller");
        let folder = self.data.join("controller");
        let key_file = self.admin_key_file();
        let arguments = vec![
            flag("--data-dir", folder.display()),
            flag("--listen", self.at(self.ports.api)),
            flag("--feed-listen", self.at(self.ports.feed)),
            flag("--bootstrap-key-file", key_file.display()),
        ];
        let child = self.child("controller", "hosting-controller", arguments);
        start(children, child, self.at(self.ports.api), progress).await?;
        let key = fs::read_to_string(&key_file)
            .with_context(|| format!("the controller wrote no admin key to {}", key_file.display()))?;
        Api::new(&format!("http://{}", self.at(self.ports.api)), &key)
    }

    /// Tells the API of ports and addresses that are others than at the last start.
    async fn align_nodes(&self, api: &Api, manifest: &Manifest) -> anyhow::Result<()> {
        for node in manifest.cluster.iter().flat_map(|cluster| &cluster.nodes) {
            let path = format!("/nodes/{}", node.id);
            let present = api.get(&path).await?;
            let mut change = serde_json::Map::new();
            if let Some(port) = node.web_port.filter(|port| present["web_port"] != *port) {
                change.insert("web_port".to_owned(), json!(port));
            }
            if let Some(address) =
                node.ip_address.as_ref().filter(|one| present["ip_address"] != one.as_str())
            {
                change.insert("ip_address".to_owned(), json!(address));
            }
            if !change.is_empty() {
                api.put(&path, &change.into()).await.with_context(|| format!("node {}", node.id))?;
            }
        }
        Ok(())
    }

    async fn start_roles(
        &self,
        api: &Api,
        children: &mut Vec<Child>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let admin = |index: usize| self.ports.admin.get(index).copied().context("too few admin ports");
        progress.step("edge");
        let mut arguments = self.role_arguments(api, "edge", "edge-1", admin(0)?).await?;
        arguments.extend(self.public(self.ports.http).iter().map(|a| flag("--http-listen", a)));
        arguments.extend(self.public(self.ports.https).iter().map(|a| flag("--https-listen", a)));
        let child = self.child("edge", "hosting-edge", arguments);
        start(children, child, self.at(admin(0)?), progress).await?;

        progress.step("dns");
        let mut arguments = self.role_arguments(api, "dns", "dns-1", admin(1)?).await?;
        arguments.extend(self.public(self.ports.dns).iter().map(|a| flag("--listen", a)));
        let child = self.child("dns", "hosting-dns", arguments);
        start(children, child, self.at(admin(1)?), progress).await?;

        for (index, port) in self.ports.sites.iter().enumerate() {
            let role = node_role(index);
            progress.step(role.clone());
            let admin = admin(2 + index)?;
            let mut arguments = self.role_arguments(api, &role, &format!("web-{}", index + 1), admin).await?;
            arguments.push(flag("--storage-dir", self.storage().display()));
            arguments.push(flag("--listen", self.at(*port)));
            // A clone below /root is nothing that www-data may enter, and `up` promises no isolation.
            arguments.push("--allow-root-sites".to_owned());
            let child = self.child(&role, "hosting-nodeagent", arguments);
            start(children, child, self.at(admin), progress).await?;
        }
        Ok(())
    }

    /// What every subscriber is started with; makes a join token if the role has no identity yet.
    async fn role_arguments(
        &self,
        api: &Api,
        role: &str,
        node: &str,
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
            flag("--controller", self.at(self.ports.feed)),
            flag("--join-token-file", token_file.display()),
            flag("--admin-listen", self.at(admin)),
        ])
    }

    async fn seed(&self, api: &Api, applied: &Applied) -> anyhow::Result<Vec<Site>> {
        let args = SeedArgs {
            file: self.args.seed.clone(),
            storage: Some(self.storage()),
            timeout: Duration::from_secs(60),
        };
        let seeded = seed::apply(api, &args, &seed_vars(&self.php), Some(&applied.cluster_id)).await?;
        Ok(seeded.sites)
    }

    /// Starts again what ends, after pauses that grow. Never returns without an error.
    async fn watch(&self, children: &mut [Child]) -> anyhow::Result<()> {
        let mut lives: Vec<Life> = children.iter().map(|_| Life::new()).collect();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut changed = false;
            for (child, life) in children.iter_mut().zip(&mut lives) {
                if let Some(how) = child.ended() {
                    changed = true;
                    let words = child.last_lines(1);
                    let log = child.log().display();
                    if self.args.no_restart {
                        output::note(format!("{} ended ({how}): {words}; log {log}", child.role));
                    } else {
                        let pause = life.ended();
                        output::note(format!(
                            "{} ended ({how}): {words}; starting it again in {:.1} s, log {log}",
                            child.role,
                            pause.as_secs_f64(),
                        ));
                    }
                }
                if life.is_due() {
                    changed = true;
                    match child.start() {
                        Ok(()) => life.started(),
                        Err(error) => {
                            let pause = life.ended();
                            output::note(format!("{error:#}; trying again in {:.1} s", pause.as_secs_f64()));
                        }
                    }
                }
            }
            if changed && let Some(mut summary) = Summary::read(self.data.path()) {
                summary.pids = pids(children);
                if let Err(error) = summary.write(self.data.path()) {
                    output::note(format!("cannot write up.json: {error}; is the disk full?"));
                }
            }
        }
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

    fn summary(&self, sites: &[Site], children: &[Child]) -> Summary {
        let admin = |port: u16| self.at(port).to_string();
        let roles = ["edge".to_owned(), "dns".to_owned()];
        let roles = roles.into_iter().chain((0..self.ports.sites.len()).map(node_role));
        let mut admins: BTreeMap<String, String> =
            roles.zip(&self.ports.admin).map(|(role, port)| (role, admin(*port))).collect();
        admins.insert("controller".to_owned(), admin(self.ports.api));
        Summary {
            api: format!("http://{}", self.at(self.ports.api)),
            edge_http: self.at(self.ports.http).to_string(),
            edge_https: self.at(self.ports.https).to_string(),
            dns: self.at(self.ports.dns).to_string(),
            admin_key_file: self.admin_key_file(),
            edge_ca_file: self.edge_ca_file(),
            storage: self.storage(),
            demo_fqdns: sites.iter().map(|site| site.fqdn.clone()).collect(),
            pids: pids(children),
            admin: admins,
            commands: children.iter().map(|child| (child.role.clone(), child.command.clone())).collect(),
        }
    }

    fn print(&self, sites: &[Site], silent: &[Silent]) {
        let (http, https, dns) = (self.ports.http, self.ports.https, self.at(self.ports.dns));
        output::line("");
        if !sites.is_empty() {
            let rows = sites.iter().flat_map(|site| {
                let name = &site.fqdn;
                [
                    vec![
                        name.clone(),
                        site.brand.clone(),
                        site.runtime.clone(),
                        format!("http://{name}:{http}/"),
                    ],
                    vec![String::new(), String::new(), String::new(), format!("https://{name}:{https}/")],
                ]
            });
            output::list(&["site", "brand", "runtime", "url"], rows.collect(), &["site", "url"]);
            output::line("");
        }
        for site in sites.iter().filter(|site| site.suspended) {
            output::line(format!("{} is suspended: visitors get a page that says so", site.fqdn));
        }
        for site in silent {
            output::line(format!(
                "{} {} does not answer as it should: {}",
                output::bad("broken"),
                site.fqdn,
                site.why
            ));
        }
        if let Some(site) = silent.first() {
            output::line(format!("  see {} explain {}\n", self.hostctl(), site.fqdn));
        }
        if let Some(site) = sites.first() {
            let (name, ip) = (&site.fqdn, self.args.address);
            output::line("Try:");
            output::line(format!("  curl --noproxy '*' --resolve {name}:{http}:{ip} http://{name}:{http}/"));
            output::line(format!(
                "  curl --noproxy '*' --cacert {} --resolve {name}:{https}:{ip} https://{name}:{https}/",
                shell_word(&self.edge_ca_file().display().to_string())
            ));
            output::line(format!("  dig @{} -p {} {name} A +short", dns.ip(), dns.port()));
            output::line(format!("  {} explain {name}", self.hostctl()));
            output::line("");
        }
        output::line(format!("API        http://{0}  (reference: http://{0}/docs)", self.at(self.ports.api)));
        output::line(format!("Admin key  {}", self.admin_key_file().display()));
        output::line(format!("Summary    {}", self.data.join("up.json").display()));
        output::line(format!("Logs       {}", self.data.join("log").display()));
        output::line("Isolation  none");
        output::line("Ctrl-C ends everything; what is stored is kept.");
    }

    /// hostctl for this platform, as it is typed in the folder that `up` was started in.
    fn hostctl(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let program = self.programs.join("hostctl");
        let program = program.strip_prefix(&here).unwrap_or(&program).display().to_string();
        if self.data.path() == here.join(DEFAULT_DATA) {
            return shell_word(&program);
        }
        format!("{} --data {}", shell_word(&program), shell_word(&self.data.path().display().to_string()))
    }
}

/// When a child is started again.
struct Life {
    started: Instant,
    pause: Duration,
    due: Option<Instant>,
}

impl Life {
    fn new() -> Self {
        Self { started: Instant::now(), pause: FIRST_PAUSE, due: None }
    }

    /// Returns how long the pause is.
    fn ended(&mut self) -> Duration {
        if self.started.elapsed() > SOUND_AFTER {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.due = Some(Instant::now() + pause);
        pause
    }

    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    fn started(&mut self) {
        self.due = None;
        self.started = Instant::now();
    }
}

fn pids(children: &[Child]) -> BTreeMap<String, u32> {
    let mut pids: BTreeMap<String, u32> =
        children.iter().filter_map(|child| Some((child.role.clone(), child.pid()?))).collect();
    pids.insert("up".to_owned(), std::process::id());
    pids
}

fn seed_vars(php: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("PHP_VERSION".to_owned(), php.to_owned())])
}

fn node_role(index: usize) -> String {
    if index == 0 { "nodeagent".to_owned() } else { format!("nodeagent-{}", index + 1) }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}

/// As one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        for text in ["plain/path-1.x", "two words", "it's", "", "$(reboot)"] {
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", shell_word(text)))
                .output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_child_that_dies_is_the_error_whatever_failed_because_of_it() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("run")).unwrap();
        fs::create_dir(data.path().join("log")).unwrap();
        let script = vec!["-c".into(), "echo disk is full; exit 3".into()];
        for work_fails in [true, false] {
            let mut children = vec![Child::new(data.path(), "edge", Path::new("/bin/sh"), script.clone())];
            children[0].start().unwrap();
            let work = async {
                if !work_fails {
                    std::future::pending::<()>().await;
                }
                anyhow::Result::<()>::Err(anyhow::anyhow!("cannot connect"))
            };
            let error = while_all_live(&mut children, work).await.unwrap_err().to_string();
            assert!(error.contains("edge ended") && error.contains("disk is full"), "{error}");
        }
        let error = while_all_live(&mut [], async { anyhow::Result::<()>::Err(anyhow::anyhow!("other")) });
        assert_eq!(error.await.unwrap_err().to_string(), "other");
    }

    #[test]
    fn pauses_grow() {
        let mut life = Life::new();
        assert!(!life.is_due());
        let pauses: Vec<Duration> = (0..9).map(|_| life.ended()).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[8], LONGEST_PAUSE);
        life.due = Some(Instant::now());
        assert!(life.is_due());
        life.started();
        assert!(!life.is_due());
    }
}
