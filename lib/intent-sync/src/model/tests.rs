//! The model over the smallest store, and over broken parts, which it must find.

use super::*;
use crate::subscriber::{Policy, Strict};

const SEEDS: std::ops::Range<u64> = 0..400;
const STEPS: usize = 120;

#[tokio::test]
async fn the_protocol_holds() {
    let mut total = Summary::default();
    for seed in SEEDS {
        let store = MemoryStore::new(Flaws::default());
        let summary =
            run::<_, Strict>(&store, seed, STEPS).await.unwrap_or_else(|failure| panic!("{failure}"));
        total.snapshots += summary.snapshots;
        total.deltas += summary.deltas;
        total.resumed += summary.resumed;
        total.rejected += summary.rejected;
        total.held += summary.held;
        total.waited += summary.waited;
        total.digest_mismatches += summary.digest_mismatches;
        total.gaps += summary.gaps;
        total.crashes += summary.crashes;
        total.epochs += summary.epochs;
        total.ledger_failures += summary.ledger_failures;
        total.cut_snapshots += summary.cut_snapshots;
    }
    // A run that never gets there proves nothing.
    println!("{total:?}");
    for (what, times) in [
        ("snapshots", total.snapshots),
        ("deltas", total.deltas),
        ("resumed", total.resumed),
        ("rejected", total.rejected),
        ("held", total.held),
        ("waited", total.waited),
        ("digest mismatches", total.digest_mismatches),
        ("gaps", total.gaps),
        ("crashes", total.crashes),
        ("epochs", total.epochs),
        ("ledger failures", total.ledger_failures),
        ("cut snapshots", total.cut_snapshots),
    ] {
        assert!(times > 20, "only {times} {what} in all runs");
    }
}

/// Only a long run leaves a branch of an epoch, begins another epoch, and comes back to either by copies of both.
#[tokio::test]
async fn long_runs_hold() {
    for seed in 0..50 {
        let store = MemoryStore::new(Flaws::default());
        run::<_, Strict>(&store, seed, 400).await.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Runs until the model notices, and that for the right reason: one of those between the bars.
async fn found<P: Policy>(flaws: Flaws, expected: &str) {
    for seed in SEEDS {
        if let Err(failure) = run::<_, P>(&MemoryStore::new(flaws), seed, STEPS).await {
            println!("seed {seed}: {}", failure.problem);
            assert!(
                expected.split('|').any(|text| failure.problem.contains(text)),
                "found for another reason: {failure}"
            );
            return;
        }
    }
    panic!("the model does not notice");
}

#[tokio::test]
async fn it_notices_a_missing_prev_check() {
    struct Broken;
    impl Policy for Broken {
        const CHECK_PREV: bool = false;
    }
    found::<Broken>(Flaws::default(), "other sums than the reference").await;
}

#[tokio::test]
async fn it_notices_a_sweep_before_the_end() {
    struct Broken;
    impl Policy for Broken {
        const SWEEP_AT_END: bool = false;
    }
    found::<Broken>(Flaws::default(), "which the reference has|was removed and was not there").await;
}

#[tokio::test]
async fn it_notices_an_ack_before_the_disk_has_it() {
    struct Broken;
    impl Policy for Broken {
        const DURABLE_IS_ON_DISK: bool = false;
    }
    found::<Broken>(Flaws::default(), "says durable").await;
}

#[tokio::test]
async fn it_notices_a_removal_that_is_not_published() {
    struct Broken;
    impl Policy for Broken {
        const PUBLISH_REMOVALS: bool = false;
    }
    found::<Broken>(Flaws::default(), "should be None").await;
}

#[tokio::test]
async fn it_notices_a_piece_that_passes_for_the_whole() {
    struct Broken;
    impl Policy for Broken {
        const MARK_PIECES: bool = false;
    }
    found::<Broken>(Flaws::default(), "took a piece of what it had on disk for all of it").await;
}

#[tokio::test]
async fn it_notices_an_epoch_used_again() {
    found::<Strict>(Flaws { reuse_epochs: true, ..Flaws::default() }, "never settles").await;
}

#[tokio::test]
async fn it_notices_a_delete_lost_in_the_store() {
    found::<Strict>(Flaws { lose_deletes: true, ..Flaws::default() }, "other sums than the reference").await;
}

#[tokio::test]
async fn it_notices_a_rollout_that_is_not_waited_for() {
    struct Broken;
    impl Policy for Broken {
        const ROLLOUTS_WAIT: bool = false;
    }
    found::<Broken>(Flaws::default(), "before its rollout").await;
}
