//! A fleet, and a running controller, that stand as a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::channel::mpsc;
use futures::stream::BoxStream;
use hosting_api::{
    AuthoritiesView, AuthorityChange, AuthorityError, AuthorityView, JoinTokenError, KekChange,
    KekChangeError, NewJoinToken, Platform, RequestNews, ServedView, SubscriberView,
};
use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_planner::WorldError;
use hosting_planner::gates::{Evidence, Exception, Fleet, Phase, Report, Reports, Subscriber};
use tokio::sync::watch;

/// A fleet of one edge, one name server and the web nodes, told by the test how it stands.
#[derive(Default)]
pub(crate) struct FakeFleet {
    pub(crate) state: Mutex<FleetState>,
    pub(crate) changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct FleetState {
    /// Nodes that are not in service.
    pub(crate) away: Vec<String>,
    /// Nodes that take no further revision than this one.
    pub(crate) stuck: BTreeMap<String, u64>,
    /// What nodes do not apply.
    pub(crate) exceptions: BTreeMap<(String, Key), Exception>,
    /// What subscribers found when they asked their own listeners.
    pub(crate) served: BTreeMap<String, ServedView>,
    pub(crate) released: Vec<String>,
    pub(crate) forgotten: Vec<String>,
    pub(crate) kek_changes: Vec<KekChange>,
    pub(crate) authority_changes: Vec<AuthorityChange>,
    /// What requests were watched of: cluster, host and tenant, and by what news are told.
    pub(crate) watched: Vec<(String, mpsc::UnboundedSender<RequestNews>)>,
    /// There is no place for more.
    pub(crate) watches_are_full: bool,
}

impl FakeFleet {
    pub(crate) fn set(&self, change: impl FnOnce(&mut FleetState)) {
        change(&mut self.state.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }

    fn node_of(audience: &Audience) -> String {
        match audience {
            Audience::Edge(_) => "edge-1".to_owned(),
            Audience::Dns(_) => "dns-1".to_owned(),
            Audience::Node(node) | Audience::Gateway(node) => node.as_str().to_owned(),
        }
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    fn subscribers(&self, audience: &Audience) -> Vec<Subscriber> {
        let node_id = Self::node_of(audience);
        let state = self.state.lock().unwrap();
        let applied = state.stuck.get(&node_id).copied().unwrap_or(u64::MAX);
        let in_service = !state.away.contains(&node_id);
        vec![Subscriber { node_id, applied, in_service }]
    }

    fn exception(&self, _: &Audience, node: &str, key: &Key) -> Option<Exception> {
        self.state.lock().unwrap().exceptions.get(&(node.to_owned(), key.clone())).cloned()
    }

    async fn reports(&self, _: &mut dyn Evidence, about: &[(String, Key)]) -> Result<Reports, WorldError> {
        let report = |about: &(String, Key)| {
            let is_retire = about.1.known_kind() == Some(IntentKind::Retire);
            let phase = if is_retire { Phase::Retired } else { Phase::Ready };
            (about.clone(), Report { phase, revision: u64::MAX, message: String::new() })
        };
        Ok(about.iter().map(report).collect())
    }
}

pub(crate) struct FakePlatform(pub(crate) Arc<FakeFleet>);

#[async_trait]
impl Platform for FakePlatform {
    fn fleet(&self) -> Arc<dyn Fleet> {
        self.0.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn subscribers(&self) -> Vec<SubscriberView> {
        let state = self.0.state.lock().unwrap();
        let view = |node: &str, audience: &str| SubscriberView {
            node_id: node.into(),
            audience: audience.parse().unwrap(),
            build: "1".into(),
            epoch: "e".into(),
            applied: 3,
            durable: 2,
            connected: true,
            in_service: !state.away.contains(&node.to_owned()),
            silent_for: Duration::from_millis(1500),
            exceptions: Vec::new(),
        };
        vec![view("edge-1", "edge/c")]
    }

    fn subscriber(&self, audience: &Audience, node_id: &str) -> Option<SubscriberView> {
        // Its only cluster has another id in each test.
        let of = |one: &SubscriberView| one.node_id == node_id && one.audience.role() == audience.role();
        self.subscribers().into_iter().find(of)
    }

    fn served(&self, _: &Audience, node_id: &str) -> Option<ServedView> {
        self.0.state.lock().unwrap().served.get(node_id).cloned()
    }

    fn release(&self, audience: &Audience, node_id: &str, _: &str) -> bool {
        self.0.state.lock().unwrap().released.push(format!("{audience} {node_id}"));
        true
    }

    fn watch_requests(
        &self,
        cluster: &Audience,
        host: &str,
        tenant: &str,
    ) -> Option<BoxStream<'static, RequestNews>> {
        let mut state = self.0.state.lock().unwrap();
        let (news, watched) = mpsc::unbounded();
        state.watched.push((format!("{cluster} {host} {tenant}"), news));
        (!state.watches_are_full).then(|| watched.boxed())
    }

    fn forget(&self, node_id: &str) {
        self.0.state.lock().unwrap().forgotten.push(node_id.to_owned());
    }

    async fn join_token(&self, node_id: &str) -> Result<NewJoinToken, JoinTokenError> {
        Ok(NewJoinToken { token: format!("token-of-{node_id}"), expires_at: 3_600_000 })
    }

    async fn change_keks(&self, change: KekChange) -> Result<(), KekChangeError> {
        self.0.state.lock().unwrap().kek_changes.push(change);
        match change {
            KekChange::Rotate => Ok(()),
            KekChange::ForgetFormer => Err(KekChangeError::Conflict("still needed".into())),
        }
    }

    async fn authorities(&self) -> Result<AuthoritiesView, AuthorityError> {
        let items = vec![AuthorityView { fingerprint: "ab".into(), issues: true }];
        Ok(AuthoritiesView { items, untold: vec!["edge-1 (edge/c)".into()], retirable_at: 3_600_000 })
    }

    async fn change_authorities(&self, change: AuthorityChange) -> Result<(), AuthorityError> {
        self.0.state.lock().unwrap().authority_changes.push(change.clone());
        match change {
            AuthorityChange::Add => Ok(()),
            AuthorityChange::Promote { fingerprint } => Err(AuthorityError::Unknown(fingerprint)),
            AuthorityChange::Retire { force, .. } if force => Ok(()),
            AuthorityChange::Retire { .. } => Err(AuthorityError::Conflict("still needed".into())),
        }
    }
}
