//! A grouping of a tenant's resources for billing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::package::{Package, named};
use crate::definition::{Build, Definition, Nothing};
use crate::limits::{HeldLimits, Limits};
use crate::{Codes, Doc, Document, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Parent, Ref, Resource, SpecError, Status, Tier, Unique, check, filter, public_id};

/// What is stored of a subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubscriptionSpec {
    /// Unique in its tenant.
    pub name: String,
    /// What may be billed with it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_id: Option<Id<Package>>,
}

/// Body of POST /tenants/{tenantID}/subscriptions.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SubscriptionCreate {
    /// Chosen by the CRM, so that sending the same twice is answered with a conflict. Unique in the brand.
    id: String,
    name: String,
    /// A package of the brand: how many resources may be billed with the subscription.
    #[serde(default)]
    package_id: Option<String>,
}

/// Body of PUT /subscriptions/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct SubscriptionUpdate {
    /// A package of the brand. Null or empty: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    package_id: Option<Option<String>>,
}

/// The name of the subscription of a tenant that is billed with what names none.
pub const DEFAULT_NAME: &str = "default";

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Subscription;

impl Document for Subscription {
    const KIND: Kind = Kind::Subscription;
    type Spec = SubscriptionSpec;
    type State = NoState;
}

impl Subscription {
    pub(crate) fn build(
        input: SubscriptionCreate,
        tenant: &str,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        check::text("name", &input.name, 255)?;
        let id = build.id(Self::INFO.id, Some(&input.id))?;
        let package_id = named(input.package_id)?;
        build.push::<Self>(id, Some(tenant), &SubscriptionSpec { name: input.name, package_id })
    }
}

impl Definition for Subscription {
    type Create = SubscriptionCreate;
    type Update = SubscriptionUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Subscription",
        about: "A grouping of a tenant's resources for billing.",
        collection: "/tenants/{tenantID}/subscriptions",
        item: "/subscriptions/{id}",
        parent: Some(Parent { kind: Kind::Tenant, param: "tenantID", field: "tenant_id" }),
        lists: &[],
        scope: "subscriptions",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: Some(200), delete: 202 },
        retry: false,
        id: IdPolicy::Caller,
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::label("name", filter::text)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const HAS_LIMITS: bool = true;
    const INITIAL: Status = Status::Active;

    fn create(
        input: SubscriptionCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        Self::build(input, parent.map(|parent| parent.id.as_str()).unwrap_or_default(), build)
    }

    fn update(
        spec: &mut SubscriptionSpec,
        input: SubscriptionUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        if let Some(package) = input.package_id {
            spec.package_id = named(package)?;
        }
        Ok(None)
    }

    fn label(_: &str, spec: &SubscriptionSpec) -> String {
        spec.name.clone()
    }

    fn index(resource: &Resource, spec: &SubscriptionSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.name.clone(), field: "name" });
        if let Some(package) = &spec.package_id {
            index.refs.push(Ref { relation: "package_id", kind: Kind::Package, to: package.to_string() });
        }
        index.facets.push(Facet { field: "id", value: public_id(&resource.id).to_owned() });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn limits(spec: &SubscriptionSpec) -> HeldLimits {
        HeldLimits { own: Limits::default(), package: spec.package_id.as_ref().map(ToString::to_string) }
    }

    fn example() -> Value {
        json!({"id": "crm-4711", "name": "default"})
    }
}
