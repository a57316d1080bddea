//! Answers of the edge's own.

use std::time::Duration;

use hosting_edge_http1::{AnswerHead, Request};
use http::StatusCode;
use pingora_core::protocols::http::date::get_cached_date;

use crate::access_log::text;
use crate::browser_check::CheckAnswer;
use crate::course::{Course, EDGE_MAP, STRICT_TRANSPORT_SECURITY};
use crate::exchange::{Client, Moved, finish, send_all};
use crate::pages::{About, Page};
use crate::upstream::Marks;

/// Sends answers to clients that take them within this time, from one piece to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answering<'a> {
    pub(crate) limit: Duration,
    pub(crate) marks: &'a Marks,
}

impl Answering<'_> {
    /// Sends a text, not to be kept, and returns its code.
    pub(crate) async fn text<C: Client>(
        self,
        client: &mut C,
        request: &Request,
        kind: &'static [u8],
        body: &str,
        passed: &mut Moved,
    ) -> u16 {
        let status = StatusCode::OK;
        let head = AnswerHead {
            status: status.as_u16(),
            reason: b"OK",
            fields: vec![(b"content-type", kind), (b"cache-control", b"no-store")],
            length: Some(body.len() as u64),
            has_body: !body.is_empty() && !request.is_head(),
        };
        self.send(client, &head, body.as_bytes(), passed).await;
        status.as_u16()
    }

    async fn send<C: Client>(self, client: &mut C, head: &AnswerHead<'_>, body: &[u8], passed: &mut Moved) {
        let body = if head.has_body { body } else { &[] };
        if client.start(head).is_ok()
            && send_all(client, body, self.limit).await.is_ok()
            && client.end(true).is_ok()
        {
            finish(client, self.limit).await;
            passed.sent = body.len() as u64;
        }
    }

    /// Sends a page and returns its code.
    pub(crate) async fn page<C: Client>(
        self,
        client: &mut C,
        page: Page,
        request: Option<&Request>,
        course: &mut Course,
    ) -> u16 {
        course.reason = page.word();
        let accept = request.and_then(|request| request.head().field(b"accept"));
        let host = text(request.map(Request::authority).unwrap_or_default());
        let mark = *course.mark.get_or_insert_with(|| self.marks.next());
        let brand = course.brand.clone();
        let answer = page.answer(accept, About { brand: brand.as_deref(), host: &host, mark: &mark });
        let mut head = answer.head(request.is_some_and(Request::is_head));
        head.fields.extend(course.hsts().map(|hsts| (STRICT_TRANSPORT_SECURITY, hsts)));
        let challenge = course.challenge.as_deref().filter(|_| page == Page::Unauthorized);
        head.fields.extend(challenge.map(|challenge| (&b"www-authenticate"[..], challenge.as_bytes())));
        let map = course.map(None);
        head.fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let mut passed = Moved::default();
        self.send(client, &head, answer.body.as_bytes(), &mut passed).await;
        course.passed.sent = passed.sent;
        page.code()
    }

    /// Sends an answer of the check for browsers and returns its code.
    pub(crate) async fn browser_check<C: Client>(
        self,
        client: &mut C,
        answer: &CheckAnswer,
        course: &mut Course,
    ) -> u16 {
        course.reason = answer.reason();
        let mut head = answer.head();
        head.fields.extend(course.hsts().map(|hsts| (STRICT_TRANSPORT_SECURITY, hsts)));
        let map = course.map(None);
        head.fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let mut passed = Moved::default();
        self.send(client, &head, answer.html.as_bytes(), &mut passed).await;
        course.passed.sent = passed.sent;
        answer.code()
    }

    /// Leads a client elsewhere and returns the code.
    pub(crate) async fn redirect<C: Client>(
        self,
        client: &mut C,
        code: u16,
        location: &str,
        course: &mut Course,
    ) -> u16 {
        course.reason = "redirect";
        let date = get_cached_date();
        let mut fields = vec![(&b"date"[..], date.as_bytes()), (b"location", location.as_bytes())];
        fields.extend(course.hsts().map(|hsts| (STRICT_TRANSPORT_SECURITY, hsts)));
        let map = course.map(None);
        fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND);
        let head = AnswerHead {
            status: code,
            reason: status.canonical_reason().unwrap_or_default().as_bytes(),
            fields,
            length: Some(0),
            has_body: false,
        };
        self.send(client, &head, &[], &mut Moved::default()).await;
        code
    }
}
