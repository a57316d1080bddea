//! A role's whole subscription: identity, audience, ledger, client; the same for every role.
//!
//! The order is ledger → publish → serve → connect. A credential on disk is taken without the network. Where there is none
//! that can be used, a ledger of this role is published before anything is asked of the controller, and the process serves
//! from it for as long as enrolling fails. Nothing here knows what a role does. Called by each role's wiring.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hosting_intent::{Audience, Role, RoleIntent as _};
use hosting_ledger::{Ledger, LedgerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lending::State;
use super::{
    AudienceKeys, Client, ClientError, ClientMetrics, EdgeKeyStore, KeysWatch, Lending, Link, Options,
    Reporter, ReporterTask, RequestCalls, TrafficLink, report,
};
use crate::Replica;
use crate::identity::{Enrolment, Identity, IdentityError, RootsWatch, TokenSource};
use crate::self_check::ServedWatch;
use crate::subscriber::{Brake, Config, Strict, Subscriber};

/// How long a first start goes on asking a controller that cannot be reached.
const ENROL_PATIENCE: Duration = Duration::from_secs(600);
/// Between two tries to enrol of a process that serves from its ledger meanwhile.
const ENROL_AGAIN: Duration = Duration::from_secs(30);

/// Where a role keeps its node's credential.
#[must_use]
pub fn identity_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

/// Where a role keeps its last good state.
#[must_use]
pub fn ledger_file(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.redb")
}

/// What a role subscribes with.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Holds the identity ([`identity_dir`]) and the ledger ([`ledger_file`]). One process at a time.
    pub data_dir: PathBuf,
    /// `host:port` of each controller; empty: those of the join token.
    pub controllers: Vec<String>,
    /// The join token of a first start; `-` is standard input.
    pub token_file: Option<PathBuf>,
    /// The role that the process plays. A node has one audience of it.
    pub role: Role,
    /// The build, for operators.
    pub build: &'static str,
    /// Registered by the process.
    pub metrics: ClientMetrics,
    /// Where the role keeps its edge key; `None`: it has none.
    pub edge_key: Option<EdgeKeyStore>,
    /// What opens the secrets of the role's intents; `None`: they hold none.
    pub audience_keys: Option<AudienceKeys>,
    /// What the role finds when it asks its own listeners; `None`: it does not.
    pub served: Option<ServedWatch>,
    /// By which the process lends the subscription, and sees how it stands.
    pub lending: Lending,
}

/// Why a role cannot subscribe.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// There is no identity, and no ledger to serve from meanwhile.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The controller gives the node no audience of this role.
    #[error(
        "node {node} has no audience of the role `{role}`: the controller gives it {audiences:?}; give it the role `{role}` and enrol again"
    )]
    NoAudience {
        /// Its id.
        node: String,
        /// The role that has it.
        role: Role,
        /// What there is.
        audiences: Vec<String>,
    },
    /// The controller gives the node several audiences of this role.
    #[error(
        "node {node} has several audiences of the role `{role}` ({audiences:?}); a process serves one, so give it one"
    )]
    SeveralAudiences {
        /// Its id.
        node: String,
        /// The role that has them.
        role: Role,
        /// What there is.
        audiences: Vec<String>,
    },
    /// The thread that reads the ledger ended early.
    #[error("reading the ledger: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// The client ended by itself.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Subscription {
    /// Subscribes, and stays so until `stop`.
    ///
    /// # Errors
    /// [`SubscriptionError`], with the next step.
    pub async fn run<R: Replica>(self, replica: R, stop: CancellationToken) -> Result<(), SubscriptionError> {
        match self.identify(&stop).await? {
            Some(identified) => Box::pin(identified.run(replica, stop)).await,
            None => Ok(()),
        }
    }

    /// Finds out whose intents to apply, for a role whose replica needs to know; `None` if `stop` came before.
    ///
    /// # Errors
    /// [`SubscriptionError`], with the next step.
    pub fn identify(
        self,
        stop: &CancellationToken,
    ) -> BoxFuture<'_, Result<Option<Identified>, SubscriptionError>> {
        // Boxed, so that it is compiled with this crate and not again with each role.
        Box::pin(self.find_audience(stop))
    }

    async fn find_audience(self, stop: &CancellationToken) -> Result<Option<Identified>, SubscriptionError> {
        // Without a token the network is not needed.
        let on_disk = Enrolment { token: TokenSource::None, ..self.enrolment() };
        let error = match Identity::load_or_enroll(&on_disk).await {
            Ok(identity) => return self.identified(identity).map(Some),
            Err(error) => error,
        };
        if matches!(error, IdentityError::InUse { .. }) {
            return Err(error.into());
        }
        let file = ledger_file(&self.data_dir);
        if let Some(audience) = tokio::task::spawn_blocking(move || audience_of(&file)).await??
            && audience.role() == self.role
        {
            tracing::error!(%error, %audience, "no identity; serving what the ledger knows while enrolling");
            return Ok(Some(Identified::new(self, audience, None)));
        }
        let enrolment = self.enrolment();
        let identity = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            identity = Identity::load_or_enroll(&enrolment) => identity?,
        };
        self.identified(identity).map(Some)
    }

    fn identified(self, identity: Identity) -> Result<Identified, SubscriptionError> {
        let audience = self.audience(&identity)?;
        Ok(Identified::new(self, audience, Some(identity)))
    }

    fn enrolment(&self) -> Enrolment {
        Enrolment {
            dir: identity_dir(&self.data_dir),
            token: TokenSource::from_path(self.token_file.as_deref()),
            controllers: self.controllers.clone(),
            patience: ENROL_PATIENCE,
            role: self.role.to_string(),
        }
    }

    /// The one audience of this role.
    fn audience(&self, identity: &Identity) -> Result<Audience, SubscriptionError> {
        let audience = self.choose(identity.node_id(), identity.audiences())?;
        tracing::info!(node = identity.node_id(), cell = identity.cell(), %audience, "identity");
        Ok(audience)
    }

    fn choose(&self, node: &str, audiences: Vec<String>) -> Result<Audience, SubscriptionError> {
        let (node, role) = (node.to_owned(), self.role);
        // Those of roles that this build does not know are another process's.
        let known = audiences.iter().filter_map(|audience| audience.parse::<Audience>().ok());
        let mut fitting = known.filter(|audience| audience.role() == role);
        match (fitting.next(), fitting.next()) {
            (Some(audience), None) => Ok(audience),
            (None, _) => Err(SubscriptionError::NoAudience { node, role, audiences }),
            (Some(_), Some(_)) => Err(SubscriptionError::SeveralAudiences { node, role, audiences }),
        }
    }
}

/// A subscription that knows its audience, and is not connected yet.
#[derive(Debug)]
pub struct Identified {
    subscription: Subscription,
    audience: Audience,
    /// `None`: the ledger is all there is; enrolling comes after it is published.
    identity: Option<Identity>,
    options: Options,
    link: watch::Sender<Option<Link>>,
}

impl Identified {
    fn new(subscription: Subscription, audience: Audience, identity: Option<Identity>) -> Self {
        Self { subscription, audience, identity, options: Options::default(), link: watch::Sender::new(None) }
    }

    /// Whose intents it is about to apply.
    #[must_use]
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Whom the certificate names; `None` while the ledger is all there is.
    #[must_use]
    pub fn node_id(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::node_id)
    }

    /// As [`Client::reporter`].
    #[must_use]
    pub fn reporter(&self) -> (Reporter, ReporterTask) {
        report::new(self.link.subscribe(), self.options.backoff)
    }

    /// A way to the controller for reports of traffic.
    #[must_use]
    pub fn traffic(&self) -> TrafficLink {
        TrafficLink::new(self.link.subscribe(), self.audience.to_string())
    }

    /// The calls by which the controllers hear of requests that somebody watches.
    #[must_use]
    pub fn requests(&self) -> RequestCalls {
        RequestCalls::new(self.link.subscribe(), self.options.clone(), self.audience.to_string())
    }

    /// Publishes the ledger, enrols if that is still to be done, and stays subscribed until `stop`.
    ///
    /// # Errors
    /// [`SubscriptionError`], with the next step. While there is a view to serve, enrolling is tried again instead.
    pub async fn run<R: Replica>(self, replica: R, stop: CancellationToken) -> Result<(), SubscriptionError> {
        let Self { subscription, audience, identity, options, link } = self;
        let replica = KeysWatch::new(replica, subscription.audience_keys.clone(), &audience);
        let replica = RootsWatch::new(replica, identity.clone());
        let late = replica.identity();
        let config = Config {
            audience: audience.clone(),
            build: subscription.build.to_owned(),
            kinds: R::Intent::KINDS.to_vec(),
            brake: Brake::default(),
        };
        let file = ledger_file(&subscription.data_dir);
        // Reads the whole ledger and publishes it.
        let opened = tokio::task::spawn_blocking(move || {
            let ledger = open_ledger(&file, &config.audience)?;
            Subscriber::<_, _, Strict>::open(config, ledger, replica)
        });
        let mut subscriber = opened.await??;
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let Some(identity) = subscription.enrol_or_lend(&mut subscriber, &stop).await? else {
                    return Ok(());
                };
                let found = subscription.audience(&identity)?;
                if found != audience {
                    let path = ledger_file(&subscription.data_dir);
                    let (found, wanted) = (audience.to_string(), found.to_string());
                    return Err(LedgerError::OtherAudience { path, found, wanted }.into());
                }
                late.get_or_init(|| identity).clone()
            }
        };
        let Subscription { edge_key, audience_keys, served, metrics, data_dir, lending, .. } = subscription;
        let data_dir = Some(data_dir);
        let client = Client {
            link,
            edge_key,
            audience_keys,
            served,
            lending,
            data_dir,
            ..Client::new(identity, options, metrics)
        };
        Ok(client.run(subscriber, stop).await?)
    }
}

impl Subscription {
    /// Enrols; lends the ledger meanwhile to whoever wants it. `None`: `stop` came before.
    async fn enrol_or_lend<R: Replica>(
        &self,
        subscriber: &mut Subscriber<Ledger, R, Strict>,
        stop: &CancellationToken,
    ) -> Result<Option<Identity>, IdentityError> {
        let status = subscriber.status();
        self.metrics.show(&status);
        self.lending.shows().send_replace(Some(status.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                identity = self.enrol(status.position.is_some()) => return identity.map(Some),
                () = self.lending.wanted() => {}
            }
            match subscriber.lend(Instant::now()) {
                Ok(()) => {
                    self.lending.stand(State::Lent, stop).await;
                    if stop.is_cancelled() {
                        // What the other process wrote stays.
                        return Ok(None);
                    }
                    subscriber.taken_back();
                    subscriber.flush(Instant::now());
                }
                Err(why) => self.lending.stand(State::Refused(why), stop).await,
            }
            self.lending.kept();
        }
    }

    /// Enrols; does not give up while there is something to serve, because the remedy may be put in place meanwhile.
    fn enrol(&self, has_view: bool) -> BoxFuture<'_, Result<Identity, IdentityError>> {
        Box::pin(self.enrol_with_patience(has_view))
    }

    async fn enrol_with_patience(&self, has_view: bool) -> Result<Identity, IdentityError> {
        let enrolment = self.enrolment();
        loop {
            match Identity::load_or_enroll(&enrolment).await {
                Err(error) if has_view && !matches!(error, IdentityError::InUse { .. }) => {
                    tracing::error!(%error, again = ?ENROL_AGAIN, "not enrolled; serving what is known");
                }
                done => return done,
            }
            tokio::time::sleep(ENROL_AGAIN).await;
        }
    }
}

/// A damaged ledger was set aside by the first try; the second begins with nothing and waits for the controller.
fn open_ledger(path: &Path, audience: &Audience) -> Result<Ledger, LedgerError> {
    let audience = audience.to_string();
    match Ledger::open(path, &audience) {
        Err(error @ LedgerError::Corrupt { .. }) => {
            tracing::error!(%error, "beginning without a ledger");
            Ledger::open(path, &audience)
        }
        other => other,
    }
}

/// Whose ledger is there; `None` if there is none, or none that can be used.
fn audience_of(path: &Path) -> Result<Option<Audience>, LedgerError> {
    // Opening the ledger for an audience that it is not of fails with the audience that it is of, and writes nothing.
    const NOBODY: &str = "";
    let io = |doing| move |source: io::Error| LedgerError::Io { doing, path: path.to_owned(), source };
    if !path.try_exists().map_err(io("look for"))? {
        return Ok(None);
    }
    match Ledger::open(path, NOBODY) {
        Err(LedgerError::OtherAudience { found, .. }) => Ok(found.parse().ok()),
        Err(error @ LedgerError::Corrupt { .. }) => {
            tracing::error!(%error, "beginning without a ledger");
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(unfinished) => {
            // It had never got as far as an audience, so nothing is in it. Removed while it is locked.
            fs::remove_file(path).map_err(io("remove the unfinished ledger"))?;
            drop(unfinished);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hosting_intent::{Digest, EdgeIntent, Key, Rejection};
    use hosting_ledger::{Journal, LedgerBatch, Meta};

    use super::*;
    use crate::Batch;

    fn at(audience: &str) -> Audience {
        audience.parse().unwrap()
    }

    struct Told(mpsc::SyncSender<u64>);

    impl Replica for Told {
        type Intent = EdgeIntent;

        fn check(&self, _: &Key, _: &EdgeIntent) -> Result<(), Rejection> {
            Ok(())
        }
        fn publish(&mut self, batch: Batch<EdgeIntent>) {
            self.0.send(batch.revision).unwrap();
        }
    }

    fn subscription(data_dir: &Path) -> Subscription {
        Subscription {
            data_dir: data_dir.to_owned(),
            controllers: Vec::new(),
            token_file: None,
            role: Role::Lb,
            build: "test",
            metrics: ClientMetrics::default(),
            edge_key: None,
            audience_keys: None,
            served: None,
            lending: Lending::default(),
        }
    }

    fn ledger_at(data_dir: &Path, audience: &str, revision: Option<u64>) {
        let mut ledger = Ledger::open(ledger_file(data_dir), audience).unwrap();
        if let Some(revision) = revision {
            let meta = Meta { epoch: "e1".into(), revision, count: 0, digest: Digest::EMPTY };
            let records = Box::new(std::iter::empty());
            ledger.write(LedgerBatch { meta: &meta, replace_all: true, records }).unwrap();
        }
    }

    async fn start(data_dir: &Path) -> Result<(), SubscriptionError> {
        let (told, _hears) = mpsc::sync_channel(8);
        let run = subscription(data_dir).run(Told(told), CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(20), run).await.unwrap()
    }

    #[tokio::test]
    async fn a_ledger_is_served_though_the_credential_is_lost_or_damaged() {
        for damaged in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            ledger_at(dir.path(), "edge/c1", Some(7));
            if damaged {
                fs::create_dir(identity_dir(dir.path())).unwrap();
                fs::write(identity_dir(dir.path()).join("credential.pem"), "rubbish").unwrap();
            }
            let stop = CancellationToken::new();
            let (told, hears) = mpsc::sync_channel(8);
            let identified = subscription(dir.path()).identify(&stop).await.unwrap().unwrap();
            assert_eq!((identified.audience(), identified.node_id()), (&at("edge/c1"), None));
            let running = tokio::spawn(identified.run(Told(told), stop.clone()));
            let heard = tokio::task::spawn_blocking(move || hears.recv_timeout(Duration::from_secs(20)));
            assert_eq!(heard.await.unwrap(), Ok(7));
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!running.is_finished(), "enrolling failed, which must not end it");
            stop.cancel();
            tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_subscription_is_lent_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        ledger_at(dir.path(), "edge/c1", Some(7));
        let (told, hears) = mpsc::sync_channel(8);
        let (lending, stop) = (Lending::default(), CancellationToken::new());
        let ours = Subscription { lending: lending.clone(), ..subscription(dir.path()) };
        let running = tokio::spawn(ours.run(Told(told), stop.clone()));
        let heard = tokio::task::spawn_blocking(move || hears.recv_timeout(Duration::from_secs(20)));
        assert_eq!(heard.await.unwrap(), Ok(7));
        let file = ledger_file(dir.path());
        let is_held = || matches!(Ledger::open(&file, "edge/c1"), Err(LedgerError::Locked { .. }));
        for _ in 0..2 {
            let until = Instant::now() + Duration::from_secs(20);
            while !is_held() {
                assert!(Instant::now() < until, "it is taken back");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            lending.lend().await.unwrap();
            // As another process would.
            ledger_at(dir.path(), "edge/c1", Some(9));
            lending.take_back();
        }
        lending.lend().await.unwrap();
        ledger_at(dir.path(), "edge/c1", Some(9));
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
        let mut ledger = Ledger::open(&file, "edge/c1").unwrap();
        let left = ledger.load(&mut |_, _| {}).unwrap().map(|meta| meta.revision);
        assert_eq!(left, Some(9), "who ends while it is lent leaves what the other process wrote");
    }

    #[tokio::test]
    async fn with_nothing_to_serve_a_missing_identity_is_an_error() {
        let no_identity =
            |outcome| matches!(outcome, Err(SubscriptionError::Identity(IdentityError::NotEnrolled { .. })));
        let dir = tempfile::tempdir().unwrap();
        assert!(no_identity(start(dir.path()).await));
        assert!(!ledger_file(dir.path()).exists());
        // Never written: not yet known is not empty.
        ledger_at(dir.path(), "edge/c1", None);
        assert!(no_identity(start(dir.path()).await));
        let other = tempfile::tempdir().unwrap();
        ledger_at(other.path(), "dns/default", Some(7));
        assert!(no_identity(start(other.path()).await));
        assert_eq!(audience_of(&ledger_file(other.path())).unwrap(), Some(at("dns/default")));
    }

    #[tokio::test]
    async fn a_ledger_in_use_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let _held = Ledger::open(ledger_file(dir.path()), "edge/c1").unwrap();
        let outcome = start(dir.path()).await;
        assert!(matches!(outcome, Err(SubscriptionError::Ledger(LedgerError::Locked { .. }))));
    }

    #[test]
    fn looking_whose_a_ledger_is_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let file = ledger_file(dir.path());
        assert_eq!(audience_of(&file).unwrap(), None);
        assert!(!file.exists());
        // The process died before the first commit.
        fs::write(&file, "").unwrap();
        assert_eq!(audience_of(&file).unwrap(), None);
        ledger_at(dir.path(), "edge/c1", Some(1));
        for _ in 0..2 {
            assert_eq!(audience_of(&file).unwrap(), Some(at("edge/c1")));
        }
        fs::write(&file, [7; 9_000]).unwrap();
        assert_eq!(audience_of(&file).unwrap(), None);
        open_ledger(&file, &at("edge/c2")).unwrap();
    }

    #[test]
    fn one_audience_of_the_role_or_the_remedy() {
        let of = |audiences: &[&str]| {
            let audiences = audiences.iter().map(ToString::to_string).collect();
            subscription(Path::new("data")).choose("n1", audiences).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["dns/default", "edge/c1", "node/n1"]), Ok(at("edge/c1")));
        let error = of(&["dns/default"]).unwrap_err();
        assert!(["node n1", "dns/default", "role `lb`"].iter().all(|word| error.contains(word)), "{error}");
        let error = of(&["edge/c1", "edge/c2"]).unwrap_err();
        assert!(error.contains("several") && error.contains("edge/c2"), "{error}");
    }
}
