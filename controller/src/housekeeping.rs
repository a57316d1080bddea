//! What must be done now and then so that the store does not grow for ever. Old audit rows are a job's (`audit_retention`).

use std::time::Duration;

use hosting_store::Store;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(300);

/// Compacts logs until `stop`. A failure is logged and tried again: the fleet does not depend on it.
pub(crate) async fn run(store: Store, log_revisions: u64, stop: CancellationToken) -> Result<(), String> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        // One controller at a time is enough.
        match store.hold("housekeeping", EVERY * 2).await {
            Ok(Some(_)) => {}
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "it cannot be told whether another controller does the housekeeping");
                continue;
            }
        }
        if let Err(error) = compact_all(&store, log_revisions).await {
            tracing::warn!(%error, "cannot compact the log; it grows until this works");
        }
    }
}

async fn compact_all(store: &Store, keep: u64) -> Result<(), hosting_store::StoreError> {
    let mut after = None;
    loop {
        let audiences = store.read().await?.long_logs(keep, after.as_ref(), 200).await?;
        let Some(last) = audiences.last() else { return Ok(()) };
        after = Some(last.clone());
        for audience in &audiences {
            store.compact(audience, keep).await?;
        }
    }
}
