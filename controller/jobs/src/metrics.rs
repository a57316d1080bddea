//! What the runner counts, under `hosting_jobs_`.

use hosting_store::JobState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    kind: &'static str,
    step: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct JobMetrics {
    running: Gauge,
    steps: Family<StepLabels, Counter>,
    ends: Family<EndLabels, Counter>,
    lost: Family<KindLabel, Counter>,
}

impl JobMetrics {
    /// Metrics of a runner, registered.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let ours = registry.sub_registry_with_prefix("hosting_jobs");
        ours.register("running", "Jobs that this controller works on", metrics.running.clone());
        ours.register("steps", "Attempts at steps of jobs, undoing included", metrics.steps.clone());
        ours.register("ended", "Jobs that came to a final state", metrics.ends.clone());
        ours.register("leases_lost", "Jobs that another runner took from this one", metrics.lost.clone());
        metrics
    }

    pub(crate) fn began(&self) {
        self.running.inc();
    }

    pub(crate) fn left(&self) {
        self.running.dec();
    }

    pub(crate) fn stepped(&self, kind: &'static str, step: &'static str, failed: bool) {
        let outcome = if failed { "failed" } else { "done" };
        self.steps.get_or_create(&StepLabels { kind, step, outcome }).inc();
    }

    pub(crate) fn ended(&self, kind: &'static str, state: JobState) {
        self.ends.get_or_create(&EndLabels { kind, state: state.as_str() }).inc();
    }

    pub(crate) fn lost(&self, kind: &'static str) {
        self.lost.get_or_create(&KindLabel { kind }).inc();
    }
}
