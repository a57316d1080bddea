//! The keys of a subscriber's audience: learnt from the feed, opened with the subscriber's own key pair, asked by the role.
//!
//! They are kept nowhere but in memory: the ledger holds them as they came, sealed to the key pair, whose file is beside it. So a
//! start without the controller has them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use hosting_intent::{Audience, Key, Kind, Rejection, RoleIntent as _, audience_key_of, message as m};
use zeroize::Zeroizing;

use crate::sealing::{AudienceKey, Place, SealingKey};
use crate::{Batch, Replica};

/// What opens the secrets of an audience's intents. Cheap to clone; all clones know the same keys.
#[derive(Clone)]
pub struct AudienceKeys(Arc<Inner>);

struct Inner {
    pair: SealingKey,
    /// Whose keys they are; empty until it is known to what the role subscribes.
    audience: OnceLock<Audience>,
    versions: RwLock<BTreeMap<u32, AudienceKey>>,
}

impl fmt::Debug for AudienceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudienceKeys").field("pair", &self.0.pair).finish_non_exhaustive()
    }
}

impl AudienceKeys {
    /// Reads `sealing.key` in the role's data folder, or makes it.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn load(data_dir: &Path) -> io::Result<Self> {
        let pair = SealingKey::load_or_create(&data_dir.join("sealing.key"))?;
        Ok(Self(Arc::new(Inner { pair, audience: OnceLock::new(), versions: RwLock::default() })))
    }

    /// Opens a secret of the intent `key`: what stands in its field `field`, which [`Place::field`] spells.
    ///
    /// # Errors
    /// [`Rejection::Invalid`]: the version of the key is not known, or it is not the secret of this place.
    pub fn open(&self, key: &Key, field: &str, sealed: &m::Sealed) -> Result<Zeroizing<Vec<u8>>, Rejection> {
        let refuse = |problem: String| Rejection::Invalid { field: "sealed", problem };
        let audience =
            self.0.audience.get().ok_or_else(|| refuse("the subscription has no audience yet".into()))?;
        let versions = self.0.versions.read().unwrap_or_else(PoisonError::into_inner);
        let version = sealed.version;
        let opener = versions.get(&version).ok_or_else(|| {
            refuse(format!("version {version} of the audience's key was not given to this subscriber"))
        })?;
        let opened = opener.open(Place { audience, key, field }, sealed);
        opened.map_err(|error| refuse(format!("{field}: {error}")))
    }

    pub(super) fn public(&self) -> [u8; 32] {
        *self.0.pair.public()
    }

    /// The version under a name, if it is for this subscriber.
    fn own_version(&self, key: &Key) -> Option<u32> {
        let name =
            (key.known_kind() == Some(Kind::AudienceKey)).then(|| audience_key_of(&key.name)).flatten()?;
        (name.1 == *self.0.pair.public()).then_some(name.0)
    }

    fn learn(&self, version: u32, share: &m::AudienceKey) -> Result<(), Rejection> {
        let Some(audience) = self.0.audience.get() else { return Ok(()) };
        let key = AudienceKey::from_share(audience, version, share, &self.0.pair)
            .map_err(|error| Rejection::Invalid { field: "sealed", problem: error.to_string() })?;
        self.0.versions.write().unwrap_or_else(PoisonError::into_inner).insert(version, key);
        Ok(())
    }

    fn forget(&self, version: u32) {
        self.0.versions.write().unwrap_or_else(PoisonError::into_inner).remove(&version);
    }
}

/// A replica that also listens for the audience's keys.
#[derive(Debug)]
pub struct KeysWatch<R> {
    keys: Option<AudienceKeys>,
    replica: R,
}

impl<R> KeysWatch<R> {
    /// Wraps a role's replica, so that `keys` knows what the feed gives this subscriber of `audience`.
    #[must_use]
    pub fn new(replica: R, keys: Option<AudienceKeys>, audience: &Audience) -> Self {
        if let Some(keys) = &keys {
            keys.0.audience.get_or_init(|| audience.clone());
        }
        Self { keys, replica }
    }
}

impl<R: Replica> Replica for KeysWatch<R> {
    type Intent = R::Intent;
    const PIECES: Option<usize> = R::PIECES;

    /// Learns a key before it is published: what it opens is in the same batch, and is checked next. To know it early changes nothing.
    fn check(&self, key: &Key, intent: &R::Intent) -> Result<(), Rejection> {
        if let (Some(keys), Some(share)) = (&self.keys, intent.audience_key())
            && let Some(version) = keys.own_version(key)
        {
            keys.learn(version, share)?;
        }
        self.replica.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<R::Intent>) {
        let gone: Vec<u32> = match &self.keys {
            Some(keys) => {
                batch.removals.iter().filter_map(|removal| keys.own_version(&removal.key)).collect()
            }
            None => Vec::new(),
        };
        self.replica.publish(batch);
        if let Some(keys) = &self.keys {
            gone.into_iter().for_each(|version| keys.forget(version));
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_intent::{Cause, EdgeIntent, Removal, audience_key_name};

    use super::*;

    struct Idle;

    impl Replica for Idle {
        type Intent = EdgeIntent;

        fn check(&self, _: &Key, _: &EdgeIntent) -> Result<(), Rejection> {
            Ok(())
        }
        fn publish(&mut self, _: Batch<EdgeIntent>) {}
    }

    #[test]
    fn a_key_opens_from_its_check_on_and_until_it_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let keys = AudienceKeys::load(dir.path()).unwrap();
        let audience: Audience = "edge/c1".parse().unwrap();
        let mut watch = KeysWatch::new(Idle, Some(keys.clone()), &audience);
        let version = AudienceKey::new(2, Zeroizing::new([7; 32]));
        let subject = Key::new(Kind::Route, "a.example");
        let place = Place { audience: &audience, key: &subject, field: "key" };
        let sealed = version.seal(place, b"hunter2").unwrap();
        let unknown = keys.open(&subject, "key", &sealed).unwrap_err().to_string();
        assert!(unknown.contains("version 2") && unknown.contains("not given"), "{unknown}");

        let own = Key::new(Kind::AudienceKey, audience_key_name(2, &keys.public()));
        let share = version.share(&audience, &keys.public()).unwrap();
        // Somebody else's is none of our business, whatever it holds.
        let other = Key::new(Kind::AudienceKey, audience_key_name(2, &[9; 32]));
        let rubbish = m::AudienceKey { sealed: vec![0; 48].into(), ..share.clone() };
        assert_eq!(watch.check(&other, &EdgeIntent::AudienceKey(rubbish.clone())), Ok(()));
        assert!(keys.open(&subject, "key", &sealed).is_err());
        assert!(watch.check(&own, &EdgeIntent::AudienceKey(rubbish)).is_err());
        watch.check(&own, &EdgeIntent::AudienceKey(share)).unwrap();
        assert_eq!(keys.open(&subject, "key", &sealed).unwrap().as_slice(), b"hunter2");
        let misplaced = keys.open(&subject, "yek", &sealed).unwrap_err().to_string();
        assert!(misplaced.contains("not sealed for") && !misplaced.contains("hunter2"), "{misplaced}");

        let removal = |key: &Key| Removal {
            key: key.clone(),
            cause: Cause::Planner,
            traceparent: String::new(),
            rollout: 0,
        };
        let batch =
            |removals| Batch { epoch: "e".into(), revision: 1, upserts: Vec::new(), removals, more: false };
        watch.publish(batch(vec![removal(&other)]));
        assert!(keys.open(&subject, "key", &sealed).is_ok());
        watch.publish(batch(vec![removal(&own)]));
        assert!(keys.open(&subject, "key", &sealed).is_err());
    }
}
