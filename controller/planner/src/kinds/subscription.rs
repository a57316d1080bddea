//! A grouping for billing. It is on no machine.

use std::collections::BTreeMap;

use async_trait::async_trait;
use hosting_resource::kinds::subscription::DEFAULT_NAME;
pub(crate) use hosting_resource::kinds::subscription::Subscription;
use hosting_resource::{
    Creation, Doc, Document, Entropy, Id, Kind, NewResource, OwnerRef, Resource, in_brand, uuid,
};
use serde_json::{Value, json};

use super::{Deletion, Facts, GoesWith, Planned, Tie};
use crate::overlay::Overlay;
use crate::{Draft, PlanError, Unit, World, quota, read};

#[async_trait]
impl Planned for Subscription {
    const FACTS: Facts = Facts {
        deletion: Deletion::Gradual,
        goes_with: &[GoesWith { with: Kind::Tenant, by: Tie::Child }],
        keeps: true,
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
        let taken = read::called(draft, Self::KIND, brand, &new.id).await?;
        if taken.is_some_and(|taken| taken.brand.as_deref() == Some(brand)) {
            return Err(PlanError::Conflict(format!("subscription {:?} exists already", new.id)));
        }
        new.id = in_brand(brand, &new.id);
        Ok(())
    }

    async fn check(
        subscription: &Doc<Self>,
        _: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        quota::is_of_brand(draft, subscription.spec.package_id.as_ref(), subscription.brand.as_deref()).await
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
    let found = read::called(draft, Subscription::KIND, brand.unwrap_or_default(), id).await?;
    Ok(found.map_or_else(|| id.clone(), |found| Id::from(found.id)))
}

/// Gives what is billed and names no subscription the one of its tenant that is called `default`, and makes that when it is
/// first needed: before the first resource that needs it.
///
/// # Errors
/// When the store cannot be read.
pub async fn bill_to_defaults(
    world: &mut dyn World,
    resources: &mut Vec<NewResource>,
    entropy: Entropy<'_>,
) -> Result<(), PlanError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for new in resources.iter().filter(|new| new.kind == Subscription::KIND) {
        let name = new.spec.get("name").and_then(Value::as_str);
        if let (Some(tenant), Some(DEFAULT_NAME)) = (&new.parent, name) {
            known.insert(tenant.clone(), new.id.clone());
        }
    }
    let mut made = Vec::new();
    for place in 0..resources.len() {
        let Some(new) = resources.get_mut(place) else { break };
        let Some(tenant) = bills_nobody(new) else { continue };
        let id = match known.get(&tenant) {
            Some(id) => id.clone(),
            None => {
                let held = world.holder(Subscription::KIND, &tenant, DEFAULT_NAME).await?;
                let id = match held {
                    Some(held) => held.id,
                    None => {
                        let subscription = default_of(&tenant, entropy)?;
                        let id = subscription.id.clone();
                        made.push((place, subscription));
                        id
                    }
                };
                known.insert(tenant, id.clone());
                id
            }
        };
        new.spec.insert("subscription_id".to_owned(), id.into());
    }
    for (place, subscription) in made.into_iter().rev() {
        resources.insert(place, subscription);
    }
    Ok(())
}

/// Makes the subscription `default` of a new owner that is a tenant and has none.
///
/// # Errors
/// See [`crate::create`].
pub async fn bill_owner(
    draft: &mut dyn Draft,
    owner: &OwnerRef,
    entropy: Entropy<'_>,
) -> Result<(), PlanError> {
    let OwnerRef { kind, id: tenant, .. } = owner;
    if *kind != Kind::Tenant || !draft.children(Subscription::KIND, tenant, "", 1).await?.is_empty() {
        return Ok(());
    }
    if draft.resource(tenant).await?.is_some_and(|found| found.kind == *kind) {
        let resources = vec![default_of(tenant, entropy)?];
        crate::create(draft, Creation { resources, ..Creation::default() }).await?;
    }
    Ok(())
}

/// The tenant that is to be billed with a resource which does not say how.
fn bills_nobody(new: &NewResource) -> Option<String> {
    let is_open = new.spec.get("subscription_id").is_some_and(|id| id == "");
    let of_tenant = new.owner.as_ref().filter(|owner| owner.kind == Kind::Tenant);
    of_tenant.filter(|_| is_open && new.kind != Subscription::KIND).map(|owner| owner.id.clone())
}

fn default_of(tenant: &str, entropy: Entropy<'_>) -> Result<NewResource, PlanError> {
    let body = json!({"id": uuid(entropy), "name": DEFAULT_NAME});
    let fields = body.as_object().cloned().unwrap_or_default();
    let mut creation = Subscription::KIND.def().create(None, &fields, entropy)?;
    let mut new = creation
        .resources
        .pop()
        .ok_or_else(|| PlanError::Conflict("the default subscription cannot be made".to_owned()))?;
    new.parent = Some(tenant.to_owned());
    new.owner = Some(OwnerRef { field: "tenant_id", kind: Kind::Tenant, id: tenant.to_owned() });
    Ok(new)
}
