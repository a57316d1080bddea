//! A load-balancer address of a cluster: the target of automatic A and AAAA records.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::definition::{Build, Definition, Nothing};
use crate::{Codes, Doc, Document, Filter, IdPolicy, Index, Kind, KindInfo, NoState, Owns, Parent, Resource, SpecError, Status, Tier, Unique, check};

/// What is stored of an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LbAddressSpec {
    /// IPv4 or IPv6, in its normal form.
    pub address: String,
    /// 4 or 6.
    pub family: u8,
    /// For people.
    #[serde(default)]
    pub label: String,
}

/// Body of POST /clusters/{clusterID}/lb-addresses.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct LbAddressCreate {
    address: String,
    #[serde(default)]
    label: String,
}

/// There is no PUT.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct LbAddressUpdate {}

fn parse_address(field: &str, given: &str) -> Result<IpAddr, SpecError> {
    given.parse().map_err(|_| SpecError::invalid(field, format!("{given:?} is no IP address")))
}

fn address_filter(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    parse_address(field, given).map(|address| address.to_string())
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct LbAddress;

impl Document for LbAddress {
    const KIND: Kind = Kind::LbAddress;
    type Spec = LbAddressSpec;
    type State = NoState;
}

impl Definition for LbAddress {
    type Create = LbAddressCreate;
    type Update = LbAddressUpdate;
    type Extra = Nothing;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "LB address",
        about: "A load-balancer address of a cluster: the target of automatic A and AAAA records.",
        collection: "/clusters/{clusterID}/lb-addresses",
        item: "/lb-addresses/{id}",
        parent: Some(Parent { kind: Kind::Cluster, param: "clusterID", field: "cluster_id" }),
        lists: &[],
        scope: "clusters",
        tier: Tier::Admin,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: false,
        codes: Codes { create: 201, update: None, delete: 204 },
        retry: false,
        id: IdPolicy::Uuid,
        shape: 1,
        status: false,
        sort: &[],
        filters: &[Filter::label("address", address_filter)],
        platform_only: &[],
        global_search: false,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Active;

    fn create(
        input: LbAddressCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        check::optional_text("label", &input.label, 255)?;
        let address = parse_address("address", &input.address)?;
        let id = build.id(Self::INFO.id, None)?;
        let spec = LbAddressSpec {
            address: address.to_string(),
            family: if address.is_ipv4() { 4 } else { 6 },
            label: input.label,
        };
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(_: &mut LbAddressSpec, _: LbAddressUpdate, _: &Resource) -> Result<Option<Status>, SpecError> {
        Ok(None)
    }

    fn label(_: &str, spec: &LbAddressSpec) -> String {
        spec.address.clone()
    }

    fn index(resource: &Resource, spec: &LbAddressSpec, index: &mut Index) {
        let scope = resource.parent.clone().unwrap_or_default();
        index.uniques.push(Unique { scope, key: spec.address.clone(), field: "address" });
    }

    fn extra(_: &Doc<Self>) -> Nothing {
        Nothing {}
    }

    fn example() -> Value {
        json!({"address": "192.0.2.10", "label": "edge 1"})
    }
}
