//! Files that hold secrets: for their owner only, and whole or as they were before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Puts `bytes` at `path` with mode 0600, in place of what was there. Whatever happens in between, the file holds either the
/// old bytes or the new ones, and the new ones are on disk when this returns. One writer at a time.
///
/// # Errors
/// What the system says; the file is as it was, but for an error of the folder's own sync.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "not the name of a file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".new");
    let draft = folder.join(draft);
    // One that was cut short; a link that somebody put there is removed, not followed.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })?;
    File::open(folder)?.sync_all()
}

/// Reads a file of at most `limit` bytes that [`write_private`] wrote; `None` if there is none. One that others could read is
/// closed to them, with a warning.
///
/// # Errors
/// What the system says; [`ErrorKind::FileTooLarge`] beyond the limit.
pub fn read_private(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "a secret that others could read; now 0600");
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let length = file.metadata()?.len();
    if length > limit {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("{length} bytes, at most {limit} are expected"),
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(read_private(&path, 10).unwrap(), None);
        fs::write(&path, "open to all").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        for bytes in [&b"one"[..], b"", b"two"] {
            write_private(&path, bytes).unwrap();
            assert_eq!(read_private(&path, 10).unwrap().as_deref(), Some(bytes));
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(read_private(&path, 2).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        read_private(&path, 10).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_draft_that_is_in_the_way_is_neither_followed_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x"), dir.path().join("other"));
        fs::write(&other, "theirs").unwrap();
        symlink(&other, dir.path().join(".x.new")).unwrap();
        write_private(&path, b"ours").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"theirs");
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        // What cannot be put in place leaves nothing behind.
        let folder = dir.path().join("folder");
        fs::create_dir_all(folder.join("full")).unwrap();
        assert!(write_private(&folder, b"ours").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
