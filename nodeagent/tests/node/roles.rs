//! The agent has no role of its own: another one is a set of drivers and what it wants of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Claim, DataId, DataKind, Desired, Driver, Engine, Host, HostError, Key as Thing, Phase, Place,
    Plan, Report, Rest, Root,
};
use hosting_intent::{Bytes, Item, Key, Kind, NodeIntent, Rejection, Removal, RoleIntent, message as m};
use hosting_intent_sync::{Batch, Replica, client::AudienceKeys};
use hosting_nodeagent::{
    agent::Agent,
    drivers::{Destroyable, Retire, RetireSpec},
    host::{
        RealHost,
        files::Files,
        supervisor::{AtDeath, Supervisor},
    },
    metrics::Metrics,
    replica::NodeReplica,
    role::{Derivation, Node, ReadyPart, Role, RoleInfo},
    roots::Roots,
    settings::Settings,
    view::Items,
    wants::Wants,
};
use prost::Message;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::support::folder;

/// Keeps a file for each tenant, and one for the node itself.
struct Shelf;

const OWN: &str = "node";

const SHELF: DataKind =
    DataKind::new("shelf", |data| Place::new(Root::Storage, ["shelves", data.id.as_str()]));

const DATA: &[Destroyable] = &[Destroyable {
    kind: SHELF,
    intent: Kind::Tenant,
    users: |id| vec![Thing::new(Shelf::KIND, id)],
    logs: |_| None,
}];

static LIBRARY: RoleInfo = RoleInfo {
    name: "library",
    kinds: &[Kind::Tenant, Kind::Retire],
    data: DATA,
    ready: &[ReadyPart { name: "shelves", thing: || Thing::new(Shelf::KIND, OWN) }],
    ends_first: None,
    logs: &[],
    sound: |_| Ok(()),
    check: |_| Ok(()),
    remarks: |_| Vec::new(),
    open: |_, _| Ok(Box::new(Library)),
};

fn shelf(id: &str, incarnation: u64) -> DataId {
    DataId { kind: SHELF, id: id.into(), tenant: id.into(), incarnation }
}

#[async_trait]
impl Driver for Shelf {
    type Spec = u64;
    type Observed = Option<u64>;
    type Step = u64;
    const KIND: &'static str = "shelf";

    fn needs(&self, name: &str, _: &u64) -> Vec<Thing> {
        if name == OWN { Vec::new() } else { vec![Thing::new(Self::KIND, OWN)] }
    }

    fn holds(&self, _: &str, _: &u64) -> Vec<Claim> {
        Vec::new()
    }

    fn held(&self, _: &str, _: &Option<u64>) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, name: &str) -> Option<Key> {
        Some(Key::new(Kind::Tenant, name))
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        host.names(&Place::new(Root::Storage, ["shelves"])).await
    }

    async fn observe(&self, name: &str, _: Option<&u64>, host: &dyn Host) -> Result<Option<u64>, HostError> {
        let marker = host.read(&shelf(name, 0).marker()).await?;
        Ok(marker.as_deref().and_then(DataId::read_marker).map(|(incarnation, _)| incarnation))
    }

    fn plan(&self, _: &str, want: Option<&u64>, seen: &Option<u64>) -> Plan<u64> {
        match (want, seen) {
            (Some(want), Some(seen)) if want == seen => Plan::Rest(Rest::Ready(String::new())),
            (Some(_), Some(_)) => Plan::Rest(Rest::Blocked("another life of it is there".into())),
            (Some(want), None) => Plan::Do(vec![*want]),
            (None, Some(_)) => Plan::Rest(Rest::Kept("its file is kept".into())),
            (None, None) => Plan::Rest(Rest::Gone),
        }
    }

    async fn step(&self, name: &str, step: &u64, host: &dyn Host) -> Result<(), HostError> {
        let data = shelf(name, *step);
        host.make_dir(&Place::new(Root::Storage, ["shelves"]), Access::agent(0o755)).await?;
        host.claim(&data).await?;
        host.write(&data.home(), b"a book", Access::agent(0o600)).await
    }
}

#[derive(Debug)]
struct Library;

impl Role for Library {
    fn check(&self, _: &Key, _: &NodeIntent) -> Result<(), Rejection> {
        Ok(())
    }

    fn drivers(&self, engine: Engine) -> Engine {
        engine.with(Shelf)
    }

    fn derivation(&self) -> Box<dyn Derivation> {
        Box::new(Self)
    }
}

impl Derivation for Library {
    fn changed(&mut self, _: &Key, _: Option<&NodeIntent>, _: Option<&NodeIntent>, _: &mut BTreeSet<Key>) {}

    fn wants(&self, _: &Items, key: &Key, revision: u64, intent: &NodeIntent) -> Desired {
        let mut desired = Desired::new();
        let origin = Some((key.clone(), revision));
        if let NodeIntent::Tenant(tenant) = intent {
            desired.want::<Shelf>(key.name.clone(), tenant.incarnation, origin);
        } else if let NodeIntent::Retire(retire) = intent
            && let Some(spec) = RetireSpec::of(retire, DATA, |_| None)
        {
            desired.want::<Retire>(format!("shelf/{}", retire.key), spec, origin);
        }
        desired
    }

    fn always(&mut self) -> Desired {
        let mut desired = Desired::new();
        desired.want::<Shelf>(OWN, 1, None);
        desired
    }
}

type Told = Arc<Mutex<Vec<(String, Option<Report>)>>>;

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_is_its_drivers_and_what_it_wants_of_them() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let roots = Roots {
        storage: path("storage"),
        logs: path("logs"),
        config: path("config"),
        run: path("run"),
        temp: path("temp"),
    };
    let files = Arc::new(Files::open(&roots, None).unwrap());
    let supervisor = Supervisor::open(files.clone(), roots.clone(), path("services"), AtDeath::End).unwrap();
    let node = Node {
        id: "library-1".into(),
        roots: roots.clone(),
        site_user: None,
        data_dir: path("data"),
        edge_key: watch::channel(None).1,
        audience_keys: AudienceKeys::load(dir.path()).unwrap(),
    };
    let role: Arc<dyn Role> = (LIBRARY.open)(&Settings::default(), node).unwrap().into();
    let mut replica = NodeReplica::new(role.clone());
    let (told, ready) = (Told::default(), Arc::new(Mutex::new(Vec::new())));
    let (reports, parts) = (told.clone(), ready.clone());
    let agent = Agent {
        engine: LIBRARY.engine(role.as_ref(), 8),
        role: &LIBRARY,
        host: RealHost::new(files, supervisor, roots.clone()),
        views: replica.views(),
        wants: Wants::new(role.derivation()),
        reports: Arc::new(move |_, changed| {
            let changed = changed.into_iter().map(|(key, report)| (key.to_string(), report));
            reports.lock().unwrap().extend(changed);
        }),
        ready: Arc::new(move |part, state| parts.lock().unwrap().push((part, state.is_ok()))),
        metrics: Metrics::new(&hosting_scaffold::admin::Metrics::new()),
        drift_interval: Duration::from_secs(2),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(agent.run(stop.clone()));

    let item = |key: Key, revision, value: Vec<u8>| {
        let intent = NodeIntent::parse(&key, &value).unwrap();
        let item = Item {
            key,
            revision,
            value: Bytes::from(value),
            cause: Default::default(),
            traceparent: String::new(),
            rollout: 0,
        };
        (item, intent)
    };
    let tenant = m::Tenant { uid: 1, state: m::State::Active as i32, incarnation: 7 };
    let upserts = vec![item(Key::new(Kind::Tenant, "t_a"), 1, tenant.encode_to_vec())];
    replica.publish(Batch { epoch: "e".into(), revision: 1, upserts, removals: Vec::new(), more: false });
    let phase_of = |key: &str| {
        let told = told.lock().unwrap();
        told.iter().rev().find(|(of, _)| of == key).and_then(|(_, report)| report.as_ref().map(|r| r.phase))
    };
    until("the shelf is ready", || phase_of("tenant/t_a") == Some(Phase::Ready)).await;
    assert_eq!(std::fs::read(path("storage/shelves/t_a")).unwrap(), b"a book");
    assert_eq!(ready.lock().unwrap().last(), Some(&("shelves", true)));

    let retire =
        m::Retire { kind: Kind::Tenant as i32, key: "t_a".into(), tenant_id: String::new(), incarnation: 7 };
    let upserts = vec![item(Key::new(Kind::Retire, "tenant/t_a"), 2, retire.encode_to_vec())];
    let removal = Removal {
        key: Key::new(Kind::Tenant, "t_a"),
        cause: Default::default(),
        traceparent: String::new(),
        rollout: 0,
    };
    replica.publish(Batch { epoch: "e".into(), revision: 2, upserts, removals: vec![removal], more: false });
    until("the shelf is gone", || phase_of("retire/tenant/t_a") == Some(Phase::Retired)).await;
    assert!(!path("storage/shelves/t_a").exists());
    assert!(path("storage/shelves/node").exists(), "only what the retire names is destroyed");

    stop.cancel();
    running.await.unwrap();
    assert_eq!(ready.lock().unwrap().last(), Some(&("shelves", false)));
}

#[test]
fn roles_have_names_of_their_own_and_kinds_of_data_too() {
    let roles = hosting_nodeagent::role::ROLES;
    let names: BTreeSet<&str> = roles.iter().map(|role| role.name).collect();
    assert_eq!(names.len(), roles.len());
    for role in roles {
        let kinds: BTreeSet<&str> = role.data.iter().map(|data| data.kind.as_str()).collect();
        assert_eq!(kinds.len(), role.data.len(), "{}", role.name);
        assert_eq!(hosting_nodeagent::role::find(role.name).map(|found| found.name), Some(role.name));
    }
}
