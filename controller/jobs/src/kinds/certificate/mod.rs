//! Gets a name its certificates: one job for each name that wants one, for as long as it does. Where a name stands is kept with it
//! ([`Issuance`]); each turn of the job does the next thing and says when it wants its next turn, so that a controller may end at any moment.
//!
//! | room | what is in it |
//! |---|---|
//! | `accounts` | accounts with authorities |
//! | `begin` | who is asked, for which names, when, and the making of the order |
//! | `order` | an order from then on to the certificate |
//! | `remedy` | what a person is to change when an order failed |

mod accounts;
mod begin;
mod order;
mod remedy;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use hosting_acme::AcmeError;
use hosting_acme::renewal::Lifetime;
use hosting_planner::gates::Fleet;
use hosting_planner::{Candidate, ISSUE_CERTIFICATE, IssuanceChange, PlanError};
use hosting_resource::issuance::{Issuance, IssuanceProblem, Phase};
use hosting_resource::kinds::certificate::{Certificate, chain_der};
use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::{Doc, Id, Kind, Status, timestamp};
use hosting_store::{Origin, ReadTx, Store, StoreError, WriteError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::accounts::{Accounts, SharedAccounts};
use super::JobDeps;
use super::ownership::{Dns, WebLook};
use crate::clock::DAY;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Authorities are asked when to renew at least this often (RFC 9773 §4.3 leaves it to them; twice a day is what they ask for).
const ASK_EACH: i64 = DAY / 2;
/// And no more often than this, whatever they say.
const ASK_NOT_BEFORE: i64 = HOUR;
/// What is waited for inside of the platform is looked at again after so long.
const SOON: Duration = Duration::from_millis(500);

/// The fleet, as jobs see it.
#[derive(Clone)]
pub struct SharedFleet(pub Arc<dyn Fleet>);

impl fmt::Debug for SharedFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedFleet")
    }
}

/// The kind.
pub struct IssueCertificate {
    store: Store,
    fleet: SharedFleet,
    accounts: SharedAccounts,
    world: Result<(Dns, WebLook), String>,
}

/// Which name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateParams {
    /// Its id.
    pub id: Id<Fqdn>,
}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    let world =
        Dns::new(&deps.ownership).and_then(|dns| Ok((dns.clone(), WebLook::new(&deps.ownership, dns)?)));
    if let Err(why) = &world {
        tracing::error!(%why, "names cannot be looked at before authorities are asked for them");
    }
    Arc::new(IssueCertificate {
        store: deps.store.clone(),
        fleet: deps.fleet.clone(),
        accounts: Arc::new(Accounts::new(deps.store.clone())),
        world,
    })
}

/// What a turn came to.
enum Turn {
    /// The next thing can be done at once; what was done, in words.
    Next(String),
    /// Nothing is to be done for so long.
    Wait(Duration),
}

fn wait(milliseconds: i64) -> Turn {
    Turn::Wait(Duration::from_millis(milliseconds.max(0).unsigned_abs()))
}

/// Why a turn did not come to its end. Only the store's failures are failures of the job.
#[derive(Debug, thiserror::Error)]
enum NoTurn {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Write(#[from] WriteError<PlanError>),
}

type Taken = Result<Turn, NoTurn>;

/// How long until a name that is not ready is looked at again, by how long it has been wanted.
fn patience(issuance: &Issuance, now: i64) -> Turn {
    wait(match now.saturating_sub(issuance.since) {
        age if age < MINUTE => 1_000,
        age if age < 10 * MINUTE => 10_000,
        age if age < HOUR => MINUTE,
        age if age < DAY => 10 * MINUTE,
        _ => HOUR,
    })
}

/// Of a certificate that is good between two times, in seconds since the Unix epoch.
fn lifetime(not_before: i64, not_after: i64) -> Lifetime {
    Lifetime { begins: not_before.saturating_mul(1_000), ends: not_after.saturating_mul(1_000) }
}

fn lifetime_of(certificate: &Doc<Certificate>) -> Lifetime {
    lifetime(certificate.spec.not_before, certificate.spec.not_after)
}

impl IssueCertificate {
    async fn read(&self) -> Result<ReadTx, StoreError> {
        self.store.read().await
    }

    async fn candidate(&self, id: &Id<Fqdn>) -> Result<Option<Candidate>, NoTurn> {
        Ok(hosting_planner::candidate(&mut self.read().await?, id).await?)
    }

    /// Changes where names stand, all or none: false when one of them stands elsewhere by now.
    async fn exchange(&self, changes: Vec<IssuanceChange>) -> Result<bool, NoTurn> {
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::exchange_issuances(tx, changes).await })
        });
        Ok(written.await?.value)
    }

    async fn becomes(&self, candidate: &Candidate, after: Issuance) -> Result<bool, NoTurn> {
        if after == candidate.issuance {
            return Ok(true);
        }
        let change = IssuanceChange {
            id: candidate.fqdn.typed_id(),
            before: candidate.issuance.clone(),
            after,
            issued: None,
        };
        self.exchange(vec![change]).await
    }

    /// Notes what stands in the way, where that is news.
    async fn stands_in_the_way(&self, candidate: &Candidate, problem: IssuanceProblem) -> Result<(), NoTurn> {
        let after = Issuance { problem: Some(problem), ..candidate.issuance.clone() };
        self.becomes(candidate, after).await.map(drop)
    }

    async fn turn(&self, candidate: Candidate) -> Taken {
        match candidate.issuance.phase.clone() {
            Phase::Waiting => self.waiting(candidate).await,
            Phase::Ordered(order) => self.go_on(candidate, order).await,
            Phase::Joined { leader, at } => self.joined(candidate, leader, at).await,
            Phase::Issued { renew_at, ask_at } => Box::pin(self.keep(candidate, renew_at, ask_at)).await,
        }
    }

    async fn waiting(&self, candidate: Candidate) -> Taken {
        let now = self.store.now();
        if let Some(certificate) = candidate.issued().filter(|_| candidate.issuance.failures == 0) {
            let renew_at = lifetime_of(certificate).renew_at(rand::random());
            if renew_at > now {
                let phase = Phase::Issued { renew_at, ask_at: now };
                self.becomes(&candidate, Issuance { phase, problem: None, ..candidate.issuance.clone() })
                    .await?;
                return Ok(Turn::Next("has a certificate".into()));
            }
        }
        if let Some(until) = candidate.brought_until() {
            // Whoever brings certificates brings the next one in time, or does not.
            let step_in = until - (until - candidate.issuance.since).max(0) / 10;
            if step_in > now {
                let message =
                    format!("the name has a certificate that was brought, until {}", timestamp(until));
                self.stands_in_the_way(&candidate, order::simple("brought", message)).await?;
                return Ok(wait((step_in - now).min(DAY)));
            }
        }
        if let Some(problem) = candidate.blocked.clone() {
            let turn = patience(&candidate.issuance, now);
            self.stands_in_the_way(&candidate, problem).await?;
            return Ok(turn);
        }
        // A clock that was put back does not make anybody wait for longer than the longest wait.
        let wait_for = candidate.issuance.not_before.saturating_sub(now);
        if wait_for > 0 && wait_for <= order::LONGEST_WAIT {
            return Ok(wait(wait_for));
        }
        self.begin(candidate).await
    }

    async fn joined(&self, candidate: Candidate, leader: String, at: i64) -> Taken {
        let now = self.store.now();
        let leader = self.candidate(&Id::from(leader.as_str())).await?;
        let leads = leader.is_some_and(|leader| leader.issuance.takes_along(&candidate.fqdn.id, now, HOUR));
        if leads {
            // Whoever leads wakes it when the order ends.
            return Ok(wait((at - now).clamp(MINUTE, 10 * MINUTE)));
        }
        self.becomes(&candidate, candidate.issuance.waiting()).await?;
        Ok(Turn::Next("the order that it was part of is gone".into()))
    }

    /// Keeps a certificate as new as it has to be.
    async fn keep(&self, candidate: Candidate, renew_at: i64, ask_at: i64) -> Taken {
        let now = self.store.now();
        let Some(newest) = candidate.issued().cloned() else {
            self.becomes(&candidate, candidate.issuance.waiting()).await?;
            return Ok(Turn::Next("its certificate is gone".into()));
        };
        if newest.status != Status::Active {
            return Ok(wait(1_000));
        }
        self.retire_former(&candidate, &newest).await?;
        if now >= renew_at || candidate.issuance.reissue.is_some() {
            return self.begin(candidate).await;
        }
        if now < ask_at && ask_at - now <= ASK_EACH {
            return Ok(wait(ask_at.min(renew_at) - now));
        }
        let (renew_at, ask_at) = self.ask_when(&newest, renew_at, now).await?;
        let phase = Phase::Issued { renew_at, ask_at };
        self.becomes(&candidate, Issuance { phase, ..candidate.issuance.clone() }).await?;
        Ok(wait(ask_at.min(renew_at) - now))
    }

    /// Deletes the certificates that the newest one took the place of, once every edge in service shows that.
    async fn retire_former(&self, candidate: &Candidate, newest: &Doc<Certificate>) -> Result<(), NoTurn> {
        let issued = candidate.certificates.iter().filter(|one| one.spec.origin == newest.spec.origin);
        let former: Vec<String> =
            issued.filter(|one| one.id != newest.id).map(|one| one.id.clone()).collect();
        if former.is_empty() {
            return Ok(());
        }
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move {
                for id in former {
                    hosting_planner::delete_for_good(tx, Kind::Certificate, &id).await?;
                }
                Ok(())
            })
        });
        written.await.map(drop).map_err(NoTurn::from)
    }

    /// When to renew, as the authority says, and when to ask it again.
    async fn ask_when(
        &self,
        newest: &Doc<Certificate>,
        renew_at: i64,
        now: i64,
    ) -> Result<(i64, i64), NoTurn> {
        let Some(authority) = self.authority(newest.spec.authority_id.as_ref()).await? else {
            return Ok((renew_at, now + ASK_EACH));
        };
        let leaf = chain_der(&newest.spec).into_iter().next().unwrap_or_default();
        let name = authority.spec.account_of(newest.brand.as_deref());
        let account = match self.accounts.of(&authority, &name).await {
            Ok(account) => account,
            Err(accounts::NoAccount::Store(error)) => return Err(error.into()),
            Err(accounts::NoAccount::Authority(error)) => {
                tracing::debug!(%error, authority = authority.spec.name, "not asked when to renew");
                return Ok((renew_at, now + HOUR));
            }
        };
        Ok(match account.renewal_window(&leaf).await {
            Ok(Some((window, again))) => {
                // The same point of the window each time, as long as it is the same window.
                let share = share_of(&newest.spec.fingerprint);
                let ask_at = now + again.clamp(ASK_NOT_BEFORE, ASK_EACH);
                (lifetime_of(newest).renew_within(window, share), ask_at)
            }
            Ok(None) => (renew_at, now + ASK_EACH),
            Err(error) => {
                tracing::debug!(%error, authority = authority.spec.name, "does not say when to renew");
                let after = if let AcmeError::RateLimited { after: Some(after), .. } = &error {
                    i64::try_from(after.as_millis()).unwrap_or(i64::MAX)
                } else {
                    HOUR
                };
                (renew_at, now + after.clamp(ASK_NOT_BEFORE, ASK_EACH))
            }
        })
    }

    async fn authority(
        &self,
        id: Option<&Id<CertificateAuthority>>,
    ) -> Result<Option<Doc<CertificateAuthority>>, NoTurn> {
        let Some(id) = id else { return Ok(None) };
        let found = hosting_planner::World::resource(&mut self.read().await?, id).await;
        let found = found.map_err(PlanError::from)?;
        let found = found.filter(|found| found.kind == Kind::CertificateAuthority);
        Ok(found.map(Doc::read).transpose().map_err(PlanError::from)?)
    }
}

/// A number from 0 to 1 that follows from a fingerprint.
fn share_of(fingerprint: &str) -> f64 {
    let digits = fingerprint.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    f64::from(digits.unwrap_or_default()) / f64::from(u32::MAX)
}

#[async_trait]
impl JobKind for IssueCertificate {
    type Params = CertificateParams;

    const FACTS: KindFacts = KindFacts {
        name: ISSUE_CERTIFICATE,
        about: "Gets a name certificates of a public authority, and keeps them new.",
        steps: &["issue"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        Limits {
            attempts: 1_000_000,
            backoff: Backoff { first: 5_000, most: 3_600_000 },
            rate: Rate { each: Duration::from_millis(2), burst: 200 },
            at_once: 32,
            step_time: Duration::from_secs(300),
        }
    }

    fn show(params: &CertificateParams) -> Value {
        json!({"id": params.id})
    }

    async fn step(&self, at: At<'_, CertificateParams>) -> Result<Went, Failure> {
        let candidate =
            self.candidate(&at.params.id).await.map_err(|error| Failure::later(error.to_string()))?;
        let Some(candidate) = candidate else {
            return Ok(Went::Done(json!({"found": "no certificate is wanted for the name"})));
        };
        // Boxed: a turn is large, and most turns are over at once.
        let turn: BoxFuture<'_, Taken> = Box::pin(self.turn(candidate));
        match turn.await.map_err(|error| Failure::later(error.to_string()))? {
            Turn::Next(what) => Ok(Went::More(what)),
            Turn::Wait(pause) => Ok(Went::Postponed(pause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_many_at_first_and_few_later() {
        let issuance = Issuance::wanted(1_000);
        for (age, pause) in
            [(0, 1_000), (2 * MINUTE, 10_000), (2 * HOUR, 10 * MINUTE), (3 * DAY, HOUR), (-DAY, 1_000)]
        {
            let Turn::Wait(found) = patience(&issuance, 1_000 + age) else { panic!() };
            assert_eq!(found.as_millis(), pause.unsigned_abs().into(), "{age}");
        }
    }

    #[test]
    fn a_share_follows_from_the_certificate() {
        assert_eq!((share_of("00000000ab"), share_of("ffffffff00"), share_of("")), (0.0, 1.0, 0.0));
        assert!((share_of("80000000") - 0.5).abs() < 0.01);
    }
}
