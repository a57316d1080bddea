//! Items one after another, each a mutation of its own: what becomes of one is nothing to the others but those that refer to it.

use std::collections::VecDeque;
use std::sync::Arc;

use hosting_store::Submitted;
use serde_json::value::RawValue;

use super::item::{Ids, read};
use super::{Bulk, Ended, refused, result_of, row_of_call};
use crate::audit::{bounded, entry};
use crate::bodies::bulk::BulkItem;
use crate::route::Shape;
use crate::service::Call;
use crate::write::Done;
use crate::{Api, ApiError};

/// Items of a call that are in line for the writer: enough for a group to share its commit, few enough that another change of the same
/// key does not stand behind many.
const IN_LINE: usize = 32;

/// After so many items it is looked at whether the key still opens what it opened.
const LOOK_AT_KEY: usize = 256;

/// What an item did: code, itself, and the revision when it was done before.
type ItemDone = (u16, Done, Option<u64>);

/// An item in line for the writer.
struct InLine {
    index: usize,
    name: Option<String>,
    submitted: Submitted<ItemDone, ApiError>,
}

/// A refused item: its name, where it was read, and why.
struct Refused {
    name: Option<String>,
    error: ApiError,
}

/// The items of a call so far.
struct Progress<'c> {
    call: &'c Call,
    path: &'c str,
    ended: Ended,
    /// The store failed, the controller stops or the key is another one now: nothing more is attempted.
    stopped: Option<ApiError>,
}

impl Api {
    /// Carries out each item that it can.
    pub(super) async fn each(
        &self,
        call: &Call,
        bulk: Arc<Bulk>,
        items: Vec<Box<RawValue>>,
        path: &str,
    ) -> Ended {
        let count = items.len();
        let mut progress = Progress { call, path, ended: Ended::default(), stopped: None };
        let mut in_line: VecDeque<InLine> = VecDeque::with_capacity(IN_LINE);
        let ids = Ids::default();
        for (index, raw) in items.into_iter().enumerate() {
            if in_line.len() >= IN_LINE
                && let Some(first) = in_line.pop_front()
            {
                self.take_up(&mut progress, first).await;
            }
            if index > 0 && index % LOOK_AT_KEY == 0 && progress.stopped.is_none() {
                progress.stopped = self.key_is_another(&bulk).await;
            }
            if progress.stopped.is_none() && self.stopping().is_cancelled() {
                progress.stopped =
                    Some(ApiError::unavailable("the controller is shutting down; send it again"));
            }
            let begun = match &progress.stopped {
                Some(error) => Err(Refused { name: None, error: error.clone() }),
                None => self.begin(&bulk, index, &raw, &ids).await,
            };
            match begun {
                Ok((name, submitted)) => in_line.push_back(InLine { index, name, submitted }),
                Err(Refused { name, error }) => self.refuse(&mut progress, index, name, error).await,
            }
        }
        for item in in_line {
            self.take_up(&mut progress, item).await;
        }
        let mut ended = progress.ended;
        ended.results.sort_by_key(|result| result.index);
        ended.replayed = count > 0 && ended.results.iter().all(|result| result.replayed);
        let row = row_of_call(call, path, count, ended.refused(), call.route.success);
        self.write_row(call.principal.key_id.clone(), call.traceparent.clone(), row).await;
        ended
    }

    /// Puts an item in line. What refers to others is worked out in its turn, when these have run: the writer takes the mutations of a key in
    /// the order in which they were submitted.
    async fn begin(
        &self,
        bulk: &Arc<Bulk>,
        index: usize,
        raw: &RawValue,
        ids: &Ids,
    ) -> Result<(Option<String>, Submitted<ItemDone, ApiError>), Refused> {
        let item = read(raw, bulk.most).map_err(|error| Refused { name: None, error })?;
        let name = item.name.clone();
        let refuse = |error: ApiError| Refused { name: name.clone(), error };
        if let Some(name) = &name {
            ids.claim(index, name).map_err(refuse)?;
        }
        let worked_out = self.before_its_turn(bulk, index, &item, ids).await.map_err(refuse)?;
        let origin = bulk.origin();
        let (api, bulk, ids) = (self.clone(), Arc::clone(bulk), ids.clone());
        let submitted = self.store().submit(origin, move |tx| {
            Box::pin(async move {
                let (call, path, prepared) = bulk.in_its_turn(index, &item, &ids, worked_out)?;
                let success = call.route.success;
                let (done, before) = match call.done_before(tx, &path).await? {
                    Some((done, revision)) => (done, Some(revision)),
                    None => {
                        let done = call.carry_out(tx, prepared).await?;
                        call.confirmed(tx, api.confirm_rules()).await?;
                        call.keep_done(tx, &path, &done).await?;
                        tx.audit(api.row_of_item(&call, &path, &done));
                        (done, None)
                    }
                };
                note(&item, &done, &ids);
                Ok((success, done, before))
            })
        });
        let submitted = submitted.await.map_err(|error| refuse(error.into()))?;
        Ok((name, submitted))
    }

    /// Why nothing more is attempted with the key, if so. A store that cannot be read takes no rights away.
    async fn key_is_another(&self, bulk: &Bulk) -> Option<ApiError> {
        match self.still(&bulk.caller).await {
            Ok(principal) if principal == bulk.principal => None,
            Ok(_) => {
                let message = "the rights of the key were changed meanwhile; send what is left again";
                Some(ApiError::forbidden(message))
            }
            Err(error) => Some(error).filter(|error| !error.status.is_server_error()),
        }
    }

    /// Waits for an item and notes what became of it.
    async fn take_up(&self, progress: &mut Progress<'_>, item: InLine) {
        let InLine { index, name, submitted } = item;
        match submitted.answer().await {
            Ok(committed) => {
                let (success, done, before) = committed.value;
                let revision = before.unwrap_or(committed.revision);
                let mut result = result_of(index, name, success, &done, Some(revision));
                result.replayed = before.is_some();
                let ended = &mut progress.ended;
                ended.results.push(result);
                ended.rings |= done.rings;
                if progress.call.wait.is_some() {
                    ended.wait.extend(done.wait);
                    let changed = committed.audiences.into_iter();
                    ended.audiences.extend(changed.map(|audience| (audience, committed.revision)));
                }
            }
            Err(error) => self.refuse(progress, index, name, error.into()).await,
        }
    }

    async fn refuse(&self, progress: &mut Progress<'_>, index: usize, name: Option<String>, error: ApiError) {
        progress.ended.results.push(refused(index, name, &error));
        if progress.stopped.is_some() {
            return;
        }
        if error.status.is_server_error() {
            // One row says it of all that follow: that of the call.
            progress.stopped = Some(error);
            return;
        }
        let mut row = entry(&progress.call.route, progress.path, None, None, error.status.as_u16());
        row.body = Some(serde_json::json!({"item": index, "problem": error.problem.words().0}));
        self.audit_refusal(&progress.call.principal, &progress.call.traceparent, row).await;
    }

    /// The audit row of an item: that of the call that it would have been alone.
    pub(super) fn row_of_item(&self, call: &Call, path: &str, done: &Done) -> hosting_store::AuditEntry {
        let takes_body = call.route.request != Shape::Empty;
        let body = takes_body.then(|| bounded(self.redacted(&call.route, &call.body)));
        let id = done.subject().map_or(call.id.as_str(), hosting_resource::public_id);
        entry(&call.route, path, Some(id), body, call.route.success)
    }
}

/// Tells later items the id of what an item made or changed.
pub(super) fn note(item: &BulkItem, done: &Done, ids: &Ids) {
    if let (Some(name), Some(id)) = (&item.name, done.subject()) {
        ids.tell(name, hosting_resource::public_id(id));
    }
}
