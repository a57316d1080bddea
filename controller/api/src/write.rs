//! What changes do: worked out beforehand, checked against what is stored inside the write transaction, audited with it, answered
//! once it is on disk, waited for if asked.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hosting_intent::Audience;
use hosting_planner::{Deleted, World, lint};
use hosting_resource::{Creation, Kind, Resource, ShapeError, Tier, Warning, public_id};
use hosting_store::{AuditEntry, Origin, WriteTx};
use serde_json::{Map, Value};

use crate::actions::Act;
use crate::audit::{bounded, entry};
use crate::confirm::{ConfirmRules, Reach};
use crate::paths::item_path;
use crate::prepare::{Prepared, entropy};
use crate::problem::Problem;
use crate::query::{CONFIRM, DRY_RUN, SERVED};
use crate::route::{Op, Shape};
use crate::service::{Call, Failure, Reply, described, named, not_found, to_json};
use crate::wait::{Look, Waited, lagging};
use crate::{Api, ApiError};

/// Mutations of one action that repeats: what is beyond is for the next call.
const ROUNDS: u32 = 100;
/// What a caller is told to wait before it asks again.
pub(crate) const RETRY_AFTER: u32 = 5;

/// Resources that one body may describe. More would not fit into a transaction; found out in there, that would cost everybody
/// who waits for the store's one writer.
pub(crate) const MAX_DESCRIBED: usize = 1_000;

/// What a mutation did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) body: Body,
    /// What `?wait=ready` waits for.
    pub(crate) wait: Vec<String>,
    /// For the audit row and the callback.
    pub(crate) subject: Option<String>,
    /// Kind and brand of the subject, where it was at hand.
    pub(crate) about: Option<(Kind, Option<String>)>,
    /// [`Warning`]s, as they are shown.
    pub(crate) warnings: Vec<Value>,
    /// A job was written: its runner is to look.
    pub(crate) rings: bool,
    /// The code of the answer, where it is another one than the route's.
    pub(crate) code: Option<u16>,
}

#[derive(Debug)]
pub(crate) enum Body {
    None,
    /// The resource, and what is shown this once.
    View(Box<Resource>, Map<String, Value>),
    Json(Value),
}

impl Done {
    /// How much an action says that it did.
    pub(crate) fn count(&self) -> u64 {
        match &self.body {
            Body::Json(body) => body.get("count").and_then(Value::as_u64).unwrap_or_default(),
            Body::None | Body::View(..) => 0,
        }
    }

    /// Shows more beside the resource.
    pub(crate) fn also(mut self, field: &str, value: Value) -> Self {
        if let Body::View(_, more) = &mut self.body {
            more.insert(field.to_owned(), value);
        }
        self
    }

    /// What is waited for with `?wait=ready`.
    pub(crate) fn waiting_for(self, wait: Vec<String>) -> Self {
        Self { wait, ..self }
    }

    /// Whose callback it is: the id as the store knows it.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Kind and brand of the subject, where they are known.
    pub(crate) fn about(&self) -> Option<(Kind, Option<String>)> {
        self.about.clone()
    }

    /// The resources that the change is complete with.
    pub(crate) fn waits(&self) -> &[String] {
        &self.wait
    }

    /// A job was written: its runner is to look.
    pub(crate) fn ringing(self) -> Self {
        Self { rings: true, ..self }
    }

    /// What was accepted and will not work as it is.
    pub(crate) fn warning(mut self, warnings: &[Warning]) -> Self {
        self.warnings.extend(warnings.iter().filter_map(|warning| to_json(warning).ok()));
        self
    }

    /// Answered with another code than the route's: what was to be made is there.
    pub(crate) fn answering(self, code: StatusCode) -> Self {
        Self { code: Some(code.as_u16()), ..self }
    }

    /// The answer has no body.
    pub(crate) fn silent(self) -> Self {
        Self { body: Body::None, ..self }
    }

    pub(crate) fn of(resource: Resource) -> Self {
        Self {
            wait: vec![resource.id.clone()],
            subject: Some(resource.id.clone()),
            about: Some((resource.kind, resource.brand.clone())),
            body: Body::View(Box::new(resource), Map::new()),
            warnings: Vec::new(),
            rings: false,
            code: None,
        }
    }

    pub(crate) fn without_body(resource: &Resource) -> Self {
        Self {
            body: Body::None,
            wait: vec![resource.id.clone()],
            subject: Some(resource.id.clone()),
            about: Some((resource.kind, resource.brand.clone())),
            warnings: Vec::new(),
            rings: false,
            code: None,
        }
    }

    pub(crate) fn json<T: serde::Serialize>(id: &str, body: &T) -> Result<Self, ApiError> {
        Ok(Self {
            body: Body::Json(to_json(body)?),
            wait: Vec::new(),
            subject: Some(id.to_owned()),
            about: None,
            warnings: Vec::new(),
            rings: false,
            code: None,
        })
    }
}

impl Api {
    pub(crate) async fn change(&self, call: Call, path: &str, kept: Option<Value>) -> Result<Reply, Failure> {
        let described = described(&call.body);
        if described > MAX_DESCRIBED {
            let message = format!(
                "the body describes {described} resources, and at most {MAX_DESCRIBED} fit in one transaction: send it in \
                 smaller parts"
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message).is(Problem::TooLarge).into());
        }
        if call.query.text(DRY_RUN) == Some("true") {
            // What was tried with foreign things is kept; everything else was a question.
            let kept = |error: ApiError| Failure { audited: error.status != StatusCode::FORBIDDEN, error };
            return self.plan(call).await.map_err(kept);
        }
        let place = match call.wait {
            Some(_) => Some(self.waiting_place(&call.principal)?),
            None => None,
        };
        let call = Arc::new(call);
        let row = entry(&call.route, path, Some(&call.id), kept.map(bounded), call.route.success);
        let origin = call.origin();
        // Nothing is planned: the row is written for itself.
        if let Op::Order(order) = call.route.op {
            let body = (order.give)(self, &call, origin.clone()).await?;
            self.write_order(&call, origin, row).await?;
            return Ok(Reply::json(call.route.success, body));
        }

        let prepared = call.prepare(self.store()).await;
        let allowed = |prepared: Prepared| prepared.may_call(self.callback_rules()).map(|()| prepared);
        let prepared = match prepared.and_then(allowed) {
            // What it needs may be gone since the first time; whether that was is known in the transaction.
            Err(error) if call.idempotency_key.is_none() => return Err(error.into()),
            prepared => prepared,
        };
        let inner = Arc::clone(&call);
        let rules = self.callback_rules().clone();
        let confirm = self.confirm_rules();
        let given = path.to_owned();
        let committed = self
            .store()
            .write(origin.clone(), move |tx| {
                Box::pin(async move {
                    if let Some((done, revision)) = inner.done_before(tx, &given).await? {
                        return Ok((done, Some(revision)));
                    }
                    let done = inner.carry_out(tx, prepared?).await?;
                    inner.confirmed(tx, confirm).await?;
                    inner.enqueue_callback(tx, &done, &rules).await?;
                    inner.keep_done(tx, &given, &done).await?;
                    let mut row = row;
                    if let Some(subject) = &done.subject {
                        row.resource_id = Some(public_id(subject).to_owned());
                    }
                    tx.audit(row);
                    Ok::<_, ApiError>((done, None))
                })
            })
            .await
            .map_err(ApiError::from)?;
        call.end_turn();
        let (mut done, before) = committed.value;
        let revision = before.unwrap_or(committed.revision);
        if let Op::Act(act) = call.route.op
            && let Some(most) = act.repeats
        {
            self.repeat(&call, act, most, &origin, &mut done).await.map_err(audited)?;
        }
        if done.rings || call.callback.is_some() {
            self.job_bell().ring();
        }
        let warnings = self.zone_warnings(&done.body).await.map_err(audited)?;
        let done = done.warning(&warnings);
        let location = location(&call, path, &done);
        let reply = match call.wait {
            Some(limit) => {
                let changed = committed.audiences.into_iter().map(|audience| (audience, committed.revision));
                self.answer_when_ready(&call, done, revision, limit, changed.collect()).await
            }
            None => self.answer_now(&call, done, revision).await,
        };
        drop(place);
        // The change is on disk and its row with it, whatever became of the answer.
        reply.map(|reply| Reply { location, replayed: before.is_some(), ..reply }).map_err(audited)
    }

    /// The audit row of what was ordered, and the callback.
    async fn write_order(&self, call: &Arc<Call>, origin: Origin, row: AuditEntry) -> Result<(), ApiError> {
        let (inner, rules) = (Arc::clone(call), self.callback_rules().clone());
        self.store()
            .write(origin, move |tx| {
                Box::pin(async move {
                    let done = Done::json(&inner.id, &())?;
                    inner.enqueue_callback(tx, &done, &rules).await?;
                    tx.audit(row);
                    Ok::<_, ApiError>(())
                })
            })
            .await?;
        if call.callback.is_some() {
            self.job_bell().ring();
        }
        Ok(())
    }

    /// Carries an action out again while it counts `most`, and sums up what it counted.
    async fn repeat(
        &self,
        call: &Arc<Call>,
        act: &'static Act,
        most: u32,
        origin: &Origin,
        done: &mut Done,
    ) -> Result<(), ApiError> {
        let mut last = done.count();
        let mut total = last;
        for _ in 1..ROUNDS {
            if last < u64::from(most) {
                break;
            }
            let inner = Arc::clone(call);
            let more = self
                .store()
                .write(origin.clone(), move |tx| Box::pin(async move { (act.carry_out)(&inner, tx).await }))
                .await?;
            last = more.value.count();
            total += last;
            done.wait.extend(more.value.wait);
        }
        if let Body::Json(Value::Object(body)) = &mut done.body {
            body.insert("count".to_owned(), total.into());
        }
        Ok(())
    }

    /// What a written zone or record has to do with that will not work. Read once the change is on disk, so that nobody waits for it who
    /// writes.
    async fn zone_warnings(&self, body: &Body) -> Result<Vec<Warning>, ApiError> {
        match body {
            Body::View(resource, _) => {
                let mut tx = self.store().read().await?;
                Ok(lint::of_change(&mut tx, resource).await?)
            }
            Body::None | Body::Json(_) => Ok(Vec::new()),
        }
    }

    async fn answer_now(&self, call: &Call, done: Done, revision: u64) -> Result<Reply, ApiError> {
        let code = done.code.unwrap_or(call.route.success);
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
        let mut reply = Reply {
            status,
            body: None,
            revision: Some(revision),
            generation: None,
            retry_after: None,
            location: None,
            stream: None,
            replayed: false,
        };
        match done.body {
            Body::None => {}
            Body::Json(body) => reply.body = Some(body),
            Body::View(resource, secrets) => {
                reply.generation = Some(resource.generation);
                let mut tx = self.store().read().await?;
                let mut view = self.views(&mut tx, &[*resource]).await?.pop().unwrap_or_default();
                view.extend(secrets);
                view.insert("revision".to_owned(), revision.into());
                if !done.warnings.is_empty() {
                    view.insert("warnings".to_owned(), done.warnings.into());
                }
                let bare = matches!(call.route.response, Shape::Named("BrandClusters"));
                if bare {
                    view = cluster_ids(view);
                }
                reply.body = Some(Value::Object(view));
            }
        }
        Ok(reply)
    }

    async fn answer_when_ready(
        &self,
        call: &Call,
        done: Done,
        revision: u64,
        limit: Duration,
        changed: Vec<(Audience, u64)>,
    ) -> Result<Reply, ApiError> {
        let proof = (call.query.text("wait") == Some(SERVED)).then_some(changed);
        let waits_for_proof = proof.is_some();
        let (waited, missing) = self.until_ready(&done.wait, limit, proof).await?;
        let (status, looks, reasons) = match waited {
            Waited::Ready(looks) => (StatusCode::OK, looks, Vec::new()),
            Waited::Late(looks) => (StatusCode::ACCEPTED, looks, Vec::new()),
            Waited::Rejected(looks, reasons) => (StatusCode::CONFLICT, looks, reasons),
        };
        let mut body = Map::new();
        let mut generation = None;
        match done.body {
            Body::Json(Value::Object(fields)) => body = fields,
            Body::Json(_) => {}
            Body::None => body = self.body_of(done.subject.as_deref(), &looks).await?,
            Body::View(resource, secrets) => {
                body = self.body_of(Some(&resource.id), &looks).await?;
                if matches!(call.route.response, Shape::Named("BrandClusters")) {
                    let mut tx = self.store().read().await?;
                    body = cluster_ids(
                        self.views(&mut tx, std::slice::from_ref(&resource)).await?.pop().unwrap_or_default(),
                    );
                }
                generation = Some(resource.generation);
                body.extend(secrets);
            }
        }
        if waits_for_proof {
            let receipts = looks.iter().map(|look| to_json(&look.receipt(self.platform())));
            body.insert("receipts".to_owned(), receipts.collect::<Result<Vec<_>, _>>()?.into());
            body.insert("not_serving".to_owned(), missing.into());
        }
        let conditions: Vec<Value> = looks.iter().flat_map(Look::conditions).collect();
        body.entry("conditions").or_insert_with(|| conditions.into());
        body.insert("lagging".to_owned(), lagging(&looks).into());
        body.insert("revision".to_owned(), revision.into());
        if !done.warnings.is_empty() {
            body.insert("warnings".to_owned(), done.warnings.into());
        }
        if status == StatusCode::CONFLICT {
            // The resource's own `status` stays beside the members of the error.
            let rejected = ApiError::conflict(format!("the fleet rejected it: {}", reasons.join("; ")));
            body.extend(rejected.members());
            body.insert("reasons".to_owned(), reasons.into());
        }
        Ok(Reply {
            status,
            body: Some(Value::Object(body)),
            revision: Some(revision),
            generation,
            retry_after: (status == StatusCode::ACCEPTED).then_some(RETRY_AFTER),
            location: None,
            stream: None,
            replayed: false,
        })
    }

    /// The resource as it stands now; `deleted` when it is gone.
    async fn body_of(&self, id: Option<&str>, looks: &[Look]) -> Result<Map<String, Value>, ApiError> {
        let id = id.unwrap_or_default();
        let mut tx = self.store().read().await?;
        if let Some(look) = looks.iter().find(|look| look.resource.id == id) {
            return self.view_of(&mut tx, look).await;
        }
        if let Some(resource) = tx.resource(id).await? {
            return Ok(self.views(&mut tx, &[resource]).await?.pop().unwrap_or_default());
        }
        let mut body = Map::new();
        body.insert("id".to_owned(), public_id(id).into());
        body.insert("status".to_owned(), "deleted".into());
        Ok(body)
    }
}

/// Where the resource is that was made or is on its way (RFC 9110 §15.3.2, §15.3.3).
fn location(call: &Call, path: &str, done: &Done) -> Option<String> {
    match (call.route.success, &done.body, call.route.subject, &done.subject) {
        (201 | 202, Body::View(resource, _), _, _) => Some(item_path(resource.kind, &resource.id)),
        (201, _, _, _) => Some(path.to_owned()),
        (202, _, Some(kind), Some(id)) => Some(item_path(kind, id)),
        _ => None,
    }
}

fn audited(error: ApiError) -> Failure {
    Failure { error, audited: true }
}

/// The answer of /brands/{id}/clusters; the brand's own view hides the list.
fn cluster_ids(mut view: Map<String, Value>) -> Map<String, Value> {
    view.retain(|field, _| matches!(field.as_str(), "cluster_ids" | "generation" | "revision" | "warnings"));
    view
}

impl Call {
    /// Where what it asks for comes from.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            traceparent: self.traceparent.clone(),
            actor: Some(self.principal.key_id.clone()),
            admin: self.principal.is_admin(),
            lease: None,
        }
    }

    pub(crate) async fn carry_out(&self, tx: &mut WriteTx, prepared: Prepared) -> Result<Done, ApiError> {
        match self.route.op {
            Op::Create(kind) | Op::CreateBy(kind, _) => self.create(tx, kind, prepared).await,
            Op::Update(kind) => self.update(tx, kind, prepared).await,
            Op::Delete(kind) => self.delete(tx, kind).await,
            Op::Retry(kind) => {
                let current = self.current(tx, kind).await?;
                let retried = hosting_planner::retry(tx, kind, &current.id).await?;
                Ok(Done::without_body(&retried))
            }
            Op::Undelete(kind) => self.undelete(tx, kind).await,
            Op::Act(act) => (act.carry_out)(self, tx).await,
            Op::List(_)
            | Op::ListBy(..)
            | Op::Get(_)
            | Op::Receipt(_)
            | Op::History(_)
            | Op::Ask(_)
            | Op::Bulk
            | Op::Order(_) => Err(ApiError::internal(&"not a change of the store")),
        }
    }

    pub(crate) fn typed<T: serde::de::DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_value(Value::Object(self.body.clone())).map_err(|error| {
            let message = error.to_string();
            match message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
                Some(field) => ApiError::invalid(field, "is required"),
                None => ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {message}")),
            }
        })
    }

    /// The resource in the path: the caller's, and of the generation that it was meant for.
    pub(crate) async fn current(&self, world: &mut dyn World, kind: Kind) -> Result<Resource, ApiError> {
        let mut current = self.subject(world, kind).await?;
        if kind.def().is_void(&current) {
            return Err(not_found(kind));
        }
        kind.def().upcast(&mut current).map_err(|error| match error {
            ShapeError::Newer { .. } => ApiError::conflict(error.to_string()),
            ShapeError::Unreadable { .. } => ApiError::internal(&error),
        })?;
        self.conditions.check(&named(&current), current.generation)?;
        Ok(current)
    }

    async fn create(&self, tx: &mut WriteTx, kind: Kind, prepared: Prepared) -> Result<Done, ApiError> {
        let parent = self.parent(tx, kind).await?;
        let creation = match prepared {
            Prepared::Creation { parent: seen, creation } if is_as_seen(seen.as_deref(), parent.as_ref()) => {
                creation
            }
            Prepared::Creation { .. } | Prepared::Update { .. } | Prepared::Nothing => {
                self.creation(kind, parent.as_ref())?
            }
        };
        if let Some(main) = creation.resources.first() {
            // What roles give may be another thing by now.
            self.may_grant(tx, kind, &main.spec).await?;
        }
        self.may_create(tx, &creation, parent.as_ref()).await?;
        let Creation { mut resources, secrets, warnings } = creation;
        let main = resources.first().map(|new| new.id.clone()).unwrap_or_default();
        hosting_planner::bill_to_defaults(tx, &mut resources, &mut entropy).await?;
        let creation = Creation { resources, secrets: Map::new(), warnings: Vec::new() };
        if !self.principal.is_admin() {
            let made: Vec<Resource> =
                creation.resources.iter().map(|new| new.clone().into_resource(None, 0, 0)).collect();
            self.may_refer(tx, &made, None).await?;
        }
        let created = hosting_planner::create(tx, creation).await?;
        if kind.info().tier == Tier::Brand {
            created.iter().try_for_each(|resource| self.principal.may_touch(resource))?;
        }
        let wait = created.iter().map(|resource| resource.id.clone()).collect();
        let main = created
            .into_iter()
            .find(|resource| public_id(&resource.id) == main)
            .ok_or_else(|| ApiError::internal(&"nothing was created"))?;
        let done = Done::of(main).waiting_for(wait).warning(&warnings);
        Ok(secrets.into_iter().fold(done, |done, (field, value)| done.also(&field, value)))
    }

    async fn update(&self, tx: &mut WriteTx, kind: Kind, prepared: Prepared) -> Result<Done, ApiError> {
        let current = self.current(tx, kind).await?;
        let update = match prepared {
            Prepared::Update { current: seen, update } if *seen == current => *update,
            Prepared::Creation { .. } | Prepared::Update { .. } | Prepared::Nothing => {
                self.checked_update(kind, &current)?
            }
        };
        self.may_grant(tx, kind, &update.spec).await?;
        self.may_give_to(tx, update.owner.as_ref()).await?;
        let warnings = update.warnings.clone();
        if let Some(owner) = &update.owner {
            hosting_planner::bill_owner(tx, owner, &mut entropy).await?;
        }
        if !self.principal.is_admin() {
            let changed = Resource { spec: update.spec.clone(), ..current.clone() };
            self.may_refer(tx, &[changed], Some(&current)).await?;
        }
        let updated = hosting_planner::update(tx, current, update).await?;
        if kind.info().tier == Tier::Brand {
            self.principal.may_touch(&updated)?;
        }
        Ok(Done::of(updated).warning(&warnings))
    }

    async fn delete(&self, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
        let current = self.current(tx, kind).await?;
        self.may_delete(&current)?;
        let deleted = if self.is_for_good() {
            hosting_planner::delete_for_good(tx, kind, &current.id).await?
        } else {
            hosting_planner::delete(tx, kind, &current.id).await?
        };
        let wait = match deleted {
            Deleted::Gone => Vec::new(),
            Deleted::Deleting(resource) => vec![resource.id],
        };
        Ok(Done { wait, ..Done::without_body(&current) })
    }
}

impl Call {
    /// Refuses what the mutation did so far when it is large and not confirmed, or was confirmed as something else.
    pub(crate) async fn confirmed(&self, tx: &mut WriteTx, rules: ConfirmRules) -> Result<(), ApiError> {
        let given = self.query.number(CONFIRM);
        if given.is_none() && !rules.required {
            return Ok(());
        }
        let effects = tx.effects();
        let reach = Reach::of(tx, &effects).await?;
        match given {
            Some(given) if given != reach.number() => Err(reach.refused(
                StatusCode::CONFLICT,
                &format!("the change is confirmed with {given}, which it is not any more"),
            )),
            None if reach.confirmed_with(rules).is_some() => {
                Err(reach.refused(StatusCode::PRECONDITION_REQUIRED, "the change is large and not confirmed"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether what a creation was worked out from is still so: its parent's document.
fn is_as_seen(seen: Option<&Resource>, now: Option<&Resource>) -> bool {
    match (seen, now) {
        (None, None) => true,
        (Some(seen), Some(now)) => {
            seen.created_revision == now.created_revision && seen.spec == now.spec && seen.label == now.label
        }
        _ => false,
    }
}
