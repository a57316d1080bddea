//! An undo goes on with what did not fit into the transaction of its request, a transaction at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_planner::{PlanError, WorldError};
use hosting_store::{NewJob, Origin, Store, StoreError, UndoOf, WriteError, WriteTx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

/// The kind.
#[derive(Debug)]
pub struct Undo {
    store: Store,
}

/// Which changes are taken back, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoParams {
    /// Which changes.
    pub undo: UndoOf,
    /// Id of the API key that asked.
    pub key: String,
    /// Whether that is a platform admin's.
    pub is_admin: bool,
    /// Of the request that asked: by its trace the undo knows its own changes.
    pub traceparent: String,
}

/// Changes that a job takes back: as many as its request.
const MOST: u32 = 2_000;
const NAME: &str = "undo";

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(Undo { store: deps.store.clone() })
}

/// Enqueues the rest of an undo with its first part, and answers the job's id. `brand`: whose keys see the job.
///
/// # Errors
/// When the store fails.
pub async fn enqueue(
    tx: &mut WriteTx,
    params: UndoParams,
    brand: Option<String>,
) -> Result<String, StoreError> {
    let lane = format!("undo/{}", params.undo.trace);
    let params = serde_json::to_value(params)
        .map_err(|error| StoreError::Io(format!("parameters of an undo: {error}").into()))?;
    let job = NewJob {
        kind: NAME.to_owned(),
        subject: NAME.to_owned(),
        lane,
        brand,
        params,
        due_at: 0,
        attempt_limit: LIMITS.attempts,
        waits: Vec::new(),
    };
    tx.enqueue_job(job).await
}

const LIMITS: Limits = Limits {
    attempts: 20,
    backoff: Backoff { first: 1_000, most: 600_000 },
    rate: Rate { each: Duration::from_millis(100), burst: 10 },
    at_once: 2,
    step_time: Duration::from_secs(60),
};

#[async_trait]
impl JobKind for Undo {
    type Params = UndoParams;

    const FACTS: KindFacts = KindFacts {
        name: NAME,
        about: "Goes on with an undo that is more than fits into one transaction.",
        steps: &["undo"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn show(params: &UndoParams) -> Value {
        json!({"of": params.undo.of, "upto": params.undo.upto, "api_key_id": params.key})
    }

    /// Takes back what one transaction holds. What was taken back before is known by its trace, so that a part that is done again does
    /// nothing.
    async fn step(&self, at: At<'_, UndoParams>) -> Result<Went, Failure> {
        let UndoParams { undo, key, is_admin, traceparent } = at.params.clone();
        let origin = Origin { traceparent, actor: Some(key), admin: is_admin, lease: None };
        let written = self.store.write(origin, move |tx| {
            Box::pin(async move {
                let found = tx.to_undo(&undo, MOST).await.map_err(WorldError::from)?;
                if found.is_too_much {
                    let problem = "more has changed meanwhile than one undo looks at: undo what is left in smaller parts";
                    return Err(PlanError::Conflict(problem.to_owned()));
                }
                hosting_planner::undo(tx, &found.changes).await
            })
        });
        let undone = match written.await {
            Ok(committed) => committed.value,
            Err(WriteError::Store(error)) => return Err(Failure::later(error.to_string())),
            Err(WriteError::Refused(error @ (PlanError::InUse { .. } | PlanError::Conflict(_)))) => {
                return Err(Failure::finally(error.to_string()));
            }
            Err(error) => return Err(Failure::later(error.to_string())),
        };
        let so_far = at.job.progress.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
        let all = so_far.unwrap_or(0_usize).saturating_add(undone.taken_back.len());
        if undone.more {
            return Ok(Went::More(format!("{all} resources taken back")));
        }
        Ok(Went::Done(json!({
            "taken_back": all,
            "conflicts": undone.conflicts.len(),
            "not_restorable": undone.not_restorable.len(),
        })))
    }
}
