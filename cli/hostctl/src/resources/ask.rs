//! `receipt`, `verify` and `usage`: what is asked of one resource beside its own view.

use std::process::ExitCode;

use hosting_resource::Kind;
use serde_json::{Value, json};

use crate::api::{Api, encode};
use crate::args::{ReceiptArgs, TrafficArgs, UsageArgs, VerifyNameArgs};
use crate::format::Format;
use crate::kinds::item;
use crate::output;

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Whether each machine serves it, a line for each.
pub(crate) async fn receipt(api: &Api, args: &ReceiptArgs, format: Format) -> anyhow::Result<ExitCode> {
    let info = args.one.kind;
    let (id, _) = args.one.resolve(api).await?;
    let receipt = api.get(&format!("{}/receipt", item(info, &id))).await?;
    let served = receipt["served"] == true;
    let code = if served { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if format.is_for_programs() {
        output::data(format, &receipt);
        return Ok(code);
    }
    let mut rows = Vec::new();
    for one in list(&receipt["items"]) {
        for machine in list(&one["subscribers"]) {
            let cell = |name: &str| output::cell(&machine[name]);
            rows.push(vec![
                output::cell(&one["key"]),
                output::cell(&one["revision"]),
                cell("node_id"),
                cell("state"),
                cell("at"),
                cell("detail"),
            ]);
        }
    }
    output::table(&["item", "revision", "machine", "state", "at", "detail"], rows);
    let missing: Vec<String> = list(&receipt["missing"]).iter().map(output::cell).collect();
    if served {
        output::note("served by every machine in service");
    } else if missing.is_empty() {
        output::note("not served: it is not in effect yet, or no machine is in service");
    } else {
        output::note(format!("not served yet by {}", missing.join(", ")));
    }
    Ok(code)
}

/// Has a look taken, and shows how it stands so far.
pub(crate) async fn verify(api: &Api, args: &VerifyNameArgs, format: Format) -> anyhow::Result<()> {
    let info = args.one.kind;
    if !matches!(info.kind, Kind::Fqdn | Kind::Zone) {
        return Err(output::usage(format!(
            "{} have no name to be shown; it is for fqdns and zones",
            info.plural()
        )));
    }
    let (id, _) = args.one.resolve(api).await?;
    let answer = api.post(&format!("{}/verify", item(info, &id)), &json!({})).await?;
    let shown = &answer["verification"];
    if format.is_for_programs() {
        output::data(format, if shown.is_null() { &answer } else { shown });
        return Ok(());
    }
    let Some(fields) = shown.as_object() else {
        output::line("nobody asks for it: its brand does not have names verified, or it was there before");
        return Ok(());
    };
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in fields {
        output::line(format!("{name:width$}  {}", output::cell(value)));
    }
    output::note("a look is taken now; ask again to see what it found");
    Ok(())
}

/// What it has, beside what it may have.
pub(crate) async fn usage_of(api: &Api, args: &UsageArgs, format: Format) -> anyhow::Result<()> {
    let info = args.one.kind;
    if !matches!(info.kind, Kind::Tenant | Kind::Brand | Kind::Subscription) {
        return Err(output::usage(format!(
            "{} have no limits; it is for tenants, brands and subscriptions",
            info.plural()
        )));
    }
    let (id, _) = args.one.resolve(api).await?;
    let answer = api.get(&format!("{}/usage", item(info, &id))).await?;
    if format.is_for_programs() {
        output::data(format, &answer["items"]);
        return Ok(());
    }
    let rows = list(&answer["items"]).into_iter().map(|row| {
        let limit = if row["limit"].is_null() { "none".to_owned() } else { output::cell(&row["limit"]) };
        vec![output::cell(&row["kind"]), output::cell(&row["used"]), limit, output::cell(&row["from"])]
    });
    output::table(&["kind", "used", "limit", "from"], rows);
    Ok(())
}

/// As they stand beside the time.
const TRAFFIC_COLUMNS: [&str; 9] = [
    "requests",
    "successful",
    "redirected",
    "client_errors",
    "server_errors",
    "received_bytes",
    "sent_bytes",
    "cached",
    "site_ms",
];

/// What its sites were asked for.
pub(crate) async fn traffic(api: &Api, args: &TrafficArgs, format: Format) -> anyhow::Result<()> {
    let id = super::tenant_id(api, &args.tenant).await?;
    let mut path = format!("/tenants/{}/traffic?by={}", encode(&id), args.by);
    for (name, time) in [("from", &args.from), ("until", &args.until)] {
        if let Some(time) = time {
            path.push_str(&format!("&{name}={}", encode(time)));
        }
    }
    let answer = api.get(&path).await?;
    if format.is_for_programs() {
        output::data(format, &answer);
        return Ok(());
    }
    let items = list(&answer["items"]);
    if items.is_empty() {
        output::note(
            "nobody asked its sites for anything in this time, as far as their edges have told: they do each minute",
        );
        return Ok(());
    }
    let rows = items.into_iter().chain([answer["total"].clone()]).map(|row| {
        let begins = row["begins"].as_str().unwrap_or("total").to_owned();
        std::iter::once(begins)
            .chain(TRAFFIC_COLUMNS.iter().map(|column| output::cell(&row[*column])))
            .collect()
    });
    let titles =
        ["begins", "requests", "2xx", "3xx", "4xx", "5xx", "bytes in", "bytes out", "cached", "site ms"];
    output::table(&titles, rows);
    Ok(())
}
