//! Of many requests for the same page one goes to the node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use tokio::sync::watch;

use crate::{Key, Stored};

/// What came of a request that others waited for.
#[derive(Debug, Clone)]
pub enum Landed {
    /// It is stored, and is for whom it can be used.
    Stored(Arc<Stored>),
    /// The site fails, and this may be used meanwhile.
    InNeed(Arc<Stored>),
    /// It is for nobody else, or there is none.
    Unshared,
    /// Its client left: another one can go.
    Left,
}

type State = Option<Landed>;

/// Requests under way that others wait for.
#[derive(Debug, Default)]
pub struct Flights {
    flights: Mutex<HashMap<Arc<[u8]>, watch::Receiver<State>, RandomState>>,
}

/// What a request finds.
#[derive(Debug)]
pub enum Joined {
    /// It is the one that goes.
    Lead(Lead),
    /// Another one goes.
    Follow(Follow),
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<[u8]>, watch::Receiver<State>, RandomState>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes, or finds who goes.
    #[must_use]
    pub fn join(self: &Arc<Self>, key: &Key) -> Joined {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&**key.bytes()) {
            return Joined::Follow(Follow(flight.clone()));
        }
        let (sender, state) = watch::channel(None);
        flights.insert(Arc::clone(key.bytes()), state);
        Joined::Lead(Lead { flights: Arc::clone(self), key: Arc::clone(key.bytes()), sender })
    }

    /// Whether somebody goes.
    pub(crate) fn is_under_way(&self, key: &Key) -> bool {
        self.lock().contains_key(&**key.bytes())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }
}

/// The one that goes. Dropped, it left.
#[derive(Debug)]
pub struct Lead {
    flights: Arc<Flights>,
    key: Arc<[u8]>,
    sender: watch::Sender<State>,
}

impl Lead {
    /// Tells the others.
    pub fn land(self, landed: Landed) {
        self.end(landed);
    }

    fn end(&self, landed: Landed) {
        // Who comes from here on finds what was stored, or goes.
        self.flights.lock().remove(&self.key);
        self.sender.send_if_modified(|state| {
            let is_first = state.is_none();
            if is_first {
                *state = Some(landed);
            }
            is_first
        });
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            self.end(Landed::Left);
        }
    }
}

/// One that waits.
#[derive(Debug)]
pub struct Follow(watch::Receiver<State>);

impl Follow {
    /// What came of the one that went.
    pub async fn landed(mut self) -> Landed {
        match self.0.wait_for(Option::is_some).await {
            Ok(state) => state.clone().unwrap_or(Landed::Left),
            Err(_) => Landed::Left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        Key::new("t", "w", false, b"a.example", path.as_bytes())
    }

    fn wait(follow: Follow) -> Landed {
        let mut landed = Box::pin(follow.landed());
        let waker = std::task::Waker::noop();
        match landed.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(landed) => landed,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn one_goes_and_the_others_learn_what_came_of_it() {
        let flights = Arc::new(Flights::default());
        let Joined::Lead(lead) = flights.join(&key("/a")) else { panic!("nobody went before") };
        let Joined::Follow(one) = flights.join(&key("/a")) else { panic!("somebody goes") };
        assert!(matches!(flights.join(&key("/b")), Joined::Lead(_)), "another page");
        assert!(flights.is_under_way(&key("/a")) && !flights.is_under_way(&key("/b")), "the other one left");
        lead.land(Landed::Unshared);
        assert!(matches!(wait(one), Landed::Unshared));
        assert_eq!(flights.len(), 0);
        let Joined::Lead(lead) = flights.join(&key("/a")) else { panic!("the last one has landed") };
        let Joined::Follow(one) = flights.join(&key("/a")) else { panic!("somebody goes") };
        drop(lead);
        assert!(matches!(wait(one), Landed::Left));
        assert_eq!(flights.len(), 0);
    }
}
