//! Signs the newest link of the audit log, each some minutes, and says so in the log of the process: whoever keeps that elsewhere can tell
//! later whether the audit log was rewritten (ADR 28).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::clock::DAY;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

/// Heads are kept for so long, in milliseconds: ten years.
const KEPT: i64 = 3_650 * DAY;

/// The kind.
#[derive(Debug)]
pub struct SignAuditHead {
    store: Store,
    /// In milliseconds.
    every: i64,
}

/// Nothing: what is newest when the job runs is signed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SignAuditHeadParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(SignAuditHead { store: deps.store.clone(), every: i64::from(deps.audit_head_minutes) * 60_000 })
}

#[async_trait]
impl JobKind for SignAuditHead {
    type Params = SignAuditHeadParams;

    const FACTS: KindFacts = KindFacts {
        name: "audit_head",
        about: "Signs the newest link of the audit log.",
        steps: &["sign"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        Limits {
            attempts: 20,
            backoff: Backoff { first: 5_000, most: 600_000 },
            rate: Rate { each: Duration::from_secs(1), burst: 5 },
            at_once: 1,
            step_time: Duration::from_secs(60),
        }
    }

    fn next_run(&self, now: i64) -> Option<(i64, SignAuditHeadParams)> {
        let every = self.every.max(1);
        Some(((now.div_euclid(every) + 1).saturating_mul(every), SignAuditHeadParams {}))
    }

    fn show(_: &SignAuditHeadParams) -> Value {
        json!({})
    }

    /// Done once more it signs nothing: the newest head has the newest link.
    async fn step(&self, _: At<'_, SignAuditHeadParams>) -> Result<Went, Failure> {
        let later = |error: hosting_store::StoreError| Failure::later(error.to_string());
        let head = self.store.sign_audit_head().await.map_err(later)?;
        if let Some(head) = &head {
            let text = serde_json::to_string(head).unwrap_or_default();
            tracing::info!(head = %text, "a head of the audit log is signed");
        }
        self.store.prune_audit_heads(self.store.now().saturating_sub(KEPT)).await.map_err(later)?;
        Ok(Went::Done(json!({"number": head.map(|head| head.number)})))
    }
}
