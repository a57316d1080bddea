//! Certificates of public authorities for host names: which names may be asked for, what edges answer an authority that looks, and what
//! comes of an order. Talking to authorities is a job's.

use std::collections::BTreeSet;

use hosting_intent::{Audience, Cause, Kind as IntentKind, message as m};
use hosting_resource::issuance::{
    Booking, Issuance, IssuanceProblem, OpenChallenge, Phase, challenge_record, challenged_names,
};
use hosting_resource::kinds::certificate::{Certificate, DOMAIN_FACET, Origin, registered_domain};
use hosting_resource::kinds::certificate_authority::{
    CertificateAuthority, CertificateAuthoritySpec, CertificateAuthorityState,
};
use hosting_resource::kinds::fqdn::{Fqdn, WANTING_FACET};
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::ownership::{Challenge, is_servable};
use hosting_resource::{Creation, Doc, Id, Kind, Resource};

use crate::fields::{is_deleting, name_servers_of};
use crate::gates::{Fleet, Truth, all_applied};
use crate::plan::Plan;
use crate::{DesiredIntent, Draft, Errand, PlanError, Unit, World, kinds, mutate, read};

/// The kind of job that gets a name its certificates.
pub const ISSUE_CERTIFICATE: &str = "certificate";
/// The job is given up after so many failures of the store, not of authorities.
const ATTEMPTS: u32 = 1_000_000;
/// Authorities of a cell.
const AUTHORITIES: u32 = 100;

/// Notes whether a certificate is wanted for a name, puts it and has a job see to it. True when that changed.
pub(crate) async fn sync(fqdn: &mut Doc<Fqdn>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
    if is_deleting(fqdn) {
        wake_those_who_joined(fqdn, None, plan);
        return Ok(false);
    }
    let is_wanted = fqdn.spec.ssl_enabled && fqdn.tenant.is_some();
    let is_news = is_wanted != fqdn.state.issuance.is_some();
    if is_wanted {
        plan.draft.ask(Errand { wakes: is_news, ..errand(fqdn) });
    }
    if !is_news {
        return Ok(false);
    }
    let after = is_wanted.then(|| Issuance::wanted(plan.draft.now()));
    put(fqdn, after, plan).await?;
    Ok(true)
}

/// The job that gets a name its certificates, which is to look now.
pub(crate) fn errand(fqdn: &Resource) -> Errand {
    Errand {
        kind: ISSUE_CERTIFICATE,
        subject: fqdn.id.clone(),
        brand: fqdn.brand.clone(),
        attempts: ATTEMPTS,
        wakes: true,
    }
}

/// Lets the next attempt begin now: whoever asks has mended what was wrong. False where no certificate is wanted.
///
/// # Errors
/// When the store fails.
pub async fn attempt_now(draft: &mut dyn Draft, id: &Id<Fqdn>) -> Result<bool, PlanError> {
    let mut plan = Plan::later(draft, Cause::Person);
    let Some(mut fqdn) = read::get(&mut plan.draft, id).await?.filter(|fqdn| !is_deleting(fqdn)) else {
        return Ok(false);
    };
    let Some(issuance) = fqdn.state.issuance.clone() else { return Ok(false) };
    plan.draft.ask(errand(&fqdn));
    if issuance.not_before != 0 {
        put(&mut fqdn, Some(Issuance { not_before: 0, ..issuance }), &mut plan).await?;
    }
    plan.finish().await?;
    Ok(true)
}

pub(crate) async fn put(
    fqdn: &mut Doc<Fqdn>,
    after: Option<Issuance>,
    plan: &mut Plan<'_>,
) -> Result<(), PlanError> {
    wake_those_who_joined(fqdn, after.as_ref(), plan);
    let was = fqdn.to_resource();
    fqdn.state.issuance = after;
    let is = fqdn.to_resource();
    plan.put(is.clone()).await?;
    let units = kinds::of(Kind::Fqdn).touched(Some(&was), Some(&is), plan.cause)?;
    plan.replan(units).await
}

/// Has the jobs look of the names whose order this name led, and does not lead any more: they rest for long meanwhile. All are of one site, and so of
/// one brand.
fn wake_those_who_joined(leader: &Doc<Fqdn>, after: Option<&Issuance>, plan: &mut Plan<'_>) {
    let led = leader.state.issuance.as_ref().map_or(&[][..], Issuance::leads);
    let leads = after.map_or(&[][..], Issuance::leads);
    let mine = errand(leader);
    for name in led.iter().filter(|name| **name != leader.id && !leads.contains(name)) {
        plan.draft.ask(Errand { subject: name.clone(), ..mine.clone() });
    }
}

/// What edges are told of the challenge that is open for a name.
pub(crate) fn challenge(fqdn: &Doc<Fqdn>, audience: &Audience) -> Option<DesiredIntent> {
    let OpenChallenge { method: _, token, key_authorization, zone } = open(fqdn)?.clone();
    let message = m::AcmeChallenge { token, key_authorization };
    let name = fqdn.spec.fqdn.as_str();
    zone.is_none().then(|| DesiredIntent::new(audience.clone(), IntentKind::AcmeChallenge, name, &message))
}

fn open(fqdn: &Doc<Fqdn>) -> Option<&OpenChallenge> {
    fqdn.state.issuance.as_ref()?.challenge.as_ref()
}

/// The unit of the TXT record that name servers answer an authority with about a name.
pub(crate) fn record_unit(fqdn: &Doc<Fqdn>) -> Option<Unit> {
    let zone = open(fqdn)?.zone.clone()?;
    Some(Unit::RrSet { zone, name: challenge_record(&fqdn.spec.fqdn), record_type: "TXT".to_owned() })
}

/// What name servers say to an authority about a name.
pub(crate) fn record_text(fqdn: &Doc<Fqdn>) -> Option<String> {
    open(fqdn).filter(|open| open.zone.is_some()).map(OpenChallenge::text)
}

/// What the TXT records of a name say to authorities, as zone files write it.
pub(crate) async fn record_texts(
    zone: &Id<Zone>,
    record: &str,
    world: &mut dyn World,
) -> Result<Vec<String>, PlanError> {
    let Some(names) = challenged_names(record) else { return Ok(Vec::new()) };
    let mut texts = Vec::new();
    for (_, fqdn) in world.holders(Kind::Fqdn, "", &names).await? {
        let fqdn = Doc::<Fqdn>::read(fqdn)?;
        if is_deleting(&fqdn) || !is_servable(fqdn.state.ownership.as_ref()) {
            continue;
        }
        let own = open(&fqdn).filter(|open| open.zone.as_deref() == Some(zone.as_str()));
        texts.extend(own.map(|open| format!("\"{}\"", open.text())));
    }
    Ok(texts)
}

/// The zone of this platform in which authorities can be answered about a name.
///
/// # Errors
/// Inside: why there is none, and what to change. Outside: the store cannot be read.
pub async fn challenge_zone(
    world: &mut dyn World,
    fqdn: &Doc<Fqdn>,
) -> Result<Result<Id<Zone>, IssuanceProblem>, PlanError> {
    let problem = |code: &str, message: String, remedy: String| {
        Ok(Err(IssuanceProblem { code: code.to_owned(), message, remedy }))
    };
    let (name, record) = (fqdn.spec.fqdn.as_str(), challenge_record(&fqdn.spec.fqdn));
    let tenant = read::tenant_of(world, fqdn).await?;
    let zone = read::zone_over(world, &record).await?.filter(|zone| {
        is_servable(zone.state.ownership.as_ref())
            && tenant.as_ref().is_some_and(|tenant| read::zone_is_open_to(zone, tenant))
    });
    let Some(zone) = zone else {
        let message =
            format!("authorities look for {name} in the domain name system, and no zone here holds it");
        let remedy = format!(
            "create the zone {} here and delegate it to this platform, or make each name that is wanted in the place of a wildcard",
            registered_domain(name)
        );
        return problem("no_zone", message, remedy);
    };
    let records = read::records_at(world, &zone.id, &record).await?;
    if records.iter().any(|found| matches!(found.spec.record_type.as_str(), "CNAME" | "NS")) {
        let message = format!("authorities look for {name} at {record}, and a record there leads them away");
        return problem("dns", message, format!("delete the CNAME or NS record {record}"));
    }
    Ok(Ok(zone.typed_id()))
}

/// What to change so that resolvers find a zone.
///
/// # Errors
/// When the store cannot be read.
pub async fn delegation_wanted(world: &mut dyn World, zone: &Id<Zone>) -> Result<String, PlanError> {
    let Some(zone) = read::get(world, zone).await? else { return Ok("create the zone anew".to_owned()) };
    let brand = read::brand_of(world, &zone).await?;
    let servers = brand.as_ref().map(|brand| name_servers_of(&brand.spec)).unwrap_or_default();
    Ok(format!("delegate {} to {} at its registrar", zone.spec.name, servers.join(" and ")))
}

/// A name that a certificate is wanted for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The name.
    pub fqdn: Doc<Fqdn>,
    /// Where it stands.
    pub issuance: Issuance,
    /// Why no authority may be asked for it.
    pub blocked: Option<IssuanceProblem>,
    /// Its certificates, the newest first.
    pub certificates: Vec<Doc<Certificate>>,
}

impl Candidate {
    /// The newest of its certificates that an authority issued.
    #[must_use]
    pub fn issued(&self) -> Option<&Doc<Certificate>> {
        self.certificates.iter().find(|certificate| certificate.spec.origin == Origin::Acme)
    }

    /// When the last of the certificates ends that were brought, in milliseconds since the Unix epoch; while one is good, none is asked
    /// for.
    #[must_use]
    pub fn brought_until(&self) -> Option<i64> {
        let brought = self.certificates.iter().filter(|one| one.spec.origin == Origin::Custom);
        brought.map(|one| one.spec.not_after.saturating_mul(1_000)).max()
    }
}

/// The name of an id; `None` when it is gone, or no certificate is wanted for it any more.
///
/// # Errors
/// When the store cannot be read.
pub async fn candidate(world: &mut dyn World, id: &Id<Fqdn>) -> Result<Option<Candidate>, PlanError> {
    match read::get(world, id).await? {
        Some(fqdn) => candidate_of(world, fqdn).await,
        None => Ok(None),
    }
}

async fn candidate_of(world: &mut dyn World, fqdn: Doc<Fqdn>) -> Result<Option<Candidate>, PlanError> {
    let Some(issuance) = fqdn.state.issuance.clone().filter(|_| !is_deleting(&fqdn)) else { return Ok(None) };
    let all = world.children(Kind::Certificate, &fqdn.id, "", read::PAGE).await?;
    let all = all.into_iter().filter(|certificate| !is_deleting(certificate));
    let mut certificates = all.map(Doc::read).collect::<Result<Vec<Doc<Certificate>>, _>>()?;
    certificates.sort_by_key(|one| std::cmp::Reverse((one.created_revision, one.id.clone())));
    Ok(Some(Candidate { blocked: blocked(&fqdn), fqdn, issuance, certificates }))
}

fn blocked(fqdn: &Doc<Fqdn>) -> Option<IssuanceProblem> {
    if !is_servable(fqdn.state.ownership.as_ref()) {
        let Challenge { record, token, .. } = Challenge::of(&fqdn.id, &fqdn.spec.fqdn);
        return Some(IssuanceProblem {
            code: "not_verified".into(),
            message: "the name is not shown to be its tenant's".into(),
            remedy: format!("create the TXT record {record} with the content {token}"),
        });
    }
    (!fqdn.state.routed).then(|| IssuanceProblem {
        code: "not_routed".into(),
        message: "no edge answers for the name yet".into(),
        remedy: String::new(),
    })
}

/// Other names of the same site, at most so many of each sort, that an order for a name could be for as well as far as they themselves go:
/// those that want a first certificate, or another one; beside a name that renews its own also those that may renew theirs.
///
/// # Errors
/// When the store cannot be read.
pub async fn companions(
    world: &mut dyn World,
    of: &Candidate,
    limit: u32,
) -> Result<Vec<Candidate>, PlanError> {
    let Some(webroot) = of.fqdn.spec.webroot_id.clone().filter(|id| !id.is_empty()) else {
        return Ok(Vec::new());
    };
    // Of a large site those behind the name, so that of many that look at once each finds others.
    let mut others = behind(world, WANTING_FACET, &webroot, &of.fqdn.id, limit).await?;
    if matches!(of.issuance.phase, Phase::Issued { .. }) && of.issuance.reissue.is_none() {
        // Those behind it were ordered together with it before.
        others.extend(behind(world, "webroot_id", &webroot, &of.fqdn.id, limit).await?);
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::from([of.fqdn.id.clone()]));
    for other in others {
        let other = Doc::<Fqdn>::read(other)?;
        if other.tenant == of.fqdn.tenant && seen.insert(other.id.clone()) {
            found.extend(candidate_of(world, other).await?);
        }
    }
    Ok(found)
}

/// Host names that are found under a value: so many of those after one of them, and then of the others.
async fn behind(
    world: &mut dyn World,
    facet: &'static str,
    value: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Resource>, PlanError> {
    let mut found = world.with_facet(Kind::Fqdn, facet, value, after, limit).await?;
    let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
    if left > 0 {
        found.extend(world.with_facet(Kind::Fqdn, facet, value, "", left).await?);
    }
    Ok(found)
}

/// All authorities, the one to be asked first in front.
///
/// # Errors
/// When the store cannot be read.
pub async fn authorities(world: &mut dyn World) -> Result<Vec<Doc<CertificateAuthority>>, PlanError> {
    let all = world.list(Kind::CertificateAuthority, "", AUTHORITIES).await?;
    let mut all = all.into_iter().map(Doc::read).collect::<Result<Vec<Doc<CertificateAuthority>>, _>>()?;
    all.sort_by_key(|one| (one.spec.priority, one.id.clone()));
    Ok(all)
}

/// When certificates were issued by an authority since a time for names of a registered domain, in milliseconds since the Unix epoch, the
/// oldest first; at most so many are looked at.
///
/// # Errors
/// When the store cannot be read.
pub async fn issued_for_domain(
    world: &mut dyn World,
    domain: &str,
    authority: &Id<CertificateAuthority>,
    since: i64,
    limit: u32,
) -> Result<Vec<i64>, PlanError> {
    let mut times = Vec::new();
    for found in world.with_facet(Kind::Certificate, DOMAIN_FACET, domain, "", limit).await? {
        let found = Doc::<Certificate>::read(found)?;
        if found.created_at >= since && found.spec.authority_id.as_ref() == Some(authority) {
            times.push(found.created_at);
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Addresses of the platform that a host name of a tenant is to lead to.
///
/// # Errors
/// When the store cannot be read.
pub async fn edge_addresses(world: &mut dyn World, of: &Resource) -> Result<Vec<String>, PlanError> {
    let tenant = Id::<Tenant>::from(of.tenant.as_deref().unwrap_or_default());
    match read::get(world, &tenant).await?.filter(|tenant| !tenant.spec.cluster_id.is_empty()) {
        Some(tenant) => {
            let families = read::families_of(world, &tenant.spec.cluster_id).await?;
            Ok([families.ipv4, families.ipv6].concat())
        }
        None => Ok(Vec::new()),
    }
}

/// The place of an order in an authority's allowance.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose allowance.
    pub authority: Id<CertificateAuthority>,
    /// The account that orders.
    pub account: String,
    /// The order counts: it is none for what replaces a certificate of the same authority.
    pub counts: bool,
    /// The names that it is to be for, the leading one first, and where each stands.
    pub names: Vec<(Id<Fqdn>, Issuance)>,
}

/// Books an order for some names, if all of them stand where they are thought to: the leader holds the place, the others join it. Answers
/// from when on it may be made; `None`: a name stands elsewhere by now, or the authority is gone, and nothing is changed.
///
/// # Errors
/// When the store fails.
pub async fn claim(draft: &mut dyn Draft, claim: Claim) -> Result<Option<i64>, PlanError> {
    let Claim { authority, account, counts, names } = claim;
    let Some(current) = read::get(draft, &authority).await? else { return Ok(None) };
    let now = draft.now();
    let at = if counts {
        current.state.orders.get(&account).copied().unwrap_or_default().book(current.spec.orders, now)
    } else {
        now
    };
    let Some(((leader, _), others)) = names.split_first() else { return Ok(None) };
    let with = others.iter().map(|(id, _)| id.to_string()).collect();
    let mut place = Some(Booking { authority: authority.to_string(), at, with });
    let leader = leader.to_string();
    let changes = names.into_iter().map(|(id, before)| {
        let booking = place.take();
        let phase = match &booking {
            Some(_) => before.phase.clone(),
            None => Phase::Joined { leader: leader.clone(), at },
        };
        let after = Issuance { phase, booking, problem: None, ..before.clone() };
        IssuanceChange { id, before, after, issued: None }
    });
    if !exchange_issuances(draft, changes.collect()).await? {
        return Ok(None);
    }
    if counts {
        change_authority(draft, &authority, |spec, state, now| {
            state.orders.entry(account).or_default().book(spec.orders, now);
        })
        .await?;
    }
    Ok(Some(at))
}

/// What becomes of one name.
#[derive(Debug, Clone)]
pub struct IssuanceChange {
    /// The name.
    pub id: Id<Fqdn>,
    /// Where it stands.
    pub before: Issuance,
    /// Where it is to stand.
    pub after: Issuance,
    /// The certificate that was issued for it.
    pub issued: Option<Creation>,
}

/// Changes where names stand, and creates the certificates that were issued for them, if all of them stand where they are thought to:
/// false otherwise, and nothing is changed.
///
/// # Errors
/// When the store fails, or a certificate cannot be kept.
pub async fn exchange_issuances(
    draft: &mut dyn Draft,
    changes: Vec<IssuanceChange>,
) -> Result<bool, PlanError> {
    for change in &changes {
        let stored = read::get(draft, &change.id).await?.filter(|fqdn| !is_deleting(fqdn));
        if stored.and_then(|fqdn| fqdn.state.issuance) != Some(change.before.clone()) {
            return Ok(false);
        }
    }
    for change in changes {
        if let Some(creation) = change.issued {
            mutate::create(draft, creation).await?;
        }
        // A person wants the certificate, so that the brake holds none of it back.
        let mut plan = Plan::later(draft, Cause::Person);
        if let Some(mut fqdn) = read::get(&mut plan.draft, &change.id).await? {
            put(&mut fqdn, Some(change.after), &mut plan).await?;
        }
        plan.finish().await?;
    }
    Ok(true)
}

/// Changes what is kept of an authority; `None` when it is gone.
///
/// # Errors
/// When the store fails.
pub async fn change_authority<T: Send>(
    draft: &mut dyn Draft,
    id: &Id<CertificateAuthority>,
    change: impl FnOnce(&CertificateAuthoritySpec, &mut CertificateAuthorityState, i64) -> T + Send,
) -> Result<Option<T>, PlanError> {
    let mut plan = Plan::later(draft, Cause::Planner);
    let Some(mut authority) = read::get(&mut plan.draft, id).await? else { return Ok(None) };
    let before = authority.state.clone();
    let now = plan.draft.now();
    let answer = change(&authority.spec, &mut authority.state, now);
    if authority.state != before {
        plan.put(authority.into_resource()).await?;
        plan.finish().await?;
    }
    Ok(Some(answer))
}

/// Whether every edge and name server in service answers the challenges of names, and what is waited for otherwise.
///
/// # Errors
/// When the store cannot be read.
pub async fn challenges_answered(
    world: &mut dyn World,
    fleet: &dyn Fleet,
    names: &[Doc<Fqdn>],
) -> Result<(Truth, String), PlanError> {
    for name in names {
        let (unit, kind) = match record_unit(name) {
            Some(unit) => (unit, IntentKind::RrSet),
            None => (Unit::Of(Kind::Fqdn, name.id.clone()), IntentKind::AcmeChallenge),
        };
        let rows = world.owned(&unit.owner()).await?;
        let (truth, message) = all_applied(fleet, name, rows, kind);
        if truth != Truth::True {
            return Ok((truth, message));
        }
    }
    Ok((Truth::True, String::new()))
}
