//! Data to destroy. The only unit whose intents outlive their resource: a node that was away finds them when it is back.

use hosting_intent::{Audience, Kind as IntentKind, message as m};
use hosting_resource::Kind;

use crate::fields::{is_deleting, state, texts};
use crate::{DesiredIntent, Unit, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let mut wanted = Vec::new();
    let Some(resource) = world.resource(id).await? else {
        for row in world.owned(&Unit::Retire(id.to_owned()).owner()).await? {
            if read::of_kind(world, Kind::Node, row.audience.id()).await?.is_some() {
                wanted.push(DesiredIntent { audience: row.audience, key: row.key, value: row.value });
            }
        }
        return Ok(wanted);
    };
    let (kind, tenant_id) = match resource.kind {
        Kind::Webroot => (IntentKind::Webroot, resource.parent.clone().unwrap_or_default()),
        Kind::Tenant => (IntentKind::Tenant, String::new()),
        Kind::Brand
        | Kind::Region
        | Kind::Cluster
        | Kind::LbAddress
        | Kind::Shard
        | Kind::Node
        | Kind::Subscription
        | Kind::Fqdn
        | Kind::Zone
        | Kind::ZoneRecord
        | Kind::ApiKey => return Ok(wanted),
    };
    if !is_deleting(&resource) {
        return Ok(wanted);
    }
    let message = m::Retire {
        kind: kind as i32,
        key: id.to_owned(),
        incarnation: resource.created_revision,
        tenant_id,
    };
    let name = hosting_intent::Key::new(kind, id).to_string();
    for node in texts(&resource.state, state::RETIRE_ON) {
        if read::of_kind(world, Kind::Node, &node).await?.is_some() {
            wanted.push(DesiredIntent::new(
                Audience::node(&node)?,
                IntentKind::Retire,
                name.clone(),
                &message,
            ));
        }
    }
    Ok(wanted)
}
