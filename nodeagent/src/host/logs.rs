//! Rotation of logs, by size and by age.
//!
//! A log that is full becomes `NAME.1`, the earlier ones move up and the last of them goes. Services that hold a log open
//! are then told: by a reload where the role says so, by SIGUSR1 otherwise. Until then they write on into what is now
//! `NAME.1`.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hosting_agent_engine::{HostError, Place, Root};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags},
    io::Errno,
};

use super::{
    files::Files,
    supervisor::{Supervisor, blocking},
};

/// How often the logs are looked at.
const PERIOD: Duration = Duration::from_secs(15);

/// Ending of what is rotated.
const SUFFIX: &str = ".log";

/// When a log is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size of a log of the node's own services, in bytes.
    pub bytes: u64,
    /// Size of a log of a tenant's, in bytes.
    pub tenant_bytes: u64,
    /// Age of a log that is not empty.
    pub age: Duration,
    /// Full ones that are kept of each.
    pub keep: u32,
}

/// A folder of logs that are a service's own and no tenant's.
#[derive(Debug, Clone, Copy)]
pub struct ServiceLogs {
    /// Whether a folder, by its name, is one of the service's.
    pub owns: fn(&str) -> bool,
    /// The service that opens them anew by a reload, for example because its workers must not be able to open the logs by
    /// themselves; `None`: by SIGUSR1, as the services of tenants.
    pub reload: Option<&'static str>,
}

/// Looks after the logs.
#[derive(Debug)]
pub struct Rotation {
    files: Arc<Files>,
    supervisor: Supervisor,
    limits: LogLimits,
    own: &'static [ServiceLogs],
    /// Services that have not been told yet that their logs moved.
    untold: BTreeSet<&'static str>,
}

impl Rotation {
    /// Over the logs of a node, of which `own` are the services'.
    #[must_use]
    pub fn new(
        files: Arc<Files>,
        supervisor: Supervisor,
        limits: LogLimits,
        own: &'static [ServiceLogs],
    ) -> Self {
        Self { files, supervisor, limits, own, untold: BTreeSet::new() }
    }

    /// Looks now and then, for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "logs are not rotated; it is tried again");
            }
        }
    }

    /// Rotates what is full.
    ///
    /// # Errors
    /// What stands in the way. The logs that could be rotated are.
    pub async fn look(&mut self) -> Result<(), HostError> {
        let (files, limits, own) = (self.files.clone(), self.limits, self.own);
        let (moved, outcome) = blocking(move || Ok(rotate(&files, limits, own))).await?;
        self.untold.extend(moved.reloads);
        if moved.others {
            let by_reload: Vec<&str> = self.own.iter().filter_map(|logs| logs.reload).collect();
            self.supervisor.reopen_logs(&by_reload).await;
        }
        while let Some(service) = self.untold.first().copied() {
            self.supervisor.reload(service).await?;
            self.untold.remove(service);
        }
        outcome
    }
}

/// Whose logs were moved.
#[derive(Debug, Default)]
struct Moved {
    reloads: BTreeSet<&'static str>,
    others: bool,
}

/// Whose logs were moved, and the first thing that went wrong.
fn rotate(files: &Files, limits: LogLimits, own: &[ServiceLogs]) -> (Moved, Result<(), HostError>) {
    let (mut moved, mut outcome) = (Moved::default(), Ok(()));
    let top = Place { root: Root::Logs, parts: Vec::new() };
    let folders = files.names(&top).unwrap_or_else(|error| {
        outcome = Err(error);
        Vec::new()
    });
    for folder in folders {
        let own = own.iter().find(|own| (own.owns)(&folder));
        let bytes = if own.is_some() { limits.bytes } else { limits.tenant_bytes };
        match rotate_folder(files, &top.child(folder), bytes, limits) {
            Ok(true) => match own.and_then(|own| own.reload) {
                Some(service) => drop(moved.reloads.insert(service)),
                None => moved.others = true,
            },
            Err(error) if outcome.is_ok() => outcome = Err(error),
            Ok(false) | Err(_) => {}
        }
    }
    (moved, outcome)
}

fn rotate_folder(files: &Files, folder: &Place, bytes: u64, limits: LogLimits) -> Result<bool, HostError> {
    let mut moved = false;
    // A link or a file beside the folders is nobody's log.
    let Ok(dir) = files.dir(folder) else { return Ok(false) };
    for name in files.names(folder)?.iter().filter(|name| name.ends_with(SUFFIX)) {
        let failed = |error: Errno| HostError::file("rotate", &folder.child(name.clone()), error);
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = match rustix::fs::statx(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW, wanted) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed(error)),
        };
        if is_full(&stat, bytes, limits.age) {
            turn(&dir, name, &stat, limits.keep).map_err(failed)?;
            tracing::info!(log = %folder.child(name.clone()), bytes = stat.stx_size, "rotated");
            moved = true;
        }
    }
    Ok(moved)
}

fn is_full(stat: &Statx, bytes: u64, age: Duration) -> bool {
    if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile || stat.stx_size == 0 {
        return false;
    }
    // Where the file system does not know when a file was made, size alone counts.
    let knows_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.stx_btime.tv_sec).unwrap_or_default());
    let is_old = knows_birth && SystemTime::now().duration_since(born).is_ok_and(|past| past >= age);
    stat.stx_size >= bytes || is_old
}

/// Moves the full ones up by one and makes a new log with the mode and owner of the old one. On a disk that is too full for
/// that the old log is put back.
fn turn(dir: &std::os::fd::OwnedFd, name: &str, stat: &Statx, keep: u32) -> Result<(), Errno> {
    let numbered = |number: u32| format!("{name}.{number}");
    for number in (1..keep.max(1)).rev() {
        match rustix::fs::renameat(dir, numbered(number), dir, numbered(number + 1)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::renameat(dir, name, dir, numbered(1))?;
    let make = || -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::process::geteuid().is_root() {
            let (owner, group) =
                (rustix::fs::Uid::from_raw(stat.stx_uid), rustix::fs::Gid::from_raw(stat.stx_gid));
            rustix::fs::fchown(&new, Some(owner), Some(group))?;
        }
        rustix::fs::fchmod(&new, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777))
    };
    make().inspect_err(|_| {
        let _ = rustix::fs::renameat(dir, numbered(1), dir, name);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::{roots::Roots, web::LOGS};

    #[test]
    fn what_is_full_or_old_moves_up_and_nothing_else() {
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
        std::fs::create_dir_all(path("logs/t_a")).unwrap();
        std::fs::create_dir_all(path("outside")).unwrap();
        let put = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        let get = |name: &str| std::fs::read_to_string(path(name)).ok();
        put("logs/t_a/small.log", "small");
        put("logs/t_a/full.log", "full.");
        put("logs/t_a/full.log.1", "one");
        put("logs/t_a/full.log.2", "two");
        put("logs/t_a/empty.log", "");
        put("logs/t_a/full.txt", "no log, however long it is");
        put("outside/other.log", "not below the logs");
        symlink(path("outside/other.log"), path("logs/t_a/link.log")).unwrap();
        symlink(path("outside"), path("logs/t_b")).unwrap();
        std::fs::set_permissions(path("logs/t_a/full.log"), std::fs::Permissions::from_mode(0o604)).unwrap();
        let hour = Duration::from_secs(3600);
        let limits = |tenant_bytes, age| LogLimits { bytes: 1 << 20, tenant_bytes, age, keep: 2 };

        let (moved, outcome) = rotate(&files, limits(6, hour), LOGS);
        assert_eq!((moved.reloads.len(), moved.others, outcome), (0, false, Ok(())));
        put("logs/t_a/full.log", "full..");
        let (moved, outcome) = rotate(&files, limits(6, hour), LOGS);
        assert_eq!((moved.reloads.len(), moved.others, outcome), (0, true, Ok(())));
        assert_eq!(get("logs/t_a/full.log").as_deref(), Some(""));
        assert_eq!(get("logs/t_a/full.log.1").as_deref(), Some("full.."));
        assert_eq!(get("logs/t_a/full.log.2").as_deref(), Some("one"));
        assert_eq!(get("logs/t_a/full.log.3"), None);
        let mode = std::fs::metadata(path("logs/t_a/full.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o604);
        assert_eq!(get("logs/t_a/small.log").as_deref(), Some("small"));

        let (moved, outcome) = rotate(&files, limits(1 << 20, Duration::ZERO), LOGS);
        assert_eq!((moved.others, outcome), (true, Ok(())));
        assert_eq!(get("logs/t_a/small.log.1").as_deref(), Some("small"));
        assert_eq!((get("logs/t_a/empty.log.1"), get("logs/t_a/link.log.1")), (None, None));
        assert_eq!(get("outside/other.log").as_deref(), Some("not below the logs"));
        assert_eq!(get("outside/other.log.1"), None);
    }
}
