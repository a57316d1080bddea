//! `hostctl fleet` and `hostctl release`: who has applied what, and letting through what the brake holds.

use std::process::ExitCode;

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::ReleaseArgs,
    format::Format,
    output::{self, bad, cell, doubtful, good},
    resources,
};

/// Who is silent for longer is out of service.
const LEASE_SECONDS: f64 = 15.0;

/// Items of one reason that are listed below the table; all are in `--json`.
const MOST_LISTED: usize = 5;

/// Items that are not as they should be: the field of `GET /subscribers`, and how it is called here.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("rejected", "rejected"),
    ("held", "held"),
    ("unsupported", "unsupported"),
    ("waiting", "waiting"),
    ("orphans", "orphan"),
];

/// `hostctl fleet`.
pub(crate) async fn show(api: &Api, format: Format) -> anyhow::Result<()> {
    let answer = api.get("/subscribers").await?;
    if format.is_for_programs() {
        output::named(format, "node", "node_id", &answer);
        return Ok(());
    }
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output::note("nobody has joined yet; `hostctl node join-token NODE` makes a join token");
        return Ok(());
    }
    let columns = [
        "node",
        "audience",
        "in service",
        "applied/head",
        "rejected",
        "held",
        "unsupported",
        "rollouts",
        "orphans",
        "silent",
    ];
    // Where everything is as it should be, a narrow terminal has better use for the room.
    let spare: Vec<&str> = EXCEPTIONS
        .iter()
        .zip(columns.iter().skip(4))
        .filter(|((field, _), _)| items.iter().all(|one| one[*field].as_array().is_none_or(Vec::is_empty)))
        .map(|(_, column)| *column)
        .collect();
    output::list(format, &columns, items.iter().map(row).collect(), &["node"], &spare);
    let remarks: Vec<String> = items.iter().flat_map(remarks).collect();
    if !remarks.is_empty() {
        output::line("");
        remarks.iter().for_each(output::line);
    }
    Ok(())
}

fn row(one: &Value) -> Vec<String> {
    let number = |field: &str| one[field].as_u64().unwrap_or_default();
    let position = format!("{}/{}", number("applied"), number("head"));
    let service = match Service::of(one) {
        Service::In => good("yes"),
        Service::CatchingUp => doubtful("not yet"),
        Service::Silent | Service::Away => bad("no"),
    };
    let mut cells = vec![
        cell(&one["node_id"]),
        cell(&one["audience"]),
        service,
        if number("applied") < number("head") { doubtful(&position) } else { position },
    ];
    cells.extend(EXCEPTIONS.iter().map(|(field, _)| match one[*field].as_array().map_or(0, Vec::len) {
        0 => "0".to_owned(),
        count => bad(&count.to_string()),
    }));
    cells.push(silence(one));
    cells
}

/// Whether a subscriber counts for gates and gets requests, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Service {
    In,
    CatchingUp,
    /// Its connection stands, but nothing comes: the process hangs or is stopped.
    Silent,
    Away,
}

impl Service {
    pub(crate) fn of(one: &Value) -> Self {
        let silent = one["silent_for"].as_f64().unwrap_or_default() >= LEASE_SECONDS;
        match (one["in_service"] == true, one["connected"] == true) {
            (true, _) => Self::In,
            (false, true) if silent => Self::Silent,
            (false, true) => Self::CatchingUp,
            (false, false) => Self::Away,
        }
    }
}

fn silence(one: &Value) -> String {
    let silent = one["silent_for"].as_f64().unwrap_or_default();
    output::span(SignedDuration::try_from_secs_f64(silent).unwrap_or(SignedDuration::MAX))
}

/// What an operator should look at, in words.
fn remarks(one: &Value) -> Vec<String> {
    let node = cell(&one["node_id"]);
    let mut remarks = Vec::new();
    match Service::of(one) {
        Service::In => {}
        Service::CatchingUp => remarks.push(format!("{node}: connected, and catching up")),
        Service::Silent => remarks.push(format!(
            "{node}: out of service, silent for {} on an open connection; its process hangs or is stopped",
            silence(one)
        )),
        Service::Away => remarks.push(format!(
            "{node}: out of service, last heard of {} ago; is its process running, and can it reach the feed?",
            silence(one)
        )),
    }
    let (applied, durable) = (one["applied"].as_u64(), one["durable"].as_u64());
    if durable < applied {
        remarks.push(format!(
            "{node}: revision {} is in effect, but only {} is on its disk; if that stays, its disk is full or broken",
            applied.unwrap_or_default(),
            durable.unwrap_or_default()
        ));
    }
    for (field, word) in EXCEPTIONS {
        let items = one[field].as_array().map_or(&[][..], Vec::as_slice);
        for item in items.iter().take(MOST_LISTED) {
            let why = item.get("reason").or_else(|| item.get("message")).map(cell).unwrap_or_default();
            remarks.push(format!("{node}: {word} {}: {why}", cell(&item["key"])));
        }
        if items.len() > MOST_LISTED {
            remarks.push(format!("{node}: {} more {word}, see --json", items.len() - MOST_LISTED));
        }
        if field == "held" && !items.is_empty() {
            remarks.push(format!("{node}: if these are meant to go, run `hostctl release {node}`"));
        }
    }
    remarks
}

/// `hostctl release`.
pub(crate) async fn release(api: &Api, args: &ReleaseArgs, format: Format) -> anyhow::Result<ExitCode> {
    let node = resources::node_id(api, &args.node).await?;
    let answer = api.post(&format!("/subscribers/{}/release", encode(&node)), &json!({})).await?;
    let audiences = answer["audiences"].as_array().map_or(&[][..], Vec::as_slice);
    if format.is_for_programs() {
        output::data(format, &answer);
    } else if audiences.is_empty() {
        output::note(format!(
            "{node} has no session, so nobody was told; see `hostctl fleet`, and try again when it is connected"
        ));
    } else {
        for audience in audiences {
            output::line(format!("{node} applies what it held of {}", cell(audience)));
        }
    }
    Ok(if audiences.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber() -> Value {
        json!({
            "node_id": "edge-1", "audience": "edge/c1", "applied": 7, "durable": 5, "head": 9,
            "connected": true, "in_service": false, "silent_for": 130.5,
            "rejected": [{"key": "route/bad.test", "revision": 6, "reason": "label too long"}],
            "held": [], "unsupported": [], "waiting": [],
            "orphans": [],
        })
    }

    #[test]
    fn a_row_says_position_service_and_counts() {
        assert_eq!(row(&subscriber()), ["edge-1", "edge/c1", "no", "7/9", "1", "0", "0", "0", "0", "2m"]);
    }

    #[test]
    fn remarks_name_the_item_the_reason_and_the_remedy() {
        let mut one = subscriber();
        let held: Vec<Value> =
            (0..12).map(|n| json!({"key": format!("route/{n}"), "reason": "brake"})).collect();
        one["held"] = json!(held);
        let text = remarks(&one).join("\n");
        for part in [
            "only 5 is on its disk",
            "rejected route/bad.test: label too long",
            "7 more held",
            "`hostctl release edge-1`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        one = subscriber();
        one["durable"] = json!(7);
        one["rejected"] = json!([]);
        one["in_service"] = json!(true);
        assert!(remarks(&one).is_empty());
    }

    #[test]
    fn who_is_out_of_service_is_told_from_who_comes() {
        let mut one = subscriber();
        one["silent_for"] = json!(1.0);
        assert_eq!(Service::of(&one), Service::CatchingUp);
        one["silent_for"] = json!(16.0);
        assert_eq!(Service::of(&one), Service::Silent);
        one["connected"] = json!(false);
        assert_eq!(Service::of(&one), Service::Away);
        assert!(remarks(&one)[0].contains("last heard of 16s ago"));
    }
}
