//! Bytes: what the cache holds in all, and of each tenant.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Keys of its entries, the oldest first, with some that are gone.
    order: Mutex<VecDeque<Arc<[u8]>>>,
}

impl Account {
    pub(crate) fn new(most: usize, filling: usize) -> Self {
        Self { all: Budget::new(most), filling: Budget::new(filling), order: Mutex::default() }
    }

    pub(crate) fn order(&self) -> MutexGuard<'_, VecDeque<Arc<[u8]>>> {
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
}
