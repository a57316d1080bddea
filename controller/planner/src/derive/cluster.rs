//! A cluster's load-balancer addresses, for every name server.

use hosting_intent::{Kind as IntentKind, message as m};
use hosting_resource::Kind;

use crate::fields::is_deleting;
use crate::{DesiredIntent, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    if read::of_kind(world, Kind::Cluster, id).await?.is_none_or(|cluster| is_deleting(&cluster)) {
        return Ok(Vec::new());
    }
    let families = read::families_of(world, id).await?;
    let message = m::AddressSet { ipv4: families.ipv4, ipv6: families.ipv6 };
    let audiences = read::dns_audiences(world).await?;
    Ok(audiences
        .into_iter()
        .map(|audience| DesiredIntent::new(audience, IntentKind::AddressSet, id, &message))
        .collect())
}
