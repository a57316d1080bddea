//! What the calls of the feed share, and who may make them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hosting_intent::Audience;
use hosting_intent_sync::identity::{unix_now, utc};
use hosting_intent_sync::tls::NodeCertificate;
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

use crate::accept::Peer;
use crate::fleet::Fleet;
use crate::metrics::{FeedMetrics, Refusal};
use crate::pki::Authorities;
use crate::registry::{JoinTokens, Keys, NodeRecord, Nodes, StatusSink};
use crate::ring::Hub;
use crate::throttle::Throttle;
use crate::trust::{TrustError, server_config};
use crate::watches::RequestWatches;
use crate::witness::Witness;
use crate::words;

/// Authorities and what follows from them; exchanged as one.
pub(crate) struct Trust {
    pub(crate) authorities: Authorities,
    /// When the listener's certificate was made, and when it should be replaced.
    pub(crate) made_at: i64,
    pub(crate) renew_at: i64,
}

/// What the calls share.
pub(crate) struct Shared {
    pub(crate) trust: ArcSwap<Trust>,
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) tokens: Arc<dyn JoinTokens>,
    pub(crate) status: Arc<dyn StatusSink>,
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) witness: Witness,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: FeedMetrics,
    pub(crate) throttle: Mutex<Throttle>,
    /// Nodes whose report is being taken in.
    pub(crate) reporting: Mutex<BTreeSet<String>>,
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) sessions: TaskTracker,
    pub(crate) watches: RequestWatches,
    pub(crate) node_life: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    pub(crate) hello_timeout: Duration,
    pub(crate) controllers: RwLock<Vec<String>>,
}

impl Shared {
    /// Feed addresses of the controllers that run.
    pub(crate) fn controllers(&self) -> Vec<String> {
        self.controllers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the registry says of a node that showed a certificate.
    pub(crate) async fn record_of(&self, node_id: &str) -> Result<NodeRecord, Status> {
        self.nodes.node(node_id).await.map_err(unavailable)?.ok_or_else(|| {
            self.metrics.refuse(Refusal::Revoked);
            Status::permission_denied(format!("node {node_id} is not, or no longer, in the registry"))
        })
    }

    /// The audience that a Hello names, and what the registry says of a node that may subscribe to it with this certificate.
    pub(crate) async fn admit_to(
        &self,
        certificate: &NodeCertificate,
        named: &str,
    ) -> Result<(Audience, NodeRecord), Status> {
        if let Ok(audience) = named.parse() {
            let record = self.admit(certificate, &audience).await?;
            return Ok((audience, record));
        }
        let node_id = &certificate.name.node_id;
        Err(self.no_audience(node_id, named, &self.record_of(node_id).await?))
    }

    fn no_audience(&self, node_id: &str, named: &str, record: &NodeRecord) -> Status {
        self.metrics.refuse(Refusal::Audience);
        let audiences: Vec<Audience> = record.audiences(node_id).into_iter().collect();
        Status::permission_denied(format!(
            "node {node_id} may not subscribe to {:?}, only to {audiences:?}",
            words::name(named)
        ))
    }

    /// What the registry says of a node that may subscribe to `audience` with this certificate.
    pub(crate) async fn admit(
        &self,
        certificate: &NodeCertificate,
        audience: &Audience,
    ) -> Result<NodeRecord, Status> {
        let node_id = &certificate.name.node_id;
        let record = self.record_of(node_id).await?;
        if !record.audiences(node_id).contains(audience) {
            return Err(self.no_audience(node_id, &audience.to_string(), &record));
        }
        let role = audience.role();
        let enrolled = &certificate.enrolled;
        record.admits(enrolled, role).map_err(|why| self.replaced(node_id, &why))?;
        if enrolled.role == role.name()
            && record.good_since.get(role.name()).is_none_or(|since| *since < enrolled.at)
        {
            self.nodes.learn(node_id, enrolled).await.map_err(unavailable)?;
        }
        Ok(record)
    }

    /// Turns a certificate of an earlier enrolment away.
    pub(crate) fn replaced(&self, node_id: &str, why: &str) -> Status {
        self.metrics.refuse(Refusal::Replaced);
        Status::failed_precondition(format!("node {node_id}: {why}"))
    }

    pub(crate) fn use_authorities(&self, authorities: Authorities) -> Result<(), TrustError> {
        let now = unix_now();
        let (config, not_after) = server_config(&authorities, now)?;
        let renew_at = renewal(now, not_after);
        self.tls.store(Arc::new(config));
        self.trust.store(Arc::new(Trust { authorities, made_at: now, renew_at }));
        Ok(())
    }
}

pub(crate) const fn renewal(now: i64, not_after: i64) -> i64 {
    not_after - (not_after - now) / 3
}

/// Who calls, from the connection's certificate.
pub(crate) fn caller<T>(
    request: &Request<T>,
    shared: &Shared,
    may_be_expired: bool,
) -> Result<NodeCertificate, Status> {
    let refuse = |message: String| {
        shared.metrics.refuse(Refusal::Unauthenticated);
        Status::unauthenticated(message)
    };
    let certificate = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.certificate.clone())
        .ok_or_else(|| refuse("this call needs a node's certificate".into()))?;
    if may_be_expired || certificate.is_valid_at(unix_now()) {
        Ok(certificate)
    } else {
        let (from, to) = (utc(certificate.not_before), utc(certificate.not_after));
        Err(refuse(format!("the certificate is not valid now (it is from {from} to {to}); renew it")))
    }
}

/// The store did not answer; the caller may try again.
pub(crate) fn unavailable(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "the store did not answer the feed");
    Status::unavailable("the controller's store did not answer; try again")
}
