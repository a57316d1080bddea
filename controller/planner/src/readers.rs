//! Who opens what is sealed for an audience. The keys are the store's matter; planning says when somebody comes or goes, tells the
//! subscribers, and has what is sealed planned anew.

use hosting_intent::message::Sealed;
use hosting_intent::{Audience, Key};
use hosting_resource::{Resource, SealedText, Secret, SecretPlace, ShapeError};

use crate::plan::Plan;
use crate::{PlanError, SealFor, Unit, Walk, World};

/// Has everything planned anew that is sealed for an audience whose key is a new one, and its subscribers told of that.
pub(crate) async fn seal_anew(plan: &mut Plan<'_>, audience: Audience) -> Result<(), PlanError> {
    let (of, after, cause) = (Walk::spell(&audience), String::new(), plan.cause);
    plan.replan([Unit::Walk { over: Walk::Sealed, of, after, cause, rollout: 0 }, Unit::Audience(audience)])
        .await
}

/// A node no longer subscribes to some audiences.
pub(crate) async fn expel(
    plan: &mut Plan<'_>,
    node: &str,
    audiences: impl IntoIterator<Item = Audience>,
) -> Result<(), PlanError> {
    for audience in audiences {
        if plan.draft.expel_reader(&audience, node).await? {
            seal_anew(plan, audience).await?;
        }
    }
    Ok(())
}

/// A secret of a resource, sealed for an intent. `path` is its JSON pointer in the spec, `field` the intent's field that holds it.
///
/// # Errors
/// [`PlanError::Unreadable`] when the store cannot open it: the intent stays as it is.
pub(crate) async fn sealed_for(
    world: &mut dyn World,
    at: (&Audience, &Key, &str),
    resource: &Resource,
    path: &str,
    secret: &Secret,
) -> Result<Sealed, PlanError> {
    match secret.sealed() {
        Some(secret) => sealed_from(world, at, &resource.id, &SecretPlace::of(resource, path), secret).await,
        None => Err(lost(&resource.id, path)),
    }
}

/// [`sealed_for`] of what was sealed for any place; `id` is the resource whose intent it is.
pub(crate) async fn sealed_from(
    world: &mut dyn World,
    (audience, key, field): (&Audience, &Key, &str),
    id: &str,
    place: &SecretPlace,
    secret: &SealedText,
) -> Result<Sealed, PlanError> {
    let sealed = world.seal_for(SealFor { audience, key, field, place, secret }).await?;
    Ok(sealed.ok_or_else(|| lost(id, field))?.sealed)
}

fn lost(id: &str, at: &str) -> PlanError {
    let problem = format!("the secret at {at} does not open; set it again");
    ShapeError::Unreadable { id: id.to_owned(), problem }.into()
}
