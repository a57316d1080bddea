//! How long a client waits for what a server may not say.

use std::time::Duration;

/// How long is waited for what may not come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the next answer.
    pub(crate) answer: Duration,
    /// For the end of the connection.
    pub(crate) end: Duration,
    /// Nobody knows what will come: whatever does is taken.
    pub(crate) looks: bool,
}

impl Patience {
    /// How many answers are waited for where `expected` are.
    pub(crate) fn count(self, expected: usize) -> usize {
        if self.looks { usize::MAX } else { expected }
    }
}

/// For a server that does as the row says: only its faults are waited for.
pub(crate) const SURE: Patience =
    Patience { answer: Duration::from_secs(3), end: Duration::from_secs(3), looks: false };
/// For any other.
pub(crate) const CURIOUS: Patience =
    Patience { answer: Duration::from_millis(150), end: Duration::from_millis(150), looks: true };
