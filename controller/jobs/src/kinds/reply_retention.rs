//! Answers that were kept for an Idempotency-Key go after a day, each hour, in chunks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::{Clock, DAY};
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

const HOUR: i64 = 3_600_000;
/// Rows that the store deletes in one transaction; other writes go in between.
const CHUNK: u64 = 1_000;

/// The kind.
#[derive(Debug)]
pub struct ReplyRetention {
    store: Store,
    clock: Clock,
}

/// Nothing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReplyRetentionParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(ReplyRetention { store: deps.store.clone(), clock: Clock::at(deps.store.now()) })
}

#[async_trait]
impl JobKind for ReplyRetention {
    type Params = ReplyRetentionParams;

    const FACTS: KindFacts = KindFacts {
        name: "reply_retention",
        about: "Drops the answers that were kept for an Idempotency-Key for a day.",
        steps: &["prune"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        Limits {
            attempts: 20,
            backoff: Backoff { first: 60_000, most: 3_600_000 },
            rate: Rate { each: Duration::from_secs(1), burst: 5 },
            at_once: 1,
            step_time: Duration::from_secs(60),
        }
    }

    fn next_run(&self, now: i64) -> Option<(i64, ReplyRetentionParams)> {
        Some(((now.div_euclid(HOUR) + 1).saturating_mul(HOUR), ReplyRetentionParams {}))
    }

    fn show(_: &ReplyRetentionParams) -> Value {
        json!({})
    }

    /// One chunk. Deleting once more does no harm.
    async fn step(&self, at: At<'_, ReplyRetentionParams>) -> Result<Went, Failure> {
        let Some(before) = self.clock.keeps_from(DAY, self.store.now()) else {
            return Err(Failure::finally(
                "the clock was set forward by more than a day: no answers are dropped until the controller is started again",
            ));
        };
        let rows =
            self.store.prune_replies(before).await.map_err(|error| Failure::later(error.to_string()))?;
        let so_far = at.job.progress.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
        let all = so_far.unwrap_or(0_u64).saturating_add(rows);
        if rows >= CHUNK {
            return Ok(Went::More(format!("{all} answers dropped")));
        }
        Ok(Went::Done(json!({"answers": all})))
    }
}
