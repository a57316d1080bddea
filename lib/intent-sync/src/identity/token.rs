//! The join token: what a node knows before it knows anything.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{IdentityError, io_error, utc};
use crate::tls::{Fingerprint, NodeName};

/// A token is a few hundred bytes; whatever is longer is not one.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

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

    pub(super) fn secret_text(&self) -> Zeroizing<String> {
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

    pub(super) async fn read(&self) -> Result<Option<JoinToken>, IdentityError> {
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

fn mode_of(file: &File) -> Option<u32> {
    file.metadata().ok().map(|meta| meta.permissions().mode())
}
