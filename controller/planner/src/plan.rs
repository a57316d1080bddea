//! One mutation in the making: puts resources, plans units, and settles what all of that leaves to do at its end.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Cause, Intent};
use hosting_resource::{Kind, Resource};

use crate::overlay::{Overlay, Written};
use crate::rollout::{Pace, Replaced};
use crate::{Draft, IntentChange, PlanError, Unit, Walk, World, derive, kinds, trace_of, walk};

/// Rows after which a mutation begins nothing new: cascades and walks go on in the next one.
const ENOUGH: usize = 500;

/// Rows after which what is begun is planned later: more than one resource's nodes make of it. Below the store's 1 000, so
/// that the resources themselves and the zones' serials fit beside.
const ROWS: usize = 850;

/// A mutation in the making.
pub(crate) struct Plan<'d> {
    pub(crate) draft: Overlay<'d>,
    pub(crate) cause: Cause,
    /// Rows written so far.
    rows: usize,
    /// Audiences that anything changed for.
    changed: BTreeSet<Audience>,
    /// Zones whose content changed in this revision.
    zones: BTreeSet<String>,
    /// Walks to begin before the end.
    walks: BTreeSet<Unit>,
    /// Units that cannot be planned are left as they are and noted here, instead of failing the whole plan.
    lenient: Option<Vec<PlanError>>,
    /// What waited for this plan carries the trace of the request that it has waited from: nobody asks for it now.
    later: bool,
    /// How what it changes goes out.
    pace: Pace,
    replaced: Replaced,
}

/// Steps of walks that a mutation takes itself, so that what is small is done in one revision.
const OWN_STEPS: usize = 8;

/// What a plan wrote.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) written: Written,
    /// What a lenient plan left as it was.
    pub(crate) left: Vec<PlanError>,
}

impl<'d> Plan<'d> {
    pub(crate) fn new(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        let pace = if draft.rolls_out() { Pace::AsItIs } else { Pace::Instant };
        Self {
            draft: Overlay::new(draft),
            cause,
            rows: 0,
            changed: BTreeSet::new(),
            zones: BTreeSet::new(),
            walks: BTreeSet::new(),
            lenient: None,
            later: false,
            pace,
            replaced: Replaced::default(),
        }
    }

    /// A plan whose changes are for everybody at once: it takes back what went out in steps.
    pub(crate) fn instant(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self { pace: Pace::Instant, ..Self::new(draft, cause) }
    }

    /// A plan of what has waited: for a gate, or in the replan queue.
    pub(crate) fn later(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self { later: true, ..Self::new(draft, cause) }
    }

    /// A plan that one unit which cannot be planned does not stop: for the replan queue, where nobody waits who could mend it.
    pub(crate) fn lenient(draft: &'d mut dyn Draft, cause: Cause) -> Self {
        Self { lenient: Some(Vec::new()), ..Self::later(draft, cause) }
    }

    /// Whether nothing new is to be begun in this transaction.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= ENOUGH
    }

    /// Puts a resource; `updated_at` moves with it.
    pub(crate) async fn put(&mut self, mut resource: Resource) -> Result<(), PlanError> {
        self.rows += 1;
        resource.updated_at = self.draft.now();
        self.draft.put(resource).await
    }

    /// Takes a resource's row away.
    pub(crate) fn remove(&mut self, resource: &Resource) {
        self.rows += 1;
        self.draft.remove(resource);
    }

    /// Puts units on the replan queue.
    pub(crate) fn enqueue(&mut self, units: impl IntoIterator<Item = Unit>) {
        for unit in units {
            self.rows += 1;
            let unit = self.pace.mark(unit, self.draft.revision());
            self.draft.enqueue(unit);
        }
    }

    /// Plans units now, as far as they fit, the rest later. Resources that they depend on must have been put before.
    pub(crate) async fn replan(&mut self, units: impl IntoIterator<Item = Unit>) -> Result<(), PlanError> {
        let units: BTreeSet<Unit> = units.into_iter().collect();
        let (walks, units): (Vec<Unit>, Vec<Unit>) = units.into_iter().partition(Unit::is_walk);
        let revision = self.draft.revision();
        self.walks.extend(walks.into_iter().map(|walk| self.pace.mark(walk, revision)));
        let owners: Vec<String> = units.iter().map(Unit::owner).collect();
        if self.rows < ROWS {
            self.draft.prefetch_owned(&owners).await?;
        }
        for (unit, owner) in units.iter().zip(owners) {
            if self.rows >= ROWS {
                let (of, cause) = (String::new(), self.cause);
                self.enqueue([Unit::Walk { over: Walk::Unit, of, after: owner, cause, rollout: 0 }]);
            } else {
                self.replan_one(unit, owner).await?;
            }
        }
        Ok(())
    }

    /// Takes one step of a walk, and queues what is left of it.
    pub(crate) async fn step(
        &mut self,
        (over, of, after): (Walk, &str, &str),
        cause: Cause,
        rollout: u64,
    ) -> Result<(), PlanError> {
        let before = (self.cause, self.pace);
        self.cause = cause;
        match over {
            _ if rollout != 0 => self.pace = Pace::Of(rollout),
            // Whoever is not to read any more must not, and what is sealed anew says what it said before.
            Walk::Sealed => self.pace = Pace::Instant,
            Walk::Resources(_) | Walk::NodeRows | Walk::Keeping | Walk::Restoring | Walk::Unit => {}
        }
        let next = walk::step(self, over, of, after, cause).await?;
        self.enqueue(next);
        (self.cause, self.pace) = before;
        Ok(())
    }

    /// Takes a step of each walk that was asked for, and queues what is left of them.
    async fn walk(&mut self) -> Result<(), PlanError> {
        let mut steps = 0;
        while let Some(unit) = self.walks.pop_first() {
            if let Unit::Walk { over, of, after, cause, rollout } = &unit
                && !self.is_full()
                && steps < OWN_STEPS
            {
                steps += 1;
                self.step((*over, of, after), *cause, *rollout).await?;
            } else {
                self.enqueue([unit]);
            }
        }
        Ok(())
    }

    /// Leaves a unit as it is for a reason that only concerns it, if the plan is lenient.
    fn leave(&mut self, error: PlanError) -> Result<(), PlanError> {
        match (&mut self.lenient, &error) {
            (Some(left), PlanError::Unsound { .. } | PlanError::Unreadable(_)) => {
                left.push(error);
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn replan_one(&mut self, unit: &Unit, owner: String) -> Result<(), PlanError> {
        let wanted = match derive(unit, &mut self.draft).await {
            Ok(wanted) => wanted,
            Err(error) => return self.leave(error),
        };
        let mut before: BTreeMap<_, _> = self
            .draft
            .owned(&owner)
            .await?
            .into_iter()
            .map(|row| ((row.audience, row.key), (row.value, row.rollout)))
            .collect();
        let mut changes = Vec::new();
        let mut moved_audience = false;
        for intent in wanted {
            let at = (intent.audience, intent.key);
            let old = before.remove(&at);
            if old.as_ref().is_some_and(|(value, _)| *value == intent.value) {
                continue;
            }
            let (audience, key) = at;
            if let Err(rejection) = Intent::parse(&key, &intent.value) {
                return self.leave(PlanError::Unsound { owner, audience, key, rejection });
            }
            moved_audience |= old.is_none();
            changes.push((audience, key, old, Some(intent.value)));
        }
        moved_audience &= !before.is_empty();
        changes.extend(before.into_iter().map(|((audience, key), old)| (audience, key, Some(old), None)));
        if changes.is_empty() {
            return Ok(());
        }
        self.rows += changes.len();
        self.zones.extend(kinds::zone::changed_by(unit).map(str::to_owned));
        if moved_audience && let Unit::Of(kind, id) = unit {
            // Its subscribers are others now: what hangs on it follows.
            let follow = kinds::of(*kind).follows(id, self.cause);
            self.enqueue(follow);
        }
        let traceparent = if self.later { self.trace(unit).await? } else { None };
        for (audience, key, old, value) in changes {
            self.changed.insert(audience.clone());
            let before = old.as_ref().map(|(value, _)| value);
            let revision = self.draft.revision();
            let rollout = self.pace.of_change(&key, (before, value.as_ref()), self.cause, revision);
            if let Some((_, rollout_before)) = old {
                self.replaced.note(&audience, rollout_before, rollout);
            }
            self.draft.intend(IntentChange {
                audience,
                key,
                owner: owner.clone(),
                value,
                cause: self.cause,
                traceparent: traceparent.clone(),
                rollout,
            });
        }
        Ok(())
    }

    /// The trace of the request that a unit's own resource still waits from.
    async fn trace(&mut self, unit: &Unit) -> Result<Option<String>, PlanError> {
        let (Unit::Of(_, id) | Unit::Retire(id)) = unit else { return Ok(None) };
        let resource = self.draft.resource(id).await?;
        Ok(resource.as_ref().map(trace_of).filter(|trace| !trace.is_empty()))
    }

    /// Audiences that this plan changed anything for, since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Audience> {
        std::mem::take(&mut self.changed)
    }

    /// Puts back what [`Plan::take_changed`] took.
    pub(crate) fn restore_changed(&mut self, changed: BTreeSet<Audience>) {
        self.changed.extend(changed);
    }

    /// Begins the walks that were asked for, moves the serials of the zones that changed, once for this revision (RFC 1982: by
    /// one), and writes everything.
    pub(crate) async fn finish(mut self) -> Result<Finished, PlanError> {
        self.walk().await?;
        for audience in self.draft.take_keyed() {
            // Its subscribers get the key in the revision that first needs it.
            let unit = Unit::Audience(audience);
            let owner = unit.owner();
            self.replan_one(&unit, owner).await?;
        }
        let revision = self.draft.revision();
        for id in std::mem::take(&mut self.zones) {
            if kinds::zone::move_serial(&mut self.draft, &id, revision).await? {
                self.rows += 1;
                let unit = Unit::Of(Kind::Zone, id);
                let owner = unit.owner();
                self.replan_one(&unit, owner).await?;
            }
        }
        let rollout = self.replaced.settle(self.pace, &mut self.draft).await?;
        let written = self.draft.write(rollout).await?;
        Ok(Finished { written, left: self.lenient.unwrap_or_default() })
    }
}
