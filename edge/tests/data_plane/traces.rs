//! Where requests stand in traces, as a collector and a node see it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::load::browser;
use crate::processes::{HOST, Site};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector of spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|all| all.scope_spans);
        // What happens to the edge's own changes is traced too.
        let spans = spans.flat_map(|scope| scope.spans).filter(|span| span.kind() != SpanKind::Internal);
        self.0.lock().unwrap().extend(spans);
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

    /// Takes so many spans when they have come; those of servers first.
    async fn take(&self, count: usize) -> Vec<Span> {
        let limit = Instant::now() + Duration::from_secs(15);
        while self.0.lock().unwrap().len() < count {
            assert!(Instant::now() < limit, "{:#?}", self.0.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut spans = std::mem::take(&mut *self.0.lock().unwrap());
        spans.sort_by_key(|span| span.kind);
        spans
    }
}

fn said(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a field that the node saw.
fn seen<'a>(answer: &'a str, field: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
}

fn client(
    site: &Site,
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(site.ca().as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().resolve(HOST, site.https);
    with(builder).build().unwrap()
}

fn url(site: &Site, path: &str) -> String {
    format!("https://{HOST}:{}{path}", site.https.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_clients_trace_goes_on_to_the_node_and_to_the_collector_in_every_version() {
    let (collector, address) = Collector::start().await;
    let site = Site::new().await;
    let _edge = site
        .start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &address),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("HOSTING_EDGE_TRACE_CONTEXT_FROM", "[\"127.0.0.1/32\"]"),
        ])
        .await;
    let http1 = client(&site, reqwest::ClientBuilder::http1_only);
    let http2 = client(&site, |builder| builder);
    for version in ["1.1", "2", "3"] {
        let answer = if version == "3" {
            let mut browser = browser(&site).await;
            let request = http::Request::get(url(&site, "/x?token=secret"))
                .header("traceparent", PARENT)
                .header("tracestate", "a=1");
            String::from_utf8(browser.ask(request.body(()).unwrap(), b"").await.body).unwrap()
        } else {
            let client = if version == "2" { &http2 } else { &http1 };
            let request = client.get(url(&site, "/x?token=secret"));
            let request = request.header("traceparent", PARENT).header("tracestate", "a=1");
            request.send().await.unwrap().text().await.unwrap()
        };
        let spans = collector.take(2).await;
        let [server, node] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!((server.kind(), node.kind()), (SpanKind::Server, SpanKind::Client));
        assert_eq!(
            (hex(&server.trace_id), hex(&server.parent_span_id)),
            (TRACE.into(), PARENT[36..52].into())
        );
        assert_eq!((hex(&node.trace_id), hex(&node.parent_span_id)), (TRACE.into(), hex(&server.span_id)));
        let parent = format!("00-{TRACE}-{}-01", hex(&node.span_id));
        assert_eq!(seen(&answer, "traceparent"), Some(&*parent), "{answer}");
        assert_eq!(seen(&answer, "tracestate"), Some("a=1"), "{answer}");
        assert_eq!(answer.matches("traceparent").count(), 1, "{answer}");
        for (name, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/x"),
            ("url.scheme", "https"),
            ("http.response.status_code", "200"),
            ("server.address", HOST),
            ("network.protocol.version", version),
            ("client.address", "127.0.0.1"),
            ("hosting.tenant", "t_a"),
            ("hosting.webroot", "web_ab12cd34ef"),
        ] {
            assert_eq!(said(server, name), value, "{name}");
        }
        assert_eq!(
            (said(node, "http.response.status_code"), said(node, "server.address")),
            ("200".into(), "127.0.0.1".into())
        );
        assert!(server.start_time_unix_nano <= node.start_time_unix_nano);
        assert!(server.end_time_unix_nano >= node.end_time_unix_nano);
    }
    // One that its client does not record is passed on, and so is one of the edge's own; what is not sound is not there.
    let ask = async |parent: &str| {
        let request = http1.get(url(&site, "/x")).header("traceparent", parent).header("tracestate", "a=1");
        let answer = request.send().await.unwrap().text().await.unwrap();
        (seen(&answer, "traceparent").unwrap().to_owned(), seen(&answer, "tracestate").map(str::to_owned))
    };
    let (passed, state) = ask(&PARENT.replace("-01", "-00")).await;
    assert_eq!((&passed[3..35], &passed[52..], state.as_deref()), (TRACE, "-00", Some("a=1")));
    assert_ne!(passed[36..52], PARENT[36..52]);
    let (own, state) = ask(&PARENT.to_uppercase()).await;
    assert!(own[3..35] != *TRACE && own.ends_with("-02") && state.is_none(), "{own} {state:?}");
    // What fails says how.
    let answer = http1
        .get(url(&site, "/x"))
        .header("host", "no.example")
        .header("traceparent", PARENT)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 421);
    let spans = collector.take(1).await;
    assert_eq!((spans.len(), said(&spans[0], "hosting.reason")), (1, "misdirected".into()));
    let log = std::fs::read_to_string(site.data_dir().join("access.log")).unwrap_or_default();
    let traced = log.lines().filter(|line| line.contains(&format!("\"trace_id\":\"{TRACE}\""))).count();
    assert!(traced >= 3, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_neither_join_a_trace_nor_decide_that_one_is_recorded() {
    let (collector, address) = Collector::start().await;
    let (all, none, off) = (Site::new().await, Site::new().await, Site::new().await);
    let export = [("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let cut = ("HOSTING_EDGE_ACCESS_LOG_ADDRESSES", "network");
    let _all = all.start(&[&export[..], &[("HOSTING_EDGE_TRACE_RATIO", "1"), cut]].concat()).await;
    // Somebody else is trusted.
    let trusted = ("HOSTING_EDGE_TRACE_CONTEXT_FROM", "[\"192.0.2.0/24\"]");
    let _none = none.start(&[&export[..], &[trusted]].concat()).await;
    let _off = off.start(&export).await;
    let ask = async |site: &Site| {
        let request = client(site, reqwest::ClientBuilder::http1_only).get(url(site, "/x"));
        let request = request.header("traceparent", PARENT).header("tracestate", "a=1");
        request.send().await.unwrap().text().await.unwrap()
    };
    let answer = ask(&all).await;
    let spans = collector.take(2).await;
    let parent = seen(&answer, "traceparent").unwrap();
    assert_eq!(hex(&spans[0].trace_id), parent[3..35]);
    assert_eq!(said(&spans[0], "client.address"), "127.0.0.0", "as the access log has it");
    assert!(spans[0].parent_span_id.is_empty() && parent[3..35] != *TRACE && parent.ends_with("-03"));
    assert_eq!((seen(&answer, "tracestate"), answer.matches("traceparent").count()), (None, 1), "{answer}");
    let answer = ask(&none).await;
    let parent = seen(&answer, "traceparent").unwrap();
    assert!(parent[3..35] != *TRACE && parent.ends_with("-02"), "{answer}");
    assert_eq!(seen(&answer, "tracestate"), None, "{answer}");
    // Without tracing they are the site's own business.
    let answer = ask(&off).await;
    assert_eq!((seen(&answer, "traceparent"), seen(&answer, "tracestate")), (Some(PARENT), Some("a=1")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(collector.0.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_no_request_anything() {
    // It accepts, and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let site = Site::new().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
        ("HOSTING_EDGE_TRACE_RATIO", "1"),
    ];
    let edge = site.start(&settings).await;
    let client = client(&site, reqwest::ClientBuilder::http1_only);
    for _ in 0..300 {
        assert!(client.get(url(&site, "/x")).send().await.unwrap().status().is_success());
    }
    drop(edge);
}
