//! Answers that were kept for an Idempotency-Key go after a day, each hour, in chunks.

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
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, ReplyRetentionParams)> {
        Some(((now.div_euclid(HOUR) + 1).saturating_mul(HOUR), ReplyRetentionParams {}))
    }

    fn show(_: &ReplyRetentionParams) -> Value {
        json!({})
    }

    async fn step(&self, at: At<'_, ReplyRetentionParams>) -> Result<Went, Failure> {
        let prune = async |before| self.store.prune_replies(before).await;
        match retention::step(&self.store, self.clock, DAY, at.job, prune).await? {
            Dropped::More(went) => Ok(went),
            Dropped::All(rows) => Ok(Went::Done(json!({"answers": rows}))),
        }
    }
}
