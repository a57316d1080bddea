//! Where things lie on a node, and whose they are.

use std::path::PathBuf;

use hosting_agent_engine::{Place, Root};

/// The user that sites run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteUser {
    /// Name of the user.
    pub name: String,
    /// Name of its group.
    pub group: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Absolute paths of the roots. Checked once at the start: they can stand in any configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Customers' data.
    pub storage: PathBuf,
    /// Logs.
    pub logs: PathBuf,
    /// Generated configuration.
    pub config: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// Requests on their way that are too large for memory.
    pub temp: PathBuf,
}

impl Roots {
    /// A root's path.
    #[must_use]
    pub fn path(&self, root: Root) -> &PathBuf {
        match root {
            Root::Storage => &self.storage,
            Root::Logs => &self.logs,
            Root::Config => &self.config,
            Root::Run => &self.run,
            Root::Temp => &self.temp,
        }
    }

    /// A place as a path, for configuration files.
    #[must_use]
    pub fn text(&self, at: &Place) -> String {
        let mut path = self.path(at.root).clone();
        path.extend(&at.parts);
        path.to_string_lossy().into_owned()
    }
}
