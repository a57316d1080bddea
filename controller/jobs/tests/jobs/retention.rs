//! Audit rows go when they are old, in chunks, and the next run is planned with the end of this one.

use hosting_jobs::kinds;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_store::{AuditEntry, AuditQuery, JobQuery, JobState, NewJob, Origin};
use serde_json::json;

use crate::harness::{Bench, config, deps, pass, run, write};

const DAY: i64 = 24 * 3_600_000;

async fn audit_rows(bench: &Bench, count: usize) {
    let entry = AuditEntry {
        method: "POST".into(),
        path: "/x".into(),
        resource_type: "x".into(),
        status_code: 400,
        ..AuditEntry::default()
    };
    let rows = (0..count).map(|_| bench.store.audit(Origin::default(), entry.clone()));
    futures::future::try_join_all(rows).await.unwrap();
}

fn retention(due_at: i64) -> NewJob {
    NewJob {
        kind: "audit_retention".into(),
        subject: "audit_retention".into(),
        lane: "kind/audit_retention".into(),
        brand: None,
        params: json!({}),
        due_at,
        attempt_limit: 3,
        waits: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_old_goes_however_much_it_is_and_the_next_run_is_planned() {
    let bench = Bench::new().await;
    audit_rows(&bench, 2_500).await;
    pass(DAY / 2);
    audit_rows(&bench, 3).await;
    // The policy of this test keeps nothing that is older than now: the last three are of the future.
    pass(-DAY / 2);
    let deps = deps(&bench.store, CallbackRules::default(), 0);
    let id =
        write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(retention(0)).await })).await.unwrap();
    let runner = run(&bench.store, &bench.bell, kinds::all(&deps), config());
    let job = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!((job.state, job.progress.as_deref()), (JobState::Done, Some("2000 rows dropped")));
    assert_eq!(job.steps[0].result, json!({"rows": 2_500, "days": 0}));
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.audit_page(&AuditQuery::default()).await.unwrap().rows.len(), 3);
    let jobs = tx.job_page(&JobQuery::default()).await.unwrap().jobs;
    let jobs: Vec<_> = jobs.into_iter().filter(|job| job.kind == "audit_retention").collect();
    assert_eq!(jobs.len(), 2);
    assert_eq!(jobs[0].state, JobState::Waiting);
    assert_eq!(jobs[0].due_at.rem_euclid(DAY), 4 * 3_600_000);
    assert!((0..=DAY).contains(&(jobs[0].due_at - bench.store.now())));
    drop(tx);
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_forward_drops_nothing() {
    let bench = Bench::new().await;
    audit_rows(&bench, 5).await;
    let deps = deps(&bench.store, CallbackRules::default(), 90);
    let kinds = kinds::all(&deps);
    pass(365 * DAY);
    let id =
        write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(retention(0)).await })).await.unwrap();
    let runner = run(&bench.store, &bench.bell, kinds, config());
    let job = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.unwrap().starts_with("the clock was set forward"), "and says so");
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.audit_page(&AuditQuery::default()).await.unwrap().rows.len(), 5);
    drop(tx);
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_kept_go_after_a_day() {
    let bench = Bench::new().await;
    let keep = async |key: &'static str| {
        let kept = write(&bench.store, move |tx| {
            Box::pin(async move { tx.keep_reply("caller", key, b"answer").await })
        });
        kept.await.unwrap();
    };
    keep("old").await;
    pass(DAY - 1_000);
    keep("young").await;
    pass(2_000);
    let kinds = kinds::all(&deps(&bench.store, CallbackRules::default(), 90));
    let job = NewJob { kind: "reply_retention".into(), lane: "kind/reply_retention".into(), ..retention(0) };
    let id = write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(job).await })).await.unwrap();
    let runner = run(&bench.store, &bench.bell, kinds, config());
    let job = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!((job.state, &job.steps[0].result), (JobState::Done, &json!({"answers": 1})));
    let kept = write(&bench.store, |tx| {
        Box::pin(async move {
            let old = tx.kept_reply("caller", "old").await?.is_some();
            let young = tx.kept_reply("caller", "young").await?.unwrap();
            Ok((old, young.reply.unwrap().expose().to_vec()))
        })
    });
    assert_eq!(kept.await.unwrap(), (false, b"answer".to_vec()));
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_when_it_is_old_or_too_much() {
    use hosting_planner::{Change, Draft};
    let bench = Bench::new().await;
    let put = async |n: usize| {
        let mut region: hosting_resource::Resource = serde_json::from_value(json!({
            "id": "r", "kind": "region", "label": "r", "status": "active", "shape": 1, "generation": 1,
            "created_revision": 1, "created_at": 1, "updated_at": 1, "spec": {"text": "x".repeat(1_000)}, "state": {},
        }))
        .unwrap();
        region.spec.insert("n".into(), n.into());
        let change = Change { put: vec![region], ..Change::default() };
        let written =
            bench.store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
        written.await.unwrap();
    };
    let rows = async || {
        let of = hosting_store::HistoryOf::Resource("r".into());
        bench.store.read().await.unwrap().history(&of, None, 1_000).await.unwrap().len()
    };
    put(0).await;
    pass(DAY);
    for n in 1..6 {
        put(n).await;
    }
    pass(89 * DAY + 1_000);
    // The clock goes on while the controller runs: what a jump makes old stays.
    let kinds = kinds::all(&deps(&bench.store, CallbackRules::default(), 90));
    // The next run that the first one plans is in its lane.
    let job = |lane: &str| NewJob {
        kind: "history_retention".into(),
        lane: lane.into(),
        subject: "history_retention".into(),
        ..retention(0)
    };
    let first = job("kind/history_retention");
    let id = write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(first).await })).await.unwrap();
    let runner = run(&bench.store, &bench.bell, kinds, config());
    let ended = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!((ended.state, &ended.steps[0].result), (JobState::Done, &json!({"rows": 1, "days": 90})));
    assert_eq!(rows().await, 5);
    // Twenty thousand bytes are kept, of rows with about 1 600.
    for n in 6..60 {
        put(n).await;
    }
    let second = job("another");
    let id = write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(second).await })).await.unwrap();
    bench.bell.ring();
    let ended = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!(ended.state, JobState::Done);
    assert!((10..15).contains(&rows().await), "{}", rows().await);
    runner.end().await;
}
