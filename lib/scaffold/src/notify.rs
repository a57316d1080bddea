//! What a process tells the service manager that started it (systemd's `sd_notify`): a datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! Without that variable nothing is told. Called by [`crate::tasks`] and by roles when they serve.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager, if there is one: lines of `NAME=value`, as sd_notify(3) lists them.
pub fn tell(lines: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = tell_at(&socket, lines) {
        tracing::warn!(%error, ?socket, lines, "the service manager could not be told");
    }
}

fn tell_at(socket: &OsStr, lines: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("hosting-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            tell_at(&socket, "READY=1\nMAINPID=7").unwrap();
            let mut heard = [0; 64];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1\nMAINPID=7");
        }
        assert!(tell_at(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
