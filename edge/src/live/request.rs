//! The requests on a connection now.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::{Connection, Held, Watch};

/// Bytes of a host that are shown.
const HOST: usize = 64;
/// Requests that a connection shows beside the first: others are counted only.
const MORE: usize = 7;

/// What is shown of a request. Written by the request alone; who reads it at the same time sees whether it changed meanwhile.
#[derive(Debug, Default)]
struct Slot {
    host: [AtomicU64; HOST / 8],
    /// Microseconds since the list began, plus one; 0: there is none.
    begun: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    is_upgraded: AtomicBool,
}

impl Slot {
    fn write(&self, host: &[u8], now: u64) {
        self.begun.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, bytes) in self.host.iter().zip(host.chunks(8).chain(std::iter::repeat(&[][..]))) {
            let mut all = [0; 8];
            all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            word.store(u64::from_le_bytes(all), Ordering::Relaxed);
        }
        self.received.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        self.is_upgraded.store(false, Ordering::Relaxed);
        self.begun.store(now + 1, Ordering::Release);
    }

    fn read(&self, now: u64) -> Option<Shown> {
        self.read_while(now, || {})
    }

    /// Reads, and does `meanwhile` before it is looked whether what was read is of one request.
    fn read_while(&self, now: u64, meanwhile: impl FnOnce()) -> Option<Shown> {
        let begun = self.begun.load(Ordering::Acquire);
        let mut host = Vec::with_capacity(HOST);
        for word in &self.host {
            host.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let (received, sent) = (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed));
        let is_upgraded = self.is_upgraded.load(Ordering::Relaxed);
        meanwhile();
        fence(Ordering::Acquire);
        if begun == 0 || self.begun.load(Ordering::Relaxed) != begun {
            return None;
        }
        let is_cut = host.last().is_some_and(|last| *last != 0);
        host.truncate(host.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        let mut host = String::from_utf8_lossy(&host).into_owned();
        if is_cut {
            host.push('…');
        }
        Some(Shown { host, micros: (now + 1).saturating_sub(begun), received, sent, is_upgraded })
    }
}

/// A request, as it was at one moment.
pub(super) struct Shown {
    pub(super) host: String,
    pub(super) micros: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) is_upgraded: bool,
}

/// Where a connection's requests are shown.
#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: AtomicU8,
    first: Slot,
    more: OnceLock<Box<[Slot; MORE]>>,
}

impl Slots {
    /// A place that nobody has.
    fn take(&self) -> Option<u8> {
        let mut place = None;
        // Fails when there is none.
        let _ = self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
            let free = taken.trailing_ones() as u8;
            place = (u32::from(free) < u8::BITS).then_some(free);
            place.map(|place| taken | 1 << place)
        });
        place
    }

    fn slot(&self, place: u8) -> Option<&Slot> {
        match usize::from(place).checked_sub(1) {
            None => Some(&self.first),
            Some(index) => self.more.get_or_init(Default::default).get(index),
        }
    }

    /// Those that are there.
    pub(super) fn read(&self, now: u64) -> Vec<Shown> {
        let more = self.more.get().into_iter().flat_map(|more| more.iter());
        std::iter::once(&self.first).chain(more).filter_map(|slot| slot.read(now)).collect()
    }
}

/// A request that is under way until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Present {
    connection: Option<Arc<Connection>>,
    place: Option<u8>,
}

impl Present {
    pub(super) fn new(watch: &Watch, authority: &[u8], now: Instant) -> Self {
        let Some(connection) = watch.0.clone() else { return Self::default() };
        connection.requests.fetch_add(1, Ordering::Relaxed);
        connection.under_way.fetch_add(1, Ordering::Relaxed);
        connection.list.metrics.requests.inc();
        let place = connection.slots.take();
        let present = Self { connection: Some(connection), place };
        if let (Some(slot), Some(connection)) = (present.slot(), &present.connection) {
            // Nobody shows what is no text, and all of it that fits.
            let host = authority.get(..HOST).unwrap_or(authority);
            slot.write(host, connection.list.at(now));
        }
        present
    }

    fn slot(&self) -> Option<&Slot> {
        self.connection.as_ref()?.slots.slot(self.place?)
    }

    /// Bytes of the request's body until now.
    pub(crate) fn received(&self, bytes: u64) {
        if let Some(slot) = self.slot() {
            slot.received.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes of the answer's body until now.
    pub(crate) fn sent(&self, bytes: u64) {
        if let Some(slot) = self.slot() {
            slot.sent.store(bytes, Ordering::Relaxed);
        }
    }

    /// The connection has changed its protocol.
    pub(crate) fn upgraded(&self) {
        if let Some(slot) = self.slot() {
            slot.is_upgraded.store(true, Ordering::Relaxed);
        }
    }

    /// Memory that its connection is counted for.
    pub(crate) fn nothing(&self) -> Held {
        Watch(self.connection.clone()).nothing()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Some(connection) = &self.connection else { return };
        if let (Some(slot), Some(place)) = (self.slot(), self.place) {
            slot.begun.store(0, Ordering::Release);
            connection.slots.taken.fetch_and(!(1 << place), Ordering::Release);
        }
        connection.idle_since.store(connection.list.now(), Ordering::Relaxed);
        connection.under_way.fetch_sub(1, Ordering::Relaxed);
        connection.list.metrics.requests.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_while_it_is_read_is_not_shown() {
        let slot = Slot::default();
        slot.write(b"a.example", 1);
        assert!(slot.read_while(5, || slot.write(b"b.example", 2)).is_none());
        let shown = slot.read_while(5, || {}).unwrap();
        assert_eq!((shown.host.as_str(), shown.micros), ("b.example", 3));
    }

    #[test]
    fn what_is_read_is_one_request_whole_or_none() {
        let slot = Arc::new(Slot::default());
        let hosts = ["a".repeat(60), "b".repeat(33), "c".repeat(64)];
        let writing = {
            let (slot, hosts) = (Arc::clone(&slot), hosts.clone());
            std::thread::spawn(move || {
                for turn in 0..200_000 {
                    slot.write(hosts[turn % 3].as_bytes(), turn as u64);
                }
            })
        };
        let mut seen = 0;
        while !writing.is_finished() || seen == 0 {
            if let Some(shown) = slot.read(u64::MAX - 1) {
                let host = shown.host.trim_end_matches('…');
                assert!(hosts.iter().any(|known| known == host), "{host}");
                seen += 1;
            }
        }
        writing.join().unwrap();
        assert_eq!(slot.read(0).unwrap().host, hosts[(200_000 - 1) % 3]);
    }
}
