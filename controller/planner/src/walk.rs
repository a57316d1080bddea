//! Walks: units too many to name, planned a bounded number at a time.
//!
//! A step is level-triggered: it plans what is there when it comes by. What changes behind it was planned by whoever
//! changed it.

use hosting_intent::{Audience, Cause, Key, SEALED_KINDS};

use crate::plan::Plan;
use crate::unit::{By, Pages};
use crate::{PlanError, Unit, Walk, World, kinds, mutate};

/// Resources per step. What a step leaves when the transaction is full, the next one takes.
const STEP: u32 = 100;

/// Takes one step and answers where the next one starts; `None` at the end.
pub(crate) async fn step(
    plan: &mut Plan<'_>,
    over: Walk,
    of: &str,
    after: &str,
    cause: Cause,
) -> Result<Option<Unit>, PlanError> {
    let place = |after: String| Unit::Walk { over, of: of.to_owned(), after, cause, rollout: 0 };
    let next = match over {
        Walk::Resources(pages) => resources(plan, pages, of, after).await?,
        Walk::NodeRows => {
            let audience = Audience::node(of)?;
            rows(plan, &audience, after, |_| true).await?
        }
        Walk::Sealed => match Walk::audience(of) {
            Some(audience) => sealed_rows(plan, &audience, after).await?,
            None => None,
        },
        Walk::Keeping => {
            mutate::go_on_keeping(plan, of).await?;
            None
        }
        Walk::Restoring => {
            mutate::go_on_restoring(plan, of, after).await?;
            None
        }
        Walk::Unit => {
            plan.replan(Unit::from_owner(after).filter(|unit| !unit.is_walk())).await?;
            None
        }
    };
    Ok(next.map(place))
}

/// Visits a page of resources, and answers the last one that is done if there are more.
async fn resources(
    plan: &mut Plan<'_>,
    pages: Pages,
    of: &str,
    after: &str,
) -> Result<Option<String>, PlanError> {
    let page = match pages.by {
        By::Parent => plan.draft.children(pages.over, of, after, STEP).await?,
        By::Facet(field) => plan.draft.with_facet(pages.over, field, of, after, STEP).await?,
        By::All => plan.draft.list(pages.over, after, STEP).await?,
    };
    let more = page.len() == STEP as usize;
    let mut done = after.to_owned();
    for resource in page {
        if plan.is_full() {
            return Ok(Some(done));
        }
        done.clone_from(&resource.id);
        kinds::of(pages.over).revisit(resource, pages.aspect, of, plan).await?;
    }
    Ok(more.then_some(done))
}

/// Plans the owners of a page of an audience's rows for as long as they are `wanted`, and answers the last row that is done if there
/// are more.
async fn rows(
    plan: &mut Plan<'_>,
    audience: &Audience,
    after: &str,
    wanted: impl Fn(&Key) -> bool,
) -> Result<Option<String>, PlanError> {
    let rows = plan.draft.audience_rows(audience, key_at(after).as_ref(), STEP).await?;
    let more = rows.len() == STEP as usize;
    let mut done = after.to_owned();
    for row in rows {
        if !wanted(&row.key) {
            return Ok(None);
        }
        if plan.is_full() {
            return Ok(Some(done));
        }
        done = format!("{}/{}", row.key.kind, row.key.name);
        plan.replan(Unit::from_owner(&row.owner)).await?;
    }
    Ok(more.then_some(done))
}

fn key_at(place: &str) -> Option<Key> {
    let (kind, name) = place.split_once('/')?;
    Some(Key { kind: kind.parse().ok()?, name: name.to_owned() })
}

/// [`rows`] of the kinds that hold secrets, one kind after the other: those between are not read.
async fn sealed_rows(
    plan: &mut Plan<'_>,
    audience: &Audience,
    after: &str,
) -> Result<Option<String>, PlanError> {
    let at = key_at(after).map_or(0, |key| key.kind);
    let mut kinds = SEALED_KINDS.iter().map(|kind| Key::new(*kind, "")).filter(|start| start.kind >= at);
    let Some(current) = kinds.next() else { return Ok(None) };
    let start = format!("{}/", current.kind);
    let place = if at == current.kind { after } else { &start };
    match rows(plan, audience, place, |key| key.kind == current.kind).await? {
        Some(done) => Ok(Some(done)),
        // No row of the kind has no name, so that this place comes before all of them.
        None => Ok(kinds.next().map(|next| format!("{}/", next.kind))),
    }
}
