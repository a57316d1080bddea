//! `hostctl history` and `hostctl undo`: what was, and taking it back.

use std::process::ExitCode;

use hosting_resource::{IdPolicy, Kind, KindInfo};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    api::{Api, ApiError, encode},
    args::{HistoryArgs, UndeleteArgs, UndoArgs, WaitArgs},
    format::Format,
    kinds::{self, item, label_of},
    output::{self, age, cell, doubtful, usage},
    resources::plan,
};

/// Kinds whose deleted ones are looked for by name: their lists lie in nothing.
const NAMED: [Kind; 2] = [Kind::Tenant, Kind::Zone];

/// What stays as it is although it was to be taken back: listed up to so many.
const LISTED: usize = 20;

pub(crate) async fn history(api: &Api, args: &HistoryArgs, format: Format) -> anyhow::Result<()> {
    let path = match known(args.kind, &args.name) {
        Some((info, id)) => format!("{}/history", item(info, id)),
        None if args.name.contains('.') => format!("/names/{}/history", encode(&args.name)),
        None => return Err(usage(format!("{:?} does not say of which kind it is: add --kind", args.name))),
    };
    let items = api.list_up_to(&path, args.limit).await?;
    if format.is_for_programs() {
        output::data(format, &Value::Array(items));
        return Ok(());
    }
    if items.is_empty() {
        output::note("no changes are remembered");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = items.iter().map(|change| {
        vec![
            cell(&change["revision"]),
            age(&change["at"], now),
            cell(&change["event"]),
            format!("{} {}", cell(&change["kind"]).replace('_', "-"), cell(&change["label"])),
            fields_of(change),
            change["api_key_id"].as_str().unwrap_or("the controller").to_owned(),
        ]
    });
    output::list(
        format,
        &["revision", "age", "event", "what", "fields", "by"],
        rows.collect(),
        &["revision", "event"],
        &["by", "age"],
    );
    Ok(())
}

/// Kind and id, where the flag, the name or the id say the kind.
fn known<'n>(given: Option<&'static KindInfo>, name: &'n str) -> Option<(&'static KindInfo, &'n str)> {
    let said = given.or_else(|| kind_of(name)).map(|info| (info, name));
    said.or_else(|| kinds::split_name(name))
}

/// The kind that an id says by how it begins.
fn kind_of(id: &str) -> Option<&'static KindInfo> {
    let infos = Kind::ALL.iter().map(|kind| kind.info());
    infos.into_iter().find(|info| matches!(info.id, IdPolicy::Prefixed(prefix) if id.starts_with(prefix)))
}

/// `ttl: 3600 → 60`, one after another.
fn fields_of(change: &Value) -> String {
    if change["event"] == "created" {
        return String::new();
    }
    let value = |value: &Value| if value.is_null() { "none".to_owned() } else { cell(value) };
    let fields = change["fields"].as_array().into_iter().flatten();
    let told: Vec<String> = fields
        .map(|field| {
            let name = cell(&field["field"]);
            format!(
                "{}: {} → {}",
                name.trim_start_matches('/'),
                value(&field["before"]),
                value(&field["after"])
            )
        })
        .collect();
    told.join(", ")
}

pub(crate) async fn undo(api: &Api, args: &UndoArgs, format: Format) -> anyhow::Result<ExitCode> {
    let body = Value::Object(body_of(args));
    take_back(api, "/undo", Some(&body), &args.wait, args.yes, format).await
}

pub(crate) async fn undelete(api: &Api, args: &UndeleteArgs, format: Format) -> anyhow::Result<ExitCode> {
    let (info, id) = deleted(api, args).await?;
    let path = format!("{}/undelete", item(info, &id));
    take_back(api, &path, None, &args.wait, args.yes, format).await
}

/// What is meant of what is deleted and kept: kind and id.
async fn deleted(api: &Api, args: &UndeleteArgs) -> anyhow::Result<(&'static KindInfo, String)> {
    if let Some((info, id)) = known(args.kind, &args.name) {
        return Ok((info, id.to_owned()));
    }
    let mut found = Vec::new();
    for info in NAMED.iter().map(|kind| kind.info()) {
        let path = plan::with(info.collection, &format!("status=deleted&search={}", encode(&args.name)));
        let items = api.list(&path).await?;
        let called =
            |one: &&Value| label_of(one) == Some(args.name.as_str()) || one["id"] == args.name.as_str();
        found.extend(
            items.iter().filter(called).filter_map(|one| Some((info, one["id"].as_str()?.to_owned()))),
        );
    }
    match found.as_slice() {
        [(info, id)] => Ok((info, id.clone())),
        [] => Err(ApiError::NoSuch(format!(
            "no tenant or zone {:?} is deleted and kept; of other kinds give --kind and the id",
            args.name
        ))
        .into()),
        many => {
            let ids: Vec<String> = many.iter().map(|(info, id)| format!("{} {id}", info.dashed())).collect();
            Err(usage(format!("several are called {:?}: {}; give the id", args.name, ids.join(", "))))
        }
    }
}

/// Plans what is to be taken back, asks, and does it.
async fn take_back(
    api: &Api,
    path: &str,
    body: Option<&Value>,
    wait: &WaitArgs,
    is_agreed: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let planned = plan::of(api, Method::POST, path, body).await?;
    if wait.dry_run {
        plan::show(&planned, format);
        if !format.is_for_programs() {
            what_stays(&planned["answer"]).into_iter().for_each(output::line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut confirm = wait.confirm;
    if !is_agreed && !format.is_for_programs() && plan::can_ask() {
        taken_back(&planned["answer"]).into_iter().for_each(output::note);
        what_stays(&planned["answer"]).into_iter().for_each(output::note);
        if !plan::is_agreed_to(&planned)? {
            output::note("nothing was changed");
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
        confirm = confirm.or(plan::number(&planned));
    }
    let mut path = plan::confirmed(path, confirm);
    if let Some(until) = wait.wait {
        let seconds = wait.timeout.as_secs().clamp(1, 300);
        path = plan::with(&path, &format!("wait={}&wait_timeout={seconds}", until.as_str()));
    }
    let patience = wait.timeout + std::time::Duration::from_secs(30);
    let (status, answer) = api.send_within(Method::POST, &path, body, patience).await?;
    if format == Format::Name {
        names_of(&answer).into_iter().for_each(output::line);
    } else if format.is_for_programs() {
        output::data(format, &answer);
    } else {
        taken_back(&answer).into_iter().for_each(output::line);
        what_stays(&answer).into_iter().for_each(output::line);
        if let Some(job) = answer["job_id"].as_str() {
            output::line(format!("the rest follows: `hostctl jobs get {job}`"));
        }
        if answer["goes_on"] == true {
            output::line("the rest follows by itself");
        }
    }
    let is_late = status == StatusCode::ACCEPTED && wait.wait.is_some();
    Ok(if is_late { ExitCode::from(output::NOT_READY) } else { ExitCode::SUCCESS })
}

fn body_of(args: &UndoArgs) -> Map<String, Value> {
    let fields = [
        ("revision", args.revision.map(|revision| json!(revision))),
        ("key", args.key.as_ref().map(|key| json!(key))),
        ("from", args.from.as_ref().map(|from| json!(from))),
        ("to", args.to.as_ref().map(|to| json!(to))),
        ("trace", args.trace.as_ref().map(|trace| json!(trace))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The names of what was taken back.
fn names_of(answer: &Value) -> Vec<String> {
    let items = answer["taken_back"].as_array().map_or(&[][..], Vec::as_slice);
    let name_of = |one: &Value| kinds::name(&cell(&one["kind"]).replace('_', "-"), &cell(&one["id"]));
    items.iter().map(name_of).collect()
}

fn taken_back(answer: &Value) -> Vec<String> {
    let total = answer["taken_back_total"].as_u64().unwrap_or_default();
    let items = answer["taken_back"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = items
        .iter()
        .take(LISTED)
        .map(|one| {
            let kind = cell(&one["kind"]).replace('_', "-");
            let how = match one["how"].as_str() {
                Some("restored") => "comes back",
                Some("deleted") => "is deleted",
                _ => "is changed back",
            };
            format!("{kind} {} {how} ({})", cell(&one["label"]), cell(&one["id"]))
        })
        .collect();
    if total > lines.len() as u64 {
        lines.push(format!("and {} more", total - lines.len() as u64));
    }
    if lines.is_empty() {
        lines.push("nothing is left to take back".to_owned());
    }
    lines
}

/// What stays although it was to be taken back.
fn what_stays(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (list, words) in [("conflicts", "stays"), ("not_restorable", "cannot come back")] {
        let items = answer[list].as_array().map_or(&[][..], Vec::as_slice);
        for one in items.iter().take(LISTED) {
            let kind = cell(&one["kind"]).replace('_', "-");
            lines.push(doubtful(&format!("{kind} {} {words}: {}", cell(&one["id"]), cell(&one["reason"]))));
        }
        let total = answer[format!("{list}_total")].as_u64().unwrap_or_default();
        if total > LISTED as u64 {
            lines.push(format!("and {} more", total - LISTED as u64));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_kind_where_it_can() {
        assert_eq!(kind_of("web_ab12cd34ef").unwrap().kind, Kind::Webroot);
        assert_eq!(kind_of("t_ab12cd34ef").unwrap().kind, Kind::Tenant);
        assert!(kind_of("6f1d9a52-7d0c-4b5e-9a3f-0d6f5a1c2b3d").is_none());
        assert!(kind_of("www.example.com").is_none());
        assert_eq!(known(None, "zone/6f1d").map(|(info, id)| (info.kind, id)), Some((Kind::Zone, "6f1d")));
    }

    #[test]
    fn a_change_is_told_field_by_field() {
        let change = json!({"event": "changed", "fields": [
            {"field": "/ttl", "before": 3600, "after": 60},
            {"field": "/webroot_id", "after": "web_1"},
        ]});
        assert_eq!(fields_of(&change), "ttl: 3600 → 60, webroot_id: none → web_1");
    }

    #[test]
    fn what_stays_is_told_with_the_reason() {
        let answer = json!({
            "taken_back": [{"kind": "zone_record", "id": "r", "label": "a.example TXT", "how": "restored"}], "taken_back_total": 3,
            "conflicts": [{"kind": "fqdn", "id": "f", "field": "", "reason": "changed since"}], "conflicts_total": 1,
            "not_restorable": [], "not_restorable_total": 0,
        });
        assert_eq!(taken_back(&answer), ["zone-record a.example TXT comes back (r)", "and 2 more"]);
        assert!(what_stays(&answer)[0].contains("fqdn f stays: changed since"));
    }
}
