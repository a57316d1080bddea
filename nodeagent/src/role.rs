//! What a role is to the agent: its drivers, what it wants of them, and the little that the agent must know beside that.
//!
//! The engine, the view, the loop and the host know no role. A role is a module with a [`RoleInfo`] and one name in the table
//! at the end of this file.

use std::{collections::BTreeSet, fmt::Debug, path::PathBuf};

use futures::future::BoxFuture;
use hosting_agent_engine::{Desired, Engine, Key as Thing, Secret};
use hosting_intent::{Key, Kind, NodeIntent, Rejection};
use hosting_intent_sync::client::AudienceKeys;
use hosting_scaffold::config::{ConfigError, Layers};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    drivers::{Destroyable, Retire},
    host::{logs::ServiceLogs, supervisor::Supervisor},
    roots::{Roots, SiteUser},
    settings::{Settings, SettingsError},
    view::Items,
};

/// The node that a role works on.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Where things lie.
    pub roots: Roots,
    /// Who customers' things run as; `None`: the agent's own user.
    pub site_user: Option<SiteUser>,
    /// The agent's own folder.
    pub data_dir: PathBuf,
    /// What edges show to the node; `None` until the controller has said it.
    pub edge_key: watch::Receiver<Option<Secret>>,
    /// What opens the secrets of its intents.
    pub audience_keys: AudienceKeys,
}

/// A part of the node whose state is the process's readiness.
#[derive(Debug, Clone, Copy)]
pub struct ReadyPart {
    /// As `/readyz` calls it.
    pub name: &'static str,
    /// The thing that it is.
    pub thing: fn() -> Thing,
}

/// A role that the agent can have.
#[derive(Debug, Clone, Copy)]
pub struct RoleInfo {
    /// As the registry calls it.
    pub name: &'static str,
    /// The kinds that it applies.
    pub kinds: &'static [Kind],
    /// Kinds of data that a retire may destroy.
    pub data: &'static [Destroyable],
    /// What has to be ready before the node is.
    pub ready: &'static [ReadyPart],
    /// The service that ends first when the agent does, so that nothing is asked of what is about to go.
    pub ends_first: Option<&'static str>,
    /// Folders of logs that are no tenant's.
    pub logs: &'static [ServiceLogs],
    /// Checks what types cannot say of the settings.
    pub sound: fn(&Settings) -> Result<(), SettingsError>,
    /// Checks the settings against the machine. Changes nothing.
    pub check: fn(&Settings) -> Result<(), SettingsError>,
    /// Comments for `--dump-config`: what follows from the settings on this machine.
    pub remarks: fn(&Settings) -> Vec<String>,
    /// The role, on a node.
    pub open: fn(&Settings, Node) -> anyhow::Result<Box<dyn Role>>,
}

impl RoleInfo {
    /// An engine with the role's drivers, and the one that destroys data.
    #[must_use]
    pub fn engine(&self, role: &dyn Role, concurrency: usize) -> Engine {
        role.drivers(Engine::new(concurrency)).with(Retire::new(self.data))
    }
}

/// A role on a node.
pub trait Role: Debug + Send + Sync + 'static {
    /// Checks what [`hosting_intent::RoleIntent::parse`] cannot know. Changes nothing.
    ///
    /// # Errors
    /// Why the intent cannot be applied here.
    fn check(&self, key: &Key, intent: &NodeIntent) -> Result<(), Rejection>;

    /// Adds the role's drivers, those that the others build on first.
    fn drivers(&self, engine: Engine) -> Engine;

    /// What the role wants of its drivers. Made once for an agent.
    fn derivation(&self) -> Box<dyn Derivation>;

    /// Sets the bounds that services of the role have.
    fn bound(&self, supervisor: &Supervisor) {
        let _ = supervisor;
    }
}

/// From intents to wanted things, one intent at a time.
pub trait Derivation: Send {
    /// An intent changed, came or went. Adds to `touched` each other intent whose things it shapes.
    fn changed(
        &mut self,
        key: &Key,
        before: Option<&NodeIntent>,
        after: Option<&NodeIntent>,
        touched: &mut BTreeSet<Key>,
    );

    /// The things that come from one intent in effect. Things of different intents have different names.
    fn wants(&self, items: &Items, key: &Key, revision: u64, intent: &NodeIntent) -> Desired;

    /// What the node itself needs, whatever the controller says.
    fn always(&mut self) -> Desired;

    /// Waits until [`Derivation::always`] has news. It may be dropped at any time.
    fn news(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

macro_rules! roles {
    ($($role:ident),+) => {
        /// Every role.
        pub const ROLES: &[&RoleInfo] = &[$(&crate::$role::ROLE),+];

        /// The settings of every role.
        #[derive(Debug, Clone, Default, PartialEq, Serialize)]
        pub struct SettingsByRole {
            $(
                #[doc = concat!("Those of the role `", stringify!($role), "`.")]
                #[serde(flatten)]
                pub $role: crate::$role::Settings,
            )+
        }

        impl SettingsByRole {
            pub(crate) fn load(layers: &mut Layers) -> Result<Self, ConfigError> {
                Ok(Self { $($role: layers.part()?),+ })
            }
        }

        /// The flags of every role.
        #[derive(Debug, Clone, Default, clap::Args, Serialize)]
        pub struct FlagsByRole {
            $(
                #[doc = concat!("Those of the role `", stringify!($role), "`.")]
                #[command(flatten)]
                #[serde(flatten)]
                pub $role: crate::$role::Flags,
            )+
        }
    };
}

// A role is a module of this crate with `ROLE`, `Settings` and `Flags`.
roles!(web);

/// A role by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static RoleInfo> {
    ROLES.iter().find(|role| role.name == name).copied()
}
