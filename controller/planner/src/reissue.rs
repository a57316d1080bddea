//! Many certificates of an authority that are replaced at once: when that would be done, and the names' being told.

use std::collections::{HashMap, HashSet};

use hosting_intent::Cause;
use hosting_resource::issuance::{Phase, Reissue};
use hosting_resource::kinds::certificate::{AUTHORITY_FACET, registered_domain};
use hosting_resource::kinds::certificate_authority::{
    Allowance, CertificateAuthority, CertificateAuthorityState, MassReissue,
};
use hosting_resource::kinds::fqdn::{Fqdn, REISSUE_FACET};
use hosting_resource::{Doc, Id, Kind, Resource};

use crate::fields::is_deleting;
use crate::issuance::{authorities, candidate, change_authority, errand, put};
use crate::plan::Plan;
use crate::{Candidate, Draft, PlanError, World, read};

/// Names that are replaced at once; more are told in several turns.
pub const MOST_REISSUED: u64 = 100_000;
/// Certificates that are looked at in one transaction that tells names.
const TOLD_AT_ONCE: u32 = 100;
/// How long an order takes where none was made yet, in milliseconds.
const USUAL_ORDER: i64 = 15_000;
/// What a name takes, in milliseconds, when nothing is held back by an allowance, where it is not known how fast names get certificates.
const USUAL_NAME: i64 = 15;

/// What is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReissueOf {
    /// Whose certificates.
    pub from: Id<CertificateAuthority>,
    /// Who is asked; `None`: whoever is next.
    pub to: Option<Id<CertificateAuthority>>,
    /// So many names at most.
    pub names: u64,
}

/// The names whose certificate would be replaced, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surveyed {
    /// How many.
    pub names: u64,
    /// By site, or by name where there is none.
    sites: HashMap<String, u64>,
    /// By registered domain.
    domains: HashMap<String, u64>,
}

/// A certificate's name, when the certificate is the one to be replaced.
async fn to_replace(world: &mut dyn World, certificate: &Resource) -> Result<Option<Candidate>, PlanError> {
    let fqdn = Id::<Fqdn>::from(certificate.parent.as_deref().unwrap_or_default());
    let Some(candidate) = candidate(world, &fqdn).await? else { return Ok(None) };
    let is_newest = candidate.issued().is_some_and(|newest| newest.id == certificate.id);
    Ok((is_newest && is_free(&candidate.fqdn)).then_some(candidate))
}

/// Counts the names whose certificate would be replaced, two reads a page. One whose former certificate alone is the authority's, for as long
/// as that is still there, is counted too.
///
/// # Errors
/// When the store cannot be read.
pub async fn survey(world: &mut dyn World, of: &ReissueOf) -> Result<Surveyed, PlanError> {
    let (mut surveyed, mut after) = (Surveyed::default(), String::new());
    let mut seen = HashSet::new();
    loop {
        let page = world.with_facet(Kind::Certificate, AUTHORITY_FACET, &of.from, &after, read::PAGE).await?;
        let Some(last) = page.last() else { return Ok(surveyed) };
        after.clone_from(&last.id);
        let names: Vec<String> = page.into_iter().filter_map(|certificate| certificate.parent).collect();
        for name in world.resources(&names).await? {
            let name = Doc::<Fqdn>::read(name)?;
            if !is_free(&name) || !seen.insert(name.id.clone()) {
                continue;
            }
            if surveyed.names >= of.names {
                return Ok(surveyed);
            }
            let site = name.spec.webroot_id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&name.id);
            *surveyed.sites.entry(site.to_owned()).or_default() += 1;
            *surveyed.domains.entry(registered_domain(&name.spec.fqdn).to_owned()).or_default() += 1;
            surveyed.names += 1;
        }
    }
}

/// It has a certificate, and nobody asked for another one yet.
fn is_free(name: &Doc<Fqdn>) -> bool {
    let issuance = name.state.issuance.as_ref().filter(|_| !is_deleting(name));
    issuance.is_some_and(|one| matches!(one.phase, Phase::Issued { .. }) && one.reissue.is_none())
}

impl Surveyed {
    /// Orders that an authority is asked for.
    #[must_use]
    pub fn orders(&self, names_per_order: u32) -> u64 {
        self.sites.values().map(|names| names.div_ceil(u64::from(names_per_order.max(1)))).sum()
    }

    /// When the last name would have another certificate, in milliseconds since the Unix epoch. `from`: whose certificates are replaced; to
    /// another authority, what is asked `by` it is a new one that counts.
    #[must_use]
    pub fn done_at(
        &self,
        from: &Doc<CertificateAuthority>,
        by: &Doc<CertificateAuthority>,
        account: &str,
        now: i64,
    ) -> i64 {
        let (spec, state) = (&by.spec, &by.state);
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        // How fast it goes is the controller's doing more than an authority's.
        let pace = state.pace.of(self.names).or_else(|| from.state.pace.of(self.names));
        let turns = pace.unwrap_or_else(|| whole(self.names).saturating_mul(USUAL_NAME));
        let mut last = now.saturating_add(turns);
        if from.id != by.id {
            let spent = state.orders.get(account).copied().unwrap_or_default();
            last = last.max(spent.last_of(self.orders(spec.names_per_order), spec.orders, now));
            let fullest = self.domains.values().copied().max().unwrap_or_default();
            let Allowance { count, seconds } = spec.per_domain;
            let windows = whole(fullest.saturating_sub(1) / u64::from(count.max(1)));
            last = last.max(now.saturating_add(windows.saturating_mul(i64::from(seconds) * 1_000)));
        }
        last.saturating_add(if state.order_takes > 0 { state.order_takes } else { USUAL_ORDER })
    }
}

/// Who is asked: the one that is named, or the first one that may be; `None`: nobody may.
///
/// # Errors
/// When the store cannot be read.
pub async fn asked(
    world: &mut dyn World,
    of: &ReissueOf,
) -> Result<Option<Doc<CertificateAuthority>>, PlanError> {
    let is_wanted = |one: &Doc<CertificateAuthority>| match &of.to {
        Some(to) => one.typed_id() == *to,
        None => true,
    };
    let mut all = authorities(world).await?.into_iter();
    Ok(all.find(|one| is_wanted(one) && one.spec.enabled && one.spec.terms_agreed))
}

/// When all would have others, in milliseconds since the Unix epoch; `None`: nobody may be asked. Reads every name.
///
/// # Errors
/// When the store cannot be read.
pub async fn forecast_reissue(
    world: &mut dyn World,
    of: &ReissueOf,
    now: i64,
) -> Result<Option<i64>, PlanError> {
    let surveyed = survey(world, of).await?;
    let Some(asked) = asked(world, of).await? else { return Ok(None) };
    let Some(from) = read::get(world, &of.from).await? else { return Ok(None) };
    let account = asked.spec.account_of(None);
    Ok(Some(surveyed.done_at(&from, &asked, &account, now)))
}

/// Notes that certificates of an authority are to be replaced.
///
/// # Errors
/// When the store fails.
pub async fn begin_reissue(draft: &mut dyn Draft, of: &ReissueOf) -> Result<(), PlanError> {
    let to = of.to.as_ref().map(ToString::to_string);
    let begun = change_authority(draft, &of.from, |_, state, now| {
        state.reissue = Some(MassReissue { to, names: 0, done: 0, since: now, forecast: 0, ended: 0 });
    });
    begun.await.map(drop)
}

/// Notes when they will be replaced.
///
/// # Errors
/// When the store fails.
pub async fn note_forecast(draft: &mut dyn Draft, of: &ReissueOf, forecast: i64) -> Result<(), PlanError> {
    let noted = change_authority(draft, &of.from, |_, state, _| {
        if let Some(reissue) = &mut state.reissue {
            reissue.forecast = forecast;
        }
    });
    noted.await.map(drop)
}

/// How many names were told, and after which certificate the next part begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The names.
    pub names: u64,
    /// `None`: there are no more certificates.
    pub after: Option<String>,
}

/// Tells some of the names that another certificate is wanted for them: those of as many certificates as a page has, `most` names at most.
///
/// # Errors
/// When the store fails.
pub async fn tell_reissue(
    draft: &mut dyn Draft,
    of: &ReissueOf,
    after: &str,
    most: u64,
) -> Result<Told, PlanError> {
    let page = draft.with_facet(Kind::Certificate, AUTHORITY_FACET, &of.from, after, TOLD_AT_ONCE).await?;
    let mut told = Told { names: 0, after: page.last().map(|last| last.id.clone()) };
    let reissue = Reissue { from: of.from.to_string(), to: of.to.as_ref().map(ToString::to_string) };
    for certificate in &page {
        if told.names >= most {
            told.after = None;
            break;
        }
        let Some(Candidate { mut fqdn, mut issuance, .. }) = to_replace(draft, certificate).await? else {
            continue;
        };
        issuance.reissue = Some(reissue.clone());
        issuance.booking = None;
        told.names += 1;
        let mut plan = Plan::later(draft, Cause::Person);
        plan.draft.ask(errand(&fqdn));
        put(&mut fqdn, Some(issuance), &mut plan).await?;
        plan.finish().await?;
    }
    let more = told.names;
    change_authority(draft, &of.from, |_, state, _| {
        if let Some(reissue) = &mut state.reissue {
            reissue.names += more;
        }
    })
    .await?;
    Ok(told)
}

/// Notes in an authority's state that names have another certificate in the place of one of its own.
pub fn note_reissued(state: &mut CertificateAuthorityState, names: u64) {
    if let Some(reissue) = &mut state.reissue {
        reissue.done += names;
    }
}

/// Whether names wait for another certificate in the place of one of the authority's.
///
/// # Errors
/// When the store cannot be read.
pub async fn is_reissuing(world: &mut dyn World, from: &Id<CertificateAuthority>) -> Result<bool, PlanError> {
    Ok(!world.with_facet(Kind::Fqdn, REISSUE_FACET, from, "", 1).await?.is_empty())
}

/// Notes that all of them have one.
///
/// # Errors
/// When the store fails.
pub async fn end_reissue(draft: &mut dyn Draft, from: &Id<CertificateAuthority>) -> Result<(), PlanError> {
    let ended = change_authority(draft, from, |_, state, now| {
        if let Some(reissue) = &mut state.reissue {
            reissue.ended = now;
        }
    });
    ended.await.map(drop)
}

#[cfg(test)]
mod tests {
    use hosting_resource::Document;
    use serde_json::json;

    use super::*;

    fn authority(state: CertificateAuthorityState) -> Doc<CertificateAuthority> {
        let body = json!({"name": "ca", "directory_url": "https://ca.example/dir", "terms_agreed": true, "names_per_order": 10,
            "orders": {"count": 10, "seconds": 100}, "per_domain": {"count": 50, "seconds": 600}});
        let made = CertificateAuthority::KIND
            .def()
            .create(None, body.as_object().unwrap(), &mut |bytes| bytes.fill(1))
            .unwrap();
        let resource = made.resources.into_iter().next().unwrap().into_resource(None, 1, 1);
        let mut authority = Doc::<CertificateAuthority>::read(resource).unwrap();
        authority.state = state;
        authority
    }

    fn surveyed(sites: &[u64], domains: &[u64]) -> Surveyed {
        let by = |all: &[u64]| all.iter().enumerate().map(|(n, count)| (n.to_string(), *count)).collect();
        Surveyed { names: sites.iter().sum(), sites: by(sites), domains: by(domains) }
    }

    #[test]
    fn a_forecast_goes_by_orders_allowances_and_how_long_one_takes() {
        let many = surveyed(&[25, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[1; 37]);
        assert_eq!(many.orders(10), 15);
        let ca = authority(CertificateAuthorityState { order_takes: 3_000, ..Default::default() });
        let mut other = authority(CertificateAuthorityState::default());
        other.id = "other".into();
        // The same authority: nobody waits, and turns take their time.
        assert_eq!(many.done_at(&ca, &ca, "platform", 0), 37 * 15 + 3_000);
        // To another one: ten orders at once, one each ten seconds from then on.
        assert_eq!(many.done_at(&other, &ca, "platform", 0), 50_000 + 3_000);
        // A domain of which more are wanted than the authority allows in its window.
        let one_domain = surveyed(&[120], &[120]);
        assert_eq!(one_domain.done_at(&other, &ca, "platform", 0), 2 * 600_000 + 3_000);
        assert_eq!(surveyed(&[1], &[1]).done_at(&other, &other, "platform", 5), 5 + 15 + USUAL_ORDER);
    }

    #[test]
    fn a_forecast_goes_by_how_fast_names_got_certificates() {
        let mut fast = authority(CertificateAuthorityState::default());
        let allowance = fast.spec.orders;
        // Two at a time, each second one of them has its 25.
        for second in 0..40 {
            fast.state.took(25, (second - 2).max(0) * 1_000, second * 1_000, allowance);
        }
        let thousand = surveyed(&[1_000], &[1_000]);
        let takes = fast.state.order_takes;
        assert_eq!(thousand.done_at(&fast, &fast, "platform", 0), 40_000 + takes);
        // Who issued nothing yet is thought to be as fast.
        let mut other = authority(CertificateAuthorityState::default());
        other.id = "other".into();
        assert!(thousand.done_at(&other, &other, "platform", 0) == 1_000 * 15 + USUAL_ORDER);
        let few = surveyed(&[10], &[10]);
        assert_eq!(few.done_at(&fast, &other, "platform", 0), 400 + USUAL_ORDER);
        // One after the other, or each when it may be made: nothing is learned from that.
        let mut slow = authority(CertificateAuthorityState::default());
        for turn in 0..40 {
            slow.state.took(25, turn * 60_000, turn * 60_000 + 3_000, allowance);
        }
        for turn in 0..40 {
            let since = 3_000_000 + turn * 10_000;
            let spent = slow.state.orders.entry("platform".to_owned()).or_default();
            for _ in 0..20 {
                spent.book(allowance, since);
            }
            slow.state.took(25, since, since + 30_000, allowance);
        }
        // Nor from a clock that was set.
        for turn in 0..40 {
            let since = 90_000_000 + turn * 3_600_000;
            slow.state.took(25, since - 3_600_001, since, allowance);
        }
        let takes = slow.state.order_takes;
        assert_eq!(thousand.done_at(&slow, &slow, "platform", 0), 1_000 * 15 + takes);
    }
}
