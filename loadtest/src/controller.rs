//! `loadtest controller`: host names created as fast as the API takes them, and meanwhile now and then one of another tenant, whose
//! way to the edge and the DNS server is timed.
//!
//! Each name is one mutation: a route, its gates, and its automatic records follow by further mutations of the controller's own.
//! Run it on a data folder that can be thrown away: the names stay.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::json;
use tabled::{builder::Builder, settings::Style};

use crate::figures::{Figures, print};
use crate::platform::{Platform, Target};

/// Between two changes of the other tenant.
const EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of a running `hostctl up`
    #[arg(long, default_value = "var")]
    data: PathBuf,
    /// How many names are created
    #[arg(long, default_value_t = 2_000)]
    names: u32,
    /// Requests under way at once
    #[arg(long, default_value_t = 48)]
    clients: u32,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let platform = Platform::open(&args.data).await?;
    let targets = platform.targets().await?;
    let loaded = targets.first().context("no target")?;
    let other = targets.last().context("no target")?;
    let run = std::process::id();

    let (next, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut request = Figures::default();
    let (cpu, began) = (platform.cpu("controller")?, Instant::now());
    let clients = (0..args.clients.max(1)).map(|_| client(&platform, loaded, args.names, run, &next, &done));
    let probe = probe(&platform, other, run, || done.load(Ordering::Relaxed) < args.names);
    let (times, (edge, dns)) = tokio::try_join!(try_join_all(clients), probe)?;
    let wrote = began.elapsed();
    times.into_iter().flatten().for_each(|time| request.add(time));
    let writing = platform.cpu("controller")?.saturating_sub(cpu);
    let last = format!("load-{run}-{}.{}", args.names.saturating_sub(1), loaded.zone);
    platform.effect(&last, true, began).await?;
    let live = began.elapsed();
    let all = platform.cpu("controller")?.saturating_sub(cpu);

    let names = f64::from(args.names.max(1));
    let per_second = names / wrote.as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1_000.0 / names;
    let mut table = Builder::default();
    table.push_record(["what", "count", "p50 ms", "p99 ms", "max ms"]);
    table.push_record(request.row("request"));
    table.push_record(edge.row("another tenant's name, edge"));
    table.push_record(dns.row("another tenant's name, dns"));
    print(&table.build().with(Style::blank()).to_string());
    print(&format!(
        "{per_second:.0} names/s by {} clients; the last one was live after {:.1} s; the controller's CPU per name: {:.2} ms until all \
         were answered, {:.2} ms until the last one was live",
        args.clients,
        live.as_secs_f64(),
        each(writing),
        each(all),
    ));
    let object = json!({
        "benchmark": "controller",
        "names": args.names,
        "clients": args.clients,
        "names_per_second": per_second,
        "cpu_ms_per_name": each(writing),
        "cpu_ms_per_name_live": each(all),
        "live_seconds": live.as_secs_f64(),
        "request": request.json(),
        "other_edge": edge.json(),
        "other_dns": dns.json(),
    });
    print(&object.to_string());
    Ok(())
}

/// Creates names until all are, and answers how long each request took.
async fn client(
    platform: &Platform,
    target: &Target,
    names: u32,
    run: u32,
    next: &AtomicU32,
    done: &AtomicU32,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= names {
            return Ok(times);
        }
        let begun = Instant::now();
        platform.bind(target, &format!("load-{run}-{n}.{}", target.zone)).await?;
        times.push(begun.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds a name now and then while `goes_on`, and times its way to the edge and into DNS.
async fn probe(
    platform: &Platform,
    target: &Target,
    run: u32,
    goes_on: impl Fn() -> bool,
) -> anyhow::Result<(Figures, Figures)> {
    let (mut edge, mut dns) = (Figures::default(), Figures::default());
    let mut n = 0;
    while goes_on() {
        let fqdn = format!("probe-{run}-{n}.{}", target.zone);
        n += 1;
        let begun = Instant::now();
        platform.bind(target, &fqdn).await?;
        let (at_edge, in_dns) = platform.effect(&fqdn, true, begun).await?;
        edge.add(at_edge);
        dns.add(in_dns);
        tokio::time::sleep(EVERY).await;
    }
    Ok((edge, dns))
}
