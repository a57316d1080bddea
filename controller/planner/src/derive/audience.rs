//! What every subscriber of one audience needs, whatever else it has: trust roots, and on name servers the serial offset.

use hosting_intent::{Key, Kind as IntentKind, message as m};
use hosting_resource::Id;
use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::kinds::node::Node;

use crate::fields::{SERIAL_OFFSET, dns_audience};
use crate::{DesiredIntent, PlanError, Unit, World, read};

pub(super) async fn derive(audience: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
    let mut wanted = Vec::new();
    let roots = world.trust_roots().await?;
    if roots.is_empty() {
        // Whoever owns the trust roots wrote this row; planning must not take it away.
        let unit = Unit::Audience(audience.to_owned());
        let key = Key::new(IntentKind::TrustRoots, "roots");
        let kept = world.owned(&unit.owner()).await?.into_iter().filter(|row| row.key == key);
        wanted.extend(kept.map(|row| DesiredIntent {
            audience: row.audience,
            key: row.key,
            value: row.value,
        }));
    } else if is_known(audience, world).await? {
        let message = m::TrustRoots { ca_der: roots };
        wanted.push(DesiredIntent::new(audience.to_owned(), IntentKind::TrustRoots, "roots", &message));
    }
    if read::dns_groups(world).await?.iter().any(|group| dns_audience(group) == audience) {
        // Only its low half is on the wire: serials are compared modulo 2^32 (RFC 1982).
        let value = (world.counter(SERIAL_OFFSET).await? & u64::from(u32::MAX)) as u32;
        let message = m::SerialOffset { value };
        wanted.push(DesiredIntent::new(audience.to_owned(), IntentKind::SerialOffset, "serial", &message));
    }
    Ok(wanted)
}

/// Whether anybody can subscribe to the audience.
async fn is_known(audience: &str, world: &mut dyn World) -> Result<bool, PlanError> {
    let Some((role, id)) = audience.split_once('/') else { return Ok(false) };
    Ok(match role {
        "edge" => read::get(world, &Id::<Cluster>::from(id)).await?.is_some(),
        "node" => read::get(world, &Id::<Node>::from(id)).await?.is_some(),
        "dns" => true,
        _ => false,
    })
}
