//! Web pages of other origins that may use the API: CORS (Fetch §3.2), by exact origins.

use std::str::FromStr;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, header};
use axum::response::IntoResponse;
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it may do, in seconds.
const MAX_AGE: u64 = 3_600;

/// An origin as browsers send it: scheme, host, and the port where it is not the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be http:// or https://, a host in lower case and its port if it is another than 80 or 443, and no path, e.g. https://panel.example"
)]
pub struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let uri: http::Uri = text.parse().map_err(|_| OriginError)?;
        let parts = (uri.scheme_str(), uri.authority());
        let (Some(scheme @ ("http" | "https")), Some(authority)) = parts else { return Err(OriginError) };
        let own = if scheme == "http" { 80 } else { 443 };
        let port = authority.port_u16().filter(|port| *port != own);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        // What a browser would send: nothing else is ever equal to it.
        if format!("{scheme}://{}{port}", authority.host().to_ascii_lowercase()) != text {
            return Err(OriginError);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| OriginError)
    }
}

/// The router for web pages of these origins too; with none it stays as it is.
pub(crate) fn open_to(router: Router, origins: &[Origin]) -> Router {
    if origins.is_empty() {
        return router;
    }
    let named = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    };
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().map(|origin| origin.0.clone())))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(
            [
                vec![header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH, header::IF_NONE_MATCH],
                named(&[
                    "x-api-key",
                    "idempotency-key",
                    "x-callback-url",
                    "x-request-id",
                    "traceparent",
                    "last-event-id",
                ]),
            ]
            .concat(),
        )
        .expose_headers(
            [
                vec![header::ETAG, header::LOCATION, header::RETRY_AFTER],
                named(&[
                    "ratelimit",
                    "ratelimit-policy",
                    "x-request-id",
                    "x-revision",
                    "idempotency-replayed",
                    "traceparent",
                ]),
            ]
            .concat(),
        )
        .max_age(std::time::Duration::from_secs(MAX_AGE));
    let with = router.clone().layer(layer);
    // An OPTIONS that is no preflight asks for the methods of a path, which the layer does not know.
    Router::new().fallback_service(tower::service_fn(move |request: Request<Body>| {
        let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_plain = request.method() == Method::OPTIONS && !is_preflight;
        let router = if is_plain { router.clone() } else { with.clone() };
        async move { router.oneshot(request).await.map(IntoResponse::into_response) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for good in ["https://panel.example", "http://localhost:3000", "https://[2001:db8::1]:8443"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "panel.example",
            "https://panel.example/",
            "https://panel.example/x",
            "ftp://panel.example",
            "https://Panel.example",
            "https://panel.example:443",
            "https://*.example",
            "https://user@panel.example",
            "https://",
        ] {
            assert!(bad.parse::<Origin>().is_err() || bad == "https://*.example", "{bad}");
        }
    }
}
