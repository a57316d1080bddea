//! A certificate for a host name, brought by a customer or issued by a public authority. Its private key is a secret for the cluster's
//! edges.

use hosting_intent::name;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::certificate_authority::CertificateAuthority;
use super::fqdn::FqdnSpec;
use crate::definition::{Build, Definition};
use crate::document::is_false;
use crate::pem_text::{MAX_PEM, certificates, parse};
use crate::{Codes, Column, Creation, Doc, Document, Entropy, Facet, Id, IdPolicy, Index, Kind, KindInfo, Owns, Parent, PlainText, Resource, Secret, SpecError, Status, Tier, Unique, Warning, timestamp};

/// Certificates of a chain, the leaf among them.
const MAX_CHAIN: usize = 8;
/// Names of a certificate.
const MAX_NAMES: usize = 250;

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The customer brought it.
    Custom,
    /// A public authority issued it by ACME; `authority_id` says which. Callers know all of those under this one name.
    #[serde(rename = "lets_encrypt")]
    Acme,
}

/// What is stored of a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateSpec {
    /// Where it comes from.
    #[serde(rename = "type")]
    pub origin: Origin,
    /// The authority that issued it; none for one that was brought.
    #[serde(default)]
    pub authority_id: Option<Id<CertificateAuthority>>,
    /// The certificate itself, PEM (RFC 7468).
    pub cert_pem: String,
    /// The authorities between it and a root, each signed by the next, PEM; empty: none.
    #[serde(default)]
    pub chain_pem: String,
    /// Its private key, PEM.
    pub key: Secret,
    /// The host names that it is for, lower case, A-labels; the first label may be `*`.
    pub names: Vec<String>,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

/// Body of POST /fqdns/{fqdnID}/certificates. Audit rows keep none of it: keys have been pasted into the wrong field before.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CertificateCreate {
    /// PEM (RFC 7468). The chain may follow in it.
    #[schemars(extend("x-secret" = true))]
    cert_pem: String,
    /// PKCS#8, PKCS#1 or SEC 1, PEM, not encrypted; RSA from 2048 bits, ECDSA or Ed25519. Never shown again.
    key_pem: PlainText,
    /// The authorities between the certificate and a root, in order.
    #[serde(default)]
    #[schemars(extend("x-secret" = true))]
    chain_pem: String,
}

/// There is no PUT: a new certificate is a new resource, so that the one before is there until it works.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CertificateUpdate {}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CertificateExtra {
    /// RFC 3339.
    issued_at: String,
    /// RFC 3339.
    expires_at: String,
    /// Of the FQDN's certificates the one that ends last: the one that edges show.
    is_active: bool,
}

/// What the controller keeps about a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateState {
    /// Of the FQDN's certificates it is the one that ends last.
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
    /// Every edge in service applied it, or had.
    #[serde(skip_serializing_if = "is_false")]
    pub shown: bool,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Certificate;

impl Document for Certificate {
    const KIND: Kind = Kind::Certificate;
    type Spec = CertificateSpec;
    type State = CertificateState;
}

/// The facet of certificates that authorities issued: whose they are.
pub const AUTHORITY_FACET: &str = "authority_id";
/// The facet of certificates that authorities issued: the registered domains of their names, as authorities count them.
pub const DOMAIN_FACET: &str = "registered_domain";

/// The domain that a name was registered under (Public Suffix List); the name itself where it is none.
#[must_use]
pub fn registered_domain(name: &str) -> &str {
    let name = name.strip_prefix("*.").unwrap_or(name);
    psl::domain_str(name).unwrap_or(name)
}

/// Where the private key stands in the spec (JSON pointer, RFC 6901).
pub const KEY_PATH: &str = "/key";

fn invalid(field: &str, problem: impl Into<String>) -> SpecError {
    SpecError::invalid(field, problem)
}

fn to_pem(chain: &[CertificateDer<'_>]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let encoded = chain.iter().map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), lines));
    encoded.collect()
}

/// The certificates of a chain that a spec holds, leaf first, DER.
#[must_use]
pub fn chain_der(spec: &CertificateSpec) -> Vec<Vec<u8>> {
    let parts = [spec.cert_pem.as_bytes(), spec.chain_pem.as_bytes()];
    let ders = parts.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem));
    ders.filter_map(Result::ok).map(|der| der.to_vec()).collect()
}

/// The host names of a certificate (RFC 6125: the common name counts for nothing).
fn names_of(leaf: &X509Certificate<'_>) -> Result<Vec<String>, SpecError> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let mut names = Vec::new();
    for general in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        let GeneralName::DNSName(given) = general else { continue };
        let lower = given.to_ascii_lowercase();
        let host = lower.strip_prefix("*.").unwrap_or(&lower);
        if name::check_host(host).is_ok() && host.contains('.') {
            names.push(lower);
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(invalid("cert_pem", "names no host (subject alternative name)"));
    }
    if names.len() > MAX_NAMES {
        return Err(invalid("cert_pem", format!("names more than {MAX_NAMES} hosts")));
    }
    Ok(names)
}

/// Whether a certificate's name is one for `host`: the same, or a wildcard for exactly its first label (RFC 6125 §6.4.3).
#[must_use]
pub fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(above) => host.split_once('.').is_some_and(|(_, rest)| rest == above),
        None => name == host,
    }
}

/// The key must be the leaf's own.
fn check_key(chain: &[CertificateDer<'static>], key: &PlainText) -> Result<(), SpecError> {
    if key.expose().len() > MAX_PEM {
        return Err(invalid("key_pem", format!("must have at most {MAX_PEM} bytes")));
    }
    if key.expose().contains("ENCRYPTED") {
        return Err(invalid("key_pem", "is encrypted; give the key without a passphrase"));
    }
    let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| invalid("key_pem", "must be a private key in PEM (PKCS#8, PKCS#1 or SEC 1)"))?;
    match CertifiedKey::from_der(chain.to_vec(), der, &default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(invalid("key_pem", "is not the key of the certificate")),
        Err(_) => {
            Err(invalid("key_pem", "is of a kind that is not supported: RSA from 2048 bits, ECDSA P-256 to P-521, Ed25519"))
        }
    }
}

/// Each certificate is signed by the one behind it, for a server.
fn check_chain(chain: &[CertificateDer<'static>], not_before: i64) -> Result<(), SpecError> {
    let Some(([leaf, inner @ ..], last)) = chain.split_last().map(|(last, rest)| (rest, last)) else { return Ok(()) };
    let wrong = |problem: &str| invalid("chain_pem", problem);
    let mut roots = RootCertStore::empty();
    roots.add(last.clone()).map_err(|_| wrong("its last certificate is no authority's"))?;
    let mut starts = not_before;
    for pair in chain.windows(2) {
        let [signed, signer] = pair else { continue };
        let (signed, signer) = (parse("chain_pem", signed)?, parse("chain_pem", signer)?);
        if signed.issuer() != signer.subject() {
            return Err(wrong("is not in order: each certificate must be followed by the one that signed it"));
        }
        starts = starts.max(signer.validity().not_before.timestamp());
    }
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(starts).unwrap_or_default()));
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| invalid("cert_pem", "is no X.509 certificate"))?;
    let algorithms = default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, inner, at, algorithms)
        .map_err(|_| wrong("does not sign the certificate, or not for a server"))
}

/// What a certificate needs so that clients find the way from it to a root.
fn missing_chain(leaf: &X509Certificate<'_>, chain: &[CertificateDer<'_>]) -> Option<Warning> {
    let complete = chain.len() > 1 || leaf.issuer() == leaf.subject();
    (!complete).then(|| {
        Warning::of_field(
            "no_chain",
            "chain_pem",
            "the authority that signed the certificate is not in it: many clients will not trust it",
            "give the certificates that your authority calls chain or intermediate",
        )
    })
}

/// Checks what belongs together, and adds the certificate.
fn build_of(
    input: CertificateCreate,
    (origin, authority_id): (Origin, Option<Id<CertificateAuthority>>),
    parent: Option<&Resource>,
    build: &mut Build<'_>,
) -> Result<(), SpecError> {
    let mut chain = certificates("cert_pem", &input.cert_pem)?;
    if chain.is_empty() {
        return Err(invalid("cert_pem", "must be a certificate in PEM (RFC 7468)"));
    }
    chain.extend(certificates("chain_pem", &input.chain_pem)?);
    if chain.len() > MAX_CHAIN {
        return Err(invalid("chain_pem", format!("must have at most {} certificates", MAX_CHAIN - 1)));
    }
    let Some((leaf, authorities)) = chain.split_first() else {
        return Err(invalid("cert_pem", "is required"));
    };
    let parsed = parse("cert_pem", leaf)?;
    if parsed.is_ca() && parsed.issuer() != parsed.subject() {
        return Err(invalid("cert_pem", "is an authority's; the certificate of the host comes first"));
    }
    let names = names_of(&parsed)?;
    if let Some(fqdn) = parent.and_then(|parent| parent.typed::<FqdnSpec>().ok())
        && !names.iter().any(|name| covers(name, &fqdn.fqdn))
    {
        return Err(invalid("cert_pem", format!("is not for {}, but for {}", fqdn.fqdn, names.join(", "))));
    }
    check_key(&chain, &input.key_pem)?;
    let (not_before, not_after) =
        (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    check_chain(&chain, not_before)?;
    if let Some(warning) = missing_chain(&parsed, &chain) {
        build.warn(warning);
    }
    let digest = Sha256::digest(leaf.as_ref());
    let spec = CertificateSpec {
        origin,
        authority_id,
        cert_pem: to_pem(std::slice::from_ref(leaf)),
        chain_pem: to_pem(authorities),
        key: Secret::new(input.key_pem),
        names,
        fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before,
        not_after,
    };
    let id = build.id(Certificate::INFO.id, None)?;
    build.push::<Certificate>(id, parent.map(|parent| parent.id.as_str()), &spec)
}

/// What an authority issued for a host name: its chain, leaf first, and the private key, both PEM.
///
/// # Errors
/// What was issued is not for the name or the key, or no certificate.
pub fn issued(
    fqdn: &Resource,
    authority: &Id<CertificateAuthority>,
    chain_pem: &str,
    key_pem: PlainText,
    entropy: Entropy<'_>,
) -> Result<Creation, SpecError> {
    let input = CertificateCreate { cert_pem: chain_pem.to_owned(), key_pem, chain_pem: String::new() };
    let mut build = Build::new(entropy);
    build_of(input, (Origin::Acme, Some(authority.clone())), Some(fqdn), &mut build)?;
    Ok(build.creation)
}

impl Definition for Certificate {
    type Create = CertificateCreate;
    type Update = CertificateUpdate;
    type Extra = CertificateExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Certificate",
        about: "A certificate for a host name, with its private key. Edges show it for every name of the tenant that it is for.",
        collection: "/fqdns/{fqdnID}/certificates",
        item: "/certificates/{id}",
        parent: Some(Parent { kind: Kind::Fqdn, param: "fqdnID", field: "fqdn_id" }),
        lists: &[],
        scope: "certificates",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: true,
        suspends_with_tenant: false,
        codes: Codes { create: 202, update: None, delete: 202 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[("created_at", Column::Created), ("status", Column::Status)],
        filters: &[],
        platform_only: &[],
        global_search: true,
        hidden: &["not_before", "not_after"],
        nullable: &["authority_id"],
        joins: &[],
    };
    const INITIAL: Status = Status::Pending;

    fn create(
        input: CertificateCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        build_of(input, (Origin::Custom, None), parent, build)
    }

    fn update(_: &mut CertificateSpec, _: CertificateUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        Ok(None)
    }

    fn label(id: &str, spec: &CertificateSpec) -> String {
        spec.names.first().map_or_else(|| id.to_owned(), Clone::clone)
    }

    fn index(resource: &Resource, spec: &CertificateSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.fingerprint.clone(), field: "cert_pem" });
        if spec.origin == Origin::Acme {
            let mut domains: Vec<&str> = spec.names.iter().map(|name| registered_domain(name)).collect();
            domains.sort_unstable();
            domains.dedup();
            let facet = |domain: &str| Facet { field: DOMAIN_FACET, value: domain.to_owned() };
            index.facets.extend(domains.into_iter().map(facet));
        }
        if let Some(authority) = &spec.authority_id {
            index.facets.push(Facet { field: AUTHORITY_FACET, value: authority.to_string() });
        }
        if let Some(tenant) = &resource.tenant {
            index.facets.push(Facet { field: "tenant_id", value: tenant.clone() });
        }
    }

    fn secrets(spec: &CertificateSpec, each: &mut dyn FnMut(String, &Secret)) {
        each(KEY_PATH.to_owned(), &spec.key);
    }

    fn extra(certificate: &Doc<Self>) -> CertificateExtra {
        CertificateExtra {
            issued_at: timestamp(certificate.spec.not_before.saturating_mul(1000)),
            expires_at: timestamp(certificate.spec.not_after.saturating_mul(1000)),
            is_active: certificate.state.active,
        }
    }

    /// Those that the platform gets for names by itself are not.
    fn is_charged(spec: &CertificateSpec) -> bool {
        spec.origin == Origin::Custom
    }

    fn example() -> Value {
        json!({"cert_pem": EXAMPLE_CERT, "key_pem": EXAMPLE_KEY})
    }
}

/// Of a certificate that nobody trusts: for `www.customer-1.example` and `customer-1.example`, until 2126.
const EXAMPLE_CERT: &str = include_str!("certificate/example.crt");
const EXAMPLE_KEY: &str = include_str!("certificate/example.key");

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};

    use super::*;
    use crate::kinds::tests::stored;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(name: &str, above: Option<&Authority>) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer),
            None => params.self_signed(&key),
        };
        Authority { pem: certificate.unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn leaf(names: &[&str], key: &KeyPair, by: &Authority) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        CertificateParams::new(names).unwrap().signed_by(key, &by.issuer).unwrap().pem()
    }

    fn create(body: Value) -> Result<Creation, SpecError> {
        let fqdn = Resource { id: "f".into(), ..stored(Kind::Fqdn, json!({"fqdn": "www.a.example"})) };
        let fields = body.as_object().cloned().unwrap();
        Kind::Certificate.def().create(Some(&fqdn), &fields, &mut |bytes: &mut [u8]| bytes.fill(7))
    }

    fn problem(cert: &str, key: &str, chain: &str) -> String {
        let error = create(json!({"cert_pem": cert, "key_pem": key, "chain_pem": chain})).unwrap_err().to_string();
        assert!(!error.contains("BEGIN") && !error.contains("MII"), "it repeats what it was given: {error}");
        error
    }

    #[test]
    fn a_certificate_is_taken_with_its_key_and_the_chain_in_order() {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let lower = authority("lower", Some(&middle));
        let key = KeyPair::generate().unwrap();
        let (cert, private) = (leaf(&["WWW.a.example", "*.a.example", "10.0.0.1"], &key, &lower), key.serialize_pem());
        let chain = format!("{}{}", lower.pem, middle.pem);
        let made = create(json!({"cert_pem": cert, "key_pem": private, "chain_pem": chain})).unwrap();
        assert_eq!(made.warnings, []);
        let new = &made.resources[0];
        assert_eq!(new.spec["names"], json!(["*.a.example", "www.a.example"]));
        let texts: Vec<_> = new.plain.iter().map(|(path, text)| (path, text.expose())).collect();
        assert_eq!(texts, [(KEY_PATH, private.as_str())]);
        assert!(!format!("{made:?}").contains("PRIVATE KEY"), "nor in debug output");
        // The same in one text; noise around it goes.
        let together = format!("from our authority\n{cert}\n{chain}");
        let again = create(json!({"cert_pem": together, "key_pem": private})).unwrap();
        assert_eq!(again.resources[0].spec, new.spec);
        let spec: CertificateSpec = serde_json::from_value(Value::Object(new.spec.clone())).unwrap();
        assert_eq!(chain_der(&spec).len(), 3);
        let alone = create(json!({"cert_pem": cert, "key_pem": private})).unwrap();
        assert_eq!(alone.warnings[0].code, "no_chain");

        for (chain, what) in [
            (format!("{}{}", middle.pem, lower.pem), "not in order"),
            (middle.pem.clone(), "not in order"),
            (format!("{}{}", lower.pem, authority("middle", Some(&root)).pem), "does not sign"),
            (leaf(&["x.example"], &key, &root), "chain_pem"),
            ("rubbish -----BEGIN CERTIFICATE-----\nMIIrubbish\n-----END CERTIFICATE-----".into(), "must be certificates"),
        ] {
            let error = problem(&cert, &private, &chain);
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let root = authority("root", None);
        let key = KeyPair::generate().unwrap();
        let (cert, private) = (leaf(&["www.a.example"], &key, &root), key.serialize_pem());
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        for (cert, key, what) in [
            (cert.as_str(), other.serialize_pem().as_str(), "is not the key of the certificate"),
            (&leaf(&["www.b.example", "a.example", "*.www.a.example"], &key, &root), &private, "is not for www.a.example"),
            (&leaf(&[], &key, &root), &private, "names no host"),
            (&authority("middle", Some(&root)).pem, &private, "is an authority's"),
            (&cert, &cert, "must be a private key"),
            (&private, &private, "must be certificates"),
            ("", &private, "must be a certificate"),
            (&cert, "", "must be a private key"),
            (&cert, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII\n-----END ENCRYPTED PRIVATE KEY-----\n", "is encrypted"),
            (&"x".repeat(MAX_PEM + 1), &private, "at most"),
        ] {
            let error = problem(cert, key, "");
            assert!(error.contains(what), "{what}: {error}");
        }
        let missing = create(json!({"cert_pem": cert})).unwrap_err().to_string();
        assert_eq!(missing, "validation error: key_pem: is required");
        let ed25519 = leaf(&["www.a.example"], &other, &root);
        assert!(create(json!({"cert_pem": ed25519, "key_pem": other.serialize_pem()})).is_ok());
    }

    #[test]
    fn a_view_says_when_the_key_was_set_and_nothing_else_of_it() {
        let made = create(json!({"cert_pem": EXAMPLE_CERT, "key_pem": EXAMPLE_KEY}));
        assert!(made.unwrap_err().to_string().contains("is not for www.a.example"));
        let fields = Certificate::example();
        let made = Kind::Certificate.def().create(None, fields.as_object().unwrap(), &mut |_: &mut [u8]| {}).unwrap();
        let mut resource = made.resources.into_iter().next().unwrap().into_resource(None, 1, 0);
        let sealed = crate::SealedText { key: 1, sealed: "c2VhbGVk".into(), set_at: 1_700_000_000_000 };
        assert!(resource.put_sealed(KEY_PATH, &sealed));
        let view = resource.view();
        assert_eq!(view["key"], json!({"set_at": "2023-11-14T22:13:20Z"}));
        assert!(view["expires_at"].as_str().unwrap().starts_with("2126-") && view["is_active"] == false);
        let text = Value::Object(view).to_string();
        assert!(!text.contains("c2VhbGVk") && !text.contains("$secret"), "{text}");
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        for (name, host, fits) in [
            ("a.example", "a.example", true),
            ("*.a.example", "www.a.example", true),
            ("*.a.example", "a.example", false),
            ("*.a.example", "x.www.a.example", false),
            ("*.a.example", "www.b.example", false),
        ] {
            assert_eq!(covers(name, host), fits, "{name} {host}");
        }
    }
}
