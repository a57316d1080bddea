//! Due times, clocks that jump, kinds that come again, jobs that ended long ago.

use std::sync::Arc;
use std::time::Duration;

use hosting_jobs::{Failure, RunnerConfig};
use hosting_store::{JobQuery, JobState};

use crate::harness::{Bench, Outside, TestKind, config, pass, run, write};

const DAY: i64 = 24 * 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_at_its_time() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let id = bench.enqueue_at("a", "a", bench.store.now() + DAY).await;
    let runner = bench.runner(TestKind::new(&outside));
    pass(DAY - 60_000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.job(&id).await.state, JobState::Waiting);
    pass(60_001);
    bench.until(&id, &[JobState::Done]).await;
    runner.end().await;
}

/// The clock stood in the future when a time was set, and is put right: jobs keep their delay, and do not stand still for years.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_put_back_stalls_nothing() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let kind = TestKind::hooked(&outside, |what, job| {
        Box::pin(async move {
            (what == "do one" && job.subject == "retries" && job.attempts == 1)
                .then(|| Err(Failure::later("not yet")))
        })
    });
    pass(1_000 * DAY);
    let retries = bench.enqueue("retries", "retries").await;
    let runner = bench.runner(kind);
    bench.until(&retries, &[JobState::Retrying, JobState::Done]).await;
    runner.end().await;
    let timer = bench.enqueue_at("timer", "timer", bench.store.now() + DAY).await;
    let behind = bench.enqueue_at("behind", "timer", bench.store.now()).await;
    pass(-1_000 * DAY);
    let runner = bench.runner(TestKind::new(&outside));
    bench.until(&retries, &[JobState::Done]).await;
    // The runner's tidying sets what the former clock set.
    let mut delay = i64::MAX;
    for _ in 0..500 {
        let set = bench.job(&timer).await;
        assert_eq!(set.state, JobState::Waiting);
        delay = set.next_at.unwrap() - bench.store.now();
        if delay <= DAY {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((DAY - 60_000..=DAY).contains(&delay), "{delay}");
    pass(DAY);
    bench.until(&timer, &[JobState::Done]).await;
    bench.until(&behind, &[JobState::Done]).await;
    runner.end().await;
}

/// There is always one job of a kind that comes again, however many runners look; a year that the clock jumps over is one run, not 365.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_comes_again_has_one_job_and_runs_once_after_a_jump() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let kind = || {
        let mut kind = TestKind::new(&outside);
        kind.every = Some(DAY);
        kind
    };
    let runners = [bench.runner(kind()), bench.another_runner(kind()).await];
    let all = async || bench.store.read().await.unwrap().job_page(&JobQuery::default()).await.unwrap().jobs;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let jobs = all().await;
    assert_eq!((jobs.len(), jobs[0].state), (1, JobState::Waiting));
    pass(365 * DAY);
    bench.until(&jobs[0].id, &[JobState::Done]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = all().await;
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(after[0].state, JobState::Waiting);
    assert!(after[0].due_at > bench.store.now());
    assert_eq!(outside.count("again do one"), 1);
    // Cancelled: the next one comes all the same.
    let id = after[0].id.clone();
    let cancelled = id.clone();
    write(&bench.store, move |tx| Box::pin(async move { hosting_jobs::cancel(tx, &cancelled, "k").await }))
        .await
        .unwrap()
        .unwrap();
    for runner in runners {
        runner.end().await;
    }
    let runner = bench.runner(kind());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let jobs = all().await;
    assert_eq!((jobs.len(), jobs[0].state, jobs[1].state), (3, JobState::Waiting, JobState::Cancelled));
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_ended_long_ago_go_and_others_stay() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let kind = || {
        TestKind::hooked(&outside, |_, job| {
            Box::pin(async move { (job.subject == "bad").then(|| Err(Failure::finally("no"))) })
        })
    };
    let mut ids = Vec::new();
    for n in 0..700 {
        ids.push(bench.enqueue(&format!("j{n}"), &format!("l{n}")).await);
    }
    ids.push(bench.enqueue("bad", "bad").await);
    let config = || RunnerConfig {
        keep_done: Duration::from_secs(3_600),
        keep: Duration::from_secs(4 * 3_600),
        ..config()
    };
    let runner = run(&bench.store, &bench.bell, vec![Arc::new(kind())], config());
    for id in &ids {
        bench.until(id, &[JobState::Done, JobState::Failed]).await;
    }
    runner.end().await;
    bench.enqueue_at("later", "later", bench.store.now() + DAY).await;
    for (passed, left) in [(2, ["later", "bad"].as_slice()), (3, ["later"].as_slice())] {
        pass(passed * 3_600_000);
        let runner = run(&bench.store, &bench.bell, vec![Arc::new(kind())], config());
        let mut tries = 0;
        loop {
            let jobs = bench.store.read().await.unwrap().job_page(&JobQuery::default()).await.unwrap().jobs;
            let subjects: Vec<&str> = jobs.iter().map(|job| job.subject.as_str()).collect();
            if subjects == left {
                break;
            }
            tries += 1;
            assert!(tries < 500, "{subjects:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        runner.end().await;
    }
}

/// A job of a kind that this build does not know, e.g. of a newer one, is left to others.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_unknown_kinds_are_left_alone() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let mut new = crate::harness::new_job("x", "x", 0);
    new.kind = "newer".into();
    let unknown =
        write(&bench.store, move |tx| Box::pin(async move { tx.enqueue_job(new).await })).await.unwrap();
    let known = bench.enqueue("a", "a").await;
    let runner = bench.runner(TestKind::new(&outside));
    bench.until(&known, &[JobState::Done]).await;
    assert_eq!(bench.job(&unknown).await.fence, 0);
    runner.end().await;
}
