//! A public certificate authority that names get certificates of, by ACME (RFC 8555), and what it allows.

mod allowance;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::allowance::{Allowance, CertificateAuthorityState, MassReissue, Spent};
use self::allowance::MassReissueView;
use super::brand::Brand;
use crate::definition::{Build, Definition};
use crate::faults::Faults;
use crate::issuance::ChallengeMethod;
use crate::pem_text::check_certificates;
use crate::{Codes, Column, Doc, Document, Filter, Id, IdPolicy, Index, Kind, KindInfo, Owns, PlainText, Resource, Secret, SpecError, Status, Tier, Unique, check, filter, timestamp};

/// Names of one order. More make its validation take long, and fail for all when it fails for one.
const MOST_NAMES: u32 = 25;
/// Longest URL.
const MAX_URL: usize = 2_048;

/// Who shares an account with an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accounts {
    /// All of the platform.
    #[default]
    Platform,
    /// Each brand has one of its own.
    Brand,
}

/// Orders of one account, unless the authority says otherwise: 300 within three hours.
const fn usual_orders() -> Allowance {
    Allowance { count: 300, seconds: 10_800 }
}

/// Certificates for the names of one registered domain: 50 within a week. What replaces another one does not count.
const fn usual_domain() -> Allowance {
    Allowance { count: 50, seconds: 604_800 }
}

const fn most_names() -> u32 {
    MOST_NAMES
}

fn all_methods() -> Vec<ChallengeMethod> {
    vec![ChallengeMethod::Http01, ChallengeMethod::TlsAlpn01, ChallengeMethod::Dns01]
}

/// What is stored of an authority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateAuthoritySpec {
    /// Slug, unique.
    pub name: String,
    /// Where its directory is (RFC 8555 §7.1.1).
    pub directory_url: String,
    /// Mail addresses that it may write to.
    #[serde(default)]
    pub contacts: Vec<String>,
    /// Whether the operator agrees to its terms of service. Nothing is asked of it before.
    #[serde(default)]
    pub terms_agreed: bool,
    /// The account with it that ours are bound to (RFC 8555 §7.3.4).
    #[serde(default)]
    pub eab_kid: Option<String>,
    /// The key of that account.
    #[serde(default)]
    pub eab_hmac_key: Option<Secret>,
    /// The kind of certificate to ask for, where it offers several.
    #[serde(default)]
    pub profile: Option<String>,
    /// How it may look whether a name is ours, the one to be preferred first.
    #[serde(default = "all_methods")]
    pub challenges: Vec<ChallengeMethod>,
    /// Who signs the certificate of its own server, PEM; empty: those that the system trusts.
    #[serde(default)]
    pub root_pem: String,
    /// What it calls itself in CAA records (RFC 8659); empty: what its directory says.
    #[serde(default)]
    pub caa_identities: Vec<String>,
    /// Names of one order, from 1 to 25.
    #[serde(default = "most_names")]
    pub names_per_order: u32,
    /// Who shares an account.
    #[serde(default)]
    pub accounts: Accounts,
    /// Orders of one account.
    #[serde(default = "usual_orders")]
    pub orders: Allowance,
    /// Certificates for the names of one registered domain.
    #[serde(default = "usual_domain")]
    pub per_domain: Allowance,
    /// The brands whose names it may be asked for; empty: all.
    #[serde(default)]
    pub brand_ids: Vec<Id<Brand>>,
    /// The lowest is asked first, the next one when it cannot be.
    #[serde(default)]
    pub priority: u32,
    /// Whether it may be asked.
    pub enabled: bool,
}

/// Body of POST /certificate-authorities.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CertificateAuthorityCreate {
    #[schemars(length(min = 1, max = 63))]
    name: String,
    /// `https://`.
    #[schemars(length(min = 9, max = 2048))]
    directory_url: String,
    #[serde(default)]
    contacts: Vec<String>,
    #[serde(default)]
    terms_agreed: bool,
    #[serde(default)]
    eab_kid: Option<String>,
    /// Base64url, as the authority gives it. Never shown again.
    #[serde(default)]
    eab_hmac_key: Option<PlainText>,
    #[serde(default)]
    profile: Option<String>,
    /// Absent: `http-01`, `tls-alpn-01`, `dns-01`. Wildcards are asked for by `dns-01` alone.
    #[serde(default)]
    challenges: Option<Vec<ChallengeMethod>>,
    #[serde(default)]
    root_pem: Option<String>,
    #[serde(default)]
    caa_identities: Vec<String>,
    /// Default 25.
    #[serde(default)]
    #[schemars(range(min = 1, max = 25))]
    names_per_order: Option<u32>,
    #[serde(default)]
    accounts: Accounts,
    /// Default 300 within three hours.
    #[serde(default)]
    orders: Option<Allowance>,
    /// Default 50 within a week.
    #[serde(default)]
    per_domain: Option<Allowance>,
    #[serde(default)]
    brand_ids: Vec<String>,
    #[serde(default)]
    priority: u32,
    /// Default true.
    #[serde(default)]
    enabled: Option<bool>,
}

/// Body of PUT /certificate-authorities/{id}. Its directory stays: another one is another authority.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CertificateAuthorityUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    /// All of them.
    #[serde(default)]
    contacts: Option<Vec<String>>,
    #[serde(default)]
    terms_agreed: Option<bool>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    eab_kid: Option<String>,
    #[serde(default)]
    eab_hmac_key: Option<PlainText>,
    /// Null or empty: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    profile: Option<Option<String>>,
    #[serde(default)]
    challenges: Option<Vec<ChallengeMethod>>,
    #[serde(default)]
    root_pem: Option<String>,
    /// All of them.
    #[serde(default)]
    caa_identities: Option<Vec<String>>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 25))]
    names_per_order: Option<u32>,
    #[serde(default)]
    orders: Option<Allowance>,
    #[serde(default)]
    per_domain: Option<Allowance>,
    /// All of them.
    #[serde(default)]
    brand_ids: Option<Vec<String>>,
    #[serde(default)]
    priority: Option<u32>,
    #[serde(default)]
    enabled: Option<bool>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CertificateAuthorityExtra {
    /// RFC 3339. It is asked for nothing before. Absent while it may be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<String>,
    /// Why it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The last time that many of its certificates were to be replaced at once. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    reissue: Option<MassReissueView>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct CertificateAuthority;

impl Document for CertificateAuthority {
    const KIND: Kind = Kind::CertificateAuthority;
    type Spec = CertificateAuthoritySpec;
    type State = CertificateAuthorityState;
}

/// Where the key of the external account stands in the spec (JSON pointer, RFC 6901).
pub const EAB_PATH: &str = "/eab_hmac_key";

impl CertificateAuthoritySpec {
    /// The account that names of a brand are asked for with.
    #[must_use]
    pub fn account_of(&self, brand: Option<&str>) -> String {
        match (self.accounts, brand) {
            (Accounts::Brand, Some(brand)) => format!("brand/{brand}"),
            (Accounts::Brand, None) | (Accounts::Platform, _) => "platform".to_owned(),
        }
    }

    /// Whether it may be asked for names of a brand.
    #[must_use]
    pub fn serves(&self, brand: Option<&str>) -> bool {
        let is_open = self.enabled && self.terms_agreed;
        is_open
            && (self.brand_ids.is_empty() || self.brand_ids.iter().any(|one| Some(one.as_str()) == brand))
    }
}

fn invalid(field: &str, problem: impl Into<String>) -> SpecError {
    SpecError::invalid(field, problem)
}

/// The key of an external account: base64, of either alphabet.
///
/// # Errors
/// The text is none.
pub fn eab_key(text: &str) -> Result<Vec<u8>, SpecError> {
    let text = text.trim().trim_end_matches('=');
    let url_safe = text.replace('+', "-").replace('/', "_");
    match URL_SAFE_NO_PAD.decode(url_safe) {
        Ok(key) if key.len() >= 16 => Ok(key),
        Ok(_) | Err(_) => Err(invalid("eab_hmac_key", "must be base64 of at least 16 bytes")),
    }
}

fn check_url(url: &str) -> Result<(), SpecError> {
    check::text("directory_url", url, MAX_URL)?;
    let host = url.strip_prefix("https://").and_then(|rest| rest.split(['/', '?', '#']).next());
    match host {
        Some(host) if !host.is_empty() && !host.contains('@') && !url.contains(char::is_whitespace) => Ok(()),
        Some(_) | None => Err(invalid("directory_url", "must be a URL that begins with https://, without a user name")),
    }
}

fn check_allowance(field: &str, allowance: Allowance) -> Result<(), SpecError> {
    check::between(&format!("{field}.count"), allowance.count, 1, 1_000_000)?;
    check::between(&format!("{field}.seconds"), allowance.seconds, 1, 2_592_000)
}

fn sound(spec: &mut CertificateAuthoritySpec) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    faults.note(check::slug("name", &spec.name));
    faults.note(check_url(&spec.directory_url));
    for (n, contact) in spec.contacts.iter_mut().enumerate() {
        if let Some(sound) = faults.note(check::email(&format!("contacts[{n}]"), contact)) {
            *contact = sound;
        }
    }
    if spec.eab_kid.is_some() != spec.eab_hmac_key.is_some() {
        faults.note::<()>(Err(invalid("eab_hmac_key", "must be given together with eab_kid")));
    }
    if let Some(kid) = &spec.eab_kid {
        faults.note(check::text("eab_kid", kid, 255));
    }
    if let Some(profile) = &spec.profile {
        faults.note(check::text("profile", profile, 255));
    }
    if spec.challenges.is_empty() {
        faults.note::<()>(Err(invalid("challenges", "must have at least one")));
    }
    let mut seen = Vec::new();
    spec.challenges.retain(|method| !seen.contains(method) && { seen.push(*method); true });
    faults.note(check_certificates("root_pem", &spec.root_pem));
    for (n, identity) in spec.caa_identities.iter_mut().enumerate() {
        if let Some(sound) = faults.note(check::host(&format!("caa_identities[{n}]"), identity)) {
            *identity = sound;
        }
    }
    faults.note(check::between("names_per_order", spec.names_per_order, 1, MOST_NAMES));
    faults.note(check_allowance("orders", spec.orders));
    faults.note(check_allowance("per_domain", spec.per_domain));
    for (n, brand) in spec.brand_ids.iter().enumerate() {
        faults.note(check::reference(&format!("brand_ids[{n}]"), brand));
    }
    check::distinct(&mut spec.brand_ids);
    faults.end()
}

fn secret_of(text: PlainText) -> Result<Secret, SpecError> {
    let key = eab_key(text.expose())?;
    Ok(Secret::new(PlainText::new(STANDARD.encode(key))))
}

fn unless_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl Definition for CertificateAuthority {
    type Create = CertificateAuthorityCreate;
    type Update = CertificateAuthorityUpdate;
    type Extra = CertificateAuthorityExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Certificate authority",
        about: "A public certificate authority that names with `ssl_enabled` get certificates of (ACME), and what it allows.",
        collection: "/certificate-authorities",
        item: "/certificate-authorities/{id}",
        parent: None,
        lists: &[],
        scope: "certificate_authorities",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: false,
        sort: &[("name", Column::Label), ("created_at", Column::Created)],
        filters: &[Filter::label("name", filter::slug)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &["eab_kid", "eab_hmac_key", "profile"],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(
        input: CertificateAuthorityCreate,
        _: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        let mut spec = CertificateAuthoritySpec {
            name: input.name,
            directory_url: input.directory_url,
            contacts: input.contacts,
            terms_agreed: input.terms_agreed,
            eab_kid: unless_empty(input.eab_kid),
            eab_hmac_key: input.eab_hmac_key.map(secret_of).transpose()?,
            profile: unless_empty(input.profile),
            challenges: input.challenges.unwrap_or_else(all_methods),
            root_pem: input.root_pem.unwrap_or_default(),
            caa_identities: input.caa_identities,
            names_per_order: input.names_per_order.unwrap_or(MOST_NAMES),
            accounts: input.accounts,
            orders: input.orders.unwrap_or_else(usual_orders),
            per_domain: input.per_domain.unwrap_or_else(usual_domain),
            brand_ids: input.brand_ids.into_iter().map(Id::from).collect(),
            priority: input.priority,
            enabled: input.enabled.unwrap_or(true),
        };
        sound(&mut spec)?;
        if !spec.terms_agreed {
            build.warn(crate::Warning::of_field(
                "terms_not_agreed",
                "terms_agreed",
                "the authority is asked for nothing",
                "read its terms of service, and set terms_agreed when you agree",
            ));
        }
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &spec)
    }

    fn update(
        spec: &mut CertificateAuthoritySpec,
        input: CertificateAuthorityUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        let CertificateAuthorityUpdate {
            name,
            contacts,
            terms_agreed,
            eab_kid,
            eab_hmac_key,
            profile,
            challenges,
            root_pem,
            caa_identities,
            names_per_order,
            orders,
            per_domain,
            brand_ids,
            priority,
            enabled,
        } = input;
        set(&mut spec.name, name);
        set(&mut spec.contacts, contacts);
        set(&mut spec.terms_agreed, terms_agreed);
        if eab_kid.is_some() {
            spec.eab_kid = eab_kid;
        }
        if let Some(key) = eab_hmac_key {
            spec.eab_hmac_key = Some(secret_of(key)?);
        }
        if let Some(profile) = profile {
            spec.profile = unless_empty(profile);
        }
        set(&mut spec.challenges, challenges);
        set(&mut spec.root_pem, root_pem);
        set(&mut spec.caa_identities, caa_identities);
        set(&mut spec.names_per_order, names_per_order);
        set(&mut spec.orders, orders);
        set(&mut spec.per_domain, per_domain);
        set(&mut spec.brand_ids, brand_ids.map(|ids| ids.into_iter().map(Id::from).collect()));
        set(&mut spec.priority, priority);
        set(&mut spec.enabled, enabled);
        sound(spec)?;
        Ok(None)
    }

    fn label(_: &str, spec: &CertificateAuthoritySpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, spec: &CertificateAuthoritySpec, index: &mut Index) {
        index.uniques.push(Unique { scope: String::new(), key: spec.name.clone(), field: "name" });
    }

    fn secrets(spec: &CertificateAuthoritySpec, each: &mut dyn FnMut(String, &Secret)) {
        if let Some(key) = &spec.eab_hmac_key {
            each(EAB_PATH.to_owned(), key);
        }
    }

    fn extra(authority: &Doc<Self>) -> CertificateAuthorityExtra {
        let CertificateAuthorityState { paused_until, problem, reissue, .. } = &authority.state;
        CertificateAuthorityExtra {
            paused_until: (*paused_until > 0).then(|| timestamp(*paused_until)),
            problem: problem.clone(),
            reissue: reissue.as_ref().map(MassReissueView::of),
        }
    }

    fn example() -> Value {
        json!({
            "name": "example-ca", "directory_url": "https://acme.ca.example/directory", "contacts": ["certificates@hosting.example"],
            "terms_agreed": true,
        })
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(body: Value) -> Result<CertificateAuthoritySpec, SpecError> {
        let mut fields = CertificateAuthority::example().as_object().unwrap().clone();
        fields.extend(body.as_object().unwrap().clone());
        let made = Kind::CertificateAuthority.def().create(None, &fields, &mut |_: &mut [u8]| {})?;
        let resource = made.resources.into_iter().next().unwrap();
        Ok(resource.into_resource(None, 1, 0).typed().unwrap())
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_its_field() {
        for (body, field) in [
            (json!({"directory_url": "http://acme.ca.example/directory"}), "directory_url"),
            (json!({"directory_url": "https://user@acme.ca.example/"}), "directory_url"),
            (json!({"directory_url": "https://"}), "directory_url"),
            (json!({"contacts": ["nobody"]}), "contacts[0]"),
            (json!({"eab_kid": "kid"}), "eab_hmac_key"),
            (json!({"eab_kid": "kid", "eab_hmac_key": "??"}), "eab_hmac_key"),
            (json!({"challenges": []}), "challenges"),
            (json!({"names_per_order": 26}), "names_per_order"),
            (json!({"names_per_order": 0}), "names_per_order"),
            (json!({"orders": {"count": 0, "seconds": 1}}), "orders.count"),
            (json!({"per_domain": {"count": 1, "seconds": 0}}), "per_domain.seconds"),
            (json!({"root_pem": "-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----"}), "root_pem"),
            (json!({"caa_identities": ["not a host"]}), "caa_identities[0]"),
        ] {
            let error = create(body.clone()).unwrap_err().to_string();
            assert!(error.contains(field), "{body}: {error}");
        }
    }

    #[test]
    fn brands_may_have_authorities_and_accounts_of_their_own() {
        let spec = create(json!({"accounts": "brand", "brand_ids": ["b-1", "b-1"], "challenges": ["tls-alpn-01", "tls-alpn-01"]}));
        let spec = spec.unwrap();
        assert_eq!((spec.brand_ids.len(), spec.challenges.len()), (1, 1));
        assert!(spec.serves(Some("b-1")) && !spec.serves(Some("b-2")) && !spec.serves(None));
        assert_eq!(spec.account_of(Some("b-1")), "brand/b-1");
        let open = create(json!({})).unwrap();
        assert!(open.serves(Some("b-2")) && open.account_of(Some("b-2")) == "platform");
        assert!(!create(json!({"terms_agreed": false})).unwrap().serves(None));
        assert!(!create(json!({"enabled": false})).unwrap().serves(None));
    }

    #[test]
    fn an_allowance_is_had_at_once_and_then_share_by_share() {
        let allowance = Allowance { count: 3, seconds: 30 };
        let mut spent = Spent::default();
        let now = 1_000_000;
        let booked: Vec<i64> = (0..6).map(|_| spent.book(allowance, now) - now).collect();
        assert_eq!(booked, [0, 0, 0, 10_000, 20_000, 30_000]);
        assert_eq!(spent.book(allowance, now + 35_000), now + 40_000);
        // After a while all of it is there again, and no more than that.
        let later = now + 500_000;
        let booked: Vec<i64> = (0..4).map(|_| spent.book(allowance, later) - later).collect();
        assert_eq!(booked, [0, 0, 0, 10_000]);
    }

    #[test]
    fn no_window_has_more_than_it_allows() {
        let allowance = Allowance { count: 7, seconds: 70 };
        let mut spent = Spent::default();
        let used: Vec<i64> = (0..200).map(|n| spent.book(allowance, n * 1_000)).collect();
        for (n, first) in used.iter().enumerate() {
            let within = used.iter().skip(n).take_while(|at| **at < first + 70_000).count();
            // What was saved up, and what comes while it is used.
            assert!(within <= 14, "{within} from {first} on");
        }
        let last = used.last().unwrap() - used.first().unwrap();
        assert!(last >= (200 - 7) * 10_000, "{last}");
    }

    #[test]
    fn the_last_of_many_is_foretold_as_it_comes() {
        for allowance in [Allowance { count: 3, seconds: 30 }, Allowance { count: 300, seconds: 10_800 }] {
            for already in [0_u32, 2, 5] {
                let mut spent = Spent::default();
                let now = 50_000;
                for _ in 0..already {
                    spent.book(allowance, now);
                }
                let foretold = spent.last_of(1_000, allowance, now);
                let last = (0..1_000).map(|_| spent.book(allowance, now)).last();
                assert_eq!(last, Some(foretold), "{allowance:?} {already}");
            }
        }
        assert_eq!(Spent::default().last_of(0, usual_orders(), 5), 5);
    }
}
