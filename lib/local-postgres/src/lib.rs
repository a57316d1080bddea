//! A PostgreSQL server of one's own: its data in a folder, reached by a Unix socket in that folder and by nothing else.
//!
//! Owns how the server is made and started, never what is stored. `hostctl up --database postgres` and the tests use it; a fleet has a
//! server that its operator runs.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

/// How data are made: in byte order, for a user that is let in by the folder's mode.
const INITDB: [&str; 4] = ["--username=hosting", "--auth=trust", "--locale=C", "--encoding=UTF8"];
/// How long the server may take until it answers, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who the server runs as when we are root, which it refuses to be: the first that the machine has.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server is installed.
    #[error("PostgreSQL is not installed; run `apt-get install --no-install-recommends postgresql`")]
    Missing,
    /// We are root, and none of the users that the server could run as exists.
    #[error("PostgreSQL does not run as root, and there is no user `postgres`")]
    NoUser,
    /// A program failed.
    #[error("{program} failed: {words}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// What it said.
        words: String,
    },
    /// The server does not answer.
    #[error("PostgreSQL does not answer within 30 s: {0}")]
    Silent(String),
    /// A file or a program cannot be used.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A server's folder, with everything that starts it.
#[derive(Debug, Clone)]
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    user: Option<User>,
    /// Whether what is committed must survive a crash of the machine.
    durable: bool,
}

impl Server {
    /// A server whose data is, or will be, in `folder`. A server that is not `durable` skips fsync: for tests.
    ///
    /// # Errors
    /// When no server is installed, or no user can run it.
    pub fn in_folder(folder: &Path, durable: bool) -> Result<Self, Error> {
        let user = if geteuid().is_root() {
            let found = USERS.iter().find_map(|name| User::from_name(name).ok().flatten());
            Some(found.ok_or(Error::NoUser)?)
        } else {
            None
        };
        Ok(Self { programs: programs().ok_or(Error::Missing)?, folder: folder.to_owned(), user, durable })
    }

    /// Makes the data unless they are there. Everything below the folder belongs to the server's user.
    ///
    /// # Errors
    /// When a file cannot be made, or `initdb` fails.
    pub fn prepare(&self) -> Result<(), Error> {
        for folder in [&self.folder, &self.sockets()] {
            fs::create_dir_all(folder)?;
            // Whoever reaches the socket is let in as the database's owner.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
            if let Some(user) = &self.user {
                chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            }
        }
        if self.data().join("PG_VERSION").is_file() {
            return Ok(());
        }
        let mut initdb = self.command("initdb");
        initdb.args(INITDB).arg("-D").arg(self.data());
        if !self.durable {
            initdb.arg("--no-sync");
        }
        run("initdb", &mut initdb)
    }

    /// As [`Server::prepare`], with a copy of the data of an earlier server: the first one's stay below `templates`, which
    /// processes may share. Making data anew takes ten times as long. For servers that are not durable.
    ///
    /// # Errors
    /// Those of [`Server::prepare`]; and when `templates` cannot be written or the data not be copied.
    pub fn prepare_from(&self, templates: &Path) -> Result<(), Error> {
        let made_by = format!("{}{}", self.programs.display(), INITDB.concat());
        let template = templates.join(made_by.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        fs::create_dir_all(templates)?;
        let lock = fs::File::create(template.with_extension("lock"))?;
        lock.lock()?;
        if template.is_dir() {
            drop(lock);
            fs::create_dir_all(&self.folder)?;
            copy(&template, &self.data())?;
            return self.prepare();
        }
        self.prepare()?;
        // Under its own name once it is whole.
        let part = template.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        copy(&self.data(), &part)?;
        Ok(fs::rename(part, template)?)
    }

    /// The server's process, in the foreground.
    #[must_use]
    pub fn server(&self) -> Command {
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.data()).arg("-k").arg(self.sockets());
        let settings = [
            "listen_addresses=",
            "max_connections=64",
            "shared_buffers=64MB",
            "log_min_messages=warning",
            "unix_socket_permissions=0700",
        ];
        for setting in settings {
            server.args(["-c", setting]);
        }
        if !self.durable {
            for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
                server.args(["-c", setting]);
            }
        }
        server
    }

    /// The connection string of a database of the server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let sockets = self.sockets().display().to_string();
        format!(
            "postgres://hosting@localhost/{database}?host={}&sslmode=disable",
            sockets.replace('/', "%2F")
        )
    }

    /// The server's Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sockets().join(".s.PGSQL.5432")
    }

    /// Makes a database unless it is there.
    ///
    /// # Errors
    /// When the server does not answer in time, or refuses.
    pub fn create_database(&self, name: &str) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let mut psql = self.psql();
            psql.arg(format!("CREATE DATABASE \"{name}\" TEMPLATE template0"));
            match run("psql", &mut psql) {
                Err(Error::Failed { words, .. }) if words.contains("already exists") => return Ok(()),
                // It still starts.
                Err(Error::Failed { words, .. }) if words.contains("connection to server") => {
                    if begun.elapsed() > PATIENCE {
                        return Err(Error::Silent(words));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    /// Deletes a database, if there is one, with everything in it.
    ///
    /// # Errors
    /// When the server refuses, because somebody uses it for instance.
    pub fn drop_database(&self, name: &str) -> Result<(), Error> {
        run("psql", self.psql().arg(format!("DROP DATABASE IF EXISTS \"{name}\"")))
    }

    fn psql(&self) -> Command {
        let mut psql = self.command("psql");
        psql.arg("-h")
            .arg(self.sockets())
            .args(["-U", "hosting", "-d", "postgres", "-X", "-q", "-A", "-t", "-c"]);
        psql
    }

    /// Brings what the server's planner knows of a database up to date, as it does itself in time.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn analyze(&self, database: &str) -> Result<(), Error> {
        let mut psql = self.psql();
        psql.arg("ANALYZE").args(["-d", database]);
        run("psql", &mut psql)
    }

    /// Starts the server on data that are prepared; it ends with the value, or with the thread that started it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(self) -> Result<Running, Error> {
        let log = fs::File::create(self.folder.join("server.log"))?;
        let mut server = self.server();
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = server.spawn()?;
        Ok(Running { server: self, process })
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn sockets(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// A program of PostgreSQL, as the user that may run it. It ends with whoever started it.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=INT");
        if let Some(user) = &self.user {
            command
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.gid))
                .arg("--clear-groups");
        }
        command.arg("--").arg(program);
        // Settings of a client are nothing to the server, and it must not be in a folder that its user may not enter.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.current_dir("/");
        command
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    server: Server,
    process: Child,
}

impl Running {
    /// Its folder and programs.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or_default());
        // Sessions are ended. The fast shutdown loses nothing; the immediate one writes nothing either.
        let _ = kill(pid, if self.server.durable { Signal::SIGINT } else { Signal::SIGQUIT });
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The folder with the newest server's programs, where Debian puts them.
fn programs() -> Option<PathBuf> {
    let version = |name: &OsStr| name.to_str().and_then(|name| name.parse::<u32>().ok());
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").is_file() && programs.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}

/// Copies a folder with the owners and modes of what is in it.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    run("cp", Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(to))
}

fn run(program: &'static str, command: &mut Command) -> Result<(), Error> {
    let done = command.stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(Error::Failed { program, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails by a division by zero unless one of the databases is there.
    const ONE: &str =
        "SELECT 1 / (count(*) = 1)::int FROM pg_database WHERE datname IN ('first', 'second', 'third')";

    fn server(folder: &Path, name: &str) -> Option<Server> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        Server::in_folder(&folder.join(name), false).map_err(|error| eprintln!("SKIPPED: {error}")).ok()
    }

    #[test]
    fn a_server_starts_serves_and_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let Some(server) = server(folder.path(), "postgres") else { return };
        server.prepare().unwrap();
        let running = server.start().unwrap();
        running.server().create_database("cell").unwrap();
        running.server().create_database("cell").unwrap();
        assert!(running.server().url("cell").contains("%2Fpostgres%2Frun"));
        let pid = Pid::from_raw(i32::try_from(running.pid()).unwrap());
        drop(running);
        assert!(kill(pid, None).is_err(), "the server is gone");
    }

    #[test]
    fn servers_with_copied_data_are_apart() {
        let folder = tempfile::tempdir().unwrap();
        let templates = folder.path().join("templates");
        for name in ["first", "second", "third"] {
            let Some(server) = server(folder.path(), name) else { return };
            // A copy that was cut off is made again.
            if name == "second" {
                let made = fs::read_dir(&templates).unwrap().map(|entry| entry.unwrap().path());
                let whole = made.into_iter().find(|path| path.is_dir()).unwrap();
                fs::rename(&whole, whole.with_extension("part")).unwrap();
            }
            server.prepare_from(&templates).unwrap();
            let running = server.start().unwrap();
            running.server().create_database(name).unwrap();
            let listed = run("psql", running.server().psql().arg(ONE));
            listed.unwrap_or_else(|error| panic!("{name} sees another's database: {error}"));
        }
    }
}
