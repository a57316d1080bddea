//! Tells the place that the operator set (`webhook.critical.url`, `webhook.escalated.url`) of an incident that is critical, or was escalated.
//!
//! The setting is read when it is posted: whoever takes it away gets nothing more, and its URL, which may hold a token, is in no job.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_resource::timestamp;
use hosting_store::{Incident, NewJob, Store, StoreError, WriteTx};
use reqwest::header;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::outgoing::{CallbackRules, Forbidden, chain, client, is_forbidden};
use crate::pace::Rate;

/// The whole exchange with the receiver.
const EXCHANGE: Duration = Duration::from_secs(30);
/// As the reference has it.
const ATTEMPTS: u32 = 3;

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// It is new, and critical.
    Critical,
    /// Somebody escalated it.
    Escalated,
}

impl Trigger {
    const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Escalated => "escalated",
        }
    }
}

/// Which incident, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NoticeParams {
    /// Id of the incident.
    pub incident: String,
    /// Why.
    pub trigger: Trigger,
}

/// The kind.
pub struct IncidentNotice {
    store: Store,
    rules: CallbackRules,
    /// Why there is no client: certificate authorities that cannot be read.
    http: Result<reqwest::Client, String>,
}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    let http = client(&deps.callbacks, EXCHANGE);
    Arc::new(IncidentNotice { store: deps.store.clone(), rules: deps.callbacks.clone(), http })
}

/// Enqueues a notice in the transaction of what happened to the incident, if the operator set a place for it; whether one was enqueued.
///
/// # Errors
/// When the store fails.
pub async fn enqueue(tx: &mut WriteTx, incident: &Incident, trigger: Trigger) -> Result<bool, StoreError> {
    if setting(&tx.beside().platform_config().await?, trigger, "url").is_none() {
        return Ok(false);
    }
    let params = NoticeParams { incident: incident.id.clone(), trigger };
    let params = serde_json::to_value(params)
        .map_err(|error| StoreError::Row(format!("parameters of a notice: {error}").into()))?;
    let job = NewJob {
        kind: IncidentNotice::FACTS.name.to_owned(),
        subject: incident.id.clone(),
        lane: format!("incident/{}", incident.id),
        brand: incident.brand.clone(),
        params,
        due_at: hosting_planner::Draft::now(tx),
        attempt_limit: ATTEMPTS,
        waits: Vec::new(),
    };
    tx.enqueue_job(job).await?;
    Ok(true)
}

fn setting(config: &[(String, String)], trigger: Trigger, part: &str) -> Option<String> {
    let name = format!("webhook.{}.{part}", trigger.name());
    config
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.clone())
        .filter(|value| !value.is_empty())
}

/// What is posted: the incident as it is, or a message as Slack shows it.
fn body(incident: &Incident, trigger: Trigger, template: &str) -> Value {
    if template == "slack" {
        let head = format!("{}: {}", trigger.name(), incident.title);
        let about = incident.resource_id.as_deref().unwrap_or("-");
        let text = format!(
            "*{}* ({}, {})\n{}\nabout: {about}, from: {}, incident: {}",
            escaped(&head),
            escaped(&incident.severity),
            escaped(&incident.status),
            escaped(&incident.detail),
            escaped(&incident.source),
            incident.id
        );
        let section = json!({"type": "section", "text": {"type": "mrkdwn", "text": shortened(&text, 3_000)}});
        return json!({"text": shortened(&escaped(&head), 1_000), "blocks": [section]});
    }
    json!({
        "event": format!("incident.{}", trigger.name()),
        "incident": {
            "id": incident.id,
            "type": incident.incident_type,
            "severity": incident.severity,
            "status": incident.status,
            "title": incident.title,
            "detail": incident.detail,
            "resource_type": incident.resource_type,
            "resource_id": incident.resource_id,
            "source": incident.source,
            "assigned_to": incident.assigned_to,
            "detected_at": timestamp(incident.detected_at),
        },
    })
}

/// Slack takes these three for the begin of links, mentions and entities.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[async_trait]
impl JobKind for IncidentNotice {
    type Params = NoticeParams;

    const FACTS: KindFacts = KindFacts {
        name: "incident_notice",
        about: "Tells the operator's place of an incident that is critical or was escalated.",
        steps: &["post"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        Limits {
            attempts: ATTEMPTS,
            backoff: Backoff { first: 2_000, most: 30_000 },
            rate: Rate { each: Duration::from_millis(100), burst: 20 },
            at_once: 8,
            step_time: EXCHANGE + Duration::from_secs(5),
        }
    }

    fn show(params: &NoticeParams) -> Value {
        json!({"incident_id": params.incident, "trigger": params.trigger})
    }

    async fn step(&self, at: At<'_, NoticeParams>) -> Result<Went, Failure> {
        let NoticeParams { incident, trigger } = at.params;
        let later = |error: StoreError| Failure::later(error.to_string());
        let mut tx = self.store.read().await.map_err(later)?;
        let config = tx.platform_config().await.map_err(later)?;
        let incident = tx.incident(incident).await.map_err(later)?;
        drop(tx);
        let incident = incident.ok_or_else(|| Failure::finally("there is no such incident any more"))?;
        let Some(url) = setting(&config, *trigger, "url") else {
            return Ok(Went::Done(json!({"told": false})));
        };
        let url = self.rules.check(&url).map_err(|why| Failure::finally(format!("the URL {why}")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let http =
            self.http.as_ref().map_err(|why| Failure::later(format!("nothing can be posted: {why}")))?;
        let template = setting(&config, *trigger, "template").unwrap_or_default();
        let text = body(&incident, *trigger, &template).to_string();
        let sent = http.post(url).header(header::CONTENT_TYPE, "application/json").body(text).send().await;
        // The body of the answer is never read: the connection ends with it.
        match sent.map(|answer| answer.status()) {
            Ok(code) if code.is_success() => Ok(Went::Done(json!({"answer": code.as_u16()}))),
            Ok(code) if code.is_server_error() => Err(Failure::unsure(format!("{host} answered {code}"))),
            Ok(code) => Err(Failure::finally(format!("{host} answered {code}"))),
            Err(error) if is_forbidden(&error) => Err(Failure::finally(format!("{host}: {Forbidden}"))),
            Err(error) => Err(Failure::unsure(format!("{host}: {}", chain(&error.without_url())))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident() -> Incident {
        Incident {
            id: "inc_1".into(),
            severity: "critical".into(),
            status: "open".into(),
            title: "disk <full> & more".into(),
            detail: "x".repeat(5_000),
            ..Incident::default()
        }
    }

    #[test]
    fn bodies_are_the_references_and_slacks() {
        let generic = body(&incident(), Trigger::Critical, "generic");
        assert_eq!(
            (&generic["event"], &generic["incident"]["id"]),
            (&json!("incident.critical"), &json!("inc_1"))
        );
        let slack = body(&incident(), Trigger::Escalated, "slack");
        assert_eq!(slack["text"], "escalated: disk &lt;full&gt; &amp; more");
        assert!(slack["blocks"][0]["text"]["text"].as_str().unwrap().chars().count() <= 3_000);
    }
}
