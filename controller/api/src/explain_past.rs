//! The way of a name as it was at a moment: what people had written then. What machines had of it is not kept.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use hosting_planner::World;
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::kinds::tenant::Tenant;
use hosting_resource::{Doc, Kind, Resource, Status, timestamp};
use hosting_store::{HistoryOf, ReadTx};

use crate::auth::Principal;
use crate::bodies::{Explanation, Link};
use crate::explain::{finish, link, normal_name};
use crate::query;
use crate::{Api, ApiError};

/// Changes of a name that are looked through for what was called so, on either side of the moment.
const LOOKED_AT: u32 = 100;

fn stands(resource: &Resource) -> bool {
    !resource.status.is_gone()
}

/// The resources of a kind that had a name right after a revision, and were to stay.
async fn called_then(
    tx: &mut ReadTx,
    kind: Kind,
    name: &str,
    revision: u64,
) -> Result<Vec<Resource>, ApiError> {
    let of = HistoryOf::Name(name.to_owned());
    let until = (revision.saturating_add(1), String::new());
    let mut ids = BTreeSet::new();
    for after in [Some(&until), None] {
        let rows = tx.history(&of, after, LOOKED_AT).await?;
        ids.extend(rows.into_iter().filter(|row| row.kind == kind).map(|row| row.resource));
    }
    // Nothing has changed of it since the history began.
    ids.extend(tx.holder(kind, "", name).await?.map(|holder| holder.id));
    let mut found = Vec::new();
    for id in ids {
        let then = tx.resource_at(&id, revision).await?;
        found.extend(then.filter(|then| stands(then) && then.label.split(' ').next() == Some(name)));
    }
    Ok(found)
}

impl Api {
    /// The way of a name right after a revision, or at a time.
    pub(crate) async fn explain_at(
        &self,
        principal: &Principal,
        given: &str,
        at: &str,
    ) -> Result<Explanation, ApiError> {
        let name = normal_name(given)?;
        let mut tx = self.store().read().await?;
        let revision = self.moment(&mut tx, at).await?;
        let Some(fqdn) = called_then(&mut tx, Kind::Fqdn, &name, revision).await?.pop() else {
            let detail = format!("there was no FQDN {name} at revision {revision}");
            return Ok(finish(name, None, vec![link("FQDN", "broken", detail)]));
        };
        principal.may_touch(&fqdn)?;
        let unreadable = |error| ApiError::internal(&error);
        let mut links = vec![link(
            "FQDN",
            "ok",
            format!("{} as it was at revision {revision}, generation {}", fqdn.id, fqdn.generation),
        )];
        let tenant = fqdn.tenant.clone().unwrap_or_default();
        links.push(match tx.resource_at(&tenant, revision).await?.filter(stands) {
            None => link("tenant", "broken", format!("{tenant} was on its way out")),
            Some(found) if found.status == Status::Suspended => {
                let found = Doc::<Tenant>::read(found).map_err(unreadable)?;
                let reason = found.state.suspend_reason.clone().unwrap_or_default();
                let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
                link("tenant", "broken", format!("{tenant} was suspended{reason}"))
            }
            Some(_) => link("tenant", "ok", format!("{tenant} was switched on")),
        });
        let bound = Doc::<Fqdn>::of(&fqdn).map_err(unreadable)?.spec.webroot_id.unwrap_or_default();
        links.push(if bound.is_empty() {
            link("site", "broken", "the name was bound to no webroot")
        } else {
            match tx.resource_at(&bound, revision).await?.filter(stands) {
                Some(_) => link("site", "ok", format!("bound to {bound}")),
                None => link("site", "broken", format!("bound to {bound}, which was on its way out")),
            }
        });
        links.push(self.dns_then(&mut tx, &name, revision).await?);
        links.push(link("fleet", "unknown", "what edges, name servers and nodes had of it then is not kept"));
        Ok(finish(name, Some(&fqdn), links))
    }

    /// The revision that is meant: its number, or the newest one at a time.
    async fn moment(&self, tx: &mut ReadTx, at: &str) -> Result<u64, ApiError> {
        let floor = tx.history_floor().await?;
        let found = if let Ok(revision) = at.parse::<u64>() {
            if revision > tx.head() {
                return Err(ApiError::invalid("at", format!("the newest revision is {}", tx.head())));
            }
            Some(revision).filter(|revision| *revision >= floor)
        } else {
            let Some(time) = query::instant(at) else {
                return Err(ApiError::invalid("at", "must be a revision, a time as in RFC 3339, or a date"));
            };
            if time > self.store().now() {
                return Err(ApiError::invalid("at", "lies in the future"));
            }
            tx.revision_at(time).await?
        };
        found.ok_or_else(|| {
            let problem = format!(
                "the history does not reach back to {at}: it is complete since revision {floor}; what was before is dropped by age and size"
            );
            ApiError::new(StatusCode::NOT_FOUND, problem)
        })
    }

    /// What the zone over a name had for it.
    async fn dns_then(&self, tx: &mut ReadTx, name: &str, revision: u64) -> Result<Link, ApiError> {
        let mut rest = name;
        let zone = loop {
            if let Some(zone) = called_then(tx, Kind::Zone, rest, revision).await?.pop() {
                break zone;
            }
            match rest.split_once('.') {
                Some((_, shorter)) => rest = shorter,
                None => return Ok(link("dns", "unknown", "no zone of ours held the name")),
            }
        };
        let records = called_then(tx, Kind::ZoneRecord, name, revision).await?;
        let custom: Vec<String> = records
            .iter()
            .filter(|record| record.parent.as_deref() == Some(zone.id.as_str()))
            .map(|record| format!("{} {}", record.text("type"), record.text("content")))
            .collect();
        let since = timestamp(zone.created_at);
        Ok(match custom.as_slice() {
            [] => link(
                "dns",
                "ok",
                format!("the zone {} (made {since}) held it, with automatic records", zone.label),
            ),
            custom => link("dns", "ok", format!("the zone {} had {} for it", zone.label, custom.join(", "))),
        })
    }
}
