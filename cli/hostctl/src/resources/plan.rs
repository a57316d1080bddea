//! What a change would do, before it is made.

use std::io::{self, IsTerminal};

use reqwest::Method;
use serde_json::Value;

use crate::{
    api::Api,
    format::Format,
    output::{self, cell},
};

/// Names and tenants that a summary lists.
const LISTED: usize = 10;

/// Asks for the plan of a change.
pub(crate) async fn of(api: &Api, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let (_, plan) = api.send(method, &with(path, "dry_run=true"), body).await?;
    Ok(plan)
}

/// A path with one more parameter.
pub(crate) fn with(path: &str, param: &str) -> String {
    let sign = if path.contains('?') { '&' } else { '?' };
    format!("{path}{sign}{param}")
}

/// A path with the number that a large change is confirmed with.
pub(crate) fn confirmed(path: &str, number: Option<u64>) -> String {
    number.map_or_else(|| path.to_owned(), |number| with(path, &format!("confirm={number}")))
}

/// The number that a plan is confirmed with, if it is one of a large change.
pub(crate) fn number(plan: &Value) -> Option<u64> {
    plan["confirm"].as_u64()
}

/// Whether somebody is there who can answer a question.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether more than one resource changes, or data would be destroyed.
pub(super) fn goes_beyond_one(plan: &Value) -> bool {
    let is_destroying = !items(plan, "destroyed").is_empty();
    is_destroying || plan["resources_total"].as_u64().unwrap_or_default() > 1
}

/// Shows a plan and asks whether to go on, for a large change with its number.
pub(crate) fn is_agreed_to(plan: &Value) -> anyhow::Result<bool> {
    for line in summary(plan) {
        output::note(line);
    }
    is_answered_yes(plan)
}

/// Asks whether to go on with a plan that has been shown.
pub(crate) fn is_answered_yes(plan: &Value) -> anyhow::Result<bool> {
    output::note(question(plan));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(is_yes(plan, &answer))
}

fn question(plan: &Value) -> String {
    match number(plan) {
        Some(number) => format!("This is a large change. Type {number} to go on:"),
        None => "Go on? [y/N]".to_owned(),
    }
}

fn is_yes(plan: &Value, answer: &str) -> bool {
    match number(plan) {
        Some(number) => answer.trim() == number.to_string(),
        None => matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"),
    }
}

/// Prints a plan.
pub(crate) fn show(plan: &Value, format: Format) {
    if format.is_for_programs() {
        output::data(format, plan);
        return;
    }
    let resources = items(plan, "resources").iter().map(|one| {
        let fields: Vec<String> = items(one, "fields").iter().map(cell).collect();
        let gates: Vec<String> = items(one, "waits_for").iter().map(|gate| cell(&gate["name"])).collect();
        let kind = cell(&one["kind"]).replace('_', "-");
        vec![cell(&one["change"]), kind, cell(&one["label"]), fields.join(" "), gates.join(" ")]
    });
    output::table(&["CHANGE", "KIND", "NAME", "FIELDS", "WAITS FOR"], resources);
    let shown = items(plan, "resources").len() as u64;
    let total = plan["resources_total"].as_u64().unwrap_or_default();
    if total > shown {
        output::line(format!("and {} more", total - shown));
    }
    output::line("");
    let audiences = items(plan, "audiences").iter().map(|one| {
        let counts = ["added", "changed", "withdrawn", "takes_away"].map(|count| cell(&one[count]));
        std::iter::once(cell(&one["audience"])).chain(counts).collect()
    });
    output::table(&["TELLS", "ADDED", "CHANGED", "WITHDRAWN", "TAKES AWAY"], audiences);
    output::line("");
    for line in summary(plan) {
        output::line(line);
    }
    output::warnings(plan);
    output::note("nothing was changed");
}

fn items<'p>(plan: &'p Value, field: &str) -> &'p [Value] {
    plan[field].as_array().map_or(&[], Vec::as_slice)
}

/// The plan in a few lines.
pub(crate) fn summary(plan: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let resources = plan["resources_total"].as_u64().unwrap_or_default();
    lines.push(match resources {
        0 => "no resource changes".to_owned(),
        1 => "1 resource changes".to_owned(),
        many => format!("{many} resources change"),
    });
    for (what, field) in [("host names and zones", "names"), ("tenants", "tenants")] {
        let total = plan[format!("{field}_total")].as_u64().unwrap_or_default();
        let listed: Vec<String> = items(plan, field).iter().take(LISTED).map(cell).collect();
        if total > 0 {
            let more = if total > listed.len() as u64 { ", ..." } else { "" };
            lines.push(format!("{what} concerned: {total} ({}{more})", listed.join(", ")));
        }
    }
    let behind = plan["tenants_behind"].as_u64().unwrap_or_default();
    if behind > 0 {
        lines.push(format!("tenants on what changes as a whole: {behind}"));
    }
    for lost in items(plan, "destroyed") {
        let kind = cell(&lost["kind"]).replace('_', "-");
        lines.push(output::bad(&format!(
            "DESTROYS the data of {kind} {} {}",
            cell(&lost["id"]),
            cell(&lost["label"])
        )));
    }
    let later = plan["later_steps"].as_u64().unwrap_or_default();
    if later > 0 {
        lines.push(format!("{later} further steps follow, which go over more than fits into one change"));
    }
    if let Some(number) = number(plan) {
        lines.push(format!("a large change: to be confirmed with {number}"));
    }
    if plan["is_first_round"] == true {
        lines.push("this is the first of several rounds".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_names_what_is_lost() {
        let plan = json!({
            "resources_total": 3, "names": ["a.example", "b.example"], "names_total": 12, "tenants": [], "tenants_total": 0,
            "destroyed": [{"kind": "webroot", "id": "web_1", "label": "web_1"}], "later_steps": 2,
        });
        let lines = summary(&plan);
        assert_eq!(
            lines[..2],
            ["3 resources change", "host names and zones concerned: 12 (a.example, b.example, ...)"]
        );
        assert!(lines[2].contains("DESTROYS the data of webroot web_1"), "{lines:?}");
        assert_eq!(lines.len(), 4);
        let large = json!({"resources_total": 1, "confirm": 412});
        assert!(is_yes(&large, " 412\n") && !is_yes(&large, "y") && !is_yes(&large, "411"));
        assert!(is_yes(&plan, "Yes\n") && !is_yes(&plan, ""));
        assert_eq!(confirmed(&with("/zones/z", "now=true"), number(&large)), "/zones/z?now=true&confirm=412");
        assert!(goes_beyond_one(&plan) && !goes_beyond_one(&json!({"resources_total": 1, "destroyed": []})));
    }
}
