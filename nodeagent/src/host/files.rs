//! Files below the roots, without ever following a link.
//!
//! Every path is walked from a root that was opened at the start, one `openat` with `O_NOFOLLOW` for each part: a tenant
//! who puts a link where a folder was finds that it is not followed. Everything here blocks; [`super::RealHost`] calls it
//! from threads that may.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hosting_agent_engine::{Access, DataId, Entry, EntryKind, HostError, Owner, Place, Root};
use rustix::{
    fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::purge::{DIR, absent_is_fine, fresh_name, move_beside, purge};
use crate::roots::{Roots, SiteUser};

/// Largest file that is read, in bytes.
const READ_MOST: u64 = 1 << 20;

/// Groups of tenants.
const LOCKS: usize = 256;

/// How long another node of the shard may hold the lock of a tenant's data.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The roots, opened, and who owns what.
#[derive(Debug)]
pub struct Files {
    roots: BTreeMap<Root, OwnedFd>,
    agent: u32,
    site: Option<(u32, u32)>,
    is_root: bool,
    /// Before the locks on disk: our own threads wait in line, and only other nodes are asked again and again.
    locks: Vec<Mutex<()>>,
}

/// Held while data changes hands.
struct Lock<'a> {
    _ours: MutexGuard<'a, ()>,
    _shared: File,
}

/// The roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A folder is missing and cannot be made, or cannot be opened.
    #[error("{path}: {error}; create it or choose another with --{flag}")]
    Open {
        /// The path.
        path: String,
        /// The system's words.
        error: std::io::Error,
        /// The flag that names it.
        flag: &'static str,
    },
}

impl Files {
    /// Opens the roots, and makes those that are missing.
    ///
    /// # Errors
    /// Which folder cannot be used.
    pub fn open(roots: &Roots, site: Option<&SiteUser>) -> Result<Self, RootError> {
        let mut opened = BTreeMap::new();
        let all = [
            (Root::Storage, &roots.storage, "storage-dir"),
            (Root::Logs, &roots.logs, "log-dir"),
            (Root::Config, &roots.config, "data-dir"),
            (Root::Run, &roots.run, "run-dir"),
            (Root::Temp, &roots.temp, "temp-dir"),
        ];
        for (root, path, flag) in all {
            let failed =
                |error: std::io::Error| RootError::Open { path: path.display().to_string(), error, flag };
            std::fs::create_dir_all(path).map_err(failed)?;
            // The root itself may be reached through links: the operator named it.
            let fd =
                rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| failed(error.into()))?;
            opened.insert(root, fd);
        }
        Ok(Self {
            roots: opened,
            agent: rustix::process::geteuid().as_raw(),
            site: site.map(|user| (user.uid, user.gid)),
            is_root: rustix::process::geteuid().is_root(),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        })
    }

    fn root(&self, at: &Place) -> Result<OwnedFd, Errno> {
        self.roots.get(&at.root).ok_or(Errno::NOENT)?.try_clone().map_err(|_| Errno::MFILE)
    }

    /// Opens the directory above `at`; with `make`, missing ones are made (0755, the agent's).
    fn parent<'a>(&self, at: &'a Place, make: bool) -> Result<(OwnedFd, &'a str), Errno> {
        let (name, above) = at.parts.split_last().ok_or(Errno::INVAL)?;
        let mut dir = self.root(at)?;
        for part in above {
            dir = match rustix::fs::openat(&dir, part, DIR, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    self.make_one(&dir, part, Access::agent(0o755))?;
                    rustix::fs::openat(&dir, part, DIR, Mode::empty())?
                }
                other => other?,
            };
        }
        Ok((dir, name))
    }

    /// A new directory with its mode and owner; one that appeared meanwhile is taken as it is.
    fn make_one(&self, dir: &OwnedFd, name: &str, access: Access) -> Result<(), Errno> {
        // Nobody else enters before the owner is right.
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => return Err(error),
        }
        let made = rustix::fs::openat(dir, name, DIR, Mode::empty())?;
        self.grant(&made, access)
    }

    fn grant(&self, fd: &OwnedFd, access: Access) -> Result<(), Errno> {
        if self.is_root {
            let (uid, gid) = match (access.owner, self.site) {
                (Owner::Site, Some(site)) => site,
                (Owner::Site, None) | (Owner::Agent, _) => (self.agent, rustix::process::getegid().as_raw()),
            };
            let stat = rustix::fs::fstat(fd)?;
            if stat.st_uid != uid || stat.st_gid != gid {
                let owner = rustix::fs::Uid::from_raw(uid);
                rustix::fs::fchown(fd, Some(owner), Some(rustix::fs::Gid::from_raw(gid)))?;
            }
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(access.mode))
    }

    pub(super) fn entry(&self, at: &Place) -> Result<Option<Entry>, HostError> {
        at.check()?;
        let look = || -> Result<Entry, Errno> {
            let (dir, name) = self.parent(at, false)?;
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => EntryKind::Dir,
                FileType::RegularFile => EntryKind::File,
                FileType::Symlink => EntryKind::Symlink,
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => EntryKind::Other,
            };
            let site = self.site.map_or(self.agent, |(uid, _)| uid);
            Ok(Entry {
                kind,
                mode: stat.st_mode & 0o7777,
                is_agents: stat.st_uid == self.agent,
                is_sites: stat.st_uid == site,
            })
        };
        absent_is_none("look at", at, look())
    }

    pub(super) fn read(&self, at: &Place) -> Result<Option<Vec<u8>>, HostError> {
        at.check()?;
        let open = || -> Result<OwnedFd, Errno> {
            let (dir, name) = self.parent(at, false)?;
            // Not to wait for the other end of a pipe.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            rustix::fs::openat(&dir, name, flags, Mode::empty())
        };
        let Some(fd) = absent_is_none("read", at, open())? else { return Ok(None) };
        let file = File::from(fd);
        let failed = |error: std::io::Error| HostError::file("read", at, error);
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(HostError::file("read", at, "it is no regular file"));
        }
        let mut content = Vec::new();
        file.take(READ_MOST + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > READ_MOST {
            return Err(HostError::file("read", at, "it has more than 1 MiB"));
        }
        Ok(Some(content))
    }

    pub(super) fn names(&self, at: &Place) -> Result<Vec<String>, HostError> {
        at.check()?;
        let list = || -> Result<Vec<String>, Errno> {
            let dir = self.dir(at)?;
            let mut names = Vec::new();
            for entry in Dir::read_from(&dir)? {
                // What is not UTF-8 was not made by us.
                if let Ok(name) = entry?.file_name().to_str()
                    && name != "."
                    && name != ".."
                {
                    names.push(name.to_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        Ok(absent_is_none("list", at, list())?.unwrap_or_default())
    }

    pub(super) fn dir(&self, at: &Place) -> Result<OwnedFd, Errno> {
        if at.parts.is_empty() {
            return self.root(at);
        }
        let (dir, name) = self.parent(at, false)?;
        rustix::fs::openat(&dir, name, DIR, Mode::empty())
    }

    pub(super) fn write(&self, at: &Place, content: &[u8], access: Access) -> Result<(), HostError> {
        at.check()?;
        let write = || -> std::io::Result<()> {
            let (dir, name) = self.parent(at, true)?;
            // A name of its own, so that two writers of one file do not meet in the draft.
            let draft = fresh_name();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir, &draft, flags, Mode::RUSR | Mode::WUSR)?;
            self.grant(&fd, access)?;
            let mut file = File::from(fd);
            let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| {
                rustix::fs::renameat(&dir, &draft, &dir, name)?;
                Ok(rustix::fs::fsync(&dir)?)
            });
            if written.is_err() {
                // On a full disk the draft would only make it fuller.
                let _ = rustix::fs::unlinkat(&dir, &draft, AtFlags::empty());
            }
            written
        };
        write().map_err(|error| HostError::file("write", at, error))
    }

    pub(super) fn link(&self, at: &Place, target: &str) -> Result<(), HostError> {
        at.check()?;
        let link = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, true)?;
            let draft = fresh_name();
            rustix::fs::symlinkat(target, &dir, &draft)?;
            let moved = rustix::fs::renameat(&dir, &draft, &dir, name);
            if moved.is_err() {
                let _ = rustix::fs::unlinkat(&dir, &draft, AtFlags::empty());
            }
            moved
        };
        link().map_err(|error| HostError::file("link", at, error))
    }

    pub(super) fn link_target(&self, at: &Place) -> Result<Option<String>, HostError> {
        at.check()?;
        let look = || -> Result<String, Errno> {
            let (dir, name) = self.parent(at, false)?;
            let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
            target.into_string().map_err(|_| Errno::INVAL)
        };
        match look() {
            // Something else is in its place.
            Err(Errno::INVAL) => Ok(None),
            other => absent_is_none("look at", at, other),
        }
    }

    pub(super) fn remove(&self, at: &Place) -> Result<(), HostError> {
        at.check()?;
        let remove = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, false)?;
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
            rustix::fs::fsync(&dir)
        };
        absent_is_none("remove", at, remove()).map(drop)
    }

    pub(super) fn make_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        at.check()?;
        let make = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, true)?;
            self.make_one(&dir, name, access)?;
            self.grant(&rustix::fs::openat(&dir, name, DIR, Mode::empty())?, access)
        };
        make().map_err(|error| HostError::file("make", at, error))
    }

    pub(super) fn make_file(&self, at: &Place, access: Access) -> Result<(), HostError> {
        at.check()?;
        let make = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, true)?;
            // Not to wait for the other end of a pipe.
            let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let fd = match rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::LOOP | Errno::ISDIR) => return Ok(()),
                other => other?,
            };
            let is_file = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::RegularFile;
            if is_file { self.grant(&fd, access) } else { Ok(()) }
        };
        make().map_err(|error| HostError::file("make", at, error))
    }

    pub(super) fn offer_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        at.check()?;
        let make = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, false)?;
            self.make_one(&dir, name, access)
        };
        match make() {
            // Something of the tenant's own is on the way: theirs, whatever it is.
            Ok(()) | Err(Errno::LOOP | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(HostError::file("make", at, error)),
        }
    }

    /// One lock for each of 256 groups of tenants, across all nodes that share the storage.
    fn lock(&self, data: &DataId) -> Result<Lock<'_>, HostError> {
        let group = blake3::hash(data.tenant.as_bytes()).as_bytes().first().copied().unwrap_or_default();
        let at = Place::new(Root::Storage, [".hosting", "locks"]).child(format!("{group:02x}"));
        let failed = |error: Errno| HostError::file("lock", &at, error);
        self.make_dir(&Place::new(Root::Storage, [".hosting"]), Access::agent(0o700))?;
        let (dir, name) = self.parent(&at, true).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let ours = self.locks.get(usize::from(group)).ok_or_else(|| failed(Errno::INVAL))?;
        let ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _ours: ours, _shared: File::from(fd) }),
                Err(Errno::AGAIN | Errno::INTR) if began.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::AGAIN) => {
                    let why = format!("another node has held it for {} s", LOCK_PATIENCE.as_secs());
                    return Err(HostError::file("lock", &at, why));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// 0 when there is a marker that cannot be read.
    fn marked(&self, data: &DataId) -> Result<Option<u64>, HostError> {
        let text = self.read(&data.marker())?;
        Ok(text.map(|text| DataId::read_marker(&text).map_or(0, |(incarnation, _)| incarnation)))
    }

    pub(super) fn claim(&self, data: &DataId) -> Result<(), HostError> {
        let _lock = self.lock(data)?;
        match self.marked(data)? {
            Some(found) if found == data.incarnation => Ok(()),
            Some(found) => Err(incarnation(data, found)),
            None => self.write(&data.marker(), data.marker_text().as_bytes(), Access::agent(0o600)),
        }
    }

    pub(super) fn discard(&self, data: &DataId) -> Result<(), HostError> {
        let _lock = self.lock(data)?;
        let found = self.marked(data)?.unwrap_or_default();
        if found != data.incarnation {
            return Err(incarnation(data, found));
        }
        let (home, trash) = (data.home(), data.trash());
        let failed = |error: Errno| HostError::file("retire", &home, error);
        let (trash_dir, trash_name) = self.parent(&trash, true).map_err(failed)?;
        match self.parent(&home, false) {
            Ok((dir, name)) => {
                match rustix::fs::renameat(&dir, name, &trash_dir, trash_name) {
                    // A node that lagged made it anew after a first retire: it goes beside the first.
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {
                        let first =
                            rustix::fs::openat(&trash_dir, trash_name, DIR, Mode::empty()).map_err(failed)?;
                        let name = std::ffi::CString::new(name).map_err(|_| failed(Errno::INVAL))?;
                        move_beside(&dir, &name, &first).map_err(failed)?;
                    }
                    other => absent_is_fine(other).map_err(failed)?,
                }
                rustix::fs::fsync(&dir).map_err(failed)?;
                rustix::fs::fsync(&trash_dir).map_err(failed)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        if data.kind.holds_others() {
            for name in self.names(&DataId::markers())? {
                let marker = DataId::markers().child(name);
                let text = self.read(&marker)?.unwrap_or_default();
                let within = DataId::read_marker(&text).is_some_and(|(_, tenant)| tenant == data.id);
                if within && marker != data.marker() {
                    self.remove(&marker)?;
                }
            }
        }
        self.remove(&data.marker())
    }

    /// Removes a tree, links themselves and not what they point to.
    pub(super) fn remove_tree(&self, at: &Place) -> Result<(), HostError> {
        let remove = || -> Result<(), Errno> {
            let (dir, name) = self.parent(at, false)?;
            purge(&dir, name)?;
            rustix::fs::fsync(&dir)
        };
        absent_is_none("remove", at, remove()).map(drop)
    }

    /// Whether [`Files::remove_tree`] may be used there.
    pub(super) fn check_removable(at: &Place) -> Result<(), HostError> {
        at.check()?;
        let trash = Place::new(Root::Storage, [".hosting", "trash"]);
        if at.parts.is_empty() || (at.root == Root::Storage && (!at.is_within(&trash) || *at == trash)) {
            return Err(HostError::file("remove", at, "it may hold customers' data"));
        }
        Ok(())
    }
}

fn incarnation(data: &DataId, found: u64) -> HostError {
    HostError::Incarnation { data: data.marker_name().into(), found, wanted: data.incarnation }
}

fn absent_is_none<T>(
    action: &'static str,
    at: &Place,
    result: Result<T, Errno>,
) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(HostError::file(action, at, error)),
    }
}

/// Whether a user can enter every folder on the way to `path` and list the last one.
///
/// # Errors
/// The first folder that it cannot enter.
pub fn can_enter(path: &Path, user: &SiteUser) -> Result<(), String> {
    let mut on_the_way: Vec<&Path> = path.ancestors().collect();
    on_the_way.reverse();
    for folder in on_the_way {
        let Ok(stat) = rustix::fs::stat(folder) else { continue };
        let needed = if stat.st_uid == user.uid {
            0o100
        } else if stat.st_gid == user.gid {
            0o010
        } else {
            0o001
        };
        if stat.st_mode & needed == 0 {
            return Err(format!(
                "{} (mode {:04o}) cannot be entered by the user {}",
                folder.display(),
                stat.st_mode & 0o7777,
                user.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::web::drivers::{TENANT, WEBROOT};

    struct Fixture {
        _dir: tempfile::TempDir,
        roots: Roots,
        files: Files,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let roots = Roots {
            storage: path("storage"),
            logs: path("logs"),
            config: path("config"),
            run: path("run"),
            temp: path("temp"),
        };
        let files = Files::open(&roots, None).unwrap();
        Fixture { _dir: dir, roots, files }
    }

    fn webroot(incarnation: u64) -> DataId {
        DataId { kind: WEBROOT, id: "web_a".into(), tenant: "t_a".into(), incarnation }
    }

    fn path(fixture: &Fixture, at: &Place) -> std::path::PathBuf {
        fixture.roots.text(at).into()
    }

    #[test]
    fn a_file_is_replaced_in_one_go_with_its_mode() {
        let fixture = fixture();
        let at = Place::new(Root::Config, ["a", "b", "c.conf"]);
        assert_eq!(fixture.files.read(&at), Ok(None));
        fixture.files.write(&at, b"one", Access::agent(0o640)).unwrap();
        // Several writers of one file do not meet: each replaces it whole.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        fixture.files.write(&at, b"one", Access::agent(0o640)).unwrap();
                    }
                });
            }
        });
        fixture.files.write(&at, b"two", Access::agent(0o600)).unwrap();
        assert_eq!(fixture.files.read(&at).unwrap().as_deref(), Some(b"two".as_slice()));
        assert!(fixture.files.entry(&at).unwrap().unwrap().has(Access::agent(0o600)));
        let folder = Place::new(Root::Config, ["a", "b"]);
        assert_eq!(fixture.files.names(&folder).unwrap(), ["c.conf"]);
        fixture.files.remove(&at).unwrap();
        fixture.files.remove(&at).unwrap();
        assert_eq!(fixture.files.entry(&at), Ok(None));
    }

    #[test]
    fn links_are_never_followed_wherever_they_are() {
        let fixture = fixture();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        let tenant = Place::new(Root::Storage, ["t_a"]);
        fixture.files.make_dir(&tenant, Access::agent(0o755)).unwrap();
        symlink(outside.path(), path(&fixture, &tenant).join("link")).unwrap();
        symlink(outside.path().join("secret"), path(&fixture, &tenant).join("file")).unwrap();

        let below = tenant.child("link").child("secret");
        assert!(fixture.files.read(&below).is_err());
        assert!(fixture.files.read(&tenant.child("file")).is_err());
        assert!(fixture.files.entry(&below).is_err());
        assert!(fixture.files.write(&below, b"gotcha", Access::agent(0o600)).is_err());
        assert!(fixture.files.remove(&below).is_err());
        assert!(fixture.files.make_dir(&tenant.child("link"), Access::agent(0o700)).is_err());
        assert_eq!(fixture.files.offer_dir(&tenant.child("link").child("x"), Access::site(0o755)), Ok(()));
        // Writing over a link replaces the link.
        fixture.files.write(&tenant.child("file"), b"mine", Access::agent(0o600)).unwrap();
        assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
        assert!(!outside.path().join("x").exists());
        for name in ["..", ".", "", "a/b", "a\0b"] {
            assert!(fixture.files.read(&tenant.child(name)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_tree_goes_with_its_links_and_not_with_what_they_point_to() {
        let fixture = fixture();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), b"keep").unwrap();
        let top = Place::new(Root::Storage, [".hosting", "trash", "webroot-web_a-1"]);
        let mut deep = path(&fixture, &top);
        // Deeper than any path that the system takes in one piece.
        for _ in 0..200 {
            deep.push("a-folder-name-of-some-length");
            if deep.as_os_str().len() > 3900 {
                break;
            }
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), b"x").unwrap();
        symlink(outside.path(), path(&fixture, &top).join("link")).unwrap();
        std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o000)).unwrap();
        for n in 0..3000 {
            std::fs::write(path(&fixture, &top).join(format!("f{n}")), b"").unwrap();
        }
        Files::check_removable(&top).unwrap();
        fixture.files.remove_tree(&top).unwrap();
        assert!(!path(&fixture, &top).exists());
        assert!(outside.path().join("keep").exists());
        fixture.files.remove_tree(&top).unwrap();
    }

    #[test]
    fn only_trash_is_removed_from_storage() {
        for parts in [
            vec![],
            vec!["t_a"],
            vec![".hosting"],
            vec![".hosting", "trash"],
            vec![".hosting", "trash", ".."],
        ] {
            let at = Place::new(Root::Storage, parts);
            assert!(Files::check_removable(&at).is_err(), "{at}");
        }
    }

    #[test]
    fn data_is_discarded_exactly_once_and_only_its_own_incarnation() {
        let fixture = fixture();
        let other_node = Files::open(&fixture.roots, None).unwrap();
        fixture
            .files
            .make_dir(&Place::new(Root::Storage, ["t_a", "webroots"]), Access::agent(0o751))
            .unwrap();
        fixture.files.claim(&webroot(5)).unwrap();
        other_node.claim(&webroot(5)).unwrap();
        assert_eq!(other_node.claim(&webroot(6)), Err(incarnation(&webroot(6), 5)));
        fixture.files.offer_dir(&webroot(5).home(), Access::site(0o755)).unwrap();
        std::fs::write(path(&fixture, &webroot(5).home()).join("index.html"), b"five").unwrap();

        assert_eq!(fixture.files.discard(&webroot(4)), Err(incarnation(&webroot(4), 5)));
        fixture.files.discard(&webroot(5)).unwrap();
        assert_eq!(other_node.discard(&webroot(5)), Err(incarnation(&webroot(5), 0)));
        assert_eq!(std::fs::read(path(&fixture, &webroot(5).trash()).join("index.html")).unwrap(), b"five");

        // The next life of the id is not touched by a late retire of the first.
        other_node.claim(&webroot(6)).unwrap();
        other_node.offer_dir(&webroot(6).home(), Access::site(0o755)).unwrap();
        assert_eq!(fixture.files.discard(&webroot(5)), Err(incarnation(&webroot(5), 6)));
        assert!(path(&fixture, &webroot(6).home()).exists());
    }

    #[test]
    fn what_a_lagging_node_made_anew_goes_beside_the_first() {
        let fixture = fixture();
        fixture
            .files
            .make_dir(&Place::new(Root::Storage, ["t_a", "webroots"]), Access::agent(0o751))
            .unwrap();
        for round in ["one", "two", "three"] {
            // The tenant's own names, whatever they are, are in nobody's way.
            for n in 0..1100 {
                let taken = path(&fixture, &webroot(5).trash()).join(format!(".again-{n}/x"));
                std::fs::create_dir_all(taken).unwrap();
            }
            fixture.files.claim(&webroot(5)).unwrap();
            fixture.files.offer_dir(&webroot(5).home(), Access::site(0o755)).unwrap();
            std::fs::write(path(&fixture, &webroot(5).home()).join(round), b"").unwrap();
            fixture.files.discard(&webroot(5)).unwrap();
        }
        assert!(!path(&fixture, &webroot(5).home()).exists());
        fixture.files.remove_tree(&webroot(5).trash()).unwrap();
    }

    #[test]
    fn retiring_and_making_anew_at_the_same_time_never_mixes_incarnations() {
        let fixture = fixture();
        let roots = &fixture.roots;
        fixture
            .files
            .make_dir(&Place::new(Root::Storage, ["t_a", "webroots"]), Access::agent(0o751))
            .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let files = Files::open(roots, None).unwrap();
                    for incarnation in 1..=60 {
                        // Each life is made by whoever comes first and retired by everybody.
                        let data = webroot(incarnation);
                        if files.claim(&data).is_ok() {
                            // Fails when it is retired at this moment; the next pass would see that.
                            let _ = files.offer_dir(&data.home(), Access::site(0o755));
                        }
                        let _ = files.discard(&data);
                    }
                });
            }
        });
        let data = webroot(61);
        fixture.files.claim(&data).unwrap();
        fixture.files.offer_dir(&data.home(), Access::site(0o755)).unwrap();
        for old in 1..=60 {
            assert_eq!(fixture.files.discard(&webroot(old)), Err(incarnation(&webroot(old), 61)));
        }
        assert!(path(&fixture, &data.home()).exists());
    }

    #[test]
    fn a_tenant_takes_the_markers_of_its_sites_along() {
        let fixture = fixture();
        let tenant = DataId { kind: TENANT, id: "t_a".into(), tenant: "t_a".into(), incarnation: 2 };
        let neighbour = DataId { id: "web_b".into(), tenant: "t_b".into(), ..webroot(3) };
        for data in [&tenant, &webroot(5), &neighbour] {
            fixture.files.claim(data).unwrap();
        }
        fixture.files.make_dir(&tenant.home(), Access::agent(0o755)).unwrap();
        fixture.files.discard(&tenant).unwrap();
        assert_eq!(fixture.files.names(&DataId::markers()).unwrap(), [neighbour.marker_name()]);
        assert!(path(&fixture, &tenant.trash()).exists());
    }
}
