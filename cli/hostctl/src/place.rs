//! `hostctl drain`, `undrain` and `plan --without`.

use std::process::ExitCode;

use hosting_resource::{Kind, KindInfo};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{DrainArgs, OneArgs, PlaceCommand, PlanArgs, UndrainArgs, WaitArgs},
    format::Format,
    kinds::{self, item},
    output::{self, cell, usage},
    resources::{node_id, plan},
};

/// Names that one request asks for at most.
const PAGE: usize = 200;

pub(crate) async fn run(api: &Api, command: &PlaceCommand, format: Format) -> anyhow::Result<ExitCode> {
    match command {
        PlaceCommand::Drain(args) => drain(api, args, format).await,
        PlaceCommand::Undrain(UndrainArgs { one, wait }) => {
            turn(api, one, "undrain", Some(&json!({})), wait, format).await
        }
        PlaceCommand::Plan(args) => without(api, args, format).await,
    }
}

async fn node_or_shard(api: &Api, one: &OneArgs) -> anyhow::Result<(&'static KindInfo, String)> {
    if !matches!(one.kind.kind, Kind::Node | Kind::Shard) {
        return Err(usage(format!("{} are not drained; nodes and shards are", one.kind.plural())));
    }
    let (id, _) = one.resolve(api).await?;
    Ok((one.kind, id))
}

/// Prints an answer for programs.
fn shown(format: Format, info: &KindInfo, id: &str, answer: &Value) {
    if format == Format::Name {
        output::line(kinds::name(&info.dashed(), id));
    } else {
        output::data(format, answer);
    }
}

async fn drain(api: &Api, args: &DrainArgs, format: Format) -> anyhow::Result<ExitCode> {
    if !args.status {
        let body = json!({"force": args.force});
        return turn(api, &args.one, "drain", Some(&body), &args.wait, format).await;
    }
    let (info, id) = node_or_shard(api, &args.one).await?;
    let path = item(info, &id);
    let state = api.get(&format!("{path}/drain")).await?;
    if format.is_for_programs() {
        shown(format, info, &id, &state);
    } else {
        lines_of(info, &state).into_iter().for_each(output::line);
    }
    Ok(ExitCode::SUCCESS)
}

/// How far something is drained, in a few lines.
fn lines_of(info: &KindInfo, state: &Value) -> Vec<String> {
    let Some(since) = state["draining"]["since"].as_str() else {
        return vec![format!("this {} is not drained", info.dashed())];
    };
    let mut lines = vec![format!("drained since {since}")];
    if let Some(tenants) = state["tenants"].as_u64() {
        lines.push(match tenants {
            0 => "it is empty".to_owned(),
            _ => format!("tenants that are still on it: {tenants}"),
        });
        return lines;
    }
    for pool in state["pools"].as_array().into_iter().flatten() {
        let waits: Vec<String> = pool["waits_for"].as_array().into_iter().flatten().map(cell).collect();
        let name = cell(&pool["shard_name"]);
        lines.push(match (pool["serves"] == true, waits.is_empty()) {
            (true, _) => {
                format!("shard {name}: serves until others do ({} serve)", cell(&pool["others_serving"]))
            }
            (false, false) => format!("shard {name}: out, as soon as these know: {}", waits.join(", ")),
            (false, true) => format!("shard {name}: out"),
        });
    }
    lines.push(
        if state["is_out"] == true { "it gets no more requests" } else { "it may still get requests" }
            .to_owned(),
    );
    lines
}

async fn turn(
    api: &Api,
    one: &OneArgs,
    action: &str,
    body: Option<&Value>,
    wait: &WaitArgs,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let (info, id) = node_or_shard(api, one).await?;
    let path = item(info, &id);
    let body = body.filter(|_| action == "drain");
    let path = format!("{path}/{action}");
    if wait.dry_run {
        plan::show(&plan::of(api, Method::POST, &path, body).await?, format);
        return Ok(ExitCode::SUCCESS);
    }
    let mut path = plan::confirmed(&path, wait.confirm);
    if let Some(until) = wait.wait {
        let seconds = wait.timeout.as_secs().clamp(1, 300);
        path = plan::with(&path, &format!("wait={}&wait_timeout={seconds}", until.as_str()));
    }
    let patience = wait.timeout + std::time::Duration::from_secs(30);
    let (_, answer) = api.send_within(Method::POST, &path, body, patience).await?;
    if format.is_for_programs() {
        shown(format, info, &id, &answer);
    } else {
        let word = if action == "drain" { "is drained" } else { "is not drained any more" };
        output::line(format!("{} {} {word}", info.dashed(), cell(&answer["id"])));
    }
    Ok(ExitCode::SUCCESS)
}

async fn without(api: &Api, args: &PlanArgs, format: Format) -> anyhow::Result<ExitCode> {
    let mut ids = Vec::new();
    for node in args.without.iter().map(|node| node.trim()).filter(|node| !node.is_empty()) {
        ids.push(node_id(api, node).await?);
    }
    let (mut names, mut cursor) = (Vec::new(), None::<String>);
    let (parts, more) = loop {
        let limit = args.limit.saturating_sub(names.len()).clamp(1, PAGE);
        let mut path = format!("/plan/without?nodes={}&limit={limit}", encode(&ids.join(",")));
        if let Some(cursor) = &cursor {
            path = plan::with(&path, &format!("cursor={}", encode(cursor)));
        }
        let page = api.get(&path).await?;
        names.extend(page["names"].as_array().cloned().unwrap_or_default());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || names.len() >= args.limit {
            break (page["parts"].clone(), cursor.is_some());
        }
    };
    if format.is_for_programs() {
        output::data(format, &json!({"parts": parts, "names": names, "has_more": more}));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = parts.as_array().into_iter().flatten().map(|part| {
        let serving = part["serving"].as_u64().unwrap_or_default();
        let left = if serving == 0 { output::bad("nothing") } else { format!("{serving} nodes") };
        vec![cell(&part["part"]).replace('_', "-"), cell(&part["name"]), left, cell(&part["tenants"])]
    });
    output::table(&["PART", "NAME", "LEFT", "TENANTS"], rows);
    output::line("");
    if names.is_empty() {
        output::line("no name would fail");
    } else {
        let rows = names.iter().map(|name| {
            vec![
                cell(&name["name"]),
                cell(&name["tenant_id"]),
                cell(&name["part"]).replace('_', "-"),
                cell(&name["id"]),
            ]
        });
        output::table(&["WOULD FAIL", "TENANT", "HANGS ON", "ID"], rows);
    }
    if more {
        output::note("there are more; see them with a larger --limit");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_what_it_waits_for() {
        let (node, shard) = (Kind::Node.info(), Kind::Shard.info());
        assert_eq!(lines_of(node, &json!({"is_out": false})), ["this node is not drained"]);
        let mut state = json!({
            "draining": {"since": "2026-11-29T10:00:00Z", "forced": false}, "is_out": false,
            "pools": [{"shard_name": "web-1", "serves": true, "others_serving": 0, "waits_for": []}],
        });
        let lines = lines_of(node, &state);
        assert!(lines[1].contains("serves until others do (0 serve)"), "{lines:?}");
        assert_eq!(lines[2], "it may still get requests");
        state["pools"][0] = json!({"shard_name": "web-1", "serves": false, "waits_for": ["edge-1"]});
        assert!(lines_of(node, &state)[1].contains("as soon as these know: edge-1"));
        let full = json!({"draining": {"since": "x"}, "tenants": 7, "is_empty": false});
        assert_eq!(lines_of(shard, &full)[1], "tenants that are still on it: 7");
    }
}
