//! What the API needs of the running controller beside the store: the fleet, and the keys to join it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use hosting_intent::{Audience, Key};
use hosting_planner::gates::{ExceptionKind, Fleet};
use tokio::sync::watch;

/// A subscriber as operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriberView {
    /// Who.
    pub node_id: String,
    /// About what.
    pub audience: Audience,
    /// Build that it said; empty when it has not been heard of since the controller started.
    pub build: String,
    /// Epoch of the revisions.
    pub epoch: String,
    /// Highest revision in effect.
    pub applied: u64,
    /// Highest revision on its disk.
    pub durable: u64,
    /// A session stands.
    pub connected: bool,
    /// Alive within the lease, and caught up.
    pub in_service: bool,
    /// Since its last frame.
    pub silent_for: Duration,
    /// What it does not apply.
    pub exceptions: Vec<ExceptionView>,
}

/// What a subscriber found when it asked its own listeners for what it applied. Ranges of revisions have both ends in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedView {
    /// Up to here all is served, but for what the lists say.
    pub upto: u64,
    /// What was not asked for yet.
    pub pending: Vec<(u64, u64)>,
    /// Of this only some was asked for.
    pub sampled: Vec<(u64, u64)>,
    /// What is not served.
    pub failed: Vec<NotServed>,
    /// Up to which revision all was served, and since when, in milliseconds since the Unix epoch; the oldest first.
    pub marks: Vec<(u64, i64)>,
}

/// An applied item that is not what a subscriber's listeners answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotServed {
    /// The item.
    pub key: Key,
    /// Its revision, or that of its withdrawal.
    pub revision: u64,
    /// What was answered, in the subscriber's words.
    pub reason: String,
}

/// An item that a subscriber does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionView {
    /// How.
    pub kind: ExceptionKind,
    /// The item.
    pub key: Key,
    /// Its revision.
    pub revision: u64,
    /// Why, in the subscriber's words.
    pub reason: String,
}

/// A new join token. Its text is shown once and stored nowhere.
#[derive(Debug, Clone)]
pub struct NewJoinToken {
    /// Secret, CA fingerprint, node id and roles in one text.
    pub token: String,
    /// Milliseconds since the Unix epoch.
    pub expires_at: i64,
}

/// No join token could be made.
#[derive(Debug, thiserror::Error)]
#[error("no join token could be made: {0}")]
pub struct JoinTokenError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// What is to become of the key-encryption keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekChange {
    /// A new one seals from now on, and everything is sealed anew in the background.
    Rotate,
    /// The former ones go. Backups that they sealed open no more.
    ForgetFormer,
}

/// The key-encryption keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KekChangeError {
    /// Not now.
    #[error("{0}")]
    Conflict(String),
    /// The file or the store failed.
    #[error("the key file could not be changed: {0}")]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// A certificate authority that machines trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityView {
    /// SHA-256 of its certificate, hex.
    pub fingerprint: String,
    /// It issues; one does.
    pub issues: bool,
}

/// How the certificate authorities stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritiesView {
    /// All that are trusted, the oldest first.
    pub items: Vec<AuthorityView>,
    /// Subscribers in service that do not trust all of them yet, some of them.
    pub untold: Vec<String>,
    /// From when on nobody has a certificate of one that does not issue, in milliseconds since the Unix epoch.
    pub retirable_at: i64,
}

/// What is to become of the certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityChange {
    /// A new one is trusted, and does not issue yet.
    Add,
    /// One issues from now on.
    Promote {
        /// Which.
        fingerprint: String,
    },
    /// One is trusted no longer.
    Retire {
        /// Which.
        fingerprint: String,
        /// Though machines may have certificates of it, which have to join again then.
        force: bool,
    },
}

/// The certificate authorities stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Not now.
    #[error("{0}")]
    Conflict(String),
    /// There is no such authority.
    #[error("{0}")]
    Unknown(String),
    /// The store, the cryptographic library or the feed failed.
    #[error("the certificate authorities cannot be read or changed: {0}")]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// What is told of requests that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestNews {
    /// So many edges tell of them now.
    Edges(usize),
    /// Some that ended.
    Requests {
        /// Lines of an edge's access log (JSON).
        lines: Vec<String>,
        /// How many ended before them and are not told of: nobody could have read that many.
        missed: u64,
    },
}

/// The running controller.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// The fleet as gates see it: the same that the gatekeeper asks, so that both say the same.
    fn fleet(&self) -> Arc<dyn Fleet>;

    /// Moves whenever something of the fleet changed: a position, a lease, an exception, a report.
    fn changes(&self) -> watch::Receiver<u64>;

    /// All subscribers, by audience and node id.
    fn subscribers(&self) -> Vec<SubscriberView>;

    /// A node's subscription to an audience.
    fn subscriber(&self, audience: &Audience, node_id: &str) -> Option<SubscriberView>;

    /// What a node's subscription found when it asked its own listeners, of the epoch that its position is of; `None`: it does not ask.
    fn served(&self, audience: &Audience, node_id: &str) -> Option<ServedView>;

    /// Lets a session apply what its brake holds; false when there is no session. `by`: who said so.
    fn release(&self, audience: &Audience, node_id: &str, by: &str) -> bool;

    /// Requests of a host as edges of the cluster end them for a tenant, until the stream is dropped; `None`: as many are watched as may be.
    fn watch_requests(
        &self,
        cluster: &Audience,
        host: &str,
        tenant: &str,
    ) -> Option<BoxStream<'static, RequestNews>>;

    /// A node will not come back: ends its sessions and forgets its positions.
    fn forget(&self, node_id: &str);

    /// Makes a single-use join token for a registered node.
    async fn join_token(&self, node_id: &str) -> Result<NewJoinToken, JoinTokenError>;

    /// Changes the key file, and takes it over.
    async fn change_keks(&self, change: KekChange) -> Result<(), KekChangeError>;

    /// How the certificate authorities stand.
    async fn authorities(&self) -> Result<AuthoritiesView, AuthorityError>;

    /// Exchanges them, a step at a time.
    async fn change_authorities(&self, change: AuthorityChange) -> Result<(), AuthorityError>;
}
