//! The feed's model over the real store: publishers that read SQLite files, and everything that can go wrong with them.
//!
//! Nothing is faked on this side of the protocol. A commit is a mutation under the head lock with owners, compaction deletes
//! rows, a copy is put back by closing the store, exchanging its file and opening it again. A failure names its seed and lists
//! the steps; the same seed does the same steps again.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are not recognised as tests")]

mod databases;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use futures::StreamExt as _;
use hosting_intent::{Audience, Bytes, Cause, Item, Key, Kind};
use hosting_intent_sync::model::{self, Flaws, ModelStore, Summary};
use hosting_intent_sync::subscriber::{Policy, Strict};
use hosting_intent_sync::{AudienceHead, FeedSource, SourceError, Window};
use hosting_planner::{ApplyError, Change, Draft, IntentChange, World};
use hosting_store::{Database, Kek, OpenError, Origin, Store, StoreConfig};

use self::databases::{Backend, Place, Postgres};

/// About 20 s of a debug build on two cores.
const SEEDS: Range<u64> = 0..55;
/// Fewer over PostgreSQL, where putting a copy back takes a new database each time.
const POSTGRES_SEEDS: Range<u64> = 0..16;
/// Other seeds for a longer search, or one to see again: `MODEL_SEEDS=1000..2000`.
const OTHER_SEEDS: &str = "MODEL_SEEDS";
const STEPS: usize = 200;
/// Runs side by side: most of each is waiting for the disk.
const SIDE_BY_SIDE: usize = 4;

/// A store in a folder of its own, with its copies beside it.
struct StoreModel {
    place: Place,
    /// The database that the store is in now: a copy is put back into a new one on PostgreSQL.
    database: Mutex<Database>,
    flaws: Flaws,
    store: RwLock<Store>,
    /// Epochs of this store's whole life, whatever is put back.
    epochs: Mutex<BTreeSet<String>>,
    /// Owners and copies get names from it.
    drawn: AtomicU64,
    /// Compactions that deleted rows.
    compactions: AtomicU64,
    /// Copies put back that were older than what they replaced.
    restores: AtomicU64,
}

fn wrong(problem: impl Into<String>) -> SourceError {
    SourceError(problem.into().into())
}

fn failed(error: impl Display) -> SourceError {
    wrong(error.to_string())
}

impl StoreModel {
    async fn new(place: Place, flaws: Flaws) -> Self {
        let store = open(&place, &place.database).await.unwrap();
        let first = store.audience(&at("edge/a")).await.unwrap().epoch;
        Self {
            database: Mutex::new(place.database.clone()),
            place,
            flaws,
            store: RwLock::new(store),
            epochs: Mutex::new([first].into()),
            drawn: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            restores: AtomicU64::new(0),
        }
    }

    fn store(&self) -> Store {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn epochs(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }
}

async fn open(place: &Place, database: &Database) -> Result<Store, OpenError> {
    let kek = Kek::load_or_create(&place.kek()).unwrap();
    let config = StoreConfig { readers: 2, ..StoreConfig::of(database.clone()) };
    Store::open(&config, kek).await
}

#[async_trait]
impl FeedSource for StoreModel {
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError> {
        self.store().audience(audience).await
    }

    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError> {
        let mut window = self.store().window(audience, after, limit).await?;
        if self.flaws.lose_deletes {
            window.entries.iter_mut().for_each(|entry| entry.removals.clear());
        }
        Ok(window)
    }

    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError> {
        self.store().page(audience, after, limit).await
    }

    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError> {
        if self.flaws.reuse_epochs {
            return Ok(());
        }
        let store = self.store();
        let before = store.audience(&at("edge/a")).await?.epoch;
        store.begin_epoch(seen).await?;
        let after = store.audience(&at("edge/a")).await?.epoch;
        if (before == seen) != (before != after) {
            return Err(wrong(format!("a new epoch after {seen} was asked for: {before} became {after}")));
        }
        if before != after && !self.epochs().insert(after.clone()) {
            return Err(wrong(format!("epoch {after} was there before")));
        }
        Ok(())
    }
}

#[async_trait]
impl ModelStore for StoreModel {
    type Backup = PathBuf;

    /// Each commit is another owner's. Where it takes a row over, the withdrawal by the former owner comes late.
    async fn commit(&self, changes: &[model::Change]) -> Result<(), SourceError> {
        let owner = format!("unit:{}", self.draw());
        let touched: BTreeSet<Audience> = changes.iter().map(|change| change.audience.clone()).collect();
        let changes = changes.to_vec();
        let committed = self
            .store()
            .write(Origin::default(), move |tx| {
                Box::pin(async move {
                    let mut intents = Vec::new();
                    for model::Change { audience, key, value, cause, rollout } in changes {
                        let former = tx.intent(&audience, &key).await?.map(|row| row.owner);
                        let intent = |owner: String, value: Option<Bytes>| IntentChange {
                            audience: audience.clone(),
                            key: key.clone(),
                            owner,
                            value,
                            cause,
                            traceparent: None,
                            rollout,
                        };
                        if value.is_some() {
                            intents.push(intent(owner.clone(), value));
                        }
                        intents.extend(former.map(|former| intent(former, None)));
                    }
                    tx.apply(Change { intents, ..Change::default() }).await
                })
            })
            .await
            .map_err(|error: hosting_store::WriteError<ApplyError>| failed(error))?;
        if !touched.iter().eq(&committed.audiences) {
            return Err(wrong(format!("{touched:?} was changed, the store says {:?}", committed.audiences)));
        }
        Ok(())
    }

    async fn compact(&self, audience: &Audience, revision: u64) -> Result<(), SourceError> {
        let store = self.store();
        let before = store.audience(audience).await?;
        let kept = log(&store, audience, revision).await?;
        let keep = u64::try_from(kept.len()).map_err(failed)?;
        let done = store.compact(audience, keep).await.map_err(failed)?;
        let floor = before.floor.max(revision);
        let left = log(&store, audience, 0).await?;
        if done.floor != floor || left != kept {
            return Err(wrong(format!(
                "{audience} was to keep {kept:?} above {floor}; {done:?}, and {left:?} is left"
            )));
        }
        self.compactions.fetch_add(u64::from(done.rows > 0), Ordering::Relaxed);
        Ok(())
    }

    async fn backup(&self) -> Result<PathBuf, SourceError> {
        let copy = self.place.path().join(format!("copy-{}.db", self.draw()));
        self.store().backup_to(&copy).await.map_err(failed)?;
        Ok(copy)
    }

    async fn restore(&self, copy: &PathBuf) -> Result<(), SourceError> {
        let store = self.store();
        let before = store.audience(&at("edge/a")).await?;
        store.close().await;
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Database::Sqlite(path) = &database {
            Store::restore(path, copy).map_err(failed)?;
        } else {
            database = self.place.another();
            Store::transfer(&Database::Sqlite(copy.clone()), &database, |_, _| {}).await.map_err(failed)?;
        }
        let store = open(&self.place, &database).await.map_err(failed)?;
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
        let after = store.audience(&at("edge/a")).await?;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
        self.restores.fetch_add(u64::from(before != after), Ordering::Relaxed);
        Ok(())
    }
}

/// The revisions of the log after `after`.
fn at(audience: &str) -> Audience {
    audience.parse().unwrap()
}

async fn log(store: &Store, audience: &Audience, after: u64) -> Result<Vec<u64>, SourceError> {
    let mut tx = store.read().await.map_err(failed)?;
    let entries = tx.log_since(audience, after, usize::MAX).await.map_err(failed)?;
    Ok(entries.into_iter().map(|entry| entry.revision).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_holds_over_sqlite() {
    the_protocol_holds(SEEDS, 5, || Place::new(Backend::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_holds_over_postgres() {
    let postgres = Postgres::start();
    the_protocol_holds(POSTGRES_SEEDS, 1, move || Place::on(&postgres)).await;
}

/// Everything that a run can meet is to be met `least` times.
async fn the_protocol_holds(seeds: Range<u64>, least: u64, place: impl Fn() -> Place) {
    let other = std::env::var(OTHER_SEEDS).ok().map(|seeds| {
        let (from, to) = seeds.split_once("..").unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    let mut runs = futures::stream::iter(other.clone().unwrap_or(seeds))
        .map(|seed| {
            let place = place();
            async move {
                let store = StoreModel::new(place, Flaws::default()).await;
                let summary = model::run::<_, Strict>(&store, seed, STEPS)
                    .await
                    .unwrap_or_else(|failure| panic!("{failure}"));
                store.store().close().await;
                (summary, store.compactions.into_inner(), store.restores.into_inner())
            }
        })
        .buffer_unordered(SIDE_BY_SIDE);
    let mut totals: Vec<(&str, u64)> = Vec::new();
    while let Some((summary, compactions, restores)) = runs.next().await {
        let counts = counts(summary, compactions, restores);
        if totals.is_empty() {
            totals.extend(counts);
        } else {
            totals.iter_mut().zip(counts).for_each(|((_, total), (_, count))| *total += count);
        }
    }
    println!("{totals:?}");
    // A run that never gets there proves nothing.
    for (what, times) in totals {
        assert!(other.is_some() || times >= least, "only {times} {what} in all runs");
    }
}

/// Everything that a run must have met.
fn counts(summary: Summary, compactions: u64, restores: u64) -> [(&'static str, u64); 14] {
    let Summary {
        snapshots,
        deltas,
        resumed,
        rejected,
        held,
        waited,
        digest_mismatches,
        gaps,
        crashes,
        epochs,
        ledger_failures,
        cut_snapshots,
    } = summary;
    [
        ("compactions", compactions),
        ("restores", restores),
        ("epochs", epochs),
        ("snapshots", snapshots),
        ("deltas", deltas),
        ("resumed", resumed),
        ("rejected", rejected),
        ("held", held),
        ("waited", waited),
        ("digest mismatches", digest_mismatches),
        ("gaps", gaps),
        ("crashes", crashes),
        ("ledger failures", ledger_failures),
        ("cut snapshots", cut_snapshots),
    ]
}

/// Runs until the model notices, and that for the right reason.
async fn found<P: Policy>(flaws: Flaws, expected: &str) {
    for seed in SEEDS {
        let store = StoreModel::new(Place::new(Backend::Sqlite), flaws).await;
        if let Err(failure) = model::run::<_, P>(&store, seed, STEPS).await {
            println!("seed {seed}: {}", failure.problem);
            assert!(failure.problem.contains(expected), "found for another reason: {failure}");
            return;
        }
    }
    panic!("the model does not notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_notices_an_epoch_used_again() {
    found::<Strict>(Flaws { reuse_epochs: true, ..Flaws::default() }, "never settles").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_notices_a_delete_lost_in_the_log() {
    found::<Strict>(Flaws { lose_deletes: true, ..Flaws::default() }, "other sums than the reference").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_notices_a_subscriber_that_checks_no_prev() {
    struct Broken;
    impl Policy for Broken {
        const CHECK_PREV: bool = false;
    }
    found::<Broken>(Flaws::default(), "other sums than the reference").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_begun_twice_from_one_copy_has_two_names() {
    let model = StoreModel::new(Place::new(Backend::Sqlite), Flaws::default()).await;
    let change = model::Change {
        audience: at("edge/a"),
        key: Key::new(Kind::Route, "shop.example"),
        value: Some(Bytes::from_static(b"v")),
        cause: Cause::Person,
        rollout: 0,
    };
    model.commit(&[change]).await.unwrap();
    let copy = model.backup().await.unwrap();
    let first = model.audience(&at("edge/a")).await.unwrap().epoch;
    let mut names = BTreeSet::from([first.clone()]);
    for _ in 0..3 {
        // The file knows nothing of the epochs that were begun after it was copied.
        model.restore(&copy).await.unwrap();
        assert_eq!(model.audience(&at("edge/a")).await.unwrap().epoch, first);
        model.begin_epoch(&first).await.unwrap();
        let name = model.audience(&at("edge/a")).await.unwrap().epoch;
        let drawn = name.strip_prefix(model.store().cell()).and_then(|rest| rest.strip_prefix('-')).unwrap();
        assert_eq!(drawn.len(), 32, "128 bits, all but six of them random: {name}");
        assert!(names.insert(name), "used again: {names:?}");
    }
}
