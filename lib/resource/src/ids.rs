//! How ids are made. Randomness is an argument: whoever calls decides where it comes from.

use std::fmt;

/// Fills a buffer with random bytes.
pub type Entropy<'a> = &'a mut (dyn FnMut(&mut [u8]) + Send);

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// How a kind's ids come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdPolicy {
    /// The prefix and 10 random characters of `[a-z0-9]`. Such an id is a system identifier too (user, folder, unit).
    Prefixed(&'static str),
    /// A random UUID (version 4).
    Uuid,
    /// The caller's, else a random UUID.
    CallerOrUuid,
    /// The caller's; it must be given, and is unique in the brand. The store keeps it as [`in_brand`] spells it.
    Caller,
}

impl fmt::Display for IdPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefixed(prefix) => write!(f, "{prefix} and 10 of a-z 0-9"),
            Self::Uuid => f.write_str("UUIDv4"),
            Self::CallerOrUuid => f.write_str("chosen by the caller, else UUIDv4"),
            Self::Caller => f.write_str("chosen by the caller, unique in its brand"),
        }
    }
}

/// Parts a brand's id from one that is unique in the brand only. No id that a caller chooses holds it.
pub(crate) const IN_BRAND: char = '~';

/// The id under which the store keeps what `brand` calls `id`: free, whatever ids other brands and other kinds have.
#[must_use]
pub fn in_brand(brand: &str, id: &str) -> String {
    format!("{brand}{IN_BRAND}{id}")
}

/// The id by which callers know what the store keeps under `id`.
#[must_use]
pub fn public_id(id: &str) -> &str {
    id.rsplit_once(IN_BRAND).map_or(id, |(_, public)| public)
}

/// The prefix and 10 random characters of `[a-z0-9]`: 51 bits.
#[must_use]
pub fn prefixed(prefix: &str, entropy: Entropy<'_>) -> String {
    let mut id = String::with_capacity(prefix.len() + 10);
    id.push_str(prefix);
    let mut left = 10;
    while left > 0 {
        let mut bytes = [0u8; 16];
        entropy(&mut bytes);
        // 252 = 7 × 36: bytes above would make some characters likelier than others.
        for byte in bytes.into_iter().filter(|byte| *byte < 252).take(left) {
            if let Some(character) = ALPHABET.get(usize::from(byte % 36)) {
                id.push(char::from(*character));
                left -= 1;
            }
        }
    }
    id
}

/// A random UUID (version 4, RFC 9562 §5.4).
#[must_use]
pub fn uuid(entropy: Entropy<'_>) -> String {
    let mut bytes = [0u8; 16];
    entropy(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_documented_form() {
        let mut next = 0u8;
        let mut entropy = |buffer: &mut [u8]| {
            for byte in buffer {
                *byte = next;
                next = next.wrapping_add(37);
            }
        };
        let id = prefixed("t_", &mut entropy);
        assert_eq!(id.len(), 12);
        assert!(id.starts_with("t_"));
        assert!(id.bytes().skip(2).all(|b| ALPHABET.contains(&b)));
        let uuid = uuid(&mut entropy);
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
        assert_ne!(prefixed("t_", &mut entropy), id);
    }

    #[test]
    fn ids_of_a_brand_are_known_by_their_own_part() {
        assert_eq!(public_id(&in_brand("acme", "crm:4711")), "crm:4711");
        assert_eq!(public_id("crm-4711"), "crm-4711");
        assert!(crate::check::foreign_id("id", &in_brand("acme", "crm-1")).is_err(), "nobody can choose one");
    }

    #[test]
    fn bytes_that_would_bias_the_result_are_skipped() {
        let mut calls = 0;
        let mut entropy = |buffer: &mut [u8]| {
            calls += 1;
            buffer.fill(if calls == 1 { 255 } else { 1 });
        };
        assert_eq!(prefixed("t_", &mut entropy), "t_bbbbbbbbbb");
    }
}
