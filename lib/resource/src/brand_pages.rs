//! What visitors of a brand's sites see where the site itself cannot answer.

use std::collections::BTreeMap;

use hosting_intent::pages as rules;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SpecError;
use crate::faults::Faults;

/// HTML by the word of the page: `suspended`, `maintenance`, `unavailable` and others; `default` for all that are not named. In a page
/// `{{status}}`, `{{title}}`, `{{message}}`, `{{host}}` and `{{request_id}}` stand for what is only known when it is served. At most 16 KiB each, and
/// 128 KiB together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BrandPages(pub BTreeMap<String, String>);

impl BrandPages {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// A page that no edge has, one that is too large, or one with a place that stands for nothing.
    pub(crate) fn check(&self, field: &str) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        for (word, html) in &self.0 {
            let at = format!("{field}.{word}");
            if word != rules::DEFAULT && !rules::PAGES.contains(&word.as_str()) {
                let words = rules::PAGES.join(", ");
                let problem = format!("{word:?} is no page; one of {}, {words}", rules::DEFAULT);
                faults.fault(SpecError::invalid(field, problem));
            }
            faults.note(rules::check_html(html).map_err(|problem| SpecError::invalid(at, problem)));
        }
        let bytes: usize = self.0.values().map(String::len).sum();
        if bytes > rules::MAX_PAGES_BYTES {
            let problem = format!("{bytes} bytes together; at most {}", rules::MAX_PAGES_BYTES);
            faults.fault(SpecError::invalid(field, problem));
        }
        faults.end()
    }
}

/// What edges write of clients' addresses into their access logs. Their own settings may say less, and then count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogAddresses {
    /// As the settings of the edges say.
    #[default]
    Edge,
    /// The first 24 bits of an IPv4 address, the first 48 of an IPv6 address.
    Network,
    /// Nothing.
    None,
}

impl LogAddresses {
    /// Whether the brand says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brand_is_told_which_page_is_none() {
        let check = |pages: &[(&str, String)]| {
            let pages = pages.iter().map(|(word, html)| ((*word).to_owned(), html.clone())).collect();
            BrandPages(pages).check("pages").map_err(|error| error.to_string())
        };
        let html = || "<p>{{message}}</p>".to_owned();
        assert_eq!(check(&[("default", html()), ("suspended", html())]), Ok(()));
        let told = check(&[("suspendet", html())]).unwrap_err();
        assert!(
            told.contains("pages") && told.contains("\"suspendet\" is no page") && told.contains("suspended"),
            "{told}"
        );
        let told = check(&[("busy", "{{reason}}".into())]).unwrap_err();
        assert!(told.contains("pages.busy") && told.contains("request_id"), "{told}");
        let large = || "a".repeat(rules::MAX_HTML_BYTES);
        let many: Vec<_> = rules::PAGES.iter().take(9).map(|word| (*word, large())).collect();
        assert!(check(&many[..8]).is_ok() && check(&many).unwrap_err().contains("at most 131072"));
    }
}
