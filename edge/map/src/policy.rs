//! What is done with a request before a site sees it. All of a name's policy is decided here, once for each request, whichever version
//! of HTTP it came by.

mod access;
mod agents;
mod basic_auth;
mod challenge;
mod crawlers;
mod rate;
mod redirects;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use hosting_intent::message as m;
use prost::Message;

use access::{Countries, Networks};
pub use access::{Country, UNKNOWN_COUNTRY};
pub use agents::{Agent, Agents, Crawler, Proof};
pub use basic_auth::{BasicAuth, Credentials};
use challenge::Challenge;
pub use challenge::Work;
use crawlers::{Action, Crawlers};
use rate::{Budget, Limit, Scope};
pub use rate::{Nanos, Rates};
use redirects::Redirects;

/// A policy, ready to be asked. Names with equal policies share one.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Its digest, which is the same for equal policies.
    digest: Box<str>,
    https_redirect: Option<bool>,
    canonical_host: Option<Box<str>>,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<Box<str>>,
    redirects: Redirects,
    access: Option<Access>,
    limits: Box<[Limit]>,
    max_body: Option<u64>,
    max_head: Option<usize>,
    maintenance: Option<Maintenance>,
    compression: Option<bool>,
    cache: Option<m::CachePolicy>,
    crawlers: Option<Crawlers>,
    challenge: Option<Challenge>,
    basic_auth: Option<BasicAuth>,
}

/// Where browsers show that they are: a POST to this path, with the proof as its query, of a name that asks for it.
pub const PROOF_PATH: &str = "/.well-known/hosting-browser";

#[derive(Debug)]
struct Access {
    networks: Networks,
    /// Asked about who lies in none of them.
    countries: Option<Countries>,
    /// Whether those are let in of whom nothing is said.
    others: bool,
}

impl Access {
    fn lets_in(&self, address: IpAddr, around: &impl Circumstances) -> bool {
        let of_country = || self.countries.as_ref()?.word_on(around.country(address));
        self.networks.word_on(address).or_else(of_country).unwrap_or(self.others)
    }
}

#[derive(Debug)]
struct Maintenance {
    enabled: bool,
    retry_after: u32,
    served: Networks,
}

/// What a policy asks of a request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host, as [`crate::parse_host`] spells it.
    pub host: &'a str,
    /// The policy is that of the wildcard which the host falls under.
    pub is_below: bool,
    /// What the client wrote behind the host: a colon and a port, or nothing.
    pub port: &'a str,
    /// The target, from its path on.
    pub path: &'a str,
    /// The method is GET or HEAD, with which a client may go elsewhere without a thought.
    pub is_read: bool,
    /// The method is POST.
    pub is_post: bool,
    /// The connection to the client is TLS.
    pub tls: bool,
    /// The client.
    pub address: IpAddr,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the body, if the client said.
    pub body: Option<u64>,
    /// The crawler that it is of. Need not be known where no policy [`asks`](Policies::asks_for_crawlers).
    pub crawler: Option<&'a Crawler>,
    /// The client showed that it is a browser. Need not be known where there is no [`challenge`](Policies::challenge).
    pub is_shown: bool,
}

/// What a policy asks of the edge.
pub trait Circumstances {
    /// Whether there is a certificate for the host that clients can trust.
    fn has_certificate(&self, host: &str) -> bool;

    /// What HTTPS is written with behind the host: a colon and a port, or nothing for 443.
    fn https_port(&self) -> &str;

    /// The country that an address is in.
    fn country(&self, address: IpAddr) -> Country;

    /// The requests so far.
    fn rates(&self) -> &Rates;

    /// The time.
    fn now(&self) -> Nanos;

    /// How many edges of the cluster are in service.
    fn edges(&self) -> u32;
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// The client is not let in.
    Forbidden,
    /// The name is at rest, probably for so many seconds more.
    Maintenance(u32),
    /// There were too many requests; there is room for another after so many seconds.
    TooMany(u32),
    /// The request's head is larger than the name takes.
    HeadTooLarge,
    /// The request's body is larger than the name takes.
    BodyTooLarge,
    /// The client is to ask elsewhere.
    Redirect {
        /// The status code.
        code: u16,
        /// An absolute URL.
        location: String,
    },
    /// The crawler is not let in.
    Crawler,
    /// The crawler has spent its budget; there is room for another request after so many seconds.
    CrawlerBudget(u32),
    /// The client has to show first that it is a browser. With the seconds after which it need not, if there are such.
    Challenge(Option<u32>),
    /// The client shows that it is a browser.
    Proof,
}

impl Policy {
    /// Reads a policy that passed its checks.
    pub(crate) fn new(policy: &m::HttpPolicy) -> Self {
        let hsts = policy.hsts.as_ref().map(|hsts| {
            let mut value = format!("max-age={}", hsts.max_age_seconds);
            for (is_on, word) in
                [(hsts.include_subdomains, "; includeSubDomains"), (hsts.preload, "; preload")]
            {
                value.push_str(if is_on { word } else { "" });
            }
            value.into()
        });
        Self {
            digest: digest(policy).into(),
            https_redirect: policy.https_redirect,
            canonical_host: (!policy.canonical_host.is_empty())
                .then(|| policy.canonical_host.as_str().into()),
            hsts,
            redirects: Redirects::new(&policy.redirects),
            access: policy.access.as_ref().map(|access| Access {
                networks: Networks::new(&access.allow, &access.deny),
                countries: Countries::new(&access.allow_countries, &access.deny_countries),
                others: access.allow.is_empty(),
            }),
            limits: policy.rate_limits.iter().map(Limit::new).collect(),
            max_body: policy.max_body_bytes,
            max_head: policy.max_header_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            maintenance: policy.maintenance.as_ref().map(|maintenance| Maintenance {
                enabled: maintenance.enabled,
                retry_after: maintenance.retry_after_seconds,
                served: Networks::new(&maintenance.allow, &[]),
            }),
            compression: policy.compression,
            cache: policy.cache.clone(),
            crawlers: policy.crawlers.as_ref().map(Crawlers::new),
            challenge: policy.challenge.as_ref().map(Challenge::new),
            basic_auth: policy.basic_auth.as_deref().map(BasicAuth::new),
        }
    }

    /// Its digest.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// What it says, field by field.
    fn said(&self) -> Vec<(&'static str, String)> {
        let mut said = Vec::new();
        let mut say = |field, value: Option<String>| said.extend(value.map(|value| (field, value)));
        let count = |count: usize| (count > 0).then(|| count.to_string());
        say("https_redirect", self.https_redirect.map(|is_on| is_on.to_string()));
        say("canonical_host", self.canonical_host.as_deref().map(str::to_owned));
        say("hsts", self.hsts.as_deref().map(str::to_owned));
        say("redirects", count(self.redirects.len()));
        say("access_networks", self.access.as_ref().map(|access| access.networks.len().to_string()));
        let countries = self.access.as_ref().and_then(|access| access.countries.as_ref());
        say("access_countries", countries.map(|countries| countries.len().to_string()));
        say("rate_limits", count(self.limits.len()));
        say("max_body_bytes", self.max_body.map(|most| most.to_string()));
        say("max_header_bytes", self.max_head.map(|most| most.to_string()));
        say("maintenance", self.maintenance.as_ref().map(|maintenance| maintenance.enabled.to_string()));
        say("compression", self.compression.map(|is_on| is_on.to_string()));
        say("cache", self.cache.as_ref().map(|cache| cache.enabled.to_string()));
        say("crawlers", self.crawlers.as_ref().map(|crawlers| crawlers.len().to_string()));
        say("challenge", self.challenge.as_ref().map(|challenge| challenge.said().to_owned()));
        say("basic_auth", self.basic_auth.as_ref().map(BasicAuth::said));
        said
    }
}

/// The digest of a policy: equal policies have equal ones.
pub(crate) fn digest(policy: &m::HttpPolicy) -> String {
    let mut text = String::with_capacity(32);
    for byte in blake3::hash(&policy.encode_to_vec()).as_bytes().iter().take(16) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The policies that hold for a host: its route's, then its tenant's, then its brand's.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    pub(crate) own: Option<Arc<Policy>>,
    pub(crate) tenant: Option<Arc<Policy>>,
    pub(crate) brand: Option<Arc<Policy>>,
}

impl Policies {
    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_none() && self.tenant.is_none() && self.brand.is_none()
    }

    /// The name's word, else its tenant's, else its brand's.
    fn pick<'a, T>(&'a self, field: impl Fn(&'a Policy) -> Option<T>) -> Option<T> {
        let field = |policy: &'a Option<Arc<Policy>>| policy.as_deref().and_then(&field);
        field(&self.own).or_else(|| field(&self.tenant)).or_else(|| field(&self.brand))
    }

    /// What the name says itself, then what its tenant says, then its brand: fields and values, of lists their length.
    #[must_use]
    pub fn said(&self) -> [Vec<(&'static str, String)>; 3] {
        [&self.own, &self.tenant, &self.brand]
            .map(|policy| policy.as_deref().map(Policy::said).unwrap_or_default())
    }

    /// The value of `Strict-Transport-Security` for answers over TLS.
    #[must_use]
    pub fn hsts(&self) -> Option<&str> {
        self.pick(|policy| policy.hsts.as_deref())
    }

    /// Whether answers are compressed.
    #[must_use]
    pub fn compresses(&self) -> bool {
        !self.is_empty() && self.pick(|policy| policy.compression).unwrap_or_default()
    }

    /// What is stored of the site's responses; `None`: nothing is.
    #[must_use]
    pub fn cache(&self) -> Option<&m::CachePolicy> {
        self.pick(|policy| policy.cache.as_ref()).filter(|cache| cache.enabled)
    }

    /// Whether it matters which crawler a request is of.
    #[must_use]
    pub fn asks_for_crawlers(&self) -> bool {
        !self.is_empty()
            && (self.pick(|policy| policy.crawlers.as_ref()).is_some() || self.asking().is_some())
    }

    /// What clients may have to do before the site sees them; `None`: nothing.
    #[must_use]
    pub fn challenge(&self) -> Option<Work> {
        self.asking().map(|challenge| challenge.work)
    }

    /// Whether passes of browsers may come with requests, which are the business of nobody behind the edge. They do for a while after a challenge was
    /// switched off.
    #[must_use]
    pub fn knows_passes(&self) -> bool {
        !self.is_empty() && self.pick(|policy| policy.challenge.as_ref()).is_some()
    }

    fn asking(&self) -> Option<&Challenge> {
        self.pick(|policy| policy.challenge.as_ref()).filter(|challenge| !challenge.is_off)
    }

    /// What requests must show, on some paths at least; `None`: nothing.
    #[must_use]
    pub fn basic_auth(&self) -> Option<&BasicAuth> {
        self.pick(|policy| policy.basic_auth.as_ref()).filter(|auth| auth.enabled)
    }

    /// Whether it matters in which country a client is.
    #[must_use]
    pub fn asks_for_countries(&self) -> bool {
        self.pick(|policy| policy.access.as_ref()).is_some_and(|access| access.countries.is_some())
    }

    /// The most bytes that a body may have.
    #[must_use]
    pub fn max_body(&self) -> Option<u64> {
        self.pick(|policy| policy.max_body)
    }

    /// Decides on a request for a name of `tenant`; `None`: it goes on.
    #[must_use]
    pub fn rule(&self, asked: &Asked<'_>, tenant: &str, around: &impl Circumstances) -> Option<Ruling> {
        if self.is_empty() {
            return None;
        }
        self.refuse(asked, around)
            .or_else(|| self.prove(asked))
            .or_else(|| self.judge_crawler(asked, around))
            .or_else(|| self.count(asked, tenant, around))
            .or_else(|| self.lead_elsewhere(asked, around))
            .or_else(|| self.challenge_all(asked))
            .or_else(|| self.measure(asked))
    }

    /// The challenge that a request would have to pass; `None`: there is none, or it passed it, or it need not.
    fn unpassed(&self, asked: &Asked<'_>) -> Option<&Challenge> {
        let challenge = self.asking().filter(|_| !asked.is_shown)?;
        let is_verified = asked.crawler.is_some_and(|crawler| crawler.proof == Proof::Verified);
        (!is_verified && !challenge.exempts(asked.path, asked.address)).then_some(challenge)
    }

    fn prove(&self, asked: &Asked<'_>) -> Option<Ruling> {
        let is_there = asked.path.split('?').next() == Some(PROOF_PATH);
        (is_there && asked.is_post && self.asking().is_some()).then_some(Ruling::Proof)
    }

    fn judge_crawler(&self, asked: &Asked<'_>, around: &impl Circumstances) -> Option<Ruling> {
        let crawler = asked.crawler?;
        let is_impostor = crawler.proof == Proof::Impostor;
        let word = self.pick(|policy| policy.crawlers.as_ref()).and_then(|rules| rules.word_on(crawler));
        let Some((action, whose)) = word else {
            return self.unpassed(asked).filter(|_| is_impostor).map(|_| Ruling::Challenge(None));
        };
        let refused = match action {
            Action::Allow => None,
            Action::Deny => Some(Ruling::Crawler),
            Action::PerMinute(per_minute) => {
                let budget = Budget { per_minute, edges: around.edges() };
                let who = (whose, is_impostor);
                let after = around.rates().spend(name_of(asked), who, budget, around.now());
                after.map(Ruling::CrawlerBudget)
            }
        }?;
        // A person whose browser has such a name can show that it is one.
        if is_impostor && self.asking().is_some() && asked.is_shown {
            return None;
        }
        let may_show = is_impostor && self.unpassed(asked).is_some();
        Some(if may_show { Ruling::Challenge(None) } else { refused })
    }

    fn challenge_all(&self, asked: &Asked<'_>) -> Option<Ruling> {
        self.unpassed(asked).filter(|challenge| challenge.asks_all).map(|_| Ruling::Challenge(None))
    }

    fn refuse(&self, asked: &Asked<'_>, around: &impl Circumstances) -> Option<Ruling> {
        let access = self.pick(|policy| policy.access.as_ref());
        if access.is_some_and(|access| !access.lets_in(asked.address, around)) {
            return Some(Ruling::Forbidden);
        }
        let maintenance =
            self.pick(|policy| policy.maintenance.as_ref()).filter(|maintenance| maintenance.enabled)?;
        let is_served = maintenance.served.word_on(asked.address).unwrap_or_default();
        (!is_served).then_some(Ruling::Maintenance(maintenance.retry_after))
    }

    /// Browsers that showed that they are some have each limit once more, for themselves: they are not held up by those that did not.
    fn count(&self, asked: &Asked<'_>, tenant: &str, around: &impl Circumstances) -> Option<Ruling> {
        let own = self.own.iter().map(|policy| (policy, name_of(asked)));
        let brand = self.brand.iter().map(|policy| (policy, Scope::OfBrand(tenant)));
        let tenant = self.tenant.iter().map(|policy| (policy, Scope::Tenant(tenant)));
        let mut limited =
            own.chain(tenant).chain(brand).filter(|(policy, _)| !policy.limits.is_empty()).peekable();
        limited.peek()?;
        let is_shown = asked.is_shown && self.asking().is_some();
        let after = limited.find_map(|(policy, scope)| {
            let (now, rates) = (around.now(), around.rates());
            let scope = if is_shown { Scope::Shown(&scope) } else { scope };
            policy.limits.iter().find_map(|limit| rates.take(scope, limit, asked.address, now))
        })?;
        Some(match self.unpassed(asked) {
            Some(_) => Ruling::Challenge(Some(after)),
            None => Ruling::TooMany(after),
        })
    }

    fn measure(&self, asked: &Asked<'_>) -> Option<Ruling> {
        if self.pick(|policy| policy.max_head).is_some_and(|most| asked.head > most) {
            return Some(Ruling::HeadTooLarge);
        }
        let is_too_large = self.max_body().zip(asked.body).is_some_and(|(most, body)| body > most);
        is_too_large.then_some(Ruling::BodyTooLarge)
    }

    /// A redirect of the path leads at once to where all others would lead in the end.
    fn lead_elsewhere(&self, asked: &Asked<'_>, around: &impl Circumstances) -> Option<Ruling> {
        let canonical = self.own.as_ref().and_then(|policy| policy.canonical_host.as_deref());
        let host = canonical.unwrap_or(asked.host);
        let to_https = !asked.tls
            && self.pick(|policy| policy.https_redirect).unwrap_or_default()
            && around.has_certificate(host);
        let (scheme, port) = match (asked.tls, to_https) {
            (true, _) => ("https://", asked.port),
            (false, true) => ("https://", around.https_port()),
            (false, false) => ("http://", asked.port),
        };
        let found = self.own.as_ref().and_then(|policy| policy.redirects.find(asked.path));
        if let Some((redirect, target)) = found {
            let location =
                if target.starts_with('/') { [scheme, host, port, &target].concat() } else { target };
            return Some(Ruling::Redirect { code: redirect.code, location });
        }
        if host == asked.host && !to_https {
            return None;
        }
        let location = [scheme, host, port, asked.path].concat();
        Some(Ruling::Redirect { code: if asked.is_read { 301 } else { 308 }, location })
    }
}

/// Whose requests those for this host are counted with: all names that a wildcard stands for are one.
fn name_of<'a>(asked: &Asked<'a>) -> Scope<'a> {
    match asked.host.split_once('.').filter(|_| asked.is_below) {
        Some((_, above)) => Scope::Below(above),
        None => Scope::Name(asked.host),
    }
}

#[cfg(test)]
mod crawler_tests;
#[cfg(test)]
mod tests;
