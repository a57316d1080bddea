//! Who may have a name: zones, host names, and the base host names of brands.
//!
//! Names go to whoever comes first, but never what is everybody's (public suffixes) or what another brand's names hang on. A
//! platform admin's key may give such a name away, and answers for it.

use hosting_intent::name::{is_in_zone, without_wildcard};
use hosting_resource::kinds::brand::Brand;
use hosting_resource::kinds::certificate::covers;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::{Doc, Id, Kind, Resource};

use crate::fields::{SUFFIX_FACET, is_leaving, is_service_name};
use crate::overlay::Overlay;
use crate::{PlanError, World, read};

/// Pages of names below another that are looked through for those of other brands.
const MAX_PAGES: usize = 4;

/// A brand's sites get names under its base name: that must not lie in what is another brand's, nor hold it.
pub(crate) async fn base_hostname(draft: &mut Overlay<'_>, brand: &Doc<Brand>) -> Result<(), PlanError> {
    let base = brand.spec.base_hostname.as_str();
    if let Some(zone) = read::held_zone_over(draft, base).await?
        && zone.brand.as_deref() != Some(brand.id.as_str())
    {
        let zone = &zone.spec.name;
        return Err(PlanError::Conflict(format!(
            "{base} lies in the zone {zone}, which belongs to another brand"
        )));
    }
    let related = related_base(draft, &brand.id, base, true).await?;
    if related.as_deref() == Some(base) {
        return Err(PlanError::Conflict(format!("{base} is the base host name of another brand")));
    }
    if draft.by_admin() {
        return Ok(());
    }
    if is_public_suffix(base) {
        return Err(PlanError::invalid("base_hostname", public_suffix(base)));
    }
    if let Some(other) = related {
        return Err(PlanError::Conflict(format!(
            "{base} and {other}, the base host name of another brand, lie in each other; take another name, or ask the platform"
        )));
    }
    for kind in [Kind::Zone, Kind::Fqdn] {
        others_below(draft, kind, &brand.id, base).await?;
    }
    Ok(())
}

/// A host name inside somebody else's zone is somebody else's, as far as it can be told without asking DNS.
pub(crate) async fn fqdn(draft: &mut Overlay<'_>, fqdn: &Doc<Fqdn>) -> Result<(), PlanError> {
    let host = fqdn.spec.fqdn.as_str();
    if is_service_name(host) {
        let problem = format!("{host}: names of this form are kept for sites' service host names");
        return Err(PlanError::Conflict(problem));
    }
    if !draft.by_admin() && is_public_suffix(without_wildcard(host)) {
        return Err(PlanError::invalid("fqdn", public_suffix(without_wildcard(host))));
    }
    let zone = read::held_zone_over(draft, host).await?;
    // In its own zone a tenant has whatever nobody else has.
    let is_own = zone.as_ref().is_some_and(|zone| zone.tenant.is_some() && zone.tenant == fqdn.tenant);
    if !is_own {
        wildcards(draft, fqdn).await?;
    }
    let Some(zone) = zone else {
        let brand = fqdn.brand.clone().unwrap_or_default();
        return match related_base(draft, &brand, host, false).await? {
            Some(base) if !draft.by_admin() => Err(PlanError::Conflict(format!(
                "{host} lies under {base}, the base host name of another brand"
            ))),
            Some(_) | None => Ok(()),
        };
    };
    let tenant = Id::<Tenant>::from(fqdn.parent.as_deref().unwrap_or_default());
    let tenant = read::live(draft, "tenant_id", &tenant).await?;
    if read::zone_is_open_to(&zone, &tenant) {
        return within_its_own(draft, fqdn, &zone).await;
    }
    Err(PlanError::Conflict(format!(
        "{host} lies in the zone {}, which belongs to somebody else",
        zone.spec.name
    )))
}

/// In a zone that a brand has for all its tenants, a wildcard is for names below one that its tenant has.
async fn within_its_own(
    draft: &mut Overlay<'_>,
    fqdn: &Doc<Fqdn>,
    zone: &Doc<Zone>,
) -> Result<(), PlanError> {
    let host = fqdn.spec.fqdn.as_str();
    let Some(above) = host.strip_prefix("*.").filter(|_| zone.tenant.is_none() && !draft.by_admin()) else {
        return Ok(());
    };
    let holders = draft.holders(Kind::Fqdn, "", &[above.to_owned()]).await?;
    if above != zone.spec.name && holders.iter().any(|(_, holder)| holder.tenant == fqdn.tenant) {
        return Ok(());
    }
    Err(PlanError::Conflict(format!(
        "{host} would take names of everybody, as the zone {} is for all tenants of its brand: make each name that is wanted",
        zone.spec.name
    )))
}

/// A wildcard is not claimed over host names of others, nor a host name under the wildcard of another.
async fn wildcards(draft: &mut Overlay<'_>, fqdn: &Doc<Fqdn>) -> Result<(), PlanError> {
    let host = fqdn.spec.fqdn.as_str();
    let Some(above) = host.strip_prefix("*.") else {
        let Some((_, above)) = host.split_once('.') else { return Ok(()) };
        let wildcard = format!("*.{above}");
        let holders = draft.holders(Kind::Fqdn, "", std::slice::from_ref(&wildcard)).await?;
        return match holders.iter().find(|(_, holder)| holder.tenant != fqdn.tenant) {
            Some(_) => Err(PlanError::Conflict(format!(
                "{host} lies under {wildcard}, which belongs to somebody else"
            ))),
            None => Ok(()),
        };
    };
    let others =
        |other: &Resource| other.tenant != fqdn.tenant && !is_leaving(other) && covers(host, &other.label);
    none_below(draft, Kind::Fqdn, above, &others, |other| {
        format!("{host} would hold the host name {other}, which belongs to somebody else")
    })
    .await
}

/// A zone takes all names below it from whoever had none of them yet.
pub(crate) async fn zone(draft: &mut Overlay<'_>, zone: &Doc<Zone>) -> Result<(), PlanError> {
    let own = zone.spec.name.as_str();
    if is_public_suffix(own) && (zone.tenant.is_some() || !draft.by_admin()) {
        return Err(PlanError::invalid("name", public_suffix(own)));
    }
    let brand = zone.brand.clone().unwrap_or_default();
    let above = match own.split_once('.') {
        Some((_, parent)) => read::held_zone_over(draft, parent).await?,
        None => None,
    };
    match above {
        Some(above) => {
            let allowed = match &above.tenant {
                Some(tenant) => zone.tenant.as_ref() == Some(tenant),
                None => zone.brand == above.brand,
            };
            if !allowed {
                return Err(PlanError::Conflict(format!(
                    "{own} lies under the zone {}, which belongs to somebody else",
                    above.spec.name
                )));
            }
        }
        None if draft.by_admin() => {}
        None => {
            if let Some(base) = related_base(draft, &brand, own, true).await? {
                let problem = if base == own {
                    format!("{own} is the base host name of another brand")
                } else if is_in_zone(own, &base) {
                    format!("{own} lies under {base}, the base host name of another brand")
                } else {
                    format!("{own} holds {base}, the base host name of another brand")
                };
                return Err(PlanError::Conflict(problem));
            }
            others_below(draft, Kind::Zone, &brand, own).await?;
        }
    }
    if let Some(name) = name_that_would_be_lost(draft, zone).await? {
        let problem =
            format!("{own} would take the host name {name}, which is another tenant's, out of its zone");
        return Err(PlanError::Conflict(problem));
    }
    service_names_stay(draft, zone).await
}

/// Under a brand's base name each tenant's label holds the service host names of that tenant's sites.
async fn service_names_stay(draft: &mut Overlay<'_>, zone: &Doc<Zone>) -> Result<(), PlanError> {
    let own = zone.spec.name.as_str();
    let brand = read::brand_of(draft, zone).await?;
    let (Some(brand), Some(tenant)) = (brand, &zone.tenant) else { return Ok(()) };
    let base = brand.spec.base_hostname.as_str();
    if base.is_empty() {
        return Ok(());
    }
    if is_in_zone(base, own) && !draft.by_admin() {
        return Err(PlanError::Conflict(format!(
            "{own} holds {base}, the base host name of the brand {}, with the service host names of all its sites: leave \
             tenant_id out to make it the brand's own zone; a platform admin's key may give it to a tenant",
            brand.id
        )));
    }
    if is_in_zone(own, base) {
        let label = own.strip_suffix(base).unwrap_or_default().trim_end_matches('.').rsplit('.').next();
        let holder = label.unwrap_or_default();
        for id in [holder.to_owned(), holder.replacen('-', "_", 1)] {
            if id != *tenant && read::get(draft, &Id::<Tenant>::from(id.as_str())).await?.is_some() {
                return Err(PlanError::Conflict(format!(
                    "{own} holds the service host names of the sites of tenant {id}"
                )));
            }
        }
    }
    Ok(())
}

/// Whether everybody registers names below this one: it is in the public suffix list, in either of its parts, or whatever is
/// below it is.
fn is_public_suffix(name: &str) -> bool {
    let listed = |name: &str| {
        psl::suffix(name.as_bytes())
            .is_some_and(|found| found.is_known() && found.as_bytes() == name.as_bytes())
    };
    listed(name) || listed(&format!("any.{name}"))
}

fn public_suffix(name: &str) -> String {
    format!(
        "{name} is a public suffix, below which everybody registers names: give the whole name, e.g. example.{name}; a platform \
         admin's key may make it a brand's own zone or base host name, or a tenant's host name"
    )
}

/// The base host name of another brand at or above `name`, or below it too. A cell has few brands.
async fn related_base(
    draft: &mut Overlay<'_>,
    brand: &str,
    name: &str,
    below_too: bool,
) -> Result<Option<String>, PlanError> {
    let brands = read::brands(draft).await?;
    let mut related = brands
        .iter()
        .filter(|other| other.id != brand)
        .map(|other| other.spec.base_hostname.as_str())
        .filter(|base| !base.is_empty())
        .filter(|base| is_in_zone(name, base) || (below_too && is_in_zone(base, name)));
    // The same name says more than one around it.
    Ok(related.clone().find(|base| *base == name).or_else(|| related.next()).map(str::to_owned))
}

/// Refuses a name that would hold zones or host names of another brand.
async fn others_below(draft: &mut Overlay<'_>, kind: Kind, brand: &str, name: &str) -> Result<(), PlanError> {
    let others = |other: &Resource| other.brand.as_deref() != Some(brand) && !is_leaving(other);
    none_below(draft, kind, name, &others, |other| {
        format!(
            "{name} would hold the {kind} {other}, which belongs to another brand; take a name below it, or ask the platform"
        )
    })
    .await
}

/// Refuses a name at or below which one of a kind `is_foreign`.
async fn none_below(
    draft: &mut Overlay<'_>,
    kind: Kind,
    name: &str,
    is_foreign: &(dyn Fn(&Resource) -> bool + Sync),
    problem: impl Fn(&str) -> String + Send,
) -> Result<(), PlanError> {
    let mut after = String::new();
    for _ in 0..MAX_PAGES {
        let page = draft.with_facet(kind, SUFFIX_FACET, name, &after, read::PAGE).await?;
        if let Some(foreign) = page.iter().find(|found| is_foreign(found)) {
            return Err(PlanError::Conflict(problem(&foreign.label)));
        }
        match page.last() {
            Some(last) if page.len() == read::PAGE as usize => after.clone_from(&last.id),
            Some(_) | None => return Ok(()),
        }
    }
    Err(PlanError::Conflict(format!(
        "{name} holds more names than are looked through here; only a platform admin's key may take it"
    )))
}

/// A host name of another tenant that lies in a zone of the brand's now and would lie in this tenant's then: its records
/// would be withdrawn.
async fn name_that_would_be_lost(
    draft: &mut Overlay<'_>,
    zone: &Doc<Zone>,
) -> Result<Option<String>, PlanError> {
    let own = zone.spec.name.as_str();
    let Some(shared) = read::held_zone_over(draft, own).await? else { return Ok(None) };
    if zone.tenant.is_none() || shared.tenant.is_some() {
        return Ok(None);
    }
    let mut after = String::new();
    loop {
        let page = draft.with_facet(Kind::Fqdn, SUFFIX_FACET, own, &after, read::PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        after = last.id.clone();
        for fqdn in page {
            let is_anothers = fqdn.tenant != zone.tenant && fqdn.brand == shared.brand && !is_leaving(&fqdn);
            let name = fqdn.label.as_str();
            if is_anothers
                && read::held_zone_over(draft, name).await?.is_some_and(|over| over.id == shared.id)
            {
                return Ok(Some(name.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_suffixes_of_either_part_are_known() {
        for suffix in ["co.uk", "com", "github.io", "kawasaki.jp", "xn--55qx5d.cn", "in-addr.arpa"] {
            assert!(is_public_suffix(suffix), "{suffix}");
        }
        // A rule for everything below (*.ck), its exception, and what is no suffix.
        assert!(is_public_suffix("anything.ck"));
        for name in [
            "www.ck",
            "city.kawasaki.jp",
            "example.co.uk",
            "acme.example",
            "test",
            "x.test",
            "2.0.192.in-addr.arpa",
        ] {
            assert!(!is_public_suffix(name), "{name}");
        }
    }
}
