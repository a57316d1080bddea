//! What edges do with the requests for a host name before its site sees them: written for a name, and for a tenant as what holds for all
//! its names.

use std::collections::HashSet;

use hosting_intent::{cache as cache_rules, http_policy as rules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::basic_auth::BasicAuth;
use crate::challenge::Challenge;
use crate::crawlers::Crawlers;
use crate::faults::Faults;
use crate::{SpecError, check};

/// What edges do with requests before a site sees them. Of a name, a field that is absent is the tenant's; absent there too, it does nothing.
/// Rate limits alone add up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpPolicy {
    /// Requests over HTTP are sent to HTTPS (301; 308 with a method other than GET and HEAD), once there is a certificate for the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_redirect: Option<bool>,
    /// Of a name only: all requests are sent to this host name, e.g. `www.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_host: Option<String>,
    /// `Strict-Transport-Security` (RFC 6797) with all answers over HTTPS. Browsers keep to it for as long as it says: begin with little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// Of a name only: paths that lead elsewhere. At most 200.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<PathRedirect>,
    /// Who is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How many requests are answered on each edge; the others get 429. Those of a name count its requests, those of a tenant all of its names.
    /// At most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
    /// Largest body of a request in bytes, from 1; a larger one gets 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// Largest head of a request in bytes, from 1; a larger one gets 431. Edges have a limit of their own besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_header_bytes: Option<u32>,
    /// Answers that are text are compressed (zstd, brotli or gzip) for clients that take it. Leave it off where a page has secrets beside what
    /// visitors write (BREACH).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<bool>,
    /// What edges store of the site's responses, and answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Requests get 503 and a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// What is done with the requests of search engines, AI crawlers and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crawlers: Option<Crawlers>,
    /// Who has to show that it is a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Challenge>,
    /// Requests must show a name and a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
}

/// What browsers are told of HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hsts {
    /// For how long, at most two years. 0: they are to forget what they were told.
    pub max_age_seconds: u32,
    /// Also for all names below this one.
    #[serde(default)]
    pub include_subdomains: bool,
    /// The name may be built into browsers: with all names below it, and for a year at least.
    #[serde(default)]
    pub preload: bool,
}

/// A path that leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathRedirect {
    /// A path as browsers send it, without a query: `/old`; `/old/*` stands for every path that begins with `/old/`. The longest one that fits counts.
    pub from: String,
    /// A path, or a URL with `http://` or `https://`. `/*` at its end takes over what stood for the `*`. The query is kept, unless this has one.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "moved")]
    pub code: u16,
}

const fn moved() -> u16 {
    301
}

/// Who is let in: of the networks that an address lies in the narrowest decides. Where it lies in none its country decides; where that is in no
/// list either, it is let in unless one of the lists of who is let in has something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Access {
    /// Networks such as `192.0.2.0/24`, or addresses. At most 500.
    pub allow: Vec<String>,
    /// Networks whose requests get 403. At most 500.
    pub deny: Vec<String>,
    /// Countries (ISO 3166-1) such as `DE`; `XX`: those of whom it is not known, which are all where the edges' operator has no file of countries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_countries: Vec<String>,
    /// Countries whose requests get 403.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_countries: Vec<String>,
}

/// At most so many requests in so many seconds: as a rate, with room for as many at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateLimit {
    /// From 1 to 1 000 000.
    pub requests: u32,
    /// From 1 to 86 400.
    pub seconds: u32,
    /// Whose requests are counted together.
    #[serde(default)]
    pub per: RatePer,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatePer {
    /// Those of all clients.
    All,
    /// Those of an IPv4 address, or of an IPv6 network of 64 bits.
    #[default]
    Address,
    /// Those of an IPv4 network of 24 bits, or of an IPv6 network of 48 bits.
    Network,
}

/// A name, or a tenant's names, at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// Whether it is on.
    pub enabled: bool,
    /// What clients are told of when to come back, from 1 second to 30 days.
    #[serde(default = "ten_minutes")]
    pub retry_after_seconds: u32,
    /// Networks and addresses that are served all the same. At most 500.
    #[serde(default)]
    pub allow: Vec<String>,
}

const fn ten_minutes() -> u32 {
    600
}

/// What edges store of a site's responses, and answer with (RFC 9111): what the site marks with `Cache-Control` or `CDN-Cache-Control`, never
/// what sets a cookie or is `private`. A purge of a tenant's cache names hosts, URLs, or tags, which responses have in `Cache-Tag` or `Surrogate-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cache {
    /// Whether it is on.
    pub enabled: bool,
    /// How long a response is used that says nothing of it, in seconds, at most a year: only for requests without cookies but those of analytics. 0: it is not stored.
    #[serde(default)]
    pub default_ttl_seconds: u32,
    /// The most that any response is used, in seconds, from 1 to a year.
    #[serde(default = "a_day")]
    pub max_ttl_seconds: u32,
    /// How long after that a response is used while a new one is fetched, in seconds, at most a year, where it does not say so itself.
    #[serde(default = "a_minute")]
    pub stale_while_revalidate_seconds: u32,
    /// How long after that a response is used while the site fails, in seconds, at most a year, where it does not say so itself.
    #[serde(default = "a_day")]
    pub stale_if_error_seconds: u32,
    /// Requests with a cookie of one of these names always go to the site; `*` at the end for all that begin like it. At most 50.
    #[serde(default = "cookies_of_members")]
    pub bypass_cookies: Vec<String>,
    /// Query parameters that make no other page; the site is not told them. `*` at the end as above. At most 50.
    #[serde(default = "parameters_of_campaigns")]
    pub ignored_query: Vec<String>,
    /// Larger responses are not stored, in bytes, from 1 to 64 MiB. Edges have a limit of their own besides.
    #[serde(default = "a_mebibyte")]
    pub max_object_bytes: u64,
}

const fn a_minute() -> u32 {
    60
}

const fn a_day() -> u32 {
    86_400
}

const fn a_mebibyte() -> u64 {
    1_024 * 1_024
}

/// Those of people whom applications know: WordPress, WooCommerce, and what PHP, Laravel and Django call their sessions.
fn cookies_of_members() -> Vec<String> {
    let names = [
        "wordpress_logged_in_*",
        "wordpress_sec_*",
        "wp-postpass_*",
        "comment_author_*",
        "woocommerce_items_in_cart",
        "woocommerce_cart_hash",
        "wp_woocommerce_session_*",
        "PHPSESSID",
        "laravel_session",
        "sessionid",
    ];
    names.map(str::to_owned).into()
}

/// Those that say from where a visitor came.
fn parameters_of_campaigns() -> Vec<String> {
    ["utm_*", "fbclid", "gclid", "dclid", "msclkid", "mc_cid", "mc_eid", "_ga"].map(str::to_owned).into()
}

impl HttpPolicy {
    /// A name's policy in its one form. `None`: it says nothing.
    /// `before`: the one that it had, whose users keep their passwords.
    pub(crate) fn of_name(
        given: Option<Self>,
        name: &str,
        before: Option<&Self>,
    ) -> Result<Option<Box<Self>>, SpecError> {
        let mut faults = Faults::default();
        let mut policy = given.unwrap_or_default();
        if let Some(host) = policy.canonical_host.take().filter(|host| !host.is_empty()) {
            let host = faults.note(check::fqdn("http.canonical_host", &host));
            if host.as_deref() == Some(name) {
                let problem = "is this name itself; leave it out";
                faults.fault(SpecError::invalid("http.canonical_host", problem));
            }
            policy.canonical_host = host;
        }
        if policy.redirects.len() > rules::MAX_REDIRECTS {
            let problem = format!("at most {} can be given", rules::MAX_REDIRECTS);
            return Err(SpecError::invalid("http.redirects", problem));
        }
        let mut seen = HashSet::new();
        for (n, redirect) in policy.redirects.iter().enumerate() {
            let at = |field: &str| format!("http.redirects[{n}].{field}");
            let PathRedirect { from, to, code } = redirect;
            faults.note(rules::check_from(from).map_err(|problem| SpecError::invalid(at("from"), problem)));
            faults.note(rules::check_to(from, to).map_err(|problem| SpecError::invalid(at("to"), problem)));
            if !rules::REDIRECT_CODES.contains(code) {
                let problem = format!("{code} is no redirect; one of 301, 302, 303, 307, 308");
                faults.fault(SpecError::invalid(at("code"), problem));
            }
            if !seen.insert(from) {
                let problem = format!("{from:?} stands there twice");
                faults.fault(SpecError::invalid(at("from"), problem));
            }
        }
        faults.note(policy.check_shared(before));
        faults.end().map(|()| policy.unless_silent())
    }

    /// A tenant's or a brand's policy in its one form: it leads no name anywhere. `before`: the one that it had.
    pub(crate) fn of_tenant(
        given: Option<Self>,
        before: Option<&Self>,
    ) -> Result<Option<Box<Self>>, SpecError> {
        let mut policy = given.unwrap_or_default();
        let (host, redirects) = (policy.canonical_host.take(), &policy.redirects);
        let mut faults = Faults::default();
        for (field, is_given) in [
            ("http.canonical_host", host.is_some_and(|host| !host.is_empty())),
            ("http.redirects", !redirects.is_empty()),
        ] {
            if is_given {
                faults.fault(SpecError::invalid(
                    field,
                    "cannot hold for all names of a tenant or a brand; give it to an FQDN",
                ));
            }
        }
        faults.note(policy.check_shared(before));
        faults.end().map(|()| policy.unless_silent())
    }

    /// Itself if it says anything.
    fn unless_silent(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// What holds for a name with these policies, in words, and whether its site is open to visitors. `None`: nothing. `shared`: its tenant's and
    /// its brand's.
    #[must_use]
    pub fn summary(own: Option<&Self>, shared: [Option<&Self>; 2]) -> Option<(bool, String)> {
        let both = || std::iter::once(own).chain(shared).flatten();
        let mut parts = Vec::new();
        let maintenance = both().find_map(|policy| policy.maintenance.as_ref()).filter(|one| one.enabled);
        if let Some(Maintenance { allow, .. }) = maintenance {
            parts.push(match allow.len() {
                0 => "at rest: all requests get 503 (maintenance)".to_owned(),
                count => {
                    format!("at rest: all requests but those from {} get 503 (maintenance)", networks(count))
                }
            });
        }
        let access = both().find_map(|policy| policy.access.as_ref());
        parts.extend(access.into_iter().flat_map(Access::summary));
        let auth = both().find_map(|policy| policy.basic_auth.as_ref());
        parts.extend(auth.and_then(BasicAuth::summary));
        for RateLimit { requests, seconds, per } in both().flat_map(|policy| &policy.rate_limits) {
            let whose = match per {
                RatePer::All => "all clients together",
                RatePer::Address => "each address",
                RatePer::Network => "each network",
            };
            parts.push(format!("at most {requests} requests in {seconds} s for {whose}, on each edge"));
        }
        parts.extend(both().find_map(|policy| policy.crawlers.as_ref()).and_then(Crawlers::summary));
        let challenge = both().find_map(|policy| policy.challenge.as_ref()).and_then(Challenge::summary);
        parts.extend(challenge.map(str::to_owned));
        if let Some(host) = own.and_then(|policy| policy.canonical_host.as_deref()) {
            parts.push(format!("all requests are led to {host}"));
        }
        if both().find_map(|policy| policy.https_redirect).unwrap_or_default() {
            parts.push("HTTP is led to HTTPS once there is a certificate".to_owned());
        }
        match own.map(|policy| policy.redirects.len()) {
            None | Some(0) => {}
            Some(1) => parts.push("one path leads elsewhere".to_owned()),
            Some(count) => parts.push(format!("{count} paths lead elsewhere")),
        }
        if let Some(most) = both().find_map(|policy| policy.max_body_bytes) {
            parts.push(format!("bodies of at most {most} bytes"));
        }
        if both().find_map(|policy| policy.compression).unwrap_or_default() {
            parts.push("texts are compressed".to_owned());
        }
        if both().find_map(|policy| policy.cache.as_ref()).is_some_and(|cache| cache.enabled) {
            parts.push("edges cache what may be cached".to_owned());
        }
        (!parts.is_empty()).then(|| (maintenance.is_none(), parts.join("; ")))
    }

    /// Whether requests for all paths of the name lead elsewhere, so that it needs no site.
    #[must_use]
    pub fn leads_away(&self) -> bool {
        self.canonical_host.is_some() || self.redirects.iter().any(|redirect| redirect.from == rules::REST)
    }

    fn check_shared(&mut self, before: Option<&Self>) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        if let Some(Hsts { max_age_seconds, include_subdomains, preload }) = &self.hsts {
            let field = "http.hsts.max_age_seconds";
            faults.note(check::between(field, *max_age_seconds, 0, rules::MAX_HSTS_AGE));
            if *preload && !(*include_subdomains && *max_age_seconds >= rules::MIN_PRELOAD_AGE) {
                let problem = "needs include_subdomains and a max_age_seconds of at least 31536000";
                faults.fault(SpecError::invalid("http.hsts.preload", problem));
            }
        }
        if let Some(access) = &mut self.access {
            for (field, list) in
                [("http.access.allow", &mut access.allow), ("http.access.deny", &mut access.deny)]
            {
                let normal = check::networks(field, list, rules::MAX_NETWORKS);
                faults.put(list, normal);
            }
            if let Some(both) = access.allow.iter().find(|network| access.deny.contains(network)) {
                let problem = format!("{both} is among http.access.allow too; it can be in one of them");
                faults.fault(SpecError::invalid("http.access.deny", problem));
            }
            faults.note(access.settle_countries());
        }
        if let Some(auth) = &mut self.basic_auth {
            faults.note(auth.settle(before.and_then(|before| before.basic_auth.as_ref())));
        }
        if self.rate_limits.len() > rules::MAX_RATE_LIMITS {
            let problem = format!("at most {} can be given", rules::MAX_RATE_LIMITS);
            faults.fault(SpecError::invalid("http.rate_limits", problem));
        }
        for (n, limit) in self.rate_limits.iter().enumerate().take(rules::MAX_RATE_LIMITS) {
            let at = |field: &str| format!("http.rate_limits[{n}].{field}");
            faults.note(check::between(&at("requests"), limit.requests, 1, rules::MAX_RATE_REQUESTS));
            faults.note(check::between(&at("seconds"), limit.seconds, 1, rules::MAX_RATE_SECONDS));
        }
        if self.max_body_bytes == Some(0) {
            faults.fault(SpecError::invalid("http.max_body_bytes", "must be at least 1"));
        }
        if self.max_header_bytes == Some(0) {
            faults.fault(SpecError::invalid("http.max_header_bytes", "must be at least 1"));
        }
        if let Some(maintenance) = &mut self.maintenance {
            let after = maintenance.retry_after_seconds;
            let field = "http.maintenance.retry_after_seconds";
            faults.note(check::between(field, after, 1, rules::MAX_RETRY_AFTER));
            let normal = check::networks("http.maintenance.allow", &maintenance.allow, rules::MAX_NETWORKS);
            faults.put(&mut maintenance.allow, normal);
        }
        if let Some(cache) = &mut self.cache {
            faults.note(cache.check());
        }
        if let Some(crawlers) = &self.crawlers {
            faults.note(crawlers.check());
        }
        if let Some(challenge) = &mut self.challenge {
            faults.note(challenge.check());
        }
        faults.end()
    }
}

impl Cache {
    fn check(&mut self) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        for (field, seconds, least) in [
            ("http.cache.default_ttl_seconds", self.default_ttl_seconds, 0),
            ("http.cache.max_ttl_seconds", self.max_ttl_seconds, 1),
            ("http.cache.stale_while_revalidate_seconds", self.stale_while_revalidate_seconds, 0),
            ("http.cache.stale_if_error_seconds", self.stale_if_error_seconds, 0),
        ] {
            faults.note(check::between(field, seconds, least, cache_rules::MAX_TTL));
        }
        if self.enabled && self.default_ttl_seconds > self.max_ttl_seconds {
            let problem = "is more than max_ttl_seconds; lower it, or raise that";
            faults.fault(SpecError::invalid("http.cache.default_ttl_seconds", problem));
        }
        for (field, list) in [
            ("http.cache.bypass_cookies", &mut self.bypass_cookies),
            ("http.cache.ignored_query", &mut self.ignored_query),
        ] {
            check::distinct(list);
            if list.len() > cache_rules::MAX_NAMES {
                let problem =
                    format!("at most {} can be given; one with * stands for many", cache_rules::MAX_NAMES);
                faults.fault(SpecError::invalid(field, problem));
            }
            for (n, name) in list.iter().enumerate().take(cache_rules::MAX_NAMES) {
                let named = cache_rules::check_name(name);
                faults.note(named.map_err(|problem| SpecError::invalid(format!("{field}[{n}]"), problem)));
            }
        }
        let most = cache_rules::MAX_OBJECT_BYTES;
        faults.note(check::between("http.cache.max_object_bytes", self.max_object_bytes, 1, most));
        faults.end()
    }
}

pub(crate) fn networks(count: usize) -> String {
    if count == 1 { "one network".to_owned() } else { format!("{count} networks") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(value: Value) -> Option<HttpPolicy> {
        serde_json::from_value(value).unwrap()
    }

    fn normal(value: Value) -> Value {
        serde_json::to_value(HttpPolicy::of_name(policy(value), "example.com", None).unwrap()).unwrap()
    }

    /// The fields that are refused, of a name's policy.
    fn refused(value: Value) -> Vec<String> {
        let error = HttpPolicy::of_name(policy(value), "example.com", None).unwrap_err();
        let SpecError::Several(all) = error else { panic!("{error}") };
        let field = |error| match error {
            SpecError::Invalid { field, .. } => field,
            SpecError::Malformed { .. }
            | SpecError::NotServed { .. }
            | SpecError::Several(_)
            | SpecError::Forbidden(_) => panic!("{error}"),
        };
        all.into_iter().map(field).collect()
    }

    #[test]
    fn a_policy_has_one_form() {
        assert_eq!(normal(json!({})), json!(null));
        assert_eq!(normal(json!({"canonical_host": ""})), json!(null));
        assert_eq!(
            normal(json!({
                "https_redirect": false,
                "canonical_host": "WWW.Example.com.",
                "access": {"allow": ["192.0.2.7", "192.0.2.9/24", "2001:DB8::1/32", "192.0.2.0/24"]},
                "redirects": [{"from": "/old", "to": "/new"}],
                "rate_limits": [{"requests": 10, "seconds": 1}],
                "maintenance": {"enabled": true},
            })),
            json!({
                "https_redirect": false,
                "canonical_host": "www.example.com",
                "access": {"allow": ["192.0.2.7/32", "192.0.2.0/24", "2001:db8::/32"], "deny": []},
                "redirects": [{"from": "/old", "to": "/new", "code": 301}],
                "rate_limits": [{"requests": 10, "seconds": 1, "per": "address"}],
                "maintenance": {"enabled": true, "retry_after_seconds": 600, "allow": []},
            })
        );
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let found = refused(json!({
            "canonical_host": "example.com",
            "hsts": {"max_age_seconds": 100, "preload": true},
            "redirects": [
                {"from": "old", "to": "/new"},
                {"from": "/a", "to": "/b", "code": 200},
                {"from": "/a", "to": "/c"},
            ],
            "access": {"allow": ["10.0.0.0/8", "here"], "deny": ["10.0.0.0/8"]},
            "rate_limits": [{"requests": 0, "seconds": 100_000}],
            "max_body_bytes": 0,
            "max_header_bytes": 0,
            "maintenance": {"enabled": true, "retry_after_seconds": 0, "allow": ["::1/200"]},
            "cache": {
                "enabled": true,
                "default_ttl_seconds": 90_000_000,
                "max_ttl_seconds": 0,
                "bypass_cookies": ["a", "b=c"],
                "ignored_query": ["*x"],
                "max_object_bytes": 0,
            },
            "crawlers": {"rules": [{"action": "deny"}]},
            "challenge": {"mode": "all", "difficulty": 30},
        }));
        let wanted = [
            "http.canonical_host",
            "http.redirects[0].from",
            "http.redirects[1].code",
            "http.redirects[2].from",
            "http.hsts.preload",
            "http.access.allow[1]",
            "http.access.deny",
            "http.rate_limits[0].requests",
            "http.rate_limits[0].seconds",
            "http.max_body_bytes",
            "http.max_header_bytes",
            "http.maintenance.retry_after_seconds",
            "http.maintenance.allow[0]",
            "http.cache.default_ttl_seconds",
            "http.cache.max_ttl_seconds",
            "http.cache.default_ttl_seconds",
            "http.cache.bypass_cookies[1]",
            "http.cache.ignored_query[0]",
            "http.cache.max_object_bytes",
            "http.crawlers.rules[0]",
            "http.challenge.difficulty",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_cache_that_is_on_is_one_that_suits_most_sites() {
        let cache =
            normal(json!({"cache": {"enabled": true, "ignored_query": ["a", "b", "a"]}}))["cache"].take();
        for (field, wanted) in [
            ("default_ttl_seconds", json!(0)),
            ("max_ttl_seconds", json!(86_400)),
            ("stale_while_revalidate_seconds", json!(60)),
            ("stale_if_error_seconds", json!(86_400)),
            ("ignored_query", json!(["a", "b"])),
            ("max_object_bytes", json!(1_048_576)),
        ] {
            assert_eq!(cache[field], wanted, "{field}");
        }
        let cookies = cache["bypass_cookies"].as_array().unwrap();
        assert!(cookies.contains(&json!("wordpress_logged_in_*")));
        let said =
            HttpPolicy::summary(policy(json!({"cache": {"enabled": true}})).as_ref(), [None; 2]).unwrap();
        assert_eq!(said, (true, "edges cache what may be cached".to_owned()));
        let more = json!({"cache": {"enabled": true, "default_ttl_seconds": 100_000}});
        let refused = HttpPolicy::of_name(policy(more), "example.com", None).unwrap_err().to_string();
        assert!(
            refused.starts_with("validation error: http.cache.default_ttl_seconds: is more than"),
            "{refused}"
        );
    }

    #[test]
    fn what_holds_is_said_in_words() {
        let own = policy(json!({"canonical_host": "www.example.com", "https_redirect": false})).unwrap();
        let tenant = policy(json!({
            "https_redirect": true,
            "maintenance": {"enabled": true, "allow": ["192.0.2.1"]},
            "rate_limits": [{"requests": 5, "seconds": 1}],
            "crawlers": {"rules": [{"class": "seo", "action": "deny"}]},
            "challenge": {"mode": "suspicious"},
        }));
        let said = HttpPolicy::summary(Some(&own), [tenant.as_ref(), None]).unwrap();
        let wanted = "at rest: all requests but those from one network get 503 (maintenance); \
                      at most 5 requests in 1 s for each address, on each edge; one rule for crawlers; \
                      who is suspicious has to show that it is a browser; all requests are led to www.example.com";
        assert_eq!(said, (false, wanted.to_owned()));
        assert_eq!(HttpPolicy::summary(None, [None; 2]), None);
        assert!(own.leads_away() && !tenant.unwrap().leads_away());
    }

    #[test]
    fn a_tenant_leads_no_name_anywhere() {
        let leads = policy(json!({"canonical_host": "a.example", "redirects": [{"from": "/a", "to": "/b"}]}));
        assert!(matches!(HttpPolicy::of_tenant(leads, None), Err(SpecError::Several(all)) if all.len() == 2));
        let holds = policy(json!({"https_redirect": true, "hsts": {"max_age_seconds": 300}}));
        assert_eq!(HttpPolicy::of_tenant(holds.clone(), None), Ok(holds.map(Box::new)));
    }
}
