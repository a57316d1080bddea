//! The controller's word of how far its store was, kept for the day on which the store is put back.
//!
//! What it says is the controller's business; here it is bytes. It is written now and then: a store that was put back is
//! behind an older word as well, but for the last few seconds.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hosting_scaffold::file::{read_private, write_private};

/// A longer one is not kept.
const MAX_BYTES: usize = 512;
/// Between two writes.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// The newest word, and where it is kept.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// `None`: in memory only.
    path: Option<PathBuf>,
    newest: Bytes,
    saved: Bytes,
    saved_at: Option<Instant>,
}

impl Witness {
    /// What was kept in the role's data folder.
    pub(super) fn load(data_dir: Option<&Path>) -> Self {
        let Some(path) = data_dir.map(|folder| folder.join("store.witness")) else { return Self::default() };
        let kept = read_private(&path, MAX_BYTES as u64).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "what the controller said of its store is lost");
            None
        });
        let newest = Bytes::from(kept.unwrap_or_default());
        Self { path: Some(path), saved: newest.clone(), newest, saved_at: None }
    }

    pub(super) fn newest(&self) -> Bytes {
        self.newest.clone()
    }

    pub(super) fn take(&mut self, said: &Bytes) {
        if (1..=MAX_BYTES).contains(&said.len()) {
            // A copy: the frame that it lies in need not stay.
            self.newest = Bytes::copy_from_slice(said);
        }
    }

    /// Writes what is new, at the end at once.
    pub(super) fn save(&mut self, now: Instant, at_end: bool) {
        let due = at_end || self.saved_at.is_none_or(|at| now.saturating_duration_since(at) >= SAVE_EVERY);
        let Some(path) = self.path.as_ref().filter(|_| due && self.newest != self.saved) else { return };
        self.saved_at = Some(now);
        match write_private(path, &self.newest) {
            Ok(()) => self.saved = self.newest.clone(),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "what the controller said of its store")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_is_kept_now_and_then_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || Witness::load(Some(dir.path())).newest();
        let mut witness = Witness::load(Some(dir.path()));
        let start = Instant::now();
        assert_eq!(kept(), b""[..]);
        witness.take(&Bytes::from_static(b"one"));
        witness.save(start, false);
        assert_eq!(kept(), b"one"[..]);
        witness.take(&Bytes::from_static(b"two"));
        witness.save(start + SAVE_EVERY / 2, false);
        assert_eq!((kept(), witness.newest()), (b"one"[..].into(), b"two"[..].into()));
        witness.save(start + SAVE_EVERY, false);
        assert_eq!(kept(), b"two"[..]);
        witness.take(&Bytes::new());
        witness.take(&Bytes::from(vec![1; MAX_BYTES + 1]));
        assert_eq!(witness.newest(), b"two"[..]);
        witness.take(&Bytes::from_static(b"three"));
        witness.save(start + SAVE_EVERY, true);
        assert_eq!(kept(), b"three"[..]);
        // In memory only.
        let mut loose = Witness::load(None);
        loose.take(&Bytes::from_static(b"one"));
        loose.save(start, true);
        assert_eq!(loose.newest(), b"one"[..]);
    }
}
