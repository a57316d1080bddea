//! Reading a query.

use crate::name::NameBuf;
use crate::rtype;

/// What a response must know of its query.
pub(crate) struct Query {
    pub(crate) name: NameBuf,
    /// Where the question ends in the packet.
    pub(crate) end: usize,
    pub(crate) number: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    /// Ends with a TSIG record (RFC 8945).
    pub(crate) signed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// What a packet is.
pub(crate) enum Packet {
    /// No query: no answer, so that two servers never talk to each other for ever.
    Drop,
    /// Another opcode than QUERY.
    OtherOpcode,
    /// Not readable; with the query as far as its question could be read.
    Malformed(Option<Query>),
    /// A query with one question.
    Query(Query),
}

/// Length of a message's header.
pub(crate) const HEADER: usize = 12;

/// The class of records that belong to the message alone.
const ANY_CLASS: [u8; 2] = [0, 255];

/// More records than this behind the question make no query.
const MAX_RECORDS: u32 = 16;

/// Reads a packet.
pub(crate) fn read(packet: &[u8]) -> Packet {
    let Some(header) = packet.first_chunk::<HEADER>() else { return Packet::Drop };
    let [_, _, high, _, q0, q1, an0, an1, ns0, ns1, ar0, ar1] = *header;
    if high & 0x80 != 0 {
        return Packet::Drop;
    }
    if high & 0x78 != 0 {
        return Packet::OtherOpcode;
    }
    // RFC 9619: exactly one question.
    if u16::from_be_bytes([q0, q1]) != 1 {
        return Packet::Malformed(None);
    }
    let Some(mut query) = question(packet) else { return Packet::Malformed(None) };
    let (answers, authorities, additional) =
        (u16::from_be_bytes([an0, an1]), u16::from_be_bytes([ns0, ns1]), u16::from_be_bytes([ar0, ar1]));
    // Only IXFR carries a record in the authority section: the SOA that the client has (RFC 1995 §3).
    if answers != 0 || (authorities != 0 && query.number != rtype::IXFR) {
        return Packet::Malformed(Some(query));
    }
    match records(packet, query.end, u32::from(authorities), u32::from(additional)) {
        Some((edns, signed)) => {
            (query.edns, query.signed) = (edns, signed);
            Packet::Query(query)
        }
        None => Packet::Malformed(Some(query)),
    }
}

fn question(packet: &[u8]) -> Option<Query> {
    let name = NameBuf::read(packet.get(HEADER..)?)?;
    let at = HEADER + name.len();
    let [t0, t1, c0, c1] = *packet.get(at..)?.first_chunk::<4>()?;
    Some(Query {
        name,
        end: at + 4,
        number: u16::from_be_bytes([t0, t1]),
        class: u16::from_be_bytes([c0, c1]),
        edns: None,
        signed: false,
    })
}

/// Walks over the records behind the question and picks out the OPT record and whether there is a TSIG record. `None`
/// when they are malformed.
fn records(packet: &[u8], mut at: usize, authorities: u32, additional: u32) -> Option<(Option<Edns>, bool)> {
    let (mut edns, mut signed) = (None, false);
    if authorities + additional > MAX_RECORDS {
        return None;
    }
    for number in 0..authorities + additional {
        // A signature is the last record, if there is one (RFC 8945 §5.1).
        if signed {
            return None;
        }
        let root = packet.get(at) == Some(&0);
        at = skip_name(packet, at)?;
        let [t0, t1, c0, c1, _, version, flags, _, l0, l1] = *packet.get(at..)?.first_chunk::<10>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        at += 10;
        let data = packet.get(at..at + length)?;
        at += length;
        let kind = u16::from_be_bytes([t0, t1]);
        signed = kind == rtype::TSIG;
        // RFC 8945 §5.2: a signature that is malformed makes the message malformed.
        if signed && (number < authorities || [c0, c1] != ANY_CLASS || !is_signature(data)) {
            return None;
        }
        if kind == rtype::OPT {
            // RFC 6891 §6.1.1: one of them, owned by the root, in the additional section.
            if edns.is_some() || !root || number < authorities || !options_fit(data) {
                return None;
            }
            edns =
                Some(Edns { payload: u16::from_be_bytes([c0, c1]), version, dnssec_ok: flags & 0x80 != 0 });
        }
    }
    (at == packet.len()).then_some((edns, signed))
}

/// Whether a TSIG record's data is whole (RFC 8945 §4.2): algorithm, time, fudge, MAC, original id, error, other data.
fn is_signature(data: &[u8]) -> bool {
    let sized = |at: usize| {
        let [high, low] = *data.get(at..)?.first_chunk::<2>()?;
        Some(at + 2 + usize::from(u16::from_be_bytes([high, low])))
    };
    let end = skip_name(data, 0).and_then(|at| sized(at + 8)).and_then(|at| sized(at + 4));
    end == Some(data.len())
}

/// The OPT record of a packet that is no query that could be answered; `None` when there is none, or no telling.
pub(crate) fn edns_of(packet: &[u8]) -> Option<Edns> {
    let [_, _, _, _, counts @ ..] = *packet.first_chunk::<HEADER>()?;
    let [questions, answers, authorities, additional] = [0, 2, 4, 6].map(|at| {
        counts.get(at..at + 2).map_or(0, |pair| pair.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    });
    if questions > MAX_RECORDS {
        return None;
    }
    let mut at = HEADER;
    for _ in 0..questions {
        at = skip_name(packet, at)? + 4;
    }
    records(packet, at, answers + authorities, additional)?.0
}

/// Whether the options fill an OPT record's data exactly.
fn options_fit(mut data: &[u8]) -> bool {
    while !data.is_empty() {
        let Some([_, _, l0, l1]) = data.first_chunk::<4>() else { return false };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let Some(rest) = data.get(4 + length..) else { return false };
        data = rest;
    }
    true
}

/// Where the name that begins at `at` ends; pointers are not followed.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *packet.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => return packet.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}
