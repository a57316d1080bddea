//! How a secret gets from the controller's store to the subscribers of one audience, and to nobody else.
//!
//! Each audience has a key of its own in versions ([`AudienceKey`]). Intents hold secrets sealed under it, which is what stands in the
//! log, in the ring, in ledgers and in backups. Each subscriber has a key pair ([`SealingKey`]); the controller seals each version of
//! the audience's key to it (HPKE, RFC 9180), and that travels as an intent of the audience (`AudienceKey`), in order with what it
//! opens. Called by the store, which seals, and by [`crate::client::AudienceKeys`], which opens. No I/O but for the key pair's file.

use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hosting_intent::{Audience, Key, message as m};
use hosting_scaffold::file::{create_whole, read_private};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

/// Bytes of every key here.
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// HPKE's `info`. A change of it makes every share worthless.
const SHARE: &[u8] = b"hosting audience key 1";
/// Context of BLAKE3's key derivation mode, for nonces. A change of it changes all that is sealed.
const NONCE: &str = "hosting sealed nonce 1";

/// Why something stays sealed, or cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Another key sealed it, or it was sealed for another place or reader, or it was altered.
    #[error("it was not sealed for this reader in this place, or it was altered")]
    NotOurs,
    /// The cryptographic library failed, or a public key is none.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// Where a sealed value stands. It opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose intent holds it.
    pub audience: &'a Audience,
    /// The intent's key.
    pub key: &'a Key,
    /// The field that holds it; within a map the entry's name follows, e.g. `env/NAME`.
    pub field: &'a str,
}

impl Place<'_> {
    fn to_bytes(self, version: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&self.key.kind.to_be_bytes());
        for part in [self.audience.to_string().as_str(), &self.key.name, self.field] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// One version of an audience's key. Debug output shows none of it; it is wiped when dropped.
#[derive(Clone)]
pub struct AudienceKey {
    version: u32,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for AudienceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudienceKey").field("version", &self.version).finish_non_exhaustive()
    }
}

impl AudienceKey {
    /// A key of random bytes; `version` counts from 1.
    #[must_use]
    pub const fn new(version: u32, bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self { version, bytes }
    }

    /// Which version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, self.bytes.as_slice()).map_err(|_| SealError::Crypto)?;
        Ok(LessSafeKey::new(key))
    }

    /// Seals a secret for one place. The same secret in the same place gives the same bytes, because planning compares them; that
    /// it is the same is all that they tell. The nonce follows from key, place and secret, under a cipher for which even a repeated
    /// one would tell no more (RFC 8452).
    ///
    /// # Errors
    /// [`SealError::Crypto`].
    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<m::Sealed, SealError> {
        let bound = place.to_bytes(self.version);
        let nonce = Zeroizing::new(blake3::derive_key(NONCE, self.bytes.as_slice()));
        let mut hasher = blake3::Hasher::new_keyed(&nonce);
        hasher.update(&(bound.len() as u64).to_be_bytes()).update(&bound).update(plain);
        let mut nonce = [0; NONCE_LEN];
        hasher.finalize_xof().fill(&mut nonce);

        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&bound), &mut body)
            .map_err(|_| SealError::Crypto)?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(m::Sealed { version: self.version, sealed: sealed.into() })
    }

    /// Opens what [`AudienceKey::seal`] sealed for the same place.
    ///
    /// # Errors
    /// [`SealError::NotOurs`], [`SealError::Crypto`].
    pub fn open(&self, place: Place<'_>, sealed: &m::Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, body) = sealed.sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::NotOurs)?;
        let mut body = Zeroizing::new(body.to_vec());
        let bound = place.to_bytes(self.version);
        let plain = self
            .cipher()?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(&bound), &mut body)
            .map_err(|_| SealError::NotOurs)?
            .len();
        body.truncate(plain);
        Ok(body)
    }

    /// The key, sealed to one subscriber of its audience.
    ///
    /// # Errors
    /// [`SealError::Crypto`]: among others when `reader` is no public key.
    pub fn share(&self, audience: &Audience, reader: &[u8; KEY_BYTES]) -> Result<m::AudienceKey, SealError> {
        let (EncapsulatedSecret(encapsulated), sealed) = SUITE
            .seal(
                SHARE,
                &share_of(audience, self.version),
                self.bytes.as_slice(),
                &HpkePublicKey(reader.to_vec()),
            )
            .map_err(|_| SealError::Crypto)?;
        Ok(m::AudienceKey { encapsulated: encapsulated.into(), sealed: sealed.into() })
    }

    /// The inverse of [`AudienceKey::share`], for that subscriber.
    ///
    /// # Errors
    /// [`SealError::NotOurs`].
    pub fn from_share(
        audience: &Audience,
        version: u32,
        share: &m::AudienceKey,
        reader: &SealingKey,
    ) -> Result<Self, SealError> {
        let encapsulated = EncapsulatedSecret(share.encapsulated.to_vec());
        let opened =
            SUITE.open(&encapsulated, SHARE, &share_of(audience, version), &share.sealed, &reader.private);
        let opened = Zeroizing::new(opened.map_err(|_| SealError::NotOurs)?);
        let bytes = opened.as_slice().try_into().map_err(|_| SealError::NotOurs)?;
        Ok(Self { version, bytes: Zeroizing::new(bytes) })
    }
}

fn share_of(audience: &Audience, version: u32) -> Vec<u8> {
    format!("{version} {audience}").into_bytes()
}

/// A subscriber's key pair (X25519). The private key leaves this type for its file only.
pub struct SealingKey {
    private: HpkePrivateKey,
    public: [u8; KEY_BYTES],
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("public", &hex::encode(self.public)).finish_non_exhaustive()
    }
}

impl SealingKey {
    /// Reads the pair, or makes one (mode 0600) where there is none or none that can be used: the controller then seals to the new one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let kept = read_private(path, 2 * KEY_BYTES as u64)?.map(Zeroizing::new);
        match kept.as_deref().map(|bytes| Self::from_bytes(bytes)) {
            Some(Some(pair)) => return Ok(pair),
            Some(None) => {
                tracing::error!(path = %path.display(), "the sealing key is damaged; a new one is made");
                std::fs::remove_file(path)?;
            }
            None => {}
        }
        let failed = |_| io::Error::other("the cryptographic library failed to make a key");
        let (HpkePublicKey(public), private) = SUITE.generate_key_pair().map_err(failed)?;
        let bytes = Zeroizing::new([private.secret_bytes(), &public].concat());
        create_whole(path, &bytes, 0o600)?;
        Self::from_bytes(&bytes)
            .ok_or_else(|| io::Error::other("the cryptographic library made an unusable key"))
    }

    /// `None` unless these are the two halves of one pair.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (private, public) = bytes.split_first_chunk::<KEY_BYTES>()?;
        let pair = Self { private: HpkePrivateKey::from(private.to_vec()), public: public.try_into().ok()? };
        let (encapsulated, sealed) = SUITE.seal(b"", b"", b"", &HpkePublicKey(public.to_vec())).ok()?;
        SUITE.open(&encapsulated, b"", b"", &sealed, &pair.private).ok()?;
        Some(pair)
    }

    /// The public key, to which others seal.
    #[must_use]
    pub const fn public(&self) -> &[u8; KEY_BYTES] {
        &self.public
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use hosting_intent::Kind;

    use super::*;

    fn key(version: u32, seed: u8) -> AudienceKey {
        AudienceKey::new(version, Zeroizing::new([seed; 32]))
    }

    fn at(audience: &str) -> Audience {
        audience.parse().unwrap()
    }

    #[test]
    fn the_same_secret_gives_the_same_bytes_and_every_other_input_others() {
        let (audience, other) = (at("edge/c1"), at("edge/c2"));
        let (one, two) = (Key::new(Kind::Route, "a.example"), Key::new(Kind::Route, "b.example"));
        let place = Place { audience: &audience, key: &one, field: "key" };
        let sealed = key(1, 7).seal(place, b"hunter2").unwrap();
        assert_eq!(key(1, 7).seal(place, b"hunter2").unwrap(), sealed);
        assert!(!sealed.sealed.windows(7).any(|window| window == b"hunter2"));
        let elsewhere = [
            Place { audience: &other, ..place },
            Place { key: &two, ..place },
            Place { field: "yek", ..place },
        ];
        for elsewhere in elsewhere {
            let moved = key(1, 7).seal(elsewhere, b"hunter2").unwrap();
            assert_ne!(moved.sealed[..12], sealed.sealed[..12], "another nonce");
            assert_eq!(key(1, 7).open(elsewhere, &sealed).unwrap_err(), SealError::NotOurs);
        }
        assert_ne!(key(1, 7).seal(place, b"hunter3").unwrap().sealed[..12], sealed.sealed[..12]);
        assert_eq!(key(1, 7).open(place, &sealed).unwrap().as_slice(), b"hunter2");
        assert!(key(2, 7).open(place, &sealed).is_err() && key(1, 8).open(place, &sealed).is_err());
        for byte in 0..sealed.sealed.len() {
            let mut bent = sealed.sealed.to_vec();
            bent[byte] ^= 1;
            let bent = m::Sealed { version: 1, sealed: bent.into() };
            assert!(key(1, 7).open(place, &bent).is_err(), "byte {byte}");
            let cut = m::Sealed { version: 1, sealed: sealed.sealed.slice(..byte) };
            assert!(key(1, 7).open(place, &cut).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn a_share_opens_for_its_reader_in_its_audience_only() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |name: &str| SealingKey::load_or_create(&dir.path().join(name)).unwrap();
        let (reader, other) = (pair("one"), pair("two"));
        let audience = at("edge/c1");
        let share = key(3, 7).share(&audience, reader.public()).unwrap();
        assert_eq!((share.encapsulated.len(), share.sealed.len()), (32, 48));
        let opened = AudienceKey::from_share(&audience, 3, &share, &reader).unwrap();
        assert_eq!((opened.version(), *opened.bytes), (3, [7; 32]));
        assert!(AudienceKey::from_share(&audience, 3, &share, &other).is_err());
        assert!(AudienceKey::from_share(&audience, 4, &share, &reader).is_err());
        assert!(AudienceKey::from_share(&at("edge/c2"), 3, &share, &reader).is_err());
        assert!(!format!("{opened:?}").contains("7, 7"));
        // A public key of small order would give a secret that everybody knows (RFC 7748 §6.1).
        assert_eq!(key(3, 7).share(&audience, &[0; 32]), Err(SealError::Crypto));
    }

    #[test]
    fn the_pair_is_kept_in_a_private_file_and_made_anew_when_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sealing.key");
        let load = || SealingKey::load_or_create(&path).unwrap();
        let first = *load().public();
        assert_eq!(*load().public(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let second = *load().public();
        assert_ne!(second, first);
        assert_eq!(*load().public(), second);
        fs::write(&path, [1; 12]).unwrap();
        assert_ne!(*load().public(), second);
    }
}
