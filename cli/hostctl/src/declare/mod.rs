//! A wanted state in files: `apply`, `diff`, `export` and `edit`.
//!
//! One mechanism for every kind: what differs between kinds comes from their tables in `hosting-resource` (ADR 32). Rules for names and
//! values are those that the platform applies; it has the last word all the same.

mod compare;
mod differ;
mod edit;
mod export;
mod faults;
mod files;
mod item;
mod normal;
mod pairing;
mod send;
mod show;
mod steps;
mod world;

use std::{collections::BTreeMap, io::IsTerminal, process::ExitCode};

use serde_json::{Value, json};

use self::{
    compare::{Compared, Comparer},
    faults::Faults,
    item::FieldsByKind,
    send::{Planned, Sent},
    steps::{Step, Verb},
    world::World,
};
use crate::{
    api::{Api, ApiError},
    args::{ApplyArgs, DeclareCommand, DiffArgs, FilesArgs},
    format::Format,
    output::{self, usage},
    resources::plan,
};

/// Names that a remark lists.
const LISTED: usize = 5;

pub(crate) async fn run(api: &Api, command: &DeclareCommand, format: Format) -> anyhow::Result<ExitCode> {
    match command {
        DeclareCommand::Apply(args) => apply(api, args, format).await,
        DeclareCommand::Diff(args) => diff(api, args, format).await,
        DeclareCommand::Export(args) => export::run(api, args, format).await,
        DeclareCommand::Edit(args) => edit::run(api, args, format).await,
    }
}

/// Reads the files and compares them with the platform.
async fn compared(api: &Api, args: &FilesArgs) -> anyhow::Result<(Compared, Vec<Step>)> {
    let (mut faults, mut fields) = (Faults::default(), FieldsByKind::default());
    let items: Vec<_> = files::read(&args.files)?
        .into_iter()
        .filter_map(|written| item::checked(written, &mut fields, &mut faults))
        .collect();
    faults.end()?;
    if items.is_empty() {
        return Err(usage("the files name nothing; write items with kind and spec"));
    }
    let compared = Comparer::new(World::new(api), items, fields, args.prune).run().await?;
    let steps = steps::steps(&compared);
    Ok((compared, steps))
}

/// Says of which fields it is not known whether they differ.
fn note_unread(compared: &Compared) {
    let mut fields: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    for entry in compared.entries.iter().filter(|entry| entry.found.is_some()) {
        for field in &entry.compared.unread {
            let key = (entry.item.info.dashed(), field.as_str());
            fields.entry(key).or_default().push(entry.item.place.to_string());
        }
    }
    for ((kind, field), places) in fields {
        let listed: Vec<&str> = places.iter().take(LISTED).map(String::as_str).collect();
        let more = if places.len() > LISTED { ", ..." } else { "" };
        output::note(format!(
            "note: {field} of a {kind} is never shown, so it is not compared and stays as it is ({}{more})",
            listed.join(", ")
        ));
    }
}

async fn diff(api: &Api, args: &DiffArgs, format: Format) -> anyhow::Result<ExitCode> {
    let (compared, steps) = compared(api, &args.files).await?;
    note_unread(&compared);
    if format.is_for_programs() {
        let changes: Vec<Value> = steps.iter().map(show::json).collect();
        output::data(format, &json!({"changes": changes, "unchanged": unchanged(&compared)}));
    } else if steps.is_empty() {
        output::line(format!("no differences: {} as the files say", counted(compared.entries.len())));
    } else {
        show::lines(&steps);
        output::note(show::summary(&steps));
    }
    Ok(if steps.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(output::DIFFERS) })
}

fn counted(count: usize) -> String {
    if count == 1 { "1 resource is".to_owned() } else { format!("{count} resources are") }
}

fn unchanged(compared: &Compared) -> usize {
    let is_unchanged = |entry: &&compare::Entry| entry.found.is_some() && entry.compared.changes.is_empty();
    compared.entries.iter().filter(is_unchanged).count()
}

async fn apply(api: &Api, args: &ApplyArgs, format: Format) -> anyhow::Result<ExitCode> {
    let (compared, steps) = compared(api, &args.files).await?;
    note_unread(&compared);
    let mut told = json!({
        "changes": steps.iter().map(show::json).collect::<Vec<Value>>(),
        "unchanged": unchanged(&compared),
        "applied": false,
    });
    if steps.is_empty() {
        if format.is_for_programs() {
            output::data(format, &told);
        } else {
            output::line(format!("nothing to change: {} as the files say", counted(compared.entries.len())));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !format.is_for_programs() {
        show::lines(&steps);
    }
    let planned = send::planned(api, &steps).await?;
    if args.wait.dry_run {
        show_planned(&planned, &steps, told, format);
        return Ok(ExitCode::SUCCESS);
    }
    let deletions = steps.iter().filter(|step| step.verb == Verb::Delete).count();
    let mut confirm = args.wait.confirm;
    if !args.yes {
        let can_ask = !format.is_for_programs() && plan::can_ask();
        let is_stdin = args.files.files.iter().any(|file| file.as_os_str() == "-");
        if is_stdin && !format.is_for_programs() && std::io::stderr().is_terminal() {
            let problem = "standard input is the file, so that you cannot be asked: look at the plan with --dry-run, and add --yes";
            return Err(usage(problem));
        }
        if !can_ask && deletions > 0 {
            return Err(usage(format!(
                "--prune would delete {deletions}: look at the plan with --dry-run, and add --yes"
            )));
        }
        if can_ask && !is_agreed_to(&planned, &steps)? {
            output::note("nothing was changed");
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
        if let Planned::Plan(plan) = &planned {
            confirm = confirm.or_else(|| plan::number(plan).filter(|_| can_ask));
        }
    }
    let is_atomic = matches!(planned, Planned::Plan(_));
    if !is_atomic {
        output::note(too_large(&steps));
    }
    let sent = send::changes(api, &steps, is_atomic, &args.wait, confirm).await?;
    told["applied"] = sent.refused.is_empty().into();
    tell(&steps, sent, told, format)
}

fn too_large(steps: &[Step]) -> String {
    format!(
        "{} changes are more than fit into one transaction: they go in several calls, each change for itself, until one is refused; run \
         it again to go on",
        steps.len()
    )
}

fn show_planned(planned: &Planned, steps: &[Step], mut told: Value, format: Format) {
    match planned {
        Planned::Plan(plan) if format.is_for_programs() => told["plan"] = (**plan).clone(),
        Planned::Plan(plan) => {
            output::note(show::summary(steps));
            plan::summary(plan).into_iter().for_each(output::note);
            output::warnings(plan);
        }
        Planned::TooLarge if format.is_for_programs() => told["plan"] = Value::Null,
        Planned::TooLarge => output::note(too_large(steps)),
    }
    if format.is_for_programs() {
        output::data(format, &told);
    } else {
        output::note("nothing was changed");
    }
}

fn is_agreed_to(planned: &Planned, steps: &[Step]) -> anyhow::Result<bool> {
    output::note(show::summary(steps));
    match planned {
        Planned::Plan(plan) => {
            output::warnings(plan);
            plan::is_agreed_to(plan)
        }
        Planned::TooLarge => {
            output::note(too_large(steps));
            plan::is_answered_yes(&Value::Null)
        }
    }
}

/// Prints what became of the steps.
fn tell(steps: &[Step], sent: Sent, mut told: Value, format: Format) -> anyhow::Result<ExitCode> {
    let Sent { done, refused, revision, late, lagging, rejected } = sent;
    for one in &done {
        output::warnings(&one.result);
    }
    let error = refused.first().map(|(_, error)| error.exit_code()).or(rejected.as_ref().map(|_| 6));
    let code = match error {
        Some(code) => code,
        None if late => output::NOT_READY,
        None => 0,
    };
    let not_done = steps.len() - done.len();
    if format.is_for_programs() {
        let results: Vec<Value> = done
            .iter()
            .map(|one| {
                let mut result = show::json(&steps[one.step]);
                for field in ["id", "status", "generation", "revision", "once"] {
                    if let Some(value) = one.result.get(field) {
                        result[field] = value.clone();
                    }
                }
                result
            })
            .collect();
        told["results"] = results.into();
        told["refused"] = refused
            .iter()
            .map(|(step, error)| json!({"change": show::json(&steps[*step]), "error": error.to_string()}))
            .collect();
        told["revision"] = revision.into();
        told["lagging"] = lagging.into();
        if let Some(reason) = refused.first().map(|(_, error)| error.to_string()).or(rejected) {
            told["error"] = reason.into();
        }
        told["exit_code"] = code.into();
        output::data(format, &told);
        return Ok(ExitCode::from(code));
    }
    for one in &done {
        send::shown_once(steps[one.step].info, one).into_iter().for_each(output::line);
    }
    let at = revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
    output::line(format!("done: {}{at}", show::done(done.iter().map(|one| &steps[one.step]))));
    for (_, error) in refused.iter().take(LISTED) {
        output::note(output::bad(&format!("refused: {error}")));
    }
    if not_done > 0 {
        output::note(format!(
            "{not_done} of {} changes were not made; mend what was refused and run it again to go on",
            steps.len()
        ));
    }
    if let Some(reason) = rejected {
        return Err(ApiError::Answer { status: 409, message: reason }.into());
    }
    if late {
        output::note("not in effect everywhere within the time limit");
        lagging.iter().for_each(|node| output::note(format!("lagging: {node}")));
    }
    Ok(ExitCode::from(code))
}
