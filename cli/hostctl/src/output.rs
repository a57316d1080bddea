//! Tables, JSON, errors and exit codes.

use std::{io::Write, process::ExitCode};

use serde_json::Value;
use tabled::{builder::Builder, settings::Style};

use crate::api::ApiError;

/// Not ready within the time limit.
pub(crate) const NOT_READY: u8 = 3;

/// What was typed cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub String);

/// Prints a line. A closed pipe is the reader's choice, not an error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line beside the output proper: progress and remarks.
pub(crate) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints JSON, indented.
pub(crate) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints a table with a head line.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    line(render_table(columns, rows));
}

pub(crate) fn render_table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut builder = Builder::default();
    builder.push_record(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        builder.push_record(row);
    }
    let text = builder.build().with(Style::blank()).to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A value as a table cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}

/// Prints the error, says what to do next where that is known, and gives the exit code.
pub(crate) fn fail(as_json: bool, error: &anyhow::Error) -> ExitCode {
    let api = error.chain().find_map(|cause| cause.downcast_ref::<ApiError>());
    let misused = error.chain().any(|cause| cause.is::<UsageError>());
    let code = if misused { 2 } else { api.map_or(1, ApiError::exit_code) };
    if as_json {
        let body = serde_json::json!({"error": format!("{error:#}"), "exit_code": code});
        json(&body);
    } else {
        note(format!("error: {error:#}"));
        if let Some(hint) = api.and_then(ApiError::hint) {
            note(format!("hint: {hint}"));
        }
    }
    ExitCode::from(code)
}
