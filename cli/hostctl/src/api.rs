//! The REST client.

use std::{path::Path, time::Duration};

use anyhow::Context;
use reqwest::{Certificate, Method, StatusCode, header};
use serde_json::Value;

pub(crate) use crate::address::encode;
use crate::{
    address,
    args::Connection,
    environment::{self, Source},
    folder::DataFolder,
    output::{self, UsageError},
    summary::Summary,
};

/// How long an answer may take that waits for nothing. A stopped controller still accepts connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// Variables that name a proxy, as curl reads them.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the API at {url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("what answers at {url} is not the hosting API: {why}")]
    Stranger { url: String, why: String },
    #[error("{message} (HTTP {status})")]
    Answer { status: u16, message: String },
    /// A name that a person knows, and nothing bears.
    #[error("{0}")]
    NoSuch(String),
}

impl ApiError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Stranger { .. } => 7,
            Self::Answer { status: 404, .. } | Self::NoSuch(_) => 4,
            Self::Answer { status: 401 | 403, .. } => 5,
            Self::Answer { status: 409 | 412 | 428, .. } => 6,
            Self::Answer { .. } => 1,
        }
    }

    /// Whether it is likely to work again by itself.
    pub(crate) const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Answer { status, .. } => matches!(status, 429 | 502..=504),
            Self::Stranger { .. } | Self::NoSuch(_) => false,
        }
    }

    /// Whether what was asked for is not there. A path that the API does not have is another matter.
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            Self::NoSuch(_) => true,
            Self::Answer { status: 404, message } => !message.starts_with("there is no such path"),
            Self::Answer { .. } | Self::Unreachable { .. } | Self::Stranger { .. } => false,
        }
    }

    /// Whether a large change was refused for not being confirmed.
    pub(crate) const fn is_unconfirmed(&self) -> bool {
        matches!(self, Self::Answer { status: 428, .. })
    }

    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "is the controller running there? For `hostctl up` see `hostctl status`; name another API with --api",
            ),
            Self::Stranger { .. } => {
                Some("name the API's address with --api, e.g. --api http://127.0.0.1:8090")
            }
            Self::Answer { status: 401, .. } => {
                Some("give the API key with --key-file or HOSTING_API_KEY_FILE")
            }
            Self::Answer { status: 403, .. } => {
                Some("the key lacks a scope or a brand for this; use another with --key-file")
            }
            Self::Answer { status: 404, .. } if !self.is_not_found() => {
                Some("is --api the API's base address, and its controller as new as this hostctl?")
            }
            Self::Answer { status: 429, .. } => Some(
                "send fewer requests at a time, or let the operator raise api_reads_per_second or api_writes_per_second",
            ),
            Self::Answer { status: 428, .. } => {
                Some("look at what it would do with --dry-run, and send it with --confirm and the number")
            }
            Self::Answer { status: 501, .. } => Some("leave that field out; a later release will serve it"),
            Self::Answer { .. } | Self::NoSuch(_) => None,
        }
    }
}

/// What an answer says beside a body of the API.
#[derive(Debug)]
pub(crate) struct Glimpse {
    pub status: u16,
    /// The header Date.
    pub date: Option<String>,
    /// The certificate of the other end, in DER.
    pub certificate: Option<Vec<u8>>,
    pub body: Vec<u8>,
}

/// A connection to the API with a key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
    is_local: bool,
    http: reqwest::Client,
    /// The variable that may have led the requests to a proxy.
    proxy: Option<&'static str>,
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
        let up = Summary::read(connection.data_dir());
        let in_file = |text: Option<&str>| text.filter(|text| is_given(text)).map(str::to_owned);
        let base = connection
            .api()
            .map(str::to_owned)
            .or_else(|| in_file(file_url))
            .or_else(|| up.as_ref().map(|up| up.api.clone()))
            .with_context(|| {
                let data = connection.data_dir();
                match DataFolder::holder(data) {
                    Some(pid) => format!("`up` (pid {pid}) is not ready yet in {}; try again", data.display()),
                    None => format!(
                        "no API address: nothing is up in {}; start it with `hostctl up`, name its folder with --data \
                         DIR, or another API with --api URL",
                        data.display()
                    ),
                }
            })?;
        let given = connection.api_key.as_ref().map(|key| key.0.clone());
        let key = match (given, connection.key_file()) {
            (Some(key), _) => key,
            (None, Some(file)) => read_key(file)?,
            (None, None) => match (environment::lookup("HOSTING_API_KEY"), in_file(file_key), &up) {
                (Some((key, source)), _, _) => {
                    if source == Source::File {
                        output::note(
                            "note: the API key is the HOSTING_API_KEY of the file .env in this folder",
                        );
                    }
                    key
                }
                (None, Some(key), _) => key,
                (None, None, Some(up)) => read_key(&up.admin_key_file)?,
                (None, None, None) => anyhow::bail!("no API key: give --key-file or HOSTING_API_KEY"),
            },
        };
        Self::trusting(&base, &key, connection.ca_file())
    }

    /// As [`Api::trusting`], with the system's certificate authorities alone.
    pub(crate) fn new(base: &str, key: &str) -> anyhow::Result<Self> {
        Self::trusting(base, key, None)
    }

    /// # Errors
    /// An address that cannot be one, a key that no header can carry, or a file without certificate authorities: wrong usage.
    pub(crate) fn trusting(base: &str, key: &str, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let url = address::parse(base).map_err(|problem| {
            UsageError(format!("the API's address {:?} {problem}", address::shown(base)))
        })?;
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            let problem = "the API key must be one word of printable ASCII characters; look into what gives it: --key-file, \
                           HOSTING_API_KEY or .env";
            return Err(UsageError(problem.to_owned()).into());
        }
        // POST would come back as GET from a redirect, so none is followed.
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .tls_info(true)
            .redirect(reqwest::redirect::Policy::none());
        let builder = match ca_file {
            Some(file) => builder.tls_certs_merge(read_authorities(file)?),
            None => builder,
        };
        // The client asks the environment for proxies by itself, and for whom NO_PROXY excepts.
        let local = address::is_loopback(&url);
        let http = if local { builder.no_proxy() } else { builder }.build()?;
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let proxy = PROXIES.into_iter().find(|name| !local && is_set(name));
        Ok(Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            key: key.to_owned(),
            is_local: local,
            http,
            proxy,
        })
    }

    /// The API's base address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The key. It is never to be printed.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether requests go over HTTP without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }

    /// Whether requests stay on this machine.
    pub(crate) const fn is_local(&self) -> bool {
        self.is_local
    }

    /// GET of a path beside the API, such as `/readyz`, with whatever it answers. No key is sent: such paths ask for none.
    pub(crate) async fn glimpse(&self, path: &str, limit: Duration) -> Result<Glimpse, ApiError> {
        let request = self.http.get(format!("{}{path}", self.base)).timeout(limit);
        let answer = request.send().await.map_err(|error| self.unreachable(&error, limit))?;
        let status = answer.status().as_u16();
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let tls = answer.extensions().get::<reqwest::tls::TlsInfo>();
        let certificate = tls.and_then(|tls| tls.peer_certificate()).map(<[u8]>::to_vec);
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error, limit))?.to_vec();
        Ok(Glimpse { status, date, certificate, body })
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
            match page.get("items") {
                Some(Value::Array(list)) => items.extend(list.iter().cloned()),
                Some(Value::Null) => {}
                Some(_) | None => {
                    let why = "a list has no items".to_owned();
                    return Err(ApiError::Stranger { url: self.base.clone(), why });
                }
            }
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
        match self.answer(method, path, body, limit, &[]).await? {
            (status, body) if status.is_success() => Ok((status, body)),
            (status, body) => {
                let message = body["error"].as_str().unwrap_or_default().to_owned();
                Err(ApiError::Answer { status: status.as_u16(), message })
            }
        }
    }

    /// As [`Api::send_within`], with further headers; a refusal is an answer too, with all that its body says.
    pub(crate) async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
        headers: &[(&str, &str)],
    ) -> Result<(StatusCode, Value), ApiError> {
        let mut request = self.http.request(method, self.url(path)).bearer_auth(&self.key).timeout(limit);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error, limit))?;
        self.read(answer, limit).await
    }

    /// The stream of events behind `path`, as it comes; `last` is the last event's id. Ends when nothing, not even a sign of life, comes for
    /// a minute.
    pub(crate) async fn events(&self, path: &str, last: &str) -> Result<reqwest::Response, ApiError> {
        let mut request =
            self.http.get(self.url(path)).bearer_auth(&self.key).header("accept", "text/event-stream");
        if !last.is_empty() {
            request = request.header("last-event-id", last);
        }
        let sent = tokio::time::timeout(PATIENCE, request.send()).await;
        let answer = match sent {
            Ok(answer) => answer.map_err(|error| self.unreachable(&error, PATIENCE))?,
            Err(_) => {
                let why = format!("no answer within {} s", PATIENCE.as_secs());
                return Err(ApiError::Unreachable { url: self.base.clone(), why });
            }
        };
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let (status, body) = self.read(answer, PATIENCE).await?;
        if status.is_success() {
            return Err(self.stranger("it answers a stream with something else".to_owned()));
        }
        let message = body["error"].as_str().unwrap_or_default().to_owned();
        Err(ApiError::Answer { status: status.as_u16(), message })
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with('/') && !path.starts_with("/docs") {
            format!("{}/api/v1{path}", self.base)
        } else {
            format!("{}{path}", self.base)
        }
    }

    fn unreachable(&self, error: &reqwest::Error, limit: Duration) -> ApiError {
        let by = self.proxy.map(|name| format!(" (the environment names a proxy: {name})"));
        let why = format!("{}{}", root_cause(error, limit), by.unwrap_or_default());
        ApiError::Unreachable { url: self.base.clone(), why }
    }

    fn stranger(&self, why: String) -> ApiError {
        ApiError::Stranger { url: self.base.clone(), why }
    }

    /// Status and body of an answer; that of a failure says so in `error`.
    async fn read(
        &self,
        answer: reqwest::Response,
        limit: Duration,
    ) -> Result<(StatusCode, Value), ApiError> {
        let stranger = |why: String| self.stranger(why);
        let status = answer.status();
        if status.is_redirection() {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            return Err(stranger(format!("it redirects to {}", to.map_or("nowhere", |to| to))));
        }
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error, limit))?;
        let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice::<Value>(&bytes) };
        match body {
            Ok(body) if status.is_success() => Ok((status, body)),
            Ok(body) if body["error"].is_string() => Ok((status, body)),
            Ok(_) => Err(stranger(format!("HTTP {status} without an error message"))),
            Err(_) => Err(stranger(format!("HTTP {status}, and no JSON"))),
        }
    }
}

/// Whether a file says it: a variable in it that is not set is no value.
fn is_given(text: &str) -> bool {
    !text.is_empty() && !text.contains("${")
}

fn read_key(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read the API key {}", file.display()))
}

fn read_authorities(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let wrong = |problem: String| UsageError(format!("--ca-file {}: {problem}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let authorities =
        Certificate::from_pem_bundle(&bytes).map_err(|error| wrong(format!("is no PEM: {error}")))?;
    if authorities.is_empty() {
        return Err(wrong("holds no certificate; it must be PEM".to_owned()).into());
    }
    Ok(authorities)
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
    fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for key in ["", "two words", "sch\u{fc}ssel", "line\nbreak"] {
            let error = Api::new("http://127.0.0.1:1", key).unwrap_err();
            assert!(error.is::<UsageError>(), "{error}");
            assert!(key.is_empty() || !error.to_string().contains(key), "{error}");
        }
        Api::new("http://127.0.0.1:1", " hst_0123 \n").unwrap();
    }

    #[test]
    fn what_is_gone_is_told_from_a_path_that_is_none() {
        let answer = |status, message: &str| ApiError::Answer { status, message: message.to_owned() };
        assert!(answer(404, "zone \"x\" not found").is_not_found());
        assert!(!answer(404, "there is no such path; see /docs").is_not_found());
        assert!(!answer(409, "zone not found").is_not_found());
    }
}
