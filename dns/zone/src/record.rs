//! RRsets in wire form, compiled from record data as people write it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hosting_intent::Rejection;
use hosting_intent::message::{AddressSet, Records};

use crate::{rdata, rtype};

/// Largest RRset in wire form without compression, in bytes. Several of them fit into one message over TCP.
pub const MAX_RRSET_BYTES: usize = 16 * 1024;
/// Most records of an RRset.
pub const MAX_RRSET_RECORDS: usize = 512;
/// Most records of an NS set: a referral carries glue for all of them (RFC 9471).
pub(crate) const MAX_NS_RECORDS: usize = 32;

/// Owner pointer to the question, type, class, TTL, RDLENGTH.
pub(crate) const RECORD_HEADER: usize = 12;
/// Where a question's name lies in every message, as a compression pointer.
pub(crate) const QUESTION_POINTER: u16 = 0xc00c;

/// The types that RRsets may have.
const SERVED: [(&str, u16); 19] = [
    ("A", rtype::A),
    ("AAAA", rtype::AAAA),
    ("CAA", rtype::CAA),
    ("CERT", rtype::CERT),
    ("CNAME", rtype::CNAME),
    ("DS", rtype::DS),
    ("HINFO", rtype::HINFO),
    ("HTTPS", rtype::HTTPS),
    ("MX", rtype::MX),
    ("NAPTR", rtype::NAPTR),
    ("NS", rtype::NS),
    ("OPENPGPKEY", rtype::OPENPGPKEY),
    ("PTR", rtype::PTR),
    ("SMIMEA", rtype::SMIMEA),
    ("SRV", rtype::SRV),
    ("SSHFP", rtype::SSHFP),
    ("SVCB", rtype::SVCB),
    ("TLSA", rtype::TLSA),
    ("TXT", rtype::TXT),
];

/// Mnemonic of a type in queries, for logs and metrics; `None` for one without a name here.
#[must_use]
pub fn record_type_name(number: u16) -> Option<&'static str> {
    match number {
        rtype::SOA => Some("SOA"),
        rtype::AXFR => Some("AXFR"),
        rtype::IXFR => Some("IXFR"),
        rtype::ANY => Some("ANY"),
        _ => SERVED.iter().find(|(_, served)| *served == number).map(|(name, _)| *name),
    }
}

/// Where in the data of a type the name lies that it points at.
pub(crate) fn target_at(number: u16) -> Option<usize> {
    match number {
        rtype::NS | rtype::CNAME | rtype::PTR => Some(0),
        rtype::MX => Some(2),
        rtype::SRV => Some(6),
        _ => None,
    }
}

/// Types of RFC 1035 whose target may be compressed (RFC 3597 §4).
pub(crate) fn compressible(number: u16) -> bool {
    matches!(number, rtype::NS | rtype::CNAME | rtype::PTR | rtype::MX)
}

/// The number of a type that RRsets may have.
pub(crate) fn type_number(name: &str) -> Result<u16, Rejection> {
    match SERVED.iter().find(|(served, _)| *served == name) {
        Some((_, number)) => Ok(*number),
        None if name == "SOA" => Err(invalid("key", "the SOA is made from the zone's own settings")),
        None => Err(invalid("key", format!("records of type {name} are not served"))),
    }
}

pub(crate) fn invalid(field: &'static str, problem: impl ToString) -> Rejection {
    Rejection::Invalid { field, problem: problem.to_string() }
}

/// The addresses of a cluster, where RRsets point at: changing them is one store. `None` until they are known.
pub(crate) type AddressCell = ArcSwapOption<Addresses>;

/// Addresses in wire form, in the order given, and the data of HTTPS records that tell how they are spoken to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Box<[[u8; 4]]>,
    pub(crate) v6: Box<[[u8; 16]]>,
    pub(crate) https: Box<[Box<[u8]>]>,
}

impl Addresses {
    /// # Errors
    /// An address that is none (the intent's own check has seen to that), or too many; HTTPS data that is not understood, or too much.
    pub(crate) fn compile(set: &AddressSet) -> Result<Self, Rejection> {
        let mut v4: Vec<[u8; 4]> = Vec::with_capacity(set.ipv4.len());
        for text in &set.ipv4 {
            let address: Ipv4Addr = text.parse().map_err(|error| invalid("ipv4", error))?;
            if !v4.contains(&address.octets()) {
                v4.push(address.octets());
            }
        }
        let mut v6: Vec<[u8; 16]> = Vec::with_capacity(set.ipv6.len());
        for text in &set.ipv6 {
            let address: Ipv6Addr = text.parse().map_err(|error| invalid("ipv6", error))?;
            if !v6.contains(&address.octets()) {
                v6.push(address.octets());
            }
        }
        for (field, count) in [("ipv4", v4.len()), ("ipv6", v6.len())] {
            if count > MAX_RRSET_RECORDS {
                return Err(invalid(field, format!("{count} addresses; at most {MAX_RRSET_RECORDS}")));
            }
        }
        let https = compile_all(rtype::HTTPS, &set.https, "https")?;
        Ok(Self { v4: v4.into(), v6: v6.into(), https: https.into() })
    }
}

/// Compiles the data of an RRset, each record once.
fn compile_all(number: u16, texts: &[String], field: &'static str) -> Result<Vec<Box<[u8]>>, Rejection> {
    let most = if number == rtype::NS { MAX_NS_RECORDS } else { MAX_RRSET_RECORDS };
    if texts.len() > most {
        return Err(invalid(field, format!("{} records; at most {most}", texts.len())));
    }
    let mut data: Vec<Box<[u8]>> = Vec::with_capacity(texts.len());
    for text in texts {
        let rdata = rdata::compile(number, text)
            .map_err(|problem| invalid(field, format!("{:?}: {problem}", excerpt(text))))?;
        // One record twice is one record (RFC 2181 §5).
        if !data.contains(&rdata) {
            data.push(rdata);
        }
    }
    let size: usize = data.iter().map(|rdata| RECORD_HEADER + rdata.len()).sum();
    if size > MAX_RRSET_BYTES {
        return Err(invalid(field, format!("{size} bytes in wire form; at most {MAX_RRSET_BYTES}")));
    }
    Ok(data)
}

/// One RRset, ready to be copied into a message.
#[derive(Debug, Clone)]
pub(crate) struct RrSet {
    pub(crate) number: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// Whole records behind each other, each owned by the question's name; names inside are not compressed.
    Wire { records: Arc<[u8]>, count: u16 },
    /// Those of a cluster.
    Addresses {
        cell: Arc<AddressCell>,
        /// The cluster's HTTPS data is the owner's as well.
        https: bool,
    },
}

impl RrSet {
    /// Checks and compiles records in presentation form.
    ///
    /// # Errors
    /// Which record is wrong and why, or that they are too many or too large.
    pub(crate) fn compile(number: u16, ttl: u32, records: &Records) -> Result<Self, Rejection> {
        let data = compile_all(number, &records.rdata, "records")?;
        if number == rtype::CNAME && data.len() != 1 {
            return Err(invalid("records", "a CNAME has exactly one record (RFC 2181 §10.1)"));
        }
        Ok(Self::from_rdata(number, ttl, &data))
    }

    /// Puts records together from data in wire form, of which there must not be too much.
    pub(crate) fn from_rdata(number: u16, ttl: u32, data: &[Box<[u8]>]) -> Self {
        let mut records = Vec::new();
        let mut count = 0;
        for rdata in data {
            // A record that a message cannot hold would be a mistake of the caller's.
            let Ok(length) = u16::try_from(rdata.len()) else { continue };
            records.extend(QUESTION_POINTER.to_be_bytes());
            records.extend(number.to_be_bytes());
            records.extend(1u16.to_be_bytes());
            records.extend(ttl.to_be_bytes());
            records.extend(length.to_be_bytes());
            records.extend_from_slice(rdata);
            count += 1;
        }
        Self { number, ttl, data: Data::Wire { records: records.into(), count } }
    }

    /// The data of each record; nothing for addresses by reference.
    pub(crate) fn rdata(&self) -> impl Iterator<Item = &[u8]> {
        let records = match &self.data {
            Data::Wire { records, .. } => records,
            Data::Addresses { .. } => [].as_slice(),
        };
        RecordWalk(records)
    }

    /// The name that each record points at.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &[u8]> {
        let at = target_at(self.number);
        self.rdata().filter_map(move |rdata| rdata.get(at?..))
    }
}

/// Walks over records in the form of [`Data::Wire`].
struct RecordWalk<'a>(&'a [u8]);

impl<'a> Iterator for RecordWalk<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = self.0.get(RECORD_HEADER - 2..RECORD_HEADER)?;
        let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
        let rdata = self.0.get(RECORD_HEADER..RECORD_HEADER + length)?;
        self.0 = self.0.get(RECORD_HEADER + length..)?;
        Some(rdata)
    }
}

/// The start of a text from a user, for messages.
fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_bounded_and_without_duplicates() {
        let records = |rdata: &[&str]| Records { rdata: rdata.iter().map(ToString::to_string).collect() };
        let set =
            RrSet::compile(rtype::NS, 60, &records(&["a.example.", "A.example.", "b.example."])).unwrap();
        assert_eq!(set.targets().collect::<Vec<_>>(), [b"\x01a\x07example\0", b"\x01b\x07example\0"]);
        assert!(RrSet::compile(rtype::CNAME, 60, &records(&["a.example.", "b.example."])).is_err());
        let many: Vec<String> = (0..300).map(|n| format!("\"{n:0200}\"")).collect();
        let error = RrSet::compile(rtype::TXT, 60, &Records { rdata: many }).unwrap_err();
        assert!(error.to_string().contains("at most 16384"), "{error}");
        let many: Vec<String> = (0..600).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
        assert!(RrSet::compile(rtype::A, 60, &Records { rdata: many }).is_err());
    }
}
