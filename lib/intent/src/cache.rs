//! What edges store of a site's responses, and what is purged of it: the rules that what is written and what is applied are both held to.

use crate::message as m;
use crate::name;
use m::cache_purge::What;

/// Longest time that a response is used without a look, in seconds: a year.
pub const MAX_TTL: u32 = 366 * 86_400;
/// Cookie names, or query parameters, of one list.
pub const MAX_NAMES: usize = 50;
/// Longest of these, in bytes.
pub const MAX_NAME_BYTES: usize = 100;
/// Largest response that can be stored, in bytes. Edges have a limit of their own besides.
pub const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024;
/// The last purges of a tenant that are told apart.
pub const MAX_PURGES: usize = 64;
/// Longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 128;
/// Longest URL of a purge, in bytes.
pub const MAX_URL_BYTES: usize = 256;

/// Checks the name of a cookie or of a query parameter: visible characters but those that end one, with `*` at its end or not.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("must have 1 to {MAX_NAME_BYTES} characters"));
    }
    let begin = name.strip_suffix('*').unwrap_or(name);
    let fits =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'=' | b';' | b',' | b'&' | b'#' | b'"');
    match begin.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} must be the name alone, in visible characters; * can only stand at its end, for all names that begin like it"
        )),
    }
}

/// Checks a tag of a purge: what can stand in `Cache-Tag` or `Surrogate-Key`.
///
/// # Errors
/// What is wrong with it.
pub fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() || tag.len() > MAX_TAG_BYTES {
        return Err(format!("must have 1 to {MAX_TAG_BYTES} bytes"));
    }
    if tag.trim() != tag || tag.chars().any(|c| c == ',' || c.is_control()) {
        return Err(format!("{tag:?} must be one tag, without commas and without white space around it"));
    }
    Ok(())
}

/// Checks the URL of a purge: host and path, without a scheme, with `*` at its end or not.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL_BYTES {
        return Err(format!(
            "must have at most {MAX_URL_BYTES} characters; purge what it begins with, a host or a tag"
        ));
    }
    let slash = url.find('/').ok_or_else(|| format!("{url:?} must have a path, such as / or /*"))?;
    let (host, path) = url.split_at(slash);
    name::check_host(host).map_err(|problem| format!("{url:?}: the host {problem}"))?;
    let begin = path.strip_suffix('*').unwrap_or(path);
    match begin.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'#')) {
        true => Ok(()),
        false => Err(format!(
            "{url:?} must be as it is in requests, without # and white space; * can only stand at its end"
        )),
    }
}

pub(crate) fn check_policy(cache: &m::CachePolicy) -> Result<(), (&'static str, String)> {
    let most = |field: &'static str, value: u32, least: u32| {
        if (least..=MAX_TTL).contains(&value) {
            Ok(())
        } else {
            Err((field, format!("{value} must be from {least} to {MAX_TTL}")))
        }
    };
    most("http.cache.default_ttl_seconds", cache.default_ttl_seconds, 0)?;
    most("http.cache.max_ttl_seconds", cache.max_ttl_seconds, 1)?;
    most("http.cache.stale_while_revalidate_seconds", cache.stale_while_revalidate_seconds, 0)?;
    most("http.cache.stale_if_error_seconds", cache.stale_if_error_seconds, 0)?;
    for (field, list) in [
        ("http.cache.bypass_cookies", &cache.bypass_cookies),
        ("http.cache.ignored_query", &cache.ignored_query),
    ] {
        if list.len() > MAX_NAMES {
            return Err((field, format!("{} of them; at most {MAX_NAMES}", list.len())));
        }
        for name in list {
            check_name(name).map_err(|problem| (field, problem))?;
        }
    }
    if !(1..=MAX_OBJECT_BYTES).contains(&cache.max_object_bytes) {
        let problem = format!("{} must be from 1 to {MAX_OBJECT_BYTES}", cache.max_object_bytes);
        return Err(("http.cache.max_object_bytes", problem));
    }
    Ok(())
}

pub(crate) fn check_purges(purges: &m::CachePurges) -> Result<(), (&'static str, String)> {
    if purges.generation == 0 || purges.all > purges.generation {
        return Err(("purges.generation", "must be at least 1, and no less than purges.all".to_owned()));
    }
    if purges.recent.len() > MAX_PURGES {
        return Err(("purges.recent", format!("{} of them; at most {MAX_PURGES}", purges.recent.len())));
    }
    let is_in_order = purges.recent.is_sorted_by_key(|purge| purge.generation)
        && purges.recent.iter().all(|purge| (purges.all..=purges.generation).contains(&purge.generation));
    if !is_in_order {
        return Err((
            "purges.recent",
            "must be in ascending order, from purges.all to purges.generation".to_owned(),
        ));
    }
    for purge in &purges.recent {
        match &purge.what {
            None => return Err(("purges.recent", "must each say what is purged".to_owned())),
            Some(What::Host(host)) => {
                name::check_host(host).map_err(|problem| ("purges.recent.host", problem.to_string()))?;
            }
            Some(What::Url(url)) => check_url(url).map_err(|problem| ("purges.recent.url", problem))?,
            Some(What::Tag(tag)) => check_tag(tag).map_err(|problem| ("purges.recent.tag", problem))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_urls() {
        for good in ["a", "wordpress_logged_in_*", "*", "utm_source", "a[b]"] {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a=b", "a b", "*a", "a*b*", "a;", "ä", &"a".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["post-1", "a b", "ä", "*"] {
            assert_eq!(check_tag(good), Ok(()), "{good:?}");
        }
        for bad in ["", " a", "a,b", "a\n", &"a".repeat(129)] {
            assert!(check_tag(bad).is_err(), "{bad:?}");
        }
        for good in ["a.example/", "a.example/*", "a.example/blog/1?x=y&z", "a.example/blog*"] {
            assert_eq!(check_url(good), Ok(()), "{good:?}");
        }
        let long = format!("a.example/{}", "a".repeat(256));
        for bad in [
            "",
            "a.example",
            "/a",
            "A.example/",
            "https://a.example/",
            "a.example/*a",
            "a.example/a b",
            "a.example:80/",
            "a.example/#a",
            &long,
        ] {
            assert!(check_url(bad).is_err(), "{bad:?}");
        }
    }

    fn policy() -> m::CachePolicy {
        m::CachePolicy {
            enabled: true,
            default_ttl_seconds: 0,
            max_ttl_seconds: 1,
            stale_while_revalidate_seconds: 0,
            stale_if_error_seconds: MAX_TTL,
            bypass_cookies: vec!["a*".into()],
            ignored_query: vec!["b".into()],
            max_object_bytes: 1,
        }
    }

    #[test]
    fn a_policy_is_checked_whole() {
        assert_eq!(check_policy(&policy()), Ok(()));
        let changes: [fn(&mut m::CachePolicy); 9] = [
            |policy| policy.default_ttl_seconds = MAX_TTL + 1,
            |policy| policy.max_ttl_seconds = 0,
            |policy| policy.stale_while_revalidate_seconds = MAX_TTL + 1,
            |policy| policy.stale_if_error_seconds = MAX_TTL + 1,
            |policy| policy.bypass_cookies = vec!["a=b".into()],
            |policy| policy.ignored_query = vec![String::new()],
            |policy| policy.ignored_query = vec!["a".into(); MAX_NAMES + 1],
            |policy| policy.max_object_bytes = 0,
            |policy| policy.max_object_bytes = MAX_OBJECT_BYTES + 1,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut policy = policy();
            change(&mut policy);
            assert!(check_policy(&policy).is_err(), "change {n}");
        }
    }

    #[test]
    fn purges_are_checked_whole() {
        let purge = |generation, what| m::CachePurge { generation, what: Some(what) };
        let whole = m::CachePurges {
            generation: 9,
            all: 3,
            recent: vec![
                purge(5, What::Host("a.example".into())),
                purge(5, What::Url("a.example/*".into())),
                purge(9, What::Tag("a".into())),
            ],
        };
        assert_eq!(check_purges(&whole), Ok(()));
        let changes: [fn(&mut m::CachePurges); 9] = [
            |purges| purges.generation = 0,
            |purges| purges.all = 10,
            |purges| purges.generation = 8,
            |purges| purges.all = 6,
            |purges| purges.recent.reverse(),
            |purges| purges.recent = vec![m::CachePurge { generation: 5, what: None }],
            |purges| {
                purges.recent = vec![m::CachePurge { generation: 5, what: Some(What::Host("A".into())) }]
            },
            |purges| {
                purges.recent = vec![m::CachePurge { generation: 5, what: Some(What::Tag("a,b".into())) }]
            },
            |purges| {
                purges.recent =
                    vec![m::CachePurge { generation: 5, what: Some(What::Tag("a".into())) }; MAX_PURGES + 1];
            },
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut purges = whole.clone();
            change(&mut purges);
            assert!(check_purges(&purges).is_err(), "change {n}");
        }
    }
}
