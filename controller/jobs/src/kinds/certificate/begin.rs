//! Who is asked for a certificate, for which names together, when, and by which ways of validation; and the making of the order.

use std::collections::BTreeMap;

use hosting_acme::caa::{CaaRecord, Certifier};
use hosting_acme::{Account, AcmeError, NameProblem, OfferedName};
use hosting_planner::{Candidate, OrderClaim};
use hosting_resource::issuance::{
    Booking, ChallengeMethod, Issuance, IssuanceProblem, OpenChallenge, Order, Phase, Stage,
};
use hosting_resource::kinds::certificate::{chain_der, registered_domain};
use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::{Doc, Id};
use hosting_store::Origin;

use super::accounts::NoAccount;
use super::order::{change, failed, joins, simple};
use super::remedy::problem_of;
use super::{IssueCertificate, MINUTE, NoTurn, Taken, Turn, patience, wait};
use crate::clock::DAY;
use crate::kinds::ownership::Answer;

/// An authority that is left alone for no longer than this, in milliseconds, is waited for: another one is for when this one fails.
const SHORT_PAUSE: i64 = 10_000;
/// Certificates of a domain that are counted.
const COUNTED: u32 = 1_000;

/// What an order can be made with.
struct Means {
    authority: Doc<CertificateAuthority>,
    account_name: String,
}

impl IssueCertificate {
    /// Orders a certificate for a name, and for those beside it that can have the same one, as soon as an authority has room.
    pub(super) async fn begin(&self, candidate: Candidate) -> Taken {
        let now = self.store.now();
        let brand = candidate.fqdn.brand.clone();
        let authorities = hosting_planner::authorities(&mut self.read().await?).await?;
        let serving = authorities.into_iter().filter(|authority| authority.spec.serves(brand.as_deref()));
        let wanted = candidate.issuance.reissue.as_ref().and_then(|reissue| reissue.to.clone());
        let open: Vec<_> = serving
            .filter(|authority| wanted.as_ref().is_none_or(|wanted| *wanted == authority.id))
            .filter(|authority| authority.spec.challenges.iter().any(|way| is_for(*way, &candidate)))
            .collect();
        if open.is_empty() {
            self.stands_in_the_way(&candidate, no_authority(&candidate)).await?;
            return Ok(patience(&candidate.issuance, now));
        }
        let paused = |authority: &Doc<CertificateAuthority>| {
            let left = authority.state.paused_until.saturating_sub(now);
            if left <= DAY { left.max(0) } else { 0 }
        };
        let Some(authority) = open.iter().find(|authority| paused(authority) <= SHORT_PAUSE).cloned() else {
            let left = open.iter().map(paused).min().unwrap_or(MINUTE);
            let problem = open.first().and_then(|first| first.state.problem.clone()).unwrap_or_default();
            self.stands_in_the_way(&candidate, simple("authority_paused", problem)).await?;
            return Ok(wait(left.max(1_000)));
        };
        if paused(&authority) > 0 {
            return Ok(wait(paused(&authority)));
        }
        let account_name = authority.spec.account_of(brand.as_deref());
        let means = Means { authority, account_name };
        let ways = match self.ways(&candidate, &means).await? {
            Ok(ways) => ways,
            Err(problem) => {
                self.stands_in_the_way(&candidate, problem).await?;
                return Ok(patience(&candidate.issuance, now));
            }
        };
        let leader = Member { candidate: candidate.clone(), ways };
        let booking = candidate.issuance.booking.clone();
        let Some(booking) = booking.filter(|booking| booking.authority == means.authority.id) else {
            return self.book(&leader, &means, now).await;
        };
        if booking.at > now {
            return Ok(wait(booking.at - now));
        }
        let members = self.members(leader, &booking, &means).await?;
        let account = match self.accounts.of(&means.authority, &means.account_name).await {
            Ok(account) => account,
            Err(NoAccount::Store(error)) => return Err(error.into()),
            Err(NoAccount::Authority(error)) => return self.not_asked(&means.authority, &error).await,
        };
        let (members, refused) = self.let_by_caa(members, &means, &account).await;
        if !refused.is_empty() {
            let leads = refused.iter().any(|(member, _)| member.fqdn.id == candidate.fqdn.id);
            self.exchange(
                refused.into_iter().map(|(member, problem)| failed(&member, problem, now)).collect(),
            )
            .await?;
            if leads {
                return Ok(Turn::Next("the name's CAA records allow others alone".into()));
            }
        }
        self.make(members, &means, &account, now).await
    }

    /// How the authority can look whether a name is ours.
    async fn ways(
        &self,
        candidate: &Candidate,
        means: &Means,
    ) -> Result<Result<Ways, IssuanceProblem>, NoTurn> {
        let allowed = means.authority.spec.challenges.iter().copied();
        let mut methods: Vec<ChallengeMethod> = allowed.filter(|way| is_for(*way, candidate)).collect();
        if methods.is_empty() {
            return Ok(Err(no_authority(candidate)));
        }
        if !methods.contains(&ChallengeMethod::Dns01) {
            return Ok(Ok(Ways { methods, zone: None }));
        }
        match hosting_planner::challenge_zone(&mut self.read().await?, &candidate.fqdn).await? {
            Ok(zone) => Ok(Ok(Ways { methods, zone: Some(zone.to_string()) })),
            Err(problem) => {
                methods.retain(|way| *way != ChallengeMethod::Dns01);
                Ok(if methods.is_empty() { Err(problem) } else { Ok(Ways { methods, zone: None }) })
            }
        }
    }

    /// The names that an order is for: the leader, and those that joined it and can still be asked for.
    async fn members(&self, leader: Member, booking: &Booking, means: &Means) -> Result<Vec<Member>, NoTurn> {
        let leads = leader.candidate.fqdn.id.clone();
        let mut members = vec![leader];
        for id in &booking.with {
            let other = self.candidate(&Id::from(id.as_str())).await?;
            let Some(other) = other.filter(|other| joins(other, &leads) && other.blocked.is_none()) else {
                continue;
            };
            if let Ok(ways) = self.ways(&other, means).await? {
                members.push(Member { candidate: other, ways });
            }
        }
        Ok(members)
    }

    /// Others of the leader's site that want a certificate now, as many as an order has room for.
    async fn others(&self, leader: &Candidate, means: &Means, now: i64) -> Result<Vec<Candidate>, NoTurn> {
        let most = means.authority.spec.names_per_order.saturating_sub(1);
        // One that failed is tried alone: others are not to fail with it.
        if leader.issuance.failures > 0 || most == 0 {
            return Ok(Vec::new());
        }
        let all = hosting_planner::companions(&mut self.read().await?, leader, 2 * (most + 1)).await?;
        let mut others = Vec::new();
        // Those that joined it at an authority that cannot be asked now.
        for id in leader.issuance.booking.iter().flat_map(|booking| &booking.with) {
            let other = self.candidate(&Id::from(id.as_str())).await?;
            others.extend(other.filter(|other| joins(other, &leader.fqdn.id)));
        }
        for other in all {
            let is_alike = wants_one(&other, now) && other.issuance.reissue == leader.issuance.reissue;
            if others.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
                break;
            }
            if is_alike && self.ways(&other, means).await?.is_ok() {
                others.push(other);
            }
        }
        others.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(others)
    }

    /// Takes the next place of the authority's allowance for an order, and others along. What replaces a certificate of the same authority
    /// takes no place (RFC 9773 §5).
    async fn book(&self, leader: &Member, means: &Means, now: i64) -> Taken {
        let candidate = &leader.candidate;
        let (id, spec) = (means.authority.typed_id(), &means.authority.spec);
        let replaced = candidate.issued().and_then(|issued| issued.spec.authority_id.clone());
        let counts = replaced != Some(id.clone());
        // Where the authority allows more than are counted, it alone knows when it is too much.
        if counts && spec.per_domain.count <= COUNTED {
            let domain = registered_domain(&candidate.fqdn.spec.fqdn);
            let since = now - i64::from(spec.per_domain.seconds) * 1_000;
            let mut tx = self.read().await?;
            let issued = hosting_planner::issued_for_domain(&mut tx, domain, &id, since, COUNTED).await?;
            drop(tx);
            if issued.len() >= usize::try_from(spec.per_domain.count).unwrap_or(usize::MAX) {
                let room_at =
                    issued.first().map_or(now, |oldest| oldest + i64::from(spec.per_domain.seconds) * 1_000);
                let message = format!(
                    "{} certificates were issued for names of {domain} within {} days; the authority allows no more",
                    issued.len(),
                    spec.per_domain.seconds / 86_400
                );
                self.stands_in_the_way(candidate, simple("rate_limited", message)).await?;
                return Ok(wait((room_at - now).clamp(MINUTE, DAY)));
            }
        }
        let others = self.others(candidate, means, now).await?;
        let names = std::iter::once(candidate).chain(&others);
        let claim = OrderClaim {
            authority: id,
            account: means.account_name.clone(),
            counts,
            names: names.map(|one| (one.fqdn.typed_id(), one.issuance.clone())).collect(),
        };
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::claim_order(tx, claim).await })
        });
        let at: Option<i64> = written.await.map_err(NoTurn::from)?.value;
        Ok(match at {
            Some(at) if at > now => wait(at - now),
            // Another order took one of them: seen at the next turn.
            Some(_) | None => Turn::Next("an order has its place".into()),
        })
    }

    /// Those whose CAA records let the authority certify them, and the others. What cannot be found out is the authority's to judge.
    async fn let_by_caa(
        &self,
        members: Vec<Member>,
        means: &Means,
        account: &Account,
    ) -> (Vec<Member>, Vec<(Candidate, IssuanceProblem)>) {
        let spec = &means.authority.spec;
        let identities =
            if spec.caa_identities.is_empty() { account.caa_identities() } else { &spec.caa_identities };
        let Ok((dns, _)) = &self.world else { return (members, Vec::new()) };
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for member in members {
            let spec = &member.candidate.fqdn.spec;
            let (name, is_wildcard) = (&spec.fqdn, spec.is_wildcard());
            let records = dns.caa(spec.host()).await;
            let records: Vec<CaaRecord> =
                if let Answer::Found(records) = records { records } else { Vec::new() };
            let mut lets = member.ways.methods.iter().map(|method| {
                let method = method.name();
                Certifier { identities, account: account.url(), method, is_wildcard }.may(&records)
            });
            let first = lets.next().unwrap_or(Ok(()));
            match first {
                Err(why) if lets.all(|one| one.is_err()) => {
                    let problem = NameProblem { name: String::new(), code: "caa".into(), message: why };
                    let problem = problem_of(&problem, name, &[]);
                    refused.push((member.candidate, problem));
                }
                Ok(()) | Err(_) => good.push(member),
            }
        }
        (good, refused)
    }

    async fn make(&self, members: Vec<Member>, means: &Means, account: &Account, now: i64) -> Taken {
        let (members, ways): (Vec<Candidate>, Vec<Ways>) =
            members.into_iter().map(|member| (member.candidate, member.ways)).unzip();
        let Some(leader) = members.first() else { return Ok(wait(1_000)) };
        let names: Vec<String> = members.iter().map(|member| member.fqdn.spec.fqdn.clone()).collect();
        let own_authority = means.authority.typed_id();
        let replaced = leader.issued().filter(|one| one.spec.authority_id.as_ref() == Some(&own_authority));
        let replaced = replaced.and_then(|one| chain_der(&one.spec).into_iter().next());
        let made = account.order(&names, replaced.as_deref(), means.authority.spec.profile.as_deref()).await;
        let made = match made {
            Ok(made) => made,
            Err(AcmeError::Refused(problems)) => return self.refused(&members, problems, now).await,
            Err(error) => return self.not_asked(&means.authority, &error).await,
        };
        let mut offered: BTreeMap<String, OfferedName> =
            made.names.into_iter().map(|name| (name.name.clone(), name)).collect();
        let mut challenges = Vec::new();
        for (member, ways) in members.iter().zip(&ways) {
            let challenge = match offered.remove(&member.fqdn.spec.fqdn) {
                None => None,
                Some(offer) => match chosen(&offer, ways) {
                    Some(challenge) => Some(challenge),
                    None => {
                        let problem = NameProblem {
                            name: member.fqdn.spec.fqdn.clone(),
                            code: "no_challenge".into(),
                            message: "the authority offers no way of validation that is allowed for it"
                                .into(),
                        };
                        return self.refused(&members, vec![problem], now).await;
                    }
                },
            };
            challenges.push(challenge);
        }
        let order = Order {
            authority: means.authority.id.clone(),
            account: means.account_name.clone(),
            url: made.url,
            since: now,
            stage: Stage::Publishing,
            names: members.iter().map(|member| member.fqdn.id.clone()).collect(),
        };
        let leader = leader.fqdn.id.clone();
        let mut phase = Some(Phase::Ordered(order));
        let changes = members.iter().zip(challenges).map(|(member, challenge)| {
            let phase = phase.take().unwrap_or_else(|| Phase::Joined { leader: leader.clone(), at: 0 });
            let after =
                Issuance { phase, challenge, booking: None, problem: None, ..member.issuance.clone() };
            change(member, after)
        });
        let changes = changes.collect();
        self.exchange(changes).await?;
        self.asked_well(&means.authority).await?;
        Ok(Turn::Next("ordered".into()))
    }
}

/// A name of an order.
struct Member {
    candidate: Candidate,
    ways: Ways,
}

/// How an authority can look whether a name is ours.
struct Ways {
    /// The one to be preferred first.
    methods: Vec<ChallengeMethod>,
    /// The zone that a TXT record can stand in.
    zone: Option<String>,
}

/// A certificate is wanted for it now, and nothing stands in the way.
fn wants_one(candidate: &Candidate, now: i64) -> bool {
    let is_due = match &candidate.issuance.phase {
        Phase::Waiting => candidate.issued().is_none(),
        Phase::Issued { renew_at, .. } => *renew_at <= now || candidate.issuance.reissue.is_some(),
        Phase::Ordered(_) | Phase::Joined { .. } => false,
    };
    is_due
        && candidate.blocked.is_none()
        && candidate.issuance.failures == 0
        && candidate.issuance.booking.is_none()
        && candidate.brought_until().is_none()
}

/// Whether a way of validation is one for a name: wildcards are looked for in the domain name system alone.
fn is_for(way: ChallengeMethod, candidate: &Candidate) -> bool {
    way == ChallengeMethod::Dns01 || !candidate.fqdn.spec.is_wildcard()
}

/// The first way that is allowed, as far as it is offered.
fn chosen(offered: &OfferedName, ways: &Ways) -> Option<OpenChallenge> {
    ways.methods.iter().find_map(|method| {
        let offer = offered.offers.iter().find(|offer| offer.method == method.name())?;
        Some(OpenChallenge {
            method: *method,
            token: offer.token.clone(),
            key_authorization: offer.key_authorization.clone(),
            zone: ways.zone.clone().filter(|_| *method == ChallengeMethod::Dns01),
        })
    })
}

fn no_authority(candidate: &Candidate) -> IssuanceProblem {
    let message = if is_for(ChallengeMethod::Http01, candidate) {
        "there is no certificate authority that may be asked for names of the brand"
    } else {
        "there is no certificate authority that may look for wildcards of the brand by dns-01"
    };
    IssuanceProblem {
        remedy: "an operator adds one: POST /certificate-authorities".into(),
        ..simple("no_authority", message)
    }
}

#[cfg(test)]
mod tests {
    use hosting_acme::Offer;

    use super::*;

    #[test]
    fn of_what_is_offered_the_preferred_way_is_taken() {
        let offer = |method: &str| Offer {
            method: method.into(),
            token: method.into(),
            key_authorization: "k".into(),
        };
        let offered = OfferedName {
            name: "a".into(),
            offers: vec![offer("dns-01"), offer("tls-alpn-01"), offer("http-01")],
        };
        let ways = |methods: &[ChallengeMethod]| Ways { methods: methods.into(), zone: Some("z".into()) };
        let all = [ChallengeMethod::TlsAlpn01, ChallengeMethod::Http01, ChallengeMethod::Dns01];
        let first = |methods: &[ChallengeMethod]| chosen(&offered, &ways(methods)).unwrap();
        assert_eq!((first(&all).token.as_str(), first(&all).zone), ("tls-alpn-01", None));
        assert_eq!(first(&all[1..]).token, "http-01");
        assert_eq!(first(&all[2..]).zone.as_deref(), Some("z"));
        let records_alone = OfferedName { offers: vec![offer("dns-01")], ..offered };
        assert_eq!(chosen(&records_alone, &ways(&all[..2])), None);
    }
}
