//! Crash points: each leaves a store from which the next start finishes the work exactly. And two runners on one store.

use std::sync::Arc;
use std::time::Duration;

use hosting_jobs::Bell;
use hosting_store::{JobQuery, JobState, StepState, StoreError};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::harness::{Bench, Outside, TestKind, config, job, new_job, pass, run, until, write};

const LEASE: i64 = 31_000;

/// Killed in the transaction, before its COMMIT: neither the change nor the job is there.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_commit() {
    let bench = Bench::new().await;
    let (source, new) = (bench.source(), new_job("a", "a", 0));
    let (reached, image) = oneshot::channel();
    let (go, killed) = oneshot::channel::<()>();
    let mutation = tokio::spawn({
        let store = bench.store.clone();
        async move {
            write(&store, move |tx| {
                Box::pin(async move {
                    let change = hosting_store::Pace { arrival: 7, ..Default::default() };
                    tx.put_job_pace("the change", change).await?;
                    tx.enqueue_job(new).await?;
                    assert!(reached.send(source.image()).is_ok());
                    let _ = killed.await;
                    Err::<(), _>(StoreError::Closed)
                })
            })
            .await
        }
    });
    let image = image.await.ok().unwrap();
    let store = image.open().await;
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.job_pace("the change").await.unwrap().arrival, 0);
    assert_eq!(tx.job_page(&JobQuery::default()).await.unwrap().jobs, []);
    drop(tx);
    let _ = go.send(());
    assert!(mutation.await.unwrap().is_err());
}

/// Killed after the COMMIT and before the bell: the next start finds the job by itself.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_commit_and_before_the_bell() {
    let bench = Bench::new().await;
    let id = bench.enqueue("a", "a").await;
    let image = bench.source().image();
    let store = image.open().await;
    let outside = Outside::default();
    let runner = run(&store, &Bell::default(), vec![Arc::new(TestKind::new(&outside))], config());
    until(&store, &id, &[JobState::Done]).await;
    assert_eq!(outside.all(), ["a do one", "a do two", "a do three"]);
    runner.end().await;
    // So does a runner whose bell nobody rang.
    let outside = Outside::default();
    let runner = run(&bench.store, &Bell::default(), vec![Arc::new(TestKind::new(&outside))], config());
    bench.until(&id, &[JobState::Done]).await;
    runner.end().await;
}

/// Killed at each place around each step: after it was begun, and after it had its effect. The next start asks, and each effect is
/// there once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_step_and_its_record() {
    for step in ["one", "two", "three"] {
        for after_effect in [false, true] {
            let bench = Bench::new().await;
            let outside = Outside::default();
            let (images, mut image) = mpsc::unbounded_channel();
            let source = bench.source();
            let kind = {
                let outside = outside.clone();
                TestKind::hooked(&outside.clone(), move |what, _| {
                    let (images, source, outside) = (images.clone(), source.clone(), outside.clone());
                    Box::pin(async move {
                        if what == format!("do {step}") {
                            if after_effect {
                                outside.note(format!("a {what}"));
                            }
                            assert!(images.send(source.image()).is_ok());
                            // The process is gone: whatever follows does not happen.
                            std::future::pending::<()>().await;
                        }
                        None
                    })
                })
            };
            let id = bench.enqueue("a", "a").await;
            let runner = bench.runner(kind);
            let image = image.recv().await.unwrap();
            runner.kill().await;

            let store = image.open().await;
            let left = job(&store, &id).await;
            assert_eq!(left.steps.last().unwrap().state, StepState::Running);
            let runner = run(&store, &Bell::default(), vec![Arc::new(TestKind::new(&outside))], config());
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(job(&store, &id).await.fence, left.fence, "the lease is not over");
            pass(LEASE);
            let done = until(&store, &id, &[JobState::Done]).await;
            for step in ["one", "two", "three"] {
                assert_eq!(outside.count(&format!("a do {step}")), 1, "{step}: {:?}", outside.all());
            }
            assert_eq!(outside.count(&format!("a ask {step}")), 1);
            assert_eq!(done.steps.iter().map(|step| step.attempts).sum::<u32>(), 4);
            runner.end().await;
        }
    }
}

/// Killed while undoing.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_step_is_undone() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (images, mut image) = mpsc::unbounded_channel();
    let source = bench.source();
    let kind = TestKind::hooked(&outside, move |what, _| {
        let (images, source) = (images.clone(), source.clone());
        Box::pin(async move {
            match what.as_str() {
                "do three" => Some(Err(hosting_jobs::Failure::finally("no"))),
                "undo two" => {
                    assert!(images.send(source.image()).is_ok());
                    std::future::pending().await
                }
                _ => None,
            }
        })
    });
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    let image = image.recv().await.unwrap();
    runner.kill().await;
    let store = image.open().await;
    pass(LEASE);
    let runner = run(&store, &Bell::default(), vec![Arc::new(TestKind::new(&outside))], config());
    let job = until(&store, &id, &[JobState::Undone]).await;
    assert_eq!(job.error.as_deref(), Some("no"));
    assert_eq!(outside.all(), ["a do one", "a do two", "a undo two", "a undo one"]);
    runner.end().await;
}

/// Two runners on one store: each step once, whoever does it.
#[tokio::test(flavor = "multi_thread")]
async fn two_runners_do_each_step_once() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let mut ids = Vec::new();
    for n in 0..150 {
        ids.push(bench.enqueue(&format!("j{n}"), &format!("lane{}", n % 40)).await);
    }
    let runners =
        [bench.runner(TestKind::new(&outside)), bench.another_runner(TestKind::new(&outside)).await];
    for id in &ids {
        bench.until(id, &[JobState::Done]).await;
    }
    let all = outside.all();
    assert_eq!(all.len(), 3 * 150, "nothing was asked or done twice");
    for n in 0..150 {
        for step in ["one", "two", "three"] {
            assert_eq!(outside.count(&format!("j{n} do {step}")), 1);
        }
    }
    // In order within each lane.
    for lane in 0..40 {
        let ends: Vec<_> = (lane..150)
            .step_by(40)
            .map(|n| all.iter().position(|one| *one == format!("j{n} do three")).unwrap())
            .collect();
        assert!(ends.is_sorted(), "lane {lane}");
    }
    for runner in runners {
        runner.end().await;
    }
}

/// A runner that freezes loses its lease to another one. When it thaws it records nothing, and stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_runner_records_nothing_once_another_has_its_job() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (reached, thaw) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut frozen = {
        let (reached, thaw) = (reached.clone(), thaw.clone());
        TestKind::hooked(&outside, move |what, _| {
            let (reached, thaw) = (reached.clone(), thaw.clone());
            Box::pin(async move {
                if what == "do two" {
                    reached.notify_one();
                    thaw.notified().await;
                }
                None
            })
        })
    };
    // It does not take its own job back.
    frozen.limits.at_once = 1;
    let id = bench.enqueue("a", "a").await;
    let first = bench.runner(frozen);
    reached.notified().await;
    pass(LEASE);
    let second = bench.another_runner(TestKind::new(&outside)).await;
    let done = bench.until(&id, &[JobState::Done]).await;
    thaw.notify_one();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.job(&id).await, done, "the frozen runner changed nothing");
    // Its effect was under way when it froze: that is what a fence cannot prevent, and what asking is for.
    assert_eq!((outside.count("a do one"), outside.count("a do three")), (1, 1));
    first.end().await;
    second.end().await;
}

/// Notes when it is dropped.
struct Dropped(Outside);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.note("dropped".into());
    }
}

/// A runner that cannot lengthen its lease drops its step.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_lost_its_lease_stops_its_step() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let mut kind = {
        let outside = outside.clone();
        TestKind::hooked(&outside.clone(), move |_, _| {
            let guard = Dropped(outside.clone());
            Box::pin(async move {
                std::future::pending::<()>().await;
                drop(guard);
                None
            })
        })
    };
    // It does not take its own job back.
    kind.limits.at_once = 1;
    kind.limits.step_time = Duration::from_secs(600);
    let id = bench.enqueue("a", "a").await;
    let short = hosting_jobs::RunnerConfig { lease: Duration::from_secs(3), ..config() };
    let runner = run(&bench.store, &bench.bell, vec![Arc::new(kind)], short);
    let held = bench.until(&id, &[JobState::Running]).await;
    // Its lease is lengthened for as long as it has it.
    while bench.job(&id).await.next_at <= held.next_at {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(bench.job(&id).await.fence, held.fence);
    // Somebody else takes the job, as after a partition.
    let of = id.clone();
    write(&bench.store, move |tx| {
        Box::pin(async move {
            let mut job = tx.beside().job(&of).await?.unwrap();
            let fence = job.fence;
            job.fence += 1;
            job.next_at = Some(i64::MAX / 2);
            assert!(tx.save_job(&job, fence).await?);
            Ok::<_, StoreError>(())
        })
    })
    .await
    .unwrap();
    for _ in 0..1_000 {
        if !outside.all().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(outside.all(), ["dropped"]);
    assert_eq!(bench.job(&id).await.fence, held.fence + 1);
    runner.end().await;
}
