//! That this controller runs, and which others do.
//!
//! Each controller of a shared store says every few seconds that it is there. The others take its subscribers for alive as long as it
//! does; once it was silent for [`AWAY`] they give those one lease to come to them. So a controller that was away for that long itself, because
//! it stood still or could not reach the store, ends its sessions before it says anything of them. While the store answered nobody, nobody could
//! say anything: one that stood still in the middle of a change holds the others up until the database gives up on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hosting_feed::FeedHandle;
use hosting_store::{OtherController, Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::fleet::FleetView;

/// How often it says so.
const BEAT: Duration = Duration::from_secs(2);
/// A controller that was silent for longer does not run.
const AWAY: Duration = Duration::from_secs(8);

/// Until `stop`. A store that is one controller's alone needs nothing of it.
pub(crate) async fn run(
    store: Store,
    view: Arc<FleetView>,
    feed: FeedHandle,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    if !store.is_shared() {
        stop.cancelled().await;
        return Ok(());
    }
    let own = feed.controllers();
    let mut heard = Instant::now();
    let mut is_away = false;
    loop {
        if heard.elapsed() > AWAY && !is_away {
            is_away = true;
            tracing::warn!(
                "this controller was away from the store: its sessions end, and nodes go to another controller"
            );
            view.abandon("this controller was away from its store");
        }
        match tokio::time::timeout(AWAY / 2, store.beat(&own)).await {
            Ok(Ok(others)) => {
                let unheard = heard.elapsed();
                heard = Instant::now();
                // Until it knows again who is where, it counts as away.
                if is_away {
                    match view.reload(&store).await {
                        Ok(()) => is_away = false,
                        Err(StoreError::Closed) => return Err(StoreError::Closed),
                        Err(error) => tracing::warn!(%error, "the fleet cannot be read anew; trying again"),
                    }
                }
                let running: Vec<OtherController> =
                    others.into_iter().filter(|other| is_running(other, unheard)).collect();
                let others = running.iter().flat_map(|other| other.feed.iter());
                // One that started again is known twice for a while.
                let mut addresses = own.clone();
                for address in others {
                    if !addresses.contains(address) {
                        addresses.push(address.clone());
                    }
                }
                feed.advertise(addresses);
                view.alive(&running.into_iter().map(|other| other.id).collect());
            }
            Ok(Err(StoreError::Closed)) => return Err(StoreError::Closed),
            Ok(Err(error)) => tracing::warn!(%error, "the store does not hear that this controller runs"),
            Err(_) => tracing::warn!("the store does not answer"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

/// Whether a controller may still run, for one that has itself not been heard for `unheard`: as far as that is longer than between two
/// beats, the store was late for everybody.
fn is_running(other: &OtherController, unheard: Duration) -> bool {
    other.silent_for < AWAY + unheard.saturating_sub(BEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_silent_for_as_long_as_the_store_answers_nobody() {
        let silent = |milliseconds: u64| OtherController {
            id: "other".into(),
            silent_for: Duration::from_millis(milliseconds),
            feed: Vec::new(),
        };
        assert!(is_running(&silent(7_999), BEAT) && !is_running(&silent(8_000), BEAT));
        // It stood still under the lock of the store, which was free again after five seconds.
        let late = BEAT + Duration::from_secs(5);
        assert!(is_running(&silent(8_800), late) && !is_running(&silent(13_000), late));
        assert!(!is_running(&silent(8_000), Duration::ZERO));
    }
}
