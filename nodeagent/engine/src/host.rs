//! The machine as drivers see it. Small, idempotent operations; every one of them bounded in time by its implementation.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    time::Duration,
};

use async_trait::async_trait;

/// A folder whose path only the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// Customers' data; may be shared by the nodes of a shard.
    Storage,
    /// Logs, one folder per tenant.
    Logs,
    /// Configuration that the agent writes and owns alone.
    Config,
    /// Sockets and other things that a restart makes anew.
    Run,
    /// Requests on their way that are too large for memory; on a disk, and nothing in it outlives a restart.
    Temp,
}

impl Root {
    /// As operators read it in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Logs => "logs",
            Self::Config => "config",
            Self::Run => "run",
            Self::Temp => "temp",
        }
    }
}

/// A path below a root. Hosts refuse one with a part that is empty, `.`, `..`, longer than 255 bytes or holds `/` or NUL,
/// and never follow a symbolic link in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Below what.
    pub root: Root,
    /// Names, outermost first.
    pub parts: Vec<String>,
}

impl Place {
    /// A place from its parts.
    #[must_use]
    pub fn new<S: Into<String>>(root: Root, parts: impl IntoIterator<Item = S>) -> Self {
        Self { root, parts: parts.into_iter().map(Into::into).collect() }
    }

    /// One level deeper.
    #[must_use]
    pub fn child(&self, name: impl Into<String>) -> Self {
        let mut parts = self.parts.clone();
        parts.push(name.into());
        Self { root: self.root, parts }
    }

    /// Whether it is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.root == other.root && self.parts.starts_with(&other.parts)
    }

    /// Checks the parts.
    ///
    /// # Errors
    /// Which part is not allowed.
    pub fn check(&self) -> Result<(), HostError> {
        for part in &self.parts {
            let fits = (1..=255).contains(&part.len())
                && part != "."
                && part != ".."
                && !part.bytes().any(|b| b == b'/' || b == 0);
            if !fits {
                return Err(HostError::file("use", self, format!("{part:?} cannot stand in a path")));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.root.as_str(), self.parts.join("/"))
    }
}

/// Whose a file is. Without privileges everything is the agent's own user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The agent.
    Agent,
    /// The user that sites run as.
    Site,
}

/// Mode and owner of something to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// Permission bits, sticky included.
    pub mode: u32,
    /// Whose.
    pub owner: Owner,
}

impl Access {
    /// The agent's.
    #[must_use]
    pub const fn agent(mode: u32) -> Self {
        Self { mode, owner: Owner::Agent }
    }

    /// The site user's.
    #[must_use]
    pub const fn site(mode: u32) -> Self {
        Self { mode, owner: Owner::Site }
    }
}

/// What kind of thing lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link, not followed.
    Symlink,
    /// A socket, device or pipe.
    Other,
}

/// What lies at a place, itself and not what it may point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub kind: EntryKind,
    /// Permission bits, sticky included.
    pub mode: u32,
    /// Whether [`Owner::Agent`] owns it.
    pub is_agents: bool,
    /// Whether [`Owner::Site`] owns it. Both are true without privileges.
    pub is_sites: bool,
}

impl Entry {
    /// Whether mode and owner are as wanted.
    #[must_use]
    pub const fn has(&self, access: Access) -> bool {
        self.mode == access.mode
            && match access.owner {
                Owner::Agent => self.is_agents,
                Owner::Site => self.is_sites,
            }
    }
}

/// A kind of customers' data. Which ones there are is a role's business.
#[derive(Clone, Copy)]
pub struct DataKind {
    name: &'static str,
    home: fn(&DataId) -> Place,
    holds_others: bool,
}

impl DataKind {
    /// A kind, by its name in markers and messages (`a-z`, unique on a node) and the folder of each of its data.
    #[must_use]
    pub const fn new(name: &'static str, home: fn(&DataId) -> Place) -> Self {
        Self { name, home, holds_others: false }
    }

    /// The kind of a tenant: its data holds all other data of the same tenant, which ends with it.
    #[must_use]
    pub const fn holding_others(self) -> Self {
        Self { holds_others: true, ..self }
    }

    /// As in marker names and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.name
    }

    /// Whether all other data of the tenant lies in it.
    #[must_use]
    pub const fn holds_others(self) -> bool {
        self.holds_others
    }
}

impl fmt::Debug for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for DataKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for DataKind {}

impl PartialOrd for DataKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DataKind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(other.name)
    }
}

impl Hash for DataKind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// One incarnation of customer's data: what a retire must match before anything is destroyed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataId {
    /// Which kind.
    pub kind: DataKind,
    /// The resource's id.
    pub id: String,
    /// The tenant it belongs to; the id itself for a tenant.
    pub tenant: String,
    /// Never 0.
    pub incarnation: u64,
}

impl DataId {
    /// Name of the marker, the same for all incarnations.
    #[must_use]
    pub fn marker_name(&self) -> String {
        format!("{}-{}", self.kind.as_str(), self.id)
    }

    /// Name of the folder that holds this incarnation while it is being destroyed.
    #[must_use]
    pub fn trash_name(&self) -> String {
        format!("{}-{}-{}", self.kind.as_str(), self.id, self.incarnation)
    }

    /// Where the markers lie.
    #[must_use]
    pub fn markers() -> Place {
        Place::new(Root::Storage, [".hosting", "incarnations"])
    }

    /// Where the marker lies: outside every tenant's reach.
    #[must_use]
    pub fn marker(&self) -> Place {
        Self::markers().child(self.marker_name())
    }

    /// Where the data goes on its way out.
    #[must_use]
    pub fn trash(&self) -> Place {
        Place::new(Root::Storage, [".hosting", "trash"]).child(self.trash_name())
    }

    /// The folder that is the data.
    #[must_use]
    pub fn home(&self) -> Place {
        (self.kind.home)(self)
    }

    /// What a marker file says.
    #[must_use]
    pub fn marker_text(&self) -> String {
        format!("incarnation {}\ntenant {}\n", self.incarnation, self.tenant)
    }

    /// Incarnation and tenant from a marker file; `None` when it is damaged.
    #[must_use]
    pub fn read_marker(text: &[u8]) -> Option<(u64, String)> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
        let tenant = lines.next()?.strip_prefix("tenant ")?.to_owned();
        Some((incarnation, tenant))
    }
}

/// A text that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a service's configuration lies and how a piece of it is tried out.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigLayout {
    /// The main file.
    pub main: Place,
    /// The folder of the pieces that it includes; `None`: it has none.
    pub parts: Option<Place>,
    /// Ending of the pieces, with its dot.
    pub suffix: String,
    /// The main file's text; [`ConfigLayout::INCLUDE`] in it stands for the path of the pieces.
    pub text: String,
}

impl fmt::Debug for ConfigLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold secrets.
        f.debug_struct("ConfigLayout").field("main", &self.main).finish_non_exhaustive()
    }
}

impl ConfigLayout {
    /// Replaced by the glob of the pieces, or by one candidate when it is tried out alone.
    pub const INCLUDE: &'static str = "@@INCLUDE@@";

    /// The main file's text with the pieces that `name` says, `*` or one file's name without its folder, in double quotes. A
    /// path with a wildcard in it is a pattern (glob(7)) for the services, in which the folder must stand for itself.
    #[must_use]
    pub fn text_with(&self, folder: &str, name: &str) -> String {
        let is_pattern = [folder, name].iter().any(|part| part.contains(['*', '?', '[']));
        let mut path = String::new();
        for c in folder.chars() {
            if is_pattern && "*?[]\\".contains(c) {
                path.push('\\');
            }
            path.push(c);
        }
        let path = format!("{path}/{name}").replace('\\', "\\\\").replace('"', "\\\"");
        self.text.replace(Self::INCLUDE, &format!("\"{path}\""))
    }
}

/// A long-running service under the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique on the node, e.g. `nginx`.
    pub name: String,
    /// Absolute path of the program.
    pub program: String,
    /// Arguments; [`ServiceSpec::MAIN`] stands for the main file's path.
    pub args: Vec<String>,
    /// Arguments that only test a configuration and exit with 0 if it is good; none: the start is the test.
    pub check_args: Vec<String>,
    /// Number of the signal that makes it take in a changed configuration; `None`: what runs never changes, another
    /// service takes its place.
    pub reload_signal: Option<i32>,
    /// Number of the signal that ends it gracefully.
    pub stop_signal: i32,
    /// Title of a worker that no longer takes requests after a reload, when the service shows one.
    pub retiring_title: Option<String>,
    /// Its configuration.
    pub config: ConfigLayout,
}

impl ServiceSpec {
    /// Replaced by the path of the main file in arguments.
    pub const MAIN: &'static str = "@@MAIN@@";
}

/// A service, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// Not known, or stopped on purpose.
    Stopped,
    /// Runs.
    Running {
        /// With this.
        spec: Box<ServiceSpec>,
        /// Why it ended a short while ago, if it was started again since.
        last_end: Option<String>,
    },
    /// Ought to run and does not; what happened and when it is tried again.
    Down(String),
    /// Finishes what it is doing and then ends; after this long it is made to.
    Retiring(Duration),
}

/// A question to a running service that only its current configuration answers as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request.
    Http {
        /// The service behind it.
        service: String,
        /// `ip:port`.
        address: String,
        /// Host header.
        host: String,
        /// Path.
        path: String,
        /// Name and value of one more header.
        header: (String, Secret),
        /// The body that means success.
        expect: String,
    },
    /// A FastCGI request.
    FastCgi {
        /// The service behind it.
        service: String,
        /// Its socket.
        socket: Place,
        /// Script name.
        path: String,
        /// The body that means success.
        expect: String,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As expected.
    Expected,
    /// Something else: an older configuration, or another server.
    Other(String),
    /// It takes connections but had no time to answer.
    Busy,
    /// Nobody there.
    Silent(String),
}

/// An operation failed. The message says what, where and, where it can be known, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A file operation.
    #[error("cannot {action} {place}: {problem}")]
    File {
        /// The verb.
        action: &'static str,
        /// Where.
        place: Box<str>,
        /// The system's words.
        problem: Box<str>,
    },
    /// The service does not accept this configuration; the last good one is still in place.
    #[error("{service} refuses the configuration: {output}")]
    Refused {
        /// Which service.
        service: Box<str>,
        /// Its words, shortened.
        output: Box<str>,
    },
    /// A service could not be started, stopped or reloaded.
    #[error("{service}: {problem}")]
    Service {
        /// Which service.
        service: Box<str>,
        /// What happened and what to do.
        problem: Box<str>,
    },
    /// The data on disk is another incarnation than the one spoken of.
    #[error("{data} on disk is incarnation {found}, not {wanted}; left alone")]
    Incarnation {
        /// Kind and id.
        data: Box<str>,
        /// What the marker says; 0 when there is none or it is damaged.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
}

impl HostError {
    /// A file operation's error.
    pub fn file(action: &'static str, place: &Place, problem: impl fmt::Display) -> Self {
        Self::File {
            action,
            place: place.to_string().into_boxed_str(),
            problem: problem.to_string().into_boxed_str(),
        }
    }

    /// A service's error.
    pub fn service(service: &str, problem: impl fmt::Display) -> Self {
        Self::Service { service: service.into(), problem: problem.to_string().into_boxed_str() }
    }
}

/// The machine. Every operation is idempotent and atomic as far as a crash can tell.
#[async_trait]
pub trait Host: Send + Sync {
    /// What lies at `at`; `None` when nothing does.
    async fn entry(&self, at: &Place) -> Result<Option<Entry>, HostError>;

    /// A file's content, at most 1 MiB; `None` when there is no file.
    async fn read(&self, at: &Place) -> Result<Option<Vec<u8>>, HostError>;

    /// Names in a directory in ascending order; none when there is no such directory.
    async fn names(&self, at: &Place) -> Result<Vec<String>, HostError>;

    /// Replaces a file's content in one go; missing directories above it are made (0755, the agent's).
    async fn write(&self, at: &Place, content: &[u8], access: Access) -> Result<(), HostError>;

    /// Makes a symbolic link to the name `target` in the same directory, or moves one there in one go.
    async fn link(&self, at: &Place, target: &str) -> Result<(), HostError>;

    /// Where a symbolic link leads; `None` when there is no link.
    async fn link_target(&self, at: &Place) -> Result<Option<String>, HostError>;

    /// Removes a file, if it is there. Never a directory.
    async fn remove(&self, at: &Place) -> Result<(), HostError>;

    /// Removes a tree of configuration, logs or trash, if it is there. Refuses anything else. A large one goes on being
    /// removed after the call; see [`Host::is_removing`].
    async fn remove_tree(&self, at: &Place) -> Result<(), HostError>;

    /// Whether [`Host::remove_tree`] is still at work there.
    async fn is_removing(&self, at: &Place) -> bool;

    /// Makes a directory of the agent's own, or puts mode and owner of an existing one right. Missing directories above
    /// it are made (0755, the agent's).
    async fn make_dir(&self, at: &Place, access: Access) -> Result<(), HostError>;

    /// Makes an empty file, or puts mode and owner of an existing one right and leaves its content. A link, or anything
    /// else in its place, is left alone: an operator put it there. The directory above it must be the agent's own.
    async fn make_file(&self, at: &Place, access: Access) -> Result<(), HostError>;

    /// Makes a directory where tenants may write, unless something is there already: that is theirs, whatever it is.
    async fn offer_dir(&self, at: &Place, access: Access) -> Result<(), HostError>;

    /// Marks data as this incarnation's. Nodes that share the storage are kept apart by a lock.
    ///
    /// # Errors
    /// [`HostError::Incarnation`] when the marker names another one.
    async fn claim(&self, data: &DataId) -> Result<(), HostError>;

    /// Moves exactly this incarnation's folder out of the way and takes its marker away, in this order, under the same
    /// lock as [`Host::claim`]. Nothing is destroyed yet.
    ///
    /// # Errors
    /// [`HostError::Incarnation`] when the marker does not name it.
    async fn discard(&self, data: &DataId) -> Result<(), HostError>;

    /// A service's state.
    async fn service(&self, name: &str) -> Result<ServiceState, HostError>;

    /// Tests and writes the main configuration, then starts the service, or makes a running one take it in. Pieces that
    /// the service does not accept are put aside, so that one of them cannot keep the others down.
    async fn run_service(&self, spec: &ServiceSpec) -> Result<(), HostError>;

    /// Ends a service. Its configuration stays.
    async fn stop_service(&self, name: &str) -> Result<(), HostError>;

    /// Lets a service finish what it is doing and end, at the latest after `grace`, and never starts it again. The call
    /// does not wait for that. With `drained`, the service is told to end only once that probe is no longer answered
    /// [`Answer::Busy`]: what came to it first has been taken in then.
    async fn retire_service(
        &self,
        name: &str,
        drained: Option<&Probe>,
        grace: Duration,
    ) -> Result<(), HostError>;

    /// Names of the services that are not [`ServiceState::Stopped`] and begin with `prefix`, in ascending order.
    async fn services(&self, prefix: &str) -> Result<Vec<String>, HostError>;

    /// Tests a piece of a service's configuration, puts it in place (`None`: removes it) and makes the service take it in,
    /// if it runs. After an error the last good content is in place.
    async fn install(&self, service: &str, at: &Place, content: Option<&[u8]>) -> Result<(), HostError>;

    /// Makes a running service take in what is on disk.
    async fn reload(&self, service: &str) -> Result<(), HostError>;

    /// Asks until the answer is as expected or `patience` is over; the last answer. Zero asks once.
    async fn probe(&self, probe: &Probe, patience: Duration) -> Answer;
}
