//! A host name's route on the edges of its tenant's cluster.

use hosting_intent::{Audience, Kind as IntentKind, message as m};
use hosting_resource::Kind;
use prost::Message;

use crate::fields::{given, is_deleting, is_live, state};
use crate::{DesiredIntent, Unit, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(fqdn) = read::of_kind(world, Kind::Fqdn, id).await? else { return Ok(Vec::new()) };
    if is_deleting(&fqdn) {
        return Ok(Vec::new());
    }
    let Some(tenant) = read::of_kind(world, Kind::Tenant, fqdn.parent.as_deref().unwrap_or_default()).await?
    else {
        return Ok(Vec::new());
    };
    let Some(cluster) = given(&tenant, "cluster_id") else { return Ok(Vec::new()) };
    let audience = Audience::edge(cluster)?;
    let name = fqdn.text("fqdn");
    let route = |webroot: &str, shard: &str| {
        let message = m::Route {
            tenant_id: tenant.id.clone(),
            webroot_id: webroot.to_owned(),
            shard_id: shard.to_owned(),
            // PHP and static sites have no process of their own that could speak another protocol.
            may_upgrade: false,
        };
        DesiredIntent::new(audience.clone(), IntentKind::Route, name, &message)
    };
    let Some(bound) = given(&fqdn, "webroot_id") else { return Ok(vec![route("", "")]) };
    let Some(webroot) = read::of_kind(world, Kind::Webroot, bound).await? else { return Ok(Vec::new()) };
    if webroot.flag(state::SITE_READY) {
        return Ok(vec![route(bound, read::shard_of(&tenant))]);
    }
    // Bound anew to a site that no node has yet: the name stays with the old site until the new one can answer.
    for row in world.owned(&Unit::Fqdn(id.to_owned()).owner()).await? {
        let Ok(old) = m::Route::decode(row.value.clone()) else { continue };
        if row.audience != audience || row.key.name != name {
            continue;
        }
        let still_good = old.webroot_id.is_empty()
            || read::of_kind(world, Kind::Webroot, &old.webroot_id)
                .await?
                .is_some_and(|old| is_live(&old, Kind::Webroot) && old.parent == fqdn.parent);
        if still_good {
            return Ok(vec![DesiredIntent { audience: row.audience, key: row.key, value: row.value }]);
        }
    }
    Ok(Vec::new())
}
