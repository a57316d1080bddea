//! A certificate of a tenant, on the edges of its cluster.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hosting_intent::{Audience, Key, Kind as IntentKind, message as m};
pub(crate) use hosting_resource::kinds::certificate::Certificate;
use hosting_resource::kinds::certificate::{KEY_PATH, Origin, chain_der};
use hosting_resource::{Doc, Document, Id, Kind};

use super::{Changed, Deletion, Facts, GoesWith, Planned, Tie, fqdn, tenant};
use crate::fields::is_deleting;
use crate::gates::{Gate, Look};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::{DesiredIntent, PlanError, Unit, World, read, readers};

/// Certificates of one host name.
const MOST: usize = 20;

#[async_trait]
impl Planned for Certificate {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        goes_with: &[GoesWith { with: Kind::Fqdn, by: Tie::Child }],
        ..Facts::PLAIN
    };

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(certificate) = change.both().next() else { return };
        units.insert(Unit::Of(Self::KIND, certificate.id.clone()));
    }

    async fn derive(certificate: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let owner = Id::<tenant::Tenant>::from(certificate.tenant.as_deref().unwrap_or_default());
        let Some(tenant) = read::get(world, &owner).await? else { return Ok(Vec::new()) };
        if tenant.spec.cluster_id.is_empty() {
            return Ok(Vec::new());
        }
        let audience = Audience::edge(&tenant.spec.cluster_id)?;
        let key = Key::new(IntentKind::Certificate, certificate.id.as_str());
        let spec = &certificate.spec;
        let names = match spec.origin {
            Origin::Custom => spec.names.clone(),
            // Each name of an order has a resource of its own with what was issued for all of them.
            Origin::Acme => {
                let fqdn = Id::<fqdn::Fqdn>::from(certificate.parent.as_deref().unwrap_or_default());
                let Some(fqdn) = read::get(world, &fqdn).await? else { return Ok(Vec::new()) };
                vec![fqdn.spec.fqdn.clone()]
            }
        };
        let place = (&audience, &key, "key");
        let sealed = readers::sealed_for(world, place, certificate, KEY_PATH, &spec.key).await?;
        let message = m::Certificate {
            tenant_id: tenant.id.clone(),
            names,
            chain_der: chain_der(spec).into_iter().map(Into::into).collect(),
            key: Some(sealed),
            not_after: spec.not_after,
        };
        Ok(vec![DesiredIntent::new(audience.clone(), IntentKind::Certificate, key.name, &message)])
    }

    async fn check(
        certificate: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        if before.is_some() {
            return Ok(());
        }
        if certificate.spec.not_after.saturating_mul(1000) <= draft.now() {
            return Err(PlanError::invalid("cert_pem", "has expired"));
        }
        let others = siblings(certificate, draft).await?;
        if others.len() >= MOST {
            let problem = format!("the host name has {MOST} certificates; delete those that are not needed");
            return Err(PlanError::invalid("cert_pem", problem));
        }
        Ok(())
    }

    /// Of the host name's certificates the one that ends last is the active one.
    async fn sync(certificate: &mut Doc<Self>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        let mut others = siblings(certificate, &mut plan.draft).await?;
        let rank = |one: &Doc<Self>| (one.spec.not_after, one.id.clone());
        let last = others.iter().chain((!is_deleting(certificate)).then_some(&*certificate)).map(rank).max();
        for other in &mut others {
            let active = Some(rank(other)) == last;
            if other.state.active != active {
                other.state.active = active;
                plan.put(other.to_resource()).await?;
            }
        }
        if is_deleting(certificate) {
            note_certified(certificate, others.iter().any(|other| other.state.shown), plan).await?;
        }
        let active = !is_deleting(certificate) && Some(rank(certificate)) == last;
        if certificate.state.active == active {
            return Ok(false);
        }
        certificate.state.active = active;
        plan.put(certificate.to_resource()).await?;
        Ok(true)
    }

    fn conditions(certificate: &Doc<Self>, look: &mut Look<'_>) {
        look.edges("certificate", IntentKind::Certificate);
        if look.is_met("certificate") && !certificate.state.shown {
            look.gate(Gate::Shown);
        }
    }

    fn open(certificate: &mut Doc<Self>, gate: Gate) {
        match gate {
            Gate::Shown => certificate.state.shown = true,
            // Only sites and host names have them.
            Gate::SiteReady | Gate::Routed => {}
        }
    }

    async fn opened(certificate: &Doc<Self>, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        note_certified(certificate, certificate.state.shown, plan).await
    }
}

/// Notes with the host name whether edges show a certificate of it, and plans what hangs on that.
async fn note_certified(
    certificate: &Doc<Certificate>,
    certified: bool,
    plan: &mut Plan<'_>,
) -> Result<(), PlanError> {
    let fqdn = Id::<fqdn::Fqdn>::from(certificate.parent.as_deref().unwrap_or_default());
    let Some(mut fqdn) = read::get(&mut plan.draft, &fqdn).await?.filter(|fqdn| !is_deleting(fqdn)) else {
        return Ok(());
    };
    if fqdn.state.certified == certified {
        return Ok(());
    }
    let was = fqdn.to_resource();
    fqdn.state.certified = certified;
    let is = fqdn.into_resource();
    plan.put(is.clone()).await?;
    let units = super::of(Kind::Fqdn).touched(Some(&was), Some(&is), plan.cause)?;
    plan.replan(units).await
}

/// The other certificates of the same host name that are to stay.
async fn siblings(
    certificate: &Doc<Certificate>,
    world: &mut dyn World,
) -> Result<Vec<Doc<Certificate>>, PlanError> {
    let fqdn = certificate.parent.as_deref().unwrap_or_default();
    let all = world.children(Kind::Certificate, fqdn, "", read::PAGE).await?;
    let others = all.into_iter().filter(|other| other.id != certificate.id && !is_deleting(other));
    Ok(others.map(Doc::read).collect::<Result<_, _>>()?)
}
