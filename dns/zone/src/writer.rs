//! From intents to what is served.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ahash::RandomState;
use arc_swap::{ArcSwap, ArcSwapOption};
use hosting_intent::message::{RrSet as RrSetIntent, rr_set};
use hosting_intent::{DnsIntent, DnsKind, Key, Rejection, name as names, rr_set_key};

use crate::name::{KeyBuf, NameBuf, Octets, is_wildcard, parent, wire_of};
use crate::record::{AddressCell, Addresses, Data, RrSet, invalid, type_number};
use crate::rtype;
use crate::zone::{Apex, Node, Nodes, Zone, ZoneCell, Zones, is_cut};

/// Turns intents into what [`Zones`] serves. There is one, on the feed's thread.
///
/// Intents may come in any order, within a batch and between batches: what refers to something absent waits for it.
#[derive(Debug, Default)]
pub struct Writer {
    zones: Zones,
    books: HashMap<Octets, Book, RandomState>,
    address_sets: HashMap<Box<str>, Arc<AddressCell>, RandomState>,
}

/// What is known of one zone, present or not.
#[derive(Debug, Default)]
struct Book {
    /// `None` while the zone is absent.
    apex: Option<Arc<Apex>>,
    /// The apex NS set together with the zone's own, if there is one.
    more_ns: Option<RrSet>,
    nodes: Nodes,
    cuts: usize,
    cell: Option<Arc<ZoneCell>>,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// Zones that were built anew or taken away.
    pub zones: usize,
    /// Items that could not be applied although they should have been checked; the last good ones stay.
    pub rejected: Vec<(Key, Rejection)>,
}

impl Writer {
    /// With nothing to serve.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is served, for readers.
    #[must_use]
    pub fn zones(&self) -> Zones {
        self.zones.clone()
    }

    /// Checks one item without any effect.
    ///
    /// What depends on other items is not looked at: it would make the outcome hang on their order. A CNAME beside other
    /// data is therefore no reason to reject; see the crate's documentation for what is served then.
    ///
    /// # Errors
    /// Which field cannot be served and why.
    pub fn check(&self, key: &Key, intent: &DnsIntent) -> Result<(), Rejection> {
        match intent {
            DnsIntent::Zone(settings) => {
                Apex::compile(settings)?;
                wire_of(&key.name).ok_or_else(|| invalid("key", "is no zone name")).map(drop)
            }
            DnsIntent::RrSet(set) => {
                let place = Place::of(&key.name)?;
                place.compile(set, |_| Arc::new(ArcSwapOption::empty())).map(drop)
            }
            DnsIntent::AddressSet(set) => Addresses::compile(set).map(drop),
            DnsIntent::SerialOffset(_) | DnsIntent::TrustRoots(_) | DnsIntent::AudienceKey(_) => Ok(()),
        }
    }

    /// Puts a batch into effect before it returns. Costs the changed items alone, whatever else their zones hold.
    ///
    /// Each key should occur once. Removals come first, so that a key that is removed and set is set.
    pub fn apply<'a>(
        &mut self,
        upserts: impl IntoIterator<Item = (&'a Key, &'a DnsIntent)>,
        removals: impl IntoIterator<Item = &'a Key>,
    ) -> Applied {
        let mut batch = Edit::default();
        for key in removals {
            self.withdraw(key, &mut batch);
        }
        for (key, intent) in upserts {
            if let Err(rejection) = self.put(key, intent, &mut batch) {
                batch.rejected.push((key.clone(), rejection));
            }
        }
        self.publish(batch)
    }

    fn put(&mut self, key: &Key, intent: &DnsIntent, batch: &mut Edit) -> Result<(), Rejection> {
        match intent {
            DnsIntent::Zone(settings) => {
                let name = zone_name(&key.name).ok_or_else(|| invalid("key", "is no zone name"))?;
                let apex = Apex::compile(settings)?;
                let book = self.books.entry(name.clone()).or_default();
                book.apex = Some(Arc::new(apex));
                book.merge_ns();
                batch.touched.push(name);
            }
            DnsIntent::RrSet(set) => {
                let place = Place::of(&key.name)?;
                let cells = &mut self.address_sets;
                let set = place.compile(set, |id| Arc::clone(cells.entry(id.into()).or_default()))?;
                self.store(place, Some(set), batch);
            }
            DnsIntent::AddressSet(set) => {
                let addresses = Arc::new(Addresses::compile(set)?);
                self.address_sets.entry(key.name.as_str().into()).or_default().store(Some(addresses));
            }
            DnsIntent::SerialOffset(offset) => batch.serial_offset = Some(offset.value),
            DnsIntent::TrustRoots(_) | DnsIntent::AudienceKey(_) => {}
        }
        Ok(())
    }

    fn withdraw(&mut self, key: &Key, batch: &mut Edit) {
        match DnsKind::of(key) {
            Some(DnsKind::Zone) => {
                if let Some(name) = zone_name(&key.name)
                    && let Some(book) = self.books.get_mut(&name)
                {
                    book.apex = None;
                    batch.touched.push(name);
                }
            }
            Some(DnsKind::RrSet) => {
                // What has no place here was never taken in.
                if let Ok(place) = Place::of(&key.name) {
                    self.store(place, None, batch);
                }
            }
            Some(DnsKind::AddressSet) => batch.forgotten.push(key.name.as_str().into()),
            // A serial never goes back, so the last offset stays.
            Some(DnsKind::SerialOffset) => {}
            Some(DnsKind::TrustRoots | DnsKind::AudienceKey) | None => {}
        }
    }

    /// Sets or removes one RRset in its zone's book.
    fn store(&mut self, place: Place, set: Option<RrSet>, batch: &mut Edit) {
        let Place { zone, key, number } = place;
        let book = match self.books.entry(zone.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if set.is_none() => return,
            Entry::Vacant(entry) => entry.insert(Book::default()),
        };
        let adding = set.is_some();
        let old = book.nodes.get(key.as_slice());
        let had = old.is_some_and(|node| node.stored(number).is_some());
        let was_cut = old.is_some_and(|node| is_cut(key.as_slice(), node));
        let new = old.map_or(&Node::default(), |node| node).with(number, set);
        let now_cut = new.as_ref().is_some_and(|node| is_cut(key.as_slice(), node));
        book.cuts = (book.cuts + usize::from(now_cut)).saturating_sub(usize::from(was_cut));
        let apex_ns = key.as_slice().is_empty() && number == rtype::NS;
        book.set_node(key, new);
        if apex_ns {
            book.merge_ns();
        }
        let rrsets = &self.zones.0.rrsets;
        match (had, adding) {
            (false, true) => drop(rrsets.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(rrsets.fetch_sub(1, Ordering::Relaxed)),
            (true, true) | (false, false) => {}
        }
        batch.touched.push(zone);
    }

    fn publish(&mut self, mut batch: Edit) -> Applied {
        batch.touched.sort_unstable();
        batch.touched.dedup();
        let (mut arrived, mut gone) = (Vec::new(), Vec::new());
        let mut changed = Vec::new();
        for name in &batch.touched {
            let Some(book) = self.books.get_mut(name) else { continue };
            match (book.snapshot(name), &book.cell) {
                (Some(zone), Some(cell)) => changed.push((Arc::clone(cell), zone)),
                (Some(zone), None) => {
                    let cell = Arc::new(ArcSwap::new(zone));
                    book.cell = Some(Arc::clone(&cell));
                    arrived.push((name.clone(), Some(cell)));
                }
                (None, _) => {
                    if book.cell.take().is_some() {
                        gone.push((name.clone(), None));
                    }
                    if book.nodes.is_empty() {
                        self.books.remove(name);
                    }
                }
            }
        }
        let zones = arrived.len() + gone.len() + changed.len();
        let shared = &*self.zones.0;
        // In an order in which names that move between a zone and one above it are answered throughout.
        for (name, _) in &arrived {
            let labels = NameBuf::read(name.as_slice()).map_or(0, |name| name.labels());
            shared.most_labels.fetch_max(labels, Ordering::Release);
        }
        shared.map.update(arrived);
        for (cell, zone) in changed {
            cell.store(zone);
        }
        shared.map.update(gone);
        for id in &batch.forgotten {
            if let Some(cell) = self.address_sets.get(id) {
                cell.store(None);
            }
        }
        // Cells of sets that are not known and that no RRset refers to any more. Clusters are few.
        self.address_sets.retain(|_, cell| cell.load().is_some() || Arc::strong_count(cell) > 1);
        // Last, so that whoever sees the new serial sees the new data.
        if let Some(offset) = batch.serial_offset {
            shared.serial_offset.store(offset, Ordering::Release);
        }
        Applied { zones, rejected: batch.rejected }
    }
}

impl Book {
    /// Puts a node in or takes it away, and the empty non-terminals above it with it.
    fn set_node(&mut self, mut key: Octets, mut node: Option<Node>) {
        loop {
            let now = node.is_some();
            let before = match node {
                Some(node) => self.nodes.insert(key.clone(), Arc::new(node)).is_some(),
                None => self.nodes.remove(key.as_slice()).is_some(),
            };
            if before == now {
                return;
            }
            let Some(above) = parent(key.as_slice()) else { return };
            node = match self.nodes.get(above) {
                Some(parent) => parent.with_child(now),
                None => Node::default().with_child(now),
            };
            key = above.into();
        }
    }

    /// Puts the apex NS set together anew, after it or the zone's settings changed.
    fn merge_ns(&mut self) {
        let top: &[u8] = &[];
        let custom = self.nodes.get(top).and_then(|node| node.stored(rtype::NS));
        self.more_ns = match (&self.apex, custom) {
            (Some(apex), Some(custom)) => Some(apex.ns_with(custom)),
            (Some(_), None) | (None, _) => None,
        };
    }

    /// The zone as it is to be served; `None` when it is absent.
    fn snapshot(&self, name: &Octets) -> Option<Arc<Zone>> {
        let apex = Arc::clone(self.apex.as_ref()?);
        let (more_ns, nodes) = (self.more_ns.clone(), self.nodes.clone());
        Some(Arc::new(Zone { name: name.clone(), apex, more_ns, nodes, cuts: self.cuts }))
    }
}

fn zone_name(text: &str) -> Option<Octets> {
    wire_of(text).map(|wire| Octets::from(&*wire))
}

/// What a batch has gathered before it is published.
#[derive(Default)]
struct Edit {
    touched: Vec<Octets>,
    forgotten: Vec<Box<str>>,
    serial_offset: Option<u32>,
    rejected: Vec<(Key, Rejection)>,
}

/// Where an RRset belongs.
struct Place {
    zone: Octets,
    key: Octets,
    number: u16,
}

impl Place {
    /// # Errors
    /// A key that names no place in a zone, or a type that is not served.
    fn of(key: &str) -> Result<Self, Rejection> {
        let (zone, owner, record_type) = rr_set_key(key)?;
        let number = type_number(record_type)?;
        names::check_owner(owner).map_err(|error| invalid("key", error))?;
        let zone = zone_name(zone).ok_or_else(|| invalid("key", "the zone is no name"))?;
        let owner = wire_of(owner).and_then(|wire| NameBuf::read(&wire));
        let owner = owner.ok_or_else(|| invalid("key", "the owner is no name"))?;
        let above = owner
            .labels_above(zone.as_slice())
            .ok_or_else(|| invalid("key", "the owner does not lie in the zone"))?;
        let mut buf = KeyBuf::new();
        owner.key(above, &mut buf);
        Ok(Self { zone, key: buf.as_slice().into(), number })
    }

    /// Checks an RRset for this place and compiles it; `cell` gives the address set of an id.
    fn compile(
        &self,
        set: &RrSetIntent,
        cell: impl FnOnce(&str) -> Arc<AddressCell>,
    ) -> Result<RrSet, Rejection> {
        let apex = self.key.as_slice().is_empty();
        match self.number {
            rtype::CNAME if apex => {
                return Err(invalid("key", "no CNAME can stand at the apex of a zone (RFC 1912 §2.4)"));
            }
            rtype::DS if apex => {
                return Err(invalid(
                    "key",
                    "the DS records of a zone belong into the zone above it (RFC 4035 §2.4)",
                ));
            }
            rtype::NS if is_wildcard(self.key.as_slice()) => {
                return Err(invalid("key", "NS records at a wildcard have no meaning (RFC 4592 §4.2)"));
            }
            _ => {}
        }
        if set.ttl > 0x7fff_ffff {
            return Err(invalid("ttl", "must be below 2^31 seconds (RFC 2181 §8)"));
        }
        match &set.data {
            Some(rr_set::Data::Records(records)) => RrSet::compile(self.number, set.ttl, records),
            Some(rr_set::Data::AddressSet(id)) => match self.number {
                rtype::A | rtype::AAAA => {
                    let data = Data::Addresses { cell: cell(id), https: set.https };
                    Ok(RrSet { number: self.number, ttl: set.ttl, data })
                }
                _ => Err(invalid("address_set", "gives A and AAAA data only")),
            },
            None => Err(invalid("data", "missing")),
        }
    }
}
