//! `hostctl doctor`: looks over the platform and says what is wrong, with the next step.
//!
//! Owns how checks are run and shown. What is checked stands in one file for each group; each reads through a [`check::View`] alone.
//! It asks the API, and changes nothing.

mod capacity;
mod check;
mod connection;
mod fleet;
mod probe;
mod trust;
mod work;

use std::{process::ExitCode, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::{
    check::{Check, Finding, Seen, Severity, Shared, Trouble, View},
    probe::Probe,
};
use crate::{
    api::{Api, ApiError},
    args::DoctorArgs,
    format::Format,
    output::{self, bad, doubtful, good},
};

/// All checks, by group, in the order in which they are shown.
const GROUPS: &[&[&dyn Check]] =
    &[connection::CHECKS, fleet::CHECKS, work::CHECKS, trust::CHECKS, capacity::CHECKS];
/// Findings of one check that the table shows; all are in JSON and YAML.
const MOST_SHOWN: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
    /// Nobody could look, so nothing is known.
    Skipped,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }

    fn coloured(self) -> String {
        match self {
            Self::Ok => good(self.as_str()),
            Self::Warn | Self::Skipped => doubtful(self.as_str()),
            Self::Fail => bad(self.as_str()),
        }
    }
}

/// What came of one check.
#[derive(Debug, Clone)]
struct Outcome {
    name: &'static str,
    state: State,
    /// What is well, or why nobody could look.
    said: String,
    findings: Vec<Finding>,
    looked_at: String,
    /// Whether the key opened nothing.
    is_refused: bool,
}

impl Outcome {
    fn of(name: &'static str, looked: Result<Seen, Trouble>, looked_at: String) -> Self {
        let is_refused = matches!(looked, Err(Trouble::NoKey(_)));
        let (state, said, findings) = match looked {
            Ok(Seen { good, findings }) => {
                let state = match findings.iter().map(|finding| finding.severity).max() {
                    None => State::Ok,
                    Some(Severity::Warn) => State::Warn,
                    Some(Severity::Fail) => State::Fail,
                };
                (state, good, findings)
            }
            Err(Trouble::NoKey(why)) if name == connection::OWN_KEY => {
                let finding = Finding::fail(
                    format!("The key does not open: {why}."),
                    "give another one with --key-file",
                );
                (State::Fail, String::new(), vec![finding])
            }
            Err(Trouble::NoKey(why) | Trouble::NotAllowed(why)) => {
                (State::Skipped, format!("the key may not see it: {why}"), Vec::new())
            }
            Err(Trouble::NotServed(why)) => {
                (State::Skipped, format!("this API does not show it: {why}"), Vec::new())
            }
            Err(Trouble::Failed(why)) => {
                let finding = Finding::warn(
                    format!("This could not be looked at: {why}."),
                    "hostctl doctor --timeout 60s",
                );
                (State::Warn, String::new(), vec![finding])
            }
        };
        Self { name, state, said, findings, looked_at, is_refused }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |state: State, name: &str, what: &str, next: String, looked_at: &str| {
            vec![state.coloured(), name.to_owned(), what.to_owned(), next, looked_at.to_owned()]
        };
        if self.findings.is_empty() {
            return vec![row(self.state, self.name, &self.said, String::new(), &self.looked_at)];
        }
        let mut rows: Vec<Vec<String>> = Vec::new();
        for finding in self.findings.iter().take(MOST_SHOWN) {
            let state = if finding.severity == Severity::Fail { State::Fail } else { State::Warn };
            let page = if finding.runbook.is_empty() {
                String::new()
            } else {
                format!("; docs/runbooks/{}", finding.runbook)
            };
            let looked_at = if rows.is_empty() { self.looked_at.as_str() } else { "" };
            rows.push(row(state, self.name, &finding.what, format!("{}{page}", finding.next), looked_at));
        }
        if self.findings.len() > MOST_SHOWN {
            let more = format!("and {} more", self.findings.len() - MOST_SHOWN);
            rows.push(row(self.state, self.name, &more, "hostctl doctor -o yaml".to_owned(), ""));
        }
        rows
    }

    fn data(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            let severity = if finding.severity == Severity::Fail { "fail" } else { "warn" };
            let runbook = (!finding.runbook.is_empty()).then(|| format!("docs/runbooks/{}", finding.runbook));
            json!({"severity": severity, "finding": finding.what, "next": finding.next, "runbook": runbook})
        });
        json!({
            "check": self.name, "state": self.state.as_str(), "said": self.said, "looked_at": self.looked_at,
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

pub(crate) async fn run(api: Api, args: &DoctorArgs, format: Format) -> anyhow::Result<ExitCode> {
    let (outcomes, code) = match Probe::take(&api, args.timeout).await {
        Ok(probe) => {
            let outcomes = all(Arc::new(Shared::new(api, probe)), args.timeout).await;
            let code = code_of(&outcomes);
            (outcomes, code)
        }
        Err(error) => (unreachable(&error), error.exit_code()),
    };
    show(&outcomes, format);
    Ok(ExitCode::from(code))
}

/// Runs every check at once, each within the time limit.
async fn all(shared: Arc<Shared>, limit: Duration) -> Vec<Outcome> {
    let mut running = JoinSet::new();
    for (place, check) in GROUPS.iter().copied().flatten().copied().enumerate() {
        let shared = Arc::clone(&shared);
        running.spawn(async move {
            let view = View::new(shared);
            let looked = tokio::time::timeout(limit, check.look(&view)).await;
            let late = || Trouble::Failed(format!("there was no answer within {} s", limit.as_secs()));
            let looked = looked.unwrap_or_else(|_| Err(late()));
            (place, Outcome::of(check.name(), looked, view.looked_at()))
        });
    }
    let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
    while let Some(ended) = running.join_next().await {
        outcomes.extend(ended.ok());
    }
    outcomes.sort_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The outcomes where the API cannot be asked: one failure, and nothing known of all else.
fn unreachable(error: &ApiError) -> Vec<Outcome> {
    let next = error.hint().unwrap_or("hostctl status");
    let failed = Finding::fail(format!("{error}."), next).with("controller-down.md");
    GROUPS
        .iter()
        .copied()
        .flatten()
        .enumerate()
        .map(|(place, check)| {
            let looked = if place == 0 {
                Ok(Seen::new("", vec![failed.clone()]))
            } else {
                Err(Trouble::NotServed("it cannot be asked".to_owned()))
            };
            Outcome::of(check.name(), looked, String::new())
        })
        .collect()
}

/// The exit code: a key that opens nothing has its own.
fn code_of(outcomes: &[Outcome]) -> u8 {
    let is_refused = outcomes.iter().any(|one| one.is_refused);
    match outcomes.iter().any(|one| one.state == State::Fail) {
        _ if is_refused => output::NOT_ALLOWED,
        true => output::FAILED,
        false => 0,
    }
}

fn show(outcomes: &[Outcome], format: Format) {
    let count = |state: State| outcomes.iter().filter(|one| one.state == state).count();
    let (ok, warn, fail, skipped) =
        (count(State::Ok), count(State::Warn), count(State::Fail), count(State::Skipped));
    if format.is_for_programs() {
        let checks: Vec<Value> = outcomes.iter().map(Outcome::data).collect();
        let counts = json!({"ok": ok, "warn": warn, "fail": fail, "skipped": skipped});
        return output::data(format, &json!({"counts": counts, "checks": checks}));
    }
    output::table(
        &["state", "check", "finding", "next", "looked at"],
        outcomes.iter().flat_map(Outcome::rows),
    );
    output::line("");
    output::line(format!("{fail} failed, {warn} with warnings, {ok} ok, {skipped} skipped"));
    output::note("looked at: requests for each list; + where a list goes on beyond what was read");
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn outcome(looked: Result<Seen, Trouble>) -> Outcome {
        Outcome::of("x", looked, String::new())
    }

    #[test]
    fn what_could_not_be_looked_at_never_passes() {
        assert_eq!(outcome(Err(Trouble::NotAllowed("no".into()))).state, State::Skipped);
        assert_eq!(outcome(Err(Trouble::NotServed("no".into()))).state, State::Skipped);
        assert_eq!(outcome(Err(Trouble::Failed("late".into()))).state, State::Warn);
        let worst = Seen::new("", vec![Finding::warn("a", "b"), Finding::fail("c", "d")]);
        assert_eq!(outcome(Ok(worst)).state, State::Fail);
    }

    const SOURCES: [&str; 5] = [
        include_str!("connection.rs"),
        include_str!("fleet.rs"),
        include_str!("work.rs"),
        include_str!("trust.rs"),
        include_str!("capacity.rs"),
    ];

    #[test]
    fn every_next_step_is_a_command_that_there_is() {
        let texts = SOURCES.iter().flat_map(|source| source.split('"'));
        let steps =
            texts.flat_map(|text| text.split([',', ';'])).filter_map(|text| text.split_once("hostctl "));
        let mut count = 0;
        for (_, step) in steps {
            let step = step.split(" if ").next().unwrap();
            // What stands in braces is a kind, a name or both; any kind is a name too.
            let line = |filled: &'static str| -> Vec<&str> {
                let words = step.split_whitespace();
                let words = words.map(|word| if word.starts_with('{') { filled } else { word });
                std::iter::once("hostctl").chain(words).collect()
            };
            if let Err(error) = crate::args::Cli::try_parse_from(line("node"))
                && crate::args::Cli::try_parse_from(line("node/x")).is_err()
            {
                panic!("hostctl {step}: {error}");
            }
            count += 1;
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_every_runbook_is_there() {
        let mut names: Vec<&str> = GROUPS.iter().copied().flatten().map(|check| check.name()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let runbooks = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runbooks");
        let words = SOURCES.iter().flat_map(|source| source.split('"')).filter(|word| word.ends_with(".md"));
        let mut count = 0;
        for page in words {
            assert!(runbooks.join(page).is_file(), "{page}");
            count += 1;
        }
        assert!(count > 15, "{count}");
    }

    #[test]
    fn the_table_shows_a_few_findings_and_counts_the_others() {
        let many = (0..9).map(|n| Finding::warn(format!("{n}."), "look").with("orphans.md")).collect();
        let rows = outcome(Ok(Seen::new("", many))).rows();
        assert_eq!(rows.len(), MOST_SHOWN + 1);
        assert_eq!(
            (rows[0][3].as_str(), rows[5][2].as_str()),
            ("look; docs/runbooks/orphans.md", "and 4 more")
        );
    }
}
