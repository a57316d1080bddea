//! A [`Draft`] in memory with the store's rules, for tests of planning and of those who plan.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::{Audience, Bytes, Key, message as m};
use hosting_resource::{Index, Kind, PlainText, Resource, SealedText, SecretPlace, Status};

use crate::gates::{Evidence, Reports};
use crate::past::{Event, Part, PastChange};
use crate::{
    Admitted, ApplyError, BeginRollout, Change, Draft, Errand, IntentChange, IntentRow, KeyShare, SealFor,
    SealedFor, Unit, World, WorldError,
};

/// Rows that one mutation may write, as in the store.
const MAX_ROWS: usize = 1_000;

/// One row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When.
    pub revision: u64,
    /// What.
    pub change: IntentChange,
    /// Of the request behind it; empty when there was none.
    pub traceparent: String,
}

/// A change that people ask about.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// The change; to be chosen by whoever undoes.
    pub change: PastChange,
    /// The traceparent behind it.
    pub traceparent: String,
}

/// A store in memory. Between mutations call [`Fake::commit`]; a mutation that failed is taken back by
/// [`Fake::roll_back`].
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// By id.
    pub resources: BTreeMap<String, Resource>,
    /// By audience and key.
    pub intents: BTreeMap<(Audience, Key), IntentRow>,
    /// All changes of intents, oldest first.
    pub log: Vec<Logged>,
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// Work outside the store that was asked for, what was asked for already left out.
    pub errands: BTreeSet<Errand>,
    /// The replan queue, oldest first.
    pub queue: Vec<Unit>,
    /// Certificate authorities.
    pub roots: Vec<Bytes>,
    /// Of the request behind the open mutation; empty when there is none.
    pub traceparent: String,
    /// The key that asks; `None`: the controller.
    pub actor: Option<String>,
    /// What people ask about, oldest first.
    pub past: Vec<Remembered>,
    /// Whether a platform admin asks.
    pub admin: bool,
    /// Whether what touches much goes out in steps.
    pub rolls_out: bool,
    /// Rollouts that began, by their revision.
    pub rollouts: BTreeMap<u64, BeginRollout>,
    /// The newest revision that is committed.
    pub head: u64,
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    /// Reads since they were last set to 0.
    pub reads: usize,
    /// Rows that the open mutation wrote.
    pub rows: usize,
    /// What was sealed: each place and its text. A sealed text holds its number.
    pub secrets: Vec<(SecretPlace, PlainText)>,
    /// The newest version of each audience's key.
    pub versions: BTreeMap<Audience, u32>,
    /// Public sealing keys by audience and node.
    pub readers: BTreeMap<(Audience, String), [u8; 32]>,
    indexes: BTreeMap<String, Index>,
    before: Option<Box<Fake>>,
}

impl Fake {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { time: 1_000, ..Self::default() }
    }

    /// Ends a mutation and answers its revision.
    pub fn commit(&mut self) -> u64 {
        if let Some(before) = self.before.take() {
            self.remember(&before.resources);
        }
        self.rows = 0;
        self.time += 1;
        self.head += 1;
        self.head
    }

    fn remember(&mut self, before: &BTreeMap<String, Resource>) {
        let ids: BTreeSet<&String> = before.keys().chain(self.resources.keys()).collect();
        for id in ids {
            let (before, after) = (before.get(id), self.resources.get(id));
            if before == after || Event::of(before, after).is_none() {
                continue;
            }
            let Some(kind) = after.or(before).map(|one| one.kind) else { continue };
            let change = PastChange {
                resource: id.clone(),
                kind,
                revision: self.head + 1,
                actor: self.actor.clone(),
                before: before.cloned(),
                part: Part::Other,
            };
            self.past.push(Remembered { change, traceparent: self.traceparent.clone() });
        }
    }

    /// Takes everything back since the last commit.
    pub fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            *self = *before;
        }
    }

    /// All current intents, ascending.
    pub fn rows(&self) -> impl Iterator<Item = &IntentRow> {
        self.intents.values()
    }

    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(Box::new(self.clone()));
        }
    }

    fn row(&mut self) -> Result<(), ApplyError> {
        self.rows += 1;
        if self.rows > MAX_ROWS { Err(ApplyError::TooLarge(self.rows)) } else { Ok(()) }
    }

    /// As in the store: index rows that fall away go first, and what is new is checked once everything is written, so that two
    /// resources of one change may swap a name, and both ends of a reference may come or go together.
    fn write(&mut self, put: Vec<Resource>, remove: Vec<String>) -> Result<(), ApplyError> {
        let mut removed = Vec::new();
        for id in remove {
            self.indexes.remove(&id);
            if self.resources.remove(&id).is_some() {
                self.row()?;
                removed.push(id);
            }
        }
        let mut written = Vec::new();
        for resource in put {
            if self.resources.get(&resource.id) == Some(&resource) {
                continue;
            }
            self.row()?;
            let old = self.indexes.remove(&resource.id).unwrap_or_default();
            written.push((resource.id.clone(), old));
            self.resources.insert(resource.id.clone(), resource);
        }
        for (id, old) in written {
            let Some(resource) = self.resources.get(&id) else { continue };
            let (kind, index) = (resource.kind, resource.index());
            for unique in &index.uniques {
                if self.holder_of(kind, &unique.scope, &unique.key).is_some() {
                    return Err(ApplyError::Taken { kind, field: unique.field, key: unique.key.clone() });
                }
            }
            for to in index.refs.iter().filter(|to| !old.refs.contains(to)) {
                let there = self.resources.get(&to.to);
                if there.is_none_or(|there| there.kind != to.kind || there.status == Status::Deleting) {
                    return Err(ApplyError::NoSuch { field: to.relation, kind: to.kind, id: to.to.clone() });
                }
            }
            self.indexes.insert(id, index);
        }
        for id in removed {
            let refers = |other: &Resource| {
                self.indexes.get(&other.id).is_some_and(|index| index.refs.iter().any(|to| to.to == id))
            };
            let user = self
                .resources
                .values()
                .find(|other| other.parent.as_deref() == Some(id.as_str()) || refers(other));
            if let Some(other) = user {
                let (kind, by) = (other.kind, other.id.clone());
                return Err(ApplyError::InUse { id, kind, by });
            }
        }
        Ok(())
    }

    fn intend(&mut self, change: IntentChange, traceparent: &str) -> Result<(), ApplyError> {
        let at = (change.audience.clone(), change.key.clone());
        match (self.intents.get_mut(&at), &change.value) {
            (None, None) => return Ok(()),
            (Some(row), None) if row.owner != change.owner => return Ok(()),
            (Some(row), Some(value)) if row.value == *value => {
                row.owner.clone_from(&change.owner);
                return Ok(());
            }
            (None | Some(_), Some(_)) | (Some(_), None) => {}
        }
        self.row()?;
        let revision = self.head + 1;
        match &change.value {
            Some(value) => {
                let row = IntentRow {
                    audience: change.audience.clone(),
                    key: change.key.clone(),
                    revision,
                    owner: change.owner.clone(),
                    value: value.clone(),
                    rollout: change.rollout,
                };
                self.intents.insert(at, row);
            }
            None => {
                self.intents.remove(&at);
            }
        }
        self.log.push(Logged { revision, change, traceparent: traceparent.to_owned() });
        Ok(())
    }

    fn holder_of(&self, kind: Kind, scope: &str, key: &str) -> Option<&Resource> {
        self.resources.values().filter(|resource| resource.kind == kind).find(|resource| {
            self.indexes.get(&resource.id).is_some_and(|index| {
                index.uniques.iter().any(|unique| unique.scope == scope && unique.key == key)
            })
        })
    }

    fn page(&mut self, after: &str, limit: u32, fits: impl Fn(&Resource, &Index) -> bool) -> Vec<Resource> {
        self.reads += 1;
        let none = Index::default();
        self.resources
            .values()
            .filter(|resource| resource.id.as_str() > after)
            .filter(|resource| fits(resource, self.indexes.get(&resource.id).unwrap_or(&none)))
            .take(limit as usize)
            .cloned()
            .collect()
    }
}

/// A bare resource, for tests.
#[must_use]
pub fn resource(kind: Kind, id: &str, spec: serde_json::Value) -> Resource {
    Resource {
        id: id.to_owned(),
        kind,
        parent: None,
        tenant: None,
        brand: None,
        label: id.to_owned(),
        status: Status::Pending,
        status_message: None,
        shape: 1,
        generation: 1,
        created_revision: 1,
        created_at: 0,
        updated_at: 0,
        spec: spec.as_object().cloned().unwrap_or_default(),
        state: serde_json::Map::new(),
    }
}

/// No node ever reported.
#[async_trait]
impl Evidence for Fake {
    async fn reports(&mut self, _: &[(String, Key)]) -> Result<Reports, WorldError> {
        Ok(Reports::new())
    }
}

#[async_trait]
impl World for Fake {
    async fn resource(&mut self, id: &str) -> Result<Option<Resource>, WorldError> {
        self.reads += 1;
        Ok(self.resources.get(id).cloned())
    }

    async fn children(
        &mut self,
        kind: Kind,
        parent: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Ok(self.page(after, limit, |r, _| r.kind == kind && r.parent.as_deref() == Some(parent)))
    }

    async fn holder(&mut self, kind: Kind, scope: &str, key: &str) -> Result<Option<Resource>, WorldError> {
        self.reads += 1;
        Ok(self.holder_of(kind, scope, key).cloned())
    }

    async fn referrers(
        &mut self,
        kind: Kind,
        relation: &str,
        to: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Ok(self.page(after, limit, |r, index| {
            r.kind == kind && index.refs.iter().any(|one| one.relation == relation && one.to == to)
        }))
    }

    async fn with_facet(
        &mut self,
        kind: Kind,
        field: &str,
        value: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Resource>, WorldError> {
        Ok(self.page(after, limit, |r, index| {
            r.kind == kind && index.facets.iter().any(|one| one.field == field && one.value == value)
        }))
    }

    async fn owned(&mut self, owner: &str) -> Result<Vec<IntentRow>, WorldError> {
        self.reads += 1;
        Ok(self.intents.values().filter(|row| row.owner == owner).cloned().collect())
    }

    async fn intent(&mut self, audience: &Audience, key: &Key) -> Result<Option<IntentRow>, WorldError> {
        self.reads += 1;
        Ok(self.intents.get(&(audience.clone(), key.clone())).cloned())
    }

    async fn audience_rows(
        &mut self,
        audience: &Audience,
        after: Option<&Key>,
        limit: u32,
    ) -> Result<Vec<IntentRow>, WorldError> {
        self.reads += 1;
        Ok(self
            .intents
            .values()
            .filter(|row| row.audience == *audience && after.is_none_or(|after| row.key > *after))
            .take(limit as usize)
            .cloned()
            .collect())
    }

    async fn counter(&mut self, name: &str) -> Result<u64, WorldError> {
        self.reads += 1;
        Ok(self.counters.get(name).copied().unwrap_or_default())
    }

    async fn usage(&mut self, of: &[(String, Kind)]) -> Result<Vec<u64>, WorldError> {
        self.reads += 1;
        let used = |(owner, kind): &(String, Kind)| {
            let of_kind = self.resources.values().filter(|resource| resource.kind == *kind);
            of_kind.filter(|resource| resource.charged(&resource.index()).contains(owner)).count() as u64
        };
        Ok(of.iter().map(used).collect())
    }

    async fn list(&mut self, kind: Kind, after: &str, limit: u32) -> Result<Vec<Resource>, WorldError> {
        Ok(self.page(after, limit, |r, _| r.kind == kind))
    }

    async fn queued(&mut self, limit: u32) -> Result<Vec<Unit>, WorldError> {
        self.reads += 1;
        Ok(self.queue.iter().take(limit as usize).cloned().collect())
    }

    async fn trust_roots(&mut self) -> Result<Vec<Bytes>, WorldError> {
        Ok(self.roots.clone())
    }

    async fn seal_for(&mut self, wanted: SealFor<'_>) -> Result<Option<SealedFor>, WorldError> {
        self.begin();
        let number: Option<usize> = wanted.secret.sealed.parse().ok();
        let stored = number.and_then(|number| self.secrets.get(number));
        let Some((_, text)) = stored.filter(|(place, _)| place == wanted.place) else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        for part in [&wanted.audience.to_string(), &wanted.key.to_string(), wanted.field, text.expose()] {
            hasher.update(part.as_bytes()).update(&[0]);
        }
        let is_first = !self.versions.contains_key(wanted.audience);
        let version = *self.versions.entry(wanted.audience.clone()).or_insert(1);
        let sealed = hasher.update(&version.to_be_bytes()).finalize().as_bytes().to_vec();
        Ok(Some(SealedFor { sealed: m::Sealed { version, sealed: sealed.into() }, is_first }))
    }

    async fn audience_count(&mut self, audience: &Audience) -> Result<u64, WorldError> {
        Ok(self.intents.keys().filter(|(of, _)| of == audience).count() as u64)
    }

    async fn key_shares(&mut self, audience: &Audience) -> Result<Vec<KeyShare>, WorldError> {
        let newest = self.versions.get(audience).copied().unwrap_or_default();
        let readers = self.readers.iter().filter(|((of, _), _)| of == audience);
        let share = |reader: &[u8; 32], version: u32| KeyShare {
            version,
            reader: *reader,
            share: m::AudienceKey {
                encapsulated: reader.to_vec().into(),
                sealed: vec![version.to_le_bytes()[0]; 48].into(),
            },
        };
        Ok(readers.flat_map(|(_, reader)| (1..=newest).map(|version| share(reader, version))).collect())
    }
}

#[async_trait]
impl Draft for Fake {
    fn revision(&self) -> u64 {
        self.head + 1
    }

    fn now(&self) -> i64 {
        self.time
    }

    fn traceparent(&self) -> &str {
        &self.traceparent
    }

    fn by_admin(&self) -> bool {
        self.admin
    }

    fn rolls_out(&self) -> bool {
        self.rolls_out
    }

    async fn seal(&mut self, place: &SecretPlace, text: &PlainText) -> Result<SealedText, WorldError> {
        self.begin();
        self.secrets.push((place.clone(), text.clone()));
        Ok(SealedText { key: 1, sealed: (self.secrets.len() - 1).to_string(), set_at: self.time })
    }

    async fn admit_reader(
        &mut self,
        audience: &Audience,
        node: &str,
        sealing_key: &[u8; 32],
    ) -> Result<Admitted, WorldError> {
        self.begin();
        let before = self.readers.insert((audience.clone(), node.to_owned()), *sealing_key);
        Ok(match (self.versions.get_mut(audience), before) {
            (_, Some(before)) if before == *sealing_key => Admitted::Known,
            (None, _) => Admitted::NothingSealed,
            (Some(_), None) => Admitted::Added,
            (Some(version), Some(_)) => {
                *version += 1;
                Admitted::Replaced
            }
        })
    }

    async fn expel_reader(&mut self, audience: &Audience, node: &str) -> Result<bool, WorldError> {
        self.begin();
        let was_one = self.readers.remove(&(audience.clone(), node.to_owned())).is_some();
        match self.versions.get_mut(audience) {
            Some(version) if was_one => {
                *version += 1;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    async fn apply(&mut self, change: Change) -> Result<(), ApplyError> {
        self.begin();
        self.write(change.put, change.remove)?;
        for intent in change.intents {
            let traceparent = intent.traceparent.clone().unwrap_or_else(|| self.traceparent.clone());
            self.intend(intent, &traceparent)?;
        }
        self.counters.extend(change.counters);
        self.errands.extend(change.errands);
        self.rollouts.extend(change.rollout.map(|begin| (self.head + 1, begin)));
        let done: BTreeSet<Unit> = change.replanned.into_iter().collect();
        self.queue.retain(|unit| !done.contains(unit));
        for unit in change.replan {
            if !self.queue.contains(&unit) {
                self.queue.push(unit);
            }
        }
        Ok(())
    }
}
