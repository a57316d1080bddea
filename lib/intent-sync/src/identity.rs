//! Who a node is: its join token, its credential on disk, enrolment and renewal.
//!
//! The folder holds `credential.pem` (private key and certificate chain, 0600, replaced as one file so that the pair can
//! never be torn), `trust.json` (authorities, audiences and controllers) and, while an enrolment is under way, `pending-key.pem`. The
//! key of an enrolment is kept before it is sent, so that a lost answer can be asked for again with the same token. Private
//! keys and token secrets never leave this module except to rustls and to the files. Called by every role at its start and
//! by [`crate::client`].

mod enrol;
mod files;
mod roots;
mod token;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_proto::feed::RenewRequest;
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Code;
use tonic::transport::Channel;

use crate::Replica;
use crate::dial::{DialError, dial};
use crate::tls::{self, Fingerprint, NodeName};

use self::enrol::{accept, csr, enroll, server_name};
use self::files::{PENDING_KEY, State, Trust, load, pending_key, prepare_dir, save_credential, save_trust};
pub use self::roots::RootsWatch;
pub use self::token::{JoinToken, TokenError, TokenSource, secret_hash};

/// Controllers that are remembered, and the longest address of one in bytes.
const MAX_CONTROLLERS: usize = 16;
const MAX_ADDRESS_BYTES: usize = 300;
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after its end a certificate may still renew.
pub const RENEW_GRACE_SECONDS: i64 = 30 * 24 * 3600;

/// Seconds since the Unix epoch by this machine's clock.
#[must_use]
pub fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch as an operator reads them.
#[must_use]
pub fn utc(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |time| time.to_string())
}

/// Why a node has no identity, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has something else in it than we wrote.
    #[error("{}: {what}; move the folder away and enrol again with a new join token", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another process uses the folder.
    #[error("{}: another process uses this identity; stop it first, or give each process a folder of its own", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// No credential and no token.
    #[error("{}: no credential here and no join token given; create one with `hostctl node join-token <node>` and pass its file", dir.display())]
    NotEnrolled {
        /// The folder.
        dir: PathBuf,
    },
    /// The token's text is wrong.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token's time is over.
    #[error(
        "the join token expired at {at} (this machine's clock says {now}); ask for a new one with `hostctl node join-token {node_id}`"
    )]
    TokenExpired {
        /// Whose.
        node_id: String,
        /// When.
        at: String,
        /// What the clock says.
        now: String,
    },
    /// The controller does not know the token.
    #[error(
        "the controller does not know this join token (it was made by another cell, or the store was put back); ask for a new one with `hostctl node join-token {node_id}`"
    )]
    TokenUnknown {
        /// Whose.
        node_id: String,
    },
    /// Somebody has used the token.
    #[error(
        "the join token has been used already; if that was not this machine, revoke node {node_id} and find out who; else ask for a new one with `hostctl node join-token {node_id}`"
    )]
    TokenUsed {
        /// Whose.
        node_id: String,
    },
    /// The server's authority is another one than the token names.
    #[error(
        "{address} is not the controller that made this token, or somebody sits in between: its authority has the SHA-256 {found}, the token says {expected}; check the address, or ask for a new token"
    )]
    FingerprintMismatch {
        /// Where.
        address: String,
        /// In the token.
        expected: Fingerprint,
        /// In the handshake.
        found: Fingerprint,
    },
    /// The registry has no such node, or no longer.
    #[error(
        "the controller has no node {node_id}: it was removed, which revokes its certificates; create the node and enrol again with a new join token"
    )]
    NodeUnknown {
        /// Whose.
        node_id: String,
    },
    /// The certificate is beyond even renewal.
    #[error("the certificate ended at {at} and can no longer be renewed; move {} away and enrol again with a new join token", dir.display())]
    TooOld {
        /// When.
        at: String,
        /// The folder.
        dir: PathBuf,
    },
    /// The controller said no for another reason.
    #[error("the controller refused: {message} ({code:?})")]
    Refused {
        /// As gRPC has it.
        code: Code,
        /// What it said.
        message: String,
    },
    /// No controller could be reached in time.
    #[error("no controller could be reached: {0}")]
    Unreachable(String),
    /// The controller's answer makes no sense.
    #[error("the controller's answer is not usable: {0}")]
    Answer(String),
    /// The crypto library failed.
    #[error("key or certificate request: {0}")]
    Crypto(String),
}

impl IdentityError {
    /// Whether trying again with nothing changed can help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { code, .. } => {
                matches!(
                    code,
                    Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Internal
                )
            }
            Self::Io { .. }
            | Self::Corrupt { .. }
            | Self::InUse { .. }
            | Self::NotEnrolled { .. }
            | Self::Token(_)
            | Self::TokenExpired { .. }
            | Self::TokenUnknown { .. }
            | Self::TokenUsed { .. }
            | Self::FingerprintMismatch { .. }
            | Self::NodeUnknown { .. }
            | Self::TooOld { .. }
            | Self::Answer(_)
            | Self::Crypto(_) => false,
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { path: path.to_owned(), source }
}

/// How a node comes by its identity.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Where the credential lives; made with mode 0700 if absent.
    pub dir: PathBuf,
    /// Used only if there is no credential yet.
    pub token: TokenSource,
    /// `host:port` of each controller; empty: those of the token, or those of the enrolment before.
    pub controllers: Vec<String>,
    /// How long to go on asking while no controller can be reached.
    pub patience: Duration,
    /// The role of the process, e.g. `lb`. Another process of the same node has an enrolment of its own. Empty: every role.
    pub role: String,
}

struct Inner {
    dir: PathBuf,
    name: NodeName,
    configured: Vec<String>,
    state: RwLock<State>,
    /// The chain (leaf first) of the controller seen last: roots that do not cover it would cut us off.
    controller_chain: RwLock<Vec<CertificateDer<'static>>>,
    /// Held open for its lock; `None` while another process has the folder.
    lock: Mutex<Option<File>>,
}

/// A node's credential: shared by the feed's client, the reporter and the renewal.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.inner.name)
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Takes the credential from `enrolment.dir`, or enrols with the join token and puts it there.
    ///
    /// # Errors
    /// What stands in the way, with the next step.
    pub async fn load_or_enroll(enrolment: &Enrolment) -> Result<Self, IdentityError> {
        let dir = &enrolment.dir;
        let lock = prepare_dir(dir)?;
        if let Some(state) = load(dir)? {
            if !matches!(enrolment.token, TokenSource::None) {
                tracing::debug!(dir = %dir.display(), "a credential is here; the join token is not looked at");
            }
            return Ok(Self::assemble(dir, state, enrolment.controllers.clone(), lock));
        }
        let token =
            enrolment.token.read().await?.ok_or_else(|| IdentityError::NotEnrolled { dir: dir.clone() })?;
        let now = unix_now();
        if token.expires_at <= now {
            return Err(IdentityError::TokenExpired {
                node_id: token.node_id.clone(),
                at: utc(token.expires_at),
                now: utc(now),
            });
        }
        let controllers = if enrolment.controllers.is_empty() {
            token.controllers.clone()
        } else {
            enrolment.controllers.clone()
        };
        if controllers.is_empty() {
            return Err(IdentityError::Token(TokenError::Field("list of controllers")));
        }
        let key = pending_key(dir)?;
        let state = enroll(&token, &key, &controllers, enrolment).await?;
        save_trust(dir, &state.trust)?;
        save_credential(dir, &state)?;
        let pending = dir.join(PENDING_KEY);
        fs::remove_file(&pending).map_err(|source| io_error(&pending, source))?;
        tracing::info!(
            node = %state.certificate.name.node_id, cell = %state.certificate.name.cell,
            until = %utc(state.certificate.not_after), "enrolled"
        );
        Ok(Self::assemble(dir, state, enrolment.controllers.clone(), lock))
    }

    fn assemble(dir: &Path, state: State, configured: Vec<String>, lock: File) -> Self {
        Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                name: state.certificate.name.clone(),
                configured,
                state: RwLock::new(state),
                controller_chain: RwLock::new(Vec::new()),
                lock: Mutex::new(Some(lock)),
            }),
        }
    }

    /// Leaves the folder to another process. Nothing may be renewed or learned until [`Identity::take_back`].
    pub(crate) fn release(&self) {
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes the folder again, with the credential as the other process left it.
    ///
    /// # Errors
    /// [`IdentityError::InUse`] for as long as the other process has it, or what is wrong with the files.
    pub(crate) fn take_back(&self) -> Result<(), IdentityError> {
        let lock = prepare_dir(&self.inner.dir)?;
        if let Some(state) = load(&self.inner.dir)? {
            *self.inner.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        Ok(())
    }

    /// The node's id in the registry.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.inner.name.node_id
    }

    /// The cell's id.
    #[must_use]
    pub fn cell(&self) -> &str {
        &self.inner.name.cell
    }

    /// What the controller would let this node subscribe to when it last said so.
    #[must_use]
    pub fn audiences(&self) -> Vec<String> {
        self.read(|state| state.trust.audiences.clone())
    }

    /// `host:port` of each controller: first the configured ones, then those that a controller named last, or the join token did.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        let mut all = self.inner.configured.clone();
        let told = self.read(|state| state.trust.controllers.clone());
        all.extend(told.into_iter().filter(|address| !self.inner.configured.contains(address)));
        all
    }

    /// Takes over where the controllers are, as one of them says; nothing if it says nothing. In effect at once, and after a restart.
    ///
    /// # Errors
    /// [`IdentityError::Io`]: it could not be written.
    pub fn learn_controllers(&self, said: &[String]) -> Result<(), IdentityError> {
        let fits = |address: &&String| address.len() <= MAX_ADDRESS_BYTES;
        let said: Vec<String> = said.iter().filter(fits).take(MAX_CONTROLLERS).cloned().collect();
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() || state.trust.controllers == said {
            return Ok(());
        }
        state.trust.controllers = said;
        save_trust(&self.inner.dir, &state.trust)
    }

    /// When the certificate ends, seconds since the Unix epoch.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.read(|state| state.certificate.not_after)
    }

    /// When the certificate begins to be valid, seconds since the Unix epoch.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.read(|state| state.certificate.not_before)
    }

    /// When to renew, seconds since the Unix epoch: at two thirds of the certificate's life.
    #[must_use]
    pub fn renew_at(&self) -> i64 {
        self.read(|state| state.certificate.renew_at())
    }

    /// The trusted authorities, DER.
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.read(|state| state.trust.roots_der())
    }

    /// A TLS configuration with the credential and the roots as they are now.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] if rustls takes the key, the chain or the roots for unusable.
    pub fn client_config(&self) -> Result<ClientConfig, IdentityError> {
        let (key, chain, roots) =
            self.read(|state| (state.key.clone(), state.chain.clone(), state.trust.roots_der()));
        let roots = tls::root_store(roots.iter().map(Vec::as_slice)).map_err(crypto)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map_err(crypto)?;
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(crypto)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())))
            .map_err(crypto)?;
        config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
        // Every connection proves the identity anew; there is nothing to save on one connection per node.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Connects to the controller at `address` with this identity, for its subscription.
    ///
    /// # Errors
    /// [`DialError`], [`IdentityError::Crypto`] within it.
    pub(crate) async fn connect(&self, address: &str, keepalive: Duration) -> Result<Channel, DialError> {
        let (channel, chain) = self.dial(address, keepalive).await?;
        *self.inner.controller_chain.write().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(channel)
    }

    /// Connects to the controller at `address` with this identity, beside the subscription.
    ///
    /// # Errors
    /// As [`Identity::connect`].
    pub(crate) async fn connect_beside(
        &self,
        address: &str,
        keepalive: Duration,
    ) -> Result<Channel, DialError> {
        Ok(self.dial(address, keepalive).await?.0)
    }

    async fn dial(
        &self,
        address: &str,
        keepalive: Duration,
    ) -> Result<(Channel, Vec<CertificateDer<'static>>), DialError> {
        let config = self.client_config().map_err(|e| DialError::Setup(e.to_string()))?;
        let name = server_name(self.cell()).map_err(|e| DialError::Setup(e.to_string()))?;
        dial(address, Arc::new(config), name, keepalive).await
    }

    /// Gets a new certificate for a new key over `channel` and puts both into effect, on disk first.
    ///
    /// # Errors
    /// [`IdentityError::NodeUnknown`] once revoked, [`IdentityError::Refused`], or a file that could not be written; the
    /// old credential stays in effect.
    pub async fn renew(&self, channel: Channel) -> Result<(), IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
        let mut request = tonic::Request::new(RenewRequest { csr_der: csr(&key)?.into() });
        request.set_timeout(CALL_TIMEOUT);
        let answer = EnrollmentClient::new(channel)
            .renew(request)
            .await
            .map_err(|status| match status.code() {
                Code::PermissionDenied | Code::NotFound => {
                    IdentityError::NodeUnknown { node_id: self.node_id().to_owned() }
                }
                code => IdentityError::Refused { code, message: status.message().to_owned() },
            })?
            .into_inner();
        let state =
            accept(answer, &key, &self.inner.name, self.read(|state| state.trust.controllers.clone()))?;
        save_trust(&self.inner.dir, &state.trust)?;
        save_credential(&self.inner.dir, &state)?;
        tracing::info!(until = %utc(state.certificate.not_after), "certificate renewed");
        *self.inner.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// Takes over the roots that the feed says at a position, unless they are known already, older, or would cut this node
    /// off from the controller that it is connected to.
    ///
    /// # Errors
    /// [`IdentityError::Answer`] if the set is not usable; [`IdentityError::Io`]. The roots before stay in effect.
    pub fn set_roots(&self, roots: &[Vec<u8>], epoch: &str, revision: u64) -> Result<(), IdentityError> {
        let known = self.read(|state| state.trust.epoch == epoch && state.trust.revision >= revision);
        if known {
            return Ok(());
        }
        self.check_roots(roots).map_err(IdentityError::Answer)?;
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let trust = Trust {
            roots: roots.iter().map(|root| URL_SAFE_NO_PAD.encode(root)).collect(),
            epoch: epoch.to_owned(),
            revision,
            ..state.trust.clone()
        };
        save_trust(&self.inner.dir, &trust)?;
        state.trust = trust;
        Ok(())
    }

    fn check_roots(&self, roots: &[Vec<u8>]) -> Result<(), String> {
        let store = tls::root_store(roots.iter().map(Vec::as_slice)).map_err(|e| e.to_string())?;
        let chain = self.inner.controller_chain.read().unwrap_or_else(PoisonError::into_inner).clone();
        let now = rustls::pki_types::UnixTime::now();
        if chain.is_empty() || tls::trusts_controller(store, self.cell(), &chain, now) {
            Ok(())
        } else {
            Err("the set does not cover the controller that this node is connected to".to_owned())
        }
    }

    /// Wraps a role's replica, so that the trust roots of the feed take effect here too.
    #[must_use]
    pub fn watch_roots<R: Replica>(&self, replica: R) -> RootsWatch<R> {
        RootsWatch::new(replica, Some(self.clone()))
    }

    fn read<T>(&self, with: impl FnOnce(&State) -> T) -> T {
        with(&self.inner.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn too_old(&self) -> IdentityError {
        IdentityError::TooOld { at: utc(self.not_after()), dir: self.inner.dir.clone() }
    }
}

fn crypto(error: impl fmt::Display) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests;
