//! A site on the nodes of its tenant's shard, and the routes of its service host names.

use hosting_intent::{Audience, Kind as IntentKind, message as m};
use hosting_resource::kinds::webroot::stored_php_pool;
use hosting_resource::{Kind, Resource};
use serde_json::Value;

use crate::fields::{given, is_deleting, service_names, state, state_number};
use crate::{DesiredIntent, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(webroot) = read::of_kind(world, Kind::Webroot, id).await? else { return Ok(Vec::new()) };
    if is_deleting(&webroot) {
        return Ok(Vec::new());
    }
    let Some(tenant) =
        read::of_kind(world, Kind::Tenant, webroot.parent.as_deref().unwrap_or_default()).await?
    else {
        return Ok(Vec::new());
    };
    let Some(shard) = read::of_kind(world, Kind::Shard, read::shard_of(&tenant)).await? else {
        return Ok(Vec::new());
    };
    let runtime = webroot.text("runtime");
    let message = m::Webroot {
        tenant_id: tenant.id.clone(),
        runtime: runtime.to_owned(),
        runtime_version: if runtime == "static" {
            String::new()
        } else {
            webroot.text("runtime_version").to_owned()
        },
        public_folder: webroot.text("public_folder").trim_matches('/').to_owned(),
        shard_name: shard.text("name").to_owned(),
        php: (runtime == "php").then(|| pool(&webroot)),
        incarnation: webroot.created_revision,
        tenant_uid: u32::try_from(state_number(&tenant, state::UID)).unwrap_or_default(),
    };
    let mut wanted = Vec::new();
    for node in read::nodes_of_shard(world, &shard.id).await? {
        wanted.push(DesiredIntent::new(Audience::node(&node.id)?, IntentKind::Webroot, id, &message));
    }
    if webroot.flag(state::SITE_READY)
        && let Some(cluster) = given(&tenant, "cluster_id")
    {
        let route = m::Route {
            tenant_id: tenant.id.clone(),
            webroot_id: id.to_owned(),
            shard_id: shard.id.clone(),
            ..m::Route::default()
        };
        for name in service_names_of(&webroot, &tenant, world).await? {
            wanted.push(DesiredIntent::new(Audience::edge(cluster)?, IntentKind::Route, name, &route));
        }
    }
    Ok(wanted)
}

/// The service host names of a site, if it has them.
pub(crate) async fn service_names_of(
    webroot: &Resource,
    tenant: &Resource,
    world: &mut dyn World,
) -> Result<Vec<String>, WorldError> {
    let enabled = webroot.spec.get("service_hostname_enabled").and_then(Value::as_bool).unwrap_or_default();
    if !enabled {
        return Ok(Vec::new());
    }
    let brand = read::of_kind(world, Kind::Brand, tenant.brand.as_deref().unwrap_or_default()).await?;
    let names = brand
        .map_or_else(Vec::new, |brand| service_names(&webroot.id, &tenant.id, brand.text("base_hostname")));
    // A base name so long that the result is no name any more gives none, rather than a row that nobody accepts.
    Ok(names.into_iter().filter(|name| hosting_intent::name::check_host(name).is_ok()).collect())
}

fn pool(webroot: &Resource) -> m::PhpPool {
    let config = webroot.spec.get("runtime_config").and_then(Value::as_object).cloned().unwrap_or_default();
    let pool = stored_php_pool(&config);
    m::PhpPool {
        max_children: pool.max_children,
        start_servers: pool.start_servers,
        min_spare_servers: pool.min_spare_servers,
        max_spare_servers: pool.max_spare_servers,
        max_requests: pool.max_requests,
        values: pool.settings.values().clone(),
        admin_values: pool.settings.admin_values().clone(),
        request_seconds: pool.settings.request_seconds(),
    }
}
