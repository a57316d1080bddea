//! `loadtest change`: how long a change takes from the request that commits it to its effect, seen from outside.
//!
//! The clock starts before the request is sent, so the figures hold the API and the commit as well. The effect is polled
//! each millisecond over a kept connection to the edge and a socket to the DNS server.

use std::{path::PathBuf, time::Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tabled::{builder::Builder, settings::Style};

use crate::figures::{Figures, print};
use crate::platform::Platform;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of a running `hostctl up`
    #[arg(long, default_value = "var")]
    data: PathBuf,
    /// How many names are added, then deleted
    #[arg(long, default_value_t = 200)]
    count: u32,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let platform = Platform::open(&args.data).await?;
    let targets = platform.targets().await?;
    let target = targets.first().context("no target")?;
    let run = std::process::id();
    let mut figures: [Figures; 4] = Default::default();
    let mut ids = Vec::new();
    for index in 0..args.count {
        let fqdn = format!("change-{run}-{index}.{}", target.zone);
        let begun = Instant::now();
        let id = platform.bind(target, &fqdn).await?;
        let (edge, dns) = platform.effect(&fqdn, true, begun).await?;
        figures[0].add(edge);
        figures[1].add(dns);
        ids.push((fqdn, id));
    }
    for (fqdn, id) in ids {
        let begun = Instant::now();
        platform.api.call(reqwest::Method::DELETE, &format!("/fqdns/{id}"), None).await?;
        let (edge, dns) = platform.effect(&fqdn, false, begun).await?;
        figures[2].add(edge);
        figures[3].add(dns);
    }
    let names = ["add, edge", "add, dns", "delete, edge", "delete, dns"];
    let mut table = Builder::default();
    table.push_record(["change, effect", "count", "p50 ms", "p99 ms", "max ms"]);
    for (name, one) in names.iter().zip(&figures) {
        table.push_record(one.row(name));
    }
    print(&table.build().with(Style::blank()).to_string());
    let object: serde_json::Map<String, Value> =
        names.iter().zip(&figures).map(|(name, one)| (name.replace(", ", "_"), one.json())).collect();
    print(&json!({"benchmark": "change", "figures": object}).to_string());
    Ok(())
}
