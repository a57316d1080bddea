//! A mutation's savepoint, which its first statement that writes sets.

use super::ReadTx;
use crate::StoreError;
use crate::sql::Query;

/// The savepoint of a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Savepoint {
    /// No mutation is under way.
    None,
    /// The next statement that writes needs one.
    Wanted,
    /// It is set.
    Set,
}

impl ReadTx {
    /// A mutation begins: what it writes goes under a savepoint.
    pub(crate) fn want_savepoint(&mut self) {
        self.savepoint = Savepoint::Wanted;
    }

    /// What was written since [`ReadTx::want_savepoint`] stays.
    pub(crate) async fn release_savepoint(&mut self) -> Result<(), StoreError> {
        match std::mem::replace(&mut self.savepoint, Savepoint::None) {
            Savepoint::None | Savepoint::Wanted => Ok(()),
            Savepoint::Set => self.command("RELEASE SAVEPOINT mutation").await,
        }
    }

    /// What was written since [`ReadTx::want_savepoint`] goes. Fails when the database has rolled back the whole transaction by itself,
    /// as SQLite may on a full disk: then what was written before is lost too.
    pub(crate) async fn roll_back_savepoint(&mut self) -> Result<(), StoreError> {
        match std::mem::replace(&mut self.savepoint, Savepoint::None) {
            Savepoint::None | Savepoint::Wanted => Ok(()),
            Savepoint::Set => {
                self.command("ROLLBACK TO SAVEPOINT mutation").await?;
                self.command("RELEASE SAVEPOINT mutation").await
            }
        }
    }

    async fn command(&mut self, text: &'static str) -> Result<(), StoreError> {
        self.statements += 1;
        self.connection.command(text).await
    }

    /// Counts a statement, unless one failed before it. What does not just read needs the savepoint.
    pub(super) async fn admit(&mut self, query: &Query) -> Result<(), StoreError> {
        self.statements += 1;
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.savepoint == Savepoint::Wanted && !query.only_reads() {
            let set = self.command("SAVEPOINT mutation").await;
            self.note(set)?;
            self.savepoint = Savepoint::Set;
        }
        Ok(())
    }
}
