//! What edges do with the requests of crawlers: the rules that what is written and what is applied are both held to.

use std::collections::HashSet;

use crate::message as m;
use m::crawler_rule::Of;

/// Rules of one policy.
pub const MAX_RULES: usize = 50;
/// Longest name of an agent, in bytes.
pub const MAX_AGENT_BYTES: usize = 64;
/// Largest budget of a minute.
pub const MAX_PER_MINUTE: u32 = 1_000_000;

/// Checks the name of an agent, as policies, lists of crawlers and logs spell it: lower case letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// What is wrong with it.
pub fn check_agent(name: &str) -> Result<(), String> {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_AGENT_BYTES || !name.bytes().all(fits) {
        return Err(format!(
            "{name:?} must have 1 to {MAX_AGENT_BYTES} lower case letters, digits, -, _ and ."
        ));
    }
    Ok(())
}

/// Checks a policy as it is applied.
///
/// # Errors
/// The field and what is wrong with it.
pub(crate) fn check_policy(policy: &m::CrawlerPolicy) -> Result<(), (&'static str, String)> {
    let invalid = |field, problem: &str| Err((field, problem.to_owned()));
    if policy.rules.len() > MAX_RULES {
        return Err(("http.crawlers.rules", format!("{} of them; at most {MAX_RULES}", policy.rules.len())));
    }
    let mut seen = HashSet::new();
    for rule in &policy.rules {
        match &rule.of {
            Some(Of::Agent(agent)) => {
                check_agent(agent).map_err(|problem| ("http.crawlers.rules.agent", problem))?;
            }
            Some(Of::Class(class)) => match m::CrawlerClass::try_from(*class) {
                Ok(m::CrawlerClass::Unspecified) | Err(_) => {
                    return Err((
                        "http.crawlers.rules.class",
                        format!("{class} is none that this build knows"),
                    ));
                }
                Ok(_) => {}
            },
            None => return invalid("http.crawlers.rules", "one is for no agent and no class"),
        }
        if !seen.insert(&rule.of) {
            return invalid("http.crawlers.rules", "two are for the same");
        }
        for (field, action) in
            [("http.crawlers.rules.action", &rule.action), ("http.crawlers.rules.impostors", &rule.impostors)]
        {
            let Some(action) = action else { return invalid(field, "is missing") };
            match (m::CrawlerVerdict::try_from(action.verdict), action.per_minute) {
                (Ok(m::CrawlerVerdict::Allow | m::CrawlerVerdict::Deny), 0)
                | (Ok(m::CrawlerVerdict::Limit), 1..=MAX_PER_MINUTE) => {}
                (Ok(m::CrawlerVerdict::Allow | m::CrawlerVerdict::Deny | m::CrawlerVerdict::Limit), _) => {
                    return invalid(field, "has a budget that does not belong to its verdict");
                }
                (Ok(m::CrawlerVerdict::Unspecified) | Err(_), _) => {
                    return invalid(field, "has a verdict that this build does not know");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(verdict: m::CrawlerVerdict, per_minute: u32) -> Option<m::CrawlerAction> {
        Some(m::CrawlerAction { verdict: verdict as i32, per_minute })
    }

    fn rule(of: Of) -> m::CrawlerRule {
        m::CrawlerRule {
            of: Some(of),
            action: action(m::CrawlerVerdict::Limit, 60),
            impostors: action(m::CrawlerVerdict::Deny, 0),
        }
    }

    #[test]
    fn rules_are_checked_whole() {
        let whole =
            || vec![rule(Of::Agent("gpt-bot_2.0".into())), rule(Of::Class(m::CrawlerClass::Ai as i32))];
        let check = |rules| check_policy(&m::CrawlerPolicy { rules });
        assert_eq!(check(whole()), Ok(()));
        let changes: [fn(&mut m::CrawlerRule); 11] = [
            |rule| rule.of = None,
            |rule| rule.of = Some(Of::Agent(String::new())),
            |rule| rule.of = Some(Of::Agent("GPTBot".into())),
            |rule| rule.of = Some(Of::Agent("a".repeat(65))),
            |rule| rule.of = Some(Of::Class(0)),
            |rule| rule.of = Some(Of::Class(99)),
            |rule| rule.of = Some(Of::Class(m::CrawlerClass::Ai as i32)),
            |rule| rule.action = None,
            |rule| rule.action = action(m::CrawlerVerdict::Limit, 0),
            |rule| rule.impostors = action(m::CrawlerVerdict::Deny, 1),
            |rule| rule.impostors = action(m::CrawlerVerdict::Unspecified, 0),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut rules = whole();
            change(&mut rules[0]);
            assert!(check(rules).is_err(), "change {n}");
        }
        let many = (0..=MAX_RULES).map(|n| rule(Of::Agent(format!("a{n}")))).collect();
        assert!(check(many).is_err());
    }
}
