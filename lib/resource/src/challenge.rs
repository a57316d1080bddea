//! Whom edges ask to show that they are browsers before a site sees them.

use hosting_intent::{challenge as rules, http_policy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::{SpecError, check};

/// Whose browsers have to do a small piece of work (a page with a script, once in a while) before the site sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Challenge {
    /// Who is asked.
    pub mode: ChallengeMode,
    /// Paths that begin like one of these are never asked: `/api/`. What calls them must not be a browser. At most 50.
    #[serde(default)]
    pub exempt_paths: Vec<String>,
    /// Networks and addresses that are never asked. At most 500.
    #[serde(default)]
    pub exempt_networks: Vec<String>,
    /// How much work it is: each step more doubles it. From 8 to 22; 16 takes a phone about a second at most.
    #[serde(default = "sixteen")]
    pub difficulty: u32,
    /// For how long a browser is asked no more, in seconds, from a minute to 12 hours.
    #[serde(default = "an_hour")]
    pub pass_seconds: u32,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeMode {
    /// Nobody.
    Off,
    /// Clients beyond one of the rate limits, and those that call themselves a crawler from elsewhere than its networks.
    Suspicious,
    /// All but crawlers from the networks of their operators: for a site that is under attack.
    All,
}

const fn sixteen() -> u32 {
    16
}

const fn an_hour() -> u32 {
    3_600
}

impl Challenge {
    pub(crate) fn check(&mut self) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        let paths = "http.challenge.exempt_paths";
        check::distinct(&mut self.exempt_paths);
        if self.exempt_paths.len() > rules::MAX_PATHS {
            faults.fault(SpecError::invalid(paths, format!("at most {} can be given", rules::MAX_PATHS)));
        }
        for (n, path) in self.exempt_paths.iter().enumerate().take(rules::MAX_PATHS) {
            let checked = rules::check_path(path);
            faults.note(checked.map_err(|problem| SpecError::invalid(format!("{paths}[{n}]"), problem)));
        }
        let networks = "http.challenge.exempt_networks";
        let normal = check::networks(networks, &self.exempt_networks, http_policy::MAX_NETWORKS);
        faults.put(&mut self.exempt_networks, normal);
        for (field, value, (least, most)) in [
            ("http.challenge.difficulty", self.difficulty, rules::DIFFICULTY),
            ("http.challenge.pass_seconds", self.pass_seconds, rules::PASS_SECONDS),
        ] {
            faults.note(check::between(field, value, least, most));
        }
        faults.end()
    }

    /// In words; `None`: nobody is asked.
    pub(crate) const fn summary(&self) -> Option<&'static str> {
        match self.mode {
            ChallengeMode::Off => None,
            ChallengeMode::Suspicious => Some("who is suspicious has to show that it is a browser"),
            ChallengeMode::All => Some("every visitor has to show that it is a browser"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_challenge_has_one_form() {
        let given =
            json!({"mode": "all", "exempt_paths": ["/api/", "/api/"], "exempt_networks": ["192.0.2.7"]});
        let mut challenge: Challenge = serde_json::from_value(given).unwrap();
        assert_eq!(challenge.check(), Ok(()));
        let wanted = json!({"mode": "all", "exempt_paths": ["/api/"], "exempt_networks": ["192.0.2.7/32"],
            "difficulty": 16, "pass_seconds": 3_600});
        assert_eq!(serde_json::to_value(challenge).unwrap(), wanted);
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let given = json!({"mode": "suspicious", "exempt_paths": ["/a", "b"], "exempt_networks": ["here"],
            "difficulty": 23, "pass_seconds": 59});
        let mut challenge: Challenge = serde_json::from_value(given).unwrap();
        let SpecError::Several(all) = challenge.check().unwrap_err() else { panic!() };
        let said: Vec<String> = all.iter().map(ToString::to_string).collect();
        let wanted = ["exempt_paths[1]", "exempt_networks[0]", "difficulty", "pass_seconds"];
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        for (said, wanted) in said.iter().zip(wanted) {
            assert!(said.contains(&format!("http.challenge.{wanted}: ")), "{said}");
        }
        assert!(serde_json::from_value::<Challenge>(json!({"mode": "always"})).is_err());
    }
}
