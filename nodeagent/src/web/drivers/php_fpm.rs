//! A site's PHP: one php-fpm master for each webroot, so that no change of a site touches another.
//!
//! A master is named after all that it runs with. Other settings are another master: it starts beside the one in force, the
//! link that nginx asks moves to it once it answers, and the one before finishes its requests and ends.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, Claim, ConfigLayout, Driver, Host, HostError, Key, Place, Plan, Probe, Rest, Root,
    ServiceSpec, ServiceState,
};
use hosting_intent::php::REQUEST_SECONDS_MOST;

use super::{Tenant, await_answer, pieces};
use crate::web::{
    layout::{Layout, PHP_SERVICES, PING_PATH, php_folder, php_services, php_socket, php_sockets},
    render::php::{Master, Pool, master, socket},
};

/// Drives the masters; a key's name is the webroot's id.
pub struct PhpFpm {
    layout: Arc<Layout>,
}

/// Earlier masters of one site that may still finish requests when another one starts.
const RETIRING_MOST: usize = 3;

/// What an earlier master may take to finish its requests: it ends those itself at its own limit.
const FINISH: Duration = Duration::from_secs(REQUEST_SECONDS_MOST as u64 + 10);

/// What a master that nobody wants may take.
const END: Duration = Duration::from_secs(10);

const SOCKETS: Access = Access::agent(0o755);

/// One master that is there.
#[derive(Debug)]
struct Seen {
    name: String,
    state: ServiceState,
    config: Option<Vec<u8>>,
    /// Whether anybody can connect to it.
    socket: bool,
}

/// What is there.
#[derive(Debug)]
pub struct PhpFpmSeen {
    sockets: bool,
    wanted: Option<Result<(ServiceSpec, String), String>>,
    masters: Vec<Seen>,
    /// Where nginx's requests go.
    link: Option<String>,
    folder: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub enum PhpFpmStep {
    /// The folder of the sockets.
    Sockets,
    /// Start it.
    Run(Box<ServiceSpec>),
    /// Wait until it answers.
    Await(String),
    /// Requests go to it from now on.
    Link(String),
    /// End it when it has finished its requests.
    Retire(String),
    /// End it soon.
    End(String),
    /// End it now.
    Stop(String),
    /// Remove what is left of it.
    Forget(String),
    /// Remove what is left of all.
    Clear,
}

impl fmt::Display for PhpFpmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockets => f.write_str("make the folder of PHP sockets"),
            Self::Run(_) => f.write_str("start php-fpm"),
            Self::Await(_) => f.write_str("wait for php-fpm"),
            Self::Link(_) => f.write_str("lead requests to php-fpm"),
            Self::Retire(name) => write!(f, "let php-fpm {name} finish"),
            Self::End(name) | Self::Stop(name) => write!(f, "end php-fpm {name}"),
            Self::Forget(name) => write!(f, "remove what is left of php-fpm {name}"),
            Self::Clear => f.write_str("remove php-fpm's configuration"),
        }
    }
}

fn service(webroot: &str, name: &str) -> String {
    format!("{}{name}", php_services(webroot))
}

fn config(webroot: &str, name: &str) -> Place {
    php_folder(webroot).child(format!("{name}.conf"))
}

fn ping(webroot: &str, name: &str) -> Probe {
    Probe::FastCgi {
        service: service(webroot, name),
        socket: socket(name),
        path: PING_PATH.to_owned(),
        expect: name.to_owned(),
    }
}

impl PhpFpm {
    /// With the node's set-up.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    /// What runs for a pool, and its name.
    fn service(&self, pool: &Pool) -> Result<(ServiceSpec, String), String> {
        let version = &pool.version;
        let Some(program) = self.layout.php.get(version) else {
            let installed: Vec<&str> = self.layout.php.keys().map(String::as_str).collect();
            return Err(format!(
                "php-fpm {version} is not installed on this node (installed: {}); install it or choose another version",
                if installed.is_empty() { "none".to_owned() } else { installed.join(", ") }
            ));
        };
        let Master { text, name } = master(&self.layout, pool).map_err(|error| error.to_string())?;
        let mut args: Vec<String> = ["-F", "-y", ServiceSpec::MAIN].map(ToOwned::to_owned).to_vec();
        if self.layout.sites_are_root {
            args.push("-R".to_owned());
        }
        let spec = ServiceSpec {
            name: service(&pool.id, &name),
            program: program.to_string_lossy().into_owned(),
            args,
            check_args: Vec::new(),
            reload_signal: None,
            stop_signal: 3,
            retiring_title: None,
            config: ConfigLayout {
                main: config(&pool.id, &name),
                parts: None,
                suffix: ".conf".to_owned(),
                text,
            },
        };
        Ok((spec, name))
    }
}

/// What an earlier master needs next, if anything.
fn next(seen: &Seen) -> Option<PhpFpmStep> {
    match &seen.state {
        ServiceState::Retiring(_) => None,
        ServiceState::Running { .. } | ServiceState::Down(_) => Some(PhpFpmStep::Retire(seen.name.clone())),
        ServiceState::Stopped => Some(PhpFpmStep::Forget(seen.name.clone())),
    }
}

fn present(wanted: &(ServiceSpec, String), seen: &PhpFpmSeen) -> Plan<PhpFpmStep> {
    let (spec, name) = wanted;
    let mut steps = Vec::new();
    if !seen.sockets {
        steps.push(PhpFpmStep::Sockets);
    }
    let (current, earlier): (Vec<_>, Vec<_>) = seen.masters.iter().partition(|one| one.name == *name);
    let current = current.first();
    let run = || [PhpFpmStep::Run(Box::new(spec.clone())), PhpFpmStep::Await(name.clone())];
    match current.map(|one| &one.state) {
        Some(ServiceState::Running { spec: running, .. })
            if **running == *spec && current.is_some_and(|one| one.socket) =>
        {
            if current.and_then(|one| one.config.as_deref()) != Some(spec.config.text.as_bytes()) {
                // Written anew; what runs stays as it is.
                steps.extend(run());
            } else if seen.link.as_deref() != Some(name) {
                steps.push(PhpFpmStep::Await(name.clone()));
            }
        }
        Some(ServiceState::Running { .. }) => {
            steps.push(PhpFpmStep::Stop(name.clone()));
            steps.extend(run());
        }
        Some(ServiceState::Retiring(_)) => {
            let why =
                "the same settings were left a moment ago; waits until the requests of that time have ended";
            return Plan::Rest(Rest::Blocked(why.to_owned()));
        }
        Some(ServiceState::Stopped | ServiceState::Down(_)) | None => {
            let busy = earlier.iter().filter(|one| matches!(one.state, ServiceState::Retiring(_))).count();
            if busy >= RETIRING_MOST {
                let why = "waits until requests under earlier settings of this site have ended";
                return Plan::Rest(Rest::Blocked(why.to_owned()));
            }
            steps.extend(run());
        }
    }
    if seen.link.as_deref() != Some(name) {
        steps.push(PhpFpmStep::Link(name.clone()));
    }
    steps.extend(earlier.into_iter().filter_map(next));
    if steps.is_empty() { Plan::Rest(Rest::Ready(String::new())) } else { Plan::Do(steps) }
}

fn absent(seen: &PhpFpmSeen) -> Plan<PhpFpmStep> {
    let mut steps = Vec::new();
    for one in &seen.masters {
        match &one.state {
            ServiceState::Retiring(grace) if *grace <= END => {}
            ServiceState::Stopped => {}
            ServiceState::Retiring(_) | ServiceState::Running { .. } | ServiceState::Down(_) => {
                steps.push(PhpFpmStep::End(one.name.clone()));
            }
        }
    }
    let ends = seen.masters.iter().any(|one| one.state != ServiceState::Stopped);
    if !steps.is_empty() {
        Plan::Do(steps)
    } else if ends {
        Plan::Rest(Rest::Blocked("its processes are ending".to_owned()))
    } else if seen.folder || seen.link.is_some() {
        let mut steps: Vec<_> = seen.masters.iter().map(|one| PhpFpmStep::Forget(one.name.clone())).collect();
        steps.push(PhpFpmStep::Clear);
        Plan::Do(steps)
    } else {
        Plan::Rest(Rest::Gone)
    }
}

#[async_trait]
impl Driver for PhpFpm {
    type Spec = Pool;
    type Observed = PhpFpmSeen;
    type Step = PhpFpmStep;
    const KIND: &'static str = "php_fpm";

    fn needs(&self, _: &str, spec: &Pool) -> Vec<Key> {
        vec![Key::new(Tenant::KIND, spec.tenant.clone())]
    }

    fn holds(&self, name: &str, _: &Pool) -> Vec<Claim> {
        // Sockets are files; on a file system that ignores case two of them would be one.
        vec![Claim(format!("php socket {}", name.to_ascii_lowercase()))]
    }

    fn held(&self, name: &str, seen: &PhpFpmSeen) -> Vec<Claim> {
        seen.link.iter().map(|_| Claim(format!("php socket {}", name.to_ascii_lowercase()))).collect()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let mut sites: BTreeSet<String> =
            host.names(&Place::new(Root::Config, ["php"])).await?.into_iter().collect();
        let services = host.services(PHP_SERVICES).await?;
        let of = |name: &String| Some(name.strip_prefix(PHP_SERVICES)?.split_once('.')?.0.to_owned());
        sites.extend(services.iter().filter_map(of));
        Ok(sites.into_iter().collect())
    }

    async fn observe(
        &self,
        webroot: &str,
        want: Option<&Pool>,
        host: &dyn Host,
    ) -> Result<PhpFpmSeen, HostError> {
        let wanted = want.map(|pool| self.service(pool));
        let sockets = host.entry(&php_sockets()).await?.is_some_and(|entry| entry.has(SOCKETS));
        let mut names: BTreeSet<String> = pieces(host, &php_folder(webroot)).await?.into_iter().collect();
        let prefix = php_services(webroot);
        let services = host.services(&prefix).await?;
        names.extend(services.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())));
        let mut masters = Vec::new();
        for name in names {
            masters.push(Seen {
                state: host.service(&service(webroot, &name)).await?,
                config: host.read(&config(webroot, &name)).await?,
                socket: host.entry(&socket(&name)).await?.is_some()
                    || !matches!(host.probe(&ping(webroot, &name), Duration::ZERO).await, Answer::Silent(_)),
                name,
            });
        }
        let link = host.link_target(&php_socket(webroot)).await?;
        let link = link.map(|target| target.strip_suffix(".sock").map_or(target.clone(), ToOwned::to_owned));
        let folder = host.entry(&php_folder(webroot)).await?.is_some();
        Ok(PhpFpmSeen { sockets, wanted, masters, link, folder })
    }

    fn plan(&self, _: &str, want: Option<&Pool>, seen: &PhpFpmSeen) -> Plan<PhpFpmStep> {
        match (want, &seen.wanted) {
            (Some(_), Some(Ok(wanted))) => present(wanted, seen),
            (Some(_), Some(Err(why))) => Plan::Rest(Rest::Refused(why.clone())),
            (Some(_) | None, _) => absent(seen),
        }
    }

    async fn step(&self, webroot: &str, step: &PhpFpmStep, host: &dyn Host) -> Result<(), HostError> {
        match step {
            PhpFpmStep::Sockets => host.make_dir(&php_sockets(), SOCKETS).await,
            PhpFpmStep::Run(spec) => host.run_service(spec).await,
            PhpFpmStep::Await(name) => {
                await_answer(host, &service(webroot, name), &ping(webroot, name)).await
            }
            PhpFpmStep::Link(name) => host.link(&php_socket(webroot), &format!("{name}.sock")).await,
            PhpFpmStep::Retire(name) => {
                host.retire_service(&service(webroot, name), Some(&ping(webroot, name)), FINISH).await
            }
            PhpFpmStep::End(name) => host.retire_service(&service(webroot, name), None, END).await,
            PhpFpmStep::Stop(name) => host.stop_service(&service(webroot, name)).await,
            PhpFpmStep::Forget(name) => {
                host.remove(&socket(name)).await?;
                host.remove(&config(webroot, name)).await
            }
            PhpFpmStep::Clear => {
                host.remove(&php_socket(webroot)).await?;
                host.remove_tree(&php_folder(webroot)).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hosting_agent_engine::{
        block_on, driver_laws,
        fake::{FakeHost, Snapshot},
        laws::Scenario,
    };
    use hosting_intent::php::{ProcessNumbers, Processes, Settings};

    use super::{
        super::{
            TenantSpec,
            tests::{layout, settle},
        },
        *,
    };

    fn spec(version: &str, max_children: u32) -> Pool {
        Pool {
            id: "web_a".into(),
            tenant: "t_a".into(),
            version: version.into(),
            processes: Processes::new(&ProcessNumbers {
                max_children: Some(max_children.into()),
                max_requests: Some(0),
                ..ProcessNumbers::default()
            })
            .unwrap(),
            settings: Settings::default(),
            env: BTreeMap::new(),
        }
    }

    fn prepared() -> Snapshot {
        let host = FakeHost::new();
        settle(&Tenant, "t_a", &TenantSpec { incarnation: 1 }, &host);
        host.snapshot()
    }

    driver_laws!(
        php_keeps_the_laws,
        || PhpFpm::new(layout()),
        Scenario::<PhpFpm> {
            name: "web_a".into(),
            specs: vec![spec("8.2", 2), spec("8.2", 3), spec("8.3", 3)],
            before: prepared(),
            // Logs are kept with the tenant.
            is_data: |place| matches!(place.root, Root::Storage | Root::Logs),
        }
    );

    #[test]
    fn what_cannot_run_leaves_what_runs() {
        let host = FakeHost::from_snapshot(prepared());
        let driver = PhpFpm::new(layout());
        settle(&driver, "web_a", &spec("8.2", 2), &host);
        let before = host.snapshot();

        let missing = spec("9.9", 2);
        let seen = block_on(driver.observe("web_a", Some(&missing), &host)).unwrap();
        let Plan::Rest(Rest::Refused(why)) = driver.plan("web_a", Some(&missing), &seen) else { panic!() };
        assert!(why.contains("php-fpm 9.9") && why.contains("8.2, 8.3"), "{why}");

        let broken = spec("8.2", 9);
        let (service, _) = driver.service(&broken).unwrap();
        host.break_service(&service.name);
        let seen = block_on(driver.observe("web_a", Some(&broken), &host)).unwrap();
        let Plan::Do(steps) = driver.plan("web_a", Some(&broken), &seen) else { panic!() };
        assert!(block_on(driver.step("web_a", &steps[0], &host)).is_err());
        assert_eq!(host.snapshot(), before);
    }

    #[test]
    fn a_change_starts_the_second_before_it_touches_the_first() {
        let host = FakeHost::from_snapshot(prepared());
        let driver = PhpFpm::new(layout());
        settle(&driver, "web_a", &spec("8.2", 2), &host);
        let seen = block_on(driver.observe("web_a", Some(&spec("8.2", 3)), &host)).unwrap();
        let Plan::Do(steps) = driver.plan("web_a", Some(&spec("8.2", 3)), &seen) else { panic!() };
        assert!(
            matches!(
                steps.as_slice(),
                [PhpFpmStep::Run(_), PhpFpmStep::Await(_), PhpFpmStep::Link(_), PhpFpmStep::Retire(_)]
            ),
            "{steps:?}"
        );
    }
}
