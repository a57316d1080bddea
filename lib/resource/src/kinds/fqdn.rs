//! A host name of a tenant, bound to a webroot or not.

use hosting_intent::name::without_wildcard;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::webroot::Webroot;
use super::zone_record::AutoRecord;
use crate::definition::{Build, Definition};
use crate::document::is_false;
use crate::http_policy::HttpPolicy;
use crate::input::Unserved;
use crate::issuance::{Issuance, IssuanceView, Reissue};
use crate::ownership::{Ownership, Verification};
use crate::{Codes, Doc, Document, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, ListBy, Owns, Parent, Ref, Resource, SpecError, Status, Tier, Unique, check, filter};

/// The facet of names whose certificate is to be replaced before its time: the id of the authority that it is of.
pub const REISSUE_FACET: &str = "reissue";

/// The facet of names that an order for another name of their site may take along ([`Issuance::is_free`]): the site's id.
pub const WANTING_FACET: &str = "certificate_wanted";

/// What is stored of an FQDN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FqdnSpec {
    /// Lower case, no trailing dot, A-labels; unique. `*.` before a name: all hosts one label below it that have no FQDN of their own.
    pub fqdn: String,
    /// The site behind it.
    #[serde(default)]
    pub webroot_id: Option<Id<Webroot>>,
    /// Whether a certificate is wanted.
    #[serde(default)]
    pub ssl_enabled: bool,
    /// What edges do with its requests before the site sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpPolicy>>,
}

impl FqdnSpec {
    /// Whether it stands for all hosts one label below a name.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host() != self.fqdn
    }

    /// The host name; of a wildcard, the name above.
    #[must_use]
    pub fn host(&self) -> &str {
        without_wildcard(&self.fqdn)
    }
}

/// Body of POST /tenants/{tenantID}/fqdns.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct FqdnCreate {
    /// A host name, or a wildcard: `*.example.com`.
    fqdn: String,
    /// A webroot of the same tenant. Not inside a webroot: there it is that one.
    #[serde(default)]
    webroot_id: Option<String>,
    #[serde(default)]
    ssl_enabled: bool,
    /// What edges do with its requests before the site sees them.
    #[serde(default)]
    http: Option<HttpPolicy>,
    #[serde(default)]
    email_accounts: Unserved,
}

/// Body of PUT /fqdns/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct FqdnUpdate {
    /// Null or empty: bound to none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    webroot_id: Option<Option<String>>,
    #[serde(default)]
    ssl_enabled: Option<bool>,
    /// All of it. Null: none of its own.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<HttpPolicy>")]
    http: Option<Option<HttpPolicy>>,
}

/// What the controller keeps about an FQDN.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FqdnState {
    /// Every edge in service applied its route, or had.
    #[serde(skip_serializing_if = "is_false")]
    pub routed: bool,
    /// Every edge in service applied a certificate of it, so that name servers may say that there is HTTPS.
    #[serde(skip_serializing_if = "is_false")]
    pub certified: bool,
    /// Its automatic records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auto_records: Vec<AutoRecord>,
    /// Whether it is shown to be its tenant's; `None`: nobody asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
    /// How it comes by a certificate; `None`: none is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuance: Option<Issuance>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FqdnExtra {
    /// Whether the name is shown to be its tenant's. Absent where its brand does not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
    /// How the name comes by a certificate of a public authority. Absent where none is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuance: Option<IssuanceView>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Fqdn;

impl Document for Fqdn {
    const KIND: Kind = Kind::Fqdn;
    type Spec = FqdnSpec;
    type State = FqdnState;
}

impl Fqdn {
    /// `webroot`: the webroot whose body the name stands in.
    pub(crate) fn build(
        input: FqdnCreate,
        tenant: &str,
        webroot: Option<&str>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        input.email_accounts.check("email_accounts")?;
        let given = input.webroot_id.filter(|id| !id.is_empty());
        if let Some(id) = &given {
            if webroot.is_some() {
                return Err(SpecError::invalid("webroot_id", "cannot be given inside a webroot"));
            }
            check::reference("webroot_id", id)?;
        }
        let name = check::fqdn_or_wildcard("fqdn", &input.fqdn)?;
        let spec = FqdnSpec {
            http: HttpPolicy::of_name(input.http, &name, None)?,
            fqdn: name,
            webroot_id: webroot.map(str::to_owned).or(given).map(Id::from),
            ssl_enabled: input.ssl_enabled,
        };
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, Some(tenant), &spec)
    }
}

impl Definition for Fqdn {
    type Create = FqdnCreate;
    type Update = FqdnUpdate;
    type Extra = FqdnExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "FQDN",
        about: "A host name of a tenant, bound to a webroot or not.",
        collection: "/tenants/{tenantID}/fqdns",
        item: "/fqdns/{id}",
        parent: Some(Parent { kind: Kind::Tenant, param: "tenantID", field: "tenant_id" }),
        lists: &[ListBy {
            path: "/webroots/{webrootID}/fqdns",
            kind: Kind::Webroot,
            param: "webrootID",
            relation: "webroot_id",
        }],
        scope: "fqdns",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: true,
        suspends_with_tenant: false,
        codes: Codes { create: 202, update: Some(200), delete: 202 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::facet("fqdn", filter::fqdn_or_wildcard), Filter::id("webroot_id")],
        platform_only: &[],
        global_search: true,
        hidden: &[],
        nullable: &["webroot_id"],
        joins: &[],
    };
    const INITIAL: Status = Status::Pending;

    fn create(input: FqdnCreate, parent: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        Self::build(input, parent.map(|parent| parent.id.as_str()).unwrap_or_default(), None, build)
    }

    fn update(spec: &mut FqdnSpec, input: FqdnUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(webroot) = input.webroot_id {
            spec.webroot_id = webroot.filter(|id| !id.is_empty()).map(Id::from);
            if let Some(id) = &spec.webroot_id {
                check::reference("webroot_id", id)?;
            }
        }
        if let Some(ssl) = input.ssl_enabled {
            spec.ssl_enabled = ssl;
        }
        if let Some(http) = input.http {
            spec.http = HttpPolicy::of_name(http, &spec.fqdn, spec.http.as_deref())?;
        }
        Ok(None)
    }

    fn label(_: &str, spec: &FqdnSpec) -> String {
        spec.fqdn.clone()
    }

    fn index(resource: &Resource, spec: &FqdnSpec, index: &mut Index) {
        index.uniques.push(Unique { scope: String::new(), key: spec.fqdn.clone(), field: "fqdn" });
        index.facets.push(Facet { field: "fqdn", value: spec.fqdn.clone() });
        if let Some(webroot) = &spec.webroot_id {
            index.refs.push(Ref { relation: "webroot_id", kind: Kind::Webroot, to: webroot.to_string() });
            index.facets.push(Facet { field: "webroot_id", value: webroot.to_string() });
        }
        let issuance = resource.state.get("issuance").and_then(|issuance| Issuance::deserialize(issuance).ok());
        if let Some(issuance) = issuance {
            if let Some(webroot) = spec.webroot_id.as_ref().filter(|_| issuance.is_free()) {
                index.facets.push(Facet { field: WANTING_FACET, value: webroot.to_string() });
            }
            if let Some(Reissue { from, .. }) = issuance.reissue {
                index.facets.push(Facet { field: REISSUE_FACET, value: from });
            }
        }
        if let Some(tenant) = &resource.tenant {
            index.facets.push(Facet { field: "tenant_id", value: tenant.clone() });
        }
    }

    fn extra(fqdn: &Doc<Self>) -> FqdnExtra {
        let ownership = fqdn.state.ownership.as_ref();
        FqdnExtra {
            verification: Verification::of(ownership, &fqdn.id, &fqdn.spec.fqdn, true),
            issuance: IssuanceView::of(fqdn.state.issuance.as_ref()),
        }
    }

    fn example() -> Value {
        json!({"fqdn": "www.customer-1.example", "ssl_enabled": true})
    }
}
