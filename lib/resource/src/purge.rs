//! What a tenant purged from the caches of edges.

use hosting_intent::{cache as rules, name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::{SpecError, check};

/// Things that one purge may name.
const MOST: usize = 30;

/// Body of `POST /tenants/{id}/purge-cache`: what edges no longer answer with. At most 30 things.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PurgeCache {
    /// All that is stored of the tenant's sites.
    pub everything: bool,
    /// Host names, all pages of each.
    pub hosts: Vec<String>,
    /// Pages as they are asked for, e.g. `https://www.example.com/blog/1?page=2`, whichever scheme; with `*` at the end all that begin like it.
    pub urls: Vec<String>,
    /// Pages that the site gave one of these tags, in `Cache-Tag` or `Surrogate-Key`.
    pub tags: Vec<String>,
}

/// What is purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purged {
    /// A host.
    Host(String),
    /// A host and a path.
    Url(String),
    /// A tag.
    Tag(String),
}

/// A purge of a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePurge {
    /// The generation that it made.
    pub generation: u64,
    /// What is purged.
    #[serde(flatten)]
    pub what: Purged,
}

/// A tenant's purges: a generation that grows with each, and the last ones. Older ones count as one of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CachePurges {
    /// The last purge's.
    pub generation: u64,
    /// All that is older is purged.
    pub all: u64,
    /// The oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<CachePurge>,
}

impl PurgeCache {
    /// What it purges, in one form. Nothing: everything.
    ///
    /// # Errors
    /// Each field that is wrong.
    pub fn check(self) -> Result<Vec<Purged>, SpecError> {
        let count = self.hosts.len() + self.urls.len() + self.tags.len();
        if self.everything && count > 0 {
            return Err(SpecError::invalid(
                "everything",
                "leaves nothing to name; leave out hosts, urls and tags",
            ));
        }
        if !self.everything && count == 0 {
            return Err(SpecError::invalid("everything", "must be true, or name hosts, urls or tags"));
        }
        if count > MOST {
            let problem = format!(
                "{count} things; at most {MOST} can be purged at once. A URL that ends with *, or a tag, stands for many"
            );
            let field = if self.tags.len() > MOST { "tags" } else { "urls" };
            return Err(SpecError::invalid(field, problem));
        }
        let mut faults = Faults::default();
        let mut purged = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            purged.extend(faults.note(check::fqdn(&format!("hosts[{n}]"), host)).map(Purged::Host));
        }
        for (n, url) in self.urls.iter().enumerate() {
            let url = url_of(url).map_err(|problem| SpecError::invalid(format!("urls[{n}]"), problem));
            purged.extend(faults.note(url).map(Purged::Url));
        }
        for (n, tag) in self.tags.into_iter().enumerate() {
            let checked = rules::check_tag(&tag);
            let checked = checked.map_err(|problem| SpecError::invalid(format!("tags[{n}]"), problem));
            purged.extend(faults.note(checked).map(|()| Purged::Tag(tag)));
        }
        faults.end().map(|()| purged)
    }
}

/// Host and path of a URL.
fn url_of(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    name::check_host(host).map_err(|problem| format!("{url:?}: the host {problem}"))?;
    let normal = [host, if path.is_empty() { "/" } else { path }].concat();
    rules::check_url(&normal).map(|()| normal)
}

impl CachePurges {
    /// Purges these things; nothing: everything.
    pub fn add(&mut self, purged: Vec<Purged>) {
        self.generation += 1;
        if purged.is_empty() {
            (self.all, self.recent) = (self.generation, Vec::new());
            return;
        }
        for what in purged {
            self.recent.retain(|known| known.what != what);
            self.recent.push(CachePurge { generation: self.generation, what });
        }
        let old = self.recent.len().saturating_sub(rules::MAX_PURGES);
        if let Some(last) = self.recent.drain(..old).next_back() {
            self.all = self.all.max(last.generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn checked(body: serde_json::Value) -> Result<Vec<Purged>, SpecError> {
        from_value::<PurgeCache>(body).unwrap().check()
    }

    #[test]
    fn what_is_purged_has_one_form() {
        assert_eq!(checked(json!({"everything": true})), Ok(Vec::new()));
        let body = json!({
            "hosts": ["WWW.Example.com."],
            "urls": ["https://WWW.example.com", "http://www.example.com/Blog/*", "a.example/x?y"],
            "tags": ["post-1"],
        });
        let wanted = [
            Purged::Host("www.example.com".into()),
            Purged::Url("www.example.com/".into()),
            Purged::Url("www.example.com/Blog/*".into()),
            Purged::Url("a.example/x?y".into()),
            Purged::Tag("post-1".into()),
        ];
        assert_eq!(checked(body), Ok(wanted.into()));
        for wrong in [
            json!({}),
            json!({"everything": true, "tags": ["a"]}),
            json!({"hosts": ["-"]}),
            json!({"urls": ["/path"]}),
            json!({"urls": ["https://a.example:8443/"]}),
            json!({"urls": ["ftp://a.example/"]}),
            json!({"urls": ["a.example/a b"]}),
            json!({"tags": ["a,b"]}),
            json!({"tags": vec!["a"; 31]}),
        ] {
            assert!(checked(wrong.clone()).is_err(), "{wrong}");
        }
        let both = checked(json!({"hosts": ["-"], "tags": ["a", ""]})).unwrap_err();
        assert!(matches!(both, SpecError::Several(all) if all.len() == 2));
    }

    #[test]
    fn generations_grow_and_old_purges_become_one_of_everything() {
        let tag = |n: usize| Purged::Tag(format!("t{n}"));
        let mut purges = CachePurges::default();
        purges.add(vec![tag(1), tag(2)]);
        purges.add(vec![tag(1)]);
        let known: Vec<_> =
            purges.recent.iter().map(|purge| (purge.generation, purge.what.clone())).collect();
        assert_eq!((purges.generation, purges.all, known), (2, 0, vec![(1, tag(2)), (2, tag(1))]));
        for n in 3..=rules::MAX_PURGES {
            purges.add(vec![tag(n)]);
        }
        assert_eq!((purges.all, purges.recent.len()), (0, rules::MAX_PURGES));
        purges.add(vec![tag(100), tag(101)]);
        assert_eq!((purges.all, purges.recent.len()), (2, rules::MAX_PURGES), "the two oldest went");
        purges.add(Vec::new());
        assert_eq!((purges.all, purges.recent.len()), (purges.generation, 0));
        let kept = serde_json::to_value(&purges).unwrap();
        assert_eq!(from_value::<CachePurges>(kept).unwrap(), purges);
    }
}
