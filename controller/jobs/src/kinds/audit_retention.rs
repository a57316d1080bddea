//! Audit rows older than the policy are deleted, in chunks, each day at 04:00 UTC.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::{Clock, DAY};
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::retention::{self, Dropped};

/// After midnight UTC, in milliseconds.
const TIME_OF_DAY: i64 = 4 * 3_600_000;

/// The kind.
#[derive(Debug)]
pub struct AuditRetention {
    store: Store,
    days: u32,
    clock: Clock,
}

/// Nothing: the policy counts that is in force when the job runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AuditRetentionParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    let clock = Clock::at(deps.store.now());
    Arc::new(AuditRetention { store: deps.store.clone(), days: deps.audit_days, clock })
}

/// The next 04:00 UTC after `now`.
fn next_run_after(now: i64) -> i64 {
    (now.saturating_sub(TIME_OF_DAY).div_euclid(DAY) + 1).saturating_mul(DAY).saturating_add(TIME_OF_DAY)
}

#[async_trait]
impl JobKind for AuditRetention {
    type Params = AuditRetentionParams;

    const FACTS: KindFacts = KindFacts {
        name: "audit_retention",
        about: "Deletes audit rows that are older than the policy.",
        steps: &["prune"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, AuditRetentionParams)> {
        Some((next_run_after(now), AuditRetentionParams {}))
    }

    fn show(_: &AuditRetentionParams) -> Value {
        json!({})
    }

    async fn step(&self, at: At<'_, AuditRetentionParams>) -> Result<Went, Failure> {
        let kept = i64::from(self.days).saturating_mul(DAY);
        let prune = async |before| self.store.prune_audit(before).await;
        match retention::step(&self.store, self.clock, kept, at.job, prune).await? {
            Dropped::More(went) => Ok(went),
            Dropped::All(rows) => {
                if rows > 0 {
                    tracing::info!(rows, days = self.days, "old audit rows dropped");
                }
                Ok(Went::Done(json!({"rows": rows, "days": self.days})))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_each_day_at_four() {
        let four = 100 * DAY + TIME_OF_DAY;
        assert_eq!(next_run_after(four), four + DAY);
        assert_eq!(next_run_after(four - 1), four);
        assert_eq!(next_run_after(100 * DAY), four);
        assert_eq!(next_run_after(-1), TIME_OF_DAY);
    }
}
