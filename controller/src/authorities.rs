//! The cell's certificate authorities: made at the first start, exchanged by an operator one step at a time, the same for every controller.
//!
//! What is stored counts. A change is written beside the trust roots of the fleet in one mutation, unless another controller was first;
//! the others find it within [`EVERY`]. Audiences are told page by page: a start goes over all of them, so that nobody is left out who
//! was to be told when a controller died.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hosting_api::{AuthoritiesView, AuthorityChange, AuthorityError, AuthorityView};
use hosting_feed::FeedHandle;
use hosting_feed::pki::{Authorities, PkiError};
use hosting_intent::{Audience, Cause, Key, Kind};
use hosting_intent_sync::tls::Fingerprint;
use hosting_planner::gates::Fleet;
use hosting_planner::{PlanError, Unit, World, WorldError};
use hosting_store::{Origin, Secret, Store};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Where the authorities are sealed.
const SEALED: &str = "feed authorities";
/// Audiences that one mutation plans, and one read goes over.
const AUDIENCES: u32 = 200;
/// How often a controller looks whether another one changed them.
const EVERY: Duration = Duration::from_secs(10);
/// Subscribers that an answer names at most.
const MOST_NAMED: usize = 20;

/// The cell's authorities, made at the first start. The fleet is told whom to trust.
pub(crate) async fn load(store: &Store) -> anyhow::Result<Authorities> {
    let stored = match store.unseal(SEALED).await? {
        Some(secret) => secret,
        None => {
            let new = Authorities::create(store.cell(), store.now() / 1000)?;
            store.seal_once(SEALED, &new.to_secret()?).await?
        }
    };
    let authorities = Authorities::from_secret(stored.expose())?;
    let roots = authorities.roots_der();
    store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                for root in &roots {
                    tx.add_trust_root(root).await.map_err(WorldError::from)?;
                }
                Ok::<(), PlanError>(())
            })
        })
        .await?;
    tell_whom_to_trust(store).await.context("cannot tell the fleet whom to trust")?;
    Ok(authorities)
}

/// Plans each audience there is, a page in each mutation: one that nobody can subscribe to any more goes.
async fn tell_whom_to_trust(store: &Store) -> anyhow::Result<()> {
    let mut after: Option<Audience> = None;
    loop {
        let page = store.read().await?.audiences(after.as_ref(), AUDIENCES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        store
            .write(Origin::default(), move |tx| {
                Box::pin(async move {
                    hosting_planner::replan(page.into_iter().map(Unit::Audience), tx, Cause::Planner).await
                })
            })
            .await?;
    }
}

/// The authorities while the controller runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rotation {
    store: Store,
    feed: FeedHandle,
    fleet: Arc<dyn Fleet + Send + Sync>,
    /// Life of nodes' certificates.
    node_life: Duration,
    /// One change at a time.
    turn: Arc<Mutex<()>>,
}

impl Rotation {
    pub(crate) fn new(
        store: Store,
        feed: FeedHandle,
        fleet: Arc<dyn Fleet + Send + Sync>,
        node_life: Duration,
    ) -> Self {
        Self { store, feed, fleet, node_life, turn: Arc::default() }
    }

    /// How they stand.
    pub(crate) async fn view(&self) -> Result<AuthoritiesView, AuthorityError> {
        let (_, authorities) = self.take_over().await?;
        let issuing = authorities.issuing();
        let items = authorities.fingerprints().into_iter().map(|fingerprint| AuthorityView {
            fingerprint: fingerprint.to_string(),
            issues: fingerprint == issuing,
        });
        Ok(AuthoritiesView {
            items: items.collect(),
            untold: self.untold().await?,
            retirable_at: self.retirable_at(&authorities).saturating_mul(1000),
        })
    }

    /// Makes a change, puts it into effect and tells the fleet.
    pub(crate) async fn change(&self, change: AuthorityChange) -> Result<(), AuthorityError> {
        let _turn = self.turn.lock().await;
        let (stored, before) = self.take_over().await?;
        let now = self.store.now() / 1000;
        let mut after = before.clone();
        let done = match &change {
            AuthorityChange::Add => after.add(now).map(drop),
            AuthorityChange::Promote { fingerprint } => {
                let untold = self.untold().await?;
                if !untold.is_empty() {
                    let who = untold.join(", ");
                    let why = format!(
                        "not everybody in service trusts all authorities yet: {who}; try again in a moment"
                    );
                    return Err(AuthorityError::Conflict(why));
                }
                after.promote(fingerprint_of(fingerprint)?, now)
            }
            AuthorityChange::Retire { fingerprint, force } => {
                let at = self.retirable_at(&before);
                if !force && now < at {
                    let until = hosting_resource::timestamp(at.saturating_mul(1000));
                    let why = format!(
                        "machines may have certificates of it until {until}, and would have to join again: wait, or force it \
                         if its key may have been seen"
                    );
                    return Err(AuthorityError::Conflict(why));
                }
                after.retire(fingerprint_of(fingerprint)?)
            }
        };
        done.map_err(refused)?;
        if !self.exchange(&stored, &before, &after).await? {
            let why = "another controller changed the authorities just now; look, then try again";
            return Err(AuthorityError::Conflict(why.to_owned()));
        }
        self.feed.replace_authorities(after).map_err(failed)?;
        tell_whom_to_trust(&self.store).await.map_err(|error| AuthorityError::Failed(error.into()))?;
        tracing::warn!(?change, "the certificate authorities changed");
        Ok(())
    }

    /// Writes `after` in place of what was stored, and whom the fleet is to trust with it. False: it is not stored any more.
    async fn exchange(
        &self,
        stored: &Secret,
        before: &Authorities,
        after: &Authorities,
    ) -> Result<bool, AuthorityError> {
        let (seen, new) = (Secret::new(stored.expose().to_vec()), after.to_secret().map_err(failed)?);
        let (roots_before, roots) = (before.roots_der(), after.roots_der());
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move {
                if !tx.exchange_sealed(SEALED, seen.expose(), &new).await.map_err(WorldError::from)? {
                    return Ok(false);
                }
                for root in roots.iter().filter(|root| !roots_before.contains(root)) {
                    tx.add_trust_root(root).await.map_err(WorldError::from)?;
                }
                for root in roots_before.iter().filter(|root| !roots.contains(root)) {
                    tx.remove_trust_root(root).await.map_err(WorldError::from)?;
                }
                Ok::<_, PlanError>(true)
            })
        });
        Ok(written.await.map_err(failed)?.value)
    }

    /// What is stored now; another controller's change is put into effect.
    async fn take_over(&self) -> Result<(Secret, Authorities), AuthorityError> {
        let stored = self.store.unseal(SEALED).await.map_err(failed)?;
        let stored = stored.ok_or_else(|| AuthorityError::Failed("the authorities are gone".into()))?;
        let authorities = Authorities::from_secret(stored.expose()).map_err(failed)?;
        let known = self.feed.authorities();
        if known.fingerprints() != authorities.fingerprints() || known.issuing() != authorities.issuing() {
            self.feed.replace_authorities(authorities.clone()).map_err(failed)?;
            tracing::info!(?authorities, "the certificate authorities were changed");
        }
        Ok((stored, authorities))
    }

    /// From when on nobody has a certificate of an authority that does not issue, in seconds since the Unix epoch: certificates end one
    /// life after the promotion at the latest.
    fn retirable_at(&self, authorities: &Authorities) -> i64 {
        let life = i64::try_from(self.node_life.as_secs()).unwrap_or(i64::MAX);
        authorities.issuing_since().saturating_add(life)
    }

    /// Subscribers in service that have not applied whom to trust, at most [`MOST_NAMED`]. Who is away is led to a new authority by the
    /// one before, which certifies it.
    async fn untold(&self) -> Result<Vec<String>, AuthorityError> {
        let key = Key::new(Kind::TrustRoots, "roots");
        let mut tx = self.store.read().await.map_err(failed)?;
        let (mut untold, mut after): (Vec<String>, Option<Audience>) = (Vec::new(), None);
        while untold.len() < MOST_NAMED {
            let page = tx.audiences(after.as_ref(), AUDIENCES).await.map_err(failed)?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            for audience in &page {
                let Some(row) = tx.intent(audience, &key).await.map_err(failed)? else { continue };
                let late = self.fleet.subscribers(audience).into_iter();
                let late = late.filter(|one| one.in_service && one.applied < row.revision);
                untold.extend(late.map(|one| format!("{} ({audience})", one.node_id)));
            }
        }
        untold.truncate(MOST_NAMED);
        Ok(untold)
    }

    /// Looks for changes of other controllers until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let _turn = self.turn.lock().await;
            if let Err(error) = self.take_over().await {
                tracing::error!(%error, "the stored certificate authorities cannot be taken over");
            }
        }
        Ok(())
    }
}

fn fingerprint_of(text: &str) -> Result<Fingerprint, AuthorityError> {
    let bytes: Option<[u8; 32]> = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Fingerprint).ok_or_else(|| AuthorityError::Unknown(format!("{text:?} is no SHA-256 in hex")))
}

fn refused(error: PkiError) -> AuthorityError {
    match error {
        PkiError::Unknown(_) => AuthorityError::Unknown(error.to_string()),
        PkiError::Issues(_) | PkiError::TooMany => AuthorityError::Conflict(error.to_string()),
        PkiError::Name(_)
        | PkiError::Stored(_)
        | PkiError::Seal { .. }
        | PkiError::Request(_)
        | PkiError::Life(_)
        | PkiError::Crypto(_) => failed(error),
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> AuthorityError {
    AuthorityError::Failed(Box::new(error))
}

#[cfg(test)]
mod tests {
    use hosting_feed::fleet::{Fleet as FeedFleet, LEASE};
    use hosting_feed::metrics::FeedMetrics;
    use hosting_feed::{FeedConfig, FeedServer};
    use hosting_intent::{Bytes, Key, Kind as IntentKind};
    use hosting_planner::gates::{Exception, Subscriber};
    use hosting_planner::{Change, Draft, IntentChange};
    use hosting_resource::Kind as Resource;
    use hosting_store::{Kek, StoreConfig};
    use prometheus_client::registry::Registry as Metrics;
    use serde_json::json;

    use crate::fleet::FleetView;
    use crate::registry::{Registry, feed_deps};

    use super::*;

    /// Older builds planned trust roots for each node, whatever it subscribed to.
    #[tokio::test]
    async fn audiences_that_nobody_can_subscribe_to_go_at_the_start_however_many_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let dead = |n: u32| {
            let audience = Audience::node(&format!("edge-{n}")).unwrap();
            IntentChange {
                owner: Unit::Audience(audience.clone()).owner(),
                audience,
                key: Key::new(IntentKind::TrustRoots, "roots"),
                value: Some(Bytes::from_static(b"roots")),
                cause: Cause::Planner,
                traceparent: None,
                rollout: 0,
            }
        };
        for half in [0..600, 600..1_200] {
            let change = Change { intents: half.map(dead).collect(), ..Change::default() };
            let written =
                store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
            written.await.unwrap();
        }
        load(&store).await.unwrap();
        let mut tx = store.read().await.unwrap();
        let all = tx.audiences(None, 2_000).await.unwrap();
        assert_eq!(all.len(), 1_200);
        for audience in all {
            assert_eq!(tx.audience(&audience).await.unwrap().count, 0, "{audience}");
        }
        drop(tx);
        store.close().await;
    }

    async fn make(
        store: &Store,
        kind: Resource,
        parent: Option<hosting_resource::Resource>,
        body: serde_json::Value,
    ) -> hosting_resource::Resource {
        let body = body.as_object().unwrap();
        let creation = kind.def().create(parent.as_ref(), body, &mut |bytes: &mut [u8]| rand::fill(bytes));
        let creation = creation.unwrap();
        let made = store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::create(tx, creation).await })
        });
        made.await.unwrap().value.remove(0)
    }

    /// A fleet of one edge that has applied everything, or nothing.
    struct OneEdge(bool);

    impl Fleet for OneEdge {
        fn subscribers(&self, _: &Audience) -> Vec<Subscriber> {
            let applied = if self.0 { u64::MAX } else { 0 };
            vec![Subscriber { node_id: "edge-1".into(), applied, in_service: true }]
        }

        fn exception(&self, _: &Audience, _: &str, _: &Key) -> Option<Exception> {
            None
        }
    }

    /// A controller on the store, as far as authorities go.
    async fn controller(store: &Store, applied: bool) -> Rotation {
        let fleet = FeedFleet::new(LEASE);
        let view = FleetView::load(store, fleet.clone()).await.unwrap();
        let registry = Arc::new(Registry::new(store.clone(), view));
        let deps = feed_deps(store, &registry);
        let authorities = load(store).await.unwrap();
        let metrics = FeedMetrics::register(&mut Metrics::default());
        let config = FeedConfig::new("127.0.0.1:0".parse().unwrap());
        let life = config.node_life;
        let feed = FeedServer::bind(config, deps, authorities, fleet, metrics, Vec::new()).await.unwrap();
        Rotation::new(store.clone(), feed.handle(), Arc::new(OneEdge(applied)), life)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_authority_follows_another_at_every_controller() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let region = make(&store, Resource::Region, None, json!({"name": "eu"})).await;
        let cluster = make(&store, Resource::Cluster, Some(region), json!({"name": "c"})).await.id;
        let edge = Audience::edge(&cluster).unwrap();
        let first = controller(&store, true).await;
        let unit = Unit::Audience(edge.clone());
        let told = store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::replan([unit], tx, Cause::Planner).await })
        });
        told.await.unwrap();
        let (second, late) = (controller(&store, true).await, controller(&store, false).await);
        let key = Key::new(IntentKind::TrustRoots, "roots");
        let revision =
            async || store.read().await.unwrap().intent(&edge, &key).await.unwrap().unwrap().revision;
        let conflict = |result: Result<(), AuthorityError>| match result {
            Err(AuthorityError::Conflict(why)) => why,
            other => panic!("{other:?}"),
        };

        let begun = first.view().await.unwrap();
        assert!(begun.items.len() == 1 && begun.items[0].issues && begun.untold.is_empty());
        let old = begun.items[0].fingerprint.clone();
        let before = revision().await;
        first.change(AuthorityChange::Add).await.unwrap();
        assert!(revision().await > before, "the fleet is told of it");
        let new = second.view().await.unwrap().items[1].fingerprint.clone();
        let promote = |fingerprint: &str| AuthorityChange::Promote { fingerprint: fingerprint.to_owned() };
        let retire =
            |fingerprint: &str, force| AuthorityChange::Retire { fingerprint: fingerprint.to_owned(), force };

        // Nobody is left behind.
        let why = conflict(late.change(promote(&new)).await);
        assert!(why.contains(&format!("edge-1 ({edge})")), "{why}");
        assert_eq!(late.view().await.unwrap().untold, [format!("edge-1 ({edge})")]);
        second.change(promote(&new)).await.unwrap();
        let view = first.view().await.unwrap();
        assert_eq!(view.items.iter().map(|one| one.issues).collect::<Vec<_>>(), [false, true]);
        assert_eq!(first.feed.authorities().issuing().to_string(), new, "it is in effect at the other one");
        assert!(view.retirable_at > store.now(), "certificates of the old one are good for a while");
        assert!(conflict(first.change(retire(&old, false)).await).contains("force"));
        assert!(conflict(first.change(retire(&new, true)).await).contains("issues now"));
        let unknown = first.change(promote(&"0".repeat(64))).await;
        assert!(matches!(unknown, Err(AuthorityError::Unknown(_))), "{unknown:?}");
        assert!(matches!(first.change(promote("x")).await, Err(AuthorityError::Unknown(_))));

        let before = revision().await;
        first.change(retire(&old, true)).await.unwrap();
        assert!(revision().await > before);
        assert_eq!(second.view().await.unwrap().items, [AuthorityView { fingerprint: new, issues: true }]);
        // A start finds what was exchanged.
        assert_eq!(load(&store).await.unwrap().fingerprints().len(), 1);
        store.close().await;
    }

    #[tokio::test]
    async fn of_two_controllers_that_change_them_at_once_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let one = controller(&store, true).await;
        let (stored, before) = one.take_over().await.unwrap();
        let mut mine = before.clone();
        mine.add(store.now() / 1000).unwrap();
        let mut theirs = before.clone();
        theirs.add(store.now() / 1000).unwrap();
        assert!(one.exchange(&stored, &before, &theirs).await.unwrap());
        assert!(!one.exchange(&stored, &before, &mine).await.unwrap());
        assert_eq!(one.take_over().await.unwrap().1.fingerprints(), theirs.fingerprints());
        store.close().await;
    }
}
