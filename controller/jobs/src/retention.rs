//! What kinds have in common that drop what is old: how patient they are, and one chunk after another.

use std::time::Duration;

use hosting_store::{Job, Store, StoreError};

use crate::clock::Clock;
use crate::kind::{Failure, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

/// Rows that the store deletes in one transaction; other writes go in between.
const CHUNK: u64 = 1_000;

/// How patient such a kind is.
pub(crate) const LIMITS: Limits = Limits {
    attempts: 20,
    backoff: Backoff { first: 60_000, most: 3_600_000 },
    rate: Rate { each: Duration::from_secs(1), burst: 5 },
    at_once: 1,
    step_time: Duration::from_secs(60),
};

/// How far a step came.
pub(crate) enum Dropped {
    /// There is more; for the next step.
    More(Went),
    /// Everything that is old is gone, so many rows.
    All(u64),
}

/// Drops one chunk of what is older than `kept` milliseconds. Dropping once more does no harm.
pub(crate) async fn step(
    store: &Store,
    clock: Clock,
    kept: i64,
    job: &Job,
    prune: impl AsyncFnOnce(i64) -> Result<u64, StoreError>,
) -> Result<Dropped, Failure> {
    let Some(before) = clock.keeps_from(kept, store.now()) else {
        return Err(Failure::finally(
            "the clock was set forward by more than a day: nothing is dropped until the controller is started again",
        ));
    };
    let rows = prune(before).await.map_err(|error| Failure::later(error.to_string()))?;
    let so_far = job.progress.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    let all = so_far.unwrap_or(0_u64).saturating_add(rows);
    Ok(if rows >= CHUNK {
        Dropped::More(Went::More(format!("{all} rows dropped")))
    } else {
        Dropped::All(all)
    })
}
