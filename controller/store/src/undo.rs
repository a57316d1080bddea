//! The history as a mutation sees it, and of that what an undo takes back, with all later changes of what it changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use hosting_planner::{Part, PastChange};
use serde::{Deserialize, Serialize};

use crate::history::{self, HistoryOf, HistoryRow};
use crate::{StoreError, WriteTx};

/// Changes of one resource that one undo looks at: those that it takes back, and the later ones.
const MOST_LATER: usize = 20_000;

/// Which changes are taken back, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoOf {
    /// Which.
    pub of: HistoryOf,
    /// None that is newer: the undo itself, and what came after it was asked for.
    pub upto: u64,
    /// Only of resources that are these brands' then and since; `None`: of all.
    pub brands: Option<Vec<String>>,
    /// The trace id of the undo, by which its own changes are known.
    pub trace: String,
}

/// What an undo speaks of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToUndo {
    /// The changes to take back.
    pub chosen: Vec<HistoryRow>,
    /// Of each resource with such a change all changes from that one on, the oldest first.
    pub changes: Vec<PastChange>,
    /// There are more than so many.
    pub is_too_much: bool,
}

impl UndoOf {
    fn is_open(&self, row: &HistoryRow) -> bool {
        let Some(brands) = &self.brands else { return true };
        let is_open = |brand: Option<&String>| brand.is_some_and(|brand| brands.contains(brand));
        is_open(row.brand.as_ref()) && row.before.as_ref().is_none_or(|before| is_open(before.brand.as_ref()))
    }
}

impl WriteTx {
    /// [`crate::ReadTx::history`] from its newest row on, with what the group has changed so far; the mutation's own changes are not in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(&mut self, of: &HistoryOf, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = self.beside().history(of, None, limit).await?;
        rows.extend(self.kept_history().iter().filter(|row| of.holds(row)).cloned());
        rows.sort_by_key(|row| Reverse((row.revision, row.resource.clone())));
        rows.truncate(limit as usize);
        Ok(rows)
    }

    /// [`crate::ReadTx::history_since`], with what the group has changed so far; the mutation's own changes are not in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history_since(
        &mut self,
        resources: &[String],
        from: u64,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = self.beside().history_since(resources, from, limit).await?;
        let kept = self.kept_history().iter();
        rows.extend(kept.filter(|row| row.revision >= from && resources.contains(&row.resource)).cloned());
        Ok(rows)
    }
}

impl WriteTx {
    /// The changes that an undo takes back, at most `most` of them. With those of a request go those that the controller went on with.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn to_undo(&mut self, undo: &UndoOf, most: u32) -> Result<ToUndo, StoreError> {
        let mut chosen = self.history(&undo.of, most.saturating_add(1)).await?;
        let mut is_too_much = chosen.len() > most as usize;
        let traces: BTreeSet<&String> =
            chosen.iter().map(|row| &row.trace).filter(|trace| !trace.is_empty()).collect();
        let traces: Vec<String> = traces.into_iter().cloned().collect();
        let gone_on = self.gone_on_with(&traces, most as usize).await?;
        is_too_much |= gone_on.len() >= most as usize;
        chosen.extend(gone_on);
        chosen.retain(|row| row.revision <= undo.upto && undo.is_open(row));
        chosen.sort_by(|one, other| (one.revision, &one.resource).cmp(&(other.revision, &other.resource)));
        chosen.dedup_by(|one, other| (one.revision, &one.resource) == (other.revision, &other.resource));
        let mut first: BTreeMap<String, u64> = BTreeMap::new();
        for row in &chosen {
            first.entry(row.resource.clone()).or_insert(row.revision);
        }
        let Some(oldest) = first.values().min().copied() else {
            return Ok(ToUndo { is_too_much, ..ToUndo::default() });
        };
        let ids: Vec<String> = first.keys().cloned().collect();
        let mut all = self.history_since(&ids, oldest, MOST_LATER).await?;
        is_too_much |= all.len() >= MOST_LATER;
        all.retain(|row| first.get(&row.resource).is_some_and(|first| row.revision >= *first));
        let foreign: BTreeSet<String> =
            all.iter().filter(|row| !undo.is_open(row)).map(|row| row.resource.clone()).collect();
        all.retain(|row| !foreign.contains(&row.resource));
        chosen.retain(|row| !foreign.contains(&row.resource));
        let places: BTreeSet<(u64, &String)> =
            chosen.iter().map(|row| (row.revision, &row.resource)).collect();
        let changes = all.into_iter().map(|row| PastChange {
            part: if places.contains(&(row.revision, &row.resource)) {
                Part::Chosen
            } else if row.revision > undo.upto && row.trace == undo.trace && !row.trace.is_empty() {
                Part::Own
            } else {
                Part::Other
            },
            resource: row.resource,
            kind: row.kind,
            revision: row.revision,
            actor: row.actor,
            before: row.before,
        });
        let changes = changes.collect();
        Ok(ToUndo { chosen, changes, is_too_much })
    }

    /// What the controller changed by itself in the traces of requests.
    async fn gone_on_with(&mut self, traces: &[String], most: usize) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = self.beside().history_of_controller(traces, most).await?;
        let kept = self.kept_history().iter();
        rows.extend(kept.filter(|row| row.actor.is_none() && traces.contains(&row.trace)).cloned());
        Ok(rows)
    }
}

/// The trace id of a traceparent; empty when there is none.
#[must_use]
pub fn trace_id(traceparent: &str) -> &str {
    history::trace_id(traceparent)
}
