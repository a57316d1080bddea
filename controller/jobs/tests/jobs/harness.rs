//! A store with a clock that tests move, a kind whose steps do what a test says, and the world outside in which they have effects.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use hosting_intent::{Audience, Key};
use hosting_jobs::kinds::JobDeps;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::kinds::certificate::SharedFleet;
use hosting_jobs::kinds::ownership::OwnershipRules;
use hosting_jobs::machine::Backoff;
use hosting_jobs::pace::Rate;
use hosting_jobs::{
    AnyKind, Asked, At, Bell, Failure, JobKind, JobMetrics, KindFacts, Limits, Runner, RunnerConfig, Went,
};
use hosting_planner::gates::{Exception, Fleet, Subscriber};
use hosting_store::{
    Database, Job, JobState, Kek, NewJob, Origin, Store, StoreConfig, StoreError, WriteError, WriteTx,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::databases::Place;

/// By how much the stores' clock is off the wall clock, in milliseconds. Each test is a process of its own.
static OFFSET: AtomicI64 = AtomicI64::new(0);

fn clock() -> i64 {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    i64::try_from(wall).unwrap() + OFFSET.load(Ordering::SeqCst)
}

/// Moves the stores' clock.
pub(crate) fn pass(milliseconds: i64) {
    OFFSET.fetch_add(milliseconds, Ordering::SeqCst);
}

/// What happened outside, in order: `do one`, `ask one`, `undo one`, each with the job's label in front.
#[derive(Clone, Default)]
pub(crate) struct Outside(Arc<Mutex<Vec<String>>>);

impl Outside {
    pub(crate) fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|one| *one == what).count()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Params {
    pub(crate) label: String,
}

/// What a test lets happen in place of a step's success, told by `do one`, `ask one`, `undo one` and the job.
pub(crate) type Hook =
    Arc<dyn Fn(String, Job) -> BoxFuture<'static, Option<Result<Went, Failure>>> + Send + Sync>;

pub(crate) struct TestKind {
    pub(crate) outside: Outside,
    pub(crate) hook: Hook,
    pub(crate) limits: Limits,
    /// Jobs of the kind come again after so many milliseconds.
    pub(crate) every: Option<i64>,
}

pub(crate) const LIMITS: Limits = Limits {
    attempts: 3,
    backoff: Backoff { first: 20, most: 100 },
    rate: Rate { each: Duration::from_micros(1_000), burst: 10_000 },
    at_once: 32,
    step_time: Duration::from_secs(20),
};

impl TestKind {
    pub(crate) fn new(outside: &Outside) -> Self {
        let hook: Hook = Arc::new(|_, _| Box::pin(async { None }));
        Self { outside: outside.clone(), hook, limits: LIMITS, every: None }
    }

    pub(crate) fn hooked<F>(outside: &Outside, hook: F) -> Self
    where
        F: Fn(String, Job) -> BoxFuture<'static, Option<Result<Went, Failure>>> + Send + Sync + 'static,
    {
        Self { hook: Arc::new(hook), ..Self::new(outside) }
    }

    fn step_name(at: &At<'_, Params>) -> &'static str {
        Self::FACTS.steps[at.place]
    }
}

#[async_trait]
impl JobKind for TestKind {
    type Params = Params;

    const FACTS: KindFacts =
        KindFacts { name: "test", about: "For tests.", steps: &["one", "two", "three"], undoes: true };

    fn limits(&self) -> Limits {
        self.limits
    }

    fn next_run(&self, now: i64) -> Option<(i64, Params)> {
        self.every.map(|every| (now + every, Params { label: "again".into() }))
    }

    fn show(params: &Params) -> Value {
        json!({"label": params.label})
    }

    async fn step(&self, at: At<'_, Params>) -> Result<Went, Failure> {
        let what = format!("do {}", Self::step_name(&at));
        if let Some(instead) = (self.hook)(what.clone(), at.job.clone()).await {
            return instead;
        }
        self.outside.note(format!("{} {what}", at.params.label));
        Ok(Went::Done(json!({"by": Self::step_name(&at)})))
    }

    /// The truth: the world outside says whether it happened.
    async fn ask(&self, at: At<'_, Params>) -> Result<Asked, Failure> {
        let done = format!("{} do {}", at.params.label, Self::step_name(&at));
        self.outside.note(format!("{} ask {}", at.params.label, Self::step_name(&at)));
        Ok(if self.outside.count(&done) > 0 { Asked::Happened(Value::Null) } else { Asked::NotHappened })
    }

    async fn undo(&self, at: At<'_, Params>) -> Result<(), Failure> {
        let what = format!("undo {}", Self::step_name(&at));
        if let Some(Err(failure)) = (self.hook)(what.clone(), at.job.clone()).await {
            return Err(failure);
        }
        self.outside.note(format!("{} {what}", at.params.label));
        Ok(())
    }
}

/// What a store is opened from.
#[derive(Clone)]
pub(crate) struct Source {
    folder: PathBuf,
    database: Database,
}

impl Source {
    pub(crate) async fn open(&self) -> Store {
        let kek = Kek::load_or_create(&self.folder.join("kek")).unwrap();
        let config = StoreConfig { clock, ..StoreConfig::of(self.database.clone()) };
        Store::open(&config, kek).await.unwrap()
    }

    /// What a process leaves behind that is killed right now: the files as they are, or, where the database has a server of its own,
    /// the database. The killed process may do nothing more.
    pub(crate) fn image(&self) -> Image {
        let Database::Sqlite(path) = &self.database else {
            return Image { source: self.clone(), _folder: None };
        };
        let folder = tempfile::tempdir().unwrap();
        for name in ["kek", "store.db", "store.db-wal"] {
            let from = self.folder.join(name);
            if from.exists() {
                std::fs::copy(&from, folder.path().join(name)).unwrap();
            }
        }
        let database = Database::Sqlite(folder.path().join(path.file_name().unwrap()));
        Image { source: Self { folder: folder.path().to_owned(), database }, _folder: Some(folder) }
    }
}

/// What a killed process left behind.
pub(crate) struct Image {
    source: Source,
    _folder: Option<TempDir>,
}

impl Image {
    /// As the next start opens it.
    pub(crate) async fn open(&self) -> Store {
        self.source.open().await
    }
}

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) bell: Bell,
    pub(crate) place: Place,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let place = Place::new(crate::BACKEND);
        let source = Source { folder: place.path().to_owned(), database: place.database.clone() };
        Self { store: source.open().await, bell: Bell::default(), place }
    }

    pub(crate) fn source(&self) -> Source {
        Source { folder: self.place.path().to_owned(), database: self.place.database.clone() }
    }

    /// The store as another controller has it: a second one on PostgreSQL, the same on SQLite, whose file is one process's.
    pub(crate) async fn another_controller(&self) -> (Store, Bell) {
        match self.place.database {
            Database::Sqlite(_) => (self.store.clone(), self.bell.clone()),
            Database::Postgres(_) => (self.source().open().await, Bell::default()),
        }
    }

    /// A runner in another controller.
    pub(crate) async fn another_runner(&self, kind: TestKind) -> Running {
        let (store, bell) = self.another_controller().await;
        run(&store, &bell, vec![Arc::new(kind)], config())
    }

    /// Enqueues a job and does not ring.
    pub(crate) async fn enqueue(&self, label: &str, lane: &str) -> String {
        self.enqueue_at(label, lane, self.store.now()).await
    }

    pub(crate) async fn enqueue_at(&self, label: &str, lane: &str, due_at: i64) -> String {
        let new = new_job(label, lane, due_at);
        write(&self.store, move |tx| Box::pin(async move { tx.enqueue_job(new).await })).await.unwrap()
    }

    pub(crate) fn runner(&self, kind: TestKind) -> Running {
        run(&self.store, &self.bell, vec![Arc::new(kind)], config())
    }

    pub(crate) async fn job(&self, id: &str) -> Job {
        job(&self.store, id).await
    }

    /// Waits until the job is in one of the states.
    pub(crate) async fn until(&self, id: &str, states: &[JobState]) -> Job {
        until(&self.store, id, states).await
    }
}

/// A fleet without anybody in it.
struct Nobody;

impl Fleet for Nobody {
    fn subscribers(&self, _: &Audience) -> Vec<Subscriber> {
        Vec::new()
    }

    fn exception(&self, _: &Audience, _: &str, _: &Key) -> Option<Exception> {
        None
    }
}

/// What the real kinds need.
pub(crate) fn deps(store: &Store, callbacks: CallbackRules, audit_days: u32) -> JobDeps {
    // In production the process installs one; a second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ownership = OwnershipRules::default();
    JobDeps {
        store: store.clone(),
        callbacks,
        audit_head_minutes: 10,
        audit_days,
        history_days: 90,
        history_bytes: 20_000,
        fleet: SharedFleet(Arc::new(Nobody)),
        ownership,
    }
}

pub(crate) fn new_job(label: &str, lane: &str, due_at: i64) -> NewJob {
    NewJob {
        kind: "test".into(),
        subject: label.into(),
        lane: lane.into(),
        brand: None,
        params: json!({"label": label}),
        due_at,
        attempt_limit: 3,
        waits: Vec::new(),
    }
}

pub(crate) async fn write<T, F>(store: &Store, mutation: F) -> Result<T, WriteError<StoreError>>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
{
    store.write(Origin::default(), mutation).await.map(|committed| committed.value)
}

pub(crate) async fn job(store: &Store, id: &str) -> Job {
    store.read().await.unwrap().job(id).await.unwrap().unwrap_or_else(|| panic!("no job {id}"))
}

pub(crate) async fn until(store: &Store, id: &str, states: &[JobState]) -> Job {
    for _ in 0..1_000 {
        let job = job(store, id).await;
        if states.contains(&job.state) {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to {states:?}: {:?}", job(store, id).await);
}

/// A runner under way.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), StoreError>>,
}

impl Running {
    /// As SIGTERM ends it.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As `kill -9` ends it: nothing it held is given back.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn config() -> RunnerConfig {
    RunnerConfig { poll: Duration::from_millis(50), grace: Duration::from_millis(300), ..RunnerConfig::new() }
}

pub(crate) fn run(store: &Store, bell: &Bell, kinds: Vec<Arc<dyn AnyKind>>, config: RunnerConfig) -> Running {
    let stop = CancellationToken::new();
    let runner = Runner::new(store.clone(), kinds, bell.clone(), config, JobMetrics::default());
    let task = tokio::spawn(runner.run(stop.clone()));
    Running { stop, task }
}
