//! Purges: which entries are dead.

use std::sync::Arc;

use hosting_intent::message as m;
use m::cache_purge::What;

use crate::Key;

/// The purges that were in effect at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Grows when generations go back.
    pub life: u64,
    /// The generation of the last one.
    pub generation: u64,
}

/// A tenant's purges, as they are in effect.
#[derive(Debug, Clone, Default)]
pub struct Purges {
    life: u64,
    last: Option<Arc<m::CachePurges>>,
}

impl Purges {
    /// `life` grows when generations go back: then all that was stored before is dead.
    #[must_use]
    pub fn new(life: u64, last: Option<Arc<m::CachePurges>>) -> Self {
        Self { life, last }
    }

    /// What an entry carries whose node is asked now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { life: self.life, generation: self.last.as_ref().map_or(0, |last| last.generation) }
    }

    /// Whether what was asked for at `stamp` is dead.
    pub(crate) fn kill(&self, stamp: Stamp, key: &Key, tags: &[Box<[u8]>]) -> bool {
        if stamp == self.stamp() {
            return false;
        }
        // A generation that is not there yet is one of a tenant's life that nobody knows of any more.
        if stamp.life != self.life || stamp.generation > self.stamp().generation {
            return true;
        }
        let Some(last) = &self.last else { return false };
        if stamp.generation < last.all {
            return true;
        }
        let later = last.recent.iter().filter(|purge| purge.generation > stamp.generation);
        later.filter_map(|purge| purge.what.as_ref()).any(|what| match what {
            What::Host(host) => key.name() == host.as_bytes(),
            What::Url(url) => is_at(key, url.as_bytes()),
            What::Tag(tag) => tags.iter().any(|known| **known == *tag.as_bytes()),
        })
    }
}

/// Whether a page lies at a URL: host and path, with `*` at its end for all that begin like it.
fn is_at(key: &Key, url: &[u8]) -> bool {
    let slash = url.iter().position(|byte| *byte == b'/').unwrap_or(url.len());
    let (host, path) = (url.get(..slash).unwrap_or_default(), url.get(slash..).unwrap_or_default());
    key.name() == host
        && match path.strip_suffix(b"*") {
            Some(begin) => key.path().starts_with(begin),
            None => key.path() == path,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purges(life: u64, generation: u64, all: u64, recent: &[(u64, What)]) -> Purges {
        let recent = recent
            .iter()
            .map(|(generation, what)| m::CachePurge { generation: *generation, what: Some(what.clone()) });
        Purges::new(life, Some(Arc::new(m::CachePurges { generation, all, recent: recent.collect() })))
    }

    #[test]
    fn what_was_asked_for_before_a_purge_of_it_is_dead() {
        let key = Key::new("t", "w", true, b"a.example:8443", b"/blog/1?x=y");
        let tags: Vec<Box<[u8]>> = vec![b"post-1"[..].into()];
        let is_dead =
            |purges: &Purges, life, generation| purges.kill(Stamp { life, generation }, &key, &tags);
        for (what, hits) in [
            (What::Host("a.example".into()), true),
            (What::Host("b.example".into()), false),
            (What::Url("a.example/blog/1?x=y".into()), true),
            (What::Url("a.example/blog/1".into()), false),
            (What::Url("a.example/blog/*".into()), true),
            (What::Url("a.example/*".into()), true),
            (What::Url("b.example/blog/*".into()), false),
            (What::Url("a.example/blog/2*".into()), false),
            (What::Tag("post-1".into()), true),
            (What::Tag("post-".into()), false),
        ] {
            let purges = purges(0, 9, 3, &[(7, what.clone())]);
            assert_eq!(is_dead(&purges, 0, 6), hits, "{what:?}");
            assert!(!is_dead(&purges, 0, 7), "{what:?}: asked for after it");
            assert!(is_dead(&purges, 0, 2), "all that is older than the oldest");
            assert!(is_dead(&purges, 1, 8) && is_dead(&purges, 0, 10), "of another life");
        }
        let nothing = Purges::default();
        assert!(!is_dead(&nothing, 0, 0));
        assert_eq!(purges(2, 9, 3, &[]).stamp(), Stamp { life: 2, generation: 9 });
    }
}
