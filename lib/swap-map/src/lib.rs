//! A map in buckets, each swapped atomically: a change costs its bucket, readers never wait.
//!
//! Owns the data structure behind the DNS server's zone map and the edge's certificates. A reader loads one pointer and looks
//! into an immutable table; a writer copies the touched buckets, changes the copies and swaps them in. It never blocks a
//! reader, never rebuilds what a batch does not touch, and knows nothing of what it holds.
//!
//! Hashing is keyed with seeds drawn at random per process, so that nobody outside can aim names at one bucket.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::RandomState;
use arc_swap::ArcSwap;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Buckets of [`SwapMap::new`]: with a million entries a change copies about sixty of them.
pub const DEFAULT_BUCKETS: usize = 16_384;

/// More buckets than this are cut back to it; the bucket number must not share hash bits with a bucket's own table.
pub const MAX_BUCKETS: usize = 1 << 20;

type Bucket<K, V> = HashTable<(K, V)>;

/// A hash map of immutable snapshots, for very many readers and few writers.
///
/// Keys and values are cloned when their bucket is rebuilt, so both should be cheap to clone (`Arc<str>`, small copies).
/// A batch is atomic per bucket, not across buckets: what must change together belongs in one value.
pub struct SwapMap<K, V> {
    buckets: Box<[ArcSwap<Bucket<K, V>>]>,
    mask: usize,
    hasher: RandomState,
    len: AtomicUsize,
    /// Writers copy, change and swap; two at once on one bucket would lose a change.
    writer: Mutex<()>,
}

impl<K, V> Default for SwapMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> fmt::Debug for SwapMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwapMap")
            .field("buckets", &self.buckets.len())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<K, V> SwapMap<K, V> {
    /// An empty map in [`DEFAULT_BUCKETS`] buckets.
    #[must_use]
    pub fn new() -> Self {
        Self::with_buckets(DEFAULT_BUCKETS)
    }

    /// An empty map in `buckets` buckets, rounded up to a power of two and cut to 1..=[`MAX_BUCKETS`]. An empty bucket
    /// costs 8 bytes.
    #[must_use]
    pub fn with_buckets(buckets: usize) -> Self {
        let count = buckets.clamp(1, MAX_BUCKETS).next_power_of_two();
        let empty = Arc::new(Bucket::new());
        Self {
            buckets: (0..count).map(|_| ArcSwap::new(Arc::clone(&empty))).collect(),
            mask: count - 1,
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            writer: Mutex::new(()),
        }
    }

    /// Entries. While a batch is being applied, the number before or after one of its buckets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many buckets the map was made with.
    #[must_use]
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// Calls `visit` with every entry, bucket by bucket, in an order that means nothing and differs between processes.
    /// Entries changed meanwhile are seen either as before or as after.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        for bucket in &self.buckets {
            for (key, value) in bucket.load().iter() {
                visit(key, value);
            }
        }
    }

    fn slot(&self, hash: u64) -> Option<&ArcSwap<Bucket<K, V>>> {
        // hashbrown uses the lowest bits and the top seven within a bucket; these are neither.
        self.buckets.get((hash >> 32) as usize & self.mask)
    }
}

impl<K: Hash + Eq, V> SwapMap<K, V> {
    /// Looks at the value of `key` without cloning it. No allocation, no lock.
    pub fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let bucket = self.slot(hash)?.load();
        bucket.find(hash, |(k, _)| k.borrow() == key).map(|(_, value)| look(value))
    }

    /// A clone of the value of `key`. No lock.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.read(key, V::clone)
    }

    /// Whether there is an entry of `key`.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |_| ()).is_some()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SwapMap<K, V> {
    /// Applies a batch: `Some` sets, `None` removes, of several changes to one key the last counts. Rebuilds each touched
    /// bucket once, whatever the number of changes to it. Readers see every change when this returns.
    pub fn update(&self, changes: impl IntoIterator<Item = (K, Option<V>)>) {
        let mut changes: Vec<(u64, K, Option<V>)> =
            changes.into_iter().map(|(key, value)| (self.hasher.hash_one(&key), key, value)).collect();
        let bucket_of = |hash: u64| (hash >> 32) as usize & self.mask;
        changes.sort_by_key(|(hash, ..)| bucket_of(*hash)); // stable: order within a key is kept
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = changes.into_iter().peekable();
        while let Some(&(hash, ..)) = changes.peek() {
            let (number, Some(slot)) = (bucket_of(hash), self.slot(hash)) else { return };
            let mut bucket = Bucket::clone(&slot.load());
            let before = bucket.len();
            let rehash = |(key, _): &(K, V)| self.hasher.hash_one(key);
            while let Some((hash, key, value)) = changes.next_if(|(hash, ..)| bucket_of(*hash) == number) {
                match (bucket.entry(hash, |(k, _)| *k == key, rehash), value) {
                    (Entry::Occupied(mut entry), Some(value)) => entry.get_mut().1 = value,
                    (Entry::Occupied(entry), None) => {
                        entry.remove();
                    }
                    (Entry::Vacant(entry), Some(value)) => {
                        entry.insert((key, value));
                    }
                    (Entry::Vacant(_), None) => {}
                }
            }
            if bucket.len() < bucket.capacity() / 4 {
                bucket.shrink_to_fit(rehash);
            }
            let after = bucket.len();
            slot.store(Arc::new(bucket));
            if after >= before {
                self.len.fetch_add(after - before, Ordering::Relaxed);
            } else {
                self.len.fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }

    /// Sets one entry. A batch of many is far cheaper through [`SwapMap::update`].
    pub fn insert(&self, key: K, value: V) {
        self.update([(key, Some(value))]);
    }

    /// Removes one entry, if there is one.
    pub fn remove(&self, key: K) {
        self.update([(key, None)]);
    }

    /// Every entry in key order, for dumps: independent of the random seeds.
    #[must_use]
    pub fn sorted(&self) -> Vec<(K, V)>
    where
        K: Ord,
    {
        let mut entries = Vec::with_capacity(self.len());
        self.for_each(|key, value| entries.push((key.clone(), value.clone())));
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn does_what_an_ordered_map_does(
            buckets in 1usize..40,
            batches in prop::collection::vec(prop::collection::vec(("[a-e]{0,3}", prop::option::of(0u32..9)), 0..60), 0..12),
        ) {
            let map: SwapMap<Arc<str>, u32> = SwapMap::with_buckets(buckets);
            let mut model: BTreeMap<String, u32> = BTreeMap::new();
            for batch in batches {
                map.update(batch.iter().map(|(key, value)| (Arc::from(key.as_str()), *value)));
                for (key, value) in batch {
                    match value {
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
                let entries: Vec<(String, u32)> = map.sorted().into_iter().map(|(k, v)| (k.to_string(), v)).collect();
                prop_assert_eq!(&entries, &model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
                for key in ["", "a", "ab", "abc", "eee", "zz"] {
                    prop_assert_eq!(map.get(key), model.get(key).copied());
                    prop_assert_eq!(map.contains_key(key), model.contains_key(key));
                }
            }
        }
    }

    #[test]
    fn bucket_counts_are_powers_of_two_within_limits() {
        assert_eq!(SwapMap::<u8, u8>::new().bucket_count(), DEFAULT_BUCKETS);
        assert_eq!(SwapMap::<u8, u8>::with_buckets(0).bucket_count(), 1);
        assert_eq!(SwapMap::<u8, u8>::with_buckets(20_000).bucket_count(), 32_768);
        assert_eq!(SwapMap::<u8, u8>::with_buckets(usize::MAX).bucket_count(), MAX_BUCKETS);
    }

    #[test]
    fn a_batch_rebuilds_the_touched_buckets_only() {
        let map: SwapMap<u32, u32> = SwapMap::with_buckets(64);
        map.update((0..1000).map(|n| (n, Some(n))));
        let before: Vec<_> = map.buckets.iter().map(ArcSwap::load_full).collect();
        map.insert(7, 70);
        let changed =
            map.buckets.iter().zip(&before).filter(|(now, then)| !Arc::ptr_eq(&now.load(), then)).count();
        assert_eq!((changed, map.len(), map.get(&7)), (1, 1000, Some(70)));
    }

    #[test]
    fn entries_spread_over_the_buckets() {
        let map: SwapMap<Arc<str>, ()> = SwapMap::with_buckets(256);
        map.update((0..25_600).map(|n| (Arc::from(format!("www.site-{n}.example")), Some(()))));
        let fullest = map.buckets.iter().map(|bucket| bucket.load().len()).max().unwrap();
        assert!(fullest < 160, "{fullest} of 25600 entries in one of 256 buckets");
    }

    #[test]
    fn readers_always_find_what_is_never_removed() {
        let map: Arc<SwapMap<u32, u64>> = Arc::new(SwapMap::with_buckets(8));
        map.update((0..512).map(|n| (n, Some(0))));
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (map, done) = (Arc::clone(&map), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let now = map.get(&3).expect("entry 3 is never removed");
                        assert!(now >= last, "went back from {last} to {now}");
                        last = now;
                    }
                })
            })
            .collect();
        for round in 1..3000u64 {
            map.update((0..8).map(|n| (n, Some(round))).chain([(1000, (round % 2 == 0).then_some(round))]));
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(map.get(&3), Some(2999));
    }
}
