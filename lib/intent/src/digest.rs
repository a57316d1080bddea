//! The digest that both ends of the feed compare: a sum, so that a change costs its own items only.

use std::fmt;

use crate::{Item, Key};

/// Bytes of an item that is digested in one piece.
const WHOLE: usize = 256;

/// Sum modulo 2^256 of [`item_digest`] over a set of items. Order does not matter; adding and removing are exact inverses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

/// BLAKE3 over kind, key and the stored bytes, each with its length, so that no two different items read the same.
#[must_use]
pub fn item_digest(key: &Key, value: &[u8]) -> [u8; 32] {
    let (kind, name, bytes) =
        (key.kind.to_le_bytes(), (key.name.len() as u64).to_le_bytes(), (value.len() as u64).to_le_bytes());
    let parts = [&kind[..], &name, key.name.as_bytes(), &bytes, value];
    // Most items are small, and of one piece the digest costs half.
    let (mut whole, mut length) = ([0; WHOLE], 0);
    for part in parts {
        let Some(place) = whole.get_mut(length..length + part.len()) else {
            let mut hasher = blake3::Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            return *hasher.finalize().as_bytes();
        };
        place.copy_from_slice(part);
        length += part.len();
    }
    *blake3::hash(whole.get(..length).unwrap_or_default()).as_bytes()
}

impl Digest {
    /// Of the empty set.
    pub const EMPTY: Self = Self([0; 4]);

    /// Puts an item into the set.
    pub fn add(&mut self, key: &Key, value: &[u8]) {
        self.sum(limbs(item_digest(key, value)));
    }

    /// Takes an item out of the set. The caller vouches that it is in it.
    pub fn remove(&mut self, key: &Key, value: &[u8]) {
        let mut negative = limbs(item_digest(key, value)).map(|limb| !limb);
        let mut carry = true;
        for limb in &mut negative {
            (*limb, carry) = limb.overflowing_add(u64::from(carry));
        }
        self.sum(negative);
    }

    /// Of all `items`.
    #[must_use]
    pub fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let mut digest = Self::EMPTY;
        for item in items {
            digest.add(&item.key, &item.value);
        }
        digest
    }

    /// Little endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Digest::to_bytes`]; `None` unless there are 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(limbs(bytes.try_into().ok()?)))
    }

    fn sum(&mut self, other: [u64; 4]) {
        let mut carry = false;
        for (limb, add) in self.0.iter_mut().zip(other) {
            let (sum, first) = limb.overflowing_add(add);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn limbs(bytes: [u8; 32]) -> [u64; 4] {
    let mut limbs = [0; 4];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        *limb = u64::from_le_bytes(word);
    }
    limbs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn removing_undoes_adding_in_any_order() {
        let keys: Vec<Key> = (0..200).map(|n| Key::new(Kind::Route, format!("host-{n}.example"))).collect();
        let mut digest = Digest::EMPTY;
        for key in &keys {
            digest.add(key, b"value");
        }
        let mut reversed = Digest::EMPTY;
        for key in keys.iter().rev() {
            reversed.add(key, b"value");
        }
        assert_eq!(digest, reversed);
        assert_ne!(digest, Digest::EMPTY);
        assert_eq!(Digest::from_bytes(&digest.to_bytes()), Some(digest));
        for key in &keys {
            digest.remove(key, b"value");
        }
        assert_eq!(digest, Digest::EMPTY);
    }

    #[test]
    fn the_digest_is_the_same_however_large_an_item_is() {
        for bytes in (0..40).map(|n| WHOLE - 40 + n).chain([0, 1, 5_000]) {
            let (key, value) = (Key::new(Kind::Route, "a.example"), vec![7; bytes]);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&key.kind.to_le_bytes()).update(&9_u64.to_le_bytes()).update(b"a.example");
            hasher.update(&(bytes as u64).to_le_bytes()).update(&value);
            assert_eq!(item_digest(&key, &value), *hasher.finalize().as_bytes(), "{bytes}");
        }
    }

    #[test]
    fn every_part_of_an_item_counts() {
        let key = Key::new(Kind::Route, "a.example");
        let base = item_digest(&key, b"v");
        assert_ne!(base, item_digest(&key, b"w"));
        assert_ne!(base, item_digest(&Key::new(Kind::Route, "b.example"), b"v"));
        assert_ne!(base, item_digest(&Key::new(Kind::Zone, "a.example"), b"v"));
        assert_ne!(
            item_digest(&Key::new(Kind::Route, "a"), b"bc"),
            item_digest(&Key::new(Kind::Route, "ab"), b"c")
        );
    }
}
