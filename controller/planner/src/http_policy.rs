//! What edges are told of the requests for a host name.

use hosting_intent::message as m;
use hosting_resource::http_policy::{
    Access, Hsts, HttpPolicy, Maintenance, PathRedirect, RateLimit, RatePer,
};
use hosting_resource::kinds::fqdn::Fqdn;
use hosting_resource::{Doc, Kind};

use crate::fields::is_deleting;
use crate::overlay::Overlay;
use crate::{PlanError, World};

/// The policy as edges are told it.
pub(crate) fn message(policy: &HttpPolicy) -> m::HttpPolicy {
    let HttpPolicy {
        https_redirect,
        canonical_host,
        hsts,
        redirects,
        access,
        rate_limits,
        max_body_bytes,
        max_header_bytes,
        maintenance,
    } = policy;
    m::HttpPolicy {
        https_redirect: *https_redirect,
        canonical_host: canonical_host.clone().unwrap_or_default(),
        hsts: hsts.as_ref().map(|Hsts { max_age_seconds, include_subdomains, preload }| m::Hsts {
            max_age_seconds: *max_age_seconds,
            include_subdomains: *include_subdomains,
            preload: *preload,
        }),
        redirects: redirects
            .iter()
            .map(|PathRedirect { from, to, code }| m::PathRedirect {
                from: from.clone(),
                to: to.clone(),
                code: u32::from(*code),
            })
            .collect(),
        access: access
            .as_ref()
            .map(|Access { allow, deny }| m::Access { allow: allow.clone(), deny: deny.clone() }),
        rate_limits: rate_limits
            .iter()
            .map(|RateLimit { requests, seconds, per }| m::RateLimit {
                requests: *requests,
                seconds: *seconds,
                per: match per {
                    RatePer::All => m::RatePer::Unspecified,
                    RatePer::Address => m::RatePer::Address,
                    RatePer::Network => m::RatePer::Network,
                } as i32,
            })
            .collect(),
        max_body_bytes: *max_body_bytes,
        max_header_bytes: *max_header_bytes,
        maintenance: maintenance.as_ref().map(|Maintenance { enabled, retry_after_seconds, allow }| {
            m::Maintenance {
                enabled: *enabled,
                retry_after_seconds: *retry_after_seconds,
                allow: allow.clone(),
            }
        }),
    }
}

/// Refuses a canonical host that leads on to another name: a browser would go in circles, or from one to the next.
pub(crate) async fn check_canonical(fqdn: &Doc<Fqdn>, draft: &mut Overlay<'_>) -> Result<(), PlanError> {
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
