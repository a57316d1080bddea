//! What edges are told of the requests for a host name.

use hosting_intent::message as m;
use hosting_resource::basic_auth::{BasicAuth, BasicAuthUser, PasswordHash};
use hosting_resource::challenge::{Challenge, ChallengeMode};
use hosting_resource::crawlers::{CrawlerAction, CrawlerClass, CrawlerRule, Crawlers};
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
        crawlers,
        challenge,
        basic_auth,
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
        access: access.as_ref().map(|Access { allow, deny, allow_countries, deny_countries }| m::Access {
            allow: allow.clone(),
            deny: deny.clone(),
            allow_countries: allow_countries.clone(),
            deny_countries: deny_countries.clone(),
        }),
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
        crawlers: crawlers.as_ref().map(crawlers_message),
        challenge: challenge.as_ref().map(challenge_message),
        basic_auth: basic_auth.as_ref().map(|auth| Box::new(auth_message(auth))),
    }
}

fn crawlers_message(Crawlers { rules }: &Crawlers) -> m::CrawlerPolicy {
    let class = |class| match class {
        CrawlerClass::Search => m::CrawlerClass::Search,
        CrawlerClass::Ai => m::CrawlerClass::Ai,
        CrawlerClass::Seo => m::CrawlerClass::Seo,
        CrawlerClass::Monitor => m::CrawlerClass::Monitor,
        CrawlerClass::Other => m::CrawlerClass::Other,
    };
    let action = |action| {
        let (verdict, per_minute) = match action {
            CrawlerAction::Allow => (m::CrawlerVerdict::Allow, 0),
            CrawlerAction::Deny => (m::CrawlerVerdict::Deny, 0),
            CrawlerAction::PerMinute(most) => (m::CrawlerVerdict::Limit, most),
        };
        Some(m::CrawlerAction { verdict: verdict as i32, per_minute })
    };
    let rule = |CrawlerRule { agent, class: of, action: word, impostors }: &CrawlerRule| m::CrawlerRule {
        of: match (agent, of) {
            (Some(agent), _) => Some(m::crawler_rule::Of::Agent(agent.clone())),
            (None, of) => of.map(|of| m::crawler_rule::Of::Class(class(of) as i32)),
        },
        action: action(*word),
        impostors: action(*impostors),
    };
    m::CrawlerPolicy { rules: rules.iter().map(rule).collect() }
}

fn challenge_message(challenge: &Challenge) -> m::ChallengePolicy {
    let Challenge { mode, exempt_paths, exempt_networks, difficulty, pass_seconds } = challenge;
    m::ChallengePolicy {
        mode: match mode {
            ChallengeMode::Off => m::ChallengeMode::Unspecified,
            ChallengeMode::Suspicious => m::ChallengeMode::Suspicious,
            ChallengeMode::All => m::ChallengeMode::All,
        } as i32,
        exempt_paths: exempt_paths.clone(),
        exempt_networks: exempt_networks.clone(),
        difficulty: *difficulty,
        pass_seconds: *pass_seconds,
    }
}

fn auth_message(auth: &BasicAuth) -> m::BasicAuth {
    let BasicAuth { enabled, realm, users, paths, exempt, pass_authorization } = auth;
    // The password of a request is made into its hash before anything is planned.
    let user = |BasicAuthUser { name, password: _, password_hash }: &BasicAuthUser| m::BasicAuthUser {
        name: name.clone(),
        password_hash: password_hash.as_ref().map(PasswordHash::expose).unwrap_or_default().to_owned(),
    };
    m::BasicAuth {
        enabled: *enabled,
        realm: realm.clone().unwrap_or_default(),
        users: users.iter().map(user).collect(),
        paths: paths.clone(),
        exempt: exempt.clone(),
        pass_authorization: *pass_authorization,
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
