//! `hostctl jobs`: what the platform does in the background, in steps, and what became of it.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{JobArgs, JobsCommand, ListArgs},
    format::Format,
    kinds::id_in,
    output::{self, age, bad, cell, doubtful, good},
};

/// What a job is called before its id.
const NOUN: &str = "job";

pub(crate) async fn run(api: &Api, command: &JobsCommand, format: Format) -> anyhow::Result<ExitCode> {
    match command {
        JobsCommand::List(args) => list(api, args, format).await?,
        JobsCommand::Get(job) => show(&api.get(&path(job)).await?, format),
        JobsCommand::Cancel(job) => {
            let answer = api.post(&format!("{}/cancel", path(job)), &json!({})).await?;
            said(&answer, format, |state| match state {
                // The step under way comes to its end first.
                "running" => "is to be cancelled when its step has come to an end",
                "undoing" => "is cancelled; what it did is being undone",
                _ => "is cancelled",
            });
        }
        JobsCommand::Retry(job) => {
            let answer = api.post(&format!("{}/retry", path(job)), &json!({})).await?;
            said(&answer, format, |_| "is tried again");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(job: &JobArgs) -> String {
    format!("/jobs/{}", encode(id_in(NOUN, &job.id)))
}

fn said(answer: &Value, format: Format, words: fn(&str) -> &'static str) {
    if format.is_for_programs() {
        output::named(format, NOUN, "id", answer);
    } else {
        let words = words(answer["state"].as_str().unwrap_or_default());
        output::line(format!("{} {words}; see `hostctl jobs get {0}`", cell(&answer["id"])));
    }
}

async fn list(api: &Api, args: &ListArgs, format: Format) -> anyhow::Result<()> {
    let given = [("kind", &args.kind), ("state", &args.state), ("subject", &args.subject)];
    let given: Vec<String> = given
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))))
        .collect();
    let query = if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) };
    let items = api.list_up_to(&format!("/jobs{query}"), args.limit).await?;
    if format.is_for_programs() {
        output::named(format, NOUN, "id", &Value::Array(items));
        return Ok(());
    }
    if items.is_empty() {
        output::note("no jobs");
        return Ok(());
    }
    let columns = ["id", "kind", "subject", "state", "attempts", "age", "next", "error"];
    let now = Timestamp::now();
    let rows = items.iter().map(|job| row(job, now)).collect();
    output::list(format, &columns, rows, &["id", "state"], &["next", "attempts", "age"]);
    Ok(())
}

fn row(job: &Value, now: Timestamp) -> Vec<String> {
    vec![
        cell(&job["id"]),
        cell(&job["kind"]),
        cell(&job["subject"]),
        coloured(&job["state"]),
        format!("{}/{}", cell(&job["attempts"]), cell(&job["attempt_limit"])),
        age(&job["created_at"], now),
        until(&job["next_at"], now),
        cell(&job["error"]),
    ]
}

fn coloured(state: &Value) -> String {
    let text = cell(state);
    match text.as_str() {
        "done" => good(&text),
        "failed" => bad(&text),
        "retrying" | "undoing" | "undone" | "cancelled" => doubtful(&text),
        _ => text,
    }
}

/// How long until then: `in 5m`, or `now`.
fn until(value: &Value, now: Timestamp) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) if then > now => format!("in {}", output::span(then.duration_since(now))),
        Some(_) => "now".to_owned(),
        None => cell(value),
    }
}

fn show(job: &Value, format: Format) {
    if format.is_for_programs() {
        output::named(format, NOUN, "id", job);
        return;
    }
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for field in ["id", "kind", "about", "subject", "brand_id", "api_key_id", "state"] {
        let value = if field == "state" { coloured(&job[field]) } else { cell(&job[field]) };
        rows.push((field, value));
    }
    rows.push(("attempts", format!("{} of {}", cell(&job["attempts"]), cell(&job["attempt_limit"]))));
    for field in ["progress", "error", "cancelled_by"] {
        rows.push((field, cell(&job[field])));
    }
    for field in ["created_at", "due_at", "started_at", "ended_at"] {
        rows.push((field, cell(&job[field])));
    }
    rows.push(("next_at", until(&job["next_at"], now)));
    for (name, value) in job["params"].as_object().into_iter().flatten() {
        rows.push((name.as_str(), cell(value)));
    }
    let shown = rows.into_iter().filter(|(_, value)| value != "-");
    output::table(&["field", "value"], shown.map(|(field, value)| vec![field.to_owned(), value]));
    let steps = job["steps"].as_array().map_or(&[][..], Vec::as_slice);
    if !steps.is_empty() {
        output::line("");
        let row = |step: &Value| {
            let cells = ["name", "state", "attempts", "started_at", "ended_at", "error"];
            cells
                .iter()
                .map(|field| if *field == "state" { coloured(&step[*field]) } else { cell(&step[*field]) })
                .collect()
        };
        let columns = ["step", "state", "attempts", "started_at", "ended_at", "error"];
        output::table(&columns, steps.iter().map(row));
    }
    let waits = job["waits_for"].as_array().map_or(&[][..], Vec::as_slice);
    if !waits.is_empty() {
        output::line("");
        let row =
            |wait: &Value| vec![cell(&wait["resource_id"]), cell(&wait["status"]), cell(&wait["message"])];
        output::table(&["waits_for", "settled_as", "message"], waits.iter().map(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_where_a_job_stands() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let job = json!({
            "id": "job_1", "kind": "callback", "subject": "t_1", "state": "retrying", "attempts": 3,
            "attempt_limit": 12, "created_at": "2026-01-01T00:00:00Z", "next_at": "2026-01-01T00:15:00Z",
            "error": "the receiver answered 500 Internal Server Error",
        });
        assert_eq!(
            row(&job, now),
            [
                "job_1",
                "callback",
                "t_1",
                "retrying",
                "3/12",
                "10m",
                "in 5m",
                "the receiver answered 500 Internal Server Error",
            ]
        );
        let past: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!((until(&job["next_at"], past).as_str(), until(&Value::Null, past).as_str()), ("now", "-"));
    }
}
