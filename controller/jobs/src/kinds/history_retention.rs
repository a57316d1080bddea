//! The history of resources loses what is older than the policy, and its oldest part when it is larger, in chunks, each hour.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::{Clock, DAY, HOUR};
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::retention::{self, Dropped};

/// The kind.
#[derive(Debug)]
pub struct HistoryRetention {
    store: Store,
    days: u32,
    bytes: u64,
    clock: Clock,
}

/// Nothing: the policy counts that is in force when the job runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HistoryRetentionParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(HistoryRetention {
        store: deps.store.clone(),
        days: deps.history_days,
        bytes: deps.history_bytes,
        clock: Clock::at(deps.store.now()),
    })
}

#[async_trait]
impl JobKind for HistoryRetention {
    type Params = HistoryRetentionParams;

    const FACTS: KindFacts = KindFacts {
        name: "history_retention",
        about: "Drops the history of resources that is older than the policy, or more than it allows.",
        steps: &["prune"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, HistoryRetentionParams)> {
        Some(((now.div_euclid(HOUR) + 1).saturating_mul(HOUR), HistoryRetentionParams {}))
    }

    fn show(_: &HistoryRetentionParams) -> Value {
        json!({})
    }

    async fn step(&self, at: At<'_, HistoryRetentionParams>) -> Result<Went, Failure> {
        let kept = i64::from(self.days).saturating_mul(DAY);
        let prune = async |before| self.store.prune_history(before, self.bytes).await;
        match retention::step(&self.store, self.clock, kept, at.job, prune).await? {
            Dropped::More(went) => Ok(went),
            Dropped::All(rows) => {
                if rows > 0 {
                    tracing::info!(rows, days = self.days, bytes = self.bytes, "old history dropped");
                }
                Ok(Went::Done(json!({"rows": rows, "days": self.days})))
            }
        }
    }
}
