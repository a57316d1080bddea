//! Turns of a key: of its large requests one at a time is worked on, however many it sends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Extensions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who is in line, by key.
#[derive(Debug)]
pub(crate) struct Turns {
    most: usize,
    by_key: Mutex<BTreeMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    gate: Arc<Semaphore>,
    length: usize,
}

/// A turn; the next in line has it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// A place in a key's line, given back when dropped.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_key = self.turns.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = by_key.get_mut(&self.key) {
            line.length -= 1;
            if line.length == 0 {
                by_key.remove(&self.key);
            }
        }
    }
}

/// A turn that another protocol in this process took for a request before it read what that is made of. In the request's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldTurn(Arc<Mutex<Option<Turn>>>);

impl HeldTurn {
    pub(crate) fn new(turn: Turn) -> Self {
        Self(Arc::new(Mutex::new(Some(turn))))
    }

    fn take(&self) -> Option<Turn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The turn that came with a request.
    pub(crate) fn of(extensions: &Extensions) -> Option<Turn> {
        extensions.get::<Self>().and_then(Self::take)
    }
}

impl Turns {
    /// With room for `most` in each line.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, by_key: Mutex::default() }
    }

    /// Waits for the key's turn; `None` when its line is full.
    pub(crate) async fn take(self: &Arc<Self>, key: &str) -> Option<Turn> {
        let (gate, place) = {
            let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            let line = by_key
                .entry(key.to_owned())
                .or_insert_with(|| Line { gate: Arc::new(Semaphore::new(1)), length: 0 });
            if line.length >= self.most {
                return None;
            }
            line.length += 1;
            (Arc::clone(&line.gate), Place { turns: Arc::clone(self), key: key.to_owned() })
        };
        let permit = gate.acquire_owned().await.ok()?;
        Some(Turn { _permit: permit, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_of_a_key_at_a_time_and_other_keys_do_not_wait() {
        let turns = Arc::new(Turns::new(3));
        let first = turns.take("a").await.unwrap();
        let mut second = Box::pin(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none(), "the first one has its turn");
        let third = Box::pin(turns.take("a"));
        let mut third = third;
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.take("a").await.is_none(), "the line is full");
        let other = turns.take("b").now_or_never().flatten();
        assert!(other.is_some());
        // Who gives up leaves the line.
        drop(third);
        drop(first);
        let second = second.await.unwrap();
        drop((second, other));
        assert!(turns.by_key.lock().unwrap().is_empty());
    }
}
