//! From record data as people write it to RRsets in wire form.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use hosting_intent::Rejection;
use hosting_intent::message::{AddressSet, Records};

use crate::name::MAX_NAME;

/// Record type numbers used here by name.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const DS: u16 = 43;
    pub(crate) const CAA: u16 = 257;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const MAILB: u16 = 253;
    pub(crate) const MAILA: u16 = 254;
    pub(crate) const ANY: u16 = 255;
}

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

/// A type that RRsets may have: mnemonic, number, and how many fields its data has in presentation form.
struct Served {
    name: &'static str,
    number: u16,
    least: usize,
    most: usize,
}

const fn served(name: &'static str, number: u16, least: usize, most: usize) -> Served {
    Served { name, number, least, most }
}

const ANY_NUMBER: usize = usize::MAX;

const SERVED: [Served; 19] = [
    served("A", rtype::A, 1, 1),
    served("AAAA", rtype::AAAA, 1, 1),
    served("CAA", rtype::CAA, 3, 3),
    served("CERT", 37, 4, ANY_NUMBER),
    served("CNAME", rtype::CNAME, 1, 1),
    served("DS", rtype::DS, 4, ANY_NUMBER),
    served("HINFO", rtype::HINFO, 2, 2),
    served("HTTPS", 65, 2, ANY_NUMBER),
    served("MX", rtype::MX, 2, 2),
    served("NAPTR", 35, 6, 6),
    served("NS", rtype::NS, 1, 1),
    served("OPENPGPKEY", 61, 1, ANY_NUMBER),
    served("PTR", rtype::PTR, 1, 1),
    served("SMIMEA", 53, 4, ANY_NUMBER),
    served("SRV", rtype::SRV, 4, 4),
    served("SSHFP", 44, 3, ANY_NUMBER),
    served("SVCB", 64, 2, ANY_NUMBER),
    served("TLSA", 52, 4, ANY_NUMBER),
    served("TXT", rtype::TXT, 1, ANY_NUMBER),
];

/// Mnemonic of a type in queries, for logs and metrics; `None` for one without a name here.
#[must_use]
pub fn record_type_name(number: u16) -> Option<&'static str> {
    match number {
        rtype::SOA => Some("SOA"),
        rtype::AXFR => Some("AXFR"),
        rtype::IXFR => Some("IXFR"),
        rtype::ANY => Some("ANY"),
        _ => SERVED.iter().find(|served| served.number == number).map(|served| served.name),
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
    match SERVED.iter().find(|served| served.name == name) {
        Some(served) => Ok(served.number),
        None if name == "SOA" => Err(invalid("key", "the SOA is made from the zone's own settings")),
        None => Err(invalid("key", format!("records of type {name} are not served"))),
    }
}

pub(crate) fn invalid(field: &'static str, problem: impl ToString) -> Rejection {
    Rejection::Invalid { field, problem: problem.to_string() }
}

/// The addresses of a cluster, where RRsets point at: changing them is one store. `None` until they are known.
pub(crate) type AddressCell = ArcSwapOption<Addresses>;

/// Addresses in wire form, in the order given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Box<[[u8; 4]]>,
    pub(crate) v6: Box<[[u8; 16]]>,
}

impl Addresses {
    /// # Errors
    /// An address that is none (the intent's own check has seen to that), or too many.
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
        Ok(Self { v4: v4.into(), v6: v6.into() })
    }
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
    Wire {
        records: Arc<[u8]>,
        count: u16,
    },
    Addresses(Arc<AddressCell>),
}

impl RrSet {
    /// Checks and compiles records in presentation form.
    ///
    /// # Errors
    /// Which record is wrong and why, or that they are too many or too large.
    pub(crate) fn compile(number: u16, ttl: u32, records: &Records) -> Result<Self, Rejection> {
        let mut data: Vec<Box<[u8]>> = Vec::with_capacity(records.rdata.len().min(MAX_RRSET_RECORDS));
        let most = if number == rtype::NS { MAX_NS_RECORDS } else { MAX_RRSET_RECORDS };
        if records.rdata.len() > most {
            return Err(invalid("records", format!("{} records; at most {most}", records.rdata.len())));
        }
        for text in &records.rdata {
            let rdata = compile_rdata(number, text)
                .map_err(|problem| invalid("records", format!("{:?}: {problem}", excerpt(text))))?;
            // One record twice is one record (RFC 2181 §5).
            if !data.contains(&rdata) {
                data.push(rdata);
            }
        }
        if number == rtype::CNAME && data.len() != 1 {
            return Err(invalid("records", "a CNAME has exactly one record (RFC 2181 §10.1)"));
        }
        let size: usize = data.iter().map(|rdata| RECORD_HEADER + rdata.len()).sum();
        if size > MAX_RRSET_BYTES {
            return Err(invalid("records", format!("{size} bytes in wire form; at most {MAX_RRSET_BYTES}")));
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
            Data::Addresses(_) => [].as_slice(),
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

/// One record's data in wire form, names lower case and not compressed.
fn compile_rdata(number: u16, text: &str) -> Result<Box<[u8]>, String> {
    let fields = fields(text)?;
    let served = SERVED.iter().find(|served| served.number == number).ok_or("the type is not served")?;
    if fields.len() < served.least || fields.len() > served.most {
        let wanted = match (served.least, served.most) {
            (least, most) if least == most => format!("{least}"),
            (least, _) => format!("at least {least}"),
        };
        return Err(format!("{} data has {wanted} field(s), not {}", served.name, fields.len()));
    }
    match number {
        // Character strings hold any octets: the codec's parser takes them for UTF-8.
        rtype::TXT => {
            let mut wire = Vec::with_capacity(text.len() + 1);
            for field in &fields {
                push_string(&mut wire, &field.bytes)?;
            }
            return Ok(wire.into());
        }
        rtype::CAA => return caa(&fields),
        rtype::DS => return ds(&fields),
        _ => {}
    }
    if !text.is_ascii() {
        return Err("only ASCII is allowed".into());
    }
    let name_field = match number {
        rtype::NS | rtype::CNAME | rtype::PTR => Some(0),
        rtype::MX | 64 | 65 => Some(1),
        rtype::SRV => Some(3),
        35 => Some(5),
        _ => None,
    };
    if let Some(name) = name_field.and_then(|at| fields.get(at)) {
        if !name.absolute {
            return Err("the name must be absolute: end it with a dot".into());
        }
        if number == rtype::NS && name.bytes == b"." {
            return Err("the root is no name server".into());
        }
    }
    let rdata = RData::try_from_str(RecordType::from(number), text).map_err(|error| error.to_string())?;
    let mut wire = Vec::new();
    let mut encoder = BinEncoder::new(&mut wire);
    encoder.set_name_encoding(NameEncoding::UncompressedLowercase);
    rdata.emit(&mut encoder).map_err(|error| error.to_string())?;
    if let Some(at) = target_at(number) {
        let name = wire.get(at..).unwrap_or_default();
        if name.len() > MAX_NAME
            || crate::name::NameBuf::read(name).is_none_or(|read| read.len() != name.len())
        {
            return Err("the name is too long or malformed".into());
        }
    }
    Ok(wire.into())
}

/// CAA data (RFC 8659 §4.1): flags, tag, value.
fn caa(fields: &[Field]) -> Result<Box<[u8]>, String> {
    let [flags, tag, value] = fields else { return Err("CAA data is: flags tag \"value\"".into()) };
    let flags = number_of::<u8>(flags, "flags")?;
    if !(1..=15).contains(&tag.bytes.len()) || !tag.bytes.iter().all(u8::is_ascii_alphanumeric) {
        return Err("the tag must have 1 to 15 ASCII letters or digits".into());
    }
    let mut wire = vec![flags];
    push_string(&mut wire, &tag.bytes.to_ascii_lowercase())?;
    wire.extend_from_slice(&value.bytes);
    Ok(wire.into())
}

/// DS data (RFC 4034 §5.1): key tag, algorithm, digest type, digest in hexadecimal.
fn ds(fields: &[Field]) -> Result<Box<[u8]>, String> {
    let [tag, algorithm, digest_type, digest @ ..] = fields else {
        return Err("DS data is: key-tag algorithm digest-type digest".into());
    };
    let mut wire = number_of::<u16>(tag, "key tag")?.to_be_bytes().to_vec();
    wire.push(number_of::<u8>(algorithm, "algorithm")?);
    wire.push(number_of::<u8>(digest_type, "digest type")?);
    let digits: Vec<u8> = digest.iter().flat_map(|field| field.bytes.iter().copied()).collect();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return Err("the digest must have an even number of digits".into());
    };
    for [high, low] in pairs {
        let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or("the digest must be hexadecimal");
        wire.push(u8::try_from(nibble(*high)? << 4 | nibble(*low)?).unwrap_or_default());
    }
    let wanted = match wire.get(3) {
        Some(1) => Some(20),
        Some(2) => Some(32),
        Some(4) => Some(48),
        _ => None,
    };
    if wanted.is_some_and(|wanted| wire.len() != 4 + wanted) || wire.len() == 4 {
        return Err("the digest does not have the length of its type".into());
    }
    Ok(wire.into())
}

fn number_of<T: std::str::FromStr>(field: &Field, what: &str) -> Result<T, String> {
    std::str::from_utf8(&field.bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("the {what} is not a number in its range"))
}

fn push_string(wire: &mut Vec<u8>, string: &[u8]) -> Result<(), String> {
    let length = u8::try_from(string.len())
        .map_err(|_| format!("a string has {} bytes; at most 255 (write several strings)", string.len()))?;
    wire.push(length);
    wire.extend_from_slice(string);
    Ok(())
}

/// One field of record data.
struct Field {
    bytes: Vec<u8>,
    /// Ends with a dot that is not escaped, outside quotes.
    absolute: bool,
}

/// Splits record data into its fields and resolves quotes and escapes (RFC 1035 §5.1). One record on one line:
/// no comment, no parentheses, no control characters.
fn fields(text: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(first) = bytes.next() {
        if first == b' ' || first == b'\t' {
            continue;
        }
        let quoted = first == b'"';
        let mut field = Field { bytes: Vec::new(), absolute: false };
        let mut next = if quoted { bytes.next() } else { Some(first) };
        loop {
            match next {
                None if quoted => return Err("a quote is not closed".into()),
                None => break,
                Some(b'"') if quoted => {
                    if bytes.peek().is_some_and(|byte| *byte != b' ' && *byte != b'\t') {
                        return Err("a space must follow a closing quote".into());
                    }
                    break;
                }
                Some(b' ' | b'\t') if !quoted => break,
                Some(b'\\') => {
                    field.bytes.push(escaped(&mut bytes)?);
                    field.absolute = false;
                }
                Some(byte @ (b';' | b'(' | b')' | b'"')) if !quoted => {
                    return Err(format!("{:?} must stand in quotes", char::from(byte)));
                }
                Some(byte) if byte < 0x20 || byte == 0x7f => {
                    return Err("control characters must be written as \\DDD".into());
                }
                Some(byte) => {
                    field.bytes.push(byte);
                    field.absolute = byte == b'.' && !quoted;
                }
            }
            next = bytes.next();
        }
        fields.push(field);
    }
    Ok(fields)
}

/// What follows a backslash: three decimal digits, or one character that stands for itself.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, String> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(10));
    match bytes.next() {
        None => Err("a backslash ends the text".into()),
        Some(byte) if byte.is_ascii_digit() => digit(Some(byte))
            .zip(digit(bytes.next()))
            .zip(digit(bytes.next()))
            .and_then(|((a, b), c)| u8::try_from(a * 100 + b * 10 + c).ok())
            .ok_or_else(|| "an escape is \\DDD with DDD from 000 to 255".into()),
        Some(byte) => Ok(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: &str, text: &str) -> Result<Vec<u8>, String> {
        compile_rdata(type_number(name).unwrap(), text).map(Vec::from)
    }

    #[test]
    fn data_of_every_type_is_compiled() {
        assert_eq!(wire("A", "192.0.2.1").unwrap(), [192, 0, 2, 1]);
        assert_eq!(wire("AAAA", "2001:db8::1").unwrap().len(), 16);
        assert_eq!(wire("MX", "10 Mail.example.").unwrap(), b"\0\x0a\x04mail\x07example\0");
        assert_eq!(wire("MX", "0 .").unwrap(), b"\0\0\0");
        assert_eq!(wire("SRV", "1 2 443 a.example.").unwrap(), b"\0\x01\0\x02\x01\xbb\x01a\x07example\0");
        assert_eq!(wire("CAA", "0 issue \"ca.example; a=b\"").unwrap(), b"\0\x05issueca.example; a=b");
        assert_eq!(wire("TXT", "\"a b\" c").unwrap(), b"\x03a b\x01c");
        assert_eq!(wire("TXT", "\"\\195\\169\" \"\\\"\"").unwrap(), b"\x02\xc3\xa9\x01\"");
        assert_eq!(wire("TXT", "\"\"").unwrap(), b"\0");
        assert_eq!(wire("PTR", "a.example.").unwrap(), b"\x01a\x07example\0");
        assert_eq!(wire("DS", &format!("1 8 2 {}", "ab".repeat(32))).unwrap().len(), 36);
        assert_eq!(wire("SSHFP", &format!("1 1 {}", "ab".repeat(20))).unwrap().len(), 22);
        assert_eq!(wire("TLSA", &format!("3 1 1 {}", "ab".repeat(32))).unwrap().len(), 35);
        assert_eq!(wire("HTTPS", "1 . alpn=h2").unwrap()[..3], [0, 1, 0]);
        assert_eq!(wire("NAPTR", "1 2 \"u\" \"sip\" \"!a!b!\" .").unwrap()[..4], [0, 1, 0, 2]);
        assert_eq!(wire("HINFO", "pc unix").unwrap(), b"\x02pc\x04unix");
    }

    #[test]
    fn absurd_data_is_refused() {
        for (name, text) in [
            ("A", "300.1.1.1"),
            ("A", "192.0.2.1 192.0.2.2"),
            ("A", "192.0.2.1 ; hidden"),
            ("A", "192.0.2.1\n192.0.2.2"),
            ("A", ""),
            ("AAAA", "192.0.2.1"),
            ("CNAME", "relative"),
            ("CNAME", "a.example\\."),
            ("CNAME", "a b.example."),
            ("CNAME", "bücher.example."),
            ("MX", "mail.example."),
            ("MX", "70000 mail.example."),
            ("NS", "."),
            ("NS", "a..example."),
            ("PTR", &format!("{}.", "a".repeat(64))),
            ("PTR", &format!("{}.", ["abcdefg"; 40].join("."))),
            ("SRV", "0 0 70000 a.example."),
            ("TXT", "\"open"),
            ("TXT", "v=DKIM1; k=rsa"),
            ("TXT", "\"\\300\""),
            ("TXT", &"a".repeat(256)),
            ("TXT", "\"a\"\"b\""),
            ("CAA", "256 issue \"a\""),
            ("CAA", "0 is-sue \"a\""),
            ("DS", "1 8 2 abcd"),
            ("DS", "1 8 9 xyz1"),
            ("DS", "1 8 9 abc"),
        ] {
            assert!(wire(name, text).is_err(), "{name} {text:?}");
        }
        assert!(type_number("SOA").unwrap_err().to_string().contains("own settings"));
        assert!(type_number("DNAME").unwrap_err().to_string().contains("not served"));
    }

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
