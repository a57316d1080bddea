//! How many resources of a kind tenants, brands and subscriptions may have, checked where resources come to be theirs.
//!
//! What is counted is kept with each change by the store ([`World::usage`]), so a check reads a row for each limit that there is and counts
//! nothing. It happens in the change's own transaction, under the lock that all changes share: no two get the last place.

use std::collections::{BTreeMap, BTreeSet};

use hosting_resource::kinds::package::Package;
use hosting_resource::limits::{HeldLimits, Limits};
use hosting_resource::{Id, Kind, Resource};

use crate::overlay::Overlay;
use crate::{PlanError, World, read};

/// A limit that a change would exceed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{owner_kind} {owner} has {used} of the {limit} {} that it may have, and {asked} more would be made; delete some, or raise the limit",
    kind.info().scope
)]
pub struct OverLimit {
    /// What kind of resource is limited.
    pub kind: Kind,
    /// Whose limit it is: a tenant, a brand or a subscription.
    pub owner_kind: Kind,
    /// Which one, as the API spells it.
    pub owner: String,
    /// The most that it may have.
    pub limit: u64,
    /// What it has.
    pub used: u64,
    /// What the change would add.
    pub asked: u64,
}

/// What comes to be whose: how many resources of a kind, by the ids of those that they count against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(BTreeMap<(String, Kind), u64>);

impl Asked {
    /// Notes a resource that was `before`, `None` for a new one.
    pub(crate) fn note(&mut self, before: Option<&Resource>, after: &Resource) {
        let had: BTreeSet<String> =
            before.map(|before| before.charged(&before.index())).unwrap_or_default().into_iter().collect();
        for owner in after.charged(&after.index()).into_iter().filter(|owner| !had.contains(owner)) {
            *self.0.entry((owner, after.kind)).or_default() += 1;
        }
    }

    /// Refuses what is beyond a limit.
    pub(crate) async fn admit(self, draft: &mut Overlay<'_>) -> Result<(), PlanError> {
        let mut limited = Vec::new();
        let mut last: Option<(String, Option<Owner>)> = None;
        for ((owner, kind), asked) in self.0 {
            if last.as_ref().is_none_or(|(id, _)| *id != owner) {
                last = Some((owner.clone(), Owner::of(draft, &owner).await?));
            }
            let Some((_, Some(of))) = &last else { continue };
            if let Some((limit, _)) = of.limit(kind) {
                limited.push(((owner, kind), of.kind, limit, asked));
            }
        }
        if limited.is_empty() {
            return Ok(());
        }
        let about: Vec<(String, Kind)> = limited.iter().map(|(about, ..)| about.clone()).collect();
        let used = draft.usage(&about).await?;
        for (((owner, kind), owner_kind, limit, asked), used) in limited.into_iter().zip(used) {
            if used.saturating_add(asked) > limit {
                let owner = hosting_resource::public_id(&owner).to_owned();
                return Err(OverLimit { kind, owner_kind, owner, limit, used, asked }.into());
            }
        }
        Ok(())
    }
}

/// Where a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitFrom {
    /// In the owner's own spec.
    Own,
    /// In its package.
    Package,
}

/// Somebody with limits.
struct Owner {
    kind: Kind,
    own: Limits,
    package: Limits,
}

impl Owner {
    /// `None` for a resource that has none, or that is not there.
    async fn of(world: &mut dyn World, id: &str) -> Result<Option<Self>, PlanError> {
        let Some(resource) = world.resource(id).await? else { return Ok(None) };
        Self::read(world, &resource).await
    }

    async fn read(world: &mut dyn World, resource: &Resource) -> Result<Option<Self>, PlanError> {
        let def = resource.kind.def();
        if !def.has_limits() {
            return Ok(None);
        }
        let HeldLimits { own, package } = def.limits(resource)?;
        let package = match package {
            Some(id) => {
                read::get(world, &Id::<Package>::from(id)).await?.map(|package| package.spec.limits.clone())
            }
            None => None,
        };
        Ok(Some(Self { kind: resource.kind, own, package: package.unwrap_or_default() }))
    }

    /// An own limit goes before the package's, whichever is larger.
    fn limit(&self, kind: Kind) -> Option<(u64, LimitFrom)> {
        let own = self.own.of(kind).map(|limit| (limit, LimitFrom::Own));
        own.or_else(|| self.package.of(kind).map(|limit| (limit, LimitFrom::Package)))
    }
}

/// What somebody has of a kind, beside what it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of which kind.
    pub kind: Kind,
    /// How many there are; what is on its way out counts until it is gone.
    pub used: u64,
    /// The most that there may be, and where that is said; `None`: as many as one likes.
    pub limit: Option<(u64, LimitFrom)>,
}

/// What a tenant, a brand or a subscription has of each kind that can be limited.
///
/// # Errors
/// When a read fails.
pub async fn usage(world: &mut dyn World, of: &Resource) -> Result<Vec<Usage>, PlanError> {
    let Some(owner) = Owner::read(world, of).await? else { return Ok(Vec::new()) };
    let about: Vec<(String, Kind)> = Limits::kinds().map(|kind| (of.id.clone(), kind)).collect();
    let used = world.usage(&about).await?;
    let all =
        about.into_iter().zip(used).map(|((_, kind), used)| Usage { kind, used, limit: owner.limit(kind) });
    Ok(all.collect())
}

/// Checks that a package is the brand's own.
pub(crate) async fn is_of_brand(
    draft: &mut Overlay<'_>,
    package: Option<&Id<Package>>,
    brand: Option<&str>,
) -> Result<(), PlanError> {
    let Some(id) = package else { return Ok(()) };
    let package = read::live(draft, "package_id", id).await?;
    if package.brand.as_deref() == brand {
        return Ok(());
    }
    Err(PlanError::invalid("package_id", format!("package {:?} belongs to another brand", package.id)))
}
