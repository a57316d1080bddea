//! What gates and the API ask of the fleet, all of it in memory: who is registered where, how far each is, what node
//! agents reported.
//!
//! The registry's part follows the store's commits, the positions are the feed's own, the reports are written here after
//! they are on disk. [`gates::Fleet`] is how the planner sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use hosting_api::{
    ExceptionView, JoinTokenError, KekChange, KekChangeError, NewJoinToken, Platform, SubscriberView,
};
use hosting_feed::FeedHandle;
use hosting_feed::fleet::{Fleet, News, Remote};
use hosting_intent::{Audience, Key};
use hosting_planner::gates::{self, ExceptionKind, Phase, Report};
use hosting_proto::feed::{self as wire, exception, key_report};
use hosting_resource::Kind;
use hosting_store::{
    Commit, FleetChange, FleetOrder, KeyRange, ListQuery, NodeReport, PageError, ReadTx, ReportRow, Store,
    StoreError, Watermark,
};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kek_file::KekFile;
use crate::registry::record;

/// Node resources read at once.
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
    /// By node, then key: a node's report costs what it says, whatever others said.
    reports: RwLock<HashMap<String, BTreeMap<Key, Report>>>,
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
    /// Reads registry, epoch, positions and reports from the store.
    pub(crate) async fn load(store: &Store, fleet: Fleet) -> Result<Arc<Self>, StoreError> {
        let view = Self {
            fleet,
            members: RwLock::default(),
            epoch: RwLock::default(),
            reports: RwLock::default(),
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
            let mut saved = Vec::with_capacity(page.len());
            for mark in &page {
                saved.push((mark.audience.clone(), mark.node.clone(), remote(&mut tx, mark).await?));
            }
            self.fleet.restore(saved);
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        let nodes = self.read_registry(&mut store.read().await?).await?;
        self.drop_strangers();
        write(&self.reports).retain(|node, _| nodes.contains(node));
        for node in nodes {
            self.reload_reports(store, &node, &KeyRange::default()).await?;
        }
        self.news.lock().unwrap_or_else(PoisonError::into_inner).everything = true;
        self.changed();
        Ok(())
    }

    /// Reads what a node reports of a range of keys anew.
    async fn reload_reports(&self, store: &Store, node: &str, range: &KeyRange) -> Result<(), StoreError> {
        let mut all = BTreeMap::new();
        let mut after = range.after().cloned();
        loop {
            let page = store.read().await?.reports_of(node, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let is_last = !range.holds(&last.key);
            all.extend(page.into_iter().filter(|row| range.holds(&row.key)).map(known));
            if is_last {
                break;
            }
        }
        let mut reports = write(&self.reports);
        let of_node = reports.entry(node.to_owned()).or_default();
        let before = take_range(of_node, range);
        of_node.extend(all.clone());
        drop(reports);
        let Ok(audience) = Audience::node(node) else { return Ok(()) };
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        for key in before.keys().chain(all.keys()) {
            if before.get(key) != all.get(key) {
                news.item(&audience, key.clone());
            }
        }
        Ok(())
    }

    /// Takes in what another controller wrote of the fleet.
    async fn absorb(&self, store: &Store, change: &FleetChange) -> Result<(), StoreError> {
        let mut tx = store.read().await?;
        for (audience, node) in &change.subscribers {
            let said = match tx.subscriber(node, audience).await? {
                // By now it is here.
                Some(mark) if mark.controller == store.controller() => continue,
                Some(mark) => Some(remote(&mut tx, &mark).await?),
                None => None,
            };
            self.fleet.learn(audience.clone(), node.clone(), said);
        }
        for (node, changed) in &change.reports {
            for range in &changed.ranges {
                self.reload_reports(store, node, range).await?;
            }
            for key in &changed.keys {
                let said = tx.report(node, key).await?.map(|row| known(row).1);
                let mut reports = write(&self.reports);
                let of_node = reports.entry(node.clone()).or_default();
                let before = match said.clone() {
                    Some(said) => of_node.insert(key.clone(), said),
                    None => of_node.remove(key),
                };
                drop(reports);
                if before != said
                    && let Ok(audience) = Audience::node(node)
                {
                    self.news.lock().unwrap_or_else(PoisonError::into_inner).item(&audience, key.clone());
                }
            }
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
        let nodes = self.read_registry(&mut tx).await?;
        drop(tx);
        self.drop_strangers();
        self.news.lock().unwrap_or_else(PoisonError::into_inner).everything = true;
        write(&self.reports).retain(|node, _| nodes.contains(node));
        self.changed();
        Ok(())
    }

    async fn read_registry(&self, tx: &mut ReadTx) -> Result<BTreeSet<String>, StoreError> {
        let (mut members, mut nodes) = (BTreeMap::<Audience, BTreeSet<String>>::new(), BTreeSet::new());
        let mut query = ListQuery { limit: PAGE, ..ListQuery::new(Kind::Node) };
        loop {
            let page = tx.page(&query).await.map_err(page_failed)?;
            for node in &page.items {
                let Some(record) = record(node) else { continue };
                nodes.insert(node.id.clone());
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
        *write(&self.epoch) = tx.epoch().to_owned();
        Ok(nodes)
    }

    /// Ends the subscriptions that the registry no longer gives: the node is gone, or plays that role no more.
    fn drop_strangers(&self) {
        let members = read(&self.members).clone();
        self.fleet.retain(|audience, node| members.get(audience).is_some_and(|nodes| nodes.contains(node)));
    }

    /// Takes a node's report, which the store has. Gives back how many keys of the node it went over.
    pub(crate) fn reported(&self, node: &str, report: &NodeReport) -> usize {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let audience = Audience::node(node).ok();
        let mut concerns = |key: &Key| {
            if let Some(audience) = &audience {
                news.item(audience, key.clone());
            }
        };
        let reported = report.reports.iter().map(|one| {
            let report =
                Report { phase: phase(one.phase()), revision: one.revision, message: one.message.clone() };
            (Key { kind: one.kind, name: one.key.clone() }, report)
        });
        let mut reports = write(&self.reports);
        let of_node = reports.entry(node.to_owned()).or_default();
        let mut visited = report.gone.len() + report.reports.len();
        let mut before: BTreeMap<Key, Report> =
            report.gone.iter().filter_map(|key| of_node.remove_entry(key)).collect();
        if let Some(range) = &report.all_of {
            let replaced = take_range(of_node, range);
            visited += replaced.len();
            before.extend(replaced);
        }
        // A node that comes back says again what is known: that concerns nobody.
        for (key, report) in reported {
            let known = before.remove(&key).or_else(|| of_node.get(&key).cloned());
            if known.as_ref() != Some(&report) {
                concerns(&key);
            }
            of_node.insert(key, report);
        }
        before.keys().for_each(concerns);
        drop(reports);
        drop(news);
        self.changed();
        visited
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

/// Takes out what lies in a range.
fn take_range(reports: &mut BTreeMap<Key, Report>, range: &KeyRange) -> BTreeMap<Key, Report> {
    let after = range.after().map_or(Bound::Unbounded, Bound::Excluded);
    let upto = range.upto().map_or(Bound::Unbounded, Bound::Included);
    let keys: Vec<Key> = reports.range::<Key, _>((after, upto)).map(|(key, _)| key.clone()).collect();
    keys.iter().filter_map(|key| reports.remove_entry(key)).collect()
}

/// What a row says of a subscriber.
async fn remote(tx: &mut ReadTx, mark: &Watermark) -> Result<Remote, StoreError> {
    let exceptions = tx.exceptions(&mark.node, &mark.audience).await?;
    Ok(Remote {
        controller: mark.controller.clone(),
        connected: mark.connected,
        in_service: mark.in_service,
        build: mark.build.clone(),
        epoch: mark.epoch.clone(),
        applied: mark.applied,
        durable: mark.durable,
        exceptions: exceptions.into_iter().map(wire_exception).collect(),
    })
}

fn known(row: ReportRow) -> (Key, Report) {
    let report = Report { phase: phase(row.phase), revision: row.revision, message: row.message };
    (row.key, report)
}

/// The cursor comes from the page before, so only the store can fail.
fn page_failed(error: PageError) -> StoreError {
    match error {
        PageError::Store(error) => error,
        PageError::Cursor => StoreError::Row("a cursor of another list".into()),
    }
}

fn phase(phase: key_report::Phase) -> Phase {
    match phase {
        key_report::Phase::Unspecified | key_report::Phase::Converging | key_report::Phase::Blocked => {
            Phase::Working
        }
        key_report::Phase::Ready => Phase::Ready,
        key_report::Phase::Failed => Phase::Failed,
        key_report::Phase::Retired => Phase::Retired,
        key_report::Phase::Orphan => Phase::Orphan,
    }
}

fn wire_exception(row: hosting_store::ExceptionRow) -> wire::Exception {
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
        exception::Type::Rejected | exception::Type::Unspecified => ExceptionKind::Rejected,
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

    fn report(&self, node: &str, key: &Key) -> Option<Report> {
        read(&self.reports).get(node)?.get(key).cloned()
    }
}

/// The running controller, as the API sees it.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) view: Arc<FleetView>,
    pub(crate) feed: FeedHandle,
    pub(crate) token_life: Duration,
    pub(crate) keks: KekFile,
}

#[async_trait]
impl Platform for Running {
    fn fleet(&self) -> Arc<dyn gates::Fleet + Send + Sync> {
        self.view.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.view.changes()
    }

    fn subscribers(&self) -> Vec<SubscriberView> {
        let all = self.view.fleet.all();
        all.into_iter()
            .map(|one| SubscriberView {
                node_id: one.node_id,
                audience: one.audience,
                build: one.build,
                epoch: one.epoch,
                applied: one.applied,
                durable: one.durable,
                connected: one.connected,
                in_service: one.in_service,
                silent_for: one.silent_for,
                exceptions: one
                    .exceptions
                    .iter()
                    .map(|exception| ExceptionView {
                        kind: exception_kind(exception),
                        key: Key { kind: exception.kind, name: exception.key.clone() },
                        revision: exception.revision,
                        reason: exception.reason.clone(),
                    })
                    .collect(),
            })
            .collect()
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
}

#[cfg(test)]
mod tests {
    use hosting_feed::fleet::LEASE;
    use hosting_proto::feed::{KeyReport, ReportRequest, ReportedKey};
    use hosting_store::{Kek, ReportChange, StoreConfig};

    use super::*;

    /// Another controller's nodes report page by page: each is read as far as it goes.
    #[tokio::test]
    async fn of_a_report_elsewhere_what_changed_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let view = FleetView::load(&store, Fleet::new(LEASE)).await.unwrap();
        view.take_news();
        let key = |name: &str| Key { kind: 21, name: name.into() };
        let said =
            |name: &str, phase| KeyReport { kind: 21, key: name.into(), phase, ..KeyReport::default() };
        let phases = || {
            ["a", "b", "c", "d"]
                .map(|name| gates::Fleet::report(&*view, "n1", &key(name)).map(|one| one.phase))
        };

        let all = KeyRange::of(&ReportRequest { full: true, ..ReportRequest::default() });
        let reports = ["a", "b", "c", "d"].map(|name| said(name, 2)).to_vec();
        store.save_reports("n1", NodeReport { all_of: all, reports, ..NodeReport::default() }).await.unwrap();
        let change =
            |change| FleetChange { reports: [("n1".to_owned(), change)].into(), ..FleetChange::default() };
        view.absorb(&store, &change(ReportChange::everything())).await.unwrap();
        assert_eq!(phases(), [Some(Phase::Ready); 4]);
        assert_eq!(view.take_news().items.len(), 4);

        let named = |name: &str| Some(ReportedKey { kind: 21, key: name.into() });
        let page = wire::KeyRange { after: named("a"), upto: named("c") };
        let range = KeyRange::of(&ReportRequest { all_of: Some(page), ..ReportRequest::default() }).unwrap();
        let report =
            NodeReport { all_of: Some(range.clone()), reports: vec![said("b", 3)], ..NodeReport::default() };
        store.save_reports("n1", report).await.unwrap();
        let ranges = vec![range];
        view.absorb(&store, &change(ReportChange { ranges, ..ReportChange::default() })).await.unwrap();
        assert_eq!(phases(), [Some(Phase::Ready), Some(Phase::Failed), None, Some(Phase::Ready)]);
        let audience = Audience::node("n1").unwrap();
        assert_eq!(view.take_news().items, ["b", "c"].map(|name| (audience.clone(), key(name))).into());
        store.close().await;
    }
}
