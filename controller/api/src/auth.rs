//! Who calls, and what they may touch: keys, scopes, brands.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use hosting_planner::{KeyHolder, World};
use hosting_resource::{Grants, Resource, Tier, scope_holds, timestamp};

use crate::ApiError;
use crate::problem::Problem;
use crate::route::{Action, Route, Scope};

/// The caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Id of the API key.
    pub key_id: String,
    /// `resource:action`; `*` in either place stands for all.
    pub scopes: Vec<String>,
    /// Brand ids or `*`.
    pub brands: Vec<String>,
}

/// Whom the gate of another protocol in this process let through. In the extensions of a request, which nothing from outside can write.
#[derive(Debug, Clone)]
pub(crate) struct Admitted(pub(crate) Principal);

impl Principal {
    /// Whether the caller's brands contain `*`.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.brands.iter().any(|brand| brand == "*")
    }

    /// Whether the caller has a scope, or all that a scope with `*` stands for.
    #[must_use]
    pub fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| scope_holds(held, scope))
    }

    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        let wanted = scope.to_string();
        if self.has(&wanted) {
            return Ok(());
        }
        Err(lacks(&wanted))
    }

    /// Whether a route is the caller's, by scope and tier.
    pub(crate) fn may_call(&self, route: &Route) -> Result<(), ApiError> {
        if let Some(scope) = route.scope {
            self.require(scope)?;
        }
        match route.tier {
            Tier::Admin => self.require_admin(),
            Tier::Brand => Ok(()),
        }
    }

    /// Whether the caller may read what lies behind a scope's resource.
    pub(crate) fn require_read(&self, resource: &'static str) -> Result<(), ApiError> {
        self.require(Scope { resource, action: Action::Read })
    }

    pub(crate) fn require_admin(&self) -> Result<(), ApiError> {
        if self.is_admin() { Ok(()) } else { Err(ApiError::forbidden("platform admin access required")) }
    }

    /// The brands whose resources the caller sees; `None`: all.
    pub(crate) fn visible(&self) -> Option<Vec<String>> {
        (!self.is_admin()).then(|| self.brands.clone())
    }

    pub(crate) fn may_use_brand(&self, brand: Option<&str>) -> Result<(), ApiError> {
        let allowed =
            self.is_admin() || brand.is_some_and(|brand| self.brands.iter().any(|held| held == brand));
        if allowed { Ok(()) } else { Err(ApiError::forbidden("no access to this brand")) }
    }

    /// By the resource's chain: its tenant's brand, its zone's, or its own.
    pub(crate) fn may_touch(&self, resource: &Resource) -> Result<(), ApiError> {
        self.may_use_brand(resource.brand.as_deref())
    }

    /// A key may give no more than it has. The scopes of roles are among the scopes here.
    pub(crate) fn may_grant(&self, grants: &Grants) -> Result<(), ApiError> {
        if let Some(scope) = grants.scopes.iter().find(|scope| !self.has(scope)) {
            return Err(lacks(scope));
        }
        grants.brands.iter().try_for_each(|brand| self.may_use_brand(Some(brand)))
    }
}

fn lacks(scope: &str) -> ApiError {
    ApiError::forbidden(format!("insufficient scope: requires {scope}")).is(Problem::InsufficientScope)
}

/// The key that a request carries: `Authorization: Bearer`, else `X-API-Key`.
pub(crate) fn presented(headers: &HeaderMap) -> Result<&str, ApiError> {
    let missing = || ApiError::new(StatusCode::UNAUTHORIZED, "missing API key");
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| missing())?;
        let (scheme, key) = value.split_once(' ').ok_or_else(missing)?;
        let key = key.trim();
        return if scheme.eq_ignore_ascii_case("bearer") && !key.is_empty() {
            Ok(key)
        } else {
            Err(missing())
        };
    }
    let key =
        headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default();
    if key.is_empty() { Err(missing()) } else { Ok(key) }
}

/// Who a key stands for. `now` is in milliseconds since the Unix epoch, `from` the client's address.
pub(crate) async fn authenticate(
    key: &str,
    from: Option<IpAddr>,
    now: i64,
    world: &mut dyn World,
) -> Result<Principal, ApiError> {
    let holder = hosting_planner::key_holder(world, key, now, from).await;
    let holder = holder.map_err(|error| ApiError::internal(&error))?;
    let unauthorized = |message: String| ApiError::new(StatusCode::UNAUTHORIZED, message);
    let KeyHolder { key_id, scopes, brands, ended, is_place_allowed } =
        holder.ok_or_else(|| unauthorized("invalid API key".to_owned()))?;
    // Whoever has the key may know why it does not open.
    if let Some(ended) = ended {
        let message = format!("this API key ended at {}; ask for a new one", timestamp(ended));
        return Err(unauthorized(message));
    }
    if !is_place_allowed {
        let place = from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
        return Err(ApiError::forbidden(format!("this API key does not open from {place}")));
    }
    Ok(Principal { key_id, scopes, brands })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(scopes: &[&str], brands: &[&str]) -> Principal {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Principal { key_id: "k".into(), scopes: own(scopes), brands: own(brands) }
    }

    #[test]
    fn scopes_and_brands() {
        let narrow = key(&["tenants:read"], &["acme"]);
        let read = Scope { resource: "tenants", action: Action::Read };
        let write = Scope { resource: "tenants", action: Action::Write };
        assert!(narrow.require(read).is_ok());
        let refused = narrow.require(write).unwrap_err();
        assert_eq!(refused.message, "insufficient scope: requires tenants:write");
        assert!(narrow.may_use_brand(Some("acme")).is_ok());
        assert_eq!(narrow.may_use_brand(Some("other")).unwrap_err().message, "no access to this brand");
        assert!(narrow.may_use_brand(None).is_err());
        assert!(narrow.require_admin().is_err());
        let admin = key(&["*:*"], &["*"]);
        assert!(
            admin.require(write).is_ok()
                && admin.may_use_brand(None).is_ok()
                && admin.require_admin().is_ok()
        );
        let grants = |scopes: &[&str], brands: &[&str]| {
            let Principal { scopes, brands, .. } = key(scopes, brands);
            Grants { scopes, brands, ..Grants::default() }
        };
        assert!(admin.may_grant(&grants(&["*:*"], &["*"])).is_ok());
        assert!(narrow.may_grant(&grants(&["tenants:read"], &["acme"])).is_ok());
        assert!(narrow.may_grant(&grants(&["tenants:read"], &["acme", "other"])).is_err());
        assert!(narrow.may_grant(&grants(&["tenants:read", "tenants:write"], &["acme"])).is_err());
        assert!(narrow.may_grant(&grants(&["*:*"], &["acme"])).is_err());
        let reader = key(&["*:read", "zones:*"], &["acme"]);
        for scope in ["tenants:read", "zones:delete", "zones:*", "*:read"] {
            assert!(reader.has(scope) && reader.may_grant(&grants(&[scope], &[])).is_ok(), "{scope}");
        }
        for scope in ["tenants:write", "*:*", "tenants:*", "*:write", "zone_records:write"] {
            assert!(!reader.has(scope) && reader.may_grant(&grants(&[scope], &[])).is_err(), "{scope}");
        }
    }

    #[test]
    fn keys_come_in_either_header() {
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            presented(&headers).map(str::to_owned).map_err(|error| error.message)
        };
        assert_eq!(with("authorization", "Bearer hst_a").as_deref(), Ok("hst_a"));
        assert_eq!(with("authorization", "bearer  hst_a").as_deref(), Ok("hst_a"));
        assert_eq!(with("x-api-key", "hst_a").as_deref(), Ok("hst_a"));
        for (name, value) in
            [("authorization", "Basic x"), ("authorization", "Bearer "), ("x-api-key", ""), ("a", "b")]
        {
            assert_eq!(with(name, value), Err("missing API key".to_owned()), "{name}: {value}");
        }
    }
}
