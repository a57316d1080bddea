//! From steps to `POST /bulk`: the plan, the changes, and what became of each.

use std::{collections::BTreeMap, time::Duration};

use hosting_resource::KindInfo;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::steps::Step;
use crate::{
    api::{Api, ApiError},
    args::WaitArgs,
    resources::plan,
};

/// Changes that the API makes all or none, and plans together.
pub(super) const MOST_TOGETHER: usize = 1_000;
/// Of more, so many go in a call, and so many bytes.
const MOST_IN_A_CALL: (usize, usize) = (500, 4 << 20);
/// The longest that the API lets a request wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// What an answer may take beside the wait itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a call is sent again whose answer was not heard.
const TRIES: u32 = 3;
/// Pause before it is sent again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the API says of all steps together.
pub(super) enum Planned {
    Plan(Box<Value>),
    /// They are more than fit into one transaction.
    TooLarge,
}

/// What became of a step.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) step: usize,
    /// The result of its first item.
    pub(super) result: Value,
}

/// What became of all of them.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) done: Vec<Done>,
    /// The steps that were refused, each with why.
    pub(super) refused: Vec<(usize, ApiError)>,
    pub(super) revision: Option<u64>,
    /// Not in effect within the time limit.
    pub(super) late: bool,
    /// Who is waited for.
    pub(super) lagging: Vec<String>,
    /// Why the fleet rejected some of it.
    pub(super) rejected: Option<String>,
}

/// The items of a call, with the step of each.
fn items_of(steps: &[Step], range: std::ops::Range<usize>) -> (Vec<Value>, Vec<usize>) {
    let mut items = Vec::new();
    let mut of = Vec::new();
    for n in range {
        for op in &steps[n].ops {
            items.push(op.clone());
            of.push(n);
        }
    }
    (items, of)
}

/// Whether the request, or what it would write, is more than the API takes at once.
fn is_too_large(answer: &Value) -> bool {
    answer["type"].as_str().is_some_and(|problem| problem.ends_with("#problem-too-large"))
}

/// A refusal, with the step that is to blame.
fn refusal(steps: &[Step], of: &[usize], status: StatusCode, answer: &Value) -> (Option<usize>, ApiError) {
    let step = answer["item"].as_u64().and_then(|item| of.get(usize::try_from(item).ok()?)).copied();
    (step, error_of(step.and_then(|step| steps.get(step)), status.as_u16(), answer))
}

fn error_of(step: Option<&Step>, status: u16, problem: &Value) -> ApiError {
    let words =
        problem["error"].as_str().or_else(|| problem["detail"].as_str()).unwrap_or("no reason is given");
    let remedies = problem["errors"].as_array().into_iter().flatten();
    let remedies: Vec<&str> =
        remedies.filter_map(|one| one["remedy"].as_str()).filter(|remedy| !words.contains(remedy)).collect();
    let remedy = if remedies.is_empty() { String::new() } else { format!("; {}", remedies.join("; ")) };
    let about = step.map(|step| {
        let place = step.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        format!("{place}{} {}: ", step.verb.as_str(), step.what())
    });
    let hint = match status {
        412 => "; somebody else changed it since it was read: run it again to see how it stands now",
        _ => "",
    };
    ApiError::Answer { status, message: format!("{}{words}{remedy}{hint}", about.unwrap_or_default()) }
}

/// Asks what the steps would do.
///
/// # Errors
/// What the API refuses, with the step that is to blame.
pub(super) async fn planned(api: &Api, steps: &[Step]) -> Result<Planned, ApiError> {
    let (items, of) = items_of(steps, 0..steps.len());
    if items.len() > MOST_TOGETHER {
        return Ok(Planned::TooLarge);
    }
    let body = json!({"items": items});
    let (status, answer) = api.answer(Method::POST, "/bulk?dry_run=true", Some(&body), PATIENCE, &[]).await?;
    if status.is_success() {
        return Ok(Planned::Plan(Box::new(answer)));
    }
    if is_too_large(&answer) {
        return Ok(Planned::TooLarge);
    }
    Err(refusal(steps, &of, status, &answer).1)
}

/// Makes the changes: all or none when they were `planned` together, else in several calls, until something is refused.
///
/// # Errors
/// When nothing was done: what the API refuses. What fails after that is in the answer.
pub(super) async fn changes(
    api: &Api,
    steps: &[Step],
    is_atomic: bool,
    wait: &WaitArgs,
    confirm: Option<u64>,
) -> Result<Sent, ApiError> {
    let mut sent = Sent::default();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut from = 0;
    while from < steps.len() {
        let to = if is_atomic { steps.len() } else { end_of_call(steps, from) };
        let (mut items, of) = items_of(steps, from..to);
        items.iter_mut().for_each(|item| put_known(item, &known));
        let (status, answer) = call(api, items, is_atomic, wait, confirm).await.or_else(|error| {
            if sent.done.is_empty() {
                return Err(error);
            }
            sent.refused.push((from, error));
            Ok((StatusCode::OK, Value::Null))
        })?;
        // A fleet that rejects what was changed answers with the results all the same.
        let Some(results) = answer["results"].as_array() else {
            if sent.refused.is_empty() {
                let (step, error) = refusal(steps, &of, status, &answer);
                if sent.done.is_empty() {
                    return Err(error);
                }
                sent.refused.push((step.unwrap_or(from), error));
            }
            return Ok(sent);
        };
        note(&mut sent, steps, &of, results, &mut known);
        sent.revision = answer["revision"].as_u64().or(sent.revision);
        sent.late |= status == StatusCode::ACCEPTED;
        let names = |field: &str| answer[field].as_array().into_iter().flatten();
        sent.lagging.extend(
            names("lagging").chain(names("not_serving")).filter_map(|one| one.as_str().map(str::to_owned)),
        );
        if status == StatusCode::CONFLICT {
            sent.rejected = Some(answer["error"].as_str().unwrap_or("the fleet rejected it").to_owned());
        }
        if !sent.refused.is_empty() || sent.rejected.is_some() {
            break;
        }
        from = to;
    }
    Ok(sent)
}

fn end_of_call(steps: &[Step], from: usize) -> usize {
    let (mut bytes, mut items, mut to) = (0, 0, from);
    for step in steps.iter().skip(from) {
        bytes += step.ops.iter().map(|op| op.to_string().len()).sum::<usize>();
        items += step.ops.len();
        if to > from && (items > MOST_IN_A_CALL.0 || bytes > MOST_IN_A_CALL.1) {
            break;
        }
        to += 1;
    }
    to
}

/// Puts the ids of what earlier calls made in the place of references to it.
fn put_known(value: &mut Value, known: &BTreeMap<String, String>) {
    let id = value["$id"].as_str().and_then(|name| known.get(name)).filter(|_| value.is_object());
    if let Some(id) = id {
        *value = json!(id);
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| put_known(item, known)),
        Value::Object(fields) => fields.values_mut().for_each(|field| put_known(field, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Sends a call; one whose answer is not heard is sent again, and done once.
async fn call(
    api: &Api,
    items: Vec<Value>,
    is_atomic: bool,
    wait: &WaitArgs,
    confirm: Option<u64>,
) -> Result<(StatusCode, Value), ApiError> {
    let mut path = if is_atomic { "/bulk?atomic=true".to_owned() } else { "/bulk".to_owned() };
    let mut limit = PATIENCE;
    if let Some(until) = wait.wait {
        let seconds = wait.timeout.min(LONGEST_WAIT).as_secs().max(1);
        path = plan::with(&path, &format!("wait={}&wait_timeout={seconds}", until.as_str()));
        limit += Duration::from_secs(seconds);
    }
    let path = plan::confirmed(&path, confirm);
    let key = format!("hostctl-apply-{:032x}", rand::random::<u128>());
    let body = json!({"items": items});
    let mut tries = 1;
    loop {
        let headers = [("idempotency-key", key.as_str())];
        match api.answer(Method::POST, &path, Some(&body), limit, &headers).await {
            Err(ApiError::Unreachable { .. }) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

fn note(
    sent: &mut Sent,
    steps: &[Step],
    of: &[usize],
    results: &[Value],
    known: &mut BTreeMap<String, String>,
) {
    for result in results {
        let Some(step) = result["index"].as_u64().and_then(|n| of.get(usize::try_from(n).ok()?)).copied()
        else {
            continue;
        };
        if let Some((name, id)) = result["name"].as_str().zip(result["id"].as_str()) {
            known.insert(name.to_owned(), id.to_owned());
        }
        match result.get("problem").filter(|problem| !problem.is_null()) {
            Some(problem) => {
                let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
                sent.refused.push((step, error_of(steps.get(step), status.unwrap_or(500), problem)));
            }
            None if sent.done.last().is_some_and(|done| done.step == step) => {}
            None => sent.done.push(Done { step, result: result.clone() }),
        }
    }
}

/// What is shown this once of a new one, as `NAME: VALUE`.
pub(super) fn shown_once(info: &KindInfo, done: &Done) -> Vec<String> {
    let once = done.result["once"].as_object().into_iter().flatten();
    let id = done.result["id"].as_str().unwrap_or_default();
    once.filter_map(|(name, value)| {
        Some(format!("{} {id}: {name} (shown this once): {}", info.dashed(), value.as_str()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_earlier_calls_take_the_place_of_references() {
        let known = BTreeMap::from([("item-1".to_owned(), "web_1".to_owned())]);
        let mut item =
            json!({"parent": {"$id": "item-1"}, "body": {"a": [{"$id": "item-1"}], "b": {"$id": "item-2"}}});
        put_known(&mut item, &known);
        assert_eq!(item, json!({"parent": "web_1", "body": {"a": ["web_1"], "b": {"$id": "item-2"}}}));
    }
}
