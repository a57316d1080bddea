//! A request that ended at an edge, as those who watch its name see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A request that ended. What is not known is left out. What a visitor sent is as it came, up to 2 KiB of each field.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RequestRow {
    /// When its answer ended: RFC 3339, UTC, by the edge's clock.
    time: String,
    /// The visitor's address, or of it what the brand and the edge let logs have.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// By which the visitor's error page and the site's own logs know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Path and query.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Of the answer; 0: the visitor left first.
    status: u16,
    /// Why the edge answered in the site's place, e.g. "crawler".
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What the cache did: "hit", "miss", "stale", "bypass".
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<String>,
    /// The crawler that it says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    crawler: Option<String>,
    /// Whether it is: "verified", "impostor" or "unknown".
    #[serde(skip_serializing_if = "Option::is_none")]
    crawler_is: Option<String>,
    /// Bytes of bodies from and to the visitor.
    received_bytes: u64,
    sent_bytes: u64,
    /// From the whole head of the request to the end of the answer, in milliseconds.
    ms: f64,
    /// Until the site's answer began, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    site_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webroot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
}

/// A line of an edge's access log, which leaves out what is empty.
#[derive(Debug, Deserialize)]
struct EdgeLine {
    time: String,
    client: Option<String>,
    request: Option<String>,
    #[serde(default)]
    tls: bool,
    host: Option<String>,
    method: Option<String>,
    target: Option<String>,
    #[serde(default)]
    status: u16,
    reason: Option<String>,
    cache: Option<String>,
    crawler: Option<String>,
    crawler_is: Option<String>,
    #[serde(default)]
    received: u64,
    #[serde(default)]
    sent: u64,
    #[serde(default)]
    seconds: f64,
    upstream_seconds: Option<f64>,
    webroot: Option<String>,
    referer: Option<String>,
    user_agent: Option<String>,
}

impl RequestRow {
    /// What is told of a line that an edge wrote: its machines, traces and tenants are not the reader's.
    ///
    /// # Errors
    /// It is no such line.
    pub(crate) fn of(line: &str) -> Result<Self, serde_json::Error> {
        let line: EdgeLine = serde_json::from_str(line)?;
        Ok(Self {
            time: line.time,
            client: line.client,
            request_id: line.request,
            tls: line.tls,
            host: line.host,
            method: line.method,
            target: line.target,
            status: line.status,
            reason: line.reason,
            cache: line.cache,
            crawler: line.crawler,
            crawler_is: line.crawler_is,
            received_bytes: line.received,
            sent_bytes: line.sent,
            ms: milliseconds(line.seconds),
            site_ms: line.upstream_seconds.map(milliseconds),
            webroot_id: line.webroot,
            referer: line.referer,
            user_agent: line.user_agent,
        })
    }
}

/// To the microsecond, as edges measure.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}
