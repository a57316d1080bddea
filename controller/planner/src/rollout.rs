//! Which changes go out in steps: those of what many sites share, and those of many tenants at once (ADR 31).
//!
//! Owns the decision alone. A change that is part of a rollout carries the revision at which that began; who may apply it when is decided
//! outside of planning, and subscribers wait for that.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Bytes, Cause, Key, Kind as IntentKind, SHARED_KINDS, message as m};
use prost::Message;

use crate::overlay::Overlay;
use crate::{BeginRollout, PlanError, Unit, Walk, World};

/// A mutation of several tenants goes out in steps when it replaces so many items of an audience, or this share of them and at least
/// [`FEWEST`].
const MANY: usize = 100;
const SHARE_PERCENT: u64 = 5;
const FEWEST: usize = 20;

/// Kinds that no rollout holds back: what our own parts trust and read each other by goes to all at once, and data is destroyed in an order
/// of its own.
const INSTANT_KINDS: [IntentKind; 3] = [IntentKind::TrustRoots, IntentKind::AudienceKey, IntentKind::Retire];

/// How a mutation's changes go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// To all at once: it takes back what went out in steps, or nobody rolls out here.
    Instant,
    /// As each change is.
    AsItIs,
    /// They are part of a rollout: a walk goes on.
    Of(u64),
}

impl Pace {
    /// The walk as it is to be queued by a mutation at `revision`.
    pub(crate) fn mark(self, unit: Unit, revision: u64) -> Unit {
        let Unit::Walk { over, of, after, cause, rollout: 0 } = unit else { return unit };
        let wide = matches!(over, Walk::Resources(pages) if pages.is_wide) && cause == Cause::Person;
        let rollout = match self {
            Self::Of(rollout) => rollout,
            Self::AsItIs if wide => revision,
            Self::AsItIs | Self::Instant => 0,
        };
        Unit::Walk { over, of, after, cause, rollout }
    }

    /// The rollout that the change of one item is part of, in a mutation at `revision`; 0: none.
    pub(crate) fn of_change(
        self,
        key: &Key,
        (before, after): (Option<&Bytes>, Option<&Bytes>),
        cause: Cause,
        revision: u64,
    ) -> u64 {
        let kind = key.known_kind();
        // What is new takes nothing from anybody.
        let (Some(before), Some(kind)) = (before, kind) else { return 0 };
        if INSTANT_KINDS.contains(&kind) {
            return 0;
        }
        match self {
            Self::Instant => 0,
            Self::Of(rollout) => rollout,
            Self::AsItIs if cause != Cause::Person || !SHARED_KINDS.contains(&kind) => 0,
            Self::AsItIs if is_harmless(kind, before, after) => 0,
            Self::AsItIs => revision,
        }
    }
}

/// Whether nobody can be served worse by a change of a shared item: nothing was served by it before, or it says only which nodes are in
/// service, which must not wait.
fn is_harmless(kind: IntentKind, before: &Bytes, after: Option<&Bytes>) -> bool {
    if kind == IntentKind::AddressSet {
        return m::AddressSet::decode(before.clone())
            .is_ok_and(|set| set.ipv4.is_empty() && set.ipv6.is_empty());
    }
    if kind != IntentKind::ShardPool {
        return false;
    }
    let nodes = |value: &Bytes| {
        let mut pool = m::ShardPool::decode(value.clone()).unwrap_or_default();
        let served = pool.nodes.iter().any(|node| node.in_service);
        pool.nodes.iter_mut().for_each(|node| node.in_service = false);
        (pool.nodes, served)
    };
    let (nodes_before, served) = nodes(before);
    !served || after.is_some_and(|after| nodes(after).0 == nodes_before)
}

/// What a mutation replaced.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    /// Items of each audience that were replaced or withdrawn and are in no rollout.
    items: BTreeMap<Audience, usize>,
    /// Rollouts that replaced items were part of.
    rollouts: BTreeSet<u64>,
}

impl Replaced {
    pub(crate) fn note(&mut self, audience: &Audience, rollout_before: u64, rollout: u64) {
        if rollout == 0 {
            *self.items.entry(audience.clone()).or_default() += 1;
        } else if rollout_before != 0 {
            self.rollouts.insert(rollout_before);
        }
    }

    /// Marks the changes of a mutation that reaches many items of several tenants, and answers the rollout that the mutation begins.
    pub(crate) async fn settle(
        self,
        pace: Pace,
        draft: &mut Overlay<'_>,
    ) -> Result<Option<BeginRollout>, PlanError> {
        let revision = draft.revision();
        if pace == Pace::AsItIs {
            for (audience, replaced) in self.items {
                let many = replaced >= MANY
                    || (replaced >= FEWEST
                        && replaced as u64 * 100 >= draft.audience_count(&audience).await? * SHARE_PERCENT);
                if many && draft.tenants_put() > 1 {
                    draft.mark_rollout(&audience, revision, |key| {
                        key.known_kind().is_some_and(|kind| !INSTANT_KINDS.contains(&kind))
                    });
                }
            }
        }
        let begins = draft.has_rollout(revision);
        let replaces = self.rollouts.into_iter().filter(|rollout| *rollout != revision).collect();
        Ok(begins.then_some(BeginRollout { replaces }))
    }
}
