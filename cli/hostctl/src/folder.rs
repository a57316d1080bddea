//! The data folder of `up`, locked: two `up` on one folder would fight for its stores.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use fs4::{FileExt, TryLockError};
use hosting_scaffold::file;

/// Held as long as `up` runs.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    lock: File,
}

impl DataFolder {
    /// Makes and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || {
            format!(
                "cannot use the data folder {}; mend that, or choose another with --data DIR",
                path.display()
            )
        };
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).with_context(cannot)?;
        let path = path.canonicalize().with_context(cannot)?;
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("lock"))
            .with_context(cannot)?;
        match FileExt::try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                bail!(
                    "the data folder {} is in use by another `up` (pid {}): end it with `hostctl down`, or choose \
                     another folder with --data DIR (and --auto-ports, if both shall run)",
                    path.display(),
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        lock.set_len(0).with_context(cannot)?;
        lock.rewind().with_context(cannot)?;
        writeln!(lock, "{}", std::process::id()).with_context(|| {
            format!(
                "cannot write to {}: is the disk full? Free some, or choose another folder with --data DIR",
                path.display()
            )
        })?;
        for folder in ["run", "log"] {
            fs::create_dir_all(path.join(folder)).with_context(cannot)?;
        }
        for folder in ["controller", "edge", "dns"] {
            private_folder(&path.join(folder)).with_context(cannot)?;
        }
        Ok(Self { path, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// From now on nobody's pid stands in the lock file.
    pub(crate) fn leave(self) {
        let _ = self.lock.set_len(0);
    }

    /// The pid of the `up` that holds the folder now.
    pub(crate) fn holder(path: &Path) -> Option<i32> {
        let text = fs::read_to_string(path.join("lock")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        // Asked first, because trying the lock would be in the way of an `up` that starts just now.
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return None;
        }
        let lock = File::options().write(true).open(path.join("lock")).ok()?;
        matches!(FileExt::try_lock(&lock), Err(TryLockError::WouldBlock)).then_some(pid)
    }
}

pub(crate) fn private_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes a secret to a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    file::write_private(path, format!("{text}\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DataFolder::holder(dir.path()), None);
        let data = DataFolder::open(dir.path()).unwrap();
        assert_eq!(DataFolder::holder(dir.path()), Some(std::process::id() as i32));
        let error = DataFolder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("hostctl down"), "{error}");
        data.leave();
        assert_eq!(DataFolder::holder(dir.path()), None);
        DataFolder::open(dir.path()).unwrap();
    }
}
