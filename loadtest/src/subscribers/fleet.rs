//! Subscribers of a controller: registered through its API, enrolled with join tokens, connected with the client that every role has.
//!
//! Each has a certificate and a sealing key of its own, and checks each digest. What it applies it keeps in memory: there is no ledger, no
//! edge, no DNS server and no PHP behind it. A node says at once that what it was told is ready.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use hosting_intent::{Audience, Intent, KNOWN_KINDS, Key, Kind, Rejection, Role, roles_of};
use hosting_intent_sync::client::{
    AudienceKeys, Client, ClientMetrics, KeysWatch, Options, Reporter, identity_dir,
};
use hosting_intent_sync::identity::{Enrolment, Identity, TokenSource};
use hosting_intent_sync::subscriber::{Brake, Config, Status, Strict, Subscriber};
use hosting_intent_sync::{Batch, Replica};
use hosting_ledger::{Journal, LedgerBatch, LedgerError, Meta, Record};
use hosting_proto::feed::{KeyReport, key_report::Phase};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::figures::print;
use crate::lab::Lab;
use crate::platform::Api;

/// Requests under way at once while the fleet is registered.
const CLIENTS: usize = 24;
/// Enrolments under way at once: the controller keeps 16 seats for strangers of one network.
const ENROLLING: usize = 12;
/// How long all of them may take to come in sync, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);
/// The brand of their tenants, and the group of their DNS servers.
const BRAND: &str = "fleet";

/// How many there are of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    pub(crate) edges: usize,
    pub(crate) dns: usize,
    pub(crate) nodes: usize,
}

impl Sizes {
    pub(crate) const fn all(self) -> usize {
        self.edges + self.dns + self.nodes
    }
}

/// A node of the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    id: String,
    /// Its name.
    role: String,
    shard: String,
}

/// A tenant with a PHP site on a node of its own, and a zone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Site {
    pub(crate) tenant: String,
    pub(crate) webroot: String,
    pub(crate) zone: String,
}

/// What an earlier run has registered.
#[derive(Debug, Serialize, Deserialize)]
struct Registered {
    sizes: Sizes,
    region: String,
    cluster: String,
    members: Vec<Member>,
    sites: Vec<Site>,
}

/// That a subscriber put an item of a change into effect.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// The id of the trace that the change's request belongs to.
    pub(crate) trace: u128,
    /// Which subscriber.
    pub(crate) subscriber: usize,
    pub(crate) role: Role,
    pub(crate) kind: Kind,
    pub(crate) at: Instant,
}

/// What subscribers put into effect; shared by all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effects(Arc<Mutex<Vec<Applied>>>);

impl Effects {
    /// Takes out what was put into effect since the last call.
    pub(crate) fn take(&self) -> Vec<Applied> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The trace's id in a W3C traceparent.
pub(super) fn trace_of(traceparent: &str) -> Option<u128> {
    u128::from_str_radix(traceparent.split('-').nth(1)?, 16).ok()
}

/// Keeps nothing: the view is in memory for as long as the process runs, which is longer than the controller.
struct Nowhere;

impl Journal for Nowhere {
    fn load(&mut self, _: &mut dyn FnMut(&Key, Record)) -> Result<Option<Meta>, LedgerError> {
        Ok(None)
    }

    fn write(&mut self, _: LedgerBatch<'_>) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// Notes what comes into effect, and when.
struct Noting {
    subscriber: usize,
    role: Role,
    effects: Effects,
    /// Of a node.
    reporter: Option<Reporter>,
}

impl Replica for Noting {
    type Intent = Intent;

    fn check(&self, _: &Key, _: &Intent) -> Result<(), Rejection> {
        Ok(())
    }

    fn publish(&mut self, batch: Batch<Intent>) {
        let at = Instant::now();
        let noted = batch.upserts.iter().filter_map(|(item, intent)| {
            let trace = trace_of(&item.traceparent)?;
            Some(Applied { trace, subscriber: self.subscriber, role: self.role, kind: intent.kind(), at })
        });
        self.effects.0.lock().unwrap_or_else(PoisonError::into_inner).extend(noted);
        let Some(reporter) = &self.reporter else { return };
        let made = batch.upserts.iter().filter(|(_, one)| matches!(one.kind(), Kind::Tenant | Kind::Webroot));
        let seen = made.map(|(item, _)| KeyReport {
            kind: item.key.kind,
            key: item.key.name.clone(),
            phase: Phase::Ready.into(),
            revision: item.revision,
            message: String::new(),
        });
        let gone = batch.removals.iter().map(|one| (one.key.kind, one.key.name.clone()));
        // A node of this fleet has a few keys; the limit is half a million.
        let _ = reporter.report(&batch.epoch, batch.revision, seen, gone);
    }
}

/// What the counters of all subscribers say together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Totals {
    /// Sessions that began.
    pub(crate) sessions: u64,
    /// Of these, continued from the subscriber's position.
    pub(crate) resumed: u64,
    /// Snapshots put into effect.
    pub(crate) snapshots: u64,
    /// Digests that were not what the controller said.
    pub(crate) mismatches: u64,
}

impl Totals {
    /// What came since `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            sessions: self.sessions - before.sessions,
            resumed: self.resumed - before.resumed,
            snapshots: self.snapshots - before.snapshots,
            mismatches: self.mismatches - before.mismatches,
        }
    }
}

/// All subscribers, connected.
pub(crate) struct Fleet {
    pub(crate) sites: Arc<[Site]>,
    pub(crate) effects: Effects,
    states: Vec<watch::Receiver<Option<Status>>>,
    running: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
}

impl Fleet {
    /// Registers and enrols the fleet, or takes the one of an earlier run, and waits until all are in sync and all sites active.
    pub(crate) async fn connect(lab: &Lab, sizes: Sizes) -> anyhow::Result<Self> {
        let (api, file) = (lab.api()?, lab.folder().join("subscribers.json"));
        let save = |known: &Registered| -> anyhow::Result<()> {
            Ok(hosting_scaffold::file::write_private(&file, &serde_json::to_vec(known)?)?)
        };
        let mut known = if file.exists() {
            serde_json::from_slice(&std::fs::read(&file)?)?
        } else {
            let known = register(&api, sizes).await?;
            save(&known)?;
            known
        };
        ensure!(
            known.sizes == sizes,
            "the folder has {:?}; take another one, or ask for as many",
            known.sizes
        );
        let folder = lab.folder().join("subscribers");
        let mut fleet = Self {
            sites: Arc::default(),
            effects: Effects::default(),
            states: Vec::new(),
            running: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        let began = Instant::now();
        let joining =
            futures::stream::iter(&known.members).map(|member| join(&api, lab.feed(), &folder, member));
        let joined: Vec<(PathBuf, Role, Identity)> =
            joining.buffer_unordered(ENROLLING).try_collect().await?;
        let enrolled = began.elapsed();
        for (folder, role, identity) in joined {
            fleet.start(&folder, role, identity)?;
        }
        fleet.in_sync(&vec![Seen::default(); sizes.all()]).await?;
        let (connected, began) = (began.elapsed() - enrolled, Instant::now());
        if known.sites.is_empty() {
            known.sites = populate(&api, &known).await?;
            save(&known)?;
        }
        print(&format!(
            "{} subscribers: credentials after {:.1} s, in sync {:.1} s later, {} sites active {:.1} s later",
            sizes.all(),
            enrolled.as_secs_f64(),
            connected.as_secs_f64(),
            known.sites.len(),
            began.elapsed().as_secs_f64(),
        ));
        fleet.sites = known.sites.into();
        Ok(fleet)
    }

    fn start(&mut self, folder: &Path, role: Role, identity: Identity) -> anyhow::Result<()> {
        let audiences = identity.audiences();
        let mut own = audiences.iter().filter_map(|audience| audience.parse::<Audience>().ok());
        let audience = own.find(|audience| audience.role() == role).with_context(|| {
            format!("{} has no audience of {role}, only {audiences:?}", identity.node_id())
        })?;
        let keys = AudienceKeys::load(folder)?;
        let client = Client::new(identity.clone(), Options::default(), ClientMetrics::default())
            .with_audience_keys(keys.clone());
        let reporter = (role == Role::Web).then(|| client.reporter()).map(|(reporter, reporting)| {
            let stop = self.stop.clone();
            self.running.spawn(async move {
                reporting.run(stop).await;
                Ok(())
            });
            reporter
        });
        let kinds = KNOWN_KINDS.iter().copied().filter(|kind| roles_of(*kind).contains(&role)).collect();
        let config =
            Config { audience: audience.clone(), build: "loadtest".into(), kinds, brake: Brake::default() };
        let replica = Noting { subscriber: self.states.len(), role, effects: self.effects.clone(), reporter };
        let replica = identity.watch_roots(KeysWatch::new(replica, Some(keys), &audience));
        let subscriber = Subscriber::<_, _, Strict>::open(config, Nowhere, replica)?;
        self.states.push(client.status());
        let stop = self.stop.clone();
        self.running.spawn(async move { Ok(client.run(subscriber, stop).await?) });
        Ok(())
    }

    /// What their counters say together.
    pub(crate) fn totals(&self) -> Totals {
        let mut all = Totals::default();
        for state in &self.states {
            let state = state.borrow();
            let Some(Status { counters, .. }) = state.as_ref() else { continue };
            all.sessions += counters.sessions;
            all.resumed += counters.resumed;
            all.snapshots += counters.snapshots;
            all.mismatches += counters.digest_mismatches;
        }
        all
    }

    /// What each has seen so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.states.iter().map(Seen::of).collect()
    }

    /// Waits until each has, in a session that it began after `before`, a view that the controller's count and digest say is the newest.
    pub(crate) async fn in_sync(&mut self, before: &[Seen]) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let synced = self.states.iter().zip(before).filter(|(state, before)| {
                let now = Seen::of(state);
                now.sessions > before.sessions && now.bookmarks > before.bookmarks
            });
            let synced = synced.count();
            if synced == self.states.len() {
                return Ok(());
            }
            if let Some(ended) = self.running.try_join_next() {
                bail!("a subscriber ended: {ended:?}");
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "{synced} of {} are in sync after {PATIENCE:?}",
                self.states.len()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends all of them.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }
}

/// Sessions that a subscriber began, and bookmarks that matched its view.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    sessions: u64,
    bookmarks: u64,
}

impl Seen {
    fn of(state: &watch::Receiver<Option<Status>>) -> Self {
        state.borrow().as_ref().map_or_else(Self::default, |status| Self {
            sessions: status.counters.sessions,
            bookmarks: status.counters.bookmarks,
        })
    }
}

/// A cluster with all nodes, each web node alone in its shard.
async fn register(api: &Api, sizes: Sizes) -> anyhow::Result<Registered> {
    let region = api.create("/regions", json!({"name": "fleet"})).await?;
    let cluster = api.create(&format!("/regions/{region}/clusters"), json!({"name": "fleet"})).await?;
    api.create(&format!("/clusters/{cluster}/lb-addresses"), json!({"address": "192.0.2.1"})).await?;
    let brand = json!({
        "id": BRAND, "name": BRAND, "base_hostname": "fleet.example", "primary_ns": "ns1.fleet.example",
        "secondary_ns": "ns2.fleet.example", "hostmaster_email": "hostmaster@fleet.example", "dns_group": BRAND,
    });
    api.create("/brands", brand).await?;
    let (nodes, shards) = (format!("/clusters/{cluster}/nodes"), format!("/clusters/{cluster}/shards"));
    let lb = api.create(&shards, json!({"name": "lb", "role": "lb"})).await?;
    let dns = api.create(&shards, json!({"name": "dns", "role": "dns"})).await?;
    let wanted = std::iter::repeat_n((Role::Lb, Some(lb)), sizes.edges)
        .chain(std::iter::repeat_n((Role::Dns, Some(dns)), sizes.dns))
        .chain(std::iter::repeat_n((Role::Web, None), sizes.nodes));
    let members = futures::stream::iter(wanted.enumerate()).map(async |(n, (role, shard))| {
        let shard = match shard {
            Some(shard) => shard,
            None => api.create(&shards, json!({"name": format!("web-{n}"), "role": "web"})).await?,
        };
        let node = json!({
            "id": format!("{role}-{n}"), "hostname": format!("{role}-{n}.fleet.example"), "ip_address": "192.0.2.2",
            "shard_id": shard, "roles": [role.name()], "dns_group": BRAND,
        });
        let id = api.create(&nodes, node).await?;
        anyhow::Ok(Member { id, role: role.name().to_owned(), shard })
    });
    let members = members.buffered(CLIENTS).try_collect().await?;
    Ok(Registered { sizes, region, cluster, members, sites: Vec::new() })
}

/// Enrols a node with a join token, unless it has a credential from an earlier run.
async fn join(
    api: &Api,
    feed: &str,
    folder: &Path,
    member: &Member,
) -> anyhow::Result<(PathBuf, Role, Identity)> {
    let folder = folder.join(&member.id);
    std::fs::create_dir_all(&folder)?;
    let role = Role::from_name(&member.role).with_context(|| format!("no role {}", member.role))?;
    let dir = identity_dir(&folder);
    let mut enrolment = Enrolment {
        token: TokenSource::None,
        controllers: vec![feed.to_owned()],
        patience: Duration::from_secs(60),
        role: member.role.clone(),
        dir,
    };
    if !enrolment.dir.join("credential.pem").exists() {
        let token =
            api.call(Method::POST, &format!("/nodes/{}/join-tokens", member.id), Some(json!({}))).await?;
        let file = folder.join("join-token");
        hosting_scaffold::file::write_private(
            &file,
            token["token"].as_str().context("no token")?.as_bytes(),
        )?;
        enrolment.token = TokenSource::File(file);
    }
    let identity = Identity::load_or_enroll(&enrolment).await?;
    Ok((folder, role, identity))
}

/// A tenant with a PHP site and a zone on each web node; done when all are active.
async fn populate(api: &Api, known: &Registered) -> anyhow::Result<Vec<Site>> {
    let web = known.members.iter().filter(|member| member.role == Role::Web.name());
    let sites = futures::stream::iter(web.enumerate()).map(async |(n, member)| {
        let subscription = format!("fleet-{n}");
        let tenant = json!({
            "brand_id": BRAND, "customer_id": format!("fleet-{n}"), "region_id": known.region,
            "cluster_id": known.cluster, "shard_id": member.shard,
            "subscriptions": [{"id": subscription, "name": "main"}],
        });
        let tenant = api.create("/tenants", tenant).await?;
        let zone = format!("fleet-{n}.example");
        let body = json!({
            "name": zone, "subscription_id": subscription, "region_id": known.region, "tenant_id": tenant,
        });
        api.create("/zones?wait=ready", body).await?;
        let site = json!({"subscription_id": subscription, "runtime": "php", "runtime_version": "8.2"});
        let webroot = api.create(&format!("/tenants/{tenant}/webroots?wait=ready"), site).await?;
        anyhow::Ok(Site { tenant, webroot, zone })
    });
    sites.buffered(CLIENTS).try_collect().await
}
