//! What must be done now and then so that the store does not grow for ever. Old audit rows are a job's (`audit_retention`).

use std::time::Duration;

use hosting_store::Store;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(300);

/// Compacts logs and drops keys of tenants that are gone until `stop`. A failure is logged and tried again: the fleet does not depend on it.
pub(crate) async fn run(store: Store, log_revisions: u64, stop: CancellationToken) -> Result<(), String> {
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
