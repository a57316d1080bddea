//! Files that are whole or as they were before, above all those that hold secrets.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Puts `bytes` at `path` with `mode`, in place of what was there. Whatever happens in between, the file holds either the
/// old bytes or the new ones, and the new ones are on disk when this returns. One writer at a time.
///
/// # Errors
/// What the system says; the file is as it was, but for an error of the folder's own sync.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (folder, name) = split(path)?;
    let name = format!(".{name}.new");
    // One that was cut short; a link that somebody put there is removed, not followed.
    match fs::remove_file(folder.join(&name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    draft(folder, Builder::new().prefix(&name).rand_bytes(0), bytes, mode)?.persist(path)?;
    File::open(folder)?.sync_all()
}

/// [`write_whole`] with mode 0600: for secrets, and for what nobody else has to read.
///
/// # Errors
/// As for [`write_whole`].
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, bytes, 0o600)
}

/// Puts `bytes` at `path` with `mode` unless there is something already; whether it did. The name appears with all of the
/// bytes or not at all. Any number of writers, on any number of machines: one of them is first.
///
/// # Errors
/// What the system says.
pub fn create_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let (folder, name) = split(path)?;
    let draft = draft(folder, Builder::new().prefix(&format!(".{name}.")).rand_bytes(16), bytes, mode)?;
    match draft.persist_noclobber(path) {
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        placed => placed?,
    };
    File::open(folder)?.sync_all()?;
    Ok(true)
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let invalid = || io::Error::new(ErrorKind::InvalidInput, "not the name of a file");
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    Ok((path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")), name))
}

fn draft(folder: &Path, builder: &mut Builder<'_, '_>, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file = builder.permissions(Permissions::from_mode(0o600)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
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
        file.set_permissions(Permissions::from_mode(0o600))?;
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
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        for bytes in [&b"one"[..], b"", b"two"] {
            write_private(&path, bytes).unwrap();
            assert_eq!(read_private(&path, 10).unwrap().as_deref(), Some(bytes));
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(read_private(&path, 2).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_mode_is_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for wanted in [0o600, 0o640, 0o644] {
            let path = dir.path().join(wanted.to_string());
            write_whole(&path, b"x", wanted).unwrap();
            assert_eq!(mode(&path), wanted);
        }
    }

    #[test]
    fn of_many_that_make_a_file_one_is_first_and_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let made: Vec<bool> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8_u8)
                .map(|n| {
                    let path = &path;
                    scope.spawn(move || create_whole(path, &[n; 10_000], 0o600).unwrap())
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        let first = made.iter().position(|made| *made).unwrap();
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        assert_eq!(fs::read(&path).unwrap(), vec![u8::try_from(first).unwrap(); 10_000]);
        assert!(!create_whole(&path, b"later", 0o600).unwrap());
        assert_eq!((mode(&path), fs::read_dir(dir.path()).unwrap().count()), (0o600, 1));
    }

    #[test]
    fn what_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
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
