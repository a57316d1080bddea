//! Audit rows: what they keep of a request, and how many a caller can make by being refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hosting_store::{AuditEntry, Origin};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::auth::Principal;
use crate::redact::redact;
use crate::route::{BASE, Route};
use crate::service::MAX_PARAM;
use crate::{Api, openapi};

/// The method of a row that stands for many refused requests.
pub(crate) const REFUSALS: &str = "REFUSALS";
/// Largest body that a row keeps, in bytes of JSON.
const MAX_BODY: usize = 16 * 1024;
/// Largest body that the row of a refused request keeps, in bytes of JSON.
const MAX_REFUSED_BODY: usize = 1024;
/// Longest text in the body of a refused request, in characters.
const MAX_REFUSED_TEXT: usize = 64;

/// The row of a request.
pub(crate) fn entry(
    route: &Route,
    path: &str,
    id: Option<&str>,
    body: Option<Value>,
    status: u16,
) -> AuditEntry {
    AuditEntry {
        method: route.method.to_string(),
        path: path.chars().take(MAX_PARAM).collect(),
        resource_type: route.group().to_owned(),
        resource_id: id.filter(|id| !id.is_empty()).map(|id| id.chars().take(MAX_PARAM).collect()),
        status_code: status,
        body,
    }
}

/// The body of a request that was carried out.
pub(crate) fn bounded(body: Value) -> Value {
    within(body, MAX_BODY)
}

/// The body, or how large it was.
fn within(body: Value, most: usize) -> Value {
    let bytes = body.to_string().len();
    if bytes <= most { body } else { json!({"not_kept": format!("{bytes} bytes of JSON")}) }
}

/// The body of a refused request: enough to see what was tried.
fn shortened(body: Value) -> Value {
    fn short(value: Value) -> Value {
        match value {
            Value::String(text) if text.chars().count() > MAX_REFUSED_TEXT => {
                let begin: String = text.chars().take(MAX_REFUSED_TEXT).collect();
                Value::String(format!("{begin}… ({} bytes)", text.len()))
            }
            Value::Array(items) => Value::Array(items.into_iter().map(short).collect()),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, short(value))).collect::<Map<_, _>>().into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
        }
    }
    within(short(body), MAX_REFUSED_BODY)
}

/// How often each key was refused of late: the first refusals have rows of their own, the others are counted.
#[derive(Debug)]
pub(crate) struct Refusals {
    rows: u32,
    window: Duration,
    by_key: Mutex<BTreeMap<String, Counted>>,
}

#[derive(Debug)]
struct Counted {
    since: Instant,
    rows: u32,
    more: BTreeMap<u16, u64>,
}

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    /// It gets a row.
    Row,
    /// It is counted, the first one of its window: at that time the counts want a row.
    Counting(Instant),
    /// It is counted.
    Counted,
}

impl Refusals {
    /// `rows` for each key within `window`.
    pub(crate) fn new(rows: u32, window: Duration) -> Self {
        Self { rows, window, by_key: Mutex::default() }
    }

    fn note(&self, key: &str, status: u16, now: Instant) -> Noted {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        // What is counted waits for its row; everything else is over with its window.
        by_key.retain(|_, counted| !counted.more.is_empty() || now < counted.since + self.window);
        let counted = by_key.entry(key.to_owned()).or_insert_with(|| Counted {
            since: now,
            rows: 0,
            more: BTreeMap::new(),
        });
        if counted.rows < self.rows {
            counted.rows += 1;
            return Noted::Row;
        }
        let first = counted.more.is_empty();
        *counted.more.entry(status).or_default() += 1;
        if first { Noted::Counting(counted.since + self.window) } else { Noted::Counted }
    }

    /// The row of what was counted for a key, which begins a new window.
    fn take(&self, key: &str) -> Option<AuditEntry> {
        let counted = self.by_key.lock().unwrap_or_else(PoisonError::into_inner).remove(key)?;
        let (status, _) = counted.more.iter().max_by_key(|(_, count)| **count)?;
        let by_status: BTreeMap<String, u64> =
            counted.more.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        Some(AuditEntry {
            method: REFUSALS.to_owned(),
            path: BASE.to_owned(),
            resource_type: "requests".to_owned(),
            resource_id: None,
            status_code: *status,
            body: Some(json!({
                "refused": counted.more.values().sum::<u64>(),
                "by_status": by_status,
                "within_seconds": self.window.as_secs(),
            })),
        })
    }
}

impl Api {
    /// A request body as rows keep it.
    pub(crate) fn redacted(&self, route: &Route, body: &Map<String, Value>) -> Value {
        let name = openapi::name_of(route.request).unwrap_or_default();
        redact(body, self.schemas().get(&name).unwrap_or(&Value::Null), self.schemas())
    }

    /// The row of a request that changed nothing, or its place in a count. A store that cannot write it is in the log.
    pub(crate) async fn audit_refusal(
        &self,
        principal: &Principal,
        traceparent: &str,
        mut entry: AuditEntry,
    ) {
        let key = principal.key_id.clone();
        match self.refusals().note(&key, entry.status_code, Instant::now()) {
            Noted::Row => {
                entry.body = entry.body.map(shortened);
                self.write_row(key, traceparent.to_owned(), entry).await;
            }
            Noted::Counted => {}
            Noted::Counting(until) => {
                let api = self.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = api.stopping().cancelled_owned() => {}
                    }
                    if let Some(entry) = api.refusals().take(&key) {
                        api.write_row(key, String::new(), entry).await;
                    }
                });
            }
        }
    }

    pub(crate) async fn write_row(&self, key: String, traceparent: String, entry: AuditEntry) {
        let path = entry.path.clone();
        let origin = Origin { traceparent, actor: Some(key), ..Origin::default() };
        if let Err(error) = self.store().audit(origin, entry).await {
            tracing::error!(%error, %path, "an audit row could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_refusals_have_rows_and_the_others_are_counted() {
        let refusals = Refusals::new(2, Duration::from_secs(60));
        let now = Instant::now();
        let end = now + Duration::from_secs(60);
        let note = |key, status| refusals.note(key, status, now);
        assert_eq!((note("a", 400), note("a", 400), note("b", 403)), (Noted::Row, Noted::Row, Noted::Row));
        assert_eq!(
            (note("a", 400), note("a", 403), note("a", 400)),
            (Noted::Counting(end), Noted::Counted, Noted::Counted)
        );
        let row = refusals.take("a").unwrap();
        assert_eq!((row.method.as_str(), row.status_code), (REFUSALS, 400));
        assert_eq!(
            row.body.unwrap(),
            json!({"refused": 3, "by_status": {"400": 2, "403": 1}, "within_seconds": 60})
        );
        assert_eq!(refusals.take("a"), None);
        assert_eq!(note("a", 400), Noted::Row, "a new window");
        assert_eq!(refusals.note("b", 403, end), Noted::Row);
        assert_eq!(refusals.by_key.lock().unwrap().len(), 1, "what is over is forgotten");
    }

    #[test]
    fn bodies_of_refusals_are_short() {
        let body = json!({"name": "ä".repeat(20_000), "list": [{"deep": "x".repeat(100)}], "ttl": 5});
        let kept = shortened(body);
        assert_eq!((&kept["ttl"], kept.to_string().len() < 600), (&json!(5), true), "{kept}");
        assert!(kept["name"].as_str().unwrap().ends_with("… (40000 bytes)"), "{kept}");
        let many = json!({"list": vec!["x"; 1000]});
        assert!(shortened(many)["not_kept"].as_str().unwrap().ends_with("bytes of JSON"));
    }
}
