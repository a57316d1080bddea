//! A gatekeeper over a real store and a fleet of puppets.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_intent_sync::FeedSource;
use hosting_planner::gates::{Evidence, Exception, Phase as Seen, Report, Reports, Subscriber};
use hosting_planner::{Deleted, World, WorldError, create, delete, trace_of};
use hosting_resource::{Resource, Status};
use hosting_store::{Kek, Origin, StoreConfig};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

mod service;
mod waits;

/// A fleet that applies what it is told, but for who is told not to.
#[derive(Default)]
struct Puppets {
    members: Mutex<BTreeMap<Audience, BTreeSet<String>>>,
    out: Mutex<BTreeSet<String>>,
    stuck: Mutex<BTreeSet<String>>,
    broken: Mutex<BTreeSet<String>>,
    /// What changed since it was last asked; `None`: it cannot tell, so that everything is looked at.
    told: Mutex<Option<News>>,
    /// How often it was asked while it could tell.
    asked: AtomicUsize,
    /// How often it was asked who is in service.
    service: AtomicUsize,
}

impl Puppets {
    fn news(&self) -> News {
        let everything = News { everything: true, ..News::default() };
        let mut told = self.told.lock().unwrap();
        let Some(news) = told.as_mut() else { return everything };
        self.asked.fetch_add(1, Ordering::SeqCst);
        std::mem::take(news)
    }
}

/// Without a slow look: what is not found is not looked at.
const PACES: Paces = Paces { grace: Duration::ZERO, slow: Duration::from_secs(3_600) };

#[async_trait::async_trait]
impl Fleet for Puppets {
    fn subscribers(&self, audience: &Audience) -> Vec<Subscriber> {
        self.service.fetch_add(1, Ordering::SeqCst);
        let members = self.members.lock().unwrap().get(audience).cloned().unwrap_or_default();
        members
            .into_iter()
            .map(|node_id| Subscriber {
                applied: if self.stuck.lock().unwrap().contains(&node_id) { 0 } else { u64::MAX },
                in_service: !self.out.lock().unwrap().contains(&node_id),
                node_id,
            })
            .collect()
    }

    fn exception(&self, _: &Audience, _: &str, _: &Key) -> Option<Exception> {
        None
    }

    async fn reports(&self, _: &mut dyn Evidence, about: &[(String, Key)]) -> Result<Reports, WorldError> {
        let known = |about: &(String, Key)| Some((about.clone(), self.report(&about.0, &about.1)?));
        Ok(about.iter().filter_map(known).collect())
    }
}

impl Puppets {
    fn report(&self, node: &str, key: &Key) -> Option<Report> {
        if self.stuck.lock().unwrap().contains(node) {
            return None;
        }
        let phase = if self.broken.lock().unwrap().contains(&key.name) {
            Seen::Failed
        } else if key.known_kind() == Some(IntentKind::Retire) {
            Seen::Retired
        } else {
            Seen::Ready
        };
        Some(Report { phase, revision: u64::MAX, message: "because".into() })
    }
}

struct Lab {
    store: Store,
    puppets: Arc<Puppets>,
    changes: watch::Sender<u64>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), StoreError>>,
    tenant: String,
    shard: String,
    cluster: String,
    region: String,
    registry: Registry,
    _dir: tempfile::TempDir,
}

fn metrics() -> GatekeeperMetrics {
    GatekeeperMetrics::register(&mut Registry::default())
}

impl Lab {
    async fn start() -> Self {
        Self::with(PACES).await
    }

    async fn with(paces: Paces) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&dir.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(dir.path().join("store.db")), kek).await.unwrap();
        let puppets = Arc::new(Puppets::default());
        let changes = watch::Sender::new(0);
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let metrics = GatekeeperMetrics::register(&mut registry);
        let source = puppets.clone();
        let keeper = Gatekeeper::with(
            store.clone(),
            puppets.clone(),
            changes.subscribe(),
            Box::new(move || source.news()),
            paces,
            Bell::default(),
            metrics,
        );
        let task = tokio::spawn(keeper.run(stop.clone()));
        let empty = String::new;
        let mut lab = Self {
            store,
            puppets,
            changes,
            stop,
            task,
            tenant: empty(),
            shard: empty(),
            cluster: empty(),
            region: empty(),
            registry,
            _dir: dir,
        };
        lab.region = lab.post(Kind::Region, None, json!({"name": "eu"})).await;
        let region = lab.region.clone();
        lab.cluster = lab.post(Kind::Cluster, Some(&region), json!({"name": "c"})).await;
        let cluster = lab.cluster.clone();
        lab.shard = lab.post(Kind::Shard, Some(&cluster), json!({"name": "w", "role": "web"})).await;
        lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "192.0.2.1"})).await;
        lab.member("node/web1", "web1");
        lab.member("node/web2", "web2");
        lab.member(&format!("edge/{cluster}"), "edge1");
        lab.member("dns/default", "dns1");
        for (id, role, ip) in [
            ("web1", "web", "192.0.2.11"),
            ("web2", "web", "192.0.2.12"),
            ("edge1", "lb", ""),
            ("dns1", "dns", ""),
        ] {
            let shards = if role == "web" { vec![lab.shard.clone()] } else { vec![] };
            let body =
                json!({"id": id, "hostname": id, "roles": [role], "ip_address": ip, "shard_ids": shards});
            lab.post(Kind::Node, Some(&cluster), body).await;
        }
        let brand = json!({"id": "acme", "name": "acme", "base_hostname": "acme.example",
            "primary_ns": "ns1.acme.example", "secondary_ns": "ns2.acme.example",
            "hostmaster_email": "h@acme.example"});
        lab.post(Kind::Brand, None, brand).await;
        let tenant = json!({"brand_id": "acme", "customer_id": "c", "region_id": lab.region,
            "cluster_id": lab.cluster, "shard_id": lab.shard,
            "subscriptions": [{"id": "sub", "name": "sub"}],
            "zones": [{"subscription_id": "sub", "name": "example.com"}]});
        lab.tenant = lab.post(Kind::Tenant, None, tenant).await;
        lab
    }

    fn member(&self, audience: &str, node: &str) {
        self.puppets
            .members
            .lock()
            .unwrap()
            .entry(audience.parse().unwrap())
            .or_default()
            .insert(node.into());
    }

    fn change(&self, how: impl FnOnce(&Puppets)) {
        how(&self.puppets);
        self.changes.send_modify(|version| *version += 1);
    }

    async fn post(&self, kind: Kind, parent: Option<&str>, body: Value) -> String {
        self.post_by("", kind, parent, body).await
    }

    async fn post_by(&self, trace: &str, kind: Kind, parent: Option<&str>, body: Value) -> String {
        let parent = match parent {
            Some(id) => self.get(id).await,
            None => None,
        };
        let creation = kind
            .def()
            .create(parent.as_ref(), body.as_object().unwrap(), &mut |bytes: &mut [u8]| rand::fill(bytes))
            .unwrap();
        let origin = Origin { traceparent: trace.to_owned(), actor: None, ..Origin::default() };
        let made = self
            .store
            .write(origin, move |tx| Box::pin(async move { create(tx, creation).await }))
            .await
            .unwrap();
        made.value.first().unwrap().id.clone()
    }

    /// Until two rounds came and went without a commit: then nothing is left to look at for what was committed.
    async fn until_it_rests(&self) {
        let head = async || self.store.read().await.unwrap().head();
        loop {
            let before = head().await;
            for _ in 0..2 {
                let asked = self.puppets.asked.load(Ordering::SeqCst);
                self.change(|_| {});
                while self.puppets.asked.load(Ordering::SeqCst) == asked {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            // The second of them may still be at work.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if head().await == before {
                return;
            }
        }
    }

    async fn webroot(&self) -> String {
        let body = json!({"subscription_id": "sub", "runtime": "static", "runtime_version": "1",
            "service_hostname_enabled": false});
        self.post(Kind::Webroot, Some(&self.tenant), body).await
    }

    async fn fqdn(&self, name: &str, webroot: &str) -> String {
        let body = json!({"fqdn": name, "webroot_id": webroot});
        self.post(Kind::Fqdn, Some(&self.tenant), body).await
    }

    async fn delete(&self, kind: Kind, id: &str) -> Deleted {
        let id = id.to_owned();
        let deleted = self
            .store
            .write(Origin::default(), move |tx| Box::pin(async move { delete(tx, kind, &id).await }))
            .await;
        deleted.unwrap().value
    }

    async fn get(&self, id: &str) -> Option<Resource> {
        self.store.read().await.unwrap().resource(id).await.unwrap()
    }

    async fn row(&self, audience: &str, kind: IntentKind, name: &str) -> bool {
        let mut tx = self.store.read().await.unwrap();
        tx.intent(&audience.parse().unwrap(), &Key::new(kind, name)).await.unwrap().is_some()
    }

    /// Waits until the resource stands there; `None`: until it is gone. Answers how long it took.
    async fn until(&self, id: &str, status: Option<Status>) -> Duration {
        let began = Instant::now();
        loop {
            let found = self.get(id).await.map(|resource| resource.status);
            if found == status {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{id} is {found:?}, not {status:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_go_live_within_the_budget() {
    let lab = Lab::start().await;
    let webroot = lab.webroot().await;
    lab.until(&webroot, Some(Status::Active)).await;
    lab.until(&lab.tenant, Some(Status::Active)).await;
    let mut times = Vec::new();
    for n in 0..40 {
        let fqdn = lab.fqdn(&format!("n{n}.example.com"), &webroot).await;
        times.push(lab.until(&fqdn, Some(Status::Active)).await);
        assert!(lab.row("dns/default", IntentKind::RrSet, &format!("example.com/n{n}.example.com/A")).await);
    }
    times.sort();
    // Commit to routed to answered to `active`: four commits. The budget for all of it is 1 s.
    assert!(times[38] < Duration::from_secs(1), "{times:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_does_not_answer_holds_the_gate_until_it_is_out_of_service() {
    let lab = Lab::start().await;
    let webroot = lab.webroot().await;
    lab.until(&webroot, Some(Status::Active)).await;
    let edge = format!("edge/{}", lab.cluster);
    lab.member(&edge, "edge2");
    lab.change(|puppets| {
        puppets.stuck.lock().unwrap().insert("edge2".into());
    });
    let fqdn = lab.fqdn("www.example.com", &webroot).await;
    lab.until(&fqdn, Some(Status::Provisioning)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(lab.row(&edge, IntentKind::Route, "www.example.com").await);
    assert!(!lab.row("dns/default", IntentKind::RrSet, "example.com/www.example.com/A").await);
    lab.change(|puppets| {
        puppets.out.lock().unwrap().insert("edge2".into());
    });
    lab.until(&fqdn, Some(Status::Active)).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_nodes_leave_the_pool_and_come_back() {
    let lab = Lab::start().await;
    let edge = format!("edge/{}", lab.cluster);
    let pool = async |lab: &Lab| -> Vec<bool> {
        let mut tx = lab.store.read().await.unwrap();
        let key = Key::new(IntentKind::ShardPool, lab.shard.as_str());
        let row = tx.intent(&edge.parse().unwrap(), &key).await.unwrap().unwrap();
        let Ok(hosting_intent::Intent::ShardPool(pool)) = hosting_intent::Intent::parse(&key, &row.value)
        else {
            panic!("{row:?}");
        };
        pool.nodes.iter().map(|node| node.in_service).collect()
    };
    let until = async |lab: &Lab, wanted: &[bool]| {
        let began = Instant::now();
        while pool(lab).await != wanted {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}, not {wanted:?}", pool(lab).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    until(&lab, &[true, true]).await;
    lab.change(|puppets| {
        puppets.out.lock().unwrap().insert("web1".into());
    });
    until(&lab, &[false, true]).await;
    lab.change(|puppets| {
        puppets.out.lock().unwrap().insert("web2".into());
    });
    let began = Instant::now();
    while !lab.get("web2").await.unwrap().flag("out_of_service") {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(pool(&lab).await, [false, true], "never none");
    lab.change(|puppets| puppets.out.lock().unwrap().clear());
    until(&lab, &[true, true]).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_well_again_when_the_node_says_so() {
    let lab = Lab::start().await;
    let webroot = lab.webroot().await;
    lab.until(&webroot, Some(Status::Active)).await;
    let second = {
        lab.change(|puppets| puppets.stuck.lock().unwrap().extend(["web1".into(), "web2".into()]));
        let second = lab.webroot().await;
        let broken = second.clone();
        lab.change(move |puppets| {
            puppets.stuck.lock().unwrap().clear();
            puppets.broken.lock().unwrap().insert(broken);
        });
        second
    };
    lab.until(&second, Some(Status::Failed)).await;
    assert!(lab.get(&second).await.unwrap().status_message.unwrap().contains("because"));
    lab.change(|puppets| puppets.broken.lock().unwrap().clear());
    lab.until(&second, Some(Status::Active)).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_much_in_it_goes_whole() {
    let lab = Lab::start().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let webroot = lab.webroot().await;
        for k in 0..60 {
            ids.push(lab.fqdn(&format!("n{n}-{k}.example.com"), &webroot).await);
        }
        ids.push(webroot);
    }
    for id in &ids {
        lab.until(id, Some(Status::Active)).await;
    }
    assert!(matches!(lab.delete(Kind::Tenant, &lab.tenant).await, Deleted::Deleting(_)));
    lab.until(&lab.tenant, None).await;
    for id in &ids {
        assert_eq!(lab.get(id).await, None);
    }
    let edge = format!("edge/{}", lab.cluster);
    let mut tx = lab.store.read().await.unwrap();
    let left = tx.audience_rows(&edge.parse().unwrap(), None, 10).await.unwrap();
    let is_shared =
        |kind| matches!(kind, Some(IntentKind::ShardPool | IntentKind::EdgeSettings | IntentKind::EdgeCount));
    assert!(left.iter().all(|row| is_shared(row.key.known_kind())), "{left:?}");
    drop(tx);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_is_in_the_trace_of_its_request() {
    let trace = |n: u8| format!("00-{}-00000000000000{n:02x}-01", format!("{n:02x}").repeat(16));
    let lab = Lab::start().await;
    lab.change(|puppets| puppets.stuck.lock().unwrap().extend(["web1".into(), "web2".into()]));
    let body = json!({"subscription_id": "sub", "runtime": "static", "runtime_version": "1",
        "service_hostname_enabled": false});
    let webroot = lab.post_by(&trace(1), Kind::Webroot, Some(&lab.tenant), body).await;
    let mut names = Vec::new();
    for n in 2..12 {
        let name = format!("n{n}.example.com");
        let body = json!({"fqdn": name, "webroot_id": webroot});
        names.push((lab.post_by(&trace(n), Kind::Fqdn, Some(&lab.tenant), body).await, name, trace(n)));
    }
    let edge = format!("edge/{}", lab.cluster);
    assert!(!lab.row(&edge, IntentKind::Route, "n2.example.com").await, "it waits for the site");
    lab.change(|puppets| puppets.stuck.lock().unwrap().clear());
    let logged = async |audience: &str, kind: IntentKind, name: &str| -> Vec<String> {
        let window = lab.store.window(&audience.parse().unwrap(), 0, 10_000).await.unwrap();
        let items = window.entries.into_iter().flat_map(|entry| entry.upserts);
        items.filter(|item| item.key == Key::new(kind, name)).map(|item| item.traceparent).collect()
    };
    for (id, name, trace) in &names {
        lab.until(id, Some(Status::Active)).await;
        assert_eq!(logged(&edge, IntentKind::Route, name).await, [trace.as_str()]);
        let records = format!("example.com/{name}/A");
        assert_eq!(logged("dns/default", IntentKind::RrSet, &records).await, [trace.as_str()]);
        assert_eq!(trace_of(&lab.get(id).await.unwrap()), "", "it has arrived");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_counted() {
    let lab = Lab::start().await;
    let webroot = lab.webroot().await;
    let fqdn = lab.fqdn("www.example.com", &webroot).await;
    lab.until(&fqdn, Some(Status::Active)).await;
    lab.change(|puppets| {
        puppets.out.lock().unwrap().insert("web1".into());
    });
    let count = |name: &str| -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &lab.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    };
    let began = Instant::now();
    while count("hosting_controller_node_turns_total{to=\"Out\"}") < 1.0
        || count("hosting_controller_open_resources") > 0.0
    {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The site's, the name's.
    assert!(count("hosting_controller_gates_opened_total") >= 2.0);
    assert!(count("hosting_controller_statuses_written_total") >= 2.0);
    let rounds = count("hosting_controller_rounds_total");
    assert!(rounds >= 3.0 && count("hosting_controller_round_seconds_sum") > 0.0);
    assert!(count("hosting_controller_round_seconds_count") >= rounds);
    assert_eq!(count("hosting_controller_node_turns_total{to=\"In\"}"), 0.0);
    assert_eq!(count("hosting_controller_replan_queue"), 0.0);
    assert_eq!(count("hosting_controller_gatekeeper_refusals_total"), 0.0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gatekeeper_that_starts_late_finds_everything() {
    let lab = Lab::start().await;
    lab.stop.cancel();
    lab.task.await.unwrap().unwrap();
    let stop = CancellationToken::new();
    let lab = Lab { stop: stop.clone(), task: tokio::spawn(async { Ok(()) }), ..lab };
    let webroot = lab.webroot().await;
    let fqdn = lab.fqdn("www.example.com", &webroot).await;
    lab.post(Kind::LbAddress, Some(&lab.cluster.clone()), json!({"address": "2001:db8::1"})).await;
    assert_eq!(lab.get(&fqdn).await.unwrap().status, Status::Pending);
    let source = lab.puppets.clone();
    let keeper = Gatekeeper::with(
        lab.store.clone(),
        lab.puppets.clone(),
        lab.changes.subscribe(),
        Box::new(move || source.news()),
        PACES,
        Bell::default(),
        metrics(),
    );
    let lab = Lab { task: tokio::spawn(keeper.run(stop)), ..lab };
    lab.until(&fqdn, Some(Status::Active)).await;
    let began = Instant::now();
    while !lab.row("dns/default", IntentKind::RrSet, "example.com/www.example.com/AAAA").await {
        assert!(began.elapsed() < Duration::from_secs(20), "the replan queue was not drained");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_acknowledgements_and_reports_concern_is_found() {
    let lab = Lab::start().await;
    let edge = Audience::edge(&lab.cluster).unwrap();
    lab.change(|puppets| {
        puppets.stuck.lock().unwrap().extend(["edge1", "web1", "web2"].map(str::to_owned));
    });
    let webroot = lab.webroot().await;
    let fqdn = lab.fqdn("www.example.com", &webroot).await;
    lab.until(&fqdn, Some(Status::Provisioning)).await;
    lab.change(|puppets| *puppets.told.lock().unwrap() = Some(News::default()));
    lab.until_it_rests().await;

    // Nothing is looked at for itself.
    lab.change(|puppets| puppets.stuck.lock().unwrap().retain(|node| node == "edge1"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.get(&webroot).await.unwrap().status, Status::Provisioning);

    // A node's report opens the site's gate; the name is routed, and waits for the edge.
    let site = Key::new(IntentKind::Webroot, webroot.as_str());
    lab.change(|puppets| {
        puppets.told.lock().unwrap().as_mut().unwrap().item(&Audience::node("web1").unwrap(), site);
    });
    lab.until(&webroot, Some(Status::Active)).await;
    lab.until_it_rests().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.get(&fqdn).await.unwrap().status, Status::Provisioning);

    // The edge's acknowledgement concerns the name, and the name servers' its automatic records.
    let head = lab.store.read().await.unwrap().head();
    lab.change(|puppets| {
        puppets.stuck.lock().unwrap().clear();
        let applied = (edge, vec![(0, head)]);
        puppets.told.lock().unwrap().as_mut().unwrap().applied.extend([applied]);
    });
    lab.until(&fqdn, Some(Status::Active)).await;
}
