//! Certificates in the form that handshakes use: as many as a limit says, those that are asked for most.
//!
//! What is not here is made where it is asked for, so that nothing is lost by a limit that is too low but the time of making it.

use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, UnitWeighter};
use rustls::sign::CertifiedKey;

/// A bounded cache. Looking into it takes the lock of a part of it, shared with all who only look.
#[derive(Debug)]
pub(crate) struct Ready<K>(Cache<K, Arc<CertifiedKey>, UnitWeighter, RandomState>);

impl<K: Hash + Eq> Ready<K> {
    /// Keeps at most so many; 0: none.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Cache::with(
            capacity,
            capacity as u64,
            UnitWeighter,
            RandomState::new(),
            DefaultLifecycle::default(),
        ))
    }

    /// What is kept under a key, or what `make` makes, which is kept then. Two that ask at once may both make it.
    pub(crate) fn get_or_make<Q: Hash + Equivalent<K> + ?Sized>(
        &self,
        key: &Q,
        make: impl FnOnce() -> Option<(K, CertifiedKey)>,
    ) -> Option<Arc<CertifiedKey>> {
        if let Some(kept) = self.0.get(key) {
            return Some(kept);
        }
        let (key, made) = make()?;
        let made = Arc::new(made);
        self.0.insert(key, Arc::clone(&made));
        Some(made)
    }

    pub(crate) fn remove<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) {
        self.0.remove(key);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    #[test]
    fn no_more_are_kept_than_the_limit_and_those_that_are_asked_for_stay() {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
        let ready = Ready::new(100);
        let mut made = 0;
        let mut ask = |name: &str| {
            let certificate = CertifiedKey::new(Vec::new(), Arc::clone(&key));
            ready.get_or_make(name, || {
                made += 1;
                Some((Arc::<str>::from(name), certificate))
            })
        };
        for n in 0..5_000 {
            assert!(ask("often").is_some() && ask(&n.to_string()).is_some());
        }
        assert!(ready.len() <= 100 && ready.len() > 80, "{}", ready.len());
        assert_eq!(made, 5_001, "what is asked for often is made once");
        ready.remove("often");
        assert!(ready.get_or_make("often", || None).is_none());
        let none = Ready::<u64>::new(0);
        let certificate = CertifiedKey::new(Vec::new(), key);
        assert!(none.get_or_make(&1, || Some((1, certificate))).is_some(), "though none is kept");
        assert_eq!(none.len(), 0);
    }
}
