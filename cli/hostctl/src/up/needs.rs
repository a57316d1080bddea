//! What must be true of the machine before anything is started, each with its remedy.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Below this, SQLite and the ledgers would soon refuse to write. MiB.
const LEAST_FREE_MIB: u64 = 256;

/// An executable by name, from PATH or where Debian puts daemons.
pub(crate) fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .collect::<Vec<_>>();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0))
}

/// A daemon is missing; `package` brings it on Debian.
fn missing(what: &str, package: &str) -> String {
    format!(
        "{what} is not installed; run `apt-get update && apt-get install --no-install-recommends {package}`, then \
         again (`./up` in the repository does both)"
    )
}

/// nginx.
pub(crate) fn nginx() -> anyhow::Result<PathBuf> {
    find_program(&["nginx"]).with_context(|| missing("nginx", "nginx-light"))
}

/// The newest PHP-FPM with its version, e.g. `8.2`.
pub(crate) fn php_fpm() -> anyhow::Result<(PathBuf, String)> {
    for minor in (0..=9).rev() {
        let version = format!("8.{minor}");
        if let Some(program) = find_program(&[&format!("php-fpm{version}")]) {
            return Ok((program, version));
        }
    }
    bail!(missing("PHP-FPM 8", "php-fpm"))
}

/// Room to write.
pub(crate) fn disk(data: &Path) -> anyhow::Result<()> {
    let stat =
        nix::sys::statvfs::statvfs(data).with_context(|| format!("cannot look at {}", data.display()))?;
    let free_mib = stat.blocks_available() as u64 * stat.fragment_size() as u64 / (1 << 20);
    if free_mib < LEAST_FREE_MIB {
        bail!(
            "the disk below {} is nearly full: {free_mib} MiB free, {LEAST_FREE_MIB} MiB needed; free some, or choose \
             another folder with --data DIR",
            data.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_has_room_and_a_missing_folder_is_named() {
        disk(&std::env::temp_dir()).unwrap();
        let error = disk(Path::new("/nonexistent/folder")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/folder"), "{error}");
    }
}
