//! `loadtest reads`: what the controller's common reads take in a store with very many resources.
//!
//! It starts a controller of its own on an empty folder, creates one of each kind through the API, ends it, and fills the store with copies
//! by the store's own writes, 900 resources a mutation: indexes and counts are what they would be. No intents are planned for the copies. Then
//! the controller starts again, and each request is asked by one client and by many, in rounds that take turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use hosting_local_postgres::{Running, Server};
use hosting_planner::{ApplyError, Change, Draft};
use hosting_resource::{Resource, Status};
use hosting_store::{Database, Kek, Origin, Store, StoreConfig, WriteError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tabled::{builder::Builder, settings::Style};
use tokio::process::{Child, Command};

use crate::figures::{Figures, print};
use crate::platform::cpu_of;

/// A tenant, a zone and a site, and the names of the site.
const SET: usize = 10;
/// Sets that one mutation writes.
const SETS: usize = 90;
/// Words that names are made of.
const WORDS: [&str; 16] = [
    "bakery",
    "guestbook",
    "fjord",
    "harbour",
    "violet",
    "copper",
    "meadow",
    "lantern",
    "orchid",
    "granite",
    "willow",
    "compass",
    "saffron",
    "pebble",
    "juniper",
    "marble",
];
/// How long the controller may take to start or end.
const PATIENCE: Duration = Duration::from_secs(120);
/// The database of a PostgreSQL server of its own.
const DATABASE: &str = "reads";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An empty folder, or one that an earlier run has filled
    #[arg(long, default_value = "var-reads")]
    folder: PathBuf,
    /// Resources in the store
    #[arg(long, default_value_t = 1_000_000)]
    resources: usize,
    /// Requests under way at once, in turn
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    clients: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Measurements of each; two show how far apart the same is
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Keep the store in a PostgreSQL server, which is started in the folder
    #[arg(long)]
    postgres: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.folder)?;
    let folder = args.folder.canonicalize()?;
    let postgres = if args.postgres { Some(start_postgres(&folder)?) } else { None };
    let lab = Lab::new(&folder, postgres.as_ref())?;
    let sets = (args.resources / SET).max(1);
    let mut fill_seconds = 0.0;
    if !folder.join("filled").exists() {
        let models = lab.models().await?;
        let began = Instant::now();
        lab.fill(&models, sets).await?;
        fill_seconds = began.elapsed().as_secs_f64();
        std::fs::write(folder.join("filled"), sets.to_string())?;
    }
    let filled: usize = std::fs::read_to_string(folder.join("filled"))?.trim().parse()?;
    ensure!(filled == sets, "the folder has {} resources; remove it, or ask for as many", filled * SET);
    if let Some(server) = &postgres {
        server.server().analyze(DATABASE)?;
    }
    let controller = lab.start().await?;
    let outcome = lab.measure(args, sets, controller.id().context("the controller ended")?).await?;
    stop(controller).await?;
    let object = json!({
        "benchmark": "reads",
        "resources": sets * SET,
        "database": if args.postgres { "postgres" } else { "sqlite" },
        "fill_seconds": fill_seconds,
        "requests": outcome,
    });
    print(&object.to_string());
    Ok(())
}

fn start_postgres(folder: &Path) -> anyhow::Result<Running> {
    let running = Server::in_folder(&folder.join("postgres"), true)?.start()?;
    running.server().create_database(DATABASE)?;
    Ok(running)
}

/// What is copied.
struct Models {
    tenant: Resource,
    zone: Resource,
    webroot: Resource,
    fqdn: Resource,
}

struct Lab {
    data: PathBuf,
    database: Database,
    database_file: Option<PathBuf>,
    listen: String,
    feed: String,
    http: reqwest::Client,
}

impl Lab {
    fn new(folder: &Path, postgres: Option<&Running>) -> anyhow::Result<Self> {
        let port = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let data = folder.join("controller");
        let url = postgres.map(|running| running.server().url(DATABASE));
        let database_file = match &url {
            Some(url) => {
                let file = folder.join("database");
                hosting_scaffold::file::write_private(&file, url.as_bytes())?;
                Some(file)
            }
            None => None,
        };
        Ok(Self {
            database: match url {
                Some(url) => url.parse()?,
                None => Database::Sqlite(data.join("store.db")),
            },
            database_file,
            data,
            listen: port()?,
            feed: port()?,
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// The controller that was built beside this program, once it answers.
    async fn start(&self) -> anyhow::Result<Child> {
        let program = std::env::current_exe()?.with_file_name("hosting-controller");
        let mut command = Command::new(&program);
        command.arg("--data-dir").arg(&self.data);
        command.args(["--listen", &self.listen, "--feed-listen", &self.feed]);
        command.arg("--bootstrap-key-file").arg(self.data.join("admin.key"));
        if let Some(file) = &self.database_file {
            command.arg("--database-file").arg(file);
        }
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let began = Instant::now();
        loop {
            let answer = self.http.get(format!("http://{}/readyz", self.listen)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(child);
            }
            if let Some(status) = child.try_wait()? {
                bail!("{} ended: {status}", program.display());
            }
            ensure!(began.elapsed() < PATIENCE, "the controller does not become ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn key(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.data.join("admin.key"))?.trim().to_owned())
    }

    /// One of each kind, made through the API, and read from the store while nobody else has it.
    async fn models(&self) -> anyhow::Result<Models> {
        std::fs::create_dir_all(&self.data)?;
        let controller = self.start().await?;
        let key = self.key()?;
        let post = async |path: String, body: Value| -> anyhow::Result<String> {
            let request = self.http.post(format!("http://{}/api/v1{path}", self.listen)).bearer_auth(&key);
            let answer = request.json(&body).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{path}: {status} {text}");
            Ok(serde_json::from_str::<Value>(&text)?["id"].as_str().unwrap_or_default().to_owned())
        };
        let region = post("/regions".into(), json!({"name": "north"})).await?;
        let cluster = post(format!("/regions/{region}/clusters"), json!({"name": "one"})).await?;
        let shard = json!({"name": "web-1", "role": "web"});
        let shard = post(format!("/clusters/{cluster}/shards"), shard).await?;
        let brand = json!({
            "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
            "secondary_ns": "ns2.acme.example", "hostmaster_email": "hostmaster@acme.example",
        });
        post("/brands".into(), brand).await?;
        let tenant = json!({
            "brand_id": "acme", "customer_id": "model", "region_id": region, "cluster_id": cluster,
            "shard_id": shard, "subscriptions": [{"id": "model", "name": "main"}],
        });
        let tenant = post("/tenants".into(), tenant).await?;
        let zone = json!({
            "name": "model.example", "subscription_id": "model", "region_id": region, "tenant_id": tenant,
        });
        let zone = post("/zones".into(), zone).await?;
        let site = json!({"subscription_id": "model", "runtime": "static", "runtime_version": "1"});
        let webroot = post(format!("/tenants/{tenant}/webroots"), site).await?;
        let name = json!({"fqdn": "www.model.example", "webroot_id": webroot});
        let fqdn = post(format!("/tenants/{tenant}/fqdns"), name).await?;
        stop(controller).await?;
        let store = self.open().await?;
        let ids = [tenant, zone, webroot, fqdn];
        let mut found: BTreeMap<String, Resource> = BTreeMap::new();
        for resource in store.read().await?.resources(&ids).await? {
            found.insert(resource.id.clone(), resource);
        }
        store.close().await;
        let mut take = |id: &String| found.remove(id).with_context(|| format!("{id} is not in the store"));
        let [tenant, zone, webroot, fqdn] = &ids;
        Ok(Models { tenant: take(tenant)?, zone: take(zone)?, webroot: take(webroot)?, fqdn: take(fqdn)? })
    }

    async fn open(&self) -> anyhow::Result<Store> {
        let kek = Kek::load_or_create(&self.data.join("kek"))?;
        Ok(Store::open(&StoreConfig::of(self.database.clone()), kek).await?)
    }

    async fn fill(&self, models: &Models, sets: usize) -> anyhow::Result<()> {
        let store = self.open().await?;
        let numbers: Vec<usize> = (0..sets).collect();
        for some in numbers.chunks(SETS) {
            let put: Vec<Resource> = some.iter().flat_map(|n| models.set(*n)).collect();
            let change = Change { put, ..Change::default() };
            let written =
                store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
            written.await.map_err(|error: WriteError<ApplyError>| anyhow::anyhow!("{error}"))?;
        }
        store.close().await;
        Ok(())
    }

    async fn measure(&self, args: &Args, sets: usize, pid: u32) -> anyhow::Result<Value> {
        let key = self.key()?;
        let mut outcome = Map::new();
        let mut table = Builder::default();
        table.push_record(["request", "clients", "count", "p50 ms", "p99 ms", "cpu µs", "apart"]);
        for (name, path) in REQUESTS {
            let mut by_clients = Map::new();
            for clients in &args.clients {
                let (mut times, mut each) = (Figures::default(), Vec::new());
                for round in 0..args.rounds.max(1) {
                    let next = AtomicU64::new(round as u64 * 7_919);
                    let until = Instant::now() + Duration::from_secs(args.seconds);
                    let before = cpu_of(pid)?;
                    let all = (0..*clients).map(|_| self.client(&key, until, &next, |n| path(n, sets)));
                    let round: Vec<Duration> = try_join_all(all).await?.into_iter().flatten().collect();
                    let cpu = cpu_of(pid)?.saturating_sub(before);
                    each.push(cpu.as_secs_f64() * 1e6 / round.len().max(1) as f64);
                    round.into_iter().for_each(|time| times.add(time));
                }
                let (least, most) =
                    each.iter().fold((f64::MAX, 0.0_f64), |(a, b), one| (a.min(*one), b.max(*one)));
                let cpu = each.iter().sum::<f64>() / each.len() as f64;
                let apart = (most - least) / cpu;
                table.push_record([
                    (*name).to_owned(),
                    clients.to_string(),
                    times.count().to_string(),
                    format!("{:.2}", times.quantile(0.5)),
                    format!("{:.2}", times.quantile(0.99)),
                    format!("{cpu:.0}"),
                    format!("{:.0} %", apart * 100.0),
                ]);
                let mut figures = times.json();
                figures["cpu_us"] = json!(each);
                by_clients.insert(clients.to_string(), figures);
            }
            outcome.insert((*name).to_owned(), Value::Object(by_clients));
        }
        print(&table.build().with(Style::blank()).to_string());
        Ok(Value::Object(outcome))
    }

    /// Asks one request after the other, and answers how long each took.
    async fn client(
        &self,
        key: &str,
        until: Instant,
        next: &AtomicU64,
        path: impl Fn(u64) -> String,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        while Instant::now() < until {
            let path = path(spread(next.fetch_add(1, Ordering::Relaxed)));
            let begun = Instant::now();
            let request = self.http.get(format!("http://{}/api/v1{path}", self.listen)).bearer_auth(key);
            let answer = request.send().await?;
            let status = answer.status();
            answer.bytes().await?;
            ensure!(status.is_success(), "{path}: {status}");
            times.push(begun.elapsed());
        }
        Ok(times)
    }
}

/// A number as if drawn by chance, the same in each run.
const fn spread(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

type PathOf = fn(u64, usize) -> String;

/// What is asked, of the resources with a number.
const REQUESTS: &[(&str, PathOf)] = &[
    ("get", |n, sets| format!("/fqdns/{}", fqdn_id(any(n, sets) * FQDNS))),
    ("list", |_, _| "/zones?limit=50".into()),
    ("list of a tenant", |n, sets| format!("/tenants/{}/fqdns", tenant_id(any(n, sets)))),
    ("filter, one", |n, sets| format!("/tenants?customer_id=customer-{}", any(n, sets))),
    ("filter, all", |_, _| "/zones?limit=50&brand_id=acme".into()),
    ("search, one", |n, sets| {
        let name = zone_name(any(n, sets));
        format!("/zones?search={}", name.get(2..).unwrap_or_default())
    }),
    ("search, many", |n, _| format!("/zones?search={}", WORDS[n as usize % WORDS.len()])),
    ("search, none", |_, _| "/zones?search=nothing-like-it".into()),
    ("search, short", |_, _| "/zones?search=qx".into()),
    ("search everywhere", |n, sets| format!("/search?q={}", zone_name(any(n, sets)))),
    ("explain", |n, sets| format!("/explain/{}", fqdn_name(any(n, sets) * FQDNS))),
    ("dashboard", |_, _| "/dashboard/stats".into()),
];

/// Names of a site.
const FQDNS: usize = SET - 3;

fn any(n: u64, sets: usize) -> usize {
    usize::try_from(n % sets.max(1) as u64).unwrap_or_default()
}

fn tenant_id(set: usize) -> String {
    format!("t_{set:010}")
}

fn zone_name(set: usize) -> String {
    format!("{}{}-{set}.test", WORDS[set % WORDS.len()], WORDS[set / WORDS.len() % WORDS.len()])
}

fn fqdn_id(n: usize) -> String {
    // Spread over the index, as random ones are.
    format!("{:08x}-3f39-4c36-b0a4-7d0c3c7f2a11", (n as u32).wrapping_mul(0x9e37_79b1))
}

fn fqdn_name(n: usize) -> String {
    format!("{}{n}.{}", WORDS[n % WORDS.len()], zone_name(n / FQDNS))
}

impl Models {
    /// A tenant with its zone, its site and the site's names, as if they had come into effect.
    fn set(&self, set: usize) -> Vec<Resource> {
        let (tenant, webroot) = (tenant_id(set), format!("web_{set:010}"));
        let copy = |model: &Resource, id: &str, label: String| {
            let mut copy = model.clone();
            copy.id = id.to_owned();
            copy.label = label;
            copy.status = Status::Active;
            copy.tenant = Some(tenant.clone());
            copy.created_revision = 1_000 + set as u64;
            if copy.parent.is_some() {
                copy.parent = Some(tenant.clone());
            }
            copy
        };
        let with = |mut resource: Resource, fields: &[(&str, &str)]| {
            for (field, value) in fields {
                resource.spec.insert((*field).to_owned(), (*value).into());
            }
            resource
        };
        let customer = format!("customer-{set}");
        let mut all =
            vec![with(copy(&self.tenant, &tenant, customer.clone()), &[("customer_id", &customer)])];
        let name = zone_name(set);
        let zone = format!("{:08x}-0000-4c36-b0a4-7d0c3c7f2a11", (set as u32).wrapping_mul(0x9e37_79b1));
        all.push(with(copy(&self.zone, &zone, name.clone()), &[("name", &name), ("tenant_id", &tenant)]));
        all.push(copy(&self.webroot, &webroot, webroot.clone()));
        for n in set * FQDNS..(set + 1) * FQDNS {
            let name = fqdn_name(n);
            let fqdn = copy(&self.fqdn, &fqdn_id(n), name.clone());
            all.push(with(fqdn, &[("fqdn", &name), ("webroot_id", &webroot)]));
        }
        all
    }
}

/// Ends the controller in order.
async fn stop(mut controller: Child) -> anyhow::Result<()> {
    let pid = controller.id().context("the controller ended")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    tokio::time::timeout(PATIENCE, controller.wait()).await.context("the controller does not end")??;
    Ok(())
}
