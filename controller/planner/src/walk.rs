//! Walks: units too many to name, planned a bounded number at a time.
//!
//! A step is level-triggered: it plans what is there when it comes by. What changes behind it was planned by whoever
//! changed it.

use hosting_intent::{Audience, Cause, Key};

use crate::plan::Plan;
use crate::unit::{By, Pages};
use crate::{PlanError, Unit, Walk, World, kinds};

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
    let place = |after: String| Unit::Walk { over, of: of.to_owned(), after, cause };
    let next = match over {
        Walk::Resources(pages) => resources(plan, pages, of, after).await?,
        Walk::NodeRows => node_rows(plan, of, after).await?,
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

/// Plans the owners of a page of a node's rows, and answers the last row that is done if there are more.
async fn node_rows(plan: &mut Plan<'_>, node: &str, after: &str) -> Result<Option<String>, PlanError> {
    let start = after
        .split_once('/')
        .and_then(|(kind, name)| Some(Key { kind: kind.parse().ok()?, name: name.to_owned() }));
    let rows = plan.draft.audience_rows(&Audience::node(node)?, start.as_ref(), STEP).await?;
    let more = rows.len() == STEP as usize;
    let mut done = after.to_owned();
    for row in rows {
        if plan.is_full() {
            return Ok(Some(done));
        }
        done = format!("{}/{}", row.key.kind, row.key.name);
        plan.replan(Unit::from_owner(&row.owner)).await?;
    }
    Ok(more.then_some(done))
}
