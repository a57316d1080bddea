//! What the feed needs from the rest of the controller, as narrow traits that the binary joins to the store.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent::{Audience, NodeFacts, Role};
use hosting_intent_sync::identity::utc;
use hosting_intent_sync::tls::Enrolled;
use hosting_proto::feed::{Exception, ReportRequest, Served, TrafficReport};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// The other side of a trait failed; the caller may try again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegistryError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// What the registry says about a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeRecord {
    /// What it does.
    pub roles: Vec<Role>,
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// Which brands' zones a `dns` node serves; empty: those of the default group.
    pub dns_group: String,
    /// By role, the oldest enrolment whose certificates are good ([`Enrolled::at`]); under `""`, that of every role. Older
    /// ones belong to a machine that was replaced, or to a node of the same id that was deleted.
    pub good_since: BTreeMap<String, i64>,
}

impl NodeRecord {
    /// What the node may subscribe to. Roles that apply no intent add nothing.
    #[must_use]
    pub fn audiences(&self, node_id: &str) -> BTreeSet<Audience> {
        let facts = NodeFacts { id: node_id, cluster_id: &self.cluster_id, dns_group: &self.dns_group };
        hosting_intent::audiences(self.roles.iter().copied(), &facts)
    }

    /// Whether certificates of this enrolment are good for `role`.
    ///
    /// # Errors
    /// Why they are not, with the next step.
    pub fn admits(&self, enrolled: &Enrolled, role: Role) -> Result<(), String> {
        let role = role.name();
        if !enrolled.role.is_empty() && enrolled.role != role {
            return Err(format!(
                "the certificate was given to the node's {:?}, not to its {role:?}; join this process with a token of its own",
                enrolled.role
            ));
        }
        let since = |role: &str| self.good_since.get(role).copied().unwrap_or_default();
        let since = since("").max(since(role));
        if enrolled.at >= since {
            return Ok(());
        }
        Err(format!(
            "the certificate goes back to an enrolment of {}, and the node was made or joined anew at {}; if this machine is to \
             be the node, join it with a new token",
            utc(enrolled.at / 1000),
            utc(since / 1000)
        ))
    }
}

/// The node resources and their enrolments. Asked at every connect, enrolment, renewal and report: that is revocation.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// `None`: there is no such node, or no longer.
    async fn node(&self, node_id: &str) -> Result<Option<NodeRecord>, RegistryError>;

    /// Records that a process of the node enrols now: certificates of earlier enrolments in the same role, or in any role if
    /// `role` is empty, are no longer good. Answers the new enrolment's [`Enrolled::at`].
    async fn enrol(&self, node_id: &str, role: &str) -> Result<i64, RegistryError>;

    /// A certificate of an enrolment in a role was shown that is newer than the registry knows: the registry was put back to
    /// an older copy since. From now on it is the oldest good one.
    async fn learn(&self, node_id: &str, enrolled: &Enrolled) -> Result<(), RegistryError>;

    /// A subscriber of an audience says to which public key (X25519) the audience's keys are to be sealed for it. When this is done, they
    /// are among the audience's intents.
    async fn reads_with(
        &self,
        node_id: &str,
        audience: &Audience,
        sealing_key: &[u8; 32],
    ) -> Result<(), RegistryError>;
}

/// Keys that follow from the key-encryption key: the same whenever they are asked for.
pub trait Keys: Send + Sync {
    /// What the edges of a cluster share.
    fn cluster_edge_key(&self, cluster_id: &str) -> ClusterEdgeKey;

    /// By which the controller knows its own word of how far the store was.
    fn witness_key(&self) -> Zeroizing<[u8; 32]>;
}

/// What became of a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// It was good and is used up now.
    Granted,
    /// No such token, or one for another node.
    Unknown,
    /// Used before.
    Used,
    /// Its time is over.
    Expired,
}

/// Join tokens, known by the SHA-256 of their secrets.
#[async_trait]
pub trait JoinTokens: Send + Sync {
    /// Keeps a new token. Times in seconds since the Unix epoch.
    async fn put(&self, hash: [u8; 32], node_id: &str, expires_at: i64) -> Result<(), RegistryError>;

    /// Whether a token could be used up now. Costs a look, and changes nothing.
    async fn is_good(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<bool, RegistryError>;

    /// Uses a token up, atomically: of any number of callers one gets [`TokenUse::Granted`].
    async fn consume(&self, hash: [u8; 32], node_id: &str, now: i64) -> Result<TokenUse, RegistryError>;

    /// Remembers the enrolment that a key (the SHA-256 of it) was given for a token that is used up.
    async fn grant(&self, hash: [u8; 32], key: [u8; 32], enrolled: &Enrolled) -> Result<(), RegistryError>;

    /// The enrolment that `key` was given for a token that was used up at `since` or later, in seconds since the Unix epoch. So an
    /// answer that was lost can be given again, by any controller.
    async fn granted(
        &self,
        hash: [u8; 32],
        key: [u8; 32],
        since: i64,
    ) -> Result<Option<Enrolled>, RegistryError>;
}

/// What a subscriber last said, as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    /// Who.
    pub node_id: String,
    /// About what.
    pub audience: Audience,
    /// Epoch of the revisions.
    pub epoch: String,
    /// Highest revision in effect.
    pub applied: u64,
    /// Highest revision on the node's disk.
    pub durable: u64,
    /// The whole set, if it changed since the last save.
    pub exceptions: Option<Vec<Exception>>,
    /// What it found when it asked its own listeners.
    pub served: Option<Served>,
    /// Build that said Hello.
    pub build: String,
    /// A session stands.
    pub connected: bool,
    /// As gates see it.
    pub in_service: bool,
    /// It has come to this controller: from now on this one speaks for it.
    pub claim: bool,
}

/// Where the fleet's words are kept.
#[async_trait]
pub trait StatusSink: Send + Sync {
    /// Writes watermarks; a few times a second at most, each subscriber at most once a call.
    async fn watermarks(&self, watermarks: &[Watermark]) -> Result<(), RegistryError>;

    /// Writes a node's report: what it is all of ([`ReportRequest::full`], [`ReportRequest::all_of`]) it replaces, else it
    /// merges.
    async fn report(&self, node_id: &str, report: &ReportRequest) -> Result<Reported, RegistryError>;

    /// Adds what an edge of a cluster passed on, once, however often it comes. It was checked by itself, not against the cluster's tenants.
    async fn traffic(&self, cluster_id: &str, report: &TrafficReport) -> Result<(), RegistryError>;
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It is kept.
    Taken,
    /// It is kept, and what the node reported before is not: everything is to be said again.
    WantAll,
}

/// Tells sessions that there is something new.
#[async_trait]
pub trait Doorbell: Send {
    /// Waits for commits and answers what they touched. May merge any number of commits and may ring for nothing. Dropping
    /// the future before it is ready must lose nothing.
    async fn ring(&mut self) -> Touched;
}

/// What a ring of the doorbell speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The cell's newest revision at the time.
    pub head: u64,
    /// The audiences that changed; `None`: not known, look at every one.
    pub audiences: Option<Vec<Audience>>,
}

/// A doorbell that knows the head only, so that each ring makes every active audience look.
#[derive(Debug)]
pub struct HeadDoorbell(pub watch::Receiver<u64>);

#[async_trait]
impl Doorbell for HeadDoorbell {
    async fn ring(&mut self) -> Touched {
        if self.0.changed().await.is_err() {
            // Nothing will ever be written again; sessions live on heartbeats until the process ends.
            std::future::pending::<()>().await;
        }
        Touched { head: *self.0.borrow_and_update(), audiences: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_enrolment_ends_the_older_ones_of_its_role_or_of_all() {
        let good_since = |all: i64, web: i64| NodeRecord {
            good_since: BTreeMap::from([(String::new(), all), ("web".to_owned(), web)]),
            ..NodeRecord::default()
        };
        let of = |role: &str, at: i64| Enrolled { role: role.to_owned(), at };
        let record = good_since(10, 20);
        assert!(record.admits(&of("web", 20), Role::Web).is_ok());
        assert!(record.admits(&of("web", 21), Role::Web).is_ok(), "the registry was put back");
        assert!(record.admits(&of("web", 19), Role::Web).unwrap_err().contains("new token"));
        assert!(record.admits(&of("web", 20), Role::Dns).unwrap_err().contains("\"web\""));
        assert!(record.admits(&of("dns", 10), Role::Dns).is_ok());
        assert!(record.admits(&of("dns", 9), Role::Dns).is_err());
        // Of the whole node: each role has its own limit.
        assert!(record.admits(&of("", 19), Role::Web).is_err());
        assert!(record.admits(&of("", 19), Role::Dns).is_ok());
        assert!(good_since(30, 20).admits(&of("web", 29), Role::Web).is_err());
    }
}
