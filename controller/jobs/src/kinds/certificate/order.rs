//! An order, from its making to the certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use hosting_acme::caa::{CaaRecord, Certifier};
use hosting_acme::{Account, AcmeError, CertificateKey, NameProblem, OfferedName, OrderProgress};
use hosting_planner::gates::Truth;
use hosting_planner::{Candidate, IssuanceChange};
use hosting_resource::issuance::{
    Booking, ChallengeMethod, Issuance, IssuanceProblem, OpenChallenge, Order, Phase, Stage,
};
use hosting_resource::kinds::certificate::{chain_der, issued};
use hosting_resource::kinds::certificate_authority::{CertificateAuthority, CertificateAuthorityState};
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::{Doc, Id, PlainText, Resource};
use hosting_store::Origin;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::accounts::NoAccount;
use super::remedy::{leading, problem_of};
use super::{HOUR, IssueCertificate, MINUTE, NoTurn, SOON, Taken, Turn, lifetime, patience, wait};
use crate::clock::DAY;
use crate::kinds::ownership::Answer;

/// An order that is no further after so long is given up, in milliseconds.
const ORDER_TIME: i64 = HOUR;
/// Edges that do not answer a challenge after so long are not waited for.
const EDGES_TIME: i64 = 10 * MINUTE;
/// Between two attempts at a name that failed; authorities allow few failures an hour.
const FIRST_WAIT: i64 = 15 * MINUTE;
/// The longest time between two attempts.
pub(super) const LONGEST_WAIT: i64 = DAY;
/// An authority that fails is asked for nothing for so long.
const FIRST_PAUSE: i64 = MINUTE;
/// Certificates of a domain that are counted.
const COUNTED: u32 = 1_000;

/// How long a name waits after so many failures in a row.
fn wait_after(failures: u32) -> i64 {
    doubled(FIRST_WAIT, failures, LONGEST_WAIT)
}

fn doubled(first: i64, times: u32, most: i64) -> i64 {
    first.saturating_mul(1_i64 << times.saturating_sub(1).min(20)).min(most)
}

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
        let open: Vec<_> =
            authorities.into_iter().filter(|authority| authority.spec.serves(brand.as_deref())).collect();
        if open.is_empty() {
            self.stands_in_the_way(&candidate, no_authority()).await?;
            return Ok(patience(&candidate.issuance, now));
        }
        let paused = |authority: &Doc<CertificateAuthority>| {
            let left = authority.state.paused_until.saturating_sub(now);
            if left <= DAY { left.max(0) } else { 0 }
        };
        let Some(authority) = open.iter().find(|authority| paused(authority) == 0).cloned() else {
            let left = open.iter().map(paused).min().unwrap_or(MINUTE);
            let problem = open.first().and_then(|first| first.state.problem.clone()).unwrap_or_default();
            self.stands_in_the_way(&candidate, simple("authority_paused", problem)).await?;
            return Ok(wait(left.max(1_000)));
        };
        let account_name = authority.spec.account_of(brand.as_deref());
        let means = Means { authority, account_name };
        let members = match self.members(candidate.clone(), &means, now).await? {
            Members::These(members) => members,
            Members::Another(at) => return Ok(wait((at - now).clamp(1_000, HOUR))),
        };
        if let Some(turn) = self.room(&candidate, &means, now).await? {
            return Ok(turn);
        }
        let account = match self.accounts.of(&means.authority, &means.account_name).await {
            Ok(account) => account,
            Err(NoAccount::Store(error)) => return Err(error.into()),
            Err(NoAccount::Authority(error)) => return self.not_asked(&means.authority, &error).await,
        };
        let (members, refused) = self.let_by_caa(members, &means, &account).await;
        if !refused.is_empty() {
            let ids = refused.iter().map(|(member, _)| member.fqdn.typed_id()).collect::<Vec<_>>();
            let leads = ids.contains(&candidate.fqdn.typed_id());
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

    /// The names that an order is for: the candidate, and others of its site that want one now.
    async fn members(&self, candidate: Candidate, means: &Means, now: i64) -> Result<Members, NoTurn> {
        // One that failed is tried alone: others are not to fail with it.
        if candidate.issuance.failures > 0 || means.authority.spec.names_per_order < 2 {
            return Ok(Members::These(vec![candidate]));
        }
        let most = means.authority.spec.names_per_order;
        let others =
            hosting_planner::companions(&mut self.read().await?, &candidate, most.saturating_mul(2)).await?;
        // One of them has a place already, with this one in it.
        let booked = others
            .iter()
            .filter(|other| wants_one(other, now))
            .filter_map(|other| other.issuance.booking.as_ref());
        let booked = booked.filter(|booking| booking.authority == means.authority.id).map(|one| one.at).min();
        let own = candidate.issuance.booking.as_ref().map(|booking| booking.at);
        if let Some(at) = booked.filter(|at| own.is_none_or(|own| *at < own)) {
            return Ok(Members::Another(at));
        }
        let mut members = vec![candidate];
        members.extend(others.into_iter().filter(|other| wants_one(other, now)));
        members.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Members::These(members))
    }

    /// Whether the authority's allowance has room now: books it, and says how long to wait for it. What replaces a certificate waits for
    /// nobody (RFC 9773 §5).
    async fn room(&self, candidate: &Candidate, means: &Means, now: i64) -> Result<Option<Turn>, NoTurn> {
        if candidate.issued().is_some() {
            return Ok(None);
        }
        let id = means.authority.typed_id();
        let (spec, booking) = (&means.authority.spec, &candidate.issuance.booking);
        if let Some(booking) = booking.as_ref().filter(|booking| booking.authority == means.authority.id) {
            return Ok((booking.at > now).then(|| wait(booking.at - now)));
        }
        let domain = hosting_resource::kinds::certificate::registered_domain(&candidate.fqdn.spec.fqdn);
        let since = now - i64::from(spec.per_domain.seconds) * 1_000;
        let issued =
            hosting_planner::issued_for_domain(&mut self.read().await?, domain, &id, since, COUNTED).await?;
        if issued.len() >= usize::try_from(spec.per_domain.count).unwrap_or(usize::MAX) {
            let room_at =
                issued.first().map_or(now, |oldest| oldest + i64::from(spec.per_domain.seconds) * 1_000);
            let message = format!(
                "{} certificates were issued for names of {domain} within {} days; the authority allows no more",
                issued.len(),
                spec.per_domain.seconds / 86_400
            );
            self.stands_in_the_way(candidate, simple("rate_limited", message)).await?;
            return Ok(Some(wait((room_at - now).clamp(MINUTE, DAY))));
        }
        let (fqdn, before) = (candidate.fqdn.typed_id(), candidate.issuance.clone());
        let account = means.account_name.clone();
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move {
                let booked = hosting_planner::change_authority(tx, &id, |spec, state, now| {
                    state.orders.entry(account).or_default().book(spec.orders, now)
                });
                let Some(at) = booked.await? else { return Ok(None) };
                let booking = Some(Booking { authority: id.to_string(), at });
                let after = Issuance { booking, problem: None, ..before.clone() };
                let change = IssuanceChange { id: fqdn, before, after, issued: None };
                Ok(hosting_planner::exchange_issuances(tx, vec![change]).await?.then_some(at))
            })
        });
        let booked: Option<i64> = written.await?.value;
        Ok(match booked {
            Some(at) if at > now => Some(wait(at - now)),
            // The name stands elsewhere by now, or has a place: seen at the next turn.
            Some(_) | None => Some(Turn::Next("an order has its place".into())),
        })
    }

    /// Those whose CAA records let the authority certify them, and the others. What cannot be found out is the authority's to judge.
    async fn let_by_caa(
        &self,
        members: Vec<Candidate>,
        means: &Means,
        account: &Account,
    ) -> (Vec<Candidate>, Vec<(Candidate, IssuanceProblem)>) {
        let spec = &means.authority.spec;
        let identities =
            if spec.caa_identities.is_empty() { account.caa_identities() } else { &spec.caa_identities };
        let Ok((dns, _)) = &self.world else { return (members, Vec::new()) };
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for member in members {
            let records = dns.caa(&member.fqdn.spec.fqdn).await;
            let records: Vec<CaaRecord> =
                if let Answer::Found(records) = records { records } else { Vec::new() };
            let mut lets = spec.challenges.iter().map(|method| {
                let method = method.name();
                Certifier { identities, account: account.url(), method, is_wildcard: false }.may(&records)
            });
            let first = lets.next().unwrap_or(Ok(()));
            match first {
                Err(why) if lets.all(|one| one.is_err()) => {
                    let problem = NameProblem { name: String::new(), code: "caa".into(), message: why };
                    let problem = problem_of(&problem, &member.fqdn.spec.fqdn, &[]);
                    refused.push((member, problem));
                }
                Ok(()) | Err(_) => good.push(member),
            }
        }
        (good, refused)
    }

    async fn make(&self, members: Vec<Candidate>, means: &Means, account: &Account, now: i64) -> Taken {
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
        for member in &members {
            let challenge = match offered.remove(&member.fqdn.spec.fqdn) {
                None => None,
                Some(offer) => match chosen(&offer, &means.authority.spec.challenges) {
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
            let phase = phase.take().unwrap_or_else(|| Phase::Joined { leader: leader.clone() });
            let after =
                Issuance { phase, challenge, booking: None, problem: None, ..member.issuance.clone() };
            change(member, after)
        });
        let changes = changes.collect();
        self.exchange(changes).await?;
        self.asked_well(&means.authority).await?;
        Ok(Turn::Next("ordered".into()))
    }

    /// The next thing to be done for an order.
    pub(super) async fn go_on(&self, candidate: Candidate, order: Order) -> Taken {
        let now = self.store.now();
        let mut members = vec![candidate.clone()];
        for id in order.names.iter().filter(|id| **id != candidate.fqdn.id) {
            let other = self.candidate(&Id::from(id.as_str())).await?;
            let leader = candidate.fqdn.id.clone();
            members.extend(
                other.filter(|other| other.issuance.phase == Phase::Joined { leader: leader.clone() }),
            );
        }
        let Some(authority) = self.authority(Some(&Id::from(order.authority.as_str()))).await? else {
            return self
                .give_up(&members, simple("no_authority", "the authority is not asked any more"), now)
                .await;
        };
        let age = now.saturating_sub(order.since);
        if !(0..ORDER_TIME).contains(&age) {
            return self
                .give_up(&members, simple("timeout", "the order did not come to an end in time"), now)
                .await;
        }
        let account = match self.accounts.of(&authority, &order.account).await {
            Ok(account) => account,
            Err(NoAccount::Store(error)) => return Err(error.into()),
            Err(NoAccount::Authority(_)) => return Ok(wait(10_000)),
        };
        let done = match order.stage {
            Stage::Publishing => self.publish(&members, &order, &account, now).await,
            Stage::Validating => self.validate(&members, &order, &account, now).await,
            Stage::Issuing => self.issue(&members, &order, &account, now).await,
        };
        match done {
            Ok(turn) => Ok(turn),
            Err(Stopped::NoTurn(error)) => Err(error),
            Err(Stopped::Authority(AcmeError::Refused(problems))) => {
                self.refused(&members, problems, now).await
            }
            Err(Stopped::Authority(AcmeError::RateLimited { after, .. })) => {
                Ok(Turn::Wait(after.unwrap_or(Duration::from_secs(30)).min(Duration::from_secs(600))))
            }
            Err(Stopped::Authority(error @ (AcmeError::Unavailable(_) | AcmeError::Setup(_)))) => {
                tracing::debug!(%error, authority = authority.spec.name, "an order waits");
                Ok(wait(if age < MINUTE { 2_000 } else { 15_000 }))
            }
        }
    }

    /// Waits until every edge in service answers, looks at it from outside, and lets the authority look.
    async fn publish(
        &self,
        members: &[Candidate],
        order: &Order,
        account: &Account,
        now: i64,
    ) -> Result<Turn, Stopped> {
        let answering: Vec<Resource> = members
            .iter()
            .filter(|one| one.issuance.challenge.is_some())
            .map(|one| one.fqdn.to_resource())
            .collect();
        let mut tx = self.read().await?;
        let (truth, why) = hosting_planner::challenges_on_edges(&mut tx, &*self.fleet.0, &answering)
            .await
            .map_err(NoTurn::from)?;
        match truth {
            Truth::True => {}
            Truth::Waiting if now - order.since < EDGES_TIME => return Ok(Turn::Wait(SOON)),
            Truth::Waiting | Truth::Failed => {
                let problem = simple("not_answered", format!("the edges do not answer the authority: {why}"));
                return Ok(self.give_up(members, problem, now).await?);
            }
        }
        let mut wrong = Vec::new();
        for member in members {
            if let Some(problem) = self.leads_elsewhere(member, &mut tx).await? {
                wrong.push((member.clone(), problem));
            }
        }
        drop(tx);
        if !wrong.is_empty() {
            return Ok(self.end(members, wrong, now).await?);
        }
        let methods: BTreeMap<&str, &'static str> = members
            .iter()
            .filter_map(|one| {
                Some((one.fqdn.spec.fqdn.as_str(), one.issuance.challenge.as_ref()?.method.name()))
            })
            .collect();
        account.may_look(&order.url, |name| methods.get(name).copied()).await?;
        self.reach(members, order, Stage::Validating).await
    }

    /// What is wrong with where a name leads, seen as the authority will see it. What cannot be found out is the authority's to judge: its
    /// way to the name is another one.
    async fn leads_elsewhere(
        &self,
        member: &Candidate,
        tx: &mut hosting_store::ReadTx,
    ) -> Result<Option<IssuanceProblem>, NoTurn> {
        let Some(challenge) = &member.issuance.challenge else { return Ok(None) };
        let Ok((dns, web)) = &self.world else { return Ok(None) };
        let name = &member.fqdn.spec.fqdn;
        let addresses = hosting_planner::edge_addresses(tx, &member.fqdn).await?;
        let found = match dns.addresses(name).await {
            Answer::Found(found) => found,
            Answer::Failed(_) => return Ok(None),
            Answer::Nothing => {
                let message = format!("{name} has no address");
                let problem = NameProblem { name: name.clone(), code: "dns".into(), message };
                return Ok(Some(problem_of(&problem, name, &addresses)));
            }
        };
        let strangers: Vec<String> = found
            .iter()
            .map(ToString::to_string)
            .filter(|address| !addresses.is_empty() && !addresses.contains(address))
            .collect();
        if strangers.is_empty() || challenge.method != ChallengeMethod::Http01 {
            return Ok(None);
        }
        // A proxy in front of us, perhaps: it may pass the question on.
        let path = format!("/.well-known/acme-challenge/{}", challenge.token);
        match web.file(name, &path).await {
            Ok(text) if text.trim_ascii() == challenge.key_authorization.as_bytes() => Ok(None),
            Ok(_) | Err(_) => Ok(Some(IssuanceProblem {
                code: "dns".into(),
                message: format!("{name} leads elsewhere: {}", strangers.join(", ")),
                remedy: leading(name, &addresses),
            })),
        }
    }

    async fn validate(
        &self,
        members: &[Candidate],
        order: &Order,
        account: &Account,
        now: i64,
    ) -> Result<Turn, Stopped> {
        match account.progress(&order.url).await? {
            OrderProgress::Pending => Ok(wait(if now - order.since < MINUTE { 1_000 } else { 5_000 })),
            OrderProgress::Ready | OrderProgress::Processing | OrderProgress::Valid(_) => {
                self.reach(members, order, Stage::Issuing).await
            }
            OrderProgress::Invalid(problems) => Ok(self.refused(members, problems, now).await?),
        }
    }

    async fn issue(
        &self,
        members: &[Candidate],
        order: &Order,
        account: &Account,
        now: i64,
    ) -> Result<Turn, Stopped> {
        // Kept before it is certified: a controller that ends here has no certificate without its key.
        let kept = format!("acme/key/{}", hex::encode(Sha256::digest(&order.url)));
        let key = match self.store.unseal(&kept).await? {
            Some(key) => key,
            None => self.store.seal_once(&kept, CertificateKey::generate()?.pem().as_bytes()).await?,
        };
        let pem = std::str::from_utf8(key.expose())
            .map_err(|_| AcmeError::Setup("the key that was kept is none".into()))?;
        let key = CertificateKey::from_pem(Zeroizing::new(pem.to_owned()));
        match account.progress(&order.url).await? {
            OrderProgress::Ready => {
                account.finalize(&order.url, &key).await?;
                Ok(Turn::Wait(SOON))
            }
            OrderProgress::Pending | OrderProgress::Processing => Ok(wait(1_000)),
            OrderProgress::Invalid(problems) => {
                self.store.forget_sealed(&kept).await?;
                Ok(self.refused(members, problems, now).await?)
            }
            OrderProgress::Valid(chain) => {
                let turn = self.has(members, order, &chain, &key, now).await?;
                self.store.forget_sealed(&kept).await?;
                Ok(turn)
            }
        }
    }

    /// Puts what was issued beside each of the names.
    async fn has(
        &self,
        members: &[Candidate],
        order: &Order,
        chain: &str,
        key: &CertificateKey,
        now: i64,
    ) -> Result<Turn, NoTurn> {
        let mut changes = Vec::new();
        for member in members {
            let made = issued(
                &member.fqdn.to_resource(),
                &Id::from(order.authority.as_str()),
                chain,
                PlainText::new(key.pem().to_owned()),
                &mut |bytes| rand::fill(bytes),
            );
            let made = match made {
                Ok(made) => made,
                Err(error) => {
                    let problem =
                        simple("unusable", format!("what the authority issued cannot be used: {error}"));
                    return self.give_up(members, problem, now).await;
                }
            };
            let spec = made.resources.first().map(|resource| resource.spec.clone()).unwrap_or_default();
            let seconds =
                |field: &str| spec.get(field).and_then(serde_json::Value::as_i64).unwrap_or_default();
            let life = lifetime(seconds("not_before"), seconds("not_after"));
            let phase = Phase::Issued { renew_at: life.renew_at(rand::random()), ask_at: now };
            let after = Issuance { phase, ..Issuance::wanted(member.issuance.since) };
            changes.push(IssuanceChange { issued: Some(made), ..change(member, after) });
        }
        // Where a name stands elsewhere by now, the next turn finds the others.
        let kept = self.exchange(changes).await?;
        Ok(Turn::Next(if kept { "issued" } else { "a name of the order is gone" }.into()))
    }

    async fn reach(&self, members: &[Candidate], order: &Order, stage: Stage) -> Result<Turn, Stopped> {
        let Some(leader) = members.first() else { return Ok(wait(1_000)) };
        let phase = Phase::Ordered(Order { stage, ..order.clone() });
        self.becomes(leader, Issuance { phase, ..leader.issuance.clone() }).await?;
        Ok(Turn::Next(
            match stage {
                Stage::Publishing => "ordered",
                Stage::Validating => "the authority looks",
                Stage::Issuing => "the authority certifies",
            }
            .into(),
        ))
    }

    /// An order came to nothing for some of its names: they wait, the others are free again.
    async fn end(&self, members: &[Candidate], wrong: Vec<(Candidate, IssuanceProblem)>, now: i64) -> Taken {
        let mut changes: Vec<IssuanceChange> = Vec::new();
        for member in members {
            let problem =
                wrong.iter().find(|(one, _)| one.fqdn.id == member.fqdn.id).map(|(_, problem)| problem);
            changes.push(match problem {
                Some(problem) => failed(member, problem.clone(), now),
                None => change(member, member.issuance.waiting()),
            });
        }
        self.exchange(changes).await?;
        Ok(Turn::Next("came to nothing".into()))
    }

    async fn give_up(&self, members: &[Candidate], problem: IssuanceProblem, now: i64) -> Taken {
        let wrong = members.iter().map(|member| (member.clone(), problem.clone())).collect();
        self.end(members, wrong, now).await
    }

    /// The authority refused: the names that it speaks of, or all when it speaks of none.
    async fn refused(&self, members: &[Candidate], problems: Vec<NameProblem>, now: i64) -> Taken {
        let mut tx = self.read().await?;
        let mut wrong = Vec::new();
        for member in members {
            let name = &member.fqdn.spec.fqdn;
            let own = problems.iter().find(|problem| problem.name == *name);
            let none_is_named =
                problems.iter().all(|problem| !members.iter().any(|one| one.fqdn.spec.fqdn == problem.name));
            let Some(problem) = own.or_else(|| problems.first().filter(|_| none_is_named)) else { continue };
            let addresses = hosting_planner::edge_addresses(&mut tx, &member.fqdn).await?;
            wrong.push((member.clone(), problem_of(problem, name, &addresses)));
        }
        drop(tx);
        for (member, problem) in &wrong {
            tracing::info!(
                name = member.fqdn.spec.fqdn,
                code = problem.code,
                why = problem.message,
                "no certificate"
            );
        }
        self.end(members, wrong, now).await
    }

    /// The authority cannot be asked: it is left alone for a while, and another one has its turn.
    async fn not_asked(&self, authority: &Doc<CertificateAuthority>, error: &AcmeError) -> Taken {
        tracing::warn!(%error, authority = authority.spec.name, "a certificate authority is not asked for a while");
        let (problem, after) =
            (error.to_string(), if let AcmeError::RateLimited { after, .. } = error { *after } else { None });
        let after = after.map(|after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX).clamp(1_000, DAY));
        let is_setup = matches!(error, AcmeError::Setup(_));
        let pausing = move |state: &mut CertificateAuthorityState, now: i64| {
            state.failures = state.failures.saturating_add(1);
            let first = if is_setup { HOUR } else { FIRST_PAUSE };
            let pause = after.unwrap_or_else(|| doubled(first, state.failures, HOUR));
            state.paused_until = now + pause;
            state.problem = Some(problem);
        };
        self.change_authority(authority.typed_id(), pausing).await?;
        Ok(wait(500))
    }

    async fn change_authority(
        &self,
        id: Id<CertificateAuthority>,
        change: impl FnOnce(&mut CertificateAuthorityState, i64) + Send + 'static,
    ) -> Result<(), NoTurn> {
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move {
                hosting_planner::change_authority(tx, &id, |_, state, now| change(state, now)).await.map(drop)
            })
        });
        written.await.map(drop).map_err(NoTurn::from)
    }

    async fn asked_well(&self, authority: &Doc<CertificateAuthority>) -> Result<(), NoTurn> {
        if authority.state.problem.is_none() && authority.state.failures == 0 {
            return Ok(());
        }
        let free = |state: &mut CertificateAuthorityState, _: i64| {
            (state.paused_until, state.failures, state.problem) = (0, 0, None);
        };
        self.change_authority(authority.typed_id(), free).await
    }
}

/// The names of an order.
enum Members {
    /// The leading one first.
    These(Vec<Candidate>),
    /// Another name of the site has its place in the authority's allowance at this time, and takes this one along.
    Another(i64),
}

/// Why a step of an order did not come to its end.
#[derive(Debug)]
enum Stopped {
    NoTurn(NoTurn),
    Authority(AcmeError),
}

impl<E: Into<NoTurn>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::NoTurn(error.into())
    }
}

impl From<AcmeError> for Stopped {
    fn from(error: AcmeError) -> Self {
        Self::Authority(error)
    }
}

/// A certificate is wanted for it now, and nothing stands in the way.
fn wants_one(candidate: &Candidate, now: i64) -> bool {
    let is_due = match &candidate.issuance.phase {
        Phase::Waiting => candidate.issued().is_none(),
        Phase::Issued { renew_at, .. } => *renew_at <= now,
        Phase::Ordered(_) | Phase::Joined { .. } => false,
    };
    is_due
        && candidate.blocked.is_none()
        && candidate.issuance.failures == 0
        && candidate.brought_until().is_none()
}

/// The first way that is allowed, as far as it is offered.
fn chosen(offered: &OfferedName, allowed: &[ChallengeMethod]) -> Option<OpenChallenge> {
    allowed.iter().find_map(|method| {
        let offer = offered.offers.iter().find(|offer| offer.method == method.name())?;
        Some(OpenChallenge {
            method: *method,
            token: offer.token.clone(),
            key_authorization: offer.key_authorization.clone(),
        })
    })
}

pub(super) fn simple(code: &str, message: impl Into<String>) -> IssuanceProblem {
    IssuanceProblem { code: code.to_owned(), message: message.into(), remedy: String::new() }
}

fn no_authority() -> IssuanceProblem {
    IssuanceProblem {
        remedy: "an operator adds one: POST /certificate-authorities".into(),
        ..simple("no_authority", "there is no certificate authority that may be asked for names of the brand")
    }
}

fn change(member: &Candidate, after: Issuance) -> IssuanceChange {
    let id: Id<Fqdn> = member.fqdn.typed_id();
    IssuanceChange { id, before: member.issuance.clone(), after, issued: None }
}

fn failed(member: &Candidate, problem: IssuanceProblem, now: i64) -> IssuanceChange {
    let failures = member.issuance.failures.saturating_add(1);
    let not_before = now.saturating_add(wait_after(failures));
    change(member, Issuance { problem: Some(problem), failures, not_before, ..member.issuance.waiting() })
}

#[cfg(test)]
mod tests {
    use hosting_acme::Offer;

    use super::*;

    #[test]
    fn a_name_that_fails_waits_longer_each_time() {
        assert_eq!(
            [1, 2, 3, 7, 8, 100].map(wait_after).map(|wait| wait / MINUTE),
            [15, 30, 60, 960, 1_440, 1_440]
        );
        assert!(wait_after(u32::MAX) <= LONGEST_WAIT);
    }

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
        let both = [ChallengeMethod::TlsAlpn01, ChallengeMethod::Http01];
        assert_eq!(chosen(&offered, &both).unwrap().token, "tls-alpn-01");
        assert_eq!(chosen(&offered, &both[1..]).unwrap().token, "http-01");
        assert_eq!(chosen(&OfferedName { offers: vec![offer("dns-01")], ..offered }, &both), None);
    }
}
