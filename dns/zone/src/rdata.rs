//! Record data from presentation form (RFC 1035 §5.1) to wire form, type by type.
//!
//! A text is understood whole or refused: what is not understood is never left out, and never guessed. Names come out lower
//! case and not compressed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::name::MAX_NAME;
use crate::rtype;

/// Compiles one record's data.
///
/// # Errors
/// What of the text is not understood, or not allowed.
pub(crate) fn compile(number: u16, text: &str) -> Result<Box<[u8]>, String> {
    // Texts hold any octets; anywhere else others than ASCII are written as \DDD.
    if !matches!(number, rtype::TXT | rtype::CAA) && !text.is_ascii() {
        return Err("only ASCII is allowed".into());
    }
    let has_params = matches!(number, rtype::SVCB | rtype::HTTPS);
    let mut fields =
        Fields { wire: Vec::with_capacity(text.len() + 1), rest: split(text, has_params)?.into_iter() };
    match number {
        rtype::A => {
            let address: Ipv4Addr = fields.parsed("IPv4 address")?;
            fields.wire.extend(address.octets());
        }
        rtype::AAAA => {
            let address: Ipv6Addr = fields.parsed("IPv6 address")?;
            fields.wire.extend(address.octets());
        }
        rtype::CNAME | rtype::PTR => fields.name()?,
        rtype::NS => {
            fields.name()?;
            if fields.wire == [0] {
                return Err("the root is no name server".into());
            }
        }
        rtype::MX => {
            fields.u16("preference")?;
            fields.name()?;
        }
        rtype::SRV => {
            for what in ["priority", "weight", "port"] {
                fields.u16(what)?;
            }
            fields.name()?;
        }
        rtype::NAPTR => {
            fields.u16("order")?;
            fields.u16("preference")?;
            for what in ["flags", "service", "regular expression"] {
                fields.string(what)?;
            }
            fields.name()?;
        }
        rtype::HINFO => {
            fields.string("CPU")?;
            fields.string("OS")?;
        }
        rtype::TXT => {
            fields.string("text")?;
            while !fields.rest.as_slice().is_empty() {
                fields.string("text")?;
            }
        }
        rtype::CAA => caa(&mut fields)?,
        rtype::DS => {
            fields.u16("key tag")?;
            fields.algorithm()?;
            let digest_type = fields.u8("digest type")?;
            fields.hex("digest", length_of(digest_type, &[(1, 20), (2, 32), (4, 48)]))?;
        }
        rtype::SSHFP => {
            fields.u8("algorithm")?;
            let fingerprint_type = fields.u8("fingerprint type")?;
            fields.hex("fingerprint", length_of(fingerprint_type, &[(1, 20), (2, 32)]))?;
        }
        rtype::TLSA | rtype::SMIMEA => {
            fields.u8("usage")?;
            fields.u8("selector")?;
            let matching = fields.u8("matching type")?;
            fields.hex("certificate data", length_of(matching, &[(1, 32), (2, 64)]))?;
        }
        rtype::CERT => {
            fields.mnemonic_u16("certificate type", CERTIFICATE_TYPES)?;
            fields.u16("key tag")?;
            fields.algorithm()?;
            fields.base64("certificate")?;
        }
        rtype::OPENPGPKEY => fields.base64("key")?,
        rtype::SVCB | rtype::HTTPS => {
            fields.u16("priority")?;
            fields.name()?;
            service_params(&mut fields)?;
        }
        _ => return Err("the type is not served".into()),
    }
    match fields.rest.next() {
        None => Ok(fields.wire.into()),
        Some(field) => Err(format!("{:?} is one field too many", String::from_utf8_lossy(&field.bytes))),
    }
}

/// Certificate types (RFC 4398 §2.1).
const CERTIFICATE_TYPES: &[(&str, u16)] = &[
    ("PKIX", 1),
    ("SPKI", 2),
    ("PGP", 3),
    ("IPKIX", 4),
    ("ISPKI", 5),
    ("IPGP", 6),
    ("ACPKIX", 7),
    ("IACPKIX", 8),
    ("URI", 253),
    ("OID", 254),
];

/// DNSSEC algorithms (RFC 4034 §A.1 and the registry that it began).
const ALGORITHMS: &[(&str, u8)] = &[
    ("RSAMD5", 1),
    ("DH", 2),
    ("DSA", 3),
    ("RSASHA1", 5),
    ("DSA-NSEC3-SHA1", 6),
    ("RSASHA1-NSEC3-SHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECC-GOST", 12),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
    ("INDIRECT", 252),
    ("PRIVATEDNS", 253),
    ("PRIVATEOID", 254),
];

fn length_of(kind: u8, lengths: &[(u8, usize)]) -> Option<usize> {
    lengths.iter().find(|(known, _)| *known == kind).map(|(_, length)| *length)
}

/// CAA data (RFC 8659 §4.1): flags, tag, value.
fn caa(fields: &mut Fields) -> Result<(), String> {
    fields.u8("flags")?;
    let tag = fields.next("tag")?;
    if !tag.bytes.iter().all(u8::is_ascii_alphanumeric) || tag.bytes.is_empty() {
        return Err("the tag must consist of ASCII letters and digits".into());
    }
    push_string(&mut fields.wire, &tag.bytes.to_ascii_lowercase())?;
    let value = fields.next("value")?;
    fields.wire.extend_from_slice(&value.bytes);
    Ok(())
}

/// Keys of service parameters (RFC 9460 §14.3.2, RFC 9461 §5, RFC 9540 §4).
mod key {
    pub(super) const MANDATORY: u16 = 0;
    pub(super) const ALPN: u16 = 1;
    pub(super) const NO_DEFAULT_ALPN: u16 = 2;
    pub(super) const PORT: u16 = 3;
    pub(super) const IPV4_HINT: u16 = 4;
    pub(super) const ECH: u16 = 5;
    pub(super) const IPV6_HINT: u16 = 6;
    pub(super) const DOHPATH: u16 = 7;
    pub(super) const OHTTP: u16 = 8;
}

const SERVICE_KEYS: &[(&str, u16)] = &[
    ("mandatory", key::MANDATORY),
    ("alpn", key::ALPN),
    ("no-default-alpn", key::NO_DEFAULT_ALPN),
    ("port", key::PORT),
    ("ipv4hint", key::IPV4_HINT),
    ("ech", key::ECH),
    ("ipv6hint", key::IPV6_HINT),
    ("dohpath", key::DOHPATH),
    ("ohttp", key::OHTTP),
];

/// A key by its name, or `keyNNNNN` for one without a name here.
fn service_key(name: &str) -> Result<u16, String> {
    if let Some((_, number)) = SERVICE_KEYS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let number = name.strip_prefix("key").and_then(|digits| {
        let number: u16 = digits.parse().ok()?;
        (number.to_string() == digits && number != u16::MAX).then_some(number)
    });
    match number {
        Some(number) if SERVICE_KEYS.iter().any(|(_, known)| *known == number) => {
            Err(format!("{name} must be written by its own name"))
        }
        Some(number) => Ok(number),
        None => Err(format!("{name:?} is no service parameter that is known; write keyNNNNN")),
    }
}

/// Service parameters (RFC 9460 §2.1): in any order, each once; on the wire they ascend by key (§2.2).
fn service_params(fields: &mut Fields) -> Result<(), String> {
    let mut params: Vec<(u16, Vec<u8>)> = Vec::new();
    for field in fields.rest.by_ref() {
        let (name, value) = match field.bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                let (name, value) = field.bytes.split_at(at);
                (name, value.get(1..))
            }
            None => (field.bytes.as_slice(), None),
        };
        let name = std::str::from_utf8(name).map_err(|_| "a service parameter is no text")?;
        let number = service_key(name)?;
        let value = service_value(number, value).map_err(|problem| format!("{name}: {problem}"))?;
        if params.iter().any(|(known, _)| *known == number) {
            return Err(format!("{name} stands twice"));
        }
        params.push((number, value));
    }
    params.sort();
    let has = |number: u16| params.iter().any(|(known, _)| *known == number);
    if has(key::NO_DEFAULT_ALPN) && !has(key::ALPN) {
        return Err("no-default-alpn needs alpn beside it (RFC 9460 §7.1.1)".into());
    }
    if let Some((_, mandatory)) = params.first().filter(|(number, _)| *number == key::MANDATORY) {
        let (numbers, _) = mandatory.as_chunks::<2>();
        if !numbers.iter().all(|number| has(u16::from_be_bytes(*number))) {
            return Err("mandatory names a parameter that is not there (RFC 9460 §8)".into());
        }
    }
    for (number, value) in &params {
        fields.wire.extend(number.to_be_bytes());
        fields.wire.extend(u16::try_from(value.len()).map_err(|_| "a value is too long")?.to_be_bytes());
        fields.wire.extend_from_slice(value);
    }
    Ok(())
}

/// A parameter's value in wire form; `None` is a parameter without `=`.
fn service_value(number: u16, value: Option<&[u8]>) -> Result<Vec<u8>, String> {
    if matches!(number, key::NO_DEFAULT_ALPN | key::OHTTP) {
        return if value.is_none_or(<[u8]>::is_empty) { Ok(Vec::new()) } else { Err("has no value".into()) };
    }
    let value = value.unwrap_or_default();
    if value.is_empty() && SERVICE_KEYS.iter().any(|(_, known)| *known == number) {
        return Err("needs a value".into());
    }
    let text = || std::str::from_utf8(value).map_err(|_| "the value is no text".to_owned());
    match number {
        key::MANDATORY => {
            let mut keys = text()?.split(',').map(service_key).collect::<Result<Vec<u16>, String>>()?;
            keys.sort_unstable();
            if keys.contains(&key::MANDATORY) || keys.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
            {
                return Err("names each other parameter once at most".into());
            }
            Ok(keys.iter().flat_map(|key| key.to_be_bytes()).collect())
        }
        key::ALPN => {
            let mut wire = Vec::new();
            for protocol in value_list(value)? {
                if protocol.is_empty() {
                    return Err("a protocol is empty".into());
                }
                push_string(&mut wire, &protocol)?;
            }
            Ok(wire)
        }
        key::PORT => Ok(decimal::<u16>(text()?, "port")?.to_be_bytes().to_vec()),
        key::IPV4_HINT => {
            let addresses = text()?.split(',').map(|one| one.parse::<Ipv4Addr>().map(|ip| ip.octets()));
            let addresses: Result<Vec<_>, _> = addresses.collect();
            Ok(addresses.map_err(|_| "needs IPv4 addresses")?.concat())
        }
        key::IPV6_HINT => {
            let addresses = text()?.split(',').map(|one| one.parse::<Ipv6Addr>().map(|ip| ip.octets()));
            let addresses: Result<Vec<_>, _> = addresses.collect();
            Ok(addresses.map_err(|_| "needs IPv6 addresses")?.concat())
        }
        key::ECH => STANDARD.decode(value).map_err(|_| "needs base64".to_owned()),
        key::DOHPATH => text().map(|path| path.as_bytes().to_vec()),
        _ => Ok(value.to_vec()),
    }
}

/// A list of values: commas part them, `\\,` and `\\\\` stand for themselves (RFC 9460 §A.1).
fn value_list(value: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut list = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b',' => {
                list.push(Vec::new());
                continue;
            }
            b'\\' => match bytes.next() {
                Some(byte @ (b',' | b'\\')) => byte,
                Some(_) | None => {
                    return Err("a backslash in a list stands before a comma or a backslash".into());
                }
            },
            byte => byte,
        };
        if let Some(last) = list.last_mut() {
            last.push(*byte);
        }
    }
    Ok(list)
}

fn decimal<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| format!("the {what} is not a number in its range"))
}

fn push_string(wire: &mut Vec<u8>, string: &[u8]) -> Result<(), String> {
    let length = u8::try_from(string.len())
        .map_err(|_| format!("a string has {} bytes; at most 255 (write several strings)", string.len()))?;
    wire.push(length);
    wire.extend_from_slice(string);
    Ok(())
}

/// The fields that are still to be read, and the wire form of those that have been.
struct Fields {
    wire: Vec<u8>,
    rest: std::vec::IntoIter<Field>,
}

impl Fields {
    fn next(&mut self, what: &str) -> Result<Field, String> {
        self.rest.next().ok_or_else(|| format!("the {what} is missing"))
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let field = self.next(what)?;
        String::from_utf8(field.bytes).map_err(|_| format!("the {what} must be ASCII"))
    }

    fn parsed<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let text = self.text(what)?;
        text.parse().map_err(|_| format!("{text:?} is no {what}"))
    }

    fn u8(&mut self, what: &str) -> Result<u8, String> {
        let number = decimal(&self.text(what)?, what)?;
        self.wire.push(number);
        Ok(number)
    }

    fn u16(&mut self, what: &str) -> Result<(), String> {
        let number: u16 = decimal(&self.text(what)?, what)?;
        self.wire.extend(number.to_be_bytes());
        Ok(())
    }

    fn mnemonic_u16(&mut self, what: &str, known: &[(&str, u16)]) -> Result<(), String> {
        let text = self.text(what)?;
        let number = match known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
            Some((_, number)) => *number,
            None => decimal(&text, what)?,
        };
        self.wire.extend(number.to_be_bytes());
        Ok(())
    }

    fn algorithm(&mut self) -> Result<(), String> {
        let text = self.text("algorithm")?;
        let number = match ALGORITHMS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
            Some((_, number)) => *number,
            None => decimal(&text, "algorithm")?,
        };
        self.wire.push(number);
        Ok(())
    }

    fn string(&mut self, what: &str) -> Result<(), String> {
        let field = self.next(what)?;
        push_string(&mut self.wire, &field.bytes)
    }

    /// An absolute name.
    fn name(&mut self) -> Result<(), String> {
        let field = self.next("name")?;
        let Some((last, inner)) = field.dots.split_last().filter(|(last, _)| **last + 1 == field.bytes.len())
        else {
            return Err("the name must be absolute: end it with a dot".into());
        };
        let begin = self.wire.len();
        let mut from = 0;
        if *last > 0 {
            for dot in inner.iter().chain([last]) {
                let label = field.bytes.get(from..*dot).unwrap_or_default();
                let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
                self.wire.push(length.ok_or("a label has 1 to 63 bytes")?);
                self.wire.extend(label.iter().map(u8::to_ascii_lowercase));
                from = dot + 1;
            }
        }
        self.wire.push(0);
        if self.wire.len() - begin > MAX_NAME {
            return Err("the name is too long".into());
        }
        Ok(())
    }

    /// All that is left, put together.
    fn joined(&mut self, what: &str) -> Result<Vec<u8>, String> {
        let joined: Vec<u8> = self.rest.by_ref().flat_map(|field| field.bytes).collect();
        if joined.is_empty() { Err(format!("the {what} is missing")) } else { Ok(joined) }
    }

    fn hex(&mut self, what: &str, length: Option<usize>) -> Result<(), String> {
        let digits = self.joined(what)?;
        let bytes =
            hex::decode(digits).map_err(|_| format!("the {what} must be pairs of hexadecimal digits"))?;
        if length.is_some_and(|length| length != bytes.len()) {
            return Err(format!("the {what} does not have the length of its type"));
        }
        self.wire.extend(bytes);
        Ok(())
    }

    fn base64(&mut self, what: &str) -> Result<(), String> {
        let digits = self.joined(what)?;
        let bytes = STANDARD.decode(digits).map_err(|_| format!("the {what} must be base64, padded"))?;
        self.wire.extend(bytes);
        Ok(())
    }
}

/// One field of record data, quotes and escapes resolved.
struct Field {
    bytes: Vec<u8>,
    /// Where dots lie in it that are neither escaped nor quoted: they end labels of names.
    dots: Vec<usize>,
}

/// Splits record data into its fields (RFC 1035 §5.1). One record on one line: no comment, no parentheses, no control
/// characters. With `params`, a value behind `=` may be quoted (RFC 9460 §2.1).
fn split(text: &str, params: bool) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(first) = bytes.next() {
        if first == b' ' || first == b'\t' {
            continue;
        }
        let mut quoted = first == b'"';
        let mut field = Field { bytes: Vec::new(), dots: Vec::new() };
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
                Some(b'"') if params && field.bytes.ends_with(b"=") => quoted = true,
                Some(b'\\') => field.bytes.push(escaped(&mut bytes)?),
                Some(byte @ (b';' | b'(' | b')' | b'"')) if !quoted => {
                    return Err(format!("{:?} must stand in quotes", char::from(byte)));
                }
                Some(byte) if byte < 0x20 || byte == 0x7f => {
                    return Err("control characters must be written as \\DDD".into());
                }
                Some(byte) => {
                    if byte == b'.' && !quoted {
                        field.dots.push(field.bytes.len());
                    }
                    field.bytes.push(byte);
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
    use crate::record::type_number;

    fn wire(name: &str, text: &str) -> Result<Vec<u8>, String> {
        compile(type_number(name).unwrap(), text).map(Vec::from)
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
            ("CAA", "0 issue a b"),
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

    /// What Knot DNS 3.5 makes of the same texts, and the test vectors of RFC 9460 §D.
    #[test]
    fn texts_of_zone_files_are_compiled_as_other_servers_do() {
        let hex =
            |name: &str, text: &str| hex::encode(wire(name, text).unwrap_or_else(|e| panic!("{text}: {e}")));
        for (name, text, wanted) in [
            ("CERT", "1 12345 5 AAAA dGVz dA==", "0001303905000000".to_owned() + "74657374"),
            ("CERT", "PKIX 1 RSASHA256 AQID", "0001000108010203".into()),
            ("CERT", "pgp 0 0 AQID", "0003000000010203".into()),
            (
                "DS",
                &format!("1 ECDSAP256SHA256 2 {} {}", "ab".repeat(16), "AB".repeat(16)),
                format!("00010d02{}", "ab".repeat(32)),
            ),
            ("SSHFP", &format!("4 2 {} {}", "ab".repeat(30), "cdef"), format!("0402{}cdef", "ab".repeat(30))),
            (
                "TLSA",
                &format!("3 1 1 {} {}", "ab".repeat(16), "cd".repeat(16)),
                format!("030101{}{}", "ab".repeat(16), "cd".repeat(16)),
            ),
            ("OPENPGPKEY", "AQ ID", "010203".into()),
            (
                "CNAME",
                "0/25.2.0.192.in-addr.arpa.",
                "04302f3235013201300331393207696e2d61646472046172706100".into(),
            ),
            ("PTR", "a\\.B\\032c.example.", "05612e622063076578616d706c6500".into()),
            ("MX", "0 .", "000000".into()),
            (
                "NAPTR",
                "1 2 \"\" \"sip+d\" \"!^.*$!a\\.b!\" .",
                "0001000200057369702b640a215e2e2a2421612e622100".into(),
            ),
            ("SVCB", "0 foo.example.com.", "000003666f6f076578616d706c6503636f6d00".into()),
            ("SVCB", "1 .", "000100".into()),
            (
                "SVCB",
                "16 foo.example.com. port=53",
                "001003666f6f076578616d706c6503636f6d00000300020035".into(),
            ),
            (
                "SVCB",
                "1 foo.example.com. key667=hello",
                "000103666f6f076578616d706c6503636f6d00029b000568656c6c6f".into(),
            ),
            (
                "SVCB",
                "1 foo.example.com. key667=\"hello\\210qoo\"",
                "000103666f6f076578616d706c6503636f6d00029b000968656c6c6fd2716f6f".into(),
            ),
            (
                "SVCB",
                "1 foo.example.com. ipv6hint=\"2001:db8::1,2001:db8::53:1\"",
                "000103666f6f076578616d706c6503636f6d0000060020".to_owned()
                    + "20010db8000000000000000000000001"
                    + "20010db8000000000000000000530001",
            ),
            (
                "SVCB",
                "16 foo.example.org. alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
                "001003666f6f076578616d706c65036f726700".to_owned()
                    + "0000000400010004"
                    + "00010009"
                    + "026832"
                    + "0568332d3139"
                    + "00040004c0000201",
            ),
            (
                "SVCB",
                "16 foo.example.org. alpn=\"f\\\\\\\\oo\\\\,bar,h2\"",
                "001003666f6f076578616d706c65036f7267000001000c08665c6f6f2c626172026832".into(),
            ),
            (
                "SVCB",
                "16 foo.example.org. alpn=f\\\\\\092oo\\092,bar,h2",
                "001003666f6f076578616d706c65036f7267000001000c08665c6f6f2c626172026832".into(),
            ),
            (
                "HTTPS",
                "1 . dohpath=/q{?dns} ohttp alpn=\"h2\" no-default-alpn",
                "000100".to_owned()
                    + "0001000302"
                    + "6832"
                    + "00020000"
                    + "00070008"
                    + "2f717b3f646e737d"
                    + "00080000",
            ),
        ] {
            assert_eq!(hex(name, text), wanted, "{name} {text}");
        }
    }

    #[test]
    fn what_is_not_understood_whole_is_refused() {
        for (name, text) in [
            ("SVCB", "1 foo.example.com. key0=x"),
            ("SVCB", "1 foo.example.com. key065=x"),
            ("SVCB", "1 foo.example.com. colour=red"),
            ("SVCB", "1 foo.example.com. alpn"),
            ("SVCB", "1 foo.example.com. alpn=h2,"),
            ("SVCB", "1 foo.example.com. alpn=h\\\\2"),
            ("SVCB", "1 foo.example.com. alpn=h2 alpn=h3"),
            ("SVCB", "1 foo.example.com. no-default-alpn"),
            ("SVCB", "1 foo.example.com. no-default-alpn=abc alpn=h2"),
            ("SVCB", "1 foo.example.com. mandatory=key123"),
            ("SVCB", "1 foo.example.com. mandatory=mandatory"),
            ("SVCB", "1 foo.example.com. mandatory=port,port port=1"),
            ("SVCB", "1 foo.example.com. port=65536"),
            ("SVCB", "1 foo.example.com. ipv4hint=::1"),
            ("SVCB", "1 foo.example.com. ech=?"),
            ("SVCB", "1 foo.example.com. port=\"1\"2"),
            ("SVCB", "1 foo"),
            ("CERT", "1 12345 5"),
            ("CERT", "WHAT 1 5 AQID"),
            ("CERT", "1 1 5 AQI"),
            ("OPENPGPKEY", "A$=="),
            ("SSHFP", "1 1 abcd"),
            ("SSHFP", "1 2 abc"),
            ("TLSA", "3 1 1 abcd"),
            ("TLSA", "3 1 0"),
            ("NAPTR", "1 2 u sip !a! a.example. more"),
            ("HINFO", "pc"),
            ("MX", "+1 a.example."),
            ("MX", "1 \"a.example.\""),
            ("A", "192.0.2.1."),
        ] {
            assert!(wire(name, text).is_err(), "{name} {text:?}");
        }
    }
}
