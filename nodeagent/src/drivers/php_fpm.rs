//! The php-fpm master of one PHP version.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, Claim, ConfigLayout, Driver, Host, HostError, Key, Place, Plan, Rest, Root, ServiceSpec,
    ServiceState,
};

use super::{await_answer, ping};
use crate::{
    layout::{Layout, php_folder, php_service},
    render::{
        BadValue,
        php::{main, own_socket},
    },
};

/// Drives php-fpm masters; a key's name is the version.
pub struct PhpFpm {
    layout: Arc<Layout>,
}

/// That a version is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhpFpmSpec;

/// What is there.
#[derive(Debug)]
pub struct PhpFpmSeen {
    dirs: bool,
    state: ServiceState,
    wanted: Result<(ServiceSpec, String), String>,
    answer: Answer,
    config: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub enum PhpFpmStep {
    /// Folders for logs, sockets and pools.
    Dirs,
    /// Start, or take in a changed main configuration.
    Run(Box<ServiceSpec>),
    /// Take in what is on disk.
    Reload,
    /// Until it answers by it.
    Await(String),
    /// End it.
    Stop,
    /// Remove what it was configured by.
    Clear,
}

impl fmt::Display for PhpFpmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dirs => "make php-fpm's folders",
            Self::Run(_) => "run php-fpm",
            Self::Reload => "reload php-fpm",
            Self::Await(_) => "wait for php-fpm",
            Self::Stop => "stop php-fpm",
            Self::Clear => "remove php-fpm's configuration",
        })
    }
}

impl PhpFpm {
    /// With the node's set-up.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    fn service(&self, version: &str) -> Result<(ServiceSpec, String), String> {
        let Some(program) = self.layout.php.get(version) else {
            let installed: Vec<&str> = self.layout.php.keys().map(String::as_str).collect();
            return Err(format!(
                "php-fpm {version} is not installed on this node (installed: {}); install it or choose another version",
                if installed.is_empty() { "none".to_owned() } else { installed.join(", ") }
            ));
        };
        let rendered = main(&self.layout, version).map_err(|error: BadValue| error.to_string())?;
        let folder = php_folder(version);
        let mut args: Vec<String> = ["-F", "-O", "-y", ServiceSpec::MAIN].map(ToOwned::to_owned).to_vec();
        let mut check_args: Vec<String> =
            ["-t", "-O", "-y", ServiceSpec::MAIN].map(ToOwned::to_owned).to_vec();
        if self.layout.sites_are_root {
            args.push("-R".to_owned());
            check_args.push("-R".to_owned());
        }
        let spec = ServiceSpec {
            name: php_service(version),
            program: program.to_string_lossy().into_owned(),
            args,
            check_args,
            reload_signal: 12,
            stop_signal: 3,
            retiring_title: None,
            config: ConfigLayout {
                main: Place::new(Root::Config, [folder.as_str(), "php-fpm.conf"]),
                parts: Place::new(Root::Config, [folder.as_str(), "pools"]),
                suffix: ".conf".to_owned(),
                text: rendered.text,
            },
        };
        Ok((spec, rendered.fingerprint))
    }
}

fn dirs(version: &str) -> [(Place, Access); 3] {
    let folder = php_folder(version);
    [
        (Place::new(Root::Logs, ["php-fpm"]), Access::agent(0o755)),
        (Place::new(Root::Run, [folder.as_str()]), Access::agent(0o755)),
        (Place::new(Root::Config, [folder.as_str(), "pools"]), Access::agent(0o755)),
    ]
}

/// Versions whose configuration is on disk.
pub(super) async fn configured(host: &dyn Host) -> Result<Vec<String>, HostError> {
    let names = host.names(&Place { root: Root::Config, parts: Vec::new() }).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix("php")).map(ToOwned::to_owned).collect())
}

#[async_trait]
impl Driver for PhpFpm {
    type Spec = PhpFpmSpec;
    type Observed = PhpFpmSeen;
    type Step = PhpFpmStep;
    const KIND: &'static str = "php_fpm";

    fn needs(&self, _: &str, _: &PhpFpmSpec) -> Vec<Key> {
        Vec::new()
    }

    fn holds(&self, _: &str, _: &PhpFpmSpec) -> Vec<Claim> {
        Vec::new()
    }

    fn held(&self, _: &str, _: &PhpFpmSeen) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let mut versions = configured(host).await?;
        for version in self.layout.php.keys() {
            let runs = host.service(&php_service(version)).await? != ServiceState::Stopped;
            if runs && !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        Ok(versions)
    }

    async fn observe(
        &self,
        version: &str,
        want: Option<&PhpFpmSpec>,
        host: &dyn Host,
    ) -> Result<PhpFpmSeen, HostError> {
        let wanted = self.service(version);
        let mut there = true;
        for (place, access) in dirs(version) {
            there &= host.entry(&place).await?.is_some_and(|entry| entry.has(access));
        }
        let answer = match (want, &wanted) {
            (Some(_), Ok((_, fingerprint))) => {
                host.probe(&ping(version, own_socket(version), fingerprint), std::time::Duration::ZERO).await
            }
            (Some(_), Err(_)) | (None, _) => Answer::Silent(String::new()),
        };
        Ok(PhpFpmSeen {
            dirs: there,
            state: host.service(&php_service(version)).await?,
            wanted,
            answer,
            config: host.entry(&Place::new(Root::Config, [php_folder(version)])).await?.is_some(),
        })
    }

    fn plan(&self, _: &str, want: Option<&PhpFpmSpec>, seen: &PhpFpmSeen) -> Plan<PhpFpmStep> {
        if want.is_none() {
            let mut steps = Vec::new();
            if seen.state != ServiceState::Stopped {
                steps.push(PhpFpmStep::Stop);
            }
            if seen.config {
                steps.push(PhpFpmStep::Clear);
            }
            return if steps.is_empty() { Plan::Rest(Rest::Gone) } else { Plan::Do(steps) };
        }
        let (spec, fingerprint) = match &seen.wanted {
            Ok(wanted) => wanted,
            Err(why) => return Plan::Rest(Rest::Refused(why.clone())),
        };
        let mut steps = Vec::new();
        if !seen.dirs {
            steps.push(PhpFpmStep::Dirs);
        }
        let runs = matches!(&seen.state, ServiceState::Running { spec: running, .. } if **running == *spec);
        if !runs {
            steps.push(PhpFpmStep::Run(Box::new(spec.clone())));
            steps.push(PhpFpmStep::Await(fingerprint.clone()));
        } else if !matches!(seen.answer, Answer::Expected | Answer::Busy) {
            steps.push(PhpFpmStep::Reload);
            steps.push(PhpFpmStep::Await(fingerprint.clone()));
        }
        if steps.is_empty() { Plan::Rest(Rest::Ready(String::new())) } else { Plan::Do(steps) }
    }

    async fn step(&self, version: &str, step: &PhpFpmStep, host: &dyn Host) -> Result<(), HostError> {
        let service = php_service(version);
        match step {
            PhpFpmStep::Dirs => {
                for (place, access) in dirs(version) {
                    host.make_dir(&place, access).await?;
                }
                Ok(())
            }
            PhpFpmStep::Run(spec) => host.run_service(spec).await,
            PhpFpmStep::Reload => host.reload(&service).await,
            PhpFpmStep::Await(fingerprint) => {
                await_answer(host, &service, &ping(version, own_socket(version), fingerprint)).await
            }
            PhpFpmStep::Stop => host.stop_service(&service).await,
            PhpFpmStep::Clear => {
                // The configuration last: it is what the key is listed by.
                host.remove_tree(&Place::new(Root::Run, [php_folder(version)])).await?;
                host.remove_tree(&Place::new(Root::Config, [php_folder(version)])).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_agent_engine::{block_on, driver_laws, fake::FakeHost, laws::Scenario};

    use super::*;

    driver_laws!(
        php_fpm_keeps_the_laws,
        || PhpFpm::new(super::super::tests::layout()),
        Scenario::<PhpFpm> {
            name: "8.2".into(),
            specs: vec![PhpFpmSpec],
            before: hosting_agent_engine::fake::Snapshot::default(),
            is_data: |place| place.root == Root::Storage,
        }
    );

    #[test]
    fn a_version_that_is_not_installed_is_named_with_the_remedy() {
        let driver = PhpFpm::new(super::super::tests::layout());
        let seen = block_on(driver.observe("9.9", Some(&PhpFpmSpec), &FakeHost::new())).unwrap();
        let Plan::Rest(Rest::Refused(why)) = driver.plan("9.9", Some(&PhpFpmSpec), &seen) else { panic!() };
        assert!(why.contains("php-fpm 9.9") && why.contains("8.2, 8.3"), "{why}");
    }
}
