//! A zone: its apex on the name servers of its brand's group, and its serial.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Cause, Kind as IntentKind, message as m};
use hosting_resource::kinds::brand::BrandSpec;
pub(crate) use hosting_resource::kinds::zone::Zone;
use hosting_resource::kinds::zone::ZoneState;
use hosting_resource::ownership::is_servable;
use hosting_resource::{Doc, Document, Id, Kind, Status};

use super::{Changed, Deletion, Facts, GoesWith, Planned, Tie, brand, fqdn, subscription, zone_record};
use crate::fields::{SUFFIX_FACET, ZONE_SERIAL, dns_audience, is_deleting};
use crate::gates::Look;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, names, ownership, read};

/// SOA timers and the TTL of SOA and NS, in seconds.
const REFRESH: u32 = 10_800;
const RETRY: u32 = 3_600;
const EXPIRE: u32 = 604_800;
const MINIMUM: u32 = 300;
const TTL: u32 = 86_400;

/// The apexes of a brand's zones.
pub(crate) const BRAND_ZONES: Pages = Pages {
    name: "brand_zones",
    over: Kind::Zone,
    by: By::Facet("brand_id"),
    aspect: Aspect::Machines,
    is_wide: true,
};

/// A brand's zones, and whether they have to be shown to be their tenants'.
pub(crate) const BRAND_CLAIMS: Pages = Pages {
    name: "brand_claims",
    over: Kind::Zone,
    by: By::Facet("brand_id"),
    aspect: Aspect::Names,
    is_wide: false,
};

/// The zones at or below a name, which may show them to be their tenants'.
pub(crate) const ZONES_UNDER: Pages = Pages {
    name: "zones_under",
    over: Kind::Zone,
    by: By::Facet(SUFFIX_FACET),
    aspect: Aspect::Names,
    is_wide: false,
};

#[async_trait]
impl Planned for Zone {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        goes_with: &[
            GoesWith { with: Kind::Tenant, by: Tie::Referrer("tenant_id") },
            GoesWith { with: Kind::Subscription, by: Tie::Referrer("subscription_id") },
        ],
        keeps: true,
        walks: &[BRAND_ZONES, BRAND_CLAIMS, ZONES_UNDER],
        ..Facts::PLAIN
    };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(zone) = change.both().next() else { return };
        units.insert(Unit::Of(Self::KIND, zone.id.clone()));
        if change.lives_or_dies() || change.differs(|zone| zone.spec.tenant_id.clone()) {
            units.insert(fqdn::NAMES_UNDER.of(&zone.spec.name, change.cause));
            units.insert(brand::SERVICES_NEAR.of(&zone.spec.name, change.cause));
        }
        if change.lives_or_dies() && change.both().any(|zone| zone.status == Status::Deleted) {
            // Its records stay where they are, and out of service for as long.
            units.insert(zone_record::ZONE_RECORDS.of(&zone.id, change.cause));
        }
        let serves = |zone: &Doc<Self>| is_servable(zone.state.ownership.as_ref());
        let is_born = change.before.is_none();
        if is_born {
            // A tenant's new zone shows nothing that what is above it does not.
            if zone.tenant.is_none() {
                units.insert(ZONES_UNDER.of(&zone.spec.name, change.cause));
            }
        } else if change.lives_or_dies() || change.differs(|zone| zone.spec.tenant_id.clone()) {
            units.insert(ZONES_UNDER.of(&zone.spec.name, change.cause));
        } else if change.differs(serves) {
            units.insert(zone_record::ZONE_RECORDS.of(&zone.id, change.cause));
            units.insert(fqdn::NAMES_UNDER.of(&zone.spec.name, change.cause));
            units.insert(ZONES_UNDER.of(&zone.spec.name, change.cause));
        }
    }

    async fn derive(zone: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        if !is_servable(zone.state.ownership.as_ref()) {
            return Ok(Vec::new());
        }
        let Some(brand) = read::brand_of(world, zone).await? else { return Ok(Vec::new()) };
        let BrandSpec { primary_ns, secondary_ns, hostmaster_email, .. } = &brand.spec;
        let host = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let primary = host(primary_ns);
        let mut nameservers = vec![primary.clone()];
        nameservers.extend(Some(host(secondary_ns)).filter(|name| !name.is_empty() && *name != primary));
        let hostmaster = match hostmaster_email.rsplit_once('@') {
            Some((local, domain)) => format!("{local}@{}", host(domain)),
            None => hostmaster_email.clone(),
        };
        let message = m::Zone {
            zone_id: zone.id.clone(),
            primary_ns: primary,
            nameservers,
            hostmaster,
            serial: (zone.state.serial & u64::from(u32::MAX)) as u32,
            refresh: REFRESH,
            retry: RETRY,
            expire: EXPIRE,
            minimum: MINIMUM,
            ttl: TTL,
        };
        let audience = dns_audience(&brand.spec)?;
        Ok(vec![DesiredIntent::new(audience, IntentKind::Zone, zone.spec.name.as_str(), &message)])
    }

    fn follows(id: &str, cause: Cause) -> Vec<Unit> {
        vec![zone_record::ZONE_RECORDS.of(id, cause)]
    }

    async fn settle(
        zone: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        zone.spec.subscription_id =
            subscription::stored_id(&zone.spec.subscription_id, zone.brand.as_deref(), draft).await?;
        match before {
            Some(before) if before.tenant != zone.tenant => change_hands(before, zone, draft).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn check(
        zone: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let region_moved = before.is_none_or(|before| before.spec.region_id != zone.spec.region_id);
        let name_moved = before.is_none_or(|before| before.spec.name != zone.spec.name);
        let tenant_moved = before.is_none_or(|before| before.spec.tenant_id != zone.spec.tenant_id);
        let billing_moved =
            before.is_none_or(|before| before.spec.subscription_id != zone.spec.subscription_id);
        if region_moved {
            read::live(draft, "region_id", &zone.spec.region_id).await?;
        }
        if billing_moved || tenant_moved {
            billed(zone, draft).await?;
        }
        if name_moved || tenant_moved {
            names::zone(draft, zone).await?;
        }
        Ok(())
    }

    async fn allocate(
        zone: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        if before.is_none() {
            let latest = plan.draft.counter(ZONE_SERIAL).await?;
            // One that comes back goes on behind its own serial.
            if !is_later(zone.state.serial, latest) {
                zone.state.serial = latest;
            }
            bump_serial(&mut zone.state, plan.draft.revision());
        }
        Ok(())
    }

    /// Keeps the latest serial of any deleted zone (RFC 1982 §3.2): one made anew under the same name begins after it.
    async fn leave(zone: &Doc<Self>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        let latest = plan.draft.counter(ZONE_SERIAL).await?;
        if is_later(zone.state.serial, latest) {
            plan.draft.set_counter(ZONE_SERIAL, zone.state.serial);
        }
        ownership::release(zone, plan).await
    }

    fn kept_state(state: &Self::State) -> Self::State {
        ZoneState { serial: state.serial, ownership: state.ownership.clone(), ..ZoneState::default() }
    }

    async fn sync(zone: &mut Doc<Self>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        ownership::sync(zone, plan).await
    }

    async fn revisit(
        mut zone: Doc<Self>,
        aspect: Aspect,
        _: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        match aspect {
            Aspect::Machines | Aspect::ServiceNames => {
                plan.replan([Unit::Of(Self::KIND, zone.id.clone())]).await
            }
            // What depends on it is planned where it changes.
            Aspect::Names => Self::sync(&mut zone, plan).await.map(drop),
        }
    }

    fn conditions(zone: &Doc<Self>, look: &mut Look<'_>) {
        if ownership::is_met(zone, zone.state.ownership.as_ref(), look) {
            look.name_servers("dns", IntentKind::Zone);
        }
    }
}

/// A zone that changes hands stays in its brand and is billed with the new tenant's first subscription.
async fn change_hands(
    before: &Doc<Zone>,
    zone: &mut Doc<Zone>,
    draft: &mut Overlay<'_>,
) -> Result<(), PlanError> {
    let Some(tenant) = zone.tenant.clone() else { return Ok(()) };
    if zone.brand != before.brand {
        let problem = "the tenant is another brand's; a zone stays with its brand";
        return Err(PlanError::invalid("tenant_id", problem));
    }
    let subscriptions = draft.children(Kind::Subscription, &tenant, "", read::PAGE).await?;
    let Some(first) = subscriptions.into_iter().find(|subscription| !is_deleting(subscription)) else {
        return Err(PlanError::Conflict(format!(
            "tenant {tenant} has no subscription to bill the zone with"
        )));
    };
    zone.spec.subscription_id = Id::from(first.id);
    Ok(())
}

/// Checks what a zone is billed with. A brand's own zone is billed to nobody.
async fn billed(zone: &Doc<Zone>, draft: &mut Overlay<'_>) -> Result<(), PlanError> {
    if zone.tenant.is_none() && zone.spec.subscription_id.is_empty() {
        return Ok(());
    }
    let subscription = read::live(draft, "subscription_id", &zone.spec.subscription_id).await?;
    if zone.tenant.is_some() {
        return read::same_tenant("subscription_id", &subscription, zone);
    }
    if subscription.brand == zone.brand {
        return Ok(());
    }
    let problem = format!("subscription {:?} belongs to another brand", subscription.id);
    Err(PlanError::invalid("subscription_id", problem))
}

/// The zone whose content a unit is part of.
pub(crate) fn changed_by(unit: &Unit) -> Option<&str> {
    match unit {
        Unit::RrSet { zone, .. } | Unit::Of(Kind::Zone, zone) => Some(zone),
        Unit::Of(..) | Unit::Audience(_) | Unit::Retire(_) | Unit::Walk { .. } => None,
    }
}

/// Moves the serial of a zone whose content changed in `revision`. False when it is moved already, or going.
pub(crate) async fn move_serial(draft: &mut Overlay<'_>, id: &str, revision: u64) -> Result<bool, PlanError> {
    let Some(mut zone) = read::get(draft, &Id::<Zone>::from(id)).await? else { return Ok(false) };
    if is_deleting(&zone) || zone.state.serial_revision == revision {
        return Ok(false);
    }
    bump_serial(&mut zone.state, revision);
    draft.put(zone.into_resource()).await?;
    Ok(true)
}

/// The next serial. It starts at 1, and 0 is skipped when it wraps, so that 0 always means "never set".
fn bump_serial(zone: &mut ZoneState, revision: u64) {
    zone.serial = u32::try_from(zone.serial).map_or(1, |serial| serial.wrapping_add(1).max(1)).into();
    zone.serial_revision = revision;
}

/// Whether serial `a` is later than `b` (RFC 1982 §3.2); 0 is earlier than every other.
fn is_later(a: u64, b: u64) -> bool {
    let (Ok(a), Ok(b)) = (u32::try_from(a), u32::try_from(b)) else { return false };
    a != b && a != 0 && (b == 0 || a.wrapping_sub(b) < 1 << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_compared_around_the_end_of_their_numbers() {
        for (later, earlier) in [(1, 0), (2, 1), (1, u64::from(u32::MAX)), (u64::from(u32::MAX), 0)] {
            assert!(is_later(later, earlier) && !is_later(earlier, later), "{later} {earlier}");
        }
        assert!(!is_later(7, 7));
    }
}
