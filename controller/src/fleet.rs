//! What gates and the API ask of the fleet: who is registered where, and how far each is, in memory; what node agents reported is in the
//! store, and read when asked for.
//!
//! The registry's part follows the store's commits, the positions are the feed's own. [`gates::Fleet`] is how the planner sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use hosting_api::{
    AuthoritiesView, AuthorityChange, AuthorityError, ExceptionView, JoinTokenError, KekChange,
    KekChangeError, NewJoinToken, NotServed, Platform, RequestNews, ServedView, SubscriberView,
};
use hosting_feed::fleet::{Fleet, News, Remote, Subscriber};
use hosting_feed::{FeedHandle, RequestNews as Told};
use hosting_intent::{Audience, Key};
use hosting_jobs::kinds::callback::OwnAddresses;
use hosting_planner::gates::{self, ExceptionKind};
use hosting_proto::feed::{self as wire, Served, exception};
use hosting_resource::Kind;
use hosting_store::{
    Commit, ExceptionRow, FleetChange, FleetOrder, ListQuery, PageError, ReadTx, ReportChange, Store,
    StoreError, Watermark,
};
use prost::Message as _;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authorities::Rotation;
use crate::kek_file::KekFile;
use crate::node_record::{own_address, record};

/// Node resources, or positions, read at once.
const PAGE: u32 = 200;
/// After what another controller wrote could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The fleet as gates see it.
#[derive(Debug)]
pub(crate) struct FleetView {
    fleet: Fleet,
    /// Node ids by the audience that the registry gives them.
    members: RwLock<BTreeMap<Audience, BTreeSet<String>>>,
    /// The store's epoch: revisions of another one say nothing.
    epoch: RwLock<String>,
    /// The machines' addresses.
    own: OwnAddresses,
    reported: watch::Sender<u64>,
    /// What reports said since [`FleetView::take_news`].
    news: Mutex<News>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl FleetView {
    /// Reads registry, epoch and positions from the store.
    pub(crate) async fn load(store: &Store, fleet: Fleet) -> Result<Arc<Self>, StoreError> {
        let view = Self {
            fleet,
            members: RwLock::default(),
            epoch: RwLock::default(),
            own: OwnAddresses::default(),
            reported: watch::Sender::new(0),
            news: Mutex::default(),
        };
        view.reload(store).await?;
        Ok(Arc::new(view))
    }

    /// Reads all of it anew, a page at a time: no read lasts long. For the start, and after what cannot be told was missed.
    pub(crate) async fn reload(&self, store: &Store) -> Result<(), StoreError> {
        let mut after: Option<Watermark> = None;
        loop {
            let mut tx = store.read().await?;
            let page = tx.subscribers(after.as_ref(), PAGE).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let mut exceptions: BTreeMap<(String, Audience), Vec<ExceptionRow>> = BTreeMap::new();
            for row in tx.exceptions_between(first, last).await? {
                exceptions.entry((row.node.clone(), row.audience.clone())).or_default().push(row);
            }
            drop(tx);
            after = Some(last.clone());
            self.fleet.restore(page.iter().map(|mark| {
                let of = exceptions.remove(&(mark.node.clone(), mark.audience.clone()));
                (mark.audience.clone(), mark.node.clone(), remote(mark, of.unwrap_or_default()))
            }));
        }
        self.read_registry(&mut store.read().await?).await?;
        self.drop_strangers();
        self.everything_changed();
        Ok(())
    }

    /// Takes in what another controller wrote of the fleet.
    async fn absorb(&self, store: &Store, change: &FleetChange) -> Result<(), StoreError> {
        let mut tx = store.read().await?;
        for (audience, node) in &change.subscribers {
            let said = match tx.subscriber(node, audience).await? {
                // By now it is here.
                Some(mark) if mark.controller == store.controller() => continue,
                Some(mark) => {
                    let exceptions = tx.exceptions(node, audience).await?;
                    Some(remote(&mark, exceptions))
                }
                None => None,
            };
            self.fleet.learn(audience.clone(), node.clone(), said);
        }
        for (node, changed) in &change.reports {
            self.note_reports(node, changed);
        }
        for order in &change.orders {
            match order {
                FleetOrder::Release { audience, node, by } => {
                    if let Ok(audience) = audience.parse() {
                        let _ = self.fleet.release(&audience, node, by);
                    }
                }
                FleetOrder::SendAway { node, role, reason } => {
                    self.fleet.send_away(reason, |audience, who| {
                        who == node && (role.is_empty() || audience.role().name() == role)
                    });
                }
            }
        }
        self.changed();
        Ok(())
    }

    /// The addresses of the registered machines, kept up to date.
    pub(crate) fn own_addresses(&self) -> OwnAddresses {
        self.own.clone()
    }

    /// Ends this controller's sessions: it was away from the store for longer than the others wait.
    pub(crate) fn abandon(&self, reason: &str) {
        self.fleet.abandon(reason);
    }

    /// Says which other controllers run.
    pub(crate) fn alive(&self, controllers: &BTreeSet<String>) {
        self.fleet.alive(controllers);
        self.changed();
    }

    /// Reads the registry anew, after a commit that changed node resources or the epoch.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let mut tx = store.read().await?;
        self.read_registry(&mut tx).await?;
        drop(tx);
        self.drop_strangers();
        self.everything_changed();
        Ok(())
    }

    async fn read_registry(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let mut members = BTreeMap::<Audience, BTreeSet<String>>::new();
        let mut own = BTreeSet::new();
        let mut query = ListQuery { limit: PAGE, ..ListQuery::new(Kind::Node) };
        loop {
            let page = tx.page(&query).await.map_err(page_failed)?;
            for node in &page.items {
                own.extend(own_address(node));
                let Some(record) = record(node) else { continue };
                for audience in record.audiences(&node.id) {
                    members.entry(audience).or_default().insert(node.id.clone());
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        *write(&self.members) = members;
        self.own.set(own);
        *write(&self.epoch) = tx.epoch().to_owned();
        Ok(())
    }

    /// Ends the subscriptions that the registry no longer gives: the node is gone, or plays that role no more.
    fn drop_strangers(&self) {
        let members = read(&self.members).clone();
        self.fleet.retain(|audience, node| members.get(audience).is_some_and(|nodes| nodes.contains(node)));
    }

    /// Hears what of a node's reports changed in the store.
    pub(crate) fn reported(&self, node: &str, changed: &ReportChange) {
        self.note_reports(node, changed);
        self.changed();
    }

    fn note_reports(&self, node: &str, changed: &ReportChange) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.everything |= changed.everything;
        if let Ok(audience) = Audience::node(node) {
            for key in &changed.keys {
                news.item(&audience, key.clone());
            }
        }
    }

    fn everything_changed(&self) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).everything = true;
        self.changed();
    }

    /// What changed since the last call, for the gatekeeper.
    pub(crate) fn take_news(&self) -> News {
        let mut news = self.fleet.take_news();
        let reported = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        news.items.extend(reported.items);
        news.everything |= reported.everything;
        news
    }

    /// Moves at each change of a position, a lease, an exception, a report or the registry.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.reported.subscribe()
    }

    /// Until `stop`: passes the feed's own changes on, so that waiters have one thing to watch, and reads the registry anew
    /// when a commit changed it.
    pub(crate) async fn follow(
        self: Arc<Self>,
        store: Store,
        mut commits: broadcast::Receiver<Arc<Commit>>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut changes = self.fleet.changes();
        loop {
            let commit = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                moved = changes.changed() => {
                    // The sender lives in `self`.
                    let _ = moved;
                    changes.borrow_and_update();
                    self.changed();
                    continue;
                }
                commit = commits.recv() => match commit {
                    Ok(commit) => commit,
                    Err(RecvError::Lagged(_)) => Arc::new(Commit { lost: true, ..Commit::default() }),
                    Err(RecvError::Closed) => return Err(StoreError::Closed),
                },
            };
            while let Err(error) = self.take_in(&store, &commit).await {
                if matches!(error, StoreError::Closed) || !store.is_shared() {
                    return Err(error);
                }
                tracing::warn!(%error, "what changed in the fleet cannot be read; trying again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    async fn take_in(&self, store: &Store, commit: &Commit) -> Result<(), StoreError> {
        if commit.lost && store.is_shared() {
            return self.reload(store).await;
        }
        if !commit.fleet.is_empty() {
            self.absorb(store, &commit.fleet).await?;
        }
        if commit.lost || commit.new_epoch || commit.kinds.contains(&Kind::Node) {
            self.refresh(store).await?;
        }
        Ok(())
    }

    fn changed(&self) {
        self.reported.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// What rows say of a subscriber.
fn remote(mark: &Watermark, exceptions: Vec<ExceptionRow>) -> Remote {
    Remote {
        controller: mark.controller.clone(),
        connected: mark.connected,
        in_service: mark.in_service,
        build: mark.build.clone(),
        epoch: mark.epoch.clone(),
        applied: mark.applied,
        durable: mark.durable,
        exceptions: exceptions.into_iter().map(wire_exception).collect(),
        // Empty, or written by a build that says more than this one can read: it says it again.
        served: Served::decode(mark.served.as_slice()).ok().filter(|served| !served.epoch.is_empty()),
    }
}

/// The cursor comes from the page before, so only the store can fail.
fn page_failed(error: PageError) -> StoreError {
    match error {
        PageError::Store(error) => error,
        PageError::Cursor => StoreError::Row("a cursor of another list".into()),
    }
}

fn wire_exception(row: ExceptionRow) -> wire::Exception {
    wire::Exception {
        r#type: row.kind.into(),
        kind: row.key.kind,
        key: row.key.name,
        revision: row.revision,
        reason: row.reason,
    }
}

fn exception_kind(exception: &wire::Exception) -> ExceptionKind {
    match exception.r#type() {
        exception::Type::Held => ExceptionKind::Held,
        exception::Type::Unsupported => ExceptionKind::Unsupported,
        exception::Type::Waiting => ExceptionKind::Waiting,
        exception::Type::Rejected | exception::Type::Unspecified => ExceptionKind::Rejected,
    }
}

impl FleetView {
    /// What a subscriber found when it asked its own listeners, and how its clients fare.
    pub(crate) fn served(&self, audience: &Audience, node: &str) -> Option<Served> {
        self.fleet.served(audience, node)
    }

    /// Items that a subscriber does not take.
    pub(crate) fn rejected(&self, audience: &Audience, node: &str) -> Vec<wire::Exception> {
        let known = self.fleet.subscriber(audience, node);
        let mut exceptions = known.map(|known| known.exceptions).unwrap_or_default();
        exceptions.retain(|exception| exception.r#type() == exception::Type::Rejected);
        exceptions
    }
}

impl gates::Fleet for FleetView {
    fn subscribers(&self, audience: &Audience) -> Vec<gates::Subscriber> {
        let epoch = read(&self.epoch).clone();
        let known: BTreeMap<String, _> =
            self.fleet.standings(audience).into_iter().map(|one| (one.node_id.clone(), one)).collect();
        let members = read(&self.members).get(audience).cloned().unwrap_or_default();
        members
            .into_iter()
            .map(|node_id| {
                let one = known.get(&node_id);
                gates::Subscriber {
                    applied: one.filter(|one| one.epoch == epoch).map_or(0, |one| one.applied),
                    in_service: one.is_some_and(|one| one.in_service),
                    node_id,
                }
            })
            .collect()
    }

    fn exception(&self, audience: &Audience, node: &str, key: &Key) -> Option<gates::Exception> {
        let exception = self.fleet.exception(audience, node, key.kind, &key.name)?;
        Some(gates::Exception {
            kind: exception_kind(&exception),
            revision: exception.revision,
            reason: exception.reason,
        })
    }
}

fn served_view(served: Served) -> ServedView {
    let ranges = |list: &[wire::RevisionRange]| list.iter().map(|range| (range.first, range.last)).collect();
    ServedView {
        upto: served.upto,
        pending: ranges(&served.pending),
        sampled: ranges(&served.sampled),
        marks: served.marks.iter().map(|mark| (mark.upto, mark.at_ms)).collect(),
        failed: served
            .failed
            .into_iter()
            .map(|one| NotServed {
                key: Key { kind: one.kind, name: one.key },
                revision: one.revision,
                reason: one.reason,
            })
            .collect(),
    }
}

fn subscriber_view(one: Subscriber) -> SubscriberView {
    let exceptions = one.exceptions.iter().map(|exception| ExceptionView {
        kind: exception_kind(exception),
        key: Key { kind: exception.kind, name: exception.key.clone() },
        revision: exception.revision,
        reason: exception.reason.clone(),
    });
    SubscriberView {
        exceptions: exceptions.collect(),
        node_id: one.node_id,
        audience: one.audience,
        build: one.build,
        epoch: one.epoch,
        applied: one.applied,
        durable: one.durable,
        connected: one.connected,
        in_service: one.in_service,
        silent_for: one.silent_for,
    }
}

/// The running controller, as the API sees it.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) view: Arc<FleetView>,
    pub(crate) feed: FeedHandle,
    pub(crate) token_life: Duration,
    pub(crate) keks: KekFile,
    pub(crate) authorities: Rotation,
}

#[async_trait]
impl Platform for Running {
    fn fleet(&self) -> Arc<dyn gates::Fleet> {
        self.view.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.view.changes()
    }

    fn subscribers(&self) -> Vec<SubscriberView> {
        self.view.fleet.all().into_iter().map(subscriber_view).collect()
    }

    fn subscriber(&self, audience: &Audience, node_id: &str) -> Option<SubscriberView> {
        self.view.fleet.subscriber(audience, node_id).map(subscriber_view)
    }

    fn served(&self, audience: &Audience, node_id: &str) -> Option<ServedView> {
        self.view.fleet.served(audience, node_id).map(served_view)
    }

    fn release(&self, audience: &Audience, node_id: &str, by: &str) -> bool {
        if self.view.fleet.release(audience, node_id, by) {
            return true;
        }
        let elsewhere = self.view.fleet.subscribers(audience).into_iter();
        if !self.store.is_shared()
            || !elsewhere.into_iter().any(|one| one.node_id == node_id && one.connected)
        {
            return false;
        }
        let order = FleetOrder::Release {
            audience: audience.to_string(),
            node: node_id.to_owned(),
            by: by.to_owned(),
        };
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.order(order).await {
                tracing::warn!(%error, "another controller's session could not be told to release");
            }
        });
        true
    }

    fn watch_requests(
        &self,
        cluster: &Audience,
        host: &str,
        tenant: &str,
    ) -> Option<BoxStream<'static, RequestNews>> {
        let watched = self.feed.watch_requests(cluster, host, tenant)?;
        Some(Box::pin(futures::stream::unfold(watched, |mut watched| async move {
            let news = match watched.next().await? {
                Told::Edges(edges) => RequestNews::Edges(edges),
                Told::Requests { lines, missed } => RequestNews::Requests { lines, missed },
            };
            Some((news, watched))
        })))
    }

    fn forget(&self, node_id: &str) {
        self.view.fleet.forget(node_id);
    }

    async fn join_token(&self, node_id: &str) -> Result<NewJoinToken, JoinTokenError> {
        let token =
            self.feed.mint(node_id, self.token_life).await.map_err(|error| {
                JoinTokenError::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
            })?;
        let life = i64::try_from(self.token_life.as_millis()).unwrap_or(i64::MAX);
        let expires_at = hosting_intent_sync::identity::unix_now().saturating_mul(1000).saturating_add(life);
        Ok(NewJoinToken { token: token.to_string(), expires_at })
    }

    async fn change_keks(&self, change: KekChange) -> Result<(), KekChangeError> {
        self.keks.change(change).await
    }

    async fn authorities(&self) -> Result<AuthoritiesView, AuthorityError> {
        self.authorities.view().await
    }

    async fn change_authorities(&self, change: AuthorityChange) -> Result<(), AuthorityError> {
        self.authorities.change(change).await
    }
}

#[cfg(test)]
mod tests {
    use hosting_feed::fleet::LEASE;
    use hosting_proto::feed::KeyReport;
    use hosting_store::{Kek, NodeReport, StoreConfig};

    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: 21, name: name.into() }
    }

    /// Of what nodes of other controllers report, what changed is heard; it is read when a gate asks for it.
    #[tokio::test]
    async fn of_a_report_elsewhere_what_changed_is_news() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let view = FleetView::load(&store, Fleet::new(LEASE)).await.unwrap();
        assert!(view.take_news().everything, "at the start");
        let said =
            |name: &str, phase| KeyReport { kind: 21, key: name.into(), phase, ..KeyReport::default() };
        let audience = Audience::node("n1").unwrap();
        for (phase, wanted) in [(2, vec!["a", "b"]), (2, vec![]), (3, vec!["b"])] {
            let reports = vec![said("a", 2), said("b", phase)];
            let saved = store.save_reports("n1", NodeReport { reports, ..NodeReport::default() });
            let change = FleetChange {
                reports: [("n1".to_owned(), saved.await.unwrap())].into(),
                ..Default::default()
            };
            view.absorb(&store, &change).await.unwrap();
            let news = view.take_news();
            assert!(!news.everything);
            assert_eq!(news.items, wanted.into_iter().map(|name| (audience.clone(), key(name))).collect());
        }
        let change = FleetChange {
            reports: [("n1".to_owned(), ReportChange::everything())].into(),
            ..FleetChange::default()
        };
        view.absorb(&store, &change).await.unwrap();
        assert!(view.take_news().everything);
        store.close().await;
    }
}
