//! From intents to the things of a web node.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use hosting_agent_engine::{DataId, Desired, Secret};
use hosting_intent::message::{self as m, env_value::Value};
use hosting_intent::{
    Key, Kind, NodeIntent, Rejection,
    php::{Processes, Settings},
};
use hosting_intent_sync::client::AudienceKeys;
use tokio::sync::watch;

use super::{
    drivers::{
        DATA, NginxHost, NginxSpec, PhpFpm, Site, SiteSpec, TENANT, Tenant, TenantSpec, WEBROOT, nginx_key,
    },
    layout::Layout,
    render::{self, BadValue, php::Pool},
};
use crate::{
    drivers::{Retire, RetireSpec},
    role::Derivation,
    view::Items,
};

fn invalid(bad: BadValue, field: &'static str) -> Rejection {
    Rejection::Invalid { field, problem: bad.to_string() }
}

/// What [`hosting_intent::RoleIntent::parse`] cannot know: whether configuration files can be made of it.
pub(super) fn check(
    layout: &Layout,
    keys: &AudienceKeys,
    key: &Key,
    intent: &NodeIntent,
) -> Result<(), Rejection> {
    match intent {
        NodeIntent::Webroot(webroot) => {
            match webroot.runtime.as_str() {
                "static" => {}
                "php" => {
                    let env = environment(keys, key, webroot)?;
                    let pool = pool(&key.name, webroot, env).map_err(|bad| invalid(bad, "php"))?;
                    render::php::master(layout, &pool).map_err(|bad| invalid(bad, "php"))?;
                }
                other => {
                    let problem =
                        format!("{other:?} is not supported by this agent; it knows static and php");
                    return Err(Rejection::Invalid { field: "runtime", problem });
                }
            }
            render::nginx::site(layout, &site(&key.name, webroot, false))
                .map_err(|bad| invalid(bad, "public_folder"))?;
            Ok(())
        }
        NodeIntent::TrustRoots(_)
        | NodeIntent::TenantState(_)
        | NodeIntent::AudienceKey(_)
        | NodeIntent::Tenant(_)
        | NodeIntent::Retire(_) => Ok(()),
    }
}

fn site(id: &str, webroot: &m::Webroot, suspended: bool) -> render::nginx::Site {
    render::nginx::Site {
        id: id.to_owned(),
        tenant: webroot.tenant_id.clone(),
        public_folder: webroot
            .public_folder
            .split('/')
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .collect(),
        shard: webroot.shard_name.clone(),
        php: (webroot.runtime == "php").then(|| render::nginx::Php { settings: settings(webroot) }),
        suspended,
    }
}

/// Settings of a webroot that passed [`hosting_intent::RoleIntent::parse`].
fn settings(webroot: &m::Webroot) -> Settings {
    webroot.php.as_ref().and_then(|pool| Settings::of(pool).ok()).unwrap_or_default()
}

/// A site's environment, with its secrets opened.
fn environment(
    keys: &AudienceKeys,
    key: &Key,
    webroot: &m::Webroot,
) -> Result<BTreeMap<String, Secret>, Rejection> {
    let mut env = BTreeMap::new();
    for (name, set) in &webroot.env {
        let value = match &set.value {
            Some(Value::Plain(text)) => text.clone(),
            Some(Value::Sealed(sealed)) => {
                let opened = keys.open(key, &format!("env/{name}"), sealed)?;
                let text = str::from_utf8(&opened).map_err(|_| Rejection::Invalid {
                    field: "env",
                    problem: format!("{name}: is no text"),
                })?;
                text.to_owned()
            }
            // Refused where the intent is read.
            None => continue,
        };
        env.insert(name.clone(), Secret(value));
    }
    Ok(env)
}

fn pool(id: &str, webroot: &m::Webroot, env: BTreeMap<String, Secret>) -> Result<Pool, BadValue> {
    Ok(Pool {
        id: id.to_owned(),
        tenant: webroot.tenant_id.clone(),
        version: webroot.runtime_version.clone(),
        processes: Processes::of(webroot.php.as_ref())
            .map_err(|problem| BadValue::new("php", problem.to_string()))?,
        settings: settings(webroot),
        env,
    })
}

fn is_suspended(items: &Items, tenant: &str) -> bool {
    let on_node = items.get(&Key::new(Kind::Tenant, tenant)).map(|item| item.intent.as_ref());
    let served = items.get(&Key::new(Kind::TenantState, tenant)).map(|item| item.intent.as_ref());
    matches!(on_node, Some(NodeIntent::Tenant(tenant)) if tenant.state() == m::State::Suspended)
        || matches!(served, Some(NodeIntent::TenantState(state)) if state.state() == m::State::Suspended)
}

fn incarnation(intent: &NodeIntent) -> Option<u64> {
    if let NodeIntent::Tenant(tenant) = intent {
        Some(tenant.incarnation)
    } else if let NodeIntent::Webroot(webroot) = intent {
        Some(webroot.incarnation)
    } else {
        None
    }
}

/// A web node's derivation.
#[derive(Debug)]
pub struct Web {
    edge_key: watch::Receiver<Option<Secret>>,
    keys: AudienceKeys,
    /// Tenant and id of each site.
    sites: BTreeSet<(String, String)>,
}

impl Web {
    /// With what edges show in `X-Hosting-Key`, and what opens secrets.
    #[must_use]
    pub fn new(edge_key: watch::Receiver<Option<Secret>>, keys: AudienceKeys) -> Self {
        Self { edge_key, keys, sites: BTreeSet::new() }
    }

    fn sites_of<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.sites.range((tenant.to_owned(), String::new())..);
        all.take_while(move |(of, _)| of == tenant).map(|(_, site)| site.as_str())
    }

    /// What still needs data that a retire names.
    fn wanted_by(&self, items: &Items, data: &DataId) -> Option<String> {
        let kind = if data.kind == TENANT { Kind::Tenant } else { Kind::Webroot };
        let wanted = items.get(&Key::new(kind, data.id.clone()));
        if wanted.and_then(|item| incarnation(&item.intent)) == Some(data.incarnation) {
            return Some(format!("{}/{}", data.kind.as_str(), data.id));
        }
        if data.kind != TENANT {
            return None;
        }
        self.sites_of(&data.id).next().map(|site| format!("{}/{site}", WEBROOT.as_str()))
    }
}

fn tenant_of(intent: Option<&NodeIntent>) -> Option<&str> {
    if let Some(NodeIntent::Webroot(webroot)) = intent { Some(&webroot.tenant_id) } else { None }
}

impl Derivation for Web {
    fn changed(
        &mut self,
        key: &Key,
        before: Option<&NodeIntent>,
        after: Option<&NodeIntent>,
        touched: &mut BTreeSet<Key>,
    ) {
        let retire = |kind: Kind, id: &str| Key::new(Kind::Retire, Key::new(kind, id).to_string());
        if key.kind == Kind::Webroot as u32 {
            // Only what stands in the way of a retire depends on which sites there are.
            for tenant in tenant_of(before).into_iter().chain(tenant_of(after)) {
                touched.insert(retire(Kind::Tenant, tenant));
            }
            touched.insert(retire(Kind::Webroot, &key.name));
            if let Some(tenant) = tenant_of(before) {
                self.sites.remove(&(tenant.to_owned(), key.name.clone()));
            }
            if let Some(tenant) = tenant_of(after) {
                self.sites.insert((tenant.to_owned(), key.name.clone()));
            }
        } else if key.kind == Kind::Tenant as u32 || key.kind == Kind::TenantState as u32 {
            touched.insert(retire(Kind::Tenant, &key.name));
            touched.extend(self.sites_of(&key.name).map(|site| Key::new(Kind::Webroot, site)));
        }
    }

    fn wants(&self, items: &Items, key: &Key, revision: u64, intent: &NodeIntent) -> Desired {
        let mut desired = Desired::new();
        let origin = Some((key.clone(), revision));
        match intent {
            NodeIntent::Tenant(tenant) => {
                let spec = TenantSpec { incarnation: tenant.incarnation };
                desired.want::<Tenant>(key.name.clone(), spec, origin);
            }
            NodeIntent::Webroot(webroot) => {
                let suspended = is_suspended(items, &webroot.tenant_id);
                let site = site(&key.name, webroot, suspended);
                if site.php.is_some()
                    && !suspended
                    && let Ok(env) = environment(&self.keys, key, webroot)
                    && let Ok(pool) = pool(&key.name, webroot, env)
                {
                    desired.want::<PhpFpm>(key.name.clone(), pool, origin.clone());
                }
                let spec = SiteSpec { incarnation: webroot.incarnation, site };
                desired.want::<Site>(key.name.clone(), spec, origin);
                // A tenant that is suspended, or no longer, is not done before its sites show it.
                desired.settles::<Site>(&key.name, Key::new(Kind::Tenant, webroot.tenant_id.clone()));
            }
            NodeIntent::Retire(retire) => {
                if let Some(spec) = RetireSpec::of(retire, DATA, |data| self.wanted_by(items, data)) {
                    desired.want::<Retire>(key.name.clone(), spec, origin);
                }
            }
            NodeIntent::TrustRoots(_) | NodeIntent::TenantState(_) | NodeIntent::AudienceKey(_) => {}
        }
        desired
    }

    fn always(&mut self) -> Desired {
        let mut desired = Desired::new();
        let spec = NginxSpec { edge_key: self.edge_key.borrow_and_update().clone() };
        desired.want::<NginxHost>(nginx_key().name, spec, None);
        desired
    }

    fn news(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.edge_key.changed().await.is_err() {
                // Nobody gives another one; the last one stays in force until the process ends.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        view::{InEffect, View},
        wants::Wants,
    };

    fn derivation() -> Box<dyn Derivation> {
        static KEYS: LazyLock<AudienceKeys> =
            LazyLock::new(|| AudienceKeys::load(tempfile::tempdir().unwrap().path()).unwrap());
        Box::new(Web::new(watch::channel(None).1, KEYS.clone()))
    }

    fn wants() -> Wants {
        Wants::new(derivation())
    }

    fn put(view: &mut View, key: Key, intent: NodeIntent) {
        view.revision += 1;
        view.items.insert(key, InEffect { revision: view.revision, intent: Arc::new(intent) });
    }

    fn site_of(tenant: &str, runtime: &str, incarnation: u64) -> NodeIntent {
        NodeIntent::Webroot(m::Webroot {
            tenant_id: tenant.into(),
            runtime: runtime.into(),
            runtime_version: if runtime == "php" { "8.2".into() } else { String::new() },
            php: (runtime == "php").then(|| m::PhpPool { max_children: 2, ..m::PhpPool::default() }),
            incarnation,
            ..m::Webroot::default()
        })
    }

    fn retire_of(kind: Kind, id: &str, tenant: &str, incarnation: u64) -> NodeIntent {
        NodeIntent::Retire(m::Retire {
            kind: kind as i32,
            key: id.into(),
            tenant_id: tenant.into(),
            incarnation,
        })
    }

    /// One change of a view with few tenants and sites, so that they meet.
    fn change() -> impl Strategy<Value = (Key, Option<NodeIntent>)> {
        let tenant = prop::sample::select(vec!["t_a", "t_b"]);
        let id = prop::sample::select(vec!["web_a", "web_b", "web_c"]);
        let state = prop::sample::select(vec![m::State::Active, m::State::Suspended]);
        (0..6, tenant, id, state, 1..3_u64, any::<bool>()).prop_map(
            |(what, tenant, id, state, life, there)| {
                let state = state as i32;
                let retired = |kind, id: &str| Key::new(Kind::Retire, Key::new(kind, id).to_string());
                let (key, intent) = match what {
                    0 => (
                        Key::new(Kind::Tenant, tenant),
                        NodeIntent::Tenant(m::Tenant { uid: 1, state, incarnation: life }),
                    ),
                    1 => (
                        Key::new(Kind::TenantState, tenant),
                        NodeIntent::TenantState(m::TenantState { state, ..m::TenantState::default() }),
                    ),
                    2 => (Key::new(Kind::Webroot, id), site_of(tenant, "php", life)),
                    3 => (Key::new(Kind::Webroot, id), site_of(tenant, "static", life)),
                    4 => (retired(Kind::Webroot, id), retire_of(Kind::Webroot, id, tenant, life)),
                    _ => (retired(Kind::Tenant, tenant), retire_of(Kind::Tenant, tenant, "", life)),
                };
                (key, there.then_some(intent))
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_followed_step_by_step_is_what_the_last_view_wants(
            changes in prop::collection::vec(change(), 1..60),
            looks in prop::collection::vec(any::<bool>(), 60),
        ) {
            let (mut view, mut wants) = (View::default(), wants());
            for ((key, intent), look) in changes.into_iter().zip(looks) {
                match intent {
                    Some(intent) => put(&mut view, key, intent),
                    None => drop(view.items.remove(&key)),
                }
                if look {
                    wants.follow(&view);
                }
            }
            prop_assert!(wants.follow(&view) == tests::wants().follow(&view));
        }
    }

    #[test]
    fn a_change_costs_its_own_intents_whatever_else_is_there() {
        let cost = |sites: usize| {
            let (mut view, mut wants) = (View::default(), wants());
            for number in 0..sites {
                let tenant = format!("t_{:04}", number / 10);
                put(
                    &mut view,
                    Key::new(Kind::Webroot, format!("web_{number:05}")),
                    site_of(&tenant, "static", 1),
                );
                let tenant = Key::new(Kind::Tenant, tenant);
                put(&mut view, tenant, NodeIntent::Tenant(m::Tenant { uid: 1, state: 1, incarnation: 1 }));
            }
            wants.follow(&view);
            put(&mut view, Key::new(Kind::Webroot, "web_00007"), site_of("t_0000", "php", 1));
            wants.follow(&view);
            let one = wants.derived();
            let suspended = m::Tenant { uid: 1, state: m::State::Suspended as i32, incarnation: 1 };
            put(&mut view, Key::new(Kind::Tenant, "t_0000"), NodeIntent::Tenant(suspended));
            wants.follow(&view);
            (one, wants.derived())
        };
        // A site and the two retires that it may stand in the way of; a tenant, its ten sites and its retire.
        assert_eq!(cost(100), (3, 12));
        assert_eq!(cost(2_000), (3, 12));
    }
}
