//! A hosting company's brand: name servers, base host name, and what holds for all its tenants at the edges.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::name::is_in_zone;
use hosting_intent::{Audience, Kind as IntentKind, group_or_default, message as m};
use hosting_resource::brand_pages::LogAddresses;
pub(crate) use hosting_resource::kinds::brand::Brand;
use hosting_resource::{Doc, Id, Kind};

use super::tenant;
use super::wide_walks::{CLUSTERS, DNS_GROUPS};
use super::{Changed, Facts, Planned, zone};
use crate::fields::{dns_audience, is_deleting};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, http_policy, names, read};

/// The service host names under a zone name, or above it.
pub(crate) const SERVICES_NEAR: Pages = Pages {
    name: "services_near",
    over: Kind::Brand,
    by: By::All,
    aspect: Aspect::ServiceNames,
    is_wide: false,
};

#[async_trait]
impl Planned for Brand {
    const FACTS: Facts = Facts { walks: &[DNS_GROUPS, SERVICES_NEAR], ..Facts::PLAIN };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(brand) = change.both().next() else { return };
        if change.differs(|brand| brand.spec.dns_group.clone()) {
            let audiences = change.both().filter_map(|brand| dns_audience(&brand.spec).ok());
            units.extend(audiences.map(Unit::Audience));
            units.insert(CLUSTERS.of("", change.cause));
        }
        let said = |brand: &Doc<Self>| {
            let spec = &brand.spec;
            (spec.http.clone(), spec.pages.clone(), spec.log_addresses)
        };
        if change.born_or_gone() || change.differs(said) {
            units.extend(Self::units(brand));
        }
        if change.born_or_gone() {
            return;
        }
        let servers = |brand: &Doc<Self>| {
            let spec = &brand.spec;
            [&spec.dns_group, &spec.primary_ns, &spec.secondary_ns, &spec.hostmaster_email].map(Clone::clone)
        };
        if change.differs(servers) {
            units.insert(zone::BRAND_ZONES.of(&brand.id, change.cause));
        }
        let claims = |brand: &Doc<Self>| {
            (brand.spec.name_verification, brand.spec.primary_ns.clone(), brand.spec.secondary_ns.clone())
        };
        if change.differs(claims) {
            units.insert(zone::BRAND_CLAIMS.of(&brand.id, change.cause));
        }
        if change.differs(|brand| brand.spec.name_verification) {
            units.insert(tenant::BRAND_NAMES.of(&brand.id, change.cause));
        }
        if change.differs(|brand| brand.spec.base_hostname.clone()) {
            units.insert(tenant::BRAND_TENANTS.of(&brand.id, change.cause));
        }
    }

    /// Its word goes to the edges of every cluster: a tenant may lie in one that the brand no longer creates any in.
    async fn derive(brand: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let spec = &brand.spec;
        let pages = spec.pages.0.iter();
        let message = m::Brand {
            pages: pages
                .map(|(word, html)| m::BrandPage { word: word.clone(), html: html.clone() })
                .collect(),
            http: spec.http.as_deref().map(http_policy::message).map(Box::new),
            log_addresses: match spec.log_addresses {
                LogAddresses::Edge => m::LogAddresses::Unspecified,
                LogAddresses::Network => m::LogAddresses::Network,
                LogAddresses::None => m::LogAddresses::None,
            } as i32,
        };
        if message == m::Brand::default() {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for cluster in read::clusters(world).await? {
            let audience = Audience::edge(&cluster.id)?;
            wanted.push(DesiredIntent::new(audience, IntentKind::Brand, &*brand.id, &message));
        }
        Ok(wanted)
    }

    async fn check(
        brand: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        // What decides where a brand's zones and sites may lie is the platform's to say.
        let group = group_or_default(&brand.spec.dns_group);
        let group_before = group_or_default(before.map_or("", |before| &before.spec.dns_group));
        let clusters_moved = before.is_some_and(|before| before.spec.cluster_ids != brand.spec.cluster_ids);
        if !draft.by_admin() && (group != group_before || clusters_moved) {
            return Err(PlanError::Forbidden(
                "a brand's dns_group and clusters are set with a platform admin's key",
            ));
        }
        if before.is_none_or(|before| before.spec.base_hostname != brand.spec.base_hostname) {
            names::base_hostname(draft, brand).await?;
        }
        for cluster in &brand.spec.cluster_ids {
            read::live(draft, "cluster_ids", cluster).await?;
        }
        Ok(())
    }

    /// Its packages and webhooks are nobody else's. A package that a tenant has keeps it, as the tenant does.
    async fn leave(brand: &Doc<Self>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        let packages = plan.draft.children(Kind::Package, &brand.id, "", read::PAGE).await?;
        packages.iter().for_each(|package| plan.remove(package));
        // Nothing happens any more that its receivers could hear of.
        let webhooks = plan.draft.with_facet(Kind::Webhook, "brand_id", &brand.id, "", read::PAGE).await?;
        webhooks.iter().for_each(|webhook| plan.remove(webhook));
        Ok(())
    }

    async fn revisit(
        brand: Doc<Self>,
        aspect: Aspect,
        of: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        match aspect {
            Aspect::Machines if !is_deleting(&brand) => {
                let units =
                    Self::units(&brand).into_iter().chain([Unit::Audience(dns_audience(&brand.spec)?)]);
                plan.replan(units).await
            }
            Aspect::ServiceNames => services_near(&brand, of, plan).await,
            Aspect::Machines | Aspect::Names => Ok(()),
        }
    }
}

/// Sites whose service host names lie under a zone name, or whose tenant's service host names the zone name lies under.
async fn services_near(brand: &Doc<Brand>, zone: &str, plan: &mut Plan<'_>) -> Result<(), PlanError> {
    let base = brand.spec.base_hostname.as_str();
    if base.is_empty() || is_deleting(brand) {
        return Ok(());
    }
    if is_in_zone(base, zone) {
        plan.enqueue([tenant::BRAND_TENANTS.of(&brand.id, plan.cause)]);
    } else if is_in_zone(zone, base)
        && let Some(label) =
            zone.strip_suffix(base).and_then(|rest| rest.trim_end_matches('.').rsplit('.').next())
    {
        for tenant in [label.to_owned(), label.replacen('-', "_", 1)] {
            if read::get(&mut plan.draft, &Id::<tenant::Tenant>::from(tenant.as_str())).await?.is_some() {
                plan.enqueue([super::webroot::TENANT_SERVICES.of(tenant, plan.cause)]);
                break;
            }
        }
    }
    Ok(())
}
