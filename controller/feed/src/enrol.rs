//! Enrolment and renewal: a join token or an older certificate in, a certificate out.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hosting_intent::Role;
use hosting_intent_sync::identity::{secret_hash, unix_now};
use hosting_intent_sync::tls::{Enrolled, NodeCertificate};
use hosting_proto::feed::enrollment_server::Enrollment;
use hosting_proto::feed::{Credential, EnrollRequest, RenewRequest};
use tonic::{Request, Response, Status};

use crate::accept::Peer;
use crate::metrics::{Issued, Refusal};
use crate::pki::{self, PkiError};
use crate::registry::{NodeRecord, TokenUse};
use crate::seats::{Call, Seat};
use crate::shared::{Shared, caller, unavailable};

/// An answer that was lost is given again for this long, in seconds.
const GRANT_LIFE: i64 = 15 * 60;

/// The `Enrollment` service.
#[derive(Clone)]
pub(crate) struct EnrollmentService {
    pub(crate) shared: Arc<Shared>,
}

impl EnrollmentService {
    fn fail(&self, address: IpAddr, status: Status) -> Status {
        let mut throttle = self.shared.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.failed(address, Instant::now());
        drop(throttle);
        self.shared.metrics.refuse(Refusal::Token);
        tracing::warn!(%address, reason = status.message(), "enrolment refused");
        status
    }

    /// Uses the token up for an enrolment.
    async fn check_token(&self, request: &EnrollRequest, address: IpAddr) -> Result<Enrolled, Status> {
        let token = secret_hash(&request.secret)
            .ok_or_else(|| self.fail(address, Status::unauthenticated("the secret is malformed")))?;
        // Looked at before the token is used up: a broken request must not cost one.
        let key =
            pki::request_key(&request.csr_der).map_err(|error| self.fail(address, bad_request(&error)))?;
        if !Enrolled::is_role(&request.role) {
            return Err(self.fail(address, Status::invalid_argument("role: not a role")));
        }
        let consumed =
            self.shared.tokens.consume(token, &request.node_id, unix_now()).await.map_err(unavailable)?;
        let refused = match consumed {
            TokenUse::Granted => {
                let (node_id, role) = (&request.node_id, request.role.clone());
                let at = self.shared.nodes.enrol(node_id, &role).await.map_err(unavailable)?;
                let enrolled = Enrolled { role, at };
                self.shared.tokens.grant(token, key, &enrolled).await.map_err(unavailable)?;
                self.send_former_away(node_id, &enrolled.role);
                return Ok(enrolled);
            }
            TokenUse::Used => {
                let since = unix_now().saturating_sub(GRANT_LIFE);
                match self.shared.tokens.granted(token, key, since).await.map_err(unavailable)? {
                    // The answer was lost on the way; only who holds the same private key can ask for it again.
                    Some(enrolled) => return Ok(enrolled),
                    None => Status::already_exists("the join token has been used"),
                }
            }
            TokenUse::Unknown => Status::unauthenticated("no such join token for this node"),
            TokenUse::Expired => Status::failed_precondition("the join token has expired"),
        };
        Err(self.fail(address, refused))
    }

    /// Whether the request brings a token that can still be used.
    async fn has_token(&self, request: &EnrollRequest) -> Result<bool, Status> {
        let Some(token) = secret_hash(&request.secret) else { return Ok(false) };
        self.shared.tokens.is_good(token, &request.node_id, unix_now()).await.map_err(unavailable)
    }

    /// Ends the sessions of certificates that an enrolment made worthless.
    fn send_former_away(&self, node_id: &str, role: &str) {
        let reason = format!("node {node_id} was joined anew; another machine may have taken its place");
        self.shared.fleet.send_away(&reason, |audience, node| {
            node == node_id && (role.is_empty() || audience.role().name() == role)
        });
    }

    fn credential(
        &self,
        node_id: &str,
        enrolled: &Enrolled,
        csr: &[u8],
        record: &NodeRecord,
    ) -> Result<Credential, Status> {
        let trust = self.shared.trust.load();
        let certificate = trust
            .authorities
            .issue_node(node_id, enrolled, csr, self.shared.node_life, unix_now())
            .map_err(|error| bad_request(&error))?;
        Ok(Credential {
            chain_der: vec![certificate.to_vec().into()],
            roots_der: trust.authorities.roots_der().into_iter().map(Into::into).collect(),
            audiences: record.audiences(node_id).iter().map(ToString::to_string).collect(),
        })
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<Credential>, Status> {
        let address = peer_ip(&request)?;
        let _call = begin(&request);
        let allowed = {
            let throttle = self.shared.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            throttle.allows(address, Instant::now())
        };
        let request = request.into_inner();
        // Those who guess do not keep out who has a token and comes from the same network.
        if !allowed && !self.has_token(&request).await? {
            self.shared.metrics.refuse(Refusal::Rate);
            return Err(Status::resource_exhausted(
                "too many failed enrolments from this address; wait a minute",
            ));
        }
        let enrolled = self.check_token(&request, address).await?;
        let record = self.shared.nodes.node(&request.node_id).await.map_err(unavailable)?;
        let record = record.ok_or_else(|| {
            self.shared.metrics.refuse(Refusal::Revoked);
            Status::not_found(format!("there is no node {}", request.node_id))
        })?;
        let credential = self.credential(&request.node_id, &enrolled, &request.csr_der, &record)?;
        self.shared.metrics.issue(Issued::Enrolled);
        tracing::info!(node = %request.node_id, %address, "node enrolled");
        Ok(Response::new(credential))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Credential>, Status> {
        let _call = begin(&request);
        // Within the grace period; the handshake let nothing older through.
        let NodeCertificate { name, enrolled, .. } = caller(&request, &self.shared, true)?;
        let record = self.shared.record_of(&name.node_id).await?;
        // One that may play any role is good while it is good for one of them.
        let roles = match enrolled.role.as_str() {
            "" => record.roles.clone(),
            role => {
                let unknown =
                    || format!("the certificate is of the role {role:?}, which this build does not know");
                vec![Role::from_name(role).ok_or_else(|| self.shared.replaced(&name.node_id, &unknown()))?]
            }
        };
        let admitted: Vec<_> = roles.iter().map(|role| record.admits(&enrolled, *role)).collect();
        if let (Some(Err(why)), false) = (admitted.first(), admitted.iter().any(Result::is_ok)) {
            return Err(self.shared.replaced(&name.node_id, why));
        }
        let credential = self.credential(&name.node_id, &enrolled, &request.get_ref().csr_der, &record)?;
        self.shared.metrics.issue(Issued::Renewed);
        tracing::info!(node = %name.node_id, "certificate renewed");
        Ok(Response::new(credential))
    }
}

fn bad_request(error: &PkiError) -> Status {
    match error {
        PkiError::Request(_) | PkiError::Name(_) => Status::invalid_argument(error.to_string()),
        PkiError::Stored(_)
        | PkiError::Seal { .. }
        | PkiError::Unknown(_)
        | PkiError::Issues(_)
        | PkiError::TooMany
        | PkiError::Life(_)
        | PkiError::Crypto(_) => {
            tracing::error!(%error, "a certificate could not be issued");
            Status::internal("the certificate could not be issued; the controller's log says why")
        }
    }
}

/// While the answer lives the connection does not give way to another one.
fn begin<T>(request: &Request<T>) -> Option<Call> {
    request.extensions().get::<Peer>()?.seat.as_ref().map(Seat::call)
}

fn peer_ip<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.address.ip())
        .ok_or_else(|| Status::internal("the connection has no address"))
}
