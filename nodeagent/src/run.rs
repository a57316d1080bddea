//! The wiring: ledger → publish → serve → connect.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::BoxFuture;
use hosting_agent_engine::{Phase, Report, Secret};
use hosting_intent::{Audience, Key, edge_key::NodeEdgeKey};
use hosting_intent_sync::client::{
    AudienceKeys, ClientMetrics, EdgeKey, EdgeKeyStore, Lending, Reporter, Subscription,
};
use hosting_proto::feed::KeyReport;
use hosting_scaffold::{
    BUILD,
    admin::Readiness,
    file::{create_whole, write_private},
    role::{RoleProcess, VIEW, runtime},
    tasks::{OnEnd, Spawner},
};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

use crate::{
    agent::{Agent, ReadySink, ReportSink},
    host::{
        RealHost,
        files::Files,
        logs::Rotation,
        supervisor::{AtDeath, Supervisor},
    },
    metrics::Metrics,
    replica::NodeReplica,
    role::{Node, Role},
    roots::Roots,
    settings::Settings,
    view::View,
    wants::Wants,
};
use tokio::sync::watch;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = runtime("nodeagent", 2)?;
    let outcome = runtime.block_on(wire(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn wire(settings: Settings) -> anyhow::Result<()> {
    let role = settings.role()?;
    let parts = role.ready.iter().map(|part| (part.name, "not started until there is a view"));
    let process = RoleProcess::start("hosting-nodeagent", &settings.shared, parts).await?;
    // Services inherit both.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }

    // Before anything is asked of the controller: a join token is good for one start only.
    (role.check)(&settings)?;
    private_dir(&settings.data_dir())?;

    let metrics = Metrics::new(&process.registry);
    let feed_metrics = process.registry.register(ClientMetrics::register);
    let (group, readiness) = (&process.group, process.readiness.clone());
    group.spawn("agent", OnEnd::Fatal, serve(settings, metrics, feed_metrics, readiness, group.spawner()));
    process.run().await
}

async fn serve(
    settings: Settings,
    metrics: Metrics,
    feed_metrics: ClientMetrics,
    readiness: Readiness,
    spawner: Spawner,
) -> anyhow::Result<()> {
    let stop = spawner.stop();
    let info = settings.role()?;
    let edge_key = EdgeKeyStore::load(&settings.data_dir());
    let keys = edge_key.subscribe();
    let audience_keys = AudienceKeys::load(&settings.data_dir()).context("sealing key")?;
    let subscription = Subscription {
        data_dir: settings.data_dir(),
        controllers: settings.shared.controller.clone(),
        token_file: settings.shared.join_token_file.clone(),
        role: hosting_intent::Role::from_name(info.name)
            .with_context(|| format!("the registry knows no role {:?}", info.name))?,
        build: BUILD,
        metrics: feed_metrics,
        edge_key: Some(edge_key),
        audience_keys: Some(audience_keys.clone()),
        served: None,
        lending: Lending::default(),
    };
    let Some(subscription) = subscription.identify(&stop).await? else { return Ok(()) };
    let Audience::Node(node) = subscription.audience() else {
        anyhow::bail!("{} is no node's audience", subscription.audience());
    };
    let node = node.as_str();
    if let Some(certified) = subscription.node_id() {
        anyhow::ensure!(
            node == certified,
            "node {certified} is given what is meant for node {node:?}; enrol again with a token of its own"
        );
    }

    let (shown, edge_key) = watch::channel(header_value(keys.borrow().as_ref()));
    let (roots, site_user) = (settings.roots(), settings.site_user()?);
    let node = Node {
        id: node.to_owned(),
        roots: roots.clone(),
        site_user: site_user.clone(),
        data_dir: settings.data_dir(),
        edge_key,
        audience_keys,
    };
    let role: Arc<dyn Role> = (info.open)(&settings, node)?.into();
    let files = Arc::new(Files::open(&roots, site_user.as_ref())?);
    check_storage(&roots, &settings.data_dir())?;
    let at_death = if settings.keep_children { AtDeath::Keep } else { AtDeath::End };
    let supervisor = Supervisor::open(files.clone(), roots.clone(), settings.services(), at_death)
        .context("cannot look after services")?;
    role.bound(&supervisor);
    let rotation = Rotation::new(files.clone(), supervisor.clone(), settings.log_limits(), info.logs);
    let host = RealHost::new(files, supervisor, roots);

    for (task, work) in [
        ("edge key", Box::pin(show(keys, shown)) as BoxFuture<'static, ()>),
        ("logs", Box::pin(rotation.run())),
    ] {
        let stop = stop.clone();
        spawner.spawn(task, OnEnd::Fatal, async move {
            tokio::select! { () = work => {}, () = stop.cancelled() => {} }
            Ok::<(), anyhow::Error>(())
        });
    }

    let replica = NodeReplica::new(role.clone());
    let mut views = replica.views();
    let (reporter, reporting) = subscription.reporter();
    let reports_stop = stop.clone();
    spawner.spawn("reports", OnEnd::Fatal, async move {
        reporting.run(reports_stop).await;
        Ok::<(), anyhow::Error>(())
    });
    let state = readiness.clone();
    let ready: ReadySink = Arc::new(move |part, outcome| match outcome {
        Ok(()) => state.ready(part),
        Err(why) => state.not_ready(part, why),
    });
    let agent = Agent {
        engine: info.engine(role.as_ref(), settings.concurrency),
        role: info,
        host,
        views: views.clone(),
        wants: Wants::new(role.derivation()),
        reports: report_to(reporter),
        ready,
        metrics,
        drift_interval: Duration::from_millis(settings.drift_interval_ms),
    };
    let passes_stop = stop.clone();
    spawner.spawn("passes", OnEnd::Fatal, async move {
        agent.run(passes_stop).await;
        Ok::<(), anyhow::Error>(())
    });
    spawner.spawn("first view", OnEnd::Log, {
        let stop = stop.clone();
        async move {
            tokio::select! {
                known = views.wait_for(Option::is_some) => if known.is_ok() { readiness.ready(VIEW) },
                () = stop.cancelled() => {}
            }
            stop.cancelled().await;
            Ok::<(), anyhow::Error>(())
        }
    });

    subscription.run(replica, stop).await?;
    Ok(())
}

/// What edges show in `X-Hosting-Key`.
fn header_value(key: Option<&EdgeKey>) -> Option<Secret> {
    let key = NodeEdgeKey::from_bytes(key?.as_bytes())?;
    Some(Secret(key.header_value()))
}

/// Passes on each key that the controller gives.
async fn show(mut keys: watch::Receiver<Option<EdgeKey>>, shown: watch::Sender<Option<Secret>>) {
    while keys.changed().await.is_ok() {
        shown.send_replace(header_value(keys.borrow_and_update().as_ref()));
    }
    // Nobody gives another one; the last one stays in force until the process ends.
    std::future::pending::<()>().await;
}

fn report_to(reporter: Reporter) -> ReportSink {
    Arc::new(move |view: &View, changed: Vec<(Key, Option<Report>)>| {
        let mut gone = Vec::new();
        let mut seen = Vec::new();
        for (key, report) in changed {
            match report {
                Some(Report { phase, revision, message }) => seen.push(KeyReport {
                    kind: key.kind,
                    key: key.name,
                    phase: Phase::into(phase),
                    revision,
                    message,
                }),
                None => gone.push((key.kind, key.name)),
            }
        }
        if let Err(error) = reporter.report(&view.epoch, view.revision, seen, gone) {
            tracing::error!(%error, "not everything is reported");
        }
    })
}

fn private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("{}: choose another folder with --data-dir", path.display()))
}

/// A storage that is not mounted looks like an empty one: sites would be made anew beside their data. So the storage has an
/// id, and a node that has seen it once serves from no other.
fn check_storage(roots: &Roots, data_dir: &Path) -> anyhow::Result<()> {
    let (known_path, id_path) = (data_dir.join("storage-id"), roots.storage.join(".hosting").join("id"));
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    };
    let known = read(&known_path)?;
    let mut found = read(&id_path)?;
    if let Some(known) = &known {
        anyhow::ensure!(
            found.as_ref() == Some(known),
            "{} is not the storage that this node served from before ({}); mount that one, or, if this is meant to be another, \
             remove {}",
            roots.storage.display(),
            if found.is_some() { "it has another id" } else { "it has no id: is it not mounted?" },
            known_path.display()
        );
        return Ok(());
    }
    if found.is_none() {
        private_dir(&roots.storage.join(".hosting"))?;
        let fresh = format!("{:032x}", rand::random::<u128>());
        // Another node may be doing the same: the first one's is the id.
        create_whole(&id_path, fresh.as_bytes(), 0o600).with_context(|| id_path.display().to_string())?;
        found = read(&id_path)?;
    }
    write_private(&known_path, found.unwrap_or_default().as_bytes())
        .with_context(|| known_path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_is_not_the_known_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let roots = Roots {
            storage: path("storage"),
            logs: path("logs"),
            config: path("config"),
            run: path("run"),
            temp: path("temp"),
        };
        for name in ["storage", "data", "other"] {
            fs::create_dir(path(name)).unwrap();
        }
        check_storage(&roots, &path("data")).unwrap();
        check_storage(&roots, &path("data")).unwrap();
        // A second node joins the same storage.
        check_storage(&roots, &path("other")).unwrap();

        // The mount point without its mount.
        fs::rename(path("storage"), path("away")).unwrap();
        fs::create_dir(path("storage")).unwrap();
        let error = check_storage(&roots, &path("data")).unwrap_err().to_string();
        assert!(error.contains("not mounted") && error.contains("storage-id"), "{error}");
        assert!(!path("storage").join(".hosting").exists());
        fs::remove_dir(path("storage")).unwrap();
        fs::rename(path("away"), path("storage")).unwrap();
        check_storage(&roots, &path("data")).unwrap();
    }
}
