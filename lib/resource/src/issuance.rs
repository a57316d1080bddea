//! How a host name comes by a certificate of a public authority (ACME, RFC 8555): what is kept of it, and what the API shows.
//!
//! Pure. The planner puts challenges on edges and certificates beside names; a job talks to authorities.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_intent::name::without_wildcard;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::timestamp;

/// How an authority looks whether a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ChallengeMethod {
    /// A file over HTTP, port 80 (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate in a handshake, port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record (RFC 8555 §8.4): for names in zones of this platform, and the only way for wildcards.
    #[serde(rename = "dns-01")]
    Dns01,
}

impl ChallengeMethod {
    /// As authorities and the API spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

/// What edges or name servers answer an authority about a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenChallenge {
    /// What the authority was told that it will find.
    pub method: ChallengeMethod,
    /// The authority's.
    pub token: String,
    /// The token and the digest of the account's key (RFC 8555 §8.1). No secret.
    pub key_authorization: String,
    /// The id of the zone that the TXT record stands in; `None`: edges answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl OpenChallenge {
    /// What the TXT record says (RFC 8555 §8.4).
    #[must_use]
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.key_authorization))
    }
}

/// The label below which the TXT records for authorities lie (RFC 8555 §8.4).
const CHALLENGE_LABEL: &str = "_acme-challenge.";

/// The owner name of the TXT record for a host name or a wildcard: the same for `a.example` and `*.a.example`.
#[must_use]
pub fn challenge_record(name: &str) -> String {
    format!("{CHALLENGE_LABEL}{}", without_wildcard(name))
}

/// The host name and the wildcard whose TXT record has this owner name.
#[must_use]
pub fn challenged_names(record: &str) -> Option<[String; 2]> {
    record.strip_prefix(CHALLENGE_LABEL).map(|name| [name.to_owned(), format!("*.{name}")])
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Edges are told the challenges.
    Publishing,
    /// The authority looks at them.
    Validating,
    /// The authority is given a key to certify, and certifies it.
    Issuing,
}

/// An order that is under way for some names of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The id of who is asked.
    pub authority: String,
    /// The account that asks with it.
    pub account: String,
    /// Where the authority keeps the order.
    pub url: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub since: i64,
    /// How far it is.
    pub stage: Stage,
    /// The ids of the names that it is for, the leading one first.
    pub names: Vec<String>,
}

/// Where a name stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is under way: the time for it has not come, or something is missing.
    Waiting,
    /// An order is under way that this name leads.
    Ordered(Order),
    /// An order is under way that another name leads.
    Joined {
        /// The id of the other name.
        leader: String,
        /// When the order is to be made, in milliseconds since the Unix epoch; 0: it is made.
        #[serde(default, skip_serializing_if = "is_any_time")]
        at: i64,
    },
    /// There is a certificate.
    Issued {
        /// When the next one is to be had, in milliseconds since the Unix epoch.
        renew_at: i64,
        /// When the authority is to be asked again when that is (ARI, RFC 9773); as `renew_at`.
        ask_at: i64,
    },
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct IssuanceProblem {
    /// For programs: `dns`, `caa`, `connection`, `unauthorized`, `rate_limited`, ...
    pub code: String,
    /// For people.
    pub message: String,
    /// What to change so that the next attempt succeeds; empty where nothing is to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// An order that an authority's allowance leaves room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// The id of whose allowance it is.
    pub authority: String,
    /// From when on, in milliseconds since the Unix epoch.
    pub at: i64,
    /// The ids of the other names that the order is to be for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}

/// Somebody wants another certificate in the place of the one that there is, before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reissue {
    /// The id of the authority whose certificate is to go.
    pub from: String,
    /// The id of the authority to ask; `None`: whoever is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What is kept of a name that a certificate is wanted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// Since when it is wanted, in milliseconds since the Unix epoch.
    pub since: i64,
    /// Where it stands.
    pub phase: Phase,
    /// What an authority that looks is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<OpenChallenge>,
    /// What stands in the way; `None`: nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<IssuanceProblem>,
    /// Attempts in a row that ended without a certificate.
    #[serde(default, skip_serializing_if = "is_none_failed")]
    pub failures: u32,
    /// No attempt before, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "is_any_time")]
    pub not_before: i64,
    /// The order that it waits for room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking: Option<Booking>,
    /// Another certificate is wanted before the time for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reissue: Option<Reissue>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_none_failed(failures: &u32) -> bool {
    *failures == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_any_time(at: &i64) -> bool {
    *at == 0
}

impl Issuance {
    /// Of a name that a certificate is wanted for from `now` on.
    #[must_use]
    pub const fn wanted(now: i64) -> Self {
        Self {
            since: now,
            phase: Phase::Waiting,
            challenge: None,
            problem: None,
            failures: 0,
            not_before: 0,
            booking: None,
            reissue: None,
        }
    }

    /// Whether an order may be made for it, or it may be taken along by one: nobody has, and the last attempt did not fail.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let is_wanted = match self.phase {
            Phase::Waiting => true,
            Phase::Issued { .. } => self.reissue.is_some(),
            Phase::Ordered(_) | Phase::Joined { .. } => false,
        };
        is_wanted && self.booking.is_none() && self.failures == 0
    }

    /// The names of the order that it leads, made or booked, by their ids.
    #[must_use]
    pub fn leads(&self) -> &[String] {
        match (&self.phase, &self.booking) {
            (Phase::Ordered(order), _) => &order.names,
            (_, Some(booking)) => &booking.with,
            (_, None) => &[],
        }
    }

    /// Whether it leads an order that another name is part of, by its id: one that is made, or whose time was less than `patience` ago. One
    /// that has not ordered by then has something in its way, and is not waited for. Times are in milliseconds.
    #[must_use]
    pub fn takes_along(&self, name: &str, now: i64, patience: i64) -> bool {
        let is_late = match (&self.phase, &self.booking) {
            (Phase::Ordered(_), _) | (_, None) => false,
            (_, Some(booking)) => now.saturating_sub(booking.at) >= patience,
        };
        !is_late && self.leads().iter().any(|one| one == name)
    }

    /// Where it stands, for people; whether that is as it should be first.
    #[must_use]
    pub fn summary(&self) -> (bool, String) {
        let standing = match &self.phase {
            Phase::Issued { renew_at, .. } => {
                format!("issued; the next one is had at {}", timestamp(*renew_at))
            }
            Phase::Ordered(_) => "an order is under way".to_owned(),
            Phase::Joined { leader, .. } => format!("waits for the order of {leader}"),
            Phase::Waiting => match &self.booking {
                Some(booking) => {
                    format!("is ordered at {}, when the authority has room", timestamp(booking.at))
                }
                None if self.failures > 0 => {
                    format!(
                        "{} attempts failed; the next one is at {}",
                        self.failures,
                        timestamp(self.not_before)
                    )
                }
                None => "waits".to_owned(),
            },
        };
        match &self.problem {
            None => (true, standing),
            Some(IssuanceProblem { code, message, remedy }) => {
                let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
                (false, format!("{standing}: {message} ({code}){remedy}"))
            }
        }
    }

    /// The same without anything under way.
    #[must_use]
    pub fn waiting(&self) -> Self {
        Self { phase: Phase::Waiting, challenge: None, booking: None, ..self.clone() }
    }
}

/// Where a name stands, as the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IssuanceState {
    /// Something is missing, or its time has not come.
    Waiting,
    /// The last attempt failed; another one is made by itself.
    Failed,
    /// Edges are told what the authority is to find.
    Publishing,
    /// The authority looks.
    Validating,
    /// The authority certifies.
    Issuing,
    /// There is a certificate.
    Issued,
}

/// How a name comes by its certificate.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IssuanceView {
    state: IssuanceState,
    /// RFC 3339. Since when a certificate is wanted.
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<IssuanceProblem>,
    /// Attempts in a row that ended without a certificate.
    failures: u32,
    /// RFC 3339. No attempt is made before. Absent where nothing is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// RFC 3339. When the next certificate is to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    renews_at: Option<String>,
    /// How the authority looks. While an order is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<ChallengeMethod>,
    /// The authority that is asked. While an order is under way that this name leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    authority_id: Option<String>,
    /// The authority whose certificate is replaced before its time, while it is (`POST /certificate-authorities/{id}/reissue`).
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_authority_id: Option<String>,
    /// The name that leads the order, when it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_id: Option<String>,
}

impl IssuanceView {
    pub(crate) fn of(issuance: Option<&Issuance>) -> Option<Self> {
        let Issuance { since, phase, challenge, problem, failures, not_before, booking, reissue } = issuance?;
        let state = match phase {
            Phase::Waiting if *failures > 0 => IssuanceState::Failed,
            Phase::Waiting | Phase::Joined { at: 1.., .. } => IssuanceState::Waiting,
            Phase::Ordered(Order { stage: Stage::Publishing, .. }) | Phase::Joined { .. } => {
                IssuanceState::Publishing
            }
            Phase::Ordered(Order { stage: Stage::Validating, .. }) => IssuanceState::Validating,
            Phase::Ordered(Order { stage: Stage::Issuing, .. }) => IssuanceState::Issuing,
            Phase::Issued { .. } => IssuanceState::Issued,
        };
        let booked = booking.as_ref().map(|booking| booking.at);
        let waits_until = match phase {
            Phase::Waiting => booked.map_or(*not_before, |at| at.max(*not_before)),
            Phase::Joined { at, .. } => *at,
            Phase::Ordered(_) | Phase::Issued { .. } => 0,
        };
        let is_waited_for = waits_until > 0;
        Some(Self {
            state,
            since: timestamp(*since),
            problem: problem.clone(),
            failures: *failures,
            next_attempt_at: is_waited_for.then(|| timestamp(waits_until)),
            renews_at: if let Phase::Issued { renew_at, .. } = phase {
                Some(timestamp(*renew_at))
            } else {
                None
            },
            challenge: challenge.as_ref().map(|challenge| challenge.method),
            authority_id: if let Phase::Ordered(order) = phase {
                Some(order.authority.clone())
            } else {
                None
            },
            replaces_authority_id: reissue.as_ref().map(|reissue| reissue.from.clone()),
            leader_id: if let Phase::Joined { leader, .. } = phase { Some(leader.clone()) } else { None },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let order = Order {
            authority: "ca-1".into(),
            account: "platform".into(),
            url: "https://ca.example/order/1".into(),
            since: 7,
            stage: Stage::Validating,
            names: vec!["f-1".into()],
        };
        let challenge = OpenChallenge {
            method: ChallengeMethod::TlsAlpn01,
            token: "t".into(),
            key_authorization: "t.d".into(),
            zone: Some("z-1".into()),
        };
        let phases = [
            Phase::Waiting,
            Phase::Ordered(order),
            Phase::Joined { leader: "f-2".into(), at: 7 },
            Phase::Issued { renew_at: 5, ask_at: 4 },
        ];
        for phase in phases {
            let issuance = Issuance { phase, challenge: Some(challenge.clone()), ..Issuance::wanted(3) };
            let kept = serde_json::to_value(&issuance).unwrap();
            assert_eq!(serde_json::from_value::<Issuance>(kept.clone()).unwrap(), issuance, "{kept}");
        }
    }

    #[test]
    fn a_record_is_for_a_name_and_its_wildcard() {
        assert_eq!(challenge_record("*.a.example"), "_acme-challenge.a.example");
        assert_eq!(challenge_record("a.example"), "_acme-challenge.a.example");
        assert_eq!(
            challenged_names("_acme-challenge.a.example"),
            Some(["a.example".into(), "*.a.example".into()])
        );
        assert_eq!(challenged_names("a.example"), None);
        // RFC 8555 §8.4: base64url of the SHA-256 digest.
        let open = OpenChallenge {
            method: ChallengeMethod::Dns01,
            token: "t".into(),
            key_authorization: "abc".into(),
            zone: None,
        };
        assert_eq!(open.text(), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
    }

    #[test]
    fn who_joined_an_order_waits_for_it_and_not_for_one_that_is_never_made() {
        let booking = Booking { authority: "ca".into(), at: 1_000, with: vec!["f-2".into()] };
        let books = Issuance { booking: Some(booking), ..Issuance::wanted(0) };
        assert!(books.takes_along("f-2", 500, 100) && books.takes_along("f-2", 1_099, 100));
        assert!(!books.takes_along("f-2", 1_100, 100), "something is in its way");
        assert!(!books.takes_along("f-3", 500, 100) && !Issuance::wanted(0).takes_along("f-2", 0, 100));
        let order = Order {
            authority: "ca".into(),
            account: "platform".into(),
            url: String::new(),
            since: 1_000,
            stage: Stage::Issuing,
            names: vec!["f-1".into(), "f-2".into()],
        };
        let orders = Issuance { phase: Phase::Ordered(order), ..Issuance::wanted(0) };
        assert!(orders.takes_along("f-2", 999_999, 100), "an order has a time of its own");
        assert!(!orders.takes_along("f-3", 1_000, 100));
    }

    #[test]
    fn people_see_what_failed_and_when_it_goes_on() {
        assert!(IssuanceView::of(None).is_none());
        let show = |issuance: &Issuance| serde_json::to_value(IssuanceView::of(Some(issuance))).unwrap();
        let new = Issuance::wanted(0);
        assert_eq!(show(&new), json!({"state": "waiting", "since": "1970-01-01T00:00:00Z", "failures": 0}));
        let problem = IssuanceProblem { code: "caa".into(), message: "no".into(), remedy: "do".into() };
        let failed = Issuance { failures: 2, not_before: 60_000, problem: Some(problem), ..new };
        let shown = show(&failed);
        assert_eq!(
            (&shown["state"], &shown["next_attempt_at"]),
            (&json!("failed"), &json!("1970-01-01T00:01:00Z"))
        );
        assert_eq!(shown["problem"], json!({"code": "caa", "message": "no", "remedy": "do"}));
        assert_eq!(
            failed.summary(),
            (false, "2 attempts failed; the next one is at 1970-01-01T00:01:00Z: no (caa); do".into())
        );
        let issued = Issuance { phase: Phase::Issued { renew_at: 60_000, ask_at: 1 }, ..Issuance::wanted(0) };
        assert_eq!(issued.summary(), (true, "issued; the next one is had at 1970-01-01T00:01:00Z".into()));
        assert_eq!(show(&issued)["renews_at"], "1970-01-01T00:01:00Z");
    }
}
