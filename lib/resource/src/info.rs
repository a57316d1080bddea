//! What is generic over kinds: routes, codes, lists, ids. One [`KindInfo`] per kind; store, API, OpenAPI and CLI follow.

use crate::{Filter, IdPolicy, Kind, Resource, check};

/// Who may call a kind's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Keys whose brands contain `*`.
    Admin,
    /// Any key with the scope, for resources of its brands.
    Brand,
}

/// Whose ownership resources of the kind stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owns {
    /// They belong to the tenant and brand of what they lie in.
    Nothing,
    /// Each is a tenant.
    Tenant,
    /// Each is a brand.
    Brand,
}

/// The kind that a resource lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The parent's kind.
    pub kind: Kind,
    /// Its parameter in the collection's path: `tenantID`.
    pub param: &'static str,
    /// The field that shows it in the API: `tenant_id`.
    pub field: &'static str,
}

/// A second list of the kind: the resources that refer to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListBy {
    /// Path below `/api/v1`.
    pub path: &'static str,
    /// The kind referred to.
    pub kind: Kind,
    /// Its parameter in `path`.
    pub param: &'static str,
    /// The relation ([`crate::Ref::relation`]).
    pub relation: &'static str,
}

/// HTTP codes of success; `None`: the kind has no such route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// POST on the collection. 201: in effect when answered, 202: on its way.
    pub create: u16,
    /// PUT on the item.
    pub update: Option<u16>,
    /// DELETE on the item.
    pub delete: u16,
}

/// What a list can be sorted by. All of them are columns of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Order of creation: (created_revision, id).
    Created,
    /// The label: host name, zone name, customer id.
    Label,
    /// The status.
    Status,
    /// The id.
    Id,
}

/// What is the same for all resources of a kind.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Which kind.
    pub kind: Kind,
    /// As a person would write it: `LB address`.
    pub title: &'static str,
    /// What OpenAPI, CLI help and the reference say about it.
    pub about: &'static str,
    /// Path of the collection below `/api/v1`: `/tenants/{tenantID}/webroots`.
    pub collection: &'static str,
    /// Path of one: `/webroots/{id}`.
    pub item: &'static str,
    /// What it lies in.
    pub parent: Option<Parent>,
    /// Further lists.
    pub lists: &'static [ListBy],
    /// The resource part of its scopes: `zone_records`.
    pub scope: &'static str,
    /// Who may call.
    pub tier: Tier,
    /// Whose ownership each of them stands for.
    pub owns: Owns,
    /// Their labels are host names.
    pub host_labels: bool,
    /// What is active shows as suspended while its tenant is: suspending a tenant writes the tenant alone.
    pub suspends_with_tenant: bool,
    /// Success codes.
    pub codes: Codes,
    /// Whether `POST {item}/retry` exists.
    pub retry: bool,
    /// How ids come about.
    pub id: IdPolicy,
    /// The newest shape of its specs.
    pub shape: u32,
    /// Whether its API view shows a status.
    pub status: bool,
    /// Sort keys of its lists, first one the default; empty: creation order only, ascending.
    pub sort: &'static [(&'static str, Column)],
    /// What lists can be filtered by, beside status and search.
    pub filters: &'static [Filter],
    /// Fields of the spec that only platform admins set; a brand's keys may send them back as they are.
    pub platform_only: &'static [&'static str],
    /// Whether `/search` finds it, by id and label.
    pub global_search: bool,
    /// Fields of the spec that the API never shows.
    pub hidden: &'static [&'static str],
    /// Fields that are shown as null; others are left out when they have no value.
    pub nullable: &'static [&'static str],
    /// Names shown beside ids: (shown field, field with the id). The label of the resource with that id.
    pub joins: &'static [(&'static str, &'static str)],
}

impl KindInfo {
    /// The last fixed segment of the item's path: `zone-records`.
    #[must_use]
    pub fn plural(&self) -> &'static str {
        self.item.trim_start_matches('/').split('/').next().unwrap_or_default()
    }

    /// What `?search=` looks for in ids and labels (part of them, letter case aside), in the form that labels have: a host name
    /// without its trailing dot and in A-labels.
    #[must_use]
    pub fn search_text(&self, given: &str) -> String {
        if !self.host_labels {
            return given.to_owned();
        }
        let part = given.strip_suffix('.').unwrap_or(given);
        let ascii = if part.is_ascii() { None } else { check::host("search", part).ok() };
        ascii.unwrap_or_else(|| part.to_owned())
    }

    /// Whether the store has an index of what `search` finds: of kinds that are looked through as a whole. What lies in something is
    /// looked for among its few neighbours.
    #[must_use]
    pub const fn has_terms(&self) -> bool {
        self.global_search || self.parent.is_none()
    }

    /// The kind's name in workflow ids and on the command line: `zone-record`.
    #[must_use]
    pub fn dashed(&self) -> String {
        self.kind.name().replace('_', "-")
    }
}

/// The resource that decides a new one's tenant and brand: its parent, a zone's tenant, a tenant's brand.
/// The caller reads it, refuses what is missing or being deleted, and hands it to [`crate::NewResource::into_resource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRef {
    /// The field to name when it does not exist.
    pub field: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: String,
}

/// Tenant and brand of what `owner` owns.
pub(crate) fn owned_by(
    info: &KindInfo,
    id: &str,
    owner: Option<&Resource>,
) -> (Option<String>, Option<String>) {
    let tenant = owner.and_then(|owner| owner.tenant.clone());
    let brand = owner.and_then(|owner| owner.brand.clone());
    match info.owns {
        Owns::Nothing => (tenant, brand),
        Owns::Tenant => (Some(id.to_owned()), brand),
        Owns::Brand => (tenant, Some(id.to_owned())),
    }
}
