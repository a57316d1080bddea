//! What the edge counts. Nothing here takes a lock on a request's way.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hosting_edge_cache::Sizes;
use hosting_intent::message::CrawlerClass;
use hosting_intent_sync::self_check::Health;
use hosting_scaffold::admin::Metrics as Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::live::LiveMetrics;
use crate::memory::MemoryMetrics;

/// Upper bounds in seconds; above the last there is one more bucket.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A histogram of plain counters, because the library's takes a lock at every observation.
#[derive(Debug, Clone, Default)]
pub struct Latency(Arc<LatencyCounters>);

#[derive(Debug, Default)]
struct LatencyCounters {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Latency {
    /// All of it, in microseconds.
    fn micros(&self) -> u64 {
        self.0.micros.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().take_while(|bound| seconds > **bound).count();
        if let Some(counter) = self.0.buckets.get(bucket) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.0.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts: Vec<u64> = self.0.buckets.iter().map(|counter| counter.load(Ordering::Relaxed)).collect();
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let sum = Duration::from_micros(self.0.micros.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassOutcome {
    class: &'static str,
    outcome: &'static str,
}

/// What was done with a crawler's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrawlerOutcome {
    /// It went on.
    Passed,
    /// It was not let in.
    Denied,
    /// It was one too many.
    Limited,
    /// It was asked to show that it is a browser.
    Challenged,
}

/// Crawlers, where policies ask for them.
#[derive(Debug, Clone)]
pub struct CrawlerMetrics {
    /// By class and outcome.
    requests: [[Counter; 4]; 5],
    /// How many crawlers are known.
    pub known: Gauge,
    /// 1: the file of crawlers cannot be used, and those before it are known.
    pub file_refused: Gauge,
}

impl CrawlerMetrics {
    fn new(family: &Family<ClassOutcome, Counter>) -> Self {
        let of = |class, outcome| family.get_or_create(&ClassOutcome { class, outcome }).clone();
        let outcomes =
            |class| ["passed", "denied", "limited", "challenged"].map(|outcome| of(class, outcome));
        Self {
            requests: ["search", "ai", "seo", "monitor", "other"].map(outcomes),
            known: Gauge::default(),
            file_refused: Gauge::default(),
        }
    }

    /// Counts a request.
    pub fn count(&self, class: CrawlerClass, outcome: CrawlerOutcome) {
        let class = match class {
            CrawlerClass::Search => 0,
            CrawlerClass::Ai => 1,
            CrawlerClass::Seo => 2,
            CrawlerClass::Monitor => 3,
            CrawlerClass::Other | CrawlerClass::Unspecified => 4,
        };
        if let Some(counter) = self.requests.get(class).and_then(|all| all.get(outcome as usize)) {
            counter.inc();
        }
    }
}

/// Requests that policies kept from their sites, by what was said to them.
#[derive(Debug, Clone)]
pub struct Rulings {
    /// Not let in.
    pub forbidden: Counter,
    /// The host is at rest.
    pub maintenance: Counter,
    /// Too many requests.
    pub too_many: Counter,
    /// Too large a head, or body.
    pub too_large: Counter,
    /// Led elsewhere.
    pub redirected: Counter,
    /// A crawler that is not let in.
    pub crawler: Counter,
    /// A crawler beyond its budget.
    pub crawler_budget: Counter,
    /// Asked to show that it is a browser.
    pub browser_check: Counter,
    /// The same of what is no visit of a page, and cannot.
    pub browsers_only: Counter,
    /// Showed that it is one.
    pub browser_shown: Counter,
    /// Did not, though it tried.
    pub browser_not_shown: Counter,
    /// Without a name and a password, or with wrong ones.
    pub unauthorized: Counter,
}

/// Passwords that were checked: those that were remembered are not among them.
#[derive(Debug, Clone)]
pub(crate) struct PasswordMetrics {
    pub(crate) right: Counter,
    pub(crate) wrong: Counter,
}

impl Rulings {
    fn new(family: &Family<Outcome, Counter>) -> Self {
        let of = |outcome| family.get_or_create(&Outcome { outcome }).clone();
        Self {
            forbidden: of("forbidden"),
            maintenance: of("maintenance"),
            too_many: of("too_many"),
            too_large: of("too_large"),
            redirected: of("redirected"),
            crawler: of("crawler"),
            crawler_budget: of("crawler_budget"),
            browser_check: of("browser_check"),
            browsers_only: of("browsers_only"),
            browser_shown: of("browser_shown"),
            browser_not_shown: of("browser_not_shown"),
            unauthorized: of("unauthorized"),
        }
    }
}

/// Counts something for as long as it lives, however it ends.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What the cache did with requests, and how much there is.
#[derive(Debug, Clone)]
pub(crate) struct CacheMetrics {
    outcomes: [(&'static str, Counter); 5],
    pub(crate) sizes: CacheSizes,
}

impl CacheMetrics {
    fn new(family: &Family<Outcome, Counter>) -> Self {
        let outcomes = ["hit", "miss", "stale", "revalidated", "bypass"];
        let of = |outcome| (outcome, family.get_or_create(&Outcome { outcome }).clone());
        Self { outcomes: outcomes.map(of), sizes: CacheSizes::default() }
    }

    /// Counts a request by what the access log says of it.
    pub(crate) fn count(&self, outcome: &str) {
        if let Some((_, counter)) = self.outcomes.iter().find(|(known, _)| *known == outcome) {
            counter.inc();
        }
    }
}

type Look = Box<dyn Fn() -> Sizes + Send + Sync>;

/// Asks the cache how much there is when somebody looks.
#[derive(Clone, Default)]
pub(crate) struct CacheSizes(Arc<OnceLock<Look>>);

impl CacheSizes {
    /// From here on this is asked.
    pub(crate) fn show(&self, look: impl Fn() -> Sizes + Send + Sync + 'static) {
        // The first one counts: there is one cache.
        let _ = self.0.set(Box::new(look));
    }

    fn of(&self, field: fn(Sizes) -> u64) -> CacheSize {
        CacheSize { sizes: self.clone(), field, is_counter: false }
    }
}

impl fmt::Debug for CacheSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheSizes")
    }
}

/// One number of it.
#[derive(Debug)]
struct CacheSize {
    sizes: CacheSizes,
    field: fn(Sizes) -> u64,
    is_counter: bool,
}

impl EncodeMetric for CacheSize {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let value = (self.field)(self.sizes.0.get().map(|look| look()).unwrap_or_default());
        if self.is_counter {
            return encoder.encode_counter::<NoLabelSet, _, u64>(&value, None);
        }
        encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        if self.is_counter { MetricType::Counter } else { MetricType::Gauge }
    }
}

/// Every counter; a clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: [Counter; 6],
    /// Time from choosing a node to its response header.
    pub upstream: Latency,
    /// Requests that the policy of their host kept from its site.
    pub rulings: Rulings,
    /// Crawlers.
    pub crawlers: CrawlerMetrics,
    pub(crate) passwords: PasswordMetrics,
    /// When the file of countries was made that is in use, in seconds since the Unix epoch; 0: there is none.
    pub countries_built: Gauge,
    /// Files of countries that could not be used.
    pub countries_refused: Counter,
    /// Requests sent again, to another node or over another connection.
    pub retries: Counter,
    /// Answers over a shared connection that were not those of the request.
    pub foreign_answers: Counter,
    /// Connections of balancers that did not begin with a PROXY protocol header.
    pub proxy_headers_refused: Counter,
    /// Lines of the access log that were not written.
    pub log_lines_dropped: Counter,
    /// Requests that are in no report of traffic.
    pub traffic_lost: Counter,
    /// Nodes taken out of rotation for a while.
    pub ejections: Counter,
    /// Nodes that do not answer the edge's own questions.
    pub nodes_down: Gauge,
    /// Requests that waited for a place at a node.
    pub waited: Counter,
    /// Requests that found none, or whose tenant had its share.
    pub busy: Counter,
    /// Answers that were compressed.
    pub compressed: Counter,
    /// Answers that were not because as many were as may be at once.
    pub not_compressed: Counter,
    /// What the cache did.
    pub(crate) cache: CacheMetrics,
    /// Handshakes done.
    pub handshakes: Counter,
    /// Handshakes for a name that is in no route.
    pub handshakes_unknown: Counter,
    /// Handshakes of certificate authorities that look whether a name is ours.
    pub challenges: Counter,
    /// Handshakes that failed otherwise or took too long.
    pub handshakes_failed: Counter,
    /// Connections that had to be refused by the kernel: no file handles left.
    pub accept_errors: Counter,
    /// Connections that were closed because their network had its share.
    pub over_share: Counter,
    /// Handshakes that were not begun because their network had its share.
    pub handshakes_over_share: Counter,
    /// Memory that clients take.
    pub(crate) memory: MemoryMetrics,
    /// What is open, by what is spoken.
    pub(crate) live: LiveMetrics,
    /// Connections now.
    pub connections: Gauge,
    /// Those of HTTP/3 among them.
    pub http3_connections: Gauge,
    /// Upgraded connections (WebSockets) now.
    pub upgraded: Gauge,
    /// Packets of HTTP/3 for connections of the process before that it had no room for.
    pub take_over_packets_lost: Counter,
    /// Clients of HTTP/3 that had to show that their address is theirs.
    pub http3_retries: Counter,
    /// FQDNs.
    pub routes: Gauge,
    /// Tenants.
    pub tenants: Gauge,
    /// Shards.
    pub pools: Gauge,
    /// Development certificates at hand.
    pub certificates: Gauge,
    /// Certificates that tenants brought.
    pub tenant_certificates: Gauge,
    /// Development certificates signed.
    pub certificates_signed: Counter,
    /// Certificates that tenants brought, opened for a handshake.
    pub certificates_opened: Counter,
    /// Revision of the view in effect.
    pub applied_revision: Gauge,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let requests: Family<Code, Counter> = Family::default();
        let handshakes: Family<Outcome, Counter> = Family::default();
        let rulings: Family<Outcome, Counter> = Family::default();
        let crawlers: Family<ClassOutcome, Counter> = Family::default();
        let compressions: Family<Outcome, Counter> = Family::default();
        let cached: Family<Outcome, Counter> = Family::default();
        let passwords: Family<Outcome, Counter> = Family::default();
        let password = |outcome| passwords.get_or_create(&Outcome { outcome }).clone();
        let compression = |outcome| compressions.get_or_create(&Outcome { outcome }).clone();
        let code = |code| requests.get_or_create(&Code { code }).clone();
        let handshake = |outcome| handshakes.get_or_create(&Outcome { outcome }).clone();
        let metrics = Self {
            // No response: the client left first.
            requests: ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(code),
            upstream: Latency::default(),
            rulings: Rulings::new(&rulings),
            crawlers: CrawlerMetrics::new(&crawlers),
            passwords: PasswordMetrics { right: password("right"), wrong: password("wrong") },
            countries_built: Gauge::default(),
            countries_refused: Counter::default(),
            retries: Counter::default(),
            foreign_answers: Counter::default(),
            proxy_headers_refused: Counter::default(),
            log_lines_dropped: Counter::default(),
            traffic_lost: Counter::default(),
            ejections: Counter::default(),
            nodes_down: Gauge::default(),
            waited: Counter::default(),
            compressed: compression("done"),
            not_compressed: compression("no_room"),
            busy: Counter::default(),
            cache: CacheMetrics::new(&cached),
            handshakes: handshake("done"),
            challenges: handshake("acme_challenge"),
            handshakes_unknown: handshake("unknown_name"),
            handshakes_failed: handshake("failed"),
            accept_errors: Counter::default(),
            over_share: Counter::default(),
            handshakes_over_share: Counter::default(),
            memory: registry.register(MemoryMetrics::register),
            live: registry.register(LiveMetrics::register),
            connections: Gauge::default(),
            http3_connections: Gauge::default(),
            upgraded: Gauge::default(),
            take_over_packets_lost: Counter::default(),
            http3_retries: Counter::default(),
            routes: Gauge::default(),
            tenants: Gauge::default(),
            pools: Gauge::default(),
            certificates: Gauge::default(),
            tenant_certificates: Gauge::default(),
            certificates_signed: Counter::default(),
            certificates_opened: Counter::default(),
            applied_revision: Gauge::default(),
        };
        registry.register(|registry| {
            registry.register("hosting_edge_requests", "Requests by class of the response code", requests);
            registry.register(
                "hosting_edge_policy_rulings",
                "Requests that the policy of their host kept from its site",
                rulings,
            );
            registry.register(
                "hosting_edge_crawler_requests",
                "Requests of known crawlers, for names whose policy asks for them",
                crawlers,
            );
            registry.register(
                "hosting_edge_crawlers_known",
                "Crawlers that are known by their User-Agent",
                metrics.crawlers.known.clone(),
            );
            registry.register(
                "hosting_edge_crawlers_file_refused",
                "1: crawlers_file cannot be used; what was known before it stays",
                metrics.crawlers.file_refused.clone(),
            );
            registry.register(
                "hosting_edge_password_checks",
                "Passwords of basic authentication that were checked, by outcome; those remembered are not counted",
                passwords,
            );
            registry.register(
                "hosting_edge_countries_file_built_timestamp_seconds",
                "When the countries_file in use was made; 0: none is in use, and no address has a known country",
                metrics.countries_built.clone(),
            );
            registry.register(
                "hosting_edge_countries_files_refused",
                "Files put in the place of countries_file that could not be used",
                metrics.countries_refused.clone(),
            );
            registry.register(
                "hosting_edge_upstream_seconds",
                "From choosing a node to its response header",
                metrics.upstream.clone(),
            );
            registry.register(
                "hosting_edge_upstream_retries",
                "Requests sent again",
                metrics.retries.clone(),
            );
            registry.register(
                "hosting_edge_foreign_answers",
                "Answers of nodes that were not those of the request",
                metrics.foreign_answers.clone(),
            );
            registry.register(
                "hosting_edge_proxy_headers_refused",
                "Connections from proxy_protocol_from without a sound PROXY protocol header",
                metrics.proxy_headers_refused.clone(),
            );
            registry.register(
                "hosting_edge_access_log_lines_dropped",
                "Lines of the access log that were not written: the disk is full or slow",
                metrics.log_lines_dropped.clone(),
            );
            registry.register(
                "hosting_edge_traffic_lost",
                "Requests that are in no report of their tenant's traffic: the disk is full, or the controller took none for weeks",
                metrics.traffic_lost.clone(),
            );
            registry.register(
                "hosting_edge_upstream_ejections",
                "Nodes taken out of rotation",
                metrics.ejections.clone(),
            );
            registry.register(
                "hosting_edge_nodes_down",
                "Nodes in service that do not answer",
                metrics.nodes_down.clone(),
            );
            registry.register(
                "hosting_edge_compressions",
                "Answers to be compressed, by outcome",
                compressions,
            );
            registry.register(
                "hosting_edge_requests_waited",
                "Requests that waited for a place at a node",
                metrics.waited.clone(),
            );
            registry.register(
                "hosting_edge_requests_busy",
                "Requests refused because nodes were full, or their tenant had its share",
                metrics.busy.clone(),
            );
            registry.register(
                "hosting_edge_cache_requests",
                "Requests of names with a cache, by what it did",
                cached,
            );
            let sizes = &metrics.cache.sizes;
            registry.register(
                "hosting_edge_cache_bytes",
                "Bytes that the cache holds",
                sizes.of(|sizes| sizes.bytes as u64),
            );
            registry.register(
                "hosting_edge_cache_pages",
                "Pages in the cache",
                sizes.of(|sizes| sizes.pages as u64),
            );
            registry.register(
                "hosting_edge_cache_evictions",
                "Pages that made room for others",
                CacheSize { is_counter: true, ..sizes.of(|sizes| sizes.evictions) },
            );
            registry.register("hosting_edge_handshakes", "TLS handshakes by outcome", handshakes);
            registry.register(
                "hosting_edge_accept_errors",
                "Connections that could not be accepted",
                metrics.accept_errors.clone(),
            );
            registry.register(
                "hosting_edge_connections_over_share",
                "Connections closed because their network had its share",
                metrics.over_share.clone(),
            );
            registry.register(
                "hosting_edge_handshakes_over_share",
                "Connections closed because their network had its share of handshakes",
                metrics.handshakes_over_share.clone(),
            );
            registry.register(
                "hosting_edge_connections",
                "Client connections now",
                metrics.connections.clone(),
            );
            registry.register(
                "hosting_edge_http3_connections",
                "Connections of HTTP/3 among them",
                metrics.http3_connections.clone(),
            );
            registry.register(
                "hosting_edge_upgraded_connections",
                "Upgraded connections (WebSockets) now",
                metrics.upgraded.clone(),
            );
            registry.register(
                "hosting_edge_take_over_packets_lost",
                "Packets of HTTP/3 that the process before had no room for after its sockets were taken over",
                metrics.take_over_packets_lost.clone(),
            );
            registry.register(
                "hosting_edge_http3_retries",
                "Clients of HTTP/3 that had to show that their address is theirs",
                metrics.http3_retries.clone(),
            );
            registry.register("hosting_edge_routes", "FQDNs in the map", metrics.routes.clone());
            registry.register("hosting_edge_tenants", "Tenants in the map", metrics.tenants.clone());
            registry.register("hosting_edge_pools", "Shards in the map", metrics.pools.clone());
            registry.register(
                "hosting_edge_tenant_certificates",
                "Certificates that tenants brought",
                metrics.tenant_certificates.clone(),
            );
            registry.register(
                "hosting_edge_certificates",
                "Development certificates at hand",
                metrics.certificates.clone(),
            );
            registry.register(
                "hosting_edge_certificates_signed",
                "Development certificates signed",
                metrics.certificates_signed.clone(),
            );
            registry.register(
                "hosting_edge_certificates_opened",
                "Tenants' certificates opened for a handshake, as they were not ready",
                metrics.certificates_opened.clone(),
            );
            registry.register(
                "hosting_edge_applied_revision",
                "Revision of the view in effect",
                metrics.applied_revision.clone(),
            );
        });
        metrics
    }

    /// What clients met since the start, for whoever watches how a change goes.
    #[must_use]
    pub fn health(&self) -> Health {
        let requests = self.requests.iter().map(Counter::get).sum();
        let failed_handshakes = self.handshakes_failed.get();
        Health {
            start: 0,
            requests,
            failed: self.requests.last().map_or(0, Counter::get),
            handshakes: self.handshakes.get() + failed_handshakes,
            failed_handshakes,
            busy_us: self.upstream.micros(),
        }
    }

    /// Counts a request that ended with `code`; 0 when no response was sent.
    pub fn request(&self, code: u16) {
        if let Some(counter) = self.requests.get(usize::from(code / 100).min(5)) {
            counter.inc();
        }
    }
}

/// A size as a gauge has it.
pub(crate) fn gauge(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_latencies_come_out_as_counted() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        for code in [200, 204, 404, 599, 0] {
            metrics.request(code);
        }
        for millis in [0, 1, 3, 3, 20_000] {
            metrics.upstream.observe(Duration::from_millis(millis));
        }
        let text = registry.encode();
        for line in [
            r#"hosting_edge_requests_total{code="2xx"} 2"#,
            r#"hosting_edge_requests_total{code="4xx"} 1"#,
            r#"hosting_edge_requests_total{code="5xx"} 1"#,
            r#"hosting_edge_requests_total{code="none"} 1"#,
            r#"hosting_edge_upstream_seconds_bucket{le="0.001"} 2"#,
            r#"hosting_edge_upstream_seconds_bucket{le="0.005"} 4"#,
            r#"hosting_edge_upstream_seconds_bucket{le="10.0"} 4"#,
            r#"hosting_edge_upstream_seconds_bucket{le="+Inf"} 5"#,
            "hosting_edge_upstream_seconds_count 5",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
