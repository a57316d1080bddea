//! HPACK from the decoder's side (RFC 7541).
//!
//! A block may come in pieces. What is needed of it to keep the table is read even when the list of fields is thrown away, so
//! that a request that is too large costs no other one its fields.

use std::collections::VecDeque;
use std::ops::Range;

use crate::huffman;

/// What the table holds when nothing else is announced (RFC 9113 §6.5.2), in the sizes of RFC 7541 §4.1.
const TABLE_SIZE: usize = 4_096;
/// What each entry counts beside its bytes (RFC 7541 §4.1).
const ENTRY: usize = 32;
/// A string that is longer than this stands for more bytes than the table holds, even if each of its symbols has 30 bits.
const NEVER_KEPT: usize = 16 * 1_024;

/// RFC 7541 Appendix A.
#[rustfmt::skip]
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""),
    (b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""),
    (b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b""),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""),
    (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""),
    (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
];

/// The block is not HPACK: what the table holds is not known any more, so the connection ends (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("an integer is larger than 28 bits")]
    Integer,
    #[error("no field has this index")]
    Index,
    #[error("a string is not Huffman coded")]
    Huffman,
    #[error("the table is made larger than announced, or within a block")]
    TableSize,
    #[error("the block ends within a field")]
    Truncated,
}

/// A field of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Field(&'a [u8], &'a [u8]),
    /// A field that is longer than the decoder's limit, which was read over.
    TooLong,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    longest: usize,
    skip: Option<Skip>,
    /// A field was there: the table's size cannot change any more in this block.
    in_list: bool,
    scratch: Vec<u8>,
}

/// A field that is read over.
#[derive(Debug, Clone, Copy)]
struct Skip {
    left: usize,
    /// The value is still to come.
    value: bool,
    indexed: bool,
}

/// Why reading stops.
enum Stop {
    /// The rest of a field is missing.
    Short,
    Bad(HpackError),
}

impl From<HpackError> for Stop {
    fn from(error: HpackError) -> Self {
        Self::Bad(error)
    }
}

impl Decoder {
    /// Keeps no string that is longer than `longest` bytes as it is sent.
    pub(crate) fn new(longest: usize) -> Self {
        Self {
            table: Table::default(),
            longest: longest.max(NEVER_KEPT),
            skip: None,
            in_list: false,
            scratch: Vec::new(),
        }
    }

    /// Reads the fields that are whole, and returns how many bytes they were. The rest, with what follows it, is given to the
    /// next call. `last`: nothing follows in this block.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        last: bool,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<usize, HpackError> {
        let mut reader = Reader { bytes: block, at: 0 };
        let mut whole = 0;
        while reader.at < block.len() || (last && self.skip.is_some()) {
            match self.item(&mut reader, sink) {
                Ok(()) => whole = reader.at,
                Err(Stop::Short) if last => return Err(HpackError::Truncated),
                Err(Stop::Short) => break,
                Err(Stop::Bad(error)) => return Err(error),
            }
        }
        if last {
            self.in_list = false;
            self.scratch = Vec::new();
        }
        Ok(whole)
    }

    fn item(&mut self, reader: &mut Reader<'_>, sink: &mut impl FnMut(Item<'_>)) -> Result<(), Stop> {
        if let Some(skip) = self.skip {
            return self.skip(skip, reader, sink);
        }
        let first = reader.peek()?;
        if first & 0b1110_0000 == 0b0010_0000 {
            let size = reader.integer(5)?;
            if self.in_list || size > TABLE_SIZE {
                return Err(HpackError::TableSize.into());
            }
            self.table.resize(size);
            return Ok(());
        }
        self.in_list = true;
        if first & 0b1000_0000 != 0 {
            let (name, value) = self.table.get(reader.integer(7)?)?;
            sink(Item::Field(name, value));
            return Ok(());
        }
        let indexed = first & 0b0100_0000 != 0;
        let index = reader.integer(if indexed { 6 } else { 4 })?;
        let name = if index == 0 {
            let (huffman, length) = reader.string()?;
            if length > self.longest {
                self.skip = Some(Skip { left: length, value: true, indexed });
                return Ok(());
            }
            Some((huffman, reader.take(length)?))
        } else {
            self.table.get(index)?;
            None
        };
        let (huffman, length) = reader.string()?;
        if length.saturating_add(name.map_or(0, |(_, name)| name.len())) > self.longest {
            self.skip = Some(Skip { left: length, value: false, indexed });
            return Ok(());
        }
        let value = reader.take(length)?;
        self.scratch.clear();
        let name = match name {
            Some((false, name)) => Some(Part::Sent(name)),
            Some((true, coded)) => Some(self.plain(coded)?),
            None => None,
        };
        let value = if huffman { self.plain(value)? } else { Part::Sent(value) };
        let name = match name {
            Some(part) => part.bytes(&self.scratch),
            None => self.table.get(index)?.0,
        };
        let value = value.bytes(&self.scratch);
        sink(Item::Field(name, value));
        if indexed {
            let entry = Entry::new(name, value);
            self.table.insert(entry);
        }
        Ok(())
    }

    fn plain<'a>(&mut self, coded: &'a [u8]) -> Result<Part<'a>, HpackError> {
        let begin = self.scratch.len();
        huffman::decode(coded, &mut self.scratch).map_err(|_| HpackError::Huffman)?;
        Ok(Part::Decoded(begin..self.scratch.len()))
    }

    fn skip(
        &mut self,
        mut skip: Skip,
        reader: &mut Reader<'_>,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<(), Stop> {
        let over = skip.left.min(reader.rest());
        reader.at += over;
        skip.left -= over;
        self.skip = Some(skip);
        if skip.left > 0 && over == 0 {
            return Err(Stop::Short);
        }
        if skip.left > 0 || (skip.value && over > 0) {
            return Ok(());
        }
        if skip.value {
            let (_, length) = reader.string()?;
            self.skip = Some(Skip { left: length, value: false, ..skip });
            return Ok(());
        }
        self.skip = None;
        if skip.indexed {
            // An entry that is larger than the table leaves it empty (RFC 7541 §4.4).
            self.table.evict(0);
        }
        sink(Item::TooLong);
        Ok(())
    }
}

/// Where a string's bytes are.
enum Part<'a> {
    Sent(&'a [u8]),
    Decoded(Range<usize>),
}

impl<'a> Part<'a> {
    fn bytes<'b>(self, scratch: &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Sent(bytes) => bytes,
            Self::Decoded(range) => scratch.get(range).unwrap_or_default(),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Short)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at.saturating_add(length)).ok_or(Stop::Short)?;
        self.at += length;
        Ok(taken)
    }

    /// RFC 7541 §5.1, up to 28 bits beside the prefix.
    fn integer(&mut self, prefix: u8) -> Result<usize, Stop> {
        let mask = (1u8 << prefix) - 1;
        let first = self.peek()? & mask;
        self.at += 1;
        let mut value = usize::from(first);
        if first < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.peek()?;
            self.at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer.into())
    }

    /// Whether a string is Huffman coded, and its length as it is sent.
    fn string(&mut self) -> Result<(bool, usize), Stop> {
        let huffman = self.peek()? & 0x80 != 0;
        Ok((huffman, self.integer(7)?))
    }
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    name: usize,
}

impl Entry {
    fn new(name: &[u8], value: &[u8]) -> Self {
        Self { bytes: [name, value].concat().into(), name: name.len() }
    }

    fn size(&self) -> usize {
        self.bytes.len() + ENTRY
    }
}

/// The dynamic table, the newest entry first.
#[derive(Debug)]
struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: TABLE_SIZE }
    }
}

impl Table {
    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some(field) = STATIC.get(index) {
            return Ok(*field);
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(HpackError::Index)?;
        Ok(entry.bytes.split_at_checked(entry.name).unwrap_or_default())
    }

    fn resize(&mut self, most: usize) {
        self.most = most;
        self.evict(most);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(self.most.saturating_sub(entry.size()));
        if entry.size() <= self.most {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    /// Decodes a block that comes in pieces of `piece`.
    fn decode(decoder: &mut Decoder, block: &[u8], piece: usize) -> Result<Fields, HpackError> {
        let (mut fields, mut rest) = (Vec::new(), Vec::new());
        let mut sink = |item: Item<'_>| match item {
            Item::Field(name, value) => fields.push((name.to_vec(), value.to_vec())),
            Item::TooLong => fields.push((Vec::new(), b"too long".to_vec())),
        };
        for piece in block.chunks(piece) {
            rest.extend_from_slice(piece);
            let whole = decoder.decode(&rest, false, &mut sink)?;
            rest.drain(..whole);
        }
        let whole = decoder.decode(&rest, true, &mut sink)?;
        assert_eq!(whole, rest.len());
        Ok(fields)
    }

    fn fields(fields: &[(&str, &str)]) -> Fields {
        fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn the_requests_of_the_rfc() {
        // Appendix C.3 without and C.4 with Huffman coding.
        for [first, second, third] in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            for piece in [1, 2, 3, 100] {
                let mut decoder = Decoder::new(1_000);
                let host = (":authority", "www.example.com");
                assert_eq!(
                    decode(&mut decoder, &hex(first), piece).unwrap(),
                    fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host])
                );
                assert_eq!(
                    decode(&mut decoder, &hex(second), piece).unwrap(),
                    fields(&[
                        (":method", "GET"),
                        (":scheme", "http"),
                        (":path", "/"),
                        host,
                        ("cache-control", "no-cache")
                    ])
                );
                assert_eq!(
                    decode(&mut decoder, &hex(third), piece).unwrap(),
                    fields(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", "/index.html"),
                        host,
                        ("custom-key", "custom-value")
                    ])
                );
                assert_eq!(decoder.table.size, 164);
            }
        }
    }

    #[test]
    fn what_is_not_hpack_is_said() {
        for (block, error) in [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("7f00 01 61", HpackError::Index),
            ("ffff ffff ff7f", HpackError::Integer),
            ("3fe2 1f", HpackError::TableSize),
            ("82 20", HpackError::TableSize),
            ("00 01 61 82 00 00", HpackError::Huffman),
            ("00 01 61", HpackError::Truncated),
            ("00 01 61 05 61", HpackError::Truncated),
            ("00 7f", HpackError::Truncated),
        ] {
            for piece in [1, 100] {
                assert_eq!(decode(&mut Decoder::new(1_000), &hex(block), piece), Err(error), "{block}");
            }
        }
    }

    #[test]
    fn the_table_follows_its_size() {
        let mut decoder = Decoder::new(1_000);
        // Two changes at the beginning are one to the smaller and one to the larger size.
        assert_eq!(
            decode(&mut decoder, &hex("20 3fe1 1f 40 01 61 01 62 be"), 1).unwrap(),
            fields(&[("a", "b"), ("a", "b")])
        );
        assert_eq!(decode(&mut decoder, &hex("3f03 be"), 1).unwrap(), fields(&[("a", "b")]));
        assert_eq!(decode(&mut decoder, &hex("3f02 be"), 1), Err(HpackError::Index));
    }

    /// A literal; the length's encoding is for those of 127 and more.
    fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        for part in [name, value] {
            crate::request::push_integer(&mut out, 7, 0, part.len());
            out.extend_from_slice(part);
        }
        out
    }

    #[test]
    fn what_is_too_long_is_read_over_and_the_table_stays_right() {
        for piece in [1, 1_000, 100_000] {
            for (name, value) in [(1, 40_000), (40_000, 1), (10_000, 10_000), (40_000, 40_000)] {
                let mut decoder = Decoder::new(1_000);
                let mut block = literal(0x40, b"a", b"b");
                block.extend(literal(0x00, &vec![b'n'; name], &vec![b'v'; value]));
                block.push(0xbe);
                let too_long = ("", "too long");
                assert_eq!(
                    decode(&mut decoder, &block, piece).unwrap(),
                    fields(&[("a", "b"), too_long, ("a", "b")])
                );
                let mut block = literal(0x40, &vec![b'n'; name], &vec![b'v'; value]);
                block.extend(literal(0x40, b"c", b"d"));
                block.push(0xbe);
                assert_eq!(
                    decode(&mut decoder, &block, piece).unwrap(),
                    fields(&[too_long, ("c", "d"), ("c", "d")])
                );
                assert_eq!(decoder.table.entries.len(), 1);
            }
        }
        assert_eq!(
            decode(&mut Decoder::new(1), &literal(0, b"a", &[0; 20_000])[..15_000], 1),
            Err(HpackError::Truncated)
        );
    }

    /// What an encoder may do with a field.
    #[derive(Debug, Clone)]
    enum Step {
        Literal { kind: u8, huffman: (bool, bool), name: Vec<u8>, value: Vec<u8> },
        Named { kind: u8, index: usize, value: Vec<u8> },
        Indexed(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![Just(0x00u8), Just(0x10), Just(0x40)];
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (kind.clone(), any::<(bool, bool)>(), bytes(), bytes())
                .prop_map(|(kind, huffman, name, value)| Step::Literal { kind, huffman, name, value }),
            (kind, 1..70usize, bytes()).prop_map(|(kind, index, value)| Step::Named { kind, index, value }),
            (1..80usize).prop_map(Step::Indexed),
        ]
    }

    fn push(out: &mut Vec<u8>, step: &Step) {
        let string = |out: &mut Vec<u8>, huffman: bool, text: &[u8]| {
            let coded = if huffman { huffman::encode(text) } else { text.to_vec() };
            crate::request::push_integer(out, 7, if huffman { 0x80 } else { 0 }, coded.len());
            out.extend_from_slice(&coded);
        };
        match step {
            Step::Literal { kind, huffman, name, value } => {
                out.push(*kind);
                string(out, huffman.0, name);
                string(out, huffman.1, value);
            }
            Step::Named { kind, index, value } => {
                crate::request::push_integer(out, if *kind == 0x40 { 6 } else { 4 }, *kind, *index);
                string(out, false, value);
            }
            Step::Indexed(index) => crate::request::push_integer(out, 7, 0x80, *index),
        }
    }

    proptest! {
        #[test]
        fn another_decoder_reads_the_same(blocks in proptest::collection::vec(proptest::collection::vec(step(), 0..12), 1..6), piece in 1usize..400) {
            let (mut ours, mut theirs) = (Decoder::new(60_000), loona_hpack::Decoder::new());
            for steps in blocks {
                let mut block = Vec::new();
                steps.iter().for_each(|step| push(&mut block, step));
                let (got, expected) = (decode(&mut ours, &block, piece), theirs.decode(&block));
                match (got, expected) {
                    (Ok(got), Ok(expected)) => prop_assert_eq!(got, expected),
                    (Err(_), Err(_)) => break,
                    (got, expected) => prop_assert!(false, "{:?} {:?}", got, expected),
                }
                prop_assert!(ours.table.size <= TABLE_SIZE);
            }
        }

        #[test]
        fn no_bytes_bring_the_decoder_down(block in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let whole = decode(&mut Decoder::new(100), &block, 1_000);
            prop_assert_eq!(decode(&mut Decoder::new(100), &block, piece), whole);
        }
    }
}
