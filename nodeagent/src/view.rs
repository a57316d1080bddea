//! The feed's view as things wanted on this node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use hosting_agent_engine::{DataId, DataKind, Desired, Secret};
use hosting_intent::{Key, Kind, NodeIntent, Rejection, Retired, message as m, php};
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::telemetry::{MAX_SPANS, spans_of};
use tokio::sync::watch;

use crate::{
    drivers::{
        NginxHost, NginxSpec, PhpFpm, Retire, RetireSpec, Site, SiteSpec, Tenant, TenantSpec, nginx_key,
    },
    layout::Layout,
    render::{self, BadValue, php::Pool},
};

/// Everything in effect, at one position of the feed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Of the position.
    pub epoch: String,
    /// Of the position.
    pub revision: u64,
    /// Each with the revision at which it last changed.
    pub items: BTreeMap<Key, (u64, Arc<NodeIntent>)>,
    /// Batches that led here, since the start of the process.
    pub batches: u64,
    /// W3C traceparents of the newest changes among them, each with the batch that brought it, oldest first. Several views may
    /// come between two passes.
    pub traces: VecDeque<(u64, Arc<str>)>,
}

/// Keeps the view. Lives on the feed's thread.
#[derive(Debug)]
pub struct NodeReplica {
    layout: Arc<Layout>,
    view: View,
    published: watch::Sender<Option<Arc<View>>>,
}

impl NodeReplica {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout, view: View::default(), published: watch::Sender::new(None) }
    }

    /// Follows the view; `None` until anything is known.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.published.subscribe()
    }
}

impl Replica for NodeReplica {
    type Intent = NodeIntent;

    fn check(&self, key: &Key, intent: &NodeIntent) -> Result<(), Rejection> {
        check(&self.layout, key, intent)
    }

    fn publish(&mut self, batch: Batch<NodeIntent>) {
        let upserts = batch.upserts.iter().map(|(item, _)| item.traceparent.as_str());
        let traces = upserts.chain(batch.removals.iter().map(|removal| removal.traceparent.as_str()));
        let spans = spans_of(traces.clone(), || {
            tracing::info_span!(
                "nodeagent.publish",
                revision = batch.revision,
                upserts = batch.upserts.len(),
                removals = batch.removals.len()
            )
        });
        let _entered = spans.first().map(tracing::Span::enter);
        self.view.batches += 1;
        let mut seen = BTreeSet::new();
        let distinct = traces.filter(|trace| !trace.is_empty() && seen.insert(*trace)).take(MAX_SPANS);
        self.view.traces.extend(distinct.map(|trace| (self.view.batches, Arc::from(trace))));
        let surplus = self.view.traces.len().saturating_sub(MAX_SPANS);
        self.view.traces.drain(..surplus);
        tracing::debug!(upserts = batch.upserts.len(), removals = batch.removals.len(), "a new view");
        for removal in &batch.removals {
            self.view.items.remove(&removal.key);
        }
        for (item, intent) in batch.upserts {
            self.view.items.insert(item.key, (item.revision, Arc::new(intent)));
        }
        self.view.epoch = batch.epoch;
        self.view.revision = batch.revision;
        self.published.send_replace(Some(Arc::new(self.view.clone())));
    }
}

fn invalid(bad: BadValue, field: &'static str) -> Rejection {
    Rejection::Invalid { field, problem: bad.to_string() }
}

/// What [`hosting_intent::RoleIntent::parse`] cannot know: whether configuration files can be made of it.
fn check(layout: &Layout, key: &Key, intent: &NodeIntent) -> Result<(), Rejection> {
    match intent {
        NodeIntent::Webroot(webroot) => {
            match webroot.runtime.as_str() {
                "static" => {}
                "php" => {
                    let pool = pool(&key.name, webroot).map_err(|bad| invalid(bad, "php"))?;
                    render::php::master(layout, &pool).map_err(|bad| invalid(bad, "php"))?;
                }
                other => {
                    let problem =
                        format!("{other:?} is not supported by this agent; it knows static and php");
                    return Err(Rejection::Invalid { field: "runtime", problem });
                }
            }
            render::nginx::site(layout, &site(&key.name, webroot, false))
                .map_err(|bad| invalid(bad, "public_folder"))?;
            Ok(())
        }
        NodeIntent::TrustRoots(_)
        | NodeIntent::TenantState(_)
        | NodeIntent::Tenant(_)
        | NodeIntent::Retire(_) => Ok(()),
    }
}

fn site(id: &str, webroot: &m::Webroot, suspended: bool) -> render::nginx::Site {
    render::nginx::Site {
        id: id.to_owned(),
        tenant: webroot.tenant_id.clone(),
        public_folder: webroot
            .public_folder
            .split('/')
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .collect(),
        shard: webroot.shard_name.clone(),
        php: (webroot.runtime == "php").then(|| render::nginx::Php { settings: settings(webroot) }),
        suspended,
    }
}

/// Settings of a webroot that passed [`hosting_intent::RoleIntent::parse`].
fn settings(webroot: &m::Webroot) -> php::Settings {
    webroot.php.as_ref().and_then(|pool| php::Settings::of(pool).ok()).unwrap_or_default()
}

fn pool(id: &str, webroot: &m::Webroot) -> Result<Pool, BadValue> {
    Ok(Pool {
        id: id.to_owned(),
        tenant: webroot.tenant_id.clone(),
        version: webroot.runtime_version.clone(),
        processes: php::Processes::of(webroot.php.as_ref())
            .map_err(|problem| BadValue::new("php", problem.to_string()))?,
        settings: settings(webroot),
    })
}

/// What the node should have, from a view whose items passed the check, and with the key that edges show.
#[must_use]
pub fn desired(view: &View, edge_key: Option<&Secret>) -> Desired {
    let mut desired = Desired::new();
    desired.want::<NginxHost>(nginx_key().name, NginxSpec { edge_key: edge_key.cloned() }, None);

    // Who is suspended, and what still stands in the way of a retire.
    let mut suspended: BTreeSet<&str> = BTreeSet::new();
    let mut wanted: BTreeMap<(DataKind, &str), u64> = BTreeMap::new();
    let mut tenants_of_sites: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, (_, intent)) in &view.items {
        match &**intent {
            NodeIntent::Tenant(tenant) => {
                wanted.insert((DataKind::Tenant, &key.name), tenant.incarnation);
                if tenant.state() == m::State::Suspended {
                    suspended.insert(&key.name);
                }
            }
            NodeIntent::TenantState(state) if state.state() == m::State::Suspended => {
                suspended.insert(&key.name);
            }
            NodeIntent::Webroot(webroot) => {
                wanted.insert((DataKind::Webroot, &key.name), webroot.incarnation);
                tenants_of_sites.insert(&webroot.tenant_id, &key.name);
            }
            NodeIntent::TenantState(_) | NodeIntent::TrustRoots(_) | NodeIntent::Retire(_) => {}
        }
    }

    for (key, (revision, intent)) in &view.items {
        let origin = Some((key.clone(), *revision));
        match &**intent {
            NodeIntent::Tenant(tenant) => {
                let spec = TenantSpec { incarnation: tenant.incarnation };
                desired.want::<Tenant>(key.name.clone(), spec, origin);
            }
            NodeIntent::Webroot(webroot) => {
                let suspended = suspended.contains(webroot.tenant_id.as_str());
                let site = site(&key.name, webroot, suspended);
                if site.php.is_some()
                    && !suspended
                    && let Ok(pool) = pool(&key.name, webroot)
                {
                    desired.want::<PhpFpm>(key.name.clone(), pool, origin.clone());
                }
                let spec = SiteSpec { incarnation: webroot.incarnation, site };
                desired.want::<Site>(key.name.clone(), spec, origin);
                // A tenant that is suspended, or no longer, is not done before its sites show it.
                desired.settles::<Site>(&key.name, Key::new(Kind::Tenant, webroot.tenant_id.clone()));
            }
            NodeIntent::Retire(retire) => {
                let (kind, tenant) = match Retired::of(retire) {
                    Some(Retired::Tenant) => (DataKind::Tenant, retire.key.clone()),
                    Some(Retired::Webroot) => (DataKind::Webroot, retire.tenant_id.clone()),
                    None => continue,
                };
                let same = wanted.get(&(kind, retire.key.as_str())) == Some(&retire.incarnation);
                let wanted_by = match kind {
                    _ if same => Some(format!("{}/{}", kind.as_str(), retire.key)),
                    DataKind::Tenant => {
                        tenants_of_sites.get(retire.key.as_str()).map(|site| format!("webroot/{site}"))
                    }
                    DataKind::Webroot => None,
                };
                let data = DataId { kind, id: retire.key.clone(), tenant, incarnation: retire.incarnation };
                desired.want::<Retire>(key.name.clone(), RetireSpec { data, wanted_by }, origin);
            }
            NodeIntent::TrustRoots(_) | NodeIntent::TenantState(_) => {}
        }
    }
    desired
}
