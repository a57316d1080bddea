//! What each planning unit wants, from what is stored. Pure: reads, and nothing else.
//!
//! A unit's wishes follow from its own status and from the specs of what it refers to, never from the status of what it
//! lies in: a parent that is going takes its children along one by one, and until it has reached one, that one stays.

mod audience;
mod retire;

use crate::{DesiredIntent, PlanError, Unit, World, kinds};

/// The intents that a unit wants, by audience and key. Empty when what it plans is gone or on its way out.
///
/// # Errors
/// When a read fails, or a document that it needs is unreadable.
pub async fn derive(unit: &Unit, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
    let mut wanted = match unit {
        Unit::Audience(audience) => audience::derive(audience, world).await?,
        Unit::Of(kind, id) => kinds::of(*kind).derive(id, world).await?,
        Unit::RrSet { zone, name, record_type } => {
            kinds::zone_record::derive_rr_set(zone, name, record_type, world).await?
        }
        Unit::Retire(id) => retire::derive(id, world).await?,
        Unit::Walk { .. } => Vec::new(),
    };
    wanted.sort();
    Ok(wanted)
}
