//! Names in wire form and as keys of a zone's map.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Longest name in wire form, RFC 1035 §2.3.4.
pub(crate) const MAX_NAME: usize = 255;
/// Most labels of a name, the root not counted.
pub(crate) const MAX_LABELS: usize = 127;

/// Octets of [`Octets`] that need no memory elsewhere.
const SHORT: usize = 22;

/// A few octets: the key of a map. Most names are short enough to lie in the map itself, so that a lookup compares without
/// following pointers. Compares and hashes as the slice that it holds.
#[derive(Clone)]
pub(crate) enum Octets {
    Short(u8, [u8; SHORT]),
    Long(Arc<[u8]>),
}

impl Octets {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(length, octets) => octets.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(octets) => octets,
        }
    }
}

impl From<&[u8]> for Octets {
    fn from(octets: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..octets.len()), u8::try_from(octets.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(octets);
                Self::Short(length, short)
            }
            _ => Self::Long(octets.into()),
        }
    }
}

impl Borrow<[u8]> for Octets {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Octets {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Octets {}

impl PartialOrd for Octets {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Octets {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Octets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

/// A name in wire form, lower case, with the place of each label.
#[derive(Clone)]
pub(crate) struct NameBuf {
    bytes: [u8; MAX_NAME],
    len: usize,
    starts: [u8; MAX_LABELS],
    labels: usize,
}

impl NameBuf {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; MAX_NAME], len: 0, starts: [0; MAX_LABELS], labels: 0 }
    }

    /// Reads a name without compression from the front of `wire`, lowering its case. `None` when it is no sound name or
    /// does not end in `wire`.
    pub(crate) fn read(wire: &[u8]) -> Option<Self> {
        let mut name = Self::new();
        name.set(wire)?;
        Some(name)
    }

    /// As [`NameBuf::read`], in place.
    pub(crate) fn set(&mut self, wire: &[u8]) -> Option<()> {
        let (mut at, mut labels) = (0usize, 0usize);
        loop {
            let length = usize::from(*wire.get(at)?);
            if length == 0 {
                break;
            }
            // The two top bits mark compression and its retired relatives (RFC 1035 §4.1.4, RFC 6891 §5).
            if length > 63 || at + 1 + length >= MAX_NAME {
                return None;
            }
            *self.starts.get_mut(labels)? = u8::try_from(at).ok()?;
            labels += 1;
            at += 1 + length;
        }
        let len = at + 1;
        let (to, from) = (self.bytes.get_mut(..len)?, wire.get(..len)?);
        for (to, from) in to.iter_mut().zip(from) {
            // Length octets are below 64 and so never letters.
            *to = from.to_ascii_lowercase();
        }
        (self.len, self.labels) = (len, labels);
        Some(())
    }

    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// Without its first `skip` labels; the root when there are no more.
    pub(crate) fn suffix(&self, skip: usize) -> &[u8] {
        let start = if skip < self.labels {
            self.starts.get(skip).map_or(0, |start| usize::from(*start))
        } else {
            self.len.saturating_sub(1)
        };
        self.bytes.get(start..self.len).unwrap_or_default()
    }

    /// Whether the name is `apex` or lies under it; `apex` lower case in wire form.
    pub(crate) fn is_under(&self, apex: &[u8]) -> bool {
        self.labels_above(apex).is_some()
    }

    /// How many labels the name has in front of `apex`; `None` when it does not lie there.
    pub(crate) fn labels_above(&self, apex: &[u8]) -> Option<usize> {
        let start = self.len.checked_sub(apex.len())?;
        if self.bytes.get(start..self.len)? != apex {
            return None;
        }
        if start + 1 == self.len {
            return Some(self.labels);
        }
        self.starts.get(..self.labels)?.iter().position(|at| usize::from(*at) == start)
    }

    /// Makes the key under which a zone keeps the name: its labels above the apex, the one nearest the apex first.
    pub(crate) fn key(&self, above: usize, key: &mut KeyBuf) {
        key.clear();
        for start in self.starts.iter().take(above.min(self.labels)).rev() {
            let start = usize::from(*start);
            let length = self.bytes.get(start).map_or(0, |length| usize::from(*length));
            key.push_label(self.bytes.get(start + 1..start + 1 + length).unwrap_or_default());
        }
    }
}

/// A key of a zone's map: labels from the apex outwards, each ended by a zero, with zeros and ones inside a label escaped.
/// Keys compare as octets exactly as names compare in canonical order (RFC 4034 §6.1), and a name's descendants
/// are the keys that it is a prefix of.
#[derive(Clone)]
pub(crate) struct KeyBuf {
    bytes: [u8; 2 * MAX_NAME],
    len: usize,
}

/// The label of a wildcard, as in a key.
const WILDCARD: [u8; 2] = [b'*', 0];

impl KeyBuf {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; 2 * MAX_NAME], len: 0 }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    /// Cuts the key to its first `len` octets and puts a wildcard label behind them.
    pub(crate) fn wildcard_below(&mut self, len: usize) {
        self.len = len.min(self.len);
        WILDCARD.into_iter().for_each(|byte| self.push(byte));
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn push_label(&mut self, label: &[u8]) {
        for byte in label {
            if *byte <= 1 {
                self.push(1);
                self.push(byte + 1);
            } else {
                self.push(*byte);
            }
        }
        self.push(0);
    }
}

/// Where each ancestor of `key` ends, nearest the apex first, `key` itself last; the apex is not among them.
pub(crate) fn ancestor_ends(key: &[u8]) -> impl Iterator<Item = usize> + '_ {
    key.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1)
}

/// The key of the name one label nearer the apex; `None` for a name right below it and for the apex.
pub(crate) fn parent(key: &[u8]) -> Option<&[u8]> {
    let (_, front) = key.split_last()?;
    let end = front.iter().rposition(|byte| *byte == 0)?;
    key.get(..=end)
}

/// The key of a wildcard name?
pub(crate) fn is_wildcard(key: &[u8]) -> bool {
    key.strip_suffix(&WILDCARD).is_some_and(|rest| rest.is_empty() || rest.ends_with(&[0]))
}

/// The wire form of a name as intents spell it: checked, lower case, no trailing dot.
pub(crate) fn wire_of(text: &str) -> Option<Box<[u8]>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        wire.push(length);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then(|| wire.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NameBuf {
        NameBuf::read(&wire_of(text).unwrap()).unwrap()
    }

    fn key(text: &str, apex: &str) -> Vec<u8> {
        let mut buf = KeyBuf::new();
        let name = name(text);
        name.key(name.labels_above(&wire_of(apex).unwrap()).unwrap(), &mut buf);
        buf.as_slice().to_vec()
    }

    #[test]
    fn keys_sort_in_canonical_order() {
        // The example of RFC 4034 §6.1.
        let labels: [&[&[u8]]; 9] = [
            &[],
            &[b"a"],
            &[b"yljkjljk", b"a"],
            &[b"z", b"a"],
            &[b"zabc", b"a"],
            &[b"z"],
            &[b"\x01", b"z"],
            &[b"*", b"z"],
            &[b"\xc8", b"z"],
        ];
        let keys: Vec<Vec<u8>> = labels
            .iter()
            .map(|labels| {
                let mut wire: Vec<u8> = Vec::new();
                for label in labels.iter().chain([&b"example".as_slice()]) {
                    wire.push(label.len() as u8);
                    wire.extend_from_slice(label);
                }
                wire.push(0);
                let mut buf = KeyBuf::new();
                NameBuf::read(&wire).unwrap().key(labels.len(), &mut buf);
                buf.as_slice().to_vec()
            })
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
    }

    #[test]
    fn names_are_read_with_care() {
        assert!(NameBuf::read(b"").is_none());
        assert!(NameBuf::read(b"\x03ww").is_none());
        assert!(NameBuf::read(b"\xc0\x0c").is_none());
        assert!(NameBuf::read(&[b"\x40".as_slice(), &[b'a'; 64], b"\0"].concat()).is_none());
        let mut long = [[1, b'A']; 127].concat();
        long.push(0);
        let name = NameBuf::read(&long).unwrap();
        assert_eq!((name.len(), name.labels()), (255, 127));
        let mut longer = [[1, b'A']; 128].concat();
        longer.push(0);
        assert!(NameBuf::read(&longer).is_none());
        assert_eq!(NameBuf::read(b"\0rest").unwrap().wire(), b"\0");
        // The longest key there can be: every octet escaped.
        let mut buf = KeyBuf::new();
        let mut wire = [[1, 0]; 127].concat();
        wire.push(0);
        NameBuf::read(&wire).unwrap().key(127, &mut buf);
        assert_eq!(buf.as_slice().len(), 127 * 3);
    }

    #[test]
    fn octets_are_their_slice() {
        assert_eq!(size_of::<Octets>(), 24);
        let texts: Vec<Vec<u8>> = (0..60).map(|length| vec![b'a'; length]).collect();
        let octets: Vec<Octets> = texts.iter().map(|text| Octets::from(text.as_slice())).collect();
        assert!(octets.windows(2).all(|pair| pair[0] < pair[1]));
        let hasher = ahash::RandomState::new();
        for (text, octets) in texts.iter().zip(&octets) {
            assert_eq!(text, octets.as_slice());
            assert_eq!(hasher.hash_one(text.as_slice()), hasher.hash_one(octets));
        }
    }

    #[test]
    fn suffixes_and_keys() {
        let www = name("www.a.example");
        assert_eq!(www.suffix(1), &*wire_of("a.example").unwrap());
        assert_eq!(www.suffix(3), b"\0");
        assert_eq!(www.labels_above(&wire_of("example").unwrap()), Some(2));
        assert_eq!(www.labels_above(&wire_of("ample").unwrap()), None);
        assert_eq!(www.labels_above(b"\0"), Some(3));
        assert_eq!(key("www.a.example", "example"), b"a\0www\0");
        assert_eq!(ancestor_ends(b"a\0www\0").collect::<Vec<_>>(), [2, 6]);
        assert_eq!((parent(b"a\0www\0"), parent(b"a\0"), parent(b"")), (Some(b"a\0".as_slice()), None, None));
        assert!(is_wildcard(b"a\0*\0") && is_wildcard(b"*\0") && !is_wildcard(b"a*\0"));
    }
}
