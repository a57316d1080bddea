//! One zone as an immutable snapshot, what lies at a name of it, and the map of all zones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hosting_intent::Rejection;
use hosting_intent::message::Zone as Settings;
use hosting_swap_map::SwapMap;
use imbl::OrdMap;

use crate::name::{KeyBuf, MAX_LABELS, NameBuf, Octets, ancestor_ends, wire_of};
use crate::record::{Data, MAX_NS_RECORDS, RrSet, invalid};
use crate::rtype;

/// Names of a zone in canonical order (`name::KeyBuf`). Copies share what did not change.
pub(crate) type Nodes = OrdMap<Octets, Arc<Node>>;

/// All RRsets at one name. A name without any that has others below it has a node too (an empty non-terminal, RFC 4592
/// §2.2.2), so that a lookup needs exact matches only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// Ascending by type.
    sets: Box<[RrSet]>,
    /// Nodes one label below; not counted at the apex.
    children: u32,
}

impl Node {
    /// The RRset that is served for a type. A CNAME beside other data is not. For HTTPS it may be one of addresses, whose cluster has the data
    /// (RFC 9460); a set of the zone's own goes before that.
    pub(crate) fn get(&self, number: u16) -> Option<&RrSet> {
        if number == rtype::CNAME && self.sets.len() > 1 {
            return None;
        }
        let implied = || self.sets.iter().find(|set| matches!(set.data, Data::Addresses { https: true, .. }));
        self.stored(number).or_else(|| if number == rtype::HTTPS { implied() } else { None })
    }

    pub(crate) fn stored(&self, number: u16) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.number == number)
    }

    /// With the RRset put in, or taken out if there is none; `None` when nothing is left.
    pub(crate) fn with(&self, number: u16, set: Option<RrSet>) -> Option<Self> {
        let mut sets: Vec<RrSet> = self.sets.iter().filter(|set| set.number != number).cloned().collect();
        sets.extend(set);
        sets.sort_by_key(|set| set.number);
        Self { sets: sets.into(), children: self.children }.unless_empty()
    }

    /// With one more node below it, or one less; `None` when nothing is left.
    pub(crate) fn with_child(&self, more: bool) -> Option<Self> {
        let children = if more { self.children.saturating_add(1) } else { self.children.saturating_sub(1) };
        Self { sets: self.sets.clone(), children }.unless_empty()
    }

    fn unless_empty(self) -> Option<Self> {
        (!self.sets.is_empty() || self.children > 0).then_some(self)
    }
}

/// What a zone's own settings give.
#[derive(Debug)]
pub(crate) struct Apex {
    pub(crate) primary: Box<[u8]>,
    pub(crate) mailbox: Box<[u8]>,
    pub(crate) serial: u32,
    pub(crate) refresh: u32,
    pub(crate) retry: u32,
    pub(crate) expire: u32,
    pub(crate) minimum: u32,
    pub(crate) ttl: u32,
    /// The zone's own name servers.
    ns: RrSet,
}

impl Apex {
    /// Compiles a zone's settings.
    ///
    /// # Errors
    /// Which setting cannot be served.
    pub(crate) fn compile(settings: &Settings) -> Result<Self, Rejection> {
        for (field, seconds) in [
            ("refresh", settings.refresh),
            ("retry", settings.retry),
            ("expire", settings.expire),
            ("minimum", settings.minimum),
            ("ttl", settings.ttl),
        ] {
            if seconds > 0x7fff_ffff {
                return Err(invalid(field, "must be below 2^31 seconds (RFC 2181 §8)"));
            }
        }
        let primary =
            wire_of(&settings.primary_ns).ok_or_else(|| invalid("primary_ns", "is no host name"))?;
        let mut servers: Vec<Box<[u8]>> = Vec::new();
        for name in &settings.nameservers {
            let wire =
                wire_of(name).ok_or_else(|| invalid("nameservers", format!("{name:?} is no host name")))?;
            if !servers.contains(&wire) {
                servers.push(wire);
            }
        }
        // As many as a custom set may have, so that the two together are bounded too.
        if servers.len() > MAX_NS_RECORDS {
            let problem = format!("{} of them; at most {MAX_NS_RECORDS}", servers.len());
            return Err(invalid("nameservers", problem));
        }
        Ok(Self {
            primary,
            mailbox: mailbox(&settings.hostmaster)?,
            serial: settings.serial,
            refresh: settings.refresh,
            retry: settings.retry,
            expire: settings.expire,
            minimum: settings.minimum,
            ttl: settings.ttl,
            ns: RrSet::from_rdata(rtype::NS, settings.ttl, &servers),
        })
    }

    /// The zone's name servers and those of an NS RRset at the apex together, with the zone's TTL.
    pub(crate) fn ns_with(&self, custom: &RrSet) -> RrSet {
        let mut servers: Vec<Box<[u8]>> = self.ns.rdata().map(Box::from).collect();
        for target in custom.targets() {
            if !servers.iter().any(|server| **server == *target) {
                servers.push(target.into());
            }
        }
        RrSet::from_rdata(rtype::NS, self.ttl, &servers)
    }
}

/// A mail address as a name (RFC 1035 §8): the local part is one label, dots and all.
fn mailbox(address: &str) -> Result<Box<[u8]>, Rejection> {
    let (local, domain) =
        address.split_once('@').ok_or_else(|| invalid("hostmaster", "must be a mail address"))?;
    let length = u8::try_from(local.len()).ok().filter(|length| (1..=63).contains(length));
    let length = length.ok_or_else(|| invalid("hostmaster", "the local part must have 1 to 63 bytes"))?;
    if !local.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("hostmaster", "the local part must be printable ASCII without spaces"));
    }
    let domain = wire_of(domain).ok_or_else(|| invalid("hostmaster", "the domain is no host name"))?;
    let wire = [&[length], local.to_ascii_lowercase().as_bytes(), &*domain].concat();
    if wire.len() > crate::name::MAX_NAME {
        return Err(invalid("hostmaster", "is longer than a name may be (255 bytes)"));
    }
    Ok(wire.into())
}

/// A zone at one moment.
#[derive(Debug)]
pub(crate) struct Zone {
    /// Lower case, wire form.
    pub(crate) name: Octets,
    pub(crate) apex: Arc<Apex>,
    /// The apex NS set, if there is more to it than the zone's own.
    pub(crate) more_ns: Option<RrSet>,
    pub(crate) nodes: Nodes,
    /// Names below the apex that have NS records; most zones have none, and then nobody looks for them.
    pub(crate) cuts: usize,
}

/// What lies at a name of a zone.
pub(crate) enum Found<'a> {
    /// The name itself. The apex may be without a node.
    Name(Option<&'a Node>),
    /// Nothing at the name, but a wildcard covers it.
    Wildcard(&'a Node),
    /// An empty non-terminal.
    Empty,
    /// At or below a cut: whose NS set it is and how many labels the cut lies below the apex.
    Cut { node: &'a Node, labels: usize },
    /// No such name.
    Nothing,
}

impl Zone {
    /// The NS set at the apex.
    pub(crate) fn ns(&self) -> &RrSet {
        self.more_ns.as_ref().unwrap_or(&self.apex.ns)
    }

    /// Finds `name`, which must lie in the zone. `at_parent` is for DS: a cut's own DS set is the parent's (RFC 4035 §3.1.4.1).
    pub(crate) fn find(&self, name: &NameBuf, above: usize, at_parent: bool, key: &mut KeyBuf) -> Found<'_> {
        name.key(above, key);
        let whole = key.as_slice();
        if self.cuts > 0 {
            for (depth, end) in ancestor_ends(whole).enumerate() {
                if at_parent && end == whole.len() {
                    break;
                }
                let Some(ancestor) = whole.get(..end) else { break };
                match self.nodes.get(ancestor) {
                    Some(node) if is_cut(ancestor, node) => return Found::Cut { node, labels: depth + 1 },
                    Some(_) => {}
                    // Below a name that does not exist nothing exists (RFC 8020).
                    None => break,
                }
            }
        }
        match self.nodes.get(whole) {
            Some(node) if node.sets.is_empty() && above > 0 => return Found::Empty,
            Some(node) => return Found::Name(Some(node)),
            None if above == 0 => return Found::Name(None),
            None => {}
        }
        let encloser = self.closest_encloser(whole);
        key.wildcard_below(encloser);
        match self.nodes.get(key.as_slice()) {
            Some(node) if node.sets.is_empty() => Found::Empty,
            Some(node) => Found::Wildcard(node),
            None => Found::Nothing,
        }
    }

    /// How much of the key of a missing name belongs to its closest ancestor that exists (RFC 4592 §3.3.1). By bisection,
    /// because every ancestor of a name that exists does: a name of 127 labels costs seven looks.
    fn closest_encloser(&self, key: &[u8]) -> usize {
        let mut ends = [0usize; MAX_LABELS];
        let mut count = 0;
        for (slot, end) in ends.iter_mut().zip(ancestor_ends(key)) {
            *slot = end;
            count += 1;
        }
        let ends = ends.get(..count).unwrap_or_default();
        let exists = |end: &usize| key.get(..*end).is_some_and(|ancestor| self.nodes.contains_key(ancestor));
        let existing = ends.partition_point(exists);
        existing.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0)
    }

    /// The node of a name, whatever lies above it: for glue.
    pub(crate) fn glue(&self, name: &NameBuf, key: &mut KeyBuf) -> Option<&Node> {
        name.key(name.labels_above(self.name.as_slice())?, key);
        self.nodes.get(key.as_slice()).map(|node| &**node)
    }
}

/// Whether a name's NS records hand it to somebody else. The apex's do not; a wildcard's are refused when they arrive.
pub(crate) fn is_cut(key: &[u8], node: &Node) -> bool {
    !key.is_empty() && node.stored(rtype::NS).is_some()
}

/// Where a zone's newest snapshot is.
pub(crate) type ZoneCell = ArcSwap<Zone>;

/// What is served now. Clones share it; [`crate::Writer`] changes it.
#[derive(Debug, Clone, Default)]
pub struct Zones(pub(crate) Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) map: SwapMap<Octets, Arc<ZoneCell>>,
    pub(crate) serial_offset: AtomicU32,
    /// Labels of the longest apex there ever was: longer suffixes need no look.
    pub(crate) most_labels: AtomicUsize,
    pub(crate) rrsets: AtomicUsize,
}

/// How much is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Zones that are answered for.
    pub zones: usize,
    /// RRsets, of absent zones too, without SOA and apex NS.
    pub rrsets: usize,
}

impl Zones {
    /// How much is served.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { zones: self.0.map.len(), rrsets: self.0.rrsets.load(Ordering::Relaxed) }
    }

    /// Looks at the zone with the longest apex that `name` ends in, leaving out apexes of more than `most` labels.
    pub(crate) fn read<R>(&self, name: &NameBuf, most: usize, look: impl FnOnce(&Zone) -> R) -> Option<R> {
        let mut look = Some(look);
        let most = most.min(self.0.most_labels.load(Ordering::Acquire));
        let first = name.labels().saturating_sub(most);
        for skip in first..name.labels() {
            let read = self.0.map.read(name.suffix(skip), |cell| look.take().map(|look| look(&cell.load())));
            if let Some(result) = read {
                return result;
            }
        }
        None
    }

    /// Whether a zone begins at `name`.
    pub(crate) fn is_apex(&self, name: &NameBuf) -> bool {
        self.0.map.contains_key(name.wire())
    }

    /// Whether a zone with an apex of more than `labels` labels holds `name`.
    pub(crate) fn has_deeper(&self, name: &NameBuf, labels: usize) -> bool {
        let most = self.0.most_labels.load(Ordering::Acquire);
        let first = name.labels().saturating_sub(most);
        let last = name.labels().saturating_sub(labels);
        (first..last).any(|skip| self.0.map.contains_key(name.suffix(skip)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_address_becomes_a_name() {
        assert_eq!(&*mailbox("hostmaster@example.com").unwrap(), b"\x0ahostmaster\x07example\x03com\0");
        assert_eq!(&*mailbox("first.Last@example.com").unwrap(), b"\x0afirst.last\x07example\x03com\0");
        assert!(mailbox("no address").is_err());
        assert!(mailbox("a b@example.com").is_err());
        assert!(mailbox(&format!("{}@{}", "a".repeat(63), ["abcdefgh"; 25].join("."))).is_err());
    }
}
