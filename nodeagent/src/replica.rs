//! Keeps the view up to date with the feed.

use std::{collections::BTreeSet, sync::Arc};

use hosting_intent::{Key, NodeIntent, Rejection};
use hosting_intent_sync::{Batch, Replica};
use hosting_scaffold::telemetry::{MAX_SPANS, spans_of};
use tokio::sync::watch;

use crate::{
    role::Role,
    view::{InEffect, View},
};

/// Keeps the view. Lives on the feed's thread.
#[derive(Debug)]
pub struct NodeReplica {
    role: Arc<dyn Role>,
    view: View,
    published: watch::Sender<Option<Arc<View>>>,
}

impl NodeReplica {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(role: Arc<dyn Role>) -> Self {
        Self { role, view: View::default(), published: watch::Sender::new(None) }
    }

    /// Follows the view; `None` until anything is known.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.published.subscribe()
    }
}

impl Replica for NodeReplica {
    type Intent = NodeIntent;

    fn check(&self, key: &Key, intent: &NodeIntent) -> Result<(), Rejection> {
        self.role.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<NodeIntent>) {
        let upserts = batch.upserts.iter().map(|(item, _)| item.traceparent.as_str());
        let traces = upserts.chain(batch.removals.iter().map(|removal| removal.traceparent.as_str()));
        let spans = spans_of(traces.clone(), || {
            tracing::info_span!(
                "nodeagent.publish",
                revision = batch.revision,
                upserts = batch.upserts.len(),
                removals = batch.removals.len()
            )
        });
        let _entered = spans.first().map(tracing::Span::enter);
        self.view.batches += 1;
        let mut seen = BTreeSet::new();
        let distinct = traces.filter(|trace| !trace.is_empty() && seen.insert(*trace)).take(MAX_SPANS);
        self.view.traces.extend(distinct.map(|trace| (self.view.batches, Arc::from(trace))));
        let surplus = self.view.traces.len().saturating_sub(MAX_SPANS);
        self.view.traces.drain(..surplus);
        tracing::debug!(upserts = batch.upserts.len(), removals = batch.removals.len(), "a new view");
        for removal in &batch.removals {
            self.view.items.remove(&removal.key);
        }
        for (item, intent) in batch.upserts {
            self.view.items.insert(item.key, InEffect { revision: item.revision, intent: Arc::new(intent) });
        }
        self.view.epoch = batch.epoch;
        self.view.revision = batch.revision;
        self.published.send_replace(Some(Arc::new(self.view.clone())));
    }
}
