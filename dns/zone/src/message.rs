//! Writing a response into a buffer that the caller owns.

use crate::name::NameBuf;
use crate::query::{Edns, HEADER, Query};
use crate::record::{Data, QUESTION_POINTER, RECORD_HEADER, RrSet, compressible, target_at};
use crate::rtype;
use crate::zone::Zone;

/// Response codes (RFC 1035 §4.1.1, RFC 2136, RFC 6891).
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The query is malformed.
    pub const FORMERR: u16 = 1;
    /// The server cannot answer now.
    pub const SERVFAIL: u16 = 2;
    /// No such name.
    pub const NXDOMAIN: u16 = 3;
    /// This kind of query is not implemented.
    pub const NOTIMP: u16 = 4;
    /// The server does not answer for the name.
    pub const REFUSED: u16 = 5;
    /// The request is signed with a key that the server does not have.
    pub const NOTAUTH: u16 = 9;
    /// An EDNS version that the server does not speak.
    pub const BADVERS: u16 = 16;

    /// Mnemonic, for logs and metrics.
    #[must_use]
    pub fn name(code: u16) -> &'static str {
        match code {
            NOERROR => "NOERROR",
            FORMERR => "FORMERR",
            SERVFAIL => "SERVFAIL",
            NXDOMAIN => "NXDOMAIN",
            NOTIMP => "NOTIMP",
            REFUSED => "REFUSED",
            NOTAUTH => "NOTAUTH",
            BADVERS => "BADVERS",
            _ => "OTHER",
        }
    }
}

/// The message has no room for what was to be written.
#[derive(Debug)]
pub(crate) struct Full;

/// Sections by their place among the counts of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Length of an OPT record without options.
pub(crate) const OPT: usize = 11;
/// Length of an extended error option without text (RFC 8914).
const EXTENDED_ERROR: usize = 6;
/// The largest UDP payload that we offer to receive, RFC 9715.
const OFFERED_PAYLOAD: u16 = 1232;

/// The OPT record of an answer with `code`, up to its `length` bytes of options (RFC 6891 §6.1.2).
pub(crate) fn opt(edns: Edns, code: u16, length: u8) -> [u8; OPT] {
    let [p0, p1] = OFFERED_PAYLOAD.to_be_bytes();
    let flags = if edns.dnssec_ok { 0x80 } else { 0 };
    [0, 0, rtype::OPT as u8, p0, p1, (code >> 4) as u8, 0, flags, 0, 0, length]
}

/// Where a name begins that later names may point to, and how long it is written out.
#[derive(Clone, Copy, Default)]
struct Seen {
    at: u16,
    length: u8,
}

/// Names remembered for compression. More than fits is still correct, only longer.
const MAX_SEEN: usize = 48;

/// A response in the making.
pub(crate) struct Writer<'a> {
    buf: &'a mut [u8],
    at: usize,
    /// How far records may go; room for OPT is kept behind it.
    limit: usize,
    question_end: usize,
    counts: [u16; 3],
    seen: [Seen; MAX_SEEN],
    seen_count: usize,
}

impl<'a> Writer<'a> {
    /// Begins a response to `query`, whose first bytes are `packet`: id, question and the flags that come back are copied.
    /// `size` is the most that it may have.
    pub(crate) fn new(packet: &[u8], query: &Query, size: usize, buf: &'a mut [u8]) -> Result<Self, Full> {
        let mut writer = Self {
            limit: buf.len().min(size),
            buf,
            at: 0,
            question_end: query.end,
            counts: [0; 3],
            seen: [Seen::default(); MAX_SEEN],
            seen_count: 0,
        };
        writer.put(packet.get(..query.end).ok_or(Full)?)?;
        writer.reset();
        if query.edns.is_some() {
            // An extended error needs no room of its own: it goes with answers that have no records.
            writer.limit = writer.limit.saturating_sub(OPT);
        }
        Ok(writer)
    }

    /// Back to a response with nothing but the question: QR and the copied RD bit (RFC 1035 §4.1.1).
    pub(crate) fn reset(&mut self) {
        self.at = self.question_end;
        self.counts = [0; 3];
        self.seen_count = 0;
        if let Some([_, _, high, low, _, one, counts @ ..]) = self.buf.first_chunk_mut::<HEADER>() {
            *high = 0x80 | (*high & 0x01);
            *low = 0;
            *one = 1;
            *counts = [0; 6];
        }
    }

    pub(crate) fn authoritative(&mut self) {
        self.flag(2, 0x04);
    }

    pub(crate) fn not_authoritative(&mut self) {
        if let Some(byte) = self.buf.get_mut(2) {
            *byte &= !0x04;
        }
    }

    pub(crate) fn is_authoritative(&self) -> bool {
        self.buf.get(2).is_some_and(|byte| byte & 0x04 != 0)
    }

    pub(crate) fn truncate(&mut self) {
        self.flag(2, 0x02);
    }

    fn flag(&mut self, at: usize, bits: u8) {
        if let Some(byte) = self.buf.get_mut(at) {
            *byte |= bits;
        }
    }

    /// Puts the counts, the response code and the OPT record in; returns the length.
    pub(crate) fn finish(mut self, code: u16, edns: Option<Edns>, extended_error: Option<u16>) -> usize {
        self.flag(3, (code & 0x0f) as u8);
        if let Some(edns) = edns {
            self.limit = self.buf.len();
            let length = if extended_error.is_some() { EXTENDED_ERROR as u8 } else { 0 };
            if self.put(&opt(edns, code, length)).is_ok() {
                self.count(Section::Additional, 1);
            }
            if let Some(info) = extended_error {
                let [i0, i1] = info.to_be_bytes();
                let _ = self.put(&[0, 15, 0, 2, i0, i1]);
            }
        }
        let [a, b, c] = self.counts.map(u16::to_be_bytes);
        if let Some([_, _, _, _, _, _, counts @ ..]) = self.buf.first_chunk_mut::<HEADER>() {
            *counts = [a[0], a[1], b[0], b[1], c[0], c[1]];
        }
        self.at
    }

    /// Where the writer stands, to come back to with [`Writer::rewind`].
    pub(crate) fn mark(&self) -> (usize, [u16; 3], usize) {
        (self.at, self.counts, self.seen_count)
    }

    pub(crate) fn rewind(&mut self, mark: (usize, [u16; 3], usize)) {
        (self.at, self.counts, self.seen_count) = mark;
    }

    fn count(&mut self, section: Section, records: u16) {
        let slot = match section {
            Section::Answer => self.counts.get_mut(0),
            Section::Authority => self.counts.get_mut(1),
            Section::Additional => self.counts.get_mut(2),
        };
        if let Some(slot) = slot {
            *slot += records;
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.at + bytes.len();
        if end > self.limit {
            return Err(Full);
        }
        self.buf.get_mut(self.at..end).ok_or(Full)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    /// Remembers the name at `at`, `length` bytes when written out, and each of its suffixes.
    fn remember(&mut self, mut at: usize, mut length: usize) {
        while length > 1 && at < 0x4000 {
            let Some(label) = self.buf.get(at).map(|label| usize::from(*label)) else { return };
            let Some(slot) = self.seen.get_mut(self.seen_count) else { return };
            let (Ok(short), Ok(place)) = (u8::try_from(length), u16::try_from(at)) else { return };
            if label == 0 || label > 63 {
                return;
            }
            *slot = Seen { at: place, length: short };
            self.seen_count += 1;
            at += 1 + label;
            length = length.saturating_sub(1 + label);
        }
    }

    /// Where `name` already stands in the message.
    fn place_of(&self, name: &[u8]) -> Option<u16> {
        let seen = self.seen.get(..self.seen_count)?;
        seen.iter()
            .find(|seen| usize::from(seen.length) == name.len() && self.reads(usize::from(seen.at), name))
            .map(|seen| seen.at)
    }

    /// Whether the name at `at` is `name`, whatever its case. What is there was written or checked by us.
    fn reads(&self, mut at: usize, name: &[u8]) -> bool {
        let mut rest = name;
        // Each step uses up a label or follows a pointer backwards.
        loop {
            let Some(length) = self.buf.get(at).map(|length| usize::from(*length)) else { return false };
            if length >= 0xc0 {
                let Some(low) = self.buf.get(at + 1) else { return false };
                let to = (length & 0x3f) << 8 | usize::from(*low);
                if to >= at {
                    return false;
                }
                at = to;
                continue;
            }
            let (Some(here), Some(there)) = (self.buf.get(at..=at + length), rest.get(..=length)) else {
                return false;
            };
            if !here.eq_ignore_ascii_case(there) {
                return false;
            }
            if length == 0 {
                return true;
            }
            at += 1 + length;
            rest = rest.get(1 + length..).unwrap_or_default();
        }
    }

    /// Writes a name in wire form, compressed against what stands in the message. Returns where it can be pointed to.
    fn name(&mut self, name: &[u8]) -> Result<Option<u16>, Full> {
        if self.seen_count == 0 {
            let length = self.question_end.saturating_sub(HEADER + 4);
            self.remember(HEADER, length);
        }
        let begin = self.at;
        let mut from = 0;
        loop {
            let suffix = name.get(from..).unwrap_or_default();
            let label = suffix.first().map_or(0, |label| usize::from(*label));
            if label == 0 {
                self.put(&[0])?;
                break;
            }
            if let Some(place) = self.place_of(suffix) {
                self.put(&(0xc000 | place).to_be_bytes())?;
                if from == 0 {
                    return Ok(Some(place));
                }
                break;
            }
            self.put(suffix.get(..=label).unwrap_or_default())?;
            from += 1 + label;
        }
        self.remember(begin, name.len());
        Ok(u16::try_from(begin).ok().filter(|begin| *begin < 0x4000))
    }

    /// Writes an RRset owned by `owner`. Returns how many records it had; `None` while its address set is not known.
    pub(crate) fn rrset(
        &mut self,
        section: Section,
        owner: &Owner<'_>,
        set: &RrSet,
    ) -> Result<Option<u16>, Full> {
        self.records(section, owner, set, set.number)
    }

    /// The same for what [`crate::zone::Node::get`] has for the type `number`: an RRset of addresses has HTTPS records too.
    pub(crate) fn records(
        &mut self,
        section: Section,
        owner: &Owner<'_>,
        set: &RrSet,
        number: u16,
    ) -> Result<Option<u16>, Full> {
        let mut owner = self.resolve(owner);
        let written = match &set.data {
            Data::Wire { records, count } => {
                if matches!(owner, Known::Pointer(QUESTION_POINTER)) && !compressible(set.number) {
                    self.put(records)?;
                } else {
                    let fixed = records.get(2..RECORD_HEADER - 2).unwrap_or_default();
                    for rdata in set.rdata() {
                        self.owner(&mut owner)?;
                        self.put(fixed)?;
                        self.rdata(set.number, rdata)?;
                    }
                }
                *count
            }
            Data::Addresses { cell, .. } => match (&*cell.load(), number) {
                (Some(addresses), rtype::A) => self.each(&mut owner, (number, set.ttl), &addresses.v4)?,
                (Some(addresses), rtype::HTTPS) => {
                    self.each(&mut owner, (number, set.ttl), &addresses.https)?
                }
                (Some(addresses), _) => self.each(&mut owner, (number, set.ttl), &addresses.v6)?,
                (None, _) => return Ok(None),
            },
        };
        self.count(section, written);
        Ok(Some(written))
    }

    /// Writes records of one type and TTL, whose data has no name that could be compressed.
    fn each(
        &mut self,
        owner: &mut Known<'_>,
        (number, ttl): (u16, u32),
        data: &[impl AsRef<[u8]>],
    ) -> Result<u16, Full> {
        for rdata in data.iter().map(AsRef::as_ref) {
            self.owner(owner)?;
            self.fixed(number, ttl)?;
            self.put(&u16::try_from(rdata.len()).map_err(|_| Full)?.to_be_bytes())?;
            self.put(rdata)?;
        }
        u16::try_from(data.len()).map_err(|_| Full)
    }

    /// Type, class and TTL.
    fn fixed(&mut self, number: u16, ttl: u32) -> Result<(), Full> {
        let [t0, t1] = number.to_be_bytes();
        let [a, b, c, d] = ttl.to_be_bytes();
        self.put(&[t0, t1, 0, 1, a, b, c, d])
    }

    fn rdata(&mut self, number: u16, rdata: &[u8]) -> Result<(), Full> {
        let length_at = self.at;
        self.put(&u16::try_from(rdata.len()).map_err(|_| Full)?.to_be_bytes())?;
        match target_at(number).filter(|_| compressible(number)).and_then(|at| rdata.split_at_checked(at)) {
            Some((front, name)) => {
                self.put(front)?;
                self.name(name)?;
                self.set_length(length_at)
            }
            None => {
                let begin = self.at;
                self.put(rdata)?;
                // SRV targets are not compressed, but what follows may point to them.
                if let Some(at) = target_at(number) {
                    self.remember(begin + at, rdata.len().saturating_sub(at));
                }
                Ok(())
            }
        }
    }

    /// Puts the length of what was written since into the field at `at`.
    fn set_length(&mut self, at: usize) -> Result<(), Full> {
        let length = u16::try_from(self.at.saturating_sub(at + 2)).map_err(|_| Full)?;
        self.buf.get_mut(at..at + 2).ok_or(Full)?.copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Writes a zone's SOA. In a negative answer its TTL is at most the SOA's MINIMUM (RFC 2308 §3).
    pub(crate) fn soa(
        &mut self,
        section: Section,
        zone: &Zone,
        serial_offset: u32,
        negative: bool,
    ) -> Result<(), Full> {
        let apex = &*zone.apex;
        self.name(zone.name.as_slice())?;
        self.fixed(rtype::SOA, if negative { apex.ttl.min(apex.minimum) } else { apex.ttl })?;
        let length_at = self.at;
        self.put(&[0, 0])?;
        self.name(&apex.primary)?;
        self.name(&apex.mailbox)?;
        // Serials wrap around (RFC 1982).
        let serial = apex.serial.wrapping_add(serial_offset);
        for number in [serial, apex.refresh, apex.retry, apex.expire, apex.minimum] {
            self.put(&number.to_be_bytes())?;
        }
        self.set_length(length_at)?;
        self.count(section, 1);
        Ok(())
    }

    /// Writes the HINFO that stands for everything at a name (RFC 8482 §4.2).
    pub(crate) fn minimal_any(&mut self, owner: &Owner<'_>, ttl: u32) -> Result<(), Full> {
        let mut owner = self.resolve(owner);
        self.owner(&mut owner)?;
        self.fixed(rtype::HINFO, ttl)?;
        self.put(b"\0\x09\x07RFC8482\0")?;
        self.count(Section::Answer, 1);
        Ok(())
    }

    fn resolve<'b>(&self, owner: &Owner<'b>) -> Known<'b> {
        match owner {
            Owner::Question => Known::Pointer(QUESTION_POINTER),
            Owner::Name(name) => Known::Name(name),
        }
    }

    /// Writes an owner: the first time as a name, then as a pointer to it.
    fn owner(&mut self, owner: &mut Known<'_>) -> Result<(), Full> {
        match owner {
            Known::Pointer(pointer) => self.put(&pointer.to_be_bytes()),
            Known::Name(name) => {
                if let Some(place) = self.name(name)? {
                    *owner = Known::Pointer(0xc000 | place);
                }
                Ok(())
            }
        }
    }
}

/// Whose records are written.
pub(crate) enum Owner<'a> {
    /// The question's name.
    Question,
    /// Another, in wire form.
    Name(&'a [u8]),
}

impl<'a> Owner<'a> {
    /// Of a name that is the question's unless `moved`.
    pub(crate) fn of(name: &'a NameBuf, moved: bool) -> Self {
        if moved { Self::Name(name.wire()) } else { Self::Question }
    }
}

enum Known<'a> {
    Pointer(u16),
    Name(&'a [u8]),
}
