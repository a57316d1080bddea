//! `POST /bulk`: many changes in one call, in order, each one the change that it would be alone (ADR 26).
//!
//! Items are read one by one from their texts, so that a call takes no more memory than its bytes and what is under way. Not atomic, each
//! item is a mutation of its own in the key's lane: other keys' changes come between, and the writer commits what waits together. Atomic,
//! all are one mutation.

mod atomic;
mod each;
mod item;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use hosting_intent::Audience;
use hosting_resource::public_id;
use hosting_store::AuditEntry;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use self::item::{Ids, refers};
use crate::audit::{bounded, entry};
use crate::bodies::bulk::{BulkDone, BulkItem, BulkResult, MAX_ITEMS};
use crate::preconditions::Preconditions;
use crate::prepare::Prepared;
use crate::query::{ATOMIC, DRY_RUN, SERVED};
use crate::route::Route;
use crate::service::{Call, Caller, Failure, LARGE, Reply, to_json};
use crate::wait::{Look, Waited, lagging};
use crate::write::{Body, Done, MAX_DESCRIBED, RETRY_AFTER};
use crate::{Api, ApiError, Principal};

/// Resources that are waited for together: what is ready is not looked at again.
const WAITED_TOGETHER: usize = 50;

/// What all items of a call share.
pub(super) struct Bulk {
    routes: Vec<Arc<Route>>,
    principal: Principal,
    traceparent: String,
    caller: Caller,
    idempotency_key: Option<String>,
    is_atomic: bool,
    /// Largest item, in bytes.
    most: usize,
}

/// What became of the items.
#[derive(Default)]
struct Ended {
    results: Vec<BulkResult>,
    /// Ids of the resources that the changes are complete with.
    wait: Vec<String>,
    /// What of whom was changed at which revisions.
    audiences: Vec<(Audience, u64)>,
    /// A job was written.
    rings: bool,
    replayed: bool,
}

impl Ended {
    fn revision(&self) -> Option<u64> {
        self.results.iter().filter_map(|result| result.revision).max()
    }

    fn refused(&self) -> u64 {
        self.results.iter().filter(|result| result.problem.is_some()).count() as u64
    }
}

impl Api {
    /// Carries out the items of a call.
    pub(crate) async fn bulk(&self, call: Call, path: &str) -> Result<Reply, Failure> {
        if call.conditions != Preconditions::default() {
            return Err(
                ApiError::invalid("If-Match", "is given with each item, as if_match; leave it out").into()
            );
        }
        let items = envelope(call.raw.clone()).await?;
        let is_atomic = call.query.text(ATOMIC) == Some("true");
        let is_plan = call.query.text(DRY_RUN) == Some("true");
        for (name, bounds) in [(ATOMIC, is_atomic), (DRY_RUN, is_plan), ("wait", call.wait.is_some())] {
            if bounds && items.len() > MAX_DESCRIBED {
                let problem = format!("is possible with {MAX_DESCRIBED} items at most; send fewer at a time");
                return Err(ApiError::invalid(name, problem).into());
            }
        }
        if items.len() > LARGE.1 {
            self.take_turn(&call).await?;
        }
        let bulk = Arc::new(Bulk {
            routes: self.routes().to_vec(),
            principal: call.principal.clone(),
            traceparent: call.traceparent.clone(),
            caller: call.caller.clone(),
            idempotency_key: call.idempotency_key.clone(),
            is_atomic: is_atomic || is_plan,
            most: self.body_limit(),
        });
        if is_plan {
            // As of any change: what was tried with foreign things is kept, everything else was a question.
            let kept = |error: ApiError| Failure { audited: error.status != StatusCode::FORBIDDEN, error };
            return self.plan_bulk(call, bulk, items).await.map_err(kept);
        }
        let place = match call.wait {
            Some(_) => Some(self.waiting_place(&call.principal)?),
            None => None,
        };
        let call = Arc::new(call);
        let ended = if is_atomic {
            self.all_or_none(&call, bulk, items, path).await?
        } else {
            self.each(&call, bulk, items, path).await
        };
        call.end_turn();
        if ended.rings {
            self.job_bell().ring();
        }
        let reply = self.answer_bulk(&call, ended).await;
        drop(place);
        // The changes are on disk and their rows with them, whatever became of the answer.
        reply.map_err(|error| Failure { error, audited: true })
    }

    async fn answer_bulk(&self, call: &Call, ended: Ended) -> Result<Reply, ApiError> {
        let (refused, revision, replayed) = (ended.refused(), ended.revision(), ended.replayed);
        let mut body = BulkDone {
            done: ended.results.len() as u64 - refused,
            refused,
            revision,
            results: ended.results,
            lagging: None,
            not_serving: None,
            reasons: None,
        };
        let mut status = StatusCode::OK;
        let mut rejected = None;
        if let Some(limit) = call.wait {
            let proof = (call.query.text("wait") == Some(SERVED)).then_some(ended.audiences);
            let is_proof = proof.is_some();
            let (waited, missing) = self.until_all_ready(&ended.wait, limit, proof).await?;
            let looks = match waited {
                Waited::Ready(looks) => looks,
                Waited::Late(looks) => {
                    status = StatusCode::ACCEPTED;
                    looks
                }
                Waited::Rejected(looks, reasons) => {
                    status = StatusCode::CONFLICT;
                    rejected =
                        Some(ApiError::conflict(format!("the fleet rejected it: {}", reasons.join("; "))));
                    body.reasons = Some(reasons);
                    looks
                }
            };
            body.lagging = Some(lagging(&looks));
            body.not_serving = is_proof.then_some(missing);
        }
        let mut body = to_json(&body)?;
        if let (Some(rejected), Value::Object(fields)) = (rejected, &mut body) {
            fields.extend(rejected.members());
        }
        let retry_after = (status == StatusCode::ACCEPTED).then_some(RETRY_AFTER);
        Ok(Reply { status, revision, retry_after, replayed, ..Reply::json(200, body) })
    }

    /// [`Api::until_ready`] for more than can be looked at together: some after others, so that each is looked at until it is ready and not
    /// again.
    async fn until_all_ready(
        &self,
        ids: &[String],
        limit: Duration,
        proof: Option<Vec<(Audience, u64)>>,
    ) -> Result<(Waited, Vec<String>), ApiError> {
        let deadline = Instant::now() + limit;
        let (mut all, mut late, mut missing): (Vec<Look>, bool, Vec<String>) =
            (Vec::new(), false, Vec::new());
        // With nothing to wait for there may still be something to be proven.
        let none: &[String] = &[];
        let together = if ids.is_empty() { vec![none] } else { ids.chunks(WAITED_TOGETHER).collect() };
        for some in together {
            let left = deadline.saturating_duration_since(Instant::now());
            let (waited, not_serving) = self.until_ready(some, left, proof.clone()).await?;
            missing.extend(not_serving);
            match waited {
                Waited::Ready(looks) => all.extend(looks),
                Waited::Late(looks) => {
                    late = true;
                    all.extend(looks);
                }
                Waited::Rejected(looks, reasons) => {
                    all.extend(looks);
                    return Ok((Waited::Rejected(all, reasons), Vec::new()));
                }
            }
        }
        missing.sort();
        missing.dedup();
        Ok((if late { Waited::Late(all) } else { Waited::Ready(all) }, missing))
    }
}

impl Api {
    /// What can be told of an item before it is its turn to be written, so that bodies are checked beside the writer. Of one that refers to
    /// others nothing can.
    async fn before_its_turn(
        &self,
        bulk: &Bulk,
        index: usize,
        item: &BulkItem,
        ids: &Ids,
    ) -> Result<Option<(Call, String, Prepared)>, ApiError> {
        if refers(item) {
            return Ok(None);
        }
        let (call, path) = bulk.call_of(index, item, ids)?;
        // What fails here may be right in its turn: it may rest on an item that is carried out before it.
        let prepared = call.prepare(self.store()).await.unwrap_or(Prepared::Nothing);
        Ok(Some((call, path, prepared)))
    }
}

impl Bulk {
    /// The call of an item whose turn it is.
    fn in_its_turn(
        &self,
        index: usize,
        item: &BulkItem,
        ids: &Ids,
        worked_out: Option<(Call, String, Prepared)>,
    ) -> Result<(Call, String, Prepared), ApiError> {
        match worked_out {
            Some(worked_out) => Ok(worked_out),
            None => self.call_of(index, item, ids).map(|(call, path)| (call, path, Prepared::Nothing)),
        }
    }
}

/// What was done of an item, for its result. `revision`: when it is known.
fn result_of(
    index: usize,
    name: Option<String>,
    status: u16,
    done: &Done,
    revision: Option<u64>,
) -> BulkResult {
    let (generation, once) = match &done.body {
        Body::View(resource, once) => (Some(resource.generation), once.clone()),
        Body::None | Body::Json(_) => (None, Map::new()),
    };
    BulkResult {
        index: index as u64,
        name,
        status: done.code.unwrap_or(status),
        id: done.subject().map(|id| public_id(id).to_owned()),
        generation,
        revision,
        once,
        warnings: done.warnings.clone(),
        ..BulkResult::default()
    }
}

fn refused(index: usize, name: Option<String>, error: &ApiError) -> BulkResult {
    let mut problem = error.members();
    problem.insert("status".to_owned(), error.status.as_u16().into());
    BulkResult {
        index: index as u64,
        name,
        status: error.status.as_u16(),
        problem: Some(problem),
        ..BulkResult::default()
    }
}

/// The audit row of the call as a whole, beside those of its items.
fn row_of_call(call: &Call, path: &str, items: usize, refused: u64, status: u16) -> AuditEntry {
    let body = json!({"items": items, "refused": refused});
    entry(&call.route, path, None, Some(bounded(body)), status)
}

/// The items of a body, as texts.
async fn envelope(raw: Bytes) -> Result<Vec<Box<RawValue>>, ApiError> {
    if raw.len() <= LARGE.0 {
        return items_of(&raw);
    }
    match tokio::task::spawn_blocking(move || items_of(&raw)).await {
        Ok(read) => read,
        Err(error) => Err(ApiError::internal(&error)),
    }
}

fn items_of(raw: &[u8]) -> Result<Vec<Box<RawValue>>, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(raw);
    let read = Envelope.deserialize(&mut json).and_then(|items| json.end().map(|()| items));
    let items = read
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {error}")))?
        .ok_or_else(|| ApiError::invalid("items", "is required"))?;
    Ok(items)
}

/// `{"items": [...]}`. Reading ends with the first item that is too many.
struct Envelope;

impl<'de> DeserializeSeed<'de> for Envelope {
    type Value = Option<Vec<Box<RawValue>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope {
    type Value = Option<Vec<Box<RawValue>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with items")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut items = None;
        while let Some(name) = fields.next_key::<String>()? {
            let shown: String = name.chars().take(64).collect();
            if name != "items" {
                return Err(A::Error::custom(format!("{shown:?} is no field of a bulk; it takes items")));
            }
            if items.is_some() {
                return Err(A::Error::custom("the field \"items\" is given twice; give it once"));
            }
            items = Some(fields.next_value_seed(Items)?);
        }
        Ok(items)
    }
}

struct Items;

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<Box<RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
            if all.len() > MAX_ITEMS {
                let problem = format!("there are more than {MAX_ITEMS} items; send them in several calls");
                return Err(A::Error::custom(problem));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_bounded_list_of_items() {
        let problem = |text: &str| items_of(text.as_bytes()).unwrap_err().message;
        assert_eq!(
            items_of(br#"{"items": [1, {"a": 1, "a": 2}]}"#).unwrap().len(),
            2,
            "items are read later"
        );
        assert_eq!(problem("{}"), "validation error: items: is required");
        for (text, part) in [
            ("", "EOF"),
            ("[]", "an object with items"),
            (r#"{"items": 1}"#, "a list of items"),
            (r#"{"items": [1], "items": [2]}"#, "given twice"),
            (r#"{"frob": [1]}"#, "is no field of a bulk"),
            (r#"{"items": [}"#, "expected value"),
            (r#"{"items": []} x"#, "trailing characters"),
        ] {
            assert!(problem(text).contains(part), "{text}: {}", problem(text));
        }
        let many = format!("{{\"items\": [{}1]}}", "1,".repeat(100_000));
        assert!(problem(&many).contains("more than 10000 items"), "{}", problem(&many));
    }
}
