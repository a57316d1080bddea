//! The two text formats of metrics: OpenMetrics 1.0, and the older Prometheus text 0.0.4 for those who ask for plain text.

use std::collections::BTreeMap;
use std::fmt::Write;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What `accept` prefers of the two, OpenMetrics when it has no preference, and its media type.
pub(crate) fn negotiate(accept: &str, open_metrics: &str) -> (&'static str, String) {
    if quality(accept, "text", "plain") > quality(accept, "application", "openmetrics-text") {
        (PLAIN, plain(open_metrics))
    } else {
        (OPEN_METRICS, open_metrics.to_owned())
    }
}

/// The quality of a media type in thousandths (RFC 9110 §12.5.1): that of the most specific range that covers it.
fn quality(accept: &str, kind: &str, subtype: &str) -> u32 {
    let mut best = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let specific = match name.split_once('/') {
            Some((k, s)) if k == kind && s == subtype => 3,
            Some((k, "*")) if k == kind => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let weight = parts
            .filter_map(|part| part.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or(Some(1.0), |(_, q)| q.trim().parse::<f32>().ok())
            .filter(|q| (0.0..=1.0).contains(q))
            .unwrap_or_default();
        // Between 0 and 1000.
        let weight = (weight * 1000.0) as u32;
        best = best.max((specific, weight));
    }
    best.1
}

/// OpenMetrics as text 0.0.4: there a counter's family is named as its sample is, and there are neither units nor an end mark.
fn plain(open_metrics: &str) -> String {
    let types: BTreeMap<&str, &str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let family = |name: &str| match types.get(name) {
        Some(&"counter") => format!("{name}_total"),
        Some(&"info") => format!("{name}_info"),
        Some(_) | None => name.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        // Writing to a String does not fail.
        let written = if let Some((name, help)) =
            line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            writeln!(text, "# HELP {} {help}", family(name))
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let kind = match kind {
                "info" | "stateset" => "gauge",
                "gaugehistogram" => "histogram",
                "unknown" => "untyped",
                other => other,
            };
            writeln!(text, "# TYPE {} {kind}", family(name))
        } else if line.starts_with('#') {
            Ok(())
        } else {
            writeln!(text, "{line}")
        };
        let _ = written;
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn the_format_follows_what_is_accepted() {
        for (accept, wanted) in [
            ("", OPEN_METRICS),
            ("*/*", OPEN_METRICS),
            ("text/plain", PLAIN),
            ("text/*", PLAIN),
            ("text/plain;version=0.0.4;q=0.3, */*;q=0.2", PLAIN),
            (
                "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OPEN_METRICS,
            ),
            ("application/openmetrics-text;q=0, */*", PLAIN),
            ("TEXT/PLAIN; Q=1, application/openmetrics-text; q=0.9", PLAIN),
            ("text/html", OPEN_METRICS),
        ] {
            assert_eq!(negotiate(accept, "# EOF\n").0, wanted, "{accept}");
        }
    }

    #[test]
    fn plain_text_has_the_names_of_its_samples() {
        let mut registry = Registry::default();
        let (requests, open, took) =
            (Counter::<u64>::default(), Gauge::<i64>::default(), Histogram::new([0.5]));
        registry.register("requests", "Requests", requests.clone());
        registry.register("open", "Open", open.clone());
        registry.register_with_unit("took", "Time", Unit::Seconds, took.clone());
        requests.inc();
        took.observe(0.1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("# TYPE requests counter") && text.ends_with("# EOF\n"), "{text}");
        let plain = plain(&text);
        for line in [
            "# HELP requests_total Requests",
            "# TYPE requests_total counter",
            "requests_total 1",
            "# TYPE open gauge",
            "open 0",
            "# TYPE took_seconds histogram",
            "took_seconds_bucket{le=\"0.5\"} 1",
        ] {
            assert!(plain.lines().any(|found| found.starts_with(line)), "{line} is not in\n{plain}");
        }
        assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"), "{plain}");
    }
}
