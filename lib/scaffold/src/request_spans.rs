//! Spans of requests that a data plane serves, over OTLP: few of many, and none of them ever waits.
//!
//! They have a queue of their own beside that of [`crate::telemetry`], so that many requests cannot push out what happens to a change.
//! A full queue drops spans.

use std::borrow::Cow;
use std::env;
use std::sync::Arc;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};

use crate::telemetry::{ENDPOINT, TelemetryError};
use crate::trace_context::TraceContext;

/// Where spans of requests begin. A clone sends to the same collector.
#[derive(Debug, Clone)]
pub struct RequestTracer {
    tracer: SdkTracer,
    _provider: Arc<Flush>,
}

/// Sends what is left when the last tracer is dropped.
#[derive(Debug)]
struct Flush(SdkTracerProvider);

impl Drop for Flush {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.0.shutdown();
    }
}

/// Which end of a request a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The process was asked.
    Server,
    /// The process asks.
    Client,
}

impl RequestTracer {
    /// Begins to send, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Call inside the runtime that may carry the exporter.
    ///
    /// # Errors
    /// The endpoint is not understood.
    pub fn connect(service: &'static str) -> Result<Option<Self>, TelemetryError> {
        if env::var_os(ENDPOINT).is_none() {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(service).build())
            // Who begins a span has decided that it is sent.
            .with_sampler(Sampler::AlwaysOn)
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self { tracer: provider.tracer(service), _provider: Arc::new(Flush(provider)) }))
    }

    /// Begins a span of a trace, or of a new one. It ends when it is dropped.
    #[must_use]
    pub fn begin(&self, side: Side, name: Cow<'static, str>, parent: Option<TraceContext>) -> RequestSpan {
        let kind = if side == Side::Server { SpanKind::Server } else { SpanKind::Client };
        let context = parent.map_or_else(Context::new, |parent| {
            let (trace, span) = (TraceId::from(parent.trace), SpanId::from(parent.span));
            Context::new().with_remote_span_context(SpanContext::new(
                trace,
                span,
                TraceFlags::SAMPLED,
                true,
                TraceState::NONE,
            ))
        });
        let builder = self.tracer.span_builder(name).with_kind(kind);
        RequestSpan(self.tracer.build_with_context(builder, &context))
    }
}

/// A span that is sent when it is dropped.
#[derive(Debug)]
pub struct RequestSpan(Span);

impl RequestSpan {
    /// What its children come of.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        let trace = u128::from_be_bytes(context.trace_id().to_bytes());
        TraceContext::new(trace, u64::from_be_bytes(context.span_id().to_bytes()), true)
    }

    /// Says something of it, by the names of OpenTelemetry's semantic conventions.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// It failed, and how.
    pub fn fail(&mut self, kind: impl Into<Value>) {
        self.set("error.type", kind);
        self.0.set_status(Status::error(""));
    }
}
