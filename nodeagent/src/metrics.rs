//! What the agent counts.

use std::time::Duration;

use hosting_agent_engine::PassSummary;
use hosting_scaffold::admin::Metrics as Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// State of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// The kind of isolation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mode {
    mode: &'static str,
}

/// The agent's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    keys: Family<State, Gauge>,
    passes: Counter,
    looked: Counter,
    duration: Histogram,
    applied: Gauge,
}

impl Metrics {
    /// Registered under `hosting_node_`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let buckets = [0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];
        let metrics = Self {
            keys: Family::default(),
            passes: Counter::default(),
            looked: Counter::default(),
            duration: Histogram::new(buckets),
            applied: Gauge::default(),
        };
        let isolation: Family<Mode, Gauge> = Family::default();
        isolation.get_or_create(&Mode { mode: "none" }).set(1);
        registry.register(|registry| {
            registry.register("hosting_node_keys", "Things on this node by state", metrics.keys.clone());
            registry.register("hosting_node_passes", "Reconcile passes", metrics.passes.clone());
            registry.register(
                "hosting_node_keys_looked_at",
                "Keys looked at in passes",
                metrics.looked.clone(),
            );
            registry.register("hosting_node_pass_seconds", "Length of a pass", metrics.duration.clone());
            registry.register(
                "hosting_node_applied_revision",
                "Revision that the last pass worked from",
                metrics.applied.clone(),
            );
            registry.register("hosting_node_isolation", "How tenants are kept apart", isolation);
        });
        metrics
    }

    pub(crate) fn pass(&self, summary: &PassSummary, revision: u64, took: Duration) {
        self.passes.inc();
        self.looked.inc_by(summary.looked as u64);
        self.duration.observe(took.as_secs_f64());
        self.applied.set(i64::try_from(revision).unwrap_or(i64::MAX));
        for (state, count) in [
            ("ready", summary.ready),
            ("failed", summary.failed),
            ("blocked", summary.blocked),
            ("orphan", summary.orphans),
        ] {
            self.keys.get_or_create(&State { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
