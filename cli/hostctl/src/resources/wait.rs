//! Until a resource is in effect, gone, or refused.

use std::time::Duration;

use hosting_resource::{KindInfo, Status};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::{Api, ApiError},
    kinds::item,
    output,
    progress::Progress,
};

/// Pauses between two looks: the first, and the longest of those that follow.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How waiting ended, with the resource as it was seen last.
#[derive(Debug, PartialEq)]
pub(super) enum Waited {
    Ready(Value),
    Late(Value),
    Rejected(Value),
}

/// Looks at the resource until it is settled. What was there and is there no more is ready: that is what its deletion was for.
/// A controller that restarts meanwhile is waited for as well.
pub(super) async fn until_settled(
    api: &Api,
    info: &KindInfo,
    id: &str,
    until: Instant,
    progress: &Progress,
) -> Result<Waited, ApiError> {
    let mut last = Value::Null;
    let mut pause = FIRST_PAUSE;
    loop {
        match api.get(&item(info, id)).await {
            Ok(one) => match standing(&one) {
                Standing::Settled => return Ok(Waited::Ready(one)),
                Standing::Rejected => return Ok(Waited::Rejected(one)),
                Standing::Open(what) => {
                    progress.waits_for(&what);
                    last = one;
                }
            },
            Err(error) if error.is_not_found() && !last.is_null() => {
                return Ok(Waited::Ready(json!({"id": id, "status": "deleted"})));
            }
            Err(ApiError::Unreachable { .. }) if Instant::now() < until && !last.is_null() => {
                progress.waits_for("the API does not answer");
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            return Ok(Waited::Late(last));
        }
        tokio::time::sleep_until((Instant::now() + pause).min(until)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[derive(Debug, PartialEq)]
enum Standing {
    Settled,
    Rejected,
    /// What is still to happen.
    Open(String),
}

/// Where a resource stands, by its status and its conditions.
fn standing(one: &Value) -> Standing {
    let status = one["status"].as_str().unwrap_or_default();
    let conditions = one["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    if status == Status::Failed.as_str() || conditions.iter().any(|one| one["status"] == "failed") {
        return Standing::Rejected;
    }
    let waiting: Vec<String> = conditions
        .iter()
        .filter(|one| one["status"] != "true")
        .map(|one| format!("{} {}", output::cell(&one["name"]), one["message"].as_str().unwrap_or_default()))
        .collect();
    if waiting.is_empty() && !Status::from_name(status).is_some_and(Status::is_open) {
        return Standing::Settled;
    }
    Standing::Open(if waiting.is_empty() { status.to_owned() } else { waiting.join("; ") })
}

/// Why it was rejected, as one sentence.
pub(super) fn reasons(one: &Value) -> String {
    let failed = one["conditions"].as_array().into_iter().flatten().filter(|one| one["status"] == "failed");
    let mut reasons: Vec<String> = failed
        .map(|one| format!("{}: {}", output::cell(&one["name"]), output::cell(&one["message"])))
        .collect();
    if reasons.is_empty() {
        reasons.push(output::cell(&one["status_message"]));
    }
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_settled_by_status_and_conditions_both() {
        let with = |status: &str, conditions: &[&str]| {
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|one| json!({"name": "site", "status": one, "message": "node web-1"}))
                .collect();
            standing(&json!({"status": status, "conditions": conditions}))
        };
        assert_eq!(with("active", &["true"]), Standing::Settled);
        assert_eq!(with("suspended", &[]), Standing::Settled);
        assert_eq!(with("active", &["true", "waiting"]), Standing::Open("site node web-1".to_owned()));
        assert_eq!(with("provisioning", &["true"]), Standing::Open("provisioning".to_owned()));
        assert_eq!(with("deleting", &[]), Standing::Open("deleting".to_owned()));
        assert_eq!(with("failed", &[]), Standing::Rejected);
        assert_eq!(with("converging", &["failed"]), Standing::Rejected);
        assert_eq!(reasons(&json!({"status_message": "no room"})), "no room");
    }
}
