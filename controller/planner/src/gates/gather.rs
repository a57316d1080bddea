//! What an evaluation looks at, read for many resources at once.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::Key;
use hosting_resource::Resource;

use super::{Fleet, Inputs, Reports, units_of};
use crate::fields::is_leaving;
use crate::{IntentRow, World, WorldError, has_children};

/// A world that knows what node agents report.
#[async_trait]
pub trait Evidence: World {
    /// What agents say about keys, by node; what nobody said anything about is left out.
    async fn reports(&mut self, about: &[(String, Key)]) -> Result<Reports, WorldError>;
}

/// Reads the inputs of each resource's evaluation, in the order of the resources: the statements that this takes are few of many rows.
///
/// # Errors
/// When a read fails.
pub async fn gather(
    world: &mut dyn Evidence,
    fleet: &dyn Fleet,
    resources: &[Resource],
) -> Result<Vec<Inputs>, WorldError> {
    let owners: Vec<Vec<String>> =
        resources.iter().map(|one| units_of(one).iter().map(crate::Unit::owner).collect()).collect();
    let all: Vec<String> = owners.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let mut owned: BTreeMap<String, Vec<IntentRow>> = BTreeMap::new();
    for row in world.owned_by(&all).await? {
        owned.entry(row.owner.clone()).or_default().push(row);
    }
    let reporting = owned.values().flatten().filter(|row| row.audience.reports());
    let about: BTreeSet<(String, Key)> =
        reporting.map(|row| (row.audience.id().to_owned(), row.key.clone())).collect();
    let about: Vec<(String, Key)> = about.into_iter().collect();
    let reports = if about.is_empty() { Reports::new() } else { fleet.reports(world, &about).await? };
    let mut inputs = Vec::with_capacity(resources.len());
    for (resource, owners) in resources.iter().zip(owners) {
        let mut one = Inputs::default();
        for row in owners.iter().filter_map(|owner| owned.get(owner)).flatten() {
            let about = (row.audience.id().to_owned(), row.key.clone());
            if let Some(report) = reports.get(&about) {
                one.reports.insert(about, report.clone());
            }
            one.rows.push(row.clone());
        }
        if is_leaving(resource) {
            one.has_children = has_children(world, resource).await?;
        }
        inputs.push(one);
    }
    Ok(inputs)
}
