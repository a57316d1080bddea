//! The file: redb, one table of records, one of what they add up to.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hosting_intent::{Digest, Key};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::disk::{decode_meta, decode_record, encode_meta, encode_record};
use crate::{Journal, LedgerBatch, LedgerError, Meta, Record};

/// Version of the tables below. It moves only when the version before could not read them.
pub const FORMAT: u32 = 1;

/// (kind, name) → record.
const RECORDS: TableDefinition<'_, (u32, &str), &[u8]> = TableDefinition::new("records");
/// Field → value. `format` and `audience` never change their meaning.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Bytes of page cache: the inner pages of a million records. The view itself is in memory anyway.
const CACHE: usize = 4 << 20;

/// One audience's last good state, locked to this process while open.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    audience: String,
    /// `None` after a failure: the engine refuses everything after one, so the next use opens it again.
    database: Option<Database>,
    /// Held for as long as this lives, also while `database` is closed; `None` once it was released, until the next use.
    lock: Option<File>,
    #[cfg(test)]
    quota: tests::Quota,
}

/// What a failure of the engine means to us.
#[derive(Debug)]
enum Fault {
    Full(String),
    Corrupt(String),
    OtherAudience(String),
    Format(u32),
    Other(String),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "lists of others, open; what is not known is not called damage"
    )]
    fn from(error: E) -> Self {
        let error = error.into();
        let text = error.to_string();
        match error {
            redb::Error::Io(io) => match io.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::Full(text)
                }
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt(text),
                _ => Self::Other(text),
            },
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_) => Self::Corrupt(text),
            _ => Self::Other(text),
        }
    }
}

impl Ledger {
    /// Opens or creates the ledger of `audience` at `path`. A folder that it creates has mode 0700, the file always 0600.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when the file was damaged and is set aside now: opening again starts with nothing. The
    /// others leave everything as it was.
    pub fn open(path: impl Into<PathBuf>, audience: &str) -> Result<Self, LedgerError> {
        let path = path.into();
        let folder = folder_of(&path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io_error("create folder", folder))?;
        let lock = Some(lock(&path)?);
        let mut ledger = Self {
            path,
            audience: audience.to_owned(),
            database: None,
            lock,
            #[cfg(test)]
            quota: tests::Quota::default(),
        };
        ledger.guarded(|_| Ok(()))?;
        Ok(ledger)
    }

    /// The ledger's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on the open database; after a failure the database is closed, after damage the file is set aside.
    fn guarded<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, LedgerError> {
        if self.lock.is_none() {
            self.lock = Some(lock(&self.path)?);
        }
        let kept = match self.database.take() {
            Some(database) => Ok(database),
            None => self.connect(),
        };
        // The engine may panic over pages that are not what it wrote; to us that is damage like any other.
        let done = kept.and_then(|database| {
            catch_unwind(AssertUnwindSafe(move || match work(&database) {
                Ok(value) => Ok((database, value)),
                Err(fault) => {
                    drop(database);
                    Err(fault)
                }
            }))
            .unwrap_or_else(|_| Err(Fault::Corrupt("its pages make no sense".to_owned())))
        });
        match done {
            Ok((database, value)) => {
                self.database = Some(database);
                Ok(value)
            }
            Err(fault) => Err(self.explain(fault)),
        }
    }

    /// Closing writes the engine's own pages, and may find the damage that nothing else touched.
    fn close(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!(path = %self.path.display(), "the ledger is damaged; the next start checks it");
        }
    }

    fn connect(&self) -> Result<Database, Fault> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(redb::Error::Io)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(redb::Error::Io)?;
        let database = catch_unwind(AssertUnwindSafe(|| self.database_on(file)))
            .unwrap_or_else(|_| Err(Fault::Corrupt("its header makes no sense".to_owned())))?;
        // A new file is only there after a crash if its folder entry is.
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).map_err(redb::Error::Io)?;
        Ok(database)
    }

    fn database_on(&self, file: File) -> Result<Database, Fault> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE);
        #[cfg(not(test))]
        let database = builder.create_file(file)?;
        #[cfg(test)]
        let database = builder.create_with_backend(self.quota.backend(file)?)?;
        // One transaction that reads first: an existing ledger is not written to.
        let write = database.begin_write()?;
        let is_new = {
            let mut meta = write.open_table(META)?;
            let format = meta.get("format")?.map(|guard| guard.value().to_vec());
            match format {
                Some(format) => {
                    let found = <[u8; 4]>::try_from(format.as_slice())
                        .map(u32::from_le_bytes)
                        .map_err(|_| Fault::Corrupt("format: not a number".to_owned()))?;
                    if found != FORMAT {
                        return Err(Fault::Format(found));
                    }
                    let audience = meta
                        .get("audience")?
                        .map(|guard| String::from_utf8_lossy(guard.value()).into_owned())
                        .ok_or_else(|| Fault::Corrupt("audience: missing".to_owned()))?;
                    if audience != self.audience {
                        return Err(Fault::OtherAudience(audience));
                    }
                    false
                }
                None => {
                    meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
                    meta.insert("audience", self.audience.as_bytes())?;
                    true
                }
            }
        };
        if is_new {
            write.open_table(RECORDS)?;
            write.commit()?;
        } else {
            write.abort()?;
        }
        Ok(database)
    }

    fn explain(&self, fault: Fault) -> LedgerError {
        let path = self.path.clone();
        match fault {
            Fault::Full(problem) => LedgerError::Full { path, problem },
            Fault::OtherAudience(found) => {
                LedgerError::OtherAudience { path, found, wanted: self.audience.clone() }
            }
            Fault::Format(found) => LedgerError::Format { path, found },
            Fault::Other(problem) => LedgerError::Engine { path, problem },
            Fault::Corrupt(problem) => {
                let aside = suffixed(&path, ".damaged");
                match std::fs::rename(&path, &aside) {
                    Ok(()) => LedgerError::Corrupt { path, aside, problem },
                    Err(source) => LedgerError::Io { doing: "set aside the damaged ledger", path, source },
                }
            }
        }
    }
}

impl Journal for Ledger {
    fn load(&mut self, each: &mut dyn FnMut(&Key, Record)) -> Result<Option<Meta>, LedgerError> {
        self.guarded(|database| {
            let read = database.begin_read()?;
            let position = read.open_table(META)?.get("position")?.map(|guard| guard.value().to_vec());
            let Some(position) = position else { return Ok(None) };
            let meta = decode_meta(&position).map_err(Fault::Corrupt)?;
            let (mut count, mut digest) = (0_u64, Digest::EMPTY);
            let mut key = Key { kind: 0, name: String::new() };
            for row in read.open_table(RECORDS)?.iter()? {
                let (place, value) = row?;
                let (kind, name) = place.value();
                key.kind = kind;
                key.name.clear();
                key.name.push_str(name);
                let record = decode_record(value.value())
                    .map_err(|problem| Fault::Corrupt(format!("record {key}: {problem}")))?;
                if let Some(wanted) = record.wanted() {
                    count += 1;
                    digest.add(&key, &wanted.value);
                }
                each(&key, record);
            }
            if (count, digest) != (meta.count, meta.digest) {
                return Err(Fault::Corrupt(format!(
                    "{count} items with digest {digest}, should be {} with {}",
                    meta.count, meta.digest
                )));
            }
            Ok(Some(meta))
        })
    }

    fn write(&mut self, batch: LedgerBatch<'_>) -> Result<(), LedgerError> {
        self.guarded(|database| {
            let write = database.begin_write()?;
            if batch.replace_all {
                write.delete_table(RECORDS)?;
            }
            {
                let mut records = write.open_table(RECORDS)?;
                for (key, record) in batch.records {
                    let at = (key.kind, key.name.as_str());
                    match record {
                        Some(record) => records.insert(at, encode_record(&record).as_slice())?,
                        None => records.remove(at)?,
                    };
                }
                write.open_table(META)?.insert("position", encode_meta(batch.meta).as_slice())?;
            }
            write.commit()?;
            Ok(())
        })
    }

    fn release(&mut self) {
        self.close();
        self.lock = None;
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(path: &Path) -> Result<File, LedgerError> {
    let path_of_lock = suffixed(path, ".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path_of_lock)
        .map_err(io_error("open", &path_of_lock))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => {
            Err(LedgerError::Io { doing: "lock", path: path_of_lock, source })
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            LedgerError::Full { path, problem: source.to_string() }
        } else {
            LedgerError::Io { doing, path, source }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
