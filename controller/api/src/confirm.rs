//! Large changes: how much one reaches, and whether it has to be confirmed with the number that says so.
//!
//! The number is worked out in the change's own transaction, from what it does to what stands at that moment. A plan tells it; a change that
//! comes with another one was planned against another state of things, and is not made.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use hosting_intent::{Kind as IntentKind, rr_set_key};
use hosting_planner::{World, holds_data};
use hosting_resource::{Kind, Resource, Status};
use hosting_store::{Effects, IntentEffect, ResourceEffect, WriteTx};

use crate::ApiError;

/// Shards of a cluster whose tenants are counted; a cluster has far fewer.
const MAX_SHARDS: u32 = 1_000;

/// What counts as a large change, and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmRules {
    /// A change is large that reaches more than this.
    pub above: u64,
    /// Whether a large change without its number is refused.
    pub required: bool,
}

impl Default for ConfirmRules {
    fn default() -> Self {
        Self { above: 100, required: false }
    }
}

/// How much a change reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Host names and zones whose answers change, sorted.
    pub(crate) names: BTreeSet<String>,
    /// Tenants on shards and clusters that change as a whole.
    pub(crate) tenants_behind: u64,
    /// Resources whose data is to be destroyed.
    pub(crate) destroyed: u64,
    /// The tenants that these belong to.
    destroyed_of: BTreeSet<Option<String>>,
}

impl Reach {
    pub(crate) async fn of(tx: &mut WriteTx, effects: &Effects) -> Result<Self, ApiError> {
        let mut reach = Self::default();
        reach.names.extend(effects.intents.iter().filter_map(name_of));
        for ResourceEffect { before, after } in &effects.resources {
            if let Some(lost) = newly_lost(before.as_ref(), after.as_ref()) {
                reach.destroyed += 1;
                reach.destroyed_of.insert(lost.tenant.clone());
            }
        }
        let shared = |kind| {
            let rows = effects.intents.iter().filter(move |row| row.key.known_kind() == Some(kind));
            // Of a new one nobody notices anything.
            rows.filter(|row| row.before.is_some()).map(|row| row.key.name.clone())
        };
        let mut shards: BTreeSet<String> = shared(IntentKind::ShardPool).collect();
        let clusters: BTreeSet<String> = shared(IntentKind::AddressSet).collect();
        for cluster in clusters {
            let of_cluster = tx.children(Kind::Shard, &cluster, "", MAX_SHARDS).await?;
            shards.extend(of_cluster.into_iter().map(|shard| shard.id));
        }
        let about: Vec<_> = shards.into_iter().map(|shard| (shard, Kind::Tenant)).collect();
        reach.tenants_behind = tx.usage(&about).await?.into_iter().sum();
        Ok(reach)
    }

    /// What a large change is confirmed with: names, tenants behind what they share, and what is destroyed.
    pub(crate) fn number(&self) -> u64 {
        (self.names.len() as u64).saturating_add(self.tenants_behind).saturating_add(self.destroyed)
    }

    /// The number, if the change is large.
    pub(crate) fn confirmed_with(&self, rules: ConfirmRules) -> Option<u64> {
        let is_large = self.number() > rules.above || self.destroyed_of.len() > 1;
        is_large.then(|| self.number())
    }

    pub(crate) fn refused(&self, status: StatusCode, message: &str) -> ApiError {
        let number = self.number();
        let mut error = ApiError::new(
            status,
            format!(
                "{message}: it changes the answers of {} names, reaches {} tenants by what they share, and destroys the data of {}; \
                 look at its plan (dry_run=true), and send it with confirm={number}",
                self.names.len(),
                self.tenants_behind,
                self.destroyed
            ),
        );
        error.more.insert("confirm".to_owned(), number.into());
        error
    }
}

/// What a change of a resource leads to the destruction of, and did not before.
pub(crate) fn newly_lost<'r>(
    before: Option<&'r Resource>,
    after: Option<&'r Resource>,
) -> Option<&'r Resource> {
    let before = before.filter(|before| before.status != Status::Deleting && holds_data(before.kind))?;
    after.is_none_or(|after| after.status == Status::Deleting).then_some(before)
}

/// The host name or zone whose answers an intent decides.
fn name_of(intent: &IntentEffect) -> Option<String> {
    let kind = intent.key.known_kind()?;
    if kind == IntentKind::RrSet {
        return rr_set_key(&intent.key.name).ok().map(|(_, owner, _)| owner.to_owned());
    }
    matches!(kind, IntentKind::Route | IntentKind::Zone).then(|| intent.key.name.clone())
}
