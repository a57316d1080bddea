//! The pages that the edge answers with itself. Small, the same for every host, and without a word of what is behind it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, StatusCode};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The host is none.
    BadHost,
    /// The request is none.
    BadRequest,
    /// No such host.
    Unknown,
    /// A host without a site.
    Unbound,
    /// A suspended tenant. Which it is, and why, is nobody's business.
    Suspended,
    /// No node in service.
    NoNode,
    /// Nodes, but none took the request.
    BadGateway,
    /// A node that does not answer.
    GatewayTimeout,
    /// A client that does not finish its request.
    RequestTimeout,
    /// Our fault.
    Internal,
}

impl Page {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad_host", "The request names no valid host."),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "The request is not valid HTTP."),
            Self::Unknown => (StatusCode::NOT_FOUND, "unknown_host", "There is no site at this address."),
            Self::Unbound => (StatusCode::NOT_FOUND, "no_site", "There is no site at this address yet."),
            Self::Suspended => {
                (StatusCode::SERVICE_UNAVAILABLE, "suspended", "This site is not available at the moment.")
            }
            Self::NoNode => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "This site cannot be reached right now. Please try again soon.",
            ),
            Self::BadGateway => {
                (StatusCode::BAD_GATEWAY, "bad_gateway", "This site did not answer. Please try again soon.")
            }
            Self::GatewayTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", "This site took too long to answer.")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request did not arrive in time.")
            }
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong. Please try again soon.",
            ),
        }
    }

    /// When it is worth to come back.
    fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Suspended => Some(Duration::from_secs(3_600)),
            Self::NoNode => Some(Duration::from_secs(10)),
            Self::BadHost
            | Self::BadRequest
            | Self::Unknown
            | Self::Unbound
            | Self::BadGateway
            | Self::GatewayTimeout
            | Self::RequestTimeout
            | Self::Internal => None,
        }
    }

    pub(crate) fn code(self) -> u16 {
        self.parts().0.as_u16()
    }

    fn html(self) -> String {
        let (status, _, text) = self.parts();
        let title = status.canonical_reason().unwrap_or_default();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32em;padding:0 1em;\
             color:#333;background:#fff}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#111}}}}</style></head>\
             <body><h1>{title}</h1><p>{text}</p></body></html>\n"
        )
    }

    fn json(self) -> String {
        let (status, code, text) = self.parts();
        // Every part is a constant without a character that JSON would have to escape.
        format!("{{\"error\":\"{code}\",\"status\":{},\"message\":\"{text}\"}}\n", status.as_u16())
    }

    /// Sends the page. The connection goes on unless the request has a body that nobody will read.
    pub(crate) async fn send(self, session: &mut Session) -> Result<()> {
        let request = session.req_header();
        let head = request.method == Method::HEAD;
        let (kind, body) = if wants_json(request.headers.get(ACCEPT).map(http::HeaderValue::as_bytes)) {
            ("application/json", self.json())
        } else {
            ("text/html; charset=utf-8", self.html())
        };
        let mut header = ResponseHeader::build(self.parts().0, Some(6))?;
        header.insert_header(CONTENT_TYPE, kind)?;
        header.insert_header(CONTENT_LENGTH, body.len())?;
        header.insert_header(CACHE_CONTROL, "no-store")?;
        header.insert_header("x-content-type-options", "nosniff")?;
        if let Some(after) = self.retry_after() {
            header.insert_header(RETRY_AFTER, after.as_secs())?;
        }
        if !session.as_downstream_mut().is_body_empty() {
            session.set_keepalive(None);
        }
        session.write_response_header(Box::new(header), head).await?;
        if !head {
            session.write_response_body(Some(Bytes::from(body)), true).await?;
        }
        Ok(())
    }
}

/// JSON only for those who ask for it and not for HTML before it: browsers name HTML first, tools name nothing or JSON.
fn wants_json(accept: Option<&[u8]>) -> bool {
    let Some(accept) = accept else { return false };
    let json = memchr::memmem::find(accept, b"application/json");
    let html = memchr::memmem::find(accept, b"text/html");
    json.is_some_and(|json| html.is_none_or(|html| json < html))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_those_who_ask() {
        assert!(wants_json(Some(b"application/json")));
        assert!(wants_json(Some(b"application/json, text/html;q=0.5")));
        assert!(!wants_json(Some(b"text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8")));
        assert!(!wants_json(Some(b"*/*")));
        assert!(!wants_json(None));
        assert_eq!(
            Page::Unknown.json(),
            "{\"error\":\"unknown_host\",\"status\":404,\"message\":\"There is no site at this address.\"}\n"
        );
    }
}
