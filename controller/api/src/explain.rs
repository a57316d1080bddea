//! The way of a name: API resource, tenant, site, intent, edges, name servers, nodes. What is seen from here; `hostctl` adds
//! what a visitor gets.

use hosting_intent::Role;
use hosting_planner::gates::{ExceptionKind, Phase, Truth};
use hosting_planner::{World, lint};
use hosting_resource::http_policy::HttpPolicy;
use hosting_resource::kinds::brand::Brand;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Doc, Kind, Resource, Status};
use hosting_store::ReadTx;

use crate::auth::Principal;
use crate::bodies::{Explanation, Link};
use crate::wait::Look;
use crate::{Api, ApiError};

/// Longest name that is looked up, in bytes.
const MAX_NAME: usize = 1024;

/// A host name as it is stored.
pub(crate) fn normal_name(given: &str) -> Result<String, ApiError> {
    let name = given.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(ApiError::invalid("fqdn", "must be a host name"));
    }
    Ok(name)
}

pub(crate) fn link(name: &str, state: &'static str, detail: impl Into<String>) -> Link {
    Link { name: name.to_owned(), state, detail: detail.into() }
}

pub(crate) fn finish(name: String, found: Option<&Resource>, links: Vec<Link>) -> Explanation {
    let webroot = found.and_then(|fqdn| Doc::<Fqdn>::of(fqdn).ok()?.spec.webroot_id);
    Explanation {
        fqdn: name,
        fqdn_id: found.map(|fqdn| fqdn.id.clone()),
        tenant_id: found.and_then(|fqdn| fqdn.tenant.clone()),
        webroot_id: webroot.map(|id| id.to_string()),
        broken: links.iter().find(|link| link.state == "broken").map(|link| link.name.clone()),
        links,
    }
}

/// The state of a resource's own link.
fn standing(status: Status) -> &'static str {
    match status {
        Status::Active | Status::Converging | Status::Degraded => "ok",
        Status::Pending
        | Status::Provisioning
        | Status::Failed
        | Status::Suspended
        | Status::Deleted
        | Status::Deleting
        | Status::AutoDisabled => "broken",
    }
}

/// What is wrong with the zone that holds a name, as far as it concerns the name.
async fn zone_links(tx: &mut ReadTx, name: &str) -> Result<Vec<Link>, ApiError> {
    let mut rest = name;
    let zone = loop {
        if let Some(zone) = tx.holder(Kind::Zone, "", rest).await? {
            break zone;
        }
        match rest.split_once('.') {
            Some((_, shorter)) => rest = shorter,
            None => return Ok(Vec::new()),
        }
    };
    let warnings = lint::of_name(tx, &zone, name).await?;
    Ok(warnings
        .into_iter()
        .map(|warning| link("zone", "warning", format!("{}: {}", warning.message, warning.remedy)))
        .collect())
}

impl Api {
    pub(crate) async fn explain(&self, principal: &Principal, given: &str) -> Result<Explanation, ApiError> {
        let name = normal_name(given)?;
        let mut tx = self.store().read().await?;
        let own = tx.holder(Kind::Fqdn, "", &name).await?;
        let wildcard = match name.split_once('.') {
            Some((_, above)) if own.is_none() => tx.holder(Kind::Fqdn, "", &format!("*.{above}")).await?,
            Some(_) | None => None,
        };
        let Some(fqdn) = own.or(wildcard) else {
            let detail = format!("no FQDN {name} in the API; create it under its tenant");
            return Ok(finish(name, None, vec![link("FQDN", "broken", detail)]));
        };
        principal.may_touch(&fqdn)?;
        let mut links = Vec::new();
        let message = fqdn.status_message.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
        // A name on its way is broken only where the way ends: the links below say where.
        let own = match fqdn.status {
            Status::Pending | Status::Provisioning => "ok",
            Status::Active
            | Status::Converging
            | Status::Degraded
            | Status::Failed
            | Status::Suspended
            | Status::Deleted
            | Status::Deleting
            | Status::AutoDisabled => standing(fqdn.status),
        };
        links.push(link(
            "FQDN",
            own,
            format!(
                "{} ({}) is {}, generation {}{message}",
                fqdn.id, fqdn.label, fqdn.status, fqdn.generation
            ),
        ));

        let (mut tenants_http, mut brands_http) = (None, None);
        if let Some(tenant) = tx.resource(fqdn.tenant.as_deref().unwrap_or_default()).await? {
            let mut tenant = Doc::<Tenant>::read(tenant).map_err(|error| ApiError::internal(&error))?;
            tenants_http = tenant.spec.http.take();
            if let Some(brand) = tx.resource(&tenant.spec.brand_id).await? {
                brands_http =
                    Doc::<Brand>::read(brand).map_err(|error| ApiError::internal(&error))?.spec.http;
            }
            let reason = tenant.state.suspend_reason.as_deref().unwrap_or_default();
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let state =
                if tenant.status == Status::Suspended || tenant.status.is_gone() { "broken" } else { "ok" };
            links.push(link("tenant", state, format!("{} is {}{reason}", tenant.id, tenant.status)));
        }
        let Doc { spec, state, .. } = Doc::<Fqdn>::of(&fqdn).map_err(|error| ApiError::internal(&error))?;
        let webroot_id = spec.webroot_id.unwrap_or_default();
        if webroot_id.is_empty() && spec.http.as_deref().is_some_and(HttpPolicy::leads_away) {
            links.push(link(
                "site",
                "ok",
                "the name is bound to no webroot, and needs none: it leads elsewhere",
            ));
        } else if webroot_id.is_empty() {
            links.push(link("site", "broken", "the name is bound to no webroot"));
        } else if let Some(webroot) = tx.resource(&webroot_id).await? {
            let look = self.look(&mut tx, webroot).await?;
            let mut found = self.condition_links(&mut tx, &look, &["site"]).await?;
            if found.is_empty() {
                found.push(link(
                    "site",
                    standing(look.resource.status),
                    format!("{webroot_id} is {}", look.resource.status),
                ));
            }
            links.extend(found);
        }
        let look = self.look(&mut tx, fqdn).await?;
        links.extend(self.condition_links(&mut tx, &look, &["verified", "route", "dns"]).await?);
        if !links.iter().any(|link| link.name == "dns") {
            links.push(self.unmanaged_dns(&mut tx, &name).await?);
        }
        let shared = [tenants_http.as_deref(), brands_http.as_deref()];
        if let Some((is_open, said)) = HttpPolicy::summary(spec.http.as_deref(), shared) {
            links.push(link("policy", if is_open { "ok" } else { "warning" }, said));
        }
        if let Some(issuance) = state.issuance {
            let (is_well, detail) = issuance.summary();
            links.push(link("certificate", if is_well { "ok" } else { "warning" }, detail));
        }
        links.extend(zone_links(&mut tx, &name).await?);
        Ok(finish(name, Some(&look.resource), links))
    }

    /// One link per condition, with what each subscriber has of the rows behind it.
    async fn condition_links(
        &self,
        tx: &mut ReadTx,
        look: &Look,
        wanted: &[&str],
    ) -> Result<Vec<Link>, ApiError> {
        let fleet = self.platform().fleet();
        let mut links = Vec::new();
        for condition in look.verdict.conditions.iter().filter(|condition| wanted.contains(&condition.name)) {
            // No machine has a part in whether the name is shown to be its tenant's.
            let role = match condition.name {
                "verified" => None,
                "site" => Some(Role::Web),
                "route" => Some(Role::Lb),
                _ => Some(Role::Dns),
            };
            let mut parts = Vec::new();
            if !condition.message.is_empty() {
                parts.push(condition.message.clone());
            }
            for row in look.inputs.rows.iter().filter(|row| Some(row.audience.role()) == role) {
                let mut seen = Vec::new();
                for subscriber in fleet.subscribers(&row.audience) {
                    let service = if subscriber.in_service { "" } else { ", not in service" };
                    let exception = fleet.exception(&row.audience, &subscriber.node_id, &row.key);
                    let waits = fleet.waits(&row.audience, &subscriber.node_id, row.rollout);
                    let state = match exception.filter(|exception| exception.revision >= row.revision) {
                        _ if waits => format!("waits for rollout {}", row.rollout),
                        Some(exception) => {
                            let how = match exception.kind {
                                ExceptionKind::Rejected => "rejected",
                                ExceptionKind::Held => "held by the brake",
                                ExceptionKind::Unsupported => "not supported",
                                ExceptionKind::Waiting => "waiting",
                            };
                            format!("{how}: {}", exception.reason)
                        }
                        None if subscriber.applied >= row.revision => {
                            format!("applied at {}", subscriber.applied)
                        }
                        None => format!("behind at {}", subscriber.applied),
                    };
                    let report =
                        look.inputs.report(&subscriber.node_id, &row.key).map(|report| match report.phase {
                            Phase::Working => ", working".to_owned(),
                            Phase::Ready => ", ready".to_owned(),
                            Phase::Failed => format!(", failed: {}", report.message),
                            Phase::Retired => ", retired".to_owned(),
                            Phase::Orphan => ", orphan".to_owned(),
                        });
                    seen.push(format!(
                        "{} {state}{}{service}",
                        subscriber.node_id,
                        report.unwrap_or_default()
                    ));
                }
                let seen = if seen.is_empty() { "nobody".to_owned() } else { seen.join(", ") };
                parts.push(format!("{} at revision {}: {seen}", row.key, row.revision));
            }
            if parts.is_empty() && condition.name == "dns" {
                parts.push(self.unmanaged_dns(tx, &look.resource.label).await?.detail);
            }
            let state = match condition.status {
                Truth::True => "ok",
                Truth::Waiting | Truth::Failed => "broken",
            };
            links.push(link(condition.name, state, parts.join("; ")));
        }
        Ok(links)
    }

    /// A name without automatic records: another's zone, or custom records.
    async fn unmanaged_dns(&self, tx: &mut ReadTx, name: &str) -> Result<Link, ApiError> {
        let mut rest = name;
        loop {
            if let Some(zone) = tx.holder(Kind::Zone, "", rest).await? {
                let detail = format!(
                    "the zone {} is ours, but no automatic record of {name} stands in it",
                    zone.label
                );
                return Ok(link("dns", "unknown", detail));
            }
            match rest.split_once('.') {
                Some((_, shorter)) => rest = shorter,
                None => {
                    return Ok(link(
                        "dns",
                        "unknown",
                        "no zone of ours holds the name: its DNS is served elsewhere",
                    ));
                }
            }
        }
    }
}
