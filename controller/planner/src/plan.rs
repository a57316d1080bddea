//! One mutation in the making: puts resources, plans units, and settles what all of that leaves to do at its end.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Cause, Intent};
use hosting_resource::{Kind, Resource};

use crate::fields::{is_deleting, state, state_number};
use crate::{ApplyError, Change, Draft, IntentChange, PlanError, Unit, Walk, derive, read, trace_of, walk};

/// Rows after which a mutation begins nothing new: cascades and walks go on in the next one.
const ENOUGH: usize = 500;

/// Rows after which what is begun is planned later: more than one resource's nodes make of it. Below the store's 1 000, so
/// that the resources themselves and the zones' serials fit beside.
const ROWS: usize = 850;

/// A mutation in the making.
pub(crate) struct Plan<'d> {
    pub(crate) draft: &'d mut dyn Draft,
    pub(crate) cause: Cause,
    /// Rows written so far.
    rows: usize,
    /// Audiences that anything changed for.
    changed: BTreeSet<Audience>,
    /// Zones whose content changed in this revision.
    zones: BTreeSet<String>,
    /// Walks to begin before the end.
    walks: BTreeSet<Unit>,
    /// Units that would give unsound intents are left as they are and noted here, instead of failing the whole plan.
    lenient: Option<Vec<PlanError>>,
    /// Nobody's request: what waited for it carries the trace of the request that it has waited from.
    later: bool,
}

/// Steps of walks that a mutation takes itself, so that what is small is done in one revision.
const OWN_STEPS: usize = 8;

impl<'d> Plan<'d> {
    pub(crate) fn new(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self {
            draft,
            cause,
            rows: 0,
            changed: BTreeSet::new(),
            zones: BTreeSet::new(),
            walks: BTreeSet::new(),
            lenient: None,
            later: false,
        }
    }

    /// A plan of what has waited: for a gate, or in the replan queue.
    pub(crate) fn later(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self { later: true, ..Self::new(draft, cause) }
    }

    /// A plan that one unsound unit does not stop: for the replan queue, where nobody waits who could mend it.
    pub(crate) fn lenient(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self { lenient: Some(Vec::new()), ..Self::later(draft, cause) }
    }

    /// Whether nothing new is to be begun in this transaction.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= ENOUGH
    }

    /// Writes resources; `updated_at` moves with them.
    pub(crate) async fn put(&mut self, mut resources: Vec<Resource>) -> Result<(), PlanError> {
        if resources.is_empty() {
            return Ok(());
        }
        self.rows += resources.len();
        let now = self.draft.now();
        for resource in &mut resources {
            resource.updated_at = now;
        }
        self.draft.apply(Change { put: resources, ..Change::default() }).await?;
        Ok(())
    }

    /// Takes a resource's row away.
    pub(crate) async fn remove(&mut self, resource: &Resource) -> Result<(), PlanError> {
        self.rows += 1;
        let change = Change { remove: vec![resource.id.clone()], ..Change::default() };
        self.draft.apply(change).await.map_err(|error| match error {
            ApplyError::InUse { id, kind: by_kind, by } => {
                PlanError::InUse { kind: resource.kind, id, by_kind, by }
            }
            ApplyError::Taken { .. }
            | ApplyError::NoSuch { .. }
            | ApplyError::TooLarge(_)
            | ApplyError::World(_) => error.into(),
        })
    }

    /// Sets a counter of the cell.
    pub(crate) async fn set_counter(&mut self, name: &str, value: u64) -> Result<(), PlanError> {
        self.draft.apply(Change { counters: vec![(name.to_owned(), value)], ..Change::default() }).await?;
        Ok(())
    }

    /// Puts units on the replan queue.
    pub(crate) async fn enqueue(&mut self, units: Vec<Unit>) -> Result<(), PlanError> {
        if units.is_empty() {
            return Ok(());
        }
        self.rows += units.len();
        self.draft.apply(Change { replan: units, ..Change::default() }).await?;
        Ok(())
    }

    /// Takes units off the replan queue.
    pub(crate) async fn dequeue(&mut self, units: Vec<Unit>) -> Result<(), PlanError> {
        self.draft.apply(Change { replanned: units, ..Change::default() }).await?;
        Ok(())
    }

    /// Plans units now, as far as they fit, the rest later. Resources that they depend on must have been put before.
    pub(crate) async fn replan(&mut self, units: impl IntoIterator<Item = Unit>) -> Result<(), PlanError> {
        let mut later = Vec::new();
        let units: BTreeSet<Unit> = units.into_iter().collect();
        for unit in units {
            if matches!(unit, Unit::Walk { .. }) {
                self.walks.insert(unit);
            } else if self.rows >= ROWS {
                later.push(Unit::Walk {
                    over: Walk::Unit,
                    of: String::new(),
                    after: unit.owner(),
                    cause: self.cause,
                });
            } else {
                self.replan_one(&unit).await?;
            }
        }
        self.enqueue(later).await
    }

    /// Takes one step of a walk, and queues what is left of it.
    pub(crate) async fn step(
        &mut self,
        over: Walk,
        of: &str,
        after: &str,
        cause: Cause,
    ) -> Result<(), PlanError> {
        let before = std::mem::replace(&mut self.cause, cause);
        let next = walk::step(self, over, of, after, cause).await?;
        self.cause = before;
        self.enqueue(next.into_iter().collect()).await
    }

    /// Takes a step of each walk that was asked for, and queues what is left of them.
    async fn walk(&mut self) -> Result<(), PlanError> {
        let mut later = Vec::new();
        let mut steps = 0;
        while let Some(unit) = self.walks.pop_first() {
            match &unit {
                Unit::Walk { over, of, after, cause } if !self.is_full() && steps < OWN_STEPS => {
                    steps += 1;
                    self.step(*over, of, after, *cause).await?;
                }
                Unit::Walk { .. }
                | Unit::Audience(_)
                | Unit::Cluster(_)
                | Unit::Shard(_)
                | Unit::Tenant(_)
                | Unit::Webroot(_)
                | Unit::Fqdn(_)
                | Unit::Zone(_)
                | Unit::RrSet { .. }
                | Unit::Retire(_) => later.push(unit),
            }
        }
        self.enqueue(later).await
    }

    async fn replan_one(&mut self, unit: &Unit) -> Result<(), PlanError> {
        let owner = unit.owner();
        let wanted = derive(unit, self.draft).await?;
        let mut before: BTreeMap<_, _> = self
            .draft
            .owned(&owner)
            .await?
            .into_iter()
            .map(|row| ((row.audience, row.key), row.value))
            .collect();
        let mut changes = Vec::new();
        let mut moved_audience = false;
        for intent in wanted {
            let at = (intent.audience, intent.key);
            let old = before.remove(&at);
            if old.as_ref() == Some(&intent.value) {
                continue;
            }
            let (audience, key) = at;
            if let Err(rejection) = Intent::parse(&key, &intent.value) {
                let error = PlanError::Unsound { owner, audience, key, rejection };
                return match &mut self.lenient {
                    Some(noted) => {
                        noted.push(error);
                        Ok(())
                    }
                    None => Err(error),
                };
            }
            self.changed.insert(audience.clone());
            moved_audience |= old.is_none();
            changes.push(IntentChange {
                audience,
                key,
                owner: owner.clone(),
                value: Some(intent.value),
                cause: self.cause,
            });
        }
        moved_audience &= !before.is_empty();
        for ((audience, key), _) in before {
            self.changed.insert(audience.clone());
            changes.push(IntentChange {
                audience,
                key,
                owner: owner.clone(),
                value: None,
                cause: self.cause,
            });
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.rows += changes.len();
        match unit {
            Unit::RrSet { zone, .. } => {
                self.zones.insert(zone.clone());
            }
            Unit::Zone(zone) => {
                self.zones.insert(zone.clone());
                if moved_audience {
                    // The brand's name servers are others now: the records follow.
                    self.enqueue(vec![Unit::Walk {
                        over: Walk::ZoneRecords,
                        of: zone.clone(),
                        after: String::new(),
                        cause: self.cause,
                    }])
                    .await?;
                }
            }
            Unit::Audience(_)
            | Unit::Cluster(_)
            | Unit::Shard(_)
            | Unit::Tenant(_)
            | Unit::Webroot(_)
            | Unit::Fqdn(_)
            | Unit::Retire(_)
            | Unit::Walk { .. } => {}
        }
        let traceparent = if self.later { self.trace(unit).await? } else { None };
        self.draft.apply(Change { intents: changes, traceparent, ..Change::default() }).await?;
        Ok(())
    }

    /// Of the request that a unit's own resource still waits from.
    async fn trace(&mut self, unit: &Unit) -> Result<Option<String>, PlanError> {
        let id = match unit {
            Unit::Tenant(id) | Unit::Webroot(id) | Unit::Fqdn(id) | Unit::Zone(id) | Unit::Retire(id) => id,
            Unit::Audience(_)
            | Unit::Cluster(_)
            | Unit::Shard(_)
            | Unit::RrSet { .. }
            | Unit::Walk { .. } => return Ok(None),
        };
        let resource = self.draft.resource(id).await?;
        Ok(resource.as_ref().map(trace_of).filter(|trace| !trace.is_empty()).map(str::to_owned))
    }

    /// Audiences that this plan changed anything for, since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Audience> {
        std::mem::take(&mut self.changed)
    }

    /// Puts back what [`Plan::take_changed`] took.
    pub(crate) fn restore_changed(&mut self, changed: BTreeSet<Audience>) {
        self.changed.extend(changed);
    }

    /// Begins the walks that were asked for, then moves the serials of the zones that changed, once for this revision
    /// (RFC 1982: by one). Answers what a lenient plan left out.
    pub(crate) async fn finish(mut self) -> Result<Vec<PlanError>, PlanError> {
        self.walk().await?;
        let revision = self.draft.revision();
        for id in std::mem::take(&mut self.zones) {
            let Some(mut zone) = read::of_kind(self.draft, Kind::Zone, &id).await? else { continue };
            if is_deleting(&zone) || state_number(&zone, state::SERIAL_REVISION) == revision {
                continue;
            }
            bump_serial(&mut zone, revision);
            self.rows += 1;
            self.draft.apply(Change { put: vec![zone], ..Change::default() }).await?;
            self.replan_one(&Unit::Zone(id)).await?;
        }
        Ok(self.lenient.unwrap_or_default())
    }
}

/// The next serial. It starts at 1, and 0 is skipped when it wraps, so that 0 always means "never set".
pub(crate) fn bump_serial(zone: &mut Resource, revision: u64) {
    let next = match u32::try_from(state_number(zone, state::SERIAL)) {
        Ok(serial) => serial.wrapping_add(1).max(1),
        Err(_) => 1,
    };
    zone.state.insert(state::SERIAL.to_owned(), next.into());
    zone.state.insert(state::SERIAL_REVISION.to_owned(), revision.into());
}

/// Whether serial `a` is later than `b` (RFC 1982 §3.2); 0 is earlier than every other.
pub(crate) fn is_later(a: u64, b: u64) -> bool {
    let (Ok(a), Ok(b)) = (u32::try_from(a), u32::try_from(b)) else { return false };
    a != b && a != 0 && (b == 0 || a.wrapping_sub(b) < 1 << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_compared_around_the_end_of_their_numbers() {
        for (later, earlier) in [(1, 0), (2, 1), (1, u64::from(u32::MAX)), (u64::from(u32::MAX), 0)] {
            assert!(is_later(later, earlier) && !is_later(earlier, later), "{later} {earlier}");
        }
        assert!(!is_later(7, 7));
    }
}
