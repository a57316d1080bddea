//! Which crawler a request says that it is of, and whether that is true.

use std::net::IpAddr;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use hosting_intent::message::CrawlerClass;

use super::access::Networks;

/// What is known of a crawler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// As policies and logs name it.
    pub name: String,
    /// What it is for.
    pub class: CrawlerClass,
    /// Its requests have one of these in their `User-Agent`, in any case.
    pub user_agents: Vec<String>,
    /// The networks that its operator publishes; empty: none are known.
    pub networks: Vec<String>,
}

/// What the table of crawlers has of one.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    class: CrawlerClass,
    networks: Networks,
}

/// All crawlers that are known. One look at a `User-Agent` costs its length, however many there are.
#[derive(Debug, Default)]
pub struct Agents {
    /// `None`: there are none.
    finder: Option<AhoCorasick>,
    /// Which crawler each pattern of the finder is of.
    of_pattern: Vec<u32>,
    known: Vec<Known>,
}

/// A request's crawler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crawler {
    /// Its name.
    pub agent: Arc<str>,
    /// What it is for.
    pub class: CrawlerClass,
    /// Whether it is the one that it says.
    pub proof: Proof,
}

/// Whether a request is of the crawler that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// It comes from the crawler's networks.
    Verified,
    /// It comes from elsewhere.
    Impostor,
    /// Nobody knows the crawler's networks.
    Unknown,
}

impl Agents {
    /// # Errors
    /// There are too many.
    pub fn new(agents: &[Agent]) -> Result<Self, BuildError> {
        let (mut known, mut of_pattern, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        for (index, agent) in (0u32..).zip(agents) {
            known.push(Known {
                name: agent.name.as_str().into(),
                class: agent.class,
                networks: Networks::new(&agent.networks, &[]),
            });
            for pattern in &agent.user_agents {
                of_pattern.push(index);
                patterns.push(pattern);
            }
        }
        // Of two that begin at one place the longer one counts: `Googlebot-Image` is no `Googlebot`.
        let finder = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)?;
        Ok(Self { finder: Some(finder), of_pattern, known })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The crawler that a request from this address is of; `None`: it names none.
    #[must_use]
    pub fn of(&self, user_agent: &[u8], address: IpAddr) -> Option<Crawler> {
        let found = self.finder.as_ref()?.find(user_agent)?;
        let index = *self.of_pattern.get(found.pattern().as_usize())?;
        let Known { name, class, networks } = self.known.get(usize::try_from(index).ok()?)?;
        let proof = match networks.word_on(address) {
            _ if networks.is_empty() => Proof::Unknown,
            Some(_) => Proof::Verified,
            None => Proof::Impostor,
        };
        Some(Crawler { agent: Arc::clone(name), class: *class, proof })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, class: CrawlerClass, user_agents: &[&str], networks: &[&str]) -> Agent {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Agent { name: name.into(), class, user_agents: texts(user_agents), networks: texts(networks) }
    }

    #[test]
    fn a_crawler_is_known_by_its_name_and_proven_by_its_address() {
        let agents = Agents::new(&[
            agent("google", CrawlerClass::Search, &["Googlebot"], &["66.249.64.0/19", "2001:4860:4801::/48"]),
            agent("google-image", CrawlerClass::Other, &["googlebot-image", "AdsBot"], &[]),
        ])
        .unwrap();
        let of = |user_agent: &str, address: &str| {
            let crawler = agents.of(user_agent.as_bytes(), address.parse().unwrap())?;
            Some((crawler.agent.to_string(), crawler.class, crawler.proof))
        };
        let search = |proof| Some(("google".to_owned(), CrawlerClass::Search, proof));
        let full = "Mozilla/5.0 (compatible; GOOGLEBOT/2.1; +http://www.google.com/bot.html)";
        assert_eq!(of(full, "66.249.66.1"), search(Proof::Verified));
        assert_eq!(of(full, "::ffff:66.249.66.1"), search(Proof::Verified));
        assert_eq!(of(full, "2001:4860:4801::9"), search(Proof::Verified));
        assert_eq!(of(full, "192.0.2.1"), search(Proof::Impostor));
        let image = Some(("google-image".to_owned(), CrawlerClass::Other, Proof::Unknown));
        assert_eq!(of("Googlebot-Image/1.0", "192.0.2.1"), image);
        assert_eq!(of("adsbot", "192.0.2.1"), image);
        assert_eq!(of("Mozilla/5.0 Firefox/140.0", "66.249.66.1"), None);
        assert_eq!(of("", "66.249.66.1"), None);
        assert!(Agents::new(&[]).unwrap().of(b"Googlebot", [192, 0, 2, 1].into()).is_none());
    }
}
