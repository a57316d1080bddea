//! Whom a change concerns: resources to look at after an acknowledgement or a report about a row, or after a row of another resource
//! is gone. So that nobody has to look at everything that is open.

use hosting_resource::kinds::zone_record::ZoneRecord;
use hosting_resource::{Doc, Kind, Resource};

use crate::fields::is_service_name;
use crate::kinds::{self, Tie};
use crate::{Unit, World, WorldError};

/// Records of one name and type that are looked at.
const MAX_RECORDS: u32 = 600;

/// Ids of resources whose standing may hang on the rows that `owner` owns or owned. Some of them may be gone.
///
/// # Errors
/// When a read fails.
pub async fn resources_behind(world: &mut dyn World, owner: &str) -> Result<Vec<String>, WorldError> {
    match Unit::from_owner(owner) {
        Some(Unit::Of(_, id) | Unit::Retire(id)) => Ok(vec![id]),
        Some(Unit::RrSet { zone, name, record_type }) => {
            let set = format!("{zone}/{name}/{record_type}");
            let records = world.with_facet(Kind::ZoneRecord, "rr_set", &set, "", MAX_RECORDS).await?;
            let mut ids = Vec::new();
            for record in records {
                ids.push(record.id.clone());
                ids.extend(Doc::<ZoneRecord>::read(record).ok().and_then(|record| record.state.source));
            }
            // Automatic records go before the host name or the site that they were made for.
            let names = world.with_facet(Kind::Fqdn, "fqdn", &name, "", 2).await?;
            ids.extend(names.into_iter().map(|fqdn| fqdn.id));
            if is_service_name(&name) {
                let label = name.split('.').next().unwrap_or_default();
                ids.push(label.replacen('-', "_", 1));
            }
            Ok(ids)
        }
        Some(Unit::Audience(_) | Unit::Walk { .. }) | None => Ok(Vec::new()),
    }
}

/// Ids of resources whose deletion may have waited for the row of `gone` to go.
#[must_use]
pub fn waited_for(gone: &Resource) -> Vec<String> {
    let facets = gone.index().facets;
    let mut ids = Vec::new();
    for goes in kinds::of(gone.kind).facts().goes_with {
        match goes.by {
            Tie::Child | Tie::Part => ids.extend(gone.parent.clone()),
            Tie::Referrer(relation) | Tie::Follower(relation) => {
                ids.extend(
                    facets.iter().filter(|facet| facet.field == relation).map(|facet| facet.value.clone()),
                );
            }
        }
    }
    ids
}
