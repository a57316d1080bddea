//! What a brand says for all its tenants.

use std::sync::Arc;

use hosting_intent::message::{self as m, LogAddresses};
use hosting_intent::pages::{DEFAULT, Piece, pieces};

use crate::policy::Policy;

/// A brand's word.
#[derive(Debug)]
pub struct BrandWord {
    /// By their words, in ascending order.
    pages: Box<[(Box<str>, Template)]>,
    pub(crate) policy: Option<Arc<Policy>>,
    /// What is written of clients' addresses.
    pub log_addresses: LogAddresses,
}

/// A page with places for what is only known when it is served.
#[derive(Debug)]
pub struct Template(Box<[Part]>);

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Place(Box<str>),
}

impl Template {
    /// Reads HTML that passed its checks.
    fn new(html: &str) -> Self {
        let parts = pieces(html).unwrap_or_default().into_iter().map(|piece| match piece {
            Piece::Text(text) => Part::Text(text.into()),
            Piece::Place(place) => Part::Place(place.into()),
        });
        Self(parts.collect())
    }

    /// The page. `fill`: what stands in a place (one of [`hosting_intent::pages::PLACES`]), as text; it is escaped here.
    #[must_use]
    pub fn fill<'v>(&self, fill: impl Fn(&str) -> &'v str) -> String {
        let mut html = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => html.push_str(text),
                Part::Place(place) => push_escaped(&mut html, fill(place)),
            }
        }
        html
    }
}

/// Text as it stands in HTML, in an attribute's quotes too.
fn push_escaped(html: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
}

impl BrandWord {
    /// Reads a brand that passed its checks.
    #[must_use]
    pub fn new(brand: &m::Brand) -> Self {
        let policy = brand.http.as_deref().map(|policy| Arc::new(Policy::new(policy)));
        let pages = brand.pages.iter().map(|page| (page.word.as_str().into(), Template::new(&page.html)));
        Self { pages: pages.collect(), policy, log_addresses: brand.log_addresses() }
    }

    /// The brand's page of this word, or the one for all others.
    #[must_use]
    pub fn page(&self, word: &str) -> Option<&Template> {
        let find = |word: &str| {
            let found = self.pages.binary_search_by(|(known, _)| (**known).cmp(word)).ok()?;
            self.pages.get(found).map(|(_, page)| page)
        };
        find(word).or_else(|| find(DEFAULT))
    }

    /// The words that it has pages of.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.pages.iter().map(|(word, _)| &**word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(pages: &[(&str, &str)]) -> BrandWord {
        let page = |(word, html): &(&str, &str)| m::BrandPage { word: (*word).into(), html: (*html).into() };
        let brand = m::Brand { pages: pages.iter().map(page).collect(), ..m::Brand::default() };
        BrandWord::new(&brand)
    }

    #[test]
    fn a_page_is_the_one_of_its_word_or_the_one_for_all_others() {
        let brand = word(&[("busy", "b"), ("default", "d"), ("suspended", "s")]);
        let shown = |brand: &BrandWord, word: &str| brand.page(word).map(|page| page.fill(|_| ""));
        for (word, wanted) in [("busy", "b"), ("suspended", "s"), ("maintenance", "d"), ("", "d")] {
            assert_eq!(shown(&brand, word).as_deref(), Some(wanted), "{word}");
        }
        assert_eq!(shown(&word(&[("busy", "b")]), "suspended"), None);
    }

    #[test]
    fn what_a_client_chose_is_text_in_a_page() {
        let brand = word(&[("default", "<a title=\"{{host}}\">{{message}}</a>{{status}}")]);
        let fill = |place: &str| match place {
            "host" => "\"><script>",
            "message" => "a & 'b'",
            _ => "503",
        };
        assert_eq!(
            brand.page("busy").unwrap().fill(fill),
            "<a title=\"&quot;&gt;&lt;script&gt;\">a &amp; &#39;b&#39;</a>503"
        );
    }
}
