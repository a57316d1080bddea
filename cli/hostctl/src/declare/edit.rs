//! `hostctl edit`: a resource in the editor of whoever asks, and what was changed as a PATCH with If-Match.

use std::{fmt::Write as _, io::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use hosting_resource::KindInfo;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::{differ::merge_patch, item::Fields};
use crate::{
    api::{Api, ApiError},
    args::EditArgs,
    format::Format,
    kinds::{item, label_of, plurals},
    output::{self, cell, usage},
    resources::{body, outcome},
};

/// How long the API may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The editor where the environment names none.
const EDITOR: &str = "vi";

/// What is edited, and what came of the last try.
struct Edited {
    /// As the API shows it.
    view: Map<String, Value>,
    /// Of that, what can be changed.
    before: Map<String, Value>,
    /// What stands in the editor, without remarks.
    text: String,
    /// What is said above it.
    remark: String,
    /// The text that was refused, and why: saved again as it is, it ends with that.
    refused: Option<(String, anyhow::Error)>,
}

pub(super) async fn run(api: &Api, args: &EditArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.one.kind;
    if info.codes.update.is_none() {
        let others = plurals(|info| info.codes.update.is_some());
        return Err(usage(format!("{} cannot be changed; it is for {others}", info.plural())));
    }
    let (id, parent) = args.one.resolve(api).await?;
    // Ctrl-C is the editor's from here on: the file must not stay behind.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let (fields, editor) = (Fields::of(info), editor());
    let view = object(api.get(&item(info, &id)).await?);
    let before = editable(&fields, &view);
    let text = text_of(&before)?;
    let mut edited = Edited { view, before, text, remark: String::new(), refused: None };
    loop {
        let given = format!("{}{}{}", head(info, &fields, &edited.view), edited.remark, edited.text);
        let saved = without_comments(&open(&editor, &given).await?);
        if let Some((text, error)) = edited.refused.take()
            && text == saved
        {
            return Err(error);
        }
        edited.text.clone_from(&saved);
        let mut patch = match read(&fields, &edited.before, &saved) {
            Ok(patch) => patch,
            Err(problem) => {
                edited.remark = comment("It was not sent:", &problem.to_string());
                edited.refused = Some((saved, problem));
                continue;
            }
        };
        if patch.is_empty() {
            return Ok(unchanged(edited.view, format));
        }
        body::resolve(api, info, &fields.update, &mut patch, parent.as_deref()).await?;
        let generation = edited.view.get("generation").map(Value::to_string).unwrap_or_default();
        let headers = [("if-match", generation.as_str())];
        let sent = Value::Object(patch.clone());
        let (status, answer) =
            api.answer(Method::PATCH, &item(info, &id), Some(&sent), PATIENCE, &headers).await?;
        if status.is_success() {
            return Ok(outcome(info, None, &answer, false, format));
        }
        let error = ApiError::Answer {
            status: status.as_u16(),
            message: answer["error"].as_str().unwrap_or_default().to_owned(),
        };
        match status {
            StatusCode::PRECONDITION_FAILED => {
                let now = object(api.get(&item(info, &id)).await?);
                let others = editable(&fields, &now);
                edited.remark = comment(
                    "Somebody else changed it meanwhile. Your changes stand below on top of theirs, and nothing was sent: save it to send \
                     them. They changed:",
                    &told(&edited.before, &others),
                );
                let mut merged = Value::Object(others.clone());
                merge(&mut merged, &sent);
                edited.text = text_of(&object(merged))?;
                (edited.view, edited.before) = (now, others);
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                return Err(error.into());
            }
            status if status.is_client_error() => {
                edited.remark = comment("It was refused:", &refusal(&answer));
                edited.refused = Some((saved, error.into()));
            }
            _ => return Err(error.into()),
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// The fields that can be changed, as they are.
fn editable(fields: &Fields, view: &Map<String, Value>) -> Map<String, Value> {
    let can_be =
        |field: &str| fields.is_changed_by(field) && fields.is_shown(field) && !fields.is_secret(field);
    view.iter()
        .filter(|(field, _)| can_be(field))
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect()
}

fn text_of(fields: &Map<String, Value>) -> anyhow::Result<String> {
    if fields.is_empty() {
        return Ok(String::new());
    }
    let mut text = serde_saphyr::to_string(&Value::Object(fields.clone()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// What is edited, and what of it cannot be changed.
fn head(info: &KindInfo, fields: &Fields, view: &Map<String, Value>) -> String {
    let whole = Value::Object(view.clone());
    let id = cell(&whole["id"]);
    let label = label_of(&whole).filter(|label| *label != id).map(|label| format!(" {label}"));
    let mut text = format!(
        "# {} {id}{}, generation {}. Save an unchanged text to change nothing.\n",
        info.dashed(),
        label.unwrap_or_default(),
        cell(&whole["generation"])
    );
    let known = fields.update["properties"].as_object().into_iter().flatten();
    let known: Vec<&str> =
        known.map(|(name, _)| name.as_str()).filter(|name| !fields.is_secret(name)).collect();
    let _ = writeln!(text, "# Fields that can be changed: {}", known.join(", "));
    for (field, value) in view {
        if field != "id"
            && fields.is_created_with(field)
            && !fields.is_changed_by(field)
            && !fields.is_secret(field)
        {
            let _ = writeln!(text, "# {field}: {} (cannot be changed)", one_line(&cell(value)));
        }
    }
    text
}

fn one_line(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}

fn comment(title: &str, text: &str) -> String {
    let lines = text.lines().map(|line| format!("#   {}\n", one_line(line)));
    format!("#\n# {title}\n{}#\n", lines.collect::<String>())
}

/// All that a refusal says, a line for each field.
fn refusal(answer: &Value) -> String {
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let errors = answer["errors"].as_array().into_iter().flatten().map(|one| {
        let parts = [words(&one["reason"]), words(&one["remedy"])];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{}: {}", words(&one["field"]), parts.join("; "))
    });
    let lines: Vec<String> = errors.collect();
    if lines.is_empty() { words(&answer["error"]) } else { lines.join("\n") }
}

/// `ttl: 300 -> 60`, a line for each field that differs.
fn told(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let value = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), cell);
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let differs = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let lines: Vec<String> = differs
        .map(|name| format!("{name}: {} -> {}", value(before.get(name)), value(after.get(name))))
        .collect();
    if lines.is_empty() { "nothing of what can be edited".to_owned() } else { lines.join("\n") }
}

/// Applies a merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else { return };
    for (field, value) in patch {
        match (target.get_mut(field), value) {
            (_, Value::Null) => {
                target.remove(field);
            }
            (Some(inner @ Value::Object(_)), Value::Object(_)) => merge(inner, value),
            (_, value) => {
                target.insert(field.clone(), value.clone());
            }
        }
    }
}

/// The remarks are lines of their own that begin with `#`; lines of a text in YAML are indented.
fn without_comments(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

/// What a saved text changes.
///
/// # Errors
/// Wrong usage: what is no YAML, or has fields that cannot be changed.
fn read(fields: &Fields, before: &Map<String, Value>, text: &str) -> anyhow::Result<Map<String, Value>> {
    let after: Map<String, Value> = if text.trim().is_empty() {
        Map::new()
    } else {
        serde_saphyr::from_str(text)
            .map_err(|error| usage(format!("it is no list of fields: {}", error.without_snippet())))?
    };
    for field in after.keys() {
        if !fields.is_changed_by(field) {
            let why = if fields.takes(field) { "cannot be changed" } else { "is no field of it" };
            return Err(usage(format!("{field} {why}; take the line out")));
        }
    }
    if let Some(problem) = body::misread(&fields.update, &fields.update, &Value::Object(after.clone()), "") {
        return Err(usage(problem));
    }
    let mut patch = merge_patch(before, &after);
    // A view leaves out what has no value, and a null says the same.
    patch.retain(|field, value| !value.is_null() || before.get(field).is_some_and(|was| !was.is_null()));
    Ok(patch)
}

fn editor() -> String {
    let named = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|one| !one.trim().is_empty()));
    named.unwrap_or_else(|| EDITOR.to_owned())
}

/// Has a text edited. The file is its owner's alone, and gone when this returns.
async fn open(editor: &str, text: &str) -> anyhow::Result<String> {
    let mut file = tempfile::Builder::new()
        .prefix("hostctl-")
        .suffix(".yaml")
        .tempfile()
        .context("cannot make a file for the editor")?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.flush())
        .context("cannot write the file for the editor")?;
    // An editor may be a command with arguments, as git takes it.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "hostctl-edit"])
        .arg(file.path())
        .status()
        .await
        .with_context(|| format!("cannot start the editor {editor:?}"))?;
    if !status.success() {
        return Err(anyhow::anyhow!(
            "the editor {editor:?} failed ({status}): nothing was sent; name another one in EDITOR"
        ));
    }
    saved(file.path())
}

fn saved(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).context("cannot read what the editor saved")
}

fn unchanged(view: Map<String, Value>, format: Format) -> ExitCode {
    if format.is_for_programs() {
        output::data(format, &Value::Object(view));
    } else {
        output::line("nothing was changed");
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::kind;

    fn patch(before: Value, text: &str) -> Result<Value, String> {
        let info = kind("fqdn").unwrap();
        read(&Fields::of(info), &object(before), text).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_differs_is_sent_and_a_line_that_is_taken_out_takes_the_value_away() {
        let before = || json!({"webroot_id": "web_1", "ssl_enabled": false});
        assert_eq!(patch(before(), "webroot_id: web_1\nssl_enabled: false\n"), Ok(json!({})));
        assert_eq!(
            patch(before(), "webroot_id: web_1\nssl_enabled: true\n"),
            Ok(json!({"ssl_enabled": true}))
        );
        assert_eq!(patch(before(), "ssl_enabled: false\n"), Ok(json!({"webroot_id": null})));
        assert!(patch(before(), "fqdn: other.test\n").unwrap_err().contains("fqdn cannot be changed"));
        assert!(patch(before(), "ttl: 1\n").unwrap_err().contains("no field of it"));
        assert!(patch(before(), "a: [").unwrap_err().contains("no list of fields"));
    }

    #[test]
    fn remarks_are_no_part_of_the_text() {
        let info = kind("fqdn").unwrap();
        let view = object(
            json!({"id": "f", "fqdn": "a.test", "ssl_enabled": true, "webroot_id": null, "generation": 3}),
        );
        let fields = Fields::of(info);
        let head = head(info, &fields, &view);
        assert!(
            head.contains("# fqdn f a.test, generation 3")
                && head.contains("# fqdn: a.test (cannot be changed)"),
            "{head}"
        );
        let text = text_of(&editable(&fields, &view)).unwrap();
        let whole = format!("{head}{}{text}", comment("It was refused:", "a\nb"));
        assert_eq!(without_comments(&whole), text);
        assert_eq!(
            told(&object(json!({"ttl": 1})), &object(json!({"ttl": 2, "x": null}))),
            "ttl: 1 -> 2\nx: none -> -"
        );
    }
}
