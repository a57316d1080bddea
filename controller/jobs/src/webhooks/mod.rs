//! Delivers events to webhooks: at least once, for each webhook in the order of revisions, from a place that is stored (ADR 27).
//!
//! One controller delivers, under a lease; each record of what was delivered names it. A receiver has one exchange at a time, so that one
//! which is slow holds itself up and nobody else. Owns no truth: places and outcomes are in the store, so that a controller which
//! takes over goes on from there, and posts what may have been posted once more under the same id.

mod deliverer;
mod post;
mod receiver;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use self::deliverer::Deliverer;
pub use self::receiver::Patience;
use crate::outgoing::CallbackRules;

/// How webhooks are delivered to.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where they may be.
    pub rules: CallbackRules,
    /// How patient deliveries are.
    pub patience: Patience,
    /// A controller that is silent for so long delivers no more.
    pub lease: Duration,
    /// The log, and what people ask for, is looked at this often at least.
    pub poll: Duration,
    /// All of an attempt.
    pub exchange: Duration,
    /// Attempts under way at once.
    pub at_once: usize,
    /// How often what is old is deleted.
    pub tidy: Duration,
    /// Deliveries that are kept of a webhook.
    pub kept_deliveries: u32,
    /// And for so long, in milliseconds.
    pub kept_for: i64,
    /// Events that wait for receivers at most.
    pub kept_events: u32,
    /// And for so long, in milliseconds.
    pub events_kept_for: i64,
}

impl WebhookConfig {
    /// The defaults.
    #[must_use]
    pub fn new(rules: CallbackRules) -> Self {
        Self {
            rules,
            patience: Patience::default(),
            lease: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            exchange: Duration::from_secs(15),
            at_once: 128,
            tidy: Duration::from_secs(60),
            kept_deliveries: 1_000,
            kept_for: 30 * 24 * 3_600_000,
            kept_events: 100_000,
            events_kept_for: 7 * 24 * 3_600_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What is counted, under `hosting_webhooks_`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct WebhookMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    disabled: Counter,
}

impl WebhookMetrics {
    /// Metrics of a deliverer, registered.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let ours = registry.sub_registry_with_prefix("hosting_webhooks");
        ours.register("attempts", "Attempts at deliveries to webhooks, by outcome", metrics.attempts.clone());
        ours.register(
            "disabled",
            "Webhooks that were disabled as they took nothing",
            metrics.disabled.clone(),
        );
        metrics
    }

    fn attempted(&self, outcome: &'static str) {
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
