//! `hostctl logs`: what visitors ask a name for, as it happens.

use hosting_resource::Kind;
use serde_json::{Value, json};

use crate::api::{Api, encode};
use crate::args::LogsArgs;
use crate::format::{self, Format};
use crate::output;
use crate::resources::names::id_of;
use crate::stream::EventStream;

pub(crate) async fn run(api: &Api, args: &LogsArgs, format: Format) -> anyhow::Result<()> {
    let id = id_of(api, Kind::Fqdn.info(), &args.name, None).await?;
    let path = format!("/fqdns/{}/requests", encode(&id));
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut stream = EventStream::new(api, path, String::new());
    let name = &args.name;
    while left > 0 {
        let block = stream.next().await?;
        let data = block.json();
        match block.name.as_str() {
            "request" => {
                show(&data, format);
                left -= 1;
            }
            "missed" => {
                let missed = output::cell(&data["requests"]);
                output::note(format!("{missed} requests are not shown: there were too many"));
            }
            "edges" if data["edges"] == 0 => {
                output::note(format!(
                    "no edge tells of {name} now; `hostctl explain {name}` shows who should"
                ));
            }
            "edges" => output::note(format!("watching {name} on {}", edges(&data["edges"]))),
            "end" => anyhow::bail!("the stream ended: {}", output::cell(&data["reason"])),
            _ => {}
        }
    }
    Ok(())
}

fn edges(count: &Value) -> String {
    if *count == json!(1) { "1 edge".to_owned() } else { format!("{} edges", output::cell(count)) }
}

fn show(request: &Value, format: Format) {
    match format {
        Format::Json => output::line(request),
        Format::Yaml => output::text(&format!("---\n{}", format::yaml(request))),
        Format::Name => output::line(output::cell(&request["target"])),
        Format::Table | Format::Wide => output::line(row(request, matches!(format, Format::Wide))),
    }
}

/// One line of a request: when, what came of it, how long it took, what was asked, who asked.
fn row(request: &Value, wide: bool) -> String {
    let text = |field: &str| match &request[field] {
        Value::Null => String::new(),
        value => output::cell(value),
    };
    let time = text("time");
    let clock = time.get(11..23).unwrap_or(&time);
    let ms = request["ms"].as_f64().map(|ms| format!("{ms:.1}ms")).unwrap_or_default();
    let by = [text("cache"), text("reason"), text("crawler")].join(" ");
    let by = by.split_whitespace().collect::<Vec<_>>().join(",");
    let mut row = format!(
        "{clock}  {:>3}  {ms:>9}  {:<6}  {}{}  {}",
        text("status"),
        text("method"),
        text("host"),
        text("target"),
        text("client")
    );
    if !by.is_empty() {
        row = format!("{row}  [{by}]");
    }
    if wide {
        row = format!("{row}  {}  {}  {}", text("request_id"), text("referer"), text("user_agent"));
    }
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line() {
        let mut request = json!({
            "time": "2026-11-30T20:00:00.123Z", "status": 200, "ms": 12.3456, "method": "GET",
            "host": "www.example.com", "target": "/a?b", "client": "192.0.2.1",
        });
        let wanted = "20:00:00.123  200     12.3ms  GET     www.example.com/a?b  192.0.2.1";
        assert_eq!(row(&request, false), wanted);
        assert_eq!(row(&request, true), wanted);
        request["reason"] = json!("crawler");
        request["crawler"] = json!("gptbot");
        request["user_agent"] = json!("Bot/1");
        assert_eq!(row(&request, true), format!("{wanted}  [crawler,gptbot]      Bot/1"));
    }
}
