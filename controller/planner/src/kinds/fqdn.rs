//! A host name's route on the edges of its tenant's cluster.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, Kind as IntentKind, message as m};
pub(crate) use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::fqdn::FqdnState;
use hosting_resource::kinds::zone_record::AutoRecord;
use hosting_resource::ownership::is_servable;
use hosting_resource::{Doc, Document, Id, Kind};
use prost::Message;

use super::{Changed, Deletion, Facts, GoesWith, Planned, Tie, tenant, webroot};
use crate::auto_records::{self, NameSource};
use crate::fields::{SUFFIX_FACET, is_deleting};
use crate::gates::{Gate, Look};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, http_policy, issuance, names, ownership, read};

/// The host names of a tenant, for their automatic records.
pub(crate) const TENANT_NAMES: Pages =
    Pages { name: "tenant_names", over: Kind::Fqdn, by: By::Parent, aspect: Aspect::Names, is_wide: false };

/// The host names at or below a zone name, whoever has them, for their automatic records.
pub(crate) const NAMES_UNDER: Pages = Pages {
    name: "names_under",
    over: Kind::Fqdn,
    by: By::Facet(SUFFIX_FACET),
    aspect: Aspect::Names,
    is_wide: false,
};

/// The host names bound to a site.
pub(crate) const WEBROOT_FQDNS: Pages = Pages {
    name: "webroot_fqdns",
    over: Kind::Fqdn,
    by: By::Facet("webroot_id"),
    aspect: Aspect::Machines,
    is_wide: false,
};

#[async_trait]
impl Planned for Fqdn {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        goes_with: &[
            GoesWith { with: Kind::Tenant, by: Tie::Child },
            GoesWith { with: Kind::Webroot, by: Tie::Follower("webroot_id") },
        ],
        walks: &[TENANT_NAMES, NAMES_UNDER, WEBROOT_FQDNS],
        ..Facts::PLAIN
    };

    fn units(fqdn: &Doc<Self>) -> Vec<Unit> {
        let mut units = vec![Unit::Of(Self::KIND, fqdn.id.clone())];
        units.extend(auto_records::units(&fqdn.state.auto_records));
        units
    }

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(fqdn) = change.both().next() else { return };
        units.insert(Unit::Of(Self::KIND, fqdn.id.clone()));
        if change.differs(|fqdn| (fqdn.state.routed, fqdn.state.certified)) || change.lives_or_dies() {
            units.extend(change.both().flat_map(|fqdn| auto_records::units(&fqdn.state.auto_records)));
        }
        if change.differs(issuance::record_text) || change.lives_or_dies() {
            units.extend(change.both().filter_map(issuance::record_unit));
        }
    }

    async fn derive(fqdn: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        if !is_servable(fqdn.state.ownership.as_ref()) {
            return Ok(Vec::new());
        }
        let Some(tenant) = read::tenant_of(world, fqdn).await? else { return Ok(Vec::new()) };
        if tenant.spec.cluster_id.is_empty() {
            return Ok(Vec::new());
        }
        let audience = Audience::edge(&tenant.spec.cluster_id)?;
        let challenge = issuance::challenge(fqdn, &audience);
        let route = route(fqdn, &tenant, audience, world).await?;
        Ok(route.into_iter().chain(challenge).collect())
    }

    async fn check(
        fqdn: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let moved = before.is_none_or(|before| before.spec.webroot_id != fqdn.spec.webroot_id);
        if let Some(bound) = bound_to(fqdn).filter(|_| moved) {
            let webroot = read::live(draft, "webroot_id", bound).await?;
            read::same_tenant("webroot_id", &webroot, fqdn)?;
        }
        if before.is_none_or(|before| before.spec.fqdn != fqdn.spec.fqdn) {
            names::fqdn(draft, fqdn).await?;
        }
        if before.is_none_or(|before| before.spec.http != fqdn.spec.http) {
            check_canonical(fqdn, draft).await?;
        }
        Ok(())
    }

    async fn sync(fqdn: &mut Doc<Self>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        let claimed = ownership::sync(fqdn, plan).await?;
        let wants = issuance::sync(fqdn, plan).await?;
        Ok(auto_records::sync(fqdn, plan).await? || claimed || wants)
    }

    async fn revisit(
        mut fqdn: Doc<Self>,
        aspect: Aspect,
        _: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        if aspect != Aspect::Machines {
            Self::sync(&mut fqdn, plan).await?;
        }
        plan.replan([Unit::Of(Self::KIND, fqdn.id.clone())]).await
    }

    fn kept_state(state: &Self::State) -> Self::State {
        FqdnState { ownership: state.ownership.clone(), ..FqdnState::default() }
    }

    fn conditions(fqdn: &Doc<Self>, look: &mut Look<'_>) {
        if !ownership::is_met(fqdn, fqdn.state.ownership.as_ref(), look) {
            return;
        }
        // An unbound name is routed at once; a bound one when its site is there.
        let bound = bound_to(fqdn);
        let wanted = bound.map(Id::as_str).unwrap_or_default();
        let planned = look.has_row(|row| {
            row.key.known_kind() == Some(IntentKind::Route)
                && m::Route::decode(row.value.clone()).is_ok_and(|route| route.webroot_id == wanted)
        });
        if bound.is_some() {
            look.wait_for("site", planned, "no node has the site ready yet");
        }
        look.route_then_dns(planned, fqdn.state.routed, !fqdn.state.auto_records.is_empty());
    }

    fn open(fqdn: &mut Doc<Self>, gate: Gate) {
        match gate {
            Gate::Routed => fqdn.state.routed = true,
            // Only a site and a certificate have them.
            Gate::SiteReady | Gate::Shown => {}
        }
    }

    fn is_routed(fqdn: &Doc<Self>) -> bool {
        fqdn.state.routed
    }
}

#[async_trait]
impl NameSource for Fqdn {
    const SOURCE_TYPE: &'static str = "fqdn";

    fn records(state: &mut Self::State) -> &mut Vec<AutoRecord> {
        &mut state.auto_records
    }

    fn record_of(fqdn: &Doc<Self>) -> Option<Id<Self>> {
        Some(fqdn.typed_id())
    }

    async fn names(
        fqdn: &Doc<Self>,
        _: &Doc<tenant::Tenant>,
        _: &mut dyn World,
    ) -> Result<Vec<String>, PlanError> {
        let bound = bound_to(fqdn).filter(|_| is_servable(fqdn.state.ownership.as_ref()));
        Ok(bound.map(|_| fqdn.spec.fqdn.clone()).into_iter().collect())
    }
}

/// The route of a name; `None` while it has none.
async fn route(
    fqdn: &Doc<Fqdn>,
    tenant: &Doc<tenant::Tenant>,
    audience: Audience,
    world: &mut dyn World,
) -> Result<Option<DesiredIntent>, PlanError> {
    let name = fqdn.spec.fqdn.as_str();
    let to = |webroot: &str, shard: &str| {
        let message = m::Route {
            tenant_id: tenant.id.clone(),
            webroot_id: webroot.to_owned(),
            shard_id: shard.to_owned(),
            // PHP and static sites have no process of their own that could speak another protocol.
            may_upgrade: false,
            http: fqdn.spec.http.as_deref().map(http_policy::message).map(Box::new),
        };
        DesiredIntent::new(audience.clone(), IntentKind::Route, name, &message)
    };
    let Some(bound) = bound_to(fqdn) else { return Ok(Some(to("", ""))) };
    let Some(webroot) = read::get(world, bound).await? else { return Ok(None) };
    if webroot.state.site_ready {
        return Ok(Some(to(bound, tenant.spec.shard_id.as_deref().unwrap_or_default())));
    }
    // Bound anew to a site that no node has yet: the name stays with the old site until the new one can answer.
    for row in world.owned(&Unit::Of(Kind::Fqdn, fqdn.id.clone()).owner()).await? {
        let is_route = row.key.known_kind() == Some(IntentKind::Route);
        if !is_route || row.audience != audience || row.key.name != name {
            continue;
        }
        let Ok(old) = m::Route::decode(row.value.clone()) else { continue };
        let m::Route { webroot_id, shard_id, .. } = old;
        let still_good = webroot_id.is_empty()
            || read::get(world, &Id::<webroot::Webroot>::from(webroot_id.clone()))
                .await?
                .is_some_and(|old| !is_deleting(&old) && old.parent == fqdn.parent);
        if still_good {
            return Ok(Some(to(&webroot_id, &shard_id)));
        }
    }
    Ok(None)
}

/// The site behind a name.
fn bound_to(fqdn: &Doc<Fqdn>) -> Option<&Id<webroot::Webroot>> {
    fqdn.spec.webroot_id.as_ref().filter(|id| !id.is_empty())
}

/// Refuses a canonical host that leads on to another name: a browser would go in circles, or from one to the next.
async fn check_canonical(fqdn: &Doc<Fqdn>, draft: &mut Overlay<'_>) -> Result<(), PlanError> {
    let Some(host) = leads_to(fqdn) else { return Ok(()) };
    let holder = draft.holder(Kind::Fqdn, "", host).await?;
    // Where somebody else's name leads is nobody's business.
    let Some(target) = holder.filter(|target| target.tenant == fqdn.tenant) else { return Ok(()) };
    let target = Doc::<Fqdn>::read(target)?;
    match leads_to(&target).filter(|_| !is_deleting(&target)) {
        None => Ok(()),
        Some(on) => Err(PlanError::invalid(
            "http.canonical_host",
            format!("{host} itself leads to {on}: name that one, or have {host} lead nowhere first"),
        )),
    }
}

fn leads_to(fqdn: &Doc<Fqdn>) -> Option<&str> {
    fqdn.spec.http.as_ref()?.canonical_host.as_deref()
}
