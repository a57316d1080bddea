//! Record data: every text that users write for it has one normal form, which is kept, compared and shown.
//!
//! [`RecordData::accept`] reads what a user writes now, and refuses what cannot work. [`RecordData::read`] reads what is
//! stored, also by older builds that refused less. It knows neither records' names nor their zones' other records.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{SpecError, check};

/// Most bytes of a text, over all its strings.
const MAX_TEXT: usize = 4096;
/// Most character-strings of a text.
const MAX_STRINGS: usize = 256;
/// Longest content that is read at all: a text of [`MAX_TEXT`] bytes, each written as `\DDD`.
const MAX_CONTENT: usize = 5 * MAX_TEXT;
/// Most bytes of a CAA value.
const MAX_CAA_VALUE: usize = 1024;
/// Most bytes of a character-string (RFC 1035 §3.3).
const MAX_STRING: usize = 255;

/// Parsed record data, without what MX and SRV records keep as their priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordData {
    /// A.
    V4(Ipv4Addr),
    /// AAAA.
    V6(Ipv6Addr),
    /// CNAME, NS and MX: an absolute name, lower case, no trailing dot; the root is empty.
    Name(String),
    /// TXT: character-strings of at most 255 bytes (RFC 1035 §3.3.14).
    Text(Vec<Vec<u8>>),
    /// SRV (RFC 2782).
    Service {
        /// Share of the clients among services of the same priority.
        weight: u16,
        /// TCP or UDP port.
        port: u16,
        /// As in [`RecordData::Name`]; the root says that there is no such service.
        target: String,
    },
    /// CAA (RFC 8659 §4.1).
    Authorization {
        /// Bit 7: whoever does not understand the tag must not issue.
        flags: u8,
        /// ASCII letters and digits, lower case.
        tag: String,
        /// Any bytes.
        value: Vec<u8>,
    },
}

impl RecordData {
    /// Reads what a user writes. Names are absolute when they have a dot, else relative to `zone`; `@` is the zone.
    ///
    /// # Errors
    /// What the type does not allow, what could mean two things, and targets that can never be a host.
    pub fn accept(record_type: &str, content: &str, zone: &str) -> Result<Self, SpecError> {
        let content = content.trim();
        if content.is_empty() {
            return Err(wrong("is required"));
        }
        if content.len() > MAX_CONTENT {
            return Err(wrong(format!("has {} bytes; at most {MAX_CONTENT} are read", content.len())));
        }
        if record_type == "TXT" {
            return text(content).map(Self::Text);
        }
        let data = Self::read(record_type, content, zone)?;
        if let Some(target) = data.target() {
            let last = target.rsplit('.').next().unwrap_or_default();
            if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(is_address(record_type, target));
            }
        }
        Ok(data)
    }

    /// Reads what is stored in a record of the zone `zone`.
    ///
    /// # Errors
    /// What the type does not allow.
    pub fn read(record_type: &str, content: &str, zone: &str) -> Result<Self, SpecError> {
        let trimmed = content.trim();
        match record_type {
            "A" => trimmed
                .parse()
                .map(Self::V4)
                .map_err(|_| wrong(format!("{trimmed:?} is no IPv4 address, e.g. 192.0.2.1"))),
            "AAAA" => trimmed
                .parse()
                .map(Self::V6)
                .map_err(|_| wrong(format!("{trimmed:?} is no IPv6 address, e.g. 2001:db8::1"))),
            "CNAME" | "NS" => target(record_type, trimmed, zone).map(Self::Name),
            "MX" if trimmed == "." => Ok(Self::Name(String::new())),
            "MX" => {
                if let Some((number, host)) = trimmed.split_once(|c: char| c.is_ascii_whitespace())
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                {
                    let host = host.trim();
                    return Err(wrong(format!(
                        "must be the mail server alone: write {host:?} here and {number} as the priority"
                    )));
                }
                target(record_type, trimmed, zone).map(Self::Name)
            }
            "SRV" => service(trimmed, zone),
            "CAA" => authorization(trimmed),
            // Older builds took any text that is no sequence of strings as it was.
            "TXT" => Ok(Self::Text(text(content).unwrap_or_else(|_| strings_of(content.as_bytes())))),
            other => Err(SpecError::invalid("type", format!("{other:?} is no record type that is served"))),
        }
    }

    /// The normal form, as it is kept and shown: reading it gives the same data.
    #[must_use]
    pub fn content(&self) -> String {
        match self {
            Self::V4(address) => address.to_string(),
            Self::V6(address) => address.to_string(),
            Self::Name(name) => shown(name),
            Self::Service { weight, port, target } => format!("{weight} {port} {}", shown(target)),
            Self::Authorization { flags, tag, value } => format!("{flags} {tag} {}", quoted(value)),
            Self::Text(strings) => match plain(strings) {
                Some(text) => text,
                None => quoted_all(strings),
            },
        }
    }

    /// RDATA in presentation form (RFC 1035 §5.1), names absolute, as name servers read it. `priority` is that of MX and
    /// SRV records.
    #[must_use]
    pub fn presentation(&self, priority: Option<u16>) -> String {
        let front = priority.map(|priority| format!("{priority} ")).unwrap_or_default();
        match self {
            Self::Name(name) => format!("{front}{name}."),
            Self::Service { weight, port, target } => format!("{front}{weight} {port} {target}."),
            Self::Text(strings) => quoted_all(strings),
            Self::V4(_) | Self::V6(_) | Self::Authorization { .. } => self.content(),
        }
    }

    /// The name that it points at; the root, which is no host, gives `None`.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Name(target) | Self::Service { target, .. } => Some(target.as_str()),
            Self::V4(_) | Self::V6(_) | Self::Text(_) | Self::Authorization { .. } => None,
        }
        .filter(|target| !target.is_empty())
    }

    /// Bytes of RDATA in wire form, the number that a priority takes included.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        // Each label has a length, and so has the root: two more than the text, one for the root alone.
        let name = |name: &str| if name.is_empty() { 1 } else { name.len() + 2 };
        match self {
            Self::V4(_) => 4,
            Self::V6(_) => 16,
            Self::Name(target) => 2 + name(target),
            Self::Service { target, .. } => 6 + name(target),
            Self::Text(strings) => strings.iter().map(|string| 1 + string.len()).sum(),
            Self::Authorization { tag, value, .. } => 2 + tag.len() + value.len(),
        }
    }
}

fn wrong(problem: impl Into<String>) -> SpecError {
    SpecError::invalid("content", problem)
}

fn is_address(record_type: &str, target: &str) -> SpecError {
    wrong(format!(
        "{target:?} is an address, and {record_type} records point at host names: make an A or AAAA record of the address, and \
         write its name here"
    ))
}

/// A name as the API shows names: without a trailing dot, unless it would be read as relative then.
fn shown(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{name}.") }
}

/// A host name that a record points at.
fn target(record_type: &str, given: &str, zone: &str) -> Result<String, SpecError> {
    if given == "@" {
        return Ok(zone.to_owned());
    }
    if given.contains("://") {
        return Err(wrong(format!("{given:?} is a URL; {record_type} records point at host names")));
    }
    if given.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() {
        return Err(is_address(record_type, given));
    }
    let written = unescaped_name("content", given)?;
    let host = check::host("content", &written)?;
    let host = if host.contains('.') || written.ends_with('.') { host } else { format!("{host}.{zone}") };
    if host.len() > 253 {
        return Err(wrong("a name has at most 253 bytes, the zone's included"));
    }
    Ok(host)
}

/// A name with the escapes of zone files (`\.`, `\046`, RFC 1035 §5.1) resolved.
///
/// # Errors
/// Escapes that are none, and those of what names of this platform do not hold.
pub(crate) fn unescaped_name(field: &str, name: &str) -> Result<String, SpecError> {
    if !name.contains('\\') {
        return Ok(name.to_owned());
    }
    let mut bytes = name.bytes();
    let mut resolved = String::with_capacity(name.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'\\' => {
                let byte = escaped(&mut bytes).ok_or_else(|| {
                    SpecError::invalid(field, format!("{name:?} holds an unfinished escape"))
                })?;
                if !(byte.is_ascii_alphanumeric() || b"-_*".contains(&byte)) {
                    let problem = format!("{name:?}: a label consists of letters, digits, '-' and '_'");
                    return Err(SpecError::invalid(field, problem));
                }
                byte
            }
            other => other,
        };
        if !byte.is_ascii() {
            let problem = format!("{name:?}: escapes and other than ASCII letters do not go together");
            return Err(SpecError::invalid(field, problem));
        }
        resolved.push(char::from(byte));
    }
    Ok(resolved)
}

/// What follows a backslash: three decimal digits, or one character that stands for itself.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    match bytes.next()? {
        hundreds @ b'0'..=b'9' => {
            let mut value = u32::from(hundreds - b'0');
            for _ in 0..2 {
                let digit = bytes.next().filter(u8::is_ascii_digit)?;
                value = value * 10 + u32::from(digit - b'0');
            }
            u8::try_from(value).ok()
        }
        other => Some(other),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn service(content: &str, zone: &str) -> Result<RecordData, SpecError> {
    let parts: Vec<&str> = content.split_ascii_whitespace().collect();
    let (weight, port, host) = match parts[..] {
        [weight, port, host] => (weight, port, host),
        [priority, _, _, _] if number::<u16>(priority).is_some() => {
            return Err(wrong(format!("must be: weight port target; {priority} goes into the priority")));
        }
        _ => return Err(wrong("must be: weight port target")),
    };
    let field = |text: &str, what: &str| {
        number(text).ok_or_else(|| wrong(format!("the {what} {text:?} must be between 0 and 65535")))
    };
    Ok(RecordData::Service {
        weight: field(weight, "weight")?,
        port: field(port, "port")?,
        target: if host == "." { String::new() } else { target("SRV", host, zone)? },
    })
}

fn authorization(content: &str) -> Result<RecordData, SpecError> {
    let mut parts = content.splitn(3, |c: char| c.is_ascii_whitespace());
    let (Some(flags), Some(tag), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("must be: flag tag value"));
    };
    let flags = number(flags).ok_or_else(|| wrong("the flag must be between 0 and 255"))?;
    // The list of tags is open (RFC 8659 §4.1): certification authorities agree on new ones.
    let sound = (1..=MAX_STRING).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    if !sound {
        return Err(wrong(format!(
            "the tag {tag:?} must have 1 to {MAX_STRING} letters and digits, e.g. issue"
        )));
    }
    let value = value.trim();
    let value = if value.starts_with('"') {
        match &strings_in_quotes(value)?[..] {
            [one] => one.clone(),
            _ => return Err(wrong("the value must be one text in quotes")),
        }
    } else if value.contains(['"', '\\']) {
        return Err(wrong("a value with quotes or backslashes must stand in quotes itself"));
    } else {
        value.as_bytes().to_vec()
    };
    if !value.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(wrong("the value must be printable ASCII"));
    }
    if value.len() > MAX_CAA_VALUE {
        return Err(wrong(format!("the value has {} bytes; at most {MAX_CAA_VALUE}", value.len())));
    }
    Ok(RecordData::Authorization { flags, tag: tag.to_ascii_lowercase(), value })
}

/// The strings of a text: those that a zone file would have, when it is written like there, else the text as it is.
fn text(content: &str) -> Result<Vec<Vec<u8>>, SpecError> {
    let trimmed = content.trim();
    let inside = trimmed.strip_prefix('(').map_or(trimmed, str::trim_start);
    let strings = if inside.starts_with('"') {
        strings_in_quotes(trimmed)?
    } else {
        literal(content)?;
        vec![content.as_bytes().to_vec()]
    };
    let bytes: usize = strings.iter().map(Vec::len).sum();
    if bytes > MAX_TEXT {
        return Err(wrong(format!("the text has {bytes} bytes; at most {MAX_TEXT}")));
    }
    let strings: Vec<_> = strings.iter().flat_map(|string| strings_of(string)).collect();
    if strings.len() > MAX_STRINGS {
        return Err(wrong(format!("the text has {} strings; at most {MAX_STRINGS}", strings.len())));
    }
    Ok(strings)
}

/// Whether a text without quotes around it means what it says.
fn literal(content: &str) -> Result<(), SpecError> {
    if let Some(odd) = content.chars().find(|c| c.is_control()) {
        let problem = match odd {
            '\n' | '\r' => "holds a line break: join the lines, or put each into quotes of its own",
            _ => "holds a control character: leave it out, or write it as \\DDD in quotes",
        };
        return Err(wrong(format!("{problem} ({odd:?})")));
    }
    if content.starts_with(['\u{201c}', '\u{201d}', '\u{201e}']) {
        return Err(wrong("stands in typographic quotes: use \", or none"));
    }
    if content.contains("\\;") {
        return Err(wrong("holds \\; as zone files write it: write ; alone, or the whole text in quotes"));
    }
    let between_quotes = content.split('"').skip(1);
    let mut inner: Vec<&str> = between_quotes.collect();
    inner.pop();
    if inner.iter().any(|part| !part.is_empty() && part.trim().is_empty()) {
        return Err(wrong(
            "holds the end of one string and the begin of another: put the whole text into quotes",
        ));
    }
    let words: Vec<&str> = content.split_ascii_whitespace().collect();
    let line = words.windows(3).any(|words| {
        matches!(words, [class, kind, data]
            if class.eq_ignore_ascii_case("IN") && kind.eq_ignore_ascii_case("TXT") && data.starts_with(['"', '(']))
    });
    if line {
        return Err(wrong("is a whole line of a zone file: write what follows TXT alone"));
    }
    Ok(())
}

/// `"a" "b"`, in parentheses or not, over several lines or not, with comments or not (RFC 1035 §5.1).
fn strings_in_quotes(content: &str) -> Result<Vec<Vec<u8>>, SpecError> {
    let mut strings = Vec::new();
    let mut bytes = content.bytes().peekable();
    let (mut opened, mut closed) = (false, false);
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'(' if !opened && strings.is_empty() => opened = true,
            b')' if opened && !closed => closed = true,
            b';' => while bytes.next_if(|byte| *byte != b'\n').is_some() {},
            b'"' if !closed => {
                let mut string = Vec::new();
                loop {
                    match bytes.next() {
                        None => return Err(wrong("a quote is not closed")),
                        Some(b'"') => break,
                        Some(b'\\') => string.push(
                            escaped(&mut bytes)
                                .ok_or_else(|| wrong("an escape is \\DDD with DDD from 000 to 255"))?,
                        ),
                        Some(byte) if byte.is_ascii_control() => {
                            return Err(wrong(
                                "a line break or control character stands in quotes: leave it out, or write it as \\DDD",
                            ));
                        }
                        Some(byte) => string.push(byte),
                    }
                }
                strings.push(string);
            }
            other => {
                return Err(wrong(format!(
                    "{:?} stands outside the quotes: put the whole text into quotes, with \\\" for a quote in it",
                    char::from(other)
                )));
            }
        }
    }
    if opened != closed {
        return Err(wrong("a parenthesis is not closed"));
    }
    Ok(strings)
}

/// A text in pieces that fit character-strings. The empty text is one empty string.
fn strings_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return vec![Vec::new()];
    }
    bytes.chunks(MAX_STRING).map(<[u8]>::to_vec).collect()
}

/// The text without quotes, if it gives these strings when it is read again.
fn plain(strings: &[Vec<u8>]) -> Option<String> {
    let content = String::from_utf8(strings.concat()).ok()?;
    let same =
        !content.is_empty() && content.trim() == content && text(&content).is_ok_and(|read| read == strings);
    same.then_some(content)
}

fn quoted_all(strings: &[Vec<u8>]) -> String {
    strings.iter().map(|string| quoted(string)).collect::<Vec<_>>().join(" ")
}

fn quoted(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() + 8);
    out.push('"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            0x20..=0x7e => out.push(char::from(*byte)),
            // Writing to a String does not fail.
            other => drop(write!(out, "\\{other:03}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &str = "zone.example";

    fn content(record_type: &str, given: &str) -> String {
        let data = RecordData::accept(record_type, given, ZONE).unwrap_or_else(|e| panic!("{given:?}: {e}"));
        let shown = data.content();
        assert_eq!(RecordData::accept(record_type, &shown, ZONE), Ok(data.clone()), "{given:?} as {shown:?}");
        assert_eq!(RecordData::read(record_type, &shown, ZONE), Ok(data), "{given:?} as {shown:?}");
        shown
    }

    fn refusal(record_type: &str, given: &str) -> String {
        RecordData::accept(record_type, given, ZONE).unwrap_err().to_string()
    }

    #[test]
    fn many_spellings_have_one_form() {
        for (record_type, wanted, spellings) in [
            ("A", "192.0.2.1", &["192.0.2.1", " 192.0.2.1\n"][..]),
            ("AAAA", "2001:db8::1", &["2001:DB8:0:0::1", "2001:db8::0001", " 2001:db8:0:0:0:0:0:1 "]),
            ("AAAA", "::ffff:192.0.2.1", &["::FFFF:c000:201", "::ffff:192.0.2.1"]),
            ("CNAME", "mail.example.com", &["MAIL.Example.com.", "mail.example.com", "m\\097il.example.com"]),
            ("CNAME", "shop.zone.example", &["shop", "SHOP", "shop.zone.example."]),
            ("CNAME", "zone.example", &["@", "Zone.Example"]),
            ("CNAME", "localhost.", &["localhost.", "LOCALHOST."]),
            ("CNAME", "xn--bcher-kva.example", &["bücher.example", "BÜCHER.example."]),
            ("MX", ".", &["."]),
            ("SRV", "0 443 a.example.com", &["0 443 a.example.com", "00 443   A.example.com."]),
            ("SRV", "0 0 .", &["0 0 ."]),
            (
                "CAA",
                "0 issue \"x.example\"",
                &["0 issue \"x.example\"", "0 ISSUE x.example", "000 issue  x.example"],
            ),
            ("CAA", "128 issuemail \";\"", &["128 issuemail ;", "128 IssueMail \"\\;\""]),
            ("CAA", "0 tbs2 \"\\\"\"", &["0 tbs2 \"\\034\""]),
            (
                "TXT",
                "abc",
                &["abc", "\"abc\"", "\"a\\098c\"", "( \"abc\" )", " abc\r\n", "\"abc\" ; key of x"],
            ),
            ("TXT", "\"a\" \"b\"", &["\"a\" \"b\"", "( \"a\"\n\t\"b\" ) ; note", "\"a\"\"b\""]),
            ("TXT", "\" a \"", &["\" a \""]),
            ("TXT", "\"\"", &["\"\""]),
            ("TXT", "\"a\\010b\"", &["\"a\\010b\""]),
            ("TXT", "\"\\\"a\\\"\"", &["\"\\\"a\\\"\""]),
            ("TXT", "say \"hi\" \\o/", &["say \"hi\" \\o/", "\"say \\\"hi\\\" \\\\o/\""]),
            ("TXT", "é", &["é", "\"\\195\\169\""]),
        ] {
            for spelling in spellings {
                assert_eq!(content(record_type, spelling), wanted, "{record_type} {spelling:?}");
            }
        }
        let long = "x".repeat(300);
        let parts = format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45));
        assert_eq!((content("TXT", &long), content("TXT", &parts)), (long.clone(), long));
        let full = "\"".repeat(4096).replace("\"\"", "\"a");
        assert_eq!(RecordData::accept("TXT", &format!("x{}", &full[1..]), ZONE).map(|_| ()), Ok(()));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_what_to_do() {
        for (record_type, given, reason) in [
            ("CNAME", "192.0.2.1", "is an address"),
            ("CNAME", "192.0.2.1.", "is an address"),
            ("NS", "10.1", "is an address"),
            ("MX", "2001:db8::1", "is an address"),
            ("MX", "[2001:db8::1]", "is an address"),
            ("SRV", "0 443 192.0.2.1", "is an address"),
            ("CNAME", "https://example.com/", "is a URL"),
            ("CNAME", ".", "the name is empty"),
            ("NS", "a\\.b.example", "a label consists of"),
            ("MX", "10 mail.example.com", "10 as the priority"),
            ("SRV", "1 2 443 a.example", "goes into the priority"),
            ("SRV", "+1 443 a.example", "weight"),
            ("CAA", "0 is-sue x", "letters and digits"),
            ("CAA", "0 issue \"a\" \"b\"", "one text"),
            ("CAA", "0 issue a\"b", "in quotes"),
            ("CAA", "0 issue \"a\\010\"", "printable"),
            ("TXT", "v=DKIM1; p=abc\ndef", "line break"),
            ("TXT", "a\u{7}b", "control character"),
            ("TXT", "\"abc\ndef\"", "line break"),
            ("TXT", "\"abc", "not closed"),
            ("TXT", "( \"abc\"", "parenthesis"),
            ("TXT", "\"abc\" def", "outside the quotes"),
            ("TXT", "\"abc\" )", "outside the quotes"),
            ("TXT", "\"a\\300\"", "escape"),
            ("TXT", "v=DKIM1\\; p=x", "\\;"),
            ("TXT", "v=DKIM1; \" \"p=x", "begin of another"),
            ("TXT", "x IN TXT ( \"a\" )", "whole line"),
            ("TXT", "\u{201c}v=spf1 -all\u{201d}", "typographic"),
            ("TXT", &"x".repeat(4097), "at most 4096"),
            ("TXT", &"\"\" ".repeat(257), "at most 256"),
            ("TXT", " \n ", "is required"),
            ("PTR", "a.example", "no record type"),
        ] {
            let refusal = refusal(record_type, given);
            assert!(refusal.contains(reason), "{record_type} {given:?}: {refusal}");
        }
    }

    #[test]
    fn what_older_builds_stored_is_still_read() {
        for (record_type, stored, served) in [
            ("TXT", "v=DKIM1; p=abc\n", "\"v=DKIM1; p=abc\\010\""),
            ("TXT", "\"open", "\"\\\"open\""),
            ("TXT", " a ", "\" a \""),
            ("CNAME", "192.0.2.1", "192.0.2.1."),
            ("AAAA", "2001:DB8::1", "2001:db8::1"),
        ] {
            let data = RecordData::read(record_type, stored, ZONE).unwrap();
            assert_eq!(data.presentation(None), served, "{stored:?}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_wire() {
        let size = |record_type: &str, given: &str| {
            RecordData::accept(record_type, given, ZONE).unwrap().wire_bytes()
        };
        assert_eq!(size("AAAA", "::1"), 16);
        assert_eq!(size("MX", "."), 3);
        assert_eq!(size("MX", "a.example"), 2 + 11);
        assert_eq!(size("TXT", &"x".repeat(256)), 258);
        assert_eq!(size("CAA", "0 issue \";\""), 8);
    }
}
