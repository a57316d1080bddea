//! One copy of what many have alike, for as long as somebody has it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;

/// Each value with the number of its users.
#[derive(Debug)]
pub(crate) struct Interned<T: ?Sized>(HashMap<Arc<T>, usize, RandomState>);

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T: Hash + Eq + ?Sized> Interned<T> {
    /// The copy of a value for one user more.
    pub(crate) fn take(&mut self, value: Arc<T>) -> Arc<T> {
        match self.0.entry(value) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                Arc::clone(entry.key())
            }
            Entry::Vacant(entry) => {
                let value = Arc::clone(entry.key());
                entry.insert(1);
                value
            }
        }
    }

    /// One user has a value no more. Answers whether that was the last one.
    pub(crate) fn give_back(&mut self, value: &T) -> bool {
        let Some(users) = self.0.get_mut(value) else { return false };
        *users -= 1;
        let was_last = *users == 0;
        if was_last {
            self.0.remove(value);
        }
        was_last
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_there_once_and_until_its_last_user_gave_it_back() {
        let mut texts = Interned::<str>::default();
        let one = texts.take("a".into());
        let again = texts.take("a".into());
        assert!(Arc::ptr_eq(&one, &again));
        texts.take("b".into());
        assert_eq!(texts.len(), 2);
        assert!(!texts.give_back("a") && texts.give_back("a") && !texts.give_back("a"));
        assert_eq!((texts.len(), Arc::strong_count(&one)), (1, 2), "nobody else has it");
    }
}
