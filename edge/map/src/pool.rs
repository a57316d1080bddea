//! A shard's nodes on a consistent hash ring, and which of them to try for a host.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hosting_intent::message::ShardPool;
use pingora_ketama::{Bucket, Continuum};

use crate::node::{Balance, Millis, Node};
use crate::seen;

/// Most endpoints that one request tries.
pub const MAX_TRIES: usize = 4;

/// Ring points looked at before a plain walk over the nodes takes over.
const MAX_STEPS: usize = 4_096;

/// What the requests of one retry are worth: a fifth of all may be sent again.
const RETRY_COST: u32 = 5;
/// The most retries that may come at once.
const RETRIES_AT_ONCE: u32 = 100;

/// What all pools of one shard share, one after another.
#[derive(Debug)]
struct Shared {
    /// Requests that were not yet spent on a retry.
    credit: AtomicU32,
    /// Requests that wait for a place.
    waiting: AtomicUsize,
}

/// A shard's nodes. Immutable but for their health; a change makes a new one.
pub struct Pool {
    name: Arc<str>,
    nodes: Box<[Node]>,
    ring: Continuum,
    in_service: usize,
    balance: Balance,
    shared: Arc<Shared>,
}

/// A request that waits for a place at a node.
#[derive(Debug)]
pub struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Pool {
    /// From an intent that passed [`crate::check`]; `before` is the pool that it replaces.
    #[must_use]
    pub fn new(intent: &ShardPool, before: Option<&Self>, balance: Balance) -> Self {
        let nodes: Box<[Node]> = intent
            .nodes
            .iter()
            .map(|node| {
                let addresses: Box<[SocketAddr]> =
                    node.addresses.iter().filter_map(|address| address.parse().ok()).collect();
                let known = before.and_then(|pool| {
                    pool.nodes.iter().find(|old| *old.id == *node.node_id && old.addresses == addresses)
                });
                let in_service = node.in_service && !addresses.is_empty();
                Node::new(&node.node_id, addresses, in_service, known, before.is_some(), &balance)
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
            balance,
            shared: before.map_or_else(
                || {
                    let credit = AtomicU32::new(RETRIES_AT_ONCE * RETRY_COST);
                    Arc::new(Shared { credit, waiting: AtomicUsize::new(0) })
                },
                |before| Arc::clone(&before.shared),
            ),
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

    /// The most requests of one tenant that may be under way: half of what the nodes in service take, so that one whose site hangs leaves
    /// room for the others.
    pub(crate) fn tenant_requests(&self) -> usize {
        (self.balance.node_requests.saturating_mul(self.in_service) / 2).max(1)
    }

    /// Counts a request that may be sent again one day.
    pub fn earn(&self) {
        // Read first: it is full nearly always.
        if self.shared.credit.load(Ordering::Relaxed) < RETRIES_AT_ONCE * RETRY_COST {
            self.shared.credit.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a request may be sent again: only so many are that a shard in trouble is not asked twice as often.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let spend = |credit: u32| credit.checked_sub(RETRY_COST);
        self.shared.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    /// A place among at most `most` requests that wait for a node of the shard.
    #[must_use]
    pub fn queue(&self, most: usize) -> Option<Waiting> {
        let waiting = Waiting(Arc::clone(&self.shared));
        // Given back when it is one too many.
        (self.shared.waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(waiting)
    }

    /// Whether a node has more than its share of the requests under way (consistent hashing with bounded loads: Mirrokni, Thorup,
    /// Zadimoghaddam 2016), or no place at all.
    fn is_laden(&self, node: &Node) -> bool {
        let under_way = node.under_way();
        if under_way < self.balance.share_floor {
            return node.is_full();
        }
        let all: usize = self.nodes.iter().filter(|node| node.in_service).map(Node::under_way).sum();
        let share = ((all + 1) * self.balance.share_percent).div_ceil(100 * self.in_service.max(1));
        node.is_full() || under_way >= share.max(self.balance.share_floor)
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

    /// The nodes in service in the order in which the host finds them, whatever they have to do.
    #[must_use]
    pub fn order(&self) -> Vec<&Node> {
        let mut order: Vec<(u16, &Node)> = Vec::new();
        for (index, node) in self.pool.walk(self.point) {
            if !order.iter().any(|(known, _)| *known == index) {
                order.push((index, node));
            }
        }
        order.into_iter().map(|(_, node)| node).collect()
    }

    /// How many were given out.
    #[must_use]
    pub fn tries(&self) -> usize {
        self.tried.iter().flatten().count()
    }

    /// The next one: the nodes in ring order that are not ejected, first those that are not too new for the host nor too busy, then their
    /// further addresses, and as a last resort the
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
        let pool = &*self.pool;
        // Hosts that lie side by side on the ring come back at different times.
        let place = (self.point as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let fresh = |is_best: bool| {
            pool.walk(self.point).find_map(|(index, node)| {
                let address = *node.addresses.first()?;
                let fits = !tried_node(index)
                    && (!is_best
                        || (node.has_warmed_up_for(place, now, pool.balance.slow_start)
                            && !pool.is_laden(node)))
                    && node.admit(now);
                fits.then_some(Candidate { node: index, address })
            })
        };
        let untried = |(index, node): (u16, &Node)| {
            node.addresses
                .iter()
                .map(|address| Candidate { node: index, address: *address })
                .find(|candidate| !tried(candidate))
        };
        fresh(true)
            .or_else(|| fresh(false))
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
    use crate::node::UnderWay;

    fn made(intent: &ShardPool, before: Option<&Pool>) -> Pool {
        Pool::new(intent, before, Balance { slow_start: 0, ..Balance::default() })
    }

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
        let pool = Arc::new(made(&intent(&[("n1", true), ("n2", true), ("n3", true), ("n4", true)]), None));
        let mut other = intent(&[("n1", true), ("n2", true), ("n3", true), ("n4", true)]);
        other.nodes.reverse();
        let other = Arc::new(made(&other, None));
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
        let before = Arc::new(made(&intent(&[("n1", true), ("n2", true), ("n3", true)]), None));
        let during = Arc::new(made(&intent(&[("n1", true), ("n2", false), ("n3", true)]), Some(&before)));
        let after = Arc::new(made(&intent(&[("n1", true), ("n2", true), ("n3", true)]), Some(&during)));
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
        let before = Arc::new(made(&intent(&[("n1", true), ("n2", true)]), None));
        let mut renumbered = intent(&[("n1", true), ("n2", true)]);
        renumbered.nodes[0].addresses = vec!["[2001:db8::1]:8080".into()];
        let after = Arc::new(made(&renumbered, Some(&before)));
        for host in hosts() {
            assert_eq!(first(&before, &host, 0), first(&after, &host, 0), "{host}");
        }
    }

    #[test]
    fn candidates_are_every_endpoint_once() {
        let mut wide = intent(&[("n1", true), ("n2", true), ("n3", false)]);
        wide.nodes[0].addresses.push("[2001:db8::1]:80".into());
        let pool = Arc::new(made(&wide, None));
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
    fn the_order_of_a_host_is_that_in_which_its_nodes_are_tried() {
        let nodes = [("n1", true), ("n2", true), ("n3", false), ("n4", true)];
        let pool = Arc::new(made(&intent(&nodes), None));
        for host in hosts().take(50) {
            let mut candidates = Candidates::new(Arc::clone(&pool), pool.point(&host));
            let order: Vec<_> = candidates.order().iter().map(|node| Arc::clone(&node.id)).collect();
            let tried = std::iter::from_fn(|| {
                let candidate = candidates.next(0)?;
                candidates.node(candidate).map(|node| Arc::clone(&node.id))
            });
            assert_eq!(order, tried.collect::<Vec<_>>(), "{host}");
            assert_eq!(order.len(), 3);
        }
    }

    #[test]
    fn an_ejected_node_waits_is_probed_by_one_and_comes_back() {
        let pool = Arc::new(made(&intent(&[("n1", true), ("n2", true)]), None));
        let host = hosts().find(|host| first(&pool, host, 0).as_deref() == Some("n1")).unwrap();
        pool.nodes()[0].failed(100, 1_000);
        assert_eq!(first(&pool, &host, 500).as_deref(), Some("n2"));
        // Its health outlives a change of the pool.
        let pool = Arc::new(made(&intent(&[("n1", true), ("n2", true), ("n3", false)]), Some(&pool)));
        assert_eq!(first(&pool, &host, 600).as_deref(), Some("n2"));
        assert_eq!(first(&pool, &host, 1_200).as_deref(), Some("n1"), "one probe");
        assert_eq!(first(&pool, &host, 1_200).as_deref(), Some("n2"), "only one");
        pool.nodes()[0].answered(1_200);
        assert_eq!(first(&pool, &host, 1_201).as_deref(), Some("n1"));
    }

    #[test]
    fn when_all_are_ejected_they_are_tried_all_the_same() {
        let pool = Arc::new(made(&intent(&[("n1", true), ("n2", true)]), None));
        pool.nodes().iter().for_each(|node| node.failed(0, 10_000));
        let mut candidates = Candidates::new(Arc::clone(&pool), pool.point("a.example"));
        assert!(candidates.next(5).is_some() && candidates.next(5).is_some());
        assert!(candidates.next(5).is_none());
    }

    /// A pool of three nodes that spreads as this says.
    fn spreading(balance: Balance) -> Arc<Pool> {
        Arc::new(Pool::new(&intent(&[("n1", true), ("n2", true), ("n3", true)]), None, balance))
    }

    /// Begins a request for a host; the node that it is at, and its place.
    fn begin(pool: &Arc<Pool>, host: &str, now: Millis) -> (String, UnderWay) {
        let mut candidates = Candidates::new(Arc::clone(pool), pool.point(host));
        let node = candidates.next(now).and_then(|candidate| candidates.node(candidate)).unwrap();
        (node.id.to_string(), node.begin().unwrap())
    }

    #[test]
    fn a_host_that_all_want_goes_to_the_next_nodes_too_and_back() {
        let pool = spreading(Balance { share_floor: 10, share_percent: 120, ..Balance::default() });
        let home = first(&pool, "busy.example", 0).unwrap();
        let mut under_way = Vec::new();
        for n in 0..10 {
            let (node, place) = begin(&pool, "busy.example", 0);
            assert_eq!(node, home, "request {n} is few");
            under_way.push(place);
        }
        for _ in 0..290 {
            under_way.push(begin(&pool, "busy.example", 0).1);
        }
        let loads: Vec<usize> = pool.nodes().iter().map(Node::under_way).collect();
        assert_eq!(loads.iter().sum::<usize>(), 300);
        assert!(
            loads.iter().all(|load| (1..=151).contains(load)),
            "no more than half over the average: {loads:?}"
        );
        // Another host stays at home unless its home is the laden one.
        drop(under_way);
        assert_eq!(begin(&pool, "busy.example", 0).0, home);
        assert!(pool.nodes().iter().all(|node| node.under_way() == 0));
    }

    #[test]
    fn a_full_node_is_passed_over_and_full_ones_have_a_queue() {
        let pool = spreading(Balance { node_requests: 2, ..Balance::default() });
        let home = first(&pool, "a.example", 0).unwrap();
        let all: Vec<_> = (0..6).map(|_| begin(&pool, "a.example", 0)).collect();
        assert!(all[..2].iter().all(|(node, _)| *node == home));
        assert_eq!(all.iter().map(|(node, _)| node).collect::<BTreeSet<_>>().len(), 3);
        let mut candidates = Candidates::new(Arc::clone(&pool), pool.point("a.example"));
        let candidate = candidates.next(0).unwrap();
        assert_eq!(*candidates.node(candidate).unwrap().id, *home, "one to wait for");
        assert!(candidates.node(candidate).unwrap().begin().is_none());
        assert_eq!(pool.tenant_requests(), 3);
        // The queue outlives a change of the pool.
        let next = Arc::new(Pool::new(&intent(&[("n1", true)]), Some(&pool), Balance::default()));
        let one = pool.queue(2).unwrap();
        let two = next.queue(2).unwrap();
        assert!(pool.queue(2).is_none());
        drop(one);
        assert!(pool.queue(2).is_some());
        drop(two);
    }

    #[test]
    fn a_node_that_comes_back_gets_its_hosts_one_after_another() {
        let balance = Balance { slow_start: 1_000, ..Balance::default() };
        let of = |in_service, before: Option<&Arc<Pool>>| {
            let intent = intent(&[("n1", true), ("n2", in_service), ("n3", true)]);
            Arc::new(Pool::new(&intent, before.map(|pool| &**pool), balance))
        };
        let share = |pool: &Arc<Pool>, now| {
            hosts().filter(|host| first(pool, host, now).as_deref() == Some("n2")).count()
        };
        let start = of(true, None);
        let whole = share(&start, 5_000);
        assert!(whole > 400, "at the start of the process there is nothing to come back: {whole}");
        let out = of(false, Some(&start));
        assert_eq!(share(&out, 6_000), 0);
        let back = of(true, Some(&out));
        let shares = [7_000, 7_250, 7_500, 7_750, 8_000].map(|now| share(&back, now));
        assert_eq!((shares[0], shares[4]), (0, whole));
        assert!(shares.is_sorted() && shares[2] > whole / 3 && shares[2] < whole * 2 / 3, "{shares:?}");
        // So does one that was ejected, and one that did not answer the edge.
        back.nodes()[1].failed(9_000, 100);
        back.nodes()[1].answered(9_200);
        assert!(share(&back, 9_400) < whole && share(&back, 10_200) == whole);
        assert!(back.nodes()[1].checked(true, 11_000) && !back.nodes()[1].checked(true, 11_001));
        assert_eq!(share(&back, 11_500), 0);
        assert!(back.nodes()[1].checked(false, 12_000));
        assert!(share(&back, 12_400) < whole && share(&back, 13_000) == whole);
        // When no other is left, it takes all of them.
        back.nodes()[1].failed(14_000, 100);
        back.nodes()[1].answered(14_200);
        for other in [0, 2] {
            back.nodes()[other].checked(true, 14_200);
        }
        assert_eq!(share(&back, 14_201), 2_000);
    }

    #[test]
    fn one_tenants_application_is_not_the_nodes_fault() {
        let pool = spreading(Balance::default());
        let node = &pool.nodes()[0];
        for _ in 0..100 {
            assert!(!node.left_unanswered(1, 10, 1_000));
        }
        assert!(!node.left_unanswered(2, 10, 1_000));
        node.answered(11);
        assert!(!node.left_unanswered(3, 12, 1_000), "an answer between them");
        assert!(!node.left_unanswered(1, 13, 1_000));
        assert!(node.left_unanswered(2, 14, 1_000), "three tenants in a row");
        assert!(node.is_ejected(15) && !node.is_ejected(2_000));
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let pool = spreading(Balance::default());
        let retries = |pool: &Pool| (0..1_000).filter(|_| pool.may_retry()).count();
        assert_eq!(retries(&pool), 100, "what may come at once");
        (0..50).for_each(|_| pool.earn());
        assert_eq!(retries(&pool), 10);
        (0..10_000).for_each(|_| pool.earn());
        assert_eq!(retries(&pool), 100, "what is not used does not add up");
    }

    #[test]
    fn an_empty_pool_and_one_out_of_service_have_no_candidate() {
        for intent in [intent(&[]), intent(&[("n1", false)])] {
            let pool = Arc::new(made(&intent, None));
            assert_eq!((pool.in_service(), first(&pool, "a.example", 0)), (0, None));
        }
    }
}
