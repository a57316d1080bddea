//! Data to destroy. The only unit whose intents outlive their resource: a node that was away finds them when it is back.

use hosting_intent::{Audience, Key, Kind as IntentKind, message as m};
use hosting_resource::kinds::node::Node;
use hosting_resource::{Id, Resource};

use crate::fields::is_deleting;
use crate::{DesiredIntent, IntentRow, PlanError, Unit, World, kinds, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
    match world.resource(id).await? {
        Some(resource) => of_resource(&resource, world).await,
        None => of_nothing(id, world).await,
    }
}

/// Its row is gone: what is there stays, on nodes that are still registered.
async fn of_nothing(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
    let mut wanted = Vec::new();
    for IntentRow { audience, key, value, .. } in world.owned(&Unit::Retire(id.to_owned()).owner()).await? {
        if is_registered(audience.id(), world).await? {
            wanted.push(DesiredIntent { audience, key, value });
        }
    }
    Ok(wanted)
}

async fn of_resource(resource: &Resource, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
    let mut wanted = Vec::new();
    let Some(retires) = kinds::of(resource.kind).facts().retires else { return Ok(wanted) };
    let Some(nodes) = resource.progress().retire_on.filter(|_| is_deleting(resource)) else {
        return Ok(wanted);
    };
    let message = m::Retire {
        kind: retires.intent as i32,
        key: resource.id.clone(),
        incarnation: resource.created_revision,
        tenant_id: resource.tenant.clone().filter(|tenant| *tenant != resource.id).unwrap_or_default(),
    };
    let name = Key::new(retires.intent, resource.id.as_str()).to_string();
    for node in nodes {
        if is_registered(&node, world).await? {
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

async fn is_registered(node: &str, world: &mut dyn World) -> Result<bool, PlanError> {
    Ok(read::get(world, &Id::<Node>::from(node)).await?.is_some())
}
