//! Removal of trees that a tenant filled: any depth, any names, any modes, while somebody may still write to them.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags},
    io::Errno,
};

/// How folders are opened: themselves, and no link in their place.
pub(super) const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Levels that are walked with a descriptor each; what lies deeper is first moved up.
const DEPTH: usize = 24;

/// Names that are tried for something that moves: each is drawn anew, so that nobody can be there before.
const TRIES: u32 = 8;

/// A name that nobody can know beforehand.
pub(super) fn fresh_name() -> String {
    format!(".{:032x}.new", rand::random::<u128>())
}

/// Moves `name` of `from` into `to`, under a name that is free there.
pub(super) fn move_beside(from: &OwnedFd, name: &std::ffi::CStr, to: &OwnedFd) -> Result<(), Errno> {
    let mut last = Errno::EXIST;
    for _ in 0..TRIES {
        let fresh = fresh_name();
        let moved = match rustix::fs::renameat_with(from, name, to, &fresh, RenameFlags::NOREPLACE) {
            // A file system without that flag: nothing is replaced but an empty folder.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(from, name, to, &fresh),
            other => other,
        };
        match moved {
            Err(error @ (Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR)) => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// Removes what lies under a name; links themselves and not what they point to. Nothing there is no error.
pub(super) fn purge(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return absent_is_fine(other),
    }
    let top = open_to_clear(parent, name)?;
    clear(&top, &top, 0)?;
    absent_is_fine(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

pub(super) fn absent_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn open_to_clear<P: rustix::path::Arg + Copy>(parent: &OwnedFd, name: P) -> Result<OwnedFd, Errno> {
    let dir = match rustix::fs::openat(parent, name, DIR, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Without privileges a folder of mode 0 must be opened up before it can be emptied.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, DIR, Mode::empty())?
        }
        other => other?,
    };
    // A process that the tenant left behind must not fill it again. A file system that knows no owners does without.
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let _ = rustix::fs::fchown(&dir, Some(uid), Some(gid));
    let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
    Ok(dir)
}

fn clear(dir: &OwnedFd, top: &OwnedFd, depth: usize) -> Result<(), Errno> {
    loop {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
            if names.len() == 1024 {
                break;
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            let name = name.as_c_str();
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {}
                other => {
                    absent_is_fine(other)?;
                    continue;
                }
            }
            if depth == DEPTH {
                absent_is_fine(move_beside(dir, name, top))?;
                continue;
            }
            match open_to_clear(dir, name) {
                Ok(below) => {
                    clear(&below, top, depth + 1)?;
                    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                        // Somebody wrote to it meanwhile: the next round takes that.
                        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, DIR, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_goes_whatever_its_names_are() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("site");
        let mut deep = top.clone();
        for _ in 0..60 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        // Names that something like this could move to.
        let pid = std::process::id();
        for n in 0..200 {
            for name in [format!(".deep-{pid}-{n}"), format!(".again-{n}"), format!(".{n:032x}.new")] {
                std::fs::create_dir_all(top.join(name).join("x")).unwrap();
            }
        }
        for name in ["a\nb", " ", "-rf", "*", "\u{1}", "'\"$", "ä"] {
            std::fs::write(top.join(name), b"").unwrap();
        }
        symlink("/", top.join("root")).unwrap();
        std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o000)).unwrap();
        purge(&open(dir.path()), "site").unwrap();
        assert!(!top.exists());
        purge(&open(dir.path()), "site").unwrap();
    }

    #[test]
    fn a_process_that_goes_on_writing_does_not_keep_it() {
        use std::os::unix::process::CommandExt;
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED nodeagent::a_process_that_goes_on_writing_does_not_keep_it: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let top = dir.path().join("site");
        std::fs::create_dir_all(top.join("sub")).unwrap();
        for folder in [&top, &top.join("sub")] {
            std::os::unix::fs::chown(folder, Some(65_534), Some(65_534)).unwrap();
        }
        let write = |folder: &std::path::Path| {
            let script = "i=0; while :; do i=$((i+1)); true > f$i; done 2>/dev/null";
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", script]).current_dir(folder).uid(65_534).gid(65_534).spawn().unwrap()
        };
        let mut writers = [write(&top), write(&top), write(&top.join("sub"))];
        while !top.join("f9").exists() || !top.join("sub/f9").exists() {
            std::thread::yield_now();
        }
        let gone = purge(&open(dir.path()), "site");
        let alive = writers.iter_mut().all(|writer| matches!(writer.try_wait(), Ok(None)));
        for writer in &mut writers {
            let _ = writer.kill();
            let _ = writer.wait();
        }
        gone.unwrap();
        assert!(alive && !top.exists());
    }

    #[test]
    fn what_moves_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            std::fs::create_dir_all(dir.path().join(name).join("x")).unwrap();
        }
        let (from, to) = (open(dir.path()), open(&dir.path().join("two")));
        move_beside(&from, c"one", &to).unwrap();
        assert!(!dir.path().join("one").exists());
        assert_eq!(std::fs::read_dir(dir.path().join("two")).unwrap().count(), 2);
        assert_eq!(move_beside(&from, c"one", &to), Err(Errno::NOENT));
    }
}
