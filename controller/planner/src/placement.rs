//! On which shard a new tenant lives: chosen where the caller names none, and room for it where one is named.
//!
//! Counts are kept with each change and checked in the change's own transaction, under the lock that all changes share: no two get the last
//! place. The same state of things gives the same answer.

use hosting_intent::Role;
use hosting_resource::kinds::cluster::Cluster;
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Candidate, Doc, Document, Id, Kind, Placement, Status};

use crate::fields::is_deleting;
use crate::overlay::Overlay;
use crate::{PlanError, World, read};

/// Shards of a cluster that are compared by what they have.
const SHARDS: u32 = 500;
/// Shards whose nodes are looked at, the emptiest first.
const LOOKED_AT: usize = 16;
/// So many nodes, and so many failure domains, are as good as more.
const ENOUGH: u32 = 2;

/// Whether a node serves, or would: it is in service, and nobody empties it.
pub(crate) fn serves(node: &Doc<Node>) -> bool {
    !is_deleting(node) && !node.state.out_of_service && node.state.draining.is_none()
}

/// In how many failure domains nodes are. Those that say nothing may all be in one.
fn domains(nodes: &[Doc<Node>]) -> u32 {
    let mut names: Vec<&str> = nodes.iter().map(|node| node.spec.failure_domain.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

/// Gives a new tenant that names no shard one of its cluster.
///
/// # Errors
/// [`PlanError::Conflict`] when none can take it, with the reasons.
pub(crate) async fn place(tenant: &mut Doc<Tenant>, draft: &mut Overlay<'_>) -> Result<(), PlanError> {
    let cluster = read::live(draft, "cluster_id", &tenant.spec.cluster_id).await?;
    let placement = choose(&cluster, draft).await?;
    tenant.spec.shard_id = Some(Id::from(placement.shard_id.as_str()));
    tenant.state.placement = Some(placement);
    Ok(())
}

async fn choose(cluster: &Doc<Cluster>, draft: &mut Overlay<'_>) -> Result<Placement, PlanError> {
    let mut shards: Vec<Doc<Shard>> = Vec::new();
    for found in draft.children(Kind::Shard, &cluster.id, "", SHARDS).await? {
        let shard = Doc::<Shard>::read(found)?;
        if shard.spec.role == Role::Web.name() && !is_deleting(&shard) {
            shards.push(shard);
        }
    }
    let about: Vec<_> = shards.iter().map(|shard| (shard.id.clone(), Kind::Tenant)).collect();
    let tenants = draft.usage(&about).await?;
    let mut by_load: Vec<(Doc<Shard>, u64)> = shards.into_iter().zip(tenants).collect();
    // Tenants for each unit of weight, compared without dividing.
    by_load.sort_by(|(one, has), (other, others)| {
        let left = u128::from(*has) * u128::from(other.spec.weight);
        let right = u128::from(*others) * u128::from(one.spec.weight);
        left.cmp(&right).then_with(|| one.id.cmp(&other.id))
    });
    let mut candidates = Vec::new();
    let mut best: Option<(usize, (u32, u32))> = None;
    let mut looked_at = 0;
    for (shard, tenants) in by_load {
        let mut candidate = Candidate {
            shard_id: shard.id.clone(),
            name: shard.spec.name.clone(),
            tenants,
            max_tenants: shard.spec.max_tenants,
            nodes: 0,
            failure_domains: 0,
            passed_over: no_room(&shard, tenants),
        };
        if candidate.passed_over.is_none() {
            if looked_at == LOOKED_AT {
                break;
            }
            looked_at += 1;
            let mut nodes = read::nodes_of_shard(draft, &shard.typed_id()).await?;
            nodes.retain(serves);
            candidate.nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            candidate.failure_domains = domains(&nodes);
            let rank = (candidate.failure_domains.min(ENOUGH), candidate.nodes.min(ENOUGH));
            if nodes.is_empty() {
                candidate.passed_over = Some("has no node that serves".to_owned());
            } else if best.is_none_or(|(_, than)| rank > than) {
                best = Some((candidates.len(), rank));
            }
        }
        candidates.push(candidate);
        if best.is_some_and(|(_, rank)| rank == (ENOUGH, ENOUGH)) {
            break;
        }
    }
    let Some((place, rank)) = best else {
        let why: Vec<String> = candidates
            .iter()
            .take(LOOKED_AT)
            .map(|one| format!("{} {}", one.name, one.passed_over.as_deref().unwrap_or_default()))
            .collect();
        let why = if why.is_empty() { "it has none of the role web".to_owned() } else { why.join("; ") };
        return Err(PlanError::Conflict(format!(
            "no shard of cluster {} can take a tenant: {why}",
            cluster.spec.name
        )));
    };
    for (n, one) in candidates.iter_mut().enumerate() {
        if n != place && one.passed_over.is_none() {
            let (domains, nodes) = rank;
            let is_worse = (one.failure_domains.min(ENOUGH), one.nodes.min(ENOUGH)) < (domains, nodes);
            one.passed_over = Some(if is_worse {
                "has fewer nodes, or they are in fewer failure domains".to_owned()
            } else {
                "has more tenants for its weight".to_owned()
            });
        }
    }
    let Some(chosen) = candidates.get(place).cloned() else {
        return Err(PlanError::Conflict("no shard was chosen".to_owned()));
    };
    let reason = format!(
        "{}: {} tenants before, the fewest for its weight among those with {} nodes in {} failure domains or more",
        chosen.name, chosen.tenants, rank.1, rank.0
    );
    candidates.truncate(LOOKED_AT);
    Ok(Placement { shard_id: chosen.shard_id, reason, candidates })
}

/// Why a shard takes no more tenants, whatever its nodes.
fn no_room(shard: &Doc<Shard>, tenants: u64) -> Option<String> {
    if shard.state.draining.is_some() {
        return Some("is being drained".to_owned());
    }
    if matches!(shard.status, Status::Failed | Status::Suspended | Status::AutoDisabled) {
        return Some(format!("is {}", shard.status));
    }
    let most = shard.spec.max_tenants;
    (most > 0 && tenants >= most).then(|| format!("has {tenants} of the {most} tenants that it takes"))
}

/// Checks that the shard that a tenant is to have takes it. What has its place there already keeps it.
pub(crate) async fn admit(
    tenant: &Doc<Tenant>,
    shard: &Doc<Shard>,
    draft: &mut Overlay<'_>,
) -> Result<(), PlanError> {
    if shard.state.draining.is_none() && shard.spec.max_tenants == 0 {
        return Ok(());
    }
    let stored = draft.resource(&tenant.id).await?.filter(|stored| stored.kind == Tenant::KIND);
    if stored.is_some_and(|stored| stored.charged(&stored.index()).contains(&shard.id)) {
        return Ok(());
    }
    let tenants =
        draft.usage(&[(shard.id.clone(), Kind::Tenant)]).await?.first().copied().unwrap_or_default();
    match no_room(shard, tenants) {
        Some(why) => Err(PlanError::Conflict(format!(
            "shard {} {why}: name another one, or leave shard_id out",
            shard.spec.name
        ))),
        None => Ok(()),
    }
}
