//! A customer's account.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::brand::Brand;
use super::cluster::Cluster;
use super::fqdn::{Fqdn, FqdnCreate};
use super::package::{Package, named};
use super::region::Region;
use super::shard::Shard;
use super::subscription::{Subscription, SubscriptionCreate};
use super::webroot::{Webroot, WebrootCreate};
use super::zone::{Zone, ZoneNested};
use crate::definition::{Build, Definition};
use crate::input::Unserved;
use crate::limits::{HeldLimits, Limits};
use crate::faults::Faults;
use crate::http_policy::HttpPolicy;
use crate::purge::CachePurges;
use crate::{Codes, Column, Doc, Document, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, OwnerRef, Owns, Placement, Ref, Resource, SpecError, Status, Tier, check, filter};

/// What is stored of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantSpec {
    /// Whose customer it is.
    pub brand_id: Id<Brand>,
    /// The CRM's name for the customer: opaque.
    pub customer_id: String,
    /// Where it lies.
    pub region_id: Id<Region>,
    /// Where it lies.
    pub cluster_id: Id<Cluster>,
    /// The web shard that serves it.
    #[serde(default)]
    pub shard_id: Option<Id<Shard>>,
    /// Whether files can be reached by SFTP.
    #[serde(default)]
    pub sftp_enabled: bool,
    /// Whether there is a shell.
    #[serde(default)]
    pub ssh_enabled: bool,
    /// Bytes; 0: no limit.
    #[serde(default)]
    pub disk_quota_bytes: u64,
    /// What it may have at most, beside its own limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_id: Option<Id<Package>>,
    /// The most resources of some kinds. They go before those of the package.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// What edges do with the requests for its names before the sites see them, where a name says nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<HttpPolicy>>,
}

/// Body of POST /tenants.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TenantCreate {
    brand_id: String,
    customer_id: String,
    region_id: String,
    cluster_id: String,
    /// A shard of the role web in the cluster; absent or empty: the platform chooses one, and says why.
    #[serde(default)]
    shard_id: Option<String>,
    #[serde(default)]
    sftp_enabled: Unserved,
    #[serde(default)]
    ssh_enabled: Unserved,
    #[serde(default)]
    disk_quota_bytes: Unserved,
    /// A package of the brand.
    #[serde(default)]
    package_id: Option<String>,
    #[serde(default)]
    limits: Limits,
    /// What edges do with the requests for its names before the sites see them, where a name says nothing else.
    #[serde(default)]
    http: Option<HttpPolicy>,
    #[serde(default)]
    subscriptions: Vec<SubscriptionCreate>,
    #[serde(default)]
    zones: Vec<ZoneNested>,
    #[serde(default)]
    webroots: Vec<WebrootCreate>,
    /// Bound to no webroot.
    #[serde(default)]
    fqdns: Vec<FqdnCreate>,
    #[serde(default)]
    databases: Unserved,
    #[serde(default)]
    valkey_instances: Unserved,
    #[serde(default)]
    s3_buckets: Unserved,
    #[serde(default)]
    ssh_keys: Unserved,
    #[serde(default)]
    egress_rules: Unserved,
    #[serde(default)]
    email_accounts: Unserved,
}

/// Body of PUT /tenants/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TenantUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    customer_id: Option<String>,
    #[serde(default)]
    sftp_enabled: Unserved,
    #[serde(default)]
    ssh_enabled: Unserved,
    #[serde(default)]
    disk_quota_bytes: Unserved,
    /// A package of the brand. Null or empty: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<String>")]
    package_id: Option<Option<String>>,
    /// All of them.
    #[serde(default)]
    limits: Option<Limits>,
    /// All of it. Null: none.
    #[serde(default, deserialize_with = "crate::input::patch")]
    #[schemars(with = "Option<HttpPolicy>")]
    http: Option<Option<HttpPolicy>>,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TenantExtra {
    /// The number of its system user, from 5000; never reused.
    uid: u64,
    /// Why it is suspended; empty when it is not.
    suspend_reason: String,
    /// How the platform chose its shard; absent when the caller named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<Placement>,
}

/// What the controller keeps about a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantState {
    /// The number of its system user.
    pub uid: u32,
    /// Why it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend_reason: Option<String>,
    /// How its shard was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What it purged from the caches of edges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purges: Option<CachePurges>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Tenant;

impl Document for Tenant {
    const KIND: Kind = Kind::Tenant;
    type Spec = TenantSpec;
    type State = TenantState;
}

impl Definition for Tenant {
    type Create = TenantCreate;
    type Update = TenantUpdate;
    type Extra = TenantExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Tenant",
        about: "A customer's account.",
        collection: "/tenants",
        item: "/tenants/{id}",
        parent: None,
        lists: &[],
        scope: "tenants",
        tier: Tier::Brand,
        owns: Owns::Tenant,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 202, update: Some(202), delete: 202 },
        retry: true,
        id: IdPolicy::Prefixed("t_"),
        shape: 1,
        status: true,
        sort: &[("created_at", Column::Created), ("status", Column::Status)],
        filters: &[
            Filter::facet("customer_id", filter::text),
            Filter::id("brand_id"),
            Filter::id("region_id"),
            Filter::id("cluster_id"),
            Filter::id("shard_id"),
            Filter::id("package_id"),
        ],
        platform_only: &[],
        global_search: true,
        hidden: &[],
        nullable: &[],
        joins: &[("region_name", "region_id"), ("cluster_name", "cluster_id"), ("shard_name", "shard_id")],
    };
    const COUNTED: &'static [&'static str] = &["shard_id"];
    const HAS_LIMITS: bool = true;
    const INITIAL: Status = Status::Pending;

    fn create(input: TenantCreate, _: Option<&Resource>, build: &mut Build<'_>) -> Result<(), SpecError> {
        let shard_id = input.shard_id.filter(|id| !id.is_empty());
        let mut faults = Faults::default();
        faults.note(check::reference("brand_id", &input.brand_id));
        faults.note(check::text("customer_id", &input.customer_id, 255));
        faults.note(check::reference("region_id", &input.region_id));
        faults.note(check::reference("cluster_id", &input.cluster_id));
        if let Some(id) = &shard_id {
            faults.note(check::reference("shard_id", id));
        }
        faults.note(input.limits.check("limits"));
        faults.note(input.sftp_enabled.check("sftp_enabled"));
        faults.note(input.ssh_enabled.check("ssh_enabled"));
        faults.note(input.disk_quota_bytes.check("disk_quota_bytes"));
        faults.note(input.databases.check("databases"));
        faults.note(input.valkey_instances.check("valkey_instances"));
        faults.note(input.s3_buckets.check("s3_buckets"));
        faults.note(input.ssh_keys.check("ssh_keys"));
        faults.note(input.egress_rules.check("egress_rules"));
        faults.note(input.email_accounts.check("email_accounts"));
        let id = build.id(Self::INFO.id, None)?;
        let spec = TenantSpec {
            brand_id: input.brand_id.into(),
            customer_id: input.customer_id,
            region_id: input.region_id.into(),
            cluster_id: input.cluster_id.into(),
            shard_id: shard_id.map(Id::from),
            sftp_enabled: false,
            ssh_enabled: false,
            disk_quota_bytes: 0,
            package_id: faults.note(named(input.package_id)).flatten(),
            limits: input.limits,
            http: faults.note(HttpPolicy::of_tenant(input.http, None)).flatten(),
        };
        build.push::<Self>(id.clone(), None, &spec)?;
        for (n, subscription) in input.subscriptions.into_iter().enumerate() {
            let built = Subscription::build(subscription, &id, build);
            faults.note(built.map_err(|e| e.within(&format!("subscriptions[{n}]"))));
        }
        for (n, zone) in input.zones.into_iter().enumerate() {
            let built = Zone::build_nested(zone, &id, &spec, build);
            faults.note(built.map_err(|e| e.within(&format!("zones[{n}]"))));
        }
        for (n, webroot) in input.webroots.into_iter().enumerate() {
            let built = Webroot::build(webroot, &id, build);
            faults.note(built.map_err(|e| e.within(&format!("webroots[{n}]"))));
        }
        for (n, fqdn) in input.fqdns.into_iter().enumerate() {
            let built = Fqdn::build(fqdn, &id, None, build);
            faults.note(built.map_err(|e| e.within(&format!("fqdns[{n}]"))));
        }
        faults.end()
    }

    fn update(spec: &mut TenantSpec, input: TenantUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        input.sftp_enabled.check("sftp_enabled")?;
        input.ssh_enabled.check("ssh_enabled")?;
        input.disk_quota_bytes.check("disk_quota_bytes")?;
        if let Some(customer) = input.customer_id {
            check::text("customer_id", &customer, 255)?;
            spec.customer_id = customer;
        }
        if let Some(package) = input.package_id {
            spec.package_id = named(package)?;
        }
        if let Some(limits) = input.limits {
            limits.check("limits")?;
            spec.limits = limits;
        }
        if let Some(http) = input.http {
            spec.http = HttpPolicy::of_tenant(http, spec.http.as_deref())?;
        }
        Ok(None)
    }

    fn label(_: &str, spec: &TenantSpec) -> String {
        spec.customer_id.clone()
    }

    fn index(_: &Resource, spec: &TenantSpec, index: &mut Index) {
        let refs = [
            ("brand_id", Kind::Brand, Some(spec.brand_id.as_str())),
            ("region_id", Kind::Region, Some(spec.region_id.as_str())),
            ("cluster_id", Kind::Cluster, Some(spec.cluster_id.as_str())),
            ("shard_id", Kind::Shard, spec.shard_id.as_deref()),
            ("package_id", Kind::Package, spec.package_id.as_deref()),
        ];
        for (relation, kind, to) in refs {
            if let Some(to) = to {
                index.refs.push(Ref { relation, kind, to: to.to_owned() });
                index.facets.push(Facet { field: relation, value: to.to_owned() });
            }
        }
        index.facets.push(Facet { field: "customer_id", value: spec.customer_id.clone() });
    }

    fn extra(tenant: &Doc<Self>) -> TenantExtra {
        TenantExtra {
            uid: tenant.state.uid.into(),
            suspend_reason: tenant.state.suspend_reason.clone().unwrap_or_default(),
            placement: tenant.state.placement.clone(),
        }
    }

    fn owner(spec: &TenantSpec) -> Option<OwnerRef> {
        Some(OwnerRef { field: "brand_id", kind: Kind::Brand, id: spec.brand_id.to_string() })
    }

    fn limits(spec: &TenantSpec) -> HeldLimits {
        HeldLimits { own: spec.limits.clone(), package: spec.package_id.as_ref().map(ToString::to_string) }
    }

    fn example() -> Value {
        json!({
            "brand_id": "acme",
            "customer_id": "customer-1",
            "region_id": "0b0f2b57-2a4e-4f0c-8f7a-0d7d2f1f3c11",
            "cluster_id": "1c1f2b57-2a4e-4f0c-8f7a-0d7d2f1f3c12",
            "shard_id": "6f1d9a52-7d0c-4b5e-9a3f-0d6f5a1c2b3d",
            "subscriptions": [{"id": "crm-4711", "name": "default"}],
            "zones": [{"subscription_id": "crm-4711", "name": "customer-1.example"}],
            "webroots": [{
                "subscription_id": "crm-4711",
                "runtime": "static",
                "runtime_version": "1",
                "fqdns": [{"fqdn": "www.customer-1.example"}],
            }],
        })
    }
}
