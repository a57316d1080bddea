//! A copy of the store while it is in use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Store, StoreError};

impl Store {
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
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
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
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
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
