//! How far a process is: what connections need to know of its end.

use tokio::sync::watch;

/// A process serves first, and ends in one of two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It takes connections.
    Serving,
    /// Another process takes the connections. Those that are here go on, and are ended where nobody loses a request by it.
    HandedOver,
    /// The process is to end soon.
    Stopping,
}

/// Follows the phase. One whose sender is gone stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    pub(crate) fn new() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (sender, Self(receiver))
    }

    pub(crate) fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Ends when the process no longer takes connections.
    pub(crate) async fn ends(&mut self) {
        self.until(|phase| phase != Phase::Serving).await;
    }

    /// Ends when the process is to end soon.
    pub(crate) async fn stops(&mut self) {
        self.until(|phase| phase == Phase::Stopping).await;
    }

    async fn until(&mut self, reached: impl Fn(Phase) -> bool) {
        if self.0.wait_for(|phase| reached(*phase)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
