//! One driver per kind of thing on a node. They hold the node's [`Layout`] and nothing that changes.

mod nginx;
mod php_fpm;
mod retire;
mod site;
mod tenant;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hosting_agent_engine::{Answer, DataId, Driver, Engine, Host, HostError, Key, Probe, ServiceState};

pub use nginx::{NginxHost, NginxSpec};
pub use php_fpm::PhpFpm;
pub use retire::{Retire, RetireSpec};
pub use site::{Site, SiteSpec};
pub use tenant::{Tenant, TenantSpec};

use crate::layout::{Layout, NGINX, PROBE_HEADER, PROBE_PATH};

/// The node's engine: every driver, in the order in which the later ones build on the earlier.
#[must_use]
pub fn engine(layout: &Arc<Layout>, concurrency: usize) -> Engine {
    Engine::new(concurrency)
        .with(NginxHost::new(layout.clone()))
        .with(Tenant::new())
        .with(PhpFpm::new(layout.clone()))
        .with(Site::new(layout.clone()))
        .with(Retire)
}

/// The one nginx of the node.
#[must_use]
pub fn nginx_key() -> Key {
    Key::new(NginxHost::KIND, nginx::NAME)
}

/// How long a service may take to answer by a configuration that it was just told of.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at whether it still lives.
const SLICE: Duration = Duration::from_millis(100);

/// What a marker on disk says of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    None,
    Incarnation(u64),
    Damaged,
}

async fn marker(host: &dyn Host, data: &DataId) -> Result<Marker, HostError> {
    Ok(match host.read(&data.marker()).await? {
        None => Marker::None,
        Some(text) => match DataId::read_marker(&text) {
            Some((incarnation, _)) => Marker::Incarnation(incarnation),
            None => Marker::Damaged,
        },
    })
}

/// What stands in the way of using a folder as `data`; `None`: nothing.
fn in_the_way(marker: Marker, data: &DataId) -> Option<String> {
    match marker {
        Marker::None => None,
        Marker::Incarnation(found) if found == data.incarnation => None,
        Marker::Incarnation(found) => Some(format!(
            "{} of incarnation {found} is still in {}; waits until it is retired",
            data.marker_name(),
            data.home()
        )),
        Marker::Damaged => Some(format!("{} cannot be read; restore or remove it by hand", data.marker())),
    }
}

/// Ids that have a marker of a kind.
async fn marked(host: &dyn Host, prefix: &str) -> Result<Vec<String>, HostError> {
    let names = host.names(&DataId::markers()).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(prefix)).map(ToOwned::to_owned).collect())
}

/// Names in a folder of configuration pieces.
async fn pieces(host: &dyn Host, folder: &hosting_agent_engine::Place) -> Result<Vec<String>, HostError> {
    let names = host.names(folder).await?;
    Ok(names
        .iter()
        .filter(|name| !name.starts_with('.'))
        .filter_map(|name| name.strip_suffix(".conf"))
        .map(ToOwned::to_owned)
        .collect())
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

/// Waits until the configuration in force is the one on disk. A service that ends meanwhile is not waited for: why it ended
/// says more than that it does not answer.
async fn await_answer(host: &dyn Host, service: &str, probe: &Probe) -> Result<(), HostError> {
    let (mut said, mut ended) = (String::new(), None);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match host.probe(probe, SLICE).await {
            Answer::Expected | Answer::Busy => return Ok(()),
            Answer::Other(what) | Answer::Silent(what) => said = what,
        }
        match host.service(service).await? {
            ServiceState::Down(why) => return Err(HostError::service(service, why)),
            ServiceState::Stopped | ServiceState::Retiring(_) => {
                return Err(HostError::service(service, "it is not running"));
            }
            ServiceState::Running { last_end, .. } => ended = last_end,
        }
    }
    if let Some(why) = ended {
        return Err(HostError::service(service, why));
    }
    let why = format!("does not answer by its new configuration after {} s: {said}", PATIENCE.as_secs());
    Err(HostError::service(service, why))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use hosting_agent_engine::{Secret, block_on, fake::FakeHost};

    use super::*;
    use crate::layout::{Roots, WebLimits};

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
