//! The drivers of a web node. They hold the node's [`Layout`] and nothing that changes.

mod nginx;
mod php_fpm;
mod site;
mod tenant;

use std::sync::Arc;

use hosting_agent_engine::{DataId, DataKind, Driver, Engine, Key, Place, Probe, Root};
use hosting_intent::Kind;

pub use nginx::{NginxHost, NginxSpec};
pub use php_fpm::PhpFpm;
pub use site::{Site, SiteSpec};
pub use tenant::{Tenant, TenantSpec};
#[cfg(test)]
pub(crate) use {site::data as site_data, tenant::data as tenant_data};

use super::layout::{Layout, NGINX, PROBE_HEADER, PROBE_PATH, tenant_logs};
use crate::drivers::{Destroyable, Marker, await_answer, in_the_way, marked, marker, pieces};

/// A tenant: everything in its folder.
pub const TENANT: DataKind =
    DataKind::new("tenant", |data: &DataId| Place::new(Root::Storage, [data.id.as_str()])).holding_others();

/// One site's folder.
pub const WEBROOT: DataKind = DataKind::new("webroot", |data: &DataId| {
    Place::new(Root::Storage, [data.tenant.as_str(), "webroots", data.id.as_str()])
});

/// What a retire may destroy on a web node.
pub const DATA: &[Destroyable] = &[
    Destroyable {
        kind: TENANT,
        intent: Kind::Tenant,
        users: |id| vec![Key::new(Tenant::KIND, id)],
        logs: |id| Some(tenant_logs(id)),
    },
    Destroyable {
        kind: WEBROOT,
        intent: Kind::Webroot,
        users: |id| vec![Key::new(PhpFpm::KIND, id), Key::new(Site::KIND, id)],
        logs: |_| None,
    },
];

/// Adds every driver, those that the others build on first.
#[must_use]
pub fn drivers(engine: Engine, layout: &Arc<Layout>) -> Engine {
    engine
        .with(NginxHost::new(layout.clone()))
        .with(Tenant::new())
        .with(PhpFpm::new(layout.clone()))
        .with(Site::new(layout.clone()))
}

/// The one nginx of the node.
#[must_use]
pub fn nginx_key() -> Key {
    Key::new(NginxHost::KIND, nginx::NAME)
}

fn http_probe(layout: &Layout, host: &str, expect: &str) -> Probe {
    let address = layout.listen.first().map(ToString::to_string).unwrap_or_default();
    Probe::Http {
        service: NGINX.to_owned(),
        address,
        host: host.to_owned(),
        path: PROBE_PATH.to_owned(),
        header: (PROBE_HEADER.to_owned(), layout.probe_token.clone()),
        expect: expect.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use hosting_agent_engine::{Secret, block_on, fake::FakeHost};

    use super::*;
    use crate::{roots::Roots, web::layout::WebLimits};

    /// A set-up for tests without a machine.
    pub(crate) fn layout() -> Arc<Layout> {
        Arc::new(Layout {
            node_id: "web-1".into(),
            roots: Roots {
                storage: "/srv/storage".into(),
                logs: "/srv/logs".into(),
                config: "/srv/config".into(),
                run: "/srv/run".into(),
                temp: "/srv/temp".into(),
            },
            listen: vec!["127.0.0.1:8080".parse().unwrap()],
            edges: vec!["127.0.0.0/8".into()],
            nginx: "/usr/sbin/nginx".into(),
            workers: 1,
            web: WebLimits::default(),
            php: BTreeMap::from([
                ("8.2".to_owned(), PathBuf::from("/usr/sbin/php-fpm8.2")),
                ("8.3".to_owned(), PathBuf::from("/usr/sbin/php-fpm8.3")),
            ]),
            site_user: None,
            sites_are_root: false,
            probe_token: Secret("token".into()),
        })
    }

    /// Brings a driver's key to rest on the host, as another driver's scenario needs it.
    pub(crate) fn settle<D: Driver>(driver: &D, name: &str, spec: &D::Spec, host: &FakeHost) {
        block_on(async {
            for _ in 0..8 {
                let seen = driver.observe(name, Some(spec), host).await.unwrap();
                match driver.plan(name, Some(spec), &seen) {
                    hosting_agent_engine::Plan::Rest(_) => return,
                    hosting_agent_engine::Plan::Do(steps) => {
                        for step in steps {
                            driver.step(name, &step, host).await.unwrap();
                        }
                    }
                }
            }
            panic!("{name} does not settle");
        });
    }
}
