//! What the gatekeeper counts, under `hosting_controller_`.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From a look at nothing to one at a million open resources.
const ROUND_SECONDS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Where a node's service turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Turn {
    /// It gets requests again.
    In,
    /// It gets none.
    Out,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnLabel {
    to: Turn,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct GatekeeperMetrics {
    open: Gauge,
    rounds: Counter,
    seconds: Histogram,
    gates: Counter,
    statuses: Counter,
    queue: Gauge,
    turns: Family<TurnLabel, Counter>,
    refused: Counter,
}

impl GatekeeperMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            open: Gauge::default(),
            rounds: Counter::default(),
            seconds: Histogram::new(ROUND_SECONDS),
            gates: Counter::default(),
            statuses: Counter::default(),
            queue: Gauge::default(),
            turns: Family::default(),
            refused: Counter::default(),
        };
        // Both from the start: what is missing cannot be told from what never happened.
        for to in [Turn::In, Turn::Out] {
            drop(metrics.turns.get_or_create(&TurnLabel { to }));
        }
        let ours = registry.sub_registry_with_prefix("hosting_controller");
        ours.register("open_resources", "Resources on their way, at the last look", metrics.open.clone());
        ours.register("rounds", "Looks at everything that is open", metrics.rounds.clone());
        ours.register_with_unit("round", "Time of one look", Unit::Seconds, metrics.seconds.clone());
        ours.register("gates_opened", "Gates opened", metrics.gates.clone());
        ours.register("statuses_written", "Statuses of resources written", metrics.statuses.clone());
        ours.register(
            "replan_queue",
            "Units that wait to be planned, 10 000 at most, looked at every 2 s",
            metrics.queue.clone(),
        );
        ours.register("node_turns", "Nodes taken out of service and put back", metrics.turns.clone());
        ours.register(
            "gatekeeper_refusals",
            "Changes of the gatekeeper that were refused; the log says why",
            metrics.refused.clone(),
        );
        metrics
    }

    pub(crate) fn round(&self, took: Duration) {
        self.rounds.inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn open(&self, resources: usize) {
        self.open.set(i64::try_from(resources).unwrap_or(i64::MAX));
    }

    pub(crate) fn opened(&self, gates: u64) {
        self.gates.inc_by(gates);
    }

    pub(crate) fn wrote(&self, statuses: u64) {
        self.statuses.inc_by(statuses);
    }

    pub(crate) fn queued(&self, units: u64) {
        self.queue.set(i64::try_from(units).unwrap_or(i64::MAX));
    }

    pub(crate) fn turned(&self, to: Turn) {
        self.turns.get_or_create(&TurnLabel { to }).inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}
