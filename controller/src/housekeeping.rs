//! What must be done now and then so that the store does not grow for ever.

use std::time::Duration;

use hosting_store::Store;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(300);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Compacts logs and drops old audit rows until `stop`. A failure is logged and tried again: the fleet does not depend on it.
pub(crate) async fn run(
    store: Store,
    log_revisions: u64,
    audit_days: u32,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = compact_all(&store, log_revisions).await {
            tracing::warn!(%error, "cannot compact the log; it grows until this works");
        }
        let before = store.now().saturating_sub(i64::from(audit_days).saturating_mul(DAY_MS));
        match store.prune_audit(before).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, days = audit_days, "old audit rows dropped"),
            Err(error) => tracing::warn!(%error, "cannot drop old audit rows"),
        }
    }
}

async fn compact_all(store: &Store, keep: u64) -> Result<(), hosting_store::StoreError> {
    let mut after = String::new();
    loop {
        let audiences = store.read().await?.audiences(&after, 200).await?;
        let Some(last) = audiences.last() else { return Ok(()) };
        after.clone_from(last);
        for audience in &audiences {
            store.compact(audience, keep).await?;
        }
    }
}
