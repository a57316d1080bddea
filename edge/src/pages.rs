//! The pages that the edge answers with itself: those of the host's brand, or small ones that are the same for every host. Without a word of
//! what is behind it, but with the number by which the access log knows the request.

use hosting_edge_http1::{AnswerHead, HeadError, RequestError};
use hosting_edge_map::BrandWord;
use http::StatusCode;
use http::header::HeaderValue;
use pingora_core::protocols::http::date::get_cached_date;

use crate::upstream::Mark;

/// Methods that reach a site, for `Allow`.
const METHODS: &[u8] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Tells the client by which number the access log knows its request.
const REQUEST_ID: &[u8] = b"x-request-id";

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The host is none.
    BadHost,
    /// The request is none.
    BadRequest,
    /// The request's head is too large.
    HeaderTooLarge,
    /// A method that no site gets.
    Method,
    /// A transfer coding that nobody knows.
    Coding,
    /// An expectation that nobody can meet.
    Expectation,
    /// Not HTTP/1.
    Version,
    /// The TLS connection is for another host.
    Misdirected,
    /// `OPTIONS *`: asked of the edge as a whole. No page, but an answer.
    Options,
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
    /// A client that its host does not let in.
    Forbidden,
    /// A crawler that its host does not let in.
    Crawler,
    /// No browser, or none that could show it by this request.
    BrowsersOnly,
    /// A client that shows no name and password that its host lets in.
    Unauthorized,
    /// A host at rest, with the seconds after which to come back.
    Maintenance(u32),
    /// A client, or a host, with too many requests, and the seconds after which there is room for another.
    TooMany(u32),
    /// The request's body is larger than its host takes.
    BodyTooLarge,
    /// The nodes, or the tenant, have as many requests as they may.
    Busy,
    /// The client wants a stored answer, and there is none (RFC 9111 §5.2.1.7).
    NotStored,
}

impl Page {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad_host", "The request names no valid host."),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "The request is not valid HTTP."),
            Self::HeaderTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_too_large",
                "The request's header is too large. Deleting this site's cookies may help.",
            ),
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not served here.")
            }
            Self::Coding => {
                (StatusCode::NOT_IMPLEMENTED, "unknown_coding", "The request's transfer coding is not known.")
            }
            Self::Expectation => (
                StatusCode::EXPECTATION_FAILED,
                "unknown_expectation",
                "The request's expectation is not known.",
            ),
            Self::Version => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "version",
                "This version of HTTP is not spoken here.",
            ),
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "This connection is for another host. Please use a connection of its own.",
            ),
            Self::Options => (StatusCode::NO_CONTENT, "", ""),
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
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "This site is not open to you."),
            Self::Crawler => (StatusCode::FORBIDDEN, "crawler", "This site is not open to this crawler."),
            Self::BrowsersOnly => (
                StatusCode::FORBIDDEN,
                "browsers_only",
                "This site answers browsers only right now. Please open its pages in one.",
            ),
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "This site asks for a name and a password.")
            }
            Self::Maintenance(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "maintenance",
                "This site is being worked on. Please come back later.",
            ),
            Self::TooMany(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "There were too many requests. Please try again a little later.",
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "This site has too much to do right now. Please try again soon.",
            ),
            Self::NotStored => {
                (StatusCode::GATEWAY_TIMEOUT, "not_stored", "There is no stored answer to this request.")
            }
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "What was sent is larger than this site takes.",
            ),
        }
    }

    /// Seconds after which it is worth to come back.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::Suspended => Some(3_600),
            Self::NoNode => Some(10),
            Self::Busy => Some(2),
            Self::Maintenance(seconds) | Self::TooMany(seconds) => Some(seconds),
            Self::BadHost
            | Self::BadRequest
            | Self::HeaderTooLarge
            | Self::Method
            | Self::Coding
            | Self::Expectation
            | Self::Version
            | Self::Misdirected
            | Self::Options
            | Self::Unknown
            | Self::Unbound
            | Self::BadGateway
            | Self::GatewayTimeout
            | Self::RequestTimeout
            | Self::Forbidden
            | Self::Crawler
            | Self::BrowsersOnly
            | Self::Unauthorized
            | Self::BodyTooLarge
            | Self::NotStored => None,
        }
    }

    /// The word for it, for programs; empty for an answer that is no page.
    pub(crate) fn word(self) -> &'static str {
        self.parts().1
    }

    pub(crate) fn code(self) -> u16 {
        self.parts().0.as_u16()
    }

    /// What stands in a place of a brand's page ([`hosting_intent::pages::PLACES`]).
    fn place<'v>(self, place: &str, code: &'v str, about: About<'v>) -> &'v str {
        let (status, _, text) = self.parts();
        match place {
            "status" => code,
            "title" => status.canonical_reason().unwrap_or_default(),
            "message" => text,
            "host" => about.host,
            "request_id" => about.mark.as_str(),
            _ => "",
        }
    }

    fn html(self, about: About<'_>) -> String {
        let (status, word, text) = self.parts();
        if let Some(template) = about.brand.and_then(|brand| brand.page(word)) {
            let code = status.as_str().to_owned();
            return template.fill(|place| self.place(place, &code, about));
        }
        let title = status.canonical_reason().unwrap_or_default();
        let id = about.mark.as_str();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32em;padding:0 1em;\
             color:#333;background:#fff}}small{{color:#777}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#111}}}}</style></head>\
             <body><h1>{title}</h1><p>{text}</p><small>Request {id}</small></body></html>\n"
        )
    }

    fn json(self, about: About<'_>) -> String {
        let (status, code, text) = self.parts();
        let (status, id) = (status.as_u16(), about.mark.as_str());
        // No part has a character that JSON would have to escape.
        format!(
            "{{\"error\":\"{code}\",\"status\":{status},\"message\":\"{text}\",\"request_id\":\"{id}\"}}\n"
        )
    }

    /// The page for a client that accepts `accept`.
    pub(crate) fn answer<'m>(self, accept: Option<&[u8]>, about: About<'m>) -> Answer<'m> {
        let (kind, body): (&[u8], _) = if self == Self::Options {
            (b"", String::new())
        } else if wants_json(accept) {
            (b"application/json", self.json(about))
        } else {
            (b"text/html; charset=utf-8", self.html(about))
        };
        let retry_after = self.retry_after().map(|seconds| seconds.to_string());
        Answer { page: self, kind, body, retry_after, date: get_cached_date(), mark: about.mark }
    }
}

/// Whose page it is, and for which request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) brand: Option<&'a BrandWord>,
    /// As the client wrote it.
    pub(crate) host: &'a str,
    pub(crate) mark: &'a Mark,
}

/// A page in the form that the client gets.
pub(crate) struct Answer<'m> {
    page: Page,
    mark: &'m Mark,
    kind: &'static [u8],
    retry_after: Option<String>,
    date: HeaderValue,
    /// The text.
    pub(crate) body: String,
}

impl Answer<'_> {
    pub(crate) fn head(&self, is_head: bool) -> AnswerHead<'_> {
        let (status, _, _) = self.page.parts();
        let mut fields: Vec<(&[u8], &[u8])> = vec![(b"date", self.date.as_bytes())];
        if !self.body.is_empty() {
            fields.push((b"content-type", self.kind));
            fields.push((b"cache-control", b"no-store"));
            fields.push((b"x-content-type-options", b"nosniff"));
            fields.push((REQUEST_ID, self.mark.as_bytes()));
        }
        if let Some(after) = &self.retry_after {
            fields.push((b"retry-after", after.as_bytes()));
        }
        if matches!(self.page, Page::Options | Page::Method) {
            fields.push((b"allow", METHODS));
        }
        AnswerHead {
            status: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default().as_bytes(),
            fields,
            length: (!self.body.is_empty()).then_some(self.body.len() as u64),
            has_body: !is_head && !self.body.is_empty(),
        }
    }
}

impl From<RequestError> for Page {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Head(HeadError::Version) => Self::Version,
            RequestError::Head(HeadError::TooMany) => Self::HeaderTooLarge,
            RequestError::Head(
                HeadError::StartLine | HeadError::FieldName | HeadError::FieldValue | HeadError::Folded,
            )
            | RequestError::Target
            | RequestError::Length
            | RequestError::Connection => Self::BadRequest,
            RequestError::Host => Self::BadHost,
            RequestError::Coding => Self::Coding,
            RequestError::Method => Self::Method,
            RequestError::Expectation => Self::Expectation,
        }
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
    use hosting_intent::message::{Brand, BrandPage};
    use hosting_intent::pages::PAGES;

    use super::*;
    use crate::upstream::Marks;

    #[test]
    fn json_for_those_who_ask() {
        assert!(wants_json(Some(b"application/json")));
        assert!(wants_json(Some(b"application/json, text/html;q=0.5")));
        assert!(!wants_json(Some(b"text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8")));
        assert!(!wants_json(Some(b"*/*")));
        assert!(!wants_json(None));
    }

    #[test]
    fn a_brands_page_stands_in_the_place_of_ours() {
        let page = |word: &str, html: &str| BrandPage { word: word.into(), html: html.into() };
        let pages = vec![
            page("busy", "busy"),
            page("default", "{{status}} {{title}}: {{message}} {{host}} {{request_id}}"),
        ];
        let brand = BrandWord::new(&Brand { pages, ..Brand::default() });
        let mark = Marks::default().next();
        let about = |brand| About { brand, host: "<a>", mark: &mark };
        let body = |page: Page, accept: &[u8], brand| page.answer(Some(accept), about(brand)).body;
        let id = mark.as_str();
        assert_eq!(
            body(Page::Suspended, b"text/html", Some(&brand)),
            format!("503 Service Unavailable: This site is not available at the moment. &lt;a&gt; {id}")
        );
        assert_eq!(body(Page::Busy, b"text/html", Some(&brand)), "busy");
        assert!(body(Page::Busy, b"text/html", None).contains(&format!("Request {id}<")));
        for brand in [None, Some(&brand)] {
            assert_eq!(
                body(Page::Unknown, b"application/json", brand),
                format!(
                    "{{\"error\":\"unknown_host\",\"status\":404,\"message\":\"There is no site at this address.\",\"request_id\":\"{id}\"}}\n"
                )
            );
            assert_eq!(body(Page::Options, b"text/html", brand), "");
        }
    }

    /// Those that can be answered for a name that is known, so that it has a brand.
    #[test]
    fn a_brand_can_have_a_page_for_each_that_its_visitors_see() {
        for page in [
            Page::BadRequest,
            Page::HeaderTooLarge,
            Page::Unbound,
            Page::Suspended,
            Page::NoNode,
            Page::BadGateway,
            Page::GatewayTimeout,
            Page::RequestTimeout,
            Page::Forbidden,
            Page::Crawler,
            Page::BrowsersOnly,
            Page::Unauthorized,
            Page::Maintenance(1),
            Page::TooMany(1),
            Page::BodyTooLarge,
            Page::Busy,
            Page::NotStored,
        ] {
            assert!(PAGES.contains(&page.word()), "{page:?}");
        }
    }
}
