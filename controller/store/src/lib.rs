//! The controller's store on SQLite or PostgreSQL: resources as documents, intents with their log, what the fleet reports, secrets.
//!
//! Owns every row and the order of revisions: one writer, group commit, one savepoint and one revision for each mutation.
//! It knows neither what a resource means nor what an intent says, opens no socket, and never writes a secret in clear.
//! The API writes through [`Store::write`], the planner reads and drafts through `World` and `Draft`, the feed reads
//! through `FeedSource`.
//!
//! | room | what is in it |
//! |---|---|
//! | `database`, `open` | which database; configuration, files, lock, connections |
//! | `sql` | statements, values and rows over both databases |
//! | `schema`, `migrations/` | tables and their version |
//! | `writer`, `lanes`, `origin` | group commit; whose turn it is |
//! | `commit_log`, `lease` | what the controllers of one store tell each other; what one of them does at a time |
//! | `write_tx` | what a mutation may write: resources with their index rows, intents with log and digest |
//! | `meter` | what reads cost |
//! | `read_tx`, `page`, `search`, `counts` | snapshots: `World`, lists, what of them no index has alone, counts |
//! | `feed_source`, `compaction` | the log as publishers read it, and its end |
//! | `status` | watermarks, exceptions, reports |
//! | `audit`, `audit_heads` | who did what; signed heads of its chain |
//! | `history`, `undo` | what resources were before each change; what an undo takes back |
//! | `jobs/` | rows of durable jobs: what is due, lanes, steps, what they wait for, lists |
//! | `kek`, `keyring` | the key-encryption key and its rotation; what is derived and stays the same |
//! | `secrets` | sealed blobs by name, trust roots |
//! | `data_keys` | a key for each tenant, by which secrets of resources are sealed |
//! | `readers` | a key for each audience, and who can open it |
//! | `incidents` | incidents, their events, and what programs could not do about them |
//! | `operations` | settings of the platform, OIDC clients, login sessions, what nodes say of themselves |
//! | `event_log`, `webhooks` | what became of resources, for those who must miss nothing; how far each is, what was posted to it |
//! | `join_token`, `enrolment` | single-use tokens, and what each was last used for |
//! | `backup` | a copy while in use, and putting it back |
#![warn(clippy::wildcard_enum_match_arm)]

mod audit;
mod audit_heads;
mod backup;
mod batch;
mod commit_log;
mod compaction;
mod counts;
mod data_keys;
mod database;
mod enrolment;
mod error;
mod event_log;
mod feed_source;
mod history;
mod incidents;
mod jobs;
mod join_token;
mod kek;
mod kept;
mod key_uses;
mod keyring;
mod lanes;
mod lease;
mod meter;
mod open;
mod operations;
mod origin;
mod page;
mod read_tx;
mod readers;
mod replies;
mod resource_event;
mod rollouts;
mod schema;
mod search;
mod secrets;
mod sql;
mod status;
mod tables;
mod total;
mod traffic;
mod undo;
mod webhooks;
mod write_tx;
mod writer;
#[cfg(test)]
mod writer_tests;

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use zeroize::Zeroizing;

pub use audit::{AuditEntry, AuditPage, AuditQuery, AuditRow, AuditSort};
pub use commit_log::{Commit, FleetChange, FleetOrder, ReportChange};
pub use compaction::Compacted;
pub use database::{Database, PostgresUrl};
pub use enrolment::Enrolled;
pub use error::StoreError;
pub use event_log::{EventPlace, LoggedEvent};
pub use history::{HistoryOf, HistoryPlace, HistoryRow};
pub use incidents::{Gap, GapQuery, Incident, IncidentCounts, IncidentEvent, IncidentQuery};
pub use jobs::{Job, JobPage, JobQuery, JobState, JobStep, JobWait, NewJob, Pace, StepState};
pub use join_token::TokenUse;
pub use kek::{Kek, KekError, Secret, UnsealError};
pub use keyring::Resealed;
pub use lease::{Lease, OtherController};
pub use meter::{ReadMeter, Reading};
pub use open::{OpenError, StoreConfig};
pub use operations::{DriftEvent, MAX_SETTINGS, NodeHealth, OidcClient};
pub use origin::Origin;
pub use page::{Cursor, ListQuery, Order, Page, PageError, Sort};
pub use read_tx::ReadTx;
pub use replies::KeptReply;
pub use resource_event::{ResourceChange, ResourceEvent};
pub use rollouts::{
    ClientHealth, Member, OpenRollouts, Reach, Revert, RolledOut, Rollout, RolloutPolicy, RolloutState,
};
pub use status::{ExceptionRow, Forgotten, KeyRange, NodePass, NodeReport, ReportRow, Watermark};
pub use total::Total;
pub use traffic::{TRAFFIC_HOUR, Traffic, TrafficReport};
pub use undo::{ToUndo, UndoOf, trace_id};
pub use webhooks::{DELIVERY_STATUSES, WebhookDelivery, WebhookPosition};
pub use write_tx::{Effects, IndexFn, IntentEffect, ResourceEffect, WriteTx};
pub use writer::{Committed, Stats, Submitted, WriteError};

/// Most rows that one mutation may write: more is a walk over several.
pub const MAX_ROWS: usize = 1_000;

/// The store. Cheap to clone; the last clone to go ends the writer.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    cell: String,
    controller: String,
    keys: keyring::SharedKek,
    rolls_out: Arc<std::sync::atomic::AtomicBool>,
    root: Zeroizing<[u8; 32]>,
    clock: fn() -> i64,
    database: Database,
    readers: sql::Readers,
    meter: Option<ReadMeter>,
    writer: writer::Queue,
    head: watch::Receiver<u64>,
    commits: broadcast::Sender<Arc<Commit>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("database", &self.0.database)
            .field("cell", &self.0.cell)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The cell's id: this database's own, given or drawn when it was made.
    #[must_use]
    pub fn cell(&self) -> &str {
        &self.0.cell
    }

    /// Whether other controllers may run on this store too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self.0.database {
            Database::Sqlite(_) => false,
            Database::Postgres(_) => true,
        }
    }

    /// The doorbell: the newest committed revision. It may ring without a new one when the epoch changed.
    #[must_use]
    pub fn doorbell(&self) -> watch::Receiver<u64> {
        self.0.head.clone()
    }

    /// What each commit touched. A receiver that lagged behind must take every audience for touched.
    #[must_use]
    pub fn commits(&self) -> broadcast::Receiver<Arc<Commit>> {
        self.0.commits.subscribe()
    }

    /// Counts since the start, for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.writer.stats()
    }

    /// Milliseconds since the Unix epoch by the store's clock.
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.0.clock)()
    }

    /// One consistent read. Keep it short: while it lives the write-ahead log cannot shrink.
    ///
    /// # Errors
    /// When no reader comes free in time, or the file cannot be read.
    pub async fn read(&self) -> Result<ReadTx, StoreError> {
        ReadTx::snapshot(&self.0.readers, self.0.meter.as_ref()).await
    }

    /// Writes and reads: an error when the store cannot do both now, e.g. on a full disk.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.status_write(|tx| {
            Box::pin(async move {
                let query = sql::query(
                    "INSERT INTO counters (name, value) VALUES ('store_probe', 1) \
                     ON CONFLICT (name) DO UPDATE SET value = counters.value + 1",
                );
                tx.execute(query).await
            })
        })
        .await?;
        self.read().await.map(drop)
    }

    /// Waits until the writer has ended: after [`Store::close`], or because it failed. A controller without one is to end.
    pub async fn ended(&self) {
        let mut doorbell = self.doorbell();
        while doorbell.changed().await.is_ok() {}
    }

    /// Ends the writer after what is queued, folds the log into the file and releases the lock. Later calls answer
    /// [`StoreError::Closed`]. Without it the last clone's end does the same, unobserved.
    pub async fn close(&self) {
        // Readers first: the last connection to go folds the log, and they may not write.
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}
