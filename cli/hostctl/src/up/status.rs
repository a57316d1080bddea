//! `hostctl status` and `hostctl down`: looking at what `up` runs, and ending it, from outside.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{END_LIMIT, child};
use crate::{
    args::DownArgs,
    folder::DataFolder,
    format::Format,
    output::{self, bad, good},
    probe,
    summary::Summary,
};

/// `hostctl down`.
pub(crate) async fn down(args: &DownArgs, data: &Path, format: Format) -> anyhow::Result<()> {
    let patience = args.timeout;
    let tell = |ended: Vec<String>, words: String| {
        if format.is_for_programs() {
            output::data(format, &json!({"ended": ended}));
        } else {
            output::line(words);
        }
    };
    if let Some(pid) = DataFolder::holder(data) {
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot end `up` (pid {pid})"))?;
        // It ends its children one after the other.
        let until = Instant::now() + patience + END_LIMIT * 4;
        while DataFolder::holder(data).is_some() {
            if Instant::now() > until {
                bail!(
                    "`up` (pid {pid}) has not ended after {} s; kill it with `kill -9 {pid}`, then run `hostctl down` \
                     again for what it leaves behind",
                    (patience + END_LIMIT * 4).as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tell(vec!["up".to_owned()], "ended".to_owned());
        return Ok(());
    }
    let ended = child::end_leftovers(data, patience).await?;
    Summary::remove(data)?;
    let words = if ended.is_empty() {
        format!("nothing is running in {}", data.display())
    } else {
        format!("ended what a killed `up` had left behind: {}", ended.join(", "))
    };
    tell(ended, words);
    Ok(())
}

/// One process as `status` shows it.
#[derive(Debug)]
struct Process {
    role: String,
    pid: Option<i32>,
    admin: Option<String>,
    /// `Ok` when it says that it is ready, else why not.
    ready: Result<(), String>,
}

/// `hostctl status`. Not everything running and ready is a failure.
pub(crate) async fn status(data: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let holder = DataFolder::holder(data);
    let running = child::running(data);
    let Some(summary) = Summary::read(data) else {
        match holder {
            Some(pid) => bail!(
                "`up` (pid {pid}) is starting or ending in {}; ask again in a moment, or see what it prints",
                data.display()
            ),
            None if running.is_empty() => {
                bail!(
                    "nothing is up in {}; start it with `hostctl up`, or name its folder with --data DIR",
                    data.display()
                )
            }
            None => bail!(
                "`up` was killed before it was up, but {} still run; `hostctl up` ends them and starts anew, `hostctl \
                 down` ends them",
                running.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
        }
    };
    let processes = look(&summary, &running).await;
    let sound = holder.is_some() && processes.iter().all(|one| one.ready.is_ok());
    if format.is_for_programs() {
        let mut answer = serde_json::to_value(&summary)?;
        answer["up_runs"] = json!(holder.is_some());
        answer["processes"] = processes.iter().map(as_value).collect();
        output::data(format, &answer);
        return Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let rows = processes.iter().map(|one| {
        let dash = || "-".to_owned();
        vec![
            one.role.clone(),
            one.pid.map_or_else(dash, |pid| pid.to_string()),
            if one.pid.is_some() { "yes".to_owned() } else { bad("no") },
            match &one.ready {
                Ok(()) => good("yes"),
                Err(_) => bad("no"),
            },
            one.admin.clone().unwrap_or_else(dash),
            one.ready.as_ref().err().cloned().unwrap_or_default(),
        ]
    });
    output::table(&["process", "pid", "runs", "ready", "admin", ""], rows);
    match holder {
        Some(pid) => output::line(format!("\n`up` runs (pid {pid}); API {}", summary.api)),
        None => output::line(
            "\n`up` itself was killed, so nobody starts again what ends; `hostctl up` ends what is left and starts anew, \
             `hostctl down` ends it",
        ),
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_value(one: &Process) -> Value {
    json!({
        "role": one.role,
        "pid": one.pid,
        "runs": one.pid.is_some(),
        "ready": one.ready.is_ok(),
        "why_not": one.ready.as_ref().err(),
        "admin": one.admin,
    })
}

/// Asks every process at once: one that hangs must not hide the others.
async fn look(summary: &Summary, running: &BTreeMap<String, i32>) -> Vec<Process> {
    let mut asked = JoinSet::new();
    for (index, role) in summary.commands.keys().enumerate() {
        let (role, pid) = (role.clone(), running.get(role).copied());
        let admin = summary.admin.get(&role).cloned();
        asked.spawn(async move {
            let address = admin.as_deref().and_then(|text| text.parse::<SocketAddr>().ok());
            let ready = match (pid, address) {
                (None, _) => Err("it does not run".to_owned()),
                (Some(pid), _) if child::is_stopped(pid) => {
                    Err(format!("stopped by a signal; `kill -CONT {pid}` lets it go on"))
                }
                // The database has no admin port: it serves while it runs.
                (_, None) => Ok(()),
                (_, Some(address)) => probe::readiness(address).await.map_err(|why| why.trim().to_owned()),
            };
            (index, Process { role, pid, admin, ready })
        });
    }
    let mut processes = asked.join_all().await;
    processes.sort_by_key(|(index, _)| *index);
    processes.into_iter().map(|(_, process)| process).collect()
}
