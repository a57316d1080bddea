//! The key that seals secrets at rest: AES-256-GCM under 32 random bytes from a file of our own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::fill;
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_scaffold::file::create_whole;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// Bytes that must not be seen: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes into care.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Whoever asks for them answers for where they go.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Key-encryption key. Cheap to clone.
#[derive(Clone)]
pub struct Kek {
    id: Arc<str>,
    key: Arc<LessSafeKey>,
    /// For what is derived from it.
    bytes: Arc<Zeroizing<[u8; KEY_BYTES]>>,
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file cannot be read or made.
    #[error("key file {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "key file {path} has mode {mode:o}; others may read it: chmod 600 it, and think of the key as known if they could"
    )]
    Open {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not 32 bytes.
    #[error("key file {path} has {bytes} bytes instead of 32; put back the right one")]
    Length {
        /// Which one.
        path: PathBuf,
        /// How many it has, counted up to 33.
        bytes: usize,
    },
    /// The cryptographic library refused.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}

/// Why a secret stays sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Another key sealed it.
    #[error(
        "secret {name:?} is sealed by key {expected}, the key file holds {found}; put back the key file that belongs to it"
    )]
    WrongKek {
        /// Which secret.
        name: String,
        /// The key it needs.
        expected: String,
        /// The key there is.
        found: String,
    },
    /// The bytes are not what was sealed under this name.
    #[error("secret {name:?} was altered since it was sealed; put back a backup")]
    Altered {
        /// Which secret.
        name: String,
    },
}

impl Kek {
    /// Loads the key, or makes the file (mode 0600, folder 0700) with a new one. Two that start at once get the same key.
    ///
    /// # Errors
    /// When the file cannot be used; the message says what to do.
    pub fn load_or_create(path: &Path) -> Result<Self, KekError> {
        match Self::load(path) {
            Err(KekError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        create(path)?;
        Self::load(path)
    }

    fn load(path: &Path) -> Result<Self, KekError> {
        let failed = |source| KekError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KekError::Open { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() != KEY_BYTES {
            return Err(KekError::Length { path: path.to_owned(), bytes: bytes.len() });
        }
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, KekError> {
        let refused = || KekError::Crypto("take the key");
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| refused())?;
        let kept = Arc::new(Zeroizing::new(bytes.try_into().map_err(|_| refused())?));
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"hosting kek id\0");
        hash.update(bytes);
        // A name, not a check: 8 bytes tell keys apart and give none of it away.
        let id: String = hex::encode(hash.finish()).chars().take(16).collect();
        Ok(Self { id: id.into(), key: Arc::new(LessSafeKey::new(key)), bytes: kept })
    }

    /// Names the key in rows and messages.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the edges of a cluster share, derived from this key.
    #[must_use]
    pub fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey {
        ClusterEdgeKey::derive(self.bytes.as_slice(), cluster_id)
    }

    /// A key of its own for one purpose, which `context` names (BLAKE3's key derivation mode): hard-coded, and never used for
    /// anything else.
    #[must_use]
    pub fn derive(&self, context: &'static str) -> Zeroizing<[u8; KEY_BYTES]> {
        Zeroizing::new(blake3::derive_key(context, self.bytes.as_slice()))
    }

    /// Seals bytes for one name: they open under that name only.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, KekError> {
        // Random nonces: with one key and few secrets, 2^32 seals are far away (NIST SP 800-38D §8.3).
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce).map_err(|_| KekError::Crypto("draw random bytes"))?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut body)
            .map_err(|_| KekError::Crypto("seal"))?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what [`Kek::seal`] sealed for the same name.
    ///
    /// # Errors
    /// [`UnsealError::Altered`] for anything else.
    pub fn unseal(&self, name: &str, sealed: &[u8]) -> Result<Secret, UnsealError> {
        let altered = || UnsealError::Altered { name: name.to_owned() };
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(altered)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut body)
            .map_err(|_| altered())?
            .len();
        body.truncate(plain);
        Ok(Secret(body))
    }
}

/// The name appears with the whole key or not at all, and never twice.
fn create(path: &Path) -> Result<(), KekError> {
    let failed = |source| KekError::File { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    fill(key.as_mut_slice()).map_err(|_| KekError::Crypto("draw random bytes"))?;

    // Where somebody else was first, theirs is the key.
    create_whole(path, key.as_slice(), 0o600).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_made_once_and_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/kek");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Kek::load_or_create(&path).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap().id().to_owned()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Kek::load_or_create(&path), Err(KekError::Open { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [7; 33]).unwrap();
        assert!(matches!(Kek::load_or_create(&path), Err(KekError::Length { bytes: 33, .. })));
    }

    #[test]
    fn what_is_sealed_opens_under_its_name_only() {
        let kek = Kek::from_bytes(&[1; 32]).unwrap();
        let sealed = kek.seal("ca", b"private").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_ne!(sealed, kek.seal("ca", b"private").unwrap());
        let secret = kek.unseal("ca", &sealed).unwrap();
        assert_eq!(secret.expose(), b"private");
        assert!(!format!("{secret:?}").contains("private"));
        assert!(kek.unseal("cb", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(kek.unseal("ca", &bent).is_err(), "byte {at}");
            assert!(kek.unseal("ca", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(Kek::from_bytes(&[2; 32]).unwrap().unseal("ca", &sealed).is_err());
    }
}
