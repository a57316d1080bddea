//! What edges do with requests before a site sees them: the rules that what is written and what is applied are both held to.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::message as m;
use crate::{basic_auth, cache, challenge, countries, crawlers, name};

/// Redirects of one host name.
pub const MAX_REDIRECTS: usize = 200;
/// Longest path or URL of a redirect, in bytes.
pub const MAX_TARGET_BYTES: usize = 2_048;
/// Networks of one list.
pub const MAX_NETWORKS: usize = 500;
/// Rate limits of one policy.
pub const MAX_RATE_LIMITS: usize = 4;
/// Longest time that a rate is over, in seconds: a day.
pub const MAX_RATE_SECONDS: u32 = 86_400;
/// Most requests of a rate limit.
pub const MAX_RATE_REQUESTS: u32 = 1_000_000;
/// Longest time that clients are told to stay away for, in seconds: 30 days.
pub const MAX_RETRY_AFTER: u32 = 30 * 86_400;
/// Longest time that browsers are told to keep to HTTPS for, in seconds: two years.
pub const MAX_HSTS_AGE: u32 = 2 * 366 * 86_400;
/// Least time for a name that is to be built into browsers, in seconds: a year.
pub const MIN_PRELOAD_AGE: u32 = 365 * 86_400;
/// The codes of redirects.
pub const REDIRECT_CODES: [u16; 5] = [301, 302, 303, 307, 308];
/// Stands at the end of a redirect's paths for all that may follow.
pub const REST: &str = "/*";

/// Checks the path that a redirect is from: the bytes that a path may have in a request (RFC 3986 §3.3), with [`REST`] at its end or not.
///
/// # Errors
/// What is wrong with it.
pub fn check_from(from: &str) -> Result<(), String> {
    if !from.starts_with('/') {
        return Err(format!("{from:?} must be a path that begins with /"));
    }
    uri_bytes(from)?;
    let path = from.strip_suffix(REST).unwrap_or(from);
    if path.contains(['?', '*']) {
        return Err(format!("{from:?} must be a path without a query; /* can only stand at its end"));
    }
    Ok(())
}

/// Checks where a redirect from the path `from` leads: a path, or an `http` or `https` URL.
///
/// # Errors
/// What is wrong with it.
pub fn check_to(from: &str, to: &str) -> Result<(), String> {
    uri_bytes(to)?;
    let is_open = to.ends_with(REST);
    if is_open && !from.ends_with(REST) {
        return Err(format!("{to:?} ends with /* and {from:?} does not: nothing stands for the *"));
    }
    if is_open && to.contains('?') {
        return Err(format!("{to:?} cannot have a query and end with /*"));
    }
    let path = to.split('?').next().unwrap_or_default();
    let leads_back = match from.strip_suffix('*').filter(|_| from.ends_with(REST)) {
        Some(below) => path.starts_with(below),
        None => path == from,
    };
    if leads_back {
        return Err(format!("{to:?} begins like {from:?}: browsers would go in circles"));
    }
    if to.starts_with('/') {
        return if to.starts_with("//") {
            Err(format!("{to:?} must begin with one / or with https://"))
        } else {
            Ok(())
        };
    }
    let rest = to.strip_prefix("https://").or_else(|| to.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| format!("{to:?} must be a path, or begin with https:// or http://"))?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    name::check_host(host).map_err(|problem| format!("{to:?}: the host {problem}"))?;
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err(format!("{to:?} must have a port from 0 to 65535, or none"));
    }
    Ok(())
}

/// What may stand in a path, a query or a URL without being written as `%` and two digits.
fn uri_bytes(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_TARGET_BYTES {
        return Err(format!("must have 1 to {MAX_TARGET_BYTES} characters"));
    }
    let fits = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#')
    };
    match text.bytes().find(|byte| !fits(*byte)) {
        Some(_) => Err(format!("{text:?} has a character that must be written as % and two digits")),
        None => Ok(()),
    }
}

/// Checks a list of networks in their one spelling.
fn networks(
    field: &'static str,
    list: &[String],
    seen: &mut HashSet<IpNet>,
) -> Result<(), (&'static str, String)> {
    if list.len() > MAX_NETWORKS {
        return Err((field, format!("{} networks; at most {MAX_NETWORKS}", list.len())));
    }
    for text in list {
        let network = text.parse::<IpNet>().ok().filter(|network| network.trunc().to_string() == *text);
        let network = network.ok_or_else(|| (field, format!("{text:?} is no network")))?;
        if !seen.insert(network) {
            return Err((field, format!("{text} stands there twice")));
        }
    }
    Ok(())
}

fn between(field: &'static str, value: u32, least: u32, most: u32) -> Result<(), (&'static str, String)> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err((field, format!("{value} must be from {least} to {most}")))
    }
}

/// Checks a policy as it is applied. `of_tenant`: it is a tenant's, which leads no name anywhere.
///
/// # Errors
/// The field and what is wrong with it.
pub(crate) fn check(policy: &m::HttpPolicy, of_tenant: bool) -> Result<(), (&'static str, String)> {
    if of_tenant && !(policy.canonical_host.is_empty() && policy.redirects.is_empty()) {
        return Err(("http", "only a route has a canonical host and redirects".to_owned()));
    }
    if !policy.canonical_host.is_empty() {
        name::check_host(&policy.canonical_host)
            .map_err(|problem| ("http.canonical_host", problem.to_string()))?;
    }
    if let Some(hsts) = &policy.hsts {
        between("http.hsts.max_age_seconds", hsts.max_age_seconds, 0, MAX_HSTS_AGE)?;
    }
    if policy.redirects.len() > MAX_REDIRECTS {
        return Err((
            "http.redirects",
            format!("{} of them; at most {MAX_REDIRECTS}", policy.redirects.len()),
        ));
    }
    let mut from = HashSet::new();
    for redirect in &policy.redirects {
        check_from(&redirect.from).map_err(|problem| ("http.redirects.from", problem))?;
        check_to(&redirect.from, &redirect.to).map_err(|problem| ("http.redirects.to", problem))?;
        if !REDIRECT_CODES.iter().any(|code| u32::from(*code) == redirect.code) {
            return Err(("http.redirects.code", format!("{} is no redirect", redirect.code)));
        }
        if !from.insert(redirect.from.as_str()) {
            return Err(("http.redirects.from", format!("{:?} stands there twice", redirect.from)));
        }
    }
    if let Some(access) = &policy.access {
        let mut seen = HashSet::new();
        networks("http.access.allow", &access.allow, &mut seen)?;
        networks("http.access.deny", &access.deny, &mut seen)?;
        let mut seen = HashSet::new();
        countries::check("http.access.allow_countries", &access.allow_countries, &mut seen)?;
        countries::check("http.access.deny_countries", &access.deny_countries, &mut seen)?;
    }
    if let Some(auth) = &policy.basic_auth {
        basic_auth::check(auth)?;
    }
    if policy.rate_limits.len() > MAX_RATE_LIMITS {
        return Err((
            "http.rate_limits",
            format!("{} of them; at most {MAX_RATE_LIMITS}", policy.rate_limits.len()),
        ));
    }
    for limit in &policy.rate_limits {
        between("http.rate_limits.requests", limit.requests, 1, MAX_RATE_REQUESTS)?;
        between("http.rate_limits.seconds", limit.seconds, 1, MAX_RATE_SECONDS)?;
        m::RatePer::try_from(limit.per)
            .map_err(|_| ("http.rate_limits.per", format!("{} is none that this build knows", limit.per)))?;
    }
    if policy.max_body_bytes == Some(0) || policy.max_header_bytes == Some(0) {
        return Err(("http.max_body_bytes, http.max_header_bytes", "must be at least 1".to_owned()));
    }
    if let Some(maintenance) = &policy.maintenance {
        between("http.maintenance.retry_after_seconds", maintenance.retry_after_seconds, 1, MAX_RETRY_AFTER)?;
        networks("http.maintenance.allow", &maintenance.allow, &mut HashSet::new())?;
    }
    policy.cache.as_ref().map_or(Ok(()), cache::check_policy)?;
    policy.crawlers.as_ref().map_or(Ok(()), crawlers::check_policy)?;
    if let Some(policy) = &policy.challenge {
        challenge::check_policy(policy)?;
        networks("http.challenge.exempt_networks", &policy.exempt_networks, &mut HashSet::new())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_redirects_are_from() {
        for good in ["/", "/old", "/old/", "/old/*", "/*", "/a%20b", "/a;b=c,d", "/~user/@x:y", "/'('"] {
            assert_eq!(check_from(good), Ok(()), "{good:?}");
        }
        let long = format!("/{}", "a".repeat(MAX_TARGET_BYTES));
        for bad in [
            "", "old", "/a b", "/a?b", "/*/a", "/a*", "/a/**", "/ä", "/a#b", "/a\r\nb", "/a\\b", "/a\"b",
            &long,
        ] {
            assert!(check_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn where_redirects_lead() {
        let good = [
            ("/old", "/new"),
            ("/old", "/new?a=b"),
            ("/old/*", "/new/*"),
            ("/old/*", "/gone"),
            ("/*", "https://www.example.com/*"),
            ("/old", "https://www.example.com"),
            ("/old", "http://www.example.com:8080/a?b"),
            ("/old/*", "https://www.example.com/a/*"),
        ];
        for (from, to) in good {
            assert_eq!(check_to(from, to), Ok(()), "{from} {to}");
        }
        let bad = [
            ("/old", ""),
            ("/old", "/old"),
            ("/old", "/old?again"),
            ("/old/*", "/old/new/*"),
            ("/*", "/in/*"),
            ("/old", "new"),
            ("/old", "//evil.example/"),
            ("/old", "/new/*"),
            ("/old/*", "/new?a=/*"),
            ("/old", "ftp://a.example/"),
            ("/old", "javascript:alert(1)"),
            ("/old", "https://"),
            ("/old", "https://user@a.example/"),
            ("/old", "https://a.example:99999/"),
            ("/old", "https://a.example:x/"),
            ("/old", "https://A.example/"),
            ("/old", "/a\r\nset-cookie: b"),
            ("/old", "/a b"),
        ];
        for (from, to) in bad {
            assert!(check_to(from, to).is_err(), "{from} {to}");
        }
    }

    fn redirect(from: &str, to: &str, code: u32) -> m::PathRedirect {
        m::PathRedirect { from: from.into(), to: to.into(), code }
    }

    fn limit(requests: u32, seconds: u32, per: i32) -> m::RateLimit {
        m::RateLimit { requests, seconds, per }
    }

    #[test]
    fn a_policy_is_checked_whole() {
        let whole = m::HttpPolicy {
            https_redirect: Some(true),
            canonical_host: "www.example.com".into(),
            hsts: Some(m::Hsts { max_age_seconds: 31_536_000, include_subdomains: true, preload: true }),
            redirects: vec![redirect("/old", "/new", 301), redirect("/old/*", "/new/*", 308)],
            access: Some(m::Access {
                allow: vec!["192.0.2.0/24".into()],
                deny: vec!["::/0".into()],
                allow_countries: vec!["DE".into(), "XX".into()],
                deny_countries: vec!["FR".into()],
            }),
            rate_limits: vec![limit(10, 1, 1), limit(1_000, 60, 0)],
            max_body_bytes: Some(1),
            max_header_bytes: Some(1),
            maintenance: Some(m::Maintenance {
                enabled: true,
                retry_after_seconds: 600,
                allow: vec!["2001:db8::/48".into()],
            }),
            compression: Some(true),
            cache: Some(m::CachePolicy {
                max_ttl_seconds: 1,
                max_object_bytes: 1,
                ..m::CachePolicy::default()
            }),
            crawlers: Some(m::CrawlerPolicy::default()),
            challenge: Some(m::ChallengePolicy {
                difficulty: 8,
                pass_seconds: 60,
                exempt_networks: vec!["192.0.2.0/24".into()],
                ..m::ChallengePolicy::default()
            }),
            basic_auth: Some(Box::default()),
        };
        assert_eq!(check(&whole, false), Ok(()));
        assert!(check(&whole, true).is_err(), "a tenant leads no name anywhere");
        let of_tenant =
            m::HttpPolicy { canonical_host: String::new(), redirects: Vec::new(), ..whole.clone() };
        assert_eq!(check(&of_tenant, true), Ok(()));
        let changes: [fn(&mut m::HttpPolicy); 25] = [
            |policy| policy.canonical_host = "WWW.example.com".into(),
            |policy| policy.hsts = Some(m::Hsts { max_age_seconds: u32::MAX, ..m::Hsts::default() }),
            |policy| policy.redirects.push(redirect("/old", "/other", 301)),
            |policy| policy.redirects.push(redirect("/x", "/other", 200)),
            |policy| policy.redirects.push(redirect("x", "/other", 301)),
            |policy| policy.redirects.push(redirect("/x", "//other", 301)),
            |policy| policy.redirects = (0..201).map(|n| redirect(&format!("/{n}"), "/", 301)).collect(),
            |policy| policy.access.as_mut().unwrap().allow.push("192.0.2.1/24".into()),
            |policy| policy.access.as_mut().unwrap().allow.push("::/0".into()),
            |policy| policy.access.as_mut().unwrap().allow.push("192.0.2.1".into()),
            |policy| policy.access.as_mut().unwrap().allow_countries.push("de".into()),
            |policy| policy.access.as_mut().unwrap().allow_countries.push("GER".into()),
            |policy| policy.access.as_mut().unwrap().deny_countries.push("DE".into()),
            |policy| policy.basic_auth.as_mut().unwrap().enabled = true,
            |policy| policy.rate_limits = vec![limit(1, 1, 0); 5],
            |policy| policy.rate_limits = vec![limit(0, 1, 0)],
            |policy| policy.rate_limits = vec![limit(1, 0, 0)],
            |policy| policy.rate_limits = vec![limit(1, 1, 9)],
            |policy| policy.max_body_bytes = Some(0),
            |policy| policy.max_header_bytes = Some(0),
            |policy| policy.maintenance = Some(m::Maintenance::default()),
            |policy| policy.cache = Some(m::CachePolicy::default()),
            |policy| policy.crawlers = Some(m::CrawlerPolicy { rules: vec![m::CrawlerRule::default()] }),
            |policy| policy.challenge = Some(m::ChallengePolicy::default()),
            |policy| {
                policy.challenge.iter_mut().for_each(|one| one.exempt_networks = vec!["192.0.2.1".into()]);
            },
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut policy = whole.clone();
            change(&mut policy);
            assert!(check(&policy, false).is_err(), "change {n}");
        }
    }
}
