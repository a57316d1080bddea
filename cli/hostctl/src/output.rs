//! Tables, JSON, remarks.
//!
//! Colours and fitting to the width are for terminals only: what goes into a pipe or a file is whole and plain.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::OnceLock,
};

use console::{Style, Term, measure_text_width, truncate_str};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tabled::{
    Table,
    builder::Builder,
    settings::{Padding, Style as Lines, Width, peaker::Priority},
};

use crate::format::{self, Format};

/// It failed, or what was looked for is wrong.
pub(crate) const FAILED: u8 = 1;
/// The key may not do that.
pub(crate) const NOT_ALLOWED: u8 = 5;
/// Not ready within the time limit.
pub(crate) const NOT_READY: u8 = 3;
/// `diff` found differences.
pub(crate) const DIFFERS: u8 = 8;
/// Ended by Ctrl-C before it was done: 128 + SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;
/// Who read the output left: 128 + SIGPIPE, as shells have it.
const READER_LEFT: u8 = 141;

/// The first write to standard output that failed, and to standard error. What follows it is written in vain, and
/// [`finish`] tells of it: a change of the platform is not broken off because nobody reads about it.
static OUTPUT_LOST: OnceLock<io::Error> = OnceLock::new();
static REMARKS_LOST: OnceLock<io::Error> = OnceLock::new();

/// No column is made narrower than this, so that something of it can be read.
const LEAST_COLUMN: usize = 8;
/// Blanks between columns.
const GAP: usize = 2;

/// What was typed cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub String);

pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

/// Prints text as it is.
pub(crate) fn text(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        let _ = OUTPUT_LOST.set(error);
    }
}

/// Prints a line.
pub(crate) fn line(words: impl std::fmt::Display) {
    text(&format!("{words}\n"));
}

/// Prints a line beside the output proper: progress and remarks.
pub(crate) fn note(words: impl std::fmt::Display) {
    if let Err(error) = io::stderr().lock().write_all(format!("{words}\n").as_bytes()) {
        let _ = REMARKS_LOST.set(error);
    }
}

/// Prints that something is not as it was asked for, but goes on.
pub(crate) fn warning(words: impl std::fmt::Display) {
    note(format!("{} {words}", Style::new().for_stderr().yellow().apply_to("warning:")));
}

/// Prints the warnings in an answer of the API, each with its remedy.
pub(crate) fn warnings(answer: &Value) {
    for one in answer["warnings"].as_array().into_iter().flatten() {
        let parts = [&one["message"], &one["remedy"], one].map(|part| part.as_str().unwrap_or_default());
        warning(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; "));
    }
}

/// The exit code of a command that ended with `code`, once what it printed is considered too: a reader that left has its own,
/// quiet one; output that could not be written otherwise is a failure, and said.
pub(crate) fn finish(code: ExitCode) -> ExitCode {
    match OUTPUT_LOST.get() {
        Some(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::from(READER_LEFT),
        Some(error) => {
            note(format!("error: cannot write the output: {error}; what was printed is not whole"));
            return ExitCode::FAILURE;
        }
        None => {}
    }
    match REMARKS_LOST.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe && code == ExitCode::SUCCESS => {
            ExitCode::FAILURE
        }
        Some(_) | None => code,
    }
}

/// Prints JSON, indented.
pub(crate) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints a result with all of its fields: as YAML where that is asked for, else as JSON.
pub(crate) fn data(format: Format, value: &Value) {
    if format == Format::Yaml {
        text(&format::yaml(value));
    } else {
        json(value);
    }
}

/// As [`data`], for what has names: one resource, a list of them, or a page. Its name is `noun` and what `field` holds.
pub(crate) fn named(format: Format, noun: &str, field: &str, value: &Value) {
    if format != Format::Name {
        return data(format, value);
    }
    let items = match (value, &value["items"]) {
        (Value::Array(items), _) | (_, Value::Array(items)) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    items.iter().filter_map(|one| one[field].as_str()).for_each(|id| line(format::name(noun, id)));
}

/// Good news, for standard output.
pub(crate) fn good(text: &str) -> String {
    Style::new().green().apply_to(text).to_string()
}

/// Bad news, for standard output.
pub(crate) fn bad(text: &str) -> String {
    Style::new().red().bold().apply_to(text).to_string()
}

/// Neither, for standard output.
pub(crate) fn doubtful(text: &str) -> String {
    Style::new().yellow().apply_to(text).to_string()
}

/// Width of the terminal that standard output is; `None` for a pipe or a file.
fn terminal_width() -> Option<usize> {
    Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)).filter(|width| *width > 0)
}

/// Prints a table with a head line; on a terminal long texts are broken into lines between words.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    line(render_table(columns, rows, terminal_width()));
}

fn render_table(
    columns: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: Option<usize>,
) -> String {
    let mut table = build(columns, rows);
    if let Some(width) = width {
        // The padding of the last column is cut off again at the end.
        table.with(Width::wrap(width + GAP).keep_words(true).priority(Priority::max(true)));
    }
    trimmed(&table)
}

/// Prints a table with one line for each row. On a terminal that is too narrow for it columns of `spare` are left out one by
/// one, then the widest columns but `whole` are shortened; [`Format::Wide`] leaves all of it as it is.
pub(crate) fn list(format: Format, columns: &[&str], rows: Vec<Vec<String>>, whole: &[&str], spare: &[&str]) {
    let width = terminal_width().filter(|_| format != Format::Wide);
    line(render_list(columns, rows, whole, spare, width));
}

/// Prints a table with one line for each row, whole however narrow the terminal is.
pub(crate) fn whole(columns: &[&str], rows: Vec<Vec<String>>) {
    line(render_list(columns, rows, &[], &[], None));
}

fn render_list(
    columns: &[&str],
    mut rows: Vec<Vec<String>>,
    whole: &[&str],
    spare: &[&str],
    width: Option<usize>,
) -> String {
    let mut columns = columns.to_vec();
    if let Some(width) = width {
        for column in spare {
            let index = columns.iter().position(|one| one == column);
            let Some(index) = index.filter(|_| total(&widths(&columns, &rows)) > width) else { continue };
            columns.remove(index);
            rows.iter_mut().for_each(|row| {
                row.remove(index);
            });
        }
        shorten(&columns, &mut rows, whole, width);
    }
    trimmed(&build(&columns, rows))
}

fn build(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut builder = Builder::default();
    builder.push_record(columns.iter().map(|column| column.to_uppercase().replace('_', " ")));
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Lines::empty()).with(Padding::new(0, GAP, 0, 0));
    table
}

fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Of each column.
fn widths(columns: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    widths
}

/// Of the whole table.
fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

fn shorten(columns: &[&str], rows: &mut [Vec<String>], whole: &[&str], limit: usize) {
    let mut widths = widths(columns, rows);
    while total(&widths) > limit {
        let widest = widths
            .iter_mut()
            .zip(columns)
            .filter(|(width, column)| !whole.contains(column) && **width > LEAST_COLUMN.max(column.len()))
            .max_by_key(|(width, _)| **width);
        let Some((width, _)) = widest else { break };
        *width -= 1;
    }
    for row in rows {
        for (width, cell) in widths.iter().zip(row) {
            if measure_text_width(cell) > *width {
                *cell = truncate_str(cell, *width, "…").into_owned();
            }
        }
    }
}

/// A value as a table cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => yes_no(*yes).to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}

pub(crate) fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// How long ago an RFC 3339 time was, in its largest unit: `12s`, `5m`, `3h`, `40d`. What is no time stays as it is.
pub(crate) fn age(value: &Value, now: Timestamp) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => span(now.duration_since(then)),
        None => cell(value),
    }
}

/// A length of time in its largest unit. A negative one, by clocks that differ, is none.
pub(crate) fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_stand_below_each_other_whatever_the_script() {
        let text = render_table(&["name", "brand_id"], [row(&["a", "x"]), row(&["日本語", "y"])], None);
        assert_eq!(text, "NAME    BRAND ID\na       x\n日本語  y");
    }

    #[test]
    fn a_narrow_terminal_breaks_between_words_and_a_pipe_does_not() {
        let rows = || [row(&["dns", "one two three four five"])];
        let narrow = render_table(&["link", "detail"], rows(), Some(20));
        assert_eq!(narrow, "LINK  DETAIL\ndns   one two three\n      four five");
        assert!(render_table(&["link", "detail"], rows(), None).ends_with("one two three four five"));
    }

    #[test]
    fn the_widest_column_is_shortened_and_an_id_never() {
        let mut rows = vec![row(&["0123456789abcdef", "a-very-long-host-name.example.com", "active"])];
        shorten(&["id", "fqdn", "status"], &mut rows, &["id"], 40);
        assert_eq!(rows[0], ["0123456789abcdef", "a-very-long-h…", "active"]);
        shorten(&["id", "fqdn", "status"], &mut rows, &["id"], 5);
        assert_eq!(rows[0], ["0123456789abcdef", "a-very-…", "active"]);
    }

    #[test]
    fn a_narrow_terminal_goes_without_the_spare_column() {
        let rows = || vec![row(&["www.example.com", "active", "0123456789abcdef"])];
        let columns = ["fqdn", "status", "id"];
        let wide = render_list(&columns, rows(), &[], &["id"], Some(60));
        assert!(wide.ends_with("0123456789abcdef"), "{wide}");
        let narrow = render_list(&columns, rows(), &[], &["id"], Some(30));
        assert_eq!(narrow, "FQDN             STATUS\nwww.example.com  active");
        assert_eq!(render_list(&columns, rows(), &[], &["id"], None), wide);
    }

    #[test]
    fn ages() {
        let now: Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        for (then, wanted) in [
            ("2026-01-02T23:59:48.5Z", "11s"),
            ("2026-01-02T23:10:00Z", "50m"),
            ("2026-01-02T00:00:00Z", "24h"),
            ("2025-12-03T00:00:00Z", "31d"),
            ("2026-01-03T00:00:09Z", "0s"),
        ] {
            assert_eq!(age(&json!(then), now), wanted);
        }
        assert_eq!(age(&Value::Null, now), "-");
    }
}
