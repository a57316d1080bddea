//! A DNS zone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::brand::Brand;
use super::region::Region;
use super::subscription::Subscription;
use super::tenant::{Tenant, TenantSpec};
use crate::definition::{Build, Definition};
use crate::document::is_zero;
use crate::ownership::{Ownership, Verification};
use crate::faults::Faults;
use crate::{Codes, Column, Doc, Document, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, OwnerRef, Owns, Ref, Resource, SpecError, Status, Tier, Unique, check, filter};

/// What is stored of a zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneSpec {
    /// The brand whose name servers serve it: that of the tenant when there is one. Empty only in a creation whose
    /// tenant has not been read yet.
    #[serde(default)]
    pub brand_id: Id<Brand>,
    /// The tenant that it belongs to.
    #[serde(default)]
    pub tenant_id: Option<Id<Tenant>>,
    /// What it is billed with; empty for a brand's own zone, which is billed to nobody.
    #[serde(default)]
    pub subscription_id: Id<Subscription>,
    /// Lower case, no trailing dot, A-labels; unique.
    pub name: String,
    /// Where it was ordered.
    pub region_id: Id<Region>,
}

/// Body of POST /zones.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneCreate {
    name: String,
    /// Absent with a tenant: the tenant's subscription `default`, which is made when it is first needed.
    #[serde(default)]
    subscription_id: Option<String>,
    region_id: String,
    #[serde(default)]
    tenant_id: Option<String>,
    /// Required without a tenant; else it is the tenant's.
    #[serde(default)]
    brand_id: Option<String>,
}

/// A zone inside the body of POST /tenants: brand and region are the tenant's.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneNested {
    /// Absent: the tenant's subscription `default`, which is made when it is first needed.
    #[serde(default)]
    subscription_id: String,
    name: String,
}

/// Body of PUT /zones/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneUpdate {
    /// Moves the zone to another tenant of the same brand. Null: it stays the brand's.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    tenant_id: Option<Option<String>>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ZoneExtra {
    /// Why it is suspended; empty when it is not.
    suspend_reason: String,
    /// Whether the name is shown to be its tenant's. Absent where its brand does not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
}

/// What the controller keeps about a zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneState {
    /// SOA serial; 0 was never set.
    #[serde(skip_serializing_if = "is_zero")]
    pub serial: u64,
    /// The revision that moved the serial last.
    #[serde(skip_serializing_if = "is_zero")]
    pub serial_revision: u64,
    /// Whether it is shown to be its tenant's; `None`: nobody asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Zone;

impl Document for Zone {
    const KIND: Kind = Kind::Zone;
    type Spec = ZoneSpec;
    type State = ZoneState;
}

impl Zone {
    pub(crate) fn build_nested(
        input: ZoneNested,
        tenant: &str,
        of: &TenantSpec,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        if !input.subscription_id.is_empty() {
            check::reference("subscription_id", &input.subscription_id)?;
        }
        let spec = ZoneSpec {
            brand_id: of.brand_id.clone(),
            tenant_id: Some(tenant.into()),
            subscription_id: input.subscription_id.into(),
            name: check::fqdn("name", &input.name)?,
            region_id: of.region_id.clone(),
        };
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &spec)
    }
}

impl Definition for Zone {
    type Create = ZoneCreate;
    type Update = ZoneUpdate;
    type Extra = ZoneExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Zone",
        about: "A DNS zone.",
        collection: "/zones",
        item: "/zones/{id}",
        parent: None,
        lists: &[],
        scope: "zones",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: true,
        suspends_with_tenant: true,
        codes: Codes { create: 202, update: Some(200), delete: 202 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[("created_at", Column::Created), ("name", Column::Label), ("status", Column::Status)],
        filters: &[
            Filter::label("name", filter::fqdn),
            Filter::id("tenant_id"),
            Filter::id("brand_id"),
            Filter::id("region_id"),
            Filter::subscription("subscription_id"),
        ],
        platform_only: &[],
        global_search: true,
        hidden: &[],
        nullable: &["tenant_id"],
        joins: &[("region_name", "region_id"), ("tenant_name", "tenant_id")],
    };
    const INITIAL: Status = Status::Pending;

    fn create(input: ZoneCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        let name = faults.note(check::fqdn("name", &input.name)).unwrap_or_default();
        faults.note(check::reference("region_id", &input.region_id));
        let tenant_id = input.tenant_id.filter(|id| !id.is_empty());
        let brand_id = input.brand_id.filter(|id| !id.is_empty());
        let subscription_id = input.subscription_id.unwrap_or_default();
        if !subscription_id.is_empty() {
            faults.note(check::reference("subscription_id", &subscription_id));
        }
        faults.note(match (&tenant_id, &brand_id) {
            (Some(tenant), _) => check::reference("tenant_id", tenant),
            (None, Some(brand)) => check::reference("brand_id", brand),
            (None, None) => Err(SpecError::invalid("brand_id", "is required without a tenant_id")),
        });
        faults.end()?;
        let spec = ZoneSpec {
            brand_id: brand_id.unwrap_or_default().into(),
            tenant_id: tenant_id.map(Id::from),
            subscription_id: subscription_id.into(),
            name,
            region_id: input.region_id.into(),
        };
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, None, &spec)
    }

    fn update(spec: &mut ZoneSpec, input: ZoneUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        if let Some(tenant) = input.tenant_id {
            spec.tenant_id = tenant.filter(|id| !id.is_empty()).map(Id::from);
            if let Some(id) = &spec.tenant_id {
                check::reference("tenant_id", id)?;
            }
        }
        Ok(None)
    }

    fn label(_: &str, spec: &ZoneSpec) -> String {
        spec.name.clone()
    }

    fn index(_: &Resource, spec: &ZoneSpec, index: &mut Index) {
        index.uniques.push(Unique { scope: String::new(), key: spec.name.clone(), field: "name" });
        let refs = [
            ("brand_id", Kind::Brand, Some(spec.brand_id.as_str())),
            ("tenant_id", Kind::Tenant, spec.tenant_id.as_deref()),
            ("subscription_id", Kind::Subscription, Some(spec.subscription_id.as_str())),
            ("region_id", Kind::Region, Some(spec.region_id.as_str())),
        ];
        for (relation, kind, to) in refs {
            if let Some(to) = to.filter(|to| !to.is_empty()) {
                index.refs.push(Ref { relation, kind, to: to.to_owned() });
                index.facets.push(Facet { field: relation, value: to.to_owned() });
            }
        }
    }

    fn extra(zone: &Doc<Self>) -> ZoneExtra {
        let ownership = zone.state.ownership.as_ref();
        let verification = Verification::of(ownership, &zone.id, &zone.spec.name, false);
        ZoneExtra { suspend_reason: String::new(), verification }
    }

    fn adopted(spec: &mut ZoneSpec, brand: &str) {
        spec.brand_id = brand.into();
    }

    fn owner(spec: &ZoneSpec) -> Option<OwnerRef> {
        Some(match &spec.tenant_id {
            Some(id) => OwnerRef { field: "tenant_id", kind: Kind::Tenant, id: id.to_string() },
            None => OwnerRef { field: "brand_id", kind: Kind::Brand, id: spec.brand_id.to_string() },
        })
    }

    fn example() -> Value {
        json!({
            "name": "customer-1.example",
            "subscription_id": "crm-4711",
            "region_id": "0b0f2b57-2a4e-4f0c-8f7a-0d7d2f1f3c11",
            "tenant_id": "t_ab12cd34ef",
        })
    }
}
