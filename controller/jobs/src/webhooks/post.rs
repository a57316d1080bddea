//! One attempt at one receiver: within its time, to where the rules allow, reading no more of its answer than is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_resource::SecretPlace;
use hosting_resource::kinds::webhook::WebhookSpec;
use hosting_store::{Store, StoreError};
use reqwest::{Response, StatusCode, Url, header};

use super::receiver::{Attempt, Verdict};
use crate::outgoing::{CallbackRules, Forbidden, HostPlace, Hosts, Signer, chain, is_forbidden};

/// Bytes of an answer that are kept.
const ANSWER: usize = 512;

/// What posting takes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Poster {
    pub(super) store: Store,
    pub(super) rules: CallbackRules,
    pub(super) http: Result<reqwest::Client, String>,
    pub(super) hosts: Hosts,
    /// How long all of an attempt may take.
    pub(super) limit: Duration,
}

impl Poster {
    /// A place among the exchanges with a webhook's host, to be held while it is posted to; `None`: all are taken now.
    pub(super) fn place(&self, spec: &WebhookSpec) -> Option<HostPlace> {
        let host = Url::parse(&spec.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        self.hosts.take(&host.unwrap_or_default())
    }

    /// Posts a message to a webhook.
    pub(super) async fn post(
        &self,
        webhook: &str,
        spec: Arc<WebhookSpec>,
        id: &str,
        body: String,
    ) -> Attempt {
        let (began, started) = (self.store.now(), Instant::now());
        // The client has a limit of its own; opening secrets has not.
        let exchange = tokio::time::timeout(self.limit, self.exchange(webhook, &spec, id, body));
        let (verdict, response_status, answer, error) = match exchange.await {
            Ok(ended) => ended,
            Err(_) => (Verdict::Later, None, None, Some(format!("no answer within {:?}", self.limit))),
        };
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Attempt { verdict, began, duration_ms, response_status, answer, error }
    }

    async fn exchange(
        &self,
        webhook: &str,
        spec: &WebhookSpec,
        id: &str,
        body: String,
    ) -> (Verdict, Option<u16>, Option<String>, Option<String>) {
        let failed = |verdict, why: String| (verdict, None, None, Some(why));
        // The rules of today: the operator may have closed what was open when the URL was given.
        let url = match self.rules.check(&spec.url) {
            Ok(url) => url,
            Err(why) => return failed(Verdict::Refused, format!("the URL {why}")),
        };
        let http = match &self.http {
            Ok(http) => http,
            Err(why) => return failed(Verdict::Later, format!("nothing can be posted: {why}")),
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        let signer = match self.signer(webhook, spec).await {
            Ok(signer) => signer,
            Err(error) => return failed(Verdict::Later, error.to_string()),
        };
        let timestamp = self.store.now().div_euclid(1_000);
        let signature = signer.sign(id, timestamp, body.as_bytes());
        let sent = http
            .post(url)
            .timeout(self.limit)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let code = response.status();
                let (verdict, why) = judged(code);
                (verdict, Some(code.as_u16()), first_bytes(response).await, why)
            }
            Err(error) if is_forbidden(&error) => failed(Verdict::Refused, format!("{host}: {Forbidden}")),
            Err(error) => failed(Verdict::Later, format!("{host}: {}", chain(&error.without_url()))),
        }
    }

    async fn signer(&self, webhook: &str, spec: &WebhookSpec) -> Result<Signer, StoreError> {
        let unreadable = || StoreError::Row("a webhook's secret cannot be read".into());
        let mut secrets = Vec::new();
        for (path, secret) in spec.signing(self.store.now()) {
            // Webhooks are no tenant's.
            let place = SecretPlace { tenant: None, resource: webhook.to_owned(), path: path.to_owned() };
            let sealed = secret.sealed().ok_or_else(unreadable)?;
            secrets.push(self.store.open_secret(&place, sealed).await?.ok_or_else(unreadable)?);
        }
        let texts: Option<Vec<&str>> =
            secrets.iter().map(|secret| std::str::from_utf8(secret.expose()).ok()).collect();
        Signer::of(texts.ok_or_else(unreadable)?.into_iter()).ok_or_else(unreadable)
    }
}

/// What an answer means. 408, 425 and 429 say "not now" (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4).
fn judged(code: StatusCode) -> (Verdict, Option<String>) {
    let why = Some(format!("the receiver answered {code}"));
    match code {
        code if code.is_success() => (Verdict::Taken, None),
        StatusCode::GONE => (Verdict::Gone, why),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            (Verdict::Later, why)
        }
        code if code.is_server_error() => (Verdict::Later, why),
        code if code.is_redirection() => {
            (Verdict::Refused, Some(format!("the receiver answered {code}; redirects are not followed")))
        }
        _ => (Verdict::Refused, why),
    }
}

/// The beginning of an answer as text that any database takes. The rest is not read: the connection ends with the answer.
async fn first_bytes(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend(chunk.iter().take(ANSWER - bytes.len()));
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (code, verdict) in [
            (200, Verdict::Taken),
            (204, Verdict::Taken),
            (301, Verdict::Refused),
            (400, Verdict::Refused),
            (404, Verdict::Refused),
            (408, Verdict::Later),
            (410, Verdict::Gone),
            (425, Verdict::Later),
            (429, Verdict::Later),
            (500, Verdict::Later),
            (503, Verdict::Later),
        ] {
            assert_eq!(judged(StatusCode::from_u16(code).unwrap()).0, verdict, "{code}");
        }
    }
}
