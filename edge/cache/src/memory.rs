//! Bytes: what the cache holds in all, and of each tenant.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

/// Bytes with a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    most: usize,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Self { used: AtomicUsize::new(0), most }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes some, unless it would be too many.
    fn take(&self, more: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= self.most)
        });
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a tenant has of the cache.
#[derive(Debug)]
pub(crate) struct Account {
    /// All of it.
    all: Budget,
    /// What is being stored now.
    filling: Budget,
    /// Keys of its entries.
    order: Mutex<Order>,
}

/// Keys of a tenant's entries, the oldest first, with some that are gone or stand twice.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) keys: VecDeque<Arc<[u8]>>,
    sweep: Sweep,
}

impl Order {
    /// Adds the newest; keys that do not live any more go once they may be as many as the others.
    pub(crate) fn push(&mut self, key: Arc<[u8]>, lives: impl Fn(&[u8]) -> bool) {
        self.keys.push_back(key);
        if self.sweep.is_due(self.keys.len()) {
            let mut seen = HashSet::with_hasher(RandomState::new());
            self.keys.retain(|key| lives(key) && seen.insert(Arc::clone(key)));
            self.sweep.done(self.keys.len());
        }
    }
}

/// When a list is looked through for what can go: each time it is twice as long as the last look left it, so that a look costs no more than what
/// came since.
#[derive(Debug)]
pub(crate) struct Sweep {
    at: usize,
    least: usize,
}

impl Sweep {
    /// Not before there are so many.
    pub(crate) const fn from(least: usize) -> Self {
        Self { at: least, least }
    }

    pub(crate) const fn is_due(&self, length: usize) -> bool {
        length >= self.at
    }

    pub(crate) fn done(&mut self, left: usize) {
        self.at = left.saturating_mul(2).max(self.least);
    }
}

impl Account {
    pub(crate) fn new(most: usize, filling: usize) -> Self {
        Self {
            all: Budget::new(most),
            filling: Budget::new(filling),
            order: Mutex::new(Order { keys: VecDeque::new(), sweep: Sweep::from(1_024) }),
        }
    }

    pub(crate) fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could have so many more, if others of its bytes went.
    pub(crate) fn could_have(&self, more: usize) -> bool {
        more <= self.all.most
    }

    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.all.used().saturating_add(more) <= self.all.most
    }
}

/// Bytes that are accounted for, until this goes.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    /// It is being filled.
    is_filling: bool,
    budget: Arc<Budget>,
    account: Arc<Account>,
}

impl Charge {
    /// Of nothing yet.
    pub(crate) fn new(budget: Arc<Budget>, account: Arc<Account>) -> Self {
        Self { bytes: 0, is_filling: true, budget, account }
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it a charge of so many bytes, if it may be.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else { return true };
        if self.is_filling && !self.account.filling.take(more) {
            return false;
        }
        if !self.account.all.take(more) {
            self.unfill(more);
            return false;
        }
        if !self.budget.take(more) {
            self.account.all.give_back(more);
            self.unfill(more);
            return false;
        }
        self.bytes = bytes;
        true
    }

    /// What was to be stored is stored, and has so many bytes, which are no more than before.
    pub(crate) fn settle(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.unfill(self.bytes);
        self.is_filling = false;
        self.account.all.give_back(less);
        self.budget.give_back(less);
        self.bytes -= less;
    }

    fn unfill(&self, bytes: usize) {
        if self.is_filling {
            self.account.filling.give_back(bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.unfill(self.bytes);
        self.account.all.give_back(self.bytes);
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_whatever_becomes_of_it() {
        let budget = Arc::new(Budget::new(100));
        let account = Arc::new(Account::new(60, 30));
        let charge = || Charge::new(Arc::clone(&budget), Arc::clone(&account));
        let used = || (budget.used(), account.all.used(), account.filling.used());
        let mut one = charge();
        assert!(one.grow(20) && one.grow(30) && one.grow(10), "it never shrinks by growing");
        assert!(!one.grow(31), "as much as may be under way");
        assert_eq!(used(), (30, 30, 30));
        one.settle(25);
        assert_eq!(used(), (25, 25, 0));
        let mut two = charge();
        assert!(two.grow(30));
        two.settle(30);
        let mut three = charge();
        assert!(!three.grow(6), "the tenant's share");
        assert_eq!(used(), (55, 55, 0));
        let other = Arc::new(Account::new(60, 60));
        let mut four = Charge::new(Arc::clone(&budget), Arc::clone(&other));
        assert!(!four.grow(46), "all that there is");
        assert_eq!((other.all.used(), other.filling.used()), (0, 0));
        assert!(four.grow(45));
        drop((one, two, three, four));
        assert_eq!((used(), other.all.used()), ((0, 0, 0), 0));
    }

    #[test]
    fn a_list_is_looked_through_for_as_much_as_came_and_not_for_what_stays() {
        let mut order = Order { keys: VecDeque::new(), sweep: Sweep::from(16) };
        let key = |number: u32| -> Arc<[u8]> { number.to_be_bytes().into() };
        let looked = std::cell::Cell::new(0);
        // A thousand pages stay, and ten times as many come and go.
        let stays = |key: &[u8]| {
            looked.set(looked.get() + 1);
            key[0] == 0
        };
        (0..1_000).for_each(|number| order.push(key(number), stays));
        (0..10_000).for_each(|number| order.push(key(number | 1 << 24), stays));
        assert!((1_000..=2_100).contains(&order.keys.len()), "{}", order.keys.len());
        assert!(looked.get() < 4 * 11_000, "{} looks at 11 000 keys", looked.get());
        (0..1_000)
            .for_each(|number| assert_eq!(order.keys[number as usize], key(number), "the oldest first"));
        // The same key again and again is there once in the end.
        (0..5_000).for_each(|_| order.push(key(7), stays));
        assert!(order.keys.len() <= 2_100, "{}", order.keys.len());
    }
}
