//! What an operator can set: defaults < file < environment (`HOSTING_NODEAGENT_*`) < flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hosting_intent_sync::client::{identity_dir, ledger_file};
pub use hosting_scaffold::config::SettingsError;
use hosting_scaffold::{
    config::{self, ConfigArgs, Layers},
    role::{RoleFlags, RoleSettings},
};
use serde::{Deserialize, Serialize};

use crate::{
    host::{files::can_enter, logs::LogLimits},
    role::{self, FlagsByRole, ROLES, RoleInfo, SettingsByRole},
    roots::{Roots, SiteUser},
    text::plain_path,
};

/// Prefix of the environment variables.
pub const ENV_PREFIX: &str = "HOSTING_NODEAGENT_";

const DATA_DIR: &str = "/var/lib/hosting/nodeagent";
const STORAGE_DIR: &str = "/var/www/storage";

/// Everything that can be set. Times are in the unit that their name ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Those of every role. In files and in the environment they stand beside the others.
    #[serde(skip)]
    pub shared: RoleSettings,
    /// The node's role, as the registry calls it.
    pub role: String,
    /// Customers' data; the nodes of a shard share it.
    pub storage_dir: PathBuf,
    /// Logs. Default: `/var/log/hosting`; with other folders than the default ones, `log/<name of data_dir>` beside
    /// `storage_dir`.
    pub log_dir: Option<PathBuf>,
    /// Requests on their way that are too large for memory; on a disk. Default: `/var/cache/hosting/nodeagent`; with other
    /// folders than the default ones, `tmp/<name of data_dir>` beside `storage_dir`.
    pub temp_dir: Option<PathBuf>,
    /// Sockets. Default: a folder in `/run/hosting` for root, `run` in `data_dir` otherwise.
    pub run_dir: Option<PathBuf>,
    /// A log of the role's own services that has this size, in bytes, is closed and a new one begun.
    pub log_max_bytes: u64,
    /// The same for the logs of one tenant.
    pub tenant_log_max_bytes: u64,
    /// A log that is this old is closed, too.
    pub log_max_age_ms: u64,
    /// Closed logs that are kept of each.
    pub log_keep: u32,
    /// The user that sites run as. Default: `www-data` for root, the agent's own otherwise.
    pub site_user: Option<String>,
    /// Run sites as root where `site_user` cannot enter their folders. For trying things out only.
    pub allow_root_sites: bool,
    /// Leave services running when the agent is killed; the next one takes them over.
    pub keep_children: bool,
    /// Keys that are worked on at the same time. Most of them wait for a reload that they share.
    pub concurrency: usize,
    /// How often everything is looked at.
    pub drift_interval_ms: u64,
    /// Those of the roles. In files and in the environment they stand beside the others.
    #[serde(skip)]
    pub roles: SettingsByRole,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shared: RoleSettings::new(DATA_DIR, 9103, 30_000, "info"),
            role: "web".into(),
            storage_dir: PathBuf::from(STORAGE_DIR),
            log_dir: None,
            temp_dir: None,
            run_dir: None,
            log_max_bytes: 256 << 20,
            tenant_log_max_bytes: 16 << 20,
            log_max_age_ms: 24 * 3_600_000,
            log_keep: 7,
            site_user: None,
            allow_root_sites: false,
            keep_children: false,
            concurrency: 256,
            drift_interval_ms: 60_000,
            roles: SettingsByRole::default(),
        }
    }
}

pub(crate) fn invalid(setting: &'static str, problem: impl Into<String>) -> SettingsError {
    SettingsError::invalid(setting, problem)
}

impl Settings {
    /// Merges the layers and checks the outcome.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn load(args: &Args) -> Result<Self, SettingsError> {
        let mut layers = Layers::new(ENV_PREFIX, args.config.config.as_deref(), &args.flags)?;
        let settings: Self = layers.part()?;
        let shared = layers.part_above(settings.shared.clone())?;
        let settings = Self { shared, roles: SettingsByRole::load(&mut layers)?, ..settings };
        layers.finish()?;
        settings.check()?;
        Ok(settings)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn check(&self) -> Result<(), SettingsError> {
        (self.role()?.sound)(self)?;
        if !(1..=1024).contains(&self.concurrency) {
            return Err(invalid("concurrency", "must be 1 to 1024"));
        }
        if self.drift_interval_ms < 1_000 {
            return Err(invalid("drift_interval_ms", "must be at least 1000"));
        }
        if !(1..=1000).contains(&self.log_keep) {
            return Err(invalid("log_keep", "must be 1 to 1000"));
        }
        for (setting, value, least) in [
            ("log_max_bytes", self.log_max_bytes, 4096),
            ("tenant_log_max_bytes", self.tenant_log_max_bytes, 4096),
            ("log_max_age_ms", self.log_max_age_ms, 60_000),
        ] {
            if value < least {
                return Err(invalid(setting, format!("must be at least {least}")));
            }
        }
        let roots = self.roots();
        for (setting, path) in [
            ("storage_dir", &roots.storage),
            ("temp_dir", &roots.temp),
            ("log_dir", &roots.logs),
            ("run_dir", &roots.run),
            ("data_dir", &roots.config),
        ] {
            let text = path.to_str().ok_or_else(|| invalid(setting, "must be UTF-8"))?;
            plain_path(setting, text).map_err(|bad| invalid(setting, bad.problem))?;
        }
        Ok(())
    }

    /// Last good state.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        ledger_file(&self.data_dir())
    }

    /// The node's certificate and key for the feed.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        identity_dir(&self.data_dir())
    }

    /// Process records of the services.
    #[must_use]
    pub fn services(&self) -> PathBuf {
        self.data_dir().join("services")
    }

    /// `data_dir` without a dependence on where the agent was started: services work from `/`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        absolute(&self.shared.data_dir)
    }

    /// Where things lie.
    #[must_use]
    pub fn roots(&self) -> Roots {
        let (data, storage) = (self.data_dir(), absolute(&self.storage_dir));
        let name = data.file_name().map_or_else(|| PathBuf::from("nodeagent"), PathBuf::from);
        let usual = data == Path::new(DATA_DIR) && storage == Path::new(STORAGE_DIR);
        let temp = match &self.temp_dir {
            Some(given) => absolute(given),
            None if usual => PathBuf::from("/var/cache/hosting/nodeagent"),
            None => storage.parent().unwrap_or(Path::new("/")).join("tmp").join(&name),
        };
        let logs = match &self.log_dir {
            Some(given) => absolute(given),
            None if usual => PathBuf::from("/var/log/hosting"),
            // Sites write there, so it must not lie in the agent's own private folder.
            None => storage.parent().unwrap_or(Path::new("/")).join("log").join(name),
        };
        let run = match &self.run_dir {
            Some(given) => absolute(given),
            None if !is_root() => data.join("run"),
            None if usual => PathBuf::from("/run/hosting/nodeagent"),
            None => {
                // Short, whatever the data folder is called: a socket's path has 107 bytes at most.
                let hash = blake3::hash(data.as_os_str().as_encoded_bytes()).to_hex();
                PathBuf::from(format!("/run/hosting/nodeagent-{}", hash.get(..8).unwrap_or_default()))
            }
        };
        Roots { storage, logs, config: data.join("config"), run, temp }
    }

    /// When logs are full.
    #[must_use]
    pub fn log_limits(&self) -> LogLimits {
        LogLimits {
            bytes: self.log_max_bytes,
            tenant_bytes: self.tenant_log_max_bytes,
            age: Duration::from_millis(self.log_max_age_ms),
            keep: self.log_keep,
        }
    }

    /// The role that the agent is to have.
    ///
    /// # Errors
    /// It has none of that name.
    pub fn role(&self) -> Result<&'static RoleInfo, SettingsError> {
        role::find(&self.role).ok_or_else(|| {
            let known: Vec<&str> = ROLES.iter().map(|role| role.name).collect();
            invalid("role", format!("this agent has no role {:?}; it has {}", self.role, known.join(", ")))
        })
    }

    /// Who sites run as. Without privileges there is no choice.
    ///
    /// # Errors
    /// There is no such user, or it cannot enter the folders of sites; with the remedy.
    pub fn site_user(&self) -> Result<Option<SiteUser>, SettingsError> {
        let roots = self.roots();
        if !is_root() {
            return match &self.site_user {
                Some(name) if user(name).is_none_or(|user| user.uid != nix::unistd::geteuid().as_raw()) => {
                    Err(invalid("site_user", format!("only root can run sites as {name}; leave it out")))
                }
                Some(_) | None => Ok(None),
            };
        }
        let name = self.site_user.as_deref().unwrap_or("www-data");
        let chosen = user(name).ok_or_else(|| {
            invalid("site_user", format!("there is no user {name:?}; create it or give another"))
        })?;
        let blocked = [&roots.storage, &roots.run, &roots.logs, &roots.temp]
            .into_iter()
            .find_map(|path| can_enter(path, &chosen).err());
        match blocked {
            None => Ok(Some(chosen)),
            Some(why) if self.allow_root_sites => {
                let root =
                    user("root").ok_or_else(|| invalid("allow_root_sites", "there is no user root"))?;
                tracing::warn!(
                    why,
                    "sites run as root, because --allow-root-sites says so: for trying things out only"
                );
                Ok(Some(root))
            }
            Some(why) => Err(invalid(
                "storage_dir",
                format!(
                    "{why}; open that folder (chmod o+x), choose others with --storage-dir, --log-dir, --temp-dir and \
                     --run-dir, or, \
                     for trying things out only, give --allow-root-sites"
                ),
            )),
        }
    }

    /// What `--dump-config` prints: the settings, and as comments what follows from them on this machine.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn dump(&self) -> Result<String, anyhow::Error> {
        let roots = self.roots();
        let own = config::dump_parts(self, &self.roles)?;
        let mut text = config::dump(&self.shared)? + &own;
        for (what, path) in [
            ("ledger", &self.ledger()),
            ("identity", &self.identity()),
            ("generated configuration", &roots.config),
            ("logs", &roots.logs),
            ("sockets", &roots.run),
            ("temporary files", &roots.temp),
        ] {
            text.push_str(&format!("# {what}: {}\n", path.display()));
        }
        for remark in (self.role()?.remarks)(self) {
            text.push_str(&format!("# {remark}\n"));
        }
        Ok(text)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn user(name: &str) -> Option<SiteUser> {
    let user = nix::unistd::User::from_name(name).ok()??;
    let group = nix::unistd::Group::from_gid(user.gid).ok()??;
    Some(SiteUser { name: user.name, group: group.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// The node agent: keeps what runs on this node, and customers' folders, as the controller wants them
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "hosting-nodeagent", version, after_help = EXAMPLES)]
pub struct Args {
    /// Layers below the flags.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Flags.
    #[command(flatten)]
    pub flags: Flags,
}

const EXAMPLES: &str = "Examples:
  First start of a new node, with the token that `hostctl node join-token web-1` printed into a file:
    hosting-nodeagent --controller controller.internal:7443 --join-token-file /etc/hosting/join-token --edge 10.0.0.0/24
  On loopback, for trying it out:
    hosting-nodeagent --data-dir var/web-1 --storage-dir var/storage --controller 127.0.0.1:7443 \\
      --listen 127.0.0.1:8081 --edge 127.0.0.1 --admin-listen 127.0.0.1:9103
  What is in force, and is it sound:
    hosting-nodeagent --config /etc/hosting/nodeagent.toml --dump-config
    hosting-nodeagent --config /etc/hosting/nodeagent.toml --check-config

Sites are not isolated from each other yet: all of them run as one user.
Every setting of --dump-config can stand in the file of --config, or in the environment as HOSTING_NODEAGENT_<SETTING>.";

/// The settings that are worth a flag.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Flags {
    /// Those of every role.
    #[command(flatten)]
    #[serde(flatten)]
    pub shared: RoleFlags,
    /// The node's role
    #[arg(long, value_name = "ROLE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Folder for customers' data, shared by the nodes of a shard
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_dir: Option<PathBuf>,
    /// Folder for logs
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// Folder for requests on their way that are too large for memory; on a disk
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_dir: Option<PathBuf>,
    /// Folder for sockets; its path must be short
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<PathBuf>,
    /// User that sites run as (root only)
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_user: Option<String>,
    /// Run sites as root where the site user cannot enter their folders; for trying things out only
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_root_sites: bool,
    /// Leave services running when the agent is killed; the next one takes them over
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_children: bool,
    /// Those of the roles.
    #[command(flatten)]
    #[serde(flatten)]
    pub roles: FlagsByRole,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn load(arguments: &[&str]) -> Result<Settings, SettingsError> {
        Settings::load(&Args::parse_from(["hosting-nodeagent"].iter().chain(arguments)))
    }

    #[test]
    fn flags_stand_above_the_file_and_a_dump_reads_back() {
        Args::command().debug_assert();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nodeagent.toml");
        std::fs::write(&file, "workers = 7\nconcurrency = 3\n").unwrap();
        let settings = load(&[
            "--config",
            file.to_str().unwrap(),
            "--listen",
            "127.0.0.1:1",
            "--php",
            "8.2=/usr/sbin/php-fpm8.2",
            "--edge",
            "10.0.0.0/24",
            "--keep-children",
        ])
        .unwrap();
        let web = &settings.roles.web;
        assert_eq!((web.workers, settings.concurrency, web.listen.len()), (7, 3, 1));
        assert_eq!(web.php.keys().collect::<Vec<_>>(), ["8.2"]);
        assert!(settings.keep_children && !settings.allow_root_sites);
        std::fs::write(&file, settings.dump().unwrap()).unwrap();
        assert_eq!(load(&["--config", file.to_str().unwrap()]).unwrap(), settings);
        assert_eq!(load(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn the_usual_folders_and_others() {
        let usual = Settings::default().roots();
        assert_eq!(usual.logs, Path::new("/var/log/hosting"));
        assert_eq!(usual.storage, Path::new("/var/www/storage"));
        let other = load(&["--data-dir", "/x/var/web-1", "--storage-dir", "/x/var/storage"]).unwrap().roots();
        assert_eq!(other.logs, Path::new("/x/var/log/web-1"));
        assert_eq!(other.config, Path::new("/x/var/web-1/config"));
        assert_eq!(other.temp, Path::new("/x/var/tmp/web-1"));
        assert_eq!(usual.temp, Path::new("/var/cache/hosting/nodeagent"));
        if is_root() {
            let text = other.run.to_str().unwrap();
            assert!(text.starts_with("/run/hosting/nodeagent-") && text.len() < 40, "{text}");
        }
        let given = load(&["--log-dir", "/l", "--run-dir", "/r"]).unwrap().roots();
        assert_eq!((given.logs, given.run), (PathBuf::from("/l"), PathBuf::from("/r")));
    }

    #[test]
    fn what_cannot_work_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nodeagent.toml");
        for (text, setting) in [
            ("role = \"bakery\"", "role"),
            ("listen = []", "listen"),
            ("listen = [\"127.0.0.1:0\"]", "listen"),
            ("listen = [\"127.0.0.1:80\", \"127.0.0.1:80\"]", "listen"),
            ("edge = [\"10.0.0.0/33\"]", "edge"),
            ("edge = [\"10.0.0.1; evil\"]", "edge"),
            ("workers = 0", "workers"),
            ("concurrency = 0", "concurrency"),
            ("drift_interval_ms = 1", "drift_interval_ms"),
            ("max_header_bytes = 1000000", "max_header_bytes"),
            ("uploads_per_site = 0", "uploads_per_site"),
            ("old_workers = 0", "old_workers"),
            ("shutdown_timeout_ms = 30", "shutdown_timeout_ms"),
            ("log_keep = 0", "log_keep"),
            ("log_max_age_ms = 5", "log_max_age_ms"),
            ("storage_dir = \"/srv/a\\nb\"", "storage_dir"),
            ("run_dir = \"/srv/$run\"", "run_dir"),
            ("data_dir = \"/srv/a$b\"", "temp_dir"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = load(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_that_sites_cannot_enter_is_named_with_the_remedies() {
        if !is_root() || user("www-data").is_none() {
            eprintln!("SKIPPED nodeagent::a_folder_that_sites_cannot_enter: needs root and a user www-data");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let closed = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
        std::fs::set_permissions(dir.path(), closed).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (data, storage) = (path("data"), path("storage"));
        let settings = load(&["--data-dir", &data, "--storage-dir", &storage, "--nginx", "/bin/sh"]).unwrap();
        let error = settings.site_user().unwrap_err().to_string();
        assert!(error.contains("www-data") && error.contains("--allow-root-sites"), "{error}");
        let settings = Settings { allow_root_sites: true, ..settings };
        assert!(settings.site_user().unwrap().is_some_and(|user| user.uid == 0));
    }
}
