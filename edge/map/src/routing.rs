//! What each host leads to.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ahash::RandomState;
use arc_swap::ArcSwap;
use hosting_intent::{EdgeIntent, EdgeKind, Item, Key, Rejection, Removal, message};

use crate::brand::BrandWord;
use crate::cells::{Brand, Cell as _, Cells, Shard, Tenant};
use crate::node::Balance;
use crate::policy::{Policies, Policy, digest};
use crate::pool::{Candidates, Pool};
use crate::routes::{NewRoute, NewSite, Routes, Staged};
use crate::seen;

/// Nodes of one shard; the ring counts in 16 bits, and no shard comes near.
const MAX_POOL_NODES: usize = 4_096;

/// What the table has of a host.
#[derive(Debug)]
pub struct Found {
    /// Its route is that of the wildcard that it falls under.
    pub is_below: bool,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// What the tenant's brand says.
    pub brand: Option<Arc<BrandWord>>,
    /// What is done with a request first. Nothing for a suspended tenant.
    pub policies: Policies,
    /// What to do with a request that passes.
    pub leads: Leads,
}

/// Where a host leads.
#[derive(Debug)]
pub enum Leads {
    /// To a site.
    Site(Target),
    /// The tenant is suspended.
    Suspended,
    /// To no site.
    Unbound,
    /// The site's shard has no node in service.
    NoNode,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Target {
    /// The site's id: the internal Host that the node knows it by.
    pub webroot: Arc<str>,
    /// The nodes to try.
    pub candidates: Candidates,
    /// The most requests of the tenant that may be under way.
    pub tenant_requests: usize,
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

/// Where clients reach the edges of a cluster over HTTP/3, as the cluster says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http3 {
    /// Where each edge says by itself.
    #[default]
    Own,
    /// At this UDP port, which is not 0.
    Port(u16),
    /// Nowhere.
    Off,
}

impl Http3 {
    const OFF: u32 = u32::MAX;

    fn of(settings: &message::EdgeSettings) -> Self {
        match u16::try_from(settings.http3_port) {
            _ if settings.http3_off => Self::Off,
            // Another number than a port is refused where intents are read.
            Ok(0) | Err(_) => Self::Own,
            Ok(port) => Self::Port(port),
        }
    }

    /// In one number, so that a reader sees it whole.
    fn pack(self) -> u32 {
        match self {
            Self::Own => 0,
            Self::Port(port) => port.into(),
            Self::Off => Self::OFF,
        }
    }

    fn unpack(packed: u32) -> Self {
        match u16::try_from(packed) {
            Ok(0) => Self::Own,
            Ok(port) => Self::Port(port),
            Err(_) => Self::Off,
        }
    }
}

/// The reader's side.
#[derive(Debug)]
pub struct Routing {
    routes: Routes,
    /// The shards that have a pool.
    shards: ArcSwap<Vec<Arc<Shard>>>,
    /// Clients may speak no TLS before 1.3.
    tls13_only: AtomicBool,
    /// [`Http3`] as [`Http3::pack`] has it.
    http3: AtomicU32,
    /// Edges of the cluster that are in service.
    edges: AtomicU32,
}

impl Routing {
    /// An empty table and the one writer to it. `buckets` is rounded up to a power of two: a change costs the routes of its bucket, and an
    /// empty one takes 8 bytes.
    #[must_use]
    pub fn new(buckets: usize) -> (Arc<Self>, Writer) {
        let routing = Arc::new(Self {
            routes: Routes::new(buckets),
            shards: ArcSwap::default(),
            tls13_only: AtomicBool::new(false),
            http3: AtomicU32::new(Http3::default().pack()),
            edges: AtomicU32::new(1),
        });
        let writer = Writer {
            routing: Arc::clone(&routing),
            tenants: Cells::default(),
            brands: Cells::default(),
            shards: Cells::default(),
            policies: HashMap::default(),
            balance: Balance::default(),
            has_new_pools: false,
            staged: Staged::default(),
            dropped: 0,
        };
        (routing, writer)
    }

    /// Whether clients may speak no TLS before 1.3.
    #[must_use]
    pub fn tls13_only(&self) -> bool {
        self.tls13_only.load(Ordering::Relaxed)
    }

    /// Where clients reach the cluster over HTTP/3.
    #[must_use]
    pub fn http3(&self) -> Http3 {
        Http3::unpack(self.http3.load(Ordering::Relaxed))
    }

    /// How many edges of the cluster are in service, this one among them; at least 1.
    #[must_use]
    pub fn edges(&self) -> u32 {
        self.edges.load(Ordering::Relaxed)
    }

    /// What there is of a host as [`crate::parse_host`] spells it.
    #[must_use]
    pub fn resolve(&self, host: &str) -> Option<Found> {
        self.routes.read(host, |route| {
            let (tenant, is_below) = (Arc::clone(route.tenant), route.name != host);
            let brand = tenant.brand_word();
            if tenant.is_suspended() {
                let policies = Policies::default();
                return Found { is_below, tenant, brand, policies, leads: Leads::Suspended };
            }
            let brands = brand.as_ref().and_then(|word| word.policy.clone());
            let policies = Policies { own: route.policy.cloned(), tenant: tenant.policy(), brand: brands };
            let leads = match route.site.map(|site| (site, site.shard.pool.load_full())) {
                None => Leads::Unbound,
                Some((site, Some(pool))) if pool.in_service() > 0 => {
                    let point = pool.point(host);
                    Leads::Site(Target {
                        webroot: site.webroot.into(),
                        tenant_requests: pool.tenant_requests(),
                        candidates: Candidates::new(pool, point),
                        may_upgrade: site.may_upgrade,
                    })
                }
                Some(_) => Leads::NoNode,
            };
            Found { is_below, tenant, brand, policies, leads }
        })
    }

    /// What the table has of a host, as [`seen`] writes it; empty when there is no route.
    #[must_use]
    pub fn seen(&self, host: &str) -> Vec<String> {
        self.routes
            .read(host, |route| {
                let mut lines = vec![
                    seen::route(route.name),
                    seen::tenant(route.tenant.id()),
                    seen::suspended(route.tenant.is_suspended()),
                    seen::policy(route.policy.map(|policy| policy.digest())),
                    seen::tenant_policy(route.tenant.policy().as_deref().map(Policy::digest)),
                    seen::purged(route.tenant.purges().1.as_deref()),
                    seen::brand(route.tenant.brand().as_deref().map(Brand::id)),
                ];
                match route.site {
                    None => lines.push(seen::site(None)),
                    Some(site) => {
                        lines.push(seen::site(Some((site.webroot, site.shard.id(), site.may_upgrade))));
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
        self.routes.read(host, |_| ()).is_some()
    }

    /// The name of the route that serves a host: its own, or that of a wildcard above it.
    #[must_use]
    pub fn route_of(&self, host: &str) -> Option<String> {
        self.routes.read(host, |route| route.name.to_string())
    }

    /// Whether the host has a route of this tenant.
    #[must_use]
    pub fn is_of_tenant(&self, host: &str, tenant: &str) -> bool {
        self.routes.read(host, |route| route.tenant.id() == tenant).unwrap_or_default()
    }

    /// All pools.
    #[must_use]
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.shards.load().iter().filter_map(|shard| shard.pool.load_full()).collect()
    }

    /// FQDNs in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        | EdgeIntent::Brand(_)
        | EdgeIntent::EdgeCount(_)
        | EdgeIntent::AudienceKey(_)
        | EdgeIntent::Certificate(_)
        | EdgeIntent::EdgeSettings(_)
        | EdgeIntent::AcmeChallenge(_)
        | EdgeIntent::TicketKeys(_)
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
    tenants: Cells<Tenant>,
    brands: Cells<Brand>,
    shards: Cells<Shard>,
    /// By digest.
    policies: HashMap<Box<str>, Arc<Policy>, RandomState>,
    balance: Balance,
    /// There are pools that no reader of all of them sees yet, or that are gone.
    has_new_pools: bool,
    /// Routes that no reader sees yet.
    staged: Staged,
    /// References given up since the last sweep.
    dropped: usize,
}

impl Writer {
    /// The table that this writes to.
    #[must_use]
    pub fn routing(&self) -> &Arc<Routing> {
        &self.routing
    }

    /// The same with requests spread like this, in pools that come from now on.
    #[must_use]
    pub fn with_balance(self, balance: Balance) -> Self {
        Self { balance, ..self }
    }

    /// How much there is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes { routes: self.routing.len(), tenants: self.tenants.len(), pools: self.shards.len() }
    }

    /// Takes in a piece of what is applied next. No reader sees a route of it before that; tenants and shards change at once. Every item
    /// passed [`check`]; others are left out.
    pub fn stage(&mut self, upserts: &[(Item, EdgeIntent)]) {
        self.staged.reserve(upserts.len());
        for (item, intent) in upserts {
            match intent {
                EdgeIntent::TenantState(state) => {
                    let suspended = state.state() == message::State::Suspended;
                    let policy = self.policy(state.http.as_deref());
                    let brand = (!state.brand_id.is_empty()).then(|| self.brands.refer(&state.brand_id));
                    let tenant = self.tenants.want(&item.key.name);
                    tenant.set_brand(brand);
                    tenant.set_policy(policy);
                    tenant.purge(state.purges.as_ref());
                    tenant.suspend(suspended);
                }
                EdgeIntent::ShardPool(pool) => {
                    let shard = self.shards.want(&item.key.name);
                    let before = shard.pool.load_full();
                    shard.pool.store(Some(Arc::new(Pool::new(pool, before.as_deref(), self.balance))));
                    self.has_new_pools |= before.is_none();
                }
                EdgeIntent::EdgeCount(count) => {
                    self.routing.edges.store(count.in_service.max(1), Ordering::Relaxed);
                }
                EdgeIntent::Brand(brand) => {
                    self.brands.want(&item.key.name).say(Some(Arc::new(BrandWord::new(brand))));
                }
                EdgeIntent::EdgeSettings(settings) => {
                    let only = settings.tls_minimum_version() == message::TlsVersion::TlsVersion13;
                    self.routing.tls13_only.store(only, Ordering::Relaxed);
                    self.routing.http3.store(Http3::of(settings).pack(), Ordering::Relaxed);
                }
                EdgeIntent::Route(route) => {
                    let place = self.routing.routes.place(&item.key.name);
                    let tenant = self.tenants.name(&route.tenant_id, place.bucket);
                    let site = (!route.webroot_id.is_empty()).then(|| NewSite {
                        webroot: &route.webroot_id,
                        shard: self.shards.name(&route.shard_id, place.bucket),
                        may_upgrade: route.may_upgrade,
                    });
                    let policy = self.policy(route.http.as_deref());
                    let route = NewRoute { tenant, policy, site };
                    self.staged.add(&self.routing.routes, &item.key.name, place, Some(route));
                }
                EdgeIntent::TrustRoots(_)
                | EdgeIntent::AudienceKey(_)
                | EdgeIntent::Certificate(_)
                | EdgeIntent::AcmeChallenge(_)
                | EdgeIntent::TicketKeys(_) => {}
            }
        }
    }

    /// The policy; one for all that are equal.
    fn policy(&mut self, policy: Option<&message::HttpPolicy>) -> Option<Arc<Policy>> {
        let policy = policy?;
        let digest = digest(policy).into();
        Some(Arc::clone(self.policies.entry(digest).or_insert_with(|| Arc::new(Policy::new(policy)))))
    }

    /// Puts a batch, and what was staged before it, into effect: pools and tenants first, so that no new route finds nothing behind it,
    /// withdrawn ones last.
    pub fn apply(&mut self, upserts: &[(Item, EdgeIntent)], removals: &[Removal]) {
        self.stage(upserts);
        for removal in removals {
            if EdgeKind::of(&removal.key) == Some(EdgeKind::Route) {
                let place = self.routing.routes.place(&removal.key.name);
                self.staged.add(&self.routing.routes, &removal.key.name, place, None);
            }
        }
        // A replaced route gives up references too.
        self.dropped += self.staged.len();
        self.staged.apply(&self.routing.routes);
        for removal in removals {
            let name = removal.key.name.as_str();
            match EdgeKind::of(&removal.key) {
                // Routes that still name the tenant keep its last state and policy: a suspended one must not come back by this.
                Some(EdgeKind::TenantState) => {
                    if self.tenants.unwant(name).is_some() {
                        self.dropped += 1;
                    }
                }
                Some(EdgeKind::Brand) => {
                    if let Some(brand) = self.brands.unwant(name) {
                        brand.say(None);
                        self.dropped += 1;
                    }
                }
                Some(EdgeKind::ShardPool) => {
                    if let Some(shard) = self.shards.unwant(name) {
                        shard.pool.store(None);
                        self.dropped += 1;
                        self.has_new_pools = true;
                    }
                }
                Some(EdgeKind::EdgeSettings) => {
                    self.routing.tls13_only.store(false, Ordering::Relaxed);
                    self.routing.http3.store(Http3::default().pack(), Ordering::Relaxed);
                }
                Some(EdgeKind::EdgeCount) => self.routing.edges.store(1, Ordering::Relaxed),
                Some(
                    EdgeKind::Route
                    | EdgeKind::TrustRoots
                    | EdgeKind::AudienceKey
                    | EdgeKind::Certificate
                    | EdgeKind::AcmeChallenge
                    | EdgeKind::TicketKeys,
                )
                | None => {}
            }
        }
        if std::mem::take(&mut self.has_new_pools) {
            self.routing.shards.store(Arc::new(self.shards.wanted().cloned().collect()));
        }
        self.sweep();
    }

    /// A host that shows what is in effect of a tenant's state, or a shard's pool; `None` when no route is known that names it.
    #[must_use]
    pub fn host_of(&self, key: &Key) -> Option<Arc<str>> {
        let routes = &self.routing.routes;
        match EdgeKind::of(key)? {
            EdgeKind::TenantState => {
                let (tenant, bucket) = self.tenants.named(&key.name)?;
                routes.host_in(bucket, |route| Arc::ptr_eq(route.tenant, tenant))
            }
            EdgeKind::ShardPool => {
                let (shard, bucket) = self.shards.named(&key.name)?;
                routes.host_in(bucket, |route| route.site.is_some_and(|site| Arc::ptr_eq(site.shard, shard)))
            }
            EdgeKind::Route
            | EdgeKind::Brand
            | EdgeKind::EdgeCount
            | EdgeKind::TrustRoots
            | EdgeKind::AudienceKey
            | EdgeKind::Certificate
            | EdgeKind::AcmeChallenge
            | EdgeKind::TicketKeys
            | EdgeKind::EdgeSettings => None,
        }
    }

    /// Forgets what nothing refers to any more. Runs after as many changes as a quarter of the entries, so a change costs O(1).
    fn sweep(&mut self) {
        if self.dropped
            <= 1_024 + (self.tenants.len() + self.brands.len() + self.shards.len() + self.policies.len()) / 4
        {
            return;
        }
        self.dropped = 0;
        self.tenants.sweep();
        self.brands.sweep();
        self.shards.sweep();
        self.policies.retain(|_, policy| Arc::strong_count(policy) > 1);
    }
}

#[cfg(test)]
mod tests;
