//! An order, from its making to the certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use hosting_acme::{Account, AcmeError, CertificateKey, NameProblem, OrderProgress};
use hosting_planner::gates::Truth;
use hosting_planner::{Candidate, IssuanceChange, PlanError};
use hosting_resource::issuance::{
    ChallengeMethod, Issuance, IssuanceProblem, OpenChallenge, Order, Phase, Stage, challenge_record,
};
use hosting_resource::kinds::certificate::issued;
use hosting_resource::kinds::certificate_authority::{
    CertificateAuthority, CertificateAuthoritySpec, CertificateAuthorityState,
};
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::{Doc, Id, PlainText, timestamp};
use hosting_store::Origin;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::accounts::NoAccount;
use super::remedy::{leading, problem_of};
use super::{HOUR, IssueCertificate, MINUTE, NoTurn, SOON, Taken, Turn, lifetime, wait};
use crate::clock::DAY;
use crate::kinds::ownership::Answer;

/// An order that is no further after so long is given up, in milliseconds.
const ORDER_TIME: i64 = HOUR;
/// Edges that do not answer a challenge after so long are not waited for.
const EDGES_TIME: i64 = 10 * MINUTE;
/// Resolvers that do not find a record after so long are believed.
const RECORD_TIME: i64 = 3 * MINUTE;
/// The authority's clock may be ahead by so much: a certificate is shown when ours says that it is good.
const SKEW: i64 = HOUR;
/// Between two attempts at a name that failed; authorities allow few failures an hour.
const FIRST_WAIT: i64 = 15 * MINUTE;
/// The same after a first failure that may be gone a moment later: a packet that was lost on the way to the name.
const SHORT_WAIT: i64 = MINUTE;
/// The longest time between two attempts.
pub(super) const LONGEST_WAIT: i64 = DAY;
/// An authority that fails is asked for nothing for so long.
const FIRST_PAUSE: i64 = MINUTE;
/// And when it refused nonces.
const NONCE_PAUSE: i64 = 2_000;

/// How long a name waits after so many failures in a row, the last one of this code. Authorities ask over the network, and what we saw of the name
/// before was well; five failures an hour are the least that any of them allows.
fn wait_after(failures: u32, code: &str) -> i64 {
    if failures <= 1 && matches!(code, "connection" | "dns") {
        return SHORT_WAIT;
    }
    doubled(FIRST_WAIT, failures, LONGEST_WAIT)
}

/// An authority failed: nobody asks it for `first` milliseconds, twice as long each time, or for as long as it says. Many orders are under way at
/// once: what fails while it is left alone already was asked before that, and makes the pause no longer.
fn leave_alone(state: &mut CertificateAuthorityState, now: i64, first: i64, said: Option<i64>) {
    let is_left_alone = state.paused_until > now;
    if !is_left_alone {
        state.failures = state.failures.saturating_add(1);
        state.paused_until = now.saturating_add(doubled(first, state.failures, HOUR));
    }
    if let Some(said) = said {
        let until = now.saturating_add(said);
        state.paused_until = if is_left_alone { state.paused_until.max(until) } else { until };
    }
}

fn doubled(first: i64, times: u32, most: i64) -> i64 {
    first.saturating_mul(1_i64 << times.saturating_sub(1).min(20)).min(most)
}

impl IssueCertificate {
    /// The next thing to be done for an order.
    pub(super) async fn go_on(&self, candidate: Candidate, order: Order) -> Taken {
        let now = self.store.now();
        let mut members = vec![candidate.clone()];
        for id in order.names.iter().filter(|id| **id != candidate.fqdn.id) {
            let other = self.candidate(&Id::from(id.as_str())).await?;
            members.extend(other.filter(|other| joins(other, &candidate.fqdn.id)));
        }
        let Some(authority) = self.authority(Some(&Id::from(order.authority.as_str()))).await? else {
            self.store.forget_sealed(&place_of_key(&order)).await?;
            return self
                .give_up(&members, simple("no_authority", "the authority is not asked any more"), now)
                .await;
        };
        let age = now.saturating_sub(order.since);
        if !(0..ORDER_TIME).contains(&age) {
            self.store.forget_sealed(&place_of_key(&order)).await?;
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
                self.store.forget_sealed(&place_of_key(&order)).await?;
                self.refused(&members, problems, now).await
            }
            Err(Stopped::Authority(AcmeError::RateLimited { after, .. })) => {
                Ok(Turn::Wait(after.unwrap_or(Duration::from_secs(30)).min(Duration::from_secs(600))))
            }
            Err(Stopped::Authority(
                error @ (AcmeError::Unavailable(_) | AcmeError::Nonce(_) | AcmeError::Setup(_)),
            )) => {
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
        let open = members.iter().filter(|one| one.issuance.challenge.is_some());
        let answering: Vec<Doc<Fqdn>> = open.map(|one| one.fqdn.clone()).collect();
        let mut tx = self.read().await?;
        let (truth, why) = hosting_planner::challenges_answered(&mut tx, &*self.fleet.0, &answering)
            .await
            .map_err(NoTurn::from)?;
        match truth {
            Truth::True => {}
            Truth::Waiting if now - order.since < EDGES_TIME => return Ok(Turn::Wait(SOON)),
            Truth::Waiting | Truth::Failed => {
                let problem =
                    simple("not_answered", format!("not every machine answers the authority: {why}"));
                return Ok(self.give_up(members, problem, now).await?);
            }
        }
        let mut wrong = Vec::new();
        for member in members {
            let Some(challenge) = &member.issuance.challenge else { continue };
            let problem = if challenge.method == ChallengeMethod::Dns01 {
                // A resolver may keep what an order before this one left.
                match self.is_hidden(member, challenge, &mut tx).await? {
                    Some(_) if now - order.since < RECORD_TIME => return Ok(wait(5_000)),
                    hidden => hidden,
                }
            } else {
                self.leads_elsewhere(member, challenge, &mut tx).await?
            };
            wrong.extend(problem.map(|problem| (member.clone(), problem)));
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
        challenge: &OpenChallenge,
        tx: &mut hosting_store::ReadTx,
    ) -> Result<Option<IssuanceProblem>, NoTurn> {
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

    /// What is wrong when resolvers do not find the TXT record that our name servers have.
    async fn is_hidden(
        &self,
        member: &Candidate,
        challenge: &OpenChallenge,
        tx: &mut hosting_store::ReadTx,
    ) -> Result<Option<IssuanceProblem>, NoTurn> {
        let Ok((dns, _)) = &self.world else { return Ok(None) };
        let record = challenge_record(&member.fqdn.spec.fqdn);
        let message = match dns.texts(&record).await {
            Answer::Found(texts) if texts.contains(&challenge.text()) => return Ok(None),
            Answer::Failed(_) => return Ok(None),
            Answer::Found(_) => format!("the TXT record {record} says something else to resolvers"),
            Answer::Nothing => format!("resolvers do not find the TXT record {record}"),
        };
        let zone = challenge.zone.as_deref().unwrap_or_default();
        let remedy = hosting_planner::delegation_wanted(tx, &Id::from(zone)).await?;
        Ok(Some(IssuanceProblem { code: "dns".into(), message, remedy }))
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
        let kept = place_of_key(order);
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
                if matches!(turn, Turn::Next(_)) {
                    self.store.forget_sealed(&kept).await?;
                }
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
        // What was issued together is renewed together.
        let share = rand::random();
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
            let early = life.begins.saturating_sub(now);
            if (1..=SKEW).contains(&early) {
                return Ok(wait(early));
            }
            if early > SKEW || life.ends <= now {
                let message = format!(
                    "what the authority issued is good from {} to {}, and this controller's clock says {}",
                    timestamp(life.begins),
                    timestamp(life.ends),
                    timestamp(now)
                );
                let remedy = "set the clock of the controller's machine".to_owned();
                let problem = IssuanceProblem { remedy, ..simple("clock", message) };
                return self.give_up(members, problem, now).await;
            }
            let phase = Phase::Issued { renew_at: life.renew_at(share), ask_at: now };
            let after = Issuance { phase, ..Issuance::wanted(member.issuance.since) };
            changes.push(IssuanceChange { issued: Some(made), ..change(member, after) });
        }
        let mut replaced: BTreeMap<String, u64> = BTreeMap::new();
        for reissue in members.iter().filter_map(|member| member.issuance.reissue.as_ref()) {
            *replaced.entry(reissue.from.clone()).or_default() += 1;
        }
        let (own, since) = (Id::from(order.authority.as_str()), order.since);
        let names = members.len() as u64;
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move {
                // Where a name stands elsewhere by now, the next turn finds the others.
                if !hosting_planner::exchange_issuances(tx, changes).await? {
                    return Ok(false);
                }
                let note = |spec: &CertificateAuthoritySpec, state: &mut CertificateAuthorityState, _| {
                    state.took(names, since, now, spec.orders);
                };
                hosting_planner::change_authority(tx, &own, note).await?;
                for (from, names) in replaced {
                    let note =
                        |state: &mut CertificateAuthorityState| hosting_planner::note_reissued(state, names);
                    hosting_planner::change_authority(tx, &Id::from(from.as_str()), |_, state, _| {
                        note(state)
                    })
                    .await?;
                }
                Ok::<_, PlanError>(true)
            })
        });
        let kept = written.await.map_err(NoTurn::from)?.value;
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
    pub(super) async fn refused(&self, members: &[Candidate], problems: Vec<NameProblem>, now: i64) -> Taken {
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
    pub(super) async fn not_asked(&self, authority: &Doc<CertificateAuthority>, error: &AcmeError) -> Taken {
        tracing::warn!(%error, authority = authority.spec.name, "a certificate authority is not asked for a while");
        let (problem, after) =
            (error.to_string(), if let AcmeError::RateLimited { after, .. } = error { *after } else { None });
        let after = after.map(|after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX).clamp(1_000, DAY));
        let first = match error {
            AcmeError::Setup(_) => HOUR,
            AcmeError::Nonce(_) => NONCE_PAUSE,
            AcmeError::RateLimited { .. } | AcmeError::Unavailable(_) | AcmeError::Refused(_) => FIRST_PAUSE,
        };
        let pausing = move |state: &mut CertificateAuthorityState, now: i64| {
            leave_alone(state, now, first, after);
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

    pub(super) async fn asked_well(&self, authority: &Doc<CertificateAuthority>) -> Result<(), NoTurn> {
        if authority.state.problem.is_none() && authority.state.failures == 0 {
            return Ok(());
        }
        let free = |state: &mut CertificateAuthorityState, _: i64| {
            (state.paused_until, state.failures, state.problem) = (0, 0, None);
        };
        self.change_authority(authority.typed_id(), free).await
    }
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

pub(super) fn simple(code: &str, message: impl Into<String>) -> IssuanceProblem {
    IssuanceProblem { code: code.to_owned(), message: message.into(), remedy: String::new() }
}

/// Where the key of an order is sealed.
fn place_of_key(order: &Order) -> String {
    format!("acme/key/{}", hex::encode(Sha256::digest(&order.url)))
}

/// Whether a name is part of the order that another one leads.
pub(super) fn joins(candidate: &Candidate, leads: &str) -> bool {
    matches!(&candidate.issuance.phase, Phase::Joined { leader, .. } if leader == leads)
}

pub(super) fn change(member: &Candidate, after: Issuance) -> IssuanceChange {
    let id: Id<Fqdn> = member.fqdn.typed_id();
    IssuanceChange { id, before: member.issuance.clone(), after, issued: None }
}

pub(super) fn failed(member: &Candidate, problem: IssuanceProblem, now: i64) -> IssuanceChange {
    let failures = member.issuance.failures.saturating_add(1);
    let not_before = now.saturating_add(wait_after(failures, &problem.code));
    change(member, Issuance { problem: Some(problem), failures, not_before, ..member.issuance.waiting() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_at_once_is_one_failure_of_the_authority() {
        let mut state = CertificateAuthorityState::default();
        for n in 0..20 {
            leave_alone(&mut state, 1_000 + n, MINUTE, None);
        }
        assert_eq!((state.failures, state.paused_until), (1, 1_000 + MINUTE));
        // It says itself how long it is to be left alone.
        leave_alone(&mut state, 1_100, MINUTE, Some(5 * MINUTE));
        assert_eq!((state.failures, state.paused_until), (1, 1_100 + 5 * MINUTE));
        leave_alone(&mut state, 1_100, MINUTE, Some(1_000));
        assert_eq!(state.paused_until, 1_100 + 5 * MINUTE);
        // Asked again, and failed again.
        let later = 10 * MINUTE;
        leave_alone(&mut state, later, MINUTE, None);
        assert_eq!((state.failures, state.paused_until), (2, later + 2 * MINUTE));
        leave_alone(&mut state, 20 * MINUTE, MINUTE, Some(7));
        assert_eq!((state.failures, state.paused_until), (3, 20 * MINUTE + 7));
    }

    #[test]
    fn a_name_that_fails_waits_longer_each_time() {
        assert_eq!(
            [1, 2, 3, 7, 8, 100].map(|failures| wait_after(failures, "unauthorized") / MINUTE),
            [15, 30, 60, 960, 1_440, 1_440]
        );
        assert!(wait_after(u32::MAX, "caa") <= LONGEST_WAIT);
        // What may be gone a moment later is tried once more soon, and then like all others.
        for code in ["connection", "dns"] {
            assert_eq!([1, 2, 3].map(|failures| wait_after(failures, code) / MINUTE), [1, 30, 60]);
        }
    }
}
