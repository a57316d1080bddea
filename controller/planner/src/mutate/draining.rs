//! Nodes and shards that are emptied, and taken back.

use hosting_intent::{Cause, Role};
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::{Doc, Document, Draining, Id, Kind, Resource};

use super::update::existing;
use crate::fields::{is_deleting, why_gone};
use crate::overlay::Overlay;
use crate::placement::serves;
use crate::plan::Plan;
use crate::{Draft, PlanError, World, kinds, read};

/// Empties a node: it gets no requests as soon as others of its shards serve, and shards count without it for what is placed. `forced`: even where
/// it is the last one.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when nothing could take its place.
pub async fn drain_node(draft: &mut dyn Draft, id: &str, forced: bool) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut node = staying::<Node>(&mut plan, id).await?;
    if node.state.draining.is_some_and(|draining| draining.forced || !forced) {
        return Ok(node.into_resource());
    }
    if !forced && let Some(last_of) = last_of(&node, &mut plan.draft).await? {
        return Err(PlanError::Conflict(format!(
            "node {id} is the last one of {last_of} that serves: add or undrain another one first, or force it"
        )));
    }
    let before = node.to_resource();
    node.state.draining = Some(Draining { since: since(&node.state.draining, &plan), forced });
    turned(plan, before, node.into_resource()).await
}

/// Takes a node back that was drained.
///
/// # Errors
/// [`PlanError::NotFound`].
pub async fn undrain_node(draft: &mut dyn Draft, id: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut node = staying::<Node>(&mut plan, id).await?;
    let before = node.to_resource();
    if node.state.draining.take().is_none() {
        return Ok(before);
    }
    turned(plan, before, node.into_resource()).await
}

/// Lets a shard take no more tenants. `forced`: even where it is the last one that does.
///
/// # Errors
/// [`PlanError::NotFound`]; [`PlanError::Conflict`] when no other shard of its role and cluster is left for new tenants.
pub async fn drain_shard(draft: &mut dyn Draft, id: &str, forced: bool) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut shard = staying::<Shard>(&mut plan, id).await?;
    if shard.state.draining.is_some_and(|draining| draining.forced || !forced) {
        return Ok(shard.into_resource());
    }
    if !forced && is_last_shard(&shard, &mut plan.draft).await? {
        return Err(PlanError::Conflict(format!(
            "shard {} is the last one of its cluster that takes tenants: add or undrain another one first, or force it",
            shard.spec.name
        )));
    }
    let before = shard.to_resource();
    shard.state.draining = Some(Draining { since: since(&shard.state.draining, &plan), forced });
    turned(plan, before, shard.into_resource()).await
}

/// Lets a shard take tenants again.
///
/// # Errors
/// [`PlanError::NotFound`].
pub async fn undrain_shard(draft: &mut dyn Draft, id: &str) -> Result<Resource, PlanError> {
    let mut plan = Plan::new(draft, Cause::Person);
    let mut shard = staying::<Shard>(&mut plan, id).await?;
    let before = shard.to_resource();
    if shard.state.draining.take().is_none() {
        return Ok(before);
    }
    turned(plan, before, shard.into_resource()).await
}

async fn staying<K: Document>(plan: &mut Plan<'_>, id: &str) -> Result<Doc<K>, PlanError> {
    let found = existing::<K>(&mut plan.draft, id).await?;
    if is_deleting(&found) {
        return Err(PlanError::Conflict(format!("{} {id} {}", K::KIND, why_gone(&found))));
    }
    Ok(found)
}

fn since(draining: &Option<Draining>, plan: &Plan<'_>) -> i64 {
    draining.map_or_else(|| plan.draft.now(), |draining| draining.since)
}

async fn turned(mut plan: Plan<'_>, before: Resource, mut after: Resource) -> Result<Resource, PlanError> {
    after.generation += 1;
    plan.put(after.clone()).await?;
    let units = kinds::of(after.kind).touched(Some(&before), Some(&after), Cause::Person)?;
    plan.replan(units).await?;
    let mut written = plan.finish().await?.written;
    Ok(written.take(&after.id).unwrap_or(after))
}

/// What would be left without a node that serves, if anything would.
async fn last_of(node: &Doc<Node>, draft: &mut Overlay<'_>) -> Result<Option<String>, PlanError> {
    let is_other = |other: &Doc<Node>| other.id != node.id && serves(other);
    for place in &node.state.shards {
        if !read::nodes_of_shard(draft, &place.shard_id).await?.iter().any(is_other) {
            let shard = read::get(draft, &place.shard_id).await?;
            let name = shard.map_or_else(|| place.shard_id.to_string(), |shard| shard.spec.name.clone());
            return Ok(Some(format!("shard {name}")));
        }
    }
    for role in crate::roles(node) {
        let others = if role == Role::Lb {
            read::edges_of(draft, node.parent.as_deref().unwrap_or_default()).await?
        } else if role == Role::Dns {
            read::name_servers(draft, &node.spec.dns_group).await?
        } else {
            continue;
        };
        if !others.iter().any(is_other) {
            let of =
                if role == Role::Lb { "the edges of its cluster" } else { "the name servers of its group" };
            return Ok(Some(of.to_owned()));
        }
    }
    Ok(None)
}

async fn is_last_shard(shard: &Doc<Shard>, draft: &mut Overlay<'_>) -> Result<bool, PlanError> {
    let cluster = shard.parent.as_deref().unwrap_or_default();
    for other in draft.children(Kind::Shard, cluster, "", read::PAGE).await? {
        let other = Doc::<Shard>::read(other)?;
        let is_place = other.id != shard.id
            && other.spec.role == shard.spec.role
            && other.state.draining.is_none()
            && !is_deleting(&other);
        if is_place && read::nodes_of_shard(draft, &Id::from(other.id.as_str())).await?.iter().any(serves) {
            return Ok(false);
        }
    }
    Ok(true)
}
