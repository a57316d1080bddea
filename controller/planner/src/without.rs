//! What would fail without some nodes: which shards, clusters and groups of name servers would have nothing left that serves, and which names
//! hang on these.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Role, group_or_default};
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::node::Node;
use hosting_resource::kinds::shard::Shard;
use hosting_resource::{Doc, Id, Kind};

use crate::placement::serves;
use crate::{PlanError, World, read};

/// What nodes serve together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// The sites of a shard's tenants.
    Shard(String),
    /// The edges of a cluster.
    Cluster(String),
    /// A group of name servers.
    Group(String),
}

/// What is left of what nodes serve together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Of what.
    pub of: Of,
    /// As people call it.
    pub name: String,
    /// Nodes that would serve on.
    pub serving: usize,
    /// Tenants on it, where they are counted: on shards.
    pub tenants: Option<u64>,
}

/// What some nodes are part of, and what is left there without them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Without {
    /// What they are part of, in the order of [`Of`].
    pub left: Vec<Left>,
    /// Ids that no node has.
    pub unknown: Vec<String>,
}

/// What would be left without `nodes`.
///
/// # Errors
/// When the store cannot be read.
pub async fn without(world: &mut dyn World, nodes: &BTreeSet<String>) -> Result<Without, PlanError> {
    let mut found = Without::default();
    let mut of: BTreeMap<Of, Vec<Doc<Node>>> = BTreeMap::new();
    for id in nodes {
        let Some(node) = read::get(world, &Id::<Node>::from(id.as_str())).await? else {
            found.unknown.push(id.clone());
            continue;
        };
        for place in &node.state.shards {
            if let Entry::Vacant(members) = of.entry(Of::Shard(place.shard_id.to_string())) {
                members.insert(read::nodes_of_shard(world, &place.shard_id).await?);
            }
        }
        for role in crate::roles(&node) {
            let cluster = node.parent.clone().unwrap_or_default();
            let group = &node.spec.dns_group;
            if role == Role::Lb
                && let Entry::Vacant(members) = of.entry(Of::Cluster(cluster.clone()))
            {
                members.insert(read::edges_of(world, &cluster).await?);
            } else if role == Role::Dns
                && let Entry::Vacant(members) = of.entry(Of::Group(group.clone()))
            {
                members.insert(read::name_servers(world, group).await?);
            }
        }
    }
    for (of, members) in of {
        let serving = members.iter().filter(|node| serves(node) && !nodes.contains(&node.id)).count();
        let (name, tenants) = match &of {
            Of::Shard(id) => {
                let shard = read::get(world, &Id::<Shard>::from(id.as_str())).await?;
                let tenants = world.usage(&[(id.clone(), Kind::Tenant)]).await?.first().copied();
                (shard.map_or_else(|| id.clone(), |shard| shard.spec.name.clone()), tenants)
            }
            Of::Cluster(id) => (world.resource(id).await?.map_or_else(|| id.clone(), |one| one.label), None),
            Of::Group(group) => (group.clone(), None),
        };
        found.left.push(Left { of, name, serving, tenants });
    }
    Ok(found)
}

/// A name that would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingName {
    /// Host name or zone.
    pub name: String,
    /// Whose it is.
    pub tenant: Option<String>,
    /// What it hangs on.
    pub of: Of,
}

/// Owners that one page goes through.
const OWNERS: usize = 200;

/// Names that hang on what is lost, from a place on: at most `limit`, and the place where the next page begins. A page goes through the
/// names of at most 200 tenants or brands, so that it may have fewer.
///
/// # Errors
/// When the store cannot be read.
pub async fn failing_names(
    world: &mut dyn World,
    lost: &[Of],
    from: &Place,
    limit: usize,
) -> Result<(Vec<FailingName>, Option<Place>), PlanError> {
    let mut names = Vec::new();
    let mut place = from.clone();
    let mut looked_at = 0;
    while let Some(of) = lost.get(place.part) {
        let behind = owners_behind(world, of, &place.owner).await?;
        let more = behind.len() == OWNERS;
        // The owner that the last page ended in goes on.
        let within = place.is_within.then(|| place.owner.clone());
        for owner in within.into_iter().chain(behind) {
            if looked_at == OWNERS {
                return Ok((names, Some(place)));
            }
            looked_at += 1;
            let after = if place.is_within { place.name.clone() } else { String::new() };
            let room = limit.saturating_sub(names.len());
            let (page, next) = names_of(world, of, &owner, &after, room).await?;
            names.extend(page);
            place =
                Place { owner, is_within: next.is_some(), name: next.unwrap_or_default(), part: place.part };
            if names.len() >= limit || place.is_within {
                return Ok((names, Some(place)));
            }
        }
        if !more {
            place = Place { part: place.part + 1, ..Place::default() };
        }
    }
    Ok((names, None))
}

/// How far a list of names came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Which of what is lost.
    pub part: usize,
    /// The tenant or brand.
    pub owner: String,
    /// The last name's id there, with `is_within`.
    pub name: String,
    /// Whether the owner's names go on.
    pub is_within: bool,
}

/// The next tenants on a shard or cluster, or the next brands of a group: as many as a page goes through.
async fn owners_behind(world: &mut dyn World, of: &Of, after: &str) -> Result<Vec<String>, PlanError> {
    let most = u32::try_from(OWNERS).unwrap_or(u32::MAX);
    let page = match of {
        Of::Shard(id) => world.with_facet(Kind::Tenant, "shard_id", id, after, most).await?,
        Of::Cluster(id) => world.with_facet(Kind::Tenant, "cluster_id", id, after, most).await?,
        Of::Group(group) => {
            let brands = read::brands(world).await?.into_iter();
            let of_group = brands.filter(|brand| group_or_default(&brand.spec.dns_group) == group);
            let behind = of_group.map(|brand| brand.id.clone()).filter(|id| id.as_str() > after);
            return Ok(behind.take(OWNERS).collect());
        }
    };
    Ok(page.into_iter().map(|one| one.id).collect())
}

/// Names of a tenant that sites answer, or zones of a brand, behind the id `after`; and where to go on if there are more.
async fn names_of(
    world: &mut dyn World,
    of: &Of,
    owner: &str,
    after: &str,
    limit: usize,
) -> Result<(Vec<FailingName>, Option<String>), PlanError> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX).clamp(1, read::PAGE);
    let found = match of {
        Of::Shard(_) | Of::Cluster(_) => world.children(Kind::Fqdn, owner, after, limit).await?,
        Of::Group(_) => world.with_facet(Kind::Zone, "brand_id", owner, after, limit).await?,
    };
    let next = found.last().filter(|_| found.len() == limit as usize).map(|last| last.id.clone());
    let mut names = Vec::new();
    for one in found {
        // A name that is bound to no site is answered by the edge itself.
        let hangs = match of {
            Of::Shard(_) => Doc::<Fqdn>::of(&one)?.spec.webroot_id.is_some_and(|site| !site.is_empty()),
            Of::Cluster(_) | Of::Group(_) => true,
        };
        if hangs && !one.status.is_gone() {
            names.push(FailingName { name: one.label, tenant: one.tenant, of: of.clone() });
        }
    }
    Ok((names, next))
}
