//! A receiver outside that is told what becomes of resources: a brand's, or the platform's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::brand::Brand;
use crate::definition::{Build, Definition, Grants, new_secrets, written_over};
use crate::faults::Faults;
use crate::{Codes, Column, Doc, Document, Entropy, EventView, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, NoState, OwnerRef, Owns, PlainText, Resource, Rotate, Secret, SpecError, Status, Tier, Update, check, filter, pointer, timestamp};

/// Longest URL in bytes.
const MAX_URL: usize = 2_048;
/// Bytes of a secret, as many as the digest has (RFC 2104 §3).
const SECRET_BYTES: usize = 32;

/// What is stored of a webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookSpec {
    /// For people.
    pub name: String,
    /// The brand whose events it gets; null: all of the platform.
    #[serde(default)]
    pub brand_id: Option<Id<Brand>>,
    /// Where events are posted to.
    pub url: String,
    /// Kinds that it hears of, e.g. `zone_record`; empty: all that its owner sees.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// It hears only of what is this tenant's.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// Whether events are delivered. While they are not, they wait as long as they are kept.
    pub enabled: bool,
    /// Why the platform disabled it; null when it did not. Enabling it takes the reason away.
    #[serde(default)]
    pub disabled_reason: Option<String>,
    /// One of the two places of secrets: a secret stays in its place, as it is sealed for it.
    pub secret_a: Secret,
    /// The other place; none before the first rotation.
    #[serde(default)]
    pub secret_b: Option<Secret>,
    /// Whether the newest secret is `secret_b`.
    #[serde(default)]
    pub newest_is_b: bool,
    /// The former secret signs along until then, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub former_until: i64,
}

impl WebhookSpec {
    /// The secrets that sign at `now` (milliseconds since the Unix epoch), the newest first, each with the JSON pointer of its place.
    #[must_use]
    pub fn signing(&self, now: i64) -> Vec<(&'static str, &Secret)> {
        let (a, b) = (Some(("/secret_a", &self.secret_a)), self.secret_b.as_ref().map(|b| ("/secret_b", b)));
        let (newest, former) = if self.newest_is_b { (b, a) } else { (a, b) };
        newest.into_iter().chain(former.filter(|_| now < self.former_until)).collect()
    }

    /// Whether it is to hear of an event, as far as its filters and its owner say.
    #[must_use]
    pub fn wants(&self, event: &EventView) -> bool {
        let is_own = |brand: &Id<Brand>| event.brand_id.as_deref() == Some(brand.as_str());
        let may_see = match &self.brand_id {
            None => true,
            Some(brand) => {
                is_own(brand) && Kind::from_name(&event.kind).is_some_and(|kind| kind.info().tier == Tier::Brand)
            }
        };
        may_see
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.tenant_id.is_none() || self.tenant_id == event.tenant_id)
    }
}

/// Body of POST /webhooks.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WebhookCreate {
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// The brand whose events it gets; absent: all of the platform, for platform admins.
    #[serde(default)]
    brand_id: Option<String>,
    /// `https://`, no user name.
    #[schemars(length(min = 1, max = 2048))]
    url: String,
    /// Kinds that it hears of, e.g. `zone_record`; absent or empty: all that its owner sees.
    #[serde(default)]
    kinds: Vec<String>,
    /// It hears only of what is this tenant's.
    #[serde(default)]
    tenant_id: Option<String>,
    /// Default true.
    #[serde(default)]
    enabled: Option<bool>,
}

/// Body of PUT /webhooks/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WebhookUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    url: Option<String>,
    /// All of them.
    #[serde(default)]
    kinds: Option<Vec<String>>,
    /// Null or empty: of every tenant.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    tenant_id: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WebhookExtra {
    /// When its newest secret was made.
    secret_set_at: Option<String>,
    /// Until when the secret before the last rotation signs along; absent when there was none.
    former_secret_until: Option<String>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Webhook;

impl Document for Webhook {
    const KIND: Kind = Kind::Webhook;
    type Spec = WebhookSpec;
    type State = NoState;
}

/// Puts a new secret in the place of the one that there is, which signs along for a while; `whsec_` and base64, as receivers' libraries take
/// it. `now` is in milliseconds since the Unix epoch.
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
    let mut spec = spec_of(current)?;
    let mut random = [0u8; SECRET_BYTES];
    entropy(&mut random);
    let text = secret_from(&random);
    let secret = Secret::new(PlainText::new(text.clone()));
    spec.newest_is_b = !spec.newest_is_b;
    if spec.newest_is_b {
        spec.secret_b = Some(secret);
    } else {
        spec.secret_a = secret;
    }
    spec.former_until = until;
    Ok((Update { warnings, ..rewritten(current, &spec)? }, text))
}

/// What disables a webhook for a reason.
///
/// # Errors
/// [`SpecError::Malformed`] when the stored spec cannot be read.
pub fn disable(current: &Resource, reason: &str) -> Result<Update, SpecError> {
    let mut spec = spec_of(current)?;
    spec.enabled = false;
    spec.disabled_reason = Some(reason.to_owned());
    rewritten(current, &spec)
}

fn spec_of(current: &Resource) -> Result<WebhookSpec, SpecError> {
    current.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })
}

fn rewritten(current: &Resource, spec: &WebhookSpec) -> Result<Update, SpecError> {
    let whole = written_over(current, spec)?;
    Ok(Update {
        changed: whole != current.spec,
        plain: new_secrets::<Webhook>(spec),
        spec: whole,
        label: current.label.clone(),
        status: None,
        owner: None,
        warnings: Vec::new(),
    })
}

/// The secret that random bytes make.
fn secret_from(random: &[u8; SECRET_BYTES]) -> String {
    use base64::Engine;
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(random))
}

fn sound(spec: &mut WebhookSpec) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    faults.note(check::text("name", &spec.name, 255));
    faults.note(check_url(&spec.url));
    for (n, kind) in spec.kinds.iter().enumerate() {
        let problem = match Kind::from_name(kind) {
            None => format!("there is no kind {kind:?}"),
            Some(known) if known.info().tier == Tier::Admin && spec.brand_id.is_some() => {
                format!("a brand hears nothing of the kind {kind:?}")
            }
            Some(_) => continue,
        };
        faults.note::<()>(Err(SpecError::invalid(format!("kinds[{n}]"), problem)));
    }
    check::distinct(&mut spec.kinds);
    if let Some(tenant) = &spec.tenant_id {
        faults.note(check::reference("tenant_id", tenant));
    }
    faults.end()
}

/// What a URL looks like. Where it may lead is the operator's to say.
fn check_url(url: &str) -> Result<(), SpecError> {
    check::text("url", url, MAX_URL)?;
    let is_url = url.split_once("://").is_some_and(|(scheme, rest)| {
        ["https", "http"].contains(&scheme.to_ascii_lowercase().as_str()) && !rest.is_empty()
    });
    if is_url && !url.chars().any(char::is_whitespace) {
        return Ok(());
    }
    Err(SpecError::invalid("url", "must be a URL that begins with https://"))
}

impl Definition for Webhook {
    type Create = WebhookCreate;
    type Update = WebhookUpdate;
    type Extra = WebhookExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Webhook",
        about: "A receiver outside that is told what becomes of resources. Its secret is shown once, when it is made.",
        collection: "/webhooks",
        item: "/webhooks/{id}",
        parent: None,
        lists: &[],
        scope: "webhooks",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 200 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: false,
        sort: &[("created_at", Column::Created), ("name", Column::Label)],
        filters: &[Filter::label("name", filter::text), Filter::id("brand_id")],
        platform_only: &[],
        global_search: false,
        hidden: &["secret_a", "secret_b", "newest_is_b", "former_until"],
        nullable: &["brand_id", "tenant_id", "disabled_reason"],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;
    const FOLLOWS_EVENTS: bool = true;

    fn create(input: WebhookCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        if let Some(brand) = &input.brand_id {
            check::reference("brand_id", brand)?;
        }
        let mut random = [0u8; SECRET_BYTES];
        build.random(&mut random);
        let secret = secret_from(&random);
        let mut spec = WebhookSpec {
            name: input.name,
            brand_id: input.brand_id.filter(|id| !id.is_empty()).map(Id::from),
            url: input.url,
            kinds: input.kinds,
            tenant_id: input.tenant_id.filter(|id| !id.is_empty()),
            enabled: input.enabled.unwrap_or(true),
            disabled_reason: None,
            secret_a: Secret::new(PlainText::new(secret.clone())),
            secret_b: None,
            newest_is_b: false,
            former_until: 0,
        };
        sound(&mut spec)?;
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &spec)?;
        build.creation.secrets.insert("secret".to_owned(), secret.into());
        Ok(())
    }

    fn update(spec: &mut WebhookSpec, input: WebhookUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(name) = input.name {
            spec.name = name;
        }
        if let Some(url) = input.url {
            spec.url = url;
        }
        if let Some(kinds) = input.kinds {
            spec.kinds = kinds;
        }
        if let Some(tenant) = input.tenant_id {
            spec.tenant_id = tenant.filter(|id| !id.is_empty());
        }
        if let Some(enabled) = input.enabled {
            spec.enabled = enabled;
            if enabled {
                spec.disabled_reason = None;
            }
        }
        sound(spec)?;
        Ok(None)
    }

    fn label(_: &str, spec: &WebhookSpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, spec: &WebhookSpec, index: &mut Index) {
        if let Some(brand) = &spec.brand_id {
            index.facets.push(Facet { field: "brand_id", value: brand.to_string() });
        }
    }

    fn extra(webhook: &Doc<Self>) -> WebhookExtra {
        let newest = webhook.spec.signing(i64::MAX).first().and_then(|(_, secret)| secret.set_at());
        let former = (webhook.spec.former_until > 0).then_some(webhook.spec.former_until);
        WebhookExtra { secret_set_at: newest.map(timestamp), former_secret_until: former.map(timestamp) }
    }

    fn owner(spec: &WebhookSpec) -> Option<OwnerRef> {
        let brand = spec.brand_id.as_ref()?;
        Some(OwnerRef { field: "brand_id", kind: Kind::Brand, id: brand.to_string() })
    }

    fn secrets(spec: &WebhookSpec, each: &mut dyn FnMut(String, &Secret)) {
        each(pointer("", "secret_a"), &spec.secret_a);
        if let Some(secret) = &spec.secret_b {
            each(pointer("", "secret_b"), secret);
        }
    }

    /// Its receiver hears of what a reader would hear of.
    fn grants(spec: &WebhookSpec) -> Option<Grants> {
        let reads = |kind: &String| Kind::from_name(kind).map(|kind| format!("{}:read", kind.info().scope));
        let mut scopes: Vec<String> = spec.kinds.iter().filter_map(reads).collect();
        if spec.kinds.is_empty() {
            scopes.push("*:read".to_owned());
        }
        check::distinct(&mut scopes);
        let brand = spec.brand_id.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        Some(Grants { scopes, brands: vec![brand], ..Grants::default() })
    }

    fn calls(spec: &WebhookSpec) -> Option<&str> {
        Some(&spec.url)
    }

    fn example() -> Value {
        json!({
            "name": "billing", "brand_id": "acme", "url": "https://crm.example/hooks/hosting", "kinds": ["tenant", "fqdn"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(body: Value) -> Result<crate::Creation, SpecError> {
        let Value::Object(body) = body else { panic!("no object") };
        Kind::Webhook.def().create(None, &body, &mut |bytes: &mut [u8]| bytes.fill(7))
    }

    fn spec(changes: Value) -> WebhookSpec {
        let mut body = Webhook::example();
        for (field, value) in changes.as_object().unwrap() {
            body[field] = value.clone();
        }
        let made = made(body).unwrap().resources.remove(0);
        serde_json::from_value(Value::Object(made.spec)).unwrap()
    }

    fn event(kind: Kind, brand: Option<&str>, tenant: Option<&str>) -> EventView {
        EventView {
            revision: 1,
            change: "created".into(),
            kind: kind.name().into(),
            id: "x".into(),
            tenant_id: tenant.map(str::to_owned),
            brand_id: brand.map(str::to_owned),
            status: "active".into(),
            generation: 1,
        }
    }

    #[test]
    fn a_brand_hears_of_what_is_its_own_and_of_no_kind_of_the_platforms() {
        let all = spec(json!({"kinds": []}));
        assert!(all.wants(&event(Kind::Zone, Some("acme"), None)));
        for foreign in [
            event(Kind::Zone, Some("other"), None),
            event(Kind::Zone, None, None),
            event(Kind::ApiKey, None, None),
            event(Kind::Node, Some("acme"), None),
        ] {
            assert!(!all.wants(&foreign), "{foreign:?}");
        }
        let narrow = spec(json!({"kinds": ["zone"], "tenant_id": "t_1"}));
        assert!(narrow.wants(&event(Kind::Zone, Some("acme"), Some("t_1"))));
        assert!(!narrow.wants(&event(Kind::Zone, Some("acme"), Some("t_2"))));
        assert!(!narrow.wants(&event(Kind::Fqdn, Some("acme"), Some("t_1"))));
        let platform = spec(json!({"brand_id": null, "kinds": []}));
        assert!(platform.wants(&event(Kind::Node, None, None)));
        let refused = made(json!({"name": "x", "url": "https://a.example", "brand_id": "acme", "kinds": ["node"]}));
        assert!(refused.unwrap_err().to_string().contains("kinds[0]"));
    }

    #[test]
    fn its_owner_gives_it_no_more_than_reading() {
        let grants = |changes| Webhook::grants(&spec(changes)).unwrap();
        assert_eq!(grants(json!({"kinds": ["fqdn", "zone"]})).scopes, ["fqdns:read", "zones:read"]);
        let all = grants(json!({"kinds": [], "brand_id": null}));
        assert_eq!((all.scopes, all.brands), (vec!["*:read".to_owned()], vec!["*".to_owned()]));
    }

    #[test]
    fn secrets_change_places_and_the_former_one_signs_along() {
        let new = made(Webhook::example()).unwrap();
        let shown = new.secrets["secret"].as_str().unwrap();
        assert!(shown.starts_with("whsec_") && new.resources[0].plain.iter().count() == 1);
        let mut resource = crate::kinds::tests::stored(Kind::Webhook, Value::Object(new.resources[0].spec.clone()));
        let sealed = json!({"$secret": {"key": 1, "sealed": "AAAA", "set_at": 5}});
        resource.spec.insert("secret_a".into(), sealed.clone());
        let (update, text) = rotate(&resource, &Map::new(), 1_000, &mut |bytes: &mut [u8]| bytes.fill(9)).unwrap();
        assert_eq!(update.plain.iter().map(|(place, _)| place).collect::<Vec<_>>(), ["/secret_b"]);
        assert_eq!(update.plain.iter().next().unwrap().1.expose(), text);
        assert_eq!(update.spec["secret_a"], sealed, "it stays where it is sealed for");
        let places = |spec: &Map<String, Value>, now| {
            let spec: WebhookSpec = serde_json::from_value(Value::Object(spec.clone())).unwrap();
            spec.signing(now).into_iter().map(|(place, _)| place).collect::<Vec<_>>()
        };
        assert_eq!(places(&update.spec, 1_001), ["/secret_b", "/secret_a"]);
        assert_eq!(places(&update.spec, 1_000 + 24 * 3_600_000), ["/secret_b"]);
        resource.spec = update.spec;
        resource.spec.insert("secret_b".into(), sealed);
        let none = json!({"overlap_seconds": 0});
        let (again, _) =
            rotate(&resource, none.as_object().unwrap(), 2_000, &mut |bytes: &mut [u8]| bytes.fill(8)).unwrap();
        assert_eq!(places(&again.spec, 2_000), ["/secret_a"]);
        assert!(!Kind::Webhook.def().view(&resource).values().any(|value| value.to_string().contains("AAAA")));
    }
}
