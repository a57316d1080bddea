//! Who a node is: its join token, its credential on disk, enrolment and renewal.
//!
//! The folder holds `credential.pem` (private key and certificate chain, 0600, replaced as one file so that the pair can
//! never be torn), `trust.json` (authorities, audiences and controllers) and, while an enrolment is under way, `pending-key.pem`. The
//! key of an enrolment is kept before it is sent, so that a lost answer can be asked for again with the same token. Private
//! keys and token secrets never leave this module except to rustls and to the files. Called by every role at its start and
//! by [`crate::client`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_intent::{Key, Rejection, RoleIntent as _};
use hosting_proto::feed::enrollment_client::EnrollmentClient;
use hosting_proto::feed::{Credential, EnrollRequest, RenewRequest};
use hosting_scaffold::file::{read_private, write_private};
use pem::{EncodeConfig, LineEnding, Pem, encode_config};
use prost::Message;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic::transport::Channel;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::client::{DialError, dial, full_jitter};
use crate::tls::{self, Fingerprint, NodeCertificate, NodeName, Pinned, PinnedVerifier};
use crate::{Batch, Replica};

/// Of PEM files: as every other file of ours.
const LINES: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF);
const CREDENTIAL: &str = "credential.pem";
const TRUST: &str = "trust.json";
const PENDING_KEY: &str = "pending-key.pem";
const LOCK: &str = "identity.lock";
/// A token is a few hundred bytes; whatever is longer is not one.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
/// A credential or trust file beyond this is not ours.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
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

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another text altogether.
    #[error("this is no join token: it does not begin with \"{}\"", JoinToken::PREFIX)]
    Prefix,
    /// Cut off, or changed on the way.
    #[error("the join token is damaged ({0}); copy it again, whole and on one line")]
    Damaged(&'static str),
    /// A field cannot be right.
    #[error("the join token's {0} is not valid; ask for a new token")]
    Field(&'static str),
}

/// What lets a new node in, once, for a short while: `hjt1.` and base64url of the fields and a checksum.
///
/// Hand it over in a file or on standard input, never as an argument: arguments are world-readable.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct JoinToken {
    /// What the controller knows the hash of.
    secret: [u8; 32],
    /// The authority that the node is to trust.
    #[zeroize(skip)]
    pub ca: Fingerprint,
    /// Whom the token lets in.
    pub node_id: String,
    /// For the operator's eyes and for choosing what to start; the registry decides.
    pub roles: Vec<String>,
    /// `host:port` of each controller.
    pub controllers: Vec<String>,
    /// Seconds since the Unix epoch.
    pub expires_at: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct TokenBody {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    ca: Vec<u8>,
    #[prost(string, tag = "3")]
    node_id: String,
    #[prost(string, repeated, tag = "4")]
    roles: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    controllers: Vec<String>,
    #[prost(int64, tag = "6")]
    expires_at: i64,
}

impl JoinToken {
    /// What every token of this form begins with; secret scanners can look for it.
    pub const PREFIX: &'static str = "hjt1.";
    /// How long a token lives unless told otherwise.
    pub const LIFE: Duration = Duration::from_secs(15 * 60);

    /// Puts a token together. `secret` comes from a cryptographic source.
    #[must_use]
    pub const fn new(
        secret: [u8; 32],
        ca: Fingerprint,
        node_id: String,
        roles: Vec<String>,
        controllers: Vec<String>,
        expires_at: i64,
    ) -> Self {
        Self { secret, ca, node_id, roles, controllers, expires_at }
    }

    /// The text form.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let mut body = TokenBody {
            secret: self.secret.to_vec(),
            ca: self.ca.0.to_vec(),
            node_id: self.node_id.clone(),
            roles: self.roles.clone(),
            controllers: self.controllers.clone(),
            expires_at: self.expires_at,
        };
        let mut bytes = Zeroizing::new(body.encode_to_vec());
        body.secret.zeroize();
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let mut text = Zeroizing::new(Self::PREFIX.to_owned());
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Reads the text form; surrounding white space is ignored.
    ///
    /// # Errors
    /// What is wrong with it; the text itself is never repeated.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let coded = text.trim().strip_prefix(Self::PREFIX).ok_or(TokenError::Prefix)?;
        if coded.len() as u64 > MAX_TOKEN_BYTES {
            return Err(TokenError::Damaged("too long"));
        }
        let bytes =
            Zeroizing::new(URL_SAFE_NO_PAD.decode(coded).map_err(|_| TokenError::Damaged("not base64url"))?);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged("too short"))?;
        if checksum(body) != *sum {
            return Err(TokenError::Damaged("its checksum does not match"));
        }
        let mut body =
            TokenBody::decode(body).map_err(|_| TokenError::Damaged("its fields cannot be read"))?;
        let secret = <[u8; 32]>::try_from(body.secret.as_slice());
        body.secret.zeroize();
        let token = Self {
            secret: secret.map_err(|_| TokenError::Field("secret"))?,
            ca: Fingerprint(body.ca.as_slice().try_into().map_err(|_| TokenError::Field("CA fingerprint"))?),
            node_id: body.node_id,
            roles: body.roles,
            controllers: body.controllers,
            expires_at: body.expires_at,
        };
        NodeName::new("cell", token.node_id.as_str()).map_err(|_| TokenError::Field("node id"))?;
        Ok(token)
    }

    /// What the store knows a token by: SHA-256 of the secret. Useless to whoever reads it there.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret))
    }
}

/// The store's name of a secret as [`EnrollRequest`] carries it; `None` if it is none.
#[must_use]
pub fn secret_hash(text: &str) -> Option<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut *secret).ok()?;
    (length == 32).then(|| Sha256::digest(*secret).into())
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("secret", &"[redacted]")
            .field("ca", &self.ca)
            .field("node_id", &self.node_id)
            .field("roles", &self.roles)
            .field("controllers", &self.controllers)
            .field("expires_at", &utc(self.expires_at))
            .finish()
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

/// Where the join token of a first start comes from.
#[derive(Debug, Clone, Default)]
pub enum TokenSource {
    /// There is none: the node must have enrolled before.
    #[default]
    None,
    /// A file; should be readable by its owner only.
    File(PathBuf),
    /// Standard input, up to its end.
    Stdin,
}

impl TokenSource {
    /// `-` is standard input, anything else a path.
    #[must_use]
    pub fn from_path(path: Option<&Path>) -> Self {
        match path {
            None => Self::None,
            Some(path) if path == Path::new("-") => Self::Stdin,
            Some(path) => Self::File(path.to_owned()),
        }
    }

    async fn read(&self) -> Result<Option<JoinToken>, IdentityError> {
        let source = self.clone();
        let text = tokio::task::spawn_blocking(move || source.read_text())
            .await
            .map_err(|e| IdentityError::Io { path: "join token".into(), source: io::Error::other(e) })??;
        Ok(text.map(|text| JoinToken::parse(&text)).transpose()?)
    }

    fn read_text(&self) -> Result<Option<Zeroizing<String>>, IdentityError> {
        let mut text = Zeroizing::new(String::new());
        match self {
            Self::None => return Ok(None),
            Self::File(path) => {
                let file = File::open(path).map_err(|source| io_error(path, source))?;
                if mode_of(&file).is_some_and(|mode| mode & 0o077 != 0) {
                    tracing::warn!(path = %path.display(), "the join token's file can be read by others; chmod 600 it");
                }
                file.take(MAX_TOKEN_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|source| io_error(path, source))?;
            }
            Self::Stdin => {
                io::stdin()
                    .take(MAX_TOKEN_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|source| io_error(Path::new("standard input"), source))?;
            }
        }
        Ok(Some(text))
    }
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

fn mode_of(file: &File) -> Option<u32> {
    file.metadata().ok().map(|meta| meta.permissions().mode())
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

/// What is trusted, and where to connect. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Trust {
    /// DER, base64url.
    roots: Vec<String>,
    /// Which feed position the roots were taken from; empty and 0 if they came with a credential.
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    revision: u64,
    audiences: Vec<String>,
    controllers: Vec<String>,
}

impl Trust {
    fn roots_der(&self) -> Vec<Vec<u8>> {
        self.roots.iter().filter_map(|root| URL_SAFE_NO_PAD.decode(root).ok()).collect()
    }
}

struct State {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    certificate: NodeCertificate,
    trust: Trust,
}

struct Inner {
    dir: PathBuf,
    name: NodeName,
    configured: Vec<String>,
    state: RwLock<State>,
    /// The chain (leaf first) of the controller seen last: roots that do not cover it would cut us off.
    controller_chain: RwLock<Vec<CertificateDer<'static>>>,
    /// Held open for its lock.
    _lock: File,
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
                _lock: lock,
            }),
        }
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

    /// `host:port` of each controller: the configured ones, else those of the join token.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        if self.inner.configured.is_empty() {
            self.read(|state| state.trust.controllers.clone())
        } else {
            self.inner.configured.clone()
        }
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

    /// Connects to the controller at `address` with this identity.
    ///
    /// # Errors
    /// [`DialError`], [`IdentityError::Crypto`] within it.
    pub(crate) async fn connect(&self, address: &str, keepalive: Duration) -> Result<Channel, DialError> {
        let config = self.client_config().map_err(|e| DialError::Setup(e.to_string()))?;
        let name = server_name(self.cell()).map_err(|e| DialError::Setup(e.to_string()))?;
        let (channel, chain) = dial(address, Arc::new(config), name, keepalive).await?;
        *self.inner.controller_chain.write().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(channel)
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

/// A replica that also listens for trust roots.
#[derive(Debug)]
pub struct RootsWatch<R> {
    /// Empty while a process serves from its ledger and has yet to enrol. Roots published before are not taken over: those that
    /// come with the credential are newer.
    identity: Arc<OnceLock<Identity>>,
    replica: R,
}

impl<R> RootsWatch<R> {
    pub(crate) fn new(replica: R, identity: Option<Identity>) -> Self {
        let identity = Arc::new(identity.map_or_else(OnceLock::new, OnceLock::from));
        Self { identity, replica }
    }

    /// Where an identity that comes later is put.
    pub(crate) fn identity(&self) -> Arc<OnceLock<Identity>> {
        Arc::clone(&self.identity)
    }
}

impl<R: Replica> Replica for RootsWatch<R> {
    type Intent = R::Intent;

    fn check(&self, key: &Key, intent: &R::Intent) -> Result<(), Rejection> {
        if let Some(roots) = intent.trust_roots() {
            let roots: Vec<Vec<u8>> = roots.ca_der.iter().map(|root| root.to_vec()).collect();
            match self.identity.get() {
                Some(identity) => identity.check_roots(&roots),
                None => tls::root_store(roots.iter().map(Vec::as_slice)).map(drop).map_err(|e| e.to_string()),
            }
            .map_err(|problem| Rejection::Invalid { field: "ca_der", problem })?;
        }
        self.replica.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<R::Intent>) {
        let mut upserts = batch.upserts.iter();
        let roots = upserts.find_map(|(item, intent)| Some((item.revision, intent.trust_roots()?)));
        if let (Some(identity), Some((revision, roots))) = (self.identity.get(), roots) {
            let roots: Vec<Vec<u8>> = roots.ca_der.iter().map(|root| root.to_vec()).collect();
            if let Err(error) = identity.set_roots(&roots, &batch.epoch, revision) {
                tracing::error!(%error, "the new trust roots did not take effect; those before stay");
            }
        }
        self.replica.publish(batch);
    }
}

fn crypto(error: impl fmt::Display) -> IdentityError {
    IdentityError::Crypto(error.to_string())
}

fn server_name(cell: &str) -> Result<ServerName<'static>, IdentityError> {
    ServerName::try_from(tls::controller_name(cell)).map_err(crypto)
}

fn csr(key: &rcgen::KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(crypto)?.der().to_vec())
}

async fn enroll(
    token: &JoinToken,
    key: &rcgen::KeyPair,
    controllers: &[String],
    enrolment: &Enrolment,
) -> Result<State, IdentityError> {
    let csr = csr(key)?;
    let deadline = tokio::time::Instant::now() + enrolment.patience;
    let mut failures = 0;
    loop {
        let mut last = None;
        for address in controllers {
            match enroll_at(token, key, &csr, &enrolment.role, address, controllers).await {
                Ok(state) => return Ok(state),
                Err(error) if error.is_transient() => {
                    tracing::debug!(address, %error, "enrolment");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        failures += 1;
        let wait = full_jitter(failures, Duration::from_millis(100), Duration::from_secs(5));
        if tokio::time::Instant::now() + wait >= deadline {
            return Err(last.unwrap_or_else(|| IdentityError::Unreachable("no address given".into())));
        }
        tokio::time::sleep(wait).await;
    }
}

async fn enroll_at(
    token: &JoinToken,
    key: &rcgen::KeyPair,
    csr: &[u8],
    role: &str,
    address: &str,
    controllers: &[String],
) -> Result<State, IdentityError> {
    let verifier = Arc::new(PinnedVerifier::new(token.ca));
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    // The cell is not known yet, and the server does not look at the name.
    let name = server_name("cell")?;
    let dialled = dial(address, Arc::new(config), name, Duration::from_secs(10)).await;
    let cell = match (verifier.seen(), &dialled) {
        (Some(Pinned::Other(found)), _) => {
            return Err(IdentityError::FingerprintMismatch {
                address: address.to_owned(),
                expected: token.ca,
                found: *found,
            });
        }
        (Some(Pinned::Cell(cell)), _) => cell.clone(),
        (None, Ok(_)) => return Err(IdentityError::Answer("the server showed no certificate".into())),
        (None, Err(error)) => return Err(IdentityError::Unreachable(format!("{address}: {error}"))),
    };
    let (channel, _) = dialled.map_err(|error| IdentityError::Unreachable(format!("{address}: {error}")))?;
    let mut request = tonic::Request::new(EnrollRequest {
        node_id: token.node_id.clone(),
        secret: token.secret_text().to_string(),
        csr_der: csr.to_vec().into(),
        role: role.to_owned(),
    });
    request.set_timeout(CALL_TIMEOUT);
    let answer = EnrollmentClient::new(channel).enroll(request).await.map_err(|status| {
        let node_id = token.node_id.clone();
        match status.code() {
            Code::Unauthenticated => IdentityError::TokenUnknown { node_id },
            Code::AlreadyExists => IdentityError::TokenUsed { node_id },
            Code::FailedPrecondition => {
                IdentityError::TokenExpired { node_id, at: utc(token.expires_at), now: utc(unix_now()) }
            }
            Code::NotFound => IdentityError::NodeUnknown { node_id },
            code => IdentityError::Refused { code, message: status.message().to_owned() },
        }
    })?;
    let name =
        NodeName::new(cell, token.node_id.as_str()).map_err(|e| IdentityError::Answer(e.to_string()))?;
    accept(answer.into_inner(), key, &name, controllers.to_vec())
}

/// Checks that a credential is the one that was asked for, before anything of it is kept.
fn accept(
    answer: Credential,
    key: &rcgen::KeyPair,
    name: &NodeName,
    controllers: Vec<String>,
) -> Result<State, IdentityError> {
    let wrong = |what: String| IdentityError::Answer(what);
    let chain: Vec<CertificateDer<'static>> =
        answer.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let leaf = chain.first().ok_or_else(|| wrong("it has no certificate".into()))?;
    let certificate = NodeCertificate::parse(leaf).map_err(|e| wrong(e.to_string()))?;
    if certificate.name != *name {
        return Err(wrong(format!(
            "the certificate is for {}, not for {}",
            certificate.name.uri(),
            name.uri()
        )));
    }
    if !is_for_key(leaf, key) {
        return Err(wrong("the certificate is for another key".into()));
    }
    tls::root_store(answer.roots_der.iter().map(AsRef::as_ref)).map_err(|e| wrong(e.to_string()))?;
    let trust = Trust {
        roots: answer.roots_der.iter().map(|root| URL_SAFE_NO_PAD.encode(root)).collect(),
        epoch: String::new(),
        revision: 0,
        audiences: answer.audiences,
        controllers,
    };
    Ok(State { key: Zeroizing::new(key.serialize_der()), chain, certificate, trust })
}

fn is_for_key(leaf: &CertificateDer<'_>, key: &rcgen::KeyPair) -> bool {
    use rcgen::PublicKeyData as _;
    x509_parser::parse_x509_certificate(leaf)
        .is_ok_and(|(_, certificate)| certificate.public_key().subject_public_key.data == key.der_bytes())
}

fn prepare_dir(dir: &Path) -> Result<File, IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io_error(dir, source))?;
    let path = dir.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(IdentityError::InUse { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(io_error(&path, source)),
    }
}

fn load(dir: &Path) -> Result<Option<State>, IdentityError> {
    let path = dir.join(CREDENTIAL);
    let Some(pem) = read(&path)? else { return Ok(None) };
    let corrupt = |what: String| IdentityError::Corrupt { path: path.clone(), what };
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|e| corrupt(format!("private key: {e}")))?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| corrupt(format!("certificate: {e}")))?;
    let leaf = chain.first().ok_or_else(|| corrupt("no certificate in it".into()))?;
    let certificate = NodeCertificate::parse(leaf).map_err(|e| corrupt(e.to_string()))?;
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|e| corrupt(format!("private key: {e}")))?;
    if !is_for_key(leaf, &pair) {
        return Err(corrupt("key and certificate do not belong together".into()));
    }
    let path = dir.join(TRUST);
    let corrupt = |what: String| IdentityError::Corrupt { path: path.clone(), what };
    let json = read(&path)?.ok_or_else(|| corrupt("the file is missing".into()))?;
    let trust: Trust = serde_json::from_slice(&json).map_err(|e| corrupt(e.to_string()))?;
    tls::root_store(trust.roots_der().iter().map(Vec::as_slice)).map_err(|e| corrupt(e.to_string()))?;
    Ok(Some(State { key: Zeroizing::new(key.secret_pkcs8_der().to_vec()), chain, certificate, trust }))
}

/// The key of this enrolment: the one of an attempt whose answer was lost, or a new one.
fn pending_key(dir: &Path) -> Result<rcgen::KeyPair, IdentityError> {
    let path = dir.join(PENDING_KEY);
    if let Some(pem) = read(&path)? {
        let found = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok().and_then(|der| {
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).ok()
        });
        if let Some(key) = found {
            return Ok(key);
        }
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    write(&path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

fn save_trust(dir: &Path, trust: &Trust) -> Result<(), IdentityError> {
    let json = serde_json::to_vec_pretty(trust).map_err(crypto)?;
    write(&dir.join(TRUST), &json)
}

fn save_credential(dir: &Path, state: &State) -> Result<(), IdentityError> {
    let key = Pem::new("PRIVATE KEY", state.key.as_slice());
    let mut text = Zeroizing::new(encode_config(&key, LINES));
    // The copy of the key goes as the key does.
    drop(Zeroizing::new(key.into_contents()));
    for certificate in &state.chain {
        text.push_str(&encode_config(&Pem::new("CERTIFICATE", certificate.as_ref()), LINES));
    }
    write(&dir.join(CREDENTIAL), text.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    write_private(path, bytes).map_err(|source| io_error(path, source))
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let bytes = read_private(path, MAX_FILE_BYTES).map_err(|source| io_error(path, source))?;
    Ok(bytes.map(Zeroizing::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(
            [7; 32],
            Fingerprint([9; 32]),
            "edge-1".into(),
            vec!["lb".into()],
            vec!["127.0.0.1:7443".into()],
            2_000_000_000,
        )
    }

    #[test]
    fn a_token_survives_the_round_trip() {
        let text = token().encode();
        assert!(text.starts_with("hjt1."));
        assert_eq!(JoinToken::parse(&text), Ok(token()));
        assert_eq!(JoinToken::parse(&format!(" {}\n", *text)), Ok(token()));
    }

    #[test]
    fn a_damaged_token_says_so_and_never_panics() {
        let text = token().encode();
        assert_eq!(JoinToken::parse("eyJhbGciOi"), Err(TokenError::Prefix));
        assert_eq!(JoinToken::parse(""), Err(TokenError::Prefix));
        for end in JoinToken::PREFIX.len()..text.len() {
            assert!(matches!(JoinToken::parse(&text[..end]), Err(TokenError::Damaged(_))), "cut at {end}");
        }
        for at in JoinToken::PREFIX.len()..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(JoinToken::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
        }
        let mut odd = token();
        odd.node_id = "../x".into();
        assert_eq!(JoinToken::parse(&odd.encode()), Err(TokenError::Field("node id")));
    }

    #[test]
    fn the_secret_is_in_no_debug_output_and_its_hash_agrees() {
        let token = token();
        let debug = format!("{token:?}");
        assert!(debug.contains("[redacted]"));
        assert!(!debug.contains(token.secret_text().as_str()));
        assert!(!debug.contains("7, 7, 7"));
        assert_eq!(secret_hash(&token.secret_text()), Some(token.secret_hash()));
        assert_eq!(secret_hash("short"), None);
        assert_eq!(secret_hash(&"A".repeat(4000)), None);
    }

    #[test]
    fn a_pending_key_is_kept_until_the_answer_came() {
        let dir = tempfile::tempdir().unwrap();
        let first = pending_key(dir.path()).unwrap();
        let again = pending_key(dir.path()).unwrap();
        assert_eq!(first.serialize_der(), again.serialize_der());
        fs::write(dir.path().join(PENDING_KEY), "rubbish").unwrap();
        assert_ne!(pending_key(dir.path()).unwrap().serialize_der(), first.serialize_der());
    }

    #[tokio::test]
    async fn without_credential_and_token_the_next_step_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let enrolment = Enrolment {
            dir: dir.path().join("id"),
            token: TokenSource::None,
            controllers: Vec::new(),
            patience: Duration::ZERO,
            role: String::new(),
        };
        let error = Identity::load_or_enroll(&enrolment).await.unwrap_err();
        assert!(matches!(error, IdentityError::NotEnrolled { .. }));
        assert!(error.to_string().contains("hostctl node join-token"));
        assert_eq!(fs::metadata(&enrolment.dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn two_processes_cannot_share_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        let held = prepare_dir(dir.path()).unwrap();
        assert!(matches!(prepare_dir(dir.path()), Err(IdentityError::InUse { .. })));
        drop(held);
        assert!(prepare_dir(dir.path()).is_ok());
    }
}
