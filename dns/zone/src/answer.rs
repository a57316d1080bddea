//! From a packet to its answer.

use std::sync::atomic::Ordering;

use crate::message::{Full, OPT, Owner, Section, Writer, opt, rcode};
use crate::name::{KeyBuf, NameBuf};
use crate::query::{self, HEADER, Packet, Query};
use crate::record::RrSet;
use crate::rtype;
use crate::zone::{Found, Node, Zone, Zones, is_cut};

/// How a query came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over UDP; no answer is larger than `max` bytes (512 to 65535), nor than the client allows.
    Udp {
        /// Bytes.
        max: u16,
    },
    /// Over a stream.
    Tcp,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No answer: it was no query.
    Dropped,
    /// Records, or a chain of CNAMEs that leaves the zone.
    Answer,
    /// The name exists, the type does not.
    NoData,
    /// No such name.
    NxDomain,
    /// Somebody else answers for the name.
    Referral,
    /// Refused, malformed or not implemented.
    Error,
}

/// An answer, and what those who count and limit answers want to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Bytes of the answer in the buffer; 0 for none.
    pub len: usize,
    /// Response code, the extended part included.
    pub rcode: u16,
    /// The question's type; 0 when there was none.
    pub record_type: u16,
    /// What became of the packet.
    pub outcome: Outcome,
    /// Whether the TC bit is set.
    pub truncated: bool,
    /// Equal for answers that a flood would repeat: the name that answered (the wildcard, not what it was expanded to), or
    /// the zone of a name that does not exist. Means nothing but that.
    pub subject: u64,
}

/// How far a chain of CNAMEs is followed; the resolver goes on from its end.
const MAX_HOPS: usize = 16;
/// For how many targets of an MX or SRV set addresses are added.
const MAX_TARGETS: usize = 16;
/// TTL of the HINFO that answers `ANY`, in seconds.
const ANY_TTL: u32 = 3600;

/// "Not Ready" of RFC 8914 §4.15.
const NOT_READY: u16 = 14;

struct Reply {
    code: u16,
    outcome: Outcome,
    subject: u64,
    extended_error: Option<u16>,
}

impl Reply {
    fn error(code: u16) -> Self {
        Self { code, outcome: Outcome::Error, subject: u64::from(code), extended_error: None }
    }

    fn of(outcome: Outcome, subject: u64) -> Self {
        Self { code: rcode::NOERROR, outcome, subject, extended_error: None }
    }
}

impl Zones {
    /// Answers `packet` into `out`, which should have room for the transport's largest message. No allocation, no lock.
    pub fn answer(&self, packet: &[u8], transport: Transport, out: &mut [u8]) -> Answered {
        let (query, malformed) = match query::read(packet) {
            Packet::Drop => return nothing(),
            Packet::OtherOpcode => return header_only(packet, rcode::NOTIMP, out),
            Packet::Malformed(None) => return header_only(packet, rcode::FORMERR, out),
            Packet::Malformed(Some(query)) => (query, true),
            Packet::Query(query) => (query, false),
        };
        let size = match transport {
            Transport::Udp { max } => {
                usize::from(query.edns.map_or(512, |edns| edns.payload.clamp(512, max.max(512))))
            }
            Transport::Tcp => usize::from(u16::MAX),
        };
        let Ok(mut writer) = Writer::new(packet, &query, size, out) else { return nothing() };
        let mut truncated = false;
        let reply = if malformed {
            Reply::error(rcode::FORMERR)
        } else {
            self.reply(&query, &mut writer).unwrap_or_else(|Full| {
                let authoritative = writer.is_authoritative();
                writer.reset();
                if transport == Transport::Tcp {
                    return Reply::error(rcode::SERVFAIL);
                }
                if authoritative {
                    writer.authoritative();
                }
                writer.truncate();
                truncated = true;
                Reply::of(Outcome::Answer, 0)
            })
        };
        let len = writer.finish(reply.code, query.edns, reply.extended_error);
        Answered {
            len,
            rcode: reply.code,
            record_type: query.number,
            outcome: reply.outcome,
            truncated,
            subject: reply.subject,
        }
    }

    fn reply(&self, query: &Query, writer: &mut Writer<'_>) -> Result<Reply, Full> {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Ok(Reply::error(rcode::BADVERS));
        }
        if query.signed {
            return Ok(Reply::error(rcode::NOTAUTH));
        }
        if query.class != 1 {
            return Ok(Reply::error(rcode::REFUSED));
        }
        match query.number {
            rtype::OPT | rtype::TKEY | rtype::TSIG => return Ok(Reply::error(rcode::FORMERR)),
            rtype::AXFR | rtype::IXFR => return Ok(Reply::error(rcode::REFUSED)),
            rtype::MAILA | rtype::MAILB => return Ok(Reply::error(rcode::NOTIMP)),
            _ => {}
        }
        let name = &query.name;
        // A cut's DS set belongs to the zone above it (RFC 4035 §3.1.4.1), if that zone is here. One that has no records of
        // the cut has no DS set either, but does not say that there is no such name.
        if query.number == rtype::DS
            && let Some(above) = name.labels().checked_sub(1)
            && let Some(Some(reply)) = self.read(name, above, |zone| {
                if self.has_cut(zone, name) {
                    return Some(self.answer_in(zone, query, writer));
                }
                self.is_apex(name).then(|| {
                    writer.authoritative();
                    let offset = self.0.serial_offset.load(Ordering::Relaxed);
                    writer.soa(Section::Authority, zone, offset, true)?;
                    Ok(Reply::of(Outcome::NoData, subject(&*zone.apex)))
                })
            })
        {
            return reply;
        }
        let look = |writer: &mut Writer<'_>| {
            self.read(name, name.labels(), |zone| self.answer_in(zone, query, writer))
                .unwrap_or_else(|| Ok(Reply::error(rcode::REFUSED)))
        };
        let reply = look(writer)?;
        if reply.code != rcode::NXDOMAIN {
            return Ok(reply);
        }
        // A name that moves between a zone and one below it may have left the one after it was chosen: by the second look
        // it stands in the other.
        writer.reset();
        look(writer)
    }

    fn has_cut(&self, zone: &Zone, name: &NameBuf) -> bool {
        let mut key = KeyBuf::new();
        let Some(above) = name.labels_above(zone.name.as_slice()) else { return false };
        match zone.find(name, above, true, &mut key) {
            Found::Name(node) => node.is_some_and(|node| is_cut(key.as_slice(), node)),
            Found::Cut { .. } => true,
            Found::Wildcard(_) | Found::Empty | Found::Nothing => false,
        }
    }

    /// RFC 1034 §4.3.2 from step 3 on.
    fn answer_in(&self, zone: &Zone, query: &Query, writer: &mut Writer<'_>) -> Result<Reply, Full> {
        let offset = self.0.serial_offset.load(Ordering::Relaxed);
        let zone_subject = subject(&*zone.apex);
        let mut moved_to: NameBuf;
        let (mut name, mut moved) = (&query.name, false);
        let mut key = KeyBuf::new();
        let mut chain: [&[u8]; MAX_HOPS] = [&[]; MAX_HOPS];
        let mut first_subject = None;
        writer.authoritative();
        for hop in 0..MAX_HOPS {
            let Some(above) = name.labels_above(zone.name.as_slice()) else { break };
            if moved && self.has_deeper(name, name.labels() - above) {
                break;
            }
            let found = zone.find(name, above, query.number == rtype::DS, &mut key);
            let node = match found {
                Found::Name(node) => node,
                Found::Wildcard(node) => Some(node),
                Found::Cut { node, labels } => {
                    if !moved {
                        writer.not_authoritative();
                    }
                    let cut = name.suffix(above.saturating_sub(labels));
                    referral(zone, node, cut, writer, &mut key)?;
                    return Ok(Reply::of(Outcome::Referral, first_subject.unwrap_or_else(|| subject(node))));
                }
                Found::Empty => None,
                Found::Nothing => {
                    writer.soa(Section::Authority, zone, offset, true)?;
                    return Ok(Reply {
                        code: rcode::NXDOMAIN,
                        outcome: Outcome::NxDomain,
                        subject: first_subject.unwrap_or(zone_subject),
                        extended_error: None,
                    });
                }
            };
            let here = node.map_or(zone_subject, subject);
            first_subject.get_or_insert(here);
            let owner = Owner::of(name, moved);
            let cname = node.and_then(|node| node.get(rtype::CNAME));
            if query.number == rtype::ANY && (node.is_some() || above == 0) {
                match cname {
                    Some(cname) => drop(writer.rrset(Section::Answer, &owner, cname)?),
                    None => writer.minimal_any(&owner, ANY_TTL)?,
                }
                break;
            }
            if above == 0 && query.number == rtype::SOA {
                writer.soa(Section::Answer, zone, offset, false)?;
                break;
            }
            let set = match query.number {
                rtype::NS if above == 0 => Some(zone.ns()),
                number => node.and_then(|node| node.get(number)),
            };
            match (set, cname) {
                (Some(set), _) => match writer.records(Section::Answer, &owner, set, query.number)? {
                    Some(0) => {}
                    Some(_) => {
                        addresses(zone, set, writer, &mut key);
                        break;
                    }
                    None => {
                        writer.reset();
                        return Ok(Reply {
                            extended_error: Some(NOT_READY),
                            ..Reply::error(rcode::SERVFAIL)
                        });
                    }
                },
                (None, Some(cname)) => {
                    writer.rrset(Section::Answer, &owner, cname)?;
                    let Some(target) = cname.targets().next() else { break };
                    let known = chain.get(..hop).unwrap_or_default();
                    if target == query.name.wire() || known.contains(&target) {
                        break;
                    }
                    let (Some(slot), Some(next)) = (chain.get_mut(hop), NameBuf::read(target)) else { break };
                    *slot = target;
                    moved_to = next;
                    (name, moved) = (&moved_to, true);
                    continue;
                }
                (None, None) => {}
            }
            writer.soa(Section::Authority, zone, offset, true)?;
            return Ok(Reply::of(Outcome::NoData, first_subject.unwrap_or(zone_subject)));
        }
        Ok(Reply::of(Outcome::Answer, first_subject.unwrap_or(zone_subject)))
    }
}

/// The NS set of a cut and the addresses that lie in the zone. Those of servers under the cut itself must fit
/// (RFC 9471 §3), because nobody could find them otherwise.
fn referral(
    zone: &Zone,
    node: &Node,
    cut: &[u8],
    writer: &mut Writer<'_>,
    key: &mut KeyBuf,
) -> Result<(), Full> {
    let Some(servers) = node.get(rtype::NS) else { return Ok(()) };
    writer.rrset(Section::Authority, &Owner::Name(cut), servers)?;
    // What must fit goes first.
    for needed in [true, false] {
        for target in servers.targets().filter_map(NameBuf::read) {
            if target.is_under(cut) == needed {
                let mark = writer.mark();
                if let Err(full) = glue(zone, &target, writer, key) {
                    if needed {
                        return Err(full);
                    }
                    writer.rewind(mark);
                }
            }
        }
    }
    Ok(())
}

/// Addresses of the hosts that an RRset points at, as far as they lie in the zone and the message has room.
fn addresses(zone: &Zone, set: &RrSet, writer: &mut Writer<'_>, key: &mut KeyBuf) {
    if !matches!(set.number, rtype::NS | rtype::MX | rtype::SRV) {
        return;
    }
    for (at, target) in set.targets().take(MAX_TARGETS).enumerate() {
        if set.targets().take(at).any(|earlier| earlier == target) {
            continue;
        }
        let Some(target) = NameBuf::read(target) else { continue };
        let mark = writer.mark();
        if glue(zone, &target, writer, key).is_err() {
            writer.rewind(mark);
        }
    }
}

fn glue(zone: &Zone, target: &NameBuf, writer: &mut Writer<'_>, key: &mut KeyBuf) -> Result<(), Full> {
    let Some(node) = zone.glue(target, key) else { return Ok(()) };
    for number in [rtype::A, rtype::AAAA] {
        if let Some(set) = node.get(number) {
            writer.rrset(Section::Additional, &Owner::Name(target.wire()), set)?;
        }
    }
    Ok(())
}

fn subject<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).addr() as u64
}

fn nothing() -> Answered {
    Answered {
        len: 0,
        rcode: rcode::NOERROR,
        record_type: 0,
        outcome: Outcome::Dropped,
        truncated: false,
        subject: 0,
    }
}

/// An answer to what has no readable question: the header, and an OPT record if there was one (RFC 6891 §6.1.1).
fn header_only(packet: &[u8], code: u16, out: &mut [u8]) -> Answered {
    let (Some([id0, id1, high, ..]), Some(header)) =
        (packet.first_chunk::<HEADER>(), out.first_chunk_mut::<HEADER>())
    else {
        return nothing();
    };
    *header = [*id0, *id1, 0x80 | (high & 0x79), (code & 0x0f) as u8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut len = HEADER;
    if let Some(edns) = query::edns_of(packet)
        && let Some(place) = out.get_mut(HEADER..HEADER + OPT)
    {
        place.copy_from_slice(&opt(edns, code, 0));
        len += OPT;
        if let Some(additional) = out.get_mut(HEADER - 1) {
            *additional = 1;
        }
    }
    Answered {
        len,
        rcode: code,
        record_type: 0,
        outcome: Outcome::Error,
        truncated: false,
        subject: u64::from(code),
    }
}

/// An empty answer with the TC bit: what a client over a rate limit gets now and then, so that a real one comes back over
/// TCP. Returns its length; 0 when `packet` is no query.
#[must_use]
pub fn truncated(packet: &[u8], out: &mut [u8]) -> usize {
    let Packet::Query(query) = query::read(packet) else { return 0 };
    let Ok(mut writer) = Writer::new(packet, &query, 512, out) else { return 0 };
    writer.truncate();
    writer.finish(rcode::NOERROR, query.edns, None)
}
