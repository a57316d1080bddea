//! `loadtest agent`: what the node agent's own work costs, with its real drivers over a machine in memory.
//!
//! Nothing waits: nginx and php-fpm are there and answer at once, files are entries of a map. So the figures are what the
//! agent itself adds to a node's work. The first pass makes everything, the second finds everything as wanted; then one
//! site after another changes, from the feed's batch to the end of the pass.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, DataId, Engine, Entry, Host, HostError, PassSummary, Place, Probe, Scope, Secret,
    ServiceSpec, ServiceState, fake::FakeHost,
};
use hosting_intent::{Bytes, Cause, Item, Key, Kind, NodeIntent, RoleIntent, message as m};
use hosting_intent_sync::client::AudienceKeys;
use hosting_intent_sync::{Batch, Replica};
use hosting_nodeagent::{
    replica::NodeReplica,
    role::Role as _,
    roots::Roots,
    view::View,
    wants::Wants,
    web::{
        ROLE, WebNode,
        layout::{Layout, WebLimits},
    },
};
use prost::Message;
use serde_json::json;
use tabled::{builder::Builder, settings::Style};
use tokio::sync::watch;

use crate::figures::{Figures, print};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sites on the node, each second one with PHP, ten to a tenant
    #[arg(long, default_value_t = 2000)]
    sites: u32,
    /// How many of them change, one by one
    #[arg(long, default_value_t = 200)]
    changes: u32,
}

const SITES_OF_A_TENANT: u32 = 10;

/// The fake host, but for what would cost more there than on a real machine: it looks for a probe's answer in all that is
/// loaded, and loads everything with each site.
struct Machine(FakeHost);

#[async_trait]
impl Host for Machine {
    async fn entry(&self, at: &Place) -> Result<Option<Entry>, HostError> {
        self.0.entry(at).await
    }
    async fn read(&self, at: &Place) -> Result<Option<Vec<u8>>, HostError> {
        self.0.read(at).await
    }
    async fn names(&self, at: &Place) -> Result<Vec<String>, HostError> {
        self.0.names(at).await
    }
    async fn write(&self, at: &Place, content: &[u8], access: Access) -> Result<(), HostError> {
        self.0.write(at, content, access).await
    }
    async fn link(&self, at: &Place, target: &str) -> Result<(), HostError> {
        self.0.link(at, target).await
    }
    async fn link_target(&self, at: &Place) -> Result<Option<String>, HostError> {
        self.0.link_target(at).await
    }
    async fn remove(&self, at: &Place) -> Result<(), HostError> {
        self.0.remove(at).await
    }
    async fn remove_tree(&self, at: &Place) -> Result<(), HostError> {
        self.0.remove_tree(at).await
    }
    async fn is_removing(&self, at: &Place) -> bool {
        self.0.is_removing(at).await
    }
    async fn make_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.0.make_dir(at, access).await
    }
    async fn make_file(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.0.make_file(at, access).await
    }
    async fn offer_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.0.offer_dir(at, access).await
    }
    async fn claim(&self, data: &DataId) -> Result<(), HostError> {
        self.0.claim(data).await
    }
    async fn discard(&self, data: &DataId) -> Result<(), HostError> {
        self.0.discard(data).await
    }
    async fn service(&self, name: &str) -> Result<ServiceState, HostError> {
        self.0.service(name).await
    }
    async fn run_service(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        self.0.run_service(spec).await
    }
    async fn stop_service(&self, name: &str) -> Result<(), HostError> {
        self.0.stop_service(name).await
    }
    async fn retire_service(
        &self,
        name: &str,
        drained: Option<&Probe>,
        grace: Duration,
    ) -> Result<(), HostError> {
        self.0.retire_service(name, drained, grace).await
    }
    async fn services(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        self.0.services(prefix).await
    }
    async fn install(&self, _: &str, at: &Place, content: Option<&[u8]>) -> Result<(), HostError> {
        match content {
            Some(content) => self.0.write(at, content, Access::agent(0o600)).await,
            None => self.0.remove(at).await,
        }
    }
    async fn reload(&self, _: &str) -> Result<(), HostError> {
        Ok(())
    }
    async fn probe(&self, probe: &Probe, _: Duration) -> Answer {
        let (Probe::Http { service, .. } | Probe::FastCgi { service, .. }) = probe;
        match self.0.service(service).await {
            Ok(ServiceState::Running { .. }) => Answer::Expected,
            Ok(_) | Err(_) => Answer::Silent("nobody there".to_owned()),
        }
    }
}

struct Node {
    engine: Engine,
    machine: Machine,
    replica: NodeReplica,
    views: watch::Receiver<Option<Arc<View>>>,
    wants: Wants,
    revision: u64,
    began: Instant,
}

/// Time on the clock, and time of the processor for it.
struct Cost {
    clock: Duration,
    cpu: Duration,
}

impl Node {
    fn new() -> anyhow::Result<Self> {
        // Nothing here is sealed: the key pair has only to be there.
        let folder = std::env::temp_dir().join(format!("hosting-loadtest-agent-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let keys = AudienceKeys::load(&folder)?;
        fs::remove_dir_all(&folder)?;
        let role = Arc::new(WebNode::new(Arc::new(layout()), watch::channel(None).1, keys));
        let replica = NodeReplica::new(role.clone());
        Ok(Self {
            engine: ROLE.engine(role.as_ref(), 256),
            wants: Wants::new(role.derivation()),
            machine: Machine(FakeHost::new()),
            views: replica.views(),
            replica,
            revision: 0,
            began: Instant::now(),
        })
    }

    /// As the agent does it: the feed's batch becomes a view, the view what is wanted, and a pass brings it about.
    async fn apply(
        &mut self,
        upserts: Vec<(Key, Vec<u8>)>,
        scope: Scope,
    ) -> anyhow::Result<(PassSummary, Cost)> {
        self.revision += 1;
        let mut items = Vec::with_capacity(upserts.len());
        for (key, value) in upserts {
            let intent = NodeIntent::parse(&key, &value).with_context(|| key.to_string())?;
            self.replica.check(&key, &intent).with_context(|| key.to_string())?;
            let item = Item {
                key,
                revision: self.revision,
                value: Bytes::from(value),
                cause: Cause::default(),
                traceparent: String::new(),
                rollout: 0,
            };
            items.push((item, intent));
        }
        let (started, cpu) = (Instant::now(), cpu()?);
        if !items.is_empty() {
            let batch = Batch {
                epoch: "e".into(),
                revision: self.revision,
                upserts: items,
                removals: Vec::new(),
                more: false,
            };
            self.replica.publish(batch);
        }
        let view = self.views.borrow_and_update().clone().context("nothing was published")?;
        let now = u64::try_from(self.began.elapsed().as_millis())?;
        let wanted = self.wants.follow(&view);
        let summary = self.engine.pass(&wanted, scope, now, &self.machine, &|_, _| {}).await;
        anyhow::ensure!(summary.failed + summary.blocked == 0, "not everything is ready: {summary:?}");
        Ok((summary, Cost { clock: started.elapsed(), cpu: self::cpu()?.saturating_sub(cpu) }))
    }
}

/// What this thread had of the processor.
fn cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().unwrap_or_default().parse().context("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(nanos))
}

fn layout() -> Layout {
    let folder = |name: &str| PathBuf::from("/srv").join(name);
    Layout {
        node_id: "web-1".into(),
        roots: Roots {
            storage: folder("storage"),
            logs: folder("logs"),
            config: folder("config"),
            run: folder("run"),
            temp: folder("temp"),
        },
        listen: vec![([127, 0, 0, 1], 8080).into()],
        edges: vec!["127.0.0.0/8".into()],
        nginx: "/usr/sbin/nginx".into(),
        workers: 1,
        web: WebLimits::default(),
        php: BTreeMap::from([("8.2".to_owned(), PathBuf::from("/usr/sbin/php-fpm8.2"))]),
        site_user: None,
        sites_are_root: false,
        probe_token: Secret("token".into()),
    }
}

fn tenant(number: u32) -> (Key, Vec<u8>) {
    let tenant = m::Tenant { uid: 200_000 + number, state: m::State::Active as i32, incarnation: 1 };
    (Key::new(Kind::Tenant, format!("t_{number:06}")), tenant.encode_to_vec())
}

fn site(number: u32, folder: &str) -> (Key, Vec<u8>) {
    let php = number.is_multiple_of(2);
    let webroot = m::Webroot {
        tenant_id: format!("t_{:06}", number / SITES_OF_A_TENANT),
        runtime: if php { "php" } else { "static" }.into(),
        runtime_version: if php { "8.2" } else { "" }.into(),
        public_folder: folder.to_owned(),
        shard_name: "s1".into(),
        php: php.then(|| m::PhpPool { max_children: 2, max_requests: 500, ..m::PhpPool::default() }),
        incarnation: 1,
        tenant_uid: 200_000 + number / SITES_OF_A_TENANT,
        env: BTreeMap::new(),
    };
    (Key::new(Kind::Webroot, format!("web_{number:06}")), webroot.encode_to_vec())
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.sites > 0, "--sites must be at least 1");
    let mut node = Node::new()?;
    let mut intents: Vec<(Key, Vec<u8>)> = (0..=args.sites / SITES_OF_A_TENANT).map(tenant).collect();
    intents.extend((0..args.sites).map(|number| site(number, "public")));
    let (first, made) = node.apply(intents, Scope::Everything).await?;
    let (again, found) = node.apply(Vec::new(), Scope::Everything).await?;
    anyhow::ensure!(first.ready == again.ready, "{} keys became {}", first.ready, again.ready);
    // A change is short beside what the kernel counts the processor's time by: all of them are taken together.
    let (mut clock, mut cpu) = (Figures::default(), Duration::ZERO);
    for change in 0..args.changes {
        let (_, cost) = node.apply(vec![site(change % args.sites, "htdocs")], Scope::Changes).await?;
        clock.add(cost.clock);
        cpu += cost.cpu;
    }

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut table = Builder::new();
    table.push_record(["", "ms", "CPU ms"]);
    for (name, cost) in [("everything is made", &made), ("everything is found as wanted", &found)] {
        table.push_record([
            name.to_owned(),
            format!("{:.1}", ms(cost.clock)),
            format!("{:.1}", ms(cost.cpu)),
        ]);
    }
    let mean = ms(cpu) / f64::from(args.changes.max(1));
    for (name, part, cpu) in [
        ("one site changes, median (CPU: mean)", 0.5, format!("{mean:.3}")),
        ("one site changes, 99 %", 0.99, String::new()),
    ] {
        table.push_record([name.to_owned(), format!("{:.3}", clock.quantile(part)), cpu]);
    }
    print(&format!("{} sites, {} keys", args.sites, first.ready));
    print(&table.build().with(Style::blank()).to_string());
    let pass = |cost: &Cost| json!({"ms": ms(cost.clock), "cpu_ms": ms(cost.cpu)});
    let object = json!({
        "benchmark": "agent",
        "sites": args.sites,
        "keys": first.ready,
        "made": pass(&made),
        "found": pass(&found),
        "change": {"clock": clock.json(), "cpu_mean_ms": mean},
    });
    print(&object.to_string());
    Ok(())
}
