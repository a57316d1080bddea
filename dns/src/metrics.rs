//! What the server counts. A packet thread writes counters that are its own; they are added up when somebody looks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hosting_dns_zone::{Answered, Outcome, Zones, rcode, record_type_name};
use hosting_intent_sync::self_check::Health;
use hosting_scaffold::admin::Metrics as Registry;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

/// Transports, as labels.
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];
/// Response codes that are sent.
const CODES: [u16; 8] = [
    rcode::NOERROR,
    rcode::FORMERR,
    rcode::SERVFAIL,
    rcode::NXDOMAIN,
    rcode::NOTIMP,
    rcode::REFUSED,
    rcode::NOTAUTH,
    rcode::BADVERS,
];
/// Types that are counted apart; the last two stand for the others and for packets without a question.
const TYPES: [u16; 16] = [1, 28, 5, 2, 6, 15, 16, 33, 12, 43, 52, 64, 65, 257, 252, 255];
const OTHER_TYPE: usize = TYPES.len();
const NO_TYPE: usize = TYPES.len() + 1;
const TYPE_COUNT: usize = TYPES.len() + 2;
const CELLS: usize = TRANSPORTS.len() * CODES.len() * TYPE_COUNT;

/// How a packet came in, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Over UDP.
    Udp,
    /// Over TCP.
    Tcp,
}

/// What one packet thread (or the TCP side) counts.
#[derive(Debug)]
pub struct Counters {
    answers: [AtomicU64; CELLS],
    dropped: AtomicU64,
    truncated: AtomicU64,
    slipped: AtomicU64,
    limited: AtomicU64,
    send_errors: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            answers: [const { AtomicU64::new(0) }; CELLS],
            dropped: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            slipped: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Answers, and those of them that say that the server failed.
    fn answers(&self) -> (u64, u64) {
        let (mut all, mut failed) = (0, 0);
        for (cell, counter) in self.answers.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            all += count;
            if CODES.get(cell / TYPE_COUNT % CODES.len()) == Some(&rcode::SERVFAIL) {
                failed += count;
            }
        }
        (all, failed)
    }

    /// Counts a packet by what became of it.
    pub fn answered(&self, via: Via, answered: &Answered) {
        if answered.outcome == Outcome::Dropped {
            add(&self.dropped);
            return;
        }
        if answered.truncated {
            add(&self.truncated);
        }
        let transport = match via {
            Via::Udp => 0,
            Via::Tcp => 1,
        };
        let code = CODES.iter().position(|code| *code == answered.rcode).unwrap_or_default();
        let kind = match answered.record_type {
            0 => NO_TYPE,
            number => TYPES.iter().position(|kind| *kind == number).unwrap_or(OTHER_TYPE),
        };
        if let Some(cell) = self.answers.get((transport * CODES.len() + code) * TYPE_COUNT + kind) {
            add(cell);
        }
    }

    /// Counts an answer that went out empty because of the rate limit.
    pub fn slipped(&self) {
        add(&self.slipped);
    }

    /// Counts an answer that did not go out because of the rate limit.
    pub fn limited(&self) {
        add(&self.limited);
    }

    /// Counts an answer that the kernel did not take.
    pub fn send_error(&self) {
        add(&self.send_errors);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, EncodeLabelSet)]
struct AnswerLabels {
    transport: &'static str,
    rcode: &'static str,
    r#type: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

/// Every counter; a clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    /// Connections over TCP now.
    pub tcp_connections: Gauge,
    /// Connections that were closed at once because of a limit.
    pub tcp_refused: Counter,
    /// Revision of the view in effect.
    pub applied_revision: Gauge,
}

impl Metrics {
    /// What clients met since the start, for whoever watches how a change goes. How long answers take is not measured.
    #[must_use]
    pub fn health(&self) -> Health {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failed) = counters
            .iter()
            .map(|counters| counters.answers())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Health { requests, failed, ..Health::default() }
    }

    /// Registers everything; sizes are asked of `zones`.
    #[must_use]
    pub fn new(registry: &Registry, zones: Zones) -> Self {
        let metrics = Self {
            counters: Arc::default(),
            tcp_connections: Gauge::default(),
            tcp_refused: Counter::default(),
            applied_revision: Gauge::default(),
        };
        registry.register(|registry| {
            registry.register(
                "hosting_dns_tcp_connections",
                "Connections over TCP now",
                metrics.tcp_connections.clone(),
            );
            registry.register(
                "hosting_dns_tcp_refused",
                "Connections closed at once because of a limit",
                metrics.tcp_refused.clone(),
            );
            registry.register(
                "hosting_dns_applied_revision",
                "Revision of the view in effect",
                metrics.applied_revision.clone(),
            );
            let sum = Sum { counters: Arc::clone(&metrics.counters), zones };
            registry.register_collector(Box::new(sum));
        });
        metrics
    }

    /// Counters for one more thread.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counters));
        counters
    }
}

/// Adds the threads' counters up.
#[derive(Debug)]
struct Sum {
    counters: Arc<Mutex<Vec<Arc<Counters>>>>,
    zones: Zones,
}

impl Sum {
    fn total(&self, of: impl Fn(&Counters) -> Option<&AtomicU64>) -> u64 {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters
            .iter()
            .filter_map(|counters| of(counters))
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }
}

impl Collector for Sum {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "hosting_dns_queries",
            "Queries by transport, response code and type",
            None,
            MetricType::Counter,
        )?;
        for (t, transport) in TRANSPORTS.into_iter().enumerate() {
            for (c, code) in CODES.into_iter().enumerate() {
                for kind in 0..TYPE_COUNT {
                    let count = self
                        .total(|counters| counters.answers.get((t * CODES.len() + c) * TYPE_COUNT + kind));
                    // Most of the combinations never occur.
                    if count > 0 {
                        let name = match TYPES.get(kind) {
                            Some(number) => record_type_name(*number).unwrap_or("other"),
                            None if kind == NO_TYPE => "none",
                            None => "other",
                        };
                        let labels = AnswerLabels { transport, rcode: rcode::name(code), r#type: name };
                        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "hosting_dns_rate_limited",
            "Answers over UDP beyond the rate limit",
            None,
            MetricType::Counter,
        )?;
        let (slipped, limited) = (self.total(|c| Some(&c.slipped)), self.total(|c| Some(&c.limited)));
        for (action, count) in [("slip", slipped), ("drop", limited)] {
            ConstCounter::new(count).encode(family.encode_family(&ActionLabel { action })?)?;
        }
        for (name, help, count) in [
            ("hosting_dns_dropped", "Packets that were no query", self.total(|c| Some(&c.dropped))),
            (
                "hosting_dns_truncated",
                "Answers that did not fit into UDP",
                self.total(|c| Some(&c.truncated)),
            ),
            (
                "hosting_dns_send_errors",
                "Answers that the kernel did not take",
                self.total(|c| Some(&c.send_errors)),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        let counts = self.zones.counts();
        for (name, help, size) in [
            ("hosting_dns_zones", "Zones that are answered for", counts.zones),
            ("hosting_dns_rrsets", "RRsets known, without SOA and apex NS", counts.rrsets),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(size).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hosting_dns_zone::Writer;

    use super::*;

    #[test]
    fn threads_are_added_up() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Writer::new().zones());
        let (one, two) = (metrics.counters(), metrics.counters());
        let answered = |rcode, record_type, outcome| Answered {
            len: 12,
            rcode,
            record_type,
            outcome,
            truncated: false,
            subject: 0,
        };
        one.answered(Via::Udp, &answered(0, 1, Outcome::Answer));
        two.answered(Via::Udp, &answered(0, 1, Outcome::Answer));
        two.answered(Via::Tcp, &answered(16, 999, Outcome::Error));
        two.answered(Via::Udp, &answered(1, 0, Outcome::Error));
        one.answered(Via::Udp, &answered(0, 0, Outcome::Dropped));
        one.slipped();
        metrics.applied_revision.set(7);
        let text = registry.encode();
        for line in [
            r#"hosting_dns_queries_total{transport="udp",rcode="NOERROR",type="A"} 2"#,
            r#"hosting_dns_queries_total{transport="tcp",rcode="BADVERS",type="other"} 1"#,
            r#"hosting_dns_queries_total{transport="udp",rcode="FORMERR",type="none"} 1"#,
            r#"hosting_dns_rate_limited_total{action="slip"} 1"#,
            "hosting_dns_dropped_total 1",
            "hosting_dns_zones 0",
            "hosting_dns_applied_revision 7",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(TYPES.iter().all(|number| record_type_name(*number).is_some()));
    }
}
