//! A key to the API. Only its SHA-256 is stored; the key itself is shown once.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::definition::{Build, Definition, Grants, to_map, written_over};
use crate::faults::Faults;
use crate::roles::built_in;
use crate::{Codes, Doc, Document, Entropy, Facet, Filter, IdPolicy, Index, Kind, KindInfo, NewResource, Owns, PlainSecrets, Ref, Resource, Rotate, SpecError, Status, Tier, Unique, Update, check, filter, timestamp};

/// The resource parts of scopes that are no kind's ([`KindInfo::scope`]).
const OTHER_RESOURCES: &[&str] = &[
    "daemons",
    "cron_jobs",
    "databases",
    "database_users",
    "valkey",
    "s3",
    "ssh_keys",
    "network",
    "email",
    "backups",
    "wireguard",
    "incidents",
    "audit_logs",
    "platform",
    "jobs",
    "rollouts",
    "callbacks",
    "events",
    "bulk",
    "undo",
];

/// Whether it is the resource part of a scope.
fn is_scope_resource(name: &str) -> bool {
    OTHER_RESOURCES.contains(&name) || Kind::ALL.iter().any(|kind| kind.info().scope == name)
}

/// The action parts of scopes.
pub const SCOPE_ACTIONS: &[&str] = &["read", "write", "delete"];

/// Whether one scope holds all that another one means: `*` in either place stands for all of them.
#[must_use]
pub fn scope_holds(held: &str, wanted: &str) -> bool {
    let part = |held: &str, wanted: &str| held == "*" || held == wanted;
    match (held.split_once(':'), wanted.split_once(':')) {
        (Some((resource, action)), Some((of, to))) => part(resource, of) && part(action, to),
        _ => false,
    }
}

/// What is stored of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeySpec {
    /// For people.
    pub name: String,
    /// `resource:action`; `*` in either place stands for all.
    pub scopes: Vec<String>,
    /// Ids of roles, whose scopes it has too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Brand ids, or `*`: platform admin.
    pub brands: Vec<String>,
    /// The first 12 characters of the key.
    pub key_prefix: String,
    /// SHA-256 of the whole key, hex.
    pub key_hash: String,
    /// When it ends to open anything, RFC 3339; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Networks that it opens from, e.g. `192.0.2.0/24`; empty for anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_networks: Vec<String>,
    /// Keys that others took the place of, oldest first. They stay known after they ended: a file that still holds one, such as that of the
    /// bootstrap key, must not make it new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotated_out: Vec<FormerKey>,
}

/// A key that another one took the place of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FormerKey {
    /// SHA-256 of the whole key, hex.
    pub key_hash: String,
    /// It opens until then, in milliseconds since the Unix epoch.
    pub until: i64,
}

impl ApiKeySpec {
    /// When a key ends to open anything, in milliseconds since the Unix epoch, by its hash: this one's, or that of one before. `None`: it
    /// does not end. A stored time that cannot be read has passed.
    #[must_use]
    pub fn ends(&self, key_hash: &str) -> Option<i64> {
        let at = |text: &str| text.parse().map_or(i64::MIN, |at: jiff::Timestamp| at.as_millisecond());
        let expires = self.expires_at.as_deref().map(at);
        let before = self.rotated_out.iter().find(|former| former.key_hash == key_hash);
        expires.into_iter().chain(before.map(|former| former.until)).min()
    }

    /// Whether it opens from an address.
    #[must_use]
    pub fn opens_from(&self, address: IpAddr) -> bool {
        let networks = self.allowed_networks.iter().filter_map(|text| text.parse::<IpNet>().ok());
        self.allowed_networks.is_empty() || networks.into_iter().any(|network| network.contains(&address))
    }
}

/// Keys that are remembered after others took their place: a rotation a day for three years.
const MAX_ROTATED_OUT: usize = 1_000;
/// Roles that a key may have.
const MAX_ROLES: usize = 16;
/// Networks that a key may be kept to.
const MAX_NETWORKS: usize = 64;

/// Puts a new key in the place of the one that there is, which opens for a while still; one that was rotated out before ends at once.
/// `now` is in milliseconds since the Unix epoch.
///
/// # Errors
/// A body that is none, or a time out of its range.
pub fn rotate(
    current: &Resource,
    body: &Map<String, Value>,
    now: i64,
    entropy: Entropy<'_>,
) -> Result<(Update, String), SpecError> {
    let (until, warnings) = Rotate::until(body, now)?;
    let mut spec: ApiKeySpec =
        current.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })?;
    let mut random = [0u8; 32];
    entropy(&mut random);
    let key = key_from(&random);
    for before in &mut spec.rotated_out {
        before.until = before.until.min(now);
    }
    let replaced = std::mem::replace(&mut spec.key_hash, key_hash(&key));
    spec.rotated_out.push(FormerKey { key_hash: replaced, until });
    let forgotten = spec.rotated_out.len().saturating_sub(MAX_ROTATED_OUT);
    spec.rotated_out.drain(..forgotten);
    spec.key_prefix = key.chars().take(12).collect();
    let whole = written_over(current, &spec)?;
    let update = Update {
        changed: true,
        plain: PlainSecrets::default(),
        spec: whole,
        label: current.label.clone(),
        status: None,
        owner: None,
        warnings,
    };
    Ok((update, key))
}

/// Body of POST /api-keys.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ApiKeyCreate {
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// May be left out where there are roles.
    #[serde(default)]
    scopes: Vec<String>,
    /// Ids of roles, whose scopes it has too.
    #[serde(default)]
    roles: Vec<String>,
    #[schemars(length(min = 1))]
    brands: Vec<String>,
    /// When it ends to open anything, RFC 3339; absent for never.
    #[serde(default)]
    expires_at: Option<String>,
    /// Networks that it opens from, as `192.0.2.0/24` or one address; none for anywhere.
    #[serde(default)]
    allowed_networks: Vec<String>,
}

/// Body of PUT /api-keys/{id}: name, scopes and brands are replaced.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ApiKeyUpdate {
    name: String,
    scopes: Vec<String>,
    /// All of them; absent: as they are. Null or empty: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<Vec<String>>")]
    roles: Option<Option<Vec<String>>>,
    brands: Vec<String>,
    /// Null: it never ends.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    expires_at: Option<Option<String>>,
    /// Null or empty: anywhere.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<Vec<String>>")]
    allowed_networks: Option<Option<Vec<String>>>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ApiKeyExtra {
    /// When it was revoked; absent while it works.
    revoked_at: Option<String>,
    /// Until when the key before the last rotation opens; absent when there was none.
    former_until: Option<String>,
}

/// The key that 32 random bytes make: `hst_` and 64 hex characters.
#[must_use]
pub fn key_from(random: &[u8; 32]) -> String {
    let mut key = String::with_capacity(68);
    key.push_str("hst_");
    push_hex(&mut key, random);
    key
}

/// What is stored instead of a key: SHA-256 of the whole text, hex.
#[must_use]
pub fn key_hash(key: &str) -> String {
    let mut hash = String::with_capacity(64);
    push_hex(&mut hash, &Sha256::digest(key.as_bytes()));
    hash
}

/// Whether a text can be a key; anything else is refused before it is looked up. Keys that we make are `hst_` and 64 hex
/// characters; an operator may bring their own.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (8..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A key that the operator brings: the first one of a new store.
///
/// # Errors
/// A name, key, scope or brand that no key may have.
pub fn from_raw(
    name: &str,
    key: &str,
    mut scopes: Vec<String>,
    mut brands: Vec<String>,
    entropy: Entropy<'_>,
) -> Result<NewResource, SpecError> {
    normalise(name, &mut scopes, &mut Vec::new(), &mut brands)?;
    if !is_key(key) {
        return Err(SpecError::invalid("key", "must be 8 to 256 printable ASCII characters without spaces"));
    }
    let spec = ApiKeySpec {
        name: name.to_owned(),
        scopes,
        roles: Vec::new(),
        brands,
        key_prefix: key.chars().take(12).collect(),
        key_hash: key_hash(key),
        expires_at: None,
        allowed_networks: Vec::new(),
        rotated_out: Vec::new(),
    };
    Ok(NewResource {
        kind: Kind::ApiKey,
        id: crate::uuid(entropy),
        parent: None,
        owner: None,
        label: spec.name.clone(),
        status: ApiKey::INITIAL,
        spec: to_map(&spec)?,
        plain: PlainSecrets::default(),
    })
}

/// Where the store's unique index has a key's hash: `holder(Kind::ApiKey, KEY_SCOPE, &key_hash(key))`.
pub const KEY_SCOPE: &str = "key_hash";

/// A time in the form that is shown.
fn expiry(text: &str) -> Result<String, SpecError> {
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| SpecError::invalid("expires_at", "must be a time as in RFC 3339, e.g. 2027-01-01T00:00:00Z"))?;
    Ok(timestamp(at.as_millisecond()))
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    use std::fmt::Write;
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
}

/// Checks scopes, and takes out those that stand twice.
pub(super) fn check_scopes(scopes: &mut Vec<String>) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    for (n, scope) in scopes.iter().enumerate() {
        let known = scope.split_once(':').is_some_and(|(resource, action)| {
            (resource == "*" || is_scope_resource(resource))
                && (action == "*" || SCOPE_ACTIONS.contains(&action))
        });
        if !known {
            let problem = format!(
                "{scope:?} must be resource:action with a known resource or *, and read, write, delete or *"
            );
            faults.note::<()>(Err(SpecError::invalid(format!("scopes[{n}]"), problem)));
        }
    }
    faults.end()?;
    check::distinct(scopes);
    Ok(())
}

fn normalise(
    name: &str,
    scopes: &mut Vec<String>,
    roles: &mut Vec<String>,
    brands: &mut Vec<String>,
) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    faults.note(check::text("name", name, 255));
    if scopes.is_empty() && roles.is_empty() {
        faults.note::<()>(Err(SpecError::invalid("scopes", "at least one scope or role is required")));
    }
    faults.note(check_scopes(scopes));
    if roles.len() > MAX_ROLES {
        faults.note::<()>(Err(SpecError::invalid("roles", format!("at most {MAX_ROLES} can be given"))));
    }
    for (n, role) in roles.iter().enumerate() {
        faults.note(check::reference(&format!("roles[{n}]"), role));
    }
    check::distinct(roles);
    if brands.is_empty() {
        faults.note::<()>(Err(SpecError::invalid("brands", "at least one is required; * for all")));
    }
    for (n, brand) in brands.iter().enumerate() {
        if brand != "*" {
            faults.note(check::reference(&format!("brands[{n}]"), brand));
        }
    }
    faults.end()?;
    check::distinct(brands);
    Ok(())
}

/// What the controller keeps about a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKeyState {
    /// When it was revoked, in milliseconds since the Unix epoch; such a key opens nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct ApiKey;

impl Document for ApiKey {
    const KIND: Kind = Kind::ApiKey;
    type Spec = ApiKeySpec;
    type State = ApiKeyState;
}

impl Definition for ApiKey {
    type Create = ApiKeyCreate;
    type Update = ApiKeyUpdate;
    type Extra = ApiKeyExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "API key",
        about: "A key to the API. The key itself is shown once, when it is made.",
        collection: "/api-keys",
        item: "/api-keys/{id}",
        parent: None,
        lists: &[],
        scope: "api_keys",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 204 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: false,
        sort: &[],
        filters: &[Filter::label("name", filter::text), Filter::facet("key_prefix", filter::text)],
        platform_only: &[],
        global_search: false,
        hidden: &["key_hash", "rotated_out"],
        nullable: &["expires_at", "allowed_networks", "roles"],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(mut input: ApiKeyCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        normalise(&input.name, &mut input.scopes, &mut input.roles, &mut input.brands)?;
        let mut random = [0u8; 32];
        build.random(&mut random);
        let key = key_from(&random);
        let spec = ApiKeySpec {
            name: input.name,
            scopes: input.scopes,
            roles: input.roles,
            brands: input.brands,
            key_prefix: key.chars().take(12).collect(),
            key_hash: key_hash(&key),
            expires_at: input.expires_at.filter(|text| !text.is_empty()).map(|text| expiry(&text)).transpose()?,
            allowed_networks: check::networks("allowed_networks", &input.allowed_networks, MAX_NETWORKS)?,
            rotated_out: Vec::new(),
        };
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &spec)?;
        build.creation.secrets.insert("key".to_owned(), key.into());
        Ok(())
    }

    fn update(
        spec: &mut ApiKeySpec,
        mut input: ApiKeyUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        if let Some(roles) = input.roles {
            spec.roles = roles.unwrap_or_default();
        }
        normalise(&input.name, &mut input.scopes, &mut spec.roles, &mut input.brands)?;
        spec.name = input.name;
        spec.scopes = input.scopes;
        spec.brands = input.brands;
        if let Some(given) = input.expires_at {
            spec.expires_at = given.filter(|text| !text.is_empty()).map(|text| expiry(&text)).transpose()?;
        }
        if let Some(given) = input.allowed_networks {
            spec.allowed_networks = check::networks("allowed_networks", &given.unwrap_or_default(), MAX_NETWORKS)?;
        }
        Ok(None)
    }

    fn label(_: &str, spec: &ApiKeySpec) -> String {
        spec.name.clone()
    }

    fn index(key: &Resource, spec: &ApiKeySpec, index: &mut Index) {
        // A key that was revoked keeps no role from going.
        if !key.state.contains_key("revoked_at") {
            let made = spec.roles.iter().filter(|role| built_in(role).is_none());
            index.refs.extend(made.map(|role| Ref { relation: "roles", kind: Kind::Role, to: role.clone() }));
        }
        let before = spec.rotated_out.iter().map(|former| &former.key_hash);
        let hashes = std::iter::once(&spec.key_hash).chain(before);
        let unique = |hash: &String| Unique { scope: KEY_SCOPE.to_owned(), key: hash.clone(), field: "key" };
        index.uniques.extend(hashes.map(unique));
        index.facets.push(Facet { field: "key_prefix", value: spec.key_prefix.clone() });
    }

    fn extra(key: &Doc<Self>) -> ApiKeyExtra {
        let former_until = key.spec.rotated_out.last().map(|former| timestamp(former.until));
        ApiKeyExtra { revoked_at: key.state.revoked_at.map(timestamp), former_until }
    }

    const DELETES: &'static str = "Revoke";

    fn is_void(key: &Doc<Self>) -> bool {
        key.status == Status::Deleting || key.state.revoked_at.is_some()
    }

    fn grants(spec: &ApiKeySpec) -> Option<Grants> {
        let ApiKeySpec { scopes, roles, brands, .. } = spec;
        Some(Grants { scopes: scopes.clone(), roles: roles.clone(), brands: brands.clone() })
    }

    fn example() -> Value {
        json!({"name": "billing", "scopes": ["tenants:read", "tenants:write"], "brands": ["acme"]})
    }
}
