//! The replan queue while a group changes it.

use std::collections::BTreeSet;

use hosting_planner::Unit;

use crate::{ReadTx, StoreError, batch};

/// Units that leave the queue, and then units that join it.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    removed: BTreeSet<String>,
    /// In the order in which they join; a unit that is in the queue already keeps its place.
    added: Vec<Unit>,
}

impl Steps {
    pub(super) fn remove(&mut self, units: &[Unit]) {
        if units.is_empty() {
            return;
        }
        let gone: BTreeSet<String> = units.iter().map(Unit::owner).collect();
        self.added.retain(|unit| !gone.contains(&unit.owner()));
        self.removed.extend(gone);
    }

    pub(super) fn add(&mut self, units: &[Unit]) {
        self.added.extend(units.iter().cloned());
    }

    /// What is done after these.
    pub(super) fn extend(&mut self, later: Self) {
        if !later.removed.is_empty() {
            self.added.retain(|unit| !later.removed.contains(&unit.owner()));
            self.removed.extend(later.removed);
        }
        self.added.extend(later.added);
    }

    /// Units that join, in their order; one may be there twice.
    pub(super) fn added(&self) -> &[Unit] {
        &self.added
    }

    /// How many leave.
    pub(super) fn removed(&self) -> usize {
        self.removed.len()
    }

    /// The first units of the queue, when `stored` are its first ones without these steps.
    pub(super) fn over(self, stored: Vec<Unit>, limit: usize) -> Vec<Unit> {
        let mut seen = BTreeSet::new();
        let left = stored.into_iter().filter(|unit| !self.removed.contains(&unit.owner()));
        left.chain(self.added).filter(|unit| seen.insert(unit.owner())).take(limit).collect()
    }

    pub(super) async fn write(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let removed: Vec<&String> = self.removed.iter().collect();
        batch::delete(tx, "DELETE FROM replan", &["owner"], &removed, |owner, _| (*owner).clone()).await?;
        let mut seen = BTreeSet::new();
        let added: Vec<String> =
            self.added.iter().map(Unit::owner).filter(|owner| seen.insert(owner.clone())).collect();
        let (head, tail) = ("INSERT INTO replan (owner)", "ON CONFLICT (owner) DO NOTHING");
        batch::insert(tx, head, tail, &added, |row, owner| {
            row.push_bind(owner.clone());
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Unit {
        Unit::Retire(name.to_owned())
    }

    #[test]
    fn what_leaves_and_joins_again_is_last() {
        let mut steps = Steps::default();
        steps.add(&[unit("a"), unit("new"), unit("gone")]);
        steps.remove(&[unit("b"), unit("gone")]);
        let mut later = Steps::default();
        later.remove(&[unit("c")]);
        later.add(&[unit("b"), unit("new")]);
        steps.extend(later);
        assert_eq!(steps.removed(), 3);
        let stored = vec![unit("a"), unit("b"), unit("c"), unit("d")];
        let expected = [unit("a"), unit("d"), unit("new"), unit("b")];
        assert_eq!(steps.clone().over(stored.clone(), 9), expected);
        assert_eq!(steps.over(stored, 2), expected[..2]);
    }
}
