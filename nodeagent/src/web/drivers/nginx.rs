//! The node's nginx: folders, pages of our own, main configuration, process.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, Claim, ConfigLayout, Driver, EntryKind, Host, HostError, Key, Place, Plan, Rest, Root,
    Secret, ServiceSpec, ServiceState,
};

use super::{await_answer, http_probe};
use crate::web::{
    layout::{Layout, NGINX, pages},
    render::{
        BadValue,
        nginx::{EMPTY_PAGE, SUSPENDED_PAGE, main},
    },
};

/// The one key of this kind.
pub(super) const NAME: &str = "host";

/// Drives nginx itself.
pub struct NginxHost {
    layout: Arc<Layout>,
}

/// That there is to be an nginx; how is the node's [`Layout`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NginxSpec {
    /// What edges show in `X-Hosting-Key`; `None` until the controller has said it.
    pub edge_key: Option<Secret>,
}

/// What is there.
#[derive(Debug)]
pub struct NginxSeen {
    dirs: bool,
    logs: bool,
    pages: bool,
    state: ServiceState,
    wanted: Result<(ServiceSpec, String), BadValue>,
    answer: Answer,
    config: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub enum NginxStep {
    /// Folders for logs, sockets and temporary files.
    Dirs,
    /// Logs, which nginx itself would make readable by everybody.
    Logs,
    /// Pages of our own.
    Pages,
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

impl fmt::Display for NginxStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dirs => "make nginx's folders",
            Self::Logs => "make nginx's logs",
            Self::Pages => "write our own pages",
            Self::Run(_) => "run nginx",
            Self::Reload => "reload nginx",
            Self::Await(_) => "wait for nginx",
            Self::Stop => "stop nginx",
            Self::Clear => "remove nginx's configuration",
        })
    }
}

impl NginxHost {
    /// With the node's set-up.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    fn service(&self, edge_key: Option<&Secret>) -> Result<(ServiceSpec, String), BadValue> {
        let rendered = main(&self.layout, edge_key)?;
        let to_text = |arg: &str| arg.to_owned();
        let spec = ServiceSpec {
            name: NGINX.to_owned(),
            program: self.layout.nginx.to_string_lossy().into_owned(),
            args: ["-e", "stderr", "-c", ServiceSpec::MAIN].map(to_text).to_vec(),
            check_args: ["-t", "-q", "-e", "stderr", "-c", ServiceSpec::MAIN].map(to_text).to_vec(),
            reload_signal: Some(1),
            stop_signal: 3,
            retiring_title: Some("shutting down".to_owned()),
            config: ConfigLayout {
                main: Place::new(Root::Config, ["nginx", "nginx.conf"]),
                parts: Some(Place::new(Root::Config, ["nginx", "sites"])),
                suffix: ".conf".to_owned(),
                text: rendered.text,
            },
        };
        Ok((spec, rendered.fingerprint))
    }
}

fn dirs() -> [(Place, Access); 5] {
    [
        (Place::new(Root::Logs, ["nginx"]), Access::agent(0o750)),
        // nginx makes folders in it that only the user of its workers enters.
        (Place::new(Root::Temp, ["nginx"]), Access::agent(0o711)),
        (Place::new(Root::Run, ["nginx"]), Access::agent(0o755)),
        (Place::new(Root::Config, ["nginx", "sites"]), Access::agent(0o755)),
        (pages(), Access::agent(0o755)),
    ]
}

fn own_pages() -> [(Place, &'static str); 2] {
    [(pages().child("empty.html"), EMPTY_PAGE), (pages().child("suspended.html"), SUSPENDED_PAGE)]
}

fn logs() -> [Place; 2] {
    let folder = Place::new(Root::Logs, ["nginx"]);
    [folder.child("access.log"), folder.child("error.log")]
}

const LOG: Access = Access::agent(0o640);

const PAGE: Access = Access::agent(0o644);

#[async_trait]
impl Driver for NginxHost {
    type Spec = NginxSpec;
    type Observed = NginxSeen;
    type Step = NginxStep;
    const KIND: &'static str = "nginx";

    fn needs(&self, _: &str, _: &NginxSpec) -> Vec<Key> {
        Vec::new()
    }

    fn holds(&self, _: &str, _: &NginxSpec) -> Vec<Claim> {
        self.layout.listen.iter().map(|address| Claim(format!("listen {address}"))).collect()
    }

    fn held(&self, _: &str, _: &NginxSeen) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let names = host.names(&Place::new(Root::Config, ["nginx"])).await?;
        let there = !names.is_empty() || host.service(NGINX).await? != ServiceState::Stopped;
        Ok(there.then(|| NAME.to_owned()).into_iter().collect())
    }

    async fn observe(
        &self,
        _: &str,
        want: Option<&NginxSpec>,
        host: &dyn Host,
    ) -> Result<NginxSeen, HostError> {
        let wanted = self.service(want.and_then(|spec| spec.edge_key.as_ref()));
        let mut there = true;
        for (place, access) in dirs() {
            there &= host.entry(&place).await?.is_some_and(|entry| entry.has(access));
        }
        let mut logged = true;
        for place in logs() {
            logged &= host.entry(&place).await?.is_some_and(|e| e.kind != EntryKind::File || e.has(LOG));
        }
        let mut written = true;
        for (place, text) in own_pages() {
            written &= host.entry(&place).await?.is_some_and(|entry| entry.has(PAGE));
            written &= host.read(&place).await?.as_deref() == Some(text.as_bytes());
        }
        let answer = match (want, &wanted) {
            (Some(_), Ok((_, fingerprint))) => {
                host.probe(&http_probe(&self.layout, "_", fingerprint), std::time::Duration::ZERO).await
            }
            (Some(_), Err(_)) | (None, _) => Answer::Silent(String::new()),
        };
        Ok(NginxSeen {
            dirs: there,
            logs: logged,
            pages: written,
            state: host.service(NGINX).await?,
            wanted,
            answer,
            config: !host.names(&Place::new(Root::Config, ["nginx"])).await?.is_empty(),
        })
    }

    fn plan(&self, _: &str, want: Option<&NginxSpec>, seen: &NginxSeen) -> Plan<NginxStep> {
        if want.is_none() {
            let mut steps = Vec::new();
            if seen.state != ServiceState::Stopped {
                steps.push(NginxStep::Stop);
            }
            if seen.config {
                steps.push(NginxStep::Clear);
            }
            return if steps.is_empty() { Plan::Rest(Rest::Gone) } else { Plan::Do(steps) };
        }
        let (spec, fingerprint) = match &seen.wanted {
            Ok(wanted) => wanted,
            Err(error) => return Plan::Rest(Rest::Refused(error.to_string())),
        };
        let mut steps = Vec::new();
        if !seen.dirs {
            steps.push(NginxStep::Dirs);
        }
        if !seen.logs {
            steps.push(NginxStep::Logs);
        }
        if !seen.pages {
            steps.push(NginxStep::Pages);
        }
        let runs = matches!(&seen.state, ServiceState::Running { spec: running, .. } if **running == *spec);
        if !runs {
            steps.push(NginxStep::Run(Box::new(spec.clone())));
            steps.push(NginxStep::Await(fingerprint.clone()));
        } else if !matches!(seen.answer, Answer::Expected | Answer::Busy) {
            steps.push(NginxStep::Reload);
            steps.push(NginxStep::Await(fingerprint.clone()));
        }
        if steps.is_empty() { Plan::Rest(Rest::Ready(String::new())) } else { Plan::Do(steps) }
    }

    async fn step(&self, _: &str, step: &NginxStep, host: &dyn Host) -> Result<(), HostError> {
        match step {
            NginxStep::Dirs => {
                for (place, access) in dirs() {
                    host.make_dir(&place, access).await?;
                }
                Ok(())
            }
            NginxStep::Logs => {
                for place in logs() {
                    host.make_file(&place, LOG).await?;
                }
                Ok(())
            }
            NginxStep::Pages => {
                for (place, text) in own_pages() {
                    host.write(&place, text.as_bytes(), PAGE).await?;
                }
                Ok(())
            }
            NginxStep::Run(spec) => host.run_service(spec).await,
            NginxStep::Reload => host.reload(NGINX).await,
            NginxStep::Await(fingerprint) => {
                await_answer(host, NGINX, &http_probe(&self.layout, "_", fingerprint)).await
            }
            NginxStep::Stop => host.stop_service(NGINX).await,
            NginxStep::Clear => {
                host.remove_tree(&pages()).await?;
                host.remove_tree(&Place::new(Root::Config, ["nginx"])).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_agent_engine::{driver_laws, laws::Scenario};

    use super::*;

    driver_laws!(
        nginx_keeps_the_laws,
        || NginxHost::new(super::super::tests::layout()),
        Scenario::<NginxHost> {
            name: NAME.into(),
            specs: vec![
                NginxSpec::default(),
                NginxSpec { edge_key: Some(Secret("a".repeat(64))) },
                NginxSpec { edge_key: Some(Secret("b".repeat(64))) },
            ],
            before: hosting_agent_engine::fake::Snapshot::default(),
            // Logs are read when something has ended.
            is_data: |place| matches!(place.root, Root::Storage | Root::Logs),
        }
    );
}
