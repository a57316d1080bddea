//! Whom a policy asks to show that it is a browser.

use std::net::IpAddr;

use hosting_intent::message as m;

use super::access::Networks;

/// Who is asked, and who never is.
#[derive(Debug)]
pub(super) struct Challenge {
    /// Everybody; else only who is suspicious.
    pub(super) asks_all: bool,
    /// Nobody is asked, but what passes say is still taken out of requests.
    pub(super) is_off: bool,
    paths: Box<[Box<str>]>,
    networks: Networks,
    pub(super) work: Work,
}

/// What a client has to do, and what it gets for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Zero bits that the digest begins with.
    pub difficulty: u32,
    /// How long the pass holds.
    pub pass_seconds: u32,
}

impl Challenge {
    pub(super) fn new(policy: &m::ChallengePolicy) -> Self {
        Self {
            asks_all: policy.mode() == m::ChallengeMode::All,
            is_off: policy.mode() == m::ChallengeMode::Unspecified,
            paths: policy.exempt_paths.iter().map(|path| path.as_str().into()).collect(),
            networks: Networks::new(&policy.exempt_networks, &[]),
            work: Work { difficulty: policy.difficulty, pass_seconds: policy.pass_seconds },
        }
    }

    /// Whether a request for this target, from this address, is never asked.
    pub(super) fn exempts(&self, target: &str, address: IpAddr) -> bool {
        let path = target.split('?').next().unwrap_or_default();
        (self.paths.iter().any(|exempt| path.starts_with(&**exempt)) && is_plain(path))
            || self.networks.word_on(address).is_some()
    }

    /// For who looks into policies.
    pub(super) fn said(&self) -> &'static str {
        match (self.is_off, self.asks_all) {
            (true, _) => "off",
            (false, true) => "all",
            (false, false) => "suspicious",
        }
    }
}

/// Whether a site takes a path as it is written. One that a site would shorten (`/api/../admin`) could begin like another than it is.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !lower.split('/').any(is_dots)
        && !["//", "\\", "%2e", "%2f", "%5c", "%25"].iter().any(|hidden| lower.contains(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_exempt_as_a_site_would_take_it() {
        let challenge = Challenge::new(&m::ChallengePolicy {
            exempt_paths: vec!["/api/".into(), "/.well-known/".into()],
            exempt_networks: vec!["198.51.100.0/24".into()],
            ..m::ChallengePolicy::default()
        });
        let exempts = |path| challenge.exempts(path, [192, 0, 2, 1].into());
        for path in ["/api/", "/api/a%20b?c=/../", "/.well-known/x", "/api/a..b/.c"] {
            assert!(exempts(path), "{path}");
        }
        for path in [
            "/",
            "/apis",
            "/api",
            "/x/api/",
            "/api/../admin",
            "/api/..",
            "/api/%2e%2E/admin",
            "/api/..%2fadmin",
            "/api//x",
            "/api/.;a/x",
            "/api/..;/admin",
            "/api/\\..\\admin",
            "/api/%252e%252e/admin",
            "/?/api/",
        ] {
            assert!(!exempts(path), "{path}");
        }
        assert!(challenge.exempts("/", [198, 51, 100, 7].into()));
    }
}
