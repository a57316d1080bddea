//! Taking changes back: of a revision, of a key in a span of time, of a trace.

use std::collections::BTreeMap;

use axum::http::Method;
use hosting_jobs::kinds::undo::{self as job, UndoParams};
use hosting_planner::{Event, LeftAlone, PastChange, Undone, World, undo};
use hosting_resource::{Kind, Resource, Tier, public_id};
use hosting_store::{HistoryOf, HistoryRow, ToUndo, UndoOf, WriteTx, trace_id};

use super::Act;
use crate::ApiError;
use crate::bodies::history::{LeftAloneView, TakenBackView, UndoBody, UndoneView};
use crate::query;
use crate::route::{Action, Op, Route, Scope, Shape};
use crate::service::Call;
use crate::write::Done;

/// Changes that one undo takes back.
const MOST: u32 = 2_000;
/// What an answer lists of each.
const LISTED: usize = 200;

static UNDO: Act =
    Act { name: "undo", repeats: None, carry_out: |call, tx| Box::pin(async move { call.undo(tx).await }) };

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::scoped(Method::POST, "/undo", "undo", Tier::Brand, Op::Act(&UNDO))
            .takes(Shape::Named("Undo"))
            .gives(200, Shape::Named("Undone"))
            .says("Take changes back: of a revision, of a key in a span of time, or of a trace"),
    ]
}

impl UndoBody {
    /// Which changes are meant.
    fn of(self) -> Result<HistoryOf, ApiError> {
        let Self { revision, key, from, to, trace } = self;
        let time = |field: &str, text: Option<String>, default: i64| match text {
            None => Ok(default),
            Some(text) => query::instant(&text)
                .ok_or_else(|| ApiError::invalid(field, "must be a date or a time as in RFC 3339")),
        };
        match (revision, key, trace) {
            (Some(revision), None, None) if from.is_none() && to.is_none() => {
                if i64::try_from(revision).is_err() {
                    return Err(ApiError::invalid("revision", "must be a revision of the store"));
                }
                Ok(HistoryOf::Revision(revision))
            }
            (None, Some(key), None) => {
                if from.is_none() {
                    return Err(ApiError::invalid("from", "is required with key"));
                }
                Ok(HistoryOf::Key { key, from: time("from", from, 0)?, until: time("to", to, i64::MAX)? })
            }
            (None, None, Some(trace)) if from.is_none() && to.is_none() => {
                let id = if trace.contains('-') { trace_id(&trace).to_owned() } else { trace };
                if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ApiError::invalid(
                        "trace",
                        "must be a traceparent or a trace id of 32 digits",
                    ));
                }
                Ok(HistoryOf::Trace(id.to_ascii_lowercase()))
            }
            _ => Err(ApiError::invalid("revision", "give one of revision, key with from and to, and trace")),
        }
    }
}

/// What came of an undo, as the API shows it.
pub(crate) fn view(undone: &Undone, job_id: Option<String>) -> UndoneView {
    let left = |left: &LeftAlone| LeftAloneView {
        kind: left.kind.name(),
        id: public_id(&left.id).to_owned(),
        field: left.field.clone(),
        reason: left.reason.clone(),
        revision: left.by.as_ref().map(|(revision, _)| *revision),
        api_key_id: left.by.as_ref().and_then(|(_, actor)| actor.clone()),
    };
    UndoneView {
        taken_back: undone.taken_back.iter().take(LISTED).map(TakenBackView::of).collect(),
        taken_back_total: undone.taken_back.len() as u64,
        conflicts: undone.conflicts.iter().take(LISTED).map(left).collect(),
        conflicts_total: undone.conflicts.len() as u64,
        not_restorable: undone.not_restorable.iter().take(LISTED).map(left).collect(),
        not_restorable_total: undone.not_restorable.len() as u64,
        job_id,
        goes_on: undone.more.then_some(true),
    }
}

impl Call {
    async fn undo(&self, tx: &mut WriteTx) -> Result<Done, ApiError> {
        let undo_of = UndoOf {
            of: self.typed::<UndoBody>()?.of()?,
            upto: tx.beside().head(),
            brands: self.principal.visible(),
            trace: trace_id(&self.traceparent).to_owned(),
        };
        // The same changes are read again by a job that goes on.
        let ToUndo { chosen, mut changes, is_too_much } = tx.to_undo(&undo_of, MOST).await?;
        if is_too_much {
            return Err(ApiError::invalid(
                "from",
                format!(
                    "these are more than {MOST} changes, or too many followed: undo them in smaller parts"
                ),
            ));
        }
        let is_open = |kind: Kind| kind.info().tier == Tier::Brand || self.principal.is_admin();
        changes.retain(|change| is_open(change.kind));
        let chosen: Vec<&HistoryRow> = chosen.iter().filter(|row| is_open(row.kind)).collect();
        let Some(first) = chosen.first() else {
            let floor = tx.beside().history_floor().await?;
            return Err(ApiError::not_found(format!(
                "there is no such change; histories reach back to revision {floor}"
            )));
        };
        self.may_undo(tx, &chosen, &changes).await?;
        let brand =
            first.brand.clone().filter(|brand| chosen.iter().all(|row| row.brand.as_ref() == Some(brand)));
        let undone = undo(tx, &changes).await?;
        let job_id = if undone.more {
            let params = UndoParams {
                undo: undo_of,
                key: self.principal.key_id.clone(),
                is_admin: self.principal.is_admin(),
                traceparent: self.traceparent.clone(),
            };
            Some(job::enqueue(tx, params, brand).await?)
        } else {
            None
        };
        let body = view(&undone, job_id.clone());
        let wait = undone.taken_back.into_iter().map(|one| one.resource.id).collect();
        let done = Done { subject: None, ..Done::json("", &body)? }.waiting_for(wait);
        Ok(if job_id.is_some() { done.ringing() } else { done })
    }

    /// Whether the caller might make each change back by hand.
    async fn may_undo(
        &self,
        tx: &mut WriteTx,
        chosen: &[&HistoryRow],
        changes: &[PastChange],
    ) -> Result<(), ApiError> {
        for row in chosen {
            let resource = row.kind.info().scope;
            let action = if row.event == Event::Created { Action::Delete } else { Action::Write };
            self.principal.require(Scope { resource, action })?;
        }
        if self.principal.is_admin() {
            return Ok(());
        }
        let mut next: BTreeMap<&str, Option<&Resource>> = BTreeMap::new();
        for change in changes.iter().rev() {
            let newest;
            let after = match next.get(change.resource.as_str()) {
                Some(after) => *after,
                None => {
                    newest = tx.resource(&change.resource).await?;
                    newest.as_ref()
                }
            };
            let is_chosen = change.part == hosting_planner::Part::Chosen;
            match (&change.before, after) {
                (Some(before), Some(after)) if is_chosen => self.may_set(after, &before.spec)?,
                (None, Some(after)) if is_chosen => self.may_delete(after)?,
                _ => {}
            }
            next.insert(&change.resource, change.before.as_ref());
        }
        Ok(())
    }
}
