//! Wakes a controller's own runner and whoever waits for a job. Polling is the guarantee: a bell that is not rung costs time and nothing
//! else.

use std::sync::Arc;

use tokio::sync::watch;

/// Rung after a commit that changed a job. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bell(Arc<watch::Sender<u64>>);

impl Default for Bell {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Bell {
    /// Something about jobs was committed.
    pub fn ring(&self) {
        self.0.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// Moves with each ring.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
