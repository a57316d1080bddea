//! A hosting company's brand: its tenants share name servers and host names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use crate::document::is_zero;
use crate::definition::{Build, Definition, Nothing, written_over};
use crate::brand_pages::{BrandPages, LogAddresses};
use crate::http_policy::HttpPolicy;
use crate::limits::{HeldLimits, Limits};
use crate::ownership::NameVerification;
use crate::faults::Faults;
use crate::{Codes, Column, Doc, Document, Filter, Id, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Ref, PlainSecrets, Resource, SpecError, Status, Tier, Unique, Update, Warning, check, filter};

/// What is stored of a brand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrandSpec {
    /// Unique.
    pub name: String,
    /// Service host names lie under it.
    pub base_hostname: String,
    /// SOA MNAME and first NS of the brand's zones.
    pub primary_ns: String,
    /// Second NS.
    pub secondary_ns: String,
    /// A mail address; zones convert it to an SOA RNAME (RFC 1035 §3.3.13).
    pub hostmaster_email: String,
    /// Host name of the mail servers; empty: `mail.{fqdn}`.
    #[serde(default)]
    pub mail_hostname: String,
    /// Space-separated domains for `include:` in SPF records.
    #[serde(default)]
    pub spf_includes: String,
    /// Label below `_domainkey`.
    #[serde(default)]
    pub dkim_selector: String,
    /// Base64 of the public key.
    #[serde(default)]
    pub dkim_public_key: String,
    /// Content of `_dmarc` records.
    #[serde(default)]
    pub dmarc_policy: String,
    /// The group of DNS servers that serve the brand's zones.
    #[serde(default = "super::default_group")]
    pub dns_group: String,
    /// Clusters on which the brand may create tenants; empty: all.
    #[serde(default)]
    pub cluster_ids: Vec<Id<Cluster>>,
    /// Whether tenants have to show that host names and zones are theirs. Names claimed before it was `required` stay as they are.
    #[serde(default)]
    pub name_verification: NameVerification,
    /// The most resources of some kinds, over all its tenants.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How many days tenants, subscriptions, sites and zones are kept after their deletion, so that they can be brought back: 0 (none; the
    /// default) to 365.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub undelete_days: u64,
    /// What edges do with requests for the names of its tenants, where neither the name nor the tenant says anything. Rate limits count each
    /// tenant by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpPolicy>>,
    /// What visitors see where a site itself cannot answer.
    #[serde(default, skip_serializing_if = "BrandPages::is_empty")]
    pub pages: BrandPages,
    /// What edges write of visitors' addresses into their access logs.
    #[serde(default, skip_serializing_if = "LogAddresses::is_default")]
    pub log_addresses: LogAddresses,
}

/// The longest time that deleted things are kept.
const MAX_UNDELETE_DAYS: u64 = 365;

/// Body of POST /brands.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct BrandCreate {
    /// Own id; a random UUID when absent.
    #[serde(default)]
    id: Option<String>,
    name: String,
    base_hostname: String,
    primary_ns: String,
    secondary_ns: String,
    hostmaster_email: String,
    #[serde(default)]
    mail_hostname: String,
    #[serde(default)]
    spf_includes: String,
    #[serde(default)]
    dkim_selector: String,
    #[serde(default)]
    dkim_public_key: String,
    #[serde(default)]
    dmarc_policy: String,
    #[serde(default = "super::default_group")]
    dns_group: String,
    #[serde(default)]
    name_verification: NameVerification,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    undelete_days: u64,
    /// What edges do with requests for the names of its tenants, where neither the name nor the tenant says anything.
    #[serde(default)]
    http: Option<HttpPolicy>,
    #[serde(default)]
    pages: BrandPages,
    #[serde(default)]
    log_addresses: LogAddresses,
}

/// Body of PUT /brands/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct BrandUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    name: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    base_hostname: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    primary_ns: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    secondary_ns: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    hostmaster_email: Option<String>,
    #[serde(default)]
    mail_hostname: Option<String>,
    #[serde(default)]
    spf_includes: Option<String>,
    #[serde(default)]
    dkim_selector: Option<String>,
    #[serde(default)]
    dkim_public_key: Option<String>,
    #[serde(default)]
    dmarc_policy: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    dns_group: Option<String>,
    #[serde(default)]
    name_verification: Option<NameVerification>,
    /// All of them.
    #[serde(default)]
    limits: Option<Limits>,
    #[serde(default)]
    undelete_days: Option<u64>,
    /// All of it. Null: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<HttpPolicy>")]
    http: Option<Option<HttpPolicy>>,
    /// All of them.
    #[serde(default)]
    pages: Option<BrandPages>,
    #[serde(default)]
    log_addresses: Option<LogAddresses>,
}

/// Body and answer of /brands/{id}/clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrandClusters {
    /// Clusters on which the brand may create tenants; empty: all.
    pub cluster_ids: Vec<Id<Cluster>>,
}

/// PUT /brands/{id}/clusters.
///
/// # Errors
/// A malformed body or id; whether the clusters exist is known only in the transaction.
pub fn set_clusters(brand: &Resource, body: &Map<String, Value>) -> Result<Update, SpecError> {
    let parsed = crate::input::parse::<BrandClusters>(body)?;
    let mut clusters = parsed.value.cluster_ids;
    for (n, id) in clusters.iter().enumerate() {
        check::reference(&format!("cluster_ids[{n}]"), id)?;
    }
    check::distinct(&mut clusters);
    let mut spec: BrandSpec =
        brand.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })?;
    spec.cluster_ids = clusters;
    let whole = written_over(brand, &spec)?;
    Ok(Update {
        changed: whole != brand.spec,
        plain: PlainSecrets::default(),
        spec: whole,
        label: brand.label.clone(),
        status: None,
        owner: None,
        warnings: parsed.unknown.iter().map(|path| Warning::unknown_field(path)).collect(),
    })
}

fn normalise(spec: &mut BrandSpec) -> Result<(), SpecError> {
    let mut faults = Faults::default();
    faults.note(check::text("name", &spec.name, 255));
    let name = check::fqdn("base_hostname", &spec.base_hostname);
    faults.put(&mut spec.base_hostname, name);
    let name = check::fqdn("primary_ns", &spec.primary_ns);
    faults.put(&mut spec.primary_ns, name);
    let name = check::fqdn("secondary_ns", &spec.secondary_ns);
    faults.put(&mut spec.secondary_ns, name);
    let email = check::email("hostmaster_email", &spec.hostmaster_email);
    faults.put(&mut spec.hostmaster_email, email);
    if !spec.mail_hostname.is_empty() {
        let name = check::fqdn("mail_hostname", &spec.mail_hostname);
        faults.put(&mut spec.mail_hostname, name);
    }
    faults.note(check::optional_text("spf_includes", &spec.spf_includes, 1024));
    if !spec.dkim_selector.is_empty() {
        let selector = check::host("dkim_selector", &spec.dkim_selector);
        faults.put(&mut spec.dkim_selector, selector);
    }
    faults.note(check::optional_text("dkim_public_key", &spec.dkim_public_key, 4096));
    faults.note(check::optional_text("dmarc_policy", &spec.dmarc_policy, 1024));
    faults.note(spec.limits.check("limits"));
    faults.note(spec.pages.check("pages"));
    if spec.undelete_days > MAX_UNDELETE_DAYS {
        let problem = format!("must be 0 to {MAX_UNDELETE_DAYS} days");
        faults.note::<()>(Err(SpecError::invalid("undelete_days", problem)));
    }
    faults.note(check::slug("dns_group", &spec.dns_group));
    faults.end()
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Brand;

impl Document for Brand {
    const KIND: Kind = Kind::Brand;
    type Spec = BrandSpec;
    type State = NoState;
}

impl Definition for Brand {
    type Create = BrandCreate;
    type Update = BrandUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Brand",
        about: "A hosting company's brand: its tenants share name servers and host names.",
        collection: "/brands",
        item: "/brands/{id}",
        parent: None,
        lists: &[],
        scope: "brands",
        tier: Tier::Brand,
        owns: Owns::Brand,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 200 },
        retry: false,
        id: IdPolicy::CallerOrUuid,
        shape: 1,
        status: true,
        sort: &[("created_at", Column::Created), ("name", Column::Label), ("status", Column::Status)],
        filters: &[Filter::label("name", filter::text)],
        platform_only: &["dns_group", "cluster_ids", "limits"],
        global_search: true,
        hidden: &["cluster_ids"],
        nullable: &[],
        joins: &[],
    };
    const HAS_LIMITS: bool = true;
    const INITIAL: Status = Status::Active;

    fn create(input: BrandCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let mut spec = BrandSpec {
            name: input.name,
            base_hostname: input.base_hostname,
            primary_ns: input.primary_ns,
            secondary_ns: input.secondary_ns,
            hostmaster_email: input.hostmaster_email,
            mail_hostname: input.mail_hostname,
            spf_includes: input.spf_includes,
            dkim_selector: input.dkim_selector,
            dkim_public_key: input.dkim_public_key,
            dmarc_policy: input.dmarc_policy,
            dns_group: input.dns_group,
            cluster_ids: Vec::new(),
            name_verification: input.name_verification,
            limits: input.limits,
            undelete_days: input.undelete_days,
            http: HttpPolicy::of_tenant(input.http, None)?,
            pages: input.pages,
            log_addresses: input.log_addresses,
        };
        normalise(&mut spec)?;
        let id = build.id(Self::INFO.id, input.id.as_deref())?;
        build.push::<Self>(id, None, &spec)
    }

    fn update(spec: &mut BrandSpec, input: BrandUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        let set = |field: &mut String, given: Option<String>| {
            if let Some(given) = given {
                *field = given;
            }
        };
        set(&mut spec.name, input.name);
        set(&mut spec.base_hostname, input.base_hostname);
        set(&mut spec.primary_ns, input.primary_ns);
        set(&mut spec.secondary_ns, input.secondary_ns);
        set(&mut spec.hostmaster_email, input.hostmaster_email);
        set(&mut spec.mail_hostname, input.mail_hostname);
        set(&mut spec.spf_includes, input.spf_includes);
        set(&mut spec.dkim_selector, input.dkim_selector);
        set(&mut spec.dkim_public_key, input.dkim_public_key);
        set(&mut spec.dmarc_policy, input.dmarc_policy);
        set(&mut spec.dns_group, input.dns_group);
        spec.name_verification = input.name_verification.unwrap_or(spec.name_verification);
        if let Some(limits) = input.limits {
            spec.limits = limits;
        }
        if let Some(http) = input.http {
            spec.http = HttpPolicy::of_tenant(http, spec.http.as_deref())?;
        }
        spec.pages = input.pages.unwrap_or_else(|| std::mem::take(&mut spec.pages));
        spec.log_addresses = input.log_addresses.unwrap_or(spec.log_addresses);
        if let Some(days) = input.undelete_days {
            spec.undelete_days = days;
        }
        normalise(spec)?;
        Ok(None)
    }

    fn label(_: &str, spec: &BrandSpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, spec: &BrandSpec, index: &mut Index) {
        index.uniques.push(Unique { scope: String::new(), key: spec.name.clone(), field: "name" });
        index.refs.extend(spec.cluster_ids.iter().map(|id| Ref {
            relation: "cluster_ids",
            kind: Kind::Cluster,
            to: id.to_string(),
        }));
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn limits(spec: &BrandSpec) -> HeldLimits {
        HeldLimits { own: spec.limits.clone(), package: None }
    }

    fn example() -> Value {
        json!({
            "id": "acme",
            "name": "Acme Hosting",
            "base_hostname": "acme.example",
            "primary_ns": "ns1.acme.example",
            "secondary_ns": "ns2.acme.example",
            "hostmaster_email": "hostmaster@acme.example",
        })
    }
}
