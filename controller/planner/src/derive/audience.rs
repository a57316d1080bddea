//! What every subscriber of one audience needs, whatever else it has: trust roots, and on name servers the serial offset.

use hosting_intent::{Audience, Key, Kind as IntentKind, message as m};
use hosting_resource::Kind;

use crate::fields::{SERIAL_OFFSET, is_live};
use crate::{DesiredIntent, Unit, World, WorldError, node_audiences, read};

pub(super) async fn derive(
    audience: &Audience,
    world: &mut dyn World,
) -> Result<Vec<DesiredIntent>, WorldError> {
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
    if read::dns_audiences(world).await?.contains(audience) {
        // Only its low half is on the wire: serials are compared modulo 2^32 (RFC 1982).
        let value = (world.counter(SERIAL_OFFSET).await? & u64::from(u32::MAX)) as u32;
        let message = m::SerialOffset { value };
        wanted.push(DesiredIntent::new(audience.clone(), IntentKind::SerialOffset, "serial", &message));
    }
    Ok(wanted)
}

/// Whether anybody subscribes to the audience, or will when a cluster's first edge or a brand's first name server joins.
async fn can_have_subscribers(audience: &Audience, world: &mut dyn World) -> Result<bool, WorldError> {
    Ok(match audience {
        Audience::Edge(cluster) => read::of_kind(world, Kind::Cluster, cluster.as_str())
            .await?
            .is_some_and(|cluster| is_live(&cluster, Kind::Cluster)),
        Audience::Node(node) | Audience::Gateway(node) => read::of_kind(world, Kind::Node, node.as_str())
            .await?
            .is_some_and(|node| node_audiences(&node).contains(audience)),
        Audience::Dns(group) => {
            let servers = read::all_pages!(after => {
                world.with_facet(Kind::Node, "dns_group", group.as_str(), after, read::PAGE)
            });
            servers.iter().any(|node| node_audiences(node).contains(audience))
                || read::dns_audiences(world).await?.contains(audience)
        }
    })
}
