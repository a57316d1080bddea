//! Whether a claimed name is shown to be its tenant's, where the brand asks: which claims have to be, what shows them without a look at
//! the world, and what comes of a look. Looking is a job's; what must be created to be found stands in [`Challenge`].

use hosting_intent::Cause;
use hosting_resource::kinds::brand::Brand;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::ownership::{
    Challenge, MISS_EACH, MISSES, NameVerification, Ownership, Proof, is_servable,
};
use hosting_resource::{Doc, Id, Kind, Resource, Status};

use crate::fields::{is_deleting, name_servers_of};
use crate::gates::Look as Conditions;
use crate::issuance::edge_addresses;
use crate::kinds::Planned;
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::{Draft, Errand, PlanError, World, kinds, read};

/// The kind of job that looks whether a name is shown.
pub const CHECK_OWNERSHIP: &str = "ownership";
/// A job is given up after so many failures of the store, not of looks.
const ATTEMPTS: u32 = 1_000;
/// A look that finds what the one before found is noted this often, in milliseconds.
const NOTED_EACH: i64 = 3_600_000;

/// A kind whose resources claim a name.
pub(crate) trait Claims: Planned {
    /// The name.
    fn name(doc: &Doc<Self>) -> &str;

    /// What is kept of its ownership.
    fn ownership(state: &mut Self::State) -> &mut Option<Ownership>;

    /// Names that are zones may be delegated.
    const IS_ZONE: bool;
}

impl Claims for Fqdn {
    fn name(doc: &Doc<Self>) -> &str {
        &doc.spec.fqdn
    }

    fn ownership(state: &mut Self::State) -> &mut Option<Ownership> {
        &mut state.ownership
    }

    const IS_ZONE: bool = false;
}

impl Claims for Zone {
    fn name(doc: &Doc<Self>) -> &str {
        &doc.spec.name
    }

    fn ownership(state: &mut Self::State) -> &mut Option<Ownership> {
        &mut state.ownership
    }

    const IS_ZONE: bool = true;
}

/// The counter that is not 0 once a tenant's zone of this name was released: a delegation that is left over shows nothing about whoever
/// claims the name next.
fn released(name: &str) -> String {
    format!("released_zone/{name}")
}

/// Notes that a tenant's zone is released. Nothing where the brand never asked.
pub(crate) async fn release(zone: &Doc<Zone>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
    let asks = read::brand_of(&mut plan.draft, zone).await?.is_some_and(|brand| asks(&brand));
    if zone.tenant.is_some() && (asks || zone.state.ownership.is_some()) {
        plan.draft.set_counter(&released(&zone.spec.name), 1);
    }
    Ok(())
}

fn asks(brand: &Doc<Brand>) -> bool {
    brand.spec.name_verification == NameVerification::Required
}

/// Brings what is kept of a claim's ownership up to date, puts it and plans what depends on it. True when it changed.
///
/// Claims made while the brand did not ask are never asked for; when it stops asking, all are as if it never had.
pub(crate) async fn sync<K: Claims>(claim: &mut Doc<K>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
    let before = K::ownership(&mut claim.state).clone();
    let is_new = claim.created_revision == plan.draft.revision();
    if is_deleting(claim) || (before.is_none() && !is_new) {
        return Ok(false);
    }
    let brand = read::brand_of(&mut plan.draft, claim).await?;
    let after = match (brand.filter(asks), claim.tenant.clone()) {
        (Some(brand), Some(tenant)) => {
            let now = plan.draft.now();
            let mut ownership = before.clone().unwrap_or_else(|| Ownership::asked(now));
            let name = K::name(claim).to_owned();
            let covered = is_covered(&mut plan.draft, &name, K::IS_ZONE, &tenant).await?;
            match (covered, ownership.proof) {
                (true, None) => {
                    ownership.proof = Some(Proof::Zone);
                    ownership.verified_at = now;
                }
                // What was shown stays so until looks have not found anything else in its place.
                (false, Some(Proof::Zone)) => ownership.proof = Some(Proof::Former),
                (true, Some(_)) | (false, _) => {}
            }
            ownership.name_servers =
                if K::IS_ZONE { name_servers(&mut plan.draft, &brand, &name).await? } else { Vec::new() };
            if ownership.proof != Some(Proof::Zone) {
                plan.draft.ask(errand(claim));
            }
            Some(ownership)
        }
        (None, _) | (_, None) => None,
    };
    if after == before {
        return Ok(false);
    }
    let was = claim.to_resource();
    *K::ownership(&mut claim.state) = after;
    let is = claim.to_resource();
    plan.put(is.clone()).await?;
    let units = kinds::of(K::KIND).touched(Some(&was), Some(&is), plan.cause)?;
    plan.replan(units).await?;
    Ok(true)
}

fn errand(claim: &Resource) -> Errand {
    Errand {
        kind: CHECK_OWNERSHIP,
        subject: claim.id.clone(),
        brand: claim.brand.clone(),
        attempts: ATTEMPTS,
        wakes: false,
    }
}

/// Whether a name lies in a zone that shows it to be the tenant's: the tenant's own one that is shown, or its brand's.
async fn is_covered(
    draft: &mut Overlay<'_>,
    name: &str,
    is_zone: bool,
    tenant: &str,
) -> Result<bool, PlanError> {
    let Some(tenant) = read::get(draft, &Id::<Tenant>::from(tenant)).await? else { return Ok(false) };
    let above = if is_zone { name.split_once('.').map(|(_, above)| above) } else { Some(name) };
    let Some(above) = above else { return Ok(false) };
    let zones = read::zones_over(draft, above).await?;
    Ok(zones.iter().any(|zone| {
        !is_deleting(zone)
            && read::zone_is_open_to(zone, &tenant)
            && (zone.tenant.is_none() || is_servable(zone.state.ownership.as_ref()))
    }))
}

/// The name servers that a zone may be delegated to; none where a delegation shows nothing.
async fn name_servers(
    draft: &mut Overlay<'_>,
    brand: &Doc<Brand>,
    zone: &str,
) -> Result<Vec<String>, PlanError> {
    Ok(if draft.counter(&released(zone)).await? == 0 { name_servers_of(&brand.spec) } else { Vec::new() })
}

/// Adds the condition of a claim that has to be shown. False when nothing else is worth a look before that.
pub(crate) fn is_met<K: Claims>(
    claim: &Doc<K>,
    ownership: Option<&Ownership>,
    look: &mut Conditions<'_>,
) -> bool {
    let Some(ownership) = ownership else { return true };
    if ownership.is_shown() {
        look.wait_for("verified", true, "");
        return true;
    }
    let Challenge { record, token, .. } = Challenge::of(&claim.id, K::name(claim));
    if ownership.has_lapsed() {
        let why = format!(
            "what showed that the name is its tenant's is gone: create the TXT record {record} with the content {token}"
        );
        look.fail("verified", why);
    } else {
        let why = format!(
            "waits until the name is shown to be its tenant's: create the TXT record {record} with the content {token}"
        );
        look.wait_for("verified", false, &why);
    }
    false
}

/// A claim to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name: lower case, no trailing dot.
    pub name: String,
    /// It is a zone, and no host name.
    pub is_zone: bool,
    /// What to look for.
    pub challenge: Challenge,
    /// What is known of it.
    pub ownership: Ownership,
    /// Addresses of the platform that a host name of the tenant's leads to.
    pub addresses: Vec<String>,
    /// The brand's name servers.
    pub name_servers: Vec<String>,
    /// A delegation to these shows something: no other tenant had the zone before, or it was shown otherwise already.
    pub may_be_delegated: bool,
}

/// The claim that a resource makes; `None` where nothing is to be looked for: it is gone or going, nobody asks, or the zone that it lies
/// in shows it.
///
/// # Errors
/// When the store cannot be read.
pub async fn claim(world: &mut dyn World, id: &str) -> Result<Option<Claim>, PlanError> {
    let Some(resource) = world.resource(id).await?.filter(|found| !is_deleting(found)) else {
        return Ok(None);
    };
    let (name, is_zone, ownership) = if resource.kind == Kind::Fqdn {
        let fqdn = Doc::<Fqdn>::of(&resource)?;
        (fqdn.spec.fqdn.clone(), false, fqdn.state.ownership)
    } else if resource.kind == Kind::Zone {
        let zone = Doc::<Zone>::of(&resource)?;
        (zone.spec.name.clone(), true, zone.state.ownership)
    } else {
        return Ok(None);
    };
    let Some(ownership) = ownership.filter(|ownership| ownership.proof != Some(Proof::Zone)) else {
        return Ok(None);
    };
    let addresses = if is_zone { Vec::new() } else { edge_addresses(world, &resource).await? };
    let name_servers = match read::brand_of(world, &resource).await? {
        Some(brand) if is_zone => name_servers_of(&brand.spec),
        Some(_) | None => Vec::new(),
    };
    let may_be_delegated = ownership.is_shown() || !ownership.name_servers.is_empty();
    let challenge = Challenge::of(id, &name);
    Ok(Some(Claim { challenge, name, is_zone, ownership, addresses, name_servers, may_be_delegated }))
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What shows the name.
    pub found: Option<Proof>,
    /// The answers were there, and say that nothing shows it: a resolver that fails says nothing.
    pub is_sure: bool,
    /// For people.
    pub message: String,
}

/// Notes what a look found, and plans what comes of it. Answers what is kept then; `None` where nothing is to be looked for any more.
///
/// # Errors
/// When the store fails.
pub async fn note_look(draft: &mut dyn Draft, id: &str, look: Look) -> Result<Option<Ownership>, PlanError> {
    if claim(draft, id).await?.is_none() {
        return Ok(None);
    }
    // Who published the proof is a person; that it is gone may be anything, and many such at once are held by the brake.
    let cause = if look.found.is_some() { Cause::Person } else { Cause::Planner };
    let mut plan = Plan::later(draft, cause);
    let Some(resource) = plan.draft.resource(id).await? else { return Ok(None) };
    let noted = if resource.kind == Kind::Fqdn {
        note(Doc::<Fqdn>::read(resource)?, look, &mut plan).await?
    } else {
        note(Doc::<Zone>::read(resource)?, look, &mut plan).await?
    };
    plan.finish().await?;
    Ok(noted)
}

async fn note<K: Claims>(
    mut claim: Doc<K>,
    look: Look,
    plan: &mut Plan<'_>,
) -> Result<Option<Ownership>, PlanError> {
    let now = plan.draft.now();
    let Some(before) = K::ownership(&mut claim.state).clone() else { return Ok(None) };
    let mut after = before.clone();
    after.message = look.message;
    match (look.found, before.is_shown()) {
        (Some(proof), was_shown) => {
            after.proof = Some(proof);
            after.misses = 0;
            if !was_shown {
                after.verified_at = now;
            }
        }
        (None, true) if look.is_sure && (now - before.missed_at >= MISS_EACH || now < before.missed_at) => {
            after.misses += 1;
            after.missed_at = now;
            if after.misses >= MISSES {
                (after.proof, after.misses, after.since) = (None, 0, now);
            }
        }
        (None, _) => {}
    }
    plan.draft.ask(errand(&claim));
    if after != before || now.saturating_sub(before.checked_at) >= NOTED_EACH || now < before.checked_at {
        after.checked_at = now;
    }
    if after == before {
        return Ok(Some(before));
    }
    let was = claim.to_resource();
    *K::ownership(&mut claim.state) = Some(after.clone());
    if after.is_shown() != before.is_shown()
        && matches!(claim.status, Status::Active | Status::Failed | Status::Converging)
    {
        // Looked at soon.
        claim.status = Status::Provisioning;
    }
    plan.put(claim.to_resource()).await?;
    K::sync(&mut claim, plan).await?;
    let is = claim.into_resource();
    plan.replan(kinds::of(K::KIND).touched(Some(&was), Some(&is), plan.cause)?).await?;
    Ok(Some(after))
}
