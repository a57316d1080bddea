//! `loadtest subscribers`: how long a change takes to the subscribers that apply it when there are a thousand of them, what each change costs
//! the controller, and how soon all are back after the controller was killed.
//!
//! The controller is a process of its own on a store that is filled as for `loadtest reads`; the subscribers are tasks of this process
//! ([`fleet`]). Changes take turns: a new host name, which all edges and then all DNS servers apply, and a PHP setting, which the site's node
//! applies. What belongs to a change is known by its trace. A change is due at its time, whether or not the ones before are done, and is timed
//! from then.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use hosting_intent::{Kind, Role};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tabled::{builder::Builder, settings::Style};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::fleet::{Effects, Fleet, Site, Sizes};
use crate::figures::{Figures, print};
use crate::lab::{Lab, SET, stop as stop_controller};
use crate::platform::{Api, cpu_of, memory_of};

/// Requests under way at once, at most.
const CLIENTS: usize = 256;
/// How long the last effects may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before the load, the controller's work for subscribers alone is measured for so long: two heartbeats.
const REST: Duration = Duration::from_secs(10);
/// Open files of each subscriber: its connection, and the lock of its identity.
const FILES_EACH: u64 = 2;
/// Other open files of this process.
const FILES_SPARE: u64 = 400;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  loadtest subscribers                                      1 000 subscribers, 10 000 resources
  loadtest subscribers --restart                            and how soon all are back after kill -9
  loadtest subscribers --resources 1000000 --folder /var/tmp/large
  loadtest subscribers --subscribers 9000 --seconds 0 --restart --folder /var/tmp/many")]
pub(crate) struct Args {
    /// An empty folder, or one that an earlier run with as many resources and subscribers has filled
    #[arg(long, default_value = "var-subscribers")]
    folder: PathBuf,
    /// Resources in the store beside those of the subscribers
    #[arg(long, default_value_t = 10_000)]
    resources: usize,
    /// Subscribers; what is neither an edge nor a DNS server is a node
    #[arg(long, default_value_t = 1_000)]
    subscribers: usize,
    /// Of these, edges of one cluster
    #[arg(long, default_value_t = 20)]
    edges: usize,
    /// Of these, DNS servers
    #[arg(long, default_value_t = 10)]
    dns: usize,
    /// Changes a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds of load; 0: none
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Kill the controller afterwards, start it again, and go on with the load until all are back
    #[arg(long)]
    restart: bool,
    /// Keep the store in a PostgreSQL server, which is started in the folder
    #[arg(long)]
    postgres: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let nodes = args.subscribers.checked_sub(args.edges + args.dns).filter(|nodes| *nodes > 0);
    let nodes = nodes.context("there must be more subscribers than edges and DNS servers")?;
    let sizes = Sizes { edges: args.edges, dns: args.dns, nodes };
    raise_open_files(args.subscribers)?;
    let lab = Lab::open(&args.folder, args.postgres)?;
    let (sets, fill_seconds) = lab.fill_once(args.resources).await?;
    let mut controller = lab.start().await?;
    let pid = |controller: &tokio::process::Child| controller.id().context("the controller ended");
    let began = Instant::now();
    let mut fleet = Fleet::connect(&lab, sizes).await?;
    let joined = began.elapsed();

    let mut outcome = json!({
        "benchmark": "subscribers",
        "resources": sets * SET,
        "database": lab.database_name(),
        "sizes": sizes,
        "rate": args.rate,
        "fill_seconds": fill_seconds,
        "join_seconds": joined.as_secs_f64(),
    });
    let mut load = Load::new(lab.api()?, &fleet, sizes, args.rate)?;
    if args.seconds > 0 {
        let cost = Cost::begin(pid(&controller)?, REST).await?;
        let (stop, time) = (CancellationToken::new(), Duration::from_secs(args.seconds));
        let end = async {
            tokio::time::sleep(time).await;
            stop.cancel();
            Ok(())
        };
        let (report, ()) = tokio::try_join!(load.drive(&stop), end)?;
        outcome["load"] = show(&report, &cost.end(report.changes)?);
    }
    if args.restart {
        let (before, totals) = (fleet.seen(), fleet.totals());
        let killed = Instant::now();
        controller.kill().await?;
        controller = lab.start().await?;
        let ready = killed.elapsed();
        let cost = Cost::begin(pid(&controller)?, Duration::ZERO).await?;
        let stop = CancellationToken::new();
        let back = async {
            fleet.in_sync(&before).await?;
            stop.cancel();
            anyhow::Ok(killed.elapsed())
        };
        let (report, back) = tokio::try_join!(load.drive(&stop), back)?;
        let mut resumes = Map::new();
        for kind in ["Delta", "Snapshot", "New", "Apart"] {
            resumes.insert(kind.into(), json!(lab.metric("feed_resumes_total", kind).await?));
        }
        let left = lab.metric("hosting_controller_node_turns_total", "Out").await?;
        print(&format!(
            "killed; the controller answered after {:.1} s, all were in sync after {:.1} s: {}; {left} nodes left service meanwhile",
            ready.as_secs_f64(),
            back.as_secs_f64(),
            Value::Object(resumes.clone()),
        ));
        let figures = show(&report, &cost.end(report.changes)?);
        outcome["restart"] = json!({
            "ready_seconds": ready.as_secs_f64(),
            "in_sync_seconds": back.as_secs_f64(),
            "resumes": resumes,
            "left_service": left,
            "subscribers": fleet.totals().since(totals),
            "load": figures,
        });
    }
    fleet.end().await;
    stop_controller(controller).await?;
    print(&outcome.to_string());
    Ok(())
}

/// Lets this process have as many open files as `subscribers` need.
fn raise_open_files(subscribers: usize) -> anyhow::Result<()> {
    let needed = subscribers as u64 * FILES_EACH + FILES_SPARE;
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let fit = most.saturating_sub(FILES_SPARE) / FILES_EACH;
    ensure!(needed <= most, "{most} open files are allowed (`ulimit -Hn`), enough for {fit} subscribers");
    if now < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, most)?;
    }
    Ok(())
}

/// What a stretch of load costs the controller, and this process.
struct Cost {
    pid: u32,
    /// The controller's CPU for each second without load.
    rest: f64,
    began: Instant,
    cpu: Duration,
    own: Duration,
}

/// The same, measured.
struct Costs {
    /// The controller's CPU for each change.
    cpu_ms: f64,
    /// The same without what it takes for subscribers that nothing changes for.
    net_ms: f64,
    rest: f64,
    /// This process's CPU for each change: requests, and all subscribers.
    own_ms: f64,
    rss: u64,
    peak: u64,
}

impl Cost {
    /// Begins after a `rest` without load.
    async fn begin(pid: u32, rest: Duration) -> anyhow::Result<Self> {
        let before = cpu_of(pid)?;
        tokio::time::sleep(rest).await;
        let cpu = cpu_of(pid)?;
        let resting = cpu.saturating_sub(before).as_secs_f64() / rest.as_secs_f64().max(1.0);
        Ok(Self { pid, rest: resting, began: Instant::now(), cpu, own: cpu_of(std::process::id())? })
    }

    fn end(self, changes: usize) -> anyhow::Result<Costs> {
        let each = |seconds: f64| seconds * 1_000.0 / changes.max(1) as f64;
        let cpu = cpu_of(self.pid)?.saturating_sub(self.cpu).as_secs_f64();
        let own = cpu_of(std::process::id())?.saturating_sub(self.own).as_secs_f64();
        Ok(Costs {
            cpu_ms: each(cpu),
            net_ms: each(cpu - self.rest * self.began.elapsed().as_secs_f64()),
            rest: self.rest,
            own_ms: each(own),
            rss: memory_of(self.pid, "VmRSS")?,
            peak: memory_of(self.pid, "VmHWM")?,
        })
    }
}

/// Where a kind of change shows, as its name in the outcome says.
const EFFECTS: [(&str, Role, Kind); 3] =
    [("edges", Role::Lb, Kind::Route), ("dns", Role::Dns, Kind::RrSet), ("nodes", Role::Web, Kind::Webroot)];

/// What a stretch of load has shown.
#[derive(Default)]
struct Report {
    changes: usize,
    per_second: f64,
    /// From when a change was due until it was answered.
    requests: Figures,
    /// As [`EFFECTS`]: from when a change was due until a subscriber had it, and from its answer on.
    due: [Figures; 3],
    answered: [Figures; 3],
    /// Effects that did not come in time.
    missing: usize,
}

/// A change that was answered.
struct Change {
    n: u64,
    due: Instant,
    answered: Instant,
}

struct Load {
    api: Api,
    sites: Arc<[Site]>,
    effects: Effects,
    sizes: Sizes,
    rate: u32,
    /// Of this run; the upper half of its traces' ids.
    run: u64,
    next: u64,
}

impl Load {
    fn new(api: Api, fleet: &Fleet, sizes: Sizes, rate: u32) -> anyhow::Result<Self> {
        let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let (sites, effects) = (fleet.sites.clone(), fleet.effects.clone());
        Ok(Self { api, sites, effects, sizes, rate: rate.max(1), run, next: 0 })
    }

    /// Changes until `stop`, and waits for what follows from them.
    async fn drive(&mut self, stop: &CancellationToken) -> anyhow::Result<Report> {
        // What was before is not of this load.
        self.effects.take();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.rate);
        let (permits, mut calls) = (Arc::new(Semaphore::new(CLIENTS)), JoinSet::new());
        let (began, mut changes) = (Instant::now(), Vec::new());
        loop {
            let due = tokio::select! {
                due = ticks.tick() => due.into_std(),
                () = stop.cancelled() => break,
            };
            let permit = Arc::clone(&permits).acquire_owned().await?;
            let call = self.call(self.next, due);
            self.next += 1;
            calls.spawn(async move {
                let _permit = permit;
                call.await
            });
            while let Some(done) = calls.try_join_next() {
                changes.push(done??);
            }
        }
        while let Some(done) = calls.join_next().await {
            changes.push(done??);
        }
        let per_second = changes.len() as f64 / began.elapsed().as_secs_f64();
        self.report(changes, per_second).await
    }

    /// Change number `n`: an even one is a new host name, an odd one a setting.
    fn call(&self, n: u64, due: Instant) -> impl Future<Output = anyhow::Result<Change>> + use<> {
        let site = self.sites[usize::try_from(n / 2).unwrap_or_default() % self.sites.len()].clone();
        let (api, run) = (self.api.clone(), self.run);
        async move {
            let traceparent = format!("00-{:032x}-{:016x}-01", trace(run, n), n + 1);
            let (method, path, body) = if n.is_multiple_of(2) {
                let name = format!("c{run}-{n}.{}", site.zone);
                let body = json!({"fqdn": name, "webroot_id": site.webroot});
                (Method::POST, format!("/tenants/{}/fqdns", site.tenant), body)
            } else {
                // Another one than before, of this run or an earlier one.
                let bytes = (64 << 20) + run % 50_000 * 1_000 + n;
                let body = json!({"runtime_config": {"php_values": {"memory_limit": bytes.to_string()}}});
                (Method::PUT, format!("/webroots/{}", site.webroot), body)
            };
            api.call_in_trace(method, &path, Some(body), &traceparent).await?;
            Ok(Change { n, due, answered: Instant::now() })
        }
    }

    async fn report(&self, changes: Vec<Change>, per_second: f64) -> anyhow::Result<Report> {
        let mut report = Report { changes: changes.len(), per_second, ..Report::default() };
        let mut by_trace = BTreeMap::new();
        let (mut wanted, until) = (0, Instant::now() + PATIENCE);
        for change in changes {
            report.requests.add(change.answered - change.due);
            wanted += if change.n.is_multiple_of(2) { self.sizes.edges + self.sizes.dns } else { 1 };
            by_trace.insert(trace(self.run, change.n), change);
        }
        // Who applies something twice has applied it the first time.
        let mut seen = BTreeSet::new();
        while seen.len() < wanted && Instant::now() < until {
            for one in self.effects.take() {
                let effect =
                    EFFECTS.iter().position(|(_, role, kind)| (*role, *kind) == (one.role, one.kind));
                let (Some(effect), Some(change)) = (effect, by_trace.get(&one.trace)) else { continue };
                if seen.insert((one.trace, one.subscriber)) {
                    report.due[effect].add(one.at - change.due);
                    report.answered[effect].add(one.at.saturating_duration_since(change.answered));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        report.missing = wanted - seen.len();
        Ok(report)
    }
}

const fn trace(run: u64, n: u64) -> u128 {
    (run as u128) << 64 | (n as u128 + 1)
}

/// Prints a report as a table; answers it as JSON.
fn show(report: &Report, costs: &Costs) -> Value {
    let mut table = Builder::default();
    table.push_record(["what", "count", "p50 ms", "p99 ms", "max ms"]);
    table.push_record(report.requests.row("answered"));
    let mut object = json!({
        "changes": report.changes,
        "per_second": report.per_second,
        "request": report.requests.json(),
        "missing": report.missing,
        "cpu_ms_per_change": costs.cpu_ms,
        "cpu_ms_per_change_net": costs.net_ms,
        "cpu_at_rest": costs.rest,
        "own_cpu_ms_per_change": costs.own_ms,
        "rss_bytes": costs.rss,
        "peak_bytes": costs.peak,
    });
    for ((name, ..), (due, answered)) in EFFECTS.iter().zip(report.due.iter().zip(&report.answered)) {
        table.push_record(due.row(&format!("applied, {name}")));
        table.push_record(answered.row(&format!("applied, {name}, from the answer")));
        object[*name] = json!({"from_due": due.json(), "from_answer": answered.json()});
    }
    print(&table.build().with(Style::blank()).to_string());
    print(&format!(
        "{} changes, {:.1} a second, {} effects missing; the controller: {:.2} ms of CPU for each, {:.2} ms without the {:.3} s a second that it \
         took at rest; {} MiB, at most {} MiB; requests and subscribers here: {:.2} ms for each",
        report.changes,
        report.per_second,
        report.missing,
        costs.cpu_ms,
        costs.net_ms,
        costs.rest,
        costs.rss >> 20,
        costs.peak >> 20,
        costs.own_ms,
    ));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_by_its_trace() {
        for (run, n) in [(1_764_400_000, 0), (1_764_400_000, u64::MAX - 1), (1, 77)] {
            let traceparent = format!("00-{:032x}-{:016x}-01", trace(run, n), n + 1);
            assert_eq!(fleet::trace_of(&traceparent), Some(trace(run, n)));
            assert_ne!(trace(run, n), trace(run + 1, n));
        }
        assert_eq!(fleet::trace_of(""), None);
        assert_eq!(fleet::trace_of("00-nonsense-1-01"), None);
    }
}
