//! A host in memory, with faults on demand: for the driver laws and for tests of the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::host::{
    Access, Answer, DataId, Entry, EntryKind, Host, HostError, Owner, Place, Probe, Root, ServiceSpec,
    ServiceState,
};

/// Something on the fake disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeNode {
    /// A directory.
    Dir(Access),
    /// A file.
    File(Vec<u8>, Access),
    /// A symbolic link; nothing follows it.
    Symlink(String),
}

/// A service and the configuration that it has taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeService {
    /// How it was started.
    pub spec: ServiceSpec,
    /// Files as of its last start or reload.
    pub loaded: BTreeMap<Place, Vec<u8>>,
    /// Whether it runs.
    pub running: bool,
}

/// All that a driver can change: two hosts with equal snapshots are in the same state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The disk.
    pub nodes: BTreeMap<Place, FakeNode>,
    /// The services.
    pub services: BTreeMap<String, FakeService>,
}

/// When an operation that changes something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Before,
    /// It is done, and the caller is told that it failed.
    After,
}

#[derive(Debug, Default)]
struct Inner {
    now: Snapshot,
    changes: usize,
    fault: Option<(usize, Fault)>,
    refused: BTreeSet<Vec<u8>>,
    broken_services: BTreeSet<String>,
}

/// The fake host.
#[derive(Debug, Default)]
pub struct FakeHost {
    inner: Mutex<Inner>,
}

impl FakeHost {
    /// An empty host.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A host in the state of `snapshot`, without faults.
    #[must_use]
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        Self { inner: Mutex::new(Inner { now: snapshot, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().now.clone()
    }

    /// Number of changing operations that were asked for, failed ones included.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.lock().changes
    }

    /// Makes the changing operation number `at` (as counted by [`FakeHost::changes`]) fail, once.
    pub fn fail_at(&self, at: usize, fault: Fault) {
        self.lock().fault = Some((at, fault));
    }

    /// From now on services refuse configuration that contains `needle`.
    pub fn refuse(&self, needle: &[u8]) {
        self.lock().refused.insert(needle.to_vec());
    }

    /// From now on a service cannot be started.
    pub fn break_service(&self, name: &str) {
        self.lock().broken_services.insert(name.to_owned());
    }

    /// Puts something on the disk, behind the driver's back, with the directories above it.
    pub fn put(&self, at: &Place, node: FakeNode) {
        let mut inner = self.lock();
        inner.parents(at);
        inner.now.nodes.insert(at.clone(), node);
    }

    /// Takes something and all below it off the disk, behind the driver's back.
    pub fn take(&self, at: &Place) {
        self.lock().now.nodes.retain(|place, _| !place.is_within(at));
    }

    /// Ends a service behind the driver's back.
    pub fn kill(&self, service: &str) {
        if let Some(service) = self.lock().now.services.get_mut(service) {
            service.running = false;
        }
    }

    /// Whether a running service has taken in configuration that contains `text`.
    #[must_use]
    pub fn serves(&self, service: &str, text: &str) -> bool {
        self.lock().serves(service, text) == Answer::Expected
    }

    /// Runs a changing operation: counts it, and fails it if it is its turn.
    fn change<T: Default>(
        &self,
        what: &str,
        run: impl FnOnce(&mut Inner) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut inner = self.lock();
        let number = inner.changes;
        inner.changes += 1;
        let fault = inner.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        let injected = HostError::service("fault", format!("injected at {what}"));
        match fault {
            Some(Fault::Before) => {
                inner.fault = None;
                Err(injected)
            }
            Some(Fault::After) => {
                inner.fault = None;
                run(&mut inner)?;
                Err(injected)
            }
            None => run(&mut inner),
        }
    }
}

impl Inner {
    fn parents(&mut self, at: &Place) {
        for depth in 1..at.parts.len() {
            let place = Place::new(at.root, at.parts.iter().take(depth).cloned());
            self.now.nodes.entry(place).or_insert(FakeNode::Dir(Access::agent(0o755)));
        }
    }

    /// As the real host: a link or a file where a directory must be is an error.
    fn no_links_above(&self, action: &'static str, at: &Place) -> Result<(), HostError> {
        at.check()?;
        for depth in 1..at.parts.len() {
            let place = Place::new(at.root, at.parts.iter().take(depth).cloned());
            match self.now.nodes.get(&place) {
                Some(FakeNode::Dir(_)) | None => {}
                Some(FakeNode::File(..) | FakeNode::Symlink(_)) => {
                    return Err(HostError::file(action, at, format!("{place} is no directory")));
                }
            }
        }
        Ok(())
    }

    fn names(&self, at: &Place) -> Vec<String> {
        let within =
            self.now.nodes.range(at.clone()..).map(|(place, _)| place).take_while(|p| p.is_within(at));
        within
            .filter(|place| place.parts.len() == at.parts.len() + 1)
            .filter_map(|place| place.parts.last().cloned())
            .collect()
    }

    fn file(&self, at: &Place) -> Option<&Vec<u8>> {
        match self.now.nodes.get(at) {
            Some(FakeNode::File(content, _)) => Some(content),
            Some(FakeNode::Dir(_) | FakeNode::Symlink(_)) | None => None,
        }
    }

    fn check_config(&self, service: &str, content: &[u8]) -> Result<(), HostError> {
        let bad = self
            .refused
            .iter()
            .any(|needle| content.windows(needle.len().max(1)).any(|window| window == needle.as_slice()));
        if bad {
            return Err(HostError::Refused { service: service.into(), output: "fake: not this".into() });
        }
        Ok(())
    }

    fn load(&mut self, name: &str) {
        let Some(service) = self.now.services.get(name) else { return };
        let config = &service.spec.config;
        let parts = config.parts.iter().flat_map(|parts| {
            let within = self.now.nodes.range(parts.clone()..).map(|(place, _)| place);
            within
                .take_while(|place| place.is_within(parts))
                .filter(|place| place.parts.last().is_some_and(|name| name.ends_with(&config.suffix)))
        });
        let loaded: BTreeMap<Place, Vec<u8>> = std::iter::once(&config.main)
            .chain(parts)
            .filter_map(|place| Some((place.clone(), self.file(place)?.clone())))
            .collect();
        if let Some(service) = self.now.services.get_mut(name) {
            service.loaded = loaded;
        }
    }

    fn serves(&self, service: &str, text: &str) -> Answer {
        match self.now.services.get(service) {
            Some(service) if service.running => {
                let found = service.loaded.values().any(|content| {
                    content.windows(text.len().max(1)).any(|window| window == text.as_bytes())
                });
                if found { Answer::Expected } else { Answer::Other("another configuration".to_owned()) }
            }
            Some(_) | None => Answer::Silent("nobody there".to_owned()),
        }
    }

    fn marker(&self, data: &DataId) -> Option<u64> {
        let text = self.file(&data.marker())?;
        Some(DataId::read_marker(text).map_or(0, |(incarnation, _)| incarnation))
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn entry(&self, at: &Place) -> Result<Option<Entry>, HostError> {
        let inner = self.lock();
        inner.no_links_above("look at", at)?;
        let entry = |kind, access: Access| Entry {
            kind,
            mode: access.mode,
            is_agents: access.owner == Owner::Agent,
            is_sites: access.owner == Owner::Site,
        };
        Ok(inner.now.nodes.get(at).map(|node| match node {
            FakeNode::Dir(access) => entry(EntryKind::Dir, *access),
            FakeNode::File(_, access) => entry(EntryKind::File, *access),
            FakeNode::Symlink(_) => entry(EntryKind::Symlink, Access::site(0o777)),
        }))
    }

    async fn read(&self, at: &Place) -> Result<Option<Vec<u8>>, HostError> {
        let inner = self.lock();
        inner.no_links_above("read", at)?;
        Ok(inner.file(at).cloned())
    }

    async fn names(&self, at: &Place) -> Result<Vec<String>, HostError> {
        let inner = self.lock();
        inner.no_links_above("list", at)?;
        Ok(inner.names(at))
    }

    async fn write(&self, at: &Place, content: &[u8], access: Access) -> Result<(), HostError> {
        self.change("write", |inner| {
            inner.no_links_above("write", at)?;
            inner.parents(at);
            inner.now.nodes.insert(at.clone(), FakeNode::File(content.to_vec(), access));
            Ok(())
        })
    }

    async fn link(&self, at: &Place, target: &str) -> Result<(), HostError> {
        self.change("link", |inner| {
            inner.no_links_above("write", at)?;
            inner.parents(at);
            inner.now.nodes.insert(at.clone(), FakeNode::Symlink(target.to_owned()));
            Ok(())
        })
    }

    async fn link_target(&self, at: &Place) -> Result<Option<String>, HostError> {
        let inner = self.lock();
        inner.no_links_above("read", at)?;
        Ok(match inner.now.nodes.get(at) {
            Some(FakeNode::Symlink(target)) => Some(target.clone()),
            Some(FakeNode::Dir(_) | FakeNode::File(..)) | None => None,
        })
    }

    async fn remove(&self, at: &Place) -> Result<(), HostError> {
        self.change("remove", |inner| {
            inner.no_links_above("remove", at)?;
            if matches!(inner.now.nodes.get(at), Some(FakeNode::Dir(_))) {
                return Err(HostError::file("remove", at, "is a directory"));
            }
            inner.now.nodes.remove(at);
            Ok(())
        })
    }

    async fn remove_tree(&self, at: &Place) -> Result<(), HostError> {
        self.change("remove_tree", |inner| {
            at.check()?;
            let trash = Place::new(Root::Storage, [".hosting", "trash"]);
            if at.parts.is_empty() || (at.root == Root::Storage && (!at.is_within(&trash) || *at == trash)) {
                return Err(HostError::file("remove", at, "holds customers' data"));
            }
            inner.now.nodes.retain(|place, _| !place.is_within(at));
            Ok(())
        })
    }

    async fn is_removing(&self, _at: &Place) -> bool {
        false
    }

    async fn make_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.change("make_dir", |inner| {
            inner.no_links_above("make", at)?;
            inner.parents(at);
            match inner.now.nodes.get(at) {
                Some(FakeNode::Dir(_)) | None => {
                    inner.now.nodes.insert(at.clone(), FakeNode::Dir(access));
                    Ok(())
                }
                Some(FakeNode::File(..) | FakeNode::Symlink(_)) => {
                    Err(HostError::file("make", at, "something else is in its place"))
                }
            }
        })
    }

    async fn make_file(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.change("make_file", |inner| {
            inner.no_links_above("make", at)?;
            inner.parents(at);
            let content = match inner.now.nodes.get(at) {
                None => Vec::new(),
                Some(FakeNode::File(content, _)) => content.clone(),
                Some(FakeNode::Dir(_) | FakeNode::Symlink(_)) => return Ok(()),
            };
            inner.now.nodes.insert(at.clone(), FakeNode::File(content, access));
            Ok(())
        })
    }

    async fn offer_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.change("offer_dir", |inner| {
            at.check()?;
            // Something of the tenant's own on the way: theirs, nothing to do.
            if inner.no_links_above("make", at).is_err() || inner.now.nodes.contains_key(at) {
                return Ok(());
            }
            inner.parents(at);
            inner.now.nodes.insert(at.clone(), FakeNode::Dir(access));
            Ok(())
        })
    }

    async fn claim(&self, data: &DataId) -> Result<(), HostError> {
        self.change("claim", |inner| match inner.marker(data) {
            Some(found) if found != data.incarnation => Err(HostError::Incarnation {
                data: data.marker_name().into(),
                found,
                wanted: data.incarnation,
            }),
            Some(_) => Ok(()),
            None => {
                inner.parents(&data.marker());
                let marker = FakeNode::File(data.marker_text().into_bytes(), Access::agent(0o600));
                inner.now.nodes.insert(data.marker(), marker);
                Ok(())
            }
        })
    }

    async fn discard(&self, data: &DataId) -> Result<(), HostError> {
        self.change("discard", |inner| {
            let found = inner.marker(data).unwrap_or_default();
            if found != data.incarnation {
                return Err(HostError::Incarnation {
                    data: data.marker_name().into(),
                    found,
                    wanted: data.incarnation,
                });
            }
            let (home, trash) = (data.home(), data.trash());
            inner.parents(&trash);
            let moved: Vec<(Place, FakeNode)> = inner
                .now
                .nodes
                .iter()
                .filter(|(place, _)| place.is_within(&home))
                .map(|(place, node)| (place.clone(), node.clone()))
                .collect();
            for (place, node) in moved {
                inner.now.nodes.remove(&place);
                let mut parts = trash.parts.clone();
                parts.extend(place.parts.iter().skip(home.parts.len()).cloned());
                inner.now.nodes.insert(Place { root: Root::Storage, parts }, node);
            }
            if data.kind.holds_others() {
                let markers: Vec<Place> = inner
                    .now
                    .nodes
                    .iter()
                    .filter(|(place, _)| place.is_within(&DataId::markers()))
                    .filter(|(_, node)| match node {
                        FakeNode::File(text, _) => {
                            DataId::read_marker(text).is_some_and(|(_, tenant)| tenant == data.id)
                        }
                        FakeNode::Dir(_) | FakeNode::Symlink(_) => false,
                    })
                    .map(|(place, _)| place.clone())
                    .collect();
                for marker in markers {
                    inner.now.nodes.remove(&marker);
                }
            }
            inner.now.nodes.remove(&data.marker());
            Ok(())
        })
    }

    async fn service(&self, name: &str) -> Result<ServiceState, HostError> {
        Ok(match self.lock().now.services.get(name) {
            None => ServiceState::Stopped,
            Some(service) if service.running => {
                ServiceState::Running { spec: Box::new(service.spec.clone()), last_end: None }
            }
            Some(_) => ServiceState::Down("it ended".to_owned()),
        })
    }

    async fn run_service(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        self.change("run_service", |inner| {
            inner.check_config(&spec.name, spec.config.text.as_bytes())?;
            if inner.broken_services.contains(&spec.name) {
                return Err(HostError::service(&spec.name, "fake: does not start"));
            }
            inner.parents(&spec.config.main);
            let main = FakeNode::File(spec.config.text.clone().into_bytes(), Access::agent(0o600));
            inner.now.nodes.insert(spec.config.main.clone(), main);
            let service = FakeService { spec: spec.clone(), loaded: BTreeMap::new(), running: true };
            inner.now.services.insert(spec.name.clone(), service);
            inner.load(&spec.name);
            Ok(())
        })
    }

    async fn stop_service(&self, name: &str) -> Result<(), HostError> {
        self.change("stop_service", |inner| {
            inner.now.services.remove(name);
            Ok(())
        })
    }

    async fn retire_service(
        &self,
        name: &str,
        _drained: Option<&Probe>,
        _grace: Duration,
    ) -> Result<(), HostError> {
        self.change("retire_service", |inner| {
            inner.now.services.remove(name);
            Ok(())
        })
    }

    async fn services(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        let inner = self.lock();
        let from_prefix = inner.now.services.range(prefix.to_owned()..).map(|(name, _)| name);
        Ok(from_prefix.take_while(|name| name.starts_with(prefix)).cloned().collect())
    }

    async fn install(&self, service: &str, at: &Place, content: Option<&[u8]>) -> Result<(), HostError> {
        self.change("install", |inner| {
            inner.no_links_above("write", at)?;
            match content {
                Some(content) => {
                    inner.check_config(service, content)?;
                    inner.parents(at);
                    let file = FakeNode::File(content.to_vec(), Access::agent(0o600));
                    inner.now.nodes.insert(at.clone(), file);
                }
                None => {
                    inner.now.nodes.remove(at);
                }
            }
            inner.load(service);
            Ok(())
        })
    }

    async fn reload(&self, service: &str) -> Result<(), HostError> {
        self.change("reload", |inner| {
            if !inner.now.services.get(service).is_some_and(|service| service.running) {
                return Err(HostError::service(service, "is not running"));
            }
            inner.load(service);
            Ok(())
        })
    }

    async fn probe(&self, probe: &Probe, _patience: Duration) -> Answer {
        match probe {
            Probe::Http { service, expect, .. } | Probe::FastCgi { service, expect, .. } => {
                self.lock().serves(service, expect)
            }
        }
    }
}
