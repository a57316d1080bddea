//! A controller of our own: its folder, its process, its store filled with very many resources.
//!
//! One of each kind is created through the API, and the store is filled with copies by the store's own writes, 900 resources a mutation:
//! indexes and counts are what they would be. No intents are planned for the copies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hosting_local_postgres::{Running, Server};
use hosting_planner::{ApplyError, Change, Draft};
use hosting_resource::{Resource, Status};
use hosting_store::{Database, Kek, Origin, Store, StoreConfig, WriteError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::platform::Api;

/// A tenant, a zone and a site, and the names of the site.
pub(crate) const SET: usize = 10;
/// Sets that one mutation writes.
const SETS: usize = 90;
/// Words that names are made of.
pub(crate) const WORDS: [&str; 16] = [
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

/// What is copied.
struct Models {
    tenant: Resource,
    zone: Resource,
    webroot: Resource,
    fqdn: Resource,
}

/// A controller's folder, and the addresses that it listens on in this run.
pub(crate) struct Lab {
    folder: PathBuf,
    data: PathBuf,
    database: Database,
    database_file: Option<PathBuf>,
    /// Ends with the lab.
    postgres: Option<Running>,
    listen: String,
    feed: String,
    http: reqwest::Client,
}

impl Lab {
    /// A lab in an empty folder, or in one that an earlier run has filled. `postgres`: the store is in a PostgreSQL server of its own.
    pub(crate) fn open(folder: &Path, postgres: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let port = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let data = folder.join("controller");
        let (postgres, database, database_file) = if postgres {
            let running = Server::in_folder(&folder.join("postgres"), true)?.start()?;
            running.server().create_database(DATABASE)?;
            let (url, file) = (running.server().url(DATABASE), folder.join("database"));
            hosting_scaffold::file::write_private(&file, url.as_bytes())?;
            (Some(running), url.parse()?, Some(file))
        } else {
            (None, Database::Sqlite(data.join("store.db")), None)
        };
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { folder, data, database, database_file, postgres, listen: port()?, feed: port()?, http })
    }

    /// `SQLite` or `PostgreSQL`, as figures name it.
    pub(crate) const fn database_name(&self) -> &'static str {
        if self.postgres.is_some() { "postgres" } else { "sqlite" }
    }

    /// Where the lab's files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// `host:port` of the feed.
    pub(crate) fn feed(&self) -> &str {
        &self.feed
    }

    /// The API of the running controller.
    pub(crate) fn api(&self) -> anyhow::Result<Api> {
        let key = std::fs::read_to_string(self.data.join("admin.key"))?.trim().to_owned();
        Ok(Api::new(format!("http://{}/api/v1", self.listen), key, self.http.clone()))
    }

    /// What the running controller counts: the sum of a counter's samples whose labels contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.http.get(format!("http://{}/metrics", self.listen)).send().await?.text().await?;
        let samples =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let wanted = samples.filter(|(what, _)| what.split('{').next() == Some(name) && what.contains(label));
        Ok(wanted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
    }

    /// Fills the store with `resources` unless an earlier run has; answers the number of sets, and the seconds that it took.
    pub(crate) async fn fill_once(&self, resources: usize) -> anyhow::Result<(usize, f64)> {
        let sets = (resources / SET).max(1);
        let (mark, mut seconds) = (self.folder.join("filled"), 0.0);
        if !mark.exists() {
            let models = self.models().await?;
            let began = Instant::now();
            self.fill(&models, sets).await?;
            seconds = began.elapsed().as_secs_f64();
            std::fs::write(&mark, sets.to_string())?;
        }
        let filled: usize = std::fs::read_to_string(&mark)?.trim().parse()?;
        ensure!(filled == sets, "the folder has {} resources; remove it, or ask for as many", filled * SET);
        if let Some(server) = &self.postgres {
            server.server().analyze(DATABASE)?;
        }
        Ok((sets, seconds))
    }

    /// The controller that was built beside this program, once it answers.
    pub(crate) async fn start(&self) -> anyhow::Result<Child> {
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

    /// One of each kind, made through the API, and read from the store while nobody else has it.
    async fn models(&self) -> anyhow::Result<Models> {
        std::fs::create_dir_all(&self.data)?;
        let controller = self.start().await?;
        let api = self.api()?;
        let post = async |path: String, body: Value| api.create(&path, body).await;
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
        let store = self.store().await?;
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

    async fn store(&self) -> anyhow::Result<Store> {
        let kek = Kek::load_or_create(&self.data.join("kek"))?;
        Ok(Store::open(&StoreConfig::of(self.database.clone()), kek).await?)
    }

    async fn fill(&self, models: &Models, sets: usize) -> anyhow::Result<()> {
        let store = self.store().await?;
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
}

/// Names of a site.
pub(crate) const FQDNS: usize = SET - 3;

pub(crate) fn tenant_id(set: usize) -> String {
    format!("t_{set:010}")
}

pub(crate) fn zone_name(set: usize) -> String {
    format!("{}{}-{set}.test", WORDS[set % WORDS.len()], WORDS[set / WORDS.len() % WORDS.len()])
}

pub(crate) fn fqdn_id(n: usize) -> String {
    // Spread over the index, as random ones are.
    format!("{:08x}-3f39-4c36-b0a4-7d0c3c7f2a11", (n as u32).wrapping_mul(0x9e37_79b1))
}

pub(crate) fn fqdn_name(n: usize) -> String {
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
pub(crate) async fn stop(mut controller: Child) -> anyhow::Result<()> {
    let pid = controller.id().context("the controller ended")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    tokio::time::timeout(PATIENCE, controller.wait()).await.context("the controller does not end")??;
    Ok(())
}
