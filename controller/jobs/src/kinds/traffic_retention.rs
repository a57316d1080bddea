//! What the edges passed on for tenants is dropped after 400 days, each day, in chunks.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::{Clock, DAY};
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::retention::{self, Dropped};

/// A year can be compared with the one before, in milliseconds.
const KEPT: i64 = 400 * DAY;

/// The kind.
#[derive(Debug)]
pub struct TrafficRetention {
    store: Store,
    clock: Clock,
}

/// Nothing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TrafficRetentionParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(TrafficRetention { store: deps.store.clone(), clock: Clock::at(deps.store.now()) })
}

#[async_trait]
impl JobKind for TrafficRetention {
    type Params = TrafficRetentionParams;

    const FACTS: KindFacts = KindFacts {
        name: "traffic_retention",
        about: "Drops what was counted of tenants' traffic more than 400 days ago.",
        steps: &["prune"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, TrafficRetentionParams)> {
        Some(((now.div_euclid(DAY) + 1).saturating_mul(DAY), TrafficRetentionParams {}))
    }

    fn show(_: &TrafficRetentionParams) -> Value {
        json!({})
    }

    async fn step(&self, at: At<'_, TrafficRetentionParams>) -> Result<Went, Failure> {
        let prune = async |before| self.store.prune_traffic(before).await;
        match retention::step(&self.store, self.clock, KEPT, at.job, prune).await? {
            Dropped::More(went) => Ok(went),
            Dropped::All(rows) => Ok(Went::Done(json!({"hours": rows}))),
        }
    }
}
