//! Paths that lead elsewhere. A look costs the path's segments, however many redirects there are.

use std::collections::HashMap;

use ahash::RandomState;
use hosting_intent::http_policy::REST;
use hosting_intent::message as m;

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Redirect {
    pub(super) code: u16,
    to: Box<str>,
    /// What stood for the `*` follows.
    takes_rest: bool,
}

/// Redirects by path.
#[derive(Debug)]
pub(super) struct Redirects {
    exact: HashMap<Box<str>, Redirect, RandomState>,
    /// By the path with its last slash.
    below: HashMap<Box<str>, Redirect, RandomState>,
}

impl Redirects {
    pub(super) fn new(redirects: &[m::PathRedirect]) -> Self {
        let mut all = Self { exact: HashMap::default(), below: HashMap::default() };
        for m::PathRedirect { from, to, code } in redirects {
            let redirect = Redirect {
                code: u16::try_from(*code).unwrap_or(301),
                takes_rest: to.ends_with(REST),
                to: to.strip_suffix('*').filter(|_| to.ends_with(REST)).unwrap_or(to).into(),
            };
            match from.strip_suffix('*').filter(|_| from.ends_with(REST)) {
                Some(below) => all.below.insert(below.into(), redirect),
                None => all.exact.insert(from.as_str().into(), redirect),
            };
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// The redirect of a target and where it leads: the path itself, else the longest one that it begins with.
    pub(super) fn find(&self, target: &str) -> Option<(&Redirect, String)> {
        if self.exact.is_empty() && self.below.is_empty() {
            return None;
        }
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let (redirect, rest) = match self.exact.get(path) {
            Some(redirect) => (redirect, ""),
            None if self.below.is_empty() => return None,
            None => path.rmatch_indices('/').find_map(|(slash, _)| {
                let (begin, rest) = path.split_at_checked(slash + 1)?;
                Some((self.below.get(begin)?, rest))
            })?,
        };
        let rest = if redirect.takes_rest { rest } else { "" };
        let query = if redirect.to.contains('?') { "" } else { query };
        Some((redirect, [&*redirect.to, rest, query].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(redirects: &[(&str, &str)]) -> Redirects {
        let message = |(from, to): &(&str, &str)| m::PathRedirect {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
            code: 301,
        };
        Redirects::new(&redirects.iter().map(message).collect::<Vec<_>>())
    }

    #[test]
    fn a_path_leads_where_the_longest_that_fits_says() {
        let all = of(&[
            ("/old", "/new"),
            ("/old/*", "/new/*"),
            ("/old/a/*", "https://a.example/x/*"),
            ("/old/a/b", "/ab?c=d"),
            ("/gone/*", "/"),
        ]);
        let to = |path: &str| all.find(path).map(|(_, to)| to);
        for (path, wanted) in [
            ("/old", "/new"),
            ("/old?a=b", "/new?a=b"),
            ("/old/", "/new/"),
            ("/old/x/y?z", "/new/x/y?z"),
            ("/old/a", "/new/a"),
            ("/old/a/", "https://a.example/x/"),
            ("/old/a/c/d", "https://a.example/x/c/d"),
            ("/old/a/b", "/ab?c=d"),
            ("/old/a/b?e=f", "/ab?c=d"),
            ("/gone/x/y", "/"),
            ("/old//evil.example", "/new//evil.example"),
        ] {
            assert_eq!(to(path).as_deref(), Some(wanted), "{path}");
        }
        for path in ["/", "/older", "/gone", "/x/old", "", "*"] {
            assert_eq!(to(path), None, "{path}");
        }
        let everything = of(&[("/*", "https://www.example.com/*")]);
        let (_, to) = everything.find("/a/b?c").unwrap();
        assert_eq!(to, "https://www.example.com/a/b?c");
        assert!(of(&[]).find("/").is_none());
    }
}
