//! What every subscriber of one audience needs, whatever else it has: trust roots, the audience's keys, and on name servers the serial
//! offset.

use hosting_intent::{Audience, Key, Kind as IntentKind, audience_key_name, message as m};
use hosting_resource::Id;
use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::kinds::node::Node;

use crate::fields::{SERIAL_OFFSET, is_deleting};
use crate::{DesiredIntent, KeyShare, PlanError, Unit, World, node_audiences, read};

pub(super) async fn derive(
    audience: &Audience,
    world: &mut dyn World,
) -> Result<Vec<DesiredIntent>, PlanError> {
    let mut wanted = Vec::new();
    let roots = world.trust_roots().await?;
    if roots.is_empty() {
        // Whoever owns the trust roots wrote this row; planning must not take it away.
        let unit = Unit::Audience(audience.clone());
        let key = Key::new(IntentKind::TrustRoots, "roots");
        let kept = world.owned(&unit.owner()).await?.into_iter().filter(|row| row.key == key);
        wanted.extend(kept.map(|row| DesiredIntent {
            audience: row.audience,
            key: row.key,
            value: row.value,
        }));
    } else if can_have_subscribers(audience, world).await? {
        let message = m::TrustRoots { ca_der: roots };
        wanted.push(DesiredIntent::new(audience.clone(), IntentKind::TrustRoots, "roots", &message));
    }
    for KeyShare { version, reader, share } in world.key_shares(audience).await? {
        let name = audience_key_name(version, &reader);
        wanted.push(DesiredIntent::new(audience.clone(), IntentKind::AudienceKey, name, &share));
    }
    if read::dns_audiences(world).await?.contains(audience) {
        // Only its low half is on the wire: serials are compared modulo 2^32 (RFC 1982).
        let value = (world.counter(SERIAL_OFFSET).await? & u64::from(u32::MAX)) as u32;
        let message = m::SerialOffset { value };
        wanted.push(DesiredIntent::new(audience.clone(), IntentKind::SerialOffset, "serial", &message));
    }
    Ok(wanted)
}

/// Whether anybody subscribes to the audience, or will when a cluster's first edge or a brand's first name server joins.
async fn can_have_subscribers(audience: &Audience, world: &mut dyn World) -> Result<bool, PlanError> {
    Ok(match audience {
        Audience::Edge(cluster) => {
            let cluster = read::get(world, &Id::<Cluster>::from(cluster.as_str())).await?;
            cluster.is_some_and(|cluster| !is_deleting(&cluster))
        }
        Audience::Node(node) | Audience::Gateway(node) => {
            let node = read::get(world, &Id::<Node>::from(node.as_str())).await?;
            node.is_some_and(|node| node_audiences(&node).contains(audience))
        }
        Audience::Dns(group) => {
            let servers = read::name_servers(world, group.as_str()).await?;
            servers.iter().any(|node| node_audiences(node).contains(audience))
                || read::dns_audiences(world).await?.contains(audience)
        }
    })
}
