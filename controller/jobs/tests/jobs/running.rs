//! What a job does when nothing goes wrong, and when somebody cancels it or gives it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hosting_jobs::machine;
use hosting_jobs::{Failure, Went};
use hosting_store::{JobState, StepState, StoreError};
use tokio::sync::Notify;

use crate::harness::{Bench, Outside, TestKind, config, job, new_job, run, write};

const FINAL: &[JobState] = &[JobState::Done, JobState::Failed, JobState::Cancelled, JobState::Undone];

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_done_in_order_and_recorded_with_what_they_leave() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(TestKind::new(&outside));
    let job = bench.until(&id, FINAL).await;
    assert_eq!(outside.all(), ["a do one", "a do two", "a do three"]);
    assert_eq!((job.state, job.next_at, job.error), (JobState::Done, None, None));
    assert!(job.started_at.is_some() && job.ended_at.is_some());
    let steps: Vec<_> = job
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.state, step.attempts, step.result["by"].as_str()))
        .collect();
    assert_eq!(
        steps,
        [
            ("one", StepState::Done, 1, Some("one")),
            ("two", StepState::Done, 1, Some("two")),
            ("three", StepState::Done, 1, Some("three")),
        ]
    );
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_and_the_change_that_asks_for_it_are_kept_or_dropped_together() {
    let bench = Bench::new().await;
    let new = new_job("a", "a", 0);
    let refused = write(&bench.store, move |tx| {
        Box::pin(async move {
            let id = tx.enqueue_job(new).await?;
            assert!(tx.beside().job(&id).await?.is_some(), "the mutation reads what it wrote");
            Err::<(), _>(StoreError::Closed)
        })
    });
    assert!(refused.await.is_err());
    assert_eq!(bench.store.read().await.unwrap().job_page(&Default::default()).await.unwrap().jobs, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bell_wakes_a_runner_that_sleeps() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let slow = hosting_jobs::RunnerConfig { poll: Duration::from_secs(3600), ..config() };
    let runner = run(&bench.store, &bench.bell, vec![Arc::new(TestKind::new(&outside))], slow);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let id = bench.enqueue("a", "a").await;
    bench.bell.ring();
    bench.until(&id, &[JobState::Done]).await;
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_lane_run_one_at_a_time_in_order_and_others_pass_them() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let go = Arc::new(Notify::new());
    let kind = {
        let (running, most, go) = (running.clone(), most.clone(), go.clone());
        TestKind::hooked(&outside, move |what, job| {
            let (running, most, go) = (running.clone(), most.clone(), go.clone());
            Box::pin(async move {
                if job.lane == "lane" {
                    if what == "do one" {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        if job.subject == "first" {
                            go.notified().await;
                        }
                    } else if what == "do three" {
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                None
            })
        })
    };
    let mut ids = Vec::new();
    for label in ["first", "second", "third"] {
        ids.push(bench.enqueue(label, "lane").await);
    }
    let runner = bench.runner(kind);
    let other = bench.enqueue("other", "other").await;
    bench.until(&other, &[JobState::Done]).await;
    let second = bench.job(&ids[1]).await;
    assert_eq!((second.state, second.next_at), (JobState::Waiting, None), "it waits behind the first");
    go.notify_one();
    bench.until(&ids[2], &[JobState::Done]).await;
    let of_lane: Vec<_> =
        outside.all().into_iter().filter(|one| !one.starts_with("other") && one.ends_with("one")).collect();
    assert_eq!(of_lane, ["first do one", "second do one", "third do one"]);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    runner.end().await;
}

/// A job that is given up makes room for the next one of its lane, after it has undone what it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_undoes_its_steps_backwards() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let kind = TestKind::hooked(&outside, |what, job| {
        Box::pin(async move {
            let fails = job.subject == "bad" && what == "do three";
            fails.then(|| Err(Failure::later("the other side says no")))
        })
    });
    let bad = bench.enqueue("bad", "lane").await;
    let good = bench.enqueue("good", "lane").await;
    let runner = bench.runner(kind);
    bench.until(&good, &[JobState::Done]).await;
    let bad = bench.job(&bad).await;
    assert_eq!((bad.state, bad.error.as_deref()), (JobState::Undone, Some("the other side says no")));
    assert_eq!(bad.steps[2].attempts, 3);
    let all = outside.all();
    assert_eq!(all[..4], ["bad do one", "bad do two", "bad undo two", "bad undo one"]);
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_under_way_undoes_its_steps_backwards() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (reached, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let kind = {
        let (reached, go) = (reached.clone(), go.clone());
        TestKind::hooked(&outside, move |what, _| {
            let (reached, go) = (reached.clone(), go.clone());
            Box::pin(async move {
                if what == "do two" {
                    reached.notify_one();
                    go.notified().await;
                }
                None
            })
        })
    };
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    reached.notified().await;
    let of = id.clone();
    let cancelled = write(&bench.store, move |tx| {
        Box::pin(async move { hosting_jobs::cancel(tx, &of, "api key k").await })
    });
    assert_eq!(cancelled.await.unwrap().unwrap().state, JobState::Running, "its runner has to see it first");
    go.notify_one();
    let job = bench.until(&id, FINAL).await;
    assert_eq!((job.state, job.error.as_deref()), (JobState::Undone, Some("cancelled by api key k")));
    assert_eq!(outside.all(), ["a do one", "a do two", "a undo two", "a undo one"]);
    runner.end().await;
    let mut ended = job;
    assert!(machine::cancel(&mut ended, "k", true, 0).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_given_up_can_be_tried_again() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let healed = Arc::new(AtomicUsize::new(0));
    let kind = {
        let healed = healed.clone();
        TestKind::hooked(&outside, move |_, _| {
            let ill = healed.load(Ordering::SeqCst) == 0;
            Box::pin(async move { ill.then(|| Err(Failure::finally("closed"))) })
        })
    };
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    assert_eq!(bench.until(&id, FINAL).await.state, JobState::Failed);
    healed.store(1, Ordering::SeqCst);
    let of = id.clone();
    write(&bench.store, move |tx| Box::pin(async move { hosting_jobs::retry(tx, &of).await }))
        .await
        .unwrap()
        .unwrap();
    bench.bell.ring();
    let job = bench.until(&id, &[JobState::Done]).await;
    assert_eq!((job.error, job.steps.len()), (None, 3));
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_panics_or_hangs_is_a_failed_attempt() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let mut kind = TestKind::hooked(&outside, |what, job| {
        Box::pin(async move {
            match (what.as_str(), job.attempts) {
                ("do one", 1) => panic!("a flaw"),
                ("do one", 2) => std::future::pending().await,
                _ => None,
            }
        })
    });
    kind.limits.step_time = Duration::from_millis(100);
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    let job = bench.until(&id, FINAL).await;
    assert_eq!((job.state, job.steps[0].attempts), (JobState::Done, 3));
    assert_eq!(outside.count("a ask one"), 2, "it may have had its effect each time");
    runner.end().await;
}

/// A long step in parts shows how far it is, and another runner goes on after a crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_in_parts_shows_how_far_it_is() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let kind = TestKind::hooked(&outside, |what, job| {
        Box::pin(async move {
            let part: u32 = job.progress.as_deref().unwrap_or("0").parse().unwrap();
            (what == "do two" && part < 20).then(|| Ok(Went::More((part + 1).to_string())))
        })
    });
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    let done = bench.until(&id, FINAL).await;
    assert_eq!(
        (done.state, done.progress.as_deref(), done.steps[1].attempts),
        (JobState::Done, Some("20"), 1)
    );
    runner.end().await;
}

/// At its end a runner hands its jobs over: the next one goes on at once, not when the lease is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_ends_hands_its_jobs_over() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let reached = Arc::new(Notify::new());
    let stuck = {
        let reached = reached.clone();
        TestKind::hooked(&outside, move |what, _| {
            let reached = reached.clone();
            Box::pin(async move {
                if what == "do two" {
                    reached.notify_one();
                    std::future::pending::<()>().await;
                }
                None
            })
        })
    };
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(stuck);
    reached.notified().await;
    runner.end().await;
    assert_eq!(job(&bench.store, &id).await.lease_owner, None);
    let runner = bench.runner(TestKind::new(&outside));
    bench.until(&id, &[JobState::Done]).await;
    assert_eq!(outside.all(), ["a do one", "a ask two", "a do two", "a do three"]);
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_woken_looks_now_and_again_when_it_was_at_work() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (reached, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let kind = {
        let (reached, go, outside) = (reached.clone(), go.clone(), outside.clone());
        TestKind::hooked(&outside.clone(), move |what, _| {
            let (reached, go, outside) = (reached.clone(), go.clone(), outside.clone());
            Box::pin(async move {
                let looks = outside.count(&format!("looks {what}"));
                outside.note(format!("looks {what}"));
                match (what.as_str(), looks) {
                    // It sleeps, is woken, and is at work when it is woken again.
                    ("do one", 0) => Some(Ok(Went::Postponed(Duration::from_secs(3_600)))),
                    ("do one", 1) => {
                        reached.notify_one();
                        go.notified().await;
                        Some(Ok(Went::Postponed(Duration::from_secs(3_600))))
                    }
                    // It is about to end when it is woken.
                    ("do three", 0) => {
                        reached.notify_one();
                        go.notified().await;
                        Some(Ok(Went::Done(serde_json::Value::Null)))
                    }
                    _ => None,
                }
            })
        })
    };
    let wake = async || {
        let woken = write(&bench.store, |tx| Box::pin(async move { tx.wake_lane("a").await }));
        woken.await.unwrap();
        bench.bell.ring();
    };
    let id = bench.enqueue("a", "a").await;
    let runner = bench.runner(kind);
    bench.until(&id, &[JobState::Retrying]).await;
    wake().await;
    reached.notified().await;
    wake().await;
    go.notify_one();
    reached.notified().await;
    wake().await;
    go.notify_one();
    let job = bench.until(&id, FINAL).await;
    assert_eq!(job.state, JobState::Done);
    let looks = |what: &str| outside.count(&format!("looks {what}"));
    assert_eq!([looks("do one"), looks("do two"), looks("do three")], [3, 1, 2], "{:?}", outside.all());
    runner.end().await;
}
