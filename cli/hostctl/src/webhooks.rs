//! `hostctl webhooks`: what was posted to a webhook, and what can be done about it.

use std::process::ExitCode;

use hosting_resource::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{OneArgs, WebhookArgs, WebhooksCommand},
    format::Format,
    kinds::{id_in, item},
    output::{self, age, bad, cell, doubtful, good},
};

pub(crate) async fn run(api: &Api, command: &WebhooksCommand, format: Format) -> anyhow::Result<ExitCode> {
    match command {
        WebhooksCommand::Deliveries(args) => {
            let path = format!("{}/deliveries", path(api, &args.webhook).await?);
            show(api.list_up_to(&path, args.limit).await?, format);
        }
        WebhooksCommand::Test(webhook) => {
            let answer = api.post(&format!("{}/test", path(api, webhook).await?), &json!({})).await?;
            asked(&answer, webhook, format);
        }
        WebhooksCommand::Redeliver(args) => {
            let path = path(api, &args.webhook).await?;
            let path = format!("{path}/deliveries/{}/redeliver", encode(&args.delivery));
            asked(&api.post(&path, &json!({})).await?, &args.webhook, format);
        }
        WebhooksCommand::RotateSecret(args) => {
            let body =
                args.overlap_seconds.map_or_else(|| json!({}), |given| json!({"overlap_seconds": given}));
            let path = format!("{}/rotate-secret", path(api, &args.webhook).await?);
            let answer = api.post(&path, &body).await?;
            if format.is_for_programs() {
                output::data(format, &answer);
            } else {
                output::line(cell(&answer["secret"]));
                output::note(format!(
                    "shown once; the former secret signs until {}",
                    cell(&answer["former_secret_until"])
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn path(api: &Api, webhook: &WebhookArgs) -> anyhow::Result<String> {
    let info = Kind::Webhook.info();
    let one = OneArgs { kind: info, id: id_in("webhook", &webhook.id).to_owned(), parent: None };
    let (id, _) = one.resolve(api).await?;
    Ok(item(info, &id))
}

fn asked(answer: &Value, webhook: &WebhookArgs, format: Format) {
    if format.is_for_programs() {
        output::data(format, answer);
    } else {
        let id = cell(&answer["id"]);
        output::line(format!(
            "{id} is posted within a second; see `hostctl webhooks deliveries {}`",
            webhook.id
        ));
    }
}

fn show(items: Vec<Value>, format: Format) {
    if format.is_for_programs() {
        output::data(format, &Value::Array(items));
        return;
    }
    if items.is_empty() {
        output::note("nothing was posted to it yet");
        return;
    }
    let now = Timestamp::now();
    let columns = ["id", "type", "status", "attempts", "answer", "ms", "age", "error"];
    let row = |one: &Value| {
        vec![
            cell(&one["id"]),
            cell(&one["type"]),
            coloured(&one["status"]),
            cell(&one["attempts"]),
            cell(&one["response_status"]),
            cell(&one["duration_ms"]),
            age(&one["created_at"], now),
            cell(&one["error"]),
        ]
    };
    output::list(
        format,
        &columns,
        items.iter().map(row).collect(),
        &["id", "status"],
        &["attempts", "answer", "ms", "age"],
    );
}

fn coloured(status: &Value) -> String {
    let text = cell(status);
    match text.as_str() {
        "delivered" => good(&text),
        "failed" | "dropped" => bad(&text),
        "retrying" | "pending" => doubtful(&text),
        _ => text,
    }
}
