//! The routes of all hosts in few bytes: buckets, each the text of its hosts and webroots in one piece beside what they refer to. A reader
//! loads one pointer and looks into an immutable bucket; a writer builds the touched buckets anew and swaps them in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::RandomState;
use arc_swap::ArcSwap;
use hosting_intent::name::without_wildcard;

use crate::cells::{Shard, Tenant};
use crate::policy::Policy;

/// More buckets than this are cut back to it.
const MAX_BUCKETS: usize = 1 << 24;

/// Parts of a load: the buckets of each are built while its changes are in the processor's cache.
const PARTS: usize = 256;
/// Rows, and bytes of their text, that each part of a load has room for: enough for a million routes. What is not used is no memory.
const ROOM: (usize, usize) = (4_608, 4_608 * 48);

/// Where a host leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'a> {
    /// The host, or the wildcard that it falls under.
    pub(crate) name: &'a str,
    pub(crate) tenant: &'a Arc<Tenant>,
    /// Its own.
    pub(crate) policy: Option<&'a Arc<Policy>>,
    /// `None`: unbound.
    pub(crate) site: Option<Site<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) webroot: &'a str,
    pub(crate) shard: &'a Arc<Shard>,
    pub(crate) may_upgrade: bool,
}

/// The table. It has one writer.
#[derive(Debug)]
pub(crate) struct Routes {
    buckets: Box<[ArcSwap<Bucket>]>,
    /// With seeds of its own in each process, so that nobody outside can aim names at one bucket.
    hasher: RandomState,
    len: AtomicUsize,
}

/// An entry's number in its bucket, and its policy.
type Numbered = (u32, Arc<Policy>);

#[derive(Debug, Default)]
struct Bucket {
    entries: Box<[Entry]>,
    /// Host and webroot of each entry, in their order.
    text: Box<str>,
    /// The policies of entries that have one, by their number, in their order: most have none.
    policies: Option<Box<[Numbered]>>,
}

#[derive(Debug, Clone)]
struct Entry {
    tenant: Arc<Tenant>,
    shard: Option<Arc<Shard>>,
    /// Of the host's hash: most hosts that are others differ in it.
    tag: u8,
    /// Bytes of the host in the text; no host has more than 253.
    host: u8,
    /// Bytes of the webroot in the text; no id has more than 64.
    webroot: u8,
    may_upgrade: bool,
}

impl Entry {
    fn route<'a>(&'a self, name: &'a str, webroot: &'a str, policy: Option<&'a Arc<Policy>>) -> Route<'a> {
        let site = self.shard.as_ref().map(|shard| Site { webroot, shard, may_upgrade: self.may_upgrade });
        Route { name, tenant: &self.tenant, policy, site }
    }
}

/// Changes on their way into the table, in the order in which they were made.
#[derive(Debug, Default)]
struct Changes {
    rows: Vec<Row>,
    /// Host and webroot of each row.
    text: String,
    /// The policies of rows that have one, by their number.
    policies: HashMap<usize, Arc<Policy>, RandomState>,
}

#[derive(Debug)]
struct Row {
    /// `None`: the route is gone.
    tenant: Option<Arc<Tenant>>,
    shard: Option<Arc<Shard>>,
    bucket: u32,
    tag: u8,
    host: u8,
    webroot: u8,
    may_upgrade: bool,
}

/// Where a host belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) bucket: u32,
    tag: u8,
}

impl Bucket {
    /// Number, host and webroot of each entry.
    fn iter(&self) -> impl Iterator<Item = (u32, &str, &str, &Entry)> {
        let mut rest = &*self.text;
        (0..).zip(&self.entries).map_while(move |(number, entry)| {
            let (host, others) = rest.split_at_checked(entry.host.into())?;
            let (webroot, others) = others.split_at_checked(entry.webroot.into())?;
            rest = others;
            Some((number, host, webroot, entry))
        })
    }

    fn policy(&self, number: u32) -> Option<&Arc<Policy>> {
        let policies = self.policies.as_deref()?;
        let found = policies.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        policies.get(found).map(|(_, policy)| policy)
    }

    /// The route of the host, or wildcard, that `is_it`.
    fn get(&self, tag: u8, is_it: impl Fn(&str) -> bool) -> Option<Route<'_>> {
        self.iter()
            .find(|(_, known, _, entry)| entry.tag == tag && is_it(known))
            .map(|(number, known, webroot, entry)| entry.route(known, webroot, self.policy(number)))
    }
}

impl Routes {
    /// An empty table in `buckets` buckets, rounded up to a power of two.
    pub(crate) fn new(buckets: usize) -> Self {
        let count = buckets.clamp(1, MAX_BUCKETS).next_power_of_two();
        let empty = Arc::new(Bucket::default());
        Self {
            buckets: (0..count).map(|_| ArcSwap::new(Arc::clone(&empty))).collect(),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
        }
    }

    /// Routes. While changes are made, the number before or after one of the buckets.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// A wildcard is where the name above it is, so that nobody has to spell it to find it.
    pub(crate) fn place(&self, host: &str) -> Place {
        let [tag, _, _, _, bucket @ ..] = self.hasher.hash_one(without_wildcard(host)).to_le_bytes();
        // There are at most 2^24 buckets, a power of two.
        Place { bucket: u32::from_le_bytes(bucket) & (self.buckets.len() - 1) as u32, tag }
    }

    fn slot(&self, bucket: u32) -> Option<&ArcSwap<Bucket>> {
        self.buckets.get(usize::try_from(bucket).ok()?)
    }

    /// Looks at the route of a host: its own one, else that of the wildcard one label above. No allocation, no lock.
    pub(crate) fn read<R>(&self, host: &str, look: impl FnOnce(Route<'_>) -> R) -> Option<R> {
        let own = self.place(host);
        let bucket = self.slot(own.bucket)?.load();
        if let Some(route) = bucket.get(own.tag, |known| known == host) {
            return Some(look(route));
        }
        let (_, above) = host.split_once('.')?;
        let wildcard = self.place(above);
        let bucket = self.slot(wildcard.bucket)?.load();
        bucket.get(wildcard.tag, |known| known.strip_prefix("*.") == Some(above)).map(look)
    }

    /// A host in `bucket` whose route `is_wanted`.
    pub(crate) fn host_in(&self, bucket: u32, is_wanted: impl Fn(Route<'_>) -> bool) -> Option<Arc<str>> {
        let bucket = self.slot(bucket)?.load();
        let mut hosts = bucket.iter().filter(|(number, host, webroot, entry)| {
            is_wanted(entry.route(host, webroot, bucket.policy(*number)))
        });
        hosts.next().map(|(_, host, ..)| host.into())
    }

    /// Makes changes. Rebuilds each touched bucket once; readers see every change when this returns.
    fn update(&self, changes: Changes) {
        let Changes { mut rows, text, policies: mut new_policies } = changes;
        // Bucket, number and text of each row. Of several changes of one host the last counts.
        let (mut order, mut at) = (Vec::with_capacity(rows.len()), 0);
        for (number, row) in rows.iter().enumerate() {
            order.push((row.bucket, number, at));
            at += usize::from(row.host) + usize::from(row.webroot);
        }
        order.sort_unstable();
        let host = |row: &Row, at: usize| text.get(at..at + usize::from(row.host)).unwrap_or_default();
        let (mut entries, mut texts, mut policies) = (Vec::new(), String::new(), Vec::new());
        for group in order.chunk_by(|one, other| one.0 == other.0) {
            let Some(slot) = group.first().and_then(|(bucket, ..)| self.slot(*bucket)) else { return };
            let bucket = slot.load();
            // Whether one of some changes is of a host.
            let concern = |rows: &[Row], changes: &[(u32, usize, usize)], tag: u8, wanted: &str| {
                let mut rows = changes.iter().filter_map(|(_, number, at)| Some((rows.get(*number)?, *at)));
                rows.any(|(row, at)| row.tag == tag && host(row, at) == wanted)
            };
            for (number, known, webroot, entry) in bucket.iter() {
                if !concern(&rows, group, entry.tag, known) {
                    policies.extend(bucket.policy(number).map(|policy| (entries.len(), Arc::clone(policy))));
                    entries.push(entry.clone());
                    texts.push_str(known);
                    texts.push_str(webroot);
                }
            }
            let mut rest = group;
            while let Some(((_, number, at), later)) = rest.split_first() {
                rest = later;
                let Some(row) = rows.get(*number) else { return };
                let (end, is_last) = (
                    at + usize::from(row.host) + usize::from(row.webroot),
                    !concern(&rows, later, row.tag, host(row, *at)),
                );
                let Some(row) = rows.get_mut(*number).filter(|_| is_last) else { continue };
                if let Some(tenant) = row.tenant.take() {
                    texts.push_str(text.get(*at..end).unwrap_or_default());
                    let Row { tag, host, webroot, may_upgrade, .. } = *row;
                    policies.extend(new_policies.remove(number).map(|policy| (entries.len(), policy)));
                    entries.push(Entry { tenant, shard: row.shard.take(), tag, host, webroot, may_upgrade });
                }
            }
            self.len.fetch_add(entries.len(), Ordering::Relaxed);
            self.len.fetch_sub(bucket.entries.len(), Ordering::Relaxed);
            slot.store(Arc::new(Bucket {
                entries: entries.drain(..).collect(),
                text: texts.as_str().into(),
                policies: (!policies.is_empty()).then(|| policies.drain(..).filter_map(numbered).collect()),
            }));
            texts.clear();
        }
    }
}

/// A bucket has far fewer entries than its numbers have room for.
fn numbered((number, policy): (usize, Arc<Policy>)) -> Option<Numbered> {
    Some((number.try_into().ok()?, policy))
}

/// Changes that are made together.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// None, one, or those of a load, each with the changes of a stretch of buckets.
    parts: Vec<Changes>,
    len: usize,
}

impl Staged {
    /// As many parts as are good for `changes`, and for more to come when there are many.
    pub(crate) fn reserve(&mut self, changes: usize) {
        if self.len == 0 {
            let (parts, (rows, text)) = if changes < PARTS { (1, (0, 0)) } else { (PARTS, ROOM) };
            self.parts.resize_with(parts, || Changes {
                rows: Vec::with_capacity(rows),
                text: String::with_capacity(text),
                policies: HashMap::default(),
            });
        }
    }

    /// Adds a change: `None` takes the route of the host away. Nobody has a host or a webroot that does not fit: they are left out.
    pub(crate) fn add(&mut self, routes: &Routes, host: &str, place: Place, route: Option<NewRoute<'_>>) {
        self.reserve(1);
        let (tenant, policy, site) = route
            .map_or((None, None, None), |NewRoute { tenant, policy, site }| (Some(tenant), policy, site));
        let (webroot, shard, may_upgrade) =
            site.map_or(("", None, false), |site| (site.webroot, Some(site.shard), site.may_upgrade));
        let lengths = (host.len().try_into(), webroot.len().try_into());
        let (Ok(host_length), Ok(webroot_length)) = lengths else { return };
        let Place { bucket, tag } = place;
        let row = Row { tenant, shard, bucket, tag, host: host_length, webroot: webroot_length, may_upgrade };
        let part = bucket as usize * self.parts.len() / routes.buckets.len();
        let Some(changes) = self.parts.get_mut(part) else { return };
        if let Some(policy) = policy {
            changes.policies.insert(changes.rows.len(), policy);
        }
        changes.rows.push(row);
        changes.text.push_str(host);
        changes.text.push_str(webroot);
        self.len += 1;
    }

    /// Changes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes all changes.
    pub(crate) fn apply(&mut self, routes: &Routes) {
        self.len = 0;
        for changes in self.parts.drain(..) {
            routes.update(changes);
        }
    }
}

/// A route as it is made.
#[derive(Debug)]
pub(crate) struct NewRoute<'a> {
    pub(crate) tenant: Arc<Tenant>,
    /// Its own.
    pub(crate) policy: Option<Arc<Policy>>,
    /// `None`: unbound.
    pub(crate) site: Option<NewSite<'a>>,
}

/// A site as a new route names it.
#[derive(Debug)]
pub(crate) struct NewSite<'a> {
    pub(crate) webroot: &'a str,
    pub(crate) shard: Arc<Shard>,
    pub(crate) may_upgrade: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use hosting_intent::message::HttpPolicy;
    use proptest::prelude::*;

    use super::*;
    use crate::cells::{Cell as _, Cells};

    /// What a table shows of a host: the tenant, the policy, and webroot and shard of the site.
    type Shown = (String, Option<String>, Option<(String, String, bool)>);

    /// A table and what it should show.
    struct Both {
        routes: Routes,
        tenants: Cells<Tenant>,
        shards: Cells<Shard>,
        model: BTreeMap<String, Shown>,
        staged: Staged,
    }

    /// `None`: the route goes.
    type Wanted = (String, Option<(u8, Option<(u8, bool)>)>);

    impl Both {
        fn new(buckets: usize) -> Self {
            Self {
                routes: Routes::new(buckets),
                tenants: Cells::default(),
                shards: Cells::default(),
                model: BTreeMap::new(),
                staged: Staged::default(),
            }
        }

        fn stage(&mut self, changes: &[Wanted]) {
            self.staged.reserve(changes.len());
            for (host, change) in changes {
                let place = self.routes.place(host);
                let route = change.map(|(tenant, site)| {
                    let site = site.map(|(number, may_upgrade)| NewSite {
                        webroot: if number % 2 == 0 { "web_even" } else { "web_odd_number" },
                        shard: self.shards.name(&format!("s{number}"), place.bucket),
                        may_upgrade,
                    });
                    let policy = (tenant % 2 == 1).then(|| policy(tenant));
                    let tenant = self.tenants.name(&format!("t_{tenant}"), place.bucket);
                    NewRoute { tenant, policy, site }
                });
                let shown = route.as_ref().map(|NewRoute { tenant, policy, site }| {
                    let policy = policy.as_ref().map(|policy| policy.digest().to_owned());
                    (tenant.id().to_owned(), policy, site.as_ref().map(owned))
                });
                match shown {
                    Some(shown) => drop(self.model.insert(host.clone(), shown)),
                    None => drop(self.model.remove(host)),
                }
                self.staged.add(&self.routes, host, place, route);
            }
        }

        fn shows(&self, host: &str) -> Option<Shown> {
            self.routes.read(host, |route| {
                let site = route
                    .site
                    .map(|site| (site.webroot.to_owned(), site.shard.id().to_owned(), site.may_upgrade));
                let policy = route.policy.map(|policy| policy.digest().to_owned());
                (route.tenant.id().to_owned(), policy, site)
            })
        }
    }

    fn policy(number: u8) -> Arc<Policy> {
        Arc::new(Policy::new(&HttpPolicy { max_body_bytes: Some(number.into()), ..HttpPolicy::default() }))
    }

    fn owned(site: &NewSite<'_>) -> (String, String, bool) {
        (site.webroot.to_owned(), site.shard.id().to_owned(), site.may_upgrade)
    }

    fn change() -> impl Strategy<Value = Wanted> {
        ("[a-c]{0,3}", prop::option::weighted(0.7, (0_u8..4, prop::option::of((0_u8..4, any::<bool>())))))
    }

    proptest! {
        #[test]
        fn does_what_an_ordered_map_does(
            buckets in 1_usize..40,
            batches in prop::collection::vec(prop::collection::vec(change(), 0..60), 0..12),
        ) {
            let mut both = Both::new(buckets);
            for batch in batches {
                both.stage(&batch);
                both.staged.apply(&both.routes);
                prop_assert_eq!(both.routes.len(), both.model.len());
                for host in both.model.keys().cloned().chain(batch.into_iter().map(|(host, _)| host)) {
                    prop_assert_eq!(both.shows(&host), both.model.get(&host).cloned());
                }
            }
        }
    }

    fn hosts(count: usize) -> Vec<Wanted> {
        (0..count).map(|n| (format!("www.site-{n}.example"), Some((0, Some((1, false)))))).collect()
    }

    #[test]
    fn a_wildcard_leads_hosts_one_label_below_it_that_have_no_route_of_their_own() {
        let mut both = Both::new(64);
        both.stage(&[
            ("*.a.example".to_owned(), Some((0, Some((1, false))))),
            ("www.a.example".to_owned(), Some((1, None))),
        ]);
        both.staged.apply(&both.routes);
        let tenant = |host: &str| both.shows(host).map(|(tenant, ..)| tenant);
        assert_eq!(tenant("shop.a.example").as_deref(), Some("t_0"));
        assert_eq!(tenant("*.a.example").as_deref(), Some("t_0"));
        assert_eq!(tenant("www.a.example").as_deref(), Some("t_1"), "its own route counts");
        for host in ["a.example", "x.shop.a.example", "x.www.a.example", "shop.b.example", "example", ""] {
            assert_eq!(tenant(host), None, "{host}");
        }
    }

    #[test]
    fn what_is_staged_is_seen_when_all_of_it_is_applied() {
        let mut both = Both::new(1_024);
        let all = hosts(3_000);
        for piece in all.chunks(1_000) {
            both.stage(piece);
            assert!(both.routes.len() == 0 && all.iter().all(|(host, _)| both.shows(host).is_none()));
        }
        both.staged.apply(&both.routes);
        assert_eq!(both.routes.len(), 3_000);
        assert!(all.iter().all(|(host, _)| both.shows(host) == both.model.get(host).cloned()));
    }

    #[test]
    fn a_change_builds_its_bucket_anew_and_no_other() {
        let mut both = Both::new(256);
        both.stage(&hosts(10_000));
        both.staged.apply(&both.routes);
        let before: Vec<_> = both.routes.buckets.iter().map(ArcSwap::load_full).collect();
        both.stage(&[("www.site-7.example".to_owned(), None)]);
        both.staged.apply(&both.routes);
        let now = both.routes.buckets.iter().zip(&before);
        assert_eq!(now.filter(|(now, then)| !Arc::ptr_eq(&now.load(), then)).count(), 1);
        assert_eq!(both.routes.len(), 9_999);
        let fullest = before.iter().map(|bucket| bucket.entries.len()).max().unwrap();
        assert!(fullest < 100, "{fullest} of 10000 routes in one of 256 buckets");
    }

    #[test]
    fn a_reader_always_finds_what_is_never_removed() {
        let mut both = Both::new(8);
        both.stage(&hosts(500));
        both.staged.apply(&both.routes);
        let done = AtomicBool::new(false);
        let Both { routes, tenants, .. } = &mut both;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let tenant = routes.read("www.site-3.example", |route| route.tenant.id().to_owned());
                        assert!(tenant.is_some_and(|tenant| tenant.starts_with("t_")));
                    }
                });
            }
            for round in 0..3_000 {
                let mut staged = Staged::default();
                for n in 0..8 {
                    let host = format!("www.site-{n}.example");
                    let place = routes.place(&host);
                    let tenant = tenants.name(&format!("t_{round}"), place.bucket);
                    staged.add(routes, &host, place, Some(NewRoute { tenant, policy: None, site: None }));
                }
                staged.add(routes, "gone.example", routes.place("gone.example"), None);
                staged.apply(routes);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            both.routes.read("www.site-3.example", |route| route.tenant.id().to_owned()).as_deref(),
            Some("t_2999")
        );
    }
}
