//! Room for those that nobody knows yet: a newcomer is never kept out by whoever only holds on.
//!
//! When there is no room, the oldest idle one of the party that has most gives way. So a party alone displaces itself, and
//! one that comes once and says at once what it wants is served however many others wait.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Who counts as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    /// An IPv4 address, or an IPv6 /64.
    Network(IpAddr),
    /// A node of the registry, wherever it comes from.
    Node(String),
}

impl Party {
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Network(network(address))
    }
}

/// What counts as one network: an IPv4 address, or an IPv6 /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// A number of seats, and how many of them one party may have.
#[derive(Debug)]
pub(crate) struct Seats {
    all: usize,
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Oldest first.
    seats: BTreeMap<u64, State>,
    counts: BTreeMap<Party, usize>,
}

#[derive(Debug)]
struct State {
    party: Party,
    /// Under way. While there is one the seat is not idle.
    calls: usize,
    has_called: bool,
    given_up: CancellationToken,
}

impl Taken {
    fn leave(&mut self, id: u64) -> Option<State> {
        let state = self.seats.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&state.party) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&state.party);
            }
        }
        Some(state)
    }

    /// Makes the oldest idle one of `party` give way. False: all of them are at work.
    fn displace(&mut self, party: &Party) -> bool {
        let oldest = self.seats.iter().find(|(_, state)| state.party == *party && state.calls == 0);
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        if let Some(state) = self.leave(id) {
            state.given_up.cancel();
        }
        true
    }
}

impl Seats {
    pub(crate) fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one: of_one.clamp(1, all.max(1)), taken: Mutex::default() })
    }

    /// A seat for one more of `party`; `None` if nobody who has one is idle.
    pub(crate) fn take(self: &Arc<Self>, party: Party) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.counts.get(&party).is_some_and(|count| *count >= self.of_one) {
            if !taken.displace(&party) {
                return None;
            }
        } else if taken.seats.len() >= self.all {
            let largest =
                taken.counts.iter().max_by_key(|(_, count)| **count).map(|(party, _)| party.clone());
            if !largest.is_some_and(|largest| taken.displace(&largest)) {
                return None;
            }
        }
        taken.next += 1;
        let id = taken.next;
        let given_up = CancellationToken::new();
        *taken.counts.entry(party.clone()).or_default() += 1;
        let state = State { party, calls: 0, has_called: false, given_up: given_up.clone() };
        taken.seats.insert(id, state);
        drop(taken);
        Some(Seat(Arc::new(Held { seats: Arc::clone(self), id, given_up })))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat. Given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Seat(Arc<Held>);

#[derive(Debug)]
struct Held {
    seats: Arc<Seats>,
    id: u64,
    given_up: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.seats.taken().leave(self.id);
    }
}

impl Seat {
    /// Waits until it has to give way.
    pub(crate) async fn given_up(&self) {
        self.0.given_up.cancelled().await;
    }

    /// The seat is not idle while the answer lives.
    pub(crate) fn call(&self) -> Call {
        self.count(|state| {
            state.calls += 1;
            state.has_called = true;
        });
        Call(self.clone())
    }

    /// Whether there ever was a call.
    pub(crate) fn has_called(&self) -> bool {
        self.0.seats.taken().seats.get(&self.0.id).is_some_and(|state| state.has_called)
    }

    fn count(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.0.seats.taken().seats.get_mut(&self.0.id) {
            change(state);
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call(Seat);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.count(|state| state.calls = state.calls.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Party {
        Party::at(address.parse().unwrap())
    }

    fn is_out(seat: &Seat) -> bool {
        seat.0.given_up.is_cancelled()
    }

    #[test]
    fn a_network_is_one_party() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.2"), at("192.0.2.1"));
    }

    #[test]
    fn a_party_displaces_itself_first() {
        let seats = Seats::new(8, 2);
        let (here, there) = (at("2001:db8::1"), at("192.0.2.1"));
        let one = seats.take(here.clone()).unwrap();
        let other = seats.take(there).unwrap();
        let two = seats.take(here.clone()).unwrap();
        let three = seats.take(here.clone()).unwrap();
        assert_eq!([&one, &other, &two, &three].map(is_out), [true, false, false, false]);
        // One that is at work stays; with nobody idle there is no room.
        let (call, again) = (two.call(), three.call());
        assert!(seats.take(here.clone()).is_none());
        drop(call);
        let four = seats.take(here.clone()).unwrap();
        assert_eq!([&two, &three, &four].map(is_out), [true, false, false]);
        drop((one, two, three, four, other, again));
        let taken = seats.taken();
        assert!(taken.seats.is_empty() && taken.counts.is_empty());
    }

    #[test]
    fn with_all_seats_taken_the_largest_party_gives_way() {
        let seats = Seats::new(4, 3);
        let crowd: Vec<_> = (0..3).map(|_| seats.take(at("192.0.2.1")).unwrap()).collect();
        let node = seats.take(Party::Node("web-1".into())).unwrap();
        let new = seats.take(at("192.0.2.2")).unwrap();
        assert_eq!(crowd.iter().map(is_out).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_out(&node) && !is_out(&new));
        assert_eq!(seats.taken().seats.len(), 4);
    }

    #[test]
    fn whether_it_ever_called_is_known() {
        let seats = Seats::new(2, 2);
        let seat = seats.take(at("192.0.2.1")).unwrap();
        assert!(!seat.has_called());
        drop(seat.call());
        assert!(seat.has_called());
    }
}
