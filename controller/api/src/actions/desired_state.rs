//! What a node is to serve, in the form that agents of other systems read. Our own agents are told by their streams, with secrets sealed for them.

use std::collections::BTreeMap;

use axum::http::Method;
use hosting_planner::World;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::webroot::Webroot;
use hosting_resource::kinds::webroot::env::{EnvValue, path_of};
use hosting_resource::{Doc, Document, Kind, Resource, SecretPlace, Status, Tier};
use hosting_store::ReadTx;
use serde_json::Value;

use super::{Ask, PLAIN};
use crate::bodies::desired_state::{
    DesiredFqdn, DesiredShard, DesiredState, DesiredTenant, DesiredWebroot, FqdnMapping,
};
use crate::query::{self, Param, Takes, param};
use crate::route::{Action, Op, Route, Scope, Shape};
use crate::service::{Call, Reply, to_json};
use crate::{Api, ApiError};

/// What is shown in the place of a secret.
const HIDDEN: &str = "***";
/// Sites and names of an answer, beside those of its last tenant.
const MOST_PARTS: usize = 2_000;
/// Resources of one read.
const PAGE: u32 = 500;

static DESIRED: Ask = Ask {
    name: "desired state",
    params: of_desired_state,
    answer: |api, call| Box::pin(desired_state(api, call)),
    ..PLAIN
};

pub(super) fn routes() -> Vec<Route> {
    let path = "/internal/v1/nodes/{nodeID}/desired-state";
    vec![
        Route::scoped(Method::GET, path, "nodes", Tier::Admin, Op::Ask(&DESIRED))
            .gives(200, Shape::Named("DesiredState"))
            .of(Some(Kind::Node))
            .says("What a node is to serve: the tenants of its shards, or the names that its edge routes"),
    ]
}

fn of_desired_state() -> Vec<Param> {
    let secrets = "Secrets in clear; takes nodes:write, as a machine of the platform has it. Otherwise they are shown as ***.";
    vec![query::limit(), query::cursor(), param("secrets", Takes::Word(vec!["true", "false"]), secrets)]
}

/// Reads all of a list that is a tenant's.
async fn all<K: Document>(tx: &mut ReadTx, kind: Kind, parent: &str) -> Result<Vec<Doc<K>>, ApiError> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = tx.children(kind, parent, &after, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        if let Some(last) = page.last() {
            after.clone_from(&last.id);
        }
        let living = page.into_iter().filter(|one| one.status != Status::Deleting);
        found.extend(living.map(read).collect::<Result<Vec<_>, _>>()?);
        if is_last {
            return Ok(found);
        }
    }
}

fn read<K: Document>(resource: Resource) -> Result<Doc<K>, ApiError> {
    Doc::read(resource).map_err(|error| ApiError::internal(&error))
}

async fn desired_state(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let opens = call.query.text("secrets") == Some("true");
    if opens {
        // Reading nodes is what many keys may do that are no machine's.
        call.principal.require(Scope { resource: "nodes", action: Action::Write })?;
    }
    let mut tx = api.store().read().await?;
    let node: Doc<Node> = read(call.subject(&mut tx, Kind::Node).await?)?;
    let (from, mut after) = match call.query.text("cursor").map(|cursor| cursor.split_once('/')) {
        None => (None, String::new()),
        Some(Some((shard, tenant))) => (Some(shard.to_owned()), tenant.to_owned()),
        Some(None) => {
            let problem = "is none of ours; use next_cursor of the page before, or start over without it";
            return Err(ApiError::invalid("cursor", problem));
        }
    };
    let mut answer = DesiredState { node_id: node.id.clone(), ..DesiredState::default() };
    let mut left = call.query.limit();
    let mut parts = 0;
    let begin = from.as_deref().map(|from| {
        let place = node.spec.shard_ids.iter().position(|id| id.as_str() == from);
        place.ok_or_else(|| ApiError::invalid("cursor", "is none of this node; start over without it"))
    });
    let begin = begin.transpose()?;
    for id in node.spec.shard_ids.iter().skip(begin.unwrap_or_default()) {
        let Some(found) = tx.resource(id).await?.filter(|found| found.kind == Kind::Shard) else { continue };
        let shard: Doc<Shard> = read(found)?;
        let mut desired = DesiredShard::of(&shard.id, &shard.spec.role);
        let is_edge = shard.spec.role == "lb";
        // Other roles serve no tenants yet.
        let serves = is_edge || shard.spec.role == "web";
        while serves && !answer.has_more {
            if left == 0 || parts >= MOST_PARTS {
                answer.has_more = true;
                answer.next_cursor = Some(format!("{}/{after}", shard.id));
                continue;
            }
            let page = if is_edge {
                let cluster = shard.parent.as_deref().unwrap_or_default();
                tx.with_facet(Kind::Tenant, "cluster_id", cluster, &after, 1).await?
            } else {
                tx.referrers(Kind::Tenant, "shard_id", &shard.id, &after, 1).await?
            };
            let Some(found) = page.into_iter().next() else { break };
            after.clone_from(&found.id);
            left -= 1;
            let tenant: Doc<Tenant> = read(found)?;
            if tenant.status == Status::Deleting {
                continue;
            }
            let names = all::<Fqdn>(&mut tx, Kind::Fqdn, &tenant.id).await?;
            parts += names.len();
            if is_edge {
                let backend = backend_of(&mut tx, &tenant).await?;
                let active = names.into_iter().filter(|name| name.status == Status::Active);
                let mapping = |name: Doc<Fqdn>| FqdnMapping {
                    fqdn: name.spec.fqdn.clone(),
                    lb_backend: backend.clone(),
                };
                desired.fqdn_mappings.get_or_insert_default().extend(active.map(mapping));
            } else {
                let sites = all::<Webroot>(&mut tx, Kind::Webroot, &tenant.id).await?;
                parts += sites.len();
                let tenant = tenant_of(api, &tenant, sites, names, opens).await?;
                desired.tenants.get_or_insert_default().push(tenant);
            }
        }
        answer.shards.push(desired);
        if answer.has_more {
            break;
        }
        after.clear();
    }
    Ok(Reply::json(200, to_json(&answer)?))
}

async fn backend_of(tx: &mut ReadTx, tenant: &Doc<Tenant>) -> Result<String, ApiError> {
    let Some(id) = &tenant.spec.shard_id else { return Ok(String::new()) };
    let Some(shard) = tx.resource(id).await? else { return Ok(String::new()) };
    let shard: Doc<Shard> = read(shard)?;
    let usual = format!("shard-{}", shard.spec.name);
    Ok(if shard.spec.lb_backend.is_empty() { usual } else { shard.spec.lb_backend.clone() })
}

async fn tenant_of(
    api: &Api,
    tenant: &Doc<Tenant>,
    sites: Vec<Doc<Webroot>>,
    names: Vec<Doc<Fqdn>>,
    opens: bool,
) -> Result<DesiredTenant, ApiError> {
    let mut by_site: BTreeMap<String, Vec<DesiredFqdn>> = BTreeMap::new();
    for name in names {
        let Some(site) = &name.spec.webroot_id else { continue };
        let (fqdn, ssl_enabled) = (name.spec.fqdn.clone(), name.spec.ssl_enabled);
        let desired = DesiredFqdn { fqdn, ssl_enabled, status: name.status.as_str() };
        by_site.entry(site.to_string()).or_default().push(desired);
    }
    let mut webroots = Vec::new();
    for site in sites {
        let mut env_vars = BTreeMap::new();
        for (name, value) in &site.spec.env {
            let text = match value {
                EnvValue::Plain(text) => text.clone(),
                EnvValue::Secret(_) if !opens => HIDDEN.to_owned(),
                EnvValue::Secret(secret) => {
                    let closed = || ApiError::internal(&format!("{}: a secret does not open", site.id));
                    let place = SecretPlace {
                        tenant: site.tenant.clone(),
                        resource: site.id.clone(),
                        path: path_of(name),
                    };
                    let sealed = secret.sealed().ok_or_else(closed)?;
                    let opened = api.store().open_secret(&place, sealed).await?.ok_or_else(closed)?;
                    String::from_utf8(opened.expose().to_vec()).map_err(|_| closed())?
                }
            };
            env_vars.insert(name.clone(), text);
        }
        webroots.push(DesiredWebroot {
            fqdns: by_site.remove(&site.id).unwrap_or_default(),
            id: site.id.clone(),
            runtime: site.spec.runtime.clone(),
            runtime_version: site.spec.runtime_version.clone(),
            runtime_config: Value::Object(site.spec.runtime_config.clone()).to_string(),
            public_folder: site.spec.public_folder.clone(),
            env_vars,
            env_file_name: site.spec.env_file_name.clone(),
            status: site.status.as_str(),
            cron_jobs: Vec::new(),
            daemons: Vec::new(),
        });
    }
    let is_suspended = tenant.status == Status::Suspended;
    Ok(DesiredTenant {
        id: tenant.id.clone(),
        uid: tenant.state.uid,
        sftp_enabled: tenant.spec.sftp_enabled,
        ssh_enabled: tenant.spec.ssh_enabled,
        status: if is_suspended { "suspended" } else { "active" },
        webroots,
        ssh_keys: Vec::new(),
    })
}
