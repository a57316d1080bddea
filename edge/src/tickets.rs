//! Session tickets (RFC 8446 §4.6.1, RFC 5077): sealed with keys that all edges of the cluster have, so that a session that began at one goes on at any
//! other. Until an edge has been told such keys it seals with one of its own, which opens nowhere else and ends with the process.
//!
//! Clients of HTTP bring things back too, to any edge (`browser_check`): these are signed with keys that follow from the same ones.
//!
//! A ticket is the key's name (16 bytes), a nonce (12) and what AES-256-GCM-SIV made of the session, bound to the name. Nonces are by chance and of many
//! edges: should two be alike, this cipher shows no more than that two sessions are (RFC 8452).

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, hmac, rand};
use hosting_intent::{Key, Rejection, message as m};
use hosting_intent_sync::client::AudienceKeys;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
/// How long a client may keep a ticket, in seconds: as long as a key that was replaced still opens.
const LIFETIME: u32 = 12 * 3_600;
/// Bytes of a signature: the key's name and the tag.
pub(crate) const SIGNATURE_LEN: usize = NAME_LEN + 32;

/// A key that seals tickets.
struct TicketKey {
    name: [u8; NAME_LEN],
    /// From when on it seals, in milliseconds since the Unix epoch.
    begins: i64,
    key: LessSafeKey,
    /// For signatures: follows from the same secret (RFC 5869), and neither says anything of the other.
    signs: hmac::Key,
}

impl TicketKey {
    fn new(name: [u8; NAME_LEN], begins: i64, key: &[u8]) -> Result<Self, Unspecified> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"hosting-edge").extract(key);
        let signs = root.expand(&[b"signatures for clients, 1"], hmac::HMAC_SHA256)?.into();
        Ok(Self { name, begins, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key)?), signs })
    }

    fn by_chance() -> Result<Self, Unspecified> {
        let mut name = [0; NAME_LEN];
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut name)?;
        rand::fill(&mut *key)?;
        Self::new(name, 0, &*key)
    }

    fn seal(&self, session: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut body = session.to_vec();
        let tag = self.key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.name),
            &mut body,
        )?;
        let parts: [&[u8]; 4] = [&self.name, &nonce, &body, tag.as_ref()];
        let ticket = parts.concat();
        Ok(ticket)
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// What the handshakes of an edge seal and open tickets with.
pub(crate) struct Tickets {
    own: TicketKey,
    /// Of the cluster, by `begins`; empty: not told yet.
    shared: ArcSwap<Vec<TicketKey>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("shared", &self.shared.load().len()).finish_non_exhaustive()
    }
}

fn opened(keys: &AudienceKeys, at: &Key, tickets: &m::TicketKeys) -> Result<Vec<TicketKey>, Rejection> {
    let invalid = |problem: &str| Rejection::Invalid { field: "keys.key", problem: problem.to_owned() };
    let each = tickets.keys.iter().map(|one| {
        let name =
            <[u8; NAME_LEN]>::try_from(&*one.name).map_err(|_| invalid("has a name of another length"))?;
        let sealed = one.key.as_ref().ok_or_else(|| invalid("is missing"))?;
        let text = keys.open(at, &format!("key/{}", hex::encode(name)), sealed)?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        hex::decode_to_slice(&*text, &mut *key).map_err(|_| invalid("is not 64 hexadecimal digits"))?;
        TicketKey::new(name, one.begins, &*key).map_err(|_| invalid("is no key"))
    });
    each.collect()
}

/// Whether the keys open.
///
/// # Errors
/// Why they do not. Nothing of them is in the message.
pub(crate) fn check(keys: &AudienceKeys, at: &Key, tickets: &m::TicketKeys) -> Result<(), Rejection> {
    opened(keys, at, tickets).map(drop)
}

impl Tickets {
    /// # Errors
    /// No random numbers to be had.
    pub(crate) fn new() -> Result<Self, Unspecified> {
        Ok(Self { own: TicketKey::by_chance()?, shared: ArcSwap::default() })
    }

    /// What the cluster's edges have alike from now on.
    ///
    /// # Errors
    /// Why the keys do not open: those before stay.
    pub(crate) fn put(
        &self,
        keys: &AudienceKeys,
        at: &Key,
        tickets: &m::TicketKeys,
    ) -> Result<(), Rejection> {
        self.shared.store(Arc::new(opened(keys, at, tickets)?));
        Ok(())
    }

    /// The cluster's edges have no keys alike any more.
    pub(crate) fn clear(&self) {
        self.shared.store(Arc::default());
    }

    /// Signs what a client brings back, to whichever edge of the cluster: with the key that seals, for as long as keys open.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.sealing(now(), |key| [&key.name[..], hmac::sign(&key.signs, message).as_ref()].concat())
    }

    /// Whether an edge of the cluster signed a message. Takes as long whatever is wrong with the tag.
    pub(crate) fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.named(signature, |key, tag| hmac::verify(&key.signs, message, tag).ok()).is_some()
    }

    /// Does something with the key that seals.
    fn sealing<T>(&self, now: i64, with: impl FnOnce(&TicketKey) -> T) -> T {
        let shared = self.shared.load();
        with(shared.iter().rfind(|key| key.begins <= now).or_else(|| shared.first()).unwrap_or(&self.own))
    }

    /// Does something with the key that a text begins with the name of, and the rest of that.
    fn named<T>(&self, text: &[u8], with: impl FnOnce(&TicketKey, &[u8]) -> Option<T>) -> Option<T> {
        let (name, rest) = text.split_first_chunk::<NAME_LEN>()?;
        let shared = self.shared.load();
        with(shared.iter().chain([&self.own]).find(|key| key.name == *name)?, rest)
    }

    fn seal_at(&self, now: i64, session: &[u8]) -> Option<Vec<u8>> {
        self.sealing(now, |key| key.seal(session).ok())
    }
}

/// By this machine's clock, in milliseconds since the Unix epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(now).unwrap_or(i64::MAX)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.seal_at(now(), session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.named(ticket, TicketKey::open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8, begins: i64) -> TicketKey {
        TicketKey::new([name; NAME_LEN], begins, &[name; KEY_LEN]).unwrap()
    }

    fn told(keys: &[(u8, i64)]) -> Tickets {
        let tickets = Tickets::new().unwrap();
        tickets.shared.store(Arc::new(keys.iter().map(|(name, begins)| key(*name, *begins)).collect()));
        tickets
    }

    #[test]
    fn what_one_edge_seals_any_other_opens_and_the_last_key_that_has_begun_seals() {
        let (one, other) = (told(&[(1, 10), (2, 20), (3, 30)]), told(&[(2, 20), (3, 30)]));
        for (now, by) in [(5, 1), (10, 1), (19, 1), (20, 2), (29, 2), (99, 3)] {
            let ticket = one.seal_at(now, b"session").unwrap();
            assert_eq!(ticket[..NAME_LEN], [by; NAME_LEN], "at {now}");
            assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
            // A key that an edge was not told, or that has ended, opens nothing there.
            assert_eq!(other.decrypt(&ticket).is_some(), by > 1, "at {now}");
        }
        let mut twice = [one.seal_at(20, b"session").unwrap(), one.seal_at(20, b"session").unwrap()];
        assert_ne!(twice[0], twice[1]);
        for at in 0..twice[0].len() {
            twice[0][at] ^= 1;
            assert_eq!(one.decrypt(&twice[0]), None, "byte {at}");
            twice[0][at] ^= 1;
            assert_eq!(one.decrypt(&twice[0][..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn an_edge_that_was_told_none_opens_what_it_sealed_itself() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        tickets.shared.store(Arc::new(vec![key(1, 0)]));
        assert_eq!(
            tickets.decrypt(&ticket).as_deref(),
            Some(&b"session"[..]),
            "it has met clients with these"
        );
        assert_eq!(tickets.encrypt(b"session").unwrap()[..NAME_LEN], [1; NAME_LEN]);
        assert_eq!(Tickets::new().unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn what_one_edge_signs_all_know_for_as_long_as_the_key_opens() {
        let (one, other) = (told(&[(1, 0), (2, i64::MAX)]), told(&[(1, 0), (2, 0)]));
        let mut signature = one.sign(b"message");
        assert_eq!((signature.len(), &signature[..NAME_LEN]), (SIGNATURE_LEN, &[1; NAME_LEN][..]));
        assert!(one.is_signed(b"message", &signature) && other.is_signed(b"message", &signature));
        assert!(
            !other.is_signed(b"massage", &signature) && !other.is_signed(b"message", &other.sign(b"other"))
        );
        assert!(!told(&[(2, 0)]).is_signed(b"message", &signature), "the key has ended");
        assert!(!other.is_signed(b"message", &signature[..NAME_LEN]) && !other.is_signed(b"message", b""));
        for at in 0..SIGNATURE_LEN {
            signature[at] ^= 1;
            assert!(!other.is_signed(b"message", &signature), "byte {at}");
            signature[at] ^= 1;
        }
        // Not with the secret itself, which seals.
        let bare = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; KEY_LEN]), b"message");
        assert_ne!(bare.as_ref(), &signature[NAME_LEN..]);
    }
}
