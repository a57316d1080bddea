//! What is deleted and kept goes when its time is over: its deletion begins then, each hour, a page at a time.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_resource::Kind;
use hosting_store::{Origin, Store, WriteError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::{Clock, HOUR};
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::retention;

/// Deletions that one step begins, each in a mutation of its own.
const PAGE: u32 = 100;

/// The kind.
#[derive(Debug)]
pub struct KeptDeletions {
    store: Store,
    clock: Clock,
}

/// Nothing: each deletion says itself until when it is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct KeptDeletionsParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(KeptDeletions { store: deps.store.clone(), clock: Clock::at(deps.store.now()) })
}

#[async_trait]
impl JobKind for KeptDeletions {
    type Params = KeptDeletionsParams;

    const FACTS: KindFacts = KindFacts {
        name: "kept_deletions",
        about: "Begins the deletion of what was deleted, was kept, and was not brought back in time.",
        steps: &["begin"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, KeptDeletionsParams)> {
        Some(((now.div_euclid(HOUR) + 1).saturating_mul(HOUR), KeptDeletionsParams {}))
    }

    fn show(_: &KeptDeletionsParams) -> Value {
        json!({})
    }

    /// Begins one page. What has begun is not found any more, so that a step which is done again does nothing.
    async fn step(&self, at: At<'_, KeptDeletionsParams>) -> Result<Went, Failure> {
        let Some(upto) = self.clock.keeps_from(0, self.store.now()) else {
            return Err(Failure::finally(
                "the clock was set forward by more than a day: nothing goes until the controller is started again",
            ));
        };
        let so_far = at.job.progress.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
        let mut begun: u64 = so_far.unwrap_or_default();
        for kind in Kind::ALL.iter().copied().filter(|kind| hosting_planner::is_restorable(*kind)) {
            let later = |error: &dyn std::fmt::Display| Failure::later(error.to_string());
            let mut tx = self.store.read().await.map_err(|error| later(&error))?;
            let due = tx.kept_until(kind, upto, PAGE).await.map_err(|error| later(&error))?;
            drop(tx);
            let is_full = due.len() == PAGE as usize;
            let mut refused = None;
            for id in due {
                let ended = self.store.write(Origin::default(), move |tx| {
                    Box::pin(async move { hosting_planner::end_keeping(tx, &id, upto).await })
                });
                match ended.await {
                    Ok(ended) => begun += u64::from(ended.value),
                    Err(WriteError::Store(error)) => return Err(later(&error)),
                    // One that cannot go does not keep the others here.
                    Err(error) => refused = Some(later(&error)),
                }
            }
            if let Some(refused) = refused {
                return Err(refused);
            }
            if is_full {
                return Ok(Went::More(format!("{begun} deletions begun")));
            }
        }
        if begun > 0 {
            tracing::info!(begun, "deletions begun whose time to be taken back was over");
        }
        Ok(Went::Done(json!({"begun": begun})))
    }
}
