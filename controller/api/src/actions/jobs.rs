//! Jobs as people see them: lists, one with its steps, cancelling, trying again. And the secret that signs callbacks.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use hosting_jobs::kinds;
use hosting_jobs::kinds::callback;
use hosting_resource::{Tier, timestamp};
use hosting_store::{Job, JobQuery, JobState, JobWait, WriteTx};

use super::{Act, Ask, Order, PLAIN};
use crate::bodies::{CallbackSecret, Completed, JobPage, JobStepView, JobView, JobWaitView};
use crate::query;
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Looks at a job that is waited for are at most this far apart: another controller may end it.
const TICK: Duration = Duration::from_millis(500);

static LIST: Ask =
    Ask { name: "jobs", params: query::of_jobs, answer: |api, call| Box::pin(list(api, call)), ..PLAIN };

static GET: Ask = Ask { name: "job", answer: |api, call| Box::pin(get(api, call)), ..PLAIN };

static CANCEL: Act = Act {
    name: "job-cancel",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            visible(call, tx.beside()).await?;
            let by = format!("api key {}", call.principal.key_id);
            let job = hosting_jobs::cancel(tx, &call.id, &by).await??;
            Ok(Done::json(&call.id, &view(&job, Vec::new()))?.ringing())
        })
    },
};

static RETRY: Act = Act {
    name: "job-retry",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            visible(call, tx.beside()).await?;
            let job = hosting_jobs::retry(tx, &call.id).await??;
            Ok(Done::json(&call.id, &view(&job, Vec::new()))?.ringing())
        })
    },
};

static CALLBACK_SECRET: Order = Order {
    name: "callback-secret",
    give: |api, call, _| {
        Box::pin(async move {
            let secret = callback::rotate(api.store(), &call.principal.key_id).await?;
            let until = api.store().now().saturating_add(callback::OVERLAP);
            to_json(&CallbackSecret { secret: secret.to_string(), previous_signs_until: timestamp(until) })
        })
    },
};

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "jobs", Tier::Brand, op);
    vec![
        route(Method::GET, "/jobs", Op::Ask(&LIST))
            .gives(200, Shape::Named("JobPage"))
            .says("List: jobs, the newest first"),
        route(Method::GET, "/jobs/{id}", Op::Ask(&GET))
            .gives(200, Shape::Named("Job"))
            .says("A job: steps, attempts, times, error"),
        route(Method::POST, "/jobs/{id}/cancel", Op::Act(&CANCEL))
            .gives(202, Shape::Named("Job"))
            .says("Cancel a job; what it did is undone, if its kind can"),
        route(Method::POST, "/jobs/{id}/retry", Op::Act(&RETRY))
            .gives(202, Shape::Named("Job"))
            .says("Try a job again that failed or waits for its next attempt"),
        Route::scoped(
            Method::POST,
            "/callback-secret",
            "callbacks",
            Tier::Brand,
            Op::Order(&CALLBACK_SECRET),
        )
        .gives(201, Shape::Named("CallbackSecret"))
        .says("Make the secret anew that signs callbacks of the calling API key"),
    ]
}

/// The job in the path, if the caller may see it.
async fn visible(call: &Call, tx: &mut hosting_store::ReadTx) -> Result<Job, ApiError> {
    let job = tx.job(&call.id).await?.ok_or_else(|| ApiError::not_found("job not found"))?;
    call.principal.may_use_brand(job.brand.as_deref())?;
    Ok(job)
}

async fn list(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let query = &call.query;
    let before = match query.text("cursor").map(str::parse) {
        None => None,
        Some(Ok(seq)) => Some(seq),
        Some(Err(_)) => {
            let problem = "is none of ours; use next_cursor of the page before, or start over without it";
            return Err(ApiError::invalid("cursor", problem));
        }
    };
    let state = query.text("state");
    let list = JobQuery {
        kind: query.text("kind").map(str::to_owned),
        state: JobState::ALL.into_iter().find(|known| Some(known.as_str()) == state),
        subject: query.text("subject").map(str::to_owned),
        brands: call.principal.visible(),
        before,
        limit: query.limit(),
    };
    let mut tx = api.store().read().await?;
    let page = tx.job_page(&list).await?;
    let items = page.jobs.iter().map(|job| view(job, Vec::new())).collect();
    let next_cursor = page.next.map(|seq| seq.to_string());
    Ok(Reply::json(200, to_json(&JobPage { items, has_more: next_cursor.is_some(), next_cursor })?))
}

async fn get(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let job = visible(call, &mut tx).await?;
    let waits = tx.job_waits(&job.id).await?;
    Ok(Reply::json(200, to_json(&view(&job, waits))?))
}

/// Blocks until a job has ended.
pub(crate) async fn await_job(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let limit = api.wait_timeout(&call.query, api.max_wait())?;
    let deadline = tokio::time::Instant::now() + limit;
    let _place = api.waiting_place(&call.principal)?;
    let (mut bell, stop) = (api.job_bell().listen(), api.stopping());
    loop {
        // Marked as seen before looking: what changes while looking is looked at once more.
        bell.borrow_and_update();
        let job = api.store().read().await?.job(&call.id).await?;
        let job = job.ok_or_else(|| ApiError::not_found("job not found"))?;
        if job.state == JobState::Done {
            return Ok(Reply::json(200, to_json(&Completed { status: "completed" })?));
        }
        if job.state.is_final() {
            let why = job.error.unwrap_or_else(|| job.state.as_str().to_owned());
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed: {why}")));
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || stop.is_cancelled() {
            let mut error = ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("not ended within {} s; ask again", limit.as_secs()),
            );
            error.more.insert("job".to_owned(), to_json(&view(&job, Vec::new()))?);
            return Err(error);
        }
        tokio::select! {
            _ = bell.changed() => tokio::time::sleep(Duration::from_millis(5)).await,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TICK.min(left)) => {}
        }
    }
}

/// What people see of a job. What steps leave for each other is the kind's own business.
pub(crate) fn view(job: &Job, waits: Vec<JobWait>) -> JobView {
    let kind = kinds::of(&job.kind);
    let next = job.next_at.filter(|_| job.lease_owner.is_none());
    JobView {
        id: job.id.clone(),
        kind: job.kind.clone(),
        about: kind.map(|kind| kind.facts.about),
        subject: job.subject.clone(),
        brand_id: job.brand.clone(),
        params: kind.and_then(|kind| (kind.show)(&job.params)),
        state: job.state.as_str(),
        attempts: job.attempts,
        attempt_limit: job.attempt_limit,
        progress: job.progress.clone(),
        error: job.error.clone(),
        cancelled_by: job.cancelled_by.clone(),
        api_key_id: job.actor.clone(),
        created_at: timestamp(job.created_at),
        due_at: timestamp(job.due_at),
        next_at: next.map(timestamp),
        started_at: job.started_at.map(timestamp),
        ended_at: job.ended_at.map(timestamp),
        steps: job
            .steps
            .iter()
            .map(|step| JobStepView {
                name: step.name.clone(),
                state: step.state.as_str(),
                attempts: step.attempts,
                started_at: timestamp(step.started_at),
                ended_at: step.ended_at.map(timestamp),
                error: step.error.clone(),
            })
            .collect(),
        waits_for: waits
            .into_iter()
            .map(|wait| JobWaitView {
                resource_id: hosting_resource::public_id(&wait.resource).to_owned(),
                status: wait.status,
                message: wait.message,
            })
            .collect(),
    }
}

impl Call {
    /// Enqueues the callback that the request asks for, in the transaction of its change.
    pub(crate) async fn enqueue_callback(
        &self,
        tx: &mut WriteTx,
        done: &Done,
        rules: &callback::CallbackRules,
    ) -> Result<(), ApiError> {
        use hosting_planner::World;
        let (Some(url), Some(subject)) = (&self.callback, done.subject()) else { return Ok(()) };
        let (kind, brand) = match done.about() {
            Some((kind, brand)) => (Some(kind), brand),
            None => {
                let found = tx.resource(subject).await?;
                (self.route.subject, found.and_then(|found| found.brand))
            }
        };
        let params = callback::CallbackParams {
            url: url.clone(),
            key: self.principal.key_id.clone(),
            resource_type: kind.map(|kind| kind.name().to_owned()).unwrap_or_default(),
            resource_id: hosting_resource::public_id(subject).to_owned(),
            stored_id: subject.to_owned(),
        };
        let mut waits = done.waits().to_vec();
        if !waits.iter().any(|id| id == subject) {
            waits.push(subject.to_owned());
        }
        callback::enqueue(tx, callback::NewCallback { params, brand, waits }, rules).await?;
        // What is gone with the request itself, or void as an API key is, is looked at by nobody any more.
        if matches!(self.route.op, Op::Delete(_)) && done.waits().is_empty() {
            let gone =
                JobWait { resource: subject.to_owned(), status: Some("deleted".to_owned()), message: None };
            tx.settle_job_waits(&[gone]).await?;
        }
        Ok(())
    }
}
