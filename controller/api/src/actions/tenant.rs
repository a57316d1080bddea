//! A tenant off and on, another attempt at what failed, and what it has.

use std::collections::BTreeMap;

use axum::http::Method;
use hosting_planner::gates;
use hosting_resource::{Kind, Status, Tier};
use hosting_store::{ListQuery, WriteTx};

use super::{Act, Ask, PLAIN};
use hosting_resource::purge::PurgeCache;

use crate::bodies::{RetryFailed, Summary, Suspend};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Resources that one mutation of retry-failed tries again.
const RETRIES: u32 = 100;
/// Kinds that a tenant's summary names and that the platform does not serve yet.
const NOT_SERVED: &[&str] = &[
    "certificates",
    "email_accounts",
    "email_aliases",
    "email_forwards",
    "email_autoreplies",
    "databases",
    "database_users",
    "valkey_instances",
    "valkey_users",
    "ssh_keys",
    "backups",
    "cron_jobs",
];

static SUSPEND: Act = Act {
    name: "suspend",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let reason = call.typed::<Suspend>()?.reason;
            if reason.chars().count() > 1024 || reason.chars().any(char::is_control) {
                return Err(ApiError::invalid(
                    "reason",
                    "must have at most 1024 characters, none of them control characters",
                ));
            }
            let tenant = call.current(tx, Kind::Tenant).await?;
            let suspended = hosting_planner::suspend(tx, &tenant.id, reason.trim()).await?;
            Ok(Done::without_body(&suspended))
        })
    },
};

static UNSUSPEND: Act = Act {
    name: "unsuspend",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let tenant = call.current(tx, Kind::Tenant).await?;
            Ok(Done::without_body(&hosting_planner::unsuspend(tx, &tenant.id).await?))
        })
    },
};

static RETRY_FAILED: Act = Act {
    name: "retry-failed",
    repeats: Some(RETRIES),
    carry_out: |call, tx| Box::pin(retry_failed(call, tx)),
};

static PURGE_CACHE: Act = Act {
    name: "purge-cache",
    repeats: None,
    carry_out: |call, tx| {
        Box::pin(async move {
            let purged = call.typed::<PurgeCache>()?.check()?;
            let tenant = call.current(tx, Kind::Tenant).await?;
            Ok(Done::without_body(&hosting_planner::purge_cache(tx, &tenant.id, purged).await?))
        })
    },
};

static SUMMARY: Ask =
    Ask { name: "resource-summary", answer: |api, call| Box::pin(summary(api, call)), ..PLAIN };

pub(super) fn routes() -> Vec<Route> {
    let route =
        |method, path, op| Route::scoped(method, path, "tenants", Tier::Brand, op).of(Some(Kind::Tenant));
    vec![
        route(Method::POST, "/tenants/{id}/suspend", Op::Act(&SUSPEND))
            .may_take(Shape::Named("Suspend"))
            .gives(202, Shape::Empty)
            .says("Switch a tenant off"),
        route(Method::POST, "/tenants/{id}/unsuspend", Op::Act(&UNSUSPEND))
            .gives(202, Shape::Empty)
            .says("Switch a tenant on again"),
        route(Method::POST, "/tenants/{id}/purge-cache", Op::Act(&PURGE_CACHE))
            .takes(Shape::Named("PurgeCache"))
            .gives(202, Shape::Empty)
            .says("Purge what edges cached of a tenant's sites"),
        route(Method::POST, "/tenants/{id}/retry-failed", Op::Act(&RETRY_FAILED))
            .gives(202, Shape::Named("RetryFailed"))
            .says("Try again everything of a tenant that failed"),
        route(Method::GET, "/tenants/{id}/resource-summary", Op::Ask(&SUMMARY))
            .gives(200, Shape::Named("Summary"))
            .says("A tenant's resources by kind and status"),
    ]
}

async fn retry_failed(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let tenant = call.current(tx, Kind::Tenant).await?;
    let mut ids = Vec::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| gates::is_gated(*kind)) {
        let mut list = ListQuery::new(kind);
        list.tenant = Some(tenant.id.clone());
        list.status = Some(Status::Failed);
        list.limit = RETRIES;
        // What the mutations before it in this commit changed is looked at again by planning.
        while ids.len() < RETRIES as usize {
            let page = tx.beside().page(&list).await?;
            ids.extend(page.items.into_iter().map(|resource| resource.id));
            match page.next {
                Some(next) => list.after = Some(next),
                None => break,
            }
        }
    }
    ids.truncate(RETRIES as usize);
    let count = hosting_planner::retry_failed(tx, &tenant.id, &ids).await?;
    Ok(Done::json(&tenant.id, &RetryFailed { status: "retrying", count })?.waiting_for(ids))
}

async fn summary(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let tenant = call.subject(&mut tx, Kind::Tenant).await?;
    let mut summary = Summary { kinds: BTreeMap::new(), total: 0, pending: 0, provisioning: 0, failed: 0 };
    for name in NOT_SERVED {
        summary.kinds.insert(name, BTreeMap::new());
    }
    let counted = tx.tenant_counts(&tenant.id).await?;
    for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Tenant && gates::is_gated(*kind)) {
        let is_covered = tenant.status == Status::Suspended && kind.info().suspends_with_tenant;
        let counts = summary.kinds.entry(kind.info().scope).or_default();
        let living = counted.iter().filter(|(of, status, _)| *of == kind && *status != Status::Deleted);
        for (_, status, count) in living {
            let shown = if is_covered && *status == Status::Active { Status::Suspended } else { *status };
            *counts.entry(shown.as_str()).or_default() += count;
            summary.total += count;
            match shown {
                Status::Pending => summary.pending += count,
                Status::Provisioning => summary.provisioning += count,
                Status::Failed => summary.failed += count,
                Status::Converging
                | Status::Active
                | Status::Suspended
                | Status::Deleted
                | Status::Deleting
                | Status::Degraded
                | Status::AutoDisabled => {}
            }
        }
    }
    Ok(Reply::json(200, to_json(&summary)?))
}
