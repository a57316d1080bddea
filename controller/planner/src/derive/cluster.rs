//! A cluster's load-balancer addresses, for every name server.

use hosting_intent::{Kind as IntentKind, message as m};
use hosting_resource::Kind;

use crate::fields::{dns_audience, is_deleting};
use crate::{DesiredIntent, World, WorldError, read};

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    if read::of_kind(world, Kind::Cluster, id).await?.is_none_or(|cluster| is_deleting(&cluster)) {
        return Ok(Vec::new());
    }
    let families = read::families_of(world, id).await?;
    let message = m::AddressSet { ipv4: families.ipv4, ipv6: families.ipv6 };
    let groups = read::dns_groups(world).await?;
    Ok(groups
        .iter()
        .map(|group| DesiredIntent::new(dns_audience(group), IntentKind::AddressSet, id, &message))
        .collect())
}
