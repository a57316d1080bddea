//! How many resources of each kind somebody may have: tenants, brands, and what they are billed by.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Index, Kind, Owns, Resource, SpecError, Tier};

/// The relation of a resource to the subscription that it is billed with.
const BILLED: &str = "subscription_id";

/// The most resources of some kinds, by the names that their scopes have: `{"webroots": 10}`. A kind that is not named has no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Limits(BTreeMap<String, u64>);

impl Limits {
    /// The kinds that can be limited: those that lie in a brand.
    pub fn kinds() -> impl Iterator<Item = Kind> {
        let lies_in_brand = |kind: &Kind| kind.info().tier == Tier::Brand && kind.info().owns != Owns::Brand;
        Kind::ALL.iter().copied().filter(lies_in_brand)
    }

    /// The most resources of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<u64> {
        self.0.get(kind.info().scope).copied()
    }

    /// For `skip_serializing_if`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses names that are no kind's.
    pub(crate) fn check(&self, field: &str) -> Result<(), SpecError> {
        let names = || Self::kinds().map(|kind| kind.info().scope);
        match self.0.keys().find(|given| !names().any(|name| name == *given)) {
            None => Ok(()),
            Some(given) => {
                let known: Vec<&str> = names().collect();
                let problem = format!("is nothing that is counted; one of {}", known.join(", "));
                Err(SpecError::invalid(format!("{field}.{given}"), problem))
            }
        }
    }
}

/// The limits that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldLimits {
    /// Its own.
    pub own: Limits,
    /// Id of the package that has further ones.
    pub package: Option<String>,
}

impl Resource {
    /// Ids of those whose limits it counts against: its tenant, its brand, and the subscription that it is billed with. What the platform
    /// makes by itself counts against none. `index`: its own.
    #[must_use]
    pub fn charged(&self, index: &Index) -> Vec<String> {
        // What a shard has room for: what is kept after its deletion has its place.
        let counted = self.kind.def().counted();
        let placed =
            index.refs.iter().filter(|one| counted.contains(&one.relation)).map(|one| one.to.clone());
        // What is kept counts against nobody else, and not while it goes either.
        let is_kept = self.status.is_gone() && self.progress().kept.is_some();
        if is_kept || !self.kind.def().is_charged(self) {
            return placed.collect();
        }
        let lies_in = [&self.tenant, &self.brand].into_iter().flatten().filter(|owner| **owner != self.id);
        let billed = index.refs.iter().filter(|one| one.relation == BILLED).map(|one| &one.to);
        lies_in.chain(billed).cloned().chain(placed).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::kinds::tests::stored;

    #[test]
    fn kinds_are_limited_by_distinct_names() {
        let kinds: Vec<Kind> = Limits::kinds().collect();
        let names: BTreeSet<&str> = kinds.iter().map(|kind| kind.info().scope).collect();
        assert_eq!(names.len(), kinds.len());
        assert!(names.contains("tenants") && names.contains("zone_records") && !names.contains("brands"));
        assert!(!names.contains("nodes"));
        let limits: Limits = serde_json::from_value(json!({"webroots": 3, "webrots": 1})).unwrap();
        assert_eq!((limits.of(Kind::Webroot), limits.of(Kind::Zone)), (Some(3), None));
        let error = limits.check("limits").unwrap_err().to_string();
        assert!(
            error.starts_with("validation error: limits.webrots: is nothing that is counted; one of "),
            "{error}"
        );
    }

    #[test]
    fn a_resource_counts_against_tenant_brand_and_subscription_and_not_against_itself() {
        let charged = |kind, spec| {
            let resource = stored(kind, spec);
            resource.charged(&resource.index())
        };
        let mut zone = stored(
            Kind::Zone,
            json!({"name": "a.example", "brand_id": "b", "tenant_id": "t", "subscription_id": "b~s", "region_id": "r"}),
        );
        (zone.tenant, zone.brand) = (Some("t".into()), Some("b".into()));
        assert_eq!(zone.charged(&zone.index()), ["t", "b", "b~s"]);
        let record = |managed_by: &str| json!({"type": "TXT", "name": "a.example", "content": "x", "ttl": 300, "managed_by": managed_by});
        assert!(charged(Kind::ZoneRecord, record("auto")).is_empty());
        let mut tenant = stored(Kind::Tenant, json!({}));
        (tenant.tenant, tenant.brand) = (Some(tenant.id.clone()), Some("b".into()));
        assert_eq!(tenant.charged(&tenant.index()), ["b"]);
    }
}
