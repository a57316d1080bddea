//! What a policy does with the requests of crawlers.

use std::collections::HashMap;

use ahash::RandomState;
use hosting_intent::message as m;
use m::crawler_rule::Of;

use super::agents::{Crawler, Proof};

/// What is done with a crawler's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    /// Requests in a minute.
    PerMinute(u32),
}

/// Whose requests a budget counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whose<'a> {
    Agent(&'a str),
    Class(i32),
}

#[derive(Debug)]
struct Rule {
    action: Action,
    impostors: Action,
}

/// The rules of a policy.
#[derive(Debug)]
pub(super) struct Crawlers {
    agents: HashMap<Box<str>, Rule, RandomState>,
    classes: HashMap<i32, Rule, RandomState>,
}

impl Crawlers {
    pub(super) fn new(policy: &m::CrawlerPolicy) -> Self {
        let mut all = Self { agents: HashMap::default(), classes: HashMap::default() };
        let action = |action: &Option<m::CrawlerAction>| match action {
            Some(action) if action.verdict() == m::CrawlerVerdict::Allow => Action::Allow,
            Some(action) if action.verdict() == m::CrawlerVerdict::Limit => {
                Action::PerMinute(action.per_minute)
            }
            // One that is missing did not pass the checks.
            Some(_) | None => Action::Deny,
        };
        for m::CrawlerRule { of, action: word, impostors } in &policy.rules {
            let rule = Rule { action: action(word), impostors: action(impostors) };
            match of {
                Some(Of::Agent(agent)) => drop(all.agents.insert(agent.as_str().into(), rule)),
                Some(Of::Class(class)) => drop(all.classes.insert(*class, rule)),
                None => {}
            }
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.agents.len() + self.classes.len()
    }

    /// What is done with a request of this crawler, and whose budget it is of; `None`: no rule is for it.
    pub(super) fn word_on<'a>(&self, crawler: &'a Crawler) -> Option<(Action, Whose<'a>)> {
        let class = crawler.class as i32;
        let (rule, whose) = match self.agents.get(&*crawler.agent) {
            Some(rule) => (rule, Whose::Agent(&crawler.agent)),
            None => (self.classes.get(&class)?, Whose::Class(class)),
        };
        let is_impostor = crawler.proof == Proof::Impostor;
        Some((if is_impostor { rule.impostors } else { rule.action }, whose))
    }
}
