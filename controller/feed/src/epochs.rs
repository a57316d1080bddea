//! How often a subscriber's word may begin a new epoch.
//!
//! A cursor beyond the head says that the store was put back to an older copy. After that the store itself remembers
//! nothing that could prove it, so the subscriber must be believed; but a new epoch costs the whole fleet a snapshot, and
//! one node that lies, or has a damaged ledger, must not cost that again and again. A store is put back rarely, and the
//! first subscriber that is ahead begins the epoch for all: the others' cursors are then of another epoch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A node may begin one epoch in this time.
const OF_ONE_NODE: Duration = Duration::from_secs(24 * 3600);
/// All nodes together may begin one in this time.
const OF_ALL: Duration = Duration::from_secs(60);
/// When a node that is not believed may ask again. Several that found the store put back ask at once: for all but the first
/// the new epoch is there the next time.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(60);

/// Who began an epoch, and when. Forgotten at a restart, which is when a store may have been put back.
#[derive(Debug, Default)]
pub(crate) struct Epochs(Mutex<BTreeMap<String, Instant>>);

impl Epochs {
    /// Whether a node that is ahead of the store may begin a new epoch now; if so, it counts as having done it. Else when
    /// it should come back.
    pub(crate) fn may_begin(&self, node_id: &str, now: Instant) -> Result<(), Duration> {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        began.retain(|_, at| now.saturating_duration_since(*at) < OF_ONE_NODE);
        if began.contains_key(node_id) {
            return Err(LATER);
        }
        if began.values().any(|at| now.saturating_duration_since(*at) < OF_ALL) {
            return Err(SOON);
        }
        began.insert(node_id.to_owned(), now);
        Ok(())
    }

    /// It came to nothing: the store could not be written.
    pub(crate) fn did_not(&self, node_id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_believed_once_a_day_and_all_of_them_once_a_minute() {
        let (epochs, start) = (Epochs::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(epochs.may_begin("a", start), Ok(()));
        assert_eq!(epochs.may_begin("b", after(10)), Err(SOON));
        assert_eq!(epochs.may_begin("a", after(61)), Err(LATER));
        assert_eq!(epochs.may_begin("b", after(61)), Ok(()));
        assert_eq!(epochs.may_begin("a", after(24 * 3600)), Ok(()));
        assert_eq!(epochs.0.lock().unwrap().len(), 2);
        epochs.did_not("a");
        assert_eq!(epochs.may_begin("a", after(24 * 3600 + 61)), Ok(()));
    }
}
