//! The loop around [`super::receiver`]: holds the lease, reads the log once for all, begins attempts, records what came of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hosting_planner::World;
use hosting_resource::kinds::webhook::{self, Webhook};
use hosting_resource::{Doc, Document, Resource};
use hosting_store::{Commit, EventPlace, Lease, Origin, Store, StoreError, WebhookDelivery, WebhookPosition};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::post::Poster;
use super::receiver::{Attempt, Posted, Receiver, Verdict};
use super::{WebhookConfig, WebhookMetrics};
use crate::outgoing::{Hosts, client};

/// The lease's name.
const LEASE: &str = "webhooks";
/// Webhooks read at once.
const PAGE: u32 = 200;
/// Events read at once.
const EVENTS: u32 = 256;
/// Newest events that are held in memory for all.
const TAIL: usize = 4_096;
/// Receivers behind those that are read for in one round.
const BEHIND_AT_ONCE: usize = 16;
/// Deliveries that people ask for, looked for at once.
const ASKED_AT_ONCE: u32 = 32;
/// After the store failed.
const STORE_FAILED: Duration = Duration::from_secs(1);
/// At the end, attempts under way have so long.
const GRACE: Duration = Duration::from_secs(5);

/// An attempt that ended.
struct Ended {
    webhook: String,
    /// `None`: somebody asked for this one.
    posted: Option<Arc<Posted>>,
    asked: Option<WebhookDelivery>,
    attempt: Attempt,
}

/// The task.
pub struct Deliverer {
    config: WebhookConfig,
    metrics: WebhookMetrics,
    poster: Poster,
    commits: broadcast::Receiver<Arc<Commit>>,
    lease: Option<Lease>,
    next_hold: Instant,
    next_tidy: Instant,
    /// Webhooks are to be read anew.
    is_stale: bool,
    /// The revision that webhooks were read at.
    read_at: u64,
    receivers: BTreeMap<String, Receiver>,
    epoch: String,
    /// The newest events, behind `tail_begins`.
    tail: VecDeque<Arc<Posted>>,
    tail_begins: EventPlace,
    /// Receivers that are far behind were not all read for.
    has_more: bool,
    /// Deliveries under way that somebody asked for.
    asked: BTreeSet<(String, String)>,
    tasks: JoinSet<Ended>,
    /// Ended, and not yet recorded.
    ended: Vec<Ended>,
}

impl Deliverer {
    /// One for a store. It delivers nothing before it runs.
    #[must_use]
    pub fn new(store: Store, config: WebhookConfig, metrics: WebhookMetrics) -> Self {
        let http = client(&config.rules, config.exchange);
        if let Err(why) = &http {
            tracing::error!(%why, "webhooks cannot be delivered to");
        }
        let (rules, limit) = (config.rules.clone(), config.exchange);
        let commits = store.commits();
        Self {
            metrics,
            poster: Poster { store, rules, http, hosts: Hosts::default(), limit },
            commits,
            lease: None,
            next_hold: Instant::now(),
            next_tidy: Instant::now() + config.tidy,
            is_stale: true,
            read_at: 0,
            receivers: BTreeMap::new(),
            epoch: String::new(),
            tail: VecDeque::new(),
            tail_begins: EventPlace { revision: 0, place: 0 },
            has_more: false,
            asked: BTreeSet::new(),
            tasks: JoinSet::new(),
            ended: Vec::new(),
            config,
        }
    }

    /// Delivers until `stop`.
    ///
    /// # Errors
    /// When the store is closed. Any other failure is logged and tried again.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, Result<(), StoreError>> {
        // Boxed, so that it is compiled with this crate and not again with its caller.
        Box::pin(self.work(stop))
    }

    async fn work(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        while !stop.is_cancelled() {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error @ StoreError::Closed) if !stop.is_cancelled() => return Err(error),
                Err(StoreError::Closed) => break,
                Err(StoreError::LostLease) => {
                    self.abandon();
                    self.config.poll
                }
                Err(error) => {
                    tracing::error!(%error, "webhooks cannot be looked at; trying again");
                    STORE_FAILED
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                heard = self.commits.recv() => self.hear(heard),
                Some(ended) = self.tasks.join_next() => self.ended.extend(ended.ok()),
                () = tokio::time::sleep(pause) => {}
            }
            // What is at hand already belongs to the same round.
            while let Some(ended) = self.tasks.try_join_next() {
                self.ended.extend(ended.ok());
            }
            while let Ok(commit) = self.commits.try_recv() {
                self.hear(Ok(commit));
            }
        }
        self.end().await;
        Ok(())
    }

    async fn end(&mut self) {
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                self.ended.extend(ended.ok());
            }
        };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            tracing::info!("deliveries to webhooks that are under way are made again by who delivers next");
        }
        if let Err(error) = self.record().await {
            tracing::warn!(%error, "the last deliveries to webhooks are not recorded, and are made again");
        }
        if let Some(lease) = self.lease.take() {
            // It ends by itself.
            let _ = self.poster.store.let_go(lease).await;
        }
    }

    fn hear(&mut self, heard: Result<Arc<Commit>, RecvError>) {
        match heard {
            Ok(commit) if commit.lost || commit.new_epoch => self.is_stale = true,
            Ok(commit) => self.is_stale |= commit.kinds.contains(&Webhook::KIND),
            Err(RecvError::Lagged(_)) => self.is_stale = true,
            // The store's end shows in its next call.
            Err(RecvError::Closed) => {}
        }
    }

    /// Somebody else delivers by now: nothing that is known here counts.
    fn abandon(&mut self) {
        self.lease = None;
        self.is_stale = true;
        self.receivers.clear();
        self.tail.clear();
        self.asked.clear();
        self.ended.clear();
        self.tasks.abort_all();
    }

    /// Does what is to be done now; how long nothing else will be.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        if self.is_stale && self.lease.is_none() && !self.has_webhooks().await? {
            // Nobody is to be told anything, and nothing is asked of the store until somebody is.
            self.is_stale = false;
            return Ok(Duration::from_secs(3_600));
        }
        if self.lease.is_none() && !self.is_stale {
            return Ok(Duration::from_secs(3_600));
        }
        let now = Instant::now();
        if now >= self.next_hold {
            let held = self.poster.store.hold(LEASE, self.config.lease).await?;
            self.next_hold = now + self.config.lease / 3;
            if held.is_none() || self.lease.as_ref().is_some_and(|lease| Some(lease) != held.as_ref()) {
                self.abandon();
            }
            self.lease = held;
        }
        if self.lease.is_none() {
            return Ok(self.config.lease / 3);
        }
        self.record().await?;
        if self.is_stale {
            self.reload().await?;
        }
        if self.receivers.is_empty() {
            return self.rest().await;
        }
        self.read_tail().await?;
        if self.is_stale {
            self.reload().await?;
        }
        self.begin_attempts().await?;
        self.begin_asked().await?;
        if Instant::now() >= self.next_tidy {
            self.next_tidy = Instant::now() + self.config.tidy;
            self.tidy().await?;
        }
        Ok(self.pause())
    }

    async fn has_webhooks(&self) -> Result<bool, StoreError> {
        let mut tx = self.poster.store.read().await?;
        Ok(!tx.list(Webhook::KIND, "", 1).await?.is_empty())
    }

    /// There is no webhook any more: what was kept for them goes.
    async fn rest(&mut self) -> Result<Duration, StoreError> {
        let head = self.poster.store.read().await?.head();
        while self.poster.store.trim_events(head).await? {}
        self.forget_gone().await?;
        if let Some(lease) = self.lease.take() {
            self.poster.store.let_go(lease).await?;
        }
        self.tail.clear();
        Ok(Duration::from_secs(3_600))
    }

    /// The next time that something is due.
    fn pause(&self) -> Duration {
        if self.has_more {
            return Duration::ZERO;
        }
        let now = self.poster.store.now();
        let waits =
            self.receivers.values().filter(|one| one.spec.enabled && !one.is_busy && one.next.is_some());
        let next = waits.map(|one| one.position.next_at.saturating_sub(now)).filter(|wait| *wait > 0).min();
        let next = next.and_then(|wait| u64::try_from(wait).ok()).map(Duration::from_millis);
        next.map_or(self.config.poll, |next| next.min(self.config.poll))
    }

    /// Reads all webhooks, and where those are that are new here.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let mut tx = self.poster.store.read().await?;
        let (head, epoch) = (tx.head(), tx.epoch().to_owned());
        let mut found: BTreeMap<String, Doc<Webhook>> = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page: Vec<Resource> = tx.list(Webhook::KIND, &after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            for resource in page {
                let id = resource.id.clone();
                match Doc::read(resource) {
                    Ok(doc) => drop(found.insert(id, doc)),
                    Err(error) => {
                        tracing::error!(%id, %error, "a webhook that this build cannot read gets nothing")
                    }
                }
            }
        }
        if self.epoch != epoch {
            self.receivers.retain(|_, receiver| receiver.is_busy);
            self.tail.clear();
            self.tail_begins = EventPlace::end_of(head);
            self.epoch.clone_from(&epoch);
        }
        let new: Vec<String> = found.keys().filter(|id| !self.receivers.contains_key(*id)).cloned().collect();
        let mut positions: BTreeMap<String, WebhookPosition> =
            tx.webhook_positions(&new).await?.into_iter().map(|one| (one.webhook.clone(), one)).collect();
        drop(tx);
        self.receivers.retain(|id, _| found.contains_key(id));
        for (id, doc) in found {
            let created = doc.created_revision;
            let spec = Arc::new(doc.spec);
            match self.receivers.get_mut(&id) {
                Some(receiver) => receiver.becomes(spec),
                None => {
                    let position = positions.remove(&id).unwrap_or_else(|| {
                        WebhookPosition::new(id.clone(), epoch.clone(), EventPlace::end_of(created))
                    });
                    self.receivers.insert(id, Receiver::new(spec, position));
                }
            }
        }
        self.read_at = head;
        self.is_stale = false;
        Ok(())
    }

    /// Reads what is new in the log, once for all. An event behind a webhook's change is posted as the webhook says by then, so such a change, which the log tells as well, makes the webhooks stale.
    async fn read_tail(&mut self) -> Result<(), StoreError> {
        if self.tail.is_empty() && self.tail_begins.revision == 0 {
            // Whoever is further behind reads for itself.
            self.tail_begins = EventPlace::end_of(self.poster.store.read().await?.head());
        }
        loop {
            let after = self.tail.back().map_or(self.tail_begins, |last| last.at);
            let events = self.poster.store.read().await?.events_after(after, EVENTS).await?;
            let is_last = events.len() < EVENTS as usize;
            self.is_stale |= events
                .iter()
                .any(|logged| logged.event.kind == Webhook::KIND && logged.at.revision > self.read_at);
            self.tail.extend(events.iter().map(|logged| Arc::new(Posted::of(&self.epoch, logged))));
            while self.tail.len() > TAIL {
                self.tail_begins = self.tail.pop_front().map_or(self.tail_begins, |gone| gone.at);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Begins an attempt for each receiver that is due and has something next.
    async fn begin_attempts(&mut self) -> Result<(), StoreError> {
        let now = self.poster.store.now();
        let due = self.receivers.iter().filter(|(_, one)| one.is_due(now, &self.config.patience));
        let mut due: Vec<(bool, i64, String)> =
            due.map(|(id, one)| (one.position.attempts > 0, one.position.next_at, id.clone())).collect();
        // Those that fail come last, and never take more than half of the places.
        due.sort_unstable();
        let failing = |receiver: &Receiver| receiver.is_busy && receiver.position.attempts > 0;
        let mut failing = self.receivers.values().filter(|receiver| failing(receiver)).count();
        let mut reads = 0;
        for (fails, _, id) in due {
            if self.tasks.len() >= self.config.at_once || fails && failing >= self.config.at_once / 2 {
                break;
            }
            self.find_next(&id, &mut reads).await?;
            let Some(receiver) = self.receivers.get_mut(&id) else { continue };
            let Some(posted) = receiver.next.clone() else { continue };
            let Some(place) = self.poster.place(&receiver.spec) else { continue };
            receiver.is_busy = true;
            failing += usize::from(fails);
            let (poster, spec) = (self.poster.clone(), Arc::clone(&receiver.spec));
            self.tasks.spawn(async move {
                let attempt = poster.post(&id, spec, &posted.id, posted.body.clone()).await;
                drop(place);
                Ended { webhook: id, posted: Some(posted), asked: None, attempt }
            });
        }
        self.has_more = reads >= BEHIND_AT_ONCE;
        Ok(())
    }

    /// Finds what is next for a receiver: in memory, or in the log where it is further behind.
    async fn find_next(&mut self, id: &str, reads: &mut usize) -> Result<(), StoreError> {
        let Self { receivers, tail, tail_begins, poster, epoch, .. } = self;
        let Some(receiver) = receivers.get_mut(id) else { return Ok(()) };
        while receiver.next.is_none() {
            let same_life = receiver.position.epoch == *epoch;
            if same_life && receiver.position.at >= *tail_begins {
                let first = tail.partition_point(|event| event.at <= receiver.position.at);
                receiver.look_at(tail.iter().skip(first).cloned());
                return Ok(());
            }
            if !receiver.ahead.is_empty() {
                let mut ahead = std::mem::take(&mut receiver.ahead);
                receiver.look_at(std::iter::from_fn(|| ahead.pop_front()));
                receiver.ahead = ahead;
                continue;
            }
            if *reads >= BEHIND_AT_ONCE {
                return Ok(());
            }
            *reads += 1;
            // One snapshot: what is gone between the two would not be missed.
            let mut tx = poster.store.read().await?;
            let head = tx.head();
            if !same_life || tx.event_floor().await? >= receiver.position.at.revision {
                let now = poster.store.now();
                receiver.next = Some(Arc::new(Posted::reset(epoch, receiver.position.at, head, now)));
                receiver.position.epoch.clone_from(epoch);
                // Places of another life say nothing in this one.
                receiver.position.at = EventPlace { revision: 0, place: 0 };
                return Ok(());
            }
            let mut events = tx.events_after(receiver.position.at, EVENTS).await?;
            // Those behind the beginning of what is in memory were perhaps written after the webhooks were read.
            events.retain(|logged| logged.at <= *tail_begins);
            if events.is_empty() {
                // All there is lies in memory, behind this.
                receiver.position.at = *tail_begins;
                receiver.has_moved = true;
                continue;
            }
            receiver.ahead.extend(events.iter().map(|logged| Arc::new(Posted::of(epoch, logged))));
        }
        Ok(())
    }

    /// Begins deliveries that people asked for: tests, and what is to be delivered again.
    async fn begin_asked(&mut self) -> Result<(), StoreError> {
        let mut tx = self.poster.store.read().await?;
        let pending = tx.pending_deliveries(ASKED_AT_ONCE).await?;
        let mut gone = Vec::new();
        for delivery in pending {
            let key = (delivery.webhook.clone(), delivery.id.clone());
            let Some(receiver) = self.receivers.get(&delivery.webhook) else {
                if tx.resource(&delivery.webhook).await?.is_none() {
                    gone.push(delivery.webhook);
                }
                continue;
            };
            if self.tasks.len() >= self.config.at_once || self.asked.contains(&key) {
                continue;
            }
            let Some(place) = self.poster.place(&receiver.spec) else { continue };
            self.asked.insert(key);
            let (poster, spec) = (self.poster.clone(), Arc::clone(&receiver.spec));
            self.tasks.spawn(async move {
                let body = delivery.body.clone();
                let attempt = poster.post(&delivery.webhook, spec, &delivery.id, body).await;
                drop(place);
                Ended { webhook: delivery.webhook.clone(), posted: None, asked: Some(delivery), attempt }
            });
        }
        drop(tx);
        if !gone.is_empty() {
            gone.dedup();
            self.poster.store.forget_webhooks(gone).await?;
        }
        Ok(())
    }

    /// Records what ended, all of it in one transaction. Fails with everything still to be recorded.
    async fn record(&mut self) -> Result<(), StoreError> {
        let Some(lease) = self.lease.clone().filter(|_| !self.ended.is_empty()) else { return Ok(()) };
        let now = self.poster.store.now();
        // One row for each: a statement writes none twice.
        let mut positions: BTreeMap<String, WebhookPosition> = BTreeMap::new();
        let mut deliveries: BTreeMap<(String, String), WebhookDelivery> = BTreeMap::new();
        let mut disable = Vec::new();
        for ended in &self.ended {
            // What is kept of a webhook that is gone would never go.
            let Some(receiver) = self.receivers.get(&ended.webhook) else { continue };
            let mut keep = |delivery: WebhookDelivery| {
                deliveries.insert((delivery.webhook.clone(), delivery.id.clone()), delivery);
            };
            if let Some(asked) = &ended.asked {
                keep(outcome_of(asked, &ended.attempt));
                positions.entry(ended.webhook.clone()).or_insert_with(|| receiver.position.clone());
            }
            let is_current = |posted: &&Arc<Posted>| {
                receiver.is_busy && receiver.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, posted))
            };
            if let Some(posted) = ended.posted.as_ref().filter(is_current) {
                let kept = receiver.after(posted, &ended.attempt, now, rand::random(), &self.config.patience);
                disable.extend(kept.disable.map(|reason| (ended.webhook.clone(), reason)));
                positions.insert(ended.webhook.clone(), kept.position);
                keep(kept.delivery);
            }
        }
        let deliveries: Vec<WebhookDelivery> = deliveries.into_values().collect();
        let statuses: Vec<&'static str> = deliveries.iter().map(|delivery| delivery.status).collect();
        let kept: Vec<WebhookPosition> = positions.values().cloned().collect();
        self.poster.store.record_webhooks(&lease, kept, deliveries).await?;
        statuses.into_iter().for_each(|status| self.metrics.attempted(status));
        let mut done: BTreeSet<String> = BTreeSet::new();
        for ended in self.ended.drain(..) {
            if let Some(asked) = ended.asked {
                self.asked.remove(&(asked.webhook, asked.id));
            } else {
                done.insert(ended.webhook);
            }
        }
        for (id, position) in positions {
            if let Some(receiver) = self.receivers.get_mut(&id)
                && done.contains(&id)
            {
                receiver.keep(position);
            }
        }
        for (id, reason) in disable {
            self.disable(&lease, &id, reason).await?;
        }
        Ok(())
    }

    /// A change of the webhook like any other, so that people see it, and when.
    async fn disable(&mut self, lease: &Lease, id: &str, reason: String) -> Result<(), StoreError> {
        tracing::warn!(webhook = id, %reason, "a webhook is disabled");
        let origin = Origin { lease: Some(lease.clone()), admin: true, ..Origin::default() };
        let (own, why) = (id.to_owned(), reason);
        let written = self.poster.store.write(origin, move |tx| {
            Box::pin(async move {
                let found = tx.resource(&own).await?.filter(|found| found.kind == Webhook::KIND);
                let Some(current) = found else { return Ok(()) };
                let update = webhook::disable(&current, &why)?;
                hosting_planner::update(tx, current, update).await.map(drop)
            })
        });
        written.await.map_err(|error: hosting_store::WriteError<hosting_planner::PlanError>| {
            StoreError::from(error.map(|refused| StoreError::Row(refused.to_string().into())))
        })?;
        self.metrics.disabled.inc();
        self.is_stale = true;
        Ok(())
    }

    /// Keeps how far everybody is, and deletes what nobody needs any more.
    async fn tidy(&mut self) -> Result<(), StoreError> {
        let Some(lease) = self.lease.clone() else { return Ok(()) };
        let store = self.poster.store.clone();
        // A receiver that is to be told of a reset is at no place.
        let moved = self.receivers.values().filter(|one| one.has_moved && one.position.at.revision > 0);
        let moved: Vec<WebhookPosition> = moved.map(|one| one.position.clone()).collect();
        if !moved.is_empty() {
            let moved_ids: Vec<String> = moved.iter().map(|one| one.webhook.clone()).collect();
            store.record_webhooks(&lease, moved, Vec::new()).await?;
            for id in moved_ids {
                if let Some(receiver) = self.receivers.get_mut(&id) {
                    receiver.has_moved = false;
                }
            }
        }
        let enabled = self.receivers.values().filter(|one| one.spec.enabled);
        let needed = enabled.map(|one| one.position.at.revision.saturating_sub(1)).min();
        let head = store.read().await?.head();
        let mut upto = needed.unwrap_or(head);
        let mut tx = store.read().await?;
        if head.saturating_sub(upto) > 1_000 {
            // Somebody is behind: what waits has its bounds.
            let many = tx.event_before(self.config.kept_events).await?;
            let old = tx.event_older_than(store.now().saturating_sub(self.config.events_kept_for)).await?;
            upto = upto.max(many.unwrap_or_default()).max(old.unwrap_or_default());
        }
        drop(tx);
        while store.trim_events(upto).await? {}
        let since = store.now().saturating_sub(self.config.kept_for);
        for (id, receiver) in &mut self.receivers {
            if std::mem::take(&mut receiver.has_posted) {
                store.trim_deliveries(id, self.config.kept_deliveries, since).await?;
            }
        }
        self.forget_gone().await
    }

    async fn forget_gone(&self) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let some = self.poster.store.read().await?.positioned_webhooks(&after, PAGE).await?;
            let Some(last) = some.last() else { return Ok(()) };
            after.clone_from(last);
            let gone: Vec<String> = some.into_iter().filter(|id| !self.receivers.contains_key(id)).collect();
            if !gone.is_empty() {
                self.poster.store.forget_webhooks(gone).await?;
            }
        }
    }
}

/// A delivery that somebody asked for is tried once.
fn outcome_of(asked: &WebhookDelivery, attempt: &Attempt) -> WebhookDelivery {
    WebhookDelivery {
        status: if attempt.verdict == Verdict::Taken { "delivered" } else { "failed" },
        attempts: asked.attempts.saturating_add(1),
        attempted_at: Some(attempt.began),
        duration_ms: Some(attempt.duration_ms),
        response_status: attempt.response_status,
        answer: attempt.answer.clone(),
        error: attempt.error.clone(),
        ..asked.clone()
    }
}

#[cfg(test)]
#[path = "deliverer_tests.rs"]
mod tests;
