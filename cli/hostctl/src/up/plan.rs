//! What `up` runs, where and how; what could be in the way is found before anything is started.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use hosting_local_postgres::Server;
use serde_json::{Value, json};

use super::{
    DEFAULT_DATA, END_LIMIT,
    child::{self, Child},
    needs, pids,
    ports::Ports,
    postgres, start_child, while_all_live,
};
use crate::{
    api::{Api, encode},
    args::{SeedArgs, UpArgs},
    cluster::{Applied, Cluster, LbAddress, Manifest, Node, Region, Runtime, Shard, Spec},
    folder::{DataFolder, private_folder, write_private},
    format::Format,
    output,
    probe::{Silent, Site, Targets},
    progress::Progress,
    seed,
    summary::Summary,
};

/// How long a process may take to look at its configuration.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Tells the load-balancer addresses that `up` made from others.
const LB_LABEL: &str = "loopback";

/// What runs, where and how.
pub(super) struct Plan {
    pub(super) data: DataFolder,
    pub(super) args: UpArgs,
    ports: Ports,
    programs: PathBuf,
    php: String,
    /// The server that the store is on, if it is not a file.
    postgres: Option<Server>,
    /// What to seed, read before anything is started.
    seed: Option<seed::Manifest>,
}

/// A process that is told what to do by the controller.
struct Role {
    name: String,
    program: &'static str,
    /// Its node in the registry.
    node: String,
    admin: SocketAddr,
    arguments: Vec<String>,
}

impl Plan {
    /// Looks for everything that could be in the way, before anything is started.
    pub(super) async fn prepare(
        data: DataFolder,
        args: UpArgs,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        progress.step("looking at the machine");
        let args = UpArgs { address: usable(args.address)?, ..args };
        if data.path().to_str().is_none() {
            bail!("the path {} is not UTF-8; choose another folder with --data DIR", data.path().display());
        }
        needs::disk(data.path())?;
        needs::nginx()?;
        let (_, php) = needs::php_fpm()?;
        let programs = match &args.bin_dir {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()?.parent().context("no folder")?.to_owned(),
        };
        if programs.to_str().is_none() {
            bail!("the path {} is not UTF-8; name another folder with --bin-dir", programs.display());
        }
        for name in ["hosting-controller", "hosting-edge", "hosting-dns", "hosting-nodeagent"] {
            if !programs.join(name).is_file() {
                bail!(
                    "{name} is missing in {}: build it with `cargo build --release --workspace --bins` and run \
                     `target/release/hostctl up`, or name another folder with --bin-dir",
                    programs.display()
                );
            }
        }
        let seed = match args.no_seed {
            true => None,
            false => {
                let vars = [("PHP_VERSION", php.clone()), ("ADDRESS", args.address.to_string())];
                let vars = vars.map(|(name, value)| (name.to_owned(), value)).into();
                let manifest = seed::Manifest::read(&args.seed, &vars)
                    .context("nothing to seed; give another file with --seed FILE, or --no-seed")?;
                Some(manifest)
            }
        };
        let leftovers = child::end_leftovers(data.path(), END_LIMIT).await?;
        if !leftovers.is_empty() {
            progress.clear();
            output::note(format!("  ended what an earlier `up` left behind: {}", leftovers.join(", ")));
        }
        let ports = Ports::choose(&data, &args)?;
        let postgres = postgres::wanted(&data, args.database)?;
        let plan = Self { data, args, ports, programs, php, postgres, seed };
        plan.check_configurations().await?;
        Ok(plan)
    }

    /// Has every process look at what it will be started with: which paths and addresses it can work with it knows best.
    async fn check_configurations(&self) -> anyhow::Result<()> {
        let mut arguments = self.controller_arguments();
        // Its file is written once the server runs.
        arguments.retain(|argument| !argument.starts_with("--database-file"));
        let controller = ("controller".to_owned(), "hosting-controller", arguments);
        let roles = self.roles()?.into_iter().map(|role| (role.name, role.program, role.arguments));
        for (name, binary, arguments) in std::iter::once(controller).chain(roles) {
            let program = self.programs.join(binary);
            let check = tokio::process::Command::new(&program)
                .arg("--check-config")
                .args(arguments)
                .stdin(std::process::Stdio::null())
                .kill_on_drop(true)
                .output();
            let answer = match tokio::time::timeout(CHECK_LIMIT, check).await {
                Ok(answer) => answer.with_context(|| format!("cannot start {}", program.display()))?,
                Err(_) => bail!("{} --check-config does not answer", program.display()),
            };
            if !answer.status.success() {
                let words = String::from_utf8_lossy(&answer.stderr);
                let words = words.trim();
                bail!(
                    "{name} cannot run like this: {}. Nothing was started; where a path is in the way, choose another \
                     folder with --data DIR",
                    words.strip_prefix(&format!("{binary}: ")).unwrap_or(words)
                );
            }
        }
        Ok(())
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

    fn controller_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            flag("--data-dir", self.data.join("controller").display()),
            flag("--listen", self.at(self.ports.api)),
            flag("--feed-listen", self.at(self.ports.feed)),
            flag("--bootstrap-key-file", self.admin_key_file().display()),
        ];
        if self.postgres.is_some() {
            let file = postgres::database_file(self.data.path());
            arguments.push(flag("--database-file", file.display()));
        }
        arguments
    }

    pub(super) async fn start_controller(
        &self,
        children: &mut Vec<Child>,
        progress: &mut Progress,
    ) -> anyhow::Result<Api> {
        if let Some(server) = &self.postgres {
            progress.step("database");
            let mut child = postgres::child(&self.data, server)?;
            child.start()?;
            children.push(child);
            // It waits until the server answers. Ctrl-C is heard meanwhile.
            let (data, server) = (self.data.path().to_owned(), server.clone());
            let controller = self.programs.join("hosting-controller");
            let made = move || postgres::make_database(&data, &server, &controller);
            while_all_live(children, async { tokio::task::spawn_blocking(made).await? }).await?;
        }
        progress.step("controller");
        let key_file = self.admin_key_file();
        let child = self.child("controller", "hosting-controller", self.controller_arguments());
        start_child(children, child, self.at(self.ports.api), progress).await?;
        let key = fs::read_to_string(&key_file)
            .with_context(|| format!("the controller wrote no admin key to {}", key_file.display()))?;
        Api::new(&format!("http://{}", self.at(self.ports.api)), &key)
    }

    /// Tells the API of ports and addresses that are others than at the last start.
    pub(super) async fn align(
        &self,
        api: &Api,
        manifest: &Manifest,
        applied: &Applied,
    ) -> anyhow::Result<()> {
        for node in manifest.cluster.iter().flat_map(|cluster| &cluster.nodes) {
            let path = format!("/nodes/{}", node.id);
            let present = api.get(&path).await?;
            let mut wanted = json!({"ip_address": node.ip_address, "ip6_address": node.ip6_address});
            if let Some(port) = node.web_port {
                wanted["web_port"] = json!(port);
            }
            let mut change = wanted.as_object().cloned().unwrap_or_default();
            change.retain(|field, value| present.get(field).unwrap_or(&Value::Null) != value);
            if !change.is_empty() {
                api.put(&path, &change.into()).await.with_context(|| format!("node {}", node.id))?;
            }
        }
        let wanted = self.lb_addresses();
        let path = format!("/clusters/{}/lb-addresses", encode(&applied.cluster_id));
        for one in api.list(&path).await?.iter().filter(|one| one["label"] == LB_LABEL) {
            let address = one["address"].as_str().unwrap_or_default();
            if !wanted.iter().any(|wanted| wanted.to_string() == address) {
                let path = format!("/lb-addresses/{}", encode(one["id"].as_str().unwrap_or_default()));
                api.send(reqwest::Method::DELETE, &path, None)
                    .await
                    .with_context(|| format!("lb-address {address}"))?;
            }
        }
        Ok(())
    }

    /// Every process but the controller, in the order of their start.
    fn roles(&self) -> anyhow::Result<Vec<Role>> {
        let listen =
            |name: &str, port: u16| self.public(port).into_iter().map(move |at| flag(name, at)).collect();
        let edge: Vec<Vec<String>> =
            vec![listen("--http-listen", self.ports.http), listen("--https-listen", self.ports.https)];
        let mut dns: Vec<String> = listen("--listen", self.ports.dns);
        dns.push(flag("--edge-port", self.ports.http));
        let mut roles = vec![
            ("edge".to_owned(), "hosting-edge", "edge-1".to_owned(), edge.concat()),
            ("dns".to_owned(), "hosting-dns", "dns-1".to_owned(), dns),
        ];
        for (index, port) in self.ports.sites.iter().enumerate() {
            let arguments = vec![
                flag("--storage-dir", self.storage().display()),
                flag("--listen", self.at(*port)),
                // The edge beside it, by whichever address of this machine it comes.
                flag("--edge", "127.0.0.0/8"),
                flag("--edge", "::1"),
                flag("--edge", self.args.address),
                // A clone below /root is nothing that www-data may enter, and `up` promises no isolation.
                "--allow-root-sites".to_owned(),
            ];
            roles.push((node_role(index), "hosting-nodeagent", format!("web-{}", index + 1), arguments));
        }
        let with_admin = |(index, (name, program, node, own)): (usize, (String, _, _, Vec<String>))| {
            let port = self.ports.admin.get(index).copied().context("too few admin ports")?;
            let admin = self.at(port);
            let folder = self.data.join(&name);
            let mut arguments = vec![
                flag("--data-dir", folder.display()),
                flag("--controller", self.at(self.ports.feed)),
                flag("--join-token-file", folder.join("join-token").display()),
                flag("--admin-listen", admin),
            ];
            arguments.extend(own);
            Ok(Role { name, program, node, admin, arguments })
        };
        roles.into_iter().enumerate().map(with_admin).collect()
    }

    pub(super) async fn start_roles(
        &self,
        api: &Api,
        children: &mut Vec<Child>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        for role in self.roles()? {
            progress.step(role.name.clone());
            self.let_join(api, &role).await?;
            let child = self.child(&role.name, role.program, role.arguments);
            start_child(children, child, role.admin, progress).await?;
        }
        Ok(())
    }

    /// Makes a join token if the role has no identity yet.
    async fn let_join(&self, api: &Api, role: &Role) -> anyhow::Result<()> {
        let folder = self.data.join(&role.name);
        private_folder(&folder)?;
        if folder.join("identity").exists() {
            return Ok(());
        }
        let answer = api.post(&format!("/nodes/{}/join-tokens", role.node), &json!({})).await?;
        let token = answer["token"].as_str().context("no join token in the API's answer")?;
        write_private(&folder.join("join-token"), token)
    }

    /// Whether there is something to seed; which file it comes from.
    pub(super) fn seeds(&self) -> Option<String> {
        self.seed.as_ref().map(|_| self.args.seed.display().to_string())
    }

    pub(super) async fn seed(&self, api: &Api, applied: &Applied) -> anyhow::Result<Vec<Site>> {
        let Some(manifest) = &self.seed else { return Ok(Vec::new()) };
        let args = SeedArgs {
            file: self.args.seed.clone(),
            storage: Some(self.storage()),
            timeout: Duration::from_secs(60),
        };
        Ok(seed::apply(api, &args, manifest, Some(&applied.cluster_id)).await?.sites)
    }

    fn admin_key_file(&self) -> PathBuf {
        self.data.join("controller").join("admin.key")
    }

    fn storage(&self) -> PathBuf {
        self.data.join("storage")
    }

    pub(super) fn targets(&self) -> Targets {
        Targets {
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

    pub(super) fn manifest(&self) -> Manifest {
        let own = |wanted: bool| wanted.then(|| self.args.address.to_string());
        let node = |id: &str, shard: &str, web_port: Option<u16>| Node {
            id: id.to_owned(),
            hostname: format!("{id}.localdomain"),
            shard_name: Some(shard.to_owned()),
            ip_address: own(self.args.address.is_ipv4()),
            ip6_address: own(self.args.address.is_ipv6()),
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
                    .map(|address| LbAddress { address: address.to_string(), label: LB_LABEL.to_owned() })
                    .collect(),
                spec: Spec { shards: shards.into(), ..Spec::default() },
                nodes,
                ..Cluster::default()
            }),
            cluster_runtimes: vec![Runtime { runtime: "php".to_owned(), version: self.php.clone() }],
            ..Manifest::default()
        }
    }

    pub(super) fn summary(&self, sites: &[Site], children: &[Child]) -> Summary {
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

    pub(super) fn print(&self, sites: &[Site], silent: &[Silent]) {
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
            output::list(
                Format::Table,
                &["site", "brand", "runtime", "url"],
                rows.collect(),
                &["site", "url"],
                &[],
            );
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
            let name = &site.fqdn;
            let ip = match self.args.address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            };
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

/// An address in its one form, if `up` can listen on it here.
fn usable(given: IpAddr) -> anyhow::Result<IpAddr> {
    let address = given.to_canonical();
    if address.is_unspecified() {
        bail!("--address {given}: name an address that visitors can reach, not all of them");
    }
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_multicast() || is_broadcast {
        bail!("--address {given}: name the address of one machine, this one");
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        bail!(
            "--address {given}: a link-local address means nothing without its interface; name another of this machine"
        );
    }
    TcpListener::bind((address, 0)).with_context(|| {
        format!("--address {given}: this machine cannot listen on it; `ip -brief address` lists the addresses that it has")
    })?;
    Ok(address)
}

fn node_role(index: usize) -> String {
    if index == 0 { "nodeagent".to_owned() } else { format!("nodeagent-{}", index + 1) }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}

/// As one word of a POSIX shell, wherever in a command it stands.
fn shell_word(text: &str) -> String {
    // Without `=`: at the beginning of a command it would assign a variable.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
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
        for text in [
            "plain/path-1.x",
            "two words",
            "it's",
            "",
            "$(reboot)",
            "a;b",
            "%s",
            "schön",
            "\"q\"",
            "a\\b",
            "~",
            "*",
        ] {
            let output = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", shell_word(text)))
                .output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
        assert_eq!(shell_word("a=b/hostctl"), "'a=b/hostctl'");
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_and_another_has_one_form() {
        for (given, part) in [
            ("0.0.0.0", "not all of them"),
            ("::", "not all of them"),
            ("224.0.0.1", "one machine"),
            ("ff02::1", "one machine"),
            ("255.255.255.255", "one machine"),
            ("fe80::1", "link-local"),
            ("192.0.2.1", "cannot listen"),
            ("2001:db8::1", "cannot listen"),
        ] {
            let error = usable(given.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("--address"), "{given}: {error}");
        }
        assert_eq!(usable("127.0.0.1".parse().unwrap()).unwrap().to_string(), "127.0.0.1");
        assert_eq!(usable("::ffff:127.0.0.1".parse().unwrap()).unwrap().to_string(), "127.0.0.1");
    }
}
