//! Last good state on disk: what a subscriber knew when it stopped, so that it serves with the controller gone.
//!
//! Owns one file per audience ([`Ledger`]) and what is kept of each key ([`Record`]). It never decides what is good: the
//! subscriber (`hosting-intent-sync`) does, and writes through [`Journal`]. A file that cannot be trusted is set aside, never
//! repaired by guessing: the controller can always send everything again.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod disk;
mod record;
mod store;

pub use record::{Meta, Quarantined, Record, Stored, Why};
pub use store::{FORMAT, Ledger};

use std::io;
use std::path::PathBuf;

use hosting_intent::Key;

/// Why a ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has it open.
    #[error("ledger {} is in use by another process; stop that one or give this one a folder of its own", path.display())]
    Locked {
        /// The ledger's file.
        path: PathBuf,
    },
    /// It belongs to somebody else.
    #[error(
        "ledger {} belongs to audience {found:?}, not {wanted:?}; give each audience a folder of its own, or move the file away",
        path.display()
    )]
    OtherAudience {
        /// The ledger's file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// Written by another version of the platform, in a way that this build cannot read.
    #[error(
        "ledger {} has format {found}, this build reads {FORMAT}; run the build that wrote it, or move the file away to start from the controller",
        path.display()
    )]
    Format {
        /// The ledger's file.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// It cannot be trusted. It was renamed to `aside`; opening again starts with nothing.
    #[error("ledger {} is damaged ({problem}); it was set aside as {}", path.display(), aside.display())]
    Corrupt {
        /// The ledger's file.
        path: PathBuf,
        /// Where it is now. The file set aside before is overwritten, so that damage cannot fill the disk.
        aside: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No space, no quota or the file size limit is reached. What was on disk before is still there; writing again helps once
    /// there is space.
    #[error("no space to write ledger {}: {problem}; free some, the write is repeated by itself", path.display())]
    Full {
        /// The ledger's file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The storage engine failed in a way that is neither of the above.
    #[error("ledger {} failed: {problem}", path.display())]
    Engine {
        /// The ledger's file.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
}

impl LedgerError {
    /// Whether the disk is what is missing, and nothing is broken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Locked { .. }
            | Self::OtherAudience { .. }
            | Self::Format { .. }
            | Self::Corrupt { .. }
            | Self::Io { .. }
            | Self::Engine { .. } => false,
        }
    }
}

/// One atomic write.
pub struct LedgerBatch<'a> {
    /// The state after it.
    pub meta: &'a Meta,
    /// Forget every record first: `records` is the whole view.
    pub replace_all: bool,
    /// Keys to set, or to forget.
    pub records: Box<dyn Iterator<Item = (Key, Option<Record>)> + 'a>,
}

/// Where a subscriber keeps its state. The model test has one of its own that crashes.
pub trait Journal: Send + 'static {
    /// Gives every record in key order, then what they amount to; `None` if nothing was ever written.
    ///
    /// # Errors
    /// When the state cannot be read or does not add up; what `each` got must then be thrown away.
    fn load(&mut self, each: &mut dyn FnMut(&Key, Record)) -> Result<Option<Meta>, LedgerError>;

    /// All of `batch` or nothing; on disk when it returns.
    ///
    /// # Errors
    /// When it cannot be promised to be on disk. It may be there nevertheless; writing the same again is harmless.
    fn write(&mut self, batch: LedgerBatch<'_>) -> Result<(), LedgerError>;

    /// Leaves the state to another process. The next use takes it back, and fails for as long as the other one has it; what
    /// is there then may be what the other one wrote.
    fn release(&mut self) {}
}
