//! A shard's nodes on a consistent hash ring, and which of them to try for a host.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hosting_intent::message::ShardPool;
use pingora_ketama::{Bucket, Continuum};

use crate::seen;

/// Milliseconds on a monotonic clock whose start is the caller's choice. 0 is before everything.
pub type Millis = u64;

/// Most endpoints that one request tries.
pub const MAX_TRIES: usize = 4;

/// How long the one request that probes an ejected node keeps the others away from it.
const PROBE_MS: Millis = 2_000;

/// Ring points looked at before a plain walk over the nodes takes over.
const MAX_STEPS: usize = 4_096;

/// A node of a pool.
#[derive(Debug)]
pub struct Node {
    /// The node's id.
    pub id: Arc<str>,
    /// Where it takes requests, preferred first.
    pub addresses: Box<[SocketAddr]>,
    /// Whether the controller wants it to get requests.
    pub in_service: bool,
    /// Survives a change of the pool, so that a dead node is not found out again at each.
    health: Arc<Health>,
}

impl Node {
    /// A connection failed: no requests until `now + away`, but for one probe at a time after that.
    pub fn failed(&self, now: Millis, away: Millis) {
        self.health.ejected_until.store(now.saturating_add(away).max(1), Ordering::Relaxed);
    }

    /// The node answered.
    pub fn answered(&self) {
        // Read first: a store at each request would have all cores fight for the line.
        if self.health.ejected_until.load(Ordering::Relaxed) != 0 {
            self.health.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the node is kept out of rotation at `now`.
    #[must_use]
    pub fn is_ejected(&self, now: Millis) -> bool {
        self.health.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Whether a request may go there: healthy, or its time is over and this request is the first to notice.
    fn admit(&self, now: Millis) -> bool {
        let until = self.health.ejected_until.load(Ordering::Relaxed);
        until == 0
            || (until <= now
                && self
                    .health
                    .ejected_until
                    .compare_exchange(
                        until,
                        now.saturating_add(PROBE_MS),
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok())
    }
}

#[derive(Debug, Default)]
struct Health {
    /// 0: healthy.
    ejected_until: AtomicU64,
}

/// A shard's nodes. Immutable but for their health; a change makes a new one.
pub struct Pool {
    name: Arc<str>,
    nodes: Box<[Node]>,
    ring: Continuum,
    in_service: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Pool {
    /// From an intent that passed [`crate::check`]; `before` is the pool that it replaces.
    #[must_use]
    pub fn new(intent: &ShardPool, before: Option<&Self>) -> Self {
        let nodes: Box<[Node]> = intent
            .nodes
            .iter()
            .map(|node| {
                let addresses: Box<[SocketAddr]> =
                    node.addresses.iter().filter_map(|address| address.parse().ok()).collect();
                let known = before.and_then(|pool| {
                    pool.nodes.iter().find(|old| *old.id == *node.node_id && old.addresses == addresses)
                });
                Node {
                    id: known.map_or_else(|| Arc::from(node.node_id.as_str()), |old| Arc::clone(&old.id)),
                    in_service: node.in_service && !addresses.is_empty(),
                    addresses,
                    health: known.map(|old| Arc::clone(&old.health)).unwrap_or_default(),
                }
            })
            .collect();
        // All nodes have their place, in service or not, so that a node that comes and goes moves its own hosts only.
        let places: Vec<Bucket> =
            nodes.iter().zip(0u32..).map(|(node, index)| Bucket::new(place(&node.id, index), 1)).collect();
        Self {
            name: Arc::from(intent.name.as_str()),
            in_service: nodes.iter().filter(|node| node.in_service).count(),
            ring: Continuum::new(&places),
            nodes,
        }
    }

    /// The shard's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes, in the order of the intent.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Nodes in service.
    #[must_use]
    pub fn in_service(&self) -> usize {
        self.in_service
    }

    /// As [`crate::seen`] writes it.
    pub(crate) fn seen(&self) -> Vec<String> {
        let line = |node: &Node| {
            let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
            seen::node(&node.id, &addresses, node.in_service)
        };
        std::iter::once(seen::pool(&self.name, self.nodes.len())).chain(self.nodes.iter().map(line)).collect()
    }

    /// The point of the ring where `host` begins.
    pub(crate) fn point(&self, host: &str) -> usize {
        self.ring.node_idx(host.as_bytes())
    }

    /// In-service nodes in ring order from `point`, each possibly several times; bounded.
    fn walk(&self, point: usize) -> impl Iterator<Item = (u16, &Node)> {
        let mut point = point;
        let points = std::iter::from_fn(move || {
            let place = *self.ring.get_addr(&mut point)?;
            let SocketAddr::V6(place) = place else { return None };
            u16::try_from(place.scope_id()).ok()
        });
        let steps = (self.nodes.len() * 160).min(MAX_STEPS);
        let all = (0..=u16::MAX).take(self.nodes.len());
        points.take(steps).chain(all).filter_map(|index| {
            self.nodes.get(usize::from(index)).filter(|node| node.in_service).map(|node| (index, node))
        })
    }
}

/// A node's place on the ring hangs on its id, not on its address, so that a new address moves no host. The ring hashes the
/// IP part of a socket address: the id's FNV-1a-128 stands there, and the index travels in the scope, which is not hashed.
fn place(id: &str, index: u32) -> SocketAddr {
    let hash = id.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    });
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(hash), 0, 0, index))
}

/// One endpoint to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    node: u16,
    /// Where to connect to.
    pub address: SocketAddr,
}

/// The endpoints to try for one request, best first, each once. The state of one request.
#[derive(Debug, Clone)]
pub struct Candidates {
    pool: Arc<Pool>,
    point: usize,
    tried: [Option<Candidate>; MAX_TRIES],
}

impl Candidates {
    pub(crate) fn new(pool: Arc<Pool>, point: usize) -> Self {
        Self { pool, point, tried: [None; MAX_TRIES] }
    }

    /// The pool they are from.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The node that a candidate belongs to.
    #[must_use]
    pub fn node(&self, candidate: Candidate) -> Option<&Node> {
        self.pool.nodes.get(usize::from(candidate.node))
    }

    /// How many were given out.
    #[must_use]
    pub fn tries(&self) -> usize {
        self.tried.iter().flatten().count()
    }

    /// The next one: the nodes in ring order that are not ejected, then their further addresses, and as a last resort the
    /// ejected ones, because an answer from a node wrongly taken for dead is better than none. `None` after [`MAX_TRIES`]
    /// or when all were tried.
    pub fn next(&mut self, now: Millis) -> Option<Candidate> {
        let slot = self.tried.iter().position(Option::is_none)?;
        let candidate = self.pick(now)?;
        *self.tried.get_mut(slot)? = Some(candidate);
        Some(candidate)
    }

    fn pick(&self, now: Millis) -> Option<Candidate> {
        let tried = |candidate: &Candidate| self.tried.iter().flatten().any(|old| old == candidate);
        let tried_node = |node: u16| self.tried.iter().flatten().any(|old| old.node == node);
        let fresh = self.pool.walk(self.point).find_map(|(index, node)| {
            let address = *node.addresses.first()?;
            (!tried_node(index) && node.admit(now)).then_some(Candidate { node: index, address })
        });
        let untried = |(index, node): (u16, &Node)| {
            node.addresses
                .iter()
                .map(|address| Candidate { node: index, address: *address })
                .find(|candidate| !tried(candidate))
        };
        fresh
            .or_else(|| {
                self.pool.walk(self.point).filter(|(_, node)| !node.is_ejected(now)).find_map(untried)
            })
            .or_else(|| self.pool.walk(self.point).find_map(untried))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hosting_intent::message::PoolNode;

    use super::*;

    pub(crate) fn intent(nodes: &[(&str, bool)]) -> ShardPool {
        ShardPool {
            name: "shard-1".into(),
            nodes: nodes
                .iter()
                .map(|(id, in_service)| PoolNode {
                    node_id: (*id).into(),
                    addresses: vec![format!("192.0.2.{}:80", id.trim_start_matches('n'))],
                    in_service: *in_service,
                })
                .collect(),
        }
    }

    fn first(pool: &Arc<Pool>, host: &str, now: Millis) -> Option<String> {
        let mut candidates = Candidates::new(Arc::clone(pool), pool.point(host));
        let candidate = candidates.next(now)?;
        Some(candidates.node(candidate)?.id.to_string())
    }

    fn hosts() -> impl Iterator<Item = String> {
        (0..2_000).map(|n| format!("www.site-{n}.example"))
    }

    #[test]
    fn hosts_spread_evenly_and_the_same_on_every_edge() {
        let pool =
            Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true), ("n3", true), ("n4", true)]), None));
        let mut other = intent(&[("n1", true), ("n2", true), ("n3", true), ("n4", true)]);
        other.nodes.reverse();
        let other = Arc::new(Pool::new(&other, None));
        let mut share: BTreeMap<String, usize> = BTreeMap::new();
        for host in hosts() {
            let node = first(&pool, &host, 0).unwrap();
            assert_eq!(first(&other, &host, 0).as_ref(), Some(&node), "{host}");
            *share.entry(node).or_default() += 1;
        }
        assert!(share.len() == 4 && share.values().all(|n| (300..700).contains(n)), "{share:?}");
    }

    #[test]
    fn a_node_out_of_service_moves_its_own_hosts_only_and_gets_them_back() {
        let before = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true), ("n3", true)]), None));
        let during =
            Arc::new(Pool::new(&intent(&[("n1", true), ("n2", false), ("n3", true)]), Some(&before)));
        let after = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true), ("n3", true)]), Some(&during)));
        let mut moved_to = BTreeSet::new();
        for host in hosts() {
            let home = first(&before, &host, 0).unwrap();
            let now = first(&during, &host, 0).unwrap();
            if home == "n2" {
                moved_to.insert(now);
            } else {
                assert_eq!(home, now, "{host}");
            }
            assert_eq!(first(&after, &host, 0).unwrap(), home, "{host}");
        }
        assert_eq!(moved_to.len(), 2, "the hosts of one node spread over the others: {moved_to:?}");
    }

    #[test]
    fn a_new_address_moves_no_host() {
        let before = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true)]), None));
        let mut renumbered = intent(&[("n1", true), ("n2", true)]);
        renumbered.nodes[0].addresses = vec!["[2001:db8::1]:8080".into()];
        let after = Arc::new(Pool::new(&renumbered, Some(&before)));
        for host in hosts() {
            assert_eq!(first(&before, &host, 0), first(&after, &host, 0), "{host}");
        }
    }

    #[test]
    fn candidates_are_every_endpoint_once() {
        let mut wide = intent(&[("n1", true), ("n2", true), ("n3", false)]);
        wide.nodes[0].addresses.push("[2001:db8::1]:80".into());
        let pool = Arc::new(Pool::new(&wide, None));
        let mut candidates = Candidates::new(Arc::clone(&pool), pool.point("a.example"));
        let mut nodes = Vec::new();
        let mut addresses = BTreeSet::new();
        while let Some(candidate) = candidates.next(0) {
            nodes.push(candidates.node(candidate).unwrap().id.to_string());
            addresses.insert(candidate.address.to_string());
        }
        assert_eq!(nodes.len(), 3);
        assert_ne!(nodes[0], nodes[1], "another node before another address");
        assert_eq!(addresses, ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"].map(String::from).into());
        assert_eq!(candidates.tries(), 3);
    }

    #[test]
    fn an_ejected_node_waits_is_probed_by_one_and_comes_back() {
        let pool = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true)]), None));
        let host = hosts().find(|host| first(&pool, host, 0).as_deref() == Some("n1")).unwrap();
        pool.nodes()[0].failed(100, 1_000);
        assert_eq!(first(&pool, &host, 500).as_deref(), Some("n2"));
        // Its health outlives a change of the pool.
        let pool = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true), ("n3", false)]), Some(&pool)));
        assert_eq!(first(&pool, &host, 600).as_deref(), Some("n2"));
        assert_eq!(first(&pool, &host, 1_200).as_deref(), Some("n1"), "one probe");
        assert_eq!(first(&pool, &host, 1_200).as_deref(), Some("n2"), "only one");
        pool.nodes()[0].answered();
        assert_eq!(first(&pool, &host, 1_201).as_deref(), Some("n1"));
    }

    #[test]
    fn when_all_are_ejected_they_are_tried_all_the_same() {
        let pool = Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true)]), None));
        pool.nodes().iter().for_each(|node| node.failed(0, 10_000));
        let mut candidates = Candidates::new(Arc::clone(&pool), pool.point("a.example"));
        assert!(candidates.next(5).is_some() && candidates.next(5).is_some());
        assert!(candidates.next(5).is_none());
    }

    #[test]
    fn an_empty_pool_and_one_out_of_service_have_no_candidate() {
        for intent in [intent(&[]), intent(&[("n1", false)])] {
            let pool = Arc::new(Pool::new(&intent, None));
            assert_eq!((pool.in_service(), first(&pool, "a.example", 0)), (0, None));
        }
    }
}
