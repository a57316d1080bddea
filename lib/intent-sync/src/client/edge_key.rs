//! The edge key that the controller gave: kept in a file, so that a start without the controller has it, and published to the
//! role.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hosting_scaffold::file::{read_private, write_private};
use tokio::sync::watch;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const LENGTH: u64 = 32;

/// What Welcome carried: the cluster's key for an edge, the node's own for a node (`hosting_intent::edge_key`). Debug output
/// shows none of it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EdgeKey([u8; 32]);

impl EdgeKey {
    /// The key itself. Whoever asks for it answers for where it goes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeKey(redacted)")
    }
}

/// A role's edge key. Cheap to clone; all clones speak of the same one.
#[derive(Debug, Clone)]
pub struct EdgeKeyStore {
    path: Arc<Path>,
    current: watch::Sender<Option<EdgeKey>>,
}

impl EdgeKeyStore {
    /// Reads `edge.key` in the role's data folder. Without one, or with one that cannot be used, nothing is known until the
    /// controller says it.
    #[must_use]
    pub fn load(data_dir: &Path) -> Self {
        let path: PathBuf = data_dir.join("edge.key");
        let read = read_private(&path, LENGTH).map(|bytes| bytes.map(Zeroizing::new));
        let known = read.and_then(|bytes| {
            let wrong = |bytes: Zeroizing<Vec<u8>>| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} bytes instead of {LENGTH}", bytes.len()),
                )
            };
            bytes.map(|bytes| bytes.as_slice().try_into().map(EdgeKey).map_err(|_| wrong(bytes))).transpose()
        });
        let known = known.unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "the edge key cannot be used; waiting for the controller's");
            None
        });
        Self { path: path.into(), current: watch::Sender::new(known) }
    }

    /// The key as it is now; `None`: not known yet.
    #[must_use]
    pub fn get(&self) -> Option<EdgeKey> {
        self.current.borrow().clone()
    }

    /// To be told of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<EdgeKey>> {
        self.current.subscribe()
    }

    /// Takes over what Welcome carried; on disk first. Empty: the controller is older and says nothing about it. Blocks on the
    /// disk. A key that cannot be written is in effect all the same, until the process ends.
    pub(crate) fn take(&self, said: &[u8]) {
        if said.is_empty() {
            return;
        }
        let Ok(key) = said.try_into().map(EdgeKey) else {
            tracing::error!(
                bytes = said.len(),
                "the controller's edge key has a wrong length; the one before stays"
            );
            return;
        };
        if self.current.borrow().as_ref() == Some(&key) && self.path.exists() {
            return;
        }
        match write_private(&self.path, key.as_bytes()) {
            Ok(()) => tracing::info!("a new edge key is in effect"),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the edge key is in effect and not on disk");
            }
        }
        self.current.send_if_modified(|current| {
            let is_new = current.as_ref() != Some(&key);
            *current = Some(key);
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_kept_in_a_private_file_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = EdgeKeyStore::load(dir.path());
        let mut told = store.subscribe();
        assert_eq!(store.get(), None);
        store.take(&[7; 32]);
        assert!(told.has_changed().unwrap());
        assert_eq!(told.borrow_and_update().as_ref().map(|key| *key.as_bytes()), Some([7; 32]));
        let path = dir.path().join("edge.key");
        assert_eq!(fs::read(&path).unwrap(), [7; 32]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The same again, none, and rubbish change nothing.
        for said in [&[7; 32][..], &[], &[1; 31], &[1; 33]] {
            store.take(said);
        }
        assert!(!told.has_changed().unwrap());
        assert_eq!(EdgeKeyStore::load(dir.path()).get(), store.get());
        store.take(&[8; 32]);
        assert_eq!(EdgeKeyStore::load(dir.path()).get().unwrap().as_bytes(), &[8; 32]);
        assert_eq!(format!("{store:?}").matches("redacted").count(), 1);
    }

    #[test]
    fn a_file_that_is_lost_or_damaged_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.key");
        for damaged in [&[1; 31][..], &[1; 33], &[]] {
            fs::write(&path, damaged).unwrap();
            let store = EdgeKeyStore::load(dir.path());
            assert_eq!(store.get(), None);
            store.take(&[7; 32]);
            assert_eq!(fs::read(&path).unwrap(), [7; 32]);
        }
        let store = EdgeKeyStore::load(dir.path());
        fs::remove_file(&path).unwrap();
        store.take(&[7; 32]);
        assert_eq!(fs::read(&path).unwrap(), [7; 32]);
    }

    #[test]
    fn a_key_that_cannot_be_written_is_in_effect_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = EdgeKeyStore::load(&dir.path().join("missing"));
        store.take(&[7; 32]);
        assert_eq!(store.get().unwrap().as_bytes(), &[7; 32]);
    }
}
