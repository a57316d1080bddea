//! What the edges of a cluster seal session tickets with: the next key's turn.

use hosting_intent::Cause;
use hosting_resource::kinds::cluster::{Cluster, ClusterTicketKey, rotation};
use hosting_resource::{Document, Id, PlainText};

use crate::fields::is_deleting;
use crate::plan::Plan;
use crate::{Draft, PlanError, Unit, read};

/// A key made by chance.
#[derive(Debug)]
pub struct FreshTicketKey {
    /// 32 hexadecimal digits.
    pub name: String,
    /// 64 hexadecimal digits.
    pub key: PlainText,
}

/// Ends the keys of a cluster whose tickets have ended, and takes of `fresh`, two, what is needed for one to seal and one to be next. How many were
/// taken.
///
/// # Errors
/// When the store fails.
pub async fn rotate_ticket_keys(
    draft: &mut dyn Draft,
    cluster: &Id<Cluster>,
    fresh: [FreshTicketKey; 2],
) -> Result<usize, PlanError> {
    let mut plan = Plan::new(draft, Cause::Planner);
    let Some(mut cluster) = read::get(&mut plan.draft, cluster).await? else { return Ok(0) };
    if is_deleting(&cluster) {
        return Ok(0);
    }
    let begins: Vec<i64> = cluster.state.ticket_keys.iter().map(|key| key.begins).collect();
    let todo = rotation(&begins, plan.draft.now());
    let mut keys = std::mem::take(&mut cluster.state.ticket_keys);
    keys.truncate(keys.len() - todo.astray);
    keys.drain(..todo.ended);
    for (begins, fresh) in todo.begin.iter().zip(fresh) {
        let place = ClusterTicketKey::place(&cluster, &fresh.name);
        let key = plan.draft.seal_text(&place, &fresh.key).await?;
        keys.push(ClusterTicketKey { name: fresh.name, begins: *begins, key });
    }
    cluster.state.ticket_keys = keys;
    if !todo.is_nothing() {
        let unit = Unit::Of(Cluster::KIND, cluster.id.clone());
        plan.put(cluster.into_resource()).await?;
        plan.replan([unit]).await?;
        plan.finish().await?;
    }
    Ok(todo.begin.len())
}
