//! Tells a client that its change is complete: POSTs to the `X-Callback-URL` of the request, signed, until the receiver takes it.
//!
//! A delivery that may have reached the receiver is sent again under the same `webhook-id`, by which the receiver knows it: HTTP gives
//! nobody to ask.

mod signing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_resource::Status;
use hosting_store::{JobWait, NewJob, Store, StoreError, WriteTx};
use reqwest::{StatusCode, Url, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use self::signing::{OVERLAP, rotate};
use super::JobDeps;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
pub use crate::outgoing::{CallbackRules, OwnAddresses};
use crate::outgoing::{Forbidden, Hosts, chain, client, is_forbidden};
use crate::pace::Rate;

/// A change that is not complete after so long is told as such, in milliseconds.
const DEADLINE: i64 = 7 * 24 * 3_600_000;
/// The whole exchange with the receiver.
const EXCHANGE: Duration = Duration::from_secs(30);
/// What is sent to a host that has its share waits for so many seconds, and up to twice as many.
const HOST_BUSY: u64 = 5;

/// The kind.
pub struct Callback {
    store: Store,
    rules: CallbackRules,
    /// Why there is no client: certificate authorities that cannot be read.
    http: Result<reqwest::Client, String>,
    /// Deliveries under way, by host.
    hosts: Hosts,
}

/// What is delivered, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallbackParams {
    /// Checked by [`CallbackRules::check`] when it was given. It may hold a token, so only its origin is shown.
    pub url: String,
    /// The API key whose secret signs.
    pub key: String,
    /// Kind of the resource that the request was about, e.g. `tenant`.
    pub resource_type: String,
    /// Its id as clients know it.
    pub resource_id: String,
    /// Its id as the store knows it.
    pub stored_id: String,
}

/// A callback to enqueue with the change that it is about.
#[derive(Debug, Clone)]
pub struct NewCallback {
    /// What is delivered, and where.
    pub params: CallbackParams,
    /// Brand whose keys may see the job.
    pub brand: Option<String>,
    /// Resources that the change is complete with: ids as the store knows them.
    pub waits: Vec<String>,
}

/// Enqueues a callback in the transaction of the change; the job's id. One URL learns what became of one resource in order.
///
/// # Errors
/// When the store fails.
pub async fn enqueue(
    tx: &mut WriteTx,
    new: NewCallback,
    rules: &CallbackRules,
) -> Result<String, StoreError> {
    let NewCallback { params, brand, waits } = new;
    let digest = hex::encode(Sha256::digest(params.url.as_bytes()));
    let lane = format!("callback/{}/{}", params.stored_id, digest.get(..16).unwrap_or_default());
    let due_at = hosting_planner::Draft::now(tx).saturating_add(DEADLINE);
    let subject = params.resource_id.clone();
    let params = serde_json::to_value(params)
        .map_err(|error| StoreError::Row(format!("parameters of a callback: {error}").into()))?;
    let job = NewJob {
        kind: Callback::FACTS.name.to_owned(),
        subject,
        lane,
        brand,
        params,
        due_at,
        attempt_limit: rules.attempts,
        waits,
    };
    tx.enqueue_job(job).await
}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    let http = client(&deps.callbacks, EXCHANGE);
    if let Err(why) = &http {
        tracing::error!(%why, "callbacks cannot be delivered");
    }
    Arc::new(Callback {
        store: deps.store.clone(),
        rules: deps.callbacks.clone(),
        http,
        hosts: Hosts::default(),
    })
}

/// What became of the change. `None` while something of it has not come to an end.
fn outcome(params: &CallbackParams, waits: &[JobWait]) -> Option<(String, Option<String>)> {
    let failed = Status::Failed.as_str();
    if let Some(wait) = waits.iter().find(|wait| wait.status.as_deref() == Some(failed)) {
        let message = wait.message.clone().unwrap_or_default();
        let own = wait.resource == params.stored_id;
        let message = if own { message } else { format!("{}: {message}", wait.resource) };
        return Some((failed.to_owned(), Some(message)));
    }
    if waits.iter().any(|wait| wait.status.is_none()) {
        return None;
    }
    let own = waits.iter().find(|wait| wait.resource == params.stored_id);
    let status = own.or(waits.first()).and_then(|wait| wait.status.clone());
    Some((status.unwrap_or_else(|| Status::Active.as_str().to_owned()), None))
}

/// What the receiver gets. The reference says these names.
#[derive(Serialize)]
struct Told<'c> {
    resource_type: &'c str,
    resource_id: &'c str,
    status: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_message: Option<String>,
}

fn body(params: &CallbackParams, status: &str, status_message: Option<String>) -> Result<Vec<u8>, Failure> {
    let CallbackParams { resource_type, resource_id, .. } = params;
    let told = Told { resource_type, resource_id, status, status_message };
    serde_json::to_vec(&told)
        .map_err(|error| Failure::finally(format!("the body cannot be written: {error}")))
}

#[async_trait]
impl JobKind for Callback {
    type Params = CallbackParams;

    const FACTS: KindFacts = KindFacts {
        name: "callback",
        about: "Tells a client that its change is complete, at the URL that it gave with the request.",
        steps: &["deliver"],
        undoes: false,
    };

    /// Twelve attempts take some two and a half hours.
    fn limits(&self) -> Limits {
        Limits {
            attempts: self.rules.attempts,
            backoff: Backoff { first: 5_000, most: 3_600_000 },
            rate: Rate { each: Duration::from_millis(5), burst: 200 },
            at_once: 128,
            step_time: EXCHANGE + Duration::from_secs(5),
        }
    }

    fn show(params: &CallbackParams) -> Value {
        let origin =
            Url::parse(&params.url).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        json!({
            "to": origin, "api_key_id": params.key, "resource_type": params.resource_type,
            "resource_id": params.resource_id,
        })
    }

    async fn step(&self, at: At<'_, CallbackParams>) -> Result<Went, Failure> {
        let params = at.params;
        let Some((status, message)) = outcome(params, at.waits) else {
            return Err(Failure::finally("the change was not complete within 7 days; nothing was sent"));
        };
        // The rules of today: the operator may have closed what was open when the URL was given.
        let url = self.rules.check(&params.url).map_err(|why| Failure::finally(format!("the URL {why}")))?;
        let http =
            self.http.as_ref().map_err(|why| Failure::later(format!("no callback can be sent: {why}")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let Some(_place) = self.hosts.take(&host) else {
            let seconds = HOST_BUSY + rand::random::<u64>() % (HOST_BUSY + 1);
            return Ok(Went::Postponed(Duration::from_secs(seconds)));
        };
        let signer = signing::signer(&self.store, &params.key).await;
        let signer = signer.map_err(|error| Failure::later(error.to_string()))?;
        let body = body(params, &status, message)?;
        let timestamp = self.store.now().div_euclid(1_000);
        let signature = signer.sign(&at.job.id, timestamp, &body);
        let sent = http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &at.job.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await;
        // The body of the answer is never read: the connection ends with it.
        match sent.map(|answer| answer.status()) {
            Ok(code) if code.is_success() => {
                Ok(Went::Done(json!({"status": status, "answer": code.as_u16()})))
            }
            Ok(code) => Err(refused(code)),
            Err(error) if is_forbidden(&error) => Err(Failure::finally(format!("{host}: {Forbidden}"))),
            Err(error) => Err(Failure::unsure(format!("{host}: {}", chain(&error.without_url())))),
        }
    }
}

/// 4xx is final, except where the receiver says "not now" (RFC 9110 §15.5.9, RFC 6585 §4, RFC 8470 §5.2); 5xx is tried again.
fn refused(code: StatusCode) -> Failure {
    let why = format!("the receiver answered {code}");
    let later = code.is_server_error()
        || code == StatusCode::REQUEST_TIMEOUT
        || code == StatusCode::TOO_MANY_REQUESTS
        || code == StatusCode::TOO_EARLY;
    if later {
        Failure::unsure(why)
    } else if code.is_redirection() {
        Failure::finally(format!("{why}; redirects are not followed"))
    } else {
        Failure::finally(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> CallbackParams {
        CallbackParams {
            url: "https://crm.example:8443/hook/secret-path?token=secret".into(),
            key: "key_1".into(),
            resource_type: "tenant".into(),
            resource_id: "t_1".into(),
            stored_id: "t_1".into(),
        }
    }

    fn wait(resource: &str, status: Option<&str>) -> JobWait {
        let message = (status == Some("failed")).then(|| "no room".to_owned());
        JobWait { resource: resource.into(), status: status.map(str::to_owned), message }
    }

    #[test]
    fn the_body_says_what_became_of_the_change() {
        let told = |waits: &[JobWait]| {
            let (status, message) = outcome(&params(), waits)?;
            Some(String::from_utf8(body(&params(), &status, message).unwrap()).unwrap())
        };
        assert_eq!(
            told(&[wait("t_1", Some("active")), wait("w_1", Some("active"))]).unwrap(),
            r#"{"resource_type":"tenant","resource_id":"t_1","status":"active"}"#
        );
        assert_eq!(
            told(&[wait("t_1", Some("deleted"))]).unwrap(),
            r#"{"resource_type":"tenant","resource_id":"t_1","status":"deleted"}"#
        );
        assert_eq!(told(&[wait("t_1", Some("active")), wait("w_1", None)]), None);
        let failed = told(&[wait("t_1", None), wait("w_1", Some("failed"))]).unwrap();
        assert!(failed.ends_with(r#""status":"failed","status_message":"w_1: no room"}"#), "{failed}");
    }

    #[test]
    fn of_the_url_only_its_origin_is_shown() {
        let shown = Callback::show(&params()).to_string();
        assert!(shown.contains("https://crm.example:8443") && !shown.contains("secret"), "{shown}");
    }
}
