//! A subscription that is lent: another process of the same role takes identity and ledger over, and may give them back.
//!
//! One node is never connected twice and a ledger never has two writers: who lends ends its session, writes what is not on
//! disk yet and lets go of both locks, before anybody is told that it did. Its view stays in effect in memory. Taken back, it
//! goes on from that view: the controller sends what came since, and the ledger is written anew as a whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Client, Input};
use crate::subscriber::Status;

/// Between two looks whether the other process has let go.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A handle to a subscription, for who lends it. A clone speaks of the same one.
#[derive(Debug, Clone, Default)]
pub struct Lending(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wanted: watch::Sender<bool>,
    state: watch::Sender<State>,
    status: watch::Sender<Option<Status>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            wanted: watch::Sender::new(false),
            state: watch::Sender::new(State::Kept),
            status: watch::Sender::new(None),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Kept,
    Lent,
    /// It cannot be lent; why.
    Refused(String),
}

impl Lending {
    /// Has the subscription let go of identity and ledger; both are free when this returns.
    ///
    /// # Errors
    /// Why the subscription keeps them. Nothing changed then.
    pub async fn lend(&self) -> Result<(), String> {
        let mut state = self.0.state.subscribe();
        // Who gave it back a moment ago. Both waits fail only when the sender is gone, which this holds.
        let _ = state.wait_for(|state| *state == State::Kept).await;
        self.0.wanted.send_replace(true);
        let state = state.wait_for(|state| *state != State::Kept).await.map(|state| state.clone());
        match state {
            Ok(State::Refused(why)) => {
                self.take_back();
                Err(why)
            }
            Ok(State::Kept | State::Lent) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Has the subscription go on as soon as the other process has let go of identity and ledger.
    pub fn take_back(&self) {
        self.0.wanted.send_replace(false);
    }

    /// The core's state, several times a second. A position means that a view is loaded: the role is ready.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.0.status.subscribe()
    }

    pub(super) fn shows(&self) -> watch::Sender<Option<Status>> {
        self.0.status.clone()
    }

    /// Ends when somebody wants the subscription lent.
    pub(super) async fn wanted(&self) {
        self.until(true).await;
    }

    async fn until(&self, wanted: bool) {
        let mut now = self.0.wanted.subscribe();
        // Fails only when the sender is gone, which this holds.
        let _ = now.wait_for(|now| *now == wanted).await;
    }

    /// Says how it stands until the subscription is given back, or `stop`.
    pub(super) async fn stand(&self, state: State, stop: &CancellationToken) {
        self.0.state.send_replace(state);
        tokio::select! {
            () = self.until(false) => {}
            () = stop.cancelled() => {}
        }
    }

    /// The subscription goes on by itself.
    pub(super) fn kept(&self) {
        self.0.state.send_replace(State::Kept);
    }
}

impl Client {
    /// Lends the subscription, and returns when it is this process's again, or at `stop`.
    pub(super) async fn lend(&self, inputs: &mpsc::Sender<Input>, stop: &CancellationToken) {
        let (told, outcome) = oneshot::channel();
        if inputs.send(Input::Lend(told)).await.is_err() {
            return;
        }
        match outcome.await {
            Ok(Ok(())) => {
                self.identity.release();
                tracing::info!("identity and ledger are lent to another process; serving what is known");
                self.lending.stand(State::Lent, stop).await;
                if !self.take_back(stop).await {
                    // What the other process wrote stays.
                    return;
                }
                // Fails only when the core's thread is gone, which `run` notices.
                let _ = inputs.send(Input::TakenBack).await;
            }
            Ok(Err(why)) => self.lending.stand(State::Refused(why), stop).await,
            Err(_) => return,
        }
        self.lending.kept();
    }

    /// `false`: `stop` came before.
    async fn take_back(&self, stop: &CancellationToken) -> bool {
        let mut said = false;
        loop {
            if stop.is_cancelled() {
                return false;
            }
            let Err(error) = self.identity.take_back() else { break };
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(%error, "identity and ledger come back when the other process has ended");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return false,
            }
        }
        tracing::info!("identity and ledger are back");
        true
    }
}
