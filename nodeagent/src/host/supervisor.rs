//! Long-running services as children of the agent, where there is no systemd.
//!
//! Owns their start, reload, stop and restart, and that no configuration takes effect that the service itself refuses. It
//! must never signal a process that is not ours (see [`super::process`]). Called by drivers through
//! [`hosting_agent_engine::Host`]; systemd will be another implementation of the same operations.

mod check;
mod end;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hosting_agent_engine::{Access, HostError, Place, ServiceSpec, ServiceState};
use tokio::{
    process::{Child, Command},
    sync::{Mutex as AsyncMutex, Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use check::{Draft, write_draft};
use end::STOP_TIME;

use super::{
    files::Files,
    process::{Record, Running, Spawner, handles},
};
use crate::roots::Roots;

mod reload;

/// What becomes of children when the agent is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDeath {
    /// They end with it, as far as `setpriv` is there.
    End,
    /// They go on serving, and the next agent takes them over.
    Keep,
}

/// First wait before a service that ended is started again; doubled each time.
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// Longest wait.
const RESTART_LAST: Duration = Duration::from_secs(30);
/// Workers of earlier configurations beside a service's own, unless it is set otherwise.
const OLD_WORKERS: usize = 64;
/// Services that start at the same time: each start costs a processor for a moment.
const STARTS: usize = 4;
/// How long a start may take until the service minds its signals.
const START_TIME: Duration = Duration::from_secs(2);
/// A service that ran this long is started again without memory of earlier ends.
const RESTART_FORGET: Duration = Duration::from_secs(60);

/// The supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: Arc<Files>,
    roots: Roots,
    /// Where process records and the output of services lie.
    folder: PathBuf,
    services: Mutex<BTreeMap<String, Arc<Service>>>,
    /// Children of an earlier agent that are alive and not taken over yet.
    inherited: Mutex<BTreeMap<String, (Record, Running)>>,
    spawner: Spawner,
    setpriv: Option<PathBuf>,
    events: watch::Sender<Events>,
    checks: Semaphore,
    starts: Semaphore,
    drafts: AtomicU64,
    stopping: AtomicBool,
    /// Workers of earlier configurations that a service may have beside its own.
    old_workers: AtomicUsize,
}

/// What happened that no pass asked for, as counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Events {
    /// Services that ended by themselves, or run again since.
    pub ended: u64,
    /// Work in the background that is done: a removal, the end of a service that was retired.
    pub finished: u64,
}

#[derive(Debug)]
struct Service {
    name: String,
    /// One operation at a time. Held across waits on purpose: a reload must not overtake a start.
    control: Arc<AsyncMutex<Control>>,
    /// What others see, without waiting for an operation.
    shown: Mutex<ServiceState>,
    reloads_asked: AtomicU64,
}

#[derive(Debug, Default)]
struct Control {
    spec: Option<ServiceSpec>,
    running: Option<Arc<Running>>,
    started: Option<Instant>,
    restarts: u32,
    last_end: Option<String>,
    reloads_done: u64,
    reload_result: Option<HostError>,
    reload_ended: Option<Instant>,
    /// Set when it is to end and not to be started again: the time that it has for that.
    retiring: Option<Duration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// Looks for children of an earlier agent: live masters wait to be taken over, workers without a master are killed.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        files: Arc<Files>,
        roots: Roots,
        folder: PathBuf,
        at_death: AtDeath,
    ) -> Result<Self, std::io::Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let drafts = roots.config.join(".check");
        match fs::remove_dir_all(&drafts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Drafts hold what the main files hold.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&drafts)?;
        let mut inherited = BTreeMap::new();
        for entry in fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_none_or(|extension| extension != "process") {
                continue;
            }
            let Some(record) = Record::load(&path) else { continue };
            if let Some(running) = record.alive() {
                tracing::info!(service = name, pid = record.pid, "found running, left by an earlier agent");
                inherited.insert(name, (record, running));
            } else {
                record.end_leftovers();
                let _ = fs::remove_file(&path);
            }
        }
        let setpriv =
            ["/usr/bin/setpriv", "/bin/setpriv"].map(PathBuf::from).into_iter().find(|path| path.is_file());
        if setpriv.is_none() && at_death == AtDeath::End {
            tracing::warn!(
                "no setpriv (util-linux): children outlive an agent that is killed, the next one takes them over"
            );
        }
        Ok(Self {
            inner: Arc::new(Inner {
                files,
                roots,
                folder,
                services: Mutex::default(),
                inherited: Mutex::new(inherited),
                spawner: Spawner::new()?,
                setpriv: setpriv.filter(|_| at_death == AtDeath::End),
                events: watch::Sender::new(Events::default()),
                checks: Semaphore::new(4),
                starts: Semaphore::new(STARTS),
                drafts: AtomicU64::new(0),
                stopping: AtomicBool::new(false),
                old_workers: AtomicUsize::new(OLD_WORKERS),
            }),
        })
    }

    /// Follows what happens without a pass having asked for it.
    #[must_use]
    pub fn events(&self) -> watch::Receiver<Events> {
        self.inner.events.subscribe()
    }

    fn ended(&self) {
        self.inner.events.send_modify(|events| events.ended += 1);
    }

    pub(super) fn finished(&self) {
        self.inner.events.send_modify(|events| events.finished += 1);
    }

    fn find(&self, name: &str) -> Option<Arc<Service>> {
        lock(&self.inner.services).get(name).cloned()
    }

    fn service(&self, name: &str) -> Arc<Service> {
        lock(&self.inner.services)
            .entry(name.to_owned())
            .or_insert_with(|| {
                Arc::new(Service {
                    name: name.to_owned(),
                    control: Arc::default(),
                    shown: Mutex::new(ServiceState::Stopped),
                    reloads_asked: AtomicU64::new(0),
                })
            })
            .clone()
    }

    pub(super) fn state(&self, name: &str) -> ServiceState {
        if lock(&self.inner.inherited).contains_key(name) {
            return ServiceState::Down("left by an earlier agent, not taken over yet".to_owned());
        }
        self.find(name).map_or(ServiceState::Stopped, |service| lock(&service.shown).clone())
    }

    /// Names of the services that are not stopped and begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let inherited = lock(&self.inner.inherited);
        let from_prefix =
            inherited.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let mut names: BTreeSet<String> = from_prefix.map(|(name, _)| name.clone()).collect();
        drop(inherited);
        let known = lock(&self.inner.services);
        let from_prefix = known.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        names.extend(
            from_prefix
                .filter(|(_, service)| *lock(&service.shown) != ServiceState::Stopped)
                .map(|(name, _)| name.clone()),
        );
        names.into_iter().collect()
    }

    fn show(service: &Service, state: ServiceState) {
        *lock(&service.shown) = state;
    }

    /// What is stopped is remembered by nobody.
    fn forget(&self, service: &Arc<Service>) {
        Self::show(service, ServiceState::Stopped);
        let _ = fs::remove_file(self.record(&service.name));
        let _ = fs::remove_file(self.output(&service.name));
        let mut services = lock(&self.inner.services);
        if services.get(&service.name).is_some_and(|known| Arc::ptr_eq(known, service)) {
            services.remove(&service.name);
        }
    }

    fn is_known(&self, service: &Arc<Service>) -> bool {
        self.find(&service.name).is_some_and(|known| Arc::ptr_eq(&known, service))
    }

    fn show_running(service: &Service, control: &mut Control, spec: &ServiceSpec) {
        if control.started.is_some_and(|started| started.elapsed() >= RESTART_FORGET) {
            control.last_end = None;
        }
        let (spec, last_end) = (Box::new(spec.clone()), control.last_end.clone());
        Self::show(service, ServiceState::Running { spec, last_end });
    }

    /// Tests and writes the main configuration, then starts the service or makes it take that in.
    pub(super) async fn run(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        let (service, mut control) = loop {
            let service = self.service(&spec.name);
            let control = service.control.clone().lock_owned().await;
            // One that was stopped while this waited is not this one any more.
            if self.is_known(&service) {
                break (service, control);
            }
        };
        if control.retiring.is_some() {
            return Err(HostError::service(
                &spec.name,
                "still finishes what it was doing; waits until it has",
            ));
        }
        // Looked at under the lock: what starts after this is seen by the end of all.
        if self.inner.stopping.load(Ordering::Acquire) {
            return Err(HostError::service(&spec.name, "the agent is stopping"));
        }
        let runs = control.running.is_some() || lock(&self.inner.inherited).contains_key(&spec.name);
        match self.check_or_heal(spec).await {
            Ok(()) => self.write_main(spec).await?,
            Err(error) => self.go_on_untested(spec, error, runs).await?,
        }

        let inherited = lock(&self.inner.inherited).remove(&spec.name);
        if let Some((record, running)) = inherited {
            if record.runs(Path::new(&spec.program)) {
                tracing::info!(service = spec.name, pid = record.pid, "taken over from an earlier agent");
                let running = Arc::new(running);
                self.watch(&service, running.clone(), None, record);
                control.running = Some(running);
            } else {
                self.end(&running, spec.stop_signal, STOP_TIME).await;
                record.end_leftovers();
            }
        }
        let same_program = control
            .spec
            .as_ref()
            .is_none_or(|before| before.program == spec.program && before.args == spec.args);
        if !same_program && let Some(running) = control.running.take() {
            self.end(&running, spec.stop_signal, STOP_TIME).await;
        }
        control.spec = Some(spec.clone());
        match control.running.clone() {
            Some(running) => {
                if let Some(signal) = spec.reload_signal {
                    self.signal_reload(spec, signal, &running).await;
                }
            }
            None => {
                if let Err(error) = self.start(&service, &mut control, spec).await {
                    Self::show(&service, ServiceState::Down(error.to_string()));
                    return Err(error);
                }
            }
        }
        Self::show_running(&service, &mut control, spec);
        Ok(())
    }

    fn main_text(&self, spec: &ServiceSpec) -> String {
        let Some(folder) = &spec.config.parts else { return spec.config.text.clone() };
        spec.config.text_with(&self.inner.roots.text(folder), &format!("*{}", spec.config.suffix))
    }

    /// Whether the main configuration on disk is this one.
    async fn is_in_place(&self, spec: &ServiceSpec) -> Result<bool, HostError> {
        let (text, files, main) = (self.main_text(spec), self.inner.files.clone(), spec.config.main.clone());
        blocking(move || Ok(files.read(&main)?.is_some_and(|there| there == text.as_bytes()))).await
    }

    async fn write_main(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        let text = self.main_text(spec);
        let (files, main, parts) =
            (self.inner.files.clone(), spec.config.main.clone(), spec.config.parts.clone());
        blocking(move || {
            if let Some(parts) = &parts {
                files.make_dir(parts, Access::agent(0o755))?;
            }
            files.write(&main, text.as_bytes(), Access::agent(0o600))
        })
        .await
    }

    fn arguments(&self, given: &[String], main: &str) -> Vec<String> {
        given.iter().map(|arg| arg.replace(ServiceSpec::MAIN, main)).collect()
    }

    async fn start(
        &self,
        service: &Arc<Service>,
        control: &mut Control,
        spec: &ServiceSpec,
    ) -> Result<(), HostError> {
        let failed = |problem: String| HostError::service(&spec.name, problem);
        let _turn = self.inner.starts.acquire().await.map_err(|error| failed(error.to_string()))?;
        let output = self.output(&spec.name);
        let log = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&output)
            .map_err(|error| failed(format!("{}: {error}", output.display())))?;
        let second = log.try_clone().map_err(|error| failed(error.to_string()))?;
        let mut command = match &self.inner.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                // TERM and not KILL: a master that is killed leaves its workers behind.
                command.args(["--pdeathsig", "TERM", "--", spec.program.as_str()]);
                command
            }
            None => Command::new(&spec.program),
        };
        command
            .args(self.arguments(&spec.args, &self.inner.roots.text(&spec.config.main)))
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);
        let mut child = self
            .inner
            .spawner
            .spawn(command)
            .await
            .map_err(|error| failed(format!("cannot start {}: {error}", spec.program)))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let running = pid.and_then(Running::open);
        let record = pid.and_then(|pid| Record::of(pid, Path::new(&spec.program), spec.stop_signal));
        let (Some(running), Some(record)) = (running, record) else {
            let _ = child.wait().await;
            return Err(failed(format!("ended at once: {}", tail(&output))));
        };
        if let Err(error) = record.save(&self.record(&spec.name)) {
            // Better a service that an agent after this one does not find again than none.
            tracing::error!(service = spec.name, pid = running.pid, %error, "cannot write down its process");
        }
        // Most mistakes show before it minds its signals.
        let began = Instant::now();
        loop {
            let ready = handles(running.pid, spec.stop_signal) || began.elapsed() >= START_TIME;
            if timeout(Duration::from_millis(30), running.ended()).await.is_ok() {
                let _ = child.wait().await;
                record.end_leftovers();
                return Err(failed(format!("ended at once: {}", tail(&output))));
            }
            if ready {
                break;
            }
        }
        tracing::info!(service = spec.name, pid = running.pid, "started");
        let running = Arc::new(running);
        control.running = Some(running.clone());
        control.started = Some(Instant::now());
        self.watch(service, running, Some(child), record);
        Ok(())
    }

    /// Waits for the end of a process and starts the service again, unless the end was asked for.
    fn watch(&self, service: &Arc<Service>, running: Arc<Running>, child: Option<Child>, record: Record) {
        let (supervisor, service) = (self.clone(), service.clone());
        tokio::spawn(async move {
            let status = match child {
                Some(mut child) => child.wait().await.ok().map(|status| status.to_string()),
                None => {
                    running.ended().await;
                    None
                }
            };
            record.end_leftovers();
            let mut control = service.control.lock().await;
            if !control.running.as_ref().is_some_and(|current| Arc::ptr_eq(current, &running)) {
                return;
            }
            control.running = None;
            if control.retiring.is_some() {
                supervisor.forget(&service);
                supervisor.finished();
                return;
            }
            if control.started.take().is_some_and(|started| started.elapsed() >= RESTART_FORGET) {
                control.restarts = 0;
            }
            let said = tail(&supervisor.output(&service.name));
            let why = format!("ended ({}): {said}", status.as_deref().unwrap_or("no status"));
            tracing::error!(service = service.name, why, "a service ended");
            control.last_end = Some(why.clone());
            Self::show(&service, ServiceState::Down(why));
            drop(control);
            supervisor.ended();
            supervisor.restart(&service).await;
        });
    }

    async fn restart(&self, service: &Arc<Service>) {
        loop {
            let wait = {
                let mut control = service.control.lock().await;
                let exponent = control.restarts.min(16);
                control.restarts += 1;
                RESTART_FIRST.saturating_mul(1 << exponent).min(RESTART_LAST)
            };
            sleep(wait).await;
            let mut control = service.control.lock().await;
            let Some(spec) = control.spec.clone().filter(|_| control.running.is_none()) else { return };
            if self.inner.stopping.load(Ordering::Acquire) {
                return;
            }
            let tested = match self.check_or_heal(&spec).await {
                Ok(()) => Ok(()),
                Err(error) => self.go_on_untested(&spec, error, false).await,
            };
            let again = match tested {
                Ok(()) => self.start(service, &mut control, &spec).await,
                Err(error) => Err(error),
            };
            match again {
                Ok(()) => {
                    Self::show_running(service, &mut control, &spec);
                    self.ended();
                    return;
                }
                Err(error) => {
                    tracing::error!(service = service.name, %error, "cannot be started again");
                    Self::show(service, ServiceState::Down(error.to_string()));
                }
            }
        }
    }

    /// Tests a piece by itself, puts it in place and reloads; whatever fails, the last good content stays.
    pub(super) async fn install(
        &self,
        name: &str,
        at: &Place,
        content: Option<&[u8]>,
    ) -> Result<(), HostError> {
        let spec = match self.find(name) {
            Some(service) => match &*lock(&service.shown) {
                ServiceState::Running { spec, .. } => Some((**spec).clone()),
                ServiceState::Stopped | ServiceState::Down(_) | ServiceState::Retiring(_) => None,
            },
            None => None,
        };
        if let (Some(spec), Some(content)) = (&spec, content) {
            let number = self.inner.drafts.fetch_add(1, Ordering::Relaxed);
            let (folder, piece) = (self.inner.roots.config.join(".check"), format!("{name}-{number}.part"));
            let draft = Draft(folder.join(&piece));
            write_draft(&draft.0, content).map_err(|error| HostError::service(name, error))?;
            self.check(spec, &folder.to_string_lossy(), &piece).await?;
        }
        let files = self.inner.files.clone();
        let (place, wanted) = (at.clone(), content.map(<[u8]>::to_vec));
        let before = blocking(move || {
            let before = files.read(&place)?;
            put(&files, &place, wanted.as_deref())?;
            Ok(before)
        })
        .await?;
        if spec.is_none() {
            // It reads what is on disk when it starts.
            return Ok(());
        }
        let Err(error) = self.reload(name).await else { return Ok(()) };
        let (files, place) = (self.inner.files.clone(), at.clone());
        blocking(move || put(&files, &place, before.as_deref())).await?;
        Err(error)
    }

    /// Process ids by service, for operators.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<String, i32> {
        let names: Vec<String> = lock(&self.inner.services).keys().cloned().collect();
        names
            .into_iter()
            .filter_map(|name| Some((name.clone(), Record::load(&self.record(&name))?.pid)))
            .collect()
    }

    fn record(&self, name: &str) -> PathBuf {
        // The whole name stays, dots included.
        self.inner.folder.join(format!("{name}.process"))
    }

    fn output(&self, name: &str) -> PathBuf {
        self.inner.folder.join(format!("{name}.output"))
    }
}

/// What services find their helpers by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn put(files: &Files, at: &Place, content: Option<&[u8]>) -> Result<(), HostError> {
    match content {
        Some(content) => files.write(at, content, Access::agent(0o600)),
        None => files.remove(at),
    }
}

/// Runs file operations where they may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(HostError::service("agent", error)),
    }
}

/// The last line that a service wrote about why it ended.
fn tail(path: &Path) -> String {
    let said = fs::read(path).unwrap_or_default();
    let said =
        String::from_utf8_lossy(said.get(said.len().saturating_sub(4096)..).unwrap_or_default()).into_owned();
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let telling = said
        .lines()
        .rev()
        .find(|line| line.contains("[emerg]") && !line.contains("still could not"))
        // The first of php-fpm's errors is the cause of the others.
        .or_else(|| said.lines().find(|line| line.contains("ERROR:")))
        .unwrap_or(line);
    telling.chars().filter(|c| !c.is_control()).take(400).collect()
}
