//! `up.json`: what runs, for people's scripts and for hostctl itself. It is there only while the platform is up and seeded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use hosting_scaffold::file::write_whole;
use serde::{Deserialize, Serialize};

/// See the field names; addresses are `ip:port`, paths absolute.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Base URL of the API.
    pub api: String,
    pub edge_http: String,
    pub edge_https: String,
    pub dns: String,
    /// Holds the admin API key; readable by its owner only.
    pub admin_key_file: PathBuf,
    /// The development CA that signs the sites' certificates.
    pub edge_ca_file: PathBuf,
    /// Where the sites' files are.
    pub storage: PathBuf,
    pub demo_fqdns: Vec<String>,
    /// By role; `up` is hostctl itself.
    pub pids: BTreeMap<String, u32>,
    /// `/metrics`, `/healthz` and `/readyz` of each process: `ip:port`.
    pub admin: BTreeMap<String, String>,
    /// The full command line of each child.
    pub commands: BTreeMap<String, Vec<String>>,
}

impl Summary {
    fn path(data: &Path) -> PathBuf {
        data.join("up.json")
    }

    /// `None` when nothing is up, or the file is of no use.
    pub(crate) fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(data)).ok()?).ok()
    }

    /// Written whole or not at all.
    pub(crate) fn write(&self, data: &Path) -> std::io::Result<()> {
        write_whole(&Self::path(data), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    pub(crate) fn remove(data: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(Self::path(data)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
