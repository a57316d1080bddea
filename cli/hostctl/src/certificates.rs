//! `hostctl certificates`: the replacement of many certificates of a public authority, forecast before it is done.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hosting_resource::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{CertificatesCommand, DrillArgs, OneArgs},
    format::Format,
    kinds::{id_in, item},
    output::{self, cell, usage},
    progress::Progress,
    resources::plan,
};

/// How often it is asked how far it is.
const LOOK_EACH: Duration = Duration::from_secs(1);

pub(crate) async fn run(
    api: &Api,
    command: &CertificatesCommand,
    format: Format,
) -> anyhow::Result<ExitCode> {
    match command {
        CertificatesCommand::Drill(args) => drill(api, args, format).await,
    }
}

async fn authority(api: &Api, id: &str) -> anyhow::Result<String> {
    let id = id_in("certificate_authority", id).to_owned();
    let one = OneArgs { kind: Kind::CertificateAuthority.info(), id, parent: None };
    Ok(one.resolve(api).await?.0)
}

async fn drill(api: &Api, args: &DrillArgs, format: Format) -> anyhow::Result<ExitCode> {
    let from = authority(api, &args.id).await?;
    let to = match &args.to {
        Some(to) => Some(authority(api, to).await?),
        None => None,
    };
    let path = |id: &str| item(Kind::CertificateAuthority.info(), id);
    let asked = to.as_deref().unwrap_or(&from);
    let limit = args.names.map(|names| format!("&names={names}")).unwrap_or_default();
    let forecast =
        api.get(&format!("{}/forecast?from_authority_id={}{limit}", path(asked), encode(&from))).await?;
    if !format.is_for_programs() {
        show_forecast(&forecast, args);
    }
    if args.dry_run || forecast["names"] == 0 {
        if format.is_for_programs() {
            output::data(format, &json!({"forecast": forecast}));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes {
        if format.is_for_programs() || !plan::can_ask() {
            return Err(usage(
                "certificates would be replaced: look at the forecast with --dry-run, and add --yes",
            ));
        }
        if !plan::is_answered_yes(&Value::Null)? {
            output::note("nothing was changed");
            return Ok(ExitCode::from(output::INTERRUPTED));
        }
    }
    let mut body = json!({});
    if let Some(names) = args.names {
        body["names"] = names.into();
    }
    if let Some(to) = &to {
        body["to_authority_id"] = to.as_str().into();
    }
    api.post(&format!("{}/reissue", path(&from)), &body).await?;
    let reissue = watch(api, &path(&from), Duration::from_secs(args.timeout)).await?;
    let is_done = reissue["done_at"].is_string();
    if format.is_for_programs() {
        output::data(format, &json!({"forecast": forecast, "reissue": reissue}));
    } else if is_done {
        output::line(format!(
            "{} of {} names have another certificate{}",
            cell(&reissue["done"]),
            cell(&reissue["names"]),
            off_by(&reissue)
        ));
    } else {
        output::line(format!(
            "{} of {} names have another certificate so far, and it goes on: `hostctl get certificate_authority {}`",
            cell(&reissue["done"]),
            cell(&reissue["names"]),
            args.id
        ));
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(output::NOT_READY) })
}

fn show_forecast(forecast: &Value, args: &DrillArgs) {
    if forecast["names"] == 0 {
        output::note(format!("no name has a certificate of {} that could be replaced", args.id));
        return;
    }
    output::line(format!(
        "{} names in {} orders of {}: done at {}",
        cell(&forecast["names"]),
        cell(&forecast["orders_at_most"]),
        args.to.as_deref().unwrap_or("the authority that is next"),
        cell(&forecast["done_at_worst"]),
    ));
}

/// Waits until all are replaced, or the time is over; what the authority says of it then.
async fn watch(api: &Api, path: &str, limit: Duration) -> anyhow::Result<Value> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    progress.step("names get other certificates");
    loop {
        let reissue = api.get(path).await?["reissue"].clone();
        if reissue["done_at"].is_string() {
            progress.done();
            return Ok(reissue);
        }
        if begun.elapsed() >= limit {
            progress.failed();
            return Ok(reissue);
        }
        progress.waits_for(&format!("{} of {}", cell(&reissue["done"]), cell(&reissue["names"])));
        progress.during(tokio::time::sleep(LOOK_EACH)).await;
    }
}

/// How long it took beside how long it was thought to take.
fn off_by(reissue: &Value) -> String {
    let at = |field: &str| reissue[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    match (at("since"), at("forecast_done_at"), at("done_at")) {
        (Some(since), Some(forecast), Some(done)) => format!(
            ", after {} s; {} s were forecast",
            done.duration_since(since).as_secs(),
            forecast.duration_since(since).as_secs()
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_says_how_good_its_forecast_was() {
        let mut reissue =
            json!({"since": "2026-01-01T00:00:00Z", "forecast_done_at": "2026-01-01T00:01:00Z"});
        assert_eq!(off_by(&reissue), "");
        reissue["done_at"] = "2026-01-01T00:01:10Z".into();
        assert_eq!(off_by(&reissue), ", after 70 s; 60 s were forecast");
    }
}
