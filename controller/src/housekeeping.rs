//! What must be done now and then so that the store does not grow for ever.

use std::time::{Duration, Instant};

use hosting_store::Store;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(300);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Audit rows that one step drops; other writes go in between.
const STEP: u64 = 1_000;

/// Tells a clock that was set from time that passed.
#[derive(Debug, Clone, Copy)]
struct Clock {
    wall: i64,
    steady: Instant,
}

impl Clock {
    /// Before when audit rows may go; `None` while the clock is more than a day ahead of the time that has passed since the
    /// start: what it calls old may be of today.
    fn keeps_from(&self, days: u32, wall: i64, steady: Instant) -> Option<i64> {
        let passed =
            i64::try_from(steady.saturating_duration_since(self.steady).as_millis()).unwrap_or(i64::MAX);
        let jumped = wall.saturating_sub(self.wall).saturating_sub(passed);
        (jumped <= DAY_MS).then(|| wall.saturating_sub(i64::from(days).saturating_mul(DAY_MS)))
    }
}

/// Compacts logs, drops old audit rows and keys of tenants that are gone until `stop`. A failure is logged and tried again: the fleet does not depend on it.
pub(crate) async fn run(
    store: Store,
    log_revisions: u64,
    audit_days: u32,
    stop: CancellationToken,
) -> Result<(), String> {
    let clock = Clock { wall: store.now(), steady: Instant::now() };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = compact_all(&store, log_revisions).await {
            tracing::warn!(%error, "cannot compact the log; it grows until this works");
        }
        if let Err(error) = drop_dead_keys(&store).await {
            tracing::warn!(%error, "cannot drop the keys of tenants that are gone");
        }
        let Some(before) = clock.keeps_from(audit_days, store.now(), Instant::now()) else {
            tracing::warn!(
                "the clock was set forward by more than a day: no audit rows are dropped until a restart"
            );
            continue;
        };
        match prune(&store, before, &stop).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, days = audit_days, "old audit rows dropped"),
            Err(error) => tracing::warn!(%error, "cannot drop old audit rows"),
        }
    }
}

/// Drops all of them, however many came since the last time.
async fn prune(
    store: &Store,
    before: i64,
    stop: &CancellationToken,
) -> Result<u64, hosting_store::StoreError> {
    let mut all = 0;
    loop {
        let rows = store.prune_audit(before).await?;
        all += rows;
        if rows < STEP || stop.is_cancelled() {
            return Ok(all);
        }
    }
}

async fn compact_all(store: &Store, keep: u64) -> Result<(), hosting_store::StoreError> {
    let mut after = None;
    loop {
        let audiences = store.read().await?.audiences(after.as_ref(), 200).await?;
        let Some(last) = audiences.last() else { return Ok(()) };
        after = Some(last.clone());
        for audience in &audiences {
            store.compact(audience, keep).await?;
        }
    }
}

/// Looks at every tenant's key, a hundred in one go.
async fn drop_dead_keys(store: &Store) -> Result<(), hosting_store::StoreError> {
    let mut after = String::new();
    while let Some(last) = store.drop_dead_keys(&after, 100).await? {
        after = last;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hosting_store::{AuditEntry, Kek, Origin, StoreConfig};

    use super::*;

    #[test]
    fn a_clock_that_was_set_forward_makes_nothing_old() {
        let start = Instant::now();
        let clock = Clock { wall: 1_000 * DAY_MS, steady: start };
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(clock.keeps_from(90, 1_010 * DAY_MS, start + day * 10), Some(920 * DAY_MS));
        assert_eq!(clock.keeps_from(90, 1_100 * DAY_MS, start + day), None);
        assert_eq!(clock.keeps_from(90, 0, start + day), Some(-90 * DAY_MS), "put back: nothing is old");
    }

    #[tokio::test]
    async fn all_that_is_old_goes_however_much_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let entry = || AuditEntry {
            method: "POST".into(),
            path: "/x".into(),
            resource_type: "x".into(),
            resource_id: None,
            status_code: 400,
            body: None,
        };
        futures::future::try_join_all((0..2_500).map(|_| store.audit(Origin::default(), entry())))
            .await
            .unwrap();
        let stop = CancellationToken::new();
        assert_eq!(prune(&store, store.now() + 1, &stop).await.unwrap(), 2_500);
        assert_eq!(prune(&store, store.now() + 1, &stop).await.unwrap(), 0);
    }
}
