//! When keys were used last: noted in memory with each request, written by a task of its own, which no request waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hosting_store::Store;
use tokio_util::sync::CancellationToken;

/// Keys that were used since they were written last, with the time.
#[derive(Debug, Default)]
pub(crate) struct KeyUses(Mutex<BTreeMap<String, i64>>);

impl KeyUses {
    /// A key was used `at`, in milliseconds since the Unix epoch.
    pub(crate) fn note(&self, key_id: &str, at: i64) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(key_id) {
            Some(noted) => *noted = at,
            None => {
                uses.insert(key_id.to_owned(), at);
            }
        }
    }

    /// Writes what was noted every so often, and at the end.
    pub(crate) async fn keep(&self, store: &Store, every: Duration, stop: CancellationToken) {
        let mut goes_on = true;
        while goes_on {
            goes_on = stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some();
            let uses = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if uses.is_empty() {
                continue;
            }
            // What is lost is a time of last use: the next one comes.
            if let Err(error) = store.save_key_uses(uses.into_iter().collect()).await {
                tracing::warn!(%error, "when API keys were used last cannot be written");
            }
        }
    }
}
