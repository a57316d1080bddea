//! The key that seals secrets at rest: AES-256-GCM under 32 random bytes from a file of our own, and the keys before it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::iter;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::fill;
use hosting_scaffold::file::{create_whole, write_private};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Keys in one file: the current one and fifteen rotations.
const MOST_KEYS: usize = 16;

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

/// A key for AES-256-GCM with random nonces. With one key and few seals, 2^32 of them are far away (NIST SP 800-38D §8.3).
pub(crate) struct GcmKey(LessSafeKey);

impl GcmKey {
    pub(crate) fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, KekError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| KekError::Crypto("take the key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Nonce, ciphertext and tag; `bound` opens it again, and is not in it.
    pub(crate) fn seal(&self, bound: &[u8], plain: &[u8]) -> Result<Vec<u8>, KekError> {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce).map_err(|_| KekError::Crypto("draw random bytes"))?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut body)
            .map_err(|_| KekError::Crypto("seal"))?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// `None` for anything but what was sealed with the same `bound`.
    pub(crate) fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Secret> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.0.open_in_place(nonce, Aad::from(bound), &mut body).ok()?.len();
        body.truncate(plain);
        Some(Secret(body))
    }
}

/// A key of random bytes.
pub(crate) fn random_key() -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    fill(key.as_mut_slice()).map_err(|_| KekError::Crypto("draw random bytes"))?;
    Ok(key)
}

struct OneKey {
    id: String,
    cipher: GcmKey,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl OneKey {
    fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, KekError> {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"hosting kek id\0");
        hash.update(bytes);
        // A name, not a check: 8 bytes tell keys apart and give none of it away.
        let id = hex::encode(hash.finish()).chars().take(16).collect();
        Ok(Self { id, cipher: GcmKey::new(bytes)?, bytes: Zeroizing::new(*bytes) })
    }
}

/// Key-encryption key: the current one, which seals, and the former ones, which open what is not sealed anew yet. Cheap to clone.
#[derive(Clone)]
pub struct Kek {
    current: Arc<OneKey>,
    former: Arc<[OneKey]>,
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kek")
            .field("id", &self.current.id)
            .field("former", &self.former.len())
            .finish_non_exhaustive()
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
    /// Not 32 bytes for each key.
    #[error(
        "key file {path} has {bytes} bytes instead of 32 for each of 1 to {MOST_KEYS} keys; put back the right one"
    )]
    Length {
        /// Which one.
        path: PathBuf,
        /// How many it has, counted up to one more than fit.
        bytes: usize,
    },
    /// The file holds as many keys as it may.
    #[error(
        "key file {path} holds {MOST_KEYS} keys; have the former ones forgotten (POST /api/v1/platform/keks/forget) once no backup needs them"
    )]
    Full {
        /// Which one.
        path: PathBuf,
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

    /// Loads the key file as it is now.
    ///
    /// # Errors
    /// When the file cannot be used; the message says what to do.
    pub fn load(path: &Path) -> Result<Self, KekError> {
        Self::from_bytes(path, &read(path)?)
    }

    /// Puts a new current key at the front of the file. What is running takes it over within seconds and seals anew with it; the keys
    /// before stay in the file, because backups need them.
    ///
    /// # Errors
    /// When the file cannot be used; it is as it was then.
    pub fn rotate(path: &Path) -> Result<Self, KekError> {
        let _turn = turn(path)?;
        let kept = read(path)?;
        if kept.len() >= MOST_KEYS * KEY_BYTES {
            return Err(KekError::Full { path: path.to_owned() });
        }
        let keys = Zeroizing::new([random_key()?.as_slice(), &kept].concat());
        write_private(path, &keys).map_err(|source| KekError::File { path: path.to_owned(), source })?;
        Self::from_bytes(path, &keys)
    }

    /// Takes the former keys out of the file. What they sealed opens no more, backups of that time included.
    ///
    /// # Errors
    /// When the file cannot be used; it is as it was then.
    pub fn forget_former(path: &Path) -> Result<Self, KekError> {
        let _turn = turn(path)?;
        let mut keys = read(path)?;
        keys.truncate(KEY_BYTES);
        write_private(path, &keys).map_err(|source| KekError::File { path: path.to_owned(), source })?;
        Self::from_bytes(path, &keys)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, KekError> {
        let wrong = || KekError::Length { path: path.to_owned(), bytes: bytes.len() };
        let (keys, rest) = bytes.as_chunks::<KEY_BYTES>();
        let Some((current, former)) = keys.split_first() else { return Err(wrong()) };
        if !rest.is_empty() || keys.len() > MOST_KEYS {
            return Err(wrong());
        }
        let former: Vec<OneKey> = former.iter().map(OneKey::new).collect::<Result<_, _>>()?;
        Ok(Self { current: Arc::new(OneKey::new(current)?), former: former.into() })
    }

    /// Names the current key in rows and messages.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.current.id
    }

    /// Names the former keys, the newest first.
    pub fn former_ids(&self) -> impl Iterator<Item = &str> {
        self.former.iter().map(|key| key.id.as_str())
    }

    /// Whether the file holds the key of that name.
    #[must_use]
    pub fn holds(&self, id: &str) -> bool {
        self.key(id).is_some()
    }

    fn key(&self, id: &str) -> Option<&OneKey> {
        iter::once(&*self.current).chain(self.former.iter()).find(|key| key.id == id)
    }

    /// The bytes of a key, from which older builds derived what stays the same when keys are rotated.
    pub(crate) fn bytes_of(&self, id: &str) -> Option<&[u8; KEY_BYTES]> {
        self.key(id).map(|key| &*key.bytes)
    }

    /// Seals bytes for one name with the current key: they open under that name only.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, KekError> {
        self.current.cipher.seal(name.as_bytes(), plain)
    }

    /// Opens what [`Kek::seal`] sealed for the same name, with the key of the id `kek_id`.
    ///
    /// # Errors
    /// [`UnsealError::WrongKek`] when the file does not hold that key, [`UnsealError::Altered`] for bytes that it did not seal.
    pub fn unseal(&self, kek_id: &str, name: &str, sealed: &[u8]) -> Result<Secret, UnsealError> {
        let key = self.key(kek_id).ok_or_else(|| UnsealError::WrongKek {
            name: name.to_owned(),
            expected: kek_id.to_owned(),
            found: self.id().to_owned(),
        })?;
        key.cipher.open(name.as_bytes(), sealed).ok_or_else(|| UnsealError::Altered { name: name.to_owned() })
    }
}

/// All of the file, however many keys that is.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KekError> {
    let failed = |source| KekError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KekError::Open { path: path.to_owned(), mode });
    }
    let most = MOST_KEYS * KEY_BYTES + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    file.take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// One writer of the file at a time: the folder's lock, while the handle lives.
fn turn(path: &Path) -> Result<File, KekError> {
    let failed = |source| KekError::File { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok(folder)
}

/// The name appears with the whole key or not at all, and never twice.
fn create(path: &Path) -> Result<(), KekError> {
    let failed = |source| KekError::File { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let key = random_key()?;
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
        let kek = |seed: u8| Kek::from_bytes(Path::new("kek"), &[seed; 32]).unwrap();
        let other = kek(2);
        let kek = kek(1);
        let sealed = kek.seal("ca", b"private").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_ne!(sealed, kek.seal("ca", b"private").unwrap());
        let unseal = |name: &str, sealed: &[u8]| kek.unseal(kek.id(), name, sealed);
        let secret = unseal("ca", &sealed).unwrap();
        assert_eq!(secret.expose(), b"private");
        assert!(!format!("{secret:?}").contains("private"));
        assert!(unseal("cb", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(unseal("ca", &bent).is_err(), "byte {at}");
            assert!(unseal("ca", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(other.unseal(kek.id(), "ca", &sealed), Err(UnsealError::WrongKek { .. })));
        assert!(matches!(other.unseal(other.id(), "ca", &sealed), Err(UnsealError::Altered { .. })));
    }

    #[test]
    fn a_rotation_seals_with_the_new_key_and_opens_with_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let first = Kek::load_or_create(&path).unwrap();
        let sealed = first.seal("ca", b"private").unwrap();
        let second = Kek::rotate(&path).unwrap();
        assert_ne!(second.id(), first.id());
        assert_eq!(second.former_ids().collect::<Vec<_>>(), [first.id()]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let loaded = Kek::load_or_create(&path).unwrap();
        assert_eq!(loaded.id(), second.id());
        assert_eq!(loaded.unseal(first.id(), "ca", &sealed).unwrap().expose(), b"private");
        let anew = loaded.seal("ca", b"private").unwrap();
        assert!(first.unseal(second.id(), "ca", &anew).is_err());
        for _ in 2..MOST_KEYS {
            Kek::rotate(&path).unwrap();
        }
        assert!(matches!(Kek::rotate(&path), Err(KekError::Full { .. })));
        assert!(Kek::load(&path).unwrap().holds(first.id()));
        let last = Kek::forget_former(&path).unwrap();
        assert_eq!((last.former_ids().count(), last.holds(first.id())), (0, false));
        assert_eq!(fs::read(&path).unwrap().len(), KEY_BYTES);
    }
}
