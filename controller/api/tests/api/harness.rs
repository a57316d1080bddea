//! A store in a folder of its own, a fleet that does what a test says, and the router, called without a socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use hosting_api::{Api, ApiConfig};
use hosting_intent::{Bytes, Cause, Key, Kind as IntentKind};
use hosting_jobs::Bell;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_planner::gates::{evaluate, gather};
use hosting_planner::{ApplyError, BeginRollout, Change, Draft as _, IntentChange, PlanError};
use hosting_resource::kinds::api_key;
use hosting_resource::{Creation, Kind, Status};
use hosting_store::{Kek, Origin, Rollout, RolloutState, Store, StoreConfig};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) use fake_fleet::{FakeFleet, FakePlatform};

// Another program of tests has this file too.
#[path = "fake_fleet.rs"]
mod fake_fleet;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: HeaderMap,
}

impl Answer {
    pub(crate) fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_else(|| panic!("no error in {self:?}"))
    }

    /// The answer's body, which must be a success.
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id in {self:?}")).to_owned()
    }
}

/// What a brand has, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    pub(crate) brand: String,
    pub(crate) package: String,
    pub(crate) incident: String,
    pub(crate) gap: String,
    pub(crate) webhook: String,
    /// One that is paused, of nobody's items.
    pub(crate) rollout: String,
    pub(crate) tenant: String,
    pub(crate) subscription: String,
    pub(crate) webroot: String,
    pub(crate) fqdn: String,
    pub(crate) fqdn_name: String,
    pub(crate) certificate: String,
    pub(crate) zone: String,
    pub(crate) record: String,
    /// The revision that made the zone.
    pub(crate) zone_revision: u64,
    /// A callback about the record that nobody delivers.
    pub(crate) job: String,
}

pub(crate) struct TestApi {
    pub(crate) router: Router,
    pub(crate) store: Store,
    pub(crate) fleet: Arc<FakeFleet>,
    pub(crate) admin: String,
    pub(crate) registry: Registry,
    pub(crate) bell: Bell,
    /// The API drains.
    pub(crate) stop: CancellationToken,
    pub(crate) region: String,
    pub(crate) cluster: String,
    pub(crate) lb_address: String,
    pub(crate) certificate_authority: String,
    pub(crate) shard: String,
    /// Stands for the gatekeeper.
    #[allow(dead_code, reason = "not every test binary stops it")]
    pub(crate) gatekeeper: Gatekeeper,
    folder: tempfile::TempDir,
}

/// The gatekeeper's task, which ends with its platform.
pub(crate) struct Gatekeeper(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl TestApi {
    /// An empty platform with an admin key.
    pub(crate) async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(StoreConfig::new(folder.path().join("store.db")), folder).await
    }

    /// The same over a store of one's own; the folder gets its key.
    pub(crate) async fn on(config: StoreConfig, folder: tempfile::TempDir) -> Self {
        Self::open(config, folder).await.with_admin().await
    }

    /// With a key that has all rights.
    async fn with_admin(self) -> Self {
        let test = self;
        let key =
            api_key::from_raw("admin", &test.admin, vec!["*:*".into()], vec!["*".into()], &mut |buffer| {
                rand::fill(buffer);
            })
            .unwrap();
        test.store
            .write(Origin::default(), move |tx| {
                Box::pin(async move {
                    let creation = Creation { resources: vec![key], ..Creation::default() };
                    hosting_planner::create(tx, creation).await
                })
            })
            .await
            .unwrap();
        test
    }

    /// An empty platform with an admin key, whose API behaves as said.
    #[allow(dead_code, reason = "not every test binary says how")]
    pub(crate) async fn behaving(behaviour: ApiConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig::new(folder.path().join("store.db"));
        Self::open_with(config, folder, behaviour).await.with_admin().await
    }

    /// Where its store is.
    #[allow(dead_code, reason = "not every test binary looks there")]
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The same platform once more, from a copy of what is stored.
    pub(crate) async fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(self.folder.path().join("kek"), folder.path().join("kek")).unwrap();
        self.store.backup_to(&folder.path().join("store.db")).await.unwrap();
        Self {
            region: self.region.clone(),
            cluster: self.cluster.clone(),
            lb_address: self.lb_address.clone(),
            certificate_authority: self.certificate_authority.clone(),
            shard: self.shard.clone(),
            ..Self::open(StoreConfig::new(folder.path().join("store.db")), folder).await
        }
    }

    /// A controller's API over a store, which is made when there is none; the folder has its key, or gets it.
    pub(crate) async fn open(config: StoreConfig, folder: tempfile::TempDir) -> Self {
        Self::open_with(config, folder, ApiConfig::default()).await
    }

    /// As [`TestApi::open`], with an API that behaves as said.
    pub(crate) async fn open_with(
        config: StoreConfig,
        folder: tempfile::TempDir,
        behaviour: ApiConfig,
    ) -> Self {
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&config, kek).await.unwrap();
        let fleet = Arc::new(FakeFleet::default());
        let mut registry = Registry::default();
        let config = ApiConfig {
            body_limit: 64 * 1024,
            body_timeout: Duration::from_secs(1),
            callbacks: callback_rules(),
            ..behaviour
        };
        let bell = config.bell.clone();
        let stop = config.stop.clone();
        let api = Api::new(store.clone(), Arc::new(FakePlatform(fleet.clone())), config, &mut registry);
        tokio::spawn(api.clone().attend(stop.clone()));
        let gatekeeper = Gatekeeper(tokio::spawn(keep_gates(store.clone(), fleet.clone(), bell.clone())));
        Self {
            router: api.router(),
            store,
            fleet,
            admin: "hst_test-admin-key".to_owned(),
            registry,
            bell,
            stop,
            region: String::new(),
            cluster: String::new(),
            lb_address: String::new(),
            certificate_authority: String::new(),
            shard: String::new(),
            gatekeeper,
            folder,
        }
    }

    /// A platform with a region, a cluster, an edge, a name server and a web node.
    pub(crate) async fn with_fleet() -> Self {
        Self::empty().await.equipped().await
    }

    /// With a region, a cluster, an edge, a name server and a web node.
    pub(crate) async fn equipped(self) -> Self {
        let mut test = self;
        test.region = test.post("/regions", json!({"name": "north"})).await.id();
        test.cluster =
            test.post(&format!("/regions/{}/clusters", test.region), json!({"name": "one"})).await.id();
        let cluster = test.cluster.clone();
        let authority = json!({"name": "first-ca", "directory_url": "https://ca.example/dir"});
        test.certificate_authority = test.post("/certificate-authorities", authority).await.id();
        test.lb_address = test
            .post(
                &format!("/clusters/{cluster}/lb-addresses"),
                json!({"address": "192.0.2.1", "label": "edge"}),
            )
            .await
            .id();
        test.shard = test
            .post(&format!("/clusters/{cluster}/shards"), json!({"name": "web-1", "role": "web"}))
            .await
            .id();
        let role = json!({"id": "dns-reader", "name": "DNS reader", "scopes": ["zones:read"]});
        test.post("/roles", role).await.ok(201);
        for (id, role, shards) in
            [("edge-1", "lb", vec![]), ("dns-1", "dns", vec![]), ("web-1", "web", vec![test.shard.clone()])]
        {
            let node = json!({"id": id, "hostname": id, "ip_address": "192.0.2.9", "roles": [role], "shard_ids": shards});
            test.post(&format!("/clusters/{cluster}/nodes"), node).await.ok(201);
        }
        test
    }

    /// A brand with a tenant that has one of everything.
    pub(crate) async fn brand(&self, name: &str) -> Ids {
        let brand = json!({
            "id": name, "name": name, "base_hostname": format!("{name}.example"),
            "primary_ns": format!("ns1.{name}.example"), "secondary_ns": format!("ns2.{name}.example"),
            "hostmaster_email": format!("hostmaster@{name}.example"),
        });
        self.post("/brands", brand).await.ok(201);
        let package =
            json!({"id": format!("package-of-{name}"), "name": "large", "limits": {"webroots": 1000}});
        let package = self.post(&format!("/brands/{name}/packages"), package).await.id();
        let tenant = self.post("/tenants", self.tenant_body(name)).await;
        assert_eq!(tenant.status, 202, "{tenant:?}");
        let tenant = tenant.id();
        let subscription = format!("sub-{name}");
        self.post(
            &format!("/tenants/{tenant}/subscriptions"),
            json!({"id": subscription, "name": "default"}),
        )
        .await
        .ok(201);
        let zone = json!({
            "name": format!("{name}-zone.example"), "subscription_id": subscription, "region_id": self.region,
            "tenant_id": tenant,
        });
        let zone = self.post("/zones", zone).await;
        assert_eq!(zone.status, 202, "{zone:?}");
        let zone_revision = zone.body["revision"].as_u64().unwrap();
        let zone = zone.id();
        let record = json!({"type": "TXT", "name": "@", "content": "hello"});
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/api/v1/zones/{zone}/records"))
            .header("x-api-key", &self.admin)
            .header("x-callback-url", "https://crm.example/done")
            .body(Body::from(record.to_string()))
            .unwrap();
        let record = self.send(request).await.id();
        let jobs = self.get(&format!("/jobs?subject={record}")).await.ok(200);
        let job = jobs["items"][0]["id"].as_str().unwrap().to_owned();
        let site = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
        let webroot = self.post(&format!("/tenants/{tenant}/webroots"), site).await.id();
        let fqdn_name = format!("www.{name}-zone.example");
        let fqdn = self
            .post(
                &format!("/tenants/{tenant}/fqdns?wait=ready"),
                json!({"fqdn": fqdn_name, "webroot_id": webroot}),
            )
            .await;
        assert_eq!(fqdn.status, 200, "{fqdn:?}");
        let certificate = self
            .post(&format!("/fqdns/{}/certificates?wait=ready", fqdn.id()), certificate(&fqdn_name))
            .await;
        assert_eq!(certificate.status, 200, "{certificate:?}");
        let incident = json!({
            "dedupe_key": "first", "type": "t", "severity": "info", "title": "t", "source": "s", "resource_id": tenant,
        });
        let incident = self.post("/incidents", incident).await.id();
        let gap = json!({
            "tool_name": "first", "description": "d", "category": "remediation", "incident_id": incident,
        });
        let gap = self.post("/capability-gaps", gap).await.id();
        let webhook = json!({"name": name, "brand_id": name, "url": "https://crm.example/hook"});
        let webhook = self.post("/webhooks", webhook).await.id();
        let rollout = self.rollout().await;
        Ids {
            brand: name.to_owned(),
            rollout,
            webhook,
            incident,
            gap,
            package,
            tenant,
            subscription,
            webroot,
            fqdn: fqdn.id(),
            fqdn_name,
            certificate: certificate.id(),
            zone,
            zone_revision,
            record,
            job,
        }
    }

    /// A rollout that is paused; of an audience that nobody subscribes to.
    async fn rollout(&self) -> String {
        let begun = self.store.write(Origin::default(), |tx| {
            Box::pin(async move {
                let intent = IntentChange {
                    audience: "edge/none".parse().unwrap(),
                    key: Key::new(IntentKind::EdgeSettings, "settings"),
                    owner: "cluster:none".to_owned(),
                    value: Some(Bytes::from(tx.revision().to_string())),
                    cause: Cause::Person,
                    traceparent: None,
                    rollout: tx.revision(),
                };
                let rollout = Some(BeginRollout::default());
                tx.apply(Change { intents: vec![intent], rollout, ..Change::default() }).await?;
                let id = tx.revision();
                let begun = tx.beside().rollout(id).await?.unwrap();
                tx.put_rollout(&Rollout { state: RolloutState::Paused, ..begun }).await?;
                Ok::<_, ApplyError>(id)
            })
        });
        begun.await.unwrap().value.to_string()
    }

    pub(crate) fn tenant_body(&self, brand: &str) -> Value {
        json!({
            "brand_id": brand, "customer_id": format!("customer-of-{brand}"), "region_id": self.region,
            "cluster_id": self.cluster, "shard_id": self.shard,
        })
    }

    /// A new API key: its id and itself.
    pub(crate) async fn key(&self, scopes: &[&str], brands: &[&str]) -> (String, String) {
        let made = self.post("/api-keys", json!({"name": "k", "scopes": scopes, "brands": brands})).await;
        assert_eq!(made.status, 201, "{made:?}");
        (made.id(), made.body["key"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Some(&self.admin), None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&self.admin), Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(&self.admin), Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Some(&self.admin), None).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        if parts.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream") {
            // It would go on for ever.
            return Answer { status: parts.status.as_u16(), body: Value::Null, headers: parts.headers };
        }
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        if parts.status != StatusCode::OK && parts.status.as_u16() >= 400 {
            assert!(body["error"].is_string(), "an error without its sentence: {} {body}", parts.status);
            assert_eq!(body["detail"], body["error"], "RFC 9457 beside it: {body}");
            assert!(body["type"].is_string() && body["title"].is_string(), "RFC 9457 beside it: {body}");
        }
        Answer { status: parts.status.as_u16(), body, headers: parts.headers }
    }

    /// Asks until `done` says so, for 5 s at most.
    pub(crate) async fn until(&self, path: &str, done: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..500 {
            let answer = self.get(path).await;
            if done(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} did not come to it: {:?}", self.get(path).await);
    }
}

/// The gatekeeper in its simplest form: looks at every open resource whenever something changed.
async fn keep_gates(store: Store, fleet: Arc<FakeFleet>, bell: Bell) {
    loop {
        while drain(&store).await {}
        let mut open = Vec::new();
        {
            let mut tx = store.read().await.unwrap();
            let mut after = String::new();
            loop {
                let page = tx.open_resources(&after, 500).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.id.clone();
                let all = gather(&mut tx, fleet.as_ref(), &page).await.unwrap();
                for (resource, inputs) in page.into_iter().zip(all) {
                    let verdict = evaluate(&resource, &inputs, fleet.as_ref(), 0);
                    open.push((resource, verdict));
                }
            }
        }
        for (resource, verdict) in open {
            let origin = Origin { traceparent: hosting_planner::trace_of(&resource), ..Origin::default() };
            store
                .write(origin, move |tx| {
                    Box::pin(async move {
                        if resource.status == Status::Deleting {
                            hosting_planner::continue_delete(tx, &resource.id).await?;
                        }
                        if verdict.remove {
                            hosting_planner::finish_delete(tx, &resource.id, &verdict.retired).await?;
                        } else {
                            hosting_planner::open_gates(tx, &resource.id, &verdict.open).await?;
                            hosting_planner::record_status(tx, &resource.id, resource.generation, &verdict)
                                .await?;
                        }
                        Ok::<_, PlanError>(())
                    })
                })
                .await
                .unwrap();
        }
        let awaited = store.read().await.unwrap().awaited_resources("", 1_000).await.unwrap();
        if hosting_jobs::settle(&store, fleet.as_ref(), &awaited).await.unwrap() > 0 {
            bell.ring();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Callbacks may go to receivers on this machine.
pub(crate) fn callback_rules() -> CallbackRules {
    CallbackRules {
        plain_http: true,
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..CallbackRules::default()
    }
}

async fn drain(store: &Store) -> bool {
    if store.read().await.unwrap().replan_count(10).await.unwrap() == 0 {
        return false;
    }
    store
        .write(Origin::default(), |tx| Box::pin(async move { hosting_planner::drain(tx).await }))
        .await
        .unwrap()
        .value
        .more
}

/// The kind's example with ids that exist.
/// A new certificate for a host name that signs itself, with its key.
pub(crate) fn certificate(name: &str) -> Value {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    json!({"cert_pem": made.cert.pem(), "key_pem": made.signing_key.serialize_pem()})
}

pub(crate) fn example(test: &TestApi, ids: &Ids, kind: Kind) -> Value {
    let mut body = kind.def().example();
    let real = [
        ("brand_id", &ids.brand),
        ("region_id", &test.region),
        ("cluster_id", &test.cluster),
        ("shard_id", &test.shard),
        ("subscription_id", &ids.subscription),
        ("tenant_id", &ids.tenant),
    ];
    for (field, id) in real {
        if body.get(field).is_some() {
            body[field] = json!(id);
        }
    }
    if body.get("shard_ids").is_some() {
        body["shard_ids"] = json!([test.shard]);
    }
    if kind == Kind::ApiKey {
        body["brands"] = json!([ids.brand]);
    }
    if kind == Kind::Certificate {
        body = certificate(&ids.fqdn_name);
    }
    body
}

/// The id of one of the kind that belongs to `ids`, or to the platform.
pub(crate) fn id_of(test: &TestApi, ids: &Ids, kind: Kind) -> String {
    match kind {
        Kind::Brand => &ids.brand,
        Kind::Package => &ids.package,
        Kind::Region => &test.region,
        Kind::Cluster => &test.cluster,
        Kind::LbAddress => &test.lb_address,
        Kind::Shard => &test.shard,
        Kind::Node => "web-1",
        Kind::Tenant => &ids.tenant,
        Kind::Subscription => &ids.subscription,
        Kind::Webroot => &ids.webroot,
        Kind::Fqdn => &ids.fqdn,
        Kind::Certificate => &ids.certificate,
        Kind::CertificateAuthority => &test.certificate_authority,
        Kind::Zone => &ids.zone,
        Kind::ZoneRecord => &ids.record,
        Kind::Webhook => &ids.webhook,
        Kind::Role => "dns-reader",
        Kind::ApiKey => "no-such-key",
    }
    .to_owned()
}
