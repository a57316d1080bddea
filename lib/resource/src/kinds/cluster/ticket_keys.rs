//! What the edges of a cluster seal session tickets with, and when the next key's turn comes.

use serde::{Deserialize, Serialize};

use crate::{Doc, SealedText, SecretPlace};

use super::Cluster;

/// A key seals for so long, and what it sealed opens for as long again, in milliseconds: whoever has all keys of a cluster reads what its clients
/// resumed within a day, and nothing before.
pub const TICKET_KEY_SEALS: i64 = 12 * 3_600_000;
/// A key that is late begins after so long, in milliseconds, so that every edge has it before it meets its tickets.
const SOON: i64 = 600_000;

/// A key that session tickets are sealed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTicketKey {
    /// What stands before each ticket: 32 hexadecimal digits, by chance.
    pub name: String,
    /// From when on it seals, in milliseconds since the Unix epoch.
    pub begins: i64,
    /// The key as 64 hexadecimal digits, sealed.
    pub key: SealedText,
}

impl ClusterTicketKey {
    /// Where a key of this name is sealed for.
    #[must_use]
    pub fn place(cluster: &Doc<Cluster>, name: &str) -> SecretPlace {
        SecretPlace::of(cluster, &format!("/ticket_keys/{name}"))
    }
}

/// What is to be done about a cluster's keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TicketRotation {
    /// So many of the oldest keys open nothing any more.
    pub ended: usize,
    /// So many of the newest are of a clock that was far ahead.
    pub astray: usize,
    /// When the keys begin that are to be added.
    pub begin: Vec<i64>,
}

impl TicketRotation {
    /// All is as it should be.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be done at `now` about keys that begin then: there is one that seals, one that is next, and the one before. A key is thus known to all
/// edges half a day before it is used.
#[must_use]
pub fn rotation(begins: &[i64], now: i64) -> TicketRotation {
    let astray = begins.iter().filter(|begins| **begins > now.saturating_add(2 * TICKET_KEY_SEALS)).count();
    let kept = &begins[..begins.len() - astray];
    let opens_since = now.saturating_sub(TICKET_KEY_SEALS);
    // A key's tickets end as long after its successor began as the successor seals.
    let ended = kept.iter().skip(1).take_while(|next| **next < opens_since).count();
    let begin = match kept.last() {
        None => vec![now, now.saturating_add(TICKET_KEY_SEALS)],
        Some(newest) if *newest <= now => {
            vec![newest.saturating_add(TICKET_KEY_SEALS).max(now.saturating_add(SOON))]
        }
        Some(_) => Vec::new(),
    };
    TicketRotation { ended, astray, begin }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys after a turn at `now`.
    fn turn(keys: &mut Vec<i64>, now: i64) {
        let todo = rotation(keys, now);
        keys.truncate(keys.len() - todo.astray);
        keys.drain(..todo.ended);
        keys.extend(todo.begin);
    }

    #[test]
    fn one_seals_one_is_next_and_a_ticket_opens_for_as_long_as_it_lasts() {
        let (mut keys, begin) = (Vec::new(), 1_700_000_000_000);
        let mut sealed: Vec<(i64, i64)> = Vec::new();
        for now in (begin..begin + 10 * TICKET_KEY_SEALS).step_by(1_800_000) {
            let next = keys.last().copied();
            turn(&mut keys, now);
            let sealing = *keys.iter().rfind(|begins| **begins <= now).unwrap();
            assert!(now - sealing < TICKET_KEY_SEALS + 1_800_000, "none seals for much longer than it should");
            let ahead = keys.last().unwrap() - now;
            assert!(ahead > 0 && keys.len() <= 4, "{keys:?}");
            // A key that is new is not used at once, but for the first.
            let is_new = next.is_some() && keys.last().copied() != next;
            assert!(!is_new || ahead > TICKET_KEY_SEALS - 1_800_000, "{ahead}");
            sealed.push((now, sealing));
            for (at, with) in &sealed {
                assert!(now - at >= TICKET_KEY_SEALS || keys.contains(with), "{with} of {at} at {now}");
                assert!(now - at < 3 * TICKET_KEY_SEALS || !keys.contains(with), "{with} of {at} at {now}");
            }
        }
    }

    #[test]
    fn a_key_that_is_late_is_told_before_it_seals() {
        let mut keys = vec![0, TICKET_KEY_SEALS];
        let now = 20 * TICKET_KEY_SEALS;
        turn(&mut keys, now);
        assert_eq!(keys, [TICKET_KEY_SEALS, now + SOON]);
    }

    #[test]
    fn keys_of_a_clock_that_was_ahead_go_once_it_is_put_back() {
        let now = 1_700_000_000_000;
        let ahead = now + 365 * 86_400_000;
        let mut keys = vec![now, ahead, ahead + TICKET_KEY_SEALS];
        turn(&mut keys, now);
        assert_eq!(keys, [now, now + TICKET_KEY_SEALS]);
        let mut keys = vec![ahead];
        turn(&mut keys, now);
        assert_eq!(keys, [now, now + TICKET_KEY_SEALS]);
    }
}
