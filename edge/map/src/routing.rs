//! What each host leads to.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use hosting_intent::{EdgeIntent, EdgeKind, Item, Key, Rejection, Removal, message};
use hosting_swap_map::SwapMap;

use crate::pool::{Candidates, Pool};
use crate::seen;

/// Nodes of one shard; the ring counts in 16 bits, and no shard comes near.
const MAX_POOL_NODES: usize = 4_096;

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Pass it on.
    Serve(Target),
    /// No such host.
    Unknown,
    /// The tenant is suspended.
    Suspended,
    /// The host is known, but bound to no site.
    Unbound,
    /// The site's shard has no node in service.
    NoNode,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Target {
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// The site's id: the internal Host that the node knows it by.
    pub webroot: Arc<str>,
    /// The nodes to try.
    pub candidates: Candidates,
    /// The site may change the protocol of a connection.
    pub may_upgrade: bool,
}

/// How much there is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// FQDNs.
    pub routes: usize,
    /// Tenants with a state, or named by a route.
    pub tenants: usize,
    /// Shards with a pool, or named by a route.
    pub pools: usize,
}

/// Active until the controller says otherwise: a state that is late or rejected must not take a tenant's sites down.
const ACTIVE: u8 = 0;
const SUSPENDED: u8 = 1;

/// Shared by all routes of a tenant, so that suspending it is one store.
type TenantCell = Arc<Tenant>;
/// Shared by all routes of a shard, so that a change of its nodes is one store.
type PoolCell = Arc<Shard>;

/// What the table has of a tenant.
#[derive(Debug)]
pub struct Tenant {
    id: Box<str>,
    state: AtomicU8,
}

impl Tenant {
    /// The tenant's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Debug)]
struct Shard {
    id: Box<str>,
    /// `None`: not known, or gone.
    pool: ArcSwapOption<Pool>,
}

#[derive(Debug, Clone)]
struct Route {
    tenant: TenantCell,
    /// `None`: unbound.
    site: Option<Site>,
}

#[derive(Debug, Clone)]
struct Site {
    webroot: Arc<str>,
    shard: PoolCell,
    may_upgrade: bool,
}

/// The reader's side.
#[derive(Debug)]
pub struct Routing {
    routes: SwapMap<Arc<str>, Route>,
    /// Clients may speak no TLS before 1.3.
    tls13_only: AtomicBool,
}

impl Routing {
    /// An empty table and the one writer to it. `buckets`: see [`SwapMap::with_buckets`].
    #[must_use]
    pub fn new(buckets: usize) -> (Arc<Self>, Writer) {
        let routing =
            Arc::new(Self { routes: SwapMap::with_buckets(buckets), tls13_only: AtomicBool::new(false) });
        let writer = Writer {
            routing: Arc::clone(&routing),
            tenants: HashMap::default(),
            pools: HashMap::default(),
            webroots: HashSet::default(),
            dropped: 0,
        };
        (routing, writer)
    }

    /// Whether clients may speak no TLS before 1.3.
    #[must_use]
    pub fn tls13_only(&self) -> bool {
        self.tls13_only.load(Ordering::Relaxed)
    }

    /// Decides on a host as [`crate::parse_host`] spells it.
    #[must_use]
    pub fn resolve(&self, host: &str) -> Decision {
        self.routes
            .read(host, |route| {
                if route.tenant.state.load(Ordering::Relaxed) == SUSPENDED {
                    return Decision::Suspended;
                }
                let Some(site) = &route.site else { return Decision::Unbound };
                match site.shard.pool.load_full().filter(|pool| pool.in_service() > 0) {
                    Some(pool) => {
                        let point = pool.point(host);
                        let candidates = Candidates::new(pool, point);
                        Decision::Serve(Target {
                            tenant: Arc::clone(&route.tenant),
                            webroot: Arc::clone(&site.webroot),
                            candidates,
                            may_upgrade: site.may_upgrade,
                        })
                    }
                    None => Decision::NoNode,
                }
            })
            .unwrap_or(Decision::Unknown)
    }

    /// What the table has of a host, as [`seen`] writes it; empty when there is no route.
    #[must_use]
    pub fn seen(&self, host: &str) -> Vec<String> {
        self.routes
            .read(host, |route| {
                let suspended = route.tenant.state.load(Ordering::Relaxed) == SUSPENDED;
                let mut lines = vec![seen::tenant(&route.tenant.id), seen::suspended(suspended)];
                match &route.site {
                    None => lines.push(seen::site(None)),
                    Some(site) => {
                        lines.push(seen::site(Some((&site.webroot, &site.shard.id, site.may_upgrade))));
                        let pool = site.shard.pool.load_full();
                        lines.extend(pool.iter().flat_map(|pool| pool.seen()));
                    }
                }
                lines
            })
            .unwrap_or_default()
    }

    /// Whether there is a route of this host, whatever it leads to.
    #[must_use]
    pub fn knows(&self, host: &str) -> bool {
        self.routes.contains_key(host)
    }

    /// Whether the host has a route of this tenant.
    #[must_use]
    pub fn is_of_tenant(&self, host: &str, tenant: &str) -> bool {
        self.routes.read(host, |route| *route.tenant.id == *tenant).unwrap_or_default()
    }

    /// FQDNs in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

fn invalid(field: &'static str, problem: impl Display) -> Rejection {
    Rejection::Invalid { field, problem: problem.to_string() }
}

/// What [`hosting_intent::RoleIntent::parse`] leaves to the edge.
///
/// # Errors
/// Why the item cannot be applied.
pub fn check(intent: &EdgeIntent) -> Result<(), Rejection> {
    match intent {
        EdgeIntent::TrustRoots(_)
        | EdgeIntent::AudienceKey(_)
        | EdgeIntent::Certificate(_)
        | EdgeIntent::EdgeSettings(_)
        | EdgeIntent::TenantState(_)
        | EdgeIntent::Route(_) => Ok(()),
        EdgeIntent::ShardPool(pool) => check_pool(pool),
    }
}

fn check_pool(pool: &message::ShardPool) -> Result<(), Rejection> {
    if pool.nodes.len() > MAX_POOL_NODES {
        return Err(invalid("nodes", format!("{} of them; at most {MAX_POOL_NODES}", pool.nodes.len())));
    }
    let mut seen = HashSet::new();
    for node in &pool.nodes {
        if !seen.insert(node.node_id.as_str()) {
            return Err(invalid("nodes.node_id", format!("{} is there twice", node.node_id)));
        }
        for address in node.addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok()) {
            if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
                return Err(invalid(
                    "nodes.addresses",
                    format!("{address} of node {} takes no connections", node.node_id),
                ));
            }
        }
    }
    Ok(())
}

/// The one writer. Changes are visible to readers when [`Writer::apply`] returns.
#[derive(Debug)]
pub struct Writer {
    routing: Arc<Routing>,
    tenants: HashMap<Arc<str>, Referred<Tenant>, RandomState>,
    pools: HashMap<Arc<str>, Referred<Shard>, RandomState>,
    webroots: HashSet<Arc<str>, RandomState>,
    /// References given up since the last sweep.
    dropped: usize,
}

#[derive(Debug)]
struct Referred<T> {
    cell: Arc<T>,
    /// There is an intent of it; otherwise it lives as long as routes name it.
    wanted: bool,
    /// The host of the last route that came to name it, which may be gone by now.
    host: Option<Arc<str>>,
}

impl Writer {
    /// The table that this writes to.
    #[must_use]
    pub fn routing(&self) -> &Arc<Routing> {
        &self.routing
    }

    /// How much there is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes { routes: self.routing.len(), tenants: self.tenants.len(), pools: self.pools.len() }
    }

    /// Puts a batch into effect: pools and tenants first, so that no new route finds nothing behind it, withdrawn ones last.
    /// Every item passed [`check`]; others are left out.
    pub fn apply(&mut self, upserts: &[(Item, EdgeIntent)], removals: &[Removal]) {
        let mut routes: Vec<(Arc<str>, Option<Route>)> = Vec::new();
        for (item, intent) in upserts {
            match intent {
                EdgeIntent::TenantState(state) => {
                    let cell = refer_tenant(&mut self.tenants, &item.key.name, true, None);
                    let state = if state.state() == message::State::Suspended { SUSPENDED } else { ACTIVE };
                    cell.state.store(state, Ordering::Relaxed);
                }
                EdgeIntent::ShardPool(pool) => {
                    let cell = refer_shard(&mut self.pools, &item.key.name, true, None);
                    let before = cell.pool.load_full();
                    cell.pool.store(Some(Arc::new(Pool::new(pool, before.as_deref()))));
                }
                EdgeIntent::EdgeSettings(settings) => {
                    let only = settings.tls_minimum_version() == message::TlsVersion::TlsVersion13;
                    self.routing.tls13_only.store(only, Ordering::Relaxed);
                }
                EdgeIntent::Route(_)
                | EdgeIntent::TrustRoots(_)
                | EdgeIntent::AudienceKey(_)
                | EdgeIntent::Certificate(_) => {}
            }
        }
        for (item, intent) in upserts {
            if let EdgeIntent::Route(route) = intent {
                let host: Arc<str> = Arc::from(item.key.name.as_str());
                let tenant = self.tenant(&route.tenant_id, false, &host);
                let site = (!route.webroot_id.is_empty()).then(|| Site {
                    webroot: self.webroot(&route.webroot_id),
                    shard: self.pool(&route.shard_id, false, &host),
                    may_upgrade: route.may_upgrade,
                });
                routes.push((host, Some(Route { tenant, site })));
            }
        }
        for removal in removals {
            if EdgeKind::of(&removal.key) == Some(EdgeKind::Route) {
                routes.push((Arc::from(removal.key.name.as_str()), None));
            }
        }
        // A replaced route gives up references too.
        self.dropped += routes.len();
        self.routing.routes.update(routes);
        for removal in removals {
            let name = removal.key.name.as_str();
            match EdgeKind::of(&removal.key) {
                // Routes that still name the tenant keep its last state: a suspended one must not come back by this.
                Some(EdgeKind::TenantState) => {
                    if let Some(tenant) = self.tenants.get_mut(name) {
                        tenant.wanted = false;
                        self.dropped += 1;
                    }
                }
                Some(EdgeKind::ShardPool) => {
                    if let Some(pool) = self.pools.get_mut(name) {
                        pool.wanted = false;
                        pool.cell.pool.store(None);
                        self.dropped += 1;
                    }
                }
                Some(EdgeKind::EdgeSettings) => self.routing.tls13_only.store(false, Ordering::Relaxed),
                Some(
                    EdgeKind::Route | EdgeKind::TrustRoots | EdgeKind::AudienceKey | EdgeKind::Certificate,
                )
                | None => {}
            }
        }
        self.sweep();
    }

    fn tenant(&mut self, id: &str, wanted: bool, host: &Arc<str>) -> TenantCell {
        refer_tenant(&mut self.tenants, id, wanted, Some(host))
    }

    fn pool(&mut self, id: &str, wanted: bool, host: &Arc<str>) -> PoolCell {
        refer_shard(&mut self.pools, id, wanted, Some(host))
    }

    /// A host that shows what is in effect of a tenant's state, or a shard's pool; `None` when no route names it.
    #[must_use]
    pub fn host_of(&self, key: &Key) -> Option<Arc<str>> {
        let host = match EdgeKind::of(key)? {
            EdgeKind::TenantState => self.tenants.get(key.name.as_str())?.host.as_ref(),
            EdgeKind::ShardPool => self.pools.get(key.name.as_str())?.host.as_ref(),
            EdgeKind::Route
            | EdgeKind::TrustRoots
            | EdgeKind::AudienceKey
            | EdgeKind::Certificate
            | EdgeKind::EdgeSettings => None,
        };
        host.cloned()
    }

    fn webroot(&mut self, id: &str) -> Arc<str> {
        if let Some(known) = self.webroots.get(id) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(id);
        self.webroots.insert(Arc::clone(&new));
        new
    }

    /// Forgets what nothing refers to any more. Runs after as many changes as a quarter of the entries, so a change costs O(1).
    fn sweep(&mut self) {
        let entries = self.webroots.len() + self.tenants.len() + self.pools.len();
        if self.dropped <= 1_024 + entries / 4 {
            return;
        }
        self.dropped = 0;
        self.webroots.retain(|webroot| Arc::strong_count(webroot) > 1);
        self.tenants.retain(|_, tenant| tenant.wanted || Arc::strong_count(&tenant.cell) > 1);
        self.pools.retain(|_, pool| pool.wanted || Arc::strong_count(&pool.cell) > 1);
    }
}

fn refer_tenant(
    map: &mut HashMap<Arc<str>, Referred<Tenant>, RandomState>,
    id: &str,
    wanted: bool,
    host: Option<&Arc<str>>,
) -> TenantCell {
    refer(map, id, wanted, host, || Tenant { id: id.into(), state: AtomicU8::new(ACTIVE) })
}

fn refer_shard(
    map: &mut HashMap<Arc<str>, Referred<Shard>, RandomState>,
    id: &str,
    wanted: bool,
    host: Option<&Arc<str>>,
) -> PoolCell {
    refer(map, id, wanted, host, || Shard { id: id.into(), pool: ArcSwapOption::empty() })
}

fn refer<T>(
    map: &mut HashMap<Arc<str>, Referred<T>, RandomState>,
    id: &str,
    wanted: bool,
    host: Option<&Arc<str>>,
    new: impl FnOnce() -> T,
) -> Arc<T> {
    if let Some(known) = map.get_mut(id) {
        known.wanted |= wanted;
        if host.is_some() {
            known.host = host.cloned();
        }
        return Arc::clone(&known.cell);
    }
    let cell = Arc::new(new());
    map.insert(Arc::from(id), Referred { cell: Arc::clone(&cell), wanted, host: host.cloned() });
    cell
}

#[cfg(test)]
mod tests {
    use hosting_intent::message::{PoolNode, Route, ShardPool, State, TenantState};
    use hosting_intent::{Bytes, Cause, Key, Kind};

    use super::*;

    fn upsert(kind: Kind, name: &str, intent: EdgeIntent) -> (Item, EdgeIntent) {
        let item = Item {
            key: Key::new(kind, name),
            revision: 1,
            value: Bytes::new(),
            cause: Cause::Person,
            traceparent: String::new(),
            rollout: 0,
        };
        (item, intent)
    }

    fn route(fqdn: &str, tenant: &str, webroot: &str, shard: &str) -> (Item, EdgeIntent) {
        let route = Route {
            tenant_id: tenant.into(),
            webroot_id: webroot.into(),
            shard_id: shard.into(),
            ..Route::default()
        };
        upsert(Kind::Route, fqdn, EdgeIntent::Route(route))
    }

    fn tenant(id: &str, state: State) -> (Item, EdgeIntent) {
        upsert(
            Kind::TenantState,
            id,
            EdgeIntent::TenantState(TenantState { state: state as i32, reason: String::new() }),
        )
    }

    fn pool(id: &str, nodes: &[(&str, bool)]) -> (Item, EdgeIntent) {
        let nodes = nodes
            .iter()
            .map(|(id, in_service)| PoolNode {
                node_id: (*id).into(),
                addresses: vec!["192.0.2.1:80".into()],
                in_service: *in_service,
            })
            .collect();
        upsert(Kind::ShardPool, id, EdgeIntent::ShardPool(ShardPool { name: format!("{id}-name"), nodes }))
    }

    fn gone(kind: Kind, name: &str) -> Removal {
        Removal { key: Key::new(kind, name), cause: Cause::Person, traceparent: String::new(), rollout: 0 }
    }

    #[test]
    fn the_table_shows_what_it_has_of_a_host_as_the_intents_say_it() {
        let (routing, mut writer) = Routing::new(64);
        let all = [
            route("www.example.com", "t_a", "web_a", "s1"),
            route("parked.example.com", "t_b", "", ""),
            tenant("t_a", State::Suspended),
            pool("s1", &[("n1", true), ("n2", false)]),
        ];
        writer.apply(&all, &[]);
        let [(www, on_www), (parked, on_parked), (t_a, suspended), (s1, nodes)] = &all;
        for (host, intents) in [(www, vec![on_www, suspended, nodes]), (parked, vec![on_parked])] {
            let table = routing.seen(&host.key.name);
            for line in intents.into_iter().flat_map(seen::wanted) {
                assert!(table.contains(&line), "{line} in {table:?}");
            }
        }
        assert_eq!(writer.host_of(&t_a.key).as_deref(), Some("www.example.com"));
        assert_eq!(writer.host_of(&s1.key).as_deref(), Some("www.example.com"));
        assert_eq!(writer.host_of(&Key::new(Kind::ShardPool, "s2")), None);
        assert!(routing.seen("other.example.com").is_empty());
        // Each change shows.
        let before = routing.seen("www.example.com");
        for change in [
            tenant("t_a", State::Active),
            pool("s1", &[("n1", true)]),
            route("www.example.com", "t_a", "web_a", "s2"),
            route("www.example.com", "t_a", "web_b", "s2"),
            route("www.example.com", "t_b", "web_b", "s2"),
        ] {
            let missing = seen::wanted(&change.1).into_iter().any(|line| !before.contains(&line));
            assert!(missing, "{:?}", change.1);
            writer.apply(std::slice::from_ref(&change), &[]);
            let table = routing.seen("www.example.com");
            assert!(seen::wanted(&change.1).iter().all(|line| table.contains(line)));
        }
    }

    fn word(decision: &Decision) -> String {
        match decision {
            Decision::Serve(target) => format!("{} at {}", target.webroot, target.candidates.pool().name()),
            Decision::Unknown => "unknown".into(),
            Decision::Suspended => "suspended".into(),
            Decision::Unbound => "unbound".into(),
            Decision::NoNode => "no node".into(),
        }
    }

    #[test]
    fn every_decision() {
        let (routing, mut writer) = Routing::new(64);
        writer.apply(
            &[
                // Routes before what they refer to: order within a batch does not matter.
                route("www.example.com", "t_a", "web_a", "s1"),
                route("parked.example.com", "t_a", "", ""),
                route("lost.example.com", "t_a", "web_l", "s-none"),
                route("down.example.com", "t_a", "web_d", "s2"),
                route("bad.example.com", "t_b", "web_b", "s1"),
                tenant("t_a", State::Active),
                tenant("t_b", State::Suspended),
                pool("s1", &[("n1", true)]),
                pool("s2", &[("n1", false)]),
            ],
            &[],
        );
        let decide = |host: &str| word(&routing.resolve(host));
        assert_eq!(decide("www.example.com"), "web_a at s1-name");
        assert_eq!(decide("parked.example.com"), "unbound");
        assert_eq!(decide("lost.example.com"), "no node");
        assert_eq!(decide("down.example.com"), "no node");
        assert_eq!(decide("bad.example.com"), "suspended");
        assert_eq!(decide("example.com"), "unknown");
        assert!(routing.knows("parked.example.com") && !routing.knows("example.com"));
        assert_eq!(writer.sizes(), Sizes { routes: 5, tenants: 2, pools: 3 });

        // One intent each: the pool arrives late, the tenant comes back, the name moves to another site.
        writer.apply(&[pool("s-none", &[("n9", true)])], &[]);
        assert_eq!(decide("lost.example.com"), "web_l at s-none-name");
        writer.apply(&[tenant("t_b", State::Active)], &[]);
        assert_eq!(decide("bad.example.com"), "web_b at s1-name");
        writer.apply(&[route("www.example.com", "t_b", "web_b", "s1")], &[]);
        assert_eq!(decide("www.example.com"), "web_b at s1-name");
        writer.apply(&[], &[gone(Kind::Route, "www.example.com"), gone(Kind::ShardPool, "s1")]);
        assert_eq!(decide("www.example.com"), "unknown");
        assert_eq!(decide("bad.example.com"), "no node");
    }

    #[test]
    fn a_withdrawn_state_does_not_bring_a_suspended_tenant_back() {
        let (routing, mut writer) = Routing::new(1);
        writer.apply(
            &[
                tenant("t_a", State::Suspended),
                route("a.example", "t_a", "web_a", "s1"),
                pool("s1", &[("n1", true)]),
            ],
            &[],
        );
        writer.apply(&[], &[gone(Kind::TenantState, "t_a")]);
        assert_eq!(word(&routing.resolve("a.example")), "suspended");
    }

    #[test]
    fn what_nothing_refers_to_is_forgotten() {
        let (routing, mut writer) = Routing::new(16);
        for n in 0..5_000 {
            let (host, tenant_id) = (format!("h{n}.example"), format!("t_{n}"));
            writer.apply(&[route(&host, &tenant_id, &format!("web_{n}"), &format!("s{n}"))], &[]);
            writer.apply(&[], &[gone(Kind::Route, &host), gone(Kind::TenantState, &tenant_id)]);
        }
        assert!(routing.is_empty());
        let sizes = writer.sizes();
        assert!(sizes.tenants < 3_000 && sizes.pools < 3_000 && writer.webroots.len() < 3_000, "{sizes:?}");
        writer.apply(
            &[route("a.example", "t_a", "web_a", "s1"), route("b.example", "t_a", "web_a", "s1")],
            &[],
        );
        assert_eq!(Arc::strong_count(writer.webroots.get("web_a").unwrap()), 3, "one string for both routes");
    }

    #[test]
    fn what_an_edge_cannot_apply_is_rejected() {
        let problem = |(_, intent): (Item, EdgeIntent)| check(&intent).unwrap_err().to_string();
        assert!(problem(pool("s1", &[("n1", true), ("n1", true)])).contains("n1 is there twice"));
        for address in ["192.0.2.1:0", "0.0.0.0:80", "[::]:80", "[ff02::1]:80"] {
            let nodes =
                vec![PoolNode { node_id: "n".into(), addresses: vec![address.into()], in_service: true }];
            let pool = EdgeIntent::ShardPool(ShardPool { name: "s".into(), nodes });
            assert!(
                problem(upsert(Kind::ShardPool, "s", pool)).starts_with("nodes.addresses: "),
                "{address}"
            );
        }
        assert_eq!(check(&route("a", "t", "w", "s").1), Ok(()));
    }
}
