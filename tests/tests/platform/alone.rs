//! A controller without a fleet, for tests of its API alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::binaries;

/// A running controller in a folder of its own.
pub(crate) struct Controller {
    process: Child,
    pub(crate) api: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

impl Controller {
    /// Starts one; `env` are settings. It may not answer yet.
    pub(crate) fn start(folder: tempfile::TempDir, env: &[(&str, PathBuf)]) -> Self {
        // For the test's own client; a second install can only fail because the first one stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (api, feed) = (free(), free());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(binaries().join("hosting-controller"))
            .args(["--listen", &api.to_string(), "--feed-listen", &feed.to_string()])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .arg("--bootstrap-key-file")
            .arg(folder.path().join("admin.key"))
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, api, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.path().join("admin.key")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
