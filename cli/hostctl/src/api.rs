//! The REST client.

use std::{path::Path, time::Duration};

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{args::Connection, environment};

/// How long an answer may take that waits for nothing. A stopped controller still accepts connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the API at {url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{message} (HTTP {status})")]
    Answer { status: u16, message: String },
}

impl ApiError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 7,
            Self::Answer { status: 404, .. } => 4,
            Self::Answer { status: 401 | 403, .. } => 5,
            Self::Answer { status: 409 | 412, .. } => 6,
            Self::Answer { .. } => 1,
        }
    }

    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "is the controller running there? For `hostctl up` see `hostctl status`; name another API with --api",
            ),
            Self::Answer { status: 401, .. } => {
                Some("give the API key with --key-file or HOSTING_API_KEY_FILE")
            }
            Self::Answer { status: 403, .. } => {
                Some("the key lacks a scope or a brand for this; use another with --key-file")
            }
            Self::Answer { status: 501, .. } => Some("leave that field out; a later release will serve it"),
            Self::Answer { .. } => None,
        }
    }
}

/// A connection to the API with a key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
    http: reqwest::Client,
}

impl Api {
    /// From flags, environment, or what `hostctl up` wrote.
    pub(crate) fn connect(connection: &Connection) -> anyhow::Result<Self> {
        Self::connect_with(connection, None, None)
    }

    /// As [`Api::connect`], with what a file of the user's says where flags and environment say nothing.
    pub(crate) fn connect_with(
        connection: &Connection,
        file_url: Option<&str>,
        file_key: Option<&str>,
    ) -> anyhow::Result<Self> {
        let up = crate::up::Summary::read(connection.data_dir());
        let base = connection
            .api
            .clone()
            .or_else(|| file_url.filter(|url| !url.is_empty()).map(str::to_owned))
            .or_else(|| up.as_ref().map(|up| up.api.clone()))
            .with_context(|| {
                let data = connection.data_dir();
                match crate::up::starting(data) {
                    Some(pid) => format!("`up` (pid {pid}) is not ready yet in {}; try again", data.display()),
                    None => format!(
                        "no API address: nothing is up in {}; start it with `hostctl up`, name its folder with --data \
                         DIR, or another API with --api URL",
                        data.display()
                    ),
                }
            })?;
        let given = connection.api_key.as_ref().map(|key| key.0.clone());
        let key = match (given, &connection.key_file) {
            (Some(key), _) => key,
            (None, Some(file)) => read_key(file)?,
            (None, None) => {
                let file_key = file_key.filter(|key| !key.is_empty()).map(str::to_owned);
                match (environment::variable("HOSTING_API_KEY").or(file_key), &up) {
                    (Some(key), _) => key,
                    (None, Some(up)) => read_key(&up.admin_key_file)?,
                    (None, None) => anyhow::bail!("no API key: give --key-file or HOSTING_API_KEY"),
                }
            }
        };
        Self::new(&base, &key)
    }

    pub(crate) fn new(base: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key: key.trim().to_owned(), http })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::GET, path, None).await.map(|(_, body)| body)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(Method::POST, path, Some(body)).await.map(|(_, body)| body)
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, path, Some(body)).await.map(|(_, body)| body)
    }

    /// Every item of a list, page by page.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        self.list_up_to(path, usize::MAX).await
    }

    /// The first `most` items of a list.
    pub(crate) async fn list_up_to(&self, path: &str, most: usize) -> Result<Vec<Value>, ApiError> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let size = most.saturating_sub(items.len()).clamp(1, 200);
            let page = self.get(&format!("{path}{join}limit={size}{cursor}")).await?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            match page["next_cursor"].as_str() {
                Some(next) if page["has_more"] == true && items.len() < most => {
                    cursor = format!("&cursor={}", encode(next));
                }
                _ => break,
            }
        }
        items.truncate(most);
        Ok(items)
    }

    /// The answer's status and body; an answer of 400 or more is an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), ApiError> {
        self.send_within(method, path, body, PATIENCE).await
    }

    /// As [`Api::send`], for an answer that may take its time.
    pub(crate) async fn send_within(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<(StatusCode, Value), ApiError> {
        let url = if path.starts_with('/') && !path.starts_with("/docs") {
            format!("{}/api/v1{path}", self.base)
        } else {
            format!("{}{path}", self.base)
        };
        let mut request = self.http.request(method, &url).bearer_auth(&self.key).timeout(limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| ApiError::Unreachable {
            url: self.base.clone(),
            why: root_cause(&error, limit),
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let body: Value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        if status.as_u16() >= 400 {
            let message = match &body["error"] {
                Value::String(message) => message.clone(),
                _ => format!("unexpected answer: {body}"),
            };
            return Err(ApiError::Answer { status: status.as_u16(), message });
        }
        Ok((status, body))
    }
}

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn read_key(file: &Path) -> anyhow::Result<String> {
    let key = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the API key {}", file.display()))?;
    Ok(key.trim().to_owned())
}

/// Why a request that could take `limit` failed, without the layers between.
pub(crate) fn root_cause(error: &reqwest::Error, limit: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", limit.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_segments_cannot_break_out() {
        assert_eq!(encode("a/../b?c=d e"), "a%2F..%2Fb%3Fc%3Dd%20e");
        assert_eq!(encode("t_ab-1.x~"), "t_ab-1.x~");
    }
}
