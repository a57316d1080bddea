//! What went wrong with an authority, and what that means for whoever asked.

use std::time::Duration;

use hosting_scaffold::text::one_line;
use instant_acme::{Error, Problem};

/// What the names of ACME's errors begin with (RFC 8555 §6.7).
const ERROR: &str = "urn:ietf:params:acme:error:";

/// What an authority says against one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameProblem {
    /// The name; empty: the order as a whole.
    pub name: String,
    /// The last part of the error's name (RFC 8555 §6.7): `dns`, `connection`, `unauthorized`, `caa`, ...
    pub code: String,
    /// In the authority's words.
    pub message: String,
}

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeError {
    /// It wants to be asked for less.
    #[error("the authority limits what it is asked: {message}")]
    RateLimited {
        /// In its words.
        message: String,
        /// For how long, where it says so.
        after: Option<Duration>,
    },
    /// It cannot be asked: it is not reached, fails, or is not understood. Another one may be asked meanwhile.
    #[error("the authority cannot be asked: {0}")]
    Unavailable(String),
    /// It refused the nonces of several requests in a row (RFC 8555 §6.5), which is luck more often than a fault: those of an answer may be good for
    /// another of its machines alone.
    #[error("the authority takes no nonce: {0}")]
    Nonce(String),
    /// It refuses.
    #[error("the authority refuses: {}", spelt(.0))]
    Refused(Vec<NameProblem>),
    /// What is asked for with makes no sense here: a key that is none, an account that it does not know.
    #[error("the authority cannot be asked as it is set up: {0}")]
    Setup(String),
}

/// Longest text of an authority's that is handed on, in bytes. It is kept with names and shown, and an authority may say anything.
const MAX_TEXT: usize = 500;

/// A text of an authority's, of one line and no longer than is kept.
fn short(text: &str) -> String {
    one_line(text, MAX_TEXT)
}

fn spelt(problems: &[NameProblem]) -> String {
    let one = |problem: &NameProblem| {
        let NameProblem { name, code, message } = problem;
        if name.is_empty() { format!("{message} ({code})") } else { format!("{name}: {message} ({code})") }
    };
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The last part of an error's name.
fn code(problem_type: Option<&str>) -> String {
    let name = problem_type.unwrap_or("unknown");
    short(name.strip_prefix(ERROR).unwrap_or(name))
}

/// What a problem document says against names: its subproblems where it has some. `name` is for what names none.
pub(crate) fn problems_of(problem: &Problem, name: &str) -> Vec<NameProblem> {
    let detail = |detail: Option<&str>| short(detail.unwrap_or("no reason is given"));
    let own = NameProblem {
        name: name.to_owned(),
        code: code(problem.r#type.as_deref()),
        message: detail(problem.detail.as_deref()),
    };
    let parts = problem.subproblems.iter().map(|part| NameProblem {
        name: part
            .identifier
            .as_ref()
            .map_or_else(|| name.to_owned(), |one| one.authorized(false).to_string()),
        code: code(part.r#type.as_deref()),
        message: detail(part.detail.as_deref()),
    });
    let parts: Vec<NameProblem> = parts.collect();
    if parts.is_empty() { vec![own] } else { parts }
}

impl AcmeError {
    /// `after`: what the answer said in `Retry-After`.
    pub(crate) fn of(error: Error, after: Option<Duration>) -> Self {
        if let Error::Api(problem) = &error {
            return Self::said(problem, after);
        }
        if matches!(error, Error::Crypto | Error::KeyRejected | Error::InvalidUri(_) | Error::Unsupported(_))
        {
            return Self::Setup(error.to_string());
        }
        // What is not understood is no answer.
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::Unavailable(short(&text))
    }

    fn said(problem: &Problem, after: Option<Duration>) -> Self {
        let message = short(&problem.to_string());
        match code(problem.r#type.as_deref()).as_str() {
            "rateLimited" => Self::RateLimited { message, after },
            "serverInternal" => Self::Unavailable(message),
            "badNonce" => Self::Nonce(message),
            "accountDoesNotExist"
            | "externalAccountRequired"
            | "userActionRequired"
            | "unsupportedContact"
            | "invalidContact"
            | "badPublicKey"
            | "invalidProfile" => Self::Setup(message),
            _ if problem.status.is_some_and(|status| status >= 500) => Self::Unavailable(message),
            _ => Self::Refused(problems_of(problem, "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(problem: Value) -> AcmeError {
        let problem: Problem = serde_json::from_value(problem).unwrap();
        AcmeError::of(Error::Api(problem), Some(Duration::from_secs(60)))
    }

    #[test]
    fn each_answer_is_told_apart_by_what_follows_from_it() {
        let error = |name: &str, status: u16| json!({"type": format!("{ERROR}{name}"), "detail": "why", "status": status});
        assert!(matches!(
            of(error("rateLimited", 429)),
            AcmeError::RateLimited { after: Some(after), .. } if after == Duration::from_secs(60)
        ));
        assert!(matches!(of(error("badNonce", 400)), AcmeError::Nonce(_)));
        assert!(matches!(of(error("serverInternal", 500)), AcmeError::Unavailable(_)));
        assert!(matches!(of(json!({"detail": "overloaded", "status": 503})), AcmeError::Unavailable(_)));
        assert!(matches!(of(error("externalAccountRequired", 403)), AcmeError::Setup(_)));
        let AcmeError::Refused(problems) = of(error("caa", 403)) else { panic!() };
        assert_eq!(
            problems,
            [NameProblem { name: String::new(), code: "caa".into(), message: "why".into() }]
        );
        let parts = json!({"type": format!("{ERROR}compound"), "status": 403, "subproblems": [
            {"type": format!("{ERROR}rejectedIdentifier"), "detail": "no", "identifier": {"type": "dns", "value": "a.example"}},
            {"type": format!("{ERROR}dns"), "identifier": {"type": "dns", "value": "b.example"}},
        ]});
        let AcmeError::Refused(problems) = of(parts) else { panic!() };
        assert_eq!((&*problems[0].name, &*problems[0].code), ("a.example", "rejectedIdentifier"));
        assert_eq!((&*problems[1].name, &*problems[1].code), ("b.example", "dns"));
        let long = json!({"type": format!("{ERROR}dns"), "detail": format!("a\r\n{}", "ä".repeat(5_000)), "status": 403});
        let AcmeError::Refused(cut) = of(long) else { panic!() };
        assert!(cut[0].message.len() < 510 && cut[0].message.starts_with("a  ä"), "{cut:?}");
        let text = AcmeError::Refused(problems).to_string();
        assert!(text.contains("a.example: no (rejectedIdentifier); b.example:"), "{text}");
    }
}
