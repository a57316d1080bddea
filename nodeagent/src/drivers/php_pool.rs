//! A site's PHP pool. A key's name is `{version}/{webroot id}`: a change of the version makes a second pool, switches the
//! site over and then sweeps the first.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, Claim, Driver, EntryKind, Host, HostError, Key, Place, Plan, Rest, Root,
};

use super::{PhpFpm, Tenant, await_answer, php_fpm::configured, pieces, ping};
use crate::{
    layout::{Layout, php_folder, php_service, pool_file, pool_socket},
    render::{
        nginx::Rendered,
        php::{Pool, error_log, pool},
    },
};

/// Drives pools.
pub struct PhpPool {
    layout: Arc<Layout>,
}

/// What is there.
#[derive(Debug)]
pub struct PoolSeen {
    config: Option<Vec<u8>>,
    log: bool,
    wanted: Option<Result<Rendered, String>>,
    answer: Answer,
}

/// One change.
#[derive(Debug, Clone)]
pub enum PoolStep {
    /// The file for errors, which only the agent can make.
    Log(Place),
    /// Test the pool, put it in place and make php-fpm take it in.
    Install(String),
    /// Take in what is on disk.
    Reload,
    /// Until its socket answers by it.
    Await(String),
    /// Remove the pool.
    Remove,
}

impl fmt::Display for PoolStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log(_) => "make the PHP error log",
            Self::Install(_) => "install the PHP pool",
            Self::Reload => "reload php-fpm",
            Self::Await(_) => "wait for the PHP pool",
            Self::Remove => "remove the PHP pool",
        })
    }
}

impl PhpPool {
    /// With the node's set-up.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    /// The name of a site's pool.
    #[must_use]
    pub fn name(version: &str, webroot: &str) -> String {
        format!("{version}/{webroot}")
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, ""))
}

const LOG: Access = Access::site(0o640);

#[async_trait]
impl Driver for PhpPool {
    type Spec = Pool;
    type Observed = PoolSeen;
    type Step = PoolStep;
    const KIND: &'static str = "php_pool";

    fn needs(&self, _: &str, spec: &Pool) -> Vec<Key> {
        vec![Key::new(PhpFpm::KIND, spec.version.clone()), Key::new(Tenant::KIND, spec.tenant.clone())]
    }

    fn holds(&self, name: &str, _: &Pool) -> Vec<Claim> {
        // Sockets are files; on a file system that ignores case two of them would be one.
        vec![Claim(format!("php socket {}", name.to_ascii_lowercase()))]
    }

    fn held(&self, name: &str, seen: &PoolSeen) -> Vec<Claim> {
        seen.config.iter().map(|_| Claim(format!("php socket {}", name.to_ascii_lowercase()))).collect()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let mut names = Vec::new();
        for version in configured(host).await? {
            let pools = Place::new(Root::Config, [php_folder(&version).as_str(), "pools"]);
            names.extend(pieces(host, &pools).await?.iter().map(|webroot| Self::name(&version, webroot)));
        }
        Ok(names)
    }

    async fn observe(&self, name: &str, want: Option<&Pool>, host: &dyn Host) -> Result<PoolSeen, HostError> {
        let (version, webroot) = split(name);
        let config = host.read(&pool_file(version, webroot)).await?;
        let wanted = want.map(|spec| pool(&self.layout, spec).map_err(|error| error.to_string()));
        let log = match want {
            Some(spec) => {
                host.entry(&error_log(&spec.tenant)).await?.is_some_and(|e| e.kind == EntryKind::File)
            }
            None => true,
        };
        let answer = match &wanted {
            Some(Ok(rendered)) if config.is_some() => {
                let probe = ping(version, pool_socket(version, webroot), &rendered.fingerprint);
                host.probe(&probe, Duration::ZERO).await
            }
            Some(_) | None => Answer::Silent(String::new()),
        };
        Ok(PoolSeen { config, log, wanted, answer })
    }

    fn plan(&self, _: &str, want: Option<&Pool>, seen: &PoolSeen) -> Plan<PoolStep> {
        let (Some(spec), Some(wanted)) = (want, &seen.wanted) else {
            return match seen.config {
                Some(_) => Plan::Do(vec![PoolStep::Remove]),
                None => Plan::Rest(Rest::Gone),
            };
        };
        let rendered = match wanted {
            Ok(rendered) => rendered,
            Err(why) => return Plan::Rest(Rest::Refused(why.clone())),
        };
        let mut steps = Vec::new();
        if !seen.log {
            steps.push(PoolStep::Log(error_log(&spec.tenant)));
        }
        if seen.config.as_deref() != Some(rendered.text.as_bytes()) {
            steps.push(PoolStep::Install(rendered.text.clone()));
            steps.push(PoolStep::Await(rendered.fingerprint.clone()));
        } else if !matches!(seen.answer, Answer::Expected | Answer::Busy) {
            steps.push(PoolStep::Reload);
            steps.push(PoolStep::Await(rendered.fingerprint.clone()));
        }
        if !steps.is_empty() {
            return Plan::Do(steps);
        }
        let busy = seen.answer == Answer::Busy;
        Plan::Rest(Rest::Ready(if busy { "every PHP process is busy".to_owned() } else { String::new() }))
    }

    async fn step(&self, name: &str, step: &PoolStep, host: &dyn Host) -> Result<(), HostError> {
        let (version, webroot) = split(name);
        let service = php_service(version);
        match step {
            PoolStep::Log(place) => match host.entry(place).await? {
                Some(_) => Ok(()),
                None => host.write(place, b"", LOG).await,
            },
            PoolStep::Install(text) => {
                host.install(&service, &pool_file(version, webroot), Some(text.as_bytes())).await
            }
            PoolStep::Reload => host.reload(&service).await,
            PoolStep::Await(fingerprint) => {
                await_answer(host, &service, &ping(version, pool_socket(version, webroot), fingerprint)).await
            }
            PoolStep::Remove => host.install(&service, &pool_file(version, webroot), None).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hosting_agent_engine::{driver_laws, laws::Scenario};

    use super::{
        super::{
            PhpFpmSpec, TenantSpec,
            tests::{layout, settle},
        },
        *,
    };
    use crate::render::php::Processes;

    fn spec(max_children: u32) -> Pool {
        Pool {
            id: "web_a".into(),
            tenant: "t_a".into(),
            version: "8.2".into(),
            processes: Processes { max_children, start: 1, min_spare: 1, max_spare: 1, max_requests: 0 },
            values: BTreeMap::new(),
            admin_values: BTreeMap::new(),
        }
    }

    fn prepared() -> hosting_agent_engine::fake::Snapshot {
        let host = hosting_agent_engine::fake::FakeHost::new();
        settle(&Tenant, "t_a", &TenantSpec { incarnation: 1 }, &host);
        settle(&PhpFpm::new(layout()), "8.2", &PhpFpmSpec, &host);
        host.snapshot()
    }

    driver_laws!(
        php_pools_keep_the_laws,
        || PhpPool::new(layout()),
        Scenario::<PhpPool> {
            name: PhpPool::name("8.2", "web_a"),
            specs: vec![spec(2), spec(3)],
            before: prepared(),
            // Logs are kept with the tenant.
            is_data: |place| matches!(place.root, Root::Storage | Root::Logs),
        }
    );
}
