//! What the fleet's words do to resources, and the replan queue.

use hosting_intent::{Audience, Cause, Kind as IntentKind};
use hosting_resource::kinds::node::Node;
use hosting_resource::{Id, Kind};

use super::delete::withdraw;
use crate::fields::is_deleting;
use crate::gates::{self, Gate, Verdict};
use crate::plan::Plan;
use crate::{Change, Draft, PlanError, Unit, World, kinds, read};

/// Entries of the replan queue that one transaction looks at.
const ENTRIES: u32 = 64;

/// Plans units and writes what differs from what is there.
///
/// # Errors
/// When the store fails, or a unit would give an unsound intent.
pub async fn replan(
    units: impl IntoIterator<Item = Unit>,
    draft: &mut dyn Draft,
    cause: Cause,
) -> Result<(), PlanError> {
    let mut plan = Plan::new(draft, cause);
    plan.replan(units).await?;
    plan.finish().await?;
    Ok(())
}

/// What draining the queue did.
#[derive(Debug)]
pub struct Drained {
    /// Entries taken.
    pub entries: usize,
    /// There may be more.
    pub more: bool,
    /// Why units were left as they are: they would give unsound intents, or a document is unreadable. To be logged.
    pub unsound: Vec<PlanError>,
}

/// Takes the oldest entries of the replan queue, as many as one transaction holds.
///
/// # Errors
/// When the store fails.
pub async fn drain(draft: &mut dyn Draft) -> Result<Drained, PlanError> {
    let mut plan = Plan::lenient(draft, Cause::Planner);
    let queue = plan.draft.queued(ENTRIES).await?;
    let looked_at = queue.len();
    let mut entries = 0;
    for unit in queue {
        if plan.is_full() {
            break;
        }
        entries += 1;
        plan.draft.dequeue(unit.clone());
        match &unit {
            Unit::Walk { over, of, after, cause, rollout } => {
                plan.step((*over, of, after), *cause, *rollout).await?;
            }
            Unit::Audience(_) | Unit::Of(..) | Unit::RrSet { .. } | Unit::Retire(_) => {
                plan.replan([unit]).await?;
            }
        }
    }
    let unsound = plan.finish().await?.left;
    Ok(Drained { entries, more: entries < looked_at || looked_at == ENTRIES as usize, unsound })
}

/// Opens gates: what waited for them is planned. Nothing happens to what is gone or going.
///
/// # Errors
/// When the store fails.
pub async fn open_gates(draft: &mut dyn Draft, id: &str, open: &[Gate]) -> Result<(), PlanError> {
    let mut plan = Plan::later(draft, Cause::Planner);
    let Some(before) = plan.draft.resource(id).await?.filter(|resource| !is_deleting(resource)) else {
        return Ok(());
    };
    let kind = kinds::of(before.kind);
    let mut after = before.clone();
    kind.open(&mut after, open)?;
    if after == before {
        return Ok(());
    }
    plan.put(after.clone()).await?;
    plan.replan(kind.touched(Some(&before), Some(&after), Cause::Planner)?).await?;
    kind.opened(&after, &mut plan).await?;
    plan.finish().await?;
    Ok(())
}

/// Writes a verdict's status and conditions, for a store that has no cheaper way. Nothing happens when the user changed the
/// resource since it was looked at.
///
/// # Errors
/// When the store fails.
pub async fn record_status(
    draft: &mut dyn Draft,
    id: &str,
    generation: u64,
    verdict: &Verdict,
) -> Result<(), PlanError> {
    let Some(mut resource) = draft.resource(id).await?.filter(|r| r.generation == generation) else {
        return Ok(());
    };
    if gates::differs(&resource, verdict) {
        gates::record(&mut resource, verdict);
        draft.apply(Change { put: vec![resource], ..Change::default() }).await?;
    }
    Ok(())
}

/// Takes a node out of service or puts it back. False when nothing changed.
///
/// # Errors
/// When the store fails.
pub async fn set_in_service(draft: &mut dyn Draft, node: &str, in_service: bool) -> Result<bool, PlanError> {
    let mut plan = Plan::new(draft, Cause::Planner);
    let Some(mut node) = read::get(&mut plan.draft, &Id::<Node>::from(node)).await? else { return Ok(false) };
    if node.state.out_of_service != in_service {
        return Ok(false);
    }
    let before = node.to_resource();
    node.state.out_of_service = !in_service;
    let after = node.into_resource();
    plan.put(after.clone()).await?;
    plan.replan(kinds::of(Kind::Node).touched(Some(&before), Some(&after), Cause::Planner)?).await?;
    plan.finish().await?;
    Ok(true)
}

/// A node says that it destroyed the data of a resource whose row is gone already: its Retire is done. While the row is
/// there, [`super::finish_delete`] takes the Retire away.
///
/// # Errors
/// When the store fails.
pub async fn retired(draft: &mut dyn Draft, node: &str, id: &str) -> Result<(), PlanError> {
    if draft.resource(id).await?.is_some() {
        return Ok(());
    }
    let audience = Audience::node(node)?;
    let rows = draft.owned(&Unit::Retire(id.to_owned()).owner()).await?;
    let intents = withdraw(rows, |row| row.audience == audience);
    if !intents.is_empty() {
        draft.apply(Change { intents, ..Change::default() }).await?;
    }
    Ok(())
}

/// What a node leaves behind that will not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Data that was to be destroyed there and may still be: `webroot/web_...`, `tenant/t_...`.
    pub left: Vec<String>,
    /// There may be more: ask again.
    pub more: bool,
}

/// Stops waiting for a node to destroy data.
///
/// # Errors
/// When the store fails.
pub async fn forget_node(draft: &mut dyn Draft, node: &str) -> Result<Forgotten, PlanError> {
    const ROWS: u32 = 500;
    let audience = Audience::node(node)?;
    // Retire is the last kind of a node's audience: everything from its first key on.
    let start = hosting_intent::Key::new(IntentKind::Retire, "");
    let rows = draft.audience_rows(&audience, Some(&start), ROWS).await?;
    let more = rows.len() == ROWS as usize;
    let rows: Vec<_> =
        rows.into_iter().filter(|row| row.key.known_kind() == Some(IntentKind::Retire)).collect();
    let left = rows.iter().map(|row| row.key.name.clone()).collect();
    let intents = withdraw(rows, |_| true);
    if !intents.is_empty() {
        draft.apply(Change { intents, ..Change::default() }).await?;
    }
    Ok(Forgotten { left, more })
}
