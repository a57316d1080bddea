//! One trace from the REST call to the applied change on every subscriber, as a collector receives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value as Attribute,
    trace::v1::Span,
};
use serde_json::{Value, json};
use tonic::transport::{Server, server::TcpIncoming};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(20);
/// The client's own span, in all of its traces.
const CLIENT: u64 = 0x00f0_67aa_0ba9_02b7;

/// A span, and the service that it came from.
type Sent = (String, Span);

/// A collector: spans by trace.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<BTreeMap<String, Vec<Sent>>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut traces = self.0.lock().unwrap();
        for from in request.into_inner().resource_spans {
            let named = from.resource.iter().flat_map(|resource| &resource.attributes);
            let name = named.filter(|attribute| attribute.key == "service.name");
            let service = name
                .filter_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
                    Attribute::StringValue(name) => Some(name.clone()),
                    _ => None,
                })
                .next()
                .unwrap_or_default();
            for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                traces.entry(hex(&span.trace_id)).or_default().push((service.clone(), span));
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, address)
    }

    fn spans(&self, trace: u128) -> Vec<Sent> {
        self.0.lock().unwrap().get(&format!("{trace:032x}")).cloned().unwrap_or_default()
    }

    /// Waits for spans, written `service/name`, and proves that every span of the trace comes from the client's.
    async fn traced(&self, trace: u128, wanted: &[&str]) {
        let mut seen = BTreeSet::new();
        let mut loose = Vec::new();
        let complete = async || {
            let spans = self.spans(trace);
            seen = spans.iter().map(|(service, span)| format!("{service}/{}", span.name)).collect();
            let mut ids: BTreeSet<String> = spans.iter().map(|(_, span)| hex(&span.span_id)).collect();
            ids.insert(format!("{CLIENT:016x}"));
            // A parent may arrive after its child.
            loose = spans
                .iter()
                .filter(|(_, span)| !ids.contains(&hex(&span.parent_span_id)))
                .map(|(service, span)| format!("{service}/{}", span.name))
                .collect();
            (wanted.iter().all(|span| seen.contains(*span)) && loose.is_empty()).then_some(())
        };
        if tokio::time::timeout(LIMIT, eventually("spans", LIMIT * 2, complete)).await.is_err() {
            panic!("wanted {wanted:?}, seen {seen:?}, without a parent {loose:?}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request as a traced client makes it: status, the answer's traceparent, body.
async fn call(
    platform: &Platform,
    method: &str,
    path: &str,
    traceparent: &str,
    body: Option<Value>,
) -> (u16, String, Value) {
    let url = format!("{}/api/v1{path}", platform.summary["api"].as_str().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client
        .request(method.parse().unwrap(), url)
        .bearer_auth(platform.admin_key())
        .header("traceparent", traceparent)
        .timeout(Duration::from_secs(60));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let code = answer.status().as_u16();
    let own = answer.headers()["traceparent"].to_str().unwrap().to_owned();
    (code, own, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
}

fn sampled(trace: u128) -> String {
    format!("00-{trace:032x}-{CLIENT:016x}-01")
}

#[tokio::test]
async fn one_trace_from_the_request_to_every_subscriber() {
    if machine_lacks_daemons("one_trace_from_the_request_to_every_subscriber") {
        return;
    }
    let (collector, address) = Collector::start().await;
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", address), ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned())];
    let platform = Platform::start_with(&[], &env).await;
    let (tenant, webroot) = platform.site("acme-1001").await;

    // A name of a site that is there: route at once, records when the route is.
    const NAME: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_0001;
    let body = json!({"fqdn": "traced.acme-hosting.test", "webroot_id": webroot});
    let fqdns = format!("/tenants/{tenant}/fqdns?wait=ready");
    let (code, own, made) = call(&platform, "POST", &fqdns, &sampled(NAME), Some(body)).await;
    assert_eq!(code, 200, "{made}");
    assert_eq!((&own[..36], &own[52..]), (&sampled(NAME)[..36], "-01"));
    let everywhere = [
        "hosting-controller/request",
        "hosting-edge/edge.apply",
        "hosting-controller/gates.open",
        "hosting-dns/dns.apply",
        "hosting-controller/status.write",
    ];
    collector.traced(NAME, &everywhere).await;
    let spans = collector.spans(NAME);
    let request = spans.iter().find(|(_, span)| span.name == "request").unwrap();
    assert_eq!(hex(&request.1.parent_span_id), format!("{CLIENT:016x}"));
    // The records waited for the gate: they come of its opening, and that of the request.
    let gate = spans.iter().find(|(_, span)| span.name == "gates.open").unwrap();
    assert_eq!(gate.1.parent_span_id, request.1.span_id);
    assert!(spans.iter().any(|(_, span)| span.name == "dns.apply" && span.parent_span_id == gate.1.span_id));
    assert!(
        spans.iter().any(|(_, span)| span.name == "edge.apply" && span.parent_span_id == request.1.span_id)
    );

    // A site and a name of it that waits for it: each in the trace of its own request.
    const SITE: u128 = NAME + 1;
    const WAITING: u128 = NAME + 2;
    let like = platform.get(&format!("/webroots/{webroot}")).await;
    let body = json!({
        "subscription_id": like["subscription_id"], "runtime": like["runtime"],
        "runtime_version": like["runtime_version"],
    });
    let path = format!("/tenants/{tenant}/webroots");
    let (code, _, site) = call(&platform, "POST", &path, &sampled(SITE), Some(body)).await;
    assert_eq!(code, 202, "{site}");
    let body = json!({"fqdn": "waits.acme-hosting.test", "webroot_id": site["id"]});
    let (code, _, waited) = call(&platform, "POST", &fqdns, &sampled(WAITING), Some(body)).await;
    assert_eq!(code, 200, "{waited}");
    collector.traced(WAITING, &everywhere).await;
    let site_spans = ["hosting-nodeagent/nodeagent.publish", "hosting-nodeagent/nodeagent.pass"];
    collector.traced(SITE, &site_spans).await;
    collector.traced(SITE, &["hosting-controller/gates.open"]).await;

    // And out again.
    const GONE: u128 = NAME + 3;
    let path = format!("/fqdns/{}?wait=ready", made["id"].as_str().unwrap());
    let (code, _, gone) = call(&platform, "DELETE", &path, &sampled(GONE), None).await;
    assert_eq!(code, 200, "{gone}");
    let out = ["hosting-edge/edge.apply", "hosting-dns/dns.apply", "hosting-controller/deletion.finish"];
    collector.traced(GONE, &out).await;

    // What is no traceparent is nobody's: the change is in a trace of the platform's own, and nothing of the header is kept.
    let hostile = "00-4bf92f3577b34da6a3ce929d0e0effff-00f067aa0ba902b7-01,injected=1".repeat(20);
    let body = json!({"fqdn": "hostile.acme-hosting.test", "webroot_id": webroot});
    let (code, own, answer) = call(&platform, "POST", &fqdns, &hostile, Some(body)).await;
    assert_eq!((code, own.len()), (200, 55), "{answer}");
    assert!(!answer.to_string().contains("injected") && !own.contains("4bf92f3577b34da6a3ce929d0e0effff"));

    // Two sites' gates at least, three names', and everything settled.
    let count = async |name: &str| platform.metric("controller", name, &[]).await;
    assert!(count("hosting_controller_gates_opened_total").await >= 5.0);
    assert!(count("hosting_controller_statuses_written_total").await >= 5.0);
    assert!(count("hosting_controller_round_seconds_count").await >= 5.0);
    eventually("nothing is open", LIMIT, async || {
        (count("hosting_controller_open_resources").await == 0.0).then_some(())
    })
    .await;
}
