//! Logs on stderr, traces over OTLP, and the traceparent that ties one change together across processes.
//!
//! Spans get ids even when nothing collects them: the intent log carries their traceparent (W3C Trace Context).

use std::{
    collections::{BTreeSet, HashMap},
    env,
    io::IsTerminal,
};

use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Where traces go.
pub(crate) const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not understood.
    #[error("log filter {filter:?}: {error}; write for example `info` or `info,hosting_edge=debug`")]
    Filter {
        /// As configured.
        filter: String,
        /// Why.
        error: String,
    },
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` cannot be used.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Exporter(String),
    /// Called twice.
    #[error("telemetry is already running in this process")]
    Twice,
}

/// Flushes what is left when it is dropped. Keep it until the process ends.
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: SdkTracerProvider,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.provider.shutdown();
    }
}

/// Starts logs and traces for the process. Call inside the runtime that may carry the exporter.
///
/// `filter` is a `tracing` filter such as `info,hosting_dns=debug`. Traces go out only when `OTEL_EXPORTER_OTLP_ENDPOINT`
/// is set (gRPC).
///
/// # Errors
/// A filter or endpoint that is not understood, or a second call.
pub fn init(
    service: &'static str,
    filter: &str,
    format: LogFormat,
) -> Result<TelemetryGuard, TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), error: error.to_string() })?;
    let resource = Resource::builder().with_service_name(service).build();
    let mut provider = SdkTracerProvider::builder().with_resource(resource);
    if env::var_os(ENDPOINT).is_some() {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        provider = provider.with_batch_exporter(exporter);
    } else {
        provider = provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
    }
    let provider = provider.build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer(service));

    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(lines)
        .with(filter)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(TelemetryGuard { provider })
}

/// The W3C traceparent of the current span; empty outside of any.
#[must_use]
pub fn current_traceparent() -> String {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return String::new();
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// Makes `span` a child of the remote span that `traceparent` names. An empty or malformed one changes nothing.
pub fn set_remote_parent(span: &Span, traceparent: &str) {
    if traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    if context.span().span_context().is_valid() {
        // Fails only on a span that is disabled or already entered: then there is nothing to attach.
        let _ = span.set_parent(context);
    }
}

/// Most spans of one piece of work, however many requests are behind it.
pub const MAX_SPANS: usize = 64;

/// Spans of one piece of work that many requests may be behind: one in each of their traces, at most [`MAX_SPANS`], so that each
/// shows when its change took effect and a whole snapshot costs no more than a few changes. One without a parent when nobody's
/// request is known. Enter the first; all end when they are dropped.
pub fn spans_of<'a>(traceparents: impl IntoIterator<Item = &'a str>, span: impl Fn() -> Span) -> Vec<Span> {
    let first = span();
    if first.is_disabled() {
        return vec![first];
    }
    let mut seen = BTreeSet::new();
    let mut parents = traceparents.into_iter().filter(|parent| !parent.is_empty() && seen.insert(*parent));
    if let Some(parent) = parents.next() {
        set_remote_parent(&first, parent);
    }
    let mut spans = vec![first];
    for parent in parents.take(MAX_SPANS - 1) {
        let span = span();
        set_remote_parent(&span, parent);
        spans.push(span);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_two_hops() {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(current_traceparent(), "");
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let span = tracing::info_span!("apply");
            set_remote_parent(&span, parent);
            let onward = span.in_scope(current_traceparent);
            assert!(onward.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{onward}");
            assert_ne!(onward, parent);
            let odd = tracing::info_span!("apply");
            set_remote_parent(&odd, "garbage");
        });
    }

    #[test]
    fn a_batch_has_a_span_in_each_trace_and_few_in_all() {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let made = std::cell::Cell::new(0);
        let span = || {
            made.set(made.get() + 1);
            tracing::info_span!("apply")
        };
        let parent = |n: usize| format!("00-{:032x}-00000000000000ff-01", n + 1);
        let of = |all: &[String]| -> Vec<String> {
            let spans = spans_of(all.iter().map(String::as_str), span);
            spans.iter().map(|span| span.in_scope(current_traceparent)[3..35].to_owned()).collect()
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let (a, b) = (parent(0), parent(1));
            let none = String::new;
            let traces = of(&[none(), b.clone(), none(), a.clone(), b.clone()]);
            assert_eq!(traces, [&b[3..35], &a[3..35]]);
            assert_eq!(of(&[none(), none()]).len(), 1, "the work has a span, whoever asked for it");
            made.set(0);
            let many: Vec<String> = (0..100_000).map(parent).collect();
            let traces = of(&many);
            assert_eq!((traces.len(), made.get()), (MAX_SPANS, MAX_SPANS));
            assert_eq!(traces[63], many[63][3..35]);
        });
        // Filtered away.
        made.set(0);
        assert!(
            spans_of(["a", "b"], || {
                made.set(made.get() + 1);
                Span::none()
            })[0]
                .is_disabled()
        );
        assert_eq!(made.get(), 1);
    }
}
