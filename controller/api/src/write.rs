//! What changes do: checked inside the write transaction, audited with it, answered once it is on disk, waited for if asked.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hosting_planner::{Change, Deleted, Draft, World, lint};
use hosting_resource::kinds::brand;
use hosting_resource::{Creation, Kind, Resource, ShapeError, Status, Tier, Warning};
use hosting_store::{ListQuery, Origin, WriteTx};
use serde_json::{Map, Value, json};

use crate::auth::is_revoked;
use crate::bodies::{Converging, RetryFailed, Runtime, RuntimeView, Suspend};
use crate::read::runtimes_of;
use crate::route::{Op, Shape};
use crate::service::{Call, Failure, Reply, audit_entry, find, to_json};
use crate::wait::{Look, Waited, lagging};
use crate::{Api, ApiError};

/// Resources that one mutation of retry-failed tries again.
const RETRIES: u32 = 100;
/// Mutations of one retry-failed: what is beyond it is for the next call.
const ROUNDS: u32 = 100;
/// What a caller is told to wait before it asks again.
const RETRY_AFTER: u32 = 5;

/// Resources that one body may describe. More would not fit into a transaction; found out in there, that would cost everybody
/// who waits for the store's one writer.
const MAX_DESCRIBED: usize = 1_000;

/// Objects in the lists of a body, at every depth.
fn described(fields: &Map<String, Value>) -> usize {
    fields
        .values()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(Value::as_object)
        .map(|nested| 1 + described(nested))
        .sum()
}

/// What a mutation did.
#[derive(Debug)]
pub(crate) struct Done {
    body: Body,
    /// What `?wait=ready` waits for.
    wait: Vec<String>,
    /// For the audit row.
    subject: Option<String>,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
enum Body {
    None,
    /// The resource, and what is shown this once.
    View(Box<Resource>, Map<String, Value>),
    Json(Value),
}

impl Done {
    fn of(resource: Resource) -> Self {
        Self {
            wait: vec![resource.id.clone()],
            subject: Some(resource.id.clone()),
            body: Body::View(Box::new(resource), Map::new()),
            warnings: Vec::new(),
        }
    }

    fn without_body(resource: &Resource) -> Self {
        Self {
            body: Body::None,
            wait: vec![resource.id.clone()],
            subject: Some(resource.id.clone()),
            warnings: Vec::new(),
        }
    }

    fn json<T: serde::Serialize>(id: &str, body: &T) -> Result<Self, ApiError> {
        Ok(Self {
            body: Body::Json(to_json(body)?),
            wait: Vec::new(),
            subject: Some(id.to_owned()),
            warnings: Vec::new(),
        })
    }
}

fn entropy(buffer: &mut [u8]) {
    rand::fill(buffer);
}

impl Api {
    pub(crate) async fn change(&self, call: Call, path: &str, kept: Option<Value>) -> Result<Reply, Failure> {
        let described = described(&call.body);
        if described > MAX_DESCRIBED {
            let message = format!(
                "the body describes {described} resources, and at most {MAX_DESCRIBED} fit in one transaction: send it in \
                 smaller parts"
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message).into());
        }
        let place = match call.wait {
            Some(_) => Some(self.waiting_place(&call.principal)?),
            None => None,
        };
        let call = Arc::new(call);
        let entry = audit_entry(&call.route, path, Some(&call.id), kept, call.route.success);
        let origin = Origin {
            traceparent: call.traceparent.clone(),
            actor: Some(call.principal.key_id.clone()),
            admin: call.principal.is_admin(),
        };
        // Nothing is planned: the row is written for itself.
        let op = call.route.op;
        let alone = if op == Op::JoinToken {
            Some(self.join_token(&call).await?)
        } else if op == Op::Forget {
            Some(self.forget(&call, origin.clone()).await?)
        } else if op == Op::Release {
            Some(self.release(&call).await?)
        } else {
            None
        };
        if let Some(body) = alone {
            self.store().audit(origin, entry).await.map_err(ApiError::from)?;
            return Ok(Reply::json(call.route.success, body));
        }

        let inner = Arc::clone(&call);
        let committed = self
            .store()
            .write(origin.clone(), move |tx| {
                Box::pin(async move {
                    let done = inner.carry_out(tx).await?;
                    let mut entry = entry;
                    if done.subject.is_some() {
                        entry.resource_id.clone_from(&done.subject);
                    }
                    tx.audit(entry);
                    Ok::<Done, ApiError>(done)
                })
            })
            .await
            .map_err(ApiError::from)?;
        let mut done = committed.value;
        if call.route.op == Op::RetryFailed {
            self.retry_the_rest(&call, &origin, &mut done).await.map_err(audited)?;
        }
        if call.route.op == Op::Delete(Kind::Node) {
            self.platform().forget(&call.id);
        }
        if call.callback {
            done.warnings.push(Warning::of_field(
                "not_served",
                "X-Callback-URL",
                "callbacks are not delivered yet",
                "use ?wait=ready, or poll",
            ));
        }
        done.warnings.extend(self.zone_warnings(&done.body).await.map_err(audited)?);
        let reply = match call.wait {
            Some(limit) => self.answer_when_ready(&call, done, committed.revision, limit).await,
            None => self.answer_now(&call, done, committed.revision).await,
        };
        drop(place);
        // The change is on disk and its row with it, whatever became of the answer.
        reply.map_err(audited)
    }

    async fn retry_the_rest(
        &self,
        call: &Arc<Call>,
        origin: &Origin,
        done: &mut Done,
    ) -> Result<(), ApiError> {
        let mut total = count_of(&done.body);
        let mut last = total;
        for _ in 1..ROUNDS {
            if last < u64::from(RETRIES) {
                break;
            }
            let inner = Arc::clone(call);
            let more = self
                .store()
                .write(origin.clone(), move |tx| Box::pin(async move { inner.retry_failed(tx).await }))
                .await?;
            last = count_of(&more.value.body);
            total += last;
            done.wait.extend(more.value.wait);
        }
        done.body = Body::Json(to_json(&RetryFailed { status: "retrying", count: total })?);
        Ok(())
    }

    /// What a written zone or record has to do with that will not work. Read once the change is on disk, so that nobody waits for it who
    /// writes.
    async fn zone_warnings(&self, body: &Body) -> Result<Vec<Warning>, ApiError> {
        match body {
            Body::View(resource, _) if matches!(resource.kind, Kind::Zone | Kind::ZoneRecord) => {
                let mut tx = self.store().read().await?;
                Ok(lint::of_change(&mut tx, resource).await?)
            }
            Body::View(..) | Body::None | Body::Json(_) => Ok(Vec::new()),
        }
    }

    async fn answer_now(&self, call: &Call, done: Done, revision: u64) -> Result<Reply, ApiError> {
        let status = StatusCode::from_u16(call.route.success).unwrap_or(StatusCode::OK);
        let mut reply =
            Reply { status, body: None, revision: Some(revision), generation: None, retry_after: None };
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
                    view.insert("warnings".to_owned(), to_json(&done.warnings)?);
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
    ) -> Result<Reply, ApiError> {
        let waited = self.until_ready(&done.wait, limit).await?;
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
        let conditions: Vec<Value> = looks.iter().flat_map(Look::conditions).collect();
        body.entry("conditions").or_insert_with(|| conditions.into());
        body.insert("lagging".to_owned(), lagging(&looks).into());
        body.insert("revision".to_owned(), revision.into());
        if !done.warnings.is_empty() {
            body.insert("warnings".to_owned(), to_json(&done.warnings)?);
        }
        if status == StatusCode::CONFLICT {
            body.insert("error".to_owned(), format!("the fleet rejected it: {}", reasons.join("; ")).into());
            body.insert("reasons".to_owned(), reasons.into());
        }
        Ok(Reply {
            status,
            body: Some(Value::Object(body)),
            revision: Some(revision),
            generation,
            retry_after: (status == StatusCode::ACCEPTED).then_some(RETRY_AFTER),
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
        body.insert("id".to_owned(), id.into());
        body.insert("status".to_owned(), "deleted".into());
        Ok(body)
    }
}

fn audited(error: ApiError) -> Failure {
    Failure { error, audited: true }
}

fn count_of(body: &Body) -> u64 {
    match body {
        Body::Json(body) => body.get("count").and_then(Value::as_u64).unwrap_or_default(),
        Body::None | Body::View(..) => 0,
    }
}

/// The answer of /brands/{id}/clusters; the brand's own view hides the list.
fn cluster_ids(mut view: Map<String, Value>) -> Map<String, Value> {
    view.retain(|field, _| matches!(field.as_str(), "cluster_ids" | "generation" | "revision" | "warnings"));
    view
}

impl Call {
    async fn carry_out(&self, tx: &mut WriteTx) -> Result<Done, ApiError> {
        match self.route.op {
            Op::Create(kind) => self.create(tx, kind).await,
            Op::Update(kind) => self.update(tx, kind).await,
            Op::Delete(kind) => self.delete(tx, kind).await,
            Op::Retry(kind) => {
                let current = self.current(tx, kind).await?;
                let retried = hosting_planner::retry(tx, kind, &current.id).await?;
                Ok(Done::without_body(&retried))
            }
            Op::Suspend => {
                let reason = self.typed::<Suspend>()?.reason;
                if reason.trim().is_empty() {
                    return Err(ApiError::invalid("reason", "is required"));
                }
                if reason.chars().count() > 1024 || reason.chars().any(char::is_control) {
                    return Err(ApiError::invalid(
                        "reason",
                        "must have at most 1024 characters, none of them control characters",
                    ));
                }
                let tenant = self.current(tx, Kind::Tenant).await?;
                let suspended = hosting_planner::suspend(tx, &tenant.id, reason.trim()).await?;
                Ok(Done::without_body(&suspended))
            }
            Op::Unsuspend => {
                let tenant = self.current(tx, Kind::Tenant).await?;
                let back = hosting_planner::unsuspend(tx, &tenant.id).await?;
                Ok(Done::without_body(&back))
            }
            Op::RetryFailed => self.retry_failed(tx).await,
            Op::Converge => {
                let shard = self.current(tx, Kind::Shard).await?;
                hosting_planner::converge_shard(tx, &shard.id).await?;
                Done::json(&shard.id, &Converging { status: "converging" })
            }
            Op::SetBrandClusters => {
                let current = self.current(tx, Kind::Brand).await?;
                let update = brand::set_clusters(&current, &self.body)?;
                let cluster_ids = update.spec.get("cluster_ids").cloned().unwrap_or_default();
                let warnings = update.warnings.clone();
                let updated = hosting_planner::update(tx, current, update).await?;
                let mut done = Done::of(updated);
                if let Body::View(_, more) = &mut done.body {
                    more.insert("cluster_ids".to_owned(), cluster_ids);
                }
                done.warnings = warnings;
                Ok(done)
            }
            Op::AddRuntime | Op::RemoveRuntime => self.set_runtime(tx).await,
            Op::List(_)
            | Op::ListBy(..)
            | Op::Get(_)
            | Op::Summary
            | Op::BrandClusters
            | Op::Runtimes
            | Op::AuditLogs
            | Op::Stats
            | Op::Search
            | Op::Await
            | Op::JoinToken
            | Op::Forget
            | Op::Subscribers
            | Op::Release
            | Op::Explain => Err(ApiError::internal(&"not a change of the store")),
        }
    }

    fn typed<T: serde::de::DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_value(Value::Object(self.body.clone())).map_err(|error| {
            let message = error.to_string();
            match message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
                Some(field) => ApiError::invalid(field, "is required"),
                None => ApiError::new(StatusCode::BAD_REQUEST, format!("invalid JSON: {message}")),
            }
        })
    }

    /// The resource in the path: the caller's, and of the generation that it was meant for.
    async fn current(&self, tx: &mut WriteTx, kind: Kind) -> Result<Resource, ApiError> {
        let mut current = self.subject(tx, kind).await?;
        if kind == Kind::ApiKey && is_revoked(&current) {
            return Err(ApiError::not_found("api key not found"));
        }
        kind.def().upcast(&mut current).map_err(|error| match error {
            ShapeError::Newer { .. } => ApiError::conflict(error.to_string()),
            ShapeError::Unreadable { .. } => ApiError::internal(&error),
        })?;
        match self.generation {
            Some(wanted) if wanted != current.generation => Err(ApiError::new(
                StatusCode::PRECONDITION_FAILED,
                format!(
                    "{} {} has generation {}, the change was meant for {wanted}: read it again",
                    kind, current.id, current.generation
                ),
            )),
            Some(_) | None => Ok(current),
        }
    }

    /// Refuses a body that speaks of another's brand before anything is told about it.
    async fn may_create(&self, tx: &mut WriteTx, kind: Kind) -> Result<(), ApiError> {
        if self.principal.is_admin() {
            return Ok(());
        }
        let text = |field: &str| self.body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if kind == Kind::Brand {
            // A brand of one's own making would be out of one's reach, unless it was granted before it was there.
            return self.principal.may_use_brand(text("id"));
        }
        if let Some(brand) = text("brand_id") {
            self.principal.may_use_brand(Some(brand))?;
        }
        self.may_use_tenant(tx, kind).await
    }

    /// A zone's `tenant_id`.
    async fn may_use_tenant(&self, tx: &mut WriteTx, kind: Kind) -> Result<(), ApiError> {
        if kind != Kind::Zone {
            return Ok(());
        }
        if let Some(id) = self.body.get("tenant_id").and_then(Value::as_str)
            && let Some(tenant) = tx.resource(id).await?
        {
            self.principal.may_touch(&tenant)?;
        }
        Ok(())
    }

    /// A key may grant no more than the caller has.
    fn may_grant(&self, spec: &Map<String, Value>) -> Result<(), ApiError> {
        let list = |field: &str| -> Vec<String> {
            spec.get(field).and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default()
        };
        self.principal.may_grant(&list("scopes"))?;
        list("brands").iter().try_for_each(|brand| self.principal.may_use_brand(Some(brand)))
    }

    async fn create(&self, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
        let parent = match kind.info().parent {
            Some(parent) => Some(self.subject(tx, parent.kind).await?),
            None => None,
        };
        self.may_create(tx, kind).await?;
        let Creation { resources, secrets, warnings } =
            kind.def().create(parent.as_ref(), &self.body, &mut entropy)?;
        if kind == Kind::ApiKey
            && let Some(key) = resources.first()
        {
            self.may_grant(&key.spec)?;
        }
        let creation = Creation { resources, secrets: Map::new(), warnings: Vec::new() };
        let created = hosting_planner::create(tx, creation).await?;
        if kind.info().tier == Tier::Brand {
            created.iter().try_for_each(|resource| self.principal.may_touch(resource))?;
        }
        let wait = created.iter().map(|resource| resource.id.clone()).collect();
        let main = created.into_iter().next().ok_or_else(|| ApiError::internal(&"nothing was created"))?;
        Ok(Done { subject: Some(main.id.clone()), body: Body::View(Box::new(main), secrets), wait, warnings })
    }

    async fn update(&self, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
        let current = self.current(tx, kind).await?;
        if !self.principal.is_admin() {
            self.may_use_tenant(tx, kind).await?;
        }
        let update = kind.def().update(&current, &self.body)?;
        if kind == Kind::ApiKey {
            self.may_grant(&update.spec)?;
        }
        let warnings = update.warnings.clone();
        let updated = hosting_planner::update(tx, current, update).await?;
        if kind.info().tier == Tier::Brand {
            self.principal.may_touch(&updated)?;
        }
        Ok(Done { warnings, ..Done::of(updated) })
    }

    async fn delete(&self, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
        let current = self.current(tx, kind).await?;
        let wait = match hosting_planner::delete(tx, kind, &current.id).await? {
            Deleted::Gone => Vec::new(),
            Deleted::Deleting(resource) => vec![resource.id],
        };
        Ok(Done { wait, ..Done::without_body(&current) })
    }

    async fn retry_failed(&self, tx: &mut WriteTx) -> Result<Done, ApiError> {
        let tenant = self.subject(tx, Kind::Tenant).await?;
        let mut ids = Vec::new();
        for kind in [Kind::Webroot, Kind::Fqdn, Kind::Zone, Kind::ZoneRecord, Kind::Tenant] {
            let mut list = ListQuery::new(kind);
            list.tenant = Some(tenant.id.clone());
            list.status = Some(Status::Failed);
            list.limit = RETRIES;
            ids.extend(tx.page(&list).await?.items.into_iter().map(|resource| resource.id));
        }
        ids.truncate(RETRIES as usize);
        let count = hosting_planner::retry_failed(tx, &tenant.id, &ids).await?;
        let mut done = Done::json(&tenant.id, &RetryFailed { status: "retrying", count })?;
        done.wait = ids;
        Ok(done)
    }

    /// Runtimes are for information: they stand in the cluster's state, beside its spec.
    async fn set_runtime(&self, tx: &mut WriteTx) -> Result<Done, ApiError> {
        let runtime: Runtime = self.typed()?;
        for (field, text) in [("runtime", &runtime.runtime), ("version", &runtime.version)] {
            let sound = (1..=32).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !sound {
                return Err(ApiError::invalid(field, "must be 1 to 32 of A-Z a-z 0-9 . _ -"));
            }
        }
        let mut cluster = self.current(tx, Kind::Cluster).await?;
        let mut runtimes = runtimes_of(&cluster);
        let adds = self.route.op == Op::AddRuntime;
        if adds {
            runtimes.insert(runtime.clone());
        } else if !runtimes.remove(&runtime) {
            return Err(ApiError::not_found(format!(
                "the cluster has no runtime {} {}",
                runtime.runtime, runtime.version
            )));
        }
        cluster.state.insert("runtimes".to_owned(), json!(runtimes));
        cluster.updated_at = tx.now();
        let id = cluster.id.clone();
        tx.apply(Change { put: vec![cluster], ..Change::default() }).await?;
        let mut done = Done::json(
            &id,
            &RuntimeView {
                cluster_id: id.clone(),
                runtime: runtime.runtime,
                version: runtime.version,
                available: true,
            },
        )?;
        if !adds {
            done.body = Body::None;
        }
        Ok(done)
    }
}

/// The node in the path, which may be gone from the registry already.
pub(crate) async fn known_node(call: &Call, world: &mut dyn World) -> Result<Option<Resource>, ApiError> {
    match find(world, Kind::Node, &call.id).await {
        Ok(node) => Ok(Some(node)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}
