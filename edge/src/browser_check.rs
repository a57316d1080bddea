//! Asks visitors to show that they are browsers: a page with a script that looks for a number, and a cookie for who found it.
//!
//! Nothing is remembered here. What the page asks (the token) and what the cookie says (the pass) are each a time and a signature over that time, the
//! host and the client's network, by a key that all edges of the cluster have. A number that was found is good for its host, its network and the few
//! minutes of its token, as often as it is shown.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hosting_edge_http1::{AnswerHead, FieldKind, Request};
use hosting_edge_map::{PROOF_PATH, Work};
use http::StatusCode;
use http::header::HeaderValue;
use pingora_core::protocols::http::date::get_cached_date;
use sha2::{Digest, Sha256};

use crate::access_log::Addresses;
use crate::certs::CertStore;
use crate::tickets::SIGNATURE_LEN;
use crate::visitor::Visitor;

/// The cookies that passes come in: over TLS one that only this host over TLS can have set (RFC 6265bis §4.1.3.2).
const SECURE_COOKIE: &str = "__Host-hosting-browser";
const PLAIN_COOKIE: &str = "hosting-browser";
/// Both: what no site and no cache is told.
pub(crate) const COOKIES: [&[u8]; 2] = [SECURE_COOKIE.as_bytes(), PLAIN_COOKIE.as_bytes()];
/// Cookies of a request that are looked at: another host of the same domain can have set some of this name.
const MOST_COOKIES: usize = 4;

/// How long a token is taken, in seconds.
const TOKEN_SECONDS: u64 = 300;
/// Characters of a token, which the script counts on.
const TOKEN_LEN: usize = 2 * (size_of::<u64>() + SIGNATURE_LEN);
/// Most characters of the number, which the script counts on.
const MOST_DIGITS: usize = 6;

/// What a signature is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Token(u8),
    Pass,
}

/// What is asked of visitors, and what they show.
#[derive(Debug)]
pub(crate) struct BrowserCheck {
    certs: Arc<CertStore>,
}

/// An answer of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckAnswer {
    status: StatusCode,
    retry_after: Option<String>,
    cookie: Option<String>,
    date: HeaderValue,
    pub(crate) html: String,
}

impl BrowserCheck {
    pub(crate) fn new(certs: Arc<CertStore>) -> Self {
        Self { certs }
    }

    /// Whether a request shows a pass of this host.
    pub(crate) fn is_shown_by(&self, request: &Request, visitor: &Visitor, host: &str) -> bool {
        let wanted = if visitor.tls { SECURE_COOKIE } else { PLAIN_COOKIE };
        let fields = request.head().fields().filter(|(name, _)| FieldKind::of(name) == FieldKind::Cookie);
        let cookies = fields.flat_map(|(_, value)| value.split(|byte| *byte == b';'));
        let passes = cookies
            .filter_map(|cookie| cookie.trim_ascii().strip_prefix(wanted.as_bytes())?.strip_prefix(b"="));
        passes.take(MOST_COOKIES).any(|pass| self.holds(pass, Purpose::Pass, visitor.ip, host, now()))
    }

    /// The page. `after`: the seconds after which the client would be let in without it.
    pub(crate) fn ask(&self, work: Work, after: Option<u32>, visitor: &Visitor, host: &str) -> CheckAnswer {
        let difficulty = u8::try_from(work.difficulty).unwrap_or(u8::MAX);
        let token = self.signed(Purpose::Token(difficulty), visitor.ip, host, now() + TOKEN_SECONDS);
        let status = if after.is_some() { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::FORBIDDEN };
        CheckAnswer {
            status,
            retry_after: after.map(|seconds| seconds.to_string()),
            cookie: None,
            date: get_cached_date(),
            html: format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
                 <meta name=\"robots\" content=\"noindex\"><title>One moment</title><style>{STYLE}</style></head>\
                 <body><h1>One moment</h1><p id=\"said\">This site checks that you are using a browser. It appears by itself in a few seconds.</p>\
                 <noscript><p>Your browser does not run JavaScript, without which this site cannot be shown right now. \
                 Please allow it for this site, and load the page again.</p></noscript>\
                 <script data-token=\"{token}\" data-bits=\"{difficulty}\" data-path=\"{PROOF_PATH}\">{SCRIPT}</script></body></html>\n"
            ),
        }
    }

    /// The pass for what a request shows as its query; `None`: it shows nothing.
    pub(crate) fn take(
        &self,
        work: Work,
        query: &[u8],
        visitor: &Visitor,
        host: &str,
    ) -> Option<CheckAnswer> {
        let (token, number) = query.split_at_checked(TOKEN_LEN)?;
        let number = number.strip_prefix(b".").filter(|number| (1..=MOST_DIGITS).contains(&number.len()))?;
        if !number.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            return None;
        }
        let (difficulty, at) = (u8::try_from(work.difficulty).ok()?, now());
        if zero_bits(&Sha256::digest(query)) < work.difficulty
            || !self.holds(token, Purpose::Token(difficulty), visitor.ip, host, at)
        {
            return None;
        }
        let pass = self.signed(Purpose::Pass, visitor.ip, host, at + u64::from(work.pass_seconds));
        let (name, secure) = if visitor.tls { (SECURE_COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
        let seconds = work.pass_seconds;
        Some(CheckAnswer {
            status: StatusCode::NO_CONTENT,
            retry_after: None,
            cookie: Some(format!("{name}={pass}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")),
            date: get_cached_date(),
            html: String::new(),
        })
    }

    fn signed(&self, purpose: Purpose, address: IpAddr, host: &str, ends: u64) -> String {
        let signature = self.certs.tickets().sign(&message(purpose, address, host, ends));
        hex::encode([&ends.to_be_bytes()[..], &signature].concat())
    }

    fn holds(&self, text: &[u8], purpose: Purpose, address: IpAddr, host: &str, now: u64) -> bool {
        let mut bytes = [0; TOKEN_LEN / 2];
        if hex::decode_to_slice(text, &mut bytes).is_err() {
            return false;
        }
        let Some((ends, signature)) = bytes.split_first_chunk() else { return false };
        let ends = u64::from_be_bytes(*ends);
        ends >= now && self.certs.tickets().is_signed(&message(purpose, address, host, ends), signature)
    }
}

/// What is signed. Each part but the last has one length, so that no two are written alike.
fn message(purpose: Purpose, address: IpAddr, host: &str, ends: u64) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::Token(difficulty) => [1, difficulty],
        Purpose::Pass => [2, 0],
    };
    let network = match Addresses::Network.of(address) {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    [&purpose[..], &ends.to_be_bytes(), &network.octets(), host.as_bytes()].concat()
}

fn zero_bits(digest: &[u8]) -> u32 {
    let zeros = digest.iter().take_while(|byte| **byte == 0).count();
    let rest = digest.get(zeros).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(zeros).unwrap_or(u32::MAX).saturating_mul(8).saturating_add(rest)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether a request is a browser's for a page, which a person will see: what a script, a form or a program asks for is no place for a page
/// (Fetch Metadata; browsers say it over HTTPS alone).
pub(crate) fn is_navigation(request: &Request) -> bool {
    let head = request.head();
    if head.method() != b"GET" || request.upgrade().is_some() {
        return false;
    }
    match head.field(b"sec-fetch-mode") {
        Some(mode) => mode == b"navigate",
        None => {
            head.field(b"accept").is_some_and(|accept| memchr::memmem::find(accept, b"text/html").is_some())
        }
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32em;padding:0 1em;\
                     color:#333;background:#fff}@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}}";
const SCRIPT: &str = include_str!("browser_check.js");

/// Nothing but the script and the style, word for word.
static CONTENT_POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'self'",
        digest(SCRIPT),
        digest(STYLE)
    )
});

impl CheckAnswer {
    pub(crate) fn head(&self) -> AnswerHead<'_> {
        let mut fields: Vec<(&[u8], &[u8])> =
            vec![(b"date", self.date.as_bytes()), (b"cache-control", b"no-store")];
        if !self.html.is_empty() {
            fields.push((b"content-type", b"text/html; charset=utf-8"));
            fields.push((b"content-security-policy", CONTENT_POLICY.as_bytes()));
            fields.push((b"x-content-type-options", b"nosniff"));
            fields.push((b"referrer-policy", b"same-origin"));
            fields.push((b"x-robots-tag", b"noindex"));
        }
        for (name, value) in [(&b"retry-after"[..], &self.retry_after), (b"set-cookie", &self.cookie)] {
            fields.extend(value.as_ref().map(|value| (name, value.as_bytes())));
        }
        AnswerHead {
            status: self.status.as_u16(),
            reason: self.status.canonical_reason().unwrap_or_default().as_bytes(),
            fields,
            length: (!self.html.is_empty()).then_some(self.html.len() as u64),
            has_body: !self.html.is_empty(),
        }
    }

    pub(crate) fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// For the log.
    pub(crate) fn reason(&self) -> &'static str {
        if self.cookie.is_some() { "browser_shown" } else { "browser_check" }
    }
}
