//! How patient rollouts are: settings of the platform whose names begin with `rollouts.`.

use std::time::Duration;

/// How far one step reaches, of all subscribers in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

impl Reach {
    /// Of `all`, at least one more than the step before reached.
    #[must_use]
    pub fn of(self, all: usize, before: usize) -> usize {
        let wanted = match self {
            Self::Count(count) => count,
            Self::Percent(percent) => all.saturating_mul(percent).div_ceil(100),
        };
        wanted.max(before.saturating_add(1)).min(all)
    }
}

/// The policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutPolicy {
    /// Whether anything goes out in steps. `rollouts.enabled`.
    pub enabled: bool,
    /// The steps before the last one, which is all. `rollouts.steps`: counts and percentages, e.g. `1, 10%, 50%`.
    pub steps: Vec<Reach>,
    /// How long each step is watched. `rollouts.watch_seconds`, 1 to 86400.
    pub watch: Duration,
    /// By how many percentage points more of the requests, or handshakes, may fail than with those that do not have it, or than before.
    /// `rollouts.max_failed_percent`, 0 to 100.
    pub max_failed_percent: u64,
    /// By how many percent more time a request may take on average. `rollouts.max_slower_percent`, 0 to 100000.
    pub max_slower_percent: u64,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            steps: vec![Reach::Count(1), Reach::Percent(10)],
            watch: Duration::from_secs(30),
            max_failed_percent: 2,
            max_slower_percent: 200,
        }
    }
}

/// Most steps.
const MAX_STEPS: usize = 20;

impl RolloutPolicy {
    /// Takes in one setting of the platform; others than its own change nothing.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(name) = name.strip_prefix("rollouts.") else { return Ok(()) };
        let number = |least: u64, most: u64| {
            let problem = || format!("{value:?} must be a number from {least} to {most}");
            value.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(problem)
        };
        match name {
            "enabled" => {
                self.enabled = value.parse().map_err(|_| format!("{value:?} must be true or false"))?;
            }
            "steps" => self.steps = steps(value)?,
            "watch_seconds" => self.watch = Duration::from_secs(number(1, 86_400)?),
            "max_failed_percent" => self.max_failed_percent = number(0, 100)?,
            "max_slower_percent" => self.max_slower_percent = number(0, 100_000)?,
            other => {
                return Err(format!(
                    "there is no setting rollouts.{other}; there are enabled, steps, watch_seconds, max_failed_percent and max_slower_percent"
                ));
            }
        }
        Ok(())
    }

    /// The policy that the platform's settings say. What this build cannot read is left as it is by default.
    #[must_use]
    pub fn of(settings: &[(String, String)]) -> Self {
        let mut policy = Self::default();
        for (name, value) in settings {
            if let Err(problem) = policy.set(name, value) {
                tracing::warn!(name, problem, "a setting of rollouts is left out");
            }
        }
        policy
    }
}

fn steps(text: &str) -> Result<Vec<Reach>, String> {
    let steps: Vec<Reach> = text
        .split(',')
        .map(str::trim)
        .filter(|step| !step.is_empty())
        .map(|step| {
            let (digits, reach): (&str, fn(usize) -> Reach) = match step.strip_suffix('%') {
                Some(digits) => (digits.trim_end(), Reach::Percent),
                None => (step, Reach::Count),
            };
            let number = digits.parse().ok().filter(|number| *number > 0);
            match number.map(reach) {
                Some(Reach::Percent(percent)) if percent > 100 => None,
                reach => reach,
            }
            .ok_or_else(|| {
                format!("{step:?} must be a number of subscribers, or a percentage of them up to 100")
            })
        })
        .collect::<Result<_, _>>()?;
    if steps.len() > MAX_STEPS {
        return Err(format!("at most {MAX_STEPS} steps"));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_reaches_further_than_the_one_before() {
        let mut policy = RolloutPolicy::default();
        policy.set("rollouts.steps", "1, 10%, 50 %,2").unwrap();
        let reaches = |all: usize| {
            let mut before = 0;
            let mut reaches = Vec::new();
            for step in &policy.steps {
                before = step.of(all, before);
                reaches.push(before);
            }
            reaches
        };
        assert_eq!(reaches(100), [1, 10, 50, 51]);
        assert_eq!(reaches(4), [1, 2, 3, 4]);
        assert_eq!(reaches(1), [1, 1, 1, 1]);
        assert_eq!(reaches(0), [0, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let mut policy = RolloutPolicy::default();
        for (name, value) in [
            ("rollouts.steps", "0"),
            ("rollouts.steps", "101%"),
            ("rollouts.steps", "one"),
            ("rollouts.watch_seconds", "0"),
            ("rollouts.enabled", "yes"),
            ("rollouts.max_failed_percent", "-1"),
            ("rollouts.pace", "slow"),
        ] {
            assert!(policy.set(name, value).is_err(), "{name} {value}");
        }
        assert_eq!(policy, RolloutPolicy::default());
        policy.set("webhook.critical.url", "x").unwrap();
        policy.set("rollouts.steps", "").unwrap();
        assert!(policy.steps.is_empty(), "all at once, and watched");
    }
}
