//! Whether a tenant is served, and its directories on the nodes of its shard.

use hosting_intent::{Audience, Kind as IntentKind, message as m};
use hosting_resource::{Kind, Status};

use crate::fields::{given, is_deleting, state, state_number};
use crate::{DesiredIntent, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(tenant) = read::of_kind(world, Kind::Tenant, id).await? else { return Ok(Vec::new()) };
    // Once its data is being destroyed nothing of it is wanted; before that, a tenant on its way out is one that all
    // edges and nodes treat as suspended, so that it stops at once however many children are still to go.
    if tenant.state.contains_key(state::RETIRE_ON) {
        return Ok(Vec::new());
    }
    let (state, reason) = if is_deleting(&tenant) {
        (m::State::Suspended, "being deleted")
    } else if tenant.status == Status::Suspended {
        (
            m::State::Suspended,
            tenant.state.get(state::SUSPEND_REASON).and_then(|v| v.as_str()).unwrap_or_default(),
        )
    } else {
        (m::State::Active, "")
    };
    let mut wanted = Vec::new();
    if let Some(cluster) = given(&tenant, "cluster_id") {
        let message = m::TenantState { state: state as i32, reason: reason.to_owned() };
        wanted.push(DesiredIntent::new(Audience::edge(cluster)?, IntentKind::TenantState, id, &message));
    }
    let message = m::Tenant {
        uid: u32::try_from(state_number(&tenant, state::UID)).unwrap_or_default(),
        state: state as i32,
        incarnation: tenant.created_revision,
    };
    for node in read::nodes_of_shard(world, read::shard_of(&tenant)).await? {
        wanted.push(DesiredIntent::new(Audience::node(&node.id)?, IntentKind::Tenant, id, &message));
    }
    Ok(wanted)
}
