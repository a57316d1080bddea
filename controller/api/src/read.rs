//! What reads answer.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use hosting_planner::{World, lint};
use hosting_resource::kinds::shard::Shard;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Doc, FilterBy, Kind, ListBy, Resource, Status, Tier, timestamp};
use hosting_store::{AuditQuery, AuditSort, Cursor, ListQuery, Order, ReadTx};
use serde_json::{Map, Value, json};

use crate::actions::{jobs::await_job, observed};
use crate::bodies::{
    AuditLog, AuditPage, ClusterNodes, Completed, Found, IncidentCount, IncidentStats, SearchResults,
    ShardTenants, Stats, StatusCount,
};
use crate::query::{COUNT, Query, sort_keys, sort_of};
use crate::service::{Call, Reply, named, to_json};
use crate::wait::{Look, Waited};
use crate::{Api, ApiError, view_fields};

/// Clusters and shards that the dashboard lists; a cell has far fewer.
const MAX_ROWS: u32 = 1000;
/// Incidents resolved within so long count for the mean, in milliseconds.
const MONTH: i64 = 30 * 24 * 3_600_000;

/// The direction of a list.
fn order(query: &Query, default: Order) -> Order {
    match query.text("order") {
        Some("asc") => Order::Asc,
        Some("desc") => Order::Desc,
        Some(_) | None => default,
    }
}

/// Which tenants are suspended, and why.
#[derive(Default)]
pub(crate) struct Suspensions(BTreeMap<String, String>);

impl Suspensions {
    /// Reads the tenants of some resources, as far as their suspension shows in these.
    pub(crate) async fn over(tx: &mut ReadTx, resources: &[Resource]) -> Result<Self, ApiError> {
        let tenants: BTreeSet<&String> = resources.iter().filter_map(Self::covering).collect();
        let tenants: Vec<String> = tenants.into_iter().cloned().collect();
        let suspended =
            tx.resources(&tenants).await?.into_iter().filter(|one| one.status == Status::Suspended);
        let reason = |tenant| Doc::<Tenant>::read(tenant).ok().and_then(|tenant| tenant.state.suspend_reason);
        Ok(Self(suspended.map(|tenant| (tenant.id.clone(), reason(tenant).unwrap_or_default())).collect()))
    }

    /// The tenant whose suspension would show in a resource.
    fn covering(resource: &Resource) -> Option<&String> {
        let shows = resource.kind.info().suspends_with_tenant && resource.status == Status::Active;
        resource.tenant.as_ref().filter(|_| shows)
    }

    /// Why a resource shows as suspended although its own status is another; `None` when it does not.
    pub(crate) fn of(&self, resource: &Resource) -> Option<&String> {
        self.0.get(Self::covering(resource)?)
    }
}

impl Api {
    pub(crate) async fn list(&self, call: &Call, kind: Kind, by: Option<ListBy>) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let info = kind.info();
        let query = &call.query;
        let mut list = ListQuery::new(kind);
        list.limit = query.limit();
        let mut parent = None;
        if let Some(by) = by {
            let of = call.subject(&mut tx, by.kind).await?;
            list.facets.push((by.relation.to_owned(), of.id));
        } else if let Some(of) = info.parent {
            let found = call.subject(&mut tx, of.kind).await?;
            list.parent = Some(found.id.clone());
            parent = Some(found);
        }
        if info.tier == Tier::Brand {
            list.brands = call.principal.visible();
        }
        list.order = order(query, if info.sort.is_empty() { Order::Asc } else { Order::Desc });
        if let Some(wanted) = query.text("sort") {
            let column = sort_keys(kind).iter().find(|(key, _)| *key == wanted);
            list.sort = column.map_or(list.sort, |(_, column)| sort_of(*column));
        }
        let status = query.text("status");
        let is_counted = query.text(COUNT) == Some("true");
        if let Some(status) = status.and_then(Status::from_name) {
            list.status = Some(status);
            if info.suspends_with_tenant {
                match status {
                    Status::Active => list.tenant_suspended = Some(false),
                    Status::Suspended => {
                        list.status = Some(Status::Active);
                        list.tenant_suspended = Some(true);
                    }
                    Status::Pending
                    | Status::Provisioning
                    | Status::Converging
                    | Status::Failed
                    | Status::Deleted
                    | Status::Deleting
                    | Status::Degraded
                    | Status::AutoDisabled => {}
                }
            }
        }
        list.search = query.text("search").map(|given| info.search_text(given));
        for filter in info.filters {
            let Some(given) = query.text(filter.name) else { continue };
            let value = filter.value(given, parent.as_ref())?;
            match filter.by {
                FilterBy::Facet(field) => list.facets.push((field.to_owned(), value)),
                FilterBy::Label => list.label = Some(value),
                FilterBy::Subscription(field) => {
                    let value = match call.named(&mut tx, Kind::Subscription, &value).await {
                        Ok(subscription) => subscription.id,
                        // Nothing is billed with it.
                        Err(error) if error.status == StatusCode::NOT_FOUND => value,
                        Err(error) => return Err(error),
                    };
                    list.facets.push((field.to_owned(), value));
                }
            }
        }
        if let Some(text) = query.text("cursor") {
            let cursor = Cursor::decode(text).ok_or_else(|| {
                ApiError::invalid(
                    "cursor",
                    "is none of ours; use next_cursor of the page before, or start over without it",
                )
            })?;
            list.after = Some(cursor);
        }
        let page = tx.page(&list).await?;
        let mut items = self.views(&mut tx, &page.items).await?;
        self.add_observed(&mut tx, kind, &page.items, &mut items).await?;
        if let Some(wanted) = query.fields() {
            items.iter_mut().for_each(|view| view_fields::keep(view, &wanted));
        }
        let mut body = json!({"items": items, "has_more": page.next.is_some()});
        if is_counted {
            let total = tx.total(&list).await?;
            body["total"] = total.count.into();
            if total.is_lower_bound {
                body["total_is_lower_bound"] = true.into();
            }
        }
        if let Some(next) = page.next {
            body["next_cursor"] = next.encode().into();
        }
        Ok(Reply::json(200, body))
    }

    /// Resources as the API shows them, with the names beside the ids.
    pub(crate) async fn views(
        &self,
        tx: &mut ReadTx,
        resources: &[Resource],
    ) -> Result<Vec<Map<String, Value>>, ApiError> {
        let suspensions = Suspensions::over(tx, resources).await?;
        let mut views: Vec<Map<String, Value>> = resources.iter().map(Resource::view).collect();
        let joined = |resource: &Resource, view: &Map<String, Value>| -> Vec<(&'static str, String)> {
            let id = |field: &str| view.get(field).and_then(Value::as_str).map(str::to_owned);
            resource.kind.info().joins.iter().filter_map(|(shown, of)| Some((*shown, id(of)?))).collect()
        };
        let joins: Vec<_> = resources.iter().zip(&views).map(|(one, view)| joined(one, view)).collect();
        let ids: BTreeSet<&String> = joins.iter().flatten().map(|(_, id)| id).collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        let found = tx.resources(&ids).await?;
        let names: BTreeMap<String, String> = found.into_iter().map(|one| (one.id, one.label)).collect();
        for ((resource, view), joins) in resources.iter().zip(&mut views).zip(joins) {
            if let Some(reason) = suspensions.of(resource) {
                view.insert("status".to_owned(), Status::Suspended.as_str().into());
                view.insert("suspend_reason".to_owned(), reason.clone().into());
            }
            for (shown, id) in joins {
                if let Some(name) = names.get(&id) {
                    view.insert(shown.to_owned(), name.clone().into());
                }
            }
        }
        Ok(views)
    }

    /// One resource as the API shows it, with where it stands.
    pub(crate) async fn view_of(&self, tx: &mut ReadTx, look: &Look) -> Result<Map<String, Value>, ApiError> {
        let mut view = self.views(tx, std::slice::from_ref(&look.resource)).await?.pop().unwrap_or_default();
        if !look.verdict.conditions.is_empty() {
            view.insert("conditions".to_owned(), look.conditions().into());
            view.insert("lagging".to_owned(), look.verdict.lagging.clone().into());
        }
        Ok(view)
    }

    /// Adds what was seen of resources of a kind beside what is stored of them.
    async fn add_observed(
        &self,
        tx: &mut ReadTx,
        kind: Kind,
        resources: &[Resource],
        views: &mut [Map<String, Value>],
    ) -> Result<(), ApiError> {
        match observed(kind) {
            Some(observed) => (observed.add)(self, tx, resources, views).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn receipt(&self, call: &Call, kind: Kind) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let resource = call.subject(&mut tx, kind).await?;
        let look = self.look(&mut tx, resource).await?;
        Ok(Reply::json(200, to_json(&look.receipt(self.platform()))?))
    }

    pub(crate) async fn get(&self, call: &Call, kind: Kind) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let resource = call.subject(&mut tx, kind).await?;
        let generation = resource.generation;
        call.conditions.check_read(&named(&resource), generation)?;
        let look = self.look(&mut tx, resource).await?;
        let mut view = self.view_of(&mut tx, &look).await?;
        let one = std::slice::from_ref(&look.resource);
        self.add_observed(&mut tx, kind, one, std::slice::from_mut(&mut view)).await?;
        if kind == Kind::Zone {
            let warnings = lint::of_zone(&mut tx, &look.resource).await?;
            if !warnings.is_empty() {
                view.insert("warnings".to_owned(), to_json(&warnings)?);
            }
        }
        if let Some(wanted) = call.query.fields() {
            view_fields::keep(&mut view, &wanted);
        }
        let mut reply = Reply::json(200, Value::Object(view));
        reply.generation = Some(generation);
        Ok(reply)
    }

    pub(crate) async fn audit_logs(&self, call: &Call) -> Result<Reply, ApiError> {
        let query = &call.query;
        let text = |name: &str| query.text(name).map(str::to_owned);
        let after = text("cursor");
        if after.as_ref().is_some_and(|cursor| uuid::Uuid::parse_str(cursor).is_err()) {
            return Err(ApiError::invalid(
                "cursor",
                "is none of ours; use next_cursor of the page before, or start over without it",
            ));
        }
        let list = AuditQuery {
            search: text("search"),
            resource_type: text("resource_type"),
            resource_id: text("resource_id"),
            method: text("action"),
            from: query.time("date_from"),
            until: query.time("date_to"),
            sort: match query.text("sort") {
                Some("method") => AuditSort::Method,
                Some("resource_type") => AuditSort::ResourceType,
                Some(_) | None => AuditSort::Written,
            },
            order: order(query, Order::Desc),
            after,
            limit: query.limit(),
        };
        let mut tx = self.store().read().await?;
        let page = tx.audit_page(&list).await?;
        let items = page
            .rows
            .into_iter()
            .map(|row| AuditLog {
                id: row.id,
                api_key_id: row.actor,
                method: row.entry.method,
                path: row.entry.path,
                resource_type: row.entry.resource_type,
                resource_id: row.entry.resource_id,
                status_code: row.entry.status_code,
                request_body: row.entry.body,
                revision: row.revision,
                created_at: timestamp(row.at),
                link: (!row.link.is_empty()).then(|| hex::encode(&row.link)),
            })
            .collect();
        let has_more = page.next.is_some();
        Ok(Reply::json(200, to_json(&AuditPage { items, next_cursor: page.next, has_more })?))
    }

    pub(crate) async fn stats(&self) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let mut totals: BTreeMap<Kind, Vec<(Status, u64)>> = BTreeMap::new();
        for kind in Kind::ALL {
            let mut counts = tx.status_counts(*kind, None).await?;
            counts.retain(|(status, _)| *status != Status::Deleted);
            totals.insert(*kind, counts);
        }
        let total =
            |kind: Kind| totals.get(&kind).map_or(0, |counts| counts.iter().map(|(_, count)| count).sum());
        let tenants = totals.get(&Kind::Tenant).cloned().unwrap_or_default();
        let standing = |wanted: Status| {
            tenants.iter().find(|(status, _)| *status == wanted).map(|(_, count)| *count).unwrap_or_default()
        };
        let shards = tx.list(Kind::Shard, "", MAX_ROWS).await?;
        let about: Vec<_> = shards.iter().map(|shard| (shard.id.clone(), Kind::Tenant)).collect();
        let tenants_of = tx.usage(&about).await?;
        let mut tenants_per_shard = Vec::new();
        for (shard, count) in shards.into_iter().zip(tenants_of) {
            let role = Doc::<Shard>::of(&shard).map(|shard| shard.spec.role).unwrap_or_default();
            tenants_per_shard.push(ShardTenants { shard_name: shard.label, shard_id: shard.id, role, count });
        }
        let mut nodes_per_cluster = Vec::new();
        for cluster in tx.list(Kind::Cluster, "", MAX_ROWS).await? {
            let count = tx.count_children(Kind::Node, &cluster.id).await?;
            nodes_per_cluster.push(ClusterNodes {
                cluster_name: cluster.label,
                cluster_id: cluster.id,
                count,
            });
        }
        let incidents = tx.incident_counts(self.store().now().saturating_sub(MONTH)).await?;
        let stats = Stats {
            brands: total(Kind::Brand),
            regions: total(Kind::Region),
            clusters: total(Kind::Cluster),
            shards: total(Kind::Shard),
            nodes: total(Kind::Node),
            tenants: total(Kind::Tenant),
            tenants_active: standing(Status::Active),
            tenants_suspended: standing(Status::Suspended),
            databases: 0,
            zones: total(Kind::Zone),
            valkey_instances: 0,
            webroots: total(Kind::Webroot),
            fqdns: total(Kind::Fqdn),
            tenants_per_shard,
            nodes_per_cluster,
            tenants_by_status: tenants
                .iter()
                .map(|(status, count)| StatusCount { status: status.as_str(), count: *count })
                .collect(),
            incidents: incident_stats(incidents),
        };
        Ok(Reply::json(200, to_json(&stats)?))
    }

    pub(crate) async fn search(&self, call: &Call) -> Result<Reply, ApiError> {
        let mut results = Vec::new();
        if let Some(text) = call.query.text("q").filter(|text| !text.is_empty()) {
            let mut tx = self.store().read().await?;
            for kind in Kind::ALL.iter().copied().filter(|kind| kind.info().global_search) {
                let mut list = ListQuery::new(kind);
                list.search = Some(kind.info().search_text(text));
                list.limit = call.query.limit();
                let all = tx.find(&list).await?;
                let suspensions = Suspensions::over(&mut tx, &all).await?;
                for found in all {
                    let covered = suspensions.of(&found).is_some();
                    results.push(Found {
                        kind: kind.name(),
                        label: found.label,
                        tenant_id: found.tenant.filter(|tenant| *tenant != found.id),
                        id: found.id,
                        status: if covered { Status::Suspended } else { found.status }.as_str(),
                    });
                }
            }
        }
        Ok(Reply::json(200, to_json(&SearchResults { results })?))
    }

    /// Blocks until what a workflow id names is settled. `create-webroot-web_x`, `webroot-web_x`, `delete-tenant-t_x`, ...
    pub(crate) async fn await_workflow(&self, call: &Call) -> Result<Reply, ApiError> {
        if call.id.starts_with(JOB_PREFIX) {
            return await_job(self, call).await;
        }
        let workflow = parse_workflow(&call.id)
            .ok_or_else(|| ApiError::not_found(format!("{:?} names no workflow of a resource", call.id)))?;
        let limit = self.wait_timeout(&call.query, self.max_wait())?;
        let id = {
            let mut tx = self.store().read().await?;
            match call.named(&mut tx, workflow.kind, workflow.id).await {
                Ok(resource) => resource.id,
                // What is not there any more has been deleted (that is what its workflow was), unless it was to be made.
                Err(error) if error.status == StatusCode::NOT_FOUND && !workflow.creates => {
                    return Ok(Reply::json(200, to_json(&Completed { status: "completed" })?));
                }
                Err(error) => return Err(error),
            }
        };
        let _place = self.waiting_place(&call.principal)?;
        match self.until_ready(&[id], limit, None).await?.0 {
            Waited::Ready(_) => Ok(Reply::json(200, to_json(&Completed { status: "completed" })?)),
            Waited::Rejected(_, reasons) => Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed: {}", reasons.join("; ")),
            )),
            Waited::Late(looks) => {
                let mut error = ApiError::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    format!("not settled within {} s; ask again", limit.as_secs()),
                );
                if let Some(look) = looks.first() {
                    error.more.insert("conditions".to_owned(), look.conditions().into());
                    error.more.insert("lagging".to_owned(), look.verdict.lagging.clone().into());
                }
                Err(error)
            }
        }
    }
}

/// How ids of jobs begin; no workflow id of a resource does.
const JOB_PREFIX: &str = "job_";

/// What a workflow id says.
struct Workflow<'a> {
    kind: Kind,
    id: &'a str,
    creates: bool,
}

fn parse_workflow(text: &str) -> Option<Workflow<'_>> {
    let verbs = ["create-", "update-", "delete-", "retry-", "suspend-", "unsuspend-", "migrate-", ""];
    for verb in verbs {
        let Some(rest) = text.strip_prefix(verb) else { continue };
        let found = Kind::ALL.iter().find_map(|kind| {
            let id = rest.strip_prefix(kind.info().dashed().as_str())?.strip_prefix('-')?;
            // `zone-record-x` is no zone with the id `record-x`.
            let longer = Kind::ALL.iter().any(|other| {
                other != kind
                    && other.info().dashed().starts_with(kind.info().dashed().as_str())
                    && rest.starts_with(&format!("{}-", other.info().dashed()))
            });
            (!id.is_empty() && !longer).then_some(Workflow { kind: *kind, id, creates: verb == "create-" })
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The incidents' part of the dashboard.
fn incident_stats(counts: hosting_store::IncidentCounts) -> IncidentStats {
    let mut stats = IncidentStats::default();
    for (severity, status, count) in counts.by_status {
        let known = stats.incidents_by_status.iter_mut().find(|known| known.status == status);
        match known {
            Some(known) => known.count += count,
            None => stats.incidents_by_status.push(IncidentCount { status: status.clone(), count }),
        }
        if matches!(status.as_str(), "resolved" | "cancelled") {
            continue;
        }
        stats.incidents_open += count;
        stats.incidents_critical += if severity == "critical" { count } else { 0 };
        stats.incidents_escalated += if status == "escalated" { count } else { 0 };
    }
    stats.capability_gaps_open = counts.gaps_open;
    stats.mttr_minutes = counts.mean_resolution.map(|mean| mean / 60_000.0);
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workflow_ids() {
        let parse =
            |text| parse_workflow(text).map(|workflow| (workflow.kind, workflow.id, workflow.creates));
        assert_eq!(parse("create-webroot-web_x"), Some((Kind::Webroot, "web_x", true)));
        assert_eq!(parse("create-zone-record-a-b"), Some((Kind::ZoneRecord, "a-b", true)));
        assert_eq!(parse("zone-a"), Some((Kind::Zone, "a", false)));
        assert_eq!(parse("delete-tenant-t_x"), Some((Kind::Tenant, "t_x", false)));
        for none in ["", "create-", "tenant-", "create-database-db_x", "frob-tenant-t_x"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
