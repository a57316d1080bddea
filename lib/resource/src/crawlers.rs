//! What edges do with the requests of search engines, AI crawlers and other programs that say who they are.

use hosting_intent::crawlers as rules;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::{SpecError, check};

/// What is done with requests whose `User-Agent` is that of a known crawler. What no rule is for is a request like any other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Crawlers {
    /// At most 50. A rule of an agent goes before that of its class.
    pub rules: Vec<CrawlerRule>,
}

/// What is done with the requests of one crawler, or of all of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CrawlerRule {
    /// A crawler as the list of the edges names it: `googlebot`. Either this or `class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// A class of crawlers. A budget is for all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<CrawlerClass>,
    /// For requests from the networks that the crawler's operator publishes, or from anywhere where edges know none of it.
    pub action: CrawlerAction,
    /// For requests under the crawler's name from elsewhere than those networks.
    #[serde(default = "denied")]
    pub impostors: CrawlerAction,
}

/// What a crawler is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CrawlerClass {
    /// Search engines.
    Search,
    /// Training, search and assistants of language models.
    Ai,
    /// Tools that sell what they learn of sites.
    Seo,
    /// Whether a site is there.
    Monitor,
    /// Previews of links, archives and the like.
    Other,
}

/// What is done with a crawler's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CrawlerAction {
    /// They go on like any other.
    Allow,
    /// They get 403.
    Deny,
    /// At most so many in a minute for the host name, at all edges of the cluster together; the others get 429. From 1 to 1 000 000.
    PerMinute(u32),
}

const fn denied() -> CrawlerAction {
    CrawlerAction::Deny
}

impl Crawlers {
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        if self.rules.len() > rules::MAX_RULES {
            let problem = format!("at most {} can be given", rules::MAX_RULES);
            return Err(SpecError::invalid("http.crawlers.rules", problem));
        }
        for (n, rule) in self.rules.iter().enumerate() {
            let at = |field: &str| format!("http.crawlers.rules[{n}]{field}");
            match (&rule.agent, rule.class) {
                (Some(agent), None) => {
                    let named = rules::check_agent(agent);
                    faults.note(named.map_err(|problem| SpecError::invalid(at(".agent"), problem)));
                }
                (None, Some(_)) => {}
                (None, None) | (Some(_), Some(_)) => {
                    let problem = "must have either agent or class: which crawlers it is for";
                    faults.fault(SpecError::invalid(at(""), problem));
                }
            }
            let earlier = self.rules.iter().take(n);
            if earlier.into_iter().any(|other| (&other.agent, other.class) == (&rule.agent, rule.class)) {
                let problem = "is for the same crawlers as one before it; leave one of them out";
                faults.fault(SpecError::invalid(at(""), problem));
            }
            for (field, action) in [(".action", rule.action), (".impostors", rule.impostors)] {
                if let CrawlerAction::PerMinute(most) = action {
                    let field = at(&format!("{field}.per_minute"));
                    faults.note(check::between(&field, most, 1, rules::MAX_PER_MINUTE));
                }
            }
        }
        faults.end()
    }

    /// In words; `None`: it says nothing.
    pub(crate) fn summary(&self) -> Option<String> {
        match self.rules.len() {
            0 => None,
            1 => Some("one rule for crawlers".to_owned()),
            count => Some(format!("{count} rules for crawlers")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_has_one_form_and_impostors_are_denied_where_it_does_not_say() {
        let given = json!({"rules": [
            {"class": "ai", "action": {"per_minute": 60}},
            {"agent": "googlebot", "action": "allow", "impostors": {"per_minute": 1}},
        ]});
        let crawlers: Crawlers = serde_json::from_value(given).unwrap();
        assert_eq!(crawlers.check(), Ok(()));
        assert_eq!(crawlers.summary().as_deref(), Some("2 rules for crawlers"));
        let wanted = json!({"rules": [
            {"class": "ai", "action": {"per_minute": 60}, "impostors": "deny"},
            {"agent": "googlebot", "action": "allow", "impostors": {"per_minute": 1}},
        ]});
        assert_eq!(serde_json::to_value(crawlers).unwrap(), wanted);
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let given = json!({"rules": [
            {"class": "ai", "action": {"per_minute": 0}},
            {"agent": "Googlebot", "action": "allow"},
            {"action": "deny"},
            {"class": "seo", "agent": "a", "action": "deny"},
            {"class": "ai", "action": "allow", "impostors": {"per_minute": 1_000_001}},
        ]});
        let crawlers: Crawlers = serde_json::from_value(given).unwrap();
        let SpecError::Several(all) = crawlers.check().unwrap_err() else { panic!() };
        let said: Vec<String> = all.iter().map(ToString::to_string).collect();
        let wanted = [
            "http.crawlers.rules[0].action.per_minute: ",
            "http.crawlers.rules[1].agent: ",
            "http.crawlers.rules[2]: must have either",
            "http.crawlers.rules[3]: must have either",
            "http.crawlers.rules[4]: is for the same",
            "http.crawlers.rules[4].impostors.per_minute: ",
        ];
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        for (said, wanted) in said.iter().zip(wanted) {
            assert!(said.contains(wanted), "{said} {wanted}");
        }
    }
}
