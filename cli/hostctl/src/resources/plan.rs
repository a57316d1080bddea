//! What a change would do, before it is made.

use std::io::{self, IsTerminal};

use reqwest::Method;
use serde_json::Value;

use crate::{
    api::Api,
    output::{self, cell},
};

/// Names and tenants that a summary lists.
const LISTED: usize = 10;

/// Asks for the plan of a change.
pub(crate) async fn of(api: &Api, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let (_, plan) = api.send(method, &format!("{path}?dry_run=true"), body).await?;
    Ok(plan)
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

/// Shows a plan and asks whether to go on.
pub(crate) fn is_agreed_to(plan: &Value) -> anyhow::Result<bool> {
    for line in summary(plan) {
        output::note(line);
    }
    output::note("Go on? [y/N]");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Prints a plan.
pub(crate) fn show(plan: &Value, as_json: bool) {
    if as_json {
        output::json(plan);
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
fn summary(plan: &Value) -> Vec<String> {
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
        assert!(goes_beyond_one(&plan) && !goes_beyond_one(&json!({"resources_total": 1, "destroyed": []})));
    }
}
