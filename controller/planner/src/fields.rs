//! Names that several kinds share: audiences, relations, counters, service host names.

use hosting_intent::{Audience, AudienceError, group_or_default};
use hosting_resource::kinds::brand::BrandSpec;
use hosting_resource::{Resource, Status};

/// By which a node refers to its shards.
pub(crate) const SHARD_RELATION: &str = "shard_ids";
/// By which a zone's records are found by their absolute name: `{zone id}/{name}`.
pub(crate) const OWNER_FACET: &str = "owner";
/// By which the names at or below another are found.
pub(crate) use hosting_resource::search::SUFFIX as SUFFIX_FACET;
/// The counter behind SerialOffset.
pub(crate) const SERIAL_OFFSET: &str = "dns_serial_offset";
/// The counter of the latest serial that a deleted zone had.
pub(crate) const ZONE_SERIAL: &str = "dns_zone_serial";
/// The counter behind tenants' uids: the last one given.
pub(crate) const TENANT_UID: &str = "tenant_uid";
/// The first tenant's uid.
pub(crate) const FIRST_TENANT_UID: u64 = 5000;

/// The name servers that serve a brand's zones.
///
/// # Errors
/// When the stored group cannot stand in an audience.
pub(crate) fn dns_audience(brand: &BrandSpec) -> Result<Audience, AudienceError> {
    Audience::dns(group_or_default(&brand.dns_group))
}

/// The names of a brand's name servers: lower case, no trailing dot.
pub(crate) fn name_servers_of(brand: &BrandSpec) -> Vec<String> {
    let mut servers: Vec<String> = [&brand.primary_ns, &brand.secondary_ns]
        .into_iter()
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    servers.dedup();
    servers
}

/// Whether somebody deleted the resource: it is on its way out, or out of service and kept for a while. Nothing is wanted of it, and
/// nothing new may refer to it.
pub(crate) fn is_deleting(resource: &Resource) -> bool {
    resource.status.is_gone()
}

/// Whether the resource is on its way out and cannot be brought back.
pub(crate) fn is_leaving(resource: &Resource) -> bool {
    resource.status == Status::Deleting
}

/// What became of a resource that somebody deleted, in messages.
pub(crate) fn why_gone(resource: &Resource) -> &'static str {
    if is_leaving(resource) { "is being deleted" } else { "is deleted" }
}

/// The names at which a site answers without a host name of its own: `{webroot}.{tenant}.{base}`, with `-` for `_`
/// (what a public CA certifies) first and as the ids are written second. One name when the ids have no `_`.
pub(crate) fn service_names(webroot: &str, tenant: &str, base_hostname: &str) -> Vec<String> {
    let base = base_hostname.trim_end_matches('.').to_ascii_lowercase();
    if base.is_empty() {
        return Vec::new();
    }
    let written = format!("{webroot}.{tenant}.{base}").to_ascii_lowercase();
    let certifiable =
        format!("{}.{}.{base}", webroot.replace('_', "-"), tenant.replace('_', "-")).to_ascii_lowercase();
    let mut names = vec![certifiable, written];
    names.dedup();
    names
}

/// Whether a name has the form of a service host name, whatever brand's. Nobody may claim such a name as an FQDN.
pub(crate) fn is_service_name(name: &str) -> bool {
    let mut labels = name.split('.');
    let (Some(site), Some(tenant), Some(_)) = (labels.next(), labels.next(), labels.next()) else {
        return false;
    };
    let has_form = |label: &str, prefixes: [&str; 2]| {
        prefixes.into_iter().any(|prefix| {
            label
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.len() == 10 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
        })
    };
    has_form(site, ["web_", "web-"]) && has_form(tenant, ["t_", "t-"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_in_both_spellings() {
        assert_eq!(
            service_names("web_0123456789", "t_abcdefghij", "Sites.example."),
            ["web-0123456789.t-abcdefghij.sites.example", "web_0123456789.t_abcdefghij.sites.example"]
        );
        assert_eq!(service_names("w", "t", "sites.example"), ["w.t.sites.example"]);
        assert!(service_names("w", "t", "").is_empty());
        assert!(is_service_name("web-0123456789.t_abcdefghij.sites.example"));
        assert!(!is_service_name("web-0123456789.t_abcdefghij"));
        assert!(!is_service_name("web-shop.t-abcdefghij.example"));
        assert!(!is_service_name("www.t-abcdefghij.example"));
    }
}
