//! A file of the operator's that may be replaced while the edge runs.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks whether the file is another one.
const LOOK: Duration = Duration::from_secs(1);

/// What tells one file from another under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.len(), changed }
    }

    fn at(file: &Path) -> Option<Self> {
        std::fs::metadata(file).ok().map(|metadata| Self::of(&metadata))
    }
}

/// The file, and which it was when it was looked at first.
#[derive(Debug)]
pub(crate) struct ReplacedFile {
    path: PathBuf,
    first: Option<Stamp>,
}

impl ReplacedFile {
    /// To be made before the file is read for the first time.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { first: Stamp::at(&path), path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `take`, which may block, whenever the file is another one and stayed the same between two looks: what is being written is left
    /// alone. Never ends.
    pub(crate) async fn follow(&self, take: impl Fn() + Clone + Send + 'static) {
        let (mut taken, mut seen) = (self.first, None);
        loop {
            tokio::time::sleep(LOOK).await;
            let found = Stamp::at(&self.path);
            let is_still = found == seen;
            seen = found;
            if found == taken || !is_still {
                continue;
            }
            taken = found;
            if let Err(error) = tokio::task::spawn_blocking(take.clone()).await {
                tracing::error!(%error, file = %self.path.display(), "reading the file failed; the one before stays in use");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_taken_once_nobody_writes_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let file = ReplacedFile::new(path.clone());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (noted, read) = (Arc::clone(&taken), path.clone());
        let take = move || noted.lock().unwrap().push(std::fs::read_to_string(&read).unwrap());
        let following = tokio::spawn(async move { file.follow(take).await });
        tokio::time::sleep(LOOK / 2).await;
        // Each look finds it longer than the one before.
        for length in 1..6 {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            tokio::time::sleep(LOOK).await;
        }
        assert!(taken.lock().unwrap().is_empty());
        tokio::time::sleep(4 * LOOK).await;
        assert_eq!(*taken.lock().unwrap(), ["xxxxx"]);
        following.abort();
    }
}
