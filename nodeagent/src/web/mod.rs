//! The role `web`: nginx, PHP-FPM, tenants' folders and sites.

pub mod derive;
pub mod drivers;
pub mod layout;
pub mod render;
mod settings;

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use hosting_agent_engine::{Engine, Secret};
use hosting_intent::{Key, NodeIntent, Rejection, RoleIntent as _};
use hosting_intent_sync::client::AudienceKeys;
use hosting_scaffold::file::write_private;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::watch;

use self::{
    drivers::{DATA, drivers, nginx_key},
    layout::{Layout, NGINX},
};
use crate::{
    host::{logs::ServiceLogs, supervisor::Supervisor},
    role::{Derivation, ReadyPart, Role, RoleInfo},
};
pub use settings::{Flags, Settings};

/// The role.
pub const ROLE: RoleInfo = RoleInfo {
    name: "web",
    kinds: NodeIntent::KINDS,
    data: DATA,
    ready: &[ReadyPart { name: NGINX, thing: nginx_key }],
    ends_first: Some(NGINX),
    logs: LOGS,
    sound: |settings| settings.roles.web.check(),
    check: settings::check,
    remarks: settings::remarks,
    open: |settings, node| {
        let token = Secret(probe_token(&node.data_dir)?);
        let mut layout = settings::layout(settings, &node, token)?;
        if let Ok((handles, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            layout.web = layout.web.within(handles);
        }
        tracing::warn!(
            isolation = "none",
            user = layout.site_user.as_ref().map_or("the agent's own", |user| user.name.as_str()),
            "isolation: none. All sites of this node run as the same user"
        );
        Ok(Box::new(WebNode::new(Arc::new(layout), node.edge_key, node.audience_keys)))
    },
};

/// Logs that are no tenant's. nginx opens its own by a reload, because its workers, who run as the user of the sites, must not
/// be able to open them by themselves.
pub const LOGS: &[ServiceLogs] = &[
    ServiceLogs { owns: |folder| folder == NGINX, reload: Some(NGINX) },
    ServiceLogs { owns: |folder| folder.starts_with("php-fpm"), reload: None },
];

/// A web node.
#[derive(Debug)]
pub struct WebNode {
    layout: Arc<Layout>,
    edge_key: watch::Receiver<Option<Secret>>,
    keys: AudienceKeys,
}

impl WebNode {
    /// With its set-up, what edges show in `X-Hosting-Key`, and what opens the secrets of its intents.
    #[must_use]
    pub fn new(layout: Arc<Layout>, edge_key: watch::Receiver<Option<Secret>>, keys: AudienceKeys) -> Self {
        Self { layout, edge_key, keys }
    }
}

impl Role for WebNode {
    fn check(&self, key: &Key, intent: &NodeIntent) -> Result<(), Rejection> {
        derive::check(&self.layout, &self.keys, key, intent)
    }

    fn drivers(&self, engine: Engine) -> Engine {
        drivers(engine, &self.layout)
    }

    fn derivation(&self) -> Box<dyn Derivation> {
        Box::new(derive::Web::new(self.edge_key.clone(), self.keys.clone()))
    }

    fn bound(&self, supervisor: &Supervisor) {
        supervisor.bound_old_workers(self.layout.web.old_workers);
    }
}

/// What our probes show to nginx: made once, so that a restart does not change nginx's configuration.
fn probe_token(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("probe-token");
    if let Ok(text) = fs::read_to_string(&path) {
        let text = text.trim();
        if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(text.to_owned());
        }
    }
    let token = format!("{:032x}", rand::random::<u128>());
    write_private(&path, token.as_bytes()).with_context(|| path.display().to_string())?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_token_stays() {
        let dir = tempfile::tempdir().unwrap();
        let token = probe_token(dir.path()).unwrap();
        assert_eq!(probe_token(dir.path()).unwrap(), token);
        fs::write(dir.path().join("probe-token"), "; evil").unwrap();
        assert_ne!(probe_token(dir.path()).unwrap(), token);
    }
}
