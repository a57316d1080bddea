//! `hostctl watch`: what becomes of resources, as the API tells it (server-sent events).

use serde_json::Value;

use crate::api::{Api, encode};
use crate::args::WatchArgs;
use crate::format::{self, Format};
use crate::stream::EventStream;
use crate::{kinds, output, resources};

pub(crate) async fn run(api: &Api, args: &WatchArgs, format: Format) -> anyhow::Result<()> {
    let mut filters = Vec::new();
    if let Some(kinds) = &args.kind {
        filters.push(format!("kind={}", encode(&kinds.replace('-', "_"))));
    }
    if let Some(tenant) = &args.tenant {
        filters.push(format!("tenant_id={}", encode(&resources::tenant_id(api, tenant).await?)));
    }
    if let Some(brand) = &args.brand {
        filters.push(format!("brand_id={}", encode(brand)));
    }
    let path = format!("/events?{}", filters.join("&"));
    let since = args.since.map(|revision| revision.to_string()).unwrap_or_default();
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut stream = EventStream::new(api, path, since);
    while left > 0 {
        let block = stream.next().await?;
        let data = block.json();
        match block.name.as_str() {
            "" => {}
            "resource" => {
                show(&data, format);
                left -= 1;
            }
            "end" => anyhow::bail!("the stream ended: {}", output::cell(&data["reason"])),
            name => output::note(format!("{name}: {}", output::cell(&data["reason"]))),
        }
    }
    Ok(())
}

fn show(event: &Value, format: Format) {
    match format {
        Format::Json => return output::line(event),
        Format::Yaml => return output::text(&format!("---\n{}", format::yaml(event))),
        Format::Name => {
            let kind = output::cell(&event["kind"]).replace('_', "-");
            return output::line(kinds::name(&kind, &output::cell(&event["id"])));
        }
        Format::Table | Format::Wide => {}
    }
    let cells = ["revision", "change", "kind", "id", "status"].map(|field| output::cell(&event[field]));
    let [revision, change, kind, id, status] = cells;
    output::line(format!("{revision:>8}  {change:<8}  {kind:<12}  {id:<38}  {status}"));
}
