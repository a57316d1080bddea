//! A copy of the store while it is in use, and putting it back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::open::Lock;
use crate::{OpenError, Store, StoreError};

impl Store {
    /// Puts a copy in place of the store at `path`, which no controller may have open. Copying by hand is a trap: a
    /// write-ahead log left beside the old file would be replayed onto the new one.
    ///
    /// # Errors
    /// When a controller runs, or a file cannot be written; run it again then.
    pub fn restore(path: &Path, copy: &Path) -> Result<(), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { path, source }
        };
        let _lock = Lock::take(path)?;
        let aside = beside(path, ".restore");
        let mut from = File::open(copy).map_err(failed(copy))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut to| io::copy(&mut from, &mut to).and_then(|_| to.sync_all()))
            .map_err(failed(&aside))?;
        for log in [beside(path, "-wal"), beside(path, "-shm")] {
            match fs::remove_file(&log) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&log)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        fs::rename(&aside, path).and_then(|()| File::open(folder_of(path))?.sync_all()).map_err(failed(path))
    }

    /// Writes a consistent copy to `path` (mode 0600), which must not exist. The name appears once the copy is whole and on
    /// disk. Secrets in it stay sealed: keep the key file apart. Writes go on meanwhile.
    ///
    /// # Errors
    /// When the copy cannot be written; nothing is left at `path` then.
    pub async fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        let io = |error: io::Error| StoreError::Io(format!("{}: {error}", path.display()).into());
        if fs::symlink_metadata(path).is_ok() {
            return Err(StoreError::value("path", format!("{} exists already", path.display())));
        }
        let partial = beside(path, ".partial");
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            // Left by a copy that was cut short.
            Ok(()) | Err(_) => {}
        }
        let copied = self.copy_to(&partial).await;
        let placed = copied.and_then(|()| {
            File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
            fs::hard_link(&partial, path).map_err(io)
        });
        let removed = fs::remove_file(&partial).map_err(io);
        placed?;
        removed?;
        File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(io)
    }

    async fn copy_to(&self, partial: &Path) -> Result<(), StoreError> {
        let io = |error: io::Error| StoreError::Io(format!("{}: {error}", partial.display()).into());
        let name = partial
            .to_str()
            .ok_or_else(|| StoreError::value("path", format!("{} is not UTF-8", partial.display())))?;
        // SQLite takes an empty file for none, and leaves its mode as it is.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial).map_err(io)?;
        let mut reader = self.0.readers.acquire().await?;
        sqlx::query("VACUUM INTO ?").bind(name).persistent(false).execute(&mut *reader).await?;
        Ok(())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
