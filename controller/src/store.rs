//! `hosting-controller store`: a copy of the store with its key, putting it back, and moving it to PostgreSQL.

use std::fs;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use hosting_scaffold::file;
use hosting_store::{Database, Kek, Store};

use crate::settings::{Settings, StoreCommand};

/// The files of a backup.
const STORE: &str = "store.db";
const KEY: &str = "kek";
/// A key file has 32 bytes; one with former keys some more.
const KEY_LIMIT: u64 = 64 * 1024;

/// Does what is asked and ends.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn store(settings: &Settings, command: &StoreCommand) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match command {
            StoreCommand::Backup { folder, without_key } => backup(settings, folder, !without_key).await,
            StoreCommand::Restore { folder } => restore(settings, folder).await,
            StoreCommand::Migrate { to } => migrate(settings, to).await,
        }
    })
}

/// A backup is whole or not there: it is written beside its name.
async fn backup(settings: &Settings, folder: &Path, with_key: bool) -> anyhow::Result<()> {
    if fs::symlink_metadata(folder).is_ok() {
        bail!("{} exists already; name a new folder", folder.display());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new()
        .prefix(".backup-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(above)
        .with_context(|| format!("cannot write to {}", above.display()))?;
    Store::backup(&settings.database()?, &aside.path().join(STORE)).await?;
    if with_key {
        let key = read_key(&settings.kek())?;
        file::write_private(&aside.path().join(KEY), &key)
            .with_context(|| format!("cannot write to {}", above.display()))?;
    }
    let aside = aside.keep();
    fs::rename(&aside, folder).with_context(|| format!("cannot write {}", folder.display()))?;
    fs::File::open(above).and_then(|above| above.sync_all())?;
    say(format_args!(
        "{} has the store{}",
        folder.display(),
        if with_key {
            " and its key: whoever has it can open every secret"
        } else {
            " without its key: keep that too, or no secret in it can be opened"
        }
    ));
    Ok(())
}

async fn restore(settings: &Settings, folder: &Path) -> anyhow::Result<()> {
    let copy = folder.join(STORE);
    if !copy.is_file() {
        bail!("{} has no {STORE}; name a folder that `store backup` wrote", folder.display());
    }
    // The key first: a store without its key is of no use, a key without its store does no harm.
    let (kept, wanted) = (folder.join(KEY), settings.kek());
    if kept.is_file() {
        let key = read_key(&kept)?;
        let made = make_folder(&wanted).and_then(|()| file::create_whole(&wanted, &key, 0o600));
        let made = made.with_context(|| format!("cannot write {}", wanted.display()))?;
        if !made && *read_key(&wanted)? != *key {
            bail!(
                "{} is another key than that of the backup; move it away, then run this again",
                wanted.display()
            );
        }
    }
    let database = settings.database()?;
    match &database {
        Database::Sqlite(path) => Store::restore(path, &copy)?,
        Database::Postgres(_) => Store::transfer(&Database::Sqlite(copy), &database, progress).await?,
    }
    say(format_args!("{database} is as it was when {} was written; start the controller", folder.display()));
    Ok(())
}

async fn migrate(settings: &Settings, to: &Path) -> anyhow::Result<()> {
    let (from, target) = (settings.database()?, Settings::database_in(to)?);
    if let Database::Postgres(_) = from {
        bail!("the store is on PostgreSQL already: {from}");
    }
    // Nobody can use a store whose secrets do not open.
    Kek::load_or_create(&settings.kek())?;
    Store::transfer(&from, &target, progress).await?;
    say(format_args!(
        "{target} has the store. Set `database_file = {:?}` in the controller's settings and start it; {from} is as it was: put it away",
        to.display()
    ));
    Ok(())
}

fn make_folder(file: &Path) -> std::io::Result<()> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn read_key(path: &Path) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
    let key =
        file::read_private(path, KEY_LIMIT).and_then(|key| key.ok_or_else(|| ErrorKind::NotFound.into()));
    Ok(zeroize::Zeroizing::new(key.with_context(|| format!("cannot read the key file {}", path.display()))?))
}

/// On a terminal, how far it is.
fn progress(table: &str, rows: u64) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{table}: {rows} rows");
        let _ = err.flush();
    }
}

fn say(text: std::fmt::Arguments<'_>) {
    let mut err = std::io::stderr();
    let _ = if err.is_terminal() { writeln!(err, "\r\x1b[K{text}") } else { writeln!(err, "{text}") };
}
