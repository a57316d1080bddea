//! A mutation in memory: reads see what it has put so far, and one [`Change`] comes of it at the end.
//!
//! What was read once is not read again. Nothing is written before [`Overlay::write`], but for keys: they are of no revision, and go
//! with the mutation when that is given up.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Key};
use hosting_resource::{Kind, PlainSecrets, PlainText, Resource, SealedText, SecretPlace, ShapeError};

use crate::layer::{Layer, List};
use crate::{
    Admitted, ApplyError, BeginRollout, Change, Draft, Errand, IntentChange, IntentRow, KeyShare, PlanError,
    SealFor, SealedFor, Unit, World, WorldError,
};

pub(crate) struct Overlay<'d> {
    base: &'d mut dyn Draft,
    revision: u64,
    now: i64,
    traceparent: String,
    by_admin: bool,
    layer: Layer,
    intents: Vec<IntentChange>,
    replan: Vec<Unit>,
    replanned: Vec<Unit>,
    errands: BTreeSet<Errand>,
    /// Audiences that got their first key in this mutation.
    keyed: BTreeSet<Audience>,
}

impl<'d> Overlay<'d> {
    pub(crate) fn new(base: &'d mut dyn Draft) -> Self {
        Self {
            revision: base.revision(),
            now: base.now(),
            traceparent: base.traceparent().to_owned(),
            by_admin: base.by_admin(),
            base,
            layer: Layer::default(),
            intents: Vec::new(),
            replan: Vec::new(),
            replanned: Vec::new(),
            errands: BTreeSet::new(),
            keyed: BTreeSet::new(),
        }
    }

    /// The revision that the mutation commits at.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Milliseconds since the Unix epoch, the same for the whole mutation.
    pub(crate) const fn now(&self) -> i64 {
        self.now
    }

    /// W3C traceparent of the request behind the mutation; empty when there is none.
    pub(crate) fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Whether a platform admin's key asked for it.
    pub(crate) const fn by_admin(&self) -> bool {
        self.by_admin
    }

    /// Puts a resource.
    pub(crate) async fn put(&mut self, resource: Resource) -> Result<(), PlanError> {
        if resource.has_unsealed_secret() {
            let problem = "a secret of it is not sealed".to_owned();
            return Err(ShapeError::Unreadable { id: resource.id, problem }.into());
        }
        let index = resource.index();
        let before = match self.layer.index_of(&resource.id) {
            Some(before) => before.uniques.clone(),
            None => {
                self.resource(&resource.id).await?.map(|before| before.index().uniques).unwrap_or_default()
            }
        };
        for unique in index.uniques.iter().filter(|unique| !before.contains(unique)) {
            let holder = self.holder(resource.kind, &unique.scope, &unique.key).await?;
            if holder.is_some_and(|holder| holder.id != resource.id) {
                let taken =
                    ApplyError::Taken { kind: resource.kind, field: unique.field, key: unique.key.clone() };
                return Err(taken.into());
            }
        }
        let (kind, id, names) = (resource.kind, resource.id.clone(), index.uniques.clone());
        self.layer.put(resource, index);
        for unique in &names {
            self.layer.name(kind, unique, &id);
        }
        Ok(())
    }

    /// Takes a resource's row away.
    pub(crate) fn remove(&mut self, resource: &Resource) {
        self.layer.remove(&resource.id, resource.kind);
    }

    /// Reads resources that are about to be asked for, all at once.
    pub(crate) async fn prefetch(&mut self, ids: &[String]) -> Result<(), PlanError> {
        Ok(self.layer.fetch(self.base, ids).await?)
    }

    pub(crate) fn set_counter(&mut self, name: &str, value: u64) {
        self.layer.set_counter(name, value);
    }

    /// Seals the new secrets of a resource, which is about to be put, for where they stand in it.
    /// Seals a text for a place that is none of a spec's.
    pub(crate) async fn seal_text(
        &mut self,
        place: &SecretPlace,
        text: &PlainText,
    ) -> Result<SealedText, PlanError> {
        Ok(self.base.seal(place, text).await?)
    }

    pub(crate) async fn seal(
        &mut self,
        resource: &mut Resource,
        plain: &PlainSecrets,
    ) -> Result<(), PlanError> {
        for (path, text) in plain.iter() {
            let sealed = self.base.seal(&SecretPlace::of(resource, path), text).await?;
            if !resource.put_sealed(path, &sealed) {
                let problem = format!("there is no secret at {path}");
                return Err(ShapeError::Unreadable { id: resource.id.clone(), problem }.into());
            }
        }
        Ok(())
    }

    /// See [`Draft::admit_reader`].
    pub(crate) async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, PlanError> {
        Ok(self.base.admit_reader(audience, node, sealing_key).await?)
    }

    /// See [`Draft::expel_reader`].
    pub(crate) async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, PlanError> {
        Ok(self.base.expel_reader(audience, node).await?)
    }

    /// Audiences that got their first key since the last call.
    pub(crate) fn take_keyed(&mut self) -> BTreeSet<Audience> {
        std::mem::take(&mut self.keyed)
    }

    /// Puts a unit on the replan queue.
    pub(crate) fn enqueue(&mut self, unit: Unit) {
        self.replan.push(unit);
    }

    /// Takes a unit off the replan queue.
    pub(crate) fn dequeue(&mut self, unit: Unit) {
        self.replanned.push(unit);
    }

    /// Asks for work outside the store.
    pub(crate) fn ask(&mut self, errand: Errand) {
        self.errands.insert(errand);
    }

    /// Sets or withdraws an intent. A withdrawal counts only while its owner still owns the row.
    pub(crate) fn intend(&mut self, change: IntentChange) {
        let row = match &change.value {
            None => {
                let now = self.layer.changed_row(&change.audience, &change.key);
                if now.flatten().is_some_and(|row| row.owner != change.owner) {
                    return;
                }
                None
            }
            Some(value) => Some(IntentRow {
                audience: change.audience.clone(),
                key: change.key.clone(),
                revision: self.revision,
                owner: change.owner.clone(),
                value: value.clone(),
                rollout: change.rollout,
            }),
        };
        self.layer.set_row(change.audience.clone(), change.key.clone(), row);
        self.intents.push(change);
    }

    /// Reads the rows of units that are about to be planned, all at once.
    pub(crate) async fn prefetch_owned(&mut self, owners: &[String]) -> Result<(), PlanError> {
        Ok(self.layer.fetch_owned(self.base, owners).await?)
    }

    /// Of how many tenants resources were put.
    pub(crate) fn tenants_put(&self) -> usize {
        let put = self.layer.put_resources();
        put.filter_map(|(resource, _)| resource.tenant.as_deref()).collect::<BTreeSet<_>>().len()
    }

    /// Makes the changes of an audience's `wanted` items part of a rollout, those alone that are part of none.
    pub(crate) fn mark_rollout(&mut self, audience: &Audience, rollout: u64, wanted: impl Fn(&Key) -> bool) {
        for change in &mut self.intents {
            if change.audience == *audience && change.rollout == 0 && wanted(&change.key) {
                change.rollout = rollout;
            }
        }
    }

    /// Whether anything that was changed or queued is part of a rollout.
    pub(crate) fn has_rollout(&self, rollout: u64) -> bool {
        let queued = |unit: &Unit| matches!(unit, Unit::Walk { rollout: of, .. } if *of == rollout);
        self.intents.iter().any(|change| change.rollout == rollout) || self.replan.iter().any(queued)
    }

    /// Writes what came of it, if anything did.
    pub(crate) async fn write(self, rollout: Option<BeginRollout>) -> Result<Written, PlanError> {
        let Self { base, layer, intents, replan, replanned, errands, .. } = self;
        let put: Vec<Resource> = layer.put_resources().map(|(resource, _)| resource.clone()).collect();
        let change = Change {
            put: put.clone(),
            remove: layer.removed().map(|(id, _)| id.to_owned()).collect(),
            intents,
            counters: layer.counters().map(|(name, value)| (name.to_owned(), value)).collect(),
            replan,
            replanned,
            errands: errands.into_iter().collect(),
            rollout,
        };
        if change != Change::default() {
            base.apply(change).await.map_err(|error| match error {
                ApplyError::InUse { id, kind: by_kind, by } => match layer.removed_kind(&id) {
                    Some(kind) => PlanError::InUse { kind, id, by_kind, by },
                    None => ApplyError::InUse { id, kind: by_kind, by }.into(),
                },
                ApplyError::Taken { .. }
                | ApplyError::NoSuch { .. }
                | ApplyError::TooLarge(_)
                | ApplyError::World(_) => error.into(),
            })?;
        }
        Ok(Written { resources: put.into_iter().map(|resource| (resource.id.clone(), resource)).collect() })
    }
}

/// What a mutation put, as it is stored.
#[derive(Debug)]
pub(crate) struct Written {
    resources: BTreeMap<String, Resource>,
}

impl Written {
    /// The resource, if it was put.
    pub(crate) fn take(&mut self, id: &str) -> Option<Resource> {
        self.resources.remove(id)
    }
}

#[async_trait]
impl World for Overlay<'_> {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        self.layer.resource(self.base, id).await
    }

    async fn resources(&mut self, ids: &[String]) -> Result<Vec<Resource>, WorldError> {
        self.layer.resources(self.base, ids).await
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.layer.list(self.base, List::Children { kind, parent }, after, limit).await
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        Ok(self.holders(kind, scope, &[key.to_owned()]).await?.pop().map(|(_, holder)| holder))
    }

    async fn holders(
        &mut self,
        kind: Kind,
        scope: &str,
        keys: &[String],
    ) -> Result<Vec<(String, Resource)>, WorldError> {
        self.layer.holders(self.base, kind, scope, keys).await
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.layer.list(self.base, List::Referrers { kind, relation, to }, after, limit).await
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        self.layer.list(self.base, List::Facet { kind, field, value }, after, limit).await
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        self.layer.owned(self.base, owner).await
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        self.layer.intent(self.base, audience, key).await
    }

    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.layer.audience_rows(self.base, audience, after, limit).await
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        self.layer.counter(self.base, name).await
    }

    /// As it was before the mutation: a check adds what that is about to add.
    async fn usage(&mut self, of: &[(String, Kind)]) -> Result<Vec<u64>, WorldError> {
        self.base.usage(of).await
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        self.layer.list(self.base, List::All { kind }, after, limit).await
    }

    /// As it is stored: what the mutation queues is for the next one.
    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        self.base.queued(limit).await
    }

    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        self.base.trust_roots().await
    }

    async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, WorldError> {
        let sealed = self.base.seal_for(wanted).await?;
        if sealed.as_ref().is_some_and(|sealed| sealed.is_first) {
            self.keyed.insert(wanted.audience.clone());
        }
        Ok(sealed)
    }

    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError> {
        self.base.key_shares(audience).await
    }

    async fn audience_count(&mut self, audience: &Audience) -> Result<u64, WorldError> {
        self.base.audience_count(audience).await
    }
}
