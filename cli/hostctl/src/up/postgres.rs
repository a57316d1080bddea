//! The database of `up --database postgres`: a server of its own that nothing but this platform reaches.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use hosting_local_postgres::Server;

use super::child::Child;
use crate::{
    args::DatabaseKind,
    folder::{DataFolder, write_private},
};

/// Where servers run whose user may not enter the data folder.
const ELSEWHERE: &str = "/var/lib/hosting-postgres";
/// The database's name.
const NAME: &str = "hosting";

/// The file with the connection string, which says that the store is there.
pub(super) fn database_file(data: &Path) -> PathBuf {
    data.join("controller/database")
}

/// The server that the store is on; `None`: the store is a SQLite file. A folder keeps what it began with.
pub(super) fn wanted(data: &DataFolder, asked: Option<DatabaseKind>) -> anyhow::Result<Option<Server>> {
    let has_postgres = database_file(data.path()).is_file();
    match asked {
        Some(DatabaseKind::Sqlite) if has_postgres => bail!(
            "the store of this folder is on PostgreSQL; leave --database out, or choose another folder with --data DIR"
        ),
        Some(DatabaseKind::Postgres) => {}
        Some(DatabaseKind::Sqlite) | None if !has_postgres => return Ok(None),
        Some(DatabaseKind::Sqlite) | None => {}
    }
    let folder = if is_open_to_all(data.path()) {
        data.join("postgres")
    } else {
        // One folder for each data folder, by its path.
        let name = data.path().display().to_string();
        Path::new(ELSEWHERE).join(name.trim_matches('/').replace('/', "-"))
    };
    Ok(Some(Server::in_folder(&folder, true)?))
}

/// Whether every user may enter a folder and those above it.
fn is_open_to_all(folder: &Path) -> bool {
    folder
        .ancestors()
        .all(|folder| fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o001 != 0))
}

/// The server as a child of `up`, its data made.
pub(super) fn child(data: &DataFolder, server: &Server) -> anyhow::Result<Child> {
    server.prepare().context("the database's folder cannot be made")?;
    let command = server.server();
    let text = |text: &std::ffi::OsStr| text.to_str().map(str::to_owned).context("a path is not UTF-8");
    let program = text(command.get_program())?;
    let arguments = command.get_args().map(text).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Child::new(data.path(), "postgres", Path::new(&program), arguments))
}

/// Waits for the server, makes the database, and writes where it is for the controller. A store that was a file until now is copied
/// into it first, and then put away.
pub(super) fn make_database(data: &Path, server: &Server, controller: &Path) -> anyhow::Result<()> {
    let (file, store) = (database_file(data), data.join("controller/store.db"));
    server.create_database(NAME).context("the database cannot be made")?;
    if !file.is_file() && store.is_file() {
        // An earlier attempt may have been cut short.
        server
            .drop_database(NAME)
            .and_then(|()| server.create_database(NAME))
            .context("the database cannot be made")?;
        let new = file.with_extension("new");
        write_private(&new, &server.url(NAME))?;
        let moved = Command::new(controller)
            .arg("--data-dir")
            .arg(data.join("controller"))
            .args(["store", "migrate", "--to"])
            .arg(&new)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", controller.display()))?;
        if !moved.status.success() {
            bail!(
                "the store cannot be moved to PostgreSQL: {}",
                String::from_utf8_lossy(&moved.stderr).trim()
            );
        }
        fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if store.is_file() {
        fs::rename(&store, store.with_extension("db.moved"))
            .context("the former store cannot be put away")?;
    }
    write_private(&file, &server.url(NAME))
}
