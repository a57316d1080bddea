//! What edges are told of the requests for a host name.

use hosting_intent::message as m;
use hosting_resource::http_policy::{
    Access, Cache, Hsts, HttpPolicy, Maintenance, PathRedirect, RateLimit, RatePer,
};
use hosting_resource::purge::{CachePurge, CachePurges, Purged};

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
        compression,
        cache,
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
        compression: *compression,
        cache: cache.as_ref().map(cache_message),
    }
}

fn cache_message(cache: &Cache) -> m::CachePolicy {
    let Cache {
        enabled,
        default_ttl_seconds,
        max_ttl_seconds,
        stale_while_revalidate_seconds,
        stale_if_error_seconds,
        bypass_cookies,
        ignored_query,
        max_object_bytes,
    } = cache;
    m::CachePolicy {
        enabled: *enabled,
        default_ttl_seconds: *default_ttl_seconds,
        max_ttl_seconds: *max_ttl_seconds,
        stale_while_revalidate_seconds: *stale_while_revalidate_seconds,
        stale_if_error_seconds: *stale_if_error_seconds,
        bypass_cookies: bypass_cookies.clone(),
        ignored_query: ignored_query.clone(),
        max_object_bytes: *max_object_bytes,
    }
}

/// A tenant's purges as edges are told them.
pub(crate) fn purges(purges: &CachePurges) -> m::CachePurges {
    let CachePurges { generation, all, recent } = purges;
    let recent = recent.iter().map(|CachePurge { generation, what }| m::CachePurge {
        generation: *generation,
        what: Some(match what {
            Purged::Host(host) => m::cache_purge::What::Host(host.clone()),
            Purged::Url(url) => m::cache_purge::What::Url(url.clone()),
            Purged::Tag(tag) => m::cache_purge::What::Tag(tag.clone()),
        }),
    });
    m::CachePurges { generation: *generation, all: *all, recent: recent.collect() }
}
