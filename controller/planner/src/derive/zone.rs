//! A zone's apex on the name servers of its brand's group.

use hosting_intent::{Kind as IntentKind, message as m};
use hosting_resource::Kind;

use crate::fields::{dns_audience, given, is_deleting, state, state_number};
use crate::{DesiredIntent, World, WorldError, read};

/// SOA timers and the TTL of SOA and NS, in seconds.
const REFRESH: u32 = 10_800;
const RETRY: u32 = 3_600;
const EXPIRE: u32 = 604_800;
const MINIMUM: u32 = 300;
const TTL: u32 = 86_400;

pub(super) async fn derive(id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let Some(zone) = read::of_kind(world, Kind::Zone, id).await? else { return Ok(Vec::new()) };
    if is_deleting(&zone) {
        return Ok(Vec::new());
    }
    let Some(brand) = read::of_kind(world, Kind::Brand, zone.brand.as_deref().unwrap_or_default()).await?
    else {
        return Ok(Vec::new());
    };
    let host = |field| given(&brand, field).map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let primary = host("primary_ns").unwrap_or_default();
    let mut nameservers = vec![primary.clone()];
    nameservers.extend(host("secondary_ns").filter(|name| *name != primary));
    let hostmaster = brand.text("hostmaster_email");
    let hostmaster = match hostmaster.rsplit_once('@') {
        Some((local, domain)) => format!("{local}@{}", domain.trim_end_matches('.').to_ascii_lowercase()),
        None => hostmaster.to_owned(),
    };
    let message = m::Zone {
        zone_id: zone.id.clone(),
        primary_ns: primary,
        nameservers,
        hostmaster,
        serial: (state_number(&zone, state::SERIAL) & u64::from(u32::MAX)) as u32,
        refresh: REFRESH,
        retry: RETRY,
        expire: EXPIRE,
        minimum: MINIMUM,
        ttl: TTL,
    };
    Ok(vec![DesiredIntent::new(dns_audience(&brand)?, IntentKind::Zone, zone.text("name"), &message)])
}
