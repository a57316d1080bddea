//! Whether a name is shown to be its tenant's: what is kept of it, and the record, file or delegation that shows it.
//!
//! Pure. The planner decides which names have to be shown, a job looks whether they are, the API tells what to create.

use hosting_intent::name::without_wildcard;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::timestamp;

/// The label below which the TXT record of a name lies.
const CHALLENGE_LABEL: &str = "_hosting-challenge";
/// The folder of the file on a web server; the id of the resource follows.
const CHALLENGE_PATH: &str = "/.well-known/hosting-challenge/";
/// A proof that so many looks in a row did not find again has lapsed. Looks are counted, not time: a clock that jumps makes one look.
pub const MISSES: u32 = 7;
/// Looks that are closer together than this, in milliseconds, are one miss: whoever asks for many looks does not end a proof by that.
pub const MISS_EACH: i64 = 12 * 3_600_000;

/// Whether tenants of a brand have to show that names are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NameVerification {
    /// A name is served as soon as it is claimed.
    #[default]
    Off,
    /// A name claimed from now on is served once it is shown to be the tenant's.
    Required,
}

/// What shows that a name is its tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// It lies in a zone of this platform that is its tenant's by such a proof, or its brand's.
    Zone,
    /// The TXT record.
    Txt,
    /// The zone above delegates it to the brand's name servers.
    Delegation,
    /// The file on the web server that the name leads to.
    Http,
    /// It lay in a zone that showed it, which is gone; looks decide whether it lapses.
    Former,
}

/// What is kept of a name that has to be shown to be its tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ownership {
    /// Since when it has been asked for, in milliseconds since the Unix epoch.
    pub since: i64,
    /// What shows it; `None`: it is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// When it was shown first; 0: never.
    #[serde(skip_serializing_if = "is_never")]
    pub verified_at: i64,
    /// When it was looked for last; 0: never. A look that found what the one before found moves it once an hour.
    #[serde(skip_serializing_if = "is_never")]
    pub checked_at: i64,
    /// Looks in a row that did not find the proof again.
    #[serde(skip_serializing_if = "is_none_missed")]
    pub misses: u32,
    /// When the last one of these was, in milliseconds since the Unix epoch: several looks within a short time are one miss.
    #[serde(skip_serializing_if = "is_never")]
    pub missed_at: i64,
    /// What the last look found, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The name servers that a zone may be delegated to; empty for a host name, and for a zone of which a delegation says nothing
    /// because another tenant had it before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_never(at: &i64) -> bool {
    *at == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_none_missed(misses: &u32) -> bool {
    *misses == 0
}

impl Ownership {
    /// A name that is asked for from `now` on.
    #[must_use]
    pub fn asked(now: i64) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// Whether it is shown.
    #[must_use]
    pub const fn is_shown(&self) -> bool {
        self.proof.is_some()
    }

    /// It was shown once, and is no longer.
    #[must_use]
    pub const fn has_lapsed(&self) -> bool {
        self.proof.is_none() && self.verified_at != 0
    }
}

/// Whether a name may be served as far as its ownership goes: it is shown, or nobody asks.
#[must_use]
pub fn is_servable(ownership: Option<&Ownership>) -> bool {
    ownership.is_none_or(Ownership::is_shown)
}

/// How a claim is shown: everything that its tenant may create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Owner name of the TXT record, absolute, without a trailing dot.
    pub record: String,
    /// What the TXT record or the file says, alone. Another claim of the same name has another one.
    pub token: String,
    /// The file's path.
    pub path: String,
}

impl Challenge {
    /// The challenge of the resource `id` that claims `name`. It follows from both, so it is stored nowhere and never changes. It is no
    /// secret: whoever can publish it under the name has shown what is asked.
    #[must_use]
    pub fn of(id: &str, name: &str) -> Self {
        let mut hasher = Sha256::new();
        for part in ["hosting name ownership 1", id, name] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = hasher.finalize();
        let token: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        Self {
            record: format!("{CHALLENGE_LABEL}.{}", without_wildcard(name)),
            token: format!("hosting-challenge={token}"),
            path: format!("{CHALLENGE_PATH}{id}"),
        }
    }
}

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// Not shown yet, and not served.
    Unverified,
    /// Shown.
    Verified,
    /// Shown once; the proof is gone, and the name is not served.
    Lapsed,
}

/// The TXT record to create.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RecordToCreate {
    r#type: &'static str,
    /// Absolute, without a trailing dot.
    name: String,
    content: String,
}

/// The file to put on the web server that the name leads to now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FileToCreate {
    url: String,
    content: String,
}

/// Whether a name is shown to be its tenant's, and how it can be: one of these is enough.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Verification {
    state: Standing,
    /// What shows it; absent while nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    record: RecordToCreate,
    /// For host names alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileToCreate>,
    /// Name servers that the zone can be delegated to instead. Empty where that shows nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    name_servers: Vec<String>,
    /// RFC 3339. When it was shown first.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_at: Option<String>,
    /// RFC 3339. When it was looked for last.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked_at: Option<String>,
    /// Looks in a row that did not find the proof again; after seven it lapses.
    misses: u32,
    /// What the last look found.
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Verification {
    /// What the API shows of the claim `id` on `name`; `None` where nobody asks. No file shows whose all names below another are.
    pub(crate) fn of(ownership: Option<&Ownership>, id: &str, name: &str, is_host: bool) -> Option<Self> {
        let ownership = ownership?;
        let Challenge { record, token, path } = Challenge::of(id, name);
        let has_server = is_host && name == without_wildcard(name);
        let file =
            has_server.then(|| FileToCreate { url: format!("http://{name}{path}"), content: token.clone() });
        let time = |at: i64| (at != 0).then(|| timestamp(at));
        Some(Self {
            state: match ownership.proof {
                Some(_) => Standing::Verified,
                None if ownership.has_lapsed() => Standing::Lapsed,
                None => Standing::Unverified,
            },
            proof: ownership.proof,
            record: RecordToCreate { r#type: "TXT", name: record, content: token },
            file,
            name_servers: ownership.name_servers.clone(),
            verified_at: time(ownership.verified_at),
            checked_at: time(ownership.checked_at),
            misses: ownership.misses,
            message: ownership.message.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_one_claims_alone() {
        let one = Challenge::of("a", "www.example.com");
        assert_eq!(one, Challenge::of("a", "www.example.com"));
        assert_eq!(one.record, "_hosting-challenge.www.example.com");
        assert_eq!(one.path, "/.well-known/hosting-challenge/a");
        let wildcard = Challenge::of("a", "*.www.example.com");
        assert!(wildcard.record == one.record && wildcard.token != one.token);
        for other in [Challenge::of("b", "www.example.com"), Challenge::of("a", "example.com")] {
            assert_ne!(one.token, other.token);
        }
        // Both parts count apart: no two claims spell the same bytes.
        assert_ne!(Challenge::of("ab", "c").token, Challenge::of("a", "bc").token);
        assert_eq!(one.token.len(), "hosting-challenge=".len() + 40);
        assert!(!one.path.contains(&one.token), "a server that echoes the path shows nothing");
    }

    #[test]
    fn states_are_shown_with_what_to_create() {
        let view = |ownership: Option<&Ownership>, is_host| {
            serde_json::to_value(Verification::of(ownership, "a", "a.example", is_host)).unwrap()
        };
        assert_eq!(view(None, true), serde_json::Value::Null);
        let mut ownership = Ownership::asked(5);
        assert!(!is_servable(Some(&ownership)) && is_servable(None));
        let shown = view(Some(&ownership), true);
        assert_eq!((&shown["state"], &shown["record"]["type"]), (&"unverified".into(), &"TXT".into()));
        assert_eq!(shown["file"]["url"], "http://a.example/.well-known/hosting-challenge/a");
        assert_eq!(shown["file"]["content"], shown["record"]["content"]);
        let wildcard =
            serde_json::to_value(Verification::of(Some(&ownership), "a", "*.a.example", true)).unwrap();
        assert_eq!(wildcard["file"], serde_json::Value::Null);
        ownership.proof = Some(Proof::Delegation);
        ownership.verified_at = 1_700_000_000_000;
        ownership.name_servers = vec!["ns1.acme.example".into()];
        let shown = view(Some(&ownership), false);
        assert_eq!((&shown["state"], &shown["proof"]), (&"verified".into(), &"delegation".into()));
        assert_eq!(shown["verified_at"], "2023-11-14T22:13:20Z");
        assert!(shown.get("file").is_none() && shown["name_servers"][0] == "ns1.acme.example");
        ownership.proof = None;
        assert!(ownership.has_lapsed());
        assert_eq!(view(Some(&ownership), false)["state"], "lapsed");
    }
}
