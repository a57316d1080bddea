//! Subscribers that come with a key pair, and machines that were replaced.

use hosting_intent::{Audience, Cause};

use crate::plan::Plan;
use crate::{Admitted, Draft, PlanError, Unit, readers};

/// A subscriber that the registry gives an audience says which public key (X25519) is to be sealed to.
///
/// # Errors
/// When the store fails, or the key is none.
pub async fn admit_reader(
    draft: &mut dyn Draft,
    audience: &Audience,
    node: &str,
    sealing_key: &[u8; 32],
) -> Result<Admitted, PlanError> {
    let mut plan = Plan::new(draft, Cause::Planner);
    let admitted = plan.draft.admit_reader(audience, node, sealing_key).await?;
    match admitted {
        Admitted::Known | Admitted::NothingSealed => {}
        Admitted::Added => plan.replan([Unit::Audience(audience.clone())]).await?,
        Admitted::Replaced => readers::seal_anew(&mut plan, audience.clone()).await?,
    }
    plan.finish().await?;
    Ok(admitted)
}

/// The machine that was a node is to be it no longer: what is sealed from now on it does not open.
///
/// # Errors
/// When the store fails.
pub async fn expel_reader(
    draft: &mut dyn Draft,
    node: &str,
    audiences: impl IntoIterator<Item = Audience> + Send,
) -> Result<(), PlanError> {
    let mut plan = Plan::new(draft, Cause::Planner);
    let audiences: Vec<Audience> = audiences.into_iter().collect();
    readers::expel(&mut plan, node, audiences).await?;
    plan.finish().await?;
    Ok(())
}
