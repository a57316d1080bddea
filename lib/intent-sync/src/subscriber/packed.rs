//! The view in few bytes. Nearly all of it is in effect as the feed said it last, and lies in blocks in the order of the keys, where an item
//! is written as what differs from the one before it; the rest, of which there is little, is kept as it is.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use hosting_intent::{Bytes, Cause, Key};
use hosting_ledger::{Quarantined, Record, Stored};
use prost::encoding::{decode_varint, encode_varint};

/// Bytes of a block that takes no more, and of the parts of one that is split: what a look-up reads through, and what a change writes anew.
const BLOCK: usize = 2_048;
/// Bytes of a block that is split.
const SPLIT: usize = 2 * BLOCK;

/// An item in effect, as it is written into a block.
#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    kind: u32,
    name: &'a [u8],
    revision: u64,
    cause: Cause,
    value: &'a [u8],
}

impl<'a> Packed<'a> {
    fn new(key: &'a Key, stored: &'a Stored) -> Self {
        let (kind, name) = place(key);
        Self { kind, name, revision: stored.revision, cause: stored.cause, value: &stored.value }
    }

    fn key(&self) -> Key {
        // It was text when it was written.
        Key { kind: self.kind, name: String::from_utf8(self.name.to_vec()).unwrap_or_default() }
    }

    fn stored(&self) -> Stored {
        Stored { revision: self.revision, value: Bytes::copy_from_slice(self.value), cause: self.cause }
    }

    fn place(&self) -> (u32, &'a [u8]) {
        (self.kind, self.name)
    }
}

fn place(key: &Key) -> (u32, &[u8]) {
    (key.kind, key.name.as_bytes())
}

/// Bytes at the beginning of both.
fn common_begin(one: &[u8], other: &[u8]) -> usize {
    let (ones, others) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    let same = ones.iter().zip(others).take_while(|(one, other)| one == other).count() * 8;
    let rest = one.iter().zip(other).skip(same);
    same + rest.take_while(|(one, other)| one == other).count()
}

/// Bytes at the end of both.
fn common_end(one: &[u8], other: &[u8]) -> usize {
    let (ones, others) = (one.as_rchunks::<8>().1, other.as_rchunks::<8>().1);
    let same = ones.iter().rev().zip(others.iter().rev()).take_while(|(one, other)| one == other).count() * 8;
    let rest = one.iter().rev().zip(other.iter().rev()).skip(same);
    same + rest.take_while(|(one, other)| one == other).count()
}

/// Writes what of `after` is neither the beginning nor the end of `before`.
fn encode_difference(before: &[u8], after: &[u8], out: &mut Vec<u8>) {
    let begin = common_begin(before, after);
    let (rest_before, rest) =
        (before.get(begin..).unwrap_or_default(), after.get(begin..).unwrap_or_default());
    let end = common_end(rest_before, rest);
    let own = rest.get(..rest.len() - end).unwrap_or_default();
    for number in [begin, end, own.len()] {
        match u8::try_from(number) {
            Ok(small @ 0..0x80) => out.push(small),
            _ => encode_varint(number as u64, out),
        }
    }
    out.extend_from_slice(own);
}

/// Makes of what was before what comes after it; `None` for bytes that [`encode_difference`] did not write.
fn decode_difference(rest: &mut &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let mut number = || usize::try_from(decode_varint(rest).ok()?).ok();
    let (begin, end, own) = (number()?, number()?, number()?);
    let own = rest.split_off(..own)?;
    let replaced = begin..bytes.len().checked_sub(end).filter(|end| begin <= *end)?;
    if own.len() == replaced.len() {
        bytes.get_mut(replaced)?.copy_from_slice(own);
    } else {
        drop(bytes.splice(replaced, own.iter().copied()));
    }
    Some(())
}

/// Reads a block.
struct Reader<'a> {
    rest: &'a [u8],
    name: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(block: &'a [u8]) -> Self {
        Self { rest: block, name: Vec::new(), value: Vec::new() }
    }

    fn next(&mut self) -> Option<Packed<'_>> {
        let head = decode_varint(&mut self.rest).ok()?;
        let revision = decode_varint(&mut self.rest).ok()?;
        decode_difference(&mut self.rest, &mut self.name)?;
        decode_difference(&mut self.rest, &mut self.value)?;
        let cause = match head & 3 {
            1 => Cause::Person,
            2 => Cause::Restore,
            _ => Cause::Planner,
        };
        let kind = u32::try_from(head >> 2).ok()?;
        Some(Packed { kind, name: &self.name, revision, cause, value: &self.value })
    }

    /// The item at a place.
    fn find(mut self, wanted: (u32, &[u8])) -> Option<Stored> {
        while let Some(packed) = self.next() {
            if packed.place() >= wanted {
                return (packed.place() == wanted).then(|| packed.stored());
            }
        }
        None
    }
}

/// Blocks, each under the key of its first item.
type Blocks = BTreeMap<Key, Box<[u8]>>;

/// Writes items into blocks, in the order of their keys.
#[derive(Debug, Default)]
struct Packer {
    /// The key of the block under way.
    first: Option<Key>,
    bytes: Vec<u8>,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Packer {
    /// Adds an item after all others; a block that has `limit` bytes takes no more.
    fn push(&mut self, blocks: &mut Blocks, limit: usize, packed: Packed<'_>) {
        if self.bytes.len() >= limit {
            self.finish(blocks);
        }
        self.first.get_or_insert_with(|| packed.key());
        let cause = match packed.cause {
            Cause::Planner => 0,
            Cause::Person => 1,
            Cause::Restore => 2,
        };
        encode_varint(u64::from(packed.kind) << 2 | cause, &mut self.bytes);
        encode_varint(packed.revision, &mut self.bytes);
        encode_difference(&self.name, packed.name, &mut self.bytes);
        encode_difference(&self.value, packed.value, &mut self.bytes);
        self.follow(packed);
    }

    /// What is added next is written as what differs from this.
    fn follow(&mut self, packed: Packed<'_>) {
        for (before, after) in [(&mut self.name, packed.name), (&mut self.value, packed.value)] {
            before.clear();
            before.extend_from_slice(after);
        }
    }

    fn finish(&mut self, blocks: &mut Blocks) {
        if let Some(first) = self.first.take() {
            blocks.insert(first, self.bytes.as_slice().into());
        }
        self.bytes.clear();
        self.name.clear();
        self.value.clear();
    }
}

/// A view that is read in the order of the keys.
#[derive(Default)]
pub(super) struct Loading {
    view: View,
    packer: Packer,
}

impl Loading {
    pub(super) fn add(&mut self, key: &Key, record: Record) {
        match &record {
            Record::Accepted(stored) => {
                self.packer.push(&mut self.view.blocks, BLOCK, Packed::new(key, stored));
                self.view.accepted += 1;
            }
            Record::Quarantined(_) => {
                self.view.others.insert(key.clone(), record);
            }
        }
    }

    pub(super) fn done(mut self) -> View {
        self.packer.finish(&mut self.view.blocks);
        self.view
    }
}

/// What the feed wants, and what is in effect of it.
#[derive(Default)]
pub(super) struct View {
    blocks: Blocks,
    /// Items in the blocks.
    accepted: usize,
    /// What has another form: quarantined items.
    others: BTreeMap<Key, Record>,
}

impl View {
    pub(super) fn len(&self) -> usize {
        self.accepted + self.others.len()
    }

    fn accepted(&self, key: &Key) -> Option<Stored> {
        let (_, block) = self.blocks.range(..=key).next_back()?;
        Reader::new(block).find(place(key))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Record> {
        self.accepted(key).map(Record::Accepted).or_else(|| self.others.get(key).cloned())
    }

    /// What is in effect.
    pub(super) fn effective(&self, key: &Key) -> Option<Stored> {
        self.accepted(key).or_else(|| self.others.get(key)?.effective().cloned())
    }

    /// What the feed said last.
    pub(super) fn wanted(&self, key: &Key) -> Option<Stored> {
        self.accepted(key).or_else(|| self.others.get(key)?.wanted().cloned())
    }

    pub(super) fn quarantined(&self, key: &Key) -> Option<&Quarantined> {
        self.others.get(key)?.quarantined()
    }

    /// Returns what was there.
    pub(super) fn insert(&mut self, key: &Key, record: Record) -> Option<Record> {
        match record {
            Record::Accepted(stored) => {
                let before = self.others.remove(key);
                self.change(key, Some(&stored)).map(Record::Accepted).or(before)
            }
            Record::Quarantined(_) => {
                let before = self.change(key, None).map(Record::Accepted);
                before.or(self.others.insert(key.clone(), record))
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Record> {
        self.change(key, None).map(Record::Accepted).or_else(|| self.others.remove(key))
    }

    /// Writes an item into its block, or takes it out; returns what was there.
    fn change(&mut self, key: &Key, stored: Option<&Stored>) -> Option<Stored> {
        let at = self.blocks.range(..=key).next_back().or_else(|| self.blocks.first_key_value());
        let at = at.map(|(first, _)| first.clone());
        let (first, block) = at.and_then(|first| self.blocks.remove_entry(&first)).unzip();
        let block = block.unwrap_or_default();
        let (mut reader, mut packer) = (Reader::new(&block), Packer::default());
        let (mut unchanged, mut before, mut behind) = (0, None, None);
        while let Some(packed) = reader.next() {
            match packed.place().cmp(&place(key)) {
                Ordering::Less => {
                    packer.follow(packed);
                    unchanged = block.len() - reader.rest.len();
                }
                Ordering::Equal => before = Some(packed.stored()),
                Ordering::Greater => {
                    behind = Some((packed.key(), packed.stored()));
                    break;
                }
            }
        }
        // The items before it and those after the one behind it stay as they are written.
        packer.first = first.filter(|_| unchanged > 0);
        packer.bytes.extend_from_slice(block.get(..unchanged).unwrap_or_default());
        if let Some(stored) = stored {
            packer.push(&mut self.blocks, usize::MAX, Packed::new(key, stored));
        }
        if let Some((key, stored)) = &behind {
            packer.push(&mut self.blocks, usize::MAX, Packed::new(key, stored));
        }
        packer.bytes.extend_from_slice(reader.rest);
        if packer.bytes.len() > SPLIT {
            let (mut reader, mut parts) = (Reader::new(&packer.bytes), Packer::default());
            while let Some(packed) = reader.next() {
                parts.push(&mut self.blocks, BLOCK, packed);
            }
            parts.finish(&mut self.blocks);
        } else {
            packer.finish(&mut self.blocks);
        }
        self.accepted += usize::from(stored.is_some());
        self.accepted -= usize::from(before.is_some());
        before
    }

    fn all_accepted(&self) -> impl Iterator<Item = (Key, Stored)> {
        self.blocks.values().flat_map(|block| {
            let mut reader = Reader::new(block);
            std::iter::from_fn(move || reader.next().map(|packed| (packed.key(), packed.stored())))
        })
    }

    /// Everything, in the order of the keys. Walks over the world, once for each start, snapshot or repair of the ledger.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Record)> {
        let mut accepted =
            self.all_accepted().map(|(key, stored)| (key, Record::Accepted(stored))).peekable();
        let mut others = self.others.iter().map(|(key, record)| (key.clone(), record.clone())).peekable();
        std::iter::from_fn(move || match (accepted.peek(), others.peek()) {
            (Some((accepted_key, _)), Some((other_key, _))) if other_key < accepted_key => others.next(),
            (None, Some(_)) => others.next(),
            (_, _) => accepted.next(),
        })
    }

    /// The keys of everything that the feed wants, in any order.
    pub(super) fn wanted_keys(&self) -> impl Iterator<Item = Key> {
        let others = self.others.iter().filter(|(_, record)| record.wanted().is_some());
        self.all_accepted().map(|(key, _)| key).chain(others.map(|(key, _)| key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use hosting_intent::Kind;
    use hosting_ledger::Why;
    use proptest::prelude::*;

    use super::*;

    fn stored(revision: u64, value: &[u8]) -> Stored {
        Stored { revision, value: Bytes::copy_from_slice(value), cause: Cause::Restore }
    }

    fn held(good: Option<Stored>) -> Record {
        let reason = "because".to_owned();
        Record::Quarantined(Box::new(Quarantined { why: Why::Held, reason, revision: 9, wanted: None, good }))
    }

    /// Whatever way a view came about, it shows what an ordered map would.
    fn assert_shows(view: &View, model: &BTreeMap<Key, Record>) {
        assert_eq!(view.len(), model.len());
        assert_eq!(view.iter().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
        let mut wanted: Vec<Key> = view.wanted_keys().collect();
        wanted.sort();
        let model_wanted = model.iter().filter(|(_, record)| record.wanted().is_some());
        assert_eq!(wanted, model_wanted.map(|(key, _)| key.clone()).collect::<Vec<_>>());
        for (key, record) in model {
            assert_eq!(view.get(key).as_ref(), Some(record));
            assert_eq!(view.effective(key).as_ref(), record.effective());
            assert_eq!(view.wanted(key).as_ref(), record.wanted());
            assert_eq!(view.quarantined(key), record.quarantined());
        }
    }

    fn key() -> impl Strategy<Value = Key> {
        (prop_oneof![3_u32..5, Just(u32::MAX)], "[ab]{0,2}(\\.example|ä{1,90})?")
            .prop_map(|(kind, name)| Key { kind, name })
    }

    fn record() -> impl Strategy<Value = Record> {
        let value =
            prop_oneof![prop::collection::vec(0_u8..3, 0..12), prop::collection::vec(any::<u8>(), 0..2_000),];
        let cause = prop_oneof![Just(Cause::Planner), Just(Cause::Person), Just(Cause::Restore)];
        (value, any::<u64>(), cause, 0..8).prop_map(|(value, revision, cause, form)| {
            let stored = Stored { revision, value: value.into(), cause };
            match form {
                0 => held(None),
                1 => held(Some(stored)),
                _ => Record::Accepted(stored),
            }
        })
    }

    proptest! {
        #[test]
        fn does_what_an_ordered_map_does(
            loaded in prop::collection::btree_map(key(), record(), 0..40),
            changes in prop::collection::vec((key(), prop::option::weighted(0.7, record())), 0..120),
        ) {
            let mut loading = Loading::default();
            loaded.clone().into_iter().for_each(|(key, record)| loading.add(&key, record));
            let (mut view, mut model) = (loading.done(), loaded);
            assert_shows(&view, &model);
            for (key, change) in changes {
                let (before, expected) = match change {
                    Some(record) => (view.insert(&key, record.clone()), model.insert(key.clone(), record)),
                    None => (view.remove(&key), model.remove(&key)),
                };
                prop_assert_eq!(before, expected);
                prop_assert_eq!(view.get(&key), model.get(&key).cloned());
            }
            assert_shows(&view, &model);
        }
    }

    #[test]
    fn many_items_take_few_bytes_and_no_block_is_large() {
        let keys: Vec<Key> =
            (0..4_000).map(|n| Key::new(Kind::Route, format!("www.site-{n}.example.net"))).collect();
        let value = |n: usize| {
            stored(n as u64, format!("tenant t_{} webroot web_{n:010} shard s1", n / 50).as_bytes())
        };
        let (mut grown, mut loading) = (View::default(), Loading::default());
        // From a start, and one by one in an order that is not theirs.
        let mut sorted: Vec<(&Key, usize)> = keys.iter().zip(0..).collect();
        sorted.sort();
        for (key, n) in sorted {
            loading.add(key, Record::Accepted(value(n)));
        }
        for n in (0..keys.len()).map(|n| n * 7_919 % keys.len()) {
            assert_eq!(grown.insert(&keys[n], Record::Accepted(value(n))), None);
        }
        let loaded = loading.done();
        assert!(loaded.iter().eq(grown.iter()));
        for view in [&loaded, &grown] {
            let bytes: usize =
                view.blocks.iter().map(|(first, block)| first.name.len() + block.len() + 100).sum();
            assert!(bytes < 50 * keys.len(), "{bytes} bytes");
            assert!(view.blocks.values().all(|block| block.len() <= SPLIT + 200));
        }
        for key in &keys {
            assert!(grown.remove(key).is_some());
        }
        assert!(grown.blocks.is_empty());
    }
}
