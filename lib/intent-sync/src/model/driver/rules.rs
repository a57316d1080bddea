//! What must hold after each step, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hosting_intent::Key;
use hosting_ledger::Why;
use hosting_proto::feed as wire;

use super::super::parts::{Class, Fault, class};
use super::{Driver, ModelStore, failed, sums};
use crate::subscriber::Policy;

impl<S: ModelStore, P: Policy> Driver<'_, S, P> {
    pub(super) fn check_all(&mut self) -> Result<(), String> {
        (0..self.nodes.len()).try_for_each(|node| self.check(node))
    }

    pub(super) fn check(&mut self, node: usize) -> Result<(), String> {
        let Some(node) = self.nodes.get(node) else { return Ok(()) };
        let status = node.subscriber.status();
        let mut live = node.replica.live();
        let name = &node.name;
        if let Some(wrong) = live.wrong.first() {
            return Err(format!("{name}: {wrong}"));
        }
        for (epoch, revision, key) in live.removed.drain(..) {
            let there = self.history.get(&(node.audience, epoch, revision));
            // From an undone history an operator may still release what that history had withdrawn.
            if !node.undone && there.is_some_and(|view| view.contains_key(&key)) {
                return Err(format!("{name} removed {key}, which the reference has at {revision}"));
            }
        }
        let Some(position) = status.position else {
            let untouched = live.published == 0 && live.view.is_empty();
            return if untouched { Ok(()) } else { Err(format!("{name} published without a position")) };
        };
        if let Some(durable) = &status.durable {
            let disk = node.journal.disk();
            let on_disk = disk.stored.as_ref().map(|(meta, _)| (&meta.epoch, meta.revision));
            if on_disk != Some((&durable.epoch, durable.revision)) && disk.fault == Fault::None {
                return Err(format!("{name} takes {durable:?} for durable, the disk has {on_disk:?}"));
            }
        }
        if node.undone {
            return Ok(());
        }
        let at = (node.audience, position.epoch, position.revision);
        let Some(wanted) = self.history.get(&at) else {
            return Err(format!("{name} is at {} {}, where the reference never was", at.1, at.2));
        };
        if (status.count, node.subscriber.digest()) != sums(wanted) {
            return Err(format!("{name} has other sums than the reference at {} {}", at.1, at.2));
        }
        let exceptions: BTreeMap<&Key, Why> = node
            .subscriber
            .exceptions()
            .map(|(key, quarantined)| (key, quarantined.why))
            .chain(node.subscriber.waiting().map(|(key, rollout)| (key, Why::Waiting(rollout))))
            .collect();
        let keys: BTreeSet<&Key> =
            wanted.keys().chain(live.view.keys()).chain(exceptions.keys().copied()).collect();
        for key in keys {
            let want = wanted.get(key);
            let have = live.view.get(key).map(|(_, value)| value);
            let excused = match (want.map(|value| class(key, value)), exceptions.get(key)) {
                (Some(Class::Good | Class::Stopping), None) => want == have,
                // Too much at once, and nobody asked: the last good one stays.
                (Some(Class::Stopping) | None, Some(Why::Held)) => have.is_some() && want != have,
                (Some(Class::Poisoned), Some(Why::Rejected)) => have.is_none_or(|have| {
                    let ever = self.ever.get(&(node.audience, key.clone()));
                    ever.is_some_and(|ever| ever.contains(have))
                }),
                (Some(Class::Unknown), Some(Why::Unsupported)) => have.is_none(),
                // What the rollout would replace stays.
                (_, Some(Why::Waiting(rollout))) => rollout != &0 && have.is_some() && want != have,
                _ => false,
            };
            if !excused {
                return Err(format!(
                    "{name} at {} {}: {key} should be {want:?}, is {have:?}, exception {:?}",
                    at.1,
                    at.2,
                    exceptions.get(key)
                ));
            }
        }
        Ok(())
    }

    /// Without further disturbance everybody gets everything.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.log("settle");
        for node in 0..self.nodes.len() {
            self.node(node)?.journal.disk().fault = Fault::None;
            let mut rounds = 0;
            while !self.is_settled(node).await? {
                rounds += 1;
                if rounds > 200 {
                    return Err(format!(
                        "subscriber {node} never settles: {:?}",
                        self.node(node)?.subscriber.status()
                    ));
                }
                self.now += Duration::from_secs(40);
                if self.node(node)?.connection.is_none() {
                    self.connect(node).await?;
                }
                self.hear(node)?;
                self.poll(node, false).await?;
                self.deliver(node, true)?;
                self.release(node);
                self.send_rollouts(node, wire::Rollouts { upto: u64::MAX, held: Vec::new(), watched: false });
                self.deliver(node, true)?;
                self.flush(node);
                if let Some(ack) = self.node(node)?.subscriber.take_ack() {
                    self.say(node, ack)?;
                }
                self.check(node)?;
            }
            self.node(node)?.undone = false;
            self.check(node)?;
            let status = self.node(node)?.subscriber.status();
            if status.held > 0 || status.waiting > 0 || status.durable != status.position {
                return Err(format!("subscriber {node} settled, but: {status:?}"));
            }
            let before = self.node(node)?.replica.live().view.clone();
            self.crash(node)?;
            self.check(node)?;
            if self.node(node)?.replica.live().view != before {
                return Err(format!("subscriber {node} lost something by a restart"));
            }
        }
        Ok(())
    }

    pub(super) async fn is_settled(&mut self, node: usize) -> Result<bool, String> {
        let audience = self.node(node)?.audience;
        let head = self.store.audience(&audience.audience()?).await.map_err(failed)?;
        let some_day = self.now + Duration::from_secs(3_600);
        let node = self.node(node)?;
        let status = node.subscriber.status();
        let at_head = status.position.is_some_and(|p| (p.epoch, p.revision) == (head.epoch, head.revision));
        Ok(at_head
            && status.caught_up
            && status.held == 0
            && status.waiting == 0
            && !node.subscriber.wants_flush(some_day))
    }
}
