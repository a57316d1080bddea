//! `loadtest reads`: what the controller's common reads take in a store with very many resources.
//!
//! The store of a controller of its own is filled with copies ([`crate::lab`]). Each request is asked by one client and by many, in rounds
//! that take turns.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::{Map, Value, json};
use tabled::{builder::Builder, settings::Style};

use crate::figures::{Figures, print};
use crate::lab::{FQDNS, Lab, SET, WORDS, fqdn_id, fqdn_name, stop, tenant_id, zone_name};
use crate::platform::{Api, cpu_of};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An empty folder, or one that an earlier run has filled
    #[arg(long, default_value = "var-reads")]
    folder: PathBuf,
    /// Resources in the store
    #[arg(long, default_value_t = 1_000_000)]
    resources: usize,
    /// Requests under way at once, in turn
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    clients: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Measurements of each; two show how far apart the same is
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Keep the store in a PostgreSQL server, which is started in the folder
    #[arg(long)]
    postgres: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let lab = Lab::open(&args.folder, args.postgres)?;
    let (sets, fill_seconds) = lab.fill_once(args.resources).await?;
    let controller = lab.start().await?;
    let outcome = measure(&lab.api()?, args, sets, controller.id().context("the controller ended")?).await?;
    stop(controller).await?;
    let object = json!({
        "benchmark": "reads",
        "resources": sets * SET,
        "database": lab.database_name(),
        "fill_seconds": fill_seconds,
        "requests": outcome,
    });
    print(&object.to_string());
    Ok(())
}

async fn measure(api: &Api, args: &Args, sets: usize, pid: u32) -> anyhow::Result<Value> {
    let mut outcome = Map::new();
    let mut table = Builder::default();
    table.push_record(["request", "clients", "count", "p50 ms", "p99 ms", "cpu µs", "apart"]);
    for (name, path) in REQUESTS {
        let mut by_clients = Map::new();
        for clients in &args.clients {
            let (mut times, mut each) = (Figures::default(), Vec::new());
            for round in 0..args.rounds.max(1) {
                let next = AtomicU64::new(round as u64 * 7_919);
                let until = Instant::now() + Duration::from_secs(args.seconds);
                let before = cpu_of(pid)?;
                let all = (0..*clients).map(|_| client(api, until, &next, |n| path(n, sets)));
                let round: Vec<Duration> = try_join_all(all).await?.into_iter().flatten().collect();
                let cpu = cpu_of(pid)?.saturating_sub(before);
                each.push(cpu.as_secs_f64() * 1e6 / round.len().max(1) as f64);
                round.into_iter().for_each(|time| times.add(time));
            }
            let (least, most) =
                each.iter().fold((f64::MAX, 0.0_f64), |(a, b), one| (a.min(*one), b.max(*one)));
            let cpu = each.iter().sum::<f64>() / each.len() as f64;
            let apart = (most - least) / cpu;
            table.push_record([
                (*name).to_owned(),
                clients.to_string(),
                times.count().to_string(),
                format!("{:.2}", times.quantile(0.5)),
                format!("{:.2}", times.quantile(0.99)),
                format!("{cpu:.0}"),
                format!("{:.0} %", apart * 100.0),
            ]);
            let mut figures = times.json();
            figures["cpu_us"] = json!(each);
            by_clients.insert(clients.to_string(), figures);
        }
        outcome.insert((*name).to_owned(), Value::Object(by_clients));
    }
    print(&table.build().with(Style::blank()).to_string());
    Ok(Value::Object(outcome))
}

/// Asks one request after the other, and answers how long each took.
async fn client(
    api: &Api,
    until: Instant,
    next: &AtomicU64,
    path: impl Fn(u64) -> String,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let path = path(spread(next.fetch_add(1, Ordering::Relaxed)));
        let begun = Instant::now();
        api.read(&path).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// A number as if drawn by chance, the same in each run.
const fn spread(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

type PathOf = fn(u64, usize) -> String;

/// What is asked, of the resources with a number.
const REQUESTS: &[(&str, PathOf)] = &[
    ("get", |n, sets| format!("/fqdns/{}", fqdn_id(any(n, sets) * FQDNS))),
    ("list", |_, _| "/zones?limit=50".into()),
    ("list of a tenant", |n, sets| format!("/tenants/{}/fqdns", tenant_id(any(n, sets)))),
    ("filter, one", |n, sets| format!("/tenants?customer_id=customer-{}", any(n, sets))),
    ("filter, all", |_, _| "/zones?limit=50&brand_id=acme".into()),
    ("search, one", |n, sets| {
        let name = zone_name(any(n, sets));
        format!("/zones?search={}", name.get(2..).unwrap_or_default())
    }),
    ("search, many", |n, _| format!("/zones?search={}", WORDS[n as usize % WORDS.len()])),
    ("search, none", |_, _| "/zones?search=nothing-like-it".into()),
    ("search, short", |_, _| "/zones?search=qx".into()),
    ("search everywhere", |n, sets| format!("/search?q={}", zone_name(any(n, sets)))),
    ("explain", |n, sets| format!("/explain/{}", fqdn_name(any(n, sets) * FQDNS))),
    ("dashboard", |_, _| "/dashboard/stats".into()),
];

fn any(n: u64, sets: usize) -> usize {
    usize::try_from(n % sets.max(1) as u64).unwrap_or_default()
}
