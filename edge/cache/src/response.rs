//! What becomes of a response: whether it is stored (RFC 9111 §3), and how long it is used (§4.2).

use hosting_intent::message::CachePolicy;

use crate::control::Control;
use crate::{Asked, Fields, Millis, date, seconds, value, values};

/// Longest tag, and most tags of a response. One with more is not stored, because it could not be purged.
const MAX_TAG: usize = 128;
const MAX_TAGS: usize = 64;
/// Most fields that a response varies by.
const MAX_VARIED: usize = 8;
/// How long it is at most believed that nothing is there, unless the response says so.
const ABSENT: u64 = 60;

/// A response as it came.
#[derive(Debug, Clone, Copy)]
pub struct Came<'a> {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'a [u8],
    /// End-to-end fields, `Content-Length` not among them.
    pub fields: &'a Fields<'a>,
    /// The body's length, if it is said.
    pub length: Option<u64>,
    /// When the node was asked.
    pub asked_at: Millis,
    /// When the response came.
    pub at: Millis,
}

/// What may be done with a stored response. Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How old it was when it came.
    pub(crate) age: u64,
    /// How old it gets.
    pub(crate) lifetime: u64,
    pub(crate) while_revalidating: u64,
    pub(crate) if_error: u64,
    /// No client may have it stale because he asks.
    pub(crate) is_strict: bool,
    /// The node is asked each time.
    pub(crate) is_checked: bool,
    /// It said itself how long.
    pub(crate) is_explicit: bool,
    /// It may answer requests that show who asks.
    pub(crate) is_for_authorized: bool,
}

/// What becomes of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored.
    Store(Terms),
    /// It is for nobody else.
    Pass,
}

/// Decides on the response to a request.
#[must_use]
pub fn check(asked: &Asked<'_>, came: &Came<'_>, policy: &CachePolicy) -> Verdict {
    terms(asked, came, policy).map_or(Verdict::Pass, Verdict::Store)
}

fn terms(asked: &Asked<'_>, came: &Came<'_>, policy: &CachePolicy) -> Option<Terms> {
    let fields = came.fields;
    let has = |name: &[u8]| value(fields, name).is_some();
    let own = Control::read(values(fields, b"cache-control"));
    let targeted = Control::read(values(fields, b"cdn-cache-control"));
    let is_targeted = targeted != Control::default();
    let control = if is_targeted { targeted } else { own };
    let is_understood = matches!(
        came.status,
        200 | 203 | 204 | 300 | 301 | 302 | 303 | 307 | 308 | 404 | 405 | 410 | 414 | 501
    );
    if asked.is_head()
        || matches!(came.status, 0..=199 | 206 | 304)
        || has(b"set-cookie")
        || has(b"content-range")
        || control.private
        // What is said for those who understand the code sets no-store aside (RFC 9111 §5.2.2.3).
        || (control.must_understand && !is_understood)
        || (control.no_store && !control.must_understand)
    {
        return None;
    }
    let is_for_authorized = control.public || control.must_revalidate || control.s_maxage.is_some();
    if asked.is_authorized() && !is_for_authorized {
        return None;
    }
    varied(fields)?;
    tags(fields)?;
    let said = date_of(came);
    let age = current_age(came, said);
    let expires = || {
        let expires = value(fields, b"expires")?;
        // What is no date has passed (RFC 9111 §5.3).
        Some(date(expires).map_or(0, |until| until.saturating_sub(said) / 1_000))
    };
    let explicit = control.s_maxage.or(control.max_age).or_else(|| expires().filter(|_| !is_targeted));
    let is_explicit = explicit.is_some() || control.no_cache;
    if !is_explicit && asked.has_cookies() {
        return None;
    }
    let lifetime = match explicit {
        Some(seconds) => seconds,
        None if control.no_cache => 0,
        None => heuristic(came, policy, said)?,
    };
    let lifetime = lifetime.min(u64::from(policy.max_ttl_seconds));
    let may_be_stale = !(control.must_revalidate || control.proxy_revalidate || control.no_cache);
    let by_default = may_be_stale && control.s_maxage.is_none();
    let stale = |own: Option<u64>, other: u32| match own {
        _ if !may_be_stale => 0,
        Some(seconds) => seconds,
        None if by_default => u64::from(other),
        None => 0,
    };
    let terms = Terms {
        age,
        lifetime,
        while_revalidating: stale(control.stale_while_revalidate, policy.stale_while_revalidate_seconds),
        if_error: stale(control.stale_if_error, policy.stale_if_error_seconds),
        is_strict: !by_default,
        is_checked: control.no_cache,
        is_explicit,
        is_for_authorized,
    };
    // What is of no use at once, and cannot be checked, would lie there for nothing.
    let is_of_use = (age < lifetime && !terms.is_checked)
        || age < lifetime.saturating_add(terms.while_revalidating.max(terms.if_error))
        || has(b"etag")
        || has(b"last-modified");
    is_of_use.then_some(terms)
}

/// When the node said that the response was made.
fn date_of(came: &Came<'_>) -> Millis {
    value(came.fields, b"date").and_then(date).unwrap_or(came.at)
}

/// The age of a response when it came (RFC 9111 §4.2.3).
fn current_age(came: &Came<'_>, said: Millis) -> u64 {
    let apparent = came.at.saturating_sub(said) / 1_000;
    let told = value(came.fields, b"age").and_then(seconds).unwrap_or_default();
    let took = came.at.saturating_sub(came.asked_at) / 1_000;
    // Date has whole seconds: what was made within this one is not old.
    apparent.max(told + took)
}

/// How long what says nothing is fresh: as the policy says; what was changed lately, a tenth of the time since (RFC 9111 §4.2.2).
fn heuristic(came: &Came<'_>, policy: &CachePolicy, said: Millis) -> Option<u64> {
    let most = match came.status {
        200 | 203 | 204 | 300 | 301 | 308 => u64::from(policy.default_ttl_seconds),
        404 | 405 | 410 | 414 | 501 => u64::from(policy.default_ttl_seconds).min(ABSENT),
        _ => 0,
    };
    let changed = value(came.fields, b"last-modified").and_then(date);
    let tenth = changed.map_or(most, |changed| said.saturating_sub(changed) / 10_000);
    Some(most.min(tenth)).filter(|_| most > 0)
}

/// The names of the fields that a response varies by, in lower case; `None`: by more than anybody can tell, or by too many.
pub(crate) fn varied(fields: &Fields<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    for name in values(fields, b"vary").flat_map(|value| value.split(|byte| *byte == b',')) {
        let name = name.trim_ascii().to_ascii_lowercase();
        if name == b"*" {
            return None;
        }
        if !name.is_empty() && !names.iter().any(|known| **known == *name) {
            names.push(name.into());
        }
    }
    // A coding that was asked for is for those who take it, whether the site says so or not.
    if value(fields, b"content-encoding").is_some()
        && !names.iter().any(|known| **known == *b"accept-encoding")
    {
        names.push(b"accept-encoding"[..].into());
    }
    (names.len() <= MAX_VARIED).then_some(names)
}

/// The fields that say a response's tags.
const TAGS: [(&[u8], u8); 2] = [(b"cache-tag", b','), (b"surrogate-key", b' ')];

/// Whether a field says tags.
#[must_use]
pub fn is_tag_field(name: &[u8]) -> bool {
    TAGS.iter().any(|(field, _)| name.eq_ignore_ascii_case(field))
}

/// A response's tags; `None`: there are too many, or one is too long.
pub(crate) fn tags(fields: &Fields<'_>) -> Option<Box<[Box<[u8]>]>> {
    let mut tags: Vec<Box<[u8]>> = Vec::new();
    for (field, between) in TAGS {
        for tag in values(fields, field).flat_map(|value| value.split(move |byte| *byte == between)) {
            let tag = tag.trim_ascii();
            if tag.len() > MAX_TAG || (tags.len() == MAX_TAGS && !tag.is_empty()) {
                return None;
            }
            if !tag.is_empty() {
                tags.push(tag.into());
            }
        }
    }
    Some(tags.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_help::{NOW, at, pairs, policy};

    type Text<'a> = &'a [(&'a str, &'a str)];

    fn verdict(request: Text<'_>, status: u16, response: Text<'_>, policy: &CachePolicy) -> Option<Terms> {
        let asked = Asked::new(b"GET", b"/", pairs(request).into_iter(), policy, false).unwrap();
        let fields = pairs(response);
        let came = Came { status, reason: b"", fields: &fields, length: None, asked_at: NOW, at: NOW };
        match check(&asked, &came, policy) {
            Verdict::Store(terms) => Some(terms),
            Verdict::Pass => None,
        }
    }

    fn lifetime(response: Text<'_>) -> Option<u64> {
        verdict(&[], 200, response, &policy()).map(|terms| terms.lifetime)
    }

    #[test]
    fn what_is_stored_and_what_is_not() {
        let fresh = ("cache-control", "max-age=60");
        let many = "a,".repeat(MAX_TAGS + 1);
        let long = "x".repeat(MAX_TAG + 1);
        let yes: [(Text<'_>, u16, Text<'_>); 14] = [
            (&[], 200, &[fresh]),
            (&[], 404, &[fresh]),
            (&[], 302, &[fresh]),
            (&[], 500, &[fresh]),
            (&[], 200, &[("cache-control", "s-maxage=60, max-age=0")]),
            (&[], 200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]),
            (&[], 200, &[("cache-control", "max-age=0"), ("last-modified", "x")]),
            (&[], 200, &[("cache-control", "max-age=60, must-understand, no-store")]),
            (&[], 200, &[fresh, ("vary", "accept-encoding, Origin")]),
            (&[], 200, &[fresh, ("cache-tag", "a, b"), ("surrogate-key", "c d")]),
            (&[("authorization", "x")], 200, &[("cache-control", "public, max-age=60")]),
            (&[("authorization", "x")], 200, &[("cache-control", "s-maxage=60")]),
            (&[("authorization", "x")], 200, &[("cache-control", "must-revalidate, max-age=60")]),
            (&[("cookie", "theme=dark")], 200, &[fresh]),
        ];
        for (request, status, response) in yes {
            assert!(
                verdict(request, status, response, &policy()).is_some(),
                "{request:?} {status} {response:?}"
            );
        }
        let no: [(Text<'_>, u16, Text<'_>); 19] = [
            (&[], 200, &[]),
            (&[], 200, &[("etag", "\"a\"")]),
            (&[], 206, &[fresh, ("content-range", "bytes 0-1/2")]),
            (&[], 304, &[fresh]),
            (&[], 200, &[fresh, ("content-range", "bytes 0-1/2")]),
            (&[], 200, &[fresh, ("Set-Cookie", "a=b")]),
            (&[], 200, &[("cache-control", "max-age=60, private")]),
            (&[], 200, &[("cache-control", "max-age=60, private=\"x\"")]),
            (&[], 200, &[("cache-control", "max-age=60, no-store")]),
            (&[], 299, &[("cache-control", "max-age=60, must-understand, no-store")]),
            (&[], 299, &[("cache-control", "max-age=60, must-understand")]),
            (&[], 200, &[("cache-control", "no-cache")]),
            (&[], 200, &[("cache-control", "max-age=0")]),
            (&[], 200, &[fresh, ("vary", "*")]),
            (&[], 200, &[fresh, ("vary", "accept"), ("vary", "origin, *")]),
            (&[], 200, &[fresh, ("cache-tag", &many)]),
            (&[], 200, &[fresh, ("surrogate-key", &long)]),
            (&[("authorization", "x")], 200, &[fresh]),
            (&[], 200, &[fresh, ("age", "60")]),
        ];
        for (request, status, response) in no {
            assert_eq!(
                verdict(request, status, response, &policy()),
                None,
                "{request:?} {status} {response:?}"
            );
        }
        let asked = Asked::new(b"HEAD", b"/", std::iter::empty(), &policy(), false).unwrap();
        let fields = pairs(&[fresh]);
        let came = Came { status: 200, reason: b"", fields: &fields, length: None, asked_at: NOW, at: NOW };
        assert_eq!(check(&asked, &came, &policy()), Verdict::Pass);
    }

    #[test]
    fn how_long_a_response_is_fresh() {
        let (now, later, before) = (at(0), at(90), at(-5));
        let cases: [(Text<'_>, u64); 11] = [
            (&[("cache-control", "max-age=60")], 60),
            (&[("cache-control", "max-age=60, s-maxage=30")], 30),
            (&[("cache-control", "max-age=999999999")], 86_400),
            (&[("expires", &later), ("date", &now)], 90),
            (&[("expires", &later)], 90),
            (&[("expires", &later), ("cache-control", "max-age=5")], 5),
            (&[("cdn-cache-control", "max-age=7"), ("cache-control", "no-store")], 7),
            (&[("cdn-cache-control", "max-age=7"), ("expires", &later)], 7),
            (&[("cdn-cache-control", ""), ("cache-control", "max-age=8")], 8),
            (&[("expires", "0"), ("etag", "\"a\"")], 0),
            (&[("expires", &before), ("etag", "\"a\"")], 0),
        ];
        for (response, wanted) in cases {
            assert_eq!(lifetime(response), Some(wanted), "{response:?}");
        }
        assert_eq!(lifetime(&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")]), None);
    }

    #[test]
    fn what_says_nothing_is_stored_as_the_policy_says_and_for_those_without_cookies() {
        let policy = CachePolicy { default_ttl_seconds: 600, ..policy() };
        let found = |request: Text<'_>, status, response: Text<'_>| {
            verdict(request, status, response, &policy).map(|terms| (terms.lifetime, terms.is_explicit))
        };
        let (day, hour) = (at(-86_400), at(-3_600));
        assert_eq!(found(&[], 200, &[]), Some((600, false)));
        assert_eq!(found(&[], 200, &[("last-modified", &day)]), Some((600, false)));
        assert_eq!(found(&[], 200, &[("last-modified", &hour)]), Some((360, false)));
        assert_eq!(found(&[], 404, &[]), Some((60, false)));
        assert_eq!(found(&[], 302, &[]), None);
        assert_eq!(found(&[], 500, &[]), None);
        assert_eq!(found(&[("cookie", "theme=dark")], 200, &[]), None);
        assert_eq!(found(&[("cookie", "_ga=1; _gid=2")], 200, &[]), Some((600, false)));
        assert_eq!(found(&[("cookie", "a=b")], 200, &[("cache-control", "max-age=5")]), Some((5, true)));
    }

    #[test]
    fn a_response_may_be_old_when_it_comes() {
        let age = |fields: Text<'_>, took| {
            let fields = pairs(fields);
            let came = Came {
                status: 200,
                reason: b"",
                fields: &fields,
                length: None,
                asked_at: NOW - took,
                at: NOW,
            };
            current_age(&came, date_of(&came))
        };
        let before = at(-30);
        assert_eq!(age(&[], 0), 0);
        assert_eq!(age(&[("date", &before)], 0), 30);
        assert_eq!(age(&[("age", "20")], 5_000), 25);
        assert_eq!(age(&[("age", "20"), ("date", &before)], 5_000), 30);
        assert_eq!(age(&[("age", "x"), ("date", &at(30))], 0), 0);
    }

    #[test]
    fn stale_answers_are_given_where_they_may_be() {
        let policy =
            CachePolicy { stale_while_revalidate_seconds: 10, stale_if_error_seconds: 20, ..policy() };
        for (control, wanted) in [
            ("max-age=60", (10, 20, false)),
            ("max-age=60, stale-while-revalidate=1, stale-if-error=2", (1, 2, false)),
            ("max-age=60, must-revalidate, stale-if-error=2", (0, 0, true)),
            ("max-age=60, proxy-revalidate", (0, 0, true)),
            ("s-maxage=60", (0, 0, true)),
            ("s-maxage=60, stale-while-revalidate=5", (5, 0, true)),
        ] {
            let terms = verdict(&[], 200, &[("cache-control", control)], &policy).unwrap();
            assert_eq!((terms.while_revalidating, terms.if_error, terms.is_strict), wanted, "{control}");
        }
        let checked = [("cache-control", "no-cache, max-age=60"), ("etag", "\"a\"")];
        let terms = verdict(&[], 200, &checked, &policy).unwrap();
        assert_eq!((terms.while_revalidating, terms.if_error, terms.is_checked), (0, 0, true));
    }

    #[test]
    fn tags_are_read_from_both_fields() {
        let found =
            tags(&pairs(&[("Cache-Tag", "a, b b,,c"), ("surrogate-key", "d  e"), ("cache-tag", "f")]))
                .unwrap();
        let found: Vec<_> = found.iter().map(|tag| std::str::from_utf8(tag).unwrap()).collect();
        assert_eq!(found, ["a", "b b", "c", "f", "d", "e"]);
    }
}
