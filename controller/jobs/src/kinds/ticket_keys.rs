//! What edges seal session tickets with: each cluster's next key, made by chance half a day before its turn, and the end of those whose tickets ended.

use std::sync::Arc;

use async_trait::async_trait;
use hosting_planner::{FreshTicketKey, World};
use hosting_resource::kinds::cluster::{Cluster, rotation};
use hosting_resource::{Doc, Kind, PlainText};
use hosting_store::{Origin, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::JobDeps;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::retention;

/// Clusters that one step looks at; each that is due is changed in a mutation of its own.
const PAGE: u32 = 100;
/// Between two looks, in milliseconds.
const EVERY: i64 = 600_000;

/// The kind.
#[derive(Debug)]
pub struct RotateTicketKeys {
    store: Store,
}

/// Nothing: each cluster's keys say when they begin.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RotateTicketKeysParams {}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(RotateTicketKeys { store: deps.store.clone() })
}

fn fresh() -> FreshTicketKey {
    let key = Zeroizing::new(rand::random::<[u8; 32]>());
    FreshTicketKey { name: hex::encode(rand::random::<[u8; 16]>()), key: PlainText::new(hex::encode(*key)) }
}

#[async_trait]
impl JobKind for RotateTicketKeys {
    type Params = RotateTicketKeysParams;

    const FACTS: KindFacts = KindFacts {
        name: "ticket_keys",
        about: "Makes what edges seal TLS session tickets with, and ends what is no longer used.",
        steps: &["rotate"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        retention::LIMITS
    }

    fn next_run(&self, now: i64) -> Option<(i64, RotateTicketKeysParams)> {
        Some(((now.div_euclid(EVERY) + 1).saturating_mul(EVERY), RotateTicketKeysParams {}))
    }

    fn show(_: &RotateTicketKeysParams) -> Value {
        json!({})
    }

    /// Looks at one page of clusters. One that has its keys is left alone, so that a step which is done again does nothing.
    async fn step(&self, at: At<'_, RotateTicketKeysParams>) -> Result<Went, Failure> {
        let later = |error: &dyn std::fmt::Display| Failure::later(error.to_string());
        let after = at.job.progress.clone().unwrap_or_default();
        let mut tx = self.store.read().await.map_err(|error| later(&error))?;
        let page = tx.list(Kind::Cluster, &after, PAGE).await.map_err(|error| later(&error))?;
        drop(tx);
        let last = page.last().map(|last| last.id.clone()).filter(|_| page.len() == PAGE as usize);
        let mut made = 0;
        for cluster in page {
            // One that this build cannot read keeps what it has.
            let Ok(cluster) = Doc::<Cluster>::read(cluster) else { continue };
            let begins: Vec<i64> = cluster.state.ticket_keys.iter().map(|key| key.begins).collect();
            if rotation(&begins, self.store.now()).is_nothing() {
                continue;
            }
            let id = cluster.typed_id();
            let fresh = [fresh(), fresh()];
            let rotated = self.store.write(Origin::default(), move |tx| {
                Box::pin(async move { hosting_planner::rotate_ticket_keys(tx, &id, fresh).await })
            });
            made += rotated.await.map_err(|error| later(&error))?.value;
        }
        Ok(match last {
            Some(last) => Went::More(last),
            None => Went::Done(json!({"made": made})),
        })
    }
}
