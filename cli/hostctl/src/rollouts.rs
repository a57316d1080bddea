//! `hostctl rollouts`: changes that touch much and go out in steps, and an operator's word on them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{RolloutArgs, RolloutsCommand},
    format::Format,
    kinds::id_in,
    output::{self, age, bad, cell, doubtful, good},
};

/// What a rollout is called before its id.
const NOUN: &str = "rollout";

pub(crate) async fn run(api: &Api, command: &RolloutsCommand, format: Format) -> anyhow::Result<()> {
    let (rollout, verb) = match command {
        RolloutsCommand::List { limit } => return list(api, *limit, format).await,
        RolloutsCommand::Show(rollout) => {
            let answer = api.get(&path(rollout)).await?;
            if format.is_for_programs() {
                output::named(format, NOUN, "id", &answer);
            } else {
                show(&answer);
            }
            return Ok(());
        }
        RolloutsCommand::Pause(rollout) => (rollout, "pause"),
        RolloutsCommand::Resume(rollout) => (rollout, "resume"),
        RolloutsCommand::Abort(rollout) => (rollout, "abort"),
    };
    let answer = api.post(&format!("{}/{verb}", path(rollout)), &json!({})).await?;
    if format.is_for_programs() {
        output::named(format, NOUN, "id", &answer);
    } else {
        let id = cell(&answer["id"]);
        output::line(format!("rollout {id} is {}; see `hostctl rollouts show {id}`", cell(&answer["state"])));
    }
    Ok(())
}

fn path(rollout: &RolloutArgs) -> String {
    format!("/rollouts/{}", encode(id_in(NOUN, &rollout.id)))
}

async fn list(api: &Api, limit: usize, format: Format) -> anyhow::Result<()> {
    let items = api.list_up_to("/rollouts", limit).await?;
    if format.is_for_programs() {
        output::named(format, NOUN, "id", &Value::Array(items));
        return Ok(());
    }
    if items.is_empty() {
        output::note("nothing went out in steps yet");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = items
        .iter()
        .map(|one| {
            vec![
                cell(&one["id"]),
                coloured(&one["state"]),
                cell(&one["step"]),
                reached(one).len().to_string(),
                what(one).join(", "),
                age(&one["created_at"], now),
                cell(&one["reason"]),
            ]
        })
        .collect();
    let columns = ["id", "state", "step", "reached", "change of", "age", "reason"];
    output::list(format, &columns, rows, &["id", "state"], &["age", "step"]);
    Ok(())
}

fn reached(rollout: &Value) -> &[Value] {
    rollout["reached"].as_array().map_or(&[], Vec::as_slice)
}

/// What was changed, e.g. `cluster eu-1`.
fn what(rollout: &Value) -> Vec<String> {
    let of = rollout["of"].as_array().map_or(&[][..], Vec::as_slice);
    of.iter()
        .map(|one| {
            let name = one["name"].as_str().filter(|name| !name.is_empty()).or(one["id"].as_str());
            format!("{} {}", cell(&one["kind"]), name.unwrap_or_default())
        })
        .collect()
}

fn coloured(state: &Value) -> String {
    let text = cell(state);
    match text.as_str() {
        "done" => good(&text),
        "reverting" | "reverted" => bad(&text),
        "paused" | "replaced" => doubtful(&text),
        _ => text,
    }
}

fn show(rollout: &Value) {
    let joined = |field: &str| {
        let all = rollout[field].as_array().map_or(&[][..], Vec::as_slice);
        all.iter().map(cell).collect::<Vec<_>>().join(", ")
    };
    let mut rows = vec![("id", cell(&rollout["id"])), ("state", coloured(&rollout["state"]))];
    for field in ["reason", "api_key_id", "step", "items", "created_at", "updated_at"] {
        rows.push((field, cell(&rollout[field])));
    }
    rows.push(("change of", what(rollout).join(", ")));
    for field in ["revisions", "replaces", "audiences", "conflicts"] {
        rows.push((field, joined(field)));
    }
    let members: Vec<String> = reached(rollout)
        .iter()
        .map(|one| format!("{} ({})", cell(&one["node_id"]), cell(&one["audience"])))
        .collect();
    rows.push(("reached", members.join(", ")));
    output::table(&["field", "value"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_called_by_its_name_where_it_has_one() {
        let rollout = json!({"of": [
            {"kind": "cluster", "id": "c-1", "name": "eu-1"}, {"kind": "node", "id": "web-1", "name": ""}
        ]});
        assert_eq!(what(&rollout), ["cluster eu-1", "node web-1"]);
    }
}
