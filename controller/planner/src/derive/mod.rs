//! What each planning unit wants, from what is stored. Pure: reads, and nothing else.
//!
//! A unit's wishes follow from its own status and from the specs of what it refers to, never from the status of what it
//! lies in: a parent that is going takes its children along one by one, and until it has reached one, that one stays.

mod audience;
mod cluster;
mod fqdn;
mod retire;
mod rr_set;
mod shard;
mod tenant;
mod webroot;
mod zone;

pub(crate) use webroot::service_names_of;

use crate::{DesiredIntent, Unit, World, WorldError};

/// The intents that a unit wants, by audience and key. Empty when what it plans is gone or on its way out.
///
/// # Errors
/// When a read fails.
pub async fn derive(unit: &Unit, world: &mut dyn World) -> Result<Vec<DesiredIntent>, WorldError> {
    let mut wanted = match unit {
        Unit::Audience(audience) => audience::derive(audience, world).await?,
        Unit::Cluster(id) => cluster::derive(id, world).await?,
        Unit::Shard(id) => shard::derive(id, world).await?,
        Unit::Tenant(id) => tenant::derive(id, world).await?,
        Unit::Webroot(id) => webroot::derive(id, world).await?,
        Unit::Fqdn(id) => fqdn::derive(id, world).await?,
        Unit::Zone(id) => zone::derive(id, world).await?,
        Unit::RrSet { zone, name, record_type } => rr_set::derive(zone, name, record_type, world).await?,
        Unit::Retire(id) => retire::derive(id, world).await?,
        Unit::Walk { .. } => Vec::new(),
    };
    wanted.sort();
    Ok(wanted)
}
