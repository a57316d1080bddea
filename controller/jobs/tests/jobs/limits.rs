//! How fast and how many: rates, cooldowns, jobs at once, and costs that follow what is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hosting_jobs::Failure;
use hosting_jobs::pace::Rate;
use hosting_store::JobState;

use crate::harness::{Bench, LIMITS, Outside, TestKind};

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_begins_jobs_no_faster_than_its_rate_over_all_runners() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(bench.enqueue(&format!("j{n}"), &format!("l{n}")).await);
    }
    let begun = Instant::now();
    let kind = || {
        let mut kind = TestKind::new(&outside);
        kind.limits.rate = Rate { each: Duration::from_millis(200), burst: 2 };
        kind
    };
    let runners = [bench.runner(kind()), bench.another_runner(kind()).await];
    for id in &ids {
        bench.until(id, &[JobState::Done]).await;
    }
    // Two at once, and six more, one each 200 ms.
    assert!(begun.elapsed() >= Duration::from_millis(1_150), "{:?}", begun.elapsed());
    for runner in runners {
        runner.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_rests_when_the_other_side_asks_for_less() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let asked = Arc::new(AtomicU32::new(0));
    let mut kind = {
        let asked = asked.clone();
        TestKind::hooked(&outside, move |_, _| {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                first.then(|| Err(Failure::later("slow down").cooling(Duration::from_millis(800))))
            })
        })
    };
    kind.limits.at_once = 1;
    let first = bench.enqueue("first", "first").await;
    let second = bench.enqueue("second", "second").await;
    let begun = Instant::now();
    let runner = bench.runner(kind);
    bench.until(&first, &[JobState::Retrying]).await;
    bench.until(&second, &[JobState::Done]).await;
    assert!(begun.elapsed() >= Duration::from_millis(800), "the whole kind rests: {:?}", begun.elapsed());
    bench.until(&first, &[JobState::Done]).await;
    runner.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_at_once_than_the_kind_allows() {
    let bench = Bench::new().await;
    let outside = Outside::default();
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut kind = {
        let (now, most) = (now.clone(), most.clone());
        TestKind::hooked(&outside, move |_, _| {
            let (now, most) = (now.clone(), most.clone());
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                None
            })
        })
    };
    kind.limits.at_once = 3;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(bench.enqueue(&format!("j{n}"), &format!("l{n}")).await);
    }
    let runner = bench.runner(kind);
    for id in &ids {
        bench.until(id, &[JobState::Done]).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(LIMITS.at_once, 32, "more would be allowed otherwise");
    runner.end().await;
}

/// A job costs the same among a thousand that wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_costs_the_same_however_many_wait() {
    let mut costs = Vec::new();
    for waiting in [0, 1_000] {
        let bench = Bench::new().await;
        let outside = Outside::default();
        let later = bench.store.now() + 3_600_000;
        futures::future::join_all((0..waiting).map(|n| {
            let (bench, label) = (&bench, format!("w{n}"));
            async move { bench.enqueue_at(&label, &label, later).await }
        }))
        .await;
        let runner = bench.runner(TestKind::new(&outside));
        // The least of several: a runner looks around once a second besides.
        let mut least = u64::MAX;
        for label in ["a", "b", "c", "d", "e"] {
            let before = bench.store.stats().statements;
            let id = bench.enqueue(label, label).await;
            bench.until(&id, &[JobState::Done]).await;
            least = least.min(bench.store.stats().statements - before);
        }
        costs.push(least);
        runner.end().await;
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 60, "{costs:?}");
}
