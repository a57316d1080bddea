//! What must be true of the machine before anything is started, each with its remedy.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
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
        .find(|file| file.is_file())
}

/// nginx.
pub(crate) fn nginx() -> anyhow::Result<PathBuf> {
    find_program(&["nginx"]).context(
        "nginx is not installed: run `apt-get install --no-install-recommends nginx-light`, then again",
    )
}

/// The newest PHP-FPM with its version, e.g. `8.2`.
pub(crate) fn php_fpm() -> anyhow::Result<(PathBuf, String)> {
    for minor in (0..=9).rev() {
        let version = format!("8.{minor}");
        if let Some(program) = find_program(&[&format!("php-fpm{version}")]) {
            return Ok((program, version));
        }
    }
    bail!("PHP-FPM 8 is not installed: run `apt-get install --no-install-recommends php8.2-fpm`, then again")
}

/// Room to write.
pub(crate) fn disk(data: &Path) -> anyhow::Result<()> {
    let stat =
        nix::sys::statvfs::statvfs(data).with_context(|| format!("cannot look at {}", data.display()))?;
    let free_mib = stat.blocks_available() as u64 * stat.fragment_size() as u64 / (1 << 20);
    if free_mib < LEAST_FREE_MIB {
        bail!(
            "the disk below {} is full: {free_mib} MiB free, {LEAST_FREE_MIB} MiB needed; free some, or choose \
             another folder with --data",
            data.display()
        );
    }
    Ok(())
}

/// The port is free for TCP, and for UDP if asked.
pub(crate) fn port(address: SocketAddr, udp: bool, what: &str, flag: &str) -> anyhow::Result<()> {
    let taken = |error: std::io::Error| {
        anyhow::anyhow!(
            "{what}: {address} cannot be used: {error}; end what listens there (`ss -lntup | grep :{}`), or choose \
             another port with {flag}",
            address.port()
        )
    };
    TcpListener::bind(address).map_err(taken)?;
    if udp {
        UdpSocket::bind(address).map_err(taken)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_the_flag() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = port(held.local_addr().unwrap(), false, "API", "--api-port").unwrap_err().to_string();
        assert!(error.contains("--api-port") && error.contains("API"), "{error}");
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(port(held.local_addr().unwrap(), true, "DNS", "--dns-port").is_err());
    }

    #[test]
    fn the_disk_has_room_and_a_missing_folder_is_named() {
        disk(&std::env::temp_dir()).unwrap();
        let error = disk(Path::new("/nonexistent/folder")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/folder"), "{error}");
    }
}
