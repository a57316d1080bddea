//! A grouping for billing. It is on no machine.

use async_trait::async_trait;
pub(crate) use hosting_resource::kinds::subscription::Subscription;
use hosting_resource::{Doc, Id, Kind, NewResource, Resource, in_brand};

use super::{Deletion, Facts, GoesWith, Planned, Tie};
use crate::overlay::Overlay;
use crate::{PlanError, Unit, read};

#[async_trait]
impl Planned for Subscription {
    const FACTS: Facts = Facts {
        deletion: Deletion::Gradual,
        goes_with: &[GoesWith { with: Kind::Tenant, by: Tie::Child }],
        ..Facts::PLAIN
    };

    fn units(_: &Doc<Self>) -> Vec<Unit> {
        Vec::new()
    }

    async fn rename(
        new: &mut NewResource,
        owner: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let brand = owner.and_then(|owner| owner.brand.as_deref()).unwrap_or_default();
        let taken = read::subscription(draft, brand, &new.id).await?;
        if taken.is_some_and(|taken| taken.brand.as_deref() == Some(brand)) {
            return Err(PlanError::Conflict(format!("subscription {:?} exists already", new.id)));
        }
        new.id = in_brand(brand, &new.id);
        Ok(())
    }
}

/// The id under which the store keeps the subscription that a brand's resource names.
pub(crate) async fn stored_id(
    id: &Id<Subscription>,
    brand: Option<&str>,
    draft: &mut Overlay<'_>,
) -> Result<Id<Subscription>, PlanError> {
    if id.is_empty() {
        return Ok(id.clone());
    }
    let found = read::subscription(draft, brand.unwrap_or_default(), id).await?;
    Ok(found.map_or_else(|| id.clone(), |found| Id::from(found.id)))
}
