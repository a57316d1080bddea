//! The stream of events over gRPC: what the server-sent events of the REST API say, as messages.

use std::collections::VecDeque;
use std::pin::Pin;

use futures::Stream;
use hosting_proto::intent_api::watch_response::Happened;
use hosting_proto::intent_api::{Alive, Change, Reset, ResourceEvent, WatchResponse};
use hosting_resource::EventView;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::status::{ended, status_of};
use crate::events::{MISSED, Said, TOO_SLOW, Told};
use crate::watcher::Watcher;

/// What a call of Watch answers with.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// What a watcher is told, message by message.
struct Telling {
    watcher: Watcher,
    waiting: VecDeque<Result<WatchResponse, Status>>,
    until: Option<Instant>,
    request_id: String,
    ended: bool,
}

fn message(told: &Told) -> WatchResponse {
    let EventView { revision, change, kind, id, tenant_id, brand_id, status, generation } = &told.view;
    let change = match change.as_str() {
        "created" => Change::Created,
        "updated" => Change::Updated,
        _ => Change::Deleted,
    };
    let event = ResourceEvent {
        revision: *revision,
        change: change.into(),
        kind: kind.clone(),
        id: id.clone(),
        tenant_id: tenant_id.clone().unwrap_or_default(),
        brand_id: brand_id.clone().unwrap_or_default(),
        status: status.clone(),
        generation: *generation,
    };
    let resume_from = if told.is_last { *revision } else { 0 };
    WatchResponse { resume_from, happened: Some(Happened::Event(event)) }
}

/// What is said, as messages and the status that ends them.
fn messages(said: Said, request_id: &str) -> Vec<Result<WatchResponse, Status>> {
    let about = |resume_from: u64, happened: Happened| {
        vec![Ok(WatchResponse { resume_from, happened: Some(happened) })]
    };
    let status = match said {
        Said::Events(told) => return told.iter().map(|told| Ok(message(told))).collect(),
        Said::Alive(head) => return about(head, Happened::Alive(Alive {})),
        Said::Missed(head) => return about(head, Happened::Reset(Reset { reason: MISSED.to_owned() })),
        Said::TooSlow(_) => ended(Code::Aborted, "WATCH_TOO_SLOW", TOO_SLOW, request_id),
        Said::Closed(error, _) => status_of(&error, request_id),
        Said::Stopping => {
            let message = "the controller stops; call again, with the last resume_from";
            ended(Code::Unavailable, "STOPPING", message, request_id)
        }
    };
    vec![Err(status)]
}

impl Telling {
    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        while self.waiting.is_empty() && !self.ended {
            let next = self.watcher.next();
            let said = match self.until {
                Some(until) => tokio::time::timeout_at(until, next).await,
                None => Ok(next.await),
            };
            match said {
                Ok(said) => {
                    self.ended = said.is_last();
                    self.waiting.extend(messages(said, &self.request_id));
                }
                Err(_) => {
                    self.ended = true;
                    let message = "the call's deadline is over";
                    let status =
                        ended(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message, &self.request_id);
                    return Some(Err(status));
                }
            }
        }
        self.waiting.pop_front()
    }
}

/// The messages of a watcher, until it ends or the deadline is over.
pub(super) fn events(watcher: Watcher, until: Option<Instant>, request_id: String) -> Events {
    let telling = Telling { watcher, waiting: VecDeque::new(), until, request_id, ended: false };
    Box::pin(futures::stream::unfold(telling, |mut telling| async move {
        let next = telling.next().await?;
        Some((next, telling))
    }))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tonic_types::StatusExt;

    use super::*;
    use crate::ApiError;

    #[test]
    fn a_watcher_is_told_why_its_stream_ends() {
        let unknown = ApiError::new(StatusCode::UNAUTHORIZED, "invalid API key");
        for (said, code, reason) in [
            (Said::TooSlow(7), Code::Aborted, "WATCH_TOO_SLOW"),
            (Said::Closed(Box::new(unknown), 7), Code::Unauthenticated, "UNAUTHENTICATED"),
            (Said::Stopping, Code::Unavailable, "STOPPING"),
        ] {
            assert!(said.is_last());
            let told = messages(said, "r-1");
            let [Err(status)] = told.as_slice() else { panic!("{told:?}") };
            assert_eq!(status.code(), code);
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, reason);
            assert_eq!(details.request_info().unwrap().request_id, "r-1");
        }
        for said in [Said::Alive(7), Said::Missed(7)] {
            assert!(!said.is_last());
            let told = messages(said, "");
            let [Ok(message)] = told.as_slice() else { panic!("{told:?}") };
            assert_eq!(message.resume_from, 7);
        }
    }
}
