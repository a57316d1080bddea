//! Looks whether a host name or a zone is shown to be its tenant's: TXT record, delegation, file on a web server. One job for each claim,
//! from the claim on: often at first, each hour later; each day once it is shown, so that a proof that goes is noticed.

mod dns;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_planner::{CHECK_OWNERSHIP, Claim, OwnershipLook, PlanError, note_look};
use hosting_resource::Resource;
use hosting_resource::ownership::{Ownership, Proof};
use hosting_store::{NewJob, Origin, Store, StoreError, WriteTx};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use self::dns::{Answer, Dns};
use super::JobDeps;
use crate::clock::DAY;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::outgoing::is_public;
use crate::pace::Rate;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// What is not shown after so long is looked for no longer, in milliseconds. Somebody may ask for a look at any time.
const GIVEN_UP: i64 = 30 * DAY;
/// A file of more bytes is none of ours.
const MAX_FILE: usize = 1_024;
/// The whole exchange with a web server.
const EXCHANGE: Duration = Duration::from_secs(10);
/// How we call ourselves.
const AGENT: &str = concat!("hosting-platform/", env!("CARGO_PKG_VERSION"));

/// What the operator set for looks at names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnershipRules {
    /// Resolvers to ask; none: the system's.
    pub resolvers: Vec<SocketAddr>,
    /// Networks that may be connected to although they are not the public Internet.
    pub networks: Vec<IpNet>,
    /// The port of name servers.
    pub dns_port: u16,
    /// The port of web servers.
    pub http_port: u16,
}

impl Default for OwnershipRules {
    fn default() -> Self {
        Self { resolvers: Vec::new(), networks: Vec::new(), dns_port: 53, http_port: 80 }
    }
}

impl OwnershipRules {
    /// Whether a connection to an address is allowed.
    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Looks at the web servers that names lead to.
#[derive(Debug)]
pub(super) struct WebLook {
    http: reqwest::Client,
    port: u16,
}

impl WebLook {
    /// # Errors
    /// There is no HTTP client.
    pub(super) fn new(rules: &OwnershipRules, dns: Dns) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(AGENT)
            .timeout(EXCHANGE)
            .pool_max_idle_per_host(0)
            .http1_only()
            .dns_resolver(Arc::new(dns))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { http, port: rules.http_port })
    }

    /// The beginning of the file that the web server of a name has.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) async fn file(&self, name: &str, path: &str) -> Result<Vec<u8>, String> {
        let url = format!("http://{name}:{}{path}", self.port);
        let failed = |error: reqwest::Error| {
            format!("the file cannot be fetched: {}", crate::outgoing::chain(&error.without_url()))
        };
        let mut answer = self.http.get(&url).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("the web server answers {} instead of the file", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_FILE {
                break;
            }
        }
        Ok(body)
    }
}

/// Looks at names.
#[derive(Debug)]
pub struct Looker {
    dns: Dns,
    web: WebLook,
}

impl Looker {
    /// A looker under these rules.
    ///
    /// # Errors
    /// When the system's resolvers cannot be read, or there is no HTTP client.
    pub fn new(rules: &OwnershipRules) -> Result<Self, String> {
        let dns = Dns::new(rules)?;
        Ok(Self { web: WebLook::new(rules, dns.clone())?, dns })
    }

    /// What shows a claim now.
    pub async fn look(&self, claim: &Claim) -> OwnershipLook {
        let mut said = Vec::new();
        let mut is_sure = true;
        let found = |found, message: String| OwnershipLook { found: Some(found), is_sure: true, message };
        let record = &claim.challenge.record;
        match self.dns.texts(record).await {
            Answer::Found(texts) if texts.contains(&claim.challenge.token) => {
                return found(Proof::Txt, format!("the TXT record {record} is there"));
            }
            Answer::Found(_) => said.push(format!("the TXT record {record} says something else")),
            Answer::Nothing => said.push(format!("there is no TXT record {record}")),
            Answer::Failed(why) => {
                is_sure = false;
                said.push(why);
            }
        }
        if claim.is_zone {
            match self.dns.delegation(&claim.name).await {
                Answer::Found(servers) => {
                    let ours = servers.iter().find(|server| claim.name_servers.contains(server));
                    if let Some(server) = ours.filter(|_| claim.may_be_delegated) {
                        return found(Proof::Delegation, format!("the zone is delegated to {server}"));
                    }
                    said.push(match ours {
                        Some(server) => format!(
                            "the delegation to {server} shows nothing: another tenant had the zone before"
                        ),
                        None => format!("the zone is delegated to {}", servers.join(", ")),
                    });
                }
                Answer::Nothing => said.push("the zone is not delegated".to_owned()),
                Answer::Failed(why) => {
                    is_sure = false;
                    said.push(why);
                }
            }
        } else if !claim.name.starts_with("*.") {
            match self.dns.addresses(&claim.name).await {
                Answer::Found(addresses) => {
                    // What was shown stays so while the name leads here: the web server that had the file is gone by then.
                    let leads_here = |address: &IpAddr| claim.addresses.contains(&address.to_string());
                    if let Some(proof) = claim.ownership.proof
                        && addresses.iter().any(leads_here)
                    {
                        return found(proof, "the name leads to this platform".to_owned());
                    }
                    match self.has_file(claim).await {
                        Ok(()) => return found(Proof::Http, "the file is there".to_owned()),
                        Err(why) => said.push(why),
                    }
                }
                Answer::Nothing => said.push(format!("{} has no address", claim.name)),
                Answer::Failed(why) => {
                    is_sure = false;
                    said.push(why);
                }
            }
        }
        OwnershipLook { found: None, is_sure, message: said.join("; ") }
    }

    /// Whether the web server that the name leads to has the file. Its body counts alone, so one that echoes the path has it not.
    async fn has_file(&self, claim: &Claim) -> Result<(), String> {
        let body = self.web.file(&claim.name, &claim.challenge.path).await?;
        if body.trim_ascii() == claim.challenge.token.as_bytes() {
            Ok(())
        } else {
            Err("the file says something else".to_owned())
        }
    }
}

/// The kind.
pub struct CheckOwnership {
    store: Store,
    looker: Result<Looker, String>,
}

/// Which claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnershipParams {
    /// Id of the host name or zone.
    pub id: String,
    /// One look, because somebody asked for it.
    #[serde(default)]
    pub once: bool,
}

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    let looker = Looker::new(&deps.ownership);
    if let Err(why) = &looker {
        tracing::error!(%why, "names cannot be verified");
    }
    Arc::new(CheckOwnership { store: deps.store.clone(), looker })
}

/// Enqueues one look now, in the transaction of whoever asks for it. A look that was asked for and did not begin is this one too.
///
/// # Errors
/// When the store fails.
pub async fn look_now(tx: &mut WriteTx, resource: &Resource) -> Result<(), StoreError> {
    let lane = format!("{CHECK_OWNERSHIP}-now/{}", resource.id);
    if tx.beside().is_lane_taken(&lane, "").await? {
        return Ok(());
    }
    let params = json!({ "id": resource.id, "once": true });
    let job = NewJob {
        kind: CHECK_OWNERSHIP.to_owned(),
        subject: resource.id.clone(),
        lane,
        brand: resource.brand.clone(),
        params,
        due_at: hosting_planner::Draft::now(tx),
        attempt_limit: 3,
        waits: Vec::new(),
    };
    tx.enqueue_job(job).await.map(drop)
}

/// When to look again, `None`: not any more. A clock that was put back makes a claim young again, which costs looks and nothing else.
fn next_look(ownership: &Ownership, is_sure: bool, now: i64) -> Option<i64> {
    if ownership.is_shown() {
        return Some(if is_sure { DAY } else { HOUR });
    }
    match now.saturating_sub(ownership.since) {
        age if age < MINUTE => Some(5_000),
        age if age < 10 * MINUTE => Some(30_000),
        age if age < HOUR => Some(2 * MINUTE),
        age if age < DAY => Some(15 * MINUTE),
        age if age < GIVEN_UP => Some(HOUR),
        _ => None,
    }
}

impl CheckOwnership {
    async fn claim(&self, id: &str) -> Result<Option<Claim>, Failure> {
        let mut tx = self.store.read().await.map_err(|error| Failure::later(error.to_string()))?;
        let claim = hosting_planner::claim(&mut tx, id).await;
        claim.map_err(|error| Failure::later(error.to_string()))
    }
}

#[async_trait]
impl JobKind for CheckOwnership {
    type Params = OwnershipParams;

    const FACTS: KindFacts = KindFacts {
        name: CHECK_OWNERSHIP,
        about: "Looks whether a host name or a zone is shown to be its tenant's.",
        steps: &["look"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        Limits {
            attempts: 1_000,
            backoff: Backoff { first: 5_000, most: 3_600_000 },
            rate: Rate { each: Duration::from_millis(20), burst: 100 },
            at_once: 32,
            step_time: Duration::from_secs(120),
        }
    }

    fn show(params: &OwnershipParams) -> Value {
        json!({"id": params.id, "once": params.once})
    }

    async fn step(&self, at: At<'_, OwnershipParams>) -> Result<Went, Failure> {
        let OwnershipParams { id, once } = at.params.clone();
        let looker = self
            .looker
            .as_ref()
            .map_err(|why| Failure::later(format!("names cannot be looked at: {why}")))?;
        let Some(claim) = self.claim(&id).await? else {
            return Ok(Went::Done(json!({"found": "nothing is asked of the name any more"})));
        };
        let look = looker.look(&claim).await;
        let (is_sure, message) = (look.is_sure, look.message.clone());
        let origin = Origin { traceparent: at.job.traceparent.clone(), ..Origin::default() };
        let noted = self
            .store
            .write(origin, {
                let id = id.clone();
                move |tx| {
                    Box::pin(async move {
                        Ok::<_, PlanError>((note_look(tx, &id, look).await?, hosting_planner::Draft::now(tx)))
                    })
                }
            })
            .await;
        let (noted, now) = match noted {
            Ok(committed) => committed.value,
            Err(error) => return Err(Failure::later(error.to_string())),
        };
        let state = |ownership: &Ownership| if ownership.is_shown() { "verified" } else { "unverified" };
        match noted {
            None => Ok(Went::Done(json!({"found": message}))),
            Some(ownership) if once => Ok(Went::Done(json!({"state": state(&ownership), "found": message}))),
            Some(ownership) => match next_look(&ownership, is_sure, now) {
                Some(delay) => Ok(Went::Postponed(Duration::from_millis(delay.unsigned_abs()))),
                None => Ok(Went::Done(json!({"state": "unverified", "found": message}))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_many_at_first_and_few_later() {
        let mut ownership = Ownership::asked(1_000);
        for (age, delay) in [
            (0, Some(5_000)),
            (MINUTE, Some(30_000)),
            (30 * MINUTE, Some(2 * MINUTE)),
            (2 * HOUR, Some(15 * MINUTE)),
            (2 * DAY, Some(HOUR)),
            (30 * DAY, None),
            // The clock was put back.
            (-DAY, Some(5_000)),
        ] {
            assert_eq!(next_look(&ownership, true, 1_000 + age), delay, "{age}");
        }
        ownership.proof = Some(Proof::Txt);
        assert_eq!(next_look(&ownership, true, 400 * DAY), Some(DAY));
        assert_eq!(next_look(&ownership, false, 400 * DAY), Some(HOUR));
    }

    #[test]
    fn private_networks_are_not_connected_to() {
        let rules = OwnershipRules::default();
        for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"] {
            assert!(!rules.allows(address.parse().unwrap()), "{address}");
        }
        assert!(rules.allows("8.8.8.8".parse().unwrap()));
        let open = OwnershipRules { networks: vec!["127.0.0.0/8".parse().unwrap()], ..rules };
        assert!(open.allows("127.0.0.1".parse().unwrap()) && !open.allows("10.0.0.1".parse().unwrap()));
    }
}
