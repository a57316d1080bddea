//! An account with an authority, and what is asked with it.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{
    AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, ExternalAccountKey,
    Identifier, Key, NewAccount, NewOrder, OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{AcmeError, NameProblem, problems_of};
use crate::renewal::Window;
use crate::transport::{Shared, Transport};

/// Where an authority is.
#[derive(Debug, Clone, Copy)]
pub struct AuthorityAddress<'a> {
    /// Its directory.
    pub directory_url: &'a str,
    /// Who signs its server's certificate, PEM; empty: those that the system trusts.
    pub root_pem: &'a str,
    /// Mail addresses that it may write to.
    pub contacts: &'a [String],
}

/// The account with the authority, made elsewhere, that an account of ours is to be bound to (RFC 8555 §7.3.4).
pub struct ExternalAccount {
    /// As the authority calls it.
    pub kid: String,
    /// Its key.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// What proves an account, as it is sealed and kept. Never printed.
pub struct Credentials(Kept);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    /// A key alone: whoever comes with it first makes the account, and everybody after finds it (RFC 8555 §7.3.1). PKCS#8, base64.
    Key { pkcs8: Zeroizing<String> },
    /// An account that is there: one that had to be bound when it was made.
    Bound(Box<AccountCredentials>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// A new key, of an account that is still to be made.
    ///
    /// # Errors
    /// No random numbers to be had.
    pub fn new_key() -> Result<Self, AcmeError> {
        let (_, pkcs8) = Key::generate_pkcs8().map_err(|error| AcmeError::of(error, None))?;
        Ok(Self(Kept::Key { pkcs8: Zeroizing::new(STANDARD.encode(pkcs8.secret_pkcs8_der())) }))
    }

    /// What is to be sealed.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, AcmeError> {
        serde_json::to_vec(&self.0).map(Zeroizing::new).map_err(|error| AcmeError::Setup(error.to_string()))
    }

    /// The inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// The bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AcmeError> {
        // What is in there is not repeated.
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|_| AcmeError::Setup("what is kept of the account cannot be read".to_owned()))
    }
}

/// An account that can ask.
#[derive(Clone)]
pub struct Account {
    inner: instant_acme::Account,
    transport: Arc<Transport>,
    caa_identities: Arc<[String]>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// What an authority offers to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// How: `http-01`, `tls-alpn-01`, ...
    pub method: String,
    /// What it will ask for.
    pub token: String,
    /// What it is to find (RFC 8555 §8.1).
    pub key_authorization: String,
}

/// A name of an order that the authority still has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedName {
    /// The name.
    pub name: String,
    /// How it can.
    pub offers: Vec<Offer>,
}

/// An order that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderMade {
    /// Where it is.
    pub url: String,
    /// What is to be looked at; names that were looked at a short while ago are not among them.
    pub names: Vec<OfferedName>,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderProgress {
    /// The authority looks, or waits until it is told that it may.
    Pending,
    /// A key can be given to it.
    Ready,
    /// It certifies.
    Processing,
    /// The certificate is there: the chain, leaf first, PEM.
    Valid(String),
    /// There will be none.
    Invalid(Vec<NameProblem>),
}

/// The key that a certificate is for, PEM. Never printed.
pub struct CertificateKey(Zeroizing<String>);

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateKey")
    }
}

impl CertificateKey {
    /// A new one: ECDSA over P-256.
    ///
    /// # Errors
    /// No random numbers to be had.
    pub fn generate() -> Result<Self, AcmeError> {
        let key = KeyPair::generate().map_err(setup)?;
        Ok(Self(Zeroizing::new(key.serialize_pem())))
    }

    /// One that was kept.
    #[must_use]
    pub const fn from_pem(pem: Zeroizing<String>) -> Self {
        Self(pem)
    }

    /// PEM, PKCS#8.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.0
    }

    fn request(&self, names: &[String]) -> Result<Vec<u8>, AcmeError> {
        let key = KeyPair::from_pem(&self.0).map_err(setup)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(setup)?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&key).map_err(setup)?.der().to_vec())
    }
}

fn setup(error: impl fmt::Display) -> AcmeError {
    AcmeError::Setup(error.to_string())
}

/// What of a directory the library does not hand on.
#[derive(Deserialize)]
struct Directory {
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
}

/// The ways of validation that may be asked for, as both sides spell them.
const METHODS: [(ChallengeType, &str); 3] = [
    (ChallengeType::Http01, "http-01"),
    (ChallengeType::TlsAlpn01, "tls-alpn-01"),
    (ChallengeType::Dns01, "dns-01"),
];

/// Longest URL that is kept, in bytes.
const MAX_URL: usize = 2_048;

/// What edges take for a token: base64url (RFC 8555 §8.1), and not endless.
fn is_token(token: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=256).contains(&token.len()) && token.bytes().all(is_base64url)
}

impl Account {
    /// Makes an account that is bound to another one. What it answers with is to be kept: the next time would make another account.
    ///
    /// # Errors
    /// The authority cannot be asked, or refuses.
    pub async fn bind(at: AuthorityAddress<'_>, to: &ExternalAccount) -> Result<Credentials, AcmeError> {
        let transport = Transport::new(at.root_pem).map_err(setup)?;
        let builder = instant_acme::Account::builder_with_http(Box::new(Shared(Arc::clone(&transport))));
        let contacts: Vec<String> = at.contacts.iter().map(|one| format!("mailto:{one}")).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let key = ExternalAccountKey::new(to.kid.clone(), &to.key);
        let made = builder.create(&new, at.directory_url.to_owned(), Some(&key)).await;
        let (_, credentials) = made.map_err(|error| AcmeError::of(error, transport.retry_after()))?;
        Ok(Credentials(Kept::Bound(Box::new(credentials))))
    }

    /// The account of these credentials; it is made when it is not there yet.
    ///
    /// # Errors
    /// The authority cannot be asked, or refuses.
    pub async fn open(at: AuthorityAddress<'_>, credentials: &Credentials) -> Result<Self, AcmeError> {
        let transport = Transport::new(at.root_pem).map_err(setup)?;
        let failed = |error| AcmeError::of(error, transport.retry_after());
        let builder = instant_acme::Account::builder_with_http(Box::new(Shared(Arc::clone(&transport))));
        let inner = match &credentials.0 {
            Kept::Key { pkcs8 } => {
                let der =
                    Zeroizing::new(STANDARD.decode(pkcs8.as_bytes()).map_err(|_| setup("the key is none"))?);
                let key = Key::from_pkcs8_der(PrivatePkcs8KeyDer::from(der.as_slice())).map_err(failed)?;
                let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
                let (account, _) =
                    builder.create_from_key((key, own), at.directory_url.to_owned()).await.map_err(failed)?;
                if !at.contacts.is_empty() {
                    let contacts: Vec<String> =
                        at.contacts.iter().map(|one| format!("mailto:{one}")).collect();
                    let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
                    account.update_contacts(&contacts).await.map_err(failed)?;
                }
                account
            }
            Kept::Bound(bound) => {
                let bytes = Zeroizing::new(serde_json::to_vec(bound).map_err(setup)?);
                let again: AccountCredentials = serde_json::from_slice(&bytes).map_err(setup)?;
                builder.from_credentials(again).await.map_err(failed)?
            }
        };
        let directory = transport.get(at.directory_url).await;
        let directory = directory.map_err(|error| AcmeError::Unavailable(error.to_string()))?;
        let directory: Directory = serde_json::from_slice(&directory)
            .map_err(|error| AcmeError::Unavailable(format!("its directory is none: {error}")))?;
        Ok(Self { inner, transport, caa_identities: directory.meta.caa_identities.into() })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.inner.id()
    }

    /// What the authority calls itself in CAA records, as far as its directory says.
    #[must_use]
    pub fn caa_identities(&self) -> &[String] {
        &self.caa_identities
    }

    fn failed(&self, error: instant_acme::Error) -> AcmeError {
        AcmeError::of(error, self.transport.retry_after())
    }

    /// Orders a certificate for names. `replaces`: the leaf (DER) that it takes the place of (RFC 9773 §5); authorities that do not know
    /// that are not told.
    ///
    /// # Errors
    /// The authority cannot be asked, or refuses.
    pub async fn order(
        &self,
        names: &[String],
        replaces: Option<&[u8]>,
        profile: Option<&str>,
    ) -> Result<OrderMade, AcmeError> {
        let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
        let leaf = replaces.map(|der| CertificateDer::from(der.to_vec()));
        // A certificate without an authority's key identifier cannot be named, and is replaced all the same.
        let replaces = leaf.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        let request = |replaces: Option<CertificateIdentifier<'static>>| {
            let mut request = NewOrder::new(&identifiers);
            if let Some(replaces) = replaces {
                request = request.replaces(replaces);
            }
            if let Some(profile) = profile {
                request = request.profile(profile);
            }
            request
        };
        let replaces = replaces.map(CertificateIdentifier::into_owned);
        let mut made = self.inner.new_order(&request(replaces.clone())).await;
        let unknown = match &made {
            Err(instant_acme::Error::Unsupported(_)) => true,
            // The certificate was replaced already, or is of another authority or account.
            Err(instant_acme::Error::Api(problem)) => problem.r#type.as_deref().is_some_and(|kind| {
                kind.ends_with(":alreadyReplaced")
                    || kind.ends_with(":malformed")
                    || kind.ends_with(":conflict")
            }),
            Ok(_) | Err(_) => false,
        };
        if replaces.is_some() && unknown {
            made = self.inner.new_order(&request(None)).await;
        }
        let mut order = made.map_err(|error| self.failed(error))?;
        let mut offered = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization.map_err(|error| self.failed(error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let thumbprint = self.inner.key_thumbprint();
            let offers = authorization.challenges.iter().filter_map(|challenge| {
                is_token(&challenge.token).then_some(())?;
                let (_, method) = METHODS.iter().find(|(kind, _)| *kind == challenge.r#type)?;
                let token = challenge.token.clone();
                Some(Offer {
                    method: (*method).to_owned(),
                    key_authorization: format!("{token}.{thumbprint}"),
                    token,
                })
            });
            offered.push(OfferedName { name, offers: offers.collect() });
        }
        let url = order.url().to_owned();
        if url.len() > MAX_URL {
            return Err(AcmeError::Unavailable(format!(
                "the URL of its order has more than {MAX_URL} bytes"
            )));
        }
        Ok(OrderMade { url, names: offered })
    }

    /// Tells the authority that it may look, at all names of an order that are still to be looked at, each in the way that `method_of`
    /// says. To say so twice does no harm.
    ///
    /// # Errors
    /// The authority cannot be asked, or refuses.
    pub async fn may_look(
        &self,
        order: &str,
        method_of: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<(), AcmeError> {
        let mut order = self.inner.order(order.to_owned()).await.map_err(|error| self.failed(error))?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let method = method_of(&authorization.identifier().to_string());
            let Some((kind, _)) = METHODS.into_iter().find(|(_, name)| Some(*name) == method) else {
                continue;
            };
            if let Some(mut challenge) = authorization.challenge(kind) {
                challenge.set_ready().await.map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// How far an order is.
    ///
    /// # Errors
    /// The authority cannot be asked, or does not know the order any more.
    pub async fn progress(&self, order: &str) -> Result<OrderProgress, AcmeError> {
        let mut order = self.inner.order(order.to_owned()).await.map_err(|error| self.failed(error))?;
        match order.state().status {
            OrderStatus::Pending => Ok(OrderProgress::Pending),
            OrderStatus::Ready => Ok(OrderProgress::Ready),
            OrderStatus::Processing => Ok(OrderProgress::Processing),
            OrderStatus::Valid => match order.certificate().await.map_err(|error| self.failed(error))? {
                Some(chain) => Ok(OrderProgress::Valid(chain)),
                None => Ok(OrderProgress::Processing),
            },
            OrderStatus::Invalid => {
                let mut problems = Vec::new();
                let whole = order.state().error.as_ref().map(|error| problems_of(error, ""));
                let mut authorizations = order.authorizations();
                while let Some(authorization) = authorizations.next().await {
                    let authorization = authorization.map_err(|error| self.failed(error))?;
                    let name = authorization.identifier().to_string();
                    let errors =
                        authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
                    problems.extend(errors.flat_map(|error| problems_of(error, &name)));
                }
                if problems.is_empty() {
                    problems = whole.unwrap_or_else(|| {
                        let message = "the order is not valid any more, and nobody says why".to_owned();
                        vec![NameProblem { name: String::new(), code: "invalid".into(), message }]
                    });
                }
                Ok(OrderProgress::Invalid(problems))
            }
        }
    }

    /// Gives the authority a key to certify for all names of an order.
    ///
    /// # Errors
    /// The authority cannot be asked, or refuses.
    pub async fn finalize(&self, order: &str, key: &CertificateKey) -> Result<(), AcmeError> {
        let mut order = self.inner.order(order.to_owned()).await.map_err(|error| self.failed(error))?;
        let mut names = Vec::new();
        let mut identifiers = order.identifiers();
        while let Some(identifier) = identifiers.next().await {
            names.push(identifier.map_err(|error| self.failed(error))?.to_string());
        }
        let request = key.request(&names)?;
        order.finalize_csr(&request).await.map_err(|error| self.failed(error))
    }

    /// When the authority suggests to replace a certificate (its leaf, DER), and in how many milliseconds to ask again; `None`: it does not
    /// suggest.
    ///
    /// # Errors
    /// The authority cannot be asked.
    pub async fn renewal_window(&self, leaf: &[u8]) -> Result<Option<(Window, i64)>, AcmeError> {
        let leaf = CertificateDer::from(leaf.to_vec());
        let Ok(id) = CertificateIdentifier::try_from(&leaf) else { return Ok(None) };
        match self.inner.renewal_info(&id).await {
            Ok((info, again)) => {
                let at =
                    |nanoseconds: i128| i64::try_from(nanoseconds.div_euclid(1_000_000)).unwrap_or(i64::MAX);
                let suggested = &info.suggested_window;
                let window = Window {
                    start: at(suggested.start.unix_timestamp_nanos()),
                    end: at(suggested.end.unix_timestamp_nanos()),
                };
                Ok(Some((window, i64::try_from(again.as_millis()).unwrap_or(i64::MAX))))
            }
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_kept_and_never_printed() {
        let made = Credentials::new_key().unwrap();
        let bytes = made.to_bytes().unwrap();
        let again = Credentials::from_bytes(&bytes).unwrap();
        assert_eq!(*again.to_bytes().unwrap(), *bytes);
        assert_eq!(format!("{made:?}"), "Credentials");
        let error = Credentials::from_bytes(b"{\"pkcs8\": 4711}").unwrap_err().to_string();
        assert!(!error.contains("4711"), "{error}");
        let external = ExternalAccount { kid: "kid-1".into(), key: Zeroizing::new(b"hunter2".to_vec()) };
        assert!(!format!("{external:?}").contains("hunter2"));
    }

    #[test]
    fn a_token_is_base64url() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"));
        for wrong in ["", "../x", "a b", "a\r\n", "ä", &"a".repeat(257)] {
            assert!(!is_token(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_for_the_names_and_signed_by_the_key() {
        let key = CertificateKey::generate().unwrap();
        let names = ["a.example".to_owned(), "www.a.example".to_owned()];
        let der = key.request(&names).unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_der(&der.into()).unwrap();
        let said = format!("{:?}", request.params.subject_alt_names);
        assert!(names.iter().all(|name| said.contains(name.as_str())), "{said}");
        assert_eq!(format!("{key:?}"), "CertificateKey");
    }
}
