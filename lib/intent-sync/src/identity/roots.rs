//! Trust roots that come with the feed.

use std::sync::{Arc, OnceLock};

use hosting_intent::{Key, Rejection, RoleIntent as _};

use super::Identity;
use crate::tls;
use crate::{Batch, Replica};

/// A replica that also listens for trust roots.
#[derive(Debug)]
pub struct RootsWatch<R> {
    /// Empty while a process serves from its ledger and has yet to enrol. Roots published before are not taken over: those that
    /// come with the credential are newer.
    identity: Arc<OnceLock<Identity>>,
    replica: R,
}

impl<R> RootsWatch<R> {
    pub(crate) fn new(replica: R, identity: Option<Identity>) -> Self {
        let identity = Arc::new(identity.map_or_else(OnceLock::new, OnceLock::from));
        Self { identity, replica }
    }

    /// Where an identity that comes later is put.
    pub(crate) fn identity(&self) -> Arc<OnceLock<Identity>> {
        Arc::clone(&self.identity)
    }
}

impl<R: Replica> Replica for RootsWatch<R> {
    type Intent = R::Intent;
    const PIECES: Option<usize> = R::PIECES;

    fn check(&self, key: &Key, intent: &R::Intent) -> Result<(), Rejection> {
        if let Some(roots) = intent.trust_roots() {
            let roots: Vec<Vec<u8>> = roots.ca_der.iter().map(|root| root.to_vec()).collect();
            match self.identity.get() {
                Some(identity) => identity.check_roots(&roots),
                None => tls::root_store(roots.iter().map(Vec::as_slice)).map(drop).map_err(|e| e.to_string()),
            }
            .map_err(|problem| Rejection::Invalid { field: "ca_der", problem })?;
        }
        self.replica.check(key, intent)
    }

    fn publish(&mut self, batch: Batch<R::Intent>) {
        let mut upserts = batch.upserts.iter();
        let roots = upserts.find_map(|(item, intent)| Some((item.revision, intent.trust_roots()?)));
        if let (Some(identity), Some((revision, roots))) = (self.identity.get(), roots) {
            let roots: Vec<Vec<u8>> = roots.ca_der.iter().map(|root| root.to_vec()).collect();
            if let Err(error) = identity.set_roots(&roots, &batch.epoch, revision) {
                tracing::error!(%error, "the new trust roots did not take effect; those before stay");
            }
        }
        self.replica.publish(batch);
    }
}
