//! What to look at, and what each look asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use hosting_feed::fleet::News;
use hosting_planner::gates::{self, Inputs, differs, evaluate};
use hosting_planner::{World, trace_of};
use hosting_resource::{Kind, Resource, Status};
use hosting_store::{Commit, ListQuery, Order, ReadTx, Sort, StoreError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::Instant;

use super::act::{Action, Due};
use super::{Gatekeeper, PAGE, Suspects, page_failed, world_failed};

/// Changed rows of an audience that are looked up one by one; beyond, everything that is open is looked at.
const OWNERS: u32 = 5_000;

impl Gatekeeper {
    /// Notes what the commits since the last call concern. One that was missed may concern anything.
    pub(super) fn note_commits(&mut self, commits: &mut broadcast::Receiver<Arc<Commit>>) {
        loop {
            match commits.try_recv() {
                Ok(commit) => {
                    let all = commit.new_epoch || commit.lost;
                    self.suspects.registry |= all || commit.kinds.contains(&Kind::Node);
                    self.suspects.all |= all;
                    self.suspects.ids.extend(commit.concerns.iter().cloned());
                }
                Err(TryRecvError::Lagged(_)) => {
                    self.suspects = Suspects { all: true, registry: true, ..Suspects::default() };
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Finds the resources that the fleet's news concern. False when they are too many to tell.
    pub(super) async fn find(&self, news: News, ids: &mut BTreeSet<String>) -> Result<bool, StoreError> {
        if news.applied.is_empty() && news.items.is_empty() {
            return Ok(true);
        }
        let mut tx = self.store.read().await?;
        let mut owners = BTreeSet::new();
        for (audience, ranges) in news.applied {
            for (after, upto) in ranges {
                match tx.owners_between(&audience, after, upto, OWNERS).await? {
                    Some(some) => owners.extend(some),
                    None => return Ok(false),
                }
            }
        }
        for (audience, key) in news.items {
            owners.extend(tx.intent(&audience, &key).await.map_err(world_failed)?.map(|row| row.owner));
        }
        for owner in owners {
            ids.extend(hosting_planner::resources_behind(&mut tx, &owner).await.map_err(world_failed)?);
        }
        Ok(true)
    }

    /// Lets those that are on their way wait for their turn, and answers the others.
    pub(super) async fn line_up(&mut self, ids: BTreeSet<String>) -> Result<BTreeSet<String>, StoreError> {
        let mut others = ids;
        let all: Vec<String> = others.iter().cloned().collect();
        for some in all.chunks(PAGE as usize) {
            for resource in self.store.read().await?.resources(some).await? {
                if resource.status.is_open() || resource.status == Status::Failed {
                    others.remove(&resource.id);
                    self.turns.add(resource.tenant.unwrap_or_default(), resource.id);
                }
            }
        }
        Ok(others)
    }

    /// Looks at some resources, if they are on their way.
    pub(super) async fn look_at(&mut self, ids: &BTreeSet<String>) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().cloned().collect();
        for ids in ids.chunks(PAGE as usize) {
            let mut tx = self.store.read().await?;
            let mut found = tx.resources(ids).await?;
            found.retain(|resource| resource.status.is_open() || resource.status == Status::Failed);
            let dues = self.decide_all(&mut tx, &found).await?;
            drop(tx);
            self.act(dues).await?;
        }
        Ok(())
    }

    /// Looks at the next page of what is open, so that a way to learn of a step that is missing costs time and nothing else.
    pub(super) async fn look_slowly(&mut self) -> Result<(), StoreError> {
        if Instant::now() < self.next_slow {
            return Ok(());
        }
        self.next_slow = Instant::now() + self.paces.slow;
        let mut tx = self.store.read().await?;
        let open = tx.open_resources(&self.slow, PAGE).await?;
        self.slow = match open.last() {
            Some(last) if open.len() == PAGE as usize => last.id.clone(),
            Some(_) | None => String::new(),
        };
        let dues = self.decide_all(&mut tx, &open).await?;
        drop(tx);
        self.act(dues).await
    }

    /// Looks at all open resources, a page at a time.
    pub(super) async fn look_at_all(&mut self) -> Result<(), StoreError> {
        let mut after = String::new();
        let mut seen = 0;
        loop {
            let mut tx = self.store.read().await?;
            let open = tx.open_resources(&after, PAGE).await?;
            let last_page = open.len() < PAGE as usize;
            seen += open.len();
            let Some(last) = open.last() else { break };
            after.clone_from(&last.id);
            let dues = self.decide_all(&mut tx, &open).await?;
            drop(tx);
            self.act(dues).await?;
            if last_page {
                break;
            }
        }
        self.metrics.open(seen);
        Ok(())
    }

    /// A site may come up after all, an edge take what it rejected: what failed is looked at now and then, a page of each
    /// kind at a time.
    pub(super) async fn look_at_failed(&mut self) -> Result<(), StoreError> {
        for kind in Kind::ALL.iter().copied().filter(|kind| gates::is_gated(*kind)) {
            let mut tx = self.store.read().await?;
            let query = ListQuery {
                status: Some(Status::Failed),
                sort: Sort::Id,
                order: Order::Asc,
                after: self.failed.remove(&kind),
                limit: PAGE,
                ..ListQuery::new(kind)
            };
            let page = tx.page(&query).await.map_err(page_failed)?;
            let dues = self.decide_all(&mut tx, &page.items).await?;
            drop(tx);
            if let Some(next) = page.next {
                self.failed.insert(kind, next);
            }
            self.act(dues).await?;
        }
        Ok(())
    }

    pub(super) async fn decide_all(
        &self,
        tx: &mut ReadTx,
        resources: &[Resource],
    ) -> Result<Vec<Due>, StoreError> {
        let now = Instant::now();
        let is_tried = |one: &&Resource| self.refused.get(&one.id).is_none_or(|until| *until <= now);
        let tried: Vec<Resource> = resources.iter().filter(is_tried).cloned().collect();
        let all = gates::gather(tx, self.fleet.as_ref(), &tried).await.map_err(world_failed)?;
        let mut dues = Vec::new();
        for (resource, inputs) in tried.iter().zip(all) {
            let action = self.decide(resource, &inputs);
            dues.extend(action.map(|action| Due { action, trace: trace_of(resource) }));
        }
        Ok(dues)
    }

    fn decide(&self, resource: &Resource, inputs: &Inputs) -> Option<Action> {
        let id = resource.id.clone();
        let is_deleting = resource.status == Status::Deleting;
        if is_deleting && hosting_planner::wants_continuing(resource, inputs.has_children) {
            return Some(Action::Continue(id));
        }
        let verdict = evaluate(resource, inputs, self.fleet.as_ref(), self.store.now());
        if verdict.remove {
            Some(Action::Remove { id, retired: verdict.retired })
        } else if !verdict.open.is_empty() {
            Some(Action::Open { id, gates: verdict.open })
        } else if differs(resource, &verdict) {
            Some(Action::Record { id, generation: resource.generation, verdict: Box::new(verdict) })
        } else {
            None
        }
    }
}
