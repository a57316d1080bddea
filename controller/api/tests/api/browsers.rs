//! Web pages of other origins, and compressed answers.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use hosting_api::ApiConfig;
use serde_json::json;
use tower::ServiceExt;

use crate::harness::TestApi;

/// What is answered as it goes over the wire.
async fn raw(
    test: &TestApi,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, HeaderMap, usize) {
    let mut request = Request::builder().method(method).uri(path).header("x-api-key", &test.admin);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        test.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let length = axum::body::to_bytes(body, usize::MAX).await.unwrap().len();
    (parts.status, parts.headers, length)
}

#[tokio::test]
async fn pages_of_the_operators_origins_and_no_others_may_use_the_api() {
    let origins = vec!["https://panel.example".parse().unwrap(), "http://localhost:3000".parse().unwrap()];
    let test = TestApi::behaving(ApiConfig { origins, ..ApiConfig::default() }).await;
    let preflight = async |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "PATCH")];
        raw(&test, Method::OPTIONS, "/api/v1/regions", &headers, "").await.1
    };
    for origin in ["https://panel.example", "http://localhost:3000"] {
        let allowed = preflight(origin).await;
        assert_eq!(allowed["access-control-allow-origin"], origin);
        assert!(allowed["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
        assert!(allowed["access-control-allow-headers"].to_str().unwrap().contains("idempotency-key"));
        assert!(allowed.get("access-control-allow-credentials").is_none());
        let (status, headers, _) =
            raw(&test, Method::GET, "/api/v1/regions", &[("origin", origin)], "").await;
        assert_eq!(
            (status.as_u16(), &headers["access-control-allow-origin"]),
            (200, &origin.parse().unwrap())
        );
        assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("ratelimit"));
        let (status, headers, _) =
            raw(&test, Method::GET, "/api/v1/regions/none", &[("origin", origin)], "").await;
        assert_eq!(
            (status.as_u16(), &headers["access-control-allow-origin"]),
            (404, &origin.parse().unwrap())
        );
    }
    for origin in
        ["https://panel.example.evil.test", "http://panel.example", "null", "https://panel.example:444"]
    {
        assert!(preflight(origin).await.get("access-control-allow-origin").is_none(), "{origin}");
        let (_, headers, _) = raw(&test, Method::GET, "/api/v1/regions", &[("origin", origin)], "").await;
        assert!(headers.get("access-control-allow-origin").is_none(), "{origin}");
    }
    // What asks for the methods of a path still gets them.
    let (status, headers, _) = raw(&test, Method::OPTIONS, "/api/v1/regions", &[], "").await;
    assert_eq!((status.as_u16(), headers["allow"].to_str().unwrap()), (204, "GET, HEAD, OPTIONS, POST"));

    let closed = TestApi::empty().await;
    let headers = [("origin", "https://panel.example"), ("access-control-request-method", "GET")];
    let (_, headers, _) = raw(&closed, Method::OPTIONS, "/api/v1/regions", &headers, "").await;
    assert!(headers.get("access-control-allow-origin").is_none(), "none unless it is set");
}

#[tokio::test]
async fn reads_and_documents_are_compressed_and_what_is_shown_once_is_not() {
    let test = TestApi::empty().await;
    for n in 0..40 {
        test.post("/regions", json!({"name": format!("region-{n}")})).await.ok(201);
    }
    let (_, plain, whole) = raw(&test, Method::GET, "/api/v1/regions", &[], "").await;
    assert!(plain.get("content-encoding").is_none());
    for coding in ["gzip", "br", "zstd"] {
        for path in ["/api/v1/regions", "/docs/openapi.json", "/docs"] {
            let (status, headers, length) =
                raw(&test, Method::GET, path, &[("accept-encoding", coding)], "").await;
            assert_eq!(
                (status.as_u16(), &headers["content-encoding"]),
                (200, &coding.parse().unwrap()),
                "{path}"
            );
            assert!(headers["vary"].to_str().unwrap().contains("accept-encoding"), "{path}");
            assert!(path != "/api/v1/regions" || length < whole / 3, "{path}: {length} of {whole}");
        }
    }
    // A key with a name that is long enough to be worth it.
    let brands: Vec<String> = (0..100).map(|n| format!("brand-{n}")).collect();
    let body = json!({"name": "k", "scopes": ["*:read"], "brands": brands}).to_string();
    let (status, headers, length) =
        raw(&test, Method::POST, "/api/v1/api-keys", &[("accept-encoding", "gzip")], &body).await;
    assert!(status.as_u16() == 201 && length > 1_024, "{status} {length}");
    assert!(headers.get("content-encoding").is_none(), "a new key is shown as it is");
    let (_, headers, _) = raw(&test, Method::GET, "/healthz", &[("accept-encoding", "gzip")], "").await;
    assert!(headers.get("content-encoding").is_none(), "small answers stay as they are");
}
