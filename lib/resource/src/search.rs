//! By which texts a resource is found, and how an index finds them (ADR 17).
//!
//! `search` looks for a text in the label of a resource, and in its id, letter case of ASCII aside. Terms are what the store indexes for
//! that: the rest of a name from a few of its places on. Every stretch of [`STRIDE`] letters and digits holds such a place, so whatever
//! contains a longer text has a term that begins with the text without at most `STRIDE - 1` characters.

use std::collections::BTreeSet;

use crate::{Facet, IdPolicy, KindInfo};

/// The facet that holds terms.
pub const TERM: &str = "term";
/// The facet of host names that holds all of a name behind each dot, and the name itself.
pub const SUFFIX: &str = "suffix";

/// In a word, a term begins with every so many-th character.
const STRIDE: usize = 4;
/// Longest term, in characters.
const LONGEST: usize = 24;
/// A shorter text begins too many terms to be looked up.
const SHORTEST: usize = 3;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchText(String);

impl SearchText {
    /// A text as a user gives it.
    #[must_use]
    pub fn new(given: &str) -> Self {
        Self(given.to_ascii_lowercase())
    }

    /// Whether a resource of the kind is found. Ids that are random UUIDs are found by how they begin, all others by any part.
    #[must_use]
    pub fn finds(&self, info: &KindInfo, id: &str, label: &str) -> bool {
        let id_is_found = || {
            let id = id.to_ascii_lowercase();
            if has_random_ids(info) { id.starts_with(&self.0) } else { id.contains(&self.0) }
        };
        label.to_ascii_lowercase().contains(&self.0) || id_is_found()
    }

    /// Texts with one of which a term of every name begins that contains this one; `None`: it is too short to tell.
    #[must_use]
    pub fn beginnings(&self) -> Option<Vec<String>> {
        let characters: Vec<char> = self.0.chars().collect();
        let word = characters.iter().take_while(|character| character.is_alphanumeric()).count();
        let next_word = characters
            .windows(2)
            .position(|pair| !pair[0].is_alphanumeric() && pair[1].is_alphanumeric())
            .map(|place| place + 1);
        let places: Vec<usize> = if word >= STRIDE && characters.len() >= STRIDE - 1 + SHORTEST {
            (0..STRIDE).collect()
        } else {
            next_word.filter(|place| place + SHORTEST <= characters.len()).into_iter().collect()
        };
        (!places.is_empty()).then(|| places.into_iter().map(|place| cut(&characters[place..])).collect())
    }

    /// With what a term begins of every name in which a word begins with this text; `None`: no word begins so.
    #[must_use]
    pub fn word(&self) -> Option<String> {
        let begins = self.0.starts_with(char::is_alphanumeric);
        begins.then(|| cut(&self.0.chars().collect::<Vec<_>>()))
    }

    /// How ids that it finds begin, where they are found by that and not by terms; `None`: no id begins so.
    #[must_use]
    pub fn id_beginning(&self, info: &KindInfo) -> Option<&str> {
        let is_one =
            self.0.len() <= 36 && self.0.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (has_random_ids(info) && is_one).then_some(&self.0)
    }
}

fn has_random_ids(info: &KindInfo) -> bool {
    info.id == IdPolicy::Uuid
}

fn cut(characters: &[char]) -> String {
    characters.iter().take(LONGEST).collect()
}

/// The terms of a resource that [`KindInfo::has_terms`].
#[must_use]
pub fn terms(info: &KindInfo, id: &str, label: &str) -> BTreeSet<String> {
    let mut terms = BTreeSet::new();
    // What begins behind a dot is a suffix.
    add_terms(&mut terms, label, |before| info.host_labels && before == Some('.'));
    if info.host_labels {
        terms.remove(&cut(&label.to_ascii_lowercase().chars().collect::<Vec<_>>()));
    }
    if !has_random_ids(info) {
        add_terms(&mut terms, id, |_| false);
    }
    terms
}

/// Facets by which a resource is found: its terms, and the suffixes of a host name, by which a zone finds the names under it too.
#[must_use]
pub fn facets(info: &KindInfo, id: &str, label: &str) -> Vec<Facet> {
    if !info.has_terms() {
        return Vec::new();
    }
    let mut facets: Vec<Facet> =
        terms(info, id, label).into_iter().map(|value| Facet { field: TERM, value }).collect();
    let mut rest = info.host_labels.then_some(label);
    while let Some(suffix) = rest {
        facets.push(Facet { field: SUFFIX, value: suffix.to_owned() });
        rest = suffix.split_once('.').map(|(_, above)| above);
    }
    facets
}

/// Adds the terms of a text but those that begin behind a character that `is_left_out`.
fn add_terms(terms: &mut BTreeSet<String>, text: &str, is_left_out: impl Fn(Option<char>) -> bool) {
    let characters: Vec<char> = text.to_ascii_lowercase().chars().collect();
    let mut in_word = 0;
    for (place, character) in characters.iter().enumerate() {
        if !character.is_alphanumeric() {
            in_word = 0;
            continue;
        }
        let before = place.checked_sub(1).and_then(|before| characters.get(before)).copied();
        if in_word % STRIDE == 0 && !is_left_out(before) {
            terms.insert(cut(&characters[place..]));
        }
        in_word += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    /// All that the index holds of a resource.
    fn indexed(kind: Kind, id: &str, label: &str) -> BTreeSet<String> {
        facets(kind.info(), id, label).into_iter().map(|facet| facet.value).collect()
    }

    #[test]
    fn a_host_name_has_few_terms() {
        let id = "0d9c2f9e-3f39-4c36-b0a4-7d0c3c7f2a11";
        let all = terms(Kind::Fqdn.info(), id, "guestbook.acme-hosting.test");
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            ["hosting.test", "ing.test", "k.acme-hosting.test", "tbook.acme-hosting.test"]
        );
        let all = terms(Kind::Tenant.info(), "t_ab12cd34ef", "Acme-1001");
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            ["1001", "ab12cd34ef", "acme-1001", "cd34ef", "ef", "t_ab12cd34ef"]
        );
        assert_eq!(
            facets(Kind::ZoneRecord.info(), id, "www.acme.test").len(),
            0,
            "its zone is looked through"
        );
    }

    #[test]
    fn what_contains_a_text_is_found_by_what_the_text_says() {
        let names = [
            "guestbook.acme-hosting.test",
            "a.b.c.d.example",
            "xn--bcher-kva.example",
            "a1.shop-2.example",
            "verylonglabelthatgoesonandonforever.and-another-one.example",
            "---.example",
        ];
        let (mut looked_up, mut short) = (0, 0);
        for (kind, id) in
            [(Kind::Fqdn, "0d9c2f9e-3f39-4c36-b0a4-7d0c3c7f2a11"), (Kind::Tenant, "t_ab12cd34ef")]
        {
            for name in names {
                let all = indexed(kind, id, name);
                let texts = if kind == Kind::Tenant { vec![name, id] } else { vec![name] };
                for text in texts {
                    for from in 0..text.len() {
                        for upto in from + 1..=text.len() {
                            let part = SearchText::new(&text[from..upto].to_ascii_uppercase());
                            assert!(part.finds(kind.info(), id, name));
                            let Some(beginnings) = part.beginnings() else {
                                assert!(upto - from < 2 * STRIDE, "{part:?} is long enough");
                                short += 1;
                                continue;
                            };
                            looked_up += 1;
                            assert!(
                                beginnings.iter().any(|begin| all.iter().any(|term| term.starts_with(begin))),
                                "{part:?} of {text}: {beginnings:?} in {all:?}"
                            );
                            assert!(beginnings.iter().all(|begin| begin.chars().count() >= SHORTEST));
                        }
                    }
                }
            }
        }
        assert!(looked_up > 2_000 && short > 200, "{looked_up} {short}");
    }

    #[test]
    fn random_ids_are_found_by_how_they_begin() {
        let id = "0d9c2f9e-3f39-4c36-b0a4-7d0c3c7f2a11";
        let info = Kind::Fqdn.info();
        assert!(SearchText::new("0D9c2f9e-3").finds(info, id, "a.test"));
        assert_eq!(SearchText::new("0D9c2f9e-3").id_beginning(info), Some("0d9c2f9e-3"));
        assert!(!SearchText::new("3f39-4c36").finds(info, id, "a.test"));
        assert_eq!(SearchText::new("shop").id_beginning(info), None);
        assert!(SearchText::new("12CD34").finds(Kind::Tenant.info(), "t_ab12cd34ef", "x"));
        assert_eq!(SearchText::new("12CD34").id_beginning(Kind::Tenant.info()), None);
        assert_eq!(SearchText::new("shop").word().as_deref(), Some("shop"));
        assert_eq!(SearchText::new("-shop").word(), None);
    }
}
